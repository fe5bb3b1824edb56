"""Clips composed of people cut out of portraits, with the names and face boxes that are really in every frame.

The same scene gives the same pixels, and any frame can be rendered without those before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Float32s, Frame, Pixels, frozen_array

_LEVELS: Final = 4
"""Cutouts are kept at 1, 1/2, 1/4 and 1/8 of their size, so that shrinking a far person does not alias."""

_NOISE_PAD_PX: Final = 64
"""The noise picture is this much larger than the frame; each frame takes another window of it."""

_NOISE_LEVELS: Final = 5
"""Sensor noise is 0-4 grey levels: a still scene must not look like a frozen camera."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A person cut out of a picture."""

    levels: tuple[NDArray[np.uint8], ...]
    """(H, W, 4) uint8 RGB and opacity, at 1, 1/2, 1/4, ... of the picture's size."""
    face: Float32s
    """(4,) face box x1, y1, x2, y2 in the first level's pixels."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a person is at one moment; between poses they glide."""

    time_s: float
    x: float
    """Centre of the face, share of the frame's width; outside [0, 1] it is out of sight."""
    y: float
    """Centre of the face, share of the frame's height."""
    height: float
    """Height of the face box, share of the frame's height."""
    light: float = 1.0
    """Gain on the pixels: 0.5 is dim, 1.5 bright."""
    tilt_deg: float = 0.0
    """Turn in the picture plane, clockwise."""


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """One person's way through a clip: there from the first pose's time to the last's."""

    name: str | None
    """The truth, None for a stranger."""
    cutout: Cutout
    poses: tuple[Pose, ...]

    def __post_init__(self) -> None:
        times = [pose.time_s for pose in self.poses]
        if not times or times != sorted(times):
            raise ValueError(f"actor {self.name!r}: found pose times {times}, expected at least one, in order")


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A whole clip."""

    actors: tuple[Actor, ...]
    """From the farthest to the nearest: later ones hide earlier ones."""
    duration_s: float
    size_px: tuple[int, int] = (640, 480)
    """(width, height)."""
    fps: float = 15.0
    backdrop: Pixels | None = None
    """(height, width, 3) uint8; None is a plain blurred room."""
    seed: int = 0
    """Chooses the room and the sensor noise."""

    @property
    def frame_count(self) -> int:
        return max(1, round(self.duration_s * self.fps))


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """One face that is really in a frame."""

    actor: int
    """Position in `Scene.actors`."""
    name: str | None
    box: Float32s
    """(4,) x1, y1, x2, y2 in frame pixels; may reach past the frame's edge."""
    visible: float
    """Share of the box that is inside the frame and not hidden by nearer people, (0, 1]."""


def compose(scene: Scene) -> Iterator[tuple[Frame, tuple[Truth, ...]]]:
    """Yield every frame of the scene with what is truly in it."""
    for index in range(scene.frame_count):
        yield render(scene, index)


def render(scene: Scene, index: int) -> tuple[Frame, tuple[Truth, ...]]:
    """Render the frame `index` (from 0) of the scene, and tell who is in it and where."""
    time_s = index / scene.fps
    canvas = (_room(scene.size_px, scene.seed) if scene.backdrop is None else scene.backdrop).copy()
    layers: list[_Layer] = []
    for number, actor in enumerate(scene.actors):
        pose = pose_at(actor, time_s)
        if pose is not None:
            layers.append(_paste(canvas, actor, number, pose))
    truths = tuple(truth for i, layer in enumerate(layers) if (truth := _truth(layer, layers[i + 1 :], scene)))
    x, y = (index * 37) % _NOISE_PAD_PX, (index * 23) % _NOISE_PAD_PX
    noise = _noise(scene.size_px, scene.seed)[y : y + canvas.shape[0], x : x + canvas.shape[1]]
    return Frame(np.asarray(cv2.add(canvas, noise), dtype=np.uint8), index, time_s), truths


