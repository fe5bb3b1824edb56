"""A teacher labels a pool for a larger, noisier student, which teaches the next: Xie et al. 2020, arXiv 1911.04252."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.system.files import sha256_of_file
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.options import STUDENTS
from edge_models.classifier.recipe import Trained, Workshop, fit_head, fit_temperature, logits_of, train
from edge_models.classifier.small_data import STUDENT_DROPOUT, with_unlabelled
from edge_models.networks.backbones import create_backbone
from edge_models.networks.feature_cache import FeatureCache, ViewPlan

NOISE: Final = 1.4
"""Strength of the student's random views, of the ordinary ones: beside dropout the noise that it learns under."""


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


def train_students(work: Workshop) -> Trained:
    """Rounds on cached features, the last student trained by the whole recipe; it is what ships."""
    options = work.options
    assert options.unlabelled is not None
    work, unlabelled = with_unlabelled(work, options.unlabelled)
    head, _ = fit_head(work, work.split.train, work.split.selection, "teacher")
    chances = calibrated(work, logits_of(head, work.bank.plain[list(work.split.selection)]),
                         logits_of(head, work.bank.plain[list(unlabelled)]))  # fmt: skip
    student = student_of(work)
    for number in range(1, options.rounds + 1):
        taken = take(work, unlabelled, chances)
        work.progress.note(taken.sentence(number, work.folder.classes))
        learner = taught(student, work, taken, chances, unlabelled)
        if number < options.rounds:
            head, _ = fit_head(learner, learner.split.train, learner.split.selection, f"round-{number}")
            chances = calibrated(learner, logits_of(head, learner.bank.plain[list(work.split.selection)]),
                                 logits_of(head, learner.bank.plain[list(unlabelled)]))  # fmt: skip
    return train(learner)


def student_of(work: Workshop) -> Workshop:
    """The same rows through the student's network, under the student's noise."""
    options = work.options
    name = STUDENTS.get(options.student, options.student) or work.backbone.name
    views = max(1, options.views)
    noisy = replace(
        options, dropout=max(options.dropout, STUDENT_DROPOUT), views=views,
        augmentation=min(2.0, NOISE * options.augmentation),
    )  # fmt: skip
    backbone = (
        work.backbone if name == work.backbone.name else create_backbone(name, size=options.size, seed=options.seed)
    )
    pictures = [(picture.path, picture.sha256) for picture in work.folder.pictures]
    pictures += [(path, sha256_of_file(path)) for path in work.extra]
    plan = ViewPlan(views, options.mirror, options.unfreeze if backbone.sequential else 0, noisy.augment)
    cache = FeatureCache(options.cache or options.output / "cache", work.progress, options.machine.accelerator)
    return replace(work, options=noisy, backbone=backbone, bank=cache.bank(backbone, pictures, plan))


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
        members = np.flatnonzero((guesses == label) & (sure >= options.confidence))
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
