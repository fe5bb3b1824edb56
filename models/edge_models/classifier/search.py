"""Chooses a classifier's backbone and head by cross-validation on cached features, within a budget.

The validation part is never looked at: candidates are compared on the pictures that may be learned from, each judged by
heads that saw neither it nor its near-duplicates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.accuracy.intervals import paired
from edge_app.core.errors import UsageError
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.heads import DISCRIMINANTS, fit_temperature, head_of, logits_of
from edge_models.classifier.losses import one_hot
from edge_models.classifier.options import AUTO, HEADS, UNFREEZE, ClassifierOptions
from edge_models.classifier.recipe import NEAR
from edge_models.classifier.start import starting_backbone
from edge_models.classifier.tuning_budget import is_much, small_side, spent_s, step_s, ways_affordable
from edge_models.data.folder import PictureFolder, Split, folds
from edge_models.fitting.checkpoint import write_atomic
from edge_models.fitting.progress import Progress
from edge_models.networks.backbone import Backbone
from edge_models.networks.backbones import DEFAULT, LITES, lite_of
from edge_models.networks.feature_cache import FeatureCache, ViewPlan
from edge_models.networks.joined import JOIN

FILE: Final = "search.json"
"""Finished trials, in the run's folder."""
RIDGES: Final = (0.3, 1.0, 3.0, 10.0)
WHOLE: Final = "efficientnet-lite2@320-whole"
"""Nothing of a picture is cut off, and it is seen larger than at ImageNet (Touvron et al. 2019, arXiv 1906.06423).

On the parts for development, beside Lite2 as it is: 5, 10 and 20 of ants and bees each 94.7, 95.9 and 96.6 % became
95.5, 96.7 and 97.3 (12 draws), 20 of each defect of steel 97.2 became 98.5, tiles (0.4 to 1.7 times as high as wide)
66.6 became 73.1 % balanced (6 draws); it takes half as long again.
"""
KNOWING: Final = "efficientnet-lite2:classes@320-whole"
"""The same, and what it takes a picture for of the 1,000 classes that it knows. Where these are the user's, it helps:
5, 10 and 20 of ants and bees each came from 94.9, 96.5 and 96.9 to 95.9, 97.0 and 97.4 % (development part, 24, 24 and
12 draws) by its being tried; on signs and tiles it loses more in cross-validation, and is not taken."""
ORDER: Final = ("efficientnet-lite0", WHOLE, KNOWING, "efficientnet-lite2", "efficientnet-lite1")
"""The cheapest first, then those that won on most folders tried."""
_FEW: Final = 80
"""Pictures to learn from below which no backbone but the strongest is tried, for no other would lead it by two standard
errors: in 122 draws of 10 to 96 pictures of ants and bees, steel and tiles (development parts) Lite2 as it is did once
and Lite0 twice, and named no more. It spares 40 pictures a third of the processor time.
"""
FOLDS: Final = 5
_COST: Final[Mapping[str, float]] = {
    "efficientnet-lite0": 1.0,
    "efficientnet-lite1": 1.2,
    "efficientnet-lite2": 1.7,
    WHOLE: 2.6,
    KNOWING: 2.6,
    "efficientnet-lite0@320-whole": 2.0,
    "efficientnet-lite1@320-whole": 2.1,
}
"""Time of one picture, of Lite0's: 27, 32 and 45 ms on one thread with AVX-512; by its pixels for those at 320 px."""
_TOGETHER: Final = ("efficientnet-lite0@320-whole", WHOLE, "efficientnet-lite1@320-whole")
"""What `--ensemble` joins: as the best alone sees pictures, for joined backbones see one cut at one size."""
_SHARE: Final = 0.75
"""Of the budget goes to comparing; the rest is for the views and the fits of what is chosen."""
_FLOOR: Final = 1e-6
_PAIR: Final = 2
_UNEVEN: Final = 3.0
_STRONGEST: Final = ((WHOLE, KNOWING), ("efficientnet-lite2",))
_LEAST_WRONG: Final = 3
"""Wrong answers in cross-validation from which on every layer is fine-tuned, where there is time."""
_SMALL_PX: Final = 128
_LOST_BY_SIZE: Final = 0.05
"""Most that a head may lose by pictures made `_SMALL_PX`, where fine-tuning costs a sixth of what it does at 320: steel
lost 4.1 points (development part) and had 99.3 % after it, ants and bees lose 7.
"""

