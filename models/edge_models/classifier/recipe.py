"""Trains a classifier: head on cached features, then fine-tuning from the top, then a refit that is judged once."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_app.core.hierarchy import Hierarchy
from edge_app.core.numeric import softmax
from edge_app.inference.geometry import prepare
from edge_app.media.pictures import read_picture
from edge_models.classifier.heads import Floats, fit_temperature, head_of, logits_of
from edge_models.classifier.losses import LossName, cross_entropy, one_hot, smoothed
from edge_models.classifier.network import (
    CachedViews,
    Head,
    PictureViews,
    TransferClassifier,
    UpperPart,
    feature_scale,
)
from edge_models.classifier.options import HEADS, ClassifierOptions
from edge_models.data.augment import MAX_STRENGTH, view_maker
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
from edge_models.networks.backbone import Backbone, normalize
from edge_models.networks.backbones import at_side
from edge_models.networks.feature_cache import FeatureBank
from edge_models.networks.folded import folded, unfolded
from edge_models.networks.style import StyledBackbone, Styles

_RATE_BEFORE_FOUND: Final = 1e-4
"""Of the range test's optimizer; the test itself replaces it."""
_HIGHEST_FOUND: Final = 1e-2


@dataclass(frozen=True, slots=True)
class Deep:
    """A way of fine-tuning on views that are drawn anew every epoch."""

    share: float
    """Of the network's groups that learn, from the output."""
    rate: float
    """The head's."""
    decay: float
    """What each group has of the rate of the one above it."""
    words: str
    strength: float = 1.0
    """Of the random views, times what the options say."""


DEEP: Final[Mapping[str, Deep]] = {
    "deep-tune": Deep(1.0, 1e-3, 0.8, "with every layer fine-tuned"),
    "half-tune": Deep(0.5, 1e-3, 0.8, "with the upper half fine-tuned"),
    "mild-tune": Deep(1.0, 1e-3, 0.8, "with every layer fine-tuned on milder views", strength=0.5),
    "strong-tune": Deep(1.0, 1e-3, 0.8, "with every layer fine-tuned on stronger views", strength=1.5),
    "fast-tune": Deep(1.0, 3e-3, 0.8, "with every layer fine-tuned at three times the rate"),
}
"""Tried in this order as far as time allows: all for RUNG_EPOCHS, the best one to its end."""
RUNG_EPOCHS: Final = 2
_HOPELESS: Final = 2.0
_SMALL_LOSS: Final = 0.05
"""After a third of its epochs a fine-tuning whose selection loss is so many times the frozen base's, or what counts as
next to nothing, is given up, where the frozen base is right nearly always: steel had 0.6 times that by then and won,
ants and bees at 128 px 2.8 times, and lost. Sign digits, of which it names a fifth wrongly, had 2.5 times, and win.
"""
NEAR: Final = 2.0
"""Standard errors within which a tuning, or a backbone, is no worse than another."""
DEEP_EPOCHS: Final = 1.5
"""Times as many epochs as the tuning of the top, in folders of up to so many pictures:"""
_WHOLE_EPOCHS_TO: Final = 240
KINDS: Final = {
    "scratch": "with every layer learned",
    "adapted": "adapted to the target",
    "student": "taught by a teacher on pictures without labels",
    "head": "with the base frozen",
    "tune": "fine-tuned at the top",
    **{name: deep.words for name, deep in DEEP.items()},
}
"""What became of the network, by stage."""

HEAD_EPOCHS: Final = 40
"""Of a head that cannot be solved, where the options tell no number."""


TUNE_PATIENCE: Final = 3
"""Most epochs without a gain that fine-tuning is given."""


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
    """How many of `DEEP` there is time for."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What the recipe came to."""

    model: TransferClassifier
    """What ships: learned from every picture, unless the validation part was to be kept out."""
    judged: TransferClassifier
    """What the figures are of: learned from train and selection part. The same as `model` where nothing was added."""
    chosen: str
    """head, tune or one of `DEEP`: the stage whose result was kept."""
    temperature: float
    stages: Mapping[str, FitResult]
    head_logits: Floats
    """(V, C) of the head on the frozen base, on the validation part: what fine-tuning is held against."""
    logits: Floats
    """(V, C) of `judged`, on the validation part."""

    @property
    def learned_all(self) -> bool:
        """Whether what ships learned from the validation part too."""
        return self.model is not self.judged


