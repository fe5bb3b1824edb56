"""What stands before the camera in a challenge: living heads, prints, phones, recordings. Each answers prompts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import cv2
import numpy as np

from edge_app.core.types import Pixels
from edge_app.live.challenge import Movement, Progress
from tests.liveness.heads import Head, Pose, Sheet, sheet_seen

LIMBER = {Movement.LEFT: Pose(yaw_deg=1), Movement.RIGHT: Pose(yaw_deg=-1), Movement.UP: Pose(pitch_deg=-1),
          Movement.DOWN: Pose(pitch_deg=1), Movement.CLOSER: Pose()}  # fmt: skip
"""The direction of each movement; left is the person's own, which is right in the picture."""


class Actor(Protocol):
    """Something before the camera."""

    def frame(self, time_s: float, progress: Progress) -> Pixels:
        """What the camera sees at a time, after the prompt that stands in `progress`."""


def pose_towards(movement: Movement | None, yaw: float, pitch: float, closer: float, share: float) -> Pose:
    """A pose on the way to a movement's end, `share` of it."""
    if movement is None:
        return Pose()
    way = LIMBER[movement]
    scale = 1 + (closer - 1) * share if movement is Movement.CLOSER else 1.0
    return Pose(way.yaw_deg * yaw * share, way.pitch_deg * pitch * share, scale=scale)


@dataclass
class Body:
    """How somebody answers: when, how far and how fast. Movements have a smooth beginning and end."""

    draw: random.Random
    at_once: bool = False
    """A recording knows no reaction: it moves when it moves."""
    yaw_deg: float = field(init=False)
    pitch_deg: float = field(init=False)
    closer: float = field(init=False)
    _asked: Movement | None = field(default=None, init=False)
    _from: Pose = field(default_factory=Pose, init=False)
    _to: Pose = field(default_factory=Pose, init=False)
    _begins_s: float = field(default=0.0, init=False)
    _takes_s: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        self.yaw_deg = self.draw.uniform(20, 32)
        self.pitch_deg = self.draw.uniform(15, 24)
        self.closer = self.draw.uniform(1.3, 1.6)
        self._sway = [self.draw.uniform(0, 2 * math.pi) for _ in range(4)]

    def pose(self, time_s: float, asked: Movement | None) -> Pose:
        """The head's pose now."""
        if asked is not self._asked:
            self._from, self._asked = self._at(time_s), asked
            self._to = pose_towards(asked, self.yaw_deg, self.pitch_deg, self.closer, 1.0)
            self._begins_s = time_s + (0.0 if self.at_once else self.draw.uniform(0.3, 0.8))
            self._takes_s = self.draw.uniform(0.35, 0.8)
        pose, sway = self._at(time_s), self._sway
        return replace(
            pose,
            yaw_deg=pose.yaw_deg + 1.2 * math.sin(1.7 * time_s + sway[0]),
            pitch_deg=pose.pitch_deg + 1.0 * math.sin(1.3 * time_s + sway[1]),
            x=0.02 * math.sin(1.1 * time_s + sway[2]),
            y=0.015 * math.sin(0.9 * time_s + sway[3]),
        )

    def _at(self, time_s: float) -> Pose:
        share = min(1.0, max(0.0, (time_s - self._begins_s) / self._takes_s))
        share = share * share * (3 - 2 * share)
        a, b = self._from, self._to
        return Pose(
            a.yaw_deg + (b.yaw_deg - a.yaw_deg) * share,
            a.pitch_deg + (b.pitch_deg - a.pitch_deg) * share,
            scale=a.scale + (b.scale - a.scale) * share,
        )


