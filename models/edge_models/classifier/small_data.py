"""Pseudo-labels and self-distillation: a teacher improves the targets that a noisier student learns from.

`edge_models.comparison` measures what either is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.heads import fit_temperature, logits_of, solve_head
from edge_models.classifier.material import cache_folder
from edge_models.classifier.recipe import Trained, train
from edge_models.classifier.stages import Workshop, hard_targets
from edge_models.data.folder import folds
from edge_models.data.pool import read_pool
from edge_models.networks.feature_cache import FeatureBank, FeatureCache, ViewPlan

STUDENT_DROPOUT: Final = 0.3
"""Noise of the student (Xie et al. 2020, arXiv 1911.04252) beside its random views."""
OWN_LABEL_SHARE: Final = 0.5
"""In self-distillation, the share of the given label in the target; the rest is the last generation's opinion."""

_JUDGES: Final = 5
"""Heads that share the opinions of a generation out, each of pictures that it did not learn from."""


@dataclass(frozen=True, slots=True, eq=False)
class Teaching:
    """What a teacher added."""

    taken: Mapping[str, int]
    """Pseudo-labelled pictures of each class."""
    offered: int
    """Unlabelled pictures that the teacher was shown."""
    rows: tuple[int, ...]
    """Rows of the bank that were taken."""


def train_with_teacher(work: Workshop) -> Trained:
    """The recipe, on targets that a teacher improved: pseudo-labels if there is a folder, then self-distillation."""
    options = work.options
    if options.unlabelled is not None:
        work, unlabelled = with_unlabelled(work, options.unlabelled)
        work, teaching = add_pseudo_labels(work, unlabelled)
        told = ", ".join(f"{name} {count}" for name, count in teaching.taken.items())
        work.progress.note(
            f"pseudo-labels: took {len(teaching.rows)} of {counted(teaching.offered, 'picture')} at {options.bar:.0%} "
            f"({told})"
        )
    given = work.targets
    for generation in range(options.generations):
        work.progress.note(f"self-distillation: generation {generation + 1} learns from generation {generation}")
        work = distilled(work, given)
    return train(work)


def with_unlabelled(work: Workshop, folder: Path) -> tuple[Workshop, tuple[int, ...]]:
    """Append an unlabelled folder to the bank; returns its rows, which belong to no part of the split yet.

    Pictures of the labelled folder, and those that judge or look like one that does, are left out and told. Raises
    UsageError when none is left.
    """
    pool = read_pool(folder, work.folder, work.split.judging)
    for note in pool.notes(folder):
        work.progress.note(note)
    if not pool.files:
        raise UsageError(
            f"{folder} holds no picture to learn from",
            expected="others than those of the labelled folder, and others than those that judge",
            remedy="name another folder",
        )
    # Nobody has an opinion yet.
    return with_rows(work, pool.files, torch.full((len(pool.files), work.classes), 1 / work.classes))


def with_rows(
    work: Workshop, files: Sequence[tuple[Path, str]], targets: Tensor, cache: Path | None = None
) -> tuple[Workshop, tuple[int, ...]]:
    """Append pictures of another folder, with their SHA-256 and `targets` (n, C), behind what the bank holds.

    Returns their rows, which belong to no part of the split yet. Features are kept in `cache`, else with the run's.
    """
    options = work.options
    plan = ViewPlan(
        options.views, options.mirrored, options.unfreeze if work.bank.cuts is not None else 0, options.augment
    )
    extra = FeatureCache(cache or cache_folder(options), work.progress, options.machine.accelerator).bank(
        work.backbone, files, plan
    )
    begin = len(work.targets)
    joined = replace(
        work,
        bank=_joined(work.bank, extra),
        targets=torch.cat([work.targets, targets]),
        extra=(*work.extra, *(path for path, _ in files)),
    )
    return joined, tuple(range(begin, begin + len(files)))


