"""Faces in a picture: `Detector` runs a face detector, finds the landmarks anew and orders what it finds.

Boxes and landmarks are in the picture's own pixels, the largest face first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edge_app.core.types import Face, Float32s, Pixels
from edge_app.inference.geometry import nms
from edge_app.inference.landmarks import Checked, LandmarkFinder, roll_of
from edge_app.inference.light import clear_picture
from edge_app.inference.mtcnn import Found

DETECTORS: Final = ("yunet", "mtcnn")

_LESS_SURE: Final = 0.2
"""How far below `min_score` a face may lie that O-Net is sure of. At scores from 0.4 O-Net kept 1 of 44 false alarms
on pictures of insects; of 24 px faces, searched for at 0.67 of their size, 97 % are found so, and 95 % from 0.6 on."""
_SURE_DOUBT: Final = 0.1
_DOUBTLESS_SCORE: Final = 0.8
"""From this score on a face counts whatever O-Net says: it has not seen every mask and every pair of glasses."""
_NO_FACE_DOUBT: Final = 0.5
_UPRIGHT_DEG: Final = 60.0
_TURNED_SIDE_PX: Final = 1024
"""Longest side at which a picture is searched on its side and upside down."""


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    min_face_px: float = 24.0
    """Shorter side of the smallest face to be found, pixels of the picture."""
    min_score: float = 0.6
    """Detector's confidence from which a window is a face, [0, 1]; MTCNN keeps its own three."""
    max_side_px: int = 1920
    """Longest side that YuNet works at: bounds memory and time on photographs."""
    overlap_limit: float = 0.3
    """Intersection over union from which two boxes are one face."""


class Detector:
    """Finds faces."""

    def __init__(
        self,
        name: str,
        find: Callable[[Pixels, DetectorOptions], Found],
        options: DetectorOptions | None = None,
        landmarks: LandmarkFinder | None = None,
    ) -> None:
        """`landmarks`: finds them anew and has a say in what is a face; None: those of `find` stand."""
        self.name = name
        self.options = options or DetectorOptions()
        self._find = find
        self._landmarks = landmarks

    def detect(self, pixels: Pixels, *, any_way_up: bool = False) -> tuple[Face, ...]:
        """Find all faces of (H, W, 3) uint8 RGB pixels, largest first; empty when there is none.

        `any_way_up`: for photographs. A picture in which no face is surely found upright is searched on either side
        and upside down too, which takes up to four times as long.
        """
        seen = clear_picture(pixels)
        found = self._search(seen, self.options)
        if any_way_up and not any(_surely_upright(one) for one in found):
            found = self._any_way_up(seen, found)
        return tuple(one.face for one in sorted(found, key=lambda one: -one.face.area_px2))

    def check(self, pixels: Pixels, faces: Sequence[Face]) -> list[Checked]:
        """Find the landmarks of faces anew that were found some other way, and say how much they are doubted.

        For a face that is followed from frame to frame by something cheaper, and now to be embedded.
        """
        if self._landmarks is None or not faces:
            return [Checked(face, 0.0) for face in faces]
        return self._landmarks.refine(clear_picture(pixels), faces, self.options.min_score)

    def stands(self, checked: Checked) -> bool:
        """Whether a checked face would be found by `detect`."""
        return checked.doubt < _doubt_allowed(checked.face.score, self.options.min_score)

    def _any_way_up(self, pixels: Pixels, found: list[Checked]) -> list[Checked]:
        """What was found and what the turned picture shows, each face once, the way up of which O-Net is surest."""
        options = replace(self.options, max_side_px=min(self.options.max_side_px, _TURNED_SIDE_PX))
        height, width = pixels.shape[:2]
        for quarters in (1, 2, 3):
            turned = np.ascontiguousarray(np.rot90(pixels, quarters))
            found = found + [_turned_back(one, quarters, width, height) for one in self._search(turned, options)]
        if not found:
            return []
        boxes = np.stack([one.face.box for one in found])
        sureness = np.array([one.face.score - one.doubt for one in found], np.float32)
        return [found[i] for i in nms(boxes, sureness, self.options.overlap_limit)]

    def _search(self, pixels: Pixels, options: DetectorOptions) -> list[Checked]:
        """Faces in a picture as it stands. Without a finder of landmarks nothing is doubted."""
        height, width = pixels.shape[:2]
        if self._landmarks is None:
            return [Checked(face, 0.0) for face in _faces(self._find(pixels, options), width, height)]
        asked = replace(options, min_score=max(0.05, options.min_score - _LESS_SURE))
        faces = _faces(self._find(pixels, asked), width, height)
        checked = self._landmarks.refine(pixels, faces, options.min_score)
        return [one for one in checked if one.doubt < _doubt_allowed(one.face.score, options.min_score)]


def _doubt_allowed(score: float, min_score: float) -> float:
    if score >= _DOUBTLESS_SCORE:
        return 1.1
    return _NO_FACE_DOUBT if score >= min_score else _SURE_DOUBT


def _faces(found: Found, width: int, height: int) -> list[Face]:
    """The faces whose middle lies in the picture."""
    return [
        Face(box, landmarks, float(min(score, 1.0)))
        for box, landmarks, score in zip(*found, strict=True)
        if _centre_inside(box, width, height)
    ]


def _centre_inside(box: Float32s, width: int, height: int) -> bool:
    x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    return 0 <= x < width and 0 <= y < height and bool(box[2] > box[0] and box[3] > box[1])


def _surely_upright(one: Checked) -> bool:
    return one.doubt < _SURE_DOUBT and abs(roll_of(one.face.landmarks)) < _UPRIGHT_DEG


def _turned_back(one: Checked, quarters: int, width: int, height: int) -> Checked:
    """A face found in a picture that np.rot90 turned `quarters` times, where it lies in the (height, width) picture."""
    points = np.concatenate([one.face.box.reshape(2, 2), one.face.landmarks])
    for step in range(quarters, 0, -1):
        # One turn counter-clockwise brought pixel (x, y) of a picture W wide to (y, W - 1 - x).
        wide = width if step % 2 else height
        points = np.stack([wide - 1 - points[:, 1], points[:, 0]], axis=1)
    box = np.concatenate([points[:2].min(axis=0), points[:2].max(axis=0)])
    return Checked(Face(box, points[2:].astype(np.float32), one.face.score), one.doubt)
