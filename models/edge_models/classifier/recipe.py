"""Trains a classifier: head on cached features, then fine-tuning from the top, then a refit that is judged once."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from torch import Tensor

from edge_app.core.numeric import softmax
from edge_models.classifier.heads import Floats, fit_temperature, logits_of
from edge_models.classifier.network import Head, TransferClassifier, predict
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.stages import Workshop, fit_head, fit_tune, found_rate, tuning_head
from edge_models.data.augment import MAX_STRENGTH
from edge_models.fitting.fit import FitResult
from edge_models.networks.backbones import at_side


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
_DEEP_EPOCHS: Final = 1.5
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
        tuned, stages[name] = _tuned(trial, pristine, head, split.train, split.selection, name)
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
        stage = f"refit-{chosen}"
        tuned, stages[stage] = _tuned(tuning, pristine, refit_head, split.fit, None, stage, until)
        judged = TransferClassifier(tuning.backbone, tuned)
        logits = predict(judged, [work.paths[i] for i in split.validation], options.machine.accelerator)
    model = judged
    if not options.keep_out and not work.folder.has_test:
        everything = tuple(sorted(split.fit + split.validation))
        tuning = replace(tuning, backbone=copy.deepcopy(tuning.backbone))
        tuning.backbone.load_state_dict(pristine)
        head, stages["final-head"] = fit_head(work, everything, None, "final-head")
        if until:
            stage = f"final-{chosen}"
            head, stages[stage] = _tuned(tuning, pristine, head, everything, None, stage, until)
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
            options = replace(options, tune_rate=found_rate(work, tuning_head(work, work.split.train, head)))
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
            split = tried[name].split
            _, stages[name] = _tuned(tried[name], pristine, head, split.train, split.selection, name, RUNG_EPOCHS)
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
            third = max(RUNG_EPOCHS, math.ceil(work.options.tune_epochs / 3))
            begun = going_on if len(deep) > 1 else work
            _, stages[name] = _tuned(begun, pristine, head, split.train, split.selection, name, third)
            reached = min(entry["validation_loss"] for entry in stages[name].history[:third])
            if work.patient or reached <= _HOPELESS * max(head_loss, _SMALL_LOSS):
                yield name, going_on
            else:
                work.progress.note(
                    f"{DEEP[name].words}: a selection loss of {reached:.4f} after {third} epochs, {head_loss:.4f} with "
                    "the base frozen; given up"
                )


def _tuned(
    work: Workshop,
    pristine: Mapping[str, Tensor],
    head: Head,
    train: Sequence[int],
    selection: Sequence[int] | None,
    stage: str,
    until: int | None = None,
) -> tuple[Head, FitResult]:
    """Fine-tune from the network as it was before any stage, and from `head`."""
    work.backbone.load_state_dict(pristine)
    return fit_tune(work, tuning_head(work, train, head), train, selection, stage, until)


def deep_epochs(options: ClassifierOptions, pictures: int) -> int:
    """How long every layer is fine-tuned: the more pictures, the fewer times each is seen, and the more in all.

    On sign digits (development part, one seed): 20 of each, 12 epochs, 94.9 %; 50 of each, 8 epochs, 99.4 %.
    """
    fewer = min(1.0, math.sqrt(_WHOLE_EPOCHS_TO / pictures))
    return max(RUNG_EPOCHS, math.ceil(_DEEP_EPOCHS * options.tune_epochs * fewer))


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
