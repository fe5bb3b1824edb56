"""What helps when pictures are few, each measured against doing without.

Hides pseudo-labels (a teacher labels pictures, a noisy student learns from them), self-distillation over generations,
and the comparison over seeds. Flows in: a `Workshop`, or options and the names of methods. Flows out: a trained
classifier, or a row per method with the interval of its gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_app.domain import MediaError, UsageError
from edge_app.pictures import read_picture
from models.analysis import probabilities
from models.backbones import create_backbone
from models.classifier import Head
from models.classifier_options import METHODS, ClassifierOptions
from models.classifier_run import compute_bank, scan_told, split_of
from models.data import find_unlabelled
from models.features import FeatureBank, ViewPlan, feature_bank
from models.recipe import Trained, Workshop, fit_head, fit_temperature, hard_targets, logits_of, solve_head, train
from models.training import Progress, make_scratch

STUDENT_DROPOUT: Final = 0.3
"""Noise of the student (Xie et al. 2020, arXiv 1911.04252) beside its random views."""

OWN_LABEL_SHARE: Final = 0.5
"""In self-distillation, the share of the given label in the target; the rest is the last generation's opinion."""

_HIDDEN_SHARE: Final = 0.5
"""Of the training pictures, how many lose their labels when `compare` has no unlabelled folder to try with."""


@dataclass(frozen=True, slots=True, eq=False)
class Teaching:
    """What a teacher added."""

    taken: Mapping[str, int]
    """Pseudo-labelled pictures of each class."""
    offered: int
    """Unlabelled pictures that the teacher was shown."""


def train_with_teacher(work: Workshop) -> Trained:
    """The recipe, on targets that a teacher improved: pseudo-labels if there is a folder, then self-distillation."""
    options = work.options
    if options.unlabelled is not None:
        work, teaching = add_pseudo_labels(work, options.unlabelled)
        told = ", ".join(f"{name} {count}" for name, count in teaching.taken.items())
        taken = sum(teaching.taken.values())
        work.progress.note(
            f"pseudo-labels: took {taken} of {teaching.offered} pictures at {options.confidence:.0%} ({told})"
        )
    given = work.targets
    for generation in range(options.generations):
        work = distilled(work, given)
        work.progress.note(f"self-distillation: generation {generation + 1} learns from generation {generation}")
    return train(work)


def add_pseudo_labels(work: Workshop, folder: Path) -> tuple[Workshop, Teaching]:
    """Append the pictures of an unlabelled folder that the teacher is sure of to the train part.

    The teacher is a head on the frozen base that learned from the train part; its probabilities are calibrated on
    the selection part. Pictures whose bytes are in the labelled folder are not taken: they would leak.
    """
    options, known = work.options, {picture.sha256 for picture in work.folder.pictures}
    files, unreadable = _readable(find_unlabelled(folder))
    for error in unreadable:
        work.progress.note(f"{error}; left out")
    fresh = [(path, digest) for path, digest in files if digest not in known]
    if not fresh:
        raise UsageError(f"every picture of {folder} is unreadable or labelled already", remedy="name another folder")
    plan = ViewPlan(
        options.views, options.mirror, options.unfreeze if work.bank.cuts is not None else 0, options.augment
    )
    cache = options.cache or options.output / "cache"
    extra = feature_bank(work.backbone, fresh, plan, cache, work.progress, options.machine.accelerator)
    chances = _teacher(work, extra.plain)
    sure = np.flatnonzero(chances.max(axis=1) >= options.confidence)
    count = len(work.folder.pictures)
    joined = replace(
        work,
        options=replace(options, dropout=max(options.dropout, STUDENT_DROPOUT)),
        bank=_joined(work.bank, extra),
        targets=torch.cat([work.targets, torch.from_numpy(chances).float()]),
        extra=tuple(path for path, _ in fresh),
        split=replace(work.split, train=work.split.train + tuple(count + int(i) for i in sure)),
    )
    names = work.folder.classes
    taken = {name: int((chances[sure].argmax(axis=1) == i).sum()) for i, name in enumerate(names)}
    return joined, Teaching(taken, len(fresh))


def distilled(work: Workshop, given: Tensor) -> Workshop:
    """Targets half the `given` ones (N, C), half what a head of the last generation says (Furlanello et al. 2018).

    The last generation learned from the workshop's targets, which are the given ones for the first.
    Every picture is judged by a head that did not learn from it, or the opinion would only echo the label.
    """
    train, targets = np.array(work.split.train), work.targets.clone()
    rng = np.random.default_rng([work.options.seed, 3])
    part = rng.permutation(np.arange(len(train)) % min(5, len(train)))
    for fold in np.unique(part):
        learn, judge = train[part != fold], train[part == fold]
        if len(learn) == 0:
            continue
        head = solve_head(work.bank.plain[learn], work.targets[learn], work.options.ridge)
        opinion = torch.from_numpy(probabilities(logits_of(head, work.bank.plain[judge]))).float()
        targets[judge] = OWN_LABEL_SHARE * given[judge] + (1 - OWN_LABEL_SHARE) * opinion
    return replace(work, targets=targets)


