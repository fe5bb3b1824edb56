"""Tells from two small copies of the picture whether it was cut, and whether something moved in it.

Both work on means of 16 x 16 pixels of the green channel at 640 x 480 (0.05 ms a frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Float32s, Pixels

STEP_PX: Final = 4
BLOCK: Final = 4
"""A cell is the mean of 4 x 4 samples, which brings sensor noise down to a quarter."""
CHANGE: Final = 12.0
"""Grey levels by which a cell must differ, beyond what all have in common: exposure changes everything."""
CELLS: Final = 6
"""Cells that must differ: a face of 24 px in a 640 x 480 picture with its shoulders covers about as many."""
CUT_SHARE: Final = 0.4
"""Share of the cells that a cut changes: 0.49 and more in 99 % of 88 cuts, 0.25 at most in 7,382 other steps."""
CUT_LIKENESS: Final = 0.75
"""A cut leaves the pictures less alike: 0.72 at most in 99 % of the cuts. A light that goes on leaves them near 1."""
BLANK: Final = 3.0
"""Standard deviation of the cells of a picture that shows nothing: a covered lens, a dropped frame."""


class SceneChange:
    """Remembers the last picture and the last one that was searched."""

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None
        self._now: NDArray[np.float32] | None = None
        self._searched: NDArray[np.float32] | None = None

    def forget(self) -> None:
        """Forget both: the next picture is of something else."""
        self._last = self._now = self._searched = None

    def see(self, pixels: Pixels) -> bool:
        """Take in the next picture, (H, W, 3) uint8 RGB; returns whether it was cut since the one before.

        Pictures of another size are cut. One that shows nothing is not: the next is compared with the one before it.
        """
        now, last = _thin(pixels), self._last
        self._now = now
        if float(now.std()) < BLANK:
            return last is not None and last.shape != now.shape
        self._last = now
        if last is None:
            return False
        if last.shape != now.shape:
            return True
        change = now - last
        share = float(np.mean(np.abs(change - np.median(change)) > CHANGE))
        return share >= CUT_SHARE and likeness(last, now) < CUT_LIKENESS

    def remember(self) -> None:
        """Note that the picture seen last has been searched."""
        self._searched = self._now

    def stirred(self, boxes: Sequence[Float32s], size_px: tuple[int, int]) -> bool:
        """Whether enough has changed since the last search outside the heads and bodies at `boxes` (4,) x1 y1 x2 y2.

        `size_px` is (width, height) of the picture.
        """
        now, before = self._now, self._searched
        if now is None or before is None or before.shape != now.shape:
            return True
        change = now - before
        changed = np.abs(change - np.median(change)) > CHANGE
        cell_px = max(size_px[0] / now.shape[1], 1.0)
        for x1, y1, x2, _ in (box.tolist() for box in boxes):
            wide, side = 0.9 * (x2 - x1), x2 - x1
            rows = slice(max(0, int((y1 - side) / cell_px)), None)
            changed[rows, max(0, int((x1 - wide) / cell_px)) : max(0, int((x2 + wide) / cell_px) + 1)] = False
        return int(np.count_nonzero(changed)) >= CELLS


def _thin(pixels: Pixels) -> NDArray[np.float32]:
    step = STEP_PX * max(1, round(max(pixels.shape[:2]) / 640))
    green = np.ascontiguousarray(pixels[::step, ::step, 1])
    size = max(1, green.shape[1] // BLOCK), max(1, green.shape[0] // BLOCK)
    return np.asarray(cv2.resize(green, size, interpolation=cv2.INTER_AREA), np.float32)


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Correlation of two small pictures of one shape, [-1, 1]; 1 where one of them shows nothing."""
    a, b = one - one.mean(), other - other.mean()
    spread = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / spread if spread > 0 else 1.0
