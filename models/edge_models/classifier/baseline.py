"""A random forest on colour and texture of the pictures: the baseline that a network has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Pixels
from edge_app.media.pictures import read_picture
from edge_models.networks.feature_cache import default_threads

_SIDE_PX: Final = 128
_HUES, _SATURATIONS, _VALUES, _DIRECTIONS = 12, 4, 4, 9
Float32s = NDArray[np.float32]


def plain_features(pixels: Pixels) -> Float32s:
    """Colour and texture of a picture, (D,) float32: HSV histograms, local binary patterns, gradient directions."""
    small = cv2.resize(pixels, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    moments = np.concatenate([small.reshape(-1, 3).mean(0), small.reshape(-1, 3).std(0)]) / 255.0
    parts = [_colours(np.asarray(small, np.uint8)), _patterns(np.asarray(grey, np.uint8)), _directions(grey), moments]
    return np.concatenate(parts).astype(np.float32)


def folder_features(paths: Sequence[Path]) -> Float32s:
    """(N, D) features of picture files. Raises MediaError when one cannot be read."""
    with ThreadPoolExecutor(default_threads()) as pool:
        return np.stack(list(pool.map(lambda path: plain_features(read_picture(path)), paths)))


def forest_predictions(features: Float32s, labels: NDArray[np.intp], judged: Float32s, seed: int) -> NDArray[np.intp]:
    """Class numbers that a random forest of 300 trees gives the `judged` rows (Breiman 2001)."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(300, class_weight="balanced", random_state=seed, n_jobs=1)
    found: NDArray[np.intp] = forest.fit(features, labels).predict(judged)
    return found


def _colours(small: Pixels) -> NDArray[np.float64]:
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    bins = [_HUES, _SATURATIONS, _VALUES]
    counts = cv2.calcHist([hsv], [0, 1, 2], None, bins, [0, 180, 0, 256, 0, 256]).astype(np.float64).ravel()
    shares: NDArray[np.float64] = np.sqrt(counts / counts.sum())
    return shares


def _patterns(grey: Pixels) -> NDArray[np.float64]:
    """Histogram of local binary patterns that have at most two changes around the circle (Ojala et al. 2002)."""
    centre = grey[1:-1, 1:-1]
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    height, width = centre.shape
    signs = np.stack([grey[y : y + height, x : x + width] >= centre for y, x in around])
    changes = (signs != np.roll(signs, 1, axis=0)).sum(axis=0)
    kind = np.where(changes <= 2, signs.sum(axis=0), 9)
    counts = np.bincount(kind.ravel(), minlength=10).astype(np.float64)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _directions(grey: NDArray[np.generic]) -> NDArray[np.float64]:
    """Gradient directions weighed by strength, in 2 x 2 cells (after Dalal and Triggs 2005)."""
    image = np.asarray(grey, np.float32)
    across, down = cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1)
    strength = np.hypot(across, down)
    direction = (np.arctan2(down, across) % np.pi / np.pi * _DIRECTIONS).astype(int).clip(0, _DIRECTIONS - 1)
    half = _SIDE_PX // 2
    cells = [(slice(y, y + half), slice(x, x + half)) for y in (0, half) for x in (0, half)]
    counts = [np.bincount(direction[c].ravel(), strength[c].ravel(), _DIRECTIONS) for c in cells]
    return np.concatenate([c / max(float(c.sum()), 1e-9) for c in counts])
