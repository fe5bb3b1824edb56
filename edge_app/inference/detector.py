"""Faces in a picture: `Detector` runs a face detector and orders what it finds.

Boxes and landmarks are in the picture's own pixels, the largest face first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_app.core.types import Face, Float32s, Pixels
from edge_app.inference.mtcnn import Found

DETECTORS: Final = ("yunet", "mtcnn")


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """What to look for."""

    min_face_px: float = 24.0
    """Shorter side of the smallest face to be found, pixels of the picture."""
    min_score: float = 0.6
    """Detector's confidence from which a window is a face, [0, 1]; MTCNN keeps its own three."""
    max_side_px: int = 1920
    """Longest side that YuNet works at: bounds memory and time on photographs."""
    overlap_limit: float = 0.3
    """Intersection over union from which two boxes are one face."""


class Detector:
    """Finds faces."""

    def __init__(
        self, name: str, find: Callable[[Pixels, DetectorOptions], Found], options: DetectorOptions | None = None
    ) -> None:
        self.name = name
        self.options = options or DetectorOptions()
        self._find = find

    def detect(self, pixels: Pixels) -> tuple[Face, ...]:
        """Find all faces of (H, W, 3) uint8 RGB pixels, largest first; empty when there is none."""
        boxes, landmarks, scores = self._find(pixels, self.options)
        order = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
        height, width = pixels.shape[:2]
        return tuple(
            Face(boxes[i], landmarks[i], float(min(scores[i], 1.0)))
            for i in order
            if _centre_inside(boxes[i], width, height)
        )


def _centre_inside(box: Float32s, width: int, height: int) -> bool:
    x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
    return 0 <= x < width and 0 <= y < height and bool(box[2] > box[0] and box[3] > box[1])
