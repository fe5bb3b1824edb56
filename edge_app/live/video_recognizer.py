"""Recognizes people in video: `LiveRecognizer` takes frames in order and says who is where, with track numbers.

The whole picture is searched only when the tracker asks; in between YuNet looks at a small square around each face.
Measured (1 thread, 640 x 480, one face): whole picture 6.3 ms, a 96 px square 1.1 ms, one embedding 14 ms. Optical flow
was not chosen: it drifts, cannot tell a face from what hides it, and gives no score.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import GalleryError
from edge_app.core.types import Face, Float32s, Frame, Pixels, Seen
from edge_app.gallery.enrollment import Refusal, Shot, choose_face
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference.detector import Detector, DetectorOptions
from edge_app.inference.embedder import Embedder
from edge_app.inference.face_quality import measure
from edge_app.inference.geometry import nms, resize
from edge_app.live.identity_vote import Look, weight_of
from edge_app.live.scene_change import SceneChange
from edge_app.live.tracker import Tracker, TrackerOptions, TrackInfo
from edge_app.model_store.open_detector import open_detector
from edge_app.recognition.faces import FaceRecognizer
from edge_app.system.timing import Stopwatch

_WINDOW_PX = 96
"""Side of the square that a face is followed in; its face is then about half as large, well above the 32 px from
which YuNet's landmarks are as good as they get."""
_REACH = 2.0
"""Side of the square in face sizes: a face may move by half its size between two frames."""
_WIDE_PX, _WIDE_REACH = 128, 2.5
"""The square in which a face is looked for that was not found in the first."""
_FOLLOW_SCORE = 0.5
"""A face that is already known to be one is followed at a lower score than a new one needs."""
_FAINT_SCORE = 0.35
"""From here on when O-Net is sure that it is one: heads turned by 65 degrees got lost in every fourth frame."""
_MERGE_IOU = 0.4
_PATCH_PX = 16
_PATCH_REACH = 1.5
"""Side of the small picture by which a face is known again, in face sizes: hair and collar differ more than faces."""
_STAGES = ("detect", "follow", "align", "embed")


