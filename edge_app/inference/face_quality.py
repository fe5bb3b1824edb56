"""Measures one face before it is trusted, and holds the limits of the enrollment gate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Face, Pixels, Quality

Grey = NDArray[np.integer | np.floating]
Grey32 = NDArray[np.float32]
_DIRECTIONS: Final = ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))
"""Steps down and to the right."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """The enrollment gate. Defaults refuse few real pictures and all spoiled ones; see the README's table."""

    min_face_px: float = 40.0
    """Shorter side of the face box."""
    min_sharpness: float = 0.2
    """Fine detail in the crop; 0.3 % of real pictures have less."""
    min_brightness: float = 45.0
    """Median luminance, 0-255."""
    max_brightness: float = 220.0
    """Median luminance, 0-255."""
    max_clipped: float = 0.3
    """Share of black or blown-out pixels."""
    max_yaw: float = 0.9
    """Turn to the side, absolute; 0.2 % of real pictures have more."""
    min_score: float = 0.895
    """Detector's confidence. The hidden landmarks of a turned face are guessed near the middle, so that yaw alone
    refuses half of the faces of lfw_dev turned by 60 degrees; with this it is 95 %, and 0.2 % of real pictures."""
    max_roll_deg: float = 45.0
    """Tilt of the head, absolute."""


def measure(face: Face, crop: Pixels) -> Quality:
    """Measure one face.

    `crop` is the upright (S, S, 3) uint8 RGB crop of `face`. Luminance and detail are taken from its middle,
    where skin is: hair and background say little about light on the face.
    """
    side = crop.shape[0]
    middle = slice(side // 4, side - side // 8)
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[middle, side // 6 : side - side // 6]
    eyes = face.landmarks[1] - face.landmarks[0]
    return Quality(
        face_px=face.size_px,
        sharpness=detail(grey),
        brightness=float(np.median(grey)),
        clipped=float(np.mean((grey <= 4) | (grey >= 251))),
        yaw=_yaw(face),
        pitch=_pitch(face),
        roll_deg=math.degrees(math.atan2(float(eyes[1]), float(eyes[0]))),
        score=face.score,
    )


def detail(grey: Grey) -> float:
    """Share of a crop's detail that a blur would take away, in its worst direction; 0 blurred, about 0.35 sharp.

    Crete et al. 2007, The blur effect: perception and estimation with a new no-reference perceptual blur metric.
    Taken along eight directions, the least counts: motion blurs one direction only, and the mean of all missed two
    thirds of the pictures blurred by 15 px of motion, four directions 4 % of those moved by 21 px at 30 degrees.
    """
    values: Grey32 = grey.astype(np.float32)
    return min(detail_along(values, down, right) for down, right in _DIRECTIONS)


def detail_along(values: Grey32, down: int, right: int) -> float:
    """Share of the differences between neighbours along one direction that a Gaussian along it removes.

    `down` and `right` lead from one neighbour to the next, in pixels; the Gaussian's sigma is 2 / max(down, right) of
    these steps.
    """
    step = max(abs(down), abs(right))
    along = np.arange(-4 // step, 4 // step + 1)
    kernel = np.zeros((9, 9), np.float32)
    kernel[4 + along * down, 4 + along * right] = cv2.getGaussianKernel(len(along), 2.0 / step).ravel()
    blurred: Grey32 = cv2.filter2D(values, -1, kernel).astype(np.float32, copy=False)
    before, after = (float(np.abs(_differences(v, down, right)).sum()) for v in (values, blurred))
    return 1.0 - after / before if before > 0 else 0.0


def _differences(values: Grey32, down: int, right: int) -> Grey32:
    height, width = values.shape
    here = values[down:, max(right, 0) : width + min(right, 0)]
    there = values[: height - down, max(-right, 0) : width - max(right, 0)]
    return here - there


def _upright(face: Face) -> NDArray[np.floating]:
    """Landmarks with the eye line level, its middle at the origin, its length 1; (5, 2)."""
    eyes = (face.landmarks[0] + face.landmarks[1]) / 2
    along = face.landmarks[1] - face.landmarks[0]
    length = float(np.hypot(*along)) or 1.0
    cos, sin = along / length
    rotation = np.array([[cos, sin], [-sin, cos]], np.float32)
    return np.asarray((face.landmarks - eyes) @ rotation.T / length)


def _yaw(face: Face) -> float:
    """Nose offset against the mid-line of eyes and mouth, as a share of the half face; 0 is frontal."""
    points = _upright(face)
    middle = float(points[3:, 0].mean()) / 2
    return float(np.clip((float(points[2, 0]) - middle) * 2, -2.0, 2.0))


def _pitch(face: Face) -> float:
    """Height of the nose between the eyes (0) and the mouth (1)."""
    points = _upright(face)
    mouth = float(points[3:, 1].mean())
    return float(points[2, 1]) / mouth if mouth > 1e-3 else 1.0
