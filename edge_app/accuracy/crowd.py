"""Crowd pictures whose truth is known: faces pasted onto pictures without any, with the boxes and landmarks that the
paste gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edge_app.core.types import Float32s, Pixels
from edge_app.inference.geometry import resize

CROWD_PX = (1280, 960)
"""Width and height of a crowd picture."""
FACES = 24
"""Faces that are placed in each, where there is room."""
SIZES_PX = (16.0, 200.0)
"""Smallest and largest face: the shorter side of its box; sizes are spread evenly over its logarithm."""
_SURROUNDINGS = 1.5
"""The pasted patch, in box sides: hair and chin, and little of what stood beside the face."""
_TRIES = 60
"""Places that are tried for a face before it is left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of one face in one picture."""

    box: Float32s
    """(4,) x1 y1 x2 y2, pixels."""
    landmarks: Float32s
    """(5, 2), pixels."""

    @property
    def size_px(self) -> float:
        """Shorter side of the box."""
        return float(min(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def eyes_px(self) -> float:
        """Distance between the eyes."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    def moved(self, scale: float, shift: Float32s) -> Truth:
        """The same face after scaling and then shifting the picture by (2,) pixels."""
        return Truth(self.box * scale + np.tile(shift, 2), self.landmarks * scale + shift)


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A face cut out of its picture, with its truth in the patch's own pixels."""

    pixels: Pixels
    truth: Truth


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """A composed picture and every face in it."""

    pixels: Pixels
    faces: tuple[Truth, ...]


def cut(pixels: Pixels, truth: Truth) -> Patch:
    """Cut a face with its surroundings out of (H, W, 3) pixels, as far as the picture reaches."""
    height, width = pixels.shape[:2]
    centre = (truth.box[:2] + truth.box[2:]) / 2
    half = (truth.box[2:] - truth.box[:2]) * (_SURROUNDINGS / 2)
    x1, y1 = np.maximum(np.floor(centre - half), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(centre + half), [width, height]).astype(int)
    corner = np.array([x1, y1], np.float32)
    return Patch(np.ascontiguousarray(pixels[y1:y2, x1:x2]), truth.moved(1.0, -corner))


def background(pixels: Pixels) -> Pixels:
    """The middle of a picture at the crowd's size: scaled until it covers it, the rest cut off."""
    width, height = CROWD_PX
    scale = max(width / pixels.shape[1], height / pixels.shape[0])
    large = resize(pixels, max(width, round(pixels.shape[1] * scale)), max(height, round(pixels.shape[0] * scale)))
    left, top = (large.shape[1] - width) // 2, (large.shape[0] - height) // 2
    return np.ascontiguousarray(large[top : top + height, left : left + width])


def compose(ground: Pixels, patches: Sequence[Patch], rng: np.random.Generator) -> Crowd:
    """Paste each patch at a random free place, its face scaled to a random size; one that finds no room is left out."""
    canvas = ground.copy()
    sizes = np.sort(np.exp(rng.uniform(np.log(SIZES_PX[0]), np.log(SIZES_PX[1]), len(patches))))[
        ::-1
    ]  # large ones first: small ones fit in
    taken: list[tuple[int, int, int, int]] = []
    faces: list[Truth] = []
    for patch, size in zip(patches, sizes, strict=True):
        scale = float(size) / patch.truth.size_px
        width, height = (max(1, round(side * scale)) for side in (patch.pixels.shape[1], patch.pixels.shape[0]))
        place = _free_place(taken, width, height, canvas, rng)
        if place is None:
            continue
        taken.append((*place, place[0] + width, place[1] + height))
        _paste(canvas, resize(patch.pixels, width, height), place)
        # Rounding the patch to whole pixels moves the far edge by at most half a pixel: scale as it was done.
        done = np.array([width / patch.pixels.shape[1], height / patch.pixels.shape[0]], np.float32)
        shift = np.array(place, np.float32)
        faces.append(
            Truth(patch.truth.box * np.tile(done, 2) + np.tile(shift, 2), patch.truth.landmarks * done + shift)
        )
    return Crowd(canvas, tuple(faces))


def _free_place(
    taken: Sequence[tuple[int, int, int, int]], width: int, height: int, canvas: Pixels, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Upper left corner of a place that overlaps nothing pasted before."""
    for _ in range(_TRIES):
        x = int(rng.integers(0, canvas.shape[1] - width + 1))
        y = int(rng.integers(0, canvas.shape[0] - height + 1))
        if all(x + width <= left or x >= right or y + height <= top or y >= low for left, top, right, low in taken):
            return x, y
    return None


def _paste(canvas: Pixels, patch: Pixels, place: tuple[int, int]) -> None:
    """Blend a patch in under an ellipse with a soft rim, so that its frame makes no edges of its own."""
    height, width = patch.shape[:2]
    x, y = place
    across, down = (np.abs((np.arange(side) + 0.5) / side * 2 - 1) for side in (width, height))
    radius = (across[None, :] ** 4 + down[:, None] ** 4) ** 0.25
    alpha = np.clip((1.0 - radius) / 0.12, 0, 1)[..., None]
    under = canvas[y : y + height, x : x + width]
    canvas[y : y + height, x : x + width] = np.rint(alpha * patch + (1 - alpha) * under).astype(np.uint8)


def mosaic(corners: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    """A ground of blurred corners of pictures, where no pictures without faces are at hand."""
    width, height = CROWD_PX
    tile = 160
    rows = []
    for _ in range(height // tile):
        chosen = rng.integers(0, len(corners), width // tile)
        rows.append(np.concatenate([resize(corners[i], tile, tile) for i in chosen], axis=1))
    return np.asarray(cv2.GaussianBlur(np.concatenate(rows), (0, 0), 2.0), np.uint8)
