"""Clips of people with a known truth: what is played, and `Clip.frames`, which renders it.

Turned heads are rendered (the picture wrapped on a cylinder), not filmed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Face, Float32s, Frame, Pixels
from edge_app.inference.geometry import similarity_transform
from edge_app.media.sample.scene import Actor, Cutout, Pose, Scene, cut_out, pose_at, render

SIZE_PX: Final = (640, 480)
_CROSSFADE_S: Final = 0.6
_AWAY_S: Final = 1.5
"""Somebody out of sight for longer has left: what comes after is another visit."""
_THERE: Final = 0.5
"""Share of a face that is to be seen while it is in sight."""


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A picture in which one face was found."""

    pixels: Pixels
    face: Face


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody of the cast."""

    key: str
    """Name of the sub-folder."""
    known: bool
    """Enrolled, from the first pictures; the clips show the others."""
    enroll: tuple[Path, ...]
    show: tuple[Path, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """What one person does in a take."""

    person: Person
    portraits: tuple[Portrait, ...]
    """Shown in turn, cross-fading, `change_every_s` each."""
    poses: tuple[Pose, ...]
    yaw: tuple[tuple[float, float], ...] = ()
    """(time_s, degrees) of the head's turn; straight lines between; none: it looks ahead."""
    whole: bool = False
    """Show the whole picture, as a photograph or a broadcast does, not the person cut out of it."""
    change_every_s: float = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """A piece between two cuts."""

    roles: tuple[Role, ...]
    """The farthest first."""
    duration_s: float
    seed: int
    """Chooses the room."""


@dataclass(frozen=True, slots=True)
class Present:
    """One face that is really in a frame."""

    person: str
    visit: int
    """Number of the visit, from 1 in each clip: a cut or an absence of more than 1.5 s ends it."""
    name: str | None
    """None for a stranger."""
    box: tuple[float, float, float, float]
    visible: float
    """Share of the box that is to be seen, (0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Takes one after the other, in hard cuts."""

    kind: str
    title: str
    fps: float
    takes: tuple[Take, ...]

    @property
    def cuts_s(self) -> tuple[float, ...]:
        """When the picture is cut; not the start."""
        ends = np.cumsum([round(take.duration_s * self.fps) for take in self.takes])[:-1]
        return tuple(float(end) / self.fps for end in ends)

    @property
    def duration_s(self) -> float:
        """Length of the clip."""
        return sum(round(take.duration_s * self.fps) for take in self.takes) / self.fps

    def frames(self) -> Iterator[tuple[Frame, tuple[Present, ...]]]:
        """Render every frame with what is truly in it."""
        index, visits = 0, 0
        for take in self.takes:
            seen: dict[int, tuple[int, float]] = {}
            backdrop = _backdrop(take)
            for step in range(round(take.duration_s * self.fps)):
                time_s = step / self.fps
                actors = tuple(_actor(role, time_s) for role in take.roles)
                scene = Scene(actors, take.duration_s, SIZE_PX, self.fps, backdrop, take.seed)
                frame, truths = render(scene, step)
                present = []
                for truth in truths:
                    visit, last_s = seen.get(truth.actor, (0, -math.inf))
                    if time_s - last_s > _AWAY_S:
                        visits += 1
                        visit = visits
                    if truth.visible >= _THERE or truth.actor not in seen:
                        seen[truth.actor] = (visit, time_s)
                    person = take.roles[truth.actor].person
                    x1, y1, x2, y2 = (float(value) for value in truth.box)
                    present.append(
                        Present(
                            person.key, visit, person.key if person.known else None, (x1, y1, x2, y2), truth.visible
                        )
                    )
                yield Frame(frame.pixels, index, index / self.fps), tuple(present)
                index += 1


def _actor(role: Role, time_s: float) -> Actor:
    """The role at one moment, as the scene renderer takes it."""
    name = role.person.key if role.person.known else None
    at = min(max(time_s, role.poses[0].time_s), role.poses[-1].time_s)
    if at != time_s or pose_at(Actor(name, _plain_cutout(role.portraits[0], role.whole), role.poses), time_s) is None:
        return Actor(name, _plain_cutout(role.portraits[0], role.whole), role.poses)
    step, into_s = divmod(time_s, role.change_every_s)
    here = role.portraits[int(step) % len(role.portraits)]
    cutout = _plain_cutout(here, role.whole)
    if len(role.portraits) > 1 and into_s < _CROSSFADE_S and step > 0:
        before = role.portraits[int(step - 1) % len(role.portraits)]
        cutout = _faded(_plain_cutout(before, role.whole), cutout, before, here, into_s / _CROSSFADE_S)
    if role.yaw:
        times, angles = zip(*role.yaw, strict=True)
        cutout = turned(cutout, float(np.interp(time_s, times, angles)))
    return Actor(name, cutout, role.poses)


