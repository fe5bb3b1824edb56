"""What one may ask of the live loop: one frozen dataclass for each command.

Hides nothing. Flows in: a person's wishes, from any thread. Flows out: values that the loop reads between two frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_app.core.types import Float32s
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot
from edge_app.recognition.face_session import Workbench


@dataclass(frozen=True, slots=True, eq=False)
class Enroll:
    """Judge looks and store the accepted ones; gives list[Verdict]."""

    name: str
    looks: tuple[tuple[str, Shot | Refusal], ...]
    options: EnrollOptions = field(default_factory=EnrollOptions)


@dataclass(frozen=True, slots=True)
class LookAt:
    """Find, measure and embed the faces of picture files; gives a tuple of (source, Shot or Refusal)."""

    paths: tuple[Path, ...]
    largest: bool = False


@dataclass(frozen=True, slots=True)
class Capture:
    """While active every Update carries the look at the prominent face, or at the thing; gives None."""

    active: bool


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete a person; gives the forgotten Identity."""

    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Give a person another name; gives None."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class SetRule:
    """Change how many strangers may be called somebody, or the margin; gives the MatchRule. Not saved."""

    fpir: float | None = None
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """Go on with another source; gives None. A text that makes no sense is a MediaError, and the old one goes on."""

    source: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pause:
    """Take frames and throw them away unseen; gives None."""

    paused: bool


@dataclass(frozen=True, slots=True)
class Run:
    """Call anything with the workbench on the worker's thread; gives what it returns."""

    action: Callable[[Workbench], Any]


@dataclass(frozen=True, slots=True)
class UseModel:
    """Read frames with a classifier or a general image embedder; "faces" goes back. Gives its ModelCard, or None.

    A model that cannot be loaded is an EdgeError, and what was in use goes on.
    """

    model_id: str
    unsure_below: float | None = None
    """Takes the place of the card's bar."""


@dataclass(frozen=True, slots=True)
class Explain:
    """While active every reading carries heatmaps, where the model has them; gives None."""

    active: bool


@dataclass(frozen=True, slots=True, eq=False)
class LookArea:
    """Judge a part of the frames only, for enrolled things; gives None. UsageError with any other model."""

    box: Float32s | tuple[float, float, float, float] | None
    """x1, y1, x2, y2 in frame pixels; None: the whole picture."""


Command = Enroll | LookAt | Capture | Forget | Rename | SetRule | Switch | Pause | Run | UseModel | Explain | LookArea
