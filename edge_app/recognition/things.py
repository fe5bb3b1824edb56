"""Recognizes anything that was enrolled over a general image embedder: mugs, tools, parcels, from two pictures each.

The gallery is the same file as for faces; each model matches its own templates alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import cv2
import numpy as np

from edge_app.core.errors import MediaError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import LookFor, Task, Words
from edge_app.core.types import Embedding, Finding, Float32s, Frame, Pixels, Quality, Seen, Template
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict, judge_embeddings
from edge_app.gallery.kept_pictures import keep, kept_picture
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference.embedder import Embedder
from edge_app.inference.face_quality import detail
from edge_app.inference.geometry import resize, seen_area
from edge_app.recognition.gallery_session import GallerySession
from edge_app.system.timing import Stopwatch

_OUTSIDE: Final = (128, 128, 128)
"""What lies past the picture's edge: grey, near the mean of what networks were trained on."""

_LEAST_BOX_PX: Final = 8


@dataclass(frozen=True, slots=True)
class ThingLimits:
    """The gate for pictures of things; looser than for faces, since a thing may be black or lie on white."""

    min_side_px: float = 64.0
    """Shorter side of the area."""
    min_brightness: float = 12.0
    """Median luminance, 0-255."""
    max_clipped: float = 0.85
    """Share of black or blown-out pixels; a cut-out on white has up to 0.8."""
    min_sharpness: float = 0.12
    """Fine detail in the area at the network's own size. None of the 245 pictures of ants_bees has less than 0.2, and
    95 % of them blurred by 3 px (at 224 px), 77 % of those blurred by 25 px of motion, have less than this. 0.16 would
    find 98 and 89 %, but refuses plain things: flat colours with a little grain have 0.15."""


class ThingRecognizer:
    """Names what an area of a frame shows, or says that it is nothing enrolled. Immutable."""

    words: Words = Task.IMAGE_EMBEDDING.words
    finds_faces = False
    explains = False

    def __init__(self, embedder: Embedder, gallery: Gallery, rule: MatchRule, area: Float32s | None = None) -> None:
        """`area` (4,) x1, y1, x2, y2 in frame pixels is what is looked at; None: what the model's crop takes.

        Raises UsageError for an embedder of faces or of any input size.
        """
        if embedder.card.task is not Task.IMAGE_EMBEDDING:
            raise UsageError(
                f"{embedder.model_id} is a model for {embedder.card.task}", expected="a general image embedder"
            )
        seen_area(1, 1, embedder.card.input, embedder.card.crop)
        self.embedder = embedder
        self.gallery = gallery
        self.rule = rule
        self.area = area

    @property
    def card(self) -> ModelCard:
        """The embedder's card."""
        return self.embedder.card

    @property
    def look_for(self) -> LookFor:
        """The embedder's id."""
        return LookFor(self.card.id)

    def observe(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        """Cut, embed and match one area. There is no heatmap to `explain` with: a name is no class of the network."""
        watch = Stopwatch()
        box, crop = self._cut(frame.pixels, self._within(frame.pixels))
        watch.lap("cut")
        embeddings = self.embedder.embed(crop[None])
        watch.lap("embed")
        [match] = self.gallery.match(embeddings, self.rule)
        watch.lap("match")
        return Seen(frame, (Finding(box, match),), watch.timings_ms())

    def shot(
        self, pixels: Pixels, source: str, *, box: Float32s | None = None, largest: bool = False
    ) -> Shot | Refusal:
        """Cut out, measure and embed the area of `box`, or of the whole picture; `largest` means nothing here.

        Returns a `Refusal` when the box does not lie within the picture, or is a few pixels only.
        """
        if box is not None and (refusal := judge_box((pixels.shape[1], pixels.shape[0]), box)):
            return refusal
        where, crop = self._cut(pixels, box)
        measured, region = _measured(pixels, where, crop)
        return Shot(source, None, crop, measured, self.embedder.embed(crop[None])[0], keep(region, None), where)

    def judge(
        self, name: str, shots: Sequence[Shot], own: Sequence[Embedding], options: EnrollOptions
    ) -> list[Verdict]:
        """Judge the shots of one thing together; as for faces, with `ThingLimits` for their quality."""
        measured = [judge_area(shot.quality, ThingLimits()) for shot in shots]
        embeddings = [shot.embedding for shot in shots]
        refusals = judge_embeddings(name, embeddings, measured, own, self.gallery, self.rule, options)
        return [Verdict(shot.source, shot, refusal) for shot, refusal in zip(shots, refusals, strict=True)]

    def kept_shot(self, template: Template, picture: bytes) -> Shot | str:
        """The shot that a kept area gives, or why it gives none."""
        try:
            kept = kept_picture(picture)
        except MediaError as error:
            return str(error)
        if kept.face is not None or kept.upright_crop:
            return "the kept picture is of a face"
        height, width = kept.pixels.shape[:2]
        shot = self.shot(kept.pixels, template.source, box=np.array([0, 0, width, height], np.float32))
        if isinstance(shot, Refusal):
            return shot.message
        measured = replace(shot.quality, face_px=shot.quality.face_px / kept.scale)
        return replace(shot, quality=measured, kept=picture)

    def vector(self, pixels: Pixels) -> Float32s:
        """The unit vector (D,) of the whole picture."""
        return self.embedder.embed(self._cut(pixels, None)[1][None])[0].vector

    def looking_at(self, area: Float32s | None) -> ThingRecognizer:
        """The same over another area."""
        return ThingRecognizer(self.embedder, self.gallery, self.rule, area)

    def with_gallery(self, gallery: Gallery, rule: MatchRule) -> ThingRecognizer:
        """The same over another gallery."""
        return ThingRecognizer(self.embedder, gallery, rule, self.area)

    def _within(self, pixels: Pixels) -> Float32s | None:
        """The area, or None when a source of another size has left it behind."""
        return None if self.area is None else _clipped(pixels, self.area)

    def _cut(self, pixels: Pixels, box: Float32s | None) -> tuple[Float32s, Pixels]:
        spec = self.card.input
        width, height = spec.width_px or 0, spec.height_px or 0
        if box is None:
            seen = seen_area(pixels.shape[1], pixels.shape[0], spec, self.card.crop)
            x1, y1, x2, y2 = seen
            return np.array(seen, np.float32), resize(pixels[y1:y2, x1:x2], width, height)
        return box, resize(_around(pixels, box, width / height), width, height)


@dataclass(frozen=True, slots=True, eq=False)
class ThingSession(GallerySession):
    """A session that recognizes things over a general image embedder."""

    recognizer: ThingRecognizer


def judge_area(quality: Quality, limits: ThingLimits) -> Refusal | None:
    """Refuse an area that is too small, dark, blown out or blurred; None when all is well."""
    q, m = quality, limits
    if q.face_px < m.min_side_px:
        return Refusal(
            "too-small", f"the area is {q.face_px:.0f} px, expected at least {m.min_side_px:.0f}: come closer"
        )
    if q.brightness < m.min_brightness:
        return Refusal(
            "too-dark",
            f"the brightness is {q.brightness:.0f} of 255, expected at least {m.min_brightness:.0f}: more light",
        )
    if q.clipped > m.max_clipped:
        return Refusal(
            "blown-out",
            f"{q.clipped:.0%} of the area is black or blown out, expected at most {m.max_clipped:.0%}: softer light",
        )
    if q.sharpness < m.min_sharpness:
        return Refusal(
            "blurred",
            f"it is blurred or plain (detail {q.sharpness:.2f}, at least {m.min_sharpness:.2f} needed): hold still",
        )
    return None


def _measured(pixels: Pixels, box: Float32s, crop: Pixels) -> tuple[Quality, Pixels]:
    """What was measured on an area, and the area itself."""
    x1, y1, x2, y2 = _whole(pixels, box)
    region = pixels[y1:y2, x1:x2]
    # Enlarged pixels have no detail of their own: a small area is judged at its own size.
    seen = crop if min(region.shape[:2]) >= min(crop.shape[:2]) else region
    grey = cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)
    clipped = float(np.mean((grey <= 4) | (grey >= 251)))
    side = float(min(region.shape[:2]))
    return Quality(side, detail(grey), float(np.median(grey)), clipped, 0.0, 0.0, 0.0, 1.0), region


