"""Guided capture: what the person before the camera should do next, and when a shot is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from edge_app.core.types import Embedding, Quality
from edge_app.gallery.enrollment import Collection, EnrollOptions, Reason, Refusal, Shot, judge_quality

View = Literal["front", "left", "right"]
VIEWS: Final[tuple[View, ...]] = ("front", "left", "right")

SIDE_YAW: Final = 0.18
"""From this turn on a face is seen from its side; a head turned by about 10 degrees."""

_ASKS: Final[dict[View, str]] = {
    "front": "Look at the camera",
    "left": "Turn your head a little to your left",
    "right": "Turn your head a little to your right",
}

_ENOUGH: Final = "That is enough: press enter to see what is kept"

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
    other_looks: int = 2
    """So many good looks in a row at somebody else are a change of person; one alone may be a bad look."""


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
    discarded: int = 0
    """How many shots were discarded because somebody else came before the camera."""


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
        collection: Collection,
        enroll: EnrollOptions,
        *,
        resembles: Callable[[Embedding], str] = lambda _: "",
        earlier: Sequence[Quality] = (),
        options: GuideOptions | None = None,
    ) -> None:
        """Shots go into `collection`, whose source must have been chosen.

        `resembles` gives a warning when an embedding is near somebody else, else nothing. `earlier` are the
        qualities of the shots already enrolled under this name: their views need not be taken again.
        """
        self._collection = collection
        self._enroll = enroll
        self._resembles = resembles
        self._earlier = tuple(earlier)
        self._options = options or GuideOptions()
        self._last_look: tuple[Shot, float] | None = None
        self._last_taken_s: float | None = None
        self._waiting_since_s: float | None = None
        self._others = 0

    @property
    def shots(self) -> tuple[Shot, ...]:
        """The shots taken, oldest first."""
        return self._collection.shots

    @property
    def missing(self) -> tuple[View, ...]:
        """The views still wanted."""
        return missing_views([*self._earlier, *(shot.quality for shot in self.shots)])

    @property
    def enough(self) -> bool:
        """Whether nothing more is wanted."""
        return (bool(self.shots) and not self.missing) or len(self.shots) >= self._options.most_shots

    def consider(self, look: Shot | Refusal | None, time_s: float) -> Advice:
        """Judge one look at `time_s`, take it if it is good, and say what comes next."""
        if self.enough:
            return Advice(_ENOUGH, well=True)
        if look is None:
            return Advice("Waiting for a picture", well=False)
        if isinstance(look, Refusal):
            self._last_look = self._waiting_since_s = None
            return Advice(_HINTS.get(look.reason, look.message), well=False)
        steady = self._is_steady(look, time_s)
        self._last_look = (look, time_s)
        refusal = judge_quality(look.quality, self._enroll.limits)
        if refusal is not None or not steady:
            self._waiting_since_s = None
            return Advice("Hold still" if refusal is None else _HINTS.get(refusal.reason, refusal.message), well=False)
        if self._collection.is_other(look):
            return self._other(look)
        self._others = 0
        warning = self._resembles(look.embedding)
        if not self._is_wanted(look, time_s):
            return Advice(self._ask(), well=True, warning=warning)
        self._collection.add(look.source, look)
        self._last_taken_s, self._waiting_since_s = time_s, None
        return Advice(_ENOUGH if self.enough else f"Taken. {self._ask()}", well=True, taken=look, warning=warning)

    def _other(self, look: Shot) -> Advice:
        """Somebody else is before the camera: the shots so far are discarded, for nobody knows who was meant."""
        self._waiting_since_s = None
        name, shots = self._collection.name, self.shots
        if not shots:
            return Advice(f"This does not look like {name}: one person at a time, please", well=False)
        self._others += 1
        if self._others < self._options.other_looks:
            return Advice("This looks like somebody else: one person at a time, please", well=False)
        discarded = self._collection.add(look.source, look).discarded
        what = "the shot" if discarded == 1 else f"the {discarded} shots"
        return Advice(
            f"Somebody else came: {what} of {name} {'was' if discarded == 1 else 'were'} discarded",
            well=False,
            discarded=discarded,
        )

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
        alike = sum(view_of(shot.quality) == view for shot in self.shots)
        return time_s - self._waiting_since_s >= self._options.patience_s and alike < self._options.same_view

    def _ask(self) -> str:
        missing = self.missing
        return _ASKS[missing[0]] if missing else "Hold still"