Key = tuple[str, str, float, bool]
"""Backbone, kind of head, penalty, whether classes count alike."""
Head = tuple[str, float, bool]
Part = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Positions to learn from and positions to judge."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One backbone and head, by cross-validation."""

    backbone: str
    ridge: float
    """The penalty of a logistic or cosine head."""
    accuracy: float
    loss: float
    """Mean cross-entropy of the pictures when they were not learned from, at the temperature that suits all best."""
    fold_losses: tuple[float, ...]
    """The same of each fold, summed over its pictures."""
    fold_right: tuple[int, ...]
    fold_sizes: tuple[int, ...]
    head: str = "logistic"
    balanced: bool = False
    """Whether every class counted alike when the head was solved."""

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.backbone, self.head, self.ridge, self.balanced


@dataclass(frozen=True, slots=True)
class Searched:
    backbone: str
    head: str
    ridge: float
    balanced: bool
    """Whether every class counts alike."""
    trials: tuple[Trial, ...]
    corrected: float
    """Accuracy of choosing so: in each fold that of the candidate which the other folds favour. The winner's own
    accuracy is too good, because it was chosen by it."""
    skipped: tuple[str, ...]
    """Backbones that the budget did not allow."""
    deep: int
    """How many ways of fine-tuning every layer the budget lasts for."""
    side: int = 0
    """Side in pixels that fine-tuning every layer is tried at, where the pictures are small or can be told apart when
    they are made small; 0: the network's own."""
    patient: bool = False
    """Whether so much is named wrongly that a fine-tuning is followed to its end."""
    tune: bool = True
    """Whether tuning the top could show a gain: whether a head would name a picture of the selection part wrongly."""
    teacher: str = ""
    """The backbones together that the chosen one learns from; empty where it learns from labels alone."""
    joined: str = ""
    """What came of joining several backbones; empty where none were to be joined."""

    def sentence(self) -> str:
        """One line for people."""
        if not self.trials:
            return f"search: too few pictures to compare by; taking {self.backbone}"
        best = next(t for t in self.trials if t.key == (self.backbone, self.head, self.ridge, self.balanced))
        head = f"a {self.head} head" + ("" if self.head in DISCRIMINANTS else f" (--ridge {self.ridge:g})")
        head += ", every class counting alike," if self.balanced else ""
        left = f"; no time for {', '.join(self.skipped)}: give --search more minutes" if self.skipped else ""
        return (
            f"search: {self.backbone} with {head} of {len(self.trials)} candidates, "
            f"{best.accuracy:.1%} in cross-validation, {self.corrected:.1%} corrected for having been chosen{left}"
            + (f"; {self.joined}" if self.joined else "")
            + ("" if self.tune or self.deep else "; too few of them are named wrongly for a fine-tuning to be tried")
        )


