"""The probability under which a classifier answers "not sure", and an honest count of what that does: a bar flatters
the very pictures it was chosen on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

RIGHT: Final = 0.99
"""Share of the answered pictures that must be right at the bar."""
_BARS: Final = (0.5, 0.95)
_FOLDS: Final = 50
"""Up to so many pictures each is left out alone; of more, so many groups."""

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
