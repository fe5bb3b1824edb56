"""What reads frames besides the face recognizer: hides which part of a frame a model judges, and steadies its answers.

Flows in: `Frame`s, the id of a classifier or of a general image embedder. Flows out: `Reading`s. A reader keeps no
state between frames; `Steady` does, so that a live answer does not flicker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, cast, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import ModelCard, Precision
from edge_app.core.types import (
    Answer,
    Classified,
    ClassScore,
    Face,
    Float32s,
    Frame,
    Heatmap,
    Match,
    Pixels,
    Reading,
    Spotted,
)
from edge_app.inference.classifier import TASKS, Classifier, ranked
from edge_app.inference.geometry import CROPS, align, box_iou, crop_named, face_area, seen_area, similarity_transform
from edge_app.model_store.catalogue import build, builds, open_entry
from edge_app.model_store.choose_build import choose
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings

if TYPE_CHECKING:
    from edge_app.gallery.storage import Vault
    from edge_app.inference.detector import Detector, DetectorOptions
    from edge_app.model_store.open_detector import open_detector

FACES: Final = "faces"
"""What stands for the face recognizer where a model's id is asked for."""


class Reader(Protocol):
    """Makes something of a frame."""

    @property
    def card(self) -> ModelCard:
        """The model that reads."""

    def read(self, frame: Frame, *, explain: bool = False) -> Reading:
        """Read one frame; with `explain` and where the model can, heatmaps too. Raises EdgeError."""


@runtime_checkable
class ThingWatcher(Reader, Protocol):
    """What a reader of enrolled things has besides, for the live loop."""

    area: Float32s | None
    """(4,) x1, y1, x2, y2 in frame pixels: the part that is judged; None: the whole picture."""

    def shot(self, pixels: Pixels, source: str, box: Float32s | None = None) -> object:
        """Cut out, measure and embed the thing in a box of a picture; a refusal when that is no use."""

    def looking_at(self, area: Float32s | None) -> Reader:
        """The same over another area."""


@dataclass(frozen=True, slots=True, eq=False)
class ReaderBench:
    """A reader over one data folder: all that the live loop needs where nobody asks for faces."""

    home: Home
    settings: Settings
    reader: Reader
    vault: Vault | None = None
    """The gallery that a reader of things follows; a classifier has none, and opens none."""


class ClassifierReader:
    """Classifies the whole picture, or every face in it: the model's crop decides."""

    def __init__(self, classifier: Classifier, detector: Detector | None = None) -> None:
        """`detector` is needed for crops of faces only; ModelError when it is missing there, or the crop is none."""
        card = classifier.card
        if judges_faces(card.crop):
            if detector is None:
                raise ModelError(f"{card.id} judges faces", expected="a detector that finds them")
        elif card.crop != "none":
            seen_area(1, 1, card.input, card.crop)
        self.classifier = classifier
        self._detector = detector

    @property
    def card(self) -> ModelCard:
        """The classifier's card."""
        return self.classifier.card

    def read(self, frame: Frame, *, explain: bool = False) -> Reading:
        """One area for the whole picture, or one per face, largest first; see `Reader.read`."""
        if explain and not self.classifier.explains:
            explain = False
        started_s = time.perf_counter()
        cuts = self._cuts(frame)
        cut_s = time.perf_counter()
        # One by one: a frame has few faces, and networks that others exported often take one picture only.
        classified = tuple(self._judge(cut, explain) for cut in cuts)
        ended_s = time.perf_counter()
        found = {"detect": (cut_s - started_s) * 1e3} if self._detector is not None else {}
        timings = found | {"classify": (ended_s - cut_s) * 1e3, "total": (ended_s - started_s) * 1e3}
        return Reading(frame, self.card.id, classified, (), timings)

    def _cuts(self, frame: Frame) -> list[_Cut]:
        width, height = frame.size_px
        if self._detector is None:
            card = self.card
            area = (0, 0, width, height) if card.crop == "none" else seen_area(width, height, card.input, card.crop)
            return [_Cut(np.array(area, np.float32), frame.pixels, None)]
        return [self._face(frame.pixels, face) for face in self._detector.detect(frame.pixels)]

    def _face(self, pixels: Pixels, face: Face) -> _Cut:
        crop = self.card.crop
        if crop in CROPS:
            template = crop_named(crop)
            target = np.asarray(template.landmarks, np.float64)
            matrix = similarity_transform(np.asarray(face.landmarks, np.float64), target) / template.size_px
            return _Cut(face.box, align(pixels, face.landmarks, crop), matrix)
        x1, y1, x2, y2 = face_area(face.box, face_scale(crop), pixels.shape[1], pixels.shape[0])
        wide, tall = x2 - x1, y2 - y1
        matrix = np.array([[1 / wide, 0, -x1 / wide], [0, 1 / tall, -y1 / tall]])
        return _Cut(face.box, pixels[y1:y2, x1:x2], matrix)

    def _judge(self, cut: _Cut, explain: bool) -> Classified:
        if not explain:
            return Classified(cut.box, self.classifier.classify([cut.pixels])[0])
        classification, heatmap = self.classifier.explain(cut.pixels)
        return Classified(cut.box, classification, cut.over_box(heatmap))


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """What is shown to the network, and the box in the frame that the answer is about."""

    box: Float32s
    pixels: Pixels
    to_share: NDArray[np.float64] | None
    """(2, 3): brings frame pixels to shares [0, 1] of `pixels`; None when the box is what the network sees."""

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


