"""A face whose surroundings move with it, in a picture that stands still: a print or a phone that a hand holds.

Of 24 people of lfw_dev rendered as they stand in a room none moved so, and of 72 prints, bent prints and phones in a
hand 66 did (tests/liveness/cues.py). What stands on a tripod, fills the picture or is cut out along the head does not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Face, Pixels

_FACE_PX: Final = 64
"""Pictures are shrunk until a face has this width."""
_STEPS: Final = 24
"""Steps from one frame to the next that are remembered."""
_LEAST_STEPS: Final = 8
_LEAST_WAY: Final = 0.08
"""Way of the face over the remembered steps, in face widths, below which nothing can be said."""


@dataclass(slots=True, eq=False)
class SheetMotion:
    """How a face, the ring around it and the picture's border have moved, one frame after another."""

    _before: tuple[Pixels, Face, float] | None = None
    _steps: deque[NDArray[np.float64]] = field(default_factory=lambda: deque(maxlen=_STEPS))
    """(3, 2) each: face, ring, border; x and y in face widths."""

    def see(self, pixels: Pixels, face: Face) -> None:
        """Take in the next frame, (H, W, 3) uint8 RGB, with the same person's face."""
        before = self._before
        scale = _FACE_PX / face.width_px if before is None else before[2]
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        grey: Pixels = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.uint8)
        if before is not None and before[0].shape != grey.shape:
            self._steps.clear()
            before = None
        self._before = grey, face, scale
        if before is None:
            return
        moved = [_moved(before[0], grey, mask) for mask in _masks(before[0], before[1], scale)]
        if all(one is not None for one in moved):
            self._steps.append(np.array(moved) / (face.width_px * scale))

    @property
    def together(self) -> bool | None:
        """Whether face and ring moved as one thing while the border stood still; None where that cannot be told."""
        if len(self._steps) < _LEAST_STEPS:
            return None
        face, ring, border = np.array(self._steps).transpose(1, 0, 2).reshape(3, -1)
        if np.abs(face).sum() < _LEAST_WAY:
            return None
        by_ring, by_border = (float(face @ one) / float(face @ face) for one in (ring, border))
        alike = float(face @ ring) / max(float(np.linalg.norm(face) * np.linalg.norm(ring)), 1e-12)
        return bool(0.7 < by_ring < 1.3 and alike > 0.9 and abs(by_border) < 0.3)


def _masks(grey: Pixels, face: Face, scale: float) -> list[Pixels]:
    """Where to look for points: the face, a ring around head and hair above the shoulders, the picture's border."""
    width, height = face.width_px * scale, face.height_px * scale
    x, y = (float(face.box[0] + face.box[2]) * scale / 2, float(face.box[1] + face.box[3]) * scale / 2)
    inside, ring, border = (np.zeros(grey.shape, np.uint8) for _ in range(3))
    centre = round(x), round(y)

    def oval(mask: Pixels, across: float, down: float, value: int) -> None:
        cv2.ellipse(mask, centre, (round(across), round(down)), 0, 0, 360, value, -1)

    oval(inside, 0.4 * width, 0.5 * height, 255)
    left, top, right, bottom = (round(v) for v in (x - 1.2 * width, y - 1.1 * width, x + 1.2 * width, y + 0.35 * width))
    cv2.rectangle(ring, (left, top), (right, bottom), 255, -1)
    oval(ring, 0.95 * width, width, 0)
    band = max(4, round(0.12 * min(grey.shape)))
    border[:band], border[:, :band], border[:, -band:] = 255, 255, 255
    oval(border, 1.6 * width, 1.8 * width, 0)
    border[round(min(max(y, 0), grey.shape[0])) :, round(max(0, x - 1.6 * width)) : round(x + 1.6 * width)] = 0
    return [inside, ring, border]


def _moved(before: Pixels, after: Pixels, mask: Pixels) -> tuple[float, float] | None:
    """The median way of the corners under a mask (Lucas and Kanade's flow); None where there are too few."""
    corners = cv2.goodFeaturesToTrack(before, 40, 0.02, 4, mask=mask)
    if corners is None or len(corners) < 6:
        return None
    found, ok, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.empty_like(corners))
    ways = (found - corners)[ok[:, 0] == 1].reshape(-1, 2)
    if len(ways) < 6:
        return None
    x, y = np.median(ways, axis=0)
    return float(x), float(y)