def pose_at(actor: Actor, time_s: float) -> Pose | None:
    """The actor's pose at a moment, None before the first pose and after the last."""
    poses = actor.poses
    if not poses[0].time_s <= time_s <= poses[-1].time_s:
        return None
    after = next(i for i, pose in enumerate(poses) if pose.time_s >= time_s)
    if after == 0:
        return poses[0]
    a, b = poses[after - 1], poses[after]
    share = (time_s - a.time_s) / (b.time_s - a.time_s)
    ease = share * share * (3 - 2 * share)  # people start and stop, they do not jerk

    def between(one: float, other: float) -> float:
        return one + (other - one) * ease

    return Pose(
        time_s,
        between(a.x, b.x),
        between(a.y, b.y),
        between(a.height, b.height),
        between(a.light, b.light),
        between(a.tilt_deg, b.tilt_deg),
    )


def cut_out(
    pixels: Pixels, face: Sequence[float] | Float32s, outline: Sequence[tuple[int, int]] | None = None
) -> Cutout:
    """Cut a person out of (H, W, 3) RGB pixels along `outline`, with a soft edge.

    `face` is the face box x1, y1, x2, y2 and `outline` a polygon, both in the picture's pixels; without an outline a
    head and shoulders shape around the box is used, which suits any portrait.
    """
    box = frozen_array(face, np.float32, (4,), "face box")
    opacity = np.zeros(pixels.shape[:2], np.uint8)
    if outline is None:
        _draw_bust(opacity, box)
    else:
        cv2.fillPoly(opacity, [np.array(outline, np.int32)], (255,))
    soft = cv2.GaussianBlur(opacity, (0, 0), max(1.0, float(box[3] - box[1]) / 90))
    soft = (soft * _edge_ramp(pixels.shape[1], pixels.shape[0])).astype(np.uint8)
    levels = [np.dstack([pixels, soft])]
    while len(levels) < _LEVELS and min(levels[-1].shape[:2]) >= 2:
        height, width = levels[-1].shape[:2]
        levels.append(np.asarray(cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)))
    return Cutout(tuple(levels), box)


def mirrored(cutout: Cutout) -> Cutout:
    """The same person with left and right exchanged."""
    width = cutout.levels[0].shape[1]
    x1, y1, x2, y2 = (float(value) for value in cutout.face)
    levels = tuple(np.ascontiguousarray(level[:, ::-1]) for level in cutout.levels)
    return Cutout(levels, frozen_array([width - x2, y1, width - x1, y2], np.float32, (4,), "face box"))


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    actor: int
    name: str | None
    box: Float32s
    area: tuple[int, int, int, int]
    """x1, y1, x2, y2 of the frame that the cutout may touch; empty when out of sight."""
    opacity: Float32s
    """(y2 - y1, x2 - x1), 0-1."""


def _paste(canvas: Pixels, actor: Actor, number: int, pose: Pose) -> _Layer:
    """Lay the actor over the canvas, in place."""
    height_px, width_px = canvas.shape[:2]
    cutout = actor.cutout
    scale = pose.height * height_px / float(cutout.face[3] - cutout.face[1])
    level = min(len(cutout.levels) - 1, max(0, int(math.log2(1 / scale))) if scale < 1 else 0)
    source = cutout.levels[level]
    shrunk = np.array([source.shape[1], source.shape[0]]) / np.array(cutout.levels[0].shape[1::-1])
    face = cutout.face.reshape(2, 2) * shrunk
    turn = _turn(scale / float(shrunk[1]), pose.tilt_deg)
    shift = np.array([pose.x * width_px, pose.y * height_px]) - turn @ face.mean(axis=0)
    box = _bounds(turn @ _corners(face.ravel()) + shift[:, None])
    x1, y1, x2, y2 = _bounds(turn @ _corners(np.array([0, 0, *source.shape[1::-1]])) + shift[:, None])
    left, top = max(0, math.floor(x1)), max(0, math.floor(y1))
    right, bottom = min(width_px, math.ceil(x2)), min(height_px, math.ceil(y2))
    area = (left, top, max(left, right), max(top, bottom))
    if left >= right or top >= bottom:
        return _Layer(number, actor.name, box, area, np.zeros((0, 0), np.float32))
    matrix = np.column_stack([turn, shift - (left, top)])
    patch = cv2.warpAffine(source, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    opacity = patch[..., 3].astype(np.float32) * np.float32(1 / 255)
    lit = cv2.convertScaleAbs(cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), alpha=pose.light)
    behind = canvas[top:bottom, left:right]
    behind[:] = cv2.blendLinear(lit, np.ascontiguousarray(behind), opacity, 1 - opacity)
    return _Layer(number, actor.name, box, area, opacity)