def search(
    options: ClassifierOptions, folder: PictureFolder, split: Split, progress: Progress, *, keep: Path, cache: Path
) -> Searched:
    """Compare backbones and heads on the pictures that may be learned from.

    Trials are kept in `keep`/search.json, and not run again. A backbone is tried as long as three quarters of the
    budget last, the first one always; a folder with too few pictures for folds gets the first. Raises ModelError when
    the weights of a backbone cannot be had.
    """
    device = options.machine.accelerator
    begun_s, budget_s = spent_s(device), 60 * options.search * _SHARE
    at = np.array(split.fit)
    names = _tried(options, len(at))
    parts = folds(folder, split.fit, FOLDS, options.seed)
    done, decided = _read(keep / FILE)
    if decided is not None:
        return decided
    skipped: list[str] = []
    unit_s = 0.0
    labels = folder.labels[at]
    heads = _heads(options, is_uneven(labels, len(folder.classes)))
    banks: dict[str, torch.Tensor] = {}
    for number, name in enumerate(names):
        if parts and options.ensemble < _PAIR and all((name, *head) in done for head in heads):
            continue
        # Its features are those of the whole picture, which are there by then.
        expected_s = 0.0 if name == KNOWING and WHOLE in banks else unit_s * _COST.get(name, 1.0) * len(folder.pictures)
        if number and (not parts or spent_s(device) - begun_s + expected_s > budget_s):
            skipped += [name] if parts else []
            continue
        # Backbones are looked at one by one, whatever is taught from them together.
        backbone = starting_backbone(replace(options, backbone=name, distil=False))
        started_s = spent_s(device)
        features = _plain(options, backbone, folder, FeatureCache(cache, progress, device))
        unit_s = max(unit_s, (spent_s(device) - started_s) / len(folder.pictures) / _COST.get(name, 1.0))
        banks[name] = features[at]
        progress.stage(f"heads on {name}", len(heads))
        for tried, head in enumerate(heads if parts else (), 1):
            if (name, *head) not in done:
                done[name, *head] = trial_of(name, head, banks[name], labels, len(folder.classes), parts)[0]
                _keep(keep / FILE, done)
            progress.advance(tried, head[0])
    singles = [done[name, *head] for name in names for head in heads if (name, *head) in done]
    best = preferred(singles) if singles else None
    joined = teacher = ""
    if best is not None and options.ensemble >= _PAIR:
        best, pair, joined = _joined(options, best, singles, banks, labels, len(folder.classes), parts)
        if pair is not None:
            done[pair.key] = pair
            if options.distil:
                teacher = pair.backbone
                best = min((t for t in singles if t.backbone == DEFAULT), key=_loss)
                joined = f"{joined}; {best.backbone} learns from what they say together"
            singles.append(pair)
    name = best.backbone if best else names[0]
    side = small_side(folder, name) if options.size is None else 0
    deep = 0
    if best is not None and options.unfreeze:
        side, deep = _every_layer(options, folder, split, parts, best, side, FeatureCache(cache, progress, device))
    found = Searched(
        backbone=name,
        head=best.head if best else heads[0][0],
        ridge=best.ridge if best else options.ridge,
        balanced=best.balanced if best else heads[0][2],
        trials=tuple(singles),
        corrected=corrected_accuracy(singles) if singles else 0.0,
        skipped=tuple(skipped),
        deep=deep,
        side=side,
        patient=best is not None and is_much(sum(best.fold_sizes) - sum(best.fold_right), sum(best.fold_sizes)),
        tune=best is None or options.unfreeze != UNFREEZE or (1 - best.accuracy) * len(split.selection) >= 1,
        teacher=teacher,
        joined=joined,
    )
    _keep(keep / FILE, done, found)
    return found


def _every_layer(
    options: ClassifierOptions,
    folder: PictureFolder,
    split: Split,
    parts: Sequence[Part],
    best: Trial,
    side: int,
    cache: FeatureCache,
) -> tuple[int, int]:
    """Pixels that every layer would be fine-tuned at, `side` unless that is 0, and how many ways there is time for."""
    at, name = np.array(split.fit), best.backbone
    if options.unfreeze == UNFREEZE and round((1 - best.accuracy) * len(at)) < _LEAST_WRONG:
        return side, 0
    if not side and options.size is None and lite_of(name) is not None:
        seen = features_at(options, name, _SMALL_PX, folder, cache)[at]
        head = (best.head, best.ridge, best.balanced)
        small = trial_of(name, head, seen, folder.labels[at], len(folder.classes), parts)[0]
        side = _SMALL_PX if small.accuracy >= best.accuracy - _LOST_BY_SIZE else 0
    members = [starting_backbone(replace(options, backbone=one, distil=False)) for one in name.split(JOIN)]
    one_s = sum(step_s(member, side, options.machine.accelerator) for member in members)
    return side, ways_affordable(options, split, one_s, 1 - best.accuracy)


def _tried(options: ClassifierOptions, pictures: int) -> tuple[str, ...]:
    """Backbones in the order in which they are tried, with so many pictures to learn from."""
    if options.backbone != AUTO:
        return (options.backbone,)
    if options.size is not None:
        return tuple(name for name in ORDER if name not in (WHOLE, KNOWING))
    if options.ensemble >= _PAIR:
        return (*((DEFAULT,) if options.distil else ()), *_TOGETHER, KNOWING)
    return (WHOLE, KNOWING) if pictures < _FEW else ORDER


def is_uneven(labels: NDArray[np.intp], classes: int) -> bool:
    """Whether the largest class has three times the pictures of the smallest: then classes are compared alike."""
    counts = np.bincount(labels, minlength=classes)
    return bool(counts.max() >= _UNEVEN * counts.min())


