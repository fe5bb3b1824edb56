"""Measures what each small-data method is worth on a folder, against doing without, over several seeds.

A trial trains a head on the frozen base as the recipe does for its last fit (all epochs, nothing watched), on features
that all trials share, and judges by the validation part of its seed, which it never saw. Finished trials are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edge_app.core.errors import UsageError
from edge_app.system.files import json_bytes
from edge_models.classifier.gains import PLAIN, Bools, Comparison, Trial, summary
from edge_models.classifier.options import METHODS, ClassifierOptions
from edge_models.classifier.recipe import Workshop, fit_head, hard_targets, logits_of
from edge_models.classifier.run import compute_bank, grouped, scan_told, split_of
from edge_models.classifier.search import chosen
from edge_models.classifier.small_data import add_pseudo_labels, distilled, with_unlabelled
from edge_models.classifier.start import settled, starting_backbone
from edge_models.data.folder import PictureFolder, Split, find_unlabelled
from edge_models.fitting.checkpoint import write_atomic
from edge_models.fitting.progress import Progress, Silence
from edge_models.fitting.run_folder import Hold, finish_run, make_scratch, open_run, refuse_folder
from edge_models.networks.backbones import check_name
from edge_models.networks.feature_cache import FeatureBank, default_threads

RESULT_NAME: Final = "comparison.json"
_TRIALS_NAME: Final = "trials.json"
_CACHE: Final = "cache"

_CHANGES: Final[Mapping[str, Mapping[str, Any]]] = {
    "cosine": {"loss": "cosine"},
    "cosine+cross-entropy": {"loss": "cosine+cross-entropy"},
    "smoothing": {"smoothing": 0.1},
    "balanced": {"balanced": True},
    "mixup": {"mixing": "mixup"},
}
"""Methods that are an option of the recipe."""


@dataclass(frozen=True, slots=True)
class Plan:
    methods: tuple[str, ...]
    """Some of `METHODS`."""
    seeds: tuple[int, ...]
    """Two or more; with the usual shares, seeds 0 to 4 judge by every picture once."""
    per_class: int | None = None
    """Labelled pictures of each class to learn from, the rest of the train part hiding its labels; None: all."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise UsageError(f"there is no method called {unknown[0]!r}", expected=", ".join(METHODS))
        if len(set(self.seeds)) < 2:
            raise UsageError(f"found {len(set(self.seeds))} seed", expected="at least 2 to give an interval")
        if self.per_class is not None and self.per_class < 2:
            raise UsageError(f"found {self.per_class} pictures per class", expected="2 or more")


