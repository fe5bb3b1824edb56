"""Learns every weight of a small network: from nothing (Barz and Denzler 2020, arXiv 1901.09054), or going on from a
pretraining without labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edge_models.classifier.analysis import probabilities
from edge_models.classifier.heads import fit_temperature, logits_of, solve_head
from edge_models.classifier.module import ClassifierModule, Learning
from edge_models.classifier.network import Head, TransferClassifier, feature_scale, predict
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.recipe import KINDS, Trained
from edge_models.classifier.stages import Workshop
from edge_models.data.batch_views import BatchViews, plain_views
from edge_models.fitting.fit import BatchKey, EpochBatches, FitOptions, FitResult, Loaders, fit, loader
from edge_models.fitting.seeds import seed_of
from edge_models.networks.backbone import Backbone, normalize

RATE: Final = 2e-3
"""AdamW's peak, of every layer; cosine schedule."""
ON_RATE: Final = 5e-4
"""The same where a pretraining is gone on with: what it learned is not to be overwritten."""
LEAST_STEPS: Final = 600
"""Batches that learning from random weights takes at the least: few pictures are shown more often in an epoch, each of
which has a price of its own (its state goes to the disk)."""
LEAST_EPOCHS: Final = 20


class ViewsInMemory(Dataset[Any]):
    """Batches of pictures held in memory: random views of them, or the plain ones where there is no `view`."""

    def __init__(
        self, images: Tensor, targets: Tensor, backbone: Backbone, view: BatchViews | None, seed: int, times: int = 1
    ) -> None:
        """`images` (N, 3, H, W) uint8, `targets` (N, C); each picture is shown `times` in an epoch."""
        self._images, self._targets, self._view, self._seed = images, targets, view, seed
        self._spec, self._times = backbone.input, times

    def __len__(self) -> int:
        """Pictures, as often as they are shown."""
        return len(self._images) * self._times

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """Normalized inputs (n, 3, H, W) and targets (n, C)."""
        epoch, positions = key
        at = torch.as_tensor(positions) % len(self._images)
        images = self._images[at]
        if self._view is not None:
            draw = torch.Generator().manual_seed(seed_of(self._seed, epoch, positions[0]))
            images = self._view(images.float(), draw)
        return normalize(images, self._spec), self._targets[at]


def train_every_layer(work: Workshop) -> Trained:
    """As `edge_models.classifier.recipe.train`, for a small network whose weights are random or pretrained without
    labels: every layer learns at one rate, or the head alone where the selection part says that this is better.

    `--tune-epochs` is the least number of epochs.
    """
    split, options = work.split, work.options
    pristine = copy.deepcopy(work.backbone.state_dict())
    images = plain_views(work.paths, work.backbone.input, work.backbone.crop)
    epochs = epochs_of(options)
    stages: dict[str, FitResult] = {}

    def base_head(at: Sequence[int]) -> Head:
        return solve_head(work.bank.plain[list(at)], work.targets[list(at)], options.ridge)

    tuned, stages["scratch"] = fit_all(work, images, split.train, split.selection, "scratch", epochs)
    device = options.machine.accelerator
    seen = [work.paths[i] for i in split.selection]
    told: dict[str, tuple[float, float]] = {}
    for name, logits in (
        ("head", logits_of(base_head(split.train), work.bank.plain[list(split.selection)])),
        ("scratch", predict(TransferClassifier(work.backbone, tuned), seen, device)),
    ):
        labels = work.folder.labels[list(split.selection)]
        temperature = fit_temperature(logits, labels)
        chances = probabilities(logits, temperature)[np.arange(len(labels)), labels]
        told[name] = float(-np.log(np.maximum(chances, 1e-12)).mean()), temperature
    chosen = min(told, key=lambda name: told[name][0])
    until = stages["scratch"].best_epoch + 1
    words = ", ".join(f"{loss:.4f} {KINDS[name]}" for name, (loss, _) in told.items())
    work.progress.note(f"selection loss: {words} ({until} of {epochs} epochs); keeping the network {KINDS[chosen]}")
    work.backbone.load_state_dict(pristine)
    head = base_head(split.fit)
    head_logits = logits = logits_of(head, work.bank.plain[list(split.validation)])
    if chosen == "scratch":
        head, stages["refit-scratch"] = fit_all(work, images, split.fit, None, "refit-scratch", epochs, until)
        judged = TransferClassifier(work.backbone, head)
        logits = predict(judged, [work.paths[i] for i in split.validation], device)
    judged = TransferClassifier(work.backbone, head)
    model = judged
    if not options.keep_out and not work.folder.has_test:
        everything = tuple(sorted(split.fit + split.validation))
        work = replace(work, backbone=copy.deepcopy(work.backbone))
        work.backbone.load_state_dict(pristine)
        head = base_head(everything)
        if chosen == "scratch":
            head, stages["final-scratch"] = fit_all(work, images, everything, None, "final-scratch", epochs, until)
        model = TransferClassifier(work.backbone, head)
    return Trained(model, judged, chosen, told[chosen][1], stages, head_logits, logits)


def epochs_of(options: ClassifierOptions) -> int:
    """How long every layer learns."""
    return max(options.tune_epochs, LEAST_EPOCHS)


def fit_all(
    work: Workshop,
    images: Tensor,
    train: Sequence[int],
    selection: Sequence[int] | None,
    stage: str,
    epochs: int,
    until: int | None = None,
) -> tuple[Head, FitResult]:
    """Train a new head and every layer of `work.backbone`, in place, on `images` (rows as the bank's).

    `until` stops after so many epochs of the same schedule; without `selection` nothing is watched.
    """
    options, backbone = work.options, work.backbone
    torch.manual_seed(options.seed)
    pretrained = options.from_run is not None
    if pretrained and options.solvable:
        # From a head that fits already, layers below it are bent less (Kumar et al. 2022, arXiv 2202.10054).
        head = solve_head(work.bank.plain[list(train)], work.targets[list(train)], options.ridge)
    else:
        head = Head(backbone.features, work.classes, options.loss_word, options.dropout)
        head.scale.fill_(feature_scale(work.bank.plain))
    groups = backbone.unfreeze(len(backbone.groups))
    how = Learning(
        ON_RATE if pretrained else RATE,
        epochs,
        1.0,
        smoothing=options.smoothing,
        mixing=options.mixing_word,
        weight_decay=0.05,
    )
    view = BatchViews(max(0.1, 1 - 0.5 * options.augmentation), 0.3 * options.augmentation, mirror=options.mirror)
    at, judged = list(train), list(selection or ())
    times = max(1, round(LEAST_STEPS * options.batch_size / (epochs * len(at))))
    learn = ViewsInMemory(images[at], work.targets[at], backbone, view, options.seed, times)
    watch = ViewsInMemory(images[judged], work.targets[judged], backbone, None, options.seed)

    def make(size: int) -> Loaders:
        batches = EpochBatches(len(learn), size, options.seed)
        watched = EpochBatches(len(watch), 4 * size, options.seed, shuffle=False)
        machine = options.machine
        return Loaders(loader(learn, batches, machine), loader(watch, watched, machine) if judged else None)

    wanted = FitOptions(
        options.output, stage, until or epochs, options.seed, options.batch_size, options.machine,
        resume=options.resume, log=options.log_word,
    )  # fmt: skip
    # Lightning leaves modules in the mode it finds: in evaluation mode the norms learn nothing, nor does the network.
    backbone.train()
    head.train()
    result = fit(ClassifierModule(backbone, head, groups, how), make, wanted, work.progress)
    backbone.unfreeze(0)
    backbone.eval()
    return head, result