def compare(
    options: ClassifierOptions, methods: Sequence[str], seeds: Iterable[int], progress: Progress
) -> list[dict[str, Any]]:
    """Measure methods on cached features against plain cross-entropy, over several seeds.

    Each row: method, mean accuracy on the validation parts, gain over doing without (paired by seed) with its 95 %
    interval (Student's t over seeds), and a verdict that calls nothing better unless the interval says so.
    Pseudo-labels use `options.unlabelled`, else half the train part with its labels hidden, against the other half.
    """
    seeds = list(seeds)
    if len(seeds) < 2:
        raise UsageError(f"found {len(seeds)} seed", expected="at least 2 to give an interval")
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise UsageError(f"there is no method called {unknown[0]!r}", expected=", ".join(METHODS))
    folder = scan_told(options.directory, progress)
    backbone = create_backbone(options.backbone, weights=options.weights)
    with make_scratch() as scratch:
        options = replace(options, output=scratch, unfreeze=0, log="none", cache=options.cache or scratch / "cache")
        bank = compute_bank(options, backbone, folder, progress)
        scores: dict[str, list[float]] = {name: [] for name in ("plain", *methods)}
        bases: dict[str, list[float]] = {name: [] for name in methods}
        notes: dict[str, str] = dict.fromkeys(("plain", *methods), "")
        for seed in seeds:
            wanted = replace(options, seed=seed)
            work = Workshop(wanted, folder, split_of(folder, wanted), backbone, bank, hard_targets(folder), progress)
            plain = _judged(work, "plain")
            scores["plain"].append(plain)
            for name in methods:
                score, base, notes[name] = _method(work, name, plain)
                scores[name].append(score)
                bases[name].append(base)
    first = _row("plain", scores["plain"], None, "")
    return [first, *(_row(name, scores[name], bases[name], notes[name]) for name in methods)]


def _method(work: Workshop, name: str, plain: float) -> tuple[float, float, str]:
    """Accuracy with a method, accuracy without it, and what should be known about the two."""
    options = work.options
    changes: dict[str, dict[str, Any]] = {
        "cosine": {"loss": "cosine"},
        "cosine+cross-entropy": {"loss": "cosine+cross-entropy"},
        "smoothing": {"smoothing": 0.1},
        "balanced": {"balanced": True},
        "mixup": {"mixing": "mixup"},
    }
    if name in changes:
        return _judged(replace(work, options=replace(options, **changes[name])), name), plain, ""
    if name == "augmented":
        bare = replace(work, bank=FeatureBank(work.bank.features[:1], None))
        return plain, _judged(bare, "bare"), "all views against the plain view alone"
    if name == "distillation":
        return _judged(distilled(work, work.targets), name), plain, "one generation"
    return _pseudo_labels(work, plain)


def _pseudo_labels(work: Workshop, plain: float) -> tuple[float, float, str]:
    options = work.options
    if options.unlabelled is not None:
        student, teaching = add_pseudo_labels(work, options.unlabelled)
        return _judged(student, "pseudo"), plain, f"took {sum(teaching.taken.values())} of {teaching.offered}"
    rng = np.random.default_rng([options.seed, 5])
    train = rng.permutation(np.array(work.split.train))
    hidden = train[: int(_HIDDEN_SHARE * len(train))]
    poor = replace(work, split=replace(work.split, train=tuple(int(i) for i in train[len(hidden) :])))
    chances = _teacher(poor, work.bank.plain[hidden])
    sure = chances.max(axis=1) >= options.confidence
    targets = work.targets.clone()
    targets[hidden] = torch.from_numpy(chances).float()
    student = replace(
        poor,
        options=replace(options, dropout=max(options.dropout, STUDENT_DROPOUT)),
        targets=targets,
        split=replace(poor.split, train=poor.split.train + tuple(int(i) for i in hidden[sure])),
    )
    note = f"labels of {len(hidden)} training pictures hidden; took {int(sure.sum())}"
    return _judged(student, "pseudo"), _judged(poor, "poor"), note


def _judged(work: Workshop, stage: str) -> float:
    """Validation accuracy of a head that learned from the train part, its best epoch by the selection part."""
    head, _ = fit_head(work, work.split.train, work.split.selection, f"{stage.replace('+', '-')}-{work.options.seed}")
    at = list(work.split.validation)
    return float((logits_of(head, work.bank.plain[at]).argmax(axis=1) == work.folder.labels[at]).mean())


def _teacher(work: Workshop, features: Tensor) -> NDArray[np.float64]:
    """Calibrated probabilities (N, C) of a head that learned from the train part."""
    train, selection = list(work.split.train), list(work.split.selection)
    head: Head = solve_head(work.bank.plain[train], work.targets[train], work.options.ridge)
    temperature = fit_temperature(logits_of(head, work.bank.plain[selection]), work.folder.labels[selection])
    return probabilities(logits_of(head, features), temperature)


def _joined(bank: FeatureBank, extra: FeatureBank) -> FeatureBank:
    both = bank.cuts is not None and extra.cuts is not None
    cuts = torch.cat([bank.cuts, extra.cuts], dim=1) if bank.cuts is not None and extra.cuts is not None else None
    return FeatureBank(torch.cat([bank.features, extra.features], dim=1), cuts if both else None)


def _readable(paths: Sequence[Path]) -> tuple[list[tuple[Path, str]], list[MediaError]]:
    from models.backbones import file_sha256

    files, errors = [], []
    for path in paths:
        try:
            read_picture(path, max_px=64)
            files.append((path, file_sha256(path)))
        except MediaError as error:
            errors.append(error)
    return files, errors


def _row(name: str, scores: Sequence[float], bases: Sequence[float] | None, note: str) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name, "mean": float(np.mean(scores)), "seeds": len(scores), "note": note}
    if bases is None:
        return row | {"gain": None, "low": None, "high": None, "verdict": "the base"}
    gains = np.array(scores) - np.array(bases)
    half = _t_95(len(gains) - 1) * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    mean = float(gains.mean())
    verdict = "better" if mean - half > 0 else "worse" if mean + half < 0 else "no difference shown"
    return row | {"gain": mean, "low": mean - half, "high": mean + half, "verdict": verdict}


def _t_95(freedom: int) -> float:
    """Two-sided 95 % point of Student's distribution."""
    from scipy.stats import t  # type: ignore[import-untyped]

    return float(t.ppf(0.975, freedom))