def judges_faces(crop: str) -> bool:
    """Whether a model with that crop is shown faces: an alignment template, or "face-S"."""
    return crop in CROPS or crop.startswith("face-")


def face_scale(crop: str) -> float:
    """S of "face-S". Raises ModelError when it is not a number from 0.5 to 10."""
    try:
        scale = float(crop.removeprefix("face-"))
    except ValueError:
        scale = 0.0
    if not 0.5 <= scale <= 10.0:
        raise ModelError(f"the crop is {crop!r}", expected="face-S, S from 0.5 to 10")
    return scale


class Steady:
    """A reader whose answers do not flicker: probabilities fade out over time instead of being replaced.

    Each area keeps an exponential average of its probabilities with the time constant `TIME_S` on the frames' clock,
    so the answer settles alike at 5 and at 60 frames a second. The first frame counts in full: the first answer is not
    delayed. Areas are those of the last frame that overlap by more than `OVERLAP`. Of enrolled things the names are
    averaged the same way, and the one with the most weight is told with its mean similarity.
    """

    TIME_S: Final = 0.4
    """A change of what is shown is told after 0.28 s (0.7 time constants), when both answers are equally certain."""
    OVERLAP: Final = 0.3
    FORGET_S: Final = 2.0
    """After a pause as long as this the picture is of something else."""
    KEEP_S: Final = 0.5
    """A face that is not found for this long is gone; before, it goes on where it was."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        """What is steadied."""
        own = reader.classifier if isinstance(reader, ClassifierReader) else None
        self._unsure_below = own.unsure_below if own else reader.card.unsure_below
        self._areas: list[_Area] = []
        self._time_s = 0.0
        self._numbers = 0

    @property
    def card(self) -> ModelCard:
        """The model that reads."""
        return self.reader.card

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What is said of every area now; of faces too that were not found in the last few frames."""
        return tuple(area.answer for area in self._areas if area.answer is not None)

    def reset(self) -> None:
        """Forget all: the next frame has nothing to do with the last."""
        self._areas = []

    def read(self, frame: Frame, *, explain: bool = False) -> Reading:
        """Read one frame and average it with those before; see `Reader.read`. Heatmaps are the frame's own."""
        return self.smooth(self.reader.read(frame, explain=explain))

    def smooth(self, reading: Reading) -> Reading:
        """Average a reading of the next frame with those before."""
        if not 0 <= reading.frame.time_s - self._time_s <= self.FORGET_S:
            self.reset()
        self._time_s = reading.frame.time_s
        before, self._areas = self._areas, []
        classified = tuple(self._classified(one, before) for one in reading.classified)
        spotted = tuple(self._spotted(one, before) for one in reading.spotted)
        kept_s = self.KEEP_S if judges_faces(self.card.crop) else 0.0
        self._areas += [area for area in before if self._time_s - area.seen_s <= kept_s]
        return replace(reading, classified=classified, spotted=spotted)

    def _classified(self, now: Classified, before: list[_Area]) -> Classified:
        area = self._follow(now.box, before)
        area.mix({score.label: score.probability for score in now.classification.scores}, self._fade(area))
        labels = tuple(label for label in self.card.labels if label in area.weights)
        averaged = ranked(labels, np.array([area.weights[label] for label in labels]), self._unsure_below)
        area.tell(self._time_s, averaged.label, None, averaged.scores)
        return replace(now, classification=averaged)

    def _spotted(self, now: Spotted, before: list[_Area]) -> Spotted:
        area = self._follow(now.box, before)
        fade = self._fade(area)
        area.mix({now.match.name: 1.0}, fade)
        area.note(now.match, fade)
        match = area.matches[max(area.weights, key=lambda one: area.weights[one])]
        area.tell(self._time_s, match.name, match.similarity, None)
        return Spotted(now.box, match)

    def _fade(self, area: _Area) -> float:
        """How much of what was stays after the time since the area was last seen."""
        return float(np.exp((area.seen_s - self._time_s) / self.TIME_S))

    def _follow(self, box: Float32s, before: list[_Area]) -> _Area:
        """The area of the last frames that this one goes on from, each used once; a fresh one when there is none."""
        shares = [float(box_iou(box[None], area.box[None])[0, 0]) for area in before]
        best = int(np.argmax(shares)) if shares else -1
        if shares and shares[best] > self.OVERLAP:
            area = before.pop(best)
        else:
            # The whole picture is one area for ever, and a thing is one too wherever the box is drawn.
            self._numbers += judges_faces(self.card.crop)
            area = _Area(box, self._numbers if judges_faces(self.card.crop) else None, self._time_s, self._time_s)
        area.box = box
        self._areas.append(area)
        return area


