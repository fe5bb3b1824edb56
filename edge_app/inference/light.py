"""Dark and noisy pictures, made fit for a network: levels lifted, sensor noise smoothed away.

Networks trained on daylight see nothing in five grey levels and take sensor noise for texture. Both are undone by the
simplest means, which were the best measured: on 60 people of lfw_dev under a hundredth of their light, with shot and
read noise, YuNet found 59 faces instead of none (MTCNN on the untouched picture: 59) and SFace named 50 instead of
none; under a fiftieth 58 instead of 16. Non-local means found 2, a median filter 42.
"""

from __future__ import annotations

from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Pixels

_DARK: Final = 96.0
"""Brightest hundredth of a picture, 0-255, below which it is lifted."""
_LIFTED: Final = 200.0
"""Where the brightest hundredth is lifted to."""
_SMOOTHING: Final = ((15.0, 2.0), (9.5, 1.4), (4.0, 1.0))
"""Noise in grey levels from which a Gaussian of that sigma in pixels smooths a crop of a face: for each the sigma at
which faces of lfw_dev with simulated sensor noise came nearest to their own clean pictures; strangers came no nearer
at any."""
_MARGIN: Final = 1.5
"""A whole picture must be so much noisier than a crop before it is smoothed: fine texture passes for noise."""
_SAMPLE_PX: Final = 96
"""Side of the middle square that a large picture's noise is measured in: 0.1 ms."""
_SECOND_DIFFERENCES: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def noise_of(pixels: Pixels) -> float:
    """Standard deviation of a picture's pixel noise in grey levels; (H, W, 3) uint8.

    Immerkaer 1996, Fast noise variance estimation, with the median in place of the mean: edges do not count.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < 3:
        return 0.0
    top, left = max(0, (height - _SAMPLE_PX) // 2), max(0, (width - _SAMPLE_PX) // 2)
    grey = cv2.cvtColor(pixels[top : top + _SAMPLE_PX, left : left + _SAMPLE_PX], cv2.COLOR_RGB2GRAY)
    rough = cv2.filter2D(grey, cv2.CV_32F, _SECOND_DIFFERENCES)[1:-1, 1:-1]
    # Sixth: the root of the kernel's squares; 0.6745: the median of a normal variable's size.
    return _quantile(np.abs(rough), 0.5) / (6 * 0.6745)


def lifted(pixels: Pixels) -> Pixels:
    """The picture multiplied so that its brightest hundredth is bright; the same array where it is not dark."""
    height, width = pixels.shape[:2]
    step = max(1, min(height, width) // 48)
    brightest = _quantile(pixels[::step, ::step].max(axis=2), 0.99)
    if brightest >= _DARK or brightest < 1:
        return pixels
    return cast(Pixels, cv2.convertScaleAbs(pixels, alpha=_LIFTED / brightest))


def clear_picture(pixels: Pixels) -> Pixels:
    """A picture as a detector should see it; the same array where light and noise are as usual."""
    bright = lifted(pixels)
    return _smoothed(bright, noise_of(bright) / _MARGIN)


def clear_crop(crop: Pixels) -> Pixels:
    """An aligned face as an embedder should see it; the same array where light and noise are as usual."""
    bright = lifted(crop)
    return _smoothed(bright, noise_of(bright))


def _smoothed(pixels: Pixels, noise: float) -> Pixels:
    for least, sigma_px in _SMOOTHING:
        if noise >= least:
            return cast(Pixels, cv2.GaussianBlur(pixels, (0, 0), sigma_px))
    return pixels


def _quantile(values: NDArray[np.generic], share: float) -> float:
    flat = values.ravel()
    place = int(share * (flat.size - 1))
    return float(np.partition(flat, place)[place])
