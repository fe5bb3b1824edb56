"""The MTCNN cascade: three small networks, each looking closer at what the last one kept.

It repeats facenet-pytorch's arithmetic, odd roundings included, so that both find the same boxes.
Zhang et al. 2016, Joint face detection and alignment using multitask cascaded convolutional networks
(arXiv 1604.02878).
"""

from __future__ import annotations

from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Float32s, Pixels
from edge_app.inference.geometry import nms
from edge_app.inference.onnx_model import Model

_CELL_PX: Final = 12
"""Side of the window that the first network judges."""
_STRIDE_PX: Final = 2
"""Distance between two such windows."""
_PYRAMID_FACTOR: Final = 0.709
"""About 1/sqrt(2): two pyramid levels halve the picture's area twice."""
_THRESHOLDS: Final = (0.6, 0.7, 0.7)
"""Scores at which the three networks let a window pass; facenet-pytorch's defaults."""
_BATCH: Final = 256

Indices = NDArray[np.int64]
Found = tuple[Float32s, Float32s, Float32s]
"""Boxes (N, 4), landmarks (N, 5, 2), scores (N,)."""


class MtcnnCascade:
    """Finds faces with P-Net, R-Net and O-Net."""

    def __init__(self, pnet: Model, rnet: Model, onet: Model) -> None:
        self._pnet, self._rnet, self._onet = pnet, rnet, onet

    def find(self, pixels: Pixels, min_face_px: float) -> Found:
        """All faces of (H, W, 3) uint8 RGB pixels whose shorter side is at least about `min_face_px`."""
        area = _AreaSampler(pixels)
        levels = [self._propose_at(area, scale) for scale in _pyramid(area.height, area.width, min_face_px)]
        found = np.concatenate(levels) if levels else np.zeros((0, 9), np.float32)
        found = found[nms(found[:, :4], found[:, 4], 0.7)]
        sides = np.tile(found[:, 2:4] - found[:, :2], 2)
        boxes = _squared(found[:, :4] + found[:, 5:9] * sides)
        boxes = self._refine(area, boxes)
        return self._output(area, boxes)

    def _propose_at(self, area: _AreaSampler, scale: float) -> Float32s:
        height, width = int(area.height * scale + 1), int(area.width * scale + 1)
        level = area.whole(height, width)[None]
        regression, probability = self._pnet.run(_normalized(level))
        rows, columns = np.nonzero(probability[0, 1] >= _THRESHOLDS[0])
        corner = np.stack([columns, rows], axis=1).astype(np.float32) * _STRIDE_PX
        # float32 throughout, as torch does: the floor below is sensitive to the last bit.
        first = np.floor((corner + np.float32(1)) / np.float32(scale))
        last = np.floor((corner + np.float32(_CELL_PX)) / np.float32(scale))
        scores = probability[0, 1, rows, columns][:, None]
        found = np.concatenate([first, last, scores, regression[0][:, rows, columns].T], axis=1)
        return cast(Float32s, found[nms(found[:, :4], found[:, 4], 0.5)])

    def _refine(self, area: _AreaSampler, boxes: Float32s) -> Float32s:
        boxes, crops = area.crops(boxes, 24)
        if len(boxes) == 0:
            return boxes
        regression, probability = _in_batches(self._rnet, crops)
        passed = probability[:, 1] > _THRESHOLDS[1]
        boxes, scores, regression = boxes[passed], probability[passed, 1], regression[passed]
        kept = nms(boxes, scores, 0.7)
        return _squared(_regressed(boxes[kept], regression[kept]))

    def _output(self, area: _AreaSampler, boxes: Float32s) -> Found:
        boxes, crops = area.crops(boxes, 48)
        if len(boxes) == 0:
            return np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
        regression, points, probability = _in_batches(self._onet, crops)
        passed = probability[:, 1] > _THRESHOLDS[2]
        boxes, scores = boxes[passed], probability[passed, 1]
        sides = boxes[:, 2:4] - boxes[:, :2] + 1
        # Ten numbers: five x, then five y, as shares of the box.
        shares = points[passed].reshape(-1, 2, 5).transpose(0, 2, 1)
        landmarks = shares * sides[:, None, :] + boxes[:, None, :2] - 1
        boxes = _regressed(boxes, regression[passed])
        kept = nms(boxes, scores, 0.7, over_smaller=True, edge_px=1.0)
        return boxes[kept], landmarks[kept].astype(np.float32), scores[kept]


