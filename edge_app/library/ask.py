"""Which picture to ask about next, what the answers so far are worth, and when more of them no longer help.

First one picture out of each large group that has none (Hacohen et al. 2022, TypiClust: with few labels the typical
teach more than the doubtful), then those that the head doubts, spread out (Zhdanov 2019), and every fifth at random:
from these alone, which nobody chose, the accuracy is estimated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np

from edge_app.accuracy.intervals import Estimate, clopper_pearson, wider
from edge_app.core.types import Float32s
from edge_app.library.head import Float64s, Head, Integers, fit
from edge_app.system.files import sha256_of

Why = Literal["group", "doubt", "random", "check"]
"""Why a picture is asked about: typical of a group, doubted, drawn at random, or probably labelled wrongly."""

RANDOM_EVERY: Final = 5
"""One answer in so many is for a picture drawn at random."""
GROUPS_PER_CLASS: Final = 4
"""Answers per class by groups before doubt decides."""
_CANDIDATES: Final = 10
"""Doubted pictures to spread a batch over, times its size."""
_EARLIER: Final = 0.75
_STEADY: Final = 0.96
"""Chosen on ants_bees (stops after 38 of 123 labels, 0.2 points below all), cifar10_small and tiles (near the end)."""
_STEADY_TIMES: Final = 3
_MOST_GROUPED: Final = 4000
"""Pictures of which groups are made; of more a random part."""


@dataclass(frozen=True, slots=True)
class Question:
    """A picture to ask about."""

    picture: int
    why: Why


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A head over the answers so far, and what it says of the whole pile."""

    head: Head
    answered: Integers
    """(n,) the pictures with a class, in the order of their answers."""
    probabilities: Float64s
    """(N, C) for every picture of the pile."""

    @property
    def predicted(self) -> Integers:
        """(N,) the best class of every picture."""
        return cast(Integers, self.probabilities.argmax(axis=1))

    @property
    def doubt(self) -> Float64s:
        """(N,) one less the lead of the best class over the second, [0, 1]."""
        if self.probabilities.shape[1] < 2:
            return np.ones(len(self.probabilities))
        ranked = np.sort(self.probabilities, axis=1)
        return 1.0 - (ranked[:, -1] - ranked[:, -2])


def fit_answers(features: Float32s, answers: Mapping[int, int], count: int) -> Fitted | None:
    """Fit the head on {picture: class}; None while there are fewer than two classes to tell apart."""
    if len(set(answers.values())) < 2:
        return None
    answered = np.fromiter(answers, np.intp, len(answers))
    classes = np.fromiter(answers.values(), np.intp, len(answers))
    head = fit(features[answered], classes, count)
    return Fitted(head, answered, head.probabilities(features))


def next_questions(
    features: Float32s,
    answers: Mapping[int, int],
    passed_over: Sequence[int],
    fitted: Fitted | None,
    size: int,
    rng: np.random.Generator,
    lots: Sequence[int],
) -> list[Question]:
    """The next `size` pictures to ask about, fewer where fewer are left.

    `answers`: {picture: class} that teach the choice; `passed_over`: asked about, and not among these. `lots`: the
    pictures that only the draw may ask about, in its order. Their answers belong to `passed_over`, and `fitted` is
    better without them (it may be older than `answers`): were the choice to see them, doubt would leave alone what is
    like them, and a head without one of them, which is how the accuracy is told, would have a hole just there.
    """
    asked, kept = set(answers) | set(passed_over), set(lots)
    waiting = [i for i in lots if i not in asked]
    left = np.array([i for i in range(len(features)) if i not in asked and i not in kept], np.intp)
    known = len(set(answers.values()))
    why: Why
    drawn = sum((len(asked) + i) % RANDOM_EVERY == RANDOM_EVERY - 1 for i in range(size))
    drawn = max(min(drawn, len(waiting)), min(len(waiting), size - len(left)))
    chosen = min(size - drawn, len(left))
    if not chosen:
        picked, why = left[:0], "group"
    elif fitted is None or len(answers) < GROUPS_PER_CLASS * known:
        picked, why = _typical(features, left, sorted(asked - kept), chosen, rng), "group"
    else:
        picked, why = _doubted(features, left, fitted.doubt, chosen, rng), "doubt"
    questions = [Question(i, why) for i in picked.tolist()]
    for number, picture in enumerate(waiting[:drawn]):
        slot = (RANDOM_EVERY - 1 - len(asked)) % RANDOM_EVERY + number * RANDOM_EVERY
        questions.insert(slot, Question(picture, "random"))
    return questions


def lots_of(names: Sequence[str]) -> list[int]:
    """Every fifth picture, in an order that is the same in every session: who is drawn at random.

    By the hash of its name: a picture that is added later changes nothing for the others.
    """
    drawn = [(sha256_of(name), i) for i, name in enumerate(names)]
    return [i for digest, i in sorted(drawn) if int(digest[:8], 16) % RANDOM_EVERY == 0]


def _typical(features: Float32s, left: Integers, asked: Sequence[int], size: int, rng: np.random.Generator) -> Integers:
    """The most central picture of each of the largest groups in which nothing was asked."""
    some = rng.permutation(left)[:_MOST_GROUPED]
    pool = np.concatenate([np.array(asked, np.intp), some])
    vectors = features[pool]
    groups = min(len(asked) + size, len(pool))
    owner, centres = _k_means(vectors, np.ones(len(pool)), groups, rng)
    covered = set(owner[: len(asked)].tolist())
    sizes = np.bincount(owner, minlength=groups)
    order = sorted(range(groups), key=lambda g: (g in covered, -sizes[g]))
    picked: list[int] = []
    for group in order:
        inside = np.flatnonzero(owner[len(asked) :] == group) + len(asked)
        if len(inside) and len(picked) < size:
            picked.append(int(pool[inside[int((vectors[inside] @ centres[group]).argmax())]]))
    return np.array(picked, np.intp)