@dataclass(slots=True)
class _Ledger:
    """Finished trials, on disk as soon as they are finished; in memory only where there is no folder."""

    path: Path | None
    trials: dict[tuple[str, int], Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            self.trials = _read_trials(self.path)

    def add(self, method: str, seed: int, trial: Trial) -> None:
        self.trials[method, seed] = trial
        if self.path is not None:
            kept = {f"{name}/{number}": _plain_trial(told) for (name, number), told in self.trials.items()}
            write_atomic(self.path, json_bytes(kept))


def compare(options: ClassifierOptions, plan: Plan, progress: Progress, keep: Path | None = None) -> Comparison:
    """Measure the plan's methods on cached features, each against doing without: the options as they are.

    `keep` is a folder for the trials and the result: with `options.resume` what is finished there is not run again,
    and methods and seeds may be added. Pseudo-labels come from `options.unlabelled`, else from the pictures whose
    labels `plan.per_class` hides, else from half of the train part. Raises UsageError as training does.
    """
    torch.set_num_threads(default_threads())
    options.machine.check()
    options = chosen(options, None)
    check_name(options.backbone)
    if keep is not None:
        refuse_folder(keep, resume=options.resume)
    if options.unlabelled is not None:
        find_unlabelled(options.unlabelled)
    # Named twice is measured once.
    plan = replace(plan, methods=tuple(dict.fromkeys(plan.methods)), seeds=tuple(dict.fromkeys(plan.seeds)))
    folder, _ = grouped(scan_told(options.directory, progress), options)
    splits = {seed: split_of(folder, replace(options, seed=seed)) for seed in plan.seeds}
    with ExitStack() as stack:
        if keep is not None:
            hold = stack.enter_context(Hold(keep))
        place = keep or stack.enter_context(make_scratch())
        wanted = replace(options, output=place, seed=0, unfreeze=0, log="none", cache=options.cache or place / _CACHE)
        if keep is not None:
            told = {"what": "comparison", "per_class": plan.per_class, "data_sha256": folder.sha256}
            open_run(keep, wanted.configuration() | told, resume=options.resume)
            hold.take()
        ledger = _Ledger(place / _TRIALS_NAME if keep else None)
        missing = [(m, s) for s in plan.seeds for m in (PLAIN, *plan.methods) if (m, s) not in ledger.trials]
        if missing:
            # Every trial begins anew: what a stopped one left is not gone on with.
            _run_trials(replace(wanted, resume=False), plan, folder, missing, ledger, progress)
        result = summary(plan.methods, folder, splits, ledger.trials) | {"per_class": plan.per_class}
        if keep is not None:
            write_atomic(keep / RESULT_NAME, json_bytes(result))
            finish_run(keep, keep / _CACHE)
    return result


def keep_few(work: Workshop, per_class: int) -> tuple[Workshop, tuple[int, ...]]:
    """Leave so many labelled pictures of each class, split into train and selection as before; returns the rest."""
    labels, kept = work.folder.labels, []
    watching = max(1, round(work.options.selection_share * per_class))
    for number, (part, count) in enumerate(
        ((work.split.train, per_class - watching), (work.split.selection, watching))
    ):
        order = np.random.default_rng([work.options.seed, 5, number]).permutation(np.array(part))
        chosen = [order[labels[order] == label][:count] for label in range(work.classes)]
        kept.append(tuple(sorted(int(i) for i in np.concatenate(chosen))))
    split = Split(kept[0], kept[1], work.split.validation)
    return replace(work, split=split), tuple(sorted(set(work.split.fit) - set(split.fit)))


def _run_trials(
    options: ClassifierOptions,
    plan: Plan,
    folder: PictureFolder,
    missing: Sequence[tuple[str, int]],
    ledger: _Ledger,
    progress: Progress,
) -> None:
    options = settled(options, folder)
    backbone = starting_backbone(options)
    bank = compute_bank(options, backbone, folder, progress)
    work = Workshop(options, folder, split_of(folder, options), backbone, bank, hard_targets(folder), progress)
    unlabelled: tuple[int, ...] = ()
    # Also where no such trial is left: what all rows are scaled by must not depend on what was finished before.
    if options.unlabelled is not None and "pseudo-labels" in plan.methods:
        work, unlabelled = with_unlabelled(work, options.unlabelled)
    if ledger.trials:
        progress.note(f"{len(ledger.trials)} trials are kept from before, {len(missing)} are left")
    progress.stage("trials", len(missing))
    work = replace(work, progress=Silence())
    done = 0
    try:
        for seed in dict.fromkeys(seed for _, seed in missing):
            wanted = replace(options, seed=seed)
            here = replace(work, options=wanted, split=split_of(folder, wanted))
            hidden: tuple[int, ...] = ()
            if plan.per_class is not None:
                here, hidden = keep_few(here, plan.per_class)
            for method in (method for method, wanted_seed in missing if wanted_seed == seed):
                trial = _trial(here, method, unlabelled or hidden, ledger.trials.get((PLAIN, seed)))
                ledger.add(method, seed, trial)
                done += 1
                progress.advance(done, f"{method}, seed {seed}: {trial.right.mean():.1%}")
    except KeyboardInterrupt:
        kept = "none is kept: name a folder by --output" if ledger.path is None else "go on with --resume"
        progress.note(f"stopped after {done} of {len(missing)} trials; {kept}")
        raise


def _trial(work: Workshop, method: str, unlabelled: Sequence[int], plain: Trial | None) -> Trial:
    """A method, and what it is held against: the plain trial unless it needs one of its own."""
    learned = {"learned": len(work.split.fit)}
    if method == PLAIN:
        right = _judged(work, PLAIN)
        return Trial(right, right, learned)
    without = plain.right if plain is not None else _judged(work, PLAIN)
    if method in _CHANGES:
        changed = replace(work, options=replace(work.options, **_CHANGES[method]))
        return Trial(_judged(changed, method), without, learned)
    if method == "augmented":
        bare = replace(work, bank=FeatureBank(work.bank.features[:1], None))
        return Trial(without, _judged(bare, "bare"), learned)
    if method == "distillation":
        return Trial(_judged(distilled(work, work.targets), method), without, learned)
    return _pseudo_trial(work, unlabelled, without)


def _pseudo_trial(work: Workshop, unlabelled: Sequence[int], without: Bools) -> Trial:
    if not unlabelled:
        smallest = int(np.bincount(work.folder.labels[list(work.split.fit)]).min())
        work, unlabelled = keep_few(work, max(2, smallest // 2))
        without = _judged(work, "poor")
    student, teaching = add_pseudo_labels(work, unlabelled)
    counts = {"learned": len(work.split.fit), "offered": teaching.offered, "taken": len(teaching.rows)}
    known = len(work.folder.pictures)
    if all(row < known for row in unlabelled):
        rows = list(teaching.rows)
        said = student.targets[rows].argmax(1).numpy()
        counts["wrong"] = int((said != work.folder.labels[rows]).sum())
    return Trial(_judged(student, "pseudo"), without, counts)


def _judged(work: Workshop, stage: str) -> Bools:
    """Which pictures of the validation part a head gets right that learned from everything else it may."""
    head, _ = fit_head(work, work.split.fit, None, f"{stage.replace('+', '-')}-{work.options.seed}")
    at = list(work.split.validation)
    right: Bools = logits_of(head, work.bank.plain[at]).argmax(axis=1) == work.folder.labels[at]
    return right


def _plain_trial(trial: Trial) -> dict[str, Any]:
    def bits(right: Bools) -> str:
        return "".join("1" if one else "0" for one in right)

    return {"right": bits(trial.right), "without": bits(trial.without), "counts": dict(trial.counts)}


def _read_trials(path: Path) -> dict[tuple[str, int], Trial]:
    def bools(text: str) -> Bools:
        return np.array([one == "1" for one in text], dtype=np.bool_)

    trials = {}
    try:
        for name, told in json.loads(path.read_text()).items():
            method, _, seed = name.rpartition("/")
            trials[method, int(seed)] = Trial(bools(told["right"]), bools(told["without"]), dict(told["counts"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} holds no trials ({error})", remedy="compare into a new folder") from error
    return trials