def judge_box(size_px: tuple[int, int], box: Float32s) -> Refusal | None:
    """Refuse a box (4,) that reaches over the edge of a picture of (width, height), or has less than 8 px of a side."""
    width, height = size_px
    inside = _inside(size_px, box)
    area = ", ".join(f"{v:.0f}" for v in box)
    # A pixel is rounding, where a huge picture was shrunk.
    if float(np.abs(inside - box).max()) > 1.0:
        message = f"the box {area} lies outside the picture of {width}x{height} px, at least in part: draw it anew"
        return Refusal("outside", message)
    if _shorter_side(inside) < _LEAST_BOX_PX:
        return Refusal("too-small", f"the box {area} has less than {_LEAST_BOX_PX} px of a side: draw it larger")
    return None


def _shorter_side(box: Float32s) -> float:
    return float(min(box[2] - box[0], box[3] - box[1]))


def _inside(size_px: tuple[int, int], box: Float32s) -> Float32s:
    width, height = size_px
    return np.clip(np.asarray(box, np.float32), 0, np.array([width, height, width, height], np.float32))


def _clipped(pixels: Pixels, box: Float32s) -> Float32s | None:
    """The part of a box inside the picture, None when less than 8 px of a side are left."""
    inside = _inside((pixels.shape[1], pixels.shape[0]), box)
    return inside if _shorter_side(inside) >= _LEAST_BOX_PX else None


def _whole(pixels: Pixels, box: Float32s) -> tuple[int, int, int, int]:
    height, width = pixels.shape[:2]
    x1, y1 = max(0, int(box[0])), max(0, int(box[1]))
    return x1, y1, min(width, max(x1 + 1, round(float(box[2])))), min(height, max(y1 + 1, round(float(box[3]))))


def _around(pixels: Pixels, box: Float32s, aspect: float) -> Pixels:
    """The box grown about its centre to the network's shape, so that nothing of it is lost or stretched."""
    wide = max(float(box[2] - box[0]), float(box[3] - box[1]) * aspect)
    centre_x, centre_y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    x1, y1 = round(centre_x - wide / 2), round(centre_y - wide / aspect / 2)
    x2, y2 = x1 + max(1, round(wide)), y1 + max(1, round(wide / aspect))
    height, width = pixels.shape[:2]
    inside = pixels[max(0, y1) : min(height, y2), max(0, x1) : min(width, x2)]
    edges = max(0, -y1), max(0, y2 - height), max(0, -x1), max(0, x2 - width)
    if not any(edges):
        return inside
    return cast(Pixels, cv2.copyMakeBorder(inside, *edges, cv2.BORDER_CONSTANT, value=_OUTSIDE))