def train(work: Workshop) -> Trained:
    """Run all stages.

    Weights learn from the train part, epochs and stages are chosen by the selection part, what was chosen learns from
    both and is judged by the validation part, which is looked at once. At the end it learns from every picture.
    """
    split, options = work.split, work.options
    head, head_fit = fit_head(work, split.train, split.selection, "head")
    stages: dict[str, FitResult] = {"head": head_fit}
    pristine = copy.deepcopy(work.backbone.state_dict())
    chosen, tuning = "head", work
    temperature, kept = _on_selection(work, logits_of(head, work.bank.plain[list(split.selection)]))
    told = {"head": float(kept.mean())}
    for name, trial in _shortlist(_tunings(work, head), head, told["head"], stages, pristine):
        trial.backbone.load_state_dict(pristine)
        tuned, stages[name] = fit_tune(trial, _start(trial, split.train, head), split.train, split.selection, name)
        seen = [work.paths[i] for i in split.selection]
        logits = predict(TransferClassifier(trial.backbone, tuned), seen, options.machine.accelerator)
        own_temperature, lost = _on_selection(work, logits)
        told[name] = float(lost.mean())
        if is_taken(lost, kept, unless_worse=work.patient and name in DEEP):
            chosen, tuning, temperature, kept = name, trial, own_temperature, lost
    if len(told) > 1:
        losses = ", ".join(f"{loss:.4f} {KINDS[name]}" for name, loss in told.items())
        work.progress.note(f"selection loss: {losses}; keeping the network {KINDS[chosen]}")
    until = stages[chosen].best_epoch + 1 if chosen != "head" else 0
    if chosen in DEEP:
        # To the end: 19 pictures of steel found the best of 12 epochs in the fifth, its rate still high, and what was
        # stopped there named 83.1 % of 302 others instead of 99.3.
        until = tuning.options.tune_epochs
    tuning.backbone.load_state_dict(pristine)
    refit_head, stages["refit-head"] = fit_head(work, split.fit, None, "refit-head")
    head_logits = logits = logits_of(refit_head, work.bank.plain[list(split.validation)])
    judged = TransferClassifier(work.backbone, refit_head)
    if until:
        tuned = _start(tuning, split.fit, refit_head)
        tuned, stages[f"refit-{chosen}"] = fit_tune(tuning, tuned, split.fit, None, f"refit-{chosen}", until)
        judged = TransferClassifier(tuning.backbone, tuned)
        logits = predict(judged, [work.paths[i] for i in split.validation], options.machine.accelerator)
    model = judged
    if not options.keep_out and not work.folder.has_test:
        everything = tuple(sorted(split.fit + split.validation))
        tuning = replace(tuning, backbone=copy.deepcopy(tuning.backbone))
        tuning.backbone.load_state_dict(pristine)
        head, stages["final-head"] = fit_head(work, everything, None, "final-head")
        if until:
            head = _start(tuning, everything, head)
            head, stages[f"final-{chosen}"] = fit_tune(tuning, head, everything, None, f"final-{chosen}", until)
        model = TransferClassifier(tuning.backbone, head)
        work.progress.note(
            f"the network that ships learned once more, from all {len(everything)} pictures; the figures are of the "
            f"same recipe after {len(split.fit)} of them, judged on the other {len(split.validation)}"
        )
    return Trained(model, judged, chosen, temperature, stages, head_logits, logits)


def _tunings(work: Workshop, head: Head) -> dict[str, Workshop]:
    """What fine-tuning is tried: the top groups as the options say, and every layer where time allows."""
    options = work.options
    tried: dict[str, Workshop] = {}
    if options.unfreeze:
        if options.tune_rate is None:
            # Once: how long the refit lasts was chosen at this very rate.
            options = replace(options, tune_rate=_found_rate(work, _start(work, work.split.train, head)))
        tried["tune"] = replace(work, options=options)
    groups = len(work.backbone.groups)
    if work.side and work.deep:
        # Pictures that a teacher labelled have no features at that side.
        bank = work.bank if work.small is None or work.extra else work.small
        work = replace(work, backbone=at_side(work.backbone, work.side), bank=bank)
    for name, deep in list(DEEP.items())[: work.deep]:
        wanted = replace(
            options,
            unfreeze=math.ceil(deep.share * groups),
            tune_rate=deep.rate,
            decay=deep.decay,
            augmentation=min(MAX_STRENGTH, deep.strength * options.augmentation),
            tune_epochs=deep_epochs(options, len(work.split.fit) + len(work.split.validation)),
            patience=None,
        )
        # Other views every epoch, read anew: what all layers learn from three views they learn by heart.
        tried[name] = replace(work, options=wanted, bank=replace(work.bank, cuts=None), fold=True)
    return tried


