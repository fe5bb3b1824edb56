"""Clips with known truth, composed from a folder with a sub-folder of pictures per person.

`cast_people` splits the people into two halves, one to develop on and one that is kept aside; `identity_clips` and
`visit_clips` describe the clips of one half, and `Clip.frames` renders them. The same folder and seed give the same
pixels. Turned heads are rendered (the picture wrapped on a cylinder), not filmed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import MediaError, UsageError
from edge_app.core.types import Face, Float32s, Frame, Pixels
from edge_app.inference.geometry import similarity_transform
from edge_app.media.pictures import read_picture
from edge_app.media.sample.scene import Actor, Cutout, Pose, Scene, cut_out, pose_at, render

Half = Literal["develop", "kept-aside"]

SIZE_PX: Final = (640, 480)
ENROLL_WITH: Final = 2
_PICTURES_A_PERSON: Final = 6
_SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp"}
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


@dataclass(frozen=True, slots=True)
class Cast:
    """One half of the people."""

    known: tuple[Person, ...]
    strangers: tuple[Person, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """What one person does in a shot."""

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
class Shot:
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
    """Shots one after the other, in hard cuts."""

    kind: str
    title: str
    fps: float
    shots: tuple[Shot, ...]

    @property
    def cuts_s(self) -> tuple[float, ...]:
        """When the picture is cut; not the start."""
        ends = np.cumsum([round(shot.duration_s * self.fps) for shot in self.shots])[:-1]
        return tuple(float(end) / self.fps for end in ends)

    @property
    def duration_s(self) -> float:
        """Length of the clip."""
        return sum(round(shot.duration_s * self.fps) for shot in self.shots) / self.fps

    def frames(self) -> Iterator[tuple[Frame, tuple[Present, ...]]]:
        """Render every frame with what is truly in it."""
        index, visits = 0, 0
        for shot in self.shots:
            seen: dict[int, tuple[int, float]] = {}
            backdrop = _backdrop(shot)
            for step in range(round(shot.duration_s * self.fps)):
                time_s = step / self.fps
                actors = tuple(_actor(role, time_s) for role in shot.roles)
                scene = Scene(actors, shot.duration_s, SIZE_PX, self.fps, backdrop, shot.seed)
                frame, truths = render(scene, step)
                present = []
                for truth in truths:
                    visit, last_s = seen.get(truth.actor, (0, -math.inf))
                    if time_s - last_s > _AWAY_S:
                        visits += 1
                        visit = visits
                    if truth.visible >= _THERE or truth.actor not in seen:
                        seen[truth.actor] = (visit, time_s)
                    person = shot.roles[truth.actor].person
                    x1, y1, x2, y2 = (float(value) for value in truth.box)
                    present.append(
                        Present(
                            person.key, visit, person.key if person.known else None, (x1, y1, x2, y2), truth.visible
                        )
                    )
                yield Frame(frame.pixels, index, index / self.fps), tuple(present)
                index += 1


def cast_people(folder: Path, half: Half, *, most_known: int = 50, seed: int = 0) -> Cast:
    """Choose who plays in one half: every second person, in an order that `seed` shuffles.

    `folder` has a sub-folder per person. The first `most_known` of those with three pictures and more are enrolled,
    the others are strangers. Raises MediaError for a folder of fewer than eight such people.
    """
    people = []
    try:
        entries = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise MediaError(f"{folder} cannot be read", expected="a folder with a sub-folder per person") from error
    for entry in entries:
        pictures = sorted(path for path in entry.iterdir() if path.suffix.lower() in _SUFFIXES)
        if len(pictures) >= ENROLL_WITH:
            people.append((entry.name, pictures[:_PICTURES_A_PERSON]))
    order = np.random.default_rng(seed).permutation(len(people))
    mine = [people[i] for i in order[0 if half == "develop" else 1 :: 2]]
    able = [one for one in mine if len(one[1]) > ENROLL_WITH]
    known = able[: min(most_known, len(able) // 2)]
    if len(known) < 2:
        raise MediaError(
            f"{folder} holds {len(people)} people with two pictures and more",
            expected="at least eight with three pictures and more, a sub-folder each",
        )
    names = {name for name, _ in known}
    return Cast(
        tuple(Person(n, True, tuple(p[:ENROLL_WITH]), tuple(p[ENROLL_WITH:])) for n, p in known),
        tuple(Person(n, False, (), tuple(p)) for n, p in mine if n not in names),
    )


class Portraits:
    """Reads the pictures of people; one without exactly one face of at least 40 px is left out."""

    def __init__(self, detect: Callable[[Pixels], Sequence[Face]]) -> None:
        self._detect = detect
        self._kept: dict[Path, Portrait | None] = {}

    def of(self, person: Person) -> tuple[Portrait, ...]:
        """The portraits that the clips show of a person; may be empty."""
        found = [self._read(path) for path in person.show]
        return tuple(one for one in found if one is not None)

    def playing(self, people: Sequence[Person]) -> tuple[Person, ...]:
        """Those of whom there is a portrait to show."""
        return tuple(person for person in people if self.of(person))

    def _read(self, path: Path) -> Portrait | None:
        if path not in self._kept:
            pixels = read_picture(path)
            faces = self._detect(pixels)
            fits = len(faces) == 1 and faces[0].size_px >= 40
            self._kept[path] = Portrait(pixels, faces[0]) if fits else None
        return self._kept[path]


class _Casting:
    """Hands out people in a shuffled order, and their portraits in turn."""

    def __init__(self, cast: Cast, portraits: Portraits, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.portraits = portraits
        self._known = list(portraits.playing(cast.known))
        self._strangers = list(portraits.playing(cast.strangers))
        if len(self._known) < 2 or len(self._strangers) < 2:
            raise UsageError("too few people with a picture of one face", expected="two to enroll and two strangers")
        for people in (self._known, self._strangers):
            self.random.shuffle(people)
        self._turn: dict[str, int] = {}

    def next(self, known: bool) -> Person:
        people = self._known if known else self._strangers
        people.append(people.pop(0))
        return people[-1]

    def picture(self, person: Person) -> tuple[Portrait, ...]:
        found = self.portraits.of(person)
        self._turn[person.key] = turn = self._turn.get(person.key, -1) + 1
        return (found[turn % len(found)],)

    def seed(self) -> int:
        return int(self.random.integers(1 << 30))


def identity_clips(cast: Cast, portraits: Portraits, *, rounds: int = 1, seed: int = 0) -> list[Clip]:
    """The clips that identity over time is measured on; `rounds` times as many, with other people."""
    casting = _Casting(cast, portraits, seed)
    clips: list[Clip] = []
    for _ in range(rounds):
        clips += _cuts(casting)
        clips += _crossings(casting)
        clips += _returns(casting)
        clips += _successions(casting)
        clips += _profiles(casting)
        clips += _groups(casting)
    return clips


def visit_clips(cast: Cast, portraits: Portraits, *, most: int = 200, fps: float = 10.0, seed: int = 0) -> list[Clip]:
    """Strangers who stay for a minute, four at a time, each in a quarter of the picture and showing all pictures."""
    strangers = portraits.playing(cast.strangers)[:most]
    random = np.random.default_rng(seed)
    clips = []
    for start in range(0, len(strangers), 4):
        roles = []
        for place, person in enumerate(strangers[start : start + 4]):
            x, y = 0.25 + 0.5 * (place % 2), 0.24 + 0.5 * (place // 2)
            poses = tuple(
                Pose(
                    3.0 * i,
                    x + float(random.uniform(-0.05, 0.05)),
                    y + float(random.uniform(-0.02, 0.02)),
                    float(random.uniform(0.15, 0.24)),
                    float(random.uniform(0.7, 1.2)),
                    float(random.uniform(-6, 6)),
                )
                for i in range(21)
            )
            yaw = tuple((2.0 * i, float(random.uniform(-25, 25))) for i in range(31))
            roles.append(Role(person, portraits.of(person), poses, yaw, change_every_s=5.0))
        clips.append(Clip("visits", f"four strangers from {start + 1}", fps, (Shot(tuple(roles), 60.0, start),)))
    return clips


# The kinds of clips


def _sway(
    random: np.random.Generator, x: float, y: float, height: float, seconds: float, amount: float = 1.0
) -> tuple[Pose, ...]:
    """Somebody who sits there and moves a little."""
    count = max(2, round(seconds) + 1)
    return tuple(
        Pose(
            seconds * i / (count - 1),
            x + amount * float(random.uniform(-0.015, 0.015)),
            y + amount * float(random.uniform(-0.01, 0.01)),
            height * (1 + amount * float(random.uniform(-0.04, 0.04))),
            tilt_deg=amount * float(random.uniform(-4, 4)),
        )
        for i in range(count)
    )


def _cuts(casting: _Casting) -> list[Clip]:
    """Hard cuts: mostly one person in a whole picture at the same place, now and then two or three in a room."""
    clips = []
    for every_s, count in ((0.5, 18), (1.0, 14), (2.0, 10), (4.0, 6)):
        for fps in (10.0, 30.0):
            shots = []
            for number in range(count):
                several = number % 5 == 4
                still = 0.0 if number % 2 else 1.0
                roles = []
                for place in range(2 + number % 2 if several else 1):
                    person = casting.next(known=bool(casting.random.random() < 0.6))
                    x = 0.5 if not several else 0.2 + 0.3 * place
                    poses = _sway(casting.random, x, 0.45, 0.3 if several else 0.45, every_s, still)
                    roles.append(Role(person, casting.picture(person), poses, whole=not several))
                shots.append(Shot(tuple(roles), every_s, casting.seed()))
            clips.append(Clip("cuts", f"a cut every {every_s:g} s, {fps:g} fps", fps, tuple(shots)))
    return clips


def _crossings(casting: _Casting) -> list[Clip]:
    clips = []
    for number, seconds in enumerate((1.0, 2.0, 4.0) * 4):
        fps = 10.0 if number % 2 else 30.0
        known = ((True, True), (True, False), (False, True), (False, False))[number // 3]
        people = [casting.next(one) for one in known]
        ways = ((0.18, 0.82), (0.82, 0.18))
        roles = tuple(
            Role(
                person,
                casting.picture(person),
                tuple(
                    Pose(time_s, x, 0.42 + 0.03 * place, 0.26 + 0.04 * place)
                    for time_s, x in ((0, a), (0.7, a), (0.7 + seconds, b), (1.7 + seconds, b))
                ),
            )
            for place, (person, (a, b)) in enumerate(zip(people, ways, strict=True))
        )
        clips.append(
            Clip(
                "crossing",
                f"two cross in {seconds:g} s, {fps:g} fps",
                fps,
                (Shot(roles, 1.7 + seconds, casting.seed()),),
            )
        )
    return clips


def _returns(casting: _Casting) -> list[Clip]:
    """Somebody walks out of the picture and comes back, at times on the other side; or vanishes behind something."""
    clips = []
    for number, away_s in enumerate((0.4, 0.8, 1.2, 2.5, 5.0) * 2):
        fps = 30.0 if number % 2 else 10.0
        person = casting.next(known=number % 3 != 2)
        out, back = (1.25, 1.25) if number < 5 else (1.25, -0.25)
        end_s = 4.2 + away_s
        poses = (
            Pose(0, 0.4, 0.45, 0.3),
            Pose(1.2, 0.5, 0.45, 0.3),
            Pose(2.2, out, 0.45, 0.3),
            Pose(2.2 + away_s, back, 0.45, 0.28),
            Pose(3.2 + away_s, 0.5, 0.45, 0.28),
            Pose(end_s, 0.45, 0.45, 0.28),
        )
        role = Role(person, casting.picture(person), poses)
        title = f"away for {away_s:g} s, {fps:g} fps"
        clips.append(Clip("returns", title, fps, (Shot((role,), end_s, casting.seed()),)))
    return clips


def _successions(casting: _Casting) -> list[Clip]:
    """One person, then another at the same place, in a room that stays as it is: no cut tells."""
    clips = []
    for number, gap_s in enumerate((0.0, 0.2, 0.6, 2.0) * 3):
        fps = 10.0 if number % 2 else 30.0
        known = ((True, False), (True, True), (False, True))[number // 4]
        roles = []
        for place, is_known in enumerate(known):
            person = casting.next(is_known)
            poses = _sway(casting.random, 0.5, 0.45, 0.32, 3.0, 0.5)
            # The next frame's time is just past the last pose's: at no time are both there.
            start_s = place * (3.0 + gap_s)
            shifted = tuple(replace(pose, time_s=pose.time_s + start_s) for pose in poses)
            if place == 0:
                shifted = (*shifted[:-1], replace(shifted[-1], time_s=3.0 - 0.5 / fps))
            roles.append(Role(person, casting.picture(person), shifted))
        title = f"another at the same place after {gap_s:g} s, {fps:g} fps"
        clips.append(Clip("succession", title, fps, (Shot(tuple(roles), 6.0 + gap_s, casting.seed()),)))
    return clips


def _profiles(casting: _Casting) -> list[Clip]:
    """Heads that turn to one side and back, alone or beside somebody."""
    clips = []
    for number, most_deg in enumerate((30.0, 45.0, -60.0, 65.0, -45.0, -65.0)):
        fps = 30.0 if number % 2 else 10.0
        roles = []
        for place in range(1 + number % 2):
            person = casting.next(known=(number + place) % 3 != 2)
            sign = -1.0 if place else 1.0
            turns = ((0.0, 0.0), (1.5, 0.0), (2.5, sign * most_deg), (3.5, sign * most_deg), (4.3, 0.0), (6.0, 0.0))
            x = 0.5 if number % 2 == 0 else 0.3 + 0.4 * place
            poses = _sway(casting.random, x, 0.45, 0.32, 6.0, 0.5)
            roles.append(Role(person, casting.picture(person), poses, turns))
        title = f"heads turned by {abs(most_deg):g} degrees, {fps:g} fps"
        clips.append(Clip("profiles", title, fps, (Shot(tuple(roles), 6.0, casting.seed()),)))
    return clips


def _groups(casting: _Casting) -> list[Clip]:
    """One to six people who walk about, each around a place of their own."""
    clips = []
    for count in range(1, 7):
        for fps in (10.0, 30.0):
            columns = 1 if count == 1 else 2 if count <= 4 else 3
            rows = math.ceil(count / columns)
            roles = []
            for place in range(count):
                person = casting.next(known=bool(casting.random.random() < 0.6))
                x, y = (place % columns + 0.5) / columns, 0.12 + (place // columns + 0.4) / rows * 0.8
                height = 0.3 if rows == 1 else 0.19
                poses = tuple(
                    Pose(
                        1.2 * step,
                        x + float(casting.random.uniform(-0.12, 0.12)),
                        y + float(casting.random.uniform(-0.03, 0.03)),
                        height * float(casting.random.uniform(0.85, 1.15)),
                        float(casting.random.uniform(0.75, 1.15)),
                        float(casting.random.uniform(-8, 8)),
                    )
                    for step in range(6)
                )
                roles.append(Role(person, casting.picture(person), poses))
            title = f"{count} {'people' if count > 1 else 'person'}, {fps:g} fps"
            clips.append(Clip("groups", title, fps, (Shot(tuple(roles), 6.0, casting.seed()),)))
    return clips


# Rendering


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
    return _with_levels(np.asarray(warped, np.uint8), cutout.face)


def _with_levels(level: NDArray[np.uint8], face: Float32s) -> Cutout:
    height, width = level.shape[:2]
    half = np.asarray(cv2.resize(level, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return Cutout((np.asarray(level, np.uint8), half.astype(np.uint8)), face)


def _backdrop(shot: Shot) -> Pixels | None:
    """Behind a whole picture its own enlarged and blurred copy; else the scene's room."""
    whole = next((role for role in shot.roles if role.whole), None)
    if whole is None:
        return None
    pixels = whole.portraits[0].pixels
    small = cv2.resize(pixels, (16, 12), interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, SIZE_PX, interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.uint8)
