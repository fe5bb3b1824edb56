"""Whether a camera's pictures are sound, black or frozen."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Pixels

Soundness = Literal["sound", "black", "frozen"]


class Health:
    """Tells black and frozen pictures from sound ones, from a thin sample of each (0.1 ms at 1280 x 720)."""

    BLACK_MEAN: Final = 8.0
    BLACK_PEAK: Final = 32
    """A picture is black when its mean and its brightest sampled value are under these, of 255."""
    BLACK_AFTER_S: Final = 1.5
    """Cameras start black while they set their exposure."""
    FROZEN_AFTER_S: Final = 3.0
    """Sensor noise makes two pictures of a real camera differ; a stream may repeat some when the network is slow."""
    FROZEN_MIN_FRAMES: Final = 5

    def __init__(self, frozen_after_s: float = FROZEN_AFTER_S) -> None:
        self._frozen_after_s = frozen_after_s
        self._last: NDArray[np.uint8] | None = None
        self._same = 0
        self._moved = False
        self._same_since_s = 0.0
        self._black_since_s: float | None = None

    @property
    def certain(self) -> bool:
        """Whether the last picture was bright and unlike the one before: no start of a black or frozen stretch."""
        return self._black_since_s is None and self._moved

    def judge(self, pixels: Pixels, time_s: float) -> Soundness:
        """Take in the next picture, (H, W, 3) uint8, that arrived at `time_s`, and say how the camera is."""
        step = max(1, min(pixels.shape[:2]) // 60)
        sample = pixels[::step, ::step].copy()
        same = self._last is not None and np.array_equal(sample, self._last)
        self._moved = self._last is not None and not same
        self._last = sample
        self._same = self._same + 1 if same else 0
        if not same:
            self._same_since_s = time_s
        if sample.mean() >= self.BLACK_MEAN or sample.max() >= self.BLACK_PEAK:
            self._black_since_s = None
        elif self._black_since_s is None:
            self._black_since_s = time_s
        if self._black_since_s is not None and time_s - self._black_since_s >= self.BLACK_AFTER_S:
            return "black"
        still_s = time_s - self._same_since_s
        return "frozen" if self._same >= self.FROZEN_MIN_FRAMES and still_s >= self._frozen_after_s else "sound"
