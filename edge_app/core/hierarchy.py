"""Classes in families, such as ants and bees among the insects: where no class is sure, a family may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from edge_app.core.counts import counted
from edge_app.core.documents import check_fields
from edge_app.core.errors import ModelError
from edge_app.core.suggest import did_you_mean
from edge_app.core.titles import check_title

MOST_DEPTH: Final = 8
"""Families one inside the other."""
_MOST_FAMILIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Family:
    """What some labels, and some smaller families, have in common."""

    name: str
    members: tuple[str, ...]
    """Labels and names of other families, two or more."""
    sure_from: float = 0.95
    """Summed probability of its labels from which it is told where no label is sure, [0.5, 1]: two families of which
    neither is in the other can then not both be."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        check_title(self.name, "a family")
        if len(self.members) < 2:
            raise ModelError(
                f"the family {self.name!r} has {counted(len(self.members), 'member')}",
                expected="two or more",
                remedy="leave it out: of one class it says no more than the class",
            )
        if not 0.5 <= self.sure_from <= 1.0:
            raise ModelError(f"the family {self.name!r} is sure from {self.sure_from}", expected="0.5 to 1")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A tree, or several, whose leaves are labels: each name is in one family at most."""

    families: tuple[Family, ...]

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        if not 1 <= len(self.families) <= _MOST_FAMILIES:
            raise ModelError(f"the hierarchy has {len(self.families)} families", expected=f"1 to {_MOST_FAMILIES}")
        names = [family.name for family in self.families]
        if twice := _first_repeated(names):
            raise ModelError(f"the hierarchy has {twice!r} twice as a family", expected="each name once")
        if twice := _first_repeated(member for family in self.families for member in family.members):
            raise ModelError(f"the hierarchy has {twice!r} in two places", expected="each name in one family")
        parent = {member: family.name for family in self.families for member in family.members}
        for name in names:
            chain = [name]
            while (above := parent.get(chain[-1], "")) and above not in chain and len(chain) <= MOST_DEPTH:
                chain.append(above)
            if above in chain:
                raise ModelError(f"the family {above!r} is inside itself", expected="a tree without a cycle")
            if len(chain) > MOST_DEPTH:
                raise ModelError(
                    f"the family {name!r} lies in {MOST_DEPTH} others or more", expected=f"at most {MOST_DEPTH} levels"
                )

    def check(self, labels: Sequence[str]) -> None:
        """Raise ModelError unless the leaves are labels, no family is called like one, and none holds them all.

        A label may stand in no family: it is its own kind.
        """
        known = set(labels)
        names = {family.name for family in self.families}
        for family in self.families:
            if family.name in known:
                raise ModelError(
                    f"{family.name!r} is both a family and a class", expected="another name for the family"
                )
            for member in family.members:
                if member not in known and member not in names:
                    raise ModelError(
                        f"the family {family.name!r} has {member!r}, which is neither a class nor a family",
                        expected=f"classes such as {', '.join(labels[:6])}",
                        remedy=did_you_mean(member, labels[:1000]),
                    )
        for name, leaves in self.leaves.items():
            if len(leaves) == len(known):
                raise ModelError(
                    f"the family {name!r} holds every class", expected="families that tell something",
                    remedy="leave it out and name what lies in it",
                )  # fmt: skip

    @property
    def leaves(self) -> Mapping[str, tuple[str, ...]]:
        """The labels in each family, however deep."""
        return _leaves(self)

    def ancestors(self, label: str) -> tuple[str, ...]:
        """The families that a label is in, the smallest first."""
        return _ancestors(self).get(label, ())

    def told(self, probabilities: Mapping[str, float]) -> tuple[str, float] | None:
        """The smallest family whose labels' probabilities sum up to its bar, with that sum; None where there is none.

        Of two at their bars by the last bit of a half each, the likelier.
        """
        found, leaves = [], self.leaves
        for family in self.families:
            total = min(1.0, sum(probabilities.get(label, 0.0) for label in leaves[family.name]))
            if total >= family.sure_from:
                found.append((len(self.ancestors(family.name)), total, family.name))
        if not found:
            return None
        _, total, name = max(found, key=lambda one: one[:2])
        return name, total


@lru_cache(maxsize=16)
def _ancestors(hierarchy: Hierarchy) -> Mapping[str, tuple[str, ...]]:
    """Of every member, labels and families."""
    parent = {member: family.name for family in hierarchy.families for member in family.members}
    found = {}
    for member in parent:
        above, chain = member, []
        while above := parent.get(above, ""):
            chain.append(above)
        found[member] = tuple(chain)
    return found


@lru_cache(maxsize=16)
def _leaves(hierarchy: Hierarchy) -> Mapping[str, tuple[str, ...]]:
    names = {family.name for family in hierarchy.families}
    found: dict[str, list[str]] = {family.name: [] for family in hierarchy.families}
    for member, chain in _ancestors(hierarchy).items():
        if member not in names:
            for name in chain:
                found[name].append(member)
    return {name: tuple(labels) for name, labels in found.items()}


def _first_repeated(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""