@dataclass(slots=True, eq=False)
class _Area:
    """One area over time."""

    box: Float32s
    number: int | None
    since_s: float
    seen_s: float
    answer: Answer | None = None
    weights: dict[str | None, float] = field(default_factory=dict)
    """Averaged probability of each label, or how much of the time each name was told."""
    matches: dict[str | None, Match] = field(default_factory=dict)
    """Of things: averaged similarity and margin for each name."""

    def mix(self, fresh: dict[str | None, float], fade: float) -> None:
        """Let `fade` of what was stay, and fill up with what is."""
        if not self.weights:
            self.weights = fresh
            return
        names = self.weights | fresh
        self.weights = {n: fade * self.weights.get(n, 0.0) + (1 - fade) * fresh.get(n, 0.0) for n in names}

    def tell(
        self, time_s: float, name: str | None, similarity: float | None, classes: tuple[ClassScore, ...] | None
    ) -> None:
        """Take in the answer of the frame at `time_s`."""
        self.seen_s = time_s
        self.answer = Answer(self.number, self.since_s, name, similarity, classes)

    def note(self, match: Match, fade: float) -> None:
        """Average a name's similarity and margin with those it had."""
        old = self.matches.get(match.name, match)
        similarity, margin = (
            fade * was + (1 - fade) * now
            for was, now in ((old.similarity, match.similarity), (old.margin, match.margin))
        )
        self.matches[match.name] = Match(match.name, similarity, margin)


def open_reader(
    home: Home,
    settings: Settings,
    model_id: str,
    *,
    precision: Precision | None = None,
    unsure_below: float | None = None,
    detector_options: DetectorOptions | None = None,
) -> Reader:
    """Load the classifier or the general image embedder of that id, with the build that runs best here.

    `precision` asks for one build; the setting's is taken where the model has it. Raises UsageError for an unknown id
    or a model of another task, ModelError for a file that is gone, changed or wrong.
    """
    own = builds(home, model_id)
    task = own[0].task
    if task == "image-embedding":
        from edge_app.recognition.things import (
            open_things,  # the half of the app that enrolls things is not needed to classify
        )

        if unsure_below is not None:
            raise UsageError(
                f"{model_id} is an embedder", expected="a classifier where a bar for sure answers is given"
            )
        return open_things(home, settings if precision is None else replace(settings, precision=precision), model_id)
    if task not in TASKS:
        raise _wrong_task(model_id, task)
    if precision is not None:
        entry = build(home, model_id, precision)
    else:
        has = settings.precision in {one.precision for one in own}
        entry = choose(model_id, settings.precision if has else "auto", home, settings.threads).entry
    classifier = Classifier(open_entry(entry, settings.threads), unsure_below)
    if not judges_faces(classifier.card.crop):
        return ClassifierReader(classifier)

    return ClassifierReader(classifier, open_detector(settings.detector, detector_options, settings.threads, home))


def _wrong_task(model_id: str, task: str) -> UsageError:
    if task == "face-detection":
        detector = "mtcnn" if model_id.startswith("mtcnn-") else model_id  # three networks, one detector
        return UsageError(
            f"{model_id} finds faces, it does not tell what it sees",
            expected="a classifier or an embedder",
            remedy=f"use it with --detector {detector}",
        )
    return UsageError(
        f"{model_id} is a model for {task}",
        expected="a classifier or a general image embedder",
        remedy=f"`edge-app models use {model_id}` makes it the one that recognizes faces",
    )


def licence_note(card: ModelCard) -> str:
    """One line for whoever chose a model that may not be used for business; empty for all others."""
    if card.commercial_use:
        return ""
    return f"{card.id} is for non-commercial use only (licence: {card.licence}; weights from {card.origin})"
