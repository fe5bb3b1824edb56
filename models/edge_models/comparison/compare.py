"""Measures what each small-data method is worth on a folder, against doing without, over seeds and numbers of labels.

A trial trains a head on the frozen base as the recipe does for its last fit (nothing watched), on features that all
trials share, and judges by the validation part of its seed, which it never saw; methods of which layers are the point
train those. Finished trials are kept.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.system.files import json_bytes
from edge_models.classifier.material import CACHE, grouped, scan_told, split_of
from edge_models.classifier.options import METHODS, ClassifierOptions
from edge_models.classifier.search import chosen
from edge_models.classifier.stages import Workshop, hard_targets
from edge_models.classifier.start import settled, starting_backbone
from edge_models.comparison import page
from edge_models.comparison.attempts import Desk, attempt
from edge_models.comparison.gains import PLAIN, Bools, Trial, recommend, sentences, table_of
from edge_models.comparison.methods import FLAGS, PARTS, Lack, lack
from edge_models.comparison.shared import Shared
from edge_models.data.folder import PictureFolder, Split, find_unlabelled
from edge_models.data.judging import refuse
from edge_models.data.pool import read_pool
from edge_models.fitting.checkpoint import write_atomic
from edge_models.fitting.options import absolute, plain
from edge_models.fitting.progress import Progress, Silence
from edge_models.fitting.run_folder import Hold, finish_run, make_scratch, open_run, refuse_folder
from edge_models.networks.backbones import check_name
from edge_models.networks.feature_cache import default_threads
from edge_models.networks.small_resnet import PREFIX

RESULT_NAME: Final = "comparison.json"
PAGE_NAME: Final = "comparison.html"
TRIALS_NAME: Final = "trials.json"
_ALL: Final = "all"

Comparison = dict[str, Any]
Key = tuple[int | None, str, int]
"""Labels per class, method, seed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. Raises UsageError for what makes no sense."""

    methods: tuple[str, ...] = ()
    """Some of `METHODS`; none: all that apply."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Two or more; with the usual shares, seeds 0 to 4 judge by every picture once."""
    per_class: tuple[int | None, ...] = (None,)
    """Labelled pictures of each class to learn from, the rest of the train part hiding its labels; None: all."""
    costly: bool = False
    """Also methods that are left out for their price."""
    backgrounds: Path | None = None
    """Pictures to compose on."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise UsageError(f"there is no method called {unknown[0]!r}", expected=", ".join(METHODS))
        if len(set(self.seeds)) < 2:
            raise UsageError(f"found {len(set(self.seeds))} seed", expected="at least 2 to give an interval")
        for few in self.per_class:
            if few is not None and few < 2:
                raise UsageError(f"found {counted(few, 'picture')} per class", expected="2 or more")
        if not self.per_class:
            raise UsageError("no number of pictures per class", expected="one or more, or all")

    def once(self) -> Plan:
        """The same; what is named twice is measured once, and numbers stand in their order, all last."""
        numbers = sorted({few for few in self.per_class if few is not None})
        return replace(
            self, methods=tuple(dict.fromkeys(self.methods)), seeds=tuple(dict.fromkeys(self.seeds)),
            per_class=(*numbers, *([None] if None in self.per_class else [])),
        )  # fmt: skip


@dataclass(slots=True)
class _Ledger:
    """Finished trials and prices, on disk as soon as they are known; in memory only where there is no folder."""

    path: Path | None
    trials: dict[Key, Trial] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            self.trials, self.seconds = _read_trials(self.path)

    def add(self, key: Key, trial: Trial) -> None:
        self.trials[key] = trial
        if self.path is not None:
            kept = {_name(key): _plain_trial(told) for key, told in self.trials.items()}
            write_atomic(self.path, json_bytes({"trials": kept, "shared_seconds": self.seconds}))


def compare(options: ClassifierOptions, plan: Plan, progress: Progress, keep: Path | None = None) -> Comparison:
    """Measure the plan's methods on cached features, each against doing without: the options as they are.

    `keep` is a folder for the trials, the result and the page: with `options.resume` what is finished there is not run
    again, and methods, seeds and numbers may be added. Methods that need pictures without labels take those of
    `options.unlabelled`, else the ones whose labels `plan.per_class` hides. Raises UsageError as training does, and
    where no method applies.
    """
    torch.set_num_threads(default_threads())
    options.machine.check()
    options = chosen(options, None)
    check_name(options.backbone)
    if options.from_scratch or options.backbone.startswith(PREFIX):
        raise UsageError("compare measures heads on a frozen, pretrained base", remedy="leave --from-scratch out")
    if keep is not None:
        with Hold(keep):
            refuse_folder(keep, resume=options.resume)
    for pictures in (options.unlabelled, options.adapt, plan.backgrounds):
        if pictures is not None:
            find_unlabelled(pictures)
    plan = plan.once()
    folder, _ = grouped(scan_told(options.directory, progress), options)
    splits = {seed: split_of(folder, replace(options, seed=seed)) for seed in plan.seeds}
    _refuse_many(plan, folder, splits)
    if plan.backgrounds is not None:
        # All of the folder's pictures judge, each in the trials of some seed.
        found = read_pool(plan.backgrounds, folder, range(len(folder.pictures)))
        refuse(f"{plan.backgrounds} holds", [path.name for path in found.judging], "name another folder by --on")
    options = settled(options, folder)
    wanted, absent = _applying(plan, options, folder, progress)
    with ExitStack() as stack:
        if keep is not None:
            hold = stack.enter_context(Hold(keep))
        place = keep or stack.enter_context(make_scratch())
        options = replace(options, output=place, seed=0, log="none", cache=options.cache or place / CACHE)
        if keep is not None:
            on = None if plan.backgrounds is None else absolute(plan.backgrounds)
            told = {"what": "comparison", "on": on, "data_sha256": folder.sha256}
            decides = options.configuration(absolute) | told
            # An option that a run is older than was as its default is now.
            unsaid = {one.name: one.default for one in fields(options) if one.name in decides and one.name not in told}
            open_run(keep, decides, resume=options.resume, unsaid=plain(unsaid, absolute))
            hold.take()
        ledger = _Ledger(place / TRIALS_NAME if keep else None)
        keys = [(few, m, s) for few in plan.per_class for s in plan.seeds for m in (PLAIN, *wanted[few])]
        missing = [key for key in keys if key not in ledger.trials]
        if missing:
            # Every trial begins anew: what a stopped one left is not gone on with.
            _run_trials(replace(options, resume=False), plan, folder, missing, ledger, progress)
        unit = "processor" if options.machine.accelerator == "cpu" else "GPU"
        result = _result(plan, folder, splits, wanted, absent, ledger, unit)
        if keep is not None:
            write_atomic(keep / RESULT_NAME, json_bytes(result))
            write_atomic(keep / PAGE_NAME, page.page(result))
            finish_run(keep, keep / CACHE)
    return result


def _refuse_many(plan: Plan, folder: PictureFolder, splits: Mapping[int, Split]) -> None:
    """Raise UsageError for a number that no class has so many pictures to learn from."""
    counts = [np.bincount(folder.labels[list(split.fit)], minlength=len(folder.classes)) for split in splits.values()]
    most = int(np.min(counts, axis=0).max())
    for few in plan.per_class:
        if few is not None and few > most:
            raise UsageError(
                f"found {few} pictures per class, and no class has more than {most} to learn from",
                expected=f"2 to {most}, or {_ALL}",
            )


def _applying(
    plan: Plan, options: ClassifierOptions, folder: PictureFolder, progress: Progress
) -> tuple[dict[int | None, tuple[str, ...]], dict[int | None, dict[str, str]]]:
    """The methods that are measured with each number of labels, and why the others are not.

    Raises UsageError where none is left.
    """
    wanted: dict[int | None, tuple[str, ...]] = {}
    absent: dict[int | None, dict[str, str]] = {}
    told = set()
    everywhere: dict[str, Lack | None] = {}
    for few in plan.per_class:
        found: dict[str, Lack | None] = {}
        for method in plan.methods or METHODS:
            # What the number of labels cannot change is looked at once: it reads pictures.
            if method in ("composed", "pretrained"):
                if method not in everywhere:
                    everywhere[method] = lack(method, options, folder, few)
                found[method] = everywhere[method]
            else:
                found[method] = lack(method, options, folder, few)
        reasons = {
            method: why.reason
            for method, why in found.items()
            if why is not None and (why.final or not (plan.methods or plan.costly))
        }
        wanted[few] = tuple(method for method in found if method not in reasons)
        absent[few] = reasons
        if not wanted[few]:
            raise UsageError("no method applies: " + "; ".join(f"{m}: {why}" for m, why in reasons.items()))
        for method, why in reasons.items():
            if (method, why) not in told:
                told.add((method, why))
                progress.note(f"{method} is not measured{_of(few)}: {why}")
    return wanted, absent


def _of(few: int | None) -> str:
    return "" if few is None else f" with {few} per class"


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
    missing: Sequence[Key],
    ledger: _Ledger,
    progress: Progress,
) -> None:
    if ledger.trials:
        progress.note(f"{len(ledger.trials)} trials are kept from before, {len(missing)} are left")
    clock = clock_of(options.machine.accelerator)
    shared = Shared(options, folder, starting_backbone(options), progress, plan.backgrounds, clock, ledger.seconds)
    done = 0
    try:
        bank = shared.features()
        progress.stage("trials", len(missing))
        for few, method, seed in missing:
            wanted = replace(shared.bare, seed=seed)
            split = split_of(folder, wanted)
            work = Workshop(wanted, folder, split, shared.backbone, bank, hard_targets(folder), Silence())
            hidden: tuple[int, ...] = ()
            if few is not None:
                work, hidden = keep_few(work, few)
            begun_s, shared_s = clock(), shared.inside_s
            tried = attempt(method, Desk(shared, work, hidden, f"{few or _ALL}-{seed}"))
            seconds = clock() - begun_s - (shared.inside_s - shared_s) + tried.parts_s
            ledger.add((few, method, seed), Trial(tried.right, tried.counts, round(seconds, 3), tried.curve))
            if shared.inside_s > shared_s:  # a part had a bar of its own
                progress.stage("trials", len(missing))
            done += 1
            progress.advance(done, f"{method}{_of(few)}, seed {seed}: {tried.right.mean():.1%}")
    except KeyboardInterrupt:
        kept = "none is kept: name a folder by --output" if ledger.path is None else "go on with --resume"
        progress.note(f"stopped after {done} of {len(missing)} trials; {kept}")
        raise


def clock_of(accelerator: str) -> Callable[[], float]:
    """Seconds of processor time of this process and its finished children; of the clock, where a GPU does the work."""
    if accelerator != "cpu":
        return time.perf_counter

    def spent() -> float:
        used = os.times()
        return used.user + used.system + used.children_user + used.children_system

    return spent


def _result(
    plan: Plan,
    folder: PictureFolder,
    splits: Mapping[int, Split],
    wanted: Mapping[int | None, tuple[str, ...]],
    absent: Mapping[int | None, Mapping[str, str]],
    ledger: _Ledger,
    unit: str,
) -> Comparison:
    judged = len({i for split in splits.values() for i in split.validation})
    prices = {
        method: sum(ledger.seconds.get(part, 0.0) for part in ("features", *PARTS.get(method, ())))
        for method in (PLAIN, *METHODS)
    }
    tables = []
    for few in plan.per_class:
        trials = {(method, seed): trial for (number, method, seed), trial in ledger.trials.items() if number == few}
        table = table_of(wanted[few], folder, splits, trials, prices)
        tables.append({
            "per_class": few,
            **table,
            "absent": dict(absent[few]),
            "recommended": recommend(table, FLAGS, few, unit),
            "sentences": list(sentences(table, judged)),
        })  # fmt: skip
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    return {
        "folder": folder.root.resolve().name,
        "classes": {name: int(count) for name, count in zip(folder.classes, counts, strict=True)},
        "seeds": list(splits),
        "judged": judged,
        "data_sha256": folder.sha256,
        "time_of": unit,
        "shared_seconds": dict(ledger.seconds),
        "tables": tables,
    }


def _name(key: Key) -> str:
    few, method, seed = key
    return f"{few or _ALL}/{method}/{seed}"


def _plain_trial(trial: Trial) -> dict[str, Any]:
    def bits(right: Bools) -> str:
        return "".join("1" if one else "0" for one in right)

    return {"right": bits(trial.right), "counts": dict(trial.counts), "seconds": trial.seconds,
            "curve": [bits(one) for one in trial.curve]}  # fmt: skip


def _read_trials(path: Path) -> tuple[dict[Key, Trial], dict[str, float]]:
    def bools(text: str) -> Bools:
        return np.array([one == "1" for one in text], dtype=np.bool_)

    trials: dict[Key, Trial] = {}
    try:
        kept = json.loads(path.read_text())
        for name, told in kept["trials"].items():
            few, method, seed = name.split("/")
            curve = tuple(bools(one) for one in told["curve"])
            # Heads alone were noisy students once, and were called so.
            method = "noisy-head" if method == "noisy-student" and "rounds" not in told["counts"] else method
            trial = Trial(bools(told["right"]), dict(told["counts"]), float(told["seconds"]), curve)
            trials[None if few == _ALL else int(few), method, int(seed)] = trial
        return trials, {str(name): float(price) for name, price in kept["shared_seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} holds no trials ({error})", remedy="compare into a new folder") from error
