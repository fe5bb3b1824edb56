"""The stages of a classifier's training: a head on cached features, and layers that are fine-tuned from there."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_app.core.hierarchy import Hierarchy
from edge_app.inference.geometry import prepare
from edge_models.classifier.heads import Floats, head_of, logits_of
from edge_models.classifier.losses import LossName, cross_entropy, one_hot, smoothed
from edge_models.classifier.network import CachedViews, Head, PictureViews, UpperPart, feature_scale
from edge_models.classifier.options import HEADS, ClassifierOptions
from edge_models.data.augment import view_maker
from edge_models.data.folder import PictureFolder, Split
from edge_models.fitting.fit import (
    EpochBatches,
    FitOptions,
    FitResult,
    Loaders,
    MakeLoaders,
    Progress,
    find_learning_rate,
    fit,
    loader,
)
from edge_models.networks.backbone import Backbone
from edge_models.networks.feature_cache import FeatureBank
from edge_models.networks.folded import folded, unfolded
from edge_models.networks.style import StyledBackbone, Styles

_RATE_BEFORE_FOUND: Final = 1e-4
"""Of the range test's optimizer; the test itself replaces it."""
_HIGHEST_FOUND: Final = 1e-2
_HEAD_EPOCHS: Final = 40
"""Of a head that cannot be solved, where the options tell no number."""
_TUNE_PATIENCE: Final = 3
"""Most epochs without a gain that fine-tuning is given."""
_AT_ONCE_PX: Final = 32 * 180 * 180
"""Pixels that fine-tuning takes through a network at once on a CPU: 32 pictures of 320 px through every layer of Lite2
took 5.6 GB, more than many a laptop has free; four times eight of them take 2.4 GB, and a sixth less time."""


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """All that the stages of one run share."""

    options: ClassifierOptions
    folder: PictureFolder
    split: Split
    backbone: Backbone
    bank: FeatureBank
    """Rows in the order of the folder's pictures, unlabelled ones behind them."""
    targets: Tensor
    """(N, C) what is learned: one-hot for labelled pictures; soft for what a teacher said."""
    progress: Progress
    deep: int = 0
    """How many of `edge_models.classifier.recipe.DEEP` there is time for."""
    side: int = 0
    """Side in pixels of what they see; 0: the network's own."""
    balance: Floats | None = None
    """(N,) how much each picture of the folder counts, where groups are balanced."""
    extra: tuple[Path, ...] = ()
    """Files of the unlabelled pictures, in the order of their rows."""
    hierarchy: Hierarchy | None = None
    """Families of the classes; the targets are softened by it already."""
    styles: Styles | None = None
    """What the bank's random views are styled with, and the pictures that layers learn from."""
    patient: bool = False
    """Whether so much is named wrongly without it that fine-tuning runs to its end, and is taken unless it is worse."""
    fold: bool = False
    """Whether layers are fine-tuned with their batch-norms folded into them, which takes a quarter less time."""
    small: FeatureBank | None = None
    """Features of the folder's pictures at `side`."""

    @property
    def paths(self) -> list[Path]:
        """Of every row of the bank."""
        return [*(picture.path for picture in self.folder.pictures), *self.extra]

    @property
    def classes(self) -> int:
        """How many."""
        return len(self.folder.classes)


def hard_targets(folder: PictureFolder) -> Tensor:
    """(N, C) one-hot targets of a folder."""
    return one_hot(torch.from_numpy(folder.labels.astype(np.int64)), len(folder.classes))


def fit_head(
    work: Workshop, train: Sequence[int], selection: Sequence[int] | None, stage: str
) -> tuple[Head, FitResult]:
    """A head on cached features: plain, mirrored and random views alike, the base frozen.

    It is solved; only a head with another loss, mixing, dropout, or a number of epochs in the options is trained step
    by step. Without `selection` nothing is watched and all epochs count.
    """
    options, bank = work.options, work.bank
    if not options.epochs and options.solvable:
        return _solved(work, train, selection, options.head)
    from edge_models.classifier.module import ClassifierModule, Learning

    torch.manual_seed(options.seed)
    head = Head(bank.features.shape[2], work.classes, cast(LossName, options.loss), options.dropout)
    head.scale.fill_(feature_scale(bank.plain))
    epochs = options.epochs or _HEAD_EPOCHS
    how = Learning(
        options.learning_rate,
        epochs,
        ridge=options.ridge / len(train),
        smoothing=options.smoothing,
        mixing="mixup" if options.mixing != "none" else "none",  # features have no picture to cut from
    )
    module = ClassifierModule(nn.Identity(), head, [], how)
    make = _cached_loaders(work, bank.features, train, selection)
    result = fit(module, make, _fit_options(options, stage, epochs), work.progress)
    return head, result


