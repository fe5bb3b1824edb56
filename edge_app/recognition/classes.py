"""Classifies frames: the whole picture, or every face in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import LookFor, Task, Words
from edge_app.core.types import Classification, Face, Finding, Float32s, Frame, Heatmap, Pixels, Seen
from edge_app.inference.classifier import Classifier
from edge_app.inference.geometry import (
    CROPS,
    align,
    crop_named,
    face_area,
    face_scale,
    seen_area,
    similarity_transform,
)
from edge_app.system.timing import Stopwatch

if TYPE_CHECKING:
    from edge_app.inference.detector import Detector

_LEAST_AREA_PX: Final = 8


class ClassRecognizer:
    """Classifies the whole picture, or every face in it: the model's crop decides."""

    words: Words = Task.CLASSIFICATION.words

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector | None = None,
        *,
        runner_up: bool = False,
        area: Float32s | None = None,
    ) -> None:
        """`detector` is needed for crops of faces only; ModelError when it is missing there, or the crop is none.

        `runner_up`: maps are of the second best label, not of the best. `area` (4,) x1, y1, x2, y2 in frame pixels is
        taken for the whole picture; UsageError for a network of faces, or one whose card names a region.
        """
        card = classifier.card
        if judges_faces(card.crop):
            if detector is None:
                raise ModelError(f"{card.id} judges faces", expected="a detector that finds them")
        else:
            _seen(1, 1, card)
        self.classifier = classifier
        self._detector = detector
        self._runner_up = runner_up
        if area is not None and (judges_faces(card.crop) or "@" in card.crop):
            raise UsageError(f"{card.id} takes no area: its card says {card.crop}", expected="one of whole pictures")
        self.area = area

    @property
    def card(self) -> ModelCard:
        """The classifier's card."""
        return self.classifier.card

    @property
    def look_for(self) -> LookFor:
        """The classifier's id."""
        return LookFor(self.card.id)

    @property
    def finds_faces(self) -> bool:
        """Whether it is shown faces."""
        return judges_faces(self.card.crop)

    @property
    def explains(self) -> bool:
        """Whether its graph has class activation maps."""
        return self.classifier.explains

    def observe(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        """One finding for the whole picture, or one per face, largest first."""
        if explain and not self.classifier.explains:
            explain = False
        watch = Stopwatch()
        cuts = self._cuts(frame, any_way_up)
        if self._detector is not None:
            watch.lap("detect")
        else:
            watch.skip()
        # One by one: a frame has few faces, and networks that others exported often take one picture only.
        findings = tuple(self._judge(cut, explain) for cut in cuts)
        watch.lap("classify")
        return Seen(frame, findings, watch.timings_ms())

    def looking_at(self, area: Float32s | None) -> ClassRecognizer:
        """The same over another area of the frames; see `__init__`."""
        return ClassRecognizer(self.classifier, self._detector, runner_up=self._runner_up, area=area)

    def judge(self, pixels: Pixels, face: Face) -> Classification:
        """Judge one face that was found in (H, W, 3) uint8 RGB pixels."""
        return self.classifier.classify([self._face(pixels, face).pixels])[0]

    def _cuts(self, frame: Frame, any_way_up: bool) -> list[_Cut]:
        width, height = frame.size_px
        if self._detector is None:
            if (inside := self._inside(width, height)) is not None:
                return [self._area_cut(frame.pixels, inside)]
            return [_Cut(np.array(_seen(width, height, self.card), np.float32), frame.pixels, None)]
        return [self._face(frame.pixels, face) for face in self._detector.detect(frame.pixels, any_way_up=any_way_up)]

    def _inside(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """The area in whole pixels; None where there is none, or a frame of another size has left it behind."""
        if self.area is None:
            return None
        x1, y1 = max(0, int(self.area[0])), max(0, int(self.area[1]))
        x2, y2 = min(width, round(float(self.area[2]))), min(height, round(float(self.area[3])))
        return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= _LEAST_AREA_PX else None

    def _area_cut(self, pixels: Pixels, inside: tuple[int, int, int, int]) -> _Cut:
        x1, y1, x2, y2 = inside
        seen = _seen(x2 - x1, y2 - y1, self.card)
        wide, tall = seen[2] - seen[0], seen[3] - seen[1]
        matrix = np.array([[1 / wide, 0, -(x1 + seen[0]) / wide], [0, 1 / tall, -(y1 + seen[1]) / tall]])
        return _Cut(np.array(inside, np.float32), pixels[y1:y2, x1:x2], matrix)

    def _face(self, pixels: Pixels, face: Face) -> _Cut:
        crop = self.card.crop
        if crop in CROPS:
            template = crop_named(crop)
            target = np.asarray(template.landmarks, np.float64)
            matrix = similarity_transform(np.asarray(face.landmarks, np.float64), target) / template.size_px
            return _Cut(face.box, align(pixels, face.landmarks, crop), matrix, face)
        x1, y1, x2, y2 = face_area(face.box, face_scale(crop), pixels.shape[1], pixels.shape[0])
        wide, tall = x2 - x1, y2 - y1
        matrix = np.array([[1 / wide, 0, -x1 / wide], [0, 1 / tall, -y1 / tall]])
        return _Cut(face.box, pixels[y1:y2, x1:x2], matrix, face)

    def _judge(self, cut: _Cut, explain: bool) -> Finding:
        if not explain:
            return Finding(cut.box, self.classifier.classify([cut.pixels])[0], face=cut.face)
        classification, heatmap = self.classifier.explain(cut.pixels, runner_up=self._runner_up)
        return Finding(cut.box, classification, face=cut.face, heatmap=cut.over_box(heatmap))


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What is shown to the network, and the box in the frame that the answer is about."""

    box: Float32s
    pixels: Pixels
    to_share: NDArray[np.float64] | None
    """(2, 3): brings frame pixels to shares [0, 1] of `pixels`; None when the box is what the network sees."""
    face: Face | None = None

    def over_box(self, heatmap: Heatmap) -> Heatmap:
        """The part of the map that lies over the box, as the box lies in the frame."""
        if self.to_share is None:
            return heatmap
        rows, columns = heatmap.values.shape
        x1, y1, x2, y2 = (float(v) for v in self.box)
        xs, ys = np.meshgrid(
            x1 + (np.arange(columns) + 0.5) / columns * (x2 - x1), y1 + (np.arange(rows) + 0.5) / rows * (y2 - y1)
        )
        share = self.to_share[:, :2] @ np.stack([xs.ravel(), ys.ravel()]) + self.to_share[:, 2:]
        at = (share * np.array([[columns], [rows]]) - 0.5).astype(np.float32).reshape(2, rows, columns)
        values = cv2.remap(heatmap.values, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return Heatmap(heatmap.label, cast(Float32s, values))


def _seen(width_px: int, height_px: int, card: ModelCard) -> tuple[int, int, int, int]:
    """The part of a picture that the network is shown: all of it, squeezed, where the card names no crop."""
    return (0, 0, width_px, height_px) if card.crop == "none" else seen_area(width_px, height_px, card.input, card.crop)


def judges_faces(crop: str) -> bool:
    """Whether a model with that crop is shown faces: an alignment template, or "face-S"."""
    return crop in CROPS or crop.startswith("face-")
