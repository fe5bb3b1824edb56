"""What one may ask of the live loop: one frozen dataclass for each command, which runs on the loop's thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import LookFor
from edge_app.core.types import Float32s, Identity
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict
from edge_app.gallery.matching import MatchRule
from edge_app.live.examiner import Examiner
from edge_app.live.mode import Mode
from edge_app.media.pictures import read_picture
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.gallery_session import GallerySession


class Loop(Protocol):
    """The live loop, as commands see it."""

    mode: Mode
    """What looks at the frames now."""
    capturing: bool
    """Whether updates carry shots."""

    @property
    def people(self) -> PeopleSession:
        """The people it was opened for. Raises UsageError when it was opened for a model alone."""

    def look_for(self, look_for: LookFor, unsure_below: float | None) -> ModelCard | None:
        """Look at frames for something else."""

    def pause(self, paused: bool) -> None:
        """Take frames and throw them away unseen."""

    def set_rule(self, fpir: float | None, margin: float | None) -> MatchRule:
        """Change from when on somebody is named."""

    def switch(self, source: str) -> None:
        """Go on with another source."""


class Command(Protocol):
    """Something that the loop does between two frames."""

    def run(self, loop: Loop) -> Any:
        """Do it and return the result. Raises EdgeError."""


@dataclass(frozen=True, slots=True, eq=False)
class Enroll:
    """Judge looks and store the accepted ones, as what is looked for now; gives list[Verdict]."""

    name: str
    looks: tuple[tuple[str, Shot | Refusal], ...]
    options: EnrollOptions = field(default_factory=EnrollOptions)

    def run(self, loop: Loop) -> list[Verdict]:
        session = loop.mode.session if isinstance(loop.mode.session, GallerySession) else loop.people
        return session.enroll(self.name, self.looks, self.options)


@dataclass(frozen=True, slots=True)
class LookAt:
    """Find, measure and embed the faces of picture files; gives a tuple of (source, Shot or Refusal)."""

    paths: tuple[Path, ...]
    largest: bool = False

    def run(self, loop: Loop) -> tuple[tuple[str, Shot | Refusal], ...]:
        looks: list[tuple[str, Shot | Refusal]] = []
        for path in self.paths:
            try:
                pixels = read_picture(path)
            except MediaError as error:
                looks.append((path.name, Refusal("unreadable", str(error))))
            else:
                looks.append((path.name, loop.people.recognizer.shot(pixels, path.name, largest=self.largest)))
        return tuple(looks)


@dataclass(frozen=True, slots=True)
class Capture:
    """While active every Update carries the shot of the prominent face, or of the thing; gives None."""

    active: bool

    def run(self, loop: Loop) -> None:
        loop.capturing = self.active


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete a person; gives the forgotten Identity. GalleryError when nobody has the name."""

    name: str

    def run(self, loop: Loop) -> Identity:
        identity = loop.people.vault.identity(self.name)
        loop.people.vault.forget(self.name)
        return identity


@dataclass(frozen=True, slots=True)
class Rename:
    """Give a person another name; gives None."""

    old: str
    new: str

    def run(self, loop: Loop) -> None:
        loop.people.vault.rename(self.old, self.new)


@dataclass(frozen=True, slots=True)
class SetRule:
    """Change how many strangers may be called somebody, or the margin; gives the MatchRule. Not saved."""

    fpir: float | None = None
    margin: float | None = None

    def run(self, loop: Loop) -> MatchRule:
        return loop.set_rule(self.fpir, self.margin)


@dataclass(frozen=True, slots=True)
class Switch:
    """Go on with another source; gives None. A text that makes no sense is a MediaError, and the old one goes on."""

    source: str = field(repr=False)

    def run(self, loop: Loop) -> None:
        loop.switch(self.source)


@dataclass(frozen=True, slots=True)
class Pause:
    """Take frames and throw them away unseen; gives None."""

    paused: bool

    def run(self, loop: Loop) -> None:
        loop.pause(self.paused)


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the largest face with a name to make movements that a picture cannot; gives the name.

    How it goes is told with every Update. Inactive: ask no more. UsageError where no people are looked for, and
    EdgeError when nobody with a name is in view.
    """

    active: bool = True

    def run(self, loop: Loop) -> str | None:
        session = loop.mode.session
        if not isinstance(session, PeopleSession):
            raise UsageError(f"{session.look_for} answers no challenge", expected="faces")
        if not self.active:
            loop.mode.examiner = None
            return None
        named = [track for track in loop.mode.tracks if track.name is not None and track.state != "lost"]
        if not named:
            raise EdgeError("nobody with a name is in view", remedy="look at the camera until your name stands there")
        nearest = max(named, key=lambda track: float(track.box[3] - track.box[1]))
        assert nearest.name is not None
        loop.mode.examiner = Examiner.of(session, nearest.name)
        return nearest.name


@dataclass(frozen=True, slots=True)
class Run:
    """Call anything with the session of the people on the worker's thread; gives what it returns."""

    action: Callable[[PeopleSession], Any]

    def run(self, loop: Loop) -> Any:
        return self.action(loop.people)


@dataclass(frozen=True, slots=True)
class Look:
    """Look at frames for something else; gives the ModelCard of a model, or None.

    What cannot be opened is an EdgeError, and what was looked for goes on.
    """

    look_for: LookFor
    unsure_below: float | None = None
    """Takes the place of a classifier's own bar."""

    def run(self, loop: Loop) -> ModelCard | None:
        return loop.look_for(self.look_for, self.unsure_below)


@dataclass(frozen=True, slots=True)
class Explain:
    """While active findings carry heatmaps, where the model has them; gives None."""

    active: bool

    def run(self, loop: Loop) -> None:
        loop.mode.explaining = self.active


@dataclass(frozen=True, slots=True, eq=False)
class LookArea:
    """Judge a part of the frames only, for enrolled things; gives None. UsageError with anything else."""

    box: Float32s | tuple[float, float, float, float] | None
    """x1, y1, x2, y2 in frame pixels; None: the whole picture."""

    def run(self, loop: Loop) -> None:
        loop.mode.look_area(self.box)