def _solved(work: Workshop, train: Sequence[int], selection: Sequence[int] | None, kind: str) -> tuple[Head, FitResult]:
    """A head in one step; its curve has one point."""
    begun_s, options, at = time.perf_counter(), work.options, list(train)
    views, targets = work.bank.features[:, at], smoothed(work.targets[at], options.smoothing)
    count = len(views)
    weights = _weights(work, at, count)
    # The views of a picture are no more pictures: the penalty is of one for each.
    solve = head_of(kind, options.ridge * count)
    head = solve(views.reshape(-1, views.shape[2]), targets.repeat(count, 1), weights)
    figures = {"epoch": 0.0, "train_loss": _loss_of(head, work.bank.plain[at], work.targets[at])}
    if selection:
        chosen = list(selection)
        right = logits_of(head, work.bank.plain[chosen]).argmax(axis=1) == work.targets[chosen].argmax(1).numpy()
        figures["validation_loss"] = _loss_of(head, work.bank.plain[chosen], work.targets[chosen])
        figures["validation_accuracy"] = float(right.mean())
    figures["seconds"] = time.perf_counter() - begun_s
    state = {name: tensor.detach() for name, tensor in head.state_dict().items()}
    return head, FitResult(state, figures.get("validation_loss", math.nan), 0, (figures,), len(at))


def _loss_of(head: Head, features: Tensor, targets: Tensor) -> float:
    with torch.inference_mode():
        return float(cross_entropy(head(features), targets))


def fit_tune(
    work: Workshop,
    head: Head,
    train: Sequence[int],
    selection: Sequence[int] | None,
    stage: str,
    until: int | None = None,
    by_batch: bool = False,
) -> tuple[Head, FitResult]:
    """Unfreeze the last groups of the backbone and go on from `head`; `work.backbone` is changed in place.

    `until` stops after so many epochs of the same schedule; without `selection` nothing is watched. `by_batch`: see
    `edge_models.classifier.module.Learning`.
    """
    from edge_models.classifier.module import ClassifierModule, Learning

    options, backbone = work.options, work.backbone
    learning = folded(backbone) if work.fold else backbone
    groups = learning.unfreeze(options.unfreeze)
    net, make = _tuning(replace(work, backbone=learning), train, selection)
    how = Learning(
        options.tune_rate or _RATE_BEFORE_FOUND,
        options.tune_epochs,
        options.decay,
        ridge=options.ridge / len(train),
        smoothing=options.smoothing,
        mixing=options.mixing_word,
        by_batch=by_batch,
    )
    wanted = _fit_options(options, stage, until or options.tune_epochs)
    if options.patience is not None:
        # Unfrozen layers gain in their first epochs or not at all; each costs as much as the head's forty.
        wanted = replace(wanted, patience=min(options.patience, _TUNE_PATIENCE))
    if work.bank.cuts is None and options.machine.accelerator == "cpu":
        wanted = replace(wanted, pieces=_pieces(backbone, wanted.batch_size))
    result = fit(ClassifierModule(net, head, groups, how), make, wanted, work.progress)
    unfolded(learning, backbone)
    backbone.unfreeze(0)
    return head, result


def _pieces(backbone: Backbone, batch_size: int) -> int:
    """Pieces that a batch of whole pictures is learned from in."""
    pixels = (backbone.input.width_px or 0) * (backbone.input.height_px or 0)
    return min(batch_size, int(2 ** max(0, math.ceil(math.log2(batch_size * pixels / _AT_ONCE_PX)))))


