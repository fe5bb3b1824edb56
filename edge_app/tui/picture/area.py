"""The box in the picture that is looked at, moved and resized with keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""

STEP: Final = 0.04
"""How far a key moves or grows the box, as a share of the picture's shorter side."""
_LEAST: Final = 0.08
"""Smallest side, as a share of the picture's shorter side."""


@dataclass(frozen=True, slots=True)
class Area:
    """A box in a picture of known size."""

    box: Box
    width_px: int
    height_px: int

    @classmethod
    def middle(cls, width_px: int, height_px: int) -> Self:
        """A square in the middle, half as high as the picture is."""
        half = min(width_px, height_px) / 4
        x, y = width_px / 2, height_px / 2
        return cls((x - half, y - half, x + half, y + half), width_px, height_px)

    def moved(self, across: int, down: int) -> Self:
        """So many steps to the right and down, stopped by the picture's edges."""
        x1, y1, x2, y2 = self.box
        dx = min(max(across * self._step_px, -x1), self.width_px - x2)
        dy = min(max(down * self._step_px, -y1), self.height_px - y2)
        return replace(self, box=(x1 + dx, y1 + dy, x2 + dx, y2 + dy))

    def grown(self, across: int, down: int) -> Self:
        """So many steps wider and higher on each side, no smaller than can be seen, no larger than the picture."""
        x1, x2 = self._side(self.box[0], self.box[2], across, self.width_px)
        y1, y2 = self._side(self.box[1], self.box[3], down, self.height_px)
        return replace(self, box=(x1, y1, x2, y2))

    @property
    def _shorter_px(self) -> int:
        return min(self.width_px, self.height_px)

    @property
    def _step_px(self) -> float:
        return STEP * self._shorter_px

    def _side(self, start: float, end: float, steps: int, limit: int) -> tuple[float, float]:
        if not steps:
            return start, end
        half = max((end - start) / 2 + steps * self._step_px / 2, _LEAST * self._shorter_px / 2)
        middle = (start + end) / 2
        return max(0.0, middle - half), min(float(limit), middle + half)
