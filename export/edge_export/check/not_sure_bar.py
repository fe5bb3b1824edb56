"""The probability under which a classifier answers "not sure", and an honest count of what that does: a bar flatters
the very pictures it was chosen on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.attributes import Attribute
from edge_app.core.hierarchy import Hierarchy

RIGHT: Final = 0.99
"""Share of the answered pictures that must be right at the bar."""
_BARS: Final = (0.5, 0.95)
_FOLDS: Final = 50
"""Up to so many pictures each is left out alone; of more, so many groups."""
_FAMILY_FOLDS: Final = 10
_FEW_UNSURE: Final = 10

Chances = NDArray[np.float64]
Labels = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a bar did to held-out pictures, each judged at the bar that the others set (cross-fitting)."""

    pictures: int
    answered: int
    right: int
    """Of the answered ones."""

    def metrics(self) -> dict[str, float]:
        """As a card holds them; without the share right where nothing was answered."""
        told = {"answered_share": self.answered / self.pictures} if self.pictures else {}
        return told | ({"answered_right": self.right / self.answered} if self.answered else {})

    def words(self) -> str:
        """One line for people."""
        return f"{self.answered} of {self.pictures} answered, {self.right} of these right, each at the others' bar"


def unsure_below(chances: Chances, labels: Labels) -> float:
    """The smallest bar in [0.5, 0.95] at which 99 % of the answered pictures are right.

    `chances` (N, C) calibrated, `labels` (N,). Where no bar reaches that, the one with the highest share right.
    Bars lie between the chances that were seen, so that rounding moves no picture across.
    """
    best, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    seen = np.unique(best)
    between = (seen[1:] + seen[:-1]) / 2
    bars = [_BARS[0], *between[(between > _BARS[0]) & (between < _BARS[1])], _BARS[1]]
    shares = [(float(bar), float(right[best >= bar].mean())) for bar in bars if (best >= bar).any()]
    reached = [bar for bar, share in shares if share >= RIGHT]
    if reached or not shares:
        return round(min(reached, default=_BARS[0]), 4)
    return round(max(shares, key=lambda pair: (pair[1], -pair[0]))[0], 4)


def family_bar(chances: Chances, labels: Labels, names: Sequence[str], hierarchy: Hierarchy, bar: float) -> float:
    """The smallest bar in [0.5, 0.95] at which 99 % of the families that are told are right.

    Arrays as for `unsure_below`, `names` of the C labels. Judged are the pictures of which no label reaches `bar`: the
    others get no family. Where no bar reaches that, the one with the highest share right; 0.95 where fewer than 10
    pictures are judged, which prove nothing.
    """
    at = np.flatnonzero(chances.max(axis=1) < bar)
    if len(at) < _FEW_UNSURE:
        return _BARS[1]
    shares = []
    for candidate in np.linspace(*_BARS, 19):
        told, right = families_told(chances[at], labels[at], names, hierarchy, float(candidate))
        if told.any():
            shares.append((round(float(candidate), 4), float(right[told].mean())))
    reached = [candidate for candidate, share in shares if share >= RIGHT]
    if reached or not shares:
        return min(reached, default=_BARS[1])
    return max(shares, key=lambda pair: (pair[1], pair[0]))[0]


def attributes_with_bar(
    chances: Chances, labels: Labels, names: Sequence[str], attributes: tuple[Attribute, ...]
) -> tuple[Attribute, ...]:
    """The attributes, told from the smallest bar in [0.5, 0.95] on at which 99 % of those told are right, over all
    attributes of all pictures; arrays as for `family_bar`. Classes without pictures are not judged."""
    if not attributes or not len(labels):
        return attributes
    inside = np.array([[name in one.labels for name in names] for one in attributes])
    sums, truth = np.minimum(chances @ inside.T, 1.0).ravel(), inside[:, labels].T.ravel()
    shares = [(round(float(bar), 4), float(truth[sums >= bar].mean())) for bar in np.linspace(*_BARS, 19)
              if (sums >= bar).any()]  # fmt: skip
    reached = [bar for bar, share in shares if share >= RIGHT]
    return tuple(replace(one, sure_from=min(reached, default=_BARS[1])) for one in attributes)


def at_bar(hierarchy: Hierarchy, bar: float) -> Hierarchy:
    """The same families, all told from `bar` on."""
    return Hierarchy(tuple(replace(family, sure_from=bar) for family in hierarchy.families))


def families_told(
    chances: Chances, labels: Labels, names: Sequence[str], hierarchy: Hierarchy, bar: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each picture whether a family is told at that bar, and whether the truth is in it; as `Hierarchy.told`."""
    inside = np.array([[name in leaves for name in names] for leaves in hierarchy.leaves.values()])
    depth = np.array([len(hierarchy.ancestors(name)) for name in hierarchy.leaves])
    sums = np.minimum(chances @ inside.T, 1.0)
    chosen = np.where(sums >= bar, 2 * depth + sums, -1.0).argmax(axis=1)
    told = sums[np.arange(len(chances)), chosen] >= bar
    return told, told & inside[chosen, labels]


def family_answers(chances: Chances, labels: Labels, names: Sequence[str], hierarchy: Hierarchy, bar: float) -> Answers:
    """Judge the families told at bars that all other pictures set, as `answers` does; of pictures without a sure
    label."""
    at = np.flatnonzero(chances.max(axis=1) < bar)
    fold = np.arange(len(at)) % min(_FAMILY_FOLDS, max(len(at), 1))
    told, right = np.zeros(len(at), bool), np.zeros(len(at), bool)
    for one in np.unique(fold):
        out = at[fold == one]
        rest = np.setdiff1d(np.arange(len(labels)), out)
        own = family_bar(chances[rest], labels[rest], names, hierarchy, bar)
        told[fold == one], right[fold == one] = families_told(chances[out], labels[out], names, hierarchy, own)
    return Answers(len(at), int(told.sum()), int((told & right).sum()))


def families_words(families: Answers) -> str:
    """One line for people."""
    if not families.pictures:
        return "every held-out picture had a sure label"
    return (
        f"of {families.pictures} held-out pictures without a sure label {families.answered} were told a family, "
        f"{families.right} of these rightly, each at the others' bar"
    )


def answers(chances: Chances, labels: Labels) -> Answers:
    """Judge every picture at the bar that all other pictures set; arrays as for `unsure_below`.

    On ants_bees the bar of all 49 held-out pictures answers 48 of them, all right; so judged it is 47 of 48.
    """
    count = len(labels)
    fold = np.arange(count) % min(_FOLDS, max(count, 1))
    answered = np.zeros(count, bool)
    for one in np.unique(fold):
        out = fold == one
        answered[out] = chances[out].max(axis=1) >= unsure_below(chances[~out], labels[~out])
    right = chances.argmax(axis=1) == labels
    return Answers(count, int(answered.sum()), int((answered & right).sum()))