def _turn(scale: float, tilt_deg: float) -> NDArray[np.float64]:
    angle = math.radians(tilt_deg)
    return scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _corners(box: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = box
    return np.array([[x1, x2, x2, x1], [y1, y1, y2, y2]], dtype=np.float64)


def _bounds(points: NDArray[np.float64]) -> Float32s:
    return np.array([*points.min(axis=1), *points.max(axis=1)], dtype=np.float32)


def _truth(layer: _Layer, nearer: Sequence[_Layer], scene: Scene) -> Truth | None:
    """What is to be seen of a layer's face, None when nothing is."""
    width_px, height_px = scene.size_px
    x1, y1, x2, y2 = (float(value) for value in layer.box)
    left, top = max(0, int(x1)), max(0, int(y1))
    right, bottom = min(width_px, math.ceil(x2)), min(height_px, math.ceil(y2))
    if left >= right or top >= bottom:
        return None
    open_to_view = np.ones((bottom - top, right - left), np.float32)
    for other in nearer:
        other_left, other_top, other_right, other_bottom = other.area
        x_from, x_to = max(other_left, left), min(other_right, right)
        y_from, y_to = max(other_top, top), min(other_bottom, bottom)
        if x_from < x_to and y_from < y_to:
            hidden = other.opacity[y_from - other_top : y_to - other_top, x_from - other_left : x_to - other_left]
            open_to_view[y_from - top : y_to - top, x_from - left : x_to - left] *= 1 - hidden
    visible = float(open_to_view.sum()) / max(1.0, (x2 - x1) * (y2 - y1))
    if visible < 0.01:
        return None
    return Truth(layer.actor, layer.name, layer.box, min(1.0, visible))


def _draw_bust(opacity: NDArray[np.uint8], box: Float32s) -> None:
    """Fill a head and shoulders shape around a face box, in place."""
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height, x = x2 - x1, y2 - y1, (x1 + x2) / 2
    head = (round(x), round(y1 + 0.42 * height)), (round(0.78 * width), round(0.8 * height))
    shoulders = (round(x), round(y2 + 1.55 * height)), (round(1.7 * width), round(1.4 * height))
    for centre, axes in (head, shoulders):
        cv2.ellipse(opacity, centre, axes, 0, 0, 360, (255,), -1)


def _edge_ramp(width_px: int, height_px: int) -> Float32s:
    """Fades a cutout at the sides and the bottom of its picture, where the person was cut off."""
    across = np.minimum(np.arange(width_px), np.arange(width_px)[::-1]) / max(1.0, 0.03 * width_px)
    down = np.minimum(np.arange(height_px)[::-1] / max(1.0, 0.05 * height_px), 1)
    down[0] = 0
    return np.asarray(np.minimum(across, 1)[None] * down[:, None], dtype=np.float32)


@lru_cache(maxsize=8)
def _room(size_px: tuple[int, int], seed: int) -> Pixels:
    """A blurred room: a wall that darkens downwards, with soft patches of light."""
    width, height = size_px
    random = np.random.default_rng(seed)
    wall = np.linspace(176, 120, height)[:, None, None] * np.array([1.0, 0.98, 0.93])
    patches = cv2.resize(random.uniform(-30, 30, (4, 6)).astype(np.float32), size_px, interpolation=cv2.INTER_CUBIC)
    room = np.clip(np.broadcast_to(wall, (height, width, 3)) + patches[..., None], 0, 255).astype(np.uint8)
    room.setflags(write=False)
    return room


@lru_cache(maxsize=8)
def _noise(size_px: tuple[int, int], seed: int) -> Pixels:
    shape = (size_px[1] + _NOISE_PAD_PX, size_px[0] + _NOISE_PAD_PX, 3)
    noise = np.random.default_rng(seed).integers(0, _NOISE_LEVELS, shape, dtype=np.uint8)
    noise.setflags(write=False)
    return noise
