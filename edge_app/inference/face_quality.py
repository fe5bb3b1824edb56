"""What can be measured on one face before it is trusted, and how much is enough.

Hides the measurements and the limits of the enrollment gate. Flows in: a face and its upright crop.
Flows out: a `Quality`, and a reason in words when a limit is not met.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Face, Pixels, Quality

Grey = NDArray[np.integer | np.floating]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """The enrollment gate. Defaults refuse few real pictures and all spoiled ones; see the README's table."""

    min_face_px: float = 40.0
    """Shorter side of the face box."""
    min_sharpness: float = 0.195
    """Fine detail in the crop; 0.3 % of real pictures have less."""
    min_brightness: float = 45.0
    """Median luminance, 0-255."""
    max_brightness: float = 220.0
    """Median luminance, 0-255."""
    max_clipped: float = 0.3
    """Share of black or blown-out pixels."""
    max_yaw: float = 1.1
    """Turn to the side, absolute."""
    min_score: float = 0.89
    """Detector's confidence. YuNet guesses the hidden landmarks of a turned face near the middle, so that yaw alone
    refuses 70 % of the faces of lfw_dev turned by 60 degrees; with this it is 96 %, at 1.97 % of all real pictures."""
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
    Taken along four directions, the least counts: motion blurs one direction only, and the mean of all missed two
    thirds of the pictures blurred by 15 px of motion.
    """
    values: Float32 = grey.astype(np.float32)
    return min(_detail_lost(values, down, right) for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)))


def _detail_lost(values: Float32, down: int, right: int) -> float:
    """Share of the differences along one direction that a Gaussian along it (sigma 2 steps) removes."""
    kernel = np.zeros((9, 9), np.float32)
    steps = np.arange(-4, 5)
    kernel[4 + steps * down, 4 + steps * right] = cv2.getGaussianKernel(9, 2.0).ravel()
    blurred: Float32 = cv2.filter2D(values, -1, kernel).astype(np.float32, copy=False)
    before, after = (float(np.abs(_differences(v, down, right)).sum()) for v in (values, blurred))
    return 1.0 - after / before if before > 0 else 0.0


def _differences(values: Float32, down: int, right: int) -> Float32:
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
