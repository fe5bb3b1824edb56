"""Guided capture: what the person before the camera should do next, and when a shot is taken.

Knows no screen, thread or file: looks (`Shot` or `Refusal`) with their time in, `Advice` and the shots taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from edge_app.core.types import Embedding, Quality
from edge_app.gallery.enrollment import EnrollOptions, Reason, Refusal, Shot, judge_quality

View = Literal["front", "left", "right"]
VIEWS: Final[tuple[View, ...]] = ("front", "left", "right")

SIDE_YAW: Final = 0.18
"""From this turn on a face is seen from its side; a head turned by about 10 degrees."""

_ASKS: Final[dict[View, str]] = {
    "front": "Look at the camera",
    "left": "Turn your head a little to your left",
    "right": "Turn your head a little to your right",
}

_HINTS: Final[dict[Reason, str]] = {
    "no-face": "Step into the picture",
    "several-faces": "Two people in view: one at a time, please",
    "too-small": "Come closer",
    "too-dark": "More light, please",
    "too-bright": "Less light, please",
    "blown-out": "Softer light, please: part of the face is black or blown out",
    "turned-away": "Look more towards the camera",
    "tilted": "Hold your head straight",
    "blurred": "Hold still",
}


@dataclass(frozen=True, slots=True)
class GuideOptions:
    """When a shot is taken."""

    most_shots: int = 5
    """No more than this are taken by themselves."""
    steady_speed: float = 0.8
    """A face that moves faster than this, in face widths a second, is told to hold still."""
    between_s: float = 0.7
    """Least time between two shots."""
    patience_s: float = 3.0
    """After asking this long for an angle in vain, another steady look is taken: some people cannot turn."""
    same_view: int = 2
    """Looks of one view that are taken without a new angle."""


@dataclass(frozen=True, slots=True, eq=False)
class Advice:
    """What to tell the person now."""

    text: str
    """What to do next, in a few words."""
    well: bool
    """Whether this look was good enough to be taken."""
    taken: Shot | None = None
    """The shot that was just taken."""
    warning: str = ""
    """That the face looks like somebody already enrolled; empty when it does not."""


def view_of(quality: Quality) -> View:
    """Which side is seen: "left" when the person turned to their own left, whose nose then moves right."""
    if abs(quality.yaw) < SIDE_YAW:
        return "front"
    return "left" if quality.yaw > 0 else "right"


def missing_views(qualities: Sequence[Quality]) -> tuple[View, ...]:
    """The views that none of the shots shows."""
    seen = {view_of(quality) for quality in qualities}
    return tuple(view for view in VIEWS if view not in seen)


class Guide:
    """Takes shots of one person by itself, and says what it needs next."""

    def __init__(
        self,
        enroll: EnrollOptions,
        *,
        resembles: Callable[[Embedding], str] = lambda _: "",
        earlier: Sequence[Quality] = (),
        options: GuideOptions | None = None,
    ) -> None:
        """Start with no shots.

        `resembles` gives a warning when an embedding is near somebody else, else nothing. `earlier` are the
        qualities of the shots already enrolled under this name: their views need not be taken again.
        `enroll.same_person_floor` is the least similarity between two shots of one person.
        """
        self._enroll = enroll
        self._resembles = resembles
        self._earlier = tuple(earlier)
        self._options = options or GuideOptions()
        self._shots: list[Shot] = []
        self._last_look: tuple[Shot, float] | None = None
        self._last_taken_s: float | None = None
        self._waiting_since_s: float | None = None

    @property
    def shots(self) -> tuple[Shot, ...]:
        """The shots taken, oldest first."""
        return tuple(self._shots)

    @property
    def missing(self) -> tuple[View, ...]:
        """The views still wanted."""
        return missing_views([*self._earlier, *(shot.quality for shot in self._shots)])

    @property
    def enough(self) -> bool:
        """Whether nothing more is wanted."""
        return (bool(self._shots) and not self.missing) or len(self._shots) >= self._options.most_shots

    def drop(self, index: int) -> None:
        """Take one shot back. Raises IndexError when there is none at that place."""
        del self._shots[index]

    def add(self, shot: Shot) -> None:
        """Take a shot that came from a file, as it is."""
        self._shots.append(shot)

    def consider(self, look: Shot | Refusal | None, time_s: float) -> Advice:
        """Judge one look at `time_s`, take it if it is good, and say what comes next."""
        if self.enough:
            return Advice("That is enough: press Enter to save", well=True)
        if look is None:
            return Advice("Waiting for a picture", well=False)
        problem = self._problem(look, time_s)
        self._last_look = (look, time_s) if isinstance(look, Shot) else None
        if problem or isinstance(look, Refusal):
            self._waiting_since_s = None
            return Advice(problem, well=False)
        warning = self._resembles(look.embedding)
        if not self._is_wanted(look, time_s):
            return Advice(self._ask(), well=True, warning=warning)
        self._shots.append(look)
        self._last_taken_s, self._waiting_since_s = time_s, None
        after = "That is enough: press Enter to save" if self.enough else f"Taken. {self._ask()}"
        return Advice(after, well=True, taken=look, warning=warning)

    def _problem(self, look: Shot | Refusal, time_s: float) -> str:
        """What is wrong with a look, in a few words; empty when it is well."""
        if isinstance(look, Refusal):
            return _HINTS.get(look.reason, look.message)
        refusal = judge_quality(look.quality, self._enroll.limits)
        if refusal is not None:
            return _HINTS.get(refusal.reason, refusal.message)
        if (
            self._shots
            and max(look.embedding.similarity(shot.embedding) for shot in self._shots) < self._enroll.same_person_floor
        ):
            return "This looks like somebody else: one person at a time, please"
        return "" if self._is_steady(look, time_s) else "Hold still"

    def _is_steady(self, look: Shot, time_s: float) -> bool:
        """Whether the face is where it was a moment ago; the first look is never steady."""
        if self._last_look is None:
            return False
        before, before_s = self._last_look
        passed_s = time_s - before_s
        if look.face is None or before.face is None or not 0.0 < passed_s < 1.0:
            return False
        way = float(np.linalg.norm(look.face.landmarks.mean(axis=0) - before.face.landmarks.mean(axis=0)))
        return way / look.face.size_px / passed_s < self._options.steady_speed

    def _is_wanted(self, look: Shot, time_s: float) -> bool:
        """Whether a good look shows something new, or the person was asked long enough."""
        if self._last_taken_s is not None and time_s - self._last_taken_s < self._options.between_s:
            return False
        view = view_of(look.quality)
        if view in self.missing:
            return True
        if self._waiting_since_s is None:
            self._waiting_since_s = time_s
        alike = sum(view_of(shot.quality) == view for shot in self._shots)
        return time_s - self._waiting_since_s >= self._options.patience_s and alike < self._options.same_view

    def _ask(self) -> str:
        missing = self.missing
        return _ASKS[missing[0]] if missing else "Hold still"
