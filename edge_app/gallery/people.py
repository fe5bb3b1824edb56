"""Whom the gallery holds, as it is read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Float32s, Template
from edge_app.gallery.records import Facts

Happening = Literal["enroll", "rename", "forget", "export", "login", "retention", "protect", "unprotect", "merge"]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Everybody enrolled with one model, as matching wants them."""

    model_id: str
    names: Sequence[str]
    """The identities that have templates of this model, in order of enrollment."""
    means: Float32s
    """(N, D) float32, each one's mean template, of unit length, read-only; (0, 0) when there is none."""
    counts: NDArray[np.int64]
    """(N,) how many templates each has."""
    generation: int
    """`Vault.generation()` at the moment of reading."""
    ignored: frozenset[str] = frozenset()
    """Those of `names` who are known strangers: nobody nearer to them is to get another's name."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One identity in a line."""

    name: str
    templates: Mapping[str, int]
    """Number of templates by model id, read-only."""
    pictures: int
    """How many of the templates have their picture kept."""
    created_s: float
    """Unix time of the first template."""
    last_seen_s: float | None
    """Unix time of the last sighting; None: never seen."""
    ignored: bool = False
    """A known stranger."""
    consents: tuple[tuple[float, str], ...] = ()
    """Unix times and words of the consents noted at enrollment."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptShot:
    """A template and its picture."""

    template: Template
    picture: bytes | None
    """Encoded as it was kept; None: none was."""


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """Everything that the gallery holds of one identity, of all models."""

    name: str
    facts: Facts
    shots: tuple[KeptShot, ...]
    """In order of enrollment, at least one."""
    ignored: bool = False
    """A known stranger: not to be told of, and not to be mistaken for somebody else."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit trail. It holds a number for the person, so that forgetting leaves no name."""

    time_s: float
    """Unix time."""
    happening: Happening
    templates: int
    """How many templates it concerned."""
    person: int | None = None
    """Number of the identity, never used again; None before version 0.2 and for what concerns everybody."""
    name: str | None = None
    """The name that the identity has now; None: it was forgotten."""
    process: str = ""
    """Which program did it, with its number."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """What other doors know a person by, and what they last knew."""

    uid: bytes
    """16 random bytes, the same at every door and never used again."""
    name: str | None
    """None: forgotten here."""
    base: bytes | None
    """What `Vault.agree` was given last; None: never, or forgotten."""
    changed: bool
    """Whether something happened here since."""
    revision: int
    """Changes with the person."""
    lost: bool
    """Whether others may not know any more what was agreed; see `Vault.disagree`."""
    shared: bool
    """Whether others ever knew the person."""
