"""How many answers it takes, on a folder whose labels are known: asking as `annotate` does beside asking at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_app.core.types import Float32s
from edge_app.library.annotation import REFIT_EVERY
from edge_app.library.ask import Fitted, Steadiness, accuracy, fit_answers, lots_of, next_questions
from edge_app.library.head import Integers

Order = Literal["asked", "random"]


@dataclass(frozen=True, slots=True)
class Step:
    """One place of a simulated learning curve."""

    labels: int
    right: float
    """Share of the pictures kept aside that the head tells right."""
    promised: tuple[float, float]
    """The interval in which the answers to pictures drawn at random place that share, [0, 1] where there are none."""
    over: bool
    """Whether it was said that more answers would change little."""

    @property
    def held(self) -> bool:
        """Whether the share lies in the interval."""
        return self.promised[0] <= self.right <= self.promised[1]


@dataclass(frozen=True, slots=True)
class Run:
    """One simulated session."""

    order: Order
    seed: int
    steps: tuple[Step, ...]

    def labels_for(self, target: float) -> int | None:
        """Answers after which the share right is at least `target` and stays there for the next fit; None: never."""
        right = [step.right for step in self.steps]
        for number, step in enumerate(self.steps):
            if min(right[number : number + 2]) >= target:
                return step.labels
        return None


def simulate(
    features: Float32s,
    classes: Integers,
    seeds: Sequence[int],
    most: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Iterator[Run]:
    """Sessions over (N, D) features whose classes (N,) are known, two for each seed.

    Half of the pictures are the pile and half are kept aside to judge by, drawn anew for every seed and the same for
    both orders. Both start from nothing and end after `most` answers, or with the pile.
    """
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(features))
        pile, aside = order[len(order) // 2 :], order[: len(order) // 2]
        orders: tuple[Order, ...] = ("asked", "random")
        for how in orders:
            yield Run(how, seed, tuple(_session(features, classes, pile, aside, how, seed, most or len(pile), advance)))


def _session(
    features: Float32s,
    classes: Integers,
    pile: Integers,
    aside: Integers,
    how: Order,
    seed: int,
    most: int,
    advance: Callable[[], object],
) -> Iterator[Step]:
    inside, truth, count = features[pile], classes[pile], int(classes.max()) + 1
    rng, shuffled = np.random.default_rng(1000 + seed), np.random.default_rng(2000 + seed).permutation(len(pile))
    lots = lots_of([f"{seed}/{picture}" for picture in pile.tolist()])
    answers: dict[int, int] = {}
    chosen: Fitted | None = None
    steady = Steadiness()
    while len(answers) < min(most, len(pile)):
        drawn = [one for one in lots if one in answers]
        if how == "asked":
            teaching = {one: answers[one] for one in answers.keys() - set(drawn)}
            for question in next_questions(inside, teaching, drawn, chosen, REFIT_EVERY, rng, lots):
                answers[question.picture] = int(truth[question.picture])
        else:
            for one in shuffled[len(answers) : len(answers) + REFIT_EVERY]:
                answers[int(one)] = int(truth[one])
        advance()
        fitted = fit_answers(inside, answers, count)
        if fitted is None:
            continue
        right = float(np.mean(fitted.head.probabilities(features[aside]).argmax(axis=1) == classes[aside]))
        if how == "random":
            yield Step(len(answers), right, (0.0, 1.0), False)
            continue
        drawn = [one for one in lots if one in answers]
        chosen = fit_answers(inside, {one: label for one, label in answers.items() if one not in drawn}, count)
        steady.add(fitted)
        told = accuracy(fitted, chosen, answers, drawn)
        yield Step(len(answers), right, (told.low, told.high), steady.is_over)
