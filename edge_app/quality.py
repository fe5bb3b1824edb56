"""What can be measured on one face before it is trusted, and how much is enough.

Hides the measurements and the limits of the enrollment gate. Flows in: a face and its upright crop.
Flows out: a `Quality`, and a reason in words when a limit is not met.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from edge_app.domain import Face, Pixels, Quality


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """The enrollment gate. Defaults refuse few real pictures and all spoiled ones; see the README's table."""

    min_face_px: float = 40.0
    """Shorter side of the face box."""
    min_sharpness: float = 0.0
    """Fine detail in the crop."""
    min_brightness: float = 30.0
    """Median luminance, 0-255."""
    max_brightness: float = 235.0
    """Median luminance, 0-255."""
    max_clipped: float = 0.5
    """Share of black or blown-out pixels."""
    max_yaw: float = 0.75
    """Turn to the side, absolute."""
    max_roll_deg: float = 50.0
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
        sharpness=_sharpness(grey),
        brightness=float(np.median(grey)),
        clipped=float(np.mean((grey <= 4) | (grey >= 251))),
        yaw=_yaw(face),
        pitch=_pitch(face),
        roll_deg=math.degrees(math.atan2(float(eyes[1]), float(eyes[0]))),
        score=face.score,
    )


def _sharpness(grey: Pixels) -> float:
    """Energy of the finest detail relative to all detail: independent of light and contrast."""
    values = grey.astype(np.float32)
    fine = cv2.Laplacian(cv2.GaussianBlur(values, (0, 0), 0.7), cv2.CV_32F)
    return float(fine.std() / (values.std() + 8.0))


def _upright(face: Face) -> np.ndarray:
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
