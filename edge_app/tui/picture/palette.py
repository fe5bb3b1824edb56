"""RGB pixels in the 256 colours of xterm, dithered."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_BAYER: Final = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32) / 16 - 0.5
_DITHER: Final = 14.0
"""Height of the dither pattern. The palette's greys are 10 apart and its colours 40: more would be a chessboard."""


def dithered(shown: Bytes) -> Bytes:
    """(R, C, 3) pixels with a pattern that makes up for colours that the palette lacks."""
    rows, columns = shown.shape[:2]
    pattern = np.tile(_BAYER, (rows // 4 + 1, columns // 4 + 1))[:rows, :columns, None] * _DITHER
    return np.clip(shown + pattern, 0, 255).astype(np.uint8)


def palette_numbers(colours: Bytes) -> Bytes:
    """The numbers, 16-255, of the colours of xterm's palette that are nearest to (..., 3) RGB."""
    coarse = (colours >> 3).astype(np.intp)
    numbers: Any = _nearest()[coarse[..., 0], coarse[..., 1], coarse[..., 2]]
    return np.asarray(numbers, np.uint8)


@cache
def _nearest() -> Bytes:
    """Nearest palette number of each of 32 x 32 x 32 colours; 50 ms, once, and only on screens that need it."""
    steps = np.array([0, 95, 135, 175, 215, 255], np.float32)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    greys = np.repeat(8 + 10 * np.arange(24, dtype=np.float32)[:, None], 3, axis=1)
    palette = np.concatenate([cube, greys])
    axis = np.arange(32, dtype=np.float32) * 8 + 4
    colours = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    # |c - p|^2 without |c|^2, which is the same for every p.
    distance = (palette**2).sum(axis=1) - 2 * colours @ palette.T
    numbers: Bytes = (distance.argmin(axis=1) + 16).astype(np.uint8).reshape(32, 32, 32)
    return numbers