def _heads(options: ClassifierOptions, uneven: bool) -> list[Head]:
    """Heads to try: all that are not settled by the options. A discriminant's classes count alike as it is."""
    ridges = RIDGES if options.ridge == ClassifierOptions.__dataclass_fields__["ridge"].default else (options.ridge,)
    kinds = HEADS if options.head == AUTO and options.solvable and not options.epochs else ("logistic",)
    if options.head != AUTO:
        kinds = (options.head,)
    wanted = options.balanced or options.balance == "classes"
    balances = (False, True) if uneven and options.balance == "none" and not wanted else (wanted,)
    return [
        (kind, ridge, balanced)
        for kind in kinds
        for ridge in (ridges if kind == "logistic" else (options.ridge,))
        for balanced in (balances[:1] if kind in DISCRIMINANTS else balances)
    ]


def preferred(trials: Sequence[Trial]) -> Trial:
    """The least loss; among those that are within two standard errors of it, Lite2, on whole pictures, and a head that
    is no discriminant.

    A few dozen pictures cannot tell backbones apart, and Lite2 mostly wins: on ants_bees (development part, 12 and 10
    draws) 5 and 10 pictures of each class named 94.7 and 95.9 % so, within half a standard error 92.7 and 94.6, by the
    least loss the same. Of logistic and cosine heads whichever loses less (there, against logistic ones alone: tiles
    +4.9 points balanced, 6 draws; steel +0.6 with 5 of each and +0.3 with 20; signs -0.2 and +1.0; ants_bees +0.1, 0.0,
    0.0 and, of all, -0.2).
    """
    best = min(trials, key=_loss)
    near = []
    for trial in trials:
        apart = (np.array(trial.fold_losses) - np.array(best.fold_losses)) / np.array(best.fold_sizes)
        error = float(apart.std(ddof=1)) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
        if trial.loss - best.loss <= NEAR * error:
            near.append(trial)
    for strong in _STRONGEST:
        if any(trial.backbone in strong for trial in near):
            near = [trial for trial in near if trial.backbone in strong]
            break
    near = [trial for trial in near if trial.head not in DISCRIMINANTS] or near
    return min(near, key=_loss)


def _joined(
    options: ClassifierOptions,
    best: Trial,
    singles: Sequence[Trial],
    banks: Mapping[str, torch.Tensor],
    labels: NDArray[np.intp],
    classes: int,
    parts: Sequence[Part],
) -> tuple[Trial, Trial | None, str]:
    """The best backbones of `--ensemble` as one network, if it names so many more pictures that it is no accident."""
    order = list(dict.fromkeys(trial.backbone for trial in sorted(singles, key=_loss)))
    alike = _TOGETHER if options.size is None else ORDER
    members = [name for name in order if name in banks and name in alike][: options.ensemble]
    if len(members) < _PAIR:
        return best, None, "there is but one backbone, and nothing to join it with"
    name, head = JOIN.join(members), (best.head, best.ridge, best.balanced)
    pair, theirs = trial_of(name, head, torch.cat([banks[one] for one in members], 1), labels, classes, parts)
    _, ours = trial_of(best.backbone, head, banks[best.backbone], labels, classes, parts)
    gain = paired(theirs.astype(float) - ours.astype(float))
    cost = sum(_COST.get(one, 1.0) for one in members) / _COST.get(best.backbone, 1.0)
    told = (
        f"{name} names {100 * gain.value:+.1f} points more than {best.backbone} alone ({100 * gain.low:+.1f} to "
        f"{100 * gain.high:+.1f}, {len(labels)} pictures) in {cost:.1f} times its time"
    )
    if gain.above_zero:
        return pair, pair, f"{told}: kept"
    return best, pair, f"{told}: not shown to be worth it, not kept"


def _loss(trial: Trial) -> float:
    return trial.loss


def corrected_accuracy(trials: Sequence[Trial]) -> float:
    """Accuracy of choosing as `preferred` does: each fold is judged by the choice of the others.

    After Tibshirani and Tibshirani 2009, "A bias correction for the minimum error rate in cross-validation".
    """
    right = 0
    for fold in range(len(trials[0].fold_sizes)):
        others = [n for n in range(len(trials[0].fold_sizes)) if n != fold]
        total = sum(trials[0].fold_sizes[n] for n in others)
        without = [
            replace(
                trial,
                loss=sum(trial.fold_losses[n] for n in others) / total,
                fold_losses=tuple(trial.fold_losses[n] for n in others),
                fold_sizes=tuple(trial.fold_sizes[n] for n in others),
            )
            for trial in trials
        ]
        right += next(trial for trial in trials if trial.key == preferred(without).key).fold_right[fold]
    return right / sum(trials[0].fold_sizes)


