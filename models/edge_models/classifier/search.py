"""Chooses a classifier's backbone and the penalty of its head by cross-validation on cached features, within a budget.

The validation part is never looked at: candidates are compared on the pictures that may be learned from, each judged by
heads that saw neither it nor its near-duplicates.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.core.errors import UsageError
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.options import AUTO, ClassifierOptions
from edge_models.classifier.recipe import hard_targets, logits_of, solve_head
from edge_models.data.folder import PictureFolder, Split, folds
from edge_models.fitting.checkpoint import write_atomic
from edge_models.fitting.progress import Progress
from edge_models.networks.backbone import Backbone
from edge_models.networks.backbones import DEFAULT, LITES, create_backbone
from edge_models.networks.feature_cache import FeatureCache, ViewPlan

FILE: Final = "search.json"
"""Finished trials, in the run's folder."""
RIDGES: Final = (0.3, 1.0, 3.0, 10.0)
ORDER: Final = ("efficientnet-lite0", "efficientnet-lite2", "efficientnet-lite1")
"""The cheapest first, then the one that won on most folders tried."""
FOLDS: Final = 5
_COST: Final[Mapping[str, float]] = {"efficientnet-lite0": 1.0, "efficientnet-lite1": 1.2, "efficientnet-lite2": 1.7}
"""Time of one picture, of Lite0's: 27, 32 and 45 ms on one thread with AVX-512."""
_SHARE: Final = 0.75
"""Of the budget goes to comparing; the rest is for the views and the fits of what is chosen."""
_FLOOR: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Trial:
    """One backbone and penalty, by cross-validation."""

    backbone: str
    ridge: float
    accuracy: float
    loss: float
    """Mean cross-entropy of the pictures when they were not learned from."""
    fold_losses: tuple[float, ...]
    """The same of each fold, summed over its pictures."""
    fold_right: tuple[int, ...]
    fold_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Searched:
    backbone: str
    ridge: float
    trials: tuple[Trial, ...]
    corrected: float
    """Accuracy of choosing so: in each fold that of the candidate which the other folds favour. The winner's own
    accuracy is too good, because it was chosen by it."""
    skipped: tuple[str, ...]
    """Backbones that the budget did not allow."""
    deep: bool
    """Whether the budget lasts for trying to fine-tune every layer."""

    def sentence(self) -> str:
        """One line for people."""
        if not self.trials:
            return f"search: too few pictures to compare by; taking {self.backbone}"
        best = next(t for t in self.trials if (t.backbone, t.ridge) == (self.backbone, self.ridge))
        left = f"; no time for {', '.join(self.skipped)}: give --search more minutes" if self.skipped else ""
        return (
            f"search: {self.backbone} with --ridge {self.ridge:g} of {len(self.trials)} candidates, "
            f"{best.accuracy:.1%} in cross-validation, {self.corrected:.1%} corrected for having been chosen{left}"
        )


def search(
    options: ClassifierOptions, folder: PictureFolder, split: Split, progress: Progress, *, keep: Path, cache: Path
) -> Searched:
    """Compare backbones and penalties on the pictures that may be learned from.

    Trials are kept in `keep`/search.json, and not run again. A backbone is tried as long as three quarters of the
    budget last, the first one always; a folder with too few pictures for folds gets the first. Raises ModelError when
    the weights of a backbone cannot be had.
    """
    begun_s, budget_s = time.monotonic(), 60 * options.search * _SHARE
    names = ORDER if options.backbone == AUTO else (options.backbone,)
    ridges = RIDGES if options.ridge == ClassifierOptions.__dataclass_fields__["ridge"].default else (options.ridge,)
    at = np.array(split.fit)
    parts = folds(folder, split.fit, FOLDS, options.seed)
    done, decided = _read(keep / FILE)
    if decided is not None:
        return decided
    skipped: list[str] = []
    picture_s = dict.fromkeys(names, 0.0)
    unit_s = 0.0
    for number, name in enumerate(names):
        if parts and all((name, ridge) in done for ridge in ridges):
            continue
        expected_s = unit_s * _COST.get(name, 1.0) * len(folder.pictures)
        if number and (not parts or time.monotonic() - begun_s + expected_s > budget_s):
            skipped += [name] if parts else []
            continue
        backbone = create_backbone(name, weights=options.weights)
        started_s = time.monotonic()
        features = _plain(options, backbone, folder, FeatureCache(cache, progress, options.machine.accelerator))
        picture_s[name] = (time.monotonic() - started_s) / len(folder.pictures)
        unit_s = max(unit_s, picture_s[name] / _COST.get(name, 1.0))
        targets = hard_targets(folder)[at]
        for ridge in ridges if parts else ():
            done[name, ridge] = _trial(name, ridge, features[at], targets, folder.labels[at], parts)
            _keep(keep / FILE, done)
    trials = tuple(done[name, ridge] for name in names for ridge in ridges if (name, ridge) in done)
    best = min(trials, key=lambda trial: trial.loss, default=None)
    name = best.backbone if best else names[0]
    found = Searched(
        name,
        best.ridge if best else options.ridge,
        trials,
        corrected_accuracy(trials) if trials else 0.0,
        tuple(skipped),
        _deep_is_affordable(options, split, picture_s[name]),
    )
    _keep(keep / FILE, done, found)
    return found