def _tuning(work: Workshop, train: Sequence[int], selection: Sequence[int] | None) -> tuple[nn.Module, MakeLoaders]:
    """What learns in fine-tuning and what it learns from: cached maps, or the pictures themselves."""
    cuts = work.bank.cuts
    if cuts is None:
        net = work.backbone if work.styles is None else StyledBackbone(work.backbone, work.styles)
        return net, _picture_loaders(work, train, selection)
    return UpperPart(work.backbone, work.options.unfreeze), _cached_loaders(work, cuts, train, selection)


def tuning_head(work: Workshop, train: Sequence[int], head: Head) -> Head:
    """What fine-tuning begins with: a head whose logits are those of chances, for pictures as large as it sees."""
    at_that_size = work.small is not None and work.bank.features is work.small.features
    if work.options.head != HEADS[0] or at_that_size:
        return _solved(work, train, None, HEADS[0])[0]
    return copy.deepcopy(head)


def found_rate(work: Workshop, head: Head) -> float:
    """What Lightning's range test finds; it lets all groups learn at one rate, so it is the deepest one's ceiling."""
    from edge_models.classifier.module import ClassifierModule, Learning

    options, split = work.options, work.split
    groups = work.backbone.unfreeze(options.unfreeze)
    net, make = _tuning(work, split.train, split.selection)
    how = Learning(_RATE_BEFORE_FOUND, options.tune_epochs, options.decay, ridge=options.ridge / len(split.train))
    wanted = _fit_options(options, "range-test", options.tune_epochs)
    rate = min(find_learning_rate(ClassifierModule(net, head, groups, how), make, wanted), _HIGHEST_FOUND)
    work.backbone.unfreeze(0)
    work.progress.note(f"range test: learning rate {rate:.2e}")
    return rate


def _cached_loaders(work: Workshop, rows: Tensor, train: Sequence[int], selection: Sequence[int] | None) -> MakeLoaders:
    machine, seed = work.options.machine, work.options.seed
    at = list(train)
    learn = CachedViews(rows, at, work.targets[at], seed=seed, all_views=rows.ndim == 3)
    weights = _weights(work, at, len(rows) if rows.ndim == 3 else 1)
    judged = list(selection or ())
    watch = CachedViews(rows, judged, work.targets[judged], seed=None)

    def make(size: int) -> Loaders:
        batches = EpochBatches(len(learn), size * (len(rows) if rows.ndim == 3 else 1), seed, weights=weights)
        watched = EpochBatches(len(watch), 4 * size, seed, shuffle=False)
        return Loaders(loader(learn, batches, machine), loader(watch, watched, machine) if judged else None)

    return make


def _picture_loaders(work: Workshop, train: Sequence[int], selection: Sequence[int] | None) -> MakeLoaders:
    options, backbone = work.options, work.backbone
    machine, paths = options.machine, work.paths
    seen = view_maker(options.augment, backbone.input, backbone.crop)

    def plain(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        return prepare(pixels, backbone.input, backbone.crop)

    at, judged = list(train), list(selection or ())
    learn = PictureViews([paths[i] for i in at], work.targets[at], backbone, seen, options.seed)
    watch = PictureViews([paths[i] for i in judged], work.targets[judged], backbone, plain, options.seed)

    def make(size: int) -> Loaders:
        batches = EpochBatches(len(learn), size, options.seed, weights=_weights(work, at, 1))
        watched = EpochBatches(len(watch), size, options.seed, shuffle=False)
        return Loaders(loader(learn, batches, machine), loader(watch, watched, machine) if judged else None)

    return make


def _weights(work: Workshop, at: Sequence[int], views: int) -> Floats | None:
    """Of each example, so that what is balanced counts alike; None where nothing is."""
    options, labels = work.options, work.targets[list(at)].argmax(1).numpy()
    if options.balanced or options.balance == "classes":
        return np.tile(1.0 / np.bincount(labels, minlength=work.classes)[labels], views)
    if work.balance is None:
        return None
    # Pictures that a teacher labelled belong to no group: they count once.
    known = len(work.balance)
    return np.tile(np.array([work.balance[i] if i < known else 1.0 for i in at]), views)


def _fit_options(options: ClassifierOptions, stage: str, epochs: int) -> FitOptions:
    return FitOptions(
        options.output,
        stage,
        epochs,
        options.seed,
        options.batch_size,
        options.machine,
        patience=options.patience,
        resume=options.resume,
        log=options.log_word,
    )
