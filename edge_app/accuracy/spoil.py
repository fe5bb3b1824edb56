"""Pictures spoiled on purpose, to see what an enrollment gate lets through: blur, darkness, distance, a turned head.

Amounts in pixels are meant for a picture whose shorter side is 250 px and grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Face, Pixels
from edge_app.inference.face_quality import measure

Spoiler = Callable[[Pixels, Face], Pixels]
"""Pixels (H, W, 3) uint8 RGB and the face they are about, to pixels."""

_BASE_PX: Final = 250.0
TURN_DEG: Final = 60.0
TINY_FACE_PX: Final = 30.0
_FINE: Final = 3
"""The head is drawn from so many samples per pixel and direction, or the near cheek would have holes."""


def blurred(sigma_px: float) -> Spoiler:
    """Out of focus: a Gaussian."""
    return lambda pixels, _face: cast(Pixels, cv2.GaussianBlur(pixels, (0, 0), sigma_px * _scale(pixels)))


def moved(length_px: int, angle_deg: float = 0.0) -> Spoiler:
    """Motion along one direction while the shutter was open."""

    def spoil(pixels: Pixels, _face: Face) -> Pixels:
        half = max(1, round(length_px * _scale(pixels) / 2))
        kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
        dx, dy = half * math.cos(math.radians(angle_deg)), half * math.sin(math.radians(angle_deg))
        cv2.line(kernel, (round(half - dx), round(half - dy)), (round(half + dx), round(half + dy)), 1.0)
        return cast(Pixels, cv2.filter2D(pixels, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT))

    return spoil


def lit(gain: float, lift: float = 0.0) -> Spoiler:
    """Under- or over-exposed: pixels * gain + lift, cut off at black and white."""
    return lambda pixels, _face: np.clip(pixels.astype(np.float32) * gain + lift, 0, 255).astype(np.uint8)


def tiny(pixels: Pixels, face: Face) -> Pixels:
    """Far away: the whole picture smaller, so that the face is 30 px."""
    ratio = min(1.0, TINY_FACE_PX / face.size_px)
    height, width = pixels.shape[:2]
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return cast(Pixels, cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def turned(pixels: Pixels, face: Face) -> Pixels:
    """The head turned by 60 degrees about its upright axis, farther the way it is turned already.

    The picture is laid over half an ellipsoid with a nose and turned with hidden parts hidden; what was never seen,
    the far ear and cheek, is not invented: the blurred background shows. It moves the landmarks as a turn does, which
    is what the gate looks at; it is no portrait.
    """
    yaw = measure(face, np.zeros((112, 112, 3), np.uint8)).yaw
    # The nose goes where it points already.
    angle = math.radians(TURN_DEG if yaw >= 0 else -TURN_DEG)
    centre = (face.box[:2] + face.box[2:]) / 2
    radii = np.array([face.width_px * 0.62, face.height_px * 0.72])
    x, y, depth, colours = _surface(pixels, face, centre, radii)
    across = x * math.cos(angle) + depth * math.sin(angle)
    nearness = depth * math.cos(angle) - x * math.sin(angle)
    return _painted(_without_head(pixels, centre, radii), across + centre[0], y + centre[1], nearness, colours)


def _surface(
    pixels: Pixels, face: Face, centre: NDArray[np.floating], radii: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], Pixels]:
    """Points of the head's front, (N,) each in pixels from its centre, and their (N, 3) colours."""
    height, width = pixels.shape[:2]
    columns, rows = (np.arange(extent * _FINE) / _FINE for extent in (width, height))
    x, y = (axis.ravel() for axis in np.meshgrid(columns - centre[0], rows - centre[1]))
    inside = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 < 1
    x, y = x[inside], y[inside]
    # A head is deeper than it is wide; the nose stands out by about a sixth of the face's width.
    depth = 1.15 * radii[0] * np.sqrt(1 - (x / radii[0]) ** 2 - (y / radii[1]) ** 2)
    nose = face.landmarks[2] - centre
    depth += 0.17 * face.width_px * np.exp(-((x - nose[0]) ** 2 + (y - nose[1]) ** 2) / (0.1 * face.width_px) ** 2)
    fine = cv2.resize(pixels, (width * _FINE, height * _FINE), interpolation=cv2.INTER_LINEAR).reshape(-1, 3)[inside]
    return x, y, depth, cast(Pixels, fine)


def _without_head(pixels: Pixels, centre: NDArray[np.floating], radii: NDArray[np.floating]) -> Pixels:
    """The picture with the head dissolved into what surrounds it."""
    hole = np.zeros(pixels.shape[:2], np.uint8)
    axes = (round(radii[0] * 1.1), round(radii[1] * 1.1))
    cv2.ellipse(hole, (round(float(centre[0])), round(float(centre[1]))), axes, 0, 0, 360, 255, -1)
    kept = (hole == 0).astype(np.float32)
    wide = max(pixels.shape[:2]) / 8
    weight = cv2.GaussianBlur(kept, (0, 0), wide)[..., None] + 1e-6
    around = cv2.GaussianBlur(pixels.astype(np.float32) * kept[..., None], (0, 0), wide) / weight
    return np.where(hole[..., None] > 0, around, pixels).clip(0, 255).astype(np.uint8)


def _painted(
    background: Pixels,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    nearness: NDArray[np.floating],
    colours: Pixels,
) -> Pixels:
    """The points over the background, the nearer over the farther."""
    height, width = background.shape[:2]
    columns, rows = np.round(x).astype(int), np.round(y).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    order = np.argsort(nearness[inside], kind="stable")
    painted = background.copy()
    painted[rows[inside][order], columns[inside][order]] = colours[inside][order]
    return cast(Pixels, cv2.medianBlur(painted, 3))


def _scale(pixels: Pixels) -> float:
    return float(min(pixels.shape[:2])) / _BASE_PX


SPOILERS: Final[Mapping[str, Spoiler]] = {
    "blurred, Gaussian 3 px": blurred(3),
    "blurred, Gaussian 4 px": blurred(4),
    "moved 15 px": moved(15),
    "moved 21 px": moved(21),
    "moved 21 px aslant": moved(21, 30),
    "dark, light x 0.15": lit(0.15),
    "overexposed, light x 2.2 + 60": lit(2.2, 60),
    "tiny, face 30 px": tiny,
    "turned 60 degrees": turned,
}
"""What the gate must refuse, by name."""
