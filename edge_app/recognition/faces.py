"""A frame in, an observation out: the diagram of the README as code.

Hides nothing but the order of the stages and their timing. Flows in: a `Frame`. Flows out: an `Observation`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge_app.core.types import Face, Frame, Observation, Pixels, Sighting
from edge_app.gallery.enrollment import Refusal, SeveralFaces, Shot, choose_face, rivals
from edge_app.gallery.kept_pictures import keep
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference.detector import Detector
from edge_app.inference.embedder import Embedder
from edge_app.inference.face_quality import measure


@dataclass(slots=True)
class _Stopwatch:
    clock: Callable[[], float]
    last_s: float
    laps_ms: dict[str, float]

    def lap(self, stage: str) -> None:
        now = self.clock()
        self.laps_ms[stage] = (now - self.last_s) * 1e3
        self.last_s = now

    def timings_ms(self) -> Mapping[str, float]:
        return self.laps_ms | {"total": sum(self.laps_ms.values())}


class Recognizer:
    """Recognizes everybody in a frame."""

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

    def observe(self, frame: Frame) -> Observation:
        """Detect, align, embed, match. Raises GalleryError when the gallery is of another model."""
        watch = _Stopwatch(self._clock, self._clock(), {})
        faces = self.detector.detect(frame.pixels)
        watch.lap("detect")
        crops = self.embedder.crops(frame.pixels, faces)
        watch.lap("align")
        embeddings = self.embedder.embed(crops)
        watch.lap("embed")
        matches = self.gallery.match(embeddings, self.rule)
        watch.lap("match")
        sightings = tuple(Sighting(face, match) for face, match in zip(faces, matches, strict=True))
        return Observation(frame, sightings, watch.timings_ms())

    def with_gallery(self, gallery: Gallery, rule: MatchRule) -> Recognizer:
        """The same stages over another gallery."""
        return Recognizer(self.detector, self.embedder, gallery, rule, self._clock)

    def shot(self, pixels: Pixels, source: str, *, largest: bool = False) -> Shot | Refusal:
        """Find, cut out, measure and embed the face that a picture is about; a `Refusal` when there is none."""
        faces = self.detector.detect(pixels)
        face = choose_face(faces, (pixels.shape[1], pixels.shape[0]), largest=largest)
        if isinstance(face, Refusal):
            if face.reason != "several-faces":
                return face
            meant = rivals(faces, (pixels.shape[1], pixels.shape[0]))
            return SeveralFaces(face.reason, face.message, tuple(self._shot(pixels, one, source) for one in meant))
        return self._shot(pixels, face, source)

    def _shot(self, pixels: Pixels, face: Face, source: str) -> Shot:
        crops = self.embedder.crops(pixels, [face])
        measured, kept = measure(face, crops[0]), keep(pixels, face)
        return Shot(source, face, crops[0], measured, self.embedder.embed(crops)[0], kept)