def add_pseudo_labels(work: Workshop, unlabelled: Sequence[int]) -> tuple[Workshop, Teaching]:
    """Add those of the `unlabelled` rows that a teacher is sure of to the train part, and make the student noisy.

    The teacher is a head on the frozen base that learned from the train part; its probabilities are calibrated on
    the selection part, and are the soft targets of what it is sure of.
    """
    options, rows = work.options, np.asarray(unlabelled, dtype=np.intp)
    chances = _taught(work, work.bank.plain[rows])
    sure = chances.max(axis=1) >= options.bar
    targets = work.targets.clone()
    targets[rows] = torch.from_numpy(chances).float()
    taken = tuple(int(row) for row in rows[sure])
    student = replace(
        work,
        options=replace(options, dropout=max(options.dropout, STUDENT_DROPOUT)),
        targets=targets,
        split=replace(work.split, train=work.split.train + taken),
    )
    counts = np.bincount(chances[sure].argmax(axis=1), minlength=work.classes)
    by_class = {name: int(count) for name, count in zip(work.folder.classes, counts, strict=True)}
    return student, Teaching(by_class, len(rows), taken)


def distilled(work: Workshop, given: Tensor) -> Workshop:
    """Targets half the `given` ones (N, C), half what a head of the last generation says (Furlanello et al. 2018).

    The last generation learned from the workshop's targets, which are the given ones for the first.
    Every picture is judged by a head that did not learn from it, or the opinion would only echo the label.
    """
    train, targets = np.array(work.split.train), work.targets.clone()
    rng = np.random.default_rng([work.options.seed, 3])
    part = rng.permutation(np.arange(len(train)) % min(_JUDGES, len(train)))
    for fold in np.unique(part):
        learn, judge = train[part != fold], train[part == fold]
        if len(learn) == 0:
            continue
        head = solve_head(work.bank.plain[learn], work.targets[learn], work.options.ridge)
        opinion = torch.from_numpy(probabilities(logits_of(head, work.bank.plain[judge]))).float()
        targets[judge] = OWN_LABEL_SHARE * given[judge] + (1 - OWN_LABEL_SHARE) * opinion
    return replace(work, targets=targets)


def taught_by(work: Workshop, features: Tensor) -> Workshop:
    """Targets half the given ones, half what a teacher says that sees the folder's pictures as `features` (N, D).

    Nobody's opinion is asked of a picture that he learned from, and nobody who learned from the validation part tells
    about the others (Hinton et al. 2015, arXiv 1503.02531). A folder with too few pictures for folds stays as it is.
    """
    options, folder, split = work.options, work.folder, work.split
    known = torch.tensor(split.fit)
    given = hard_targets(folder)
    chances = np.zeros((len(folder.pictures), work.classes))
    parts = folds(folder, split.fit, _JUDGES, options.seed)
    if not parts:
        return work
    logits = np.zeros((len(known), work.classes))
    for learn, judge in parts:
        head = solve_head(features[known[learn]], given[known[learn]], options.ridge)
        logits[judge] = logits_of(head, features[known[judge]])
    temperature = fit_temperature(logits, folder.labels[list(split.fit)])
    chances[list(split.fit)] = probabilities(logits, temperature)
    if split.validation:
        head = solve_head(features[known], given[known], options.ridge)
        aside = list(split.validation)
        chances[aside] = probabilities(logits_of(head, features[aside]), temperature)
    targets = work.targets.clone()
    count = len(folder.pictures)
    opinion = torch.from_numpy(chances).float()
    targets[:count] = OWN_LABEL_SHARE * targets[:count] + (1 - OWN_LABEL_SHARE) * opinion
    return replace(work, targets=targets)


def _taught(work: Workshop, features: Tensor) -> NDArray[np.float64]:
    """Calibrated probabilities (N, C) of a head that learned from the train part."""
    train, selection = list(work.split.train), list(work.split.selection)
    head = solve_head(work.bank.plain[train], work.targets[train], work.options.ridge)
    temperature = fit_temperature(logits_of(head, work.bank.plain[selection]), work.folder.labels[selection])
    return probabilities(logits_of(head, features), temperature)


def _joined(bank: FeatureBank, extra: FeatureBank) -> FeatureBank:
    cuts = None
    if bank.cuts is not None and extra.cuts is not None:
        cuts = torch.cat([bank.cuts, extra.cuts], dim=1)
    return FeatureBank(torch.cat([bank.features, extra.features], dim=1), cuts)