@dataclass
class Camera:
    """What a webcam does to the picture: light, noise."""

    draw: np.random.Generator
    light: float = 1.0
    noise: float = 3.0
    _field: np.ndarray | None = field(default=None, init=False)
    """Noise for more than one picture, of which each takes another part: drawing it anew takes longer than a head."""

    def take(self, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        if self._field is None:
            shape = (height + 64, width + 64, 3)
            self._field = self.noise * self.draw.standard_normal(shape, dtype=np.float32)
        y, x = self.draw.integers(0, 64, 2)
        lit = cv2.addWeighted(pixels, self.light, pixels, 0.0, 0.0, dtype=cv2.CV_32F)
        return np.clip(lit + self._field[y : y + height, x : x + width], 0, 255).astype(np.uint8)


@dataclass
class Living:
    """A head that does what it is asked to."""

    head: Head
    body: Body
    camera: Camera

    def frame(self, time_s: float, progress: Progress) -> Pixels:
        return self.camera.take(self.head.seen(self.body.pose(time_s, progress.asked)))


@dataclass
class Print:
    """A print, or a phone, that a hand moves as it is asked to, as far as the name can still be read from it."""

    sheet: Sheet
    behind: Pixels
    body: Body
    camera: Camera
    farther: float = 1.4
    """How much farther than a head a print is turned."""

    def frame(self, time_s: float, progress: Progress) -> Pixels:
        pose = self.body.pose(time_s, progress.asked)
        tremor = 0.02 * math.sin(9 * time_s), 0.02 * math.sin(7.3 * time_s + 1)
        moved = replace(
            pose,
            yaw_deg=pose.yaw_deg * self.farther,
            pitch_deg=pose.pitch_deg * self.farther,
            x=pose.x + tremor[0] + pose.yaw_deg / 150,
            y=pose.y + tremor[1] + pose.pitch_deg / 150,
        )
        return self.camera.take(sheet_seen(self.sheet, moved, self.behind))


@dataclass
class Recording:
    """A video of the person who made movements of its own choice, on a perfect screen."""

    head: Head
    body: Body
    camera: Camera
    order: Callable[[float, Progress], Movement | None]
    """What the person in the recording does at a time, given what is asked."""

    def frame(self, time_s: float, progress: Progress) -> Pixels:
        return self.camera.take(self.head.seen(self.body.pose(time_s, self.order(time_s, progress))))


def other_order(draw: random.Random) -> Callable[[float, Progress], Movement | None]:
    """A recording that loops through all movements in an order of its own, a second and a half each."""
    movements = list(Movement)
    draw.shuffle(movements)
    start_s = draw.uniform(0, 10)

    def at(time_s: float, progress: Progress) -> Movement | None:
        turn, rest = divmod(time_s + start_s, 2.6)
        return movements[int(turn) % len(movements)] if rest < 1.3 else None

    return at


def wrong_answers(draw: random.Random) -> Callable[[float, Progress], Movement | None]:
    """A recording that moves when it is asked to, but in another way each time."""
    chosen: dict[int, Movement] = {}

    def at(time_s: float, progress: Progress) -> Movement | None:
        if progress.asked is None:
            return None
        number = len(progress.steps)
        if number not in chosen:
            chosen[number] = draw.choice([one for one in Movement if one is not progress.asked])
        return chosen[number]

    return at


def early(movements: Sequence[Movement], lead_s: float) -> Callable[[float, Progress], Movement | None]:
    """A recording in the right order that is a little ahead: it moves while the prompt is still awaited."""
    begun: dict[int, float] = {}

    def at(time_s: float, progress: Progress) -> Movement | None:
        number = len([one for one in progress.steps if one.answered_s is not None])
        if progress.began_s is None or number >= len(movements):
            return None
        if "hold still" in progress.prompt or progress.asked is not None:
            settled_s = 0.4 if number == 0 else 0.0
            begun.setdefault(number, time_s + settled_s + lead_s)
            return movements[number] if time_s >= begun[number] else None
        return None

    return at


def right_order(movements: Sequence[Movement], draw: random.Random) -> Callable[[float, Progress], Movement | None]:
    """A recording in the right order, by luck, that moves at times of its own: it does not know when it is asked."""
    every_s, start_s = draw.uniform(1.8, 3.0), draw.uniform(1.0, 3.0)

    def at(time_s: float, progress: Progress) -> Movement | None:
        number, rest = divmod(time_s - start_s, every_s)
        return movements[int(number)] if 0 <= number < len(movements) and rest < 1.2 else None

    return at


def late(delay_s: float) -> Callable[[float, Progress], Movement | None]:
    """A recording in the right order, each movement some seconds after it was asked for."""
    asked: dict[int, tuple[float, Movement]] = {}

    def at(time_s: float, progress: Progress) -> Movement | None:
        if progress.asked is not None:
            asked.setdefault(len(progress.steps), (time_s, progress.asked))
        for began, movement in asked.values():
            if delay_s <= time_s - began < delay_s + 1.3:
                return movement
        return None

    return at


@dataclass
class Cut:
    """One thing before the camera until a moment, another after it."""

    first: Actor
    then: Actor
    when: Callable[[Progress], bool]
    _over: bool = field(default=False, init=False)

    def frame(self, time_s: float, progress: Progress) -> Pixels:
        self._over = self._over or self.when(progress)
        return (self.then if self._over else self.first).frame(time_s, progress)


@dataclass
class Together:
    """A print held beside a living head: both halves of one picture."""

    left: Actor
    right: Actor

    def frame(self, time_s: float, progress: Progress) -> Pixels:
        pictures = [one.frame(time_s, progress) for one in (self.left, self.right)]
        width = pictures[0].shape[1]
        halves = [picture[:, width // 4 : width - width // 4] for picture in pictures]
        return np.ascontiguousarray(np.hstack(halves))


@dataclass
class Behind:
    """A print with holes for eyes and nose, and a living head behind them."""

    sheet: Sheet
    head: Head
    body: Body
    camera: Camera

    def frame(self, time_s: float, progress: Progress) -> Pixels:
        pose = self.body.pose(time_s, progress.asked)
        return self.camera.take(sheet_seen(self.sheet, pose, self.head.seen(pose)))


def with_holes(sheet: Sheet, landmarks: np.ndarray) -> Sheet:
    """The sheet with both eyes and the nose cut out."""
    holes = np.zeros(sheet.picture.shape[:2], np.uint8)
    reach = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    for x, y in landmarks[:2]:
        cv2.ellipse(holes, (int(x), int(y)), (int(0.3 * reach), int(0.18 * reach)), 0, 0, 360, 1, -1)
    x, y = landmarks[2]
    cv2.ellipse(holes, (int(x), int(y)), (int(0.2 * reach), int(0.28 * reach)), 0, 0, 360, 1, -1)
    return replace(sheet, holes=holes > 0)
