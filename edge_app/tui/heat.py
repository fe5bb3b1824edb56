"""Class activation maps over the live picture: hides how evidence becomes colour.

In: RGB pixels and what a classifier said of areas in them. Out: new pixels, warmer where the evidence lies.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from edge_app.domain import Classified, Floats, Pixels
from edge_app.drawing import veil

_LOW, _HIGH = 5.0, 98.0
"""Percentiles of the map that get no colour and all of it: one odd place must not pale the rest."""


def warmed(pixels: Pixels, areas: Iterable[Classified]) -> Pixels:
    """A copy of (H, W, 3) uint8 RGB pixels with each area's map blended in; areas without a map stay as they are."""
    canvas = pixels.copy()
    height, width = canvas.shape[:2]
    for area in areas:
        if area.heatmap is None:
            continue
        x1, y1, x2, y2 = (round(float(value)) for value in area.box)
        heat = _stretched(area.heatmap.values, max(1, x2 - x1), max(1, y2 - y1))
        left, top, right, bottom = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
        if right > left and bottom > top:
            part = heat[top - y1 : bottom - y1, left - x1 : right - x1]
            canvas[top:bottom, left:right] = veil(canvas[top:bottom, left:right], part)
    return canvas


def levels(values: Floats) -> Floats:
    """(h, w) evidence as shares in [0, 1] of what is strong in this map; all 0 when it is the same everywhere."""
    finite = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.percentile(finite, [_LOW, _HIGH])
    if high - low < 1e-6:
        return np.zeros_like(finite)
    shares: Floats = np.clip((finite - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return shares


def _stretched(values: Floats, width_px: int, height_px: int) -> Floats:
    """The levels at every pixel of an area; cubic, since 7 x 7 places stretched linearly show as diamonds."""
    large = cv2.resize(levels(values), (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.asarray(large, np.float32), 0.0, 1.0)
