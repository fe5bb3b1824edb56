"""One session of labelling: the pile, the answers, the head behind them and the next picture, for a screen to show."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_app.accuracy.intervals import Estimate
from edge_app.core.types import Float32s
from edge_app.library.ask import (
    Fitted,
    Question,
    Steadiness,
    Why,
    accuracy,
    fit_answers,
    lots_of,
    next_questions,
    suspects,
)
from edge_app.library.labels import Answer, Kind, LabelFile, valid_class

REFIT_EVERY: Final = 5
"""Answers between two fits."""
_AHEAD: Final = 2 * REFIT_EVERY
"""Questions kept ready, so that nobody waits for a fit."""
_MOST_SUSPECTS: Final = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One place on the learning curve."""

    labels: int
    """Labelled pictures that the head was fitted on."""
    accuracy: Estimate
    """On the pictures drawn at random so far."""
    classless: int
    """Pictures drawn at random that were given no class, or several: of these the accuracy says nothing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The picture that is asked about now."""

    picture: str
    why: Why
    given: str | None
    """The label it has, where that is doubted."""
    guesses: tuple[tuple[str, float], ...]
    """Classes with their probabilities, likeliest first; empty before the first fit."""


class Annotation:
    """Threads may call it: a screen answers while `refit` runs elsewhere."""

    def __init__(
        self,
        pictures: Sequence[str],
        features: Float32s,
        labels: LabelFile,
        known: Mapping[str, str] | None = None,
        *,
        checking: bool = False,
        classes: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """`pictures` (N) and their (N, D) features; `known`: labels that some have already, {picture: class}.

        `checking`: ask about those of `known` that are probably wrong, and nothing else.
        """
        self.pictures, self._features, self._labels = tuple(pictures), features, labels
        self._at = {name: i for i, name in enumerate(self.pictures)}
        self._known = {name: one for name, one in (known or {}).items() if name in self._at}
        self._checking, self._rng, self._lock = checking, np.random.default_rng(seed), threading.RLock()
        found = [one for answer in labels.answers.values() for one in answer.classes]
        self._classes = list(dict.fromkeys([*classes, *sorted(set(self._known.values())), *found]))
        self._lots = lots_of(self.pictures)
        self._choosing: Fitted | None = None
        """The head on the answers that nobody drew: it decides what to ask about."""
        self._queue: deque[Question] = deque()
        self._fitted: Fitted | None = None
        self._fitted_classes: tuple[str, ...] = ()
        self._steady = Steadiness()
        self.curve: list[Point] = []
        """One point for each fit, the newest last."""
        self._since = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._classes)

    def add_class(self, name: str) -> str:
        """Know one more class; returns its name. Raises UsageError for a name that can be none."""
        name = valid_class(name)
        with self._lock:
            if name not in self._classes:
                self._classes.append(name)
        return name

    @property
    def counts(self) -> Counter[str]:
        """Labelled pictures by class, those known before too."""
        return Counter(self._classes[number] for number in self._truth()[0].values())

    @property
    def answered(self) -> Counter[Kind]:
        """Answers by kind."""
        return Counter(answer.kind for name, answer in self._labels.answers.items() if name in self._at)

    @property
    def is_over(self) -> bool:
        """Whether more answers would change little of what the head says."""
        return not self._checking and self._steady.is_over

    @property
    def wants_fit(self) -> bool:
        """Whether enough was answered since the last fit for another."""
        return self._since >= REFIT_EVERY or (self._fitted is None and len(self._truth()[0]) > 1)

    def asked(self) -> Asked | None:
        """What is asked about now; None when there is nothing left to ask."""
        with self._lock:
            answers = self._labels.answers
            while self._queue and self.pictures[self._queue[0].picture] in answers:
                self._queue.popleft()
            if not self._queue:
                self._queue.extend(self._more())
            if not self._queue:
                return None
            question = self._queue[0]
            name = self.pictures[question.picture]
            guesses: tuple[tuple[str, float], ...] = ()
            if self._fitted is not None:
                row = self._fitted.probabilities[question.picture]
                guesses = tuple((self._fitted_classes[i], float(row[i])) for i in np.argsort(-row, kind="stable"))
            return Asked(name, question.why, self._known.get(name), guesses)

    def answer(self, kind: Kind, *classes: str, of: str | None = None) -> None:
        """Answer for the picture that is asked about; on the disk when this returns. Raises EdgeError.

        `of` names the picture that was looked at: where another is asked about by now, nothing is written.
        """
        with self._lock:
            asked = self.asked()
            if asked is None or of not in (None, asked.picture):
                return
            guess = asked.guesses[0] if asked.guesses else ("", None)
            self._labels.add(Answer(asked.picture, kind, tuple(classes), asked.why, *guess))
            self._queue.popleft()
            self._since += 1

    def undo(self) -> str | None:
        """Take the last answer back and ask again; the picture, or None where there is nothing to take back."""
        with self._lock:
            last = self._labels.undo()
            if last is None:
                return None
            if last.picture in self._at:
                why: Why = next((w for w in ("group", "doubt", "random", "check") if w == last.why), "group")
                self._queue.appendleft(Question(self._at[last.picture], why))
            return last.picture

    def refit(self) -> bool:
        """Fit the head on the answers so far and choose the next pictures; False while there is too little to fit.

        Takes up to a second; answers that come meanwhile count at the next fit.
        """
        with self._lock:
            answers, _, random = self._truth()
            classes, self._since = tuple(self._classes), 0
        fitted = fit_answers(self._features, answers, len(classes))
        if fitted is None:
            return False
        chosen = {one: label for one, label in answers.items() if one not in random}
        choosing = fit_answers(self._features, chosen, len(classes))
        with self._lock:
            self._choosing = choosing
            self._fitted, self._fitted_classes = fitted, classes
            self._steady.add(fitted)
            drawn = random & answers.keys()
            told = accuracy(fitted, choosing, answers, drawn)
            self.curve.append(Point(len(answers), told, len(random) - len(drawn)))
            first = [self._queue[0]] if self._queue else []  # it is on the screen
            self._queue.clear()
            self._queue.extend(first)
            self._queue.extend(self._more([one.picture for one in first]))
        return True

    def predictions(self) -> list[tuple[str, str, float]]:
        """For every picture the likeliest class and its probability; empty before the first fit."""
        if self._fitted is None:
            return []
        best = self._fitted.predicted
        rows = self._fitted.probabilities
        return [(name, self._fitted_classes[best[i]], float(rows[i, best[i]])) for i, name in enumerate(self.pictures)]

    def _truth(self) -> tuple[dict[int, int], list[int], set[int]]:
        """{picture: class}, the pictures asked about that have no one class, and those drawn at random."""
        number = {name: i for i, name in enumerate(self._classes)}
        said = self._labels.answers
        truth = {self._at[name]: number[one] for name, one in self._known.items() if name not in said}
        passed_over: list[int] = []
        random: set[int] = set()
        for name, answer in said.items():
            if name not in self._at:
                continue
            if answer.kind == "label":
                truth[self._at[name]] = number[answer.classes[0]]
            else:
                passed_over.append(self._at[name])
            if answer.why == "random":
                random.add(self._at[name])
        return truth, passed_over, random

    def _more(self, shown: Sequence[int] = ()) -> list[Question]:
        """Questions after those that are `shown` already."""
        truth, passed_over, random = self._truth()
        if not self._checking:
            drawn = random & truth.keys()
            chosen = {one: label for one, label in truth.items() if one not in drawn}
            passed_over += [*drawn, *(i for i in shown if i not in truth)]
            return next_questions(self._features, chosen, passed_over, self._choosing, _AHEAD, self._rng, self._lots)
        if self._fitted is None:
            return []
        answered = set(self._labels.answers)
        classes = np.array([truth.get(int(i), 0) for i in self._fitted.answered], np.intp)
        worst = [int(self._fitted.answered[i]) for i in suspects(self._fitted.head, classes)[:_MOST_SUSPECTS]]
        return [Question(i, "check") for i in worst if self.pictures[i] not in answered and i not in shown]
