"""Pictures of heads that move in space, and of flat pictures of heads: rendered from one photograph.

A head is the photograph with a depth for each pixel: inside the face the mesh's own, outwards to hair and neck farther
back. It is turned about a point behind the face and seen by a pinhole camera. This is no recording of a person: hair
and neck stretch like rubber, light does not change with the turn, and the depth comes from the network that judges it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Face, Pixels
from edge_app.inference.face_mesh import FaceMesh, Mesh

OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
        150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
"""The face's outline in the mesh, once around."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pose:
    """How a head, or a picture of one, lies in space."""

    yaw_deg: float = 0.0
    """Positive to the right of the picture, which is the person's left."""
    pitch_deg: float = 0.0
    """Positive downwards."""
    roll_deg: float = 0.0
    x: float = 0.0
    y: float = 0.0
    """Shift in face widths."""
    scale: float = 1.0
    """Times the size, by coming nearer."""


def rotation(pose: Pose) -> NDArray[np.float64]:
    """(3, 3), for x right, y down, z away from the camera."""
    y, p, r = (math.radians(value) for value in (pose.yaw_deg, pose.pitch_deg, pose.roll_deg))
    about_y = np.array([[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


class Head:
    """A head that turns, from one photograph."""

    def __init__(
        self, pixels: Pixels, face: Face, mesh: FaceMesh, size: tuple[int, int] = (320, 240), share: float = 0.26
    ) -> None:
        """`size`: width and height of the pictures; `share`: how much of the width the face takes."""
        scale = size[0] * share / face.width_px
        middle = np.array([(face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2], np.float64)
        to = np.array([[scale, 0, size[0] / 2 - scale * middle[0]], [0, scale, size[1] / 2 - scale * middle[1]]])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        cut = cv2.warpAffine(pixels, to, size, flags=how)
        inside = cv2.warpAffine(np.ones(pixels.shape[:2], np.float32), to, size, flags=how)
        inside = np.minimum(cv2.GaussianBlur(inside, (0, 0), 3), inside)[..., None]
        wall = cv2.GaussianBlur(cv2.resize(pixels, size), (0, 0), size[0] / 10)
        self.wall = wall
        """What is behind the head."""
        self.picture = (inside * cut + (1 - inside) * wall).astype(np.uint8)
        moved = Face(
            np.concatenate([face.box[:2] @ to[:, :2].T + to[:, 2], face.box[2:] @ to[:, :2].T + to[:, 2]]),
            face.landmarks @ to[:, :2].T + to[:, 2],
            face.score,
        )
        self.mesh = mesh.find(self.picture, moved)
        self.size = size
        points = self.mesh.points.astype(np.float64)
        self.width_px = float(np.ptp(points[:, 0]))
        self.centre = np.array([*points[list(OVAL), :2].mean(axis=0), points[list(OVAL), 2].max()])
        depth, share = _depth(self.mesh, size, self.width_px)
        self._half_depth, self._half_share = (cv2.resize(one, (size[0] // 2, size[1] // 2)) for one in (depth, share))

    def seen(self, pose: Pose) -> Pixels:
        """The picture of the head in a pose, (H, W, 3) uint8."""
        width, height = self.size
        # Movements are smooth: they are computed for every second pixel.
        across, down = width // 2, height // 2
        grid = np.stack(np.meshgrid(np.arange(across) * 2 + 0.5, np.arange(down) * 2 + 0.5), axis=-1).astype(np.float32)
        far = 7.0 * self.width_px  # the camera's distance
        matrix = rotation(pose).astype(np.float32)
        shift = np.array([pose.x * self.width_px, pose.y * self.width_px, far / pose.scale - far], np.float32)
        space = np.dstack([grid, self._half_depth]) - self.centre.astype(np.float32)
        turned = space @ matrix.T + shift
        target = turned[..., :2] * (far / (far + turned[..., 2:])) + self.centre[:2].astype(np.float32)
        moved = (target - grid) * self._half_share[..., None]
        # From where each pixel of the result comes: found by going back along the movement until it fits.
        source = grid.copy()
        for _ in range(10):
            at = (source - 0.5) / 2
            source = grid - cv2.remap(moved, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        whole = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR)
        return cv2.remap(self.picture, whole[..., 0], whole[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _depth(mesh: Mesh, size: tuple[int, int], width_px: float) -> tuple[Floats, Floats]:
    """For each pixel the depth, and how much it goes with the head: 1 in the face, 0 in what is behind."""
    points = mesh.points.astype(np.float64)
    oval = points[list(OVAL)]
    middle = oval[:, :2].mean(axis=0)
    rings = [points]
    for reach, back in ((1.25, 0.25), (1.5, 0.45), (2.2, 0.5), (6.0, 0.5)):
        rings.append(np.column_stack([middle + reach * (oval[:, :2] - middle), oval[:, 2] + back * width_px]))
    share = np.concatenate([np.ones(len(points) + 2 * len(oval)), np.full(len(oval), 0.25), np.zeros(len(oval))])
    cloud = np.concatenate(rings)
    area = cv2.Subdiv2D((-5000, -5000, 10000, 10000))
    place: dict[tuple[int, int], int] = {}
    for number, (x, y) in enumerate(cloud[:, :2]):
        key = (round(x * 8), round(y * 8))
        if key not in place:
            place[key] = number
            area.insert((key[0] / 8, key[1] / 8))
    width, height = size
    depth, goes = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    ys, xs = np.mgrid[0:height, 0:width]
    for corners in area.getTriangleList().reshape(-1, 3, 2):
        keys = [(round(float(x) * 8), round(float(y) * 8)) for x, y in corners]
        if not all(key in place for key in keys):
            continue
        numbers = [place[key] for key in keys]
        x1, y1 = np.floor(corners.min(axis=0)).astype(int).clip(0)
        x2, y2 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (width, height))
        if x2 <= x1 or y2 <= y1:
            continue
        basis = np.column_stack([corners, np.ones(3)])
        if abs(np.linalg.det(basis)) < 1e-6:
            continue
        weights = np.dstack([xs[y1:y2, x1:x2], ys[y1:y2, x1:x2], np.ones((y2 - y1, x2 - x1))]) @ np.linalg.inv(basis)
        inside = (weights >= -1e-6).all(axis=-1)
        depth[y1:y2, x1:x2][inside] = (weights @ cloud[numbers, 2])[inside]
        goes[y1:y2, x1:x2][inside] = (weights @ share[numbers])[inside]
    return cv2.GaussianBlur(depth, (0, 0), 1.5), cv2.GaussianBlur(goes, (0, 0), 3)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A print: its picture, how it is bent, and what is cut out of it."""

    picture: Pixels
    """(H, W, 3) uint8."""
    face_width_px: float
    """Of the face in it."""
    bent_deg: float = 0.0
    """Arc over its width, about an upright axis; 0: flat."""
    folded_deg: float = 0.0
    """By how much both halves lean back from a fold down the middle."""
    holes: NDArray[np.bool_] | None = None
    """(H, W), where the sheet is cut out."""
    phone: bool = False
    """Whether it is a phone's screen, with frame and glare."""


def sheet_seen(sheet: Sheet, pose: Pose, behind: Pixels, face_share: float = 0.26) -> Pixels:
    """A print in front of something else, seen by a pinhole camera: rays are cut with the sheet."""
    height, width = behind.shape[:2]
    tall, wide = sheet.picture.shape[:2]
    scale = sheet.face_width_px / (width * face_share)  # sheet pixels for one of the picture's
    far = 7.0 * width * face_share / pose.scale
    matrix = rotation(pose)
    # Where a sheet lies is smooth: it is computed for every second pixel.
    ys, xs = (np.mgrid[0 : height // 2, 0 : width // 2] * 2 + 0.5).astype(np.float32)
    focal = 7.0 * width * face_share
    rays = np.dstack([(xs - width / 2) / focal, (ys - height / 2) / focal, np.ones_like(xs)]) @ matrix.astype(
        np.float32
    )
    origin = -np.array([pose.x * width * face_share, pose.y * width * face_share, far]) @ matrix
    if sheet.bent_deg > 0:
        radius = wide / scale / math.radians(sheet.bent_deg)
        # The sheet bulges towards the camera: a cylinder about the y axis through (0, 0, radius).
        a = rays[..., 0] ** 2 + rays[..., 2] ** 2
        b = rays[..., 0] * origin[0] + rays[..., 2] * (origin[2] - radius)
        c = origin[0] ** 2 + (origin[2] - radius) ** 2 - radius**2
        under = b**2 - a * c
        t = (-b - np.sqrt(np.maximum(under, 0))) / a
        hit = origin + rays * t[..., None]
        u = np.arctan2(hit[..., 0], radius - hit[..., 2]) * radius
        valid = under > 0
    elif sheet.folded_deg > 0:
        lean = math.tan(math.radians(sheet.folded_deg))
        u, valid, t = np.zeros_like(xs), np.zeros(xs.shape, bool), np.full(xs.shape, np.inf)
        hit = np.zeros_like(rays)
        for side in (-1.0, 1.0):
            # z = side · lean · x
            here = -(origin[2] - side * lean * origin[0]) / (rays[..., 2] - side * lean * rays[..., 0])
            at = origin + rays * here[..., None]
            better = (at[..., 0] * side >= 0) & (here > 0) & (here < t)
            u[better] = at[..., 0][better] / math.cos(math.radians(sheet.folded_deg))
            hit[better], t[better], valid[better] = at[better], here[better], True
    else:
        t = -origin[2] / rays[..., 2]
        hit = origin + rays * t[..., None]
        u, valid = hit[..., 0], t > 0
    map_x, map_y, share = (
        cv2.resize(one.astype(np.float32), (width, height))
        for one in (u * scale + wide / 2, hit[..., 1] * scale + tall / 2, valid)
    )
    picture, edge = sheet.picture, 0
    valid = (share > 0.5) & (map_x >= 0) & (map_y >= 0) & (map_x < wide) & (map_y < tall)
    if sheet.phone:
        edge = 14
        picture = np.ascontiguousarray(picture)
        framed = cv2.copyMakeBorder(
            picture[edge:-edge, edge:-edge], edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=(12, 12, 14)
        )
        picture = framed
    seen = cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR)
    if sheet.phone:
        shine = np.clip(1 - np.hypot(map_x / wide - 0.25 - pose.yaw_deg / 60, map_y / tall - 0.2) / 0.25, 0, 1) * 110
        seen = np.clip(seen.astype(np.float32) + shine[..., None], 0, 255).astype(np.uint8)
    if sheet.holes is not None:
        valid &= cv2.remap(sheet.holes.astype(np.uint8), map_x, map_y, cv2.INTER_NEAREST) == 0
    return np.where(valid[..., None], seen, behind)