@lru_cache(maxsize=256)
def _plain_cutout(portrait: Portrait, whole: bool) -> Cutout:
    if not whole:
        return cut_out(portrait.pixels, portrait.face.box)
    height, width = portrait.pixels.shape[:2]
    # A soft edge: the picture lies on an enlarged, blurred copy of itself.
    edge = np.zeros((height, width), np.uint8)
    margin = max(2, width // 25)
    edge[margin:-margin, margin:-margin] = 255
    soft = cv2.GaussianBlur(edge, (0, 0), margin / 2)
    levels = [np.dstack([portrait.pixels, soft])]
    while len(levels) < 4 and min(levels[-1].shape[:2]) >= 2:
        h, w = levels[-1].shape[:2]
        levels.append(np.asarray(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA)))
    return Cutout(tuple(levels), portrait.face.box)


def _faded(before: Cutout, after: Cutout, old: Portrait, new: Portrait, share: float) -> Cutout:
    """Between two pictures of one person, the first laid on the second by its landmarks."""
    turn = similarity_transform(old.face.landmarks, new.face.landmarks)
    height, width = after.levels[0].shape[:2]
    laid = cv2.warpAffine(before.levels[0], turn, (width, height), flags=cv2.INTER_LINEAR)
    mixed = cv2.addWeighted(laid, 1 - share, after.levels[0], share, 0)
    return _with_levels(np.asarray(mixed, np.uint8), after.face)


def turned(cutout: Cutout, yaw_deg: float) -> Cutout:
    """The head turned to the side, as if its picture were wrapped on an upright cylinder.

    What the picture does not show (the side of the head) is its last column, stretched. A rendering, not a film.
    """
    if abs(yaw_deg) < 0.5:
        return cutout
    source = cutout.levels[0]
    height, width = source.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in cutout.face)
    radius, middle = 0.68 * (x2 - x1), (x1 + x2) / 2
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    face_height = y2 - y1
    above, below = (
        (rows - (y1 - 0.5 * face_height)) / (0.2 * face_height),
        (y2 + 0.35 * face_height - rows) / (0.35 * face_height),
    )
    share = np.clip(np.minimum(above, below), 0, 1)
    across = np.clip((columns - middle) / radius, -1, 1)
    # Beyond 78 degrees the source shows nothing any more.
    angle = np.clip(np.arcsin(across) - share * math.radians(yaw_deg), -1.36, 1.36)
    inside = np.abs(columns - middle) < radius
    map_x = np.where(inside, middle + radius * np.sin(angle), np.broadcast_to(columns, (height, width)))
    map_y = np.broadcast_to(rows, (height, width))
    warped = cv2.remap(source, map_x.astype(np.float32), np.ascontiguousarray(map_y, np.float32), cv2.INTER_LINEAR)
    # The box turns along: of a head turned by 65 degrees YuNet's box overlaps the untouched one by a quarter, this one
    # by two thirds.
    sides = np.arcsin(np.clip((np.array([x1, x2]) - middle) / radius, -1, 1)) + math.radians(yaw_deg)
    left, right = (float(x) for x in middle + radius * np.sin(np.clip(sides, -math.pi / 2, math.pi / 2)))
    return _with_levels(np.asarray(warped, np.uint8), np.array([left, y1, right, y2], np.float32))


def _with_levels(level: NDArray[np.uint8], face: Float32s) -> Cutout:
    height, width = level.shape[:2]
    half = np.asarray(cv2.resize(level, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return Cutout((np.asarray(level, np.uint8), half.astype(np.uint8)), face)


def _backdrop(take: Take) -> Pixels | None:
    """Behind a whole picture its own enlarged and blurred copy; else the scene's room."""
    whole = next((role for role in take.roles if role.whole), None)
    if whole is None:
        return None
    pixels = whole.portraits[0].pixels
    small = cv2.resize(pixels, (16, 12), interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, SIZE_PX, interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.uint8)
