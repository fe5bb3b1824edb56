"""Casts the people of a folder in clips with known truth: cuts, crossings, returns, successions, profiles, groups.

`cast_people` splits the people into two halves, one to develop on and one that is kept aside; `identity_clips` and
`visit_clips` describe the clips of one half. The same folder and seed give the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from edge_app.bench.clips import Clip, Person, Portrait, Role, Take
from edge_app.core.errors import MediaError, UsageError
from edge_app.core.types import Face, Pixels
from edge_app.media.folders import named_folders
from edge_app.media.pictures import read_picture
from edge_app.media.sample.scene import Pose

Half = Literal["develop", "kept-aside"]

ENROLL_WITH: Final = 2
_PICTURES_A_PERSON: Final = 6


@dataclass(frozen=True, slots=True)
class Cast:
    """One half of the people."""

    known: tuple[Person, ...]
    strangers: tuple[Person, ...]


def cast_people(folder: Path, half: Half, *, most_known: int = 50, seed: int = 0) -> Cast:
    """Choose who plays in one half: every second person, in an order that `seed` shuffles.

    `folder` has a sub-folder per person. The first `most_known` of those with three pictures and more are enrolled,
    the others are strangers. Raises MediaError for a folder of fewer than eight such people.
    """
    named = named_folders(folder, of="person", unused=[], problem=lambda line: None)
    people = [(name, pictures[:_PICTURES_A_PERSON]) for name, pictures in named if len(pictures) >= ENROLL_WITH]
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
        clips.append(Clip("visits", f"four strangers from {start + 1}", fps, (Take(tuple(roles), 60.0, start),)))
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
            takes = []
            for number in range(count):
                several = number % 5 == 4
                still = 0.0 if number % 2 else 1.0
                roles = []
                for place in range(2 + number % 2 if several else 1):
                    person = casting.next(known=bool(casting.random.random() < 0.6))
                    x = 0.5 if not several else 0.2 + 0.3 * place
                    poses = _sway(casting.random, x, 0.45, 0.3 if several else 0.45, every_s, still)
                    roles.append(Role(person, casting.picture(person), poses, whole=not several))
                takes.append(Take(tuple(roles), every_s, casting.seed()))
            clips.append(Clip("cuts", f"a cut every {every_s:g} s, {fps:g} fps", fps, tuple(takes)))
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
                (Take(roles, 1.7 + seconds, casting.seed()),),
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
        clips.append(Clip("returns", title, fps, (Take((role,), end_s, casting.seed()),)))
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
        clips.append(Clip("succession", title, fps, (Take(tuple(roles), 6.0 + gap_s, casting.seed()),)))
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
        clips.append(Clip("profiles", title, fps, (Take(tuple(roles), 6.0, casting.seed()),)))
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
            clips.append(Clip("groups", title, fps, (Take(tuple(roles), 6.0, casting.seed()),)))
    return clips