class LiveRecognizer:
    """Recognizes everybody in a stream of frames, at a fraction of the price of looking at each anew."""

    def __init__(
        self,
        recognizer: FaceRecognizer,
        options: TrackerOptions | None = None,
        *,
        follower: Detector | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`follower` finds faces in small squares; the default is YuNet on one thread, whatever `recognizer` uses.

        It need not find landmarks well: those of a face that is embedded are found anew by the recognizer's detector.
        """
        follow_options = DetectorOptions(min_score=_FAINT_SCORE)
        self._follower = follower or open_detector("yunet", follow_options, threads=1, refine=False)
        self._recognizer = recognizer
        self._tracker = Tracker(options)
        self._scene = SceneChange()
        self._clock = clock

    @property
    def recognizer(self) -> FaceRecognizer:
        """The parts in use: detector, embedder, gallery, rule."""
        return self._recognizer

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        """All living tracks after the last frame, lost ones included, by number."""
        return self._tracker.tracks

    def observe(self, frame: Frame) -> Seen:
        """Take in the next frame. Raises GalleryError when the gallery is of another model, EdgeError of a model."""
        watch = Stopwatch(self._clock, ("detect", "follow", "align", "embed"))
        parts = self._recognizer
        eyes = _FrameEyes(frame.pixels, parts.detector, self._follower, parts.embedder, self._scene, watch)
        findings = self._tracker.step(frame.time_s, eyes, parts.gallery, parts.rule)
        watch.lap("match")  # what is left: association, votes, matching
        return Seen(frame, findings, watch.timings_ms())

    def with_gallery(self, gallery: Gallery, rule: MatchRule) -> None:
        """Go on with another gallery or rule: every track is decided afresh from its kept embeddings.

        Raises GalleryError when the gallery is of another model, and goes on with the one before.
        """
        if gallery.model_id != self._recognizer.embedder.model_id:
            raise GalleryError(
                f"the gallery is of {gallery.model_id}",
                expected=self._recognizer.embedder.model_id,
                remedy="enroll again with the model in use",
            )
        self._recognizer = self._recognizer.with_gallery(gallery, rule)
        self._tracker.again(gallery, rule)

    def reset(self) -> None:
        """End all tracks: the next frame has nothing to do with the last."""
        self._tracker.reset()
        self._scene.forget()

    def look(self, seen: Seen, source: str) -> Shot | Refusal:
        """Measure and embed the prominent face of a frame just observed, as enrollment wants it."""
        faces = [finding.face for finding in seen.findings if finding.face is not None]
        face = choose_face(faces, seen.frame.size_px, largest=False)
        if isinstance(face, Refusal):
            return face
        [checked] = self._recognizer.detector.check(seen.frame.pixels, [face])
        return self._recognizer.shot_of(seen.frame.pixels, checked.face, source)


@dataclass(frozen=True, slots=True, eq=False)
class _FrameEyes:
    """One frame, as the tracker sees it."""

    pixels: Pixels
    detector: Detector
    follower: Detector
    embedder: Embedder
    scene: SceneChange
    watch: Stopwatch
    scanned: list[Face] = field(default_factory=list)

    def cut(self) -> bool:
        self.watch.lap("match")
        cut = self.scene.see(self.pixels)
        self.watch.lap("follow")
        return cut

    def scan(self) -> Sequence[Face]:
        self.watch.lap("match")
        faces = self.detector.detect(self.pixels)
        self.scanned.extend(faces)
        self.scene.remember()
        self.watch.lap("detect")
        return faces

    def search(self, regions: Sequence[Float32s]) -> Sequence[Face]:
        self.watch.lap("match")
        found = [
            face
            for region in regions
            for face in self._around(region, _REACH, _WINDOW_PX) or self._around(region, _WIDE_REACH, _WIDE_PX)
        ]
        faint = [face for face in found if face.score < _FOLLOW_SCORE]
        if faint:
            checked = self.detector.check(self.pixels, faint)
            no_face = {id(f) for f, one in zip(faint, checked, strict=True) if not self.detector.stands(one)}
            found = [face for face in found if id(face) not in no_face]
        if len(regions) > 1 and len(found) > 1:
            boxes = np.stack([face.box for face in found])
            scores = np.array([face.score for face in found], np.float32)
            found = [found[i] for i in nms(boxes, scores, _MERGE_IOU)]
        self.watch.lap("follow")
        return found

    def patches(self, faces: Sequence[Face]) -> Sequence[NDArray[np.float32]]:
        self.watch.lap("match")
        patches = [_patch(self.pixels, face.box) for face in faces]
        self.watch.lap("follow")
        return patches

    def look(self, faces: Sequence[Face]) -> Sequence[Look]:
        self.watch.lap("match")
        # A scan has checked its faces; those that were followed are checked now.
        followed = [face for face in faces if not any(face is one for one in self.scanned)]
        checked = {
            id(face): one for face, one in zip(followed, self.detector.check(self.pixels, followed), strict=True)
        }
        found = [checked[id(face)].face if id(face) in checked else face for face in faces]
        real = [id(face) not in checked or self.detector.stands(checked[id(face)]) for face in faces]
        crops = self.embedder.crops(self.pixels, found)
        weights = [weight_of(measure(face, crop)) for face, crop in zip(found, crops, strict=True)]
        self.watch.lap("align")
        embeddings = self.embedder.embed(crops)
        self.watch.lap("embed")
        return [Look(*one) for one in zip(embeddings, weights, real, strict=True)]

    def stirred(self, boxes: Sequence[Float32s]) -> bool:
        self.watch.lap("match")
        stirred = self.scene.stirred(boxes, (self.pixels.shape[1], self.pixels.shape[0]))
        self.watch.lap("follow")
        return stirred

    def _around(self, region: Float32s, reach: float, window_px: int) -> list[Face]:
        """Faces in a square of `reach` box sides about a box, seen at `window_px`."""
        height, width = self.pixels.shape[:2]
        x, y = float(region[0] + region[2]) / 2, float(region[1] + region[3]) / 2
        side = reach * max(float(region[2] - region[0]), float(region[3] - region[1]))
        left, top = (max(0, min(round(c - side / 2), limit - 1)) for c, limit in ((x, width), (y, height)))
        right, bottom = min(width, max(left + 1, round(x + side / 2))), min(height, max(top + 1, round(y + side / 2)))
        window = self.pixels[top:bottom, left:right]
        scale = window_px / side
        small = resize(window, max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        ratio = np.array([(right - left) / small.shape[1], (bottom - top) / small.shape[0]], np.float32)
        corner = np.array([left, top], np.float32)
        return [
            Face(face.box * np.tile(ratio, 2) + np.tile(corner, 2), face.landmarks * ratio + corner, face.score)
            for face in self.follower.detect(small)
        ]


def _patch(pixels: Pixels, box: Float32s) -> NDArray[np.float32]:
    """The face and its hair, in the green channel."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    x, y, reach = (x1 + x2) / 2, (y1 + y2) / 2, _PATCH_REACH * math.sqrt((x2 - x1) * (y2 - y1)) / 2
    left, top = (max(0, min(round(c - reach), limit - 1)) for c, limit in ((x, width), (y, height)))
    right, bottom = (min(limit, max(at + 1, round(c + reach))) for c, at, limit in ((x, left, width), (y, top, height)))
    window = np.ascontiguousarray(pixels[top:bottom, left:right, 1])
    return np.asarray(cv2.resize(window, (_PATCH_PX, _PATCH_PX), interpolation=cv2.INTER_AREA), np.float32)