def features_at(
    options: ClassifierOptions, name: str, side: int, folder: PictureFolder, cache: FeatureCache
) -> torch.Tensor:
    """(N, D) features of the pictures as they are, made `side` pixels."""
    backbone = starting_backbone(replace(options, backbone=name, size=None, distil=False))
    backbone.resize(side)
    return _plain(options, backbone, folder, cache)


def _plain(options: ClassifierOptions, backbone: Backbone, folder: PictureFolder, cache: FeatureCache) -> torch.Tensor:
    pictures = [(picture.path, picture.sha256) for picture in folder.pictures]
    return cache.bank(backbone, pictures, ViewPlan(0, mirror=False, augment=options.augment)).plain


def trial_of(
    name: str,
    head: Head,
    features: torch.Tensor,
    labels: NDArray[np.intp],
    classes: int,
    parts: Sequence[Part],
) -> tuple[Trial, NDArray[np.bool_]]:
    """A trial, and (N,) which pictures were named rightly by a head that had not learned from them."""
    kind, ridge, balanced = head
    solve = head_of(kind, ridge)
    counts = np.bincount(labels, minlength=classes)
    alike = len(labels) / (np.count_nonzero(counts) * counts[labels])
    targets = one_hot(torch.from_numpy(labels.astype(np.int64)), classes)
    logits = np.zeros((len(labels), classes))
    for learn, judge in parts:
        learned = torch.from_numpy(learn)
        solved = solve(features[learned], targets[learned], alike[learn] if balanced else None)
        logits[judge] = logits_of(solved, features[torch.from_numpy(judge)])
    # A discriminant's logits have no scale of their own, and the run finds a temperature for whatever is chosen.
    chances = probabilities(logits, fit_temperature(logits, labels))[np.arange(len(labels)), labels]
    lost = -np.log(np.maximum(chances, _FLOOR))
    if is_uneven(labels, classes):
        lost *= alike
    right = logits.argmax(axis=1) == labels
    told = Trial(
        name,
        ridge,
        float(right.mean()),
        float(lost.mean()),
        tuple(float(lost[judge].sum()) for _, judge in parts),
        tuple(int(right[judge].sum()) for _, judge in parts),
        tuple(len(judge) for _, judge in parts),
        kind,
        balanced,
    )
    return told, right


def _keep(path: Path, done: Mapping[Key, Trial], found: Searched | None = None) -> None:
    decided = None if found is None else asdict(found) | {"trials": []}
    write_atomic(path, json.dumps({"trials": [asdict(trial) for trial in done.values()], "decided": decided}, indent=1))


def _read(path: Path) -> tuple[dict[Key, Trial], Searched | None]:
    """Trials of an earlier start of the same run, and what they came to if they were finished."""
    if not path.is_file():
        return {}, None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        trials = [Trial(**{name: _tuple(value) for name, value in row.items()}) for row in kept["trials"]]
        decided = kept["decided"]
        found = decided and Searched(**{name: _tuple(value) for name, value in decided.items()})
        return {t.key: t for t in trials}, found and replace(found, trials=tuple(trials))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} holds no trials ({error})", remedy="train into a new folder") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def chosen(options: ClassifierOptions, found: Searched | None) -> ClassifierOptions:
    """The options with what a search found, or with the default backbone where none was made."""
    if found is not None:
        # A teacher has been found by now, or there is none.
        options = replace(options, backbone=found.backbone, head=found.head, ridge=found.ridge, distil=False)
        if found.balanced:
            options = replace(options, balance="classes")
        # Other views serve fine-tuning of the top; a solved head named as many of ants_bees and steel without them, and
        # where there is time for fine-tuning everything, that sees other views every epoch.
        if (not found.tune or found.deep) and options.unfreeze == UNFREEZE:
            return replace(options, unfreeze=0, views=0)
        return options
    head = HEADS[0] if options.head == AUTO else options.head
    return replace(options, backbone=DEFAULT if options.backbone == AUTO else options.backbone, head=head)


assert {lite_of(name) for name in ORDER} == set(LITES.values()) and {*ORDER, *_TOGETHER} == set(_COST)
