"""Learns every weight of a small network from the folder alone (Barz and Denzler 2020, arXiv 1901.09054)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from edge_models.classifier.module import ClassifierModule, Learning
from edge_models.classifier.network import Head, TransferClassifier, feature_scale
from edge_models.classifier.recipe import Trained, Workshop, fit_temperature, logits_of, predict, solve_head
from edge_models.data.batch_views import BatchViews, plain_views
from edge_models.fitting.fit import BatchKey, EpochBatches, FitOptions, FitResult, Loaders, fit, loader
from edge_models.fitting.seeds import seed_of
from edge_models.networks.backbone import Backbone, normalize

RATE: Final = 2e-3
"""AdamW's peak, of every layer; cosine schedule."""
LEAST_STEPS: Final = 600
"""Batches that learning from random weights takes at the least: few pictures are shown more often in an epoch, for
what an epoch costs beside its batches (its state goes to the disk) was ten times theirs with 25 pictures."""
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


def train_from_scratch(work: Workshop) -> Trained:
    """As `edge_models.classifier.recipe.train`, from random weights: the selection part chooses when to stop.

    `--tune-epochs` is the least number of epochs. The head on the untrained base is what it is held against.
    """
    split, options = work.split, work.options
    pristine = copy.deepcopy(work.backbone.state_dict())
    images = plain_views(work.paths, work.backbone.input, work.backbone.crop)
    epochs = max(options.tune_epochs, LEAST_EPOCHS)
    untrained = solve_head(work.bank.plain[list(split.fit)], work.targets[list(split.fit)], options.ridge)
    head_logits = logits_of(untrained, work.bank.plain[list(split.validation)])
    stages: dict[str, FitResult] = {}
    head, stages["scratch"] = fit_all(work, images, split.train, split.selection, "scratch", epochs)
    device = options.machine.accelerator
    by_selection = predict(TransferClassifier(work.backbone, head), [work.paths[i] for i in split.selection], device)
    temperature = fit_temperature(by_selection, work.folder.labels[list(split.selection)])
    until = stages["scratch"].best_epoch + 1
    work.progress.note(f"from scratch: the weights after {until} of {epochs} epochs were best on the selection part")
    work.backbone.load_state_dict(pristine)
    head, stages["refit-scratch"] = fit_all(work, images, split.fit, None, "refit-scratch", epochs, until)
    judged = TransferClassifier(work.backbone, head)
    logits = predict(judged, [work.paths[i] for i in split.validation], device)
    model = judged
    if not options.keep_out and not work.folder.has_test:
        work = replace(work, backbone=copy.deepcopy(work.backbone))
        work.backbone.load_state_dict(pristine)
        everything = tuple(sorted(split.fit + split.validation))
        head, stages["final-scratch"] = fit_all(work, images, everything, None, "final-scratch", epochs, until)
        model = TransferClassifier(work.backbone, head)
    return Trained(model, judged, "scratch", temperature, stages, head_logits, logits)


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
    head = Head(backbone.features, work.classes, options.loss_word, options.dropout)
    head.scale.fill_(feature_scale(work.bank.plain))
    groups = backbone.unfreeze(len(backbone.groups))
    how = Learning(RATE, epochs, 1.0, smoothing=options.smoothing, mixing=options.mixing_word, weight_decay=0.05)
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
    result = fit(ClassifierModule(backbone, head, groups, how), make, wanted, work.progress)
    backbone.unfreeze(0)
    return head, result
