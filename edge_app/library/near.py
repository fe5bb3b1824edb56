"""Near-duplicates: pictures that are one, saved again, scaled or slightly changed in light."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Float32s, Pixels

_SIDE: Final = 16
_NEAR_BITS: Final = 20
"""Of 256 gradient signs, how many may differ; re-encoding and scaling change under 12, other pictures over 60."""
_NEAR_CORRELATION: Final = 0.97
"""What two thumbnails must correlate by as well: flat pictures share gradient signs by chance."""


@dataclass(frozen=True, slots=True, eq=False)
class Print:
    """What is compared of one picture."""

    signs: NDArray[np.bool_]
    """(256,) whether brightness rises from a cell to the next."""
    thumbnail: Float32s
    """(256,) brightness, centred, of unit length."""


def print_of(pixels: Pixels) -> Print:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    wide = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    flat = wide[:, :_SIDE].ravel()
    flat = flat - flat.mean()
    return Print((wide[:, 1:] > wide[:, :-1]).ravel(), flat / max(float(np.linalg.norm(flat)), 1e-6))


class Seen:
    """The pictures so far."""

    def __init__(self, prints: Iterable[tuple[str, Print]] = ()) -> None:
        self._names: list[str] = []
        self._signs = np.zeros((0, 256), np.bool_)
        self._thumbnails = np.zeros((0, 256), np.float32)
        for name, one in prints:
            self.add(name, one)

    def twin(self, one: Print) -> str | None:
        """A picture that is the same but for how it was saved, None where there is none."""
        count = len(self._names)
        if not count:
            return None
        differ = np.count_nonzero(self._signs[:count] != one.signs, axis=1)
        alike = self._thumbnails[:count] @ one.thumbnail
        hits = np.flatnonzero((differ <= _NEAR_BITS) & (alike >= _NEAR_CORRELATION))
        return self._names[int(hits[0])] if len(hits) else None

    def add(self, name: str, one: Print) -> None:
        if len(self._names) == len(self._signs):
            more = max(64, len(self._names))
            self._signs = np.concatenate([self._signs, np.zeros((more, 256), np.bool_)])
            self._thumbnails = np.concatenate([self._thumbnails, np.zeros((more, 256), np.float32)])
        self._signs[len(self._names)], self._thumbnails[len(self._names)] = one.signs, one.thumbnail
        self._names.append(name)