def _doubted(features: Float32s, left: Integers, doubt: Float64s, size: int, rng: np.random.Generator) -> Integers:
    """Of the most doubted pictures as many as asked for, far from each other."""
    worst = left[np.argsort(-doubt[left], kind="stable")[: _CANDIDATES * size]]
    if len(worst) <= size:
        return worst
    vectors = features[worst]
    owner, centres = _k_means(vectors, doubt[worst] + 1e-6, size, rng)
    picked = []
    for group in range(size):
        inside = np.flatnonzero(owner == group)
        if len(inside):
            picked.append(int(worst[inside[int((vectors[inside] @ centres[group]).argmax())]]))
    return np.array(picked, np.intp)


def _k_means(vectors: Float32s, weights: Float64s, groups: int, rng: np.random.Generator) -> tuple[Integers, Float32s]:
    """Group (n, D) unit vectors by cosine: owner (n,) and centres (groups, D) of unit length; k-means++, ten rounds."""
    centres = np.empty((groups, vectors.shape[1]), np.float32)
    nearest = np.full(len(vectors), np.inf)
    for group in range(groups):
        share = np.maximum(nearest, 0) * weights if group else weights
        total = share.sum()
        at = rng.choice(len(vectors), p=share / total) if total > 0 else int(rng.integers(len(vectors)))
        centres[group] = vectors[at]
        nearest = np.minimum(nearest, 2 - 2 * (vectors @ centres[group]))
    owner = np.zeros(len(vectors), np.intp)
    for _ in range(10):
        before, owner = owner, (vectors @ centres.T).argmax(axis=1)
        if np.array_equal(before, owner):
            break
        for group in np.unique(owner):
            inside = owner == group
            mean = (vectors[inside] * weights[inside, None]).sum(axis=0)
            centres[group] = mean / max(float(np.linalg.norm(mean)), 1e-9)
    return owner.astype(np.intp), centres


def accuracy(fitted: Fitted, others: Fitted | None, classes: Mapping[int, int], random: Collection[int]) -> Estimate:
    """How often the head is right on pictures like the pile's, told by those in `random`, which nobody chose.

    `others`: a head that saw none of these; its share right is the value, and [0, 1] stands where there is none.
    Its settings owe nothing to them, but it has a fifth fewer labels. Leave-one-out has not, and is wrong the other way
    where labels are few: what is left out is missing from the very class that it is of (at 20 labels of signs it said
    33 % of heads that are right in 58). So the interval holds the exact ones of both.
    """
    drawn = set(random)
    if others is None:
        return clopper_pearson(0, 0)
    without = [
        int(fitted.head.left_out[row].argmax()) == classes[picture]
        for row, used in enumerate(fitted.head.fitted_on)
        if (picture := int(fitted.answered[used])) in drawn
    ]
    right = sum(int(others.predicted[picture]) == classes[picture] for picture in drawn)
    return wider(clopper_pearson(right, len(drawn)), clopper_pearson(sum(without), len(without)))


class Steadiness:
    """Whether a third more answers changed what the head says of the pile.

    Bloodgood and Vijay-Shanker 2009 stop when successive heads agree by Cohen's kappa, three times in a row. Here each
    is compared with the one of three quarters of the labels, however often it is fitted: five answers alone change
    little long before there are enough (on signs that stopped 3.3 points too early).
    """

    def __init__(self) -> None:
        self._said: list[tuple[int, Integers]] = []
        self.kappas: list[float] = []

    def add(self, fitted: Fitted) -> None:
        """Take in the head after a few more answers."""
        labels, now = len(fitted.answered), fitted.predicted
        earlier = [said for count, said in self._said if count <= _EARLIER * labels and len(said) == len(now)]
        if earlier:
            self.kappas.append(kappa(earlier[-1], now))
        self._said.append((labels, now))

    @property
    def is_over(self) -> bool:
        """Whether more answers would change little."""
        last = self.kappas[-_STEADY_TIMES:]
        return len(last) == _STEADY_TIMES and float(np.mean(last)) >= _STEADY


def kappa(one: Integers, other: Integers) -> float:
    """Cohen's kappa of two lists of classes; 1 where both say one class of everything."""
    count = int(max(one.max(initial=0), other.max(initial=0))) + 1
    agree = float(np.mean(one == other))
    chance = float(np.bincount(one, minlength=count) @ np.bincount(other, minlength=count)) / len(one) ** 2
    return 1.0 if chance >= 1.0 else (agree - chance) / (1 - chance)


def suspects(head: Head, classes: Integers) -> list[int]:
    """Labelled pictures whose label a head without them finds unlikely and another likely, the worst first.

    `classes` (n,) are the labels that the head was fitted on; the indices are into them.
    """
    given = head.left_out[np.arange(len(head.fitted_on)), classes[head.fitted_on]]
    worst = head.left_out.max(axis=1) - given
    order = np.argsort(-worst, kind="stable")
    return [int(head.fitted_on[i]) for i in order if worst[i] > 0]