def corrected_accuracy(trials: Sequence[Trial]) -> float:
    """Accuracy of the procedure "choose the least loss": each fold is judged by the choice of the others.

    After Tibshirani and Tibshirani 2009, "A bias correction for the minimum error rate in cross-validation".
    """
    losses = np.array([trial.fold_losses for trial in trials])
    right = np.array([trial.fold_right for trial in trials])
    chosen = (losses.sum(axis=1, keepdims=True) - losses).argmin(axis=0)
    return float(right[chosen, np.arange(len(chosen))].sum() / sum(trials[0].fold_sizes))


def _deep_is_affordable(options: ClassifierOptions, split: Split, picture_s: float) -> bool:
    """Whether the budget lasts for unfreezing every layer: to choose, to be judged, and once more with everything.

    A picture learned from costs about three times one that is only looked at.
    """
    seen = options.tune_epochs * (len(split.train) + 2 * len(split.fit) + len(split.validation))
    return 0 < 3 * picture_s * seen <= 60 * options.search


def _plain(options: ClassifierOptions, backbone: Backbone, folder: PictureFolder, cache: FeatureCache) -> torch.Tensor:
    pictures = [(picture.path, picture.sha256) for picture in folder.pictures]
    return cache.bank(backbone, pictures, ViewPlan(0, mirror=False, augment=options.augment)).plain


def _trial(
    name: str,
    ridge: float,
    features: torch.Tensor,
    targets: torch.Tensor,
    labels: NDArray[np.intp],
    parts: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]],
) -> Trial:
    losses, right = [], []
    for learn, judge in parts:
        learned, judged = torch.from_numpy(learn), torch.from_numpy(judge)
        logits = logits_of(solve_head(features[learned], targets[learned], ridge), features[judged])
        chances = probabilities(logits)[np.arange(len(judge)), labels[judge]]
        losses.append(float(-np.log(np.maximum(chances, _FLOOR)).sum()))
        right.append(int((logits.argmax(axis=1) == labels[judge]).sum()))
    sizes = [len(judge) for _, judge in parts]
    count = sum(sizes)
    return Trial(name, ridge, sum(right) / count, sum(losses) / count, tuple(losses), tuple(right), tuple(sizes))


def _keep(path: Path, done: Mapping[tuple[str, float], Trial], found: Searched | None = None) -> None:
    decided = None if found is None else asdict(found) | {"trials": []}
    write_atomic(path, json.dumps({"trials": [asdict(trial) for trial in done.values()], "decided": decided}, indent=1))


def _read(path: Path) -> tuple[dict[tuple[str, float], Trial], Searched | None]:
    """Trials of an earlier start of the same run, and what they came to if they were finished."""
    if not path.is_file():
        return {}, None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        trials = [Trial(**{name: _tuple(value) for name, value in row.items()}) for row in kept["trials"]]
        decided = kept["decided"]
        found = decided and Searched(**{name: _tuple(value) for name, value in decided.items()})
        return {(t.backbone, float(t.ridge)): t for t in trials}, found and replace(found, trials=tuple(trials))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} holds no trials ({error})", remedy="train into a new folder") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def chosen(options: ClassifierOptions, found: Searched | None) -> ClassifierOptions:
    """The options with what a search found, or with the default backbone where none was made."""
    if found is not None:
        return replace(options, backbone=found.backbone, ridge=found.ridge)
    return replace(options, backbone=DEFAULT) if options.backbone == AUTO else options


assert set(ORDER) == set(LITES) == set(_COST)
