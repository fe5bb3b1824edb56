"""A teacher labels a pool for a noisier student, which teaches the next: Xie et al. 2020, arXiv 1911.04252.

The student's layers learn, on views drawn anew: heads on the frozen Lite0 gained nothing on cifar10_small, and are left
to `--search 0 --unfreeze 0`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.system.files import sha256_of_file
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.heads import fit_temperature, logits_of, solve_head
from edge_models.classifier.material import cache_folder
from edge_models.classifier.network import Head, TransferClassifier, predict
from edge_models.classifier.options import STUDENTS, UNFREEZE, ClassifierOptions
from edge_models.classifier.recipe import RUNG_EPOCHS, Trained, deep_epochs, train
from edge_models.classifier.small_data import STUDENT_DROPOUT, with_unlabelled
from edge_models.classifier.stages import Workshop, fit_head, fit_tune
from edge_models.classifier.tuning_budget import step_s
from edge_models.fitting.fit import FitResult
from edge_models.networks.backbones import at_side, create_backbone
from edge_models.networks.feature_cache import FeatureCache, ViewPlan

NOISE: Final = 1.4
"""Strength of the random views of a student whose head alone learns, of the ordinary ones: beside dropout the noise
that it learns under. Where layers learn, the ordinary views are noise enough: stronger ones may show a tenth of a
picture."""
LEARNING: Final = 0.5
"""Share of the student's groups of layers that learn, from the output."""
RATE: Final = 1e-3
"""Of the student's head; each group of layers learns at 0.8 of the rate of the one above it."""
DECAY: Final = 0.8
SEEN: Final = 750
"""Views that a student learns from for each of --tune-epochs, where the pool is large enough: about 190 batches."""
GIVEN_SHARE: Final = 0.25
"""Share of what the student sees whose labels were given; the others are the teacher's opinion."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a round believed."""

    rows: NDArray[np.intp]
    labels: NDArray[np.intp]
    offered: int
    right: int | None
    """How many labels are true, where the pool lies in folders called as the classes; nothing is decided by it."""

    def sentence(self, number: int, classes: Sequence[str]) -> str:
        """One line for people."""
        counts = np.bincount(self.labels, minlength=len(classes))
        told = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
        known = "" if self.right is None else f"; {self.right} of them rightly"
        return f"round {number}: took {len(self.rows)} of {self.offered} ({told}){known}"