class _AreaSampler:
    """Averages over rectangles of one picture, exactly as torch's `interpolate(mode="area")` does.

    An integral image makes every crop of every candidate four look-ups, whatever its size.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.height, self.width = pixels.shape[:2]
        # Sums of 8-bit values stay exact in float64 far beyond any picture's size.
        self._sums: NDArray[np.float64] = cv2.integral(pixels, sdepth=cv2.CV_64F).astype(np.float64, copy=False)

    def whole(self, height: int, width: int) -> Float32s:
        """The whole picture as (height, width, 3) averages."""
        top, bottom = _cells(np.zeros(1, np.int64), np.array([self.height]), height)
        left, right = _cells(np.zeros(1, np.int64), np.array([self.width]), width)
        return cast(Float32s, self._average(top, bottom, left, right)[0])

    def crops(self, boxes: Float32s, size: int) -> tuple[Float32s, Float32s]:
        """Boxes that reach into the picture, and their (N, size, size, 3) averages."""
        whole = np.trunc(boxes).astype(np.int64)
        x1, y1 = np.maximum(whole[:, 0], 1) - 1, np.maximum(whole[:, 1], 1) - 1
        x2, y2 = np.minimum(whole[:, 2], self.width), np.minimum(whole[:, 3], self.height)
        inside = (x2 > x1) & (y2 > y1)
        top, bottom = _cells(y1[inside], y2[inside], size)
        left, right = _cells(x1[inside], x2[inside], size)
        return boxes[inside], self._average(top, bottom, left, right)

    def _average(self, top: Indices, bottom: Indices, left: Indices, right: Indices) -> Float32s:
        rows = self._sums[bottom] - self._sums[top] if len(top) == 1 else None
        if rows is not None:  # one rectangle grid over the whole picture: slice rows once
            sums = rows[:, :, right[0]] - rows[:, :, left[0]]
        else:
            t, b, le, r = top[:, :, None], bottom[:, :, None], left[:, None, :], right[:, None, :]
            sums = self._sums[b, r] - self._sums[t, r] - self._sums[b, le] + self._sums[t, le]
        cells = (bottom - top)[:, :, None, None] * (right - left)[:, None, :, None]
        return (sums / cells).astype(np.float32)


def _cells(
    start: NDArray[np.int64], stop: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and past-the-last pixel of each of `count` cells between start and stop; both (N, count)."""
    extent = (stop - start)[:, None]
    steps = np.arange(count)[None, :]
    first = steps * extent // count
    last = -(-(steps + 1) * extent // count)
    return start[:, None] + first, start[:, None] + last


def _pyramid(height: int, width: int, min_face_px: float) -> list[float]:
    scale = _CELL_PX / min_face_px
    shorter = min(height, width) * scale
    scales = []
    while shorter >= _CELL_PX:
        scales.append(scale)
        scale *= _PYRAMID_FACTOR
        shorter *= _PYRAMID_FACTOR
    return scales


def _normalized(images: Float32s) -> Float32s:
    """(N, H, W, 3) in 0-255 to the (N, 3, H, W) in [-1, 1] that the three cards describe.

    The crops are averages, not whole numbers, which is why `vision.to_input` with its uint8 is not used.
    """
    return np.ascontiguousarray(((images - np.float32(127.5)) * np.float32(0.0078125)).transpose(0, 3, 1, 2))


def _in_batches(model: Model, crops: Float32s) -> list[Float32s]:
    parts = [model.run(_normalized(crops[start : start + _BATCH])) for start in range(0, len(crops), _BATCH)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _regressed(boxes: Float32s, regression: Float32s) -> Float32s:
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2] + 1, 2)
    return cast(Float32s, (boxes + regression * sides).astype(np.float32))


def _squared(boxes: Float32s) -> Float32s:
    sides = boxes[:, 2:4] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True, initial=0)
    corner = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.concatenate([corner, corner + longer], axis=1).astype(np.float32)
