"""Recognizes people: detect, align, embed, match."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edge_app.core.errors import MediaError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import PEOPLE, LookFor, Task, Words
from edge_app.core.types import Embedding, Face, Finding, Float32s, Frame, Pixels, Quality, Seen, Template
from edge_app.gallery.enrollment import (
    EnrollOptions,
    Refusal,
    SeveralFaces,
    Shot,
    Verdict,
    choose_face,
    judge_shots,
    rivals,
)
from edge_app.gallery.kept_pictures import keep, kept_picture
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference.detector import Detector
from edge_app.inference.embedder import Embedder
from edge_app.inference.face_quality import measure
from edge_app.inference.geometry import CROPS
from edge_app.recognition.gallery_session import GallerySession
from edge_app.system.timing import Stopwatch

_OLD_CROPS: Final = {crop.size_px: name for name, crop in CROPS.items()}
"""Galleries made before kept the upright crop alone; its side tells which template it follows."""


class FaceRecognizer:
    """Recognizes everybody in a frame."""

    look_for: LookFor = PEOPLE
    words: Words = Task.FACE_EMBEDDING.words
    finds_faces = True
    explains = False

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        gallery: Gallery,
        rule: MatchRule,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.detector = detector
        self.embedder = embedder
        self.gallery = gallery
        self.rule = rule
        self._clock = clock

    @property
    def card(self) -> ModelCard:
        """The embedder's card."""
        return self.embedder.card

    def observe(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        """Detect, align, embed, match; there is no heatmap to `explain` with. `any_way_up`: see `Detector.detect`.

        Raises GalleryError when the gallery is of another model.
        """
        watch = Stopwatch(self._clock)
        faces = self.detector.detect(frame.pixels, any_way_up=any_way_up)
        watch.lap("detect")
        crops = self.embedder.crops(frame.pixels, faces)
        watch.lap("align")
        embeddings = self.embedder.embed(crops)
        watch.lap("embed")
        matches = self.gallery.match(embeddings, self.rule)
        watch.lap("match")
        findings = tuple(Finding(face.box, match, face=face) for face, match in zip(faces, matches, strict=True))
        return Seen(frame, findings, watch.timings_ms())

    def with_gallery(self, gallery: Gallery, rule: MatchRule) -> FaceRecognizer:
        """The same stages over another gallery."""
        return FaceRecognizer(self.detector, self.embedder, gallery, rule, self._clock)

    def shot(
        self, pixels: Pixels, source: str, *, box: Float32s | None = None, largest: bool = False
    ) -> Shot | Refusal:
        """Find, cut out, measure and embed the face that a picture is about; a `Refusal` when there is none.

        With `box` (4,) x1, y1, x2, y2 only faces with their centre in it count.
        """
        faces = self.detector.detect(pixels, any_way_up=True)
        if box is not None:
            faces = tuple(face for face in faces if _centre_in(face.box, box))
        face = choose_face(faces, (pixels.shape[1], pixels.shape[0]), largest=largest)
        if isinstance(face, Refusal):
            if face.reason != "several-faces":
                return face
            meant = rivals(faces, (pixels.shape[1], pixels.shape[0]))
            return SeveralFaces(face.reason, face.message, tuple(self.shot_of(pixels, one, source) for one in meant))
        return self.shot_of(pixels, face, source)

    def shot_of(self, pixels: Pixels, face: Face, source: str) -> Shot:
        """Cut out, measure and embed a face that was found in a picture."""
        crops = self.embedder.crops(pixels, [face])
        measured, kept = measure(face, crops[0]), keep(pixels, face)
        return Shot(source, face, crops[0], measured, self.embedder.embed(crops)[0], kept)

    def judge(
        self, name: str, shots: Sequence[Shot], own: Sequence[Embedding], options: EnrollOptions
    ) -> list[Verdict]:
        """Judge the shots of one name; see `edge_app.gallery.enrollment.judge_shots`."""
        return judge_shots(name, shots, own, self.gallery, self.rule, options)

    def kept_shot(self, template: Template, picture: bytes) -> Shot | str:
        """The shot that a kept picture gives, or why it gives none."""
        try:
            kept = kept_picture(picture)
        except MediaError as error:
            return str(error)
        if kept.face is not None:
            shot = self.shot_of(kept.pixels, kept.face, template.source)
            measured: Quality = replace(shot.quality, face_px=kept.face.size_px / kept.scale)
            return replace(shot, quality=measured, kept=picture)
        if not kept.upright_crop:
            return "the kept picture is of a thing"
        height, width = kept.pixels.shape[:2]
        crop = self.embedder.crop
        if height != width or _OLD_CROPS.get(width) != crop:
            return f"an earlier version kept a crop of {width}x{height} px, too little for {crop}"
        [embedding] = self.embedder.embed(kept.pixels[None])
        # The face in its frame is gone; what was measured on it then still holds.
        whole, landmarks = np.array([0, 0, width, width], np.float32), np.array(CROPS[crop].landmarks, np.float32)
        face = Face(whole, landmarks, min(1.0, max(0.0, template.quality.score)))
        return Shot(template.source, face, kept.pixels, template.quality, embedding, picture)


def _centre_in(face: Float32s, box: Float32s) -> bool:
    x, y = float(face[0] + face[2]) / 2, float(face[1] + face[3]) / 2
    return bool(box[0] <= x <= box[2] and box[1] <= y <= box[3])


@dataclass(frozen=True, slots=True, eq=False)
class PeopleSession(GallerySession):
    recognizer: FaceRecognizer
