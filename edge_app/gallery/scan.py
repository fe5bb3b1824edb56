"""Finds the nearest of many unit vectors from a byte per number, with a bound on how far that is off."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Float32s

_ROWS: Final = 4096
"""Vectors in a block: half a megabyte of bytes, which stays in the processor's cache."""
_MIDDLE: Final = 128
"""What 0 is stored as."""
_COLUMN_MOST: Final = 64
"""`byte_products` takes no more; a second column holds what that rounded off, which costs no time."""
_ROUNDING: Final = 1e-5
"""More than what float32 rounds off in any of the sums here."""


class Scan:
    """(N, D) unit rows, as bytes."""

    def __init__(self, rows: Float32s) -> None:
        from edge_app.inference.onnx_model import byte_products

        self._products = byte_products()
        self._codes: NDArray[np.uint8] = np.empty(rows.shape, np.uint8)
        self._scales = np.empty(len(rows), np.float32)
        worst = 0.0
        for start in range(0, len(rows), _ROWS):
            block = rows[start : start + _ROWS]
            scales = np.maximum(np.maximum(block.max(axis=1), -block.min(axis=1)), 1e-6) / np.float32(127)
            whole = block / scales[:, None]
            np.rint(whole, out=whole)
            self._codes[start : start + _ROWS] = whole + np.float32(_MIDDLE)
            self._scales[start : start + _ROWS] = scales
            whole *= scales[:, None]
            whole -= block
            worst = max(worst, float(np.einsum("nd,nd->n", whole, whole).max()))
        self._worst = math.sqrt(worst)

    def cosines(self, probe: Float32s) -> tuple[Float32s, float]:
        """The cosine of a unit vector (D,) to every row, (N,), and how far any of them may be off.

        The bound is proven: a row is its bytes plus a rest of known length (Cauchy-Schwarz), so whoever looks exactly
        at all rows within it has missed nobody.
        """
        scale = max(float(np.abs(probe).max()), 1e-6) / _COLUMN_MOST
        first = np.rint(probe / scale)
        second = np.rint((probe / scale - first) * (2 * _COLUMN_MOST))
        columns = np.stack([first, second], axis=1).astype(np.int8)
        shift = _MIDDLE * columns.sum(axis=0, dtype=np.int32)
        found = np.empty(len(self._codes), np.float32)
        for start in range(0, len(found), _ROWS):
            products = self._products(self._codes[start : start + _ROWS], columns) - shift
            block = products[:, 1] * np.float32(0.5 / _COLUMN_MOST)
            block += products[:, 0]
            np.multiply(block, self._scales[start : start + _ROWS], out=found[start : start + _ROWS])
        found *= np.float32(scale)
        rest = float(np.linalg.norm(probe - scale * (first + second / (2 * _COLUMN_MOST))))
        return found, self._worst * 1.001 + (1.0 + self._worst) * rest + _ROUNDING
