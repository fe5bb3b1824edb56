"""The surface of a face: 468 points in three dimensions, by MediaPipe's mesh.

Kartynnik et al. 2019, Real-time facial surface geometry from monocular video on mobile GPUs (arXiv 1907.06724).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import ModelError
from edge_app.core.types import Face, Float32s, Pixels, frozen_array
from edge_app.inference.geometry import cut_square, to_input
from edge_app.inference.landmarks import roll_of
from edge_app.inference.onnx_model import Model

POINTS: Final = 468
_SIDE_PX: Final = 192
_REACH: Final = 1.5
"""Side of the square that the network sees, in longer sides of the face's box."""
RIGHT_EYE: Final = (33, 133)
LEFT_EYE: Final = (362, 263)
"""Corners of the person's right and left eye, outer and inner, inner and outer."""

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """The surface of one face."""

    points: Float32s
    """(468, 3) x, y in the frame's pixels, z away from the camera in the same unit, 0 near the middle of the head."""
    presence: float
    """Probability that there is a face at all, [0, 1]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", frozen_array(self.points, np.float32, (POINTS, 3), "mesh"))

    @property
    def eye_distance_px(self) -> float:
        """Distance between the middles of both eyes, in space, so that it does not shrink when the head turns."""
        right, left = self.points[list(RIGHT_EYE)].mean(axis=0), self.points[list(LEFT_EYE)].mean(axis=0)
        return float(np.linalg.norm(left - right))


class FaceMesh:
    """Finds the surface of faces that a detector has found; 1.5 ms a face on one thread."""

    def __init__(self, model: Model) -> None:
        if model.card.family != "face-mesh":
            raise ModelError(f"{model.card.id} is of the family {model.card.family}", expected="face-mesh")
        self._model = model

    def find(self, pixels: Pixels, face: Face) -> Mesh:
        """The surface of a face of (H, W, 3) uint8 RGB pixels."""
        centre = np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]], np.float64) / 2
        side = _REACH * max(face.width_px, face.height_px)
        roll_deg = roll_of(face.landmarks)
        crop, back = cut_square(pixels, centre, side, roll_deg, _SIDE_PX)
        found, logit = self._model.run(to_input(crop[None], self._model.card.input), ("landmarks", "presence"))
        inside = found.reshape(POINTS, 3).astype(np.float64)
        plane = (inside[:, :2] - 0.5) @ back[:, :2].T + back[:, 2]
        depth = inside[:, 2:] * (side / _SIDE_PX)
        presence = 1.0 / (1.0 + math.exp(-min(50.0, max(-50.0, float(logit.reshape(-1)[0])))))
        return Mesh(np.hstack([plane, depth]).astype(np.float32), presence)


@dataclass(frozen=True, slots=True)
class Turn:
    """How a head lies against another look at it."""

    yaw_deg: float
    """Positive to the right of the picture, which is the person's left."""
    pitch_deg: float
    """Positive downwards."""
    roll_deg: float
    """Positive clockwise as seen."""
    scale: float
    """How much larger it is."""


def turn_between(before: Points, after: Points) -> Turn:
    """The rotation and scale that bring one mesh nearest to another in least squares; both (468, 3).

    Umeyama 1991, Least-squares estimation of transformation parameters between two point patterns.
    """
    a, b = before - before.mean(axis=0), after - after.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u * flip) @ vt
    scale = float((s * flip).sum() / max(float((a**2).sum()), 1e-12))
    # Rz(roll) Rx(pitch) Ry(yaw), x right, y down, z away: the nose, which points to -z, goes right by a positive yaw.
    pitch = math.asin(max(-1.0, min(1.0, float(rotation[2, 1]))))
    yaw = math.atan2(-float(rotation[2, 0]), float(rotation[2, 2]))
    roll = math.atan2(-float(rotation[0, 1]), float(rotation[1, 1]))
    return Turn(-math.degrees(yaw), math.degrees(pitch), math.degrees(roll), scale)


def breadth_and_height(before: Points, after: Points) -> tuple[float, float]:
    """How broad and how tall the second look is, times the first look's surface turned likewise; both (468, 3).

    The surface is seen from wherever it fits best (an affine camera), so a head that turns keeps both near 1, and a
    picture that is tilted loses the one along which it is foreshortened.
    """
    surface, seen = before - before.mean(axis=0), (after - after.mean(axis=0))[:, :2]
    across, down = np.linalg.lstsq(surface, seen, rcond=None)[0].T
    return float(np.linalg.norm(across)), float(np.linalg.norm(down))


def unlike_a_plane(before: Points, after: Points, eye_distance_px: float) -> float:
    """How far the second look is from any look at a flat picture of the first: RMS distance in eye distances.

    The plane's best homography is found by the normalized direct linear transform (Hartley and Zisserman 2004,
    Multiple view geometry, 4.4) over all points' x, y. 0 for a flat picture however it is turned.
    """
    source, target = before[:, :2], after[:, :2]
    a, to_a = _normalized(source)
    b, to_b = _normalized(target)
    x, y = a.T
    u, v = b.T
    one, nil = np.ones_like(x), np.zeros_like(x)
    rows = np.concatenate(
        [
            np.stack([x, y, one, nil, nil, nil, -u * x, -u * y, -u], axis=1),
            np.stack([nil, nil, nil, x, y, one, -v * x, -v * y, -v], axis=1),
        ]
    )
    homography = np.linalg.inv(to_b) @ np.linalg.svd(rows.T @ rows)[2][-1].reshape(3, 3) @ to_a
    mapped = np.column_stack([source, one]) @ homography.T
    found = mapped[:, :2] / mapped[:, 2:]
    return float(np.sqrt(((found - target) ** 2).sum(axis=1).mean())) / max(eye_distance_px, 1e-6)


def _normalized(points: Points) -> tuple[Points, Points]:
    centre = points.mean(axis=0)
    scale = math.sqrt(2) / max(float(np.sqrt(((points - centre) ** 2).sum(axis=1)).mean()), 1e-9)
    matrix = np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1.0]])
    return (points - centre) * scale, matrix