def _shortlist(
    tried: Mapping[str, Workshop],
    head: Head,
    head_loss: float,
    stages: dict[str, FitResult],
    pristine: Mapping[str, Tensor],
) -> Iterator[tuple[str, Workshop]]:
    """The cheap tuning, and the best deep one: by successive halving (Jamieson and Talwalkar 2016) with one rung.

    Each deep one goes a few epochs of its whole schedule, from which the best goes on to its end, unless it is hopeless
    after a third of it.
    """
    deep = [name for name in tried if name in DEEP]
    best = deep[0] if deep else ""
    if len(deep) > 1:
        losses = {}
        for name in deep:
            work = tried[name]
            work.backbone.load_state_dict(pristine)
            split = work.split
            start = _start(work, split.train, head)
            _, stages[name] = fit_tune(work, start, split.train, split.selection, name, RUNG_EPOCHS)
            # Of a run that is gone on with, the best one has more epochs by now.
            losses[name] = min(entry["validation_loss"] for entry in stages[name].history[:RUNG_EPOCHS])
        best = min(losses, key=lambda name: losses[name])
        told = ", ".join(f"{loss:.4f} {DEEP[name].words}" for name, loss in losses.items())
        tried[best].progress.note(f"after {RUNG_EPOCHS} epochs: {told}; going on {DEEP[best].words}")
    for name, work in tried.items():
        if name not in DEEP:
            yield name, work
        elif name == best:
            split, going_on = work.split, replace(work, options=replace(work.options, resume=True))
            work.backbone.load_state_dict(pristine)
            third = max(RUNG_EPOCHS, math.ceil(work.options.tune_epochs / 3))
            start = _start(work, split.train, head)
            _, stages[name] = fit_tune(
                going_on if len(deep) > 1 else work, start, split.train, split.selection, name, third
            )
            reached = min(entry["validation_loss"] for entry in stages[name].history[:third])
            if work.patient or reached <= _HOPELESS * max(head_loss, _SMALL_LOSS):
                yield name, going_on
            else:
                work.progress.note(
                    f"{DEEP[name].words}: a selection loss of {reached:.4f} after {third} epochs, {head_loss:.4f} with "
                    "the base frozen; given up"
                )


def deep_epochs(options: ClassifierOptions, pictures: int) -> int:
    """How long every layer is fine-tuned: the more pictures, the fewer times each is seen, and the more in all.

    On sign digits (development part, one seed): 20 of each, 12 epochs, 94.9 %; 50 of each, 8 epochs, 99.4 %.
    """
    fewer = min(1.0, math.sqrt(_WHOLE_EPOCHS_TO / pictures))
    return max(RUNG_EPOCHS, math.ceil(DEEP_EPOCHS * options.tune_epochs * fewer))


def _start(work: Workshop, train: Sequence[int], head: Head) -> Head:
    """What fine-tuning begins with: a head whose logits are those of chances, for pictures as large as it sees."""
    at_that_size = work.small is not None and work.bank.features is work.small.features
    if work.options.head != HEADS[0] or at_that_size:
        return _solved(work, train, None, HEADS[0])[0]
    return copy.deepcopy(head)


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
    epochs = options.epochs or HEAD_EPOCHS
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
        wanted = replace(wanted, patience=min(options.patience, TUNE_PATIENCE))
    result = fit(ClassifierModule(net, head, groups, how), make, wanted, work.progress)
    unfolded(learning, backbone)
    backbone.unfreeze(0)
    return head, result


def _tuning(work: Workshop, train: Sequence[int], selection: Sequence[int] | None) -> tuple[nn.Module, MakeLoaders]:
    """What learns in fine-tuning and what it learns from: cached maps, or the pictures themselves."""
    cuts = work.bank.cuts
    if cuts is None:
        net = work.backbone if work.styles is None else StyledBackbone(work.backbone, work.styles)
        return net, _picture_loaders(work, train, selection)
    return UpperPart(work.backbone, work.options.unfreeze), _cached_loaders(work, cuts, train, selection)


def _found_rate(work: Workshop, head: Head) -> float:
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


def predict(model: TransferClassifier, paths: Sequence[Path], device: str = "cpu", batch: int = 16) -> Floats:
    """(N, C) logits of pictures, read and prepared as serving does."""
    model = model.to(device).eval()
    rows: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(paths), batch):
            seen = [
                prepare(read_picture(p), model.backbone.input, model.backbone.crop)
                for p in paths[start : start + batch]
            ]
            images = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).to(device)
            rows.append(model(normalize(images, model.backbone.input)).float().cpu())
    model.to("cpu")
    return torch.cat(rows).double().numpy()


def is_taken(lost: Floats, kept: Floats, *, unless_worse: bool) -> bool:
    """Whether a tuning that lost so much on each picture of the selection part (N,) is taken before what lost `kept`.

    `unless_worse`: also where it lost more, by no more than two standard errors. Where the frozen base names much
    wrongly, fine-tuning wins mostly: of one draw of 20 sign digits of each it lost 0.53 against 0.48 on 30
    pictures, and named 94.3 % of 475 others rightly (development part), the frozen base about 80.
    """
    worse = lost - kept
    error = float(worse.std(ddof=1)) / math.sqrt(len(worse)) if unless_worse and len(worse) > 1 else 0.0
    return bool(worse.mean() < NEAR * error)


def _on_selection(work: Workshop, logits: Floats) -> tuple[float, Floats]:
    """Temperature, and (N,) losses at it of the selection part's logits, which neither weights nor the report know."""
    labels = work.folder.labels[list(work.split.selection)]
    temperature = fit_temperature(logits, labels)
    chances = np.asarray(softmax(logits, temperature))[np.arange(len(labels)), labels]
    return temperature, np.asarray(-np.log(np.maximum(chances, 1e-12)))


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


def hard_targets(folder: PictureFolder) -> Tensor:
    """(N, C) one-hot targets of a folder."""
    return one_hot(torch.from_numpy(folder.labels.astype(np.int64)), len(folder.classes))