@dataclass(frozen=True, slots=True, eq=False)
class _Speaker:
    """A teacher or a student that has learned."""

    work: Workshop
    head: Head
    fit: FitResult
    deep: bool
    """Whether layers learned, which cached features know nothing of."""

    def logits(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """(n, C) of rows of the bank, seen plainly."""
        if not self.deep:
            return logits_of(self.head, self.work.bank.plain[list(rows)])
        device = self.work.options.machine.accelerator
        return predict(TransferClassifier(self.work.backbone, self.head), [self.work.paths[i] for i in rows], device)


def train_students(work: Workshop) -> Trained:
    """The best student of a teacher, as `best_student`; where none is better than the teacher, who saw no pool, the
    whole recipe goes on without the pool."""
    assert work.options.unlabelled is not None
    student, _ = best_student(*with_unlabelled(work, work.options.unlabelled))
    return train(work) if student is None else student


def best_student(work: Workshop, pool: Sequence[int]) -> tuple[Trained | None, tuple[Taken, ...]]:
    """A teacher, and rounds of students on what it says of the rows `pool`; and what each round took.

    The round that ships is the best on the selection part: None where that is the teacher.
    """
    options = work.options
    split, labels = work.split, work.folder.labels[list(work.split.selection)]
    student = student_of(work)
    pristine = copy.deepcopy(student.backbone.state_dict())
    if student.options.unfreeze:
        # The search's minutes are without the pool: at 160 px a round of Lite0 takes minutes.
        views = (count := len(split.fit) + len(pool)) * _epochs(student.options, count)
        minutes = views * step_s(student.backbone, 0, options.machine.accelerator) / 60
        work.progress.note(
            f"up to {2 * options.rounds + 1} students learn, each from about {views} views: "
            f"up to about {max(1, round((2 * options.rounds + 1) * minutes))} min"
        )
    stages: dict[str, FitResult] = {}
    temperatures: list[float] = []
    losses: list[float] = []
    untils: list[int] = []
    took: list[Taken] = []

    def speaks(number: int, chances: NDArray[np.float64], rows: Sequence[int], stage: str, last: bool) -> _Speaker:
        """The teacher (0) or the student of a round, who learned from `rows` and what `chances` (P, C) say."""
        watch = None if last else split.selection
        if number == 0:
            found = _Speaker(work, *fit_head(work, rows, watch, stage), deep=False)
        else:
            taken = take(work, pool, chances)
            if not last:
                took.append(taken)
                work.progress.note(taken.sentence(number, work.folder.classes))
            lesson = replace(work, split=replace(split, train=tuple(rows)))
            learner = taught(student, lesson, taken, chances, pool)
            student.backbone.load_state_dict(pristine)
            found = _learned(learner, len(rows), watch, stage, untils[number] if last else None)
        stages[stage] = found.fit
        return found

    chances = np.full((len(pool), work.classes), 1 / work.classes)
    for number in range(options.rounds + 1):
        speaker = speaks(number, chances, split.train, f"student-{number}" if number else "teacher", False)
        logits = speaker.logits(split.selection)
        temperatures.append(fit_temperature(logits, labels))
        own = probabilities(logits, temperatures[-1])[np.arange(len(labels)), labels]
        losses.append(float(-np.log(np.maximum(own, 1e-12)).mean()))
        untils.append(speaker.fit.best_epoch + 1)
        if number < options.rounds:
            chances = probabilities(speaker.logits(pool), temperatures[-1])
    best = int(np.argmin(losses))
    told = ", ".join(f"{loss:.4f} {f'student {n}' if n else 'teacher'}" for n, loss in enumerate(losses))
    if best == 0:
        work.progress.note(f"selection loss: {told}; no student is better than its teacher: going on without the pool")
        student.backbone.load_state_dict(pristine)
        return None, tuple(took)
    work.progress.note(f"selection loss: {told}; keeping student {best}")

    for number in range(best + 1):
        speaker = speaks(number, chances, split.fit, f"refit-{f'student-{number}' if number else 'teacher'}", True)
        if number == 0:
            head_logits = speaker.logits(split.validation)
        if number < best:
            chances = probabilities(speaker.logits(pool), temperatures[number])
    judged = model = TransferClassifier(speaker.work.backbone, speaker.head)
    logits = speaker.logits(split.validation)
    if not options.keep_out and not work.folder.has_test:
        student = replace(student, backbone=copy.deepcopy(student.backbone))
        everything = tuple(sorted(split.fit + split.validation))
        speaker = speaks(best, chances, everything, "final-student", True)
        model = TransferClassifier(speaker.work.backbone, speaker.head)
    return Trained(model, judged, "student", temperatures[best], stages, head_logits, logits), tuple(took)


def _learned(work: Workshop, given: int, watch: Sequence[int] | None, stage: str, until: int | None) -> _Speaker:
    """A student, whose network is changed in place; the first `given` rows that it learns from have labels of their
    own."""
    options, rows = work.options, work.split.train
    if not options.unfreeze:
        return _Speaker(work, *fit_head(work, rows, watch, stage), deep=False)
    labelled = list(rows[:given])
    head = solve_head(work.bank.plain[labelled], work.targets[labelled], options.ridge)
    head.dropout.p = options.dropout
    # Few given labels among thousands of opinions are seen more often.
    more = max(1.0, GIVEN_SHARE / (1 - GIVEN_SHARE) * (len(rows) - given) / given)
    balance = np.ones(len(work.folder.pictures)) if work.balance is None else work.balance / work.balance.mean()
    learner = replace(
        work, balance=more * balance, fold=True, bank=replace(work.bank, cuts=None),
        options=replace(options, tune_rate=RATE, decay=DECAY, tune_epochs=_epochs(options, len(rows))),
    )  # fmt: skip
    head, fit = fit_tune(learner, head, rows, watch, stage, until, by_batch=True)
    return _Speaker(work, head, fit, deep=True)


def _epochs(options: ClassifierOptions, pictures: int) -> int:
    most = round(SEEN * options.tune_epochs / pictures)
    return max(RUNG_EPOCHS, min(deep_epochs(options, pictures), most))


def student_of(work: Workshop) -> Workshop:
    """The same rows through the student's network, under the student's noise.

    Its upper half learns where anything but a head does: as good as every layer, at two thirds of the price
    (cifar10_small, 20 of a class, 800 pictures for choosing).
    """
    options = work.options
    name = STUDENTS.get(options.student, options.student) or work.backbone.name
    own = name == work.backbone.name
    backbone = work.backbone if own else create_backbone(name, size=options.size, seed=options.seed)
    deep = work.deep > 0 or options.unfreeze > 0
    unfreeze = math.ceil(LEARNING * len(backbone.groups)) if options.unfreeze in (0, UNFREEZE) else options.unfreeze
    noisy = replace(
        options, dropout=max(options.dropout, STUDENT_DROPOUT),
        augmentation=min(2.0, (1.0 if deep else NOISE) * options.augmentation),
        unfreeze=unfreeze if deep else 0, views=0 if deep else max(1, options.views),
    )  # fmt: skip
    if deep and own:
        bank = work.bank
    else:
        pictures = [(picture.path, picture.sha256) for picture in work.folder.pictures]
        # Of the pool a student whose layers learn sees views drawn anew.
        pictures += [] if deep else [(path, sha256_of_file(path)) for path in work.extra]
        plan = ViewPlan(noisy.views, options.mirror and not deep, 0, noisy.augment)
        cache = FeatureCache(cache_folder(options), work.progress, options.machine.accelerator)
        bank = cache.bank(backbone, pictures, plan)
    if deep and work.side:
        backbone = at_side(backbone, work.side)
    return replace(work, options=noisy, backbone=backbone, bank=bank)


def calibrated(work: Workshop, selection: NDArray[np.float64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances of `logits` (N, C) at the temperature that the selection part's logits ask for."""
    return probabilities(logits, fit_temperature(selection, work.folder.labels[list(work.split.selection)]))


def take(work: Workshop, unlabelled: Sequence[int], chances: NDArray[np.float64]) -> Taken:
    """The surest pictures above the bar, of no class more than the cap: a class that is guessed too often must not
    drown the others. Without --cap it is the pool's even share."""
    options, guesses, sure = work.options, chances.argmax(1), chances.max(1)
    cap = options.cap or -(-len(unlabelled) // work.classes)
    rows: list[int] = []
    for label in range(work.classes):
        members = np.flatnonzero((guesses == label) & (sure >= options.bar))
        rows += members[np.argsort(-sure[members], kind="stable")][:cap].tolist()
    at = np.array(sorted(rows), dtype=np.intp)
    paths = work.paths
    folders = [paths[unlabelled[i]].parent.name for i in at]
    classes = list(work.folder.classes)
    right = None
    if folders and set(folders) <= set(classes):
        right = sum(classes.index(name) == guesses[i] for name, i in zip(folders, at, strict=True))
    return Taken(at, guesses[at], len(unlabelled), right)


def taught(
    student: Workshop, work: Workshop, taken: Taken, chances: NDArray[np.float64], unlabelled: Sequence[int]
) -> Workshop:
    """The student's workshop with what its teacher believes, soft or hard, added to the train part."""
    rows = np.asarray(unlabelled, np.intp)[taken.rows]
    targets = work.targets.clone()
    believed = np.eye(work.classes)[taken.labels] if work.options.hard_labels else chances[taken.rows]
    targets[torch.from_numpy(rows)] = torch.from_numpy(believed).float()
    split = replace(work.split, train=work.split.train + tuple(int(row) for row in rows))
    return replace(student, targets=targets, split=split)
