"""What becomes of a person who was changed here and elsewhere: one rule, the same at every door.

Changes are in the order in which they reached the server, whose clock and theirs play no part.

- Forgetting wins over everything, whoever came first.
- Of two new names the one that reached the server first stands; the other is dropped.
- A shot that either side took away is gone, and what either side added stays. A person without a shot of the fleet's
  model on one side has no say there about shots.
- Consents are never taken away.
- Two people of one name: the one at the server keeps it, the other gets a number behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_app.core.names import NAME_MAX_CHARS

FORGET_WINS: Final = "forgetting wins over a change made elsewhere"
FIRST_NAME_STANDS: Final = "of two new names the one that reached the server first stands"
NO_SHOT_LEFT: Final = "forgotten, for between them two machines took every shot away"
NAME_TAKEN: Final = "another person has that name at the server, so the one here got a number behind it"
UNITED: Final = "enrolled here and elsewhere under one name with one face: one person"
STAYS_FORGOTTEN: Final = "forgotten here, so what was changed elsewhere is forgotten too"


@dataclass(frozen=True, slots=True)
class Copy:
    """What doors share of a person."""

    name: str
    ignored: bool
    shots: frozenset[bytes]
    """Ids of the shots of the fleet's model."""
    consents: frozenset[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Merged:
    copy: Copy | None
    """What everybody is to have; None: forgotten."""
    told: tuple[str, ...] = ()
    """What was decided against one of the two, in words without a name."""


def merge(base: Copy | None, ours: Copy | None, theirs: Copy | None) -> Merged:
    """Merge a person who is `ours` here and `theirs` at the server; `base` is what both last had.

    None for `ours` or `theirs` means forgotten there, for `base` that they never agreed.
    """
    if ours is None or theirs is None:
        other = ours or theirs
        return Merged(None, (FORGET_WINS,) if other is not None and other != base else ())
    told: list[str] = []
    name = theirs.name
    if base is not None and theirs.name == base.name:
        name = ours.name
    elif ours.name not in (theirs.name, base.name if base else theirs.name):
        told.append(FIRST_NAME_STANDS)
    had = base.shots if base is not None else frozenset[bytes]()
    our_shots, their_shots = ours.shots or had, theirs.shots or had
    shots = (our_shots | their_shots) - (had - our_shots) - (had - their_shots)
    if not shots and had:
        return Merged(None, (NO_SHOT_LEFT,))
    return Merged(Copy(name, theirs.ignored, shots, ours.consents | theirs.consents), tuple(told))


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """The name with a number behind it that nobody has, "Ada (2)": the lowest where none is left out below it.

    Asks `taken` some forty times for a million people of one name.
    """

    def numbered(number: int) -> str:
        behind = f" ({number})"
        return name[: NAME_MAX_CHARS - len(behind)].rstrip() + behind

    last_taken, free = 1, 2
    while taken(numbered(free)):
        last_taken, free = free, 2 * free
    while free - last_taken > 1:
        middle = (last_taken + free) // 2
        last_taken, free = (middle, free) if taken(numbered(middle)) else (last_taken, middle)
    return numbered(free)
