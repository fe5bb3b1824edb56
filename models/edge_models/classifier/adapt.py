"""From a labelled domain to one without labels: batch-norm statistics, CORAL, self-training, DANN."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.heads import fit_temperature, solve_head
from edge_models.classifier.network import TransferClassifier, predict
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.recipe import Trained, train
from edge_models.classifier.scratch import RATE, train_every_layer
from edge_models.classifier.stages import Workshop
from edge_models.data.batch_views import BatchViews, plain_views
from edge_models.data.pool import read_pool
from edge_models.networks.backbone import Backbone, normalize
from edge_models.networks.small_resnet import PREFIX

_LEAST: Final = 16
_STEPS: Final = 300
_BATCH: Final = 32
_TARGETS: Final = 64
"""Pictures of the target in a step of self-training: their guesses' mean has to be steady."""
_SURE: Final = 0.9
"""A guess is learned from where it is as sure as this share of how sure labelled pictures are (AdaMatch's)."""
_FAR: Final = 0.995
"""From this share of pictures told apart on, the user hears of it."""


def train_adapted(work: Workshop, target: Path) -> Trained:
    """Train on the labelled folder, then adapt to the pictures of `target`, whose labels nobody knows.

    The network that ships is the adapted one that was judged. Pictures of the target that judge are left out
    and told. Raises UsageError where too few are left.
    """
    options, device = work.options, work.options.machine.accelerator
    files = _target(work, target)
    every = work.backbone.name.startswith(PREFIX)
    if options.adapt_by in ("self-training", "dann") and not every:
        raise UsageError(
            f"--adapt-by {options.adapt_by} beside {work.backbone.name}",
            expected="a network whose every layer learns: --from-scratch, or --from a small one",
            remedy="--adapt-by coral or batch-norm, or --unlabelled for pseudo-labels",
        )
    base = (train_every_layer if every else train)(replace(work, options=replace(options, keep_out=True)))
    network = copy.deepcopy(base.judged)
    spec, crop = network.backbone.input, network.backbone.crop
    here = plain_views([work.paths[i] for i in work.split.fit], spec, crop)
    there = plain_views(files, spec, crop)
    classes, folders = list(work.folder.classes), [path.parent.name for path in files]
    truth = np.array([classes.index(name) for name in folders]) if set(folders) <= set(classes) else None
    targets = work.targets[list(work.split.fit)]
    apart = _distance(network.backbone, here, there)
    before_there = _chances(network, there)
    adapt_network(network, (here, targets), there, work)
    selection = predict(network, [work.paths[i] for i in work.split.selection], device)
    temperature = fit_temperature(selection, work.folder.labels[list(work.split.selection)])
    logits = predict(network, [work.paths[i] for i in work.split.validation], device)
    labels = work.folder.labels[list(work.split.validation)]
    before, after = (float((found.argmax(1) == labels).mean()) for found in (base.logits, logits))
    where = "of the test part" if work.folder.has_test else "of the labelled domain, which say little of the other"
    after_there = _chances(network, there)
    tells = told_apart(before_there), told_apart(after_there)
    told = f"{tells[0]:.2f} of 1 without, {tells[1]:.2f} with"
    if truth is not None:
        rights = [float((found.argmax(1) == truth).mean()) for found in (before_there, after_there)]
        told += f"; {rights[0]:.1%} without and {rights[1]:.1%} with lie in the folder of their class"
    work.progress.note(f"how much guesses tell of pictures of {target.name} (mutual information): {told}")
    work.progress.note(
        f"adapted to {len(files)} pictures of {target.name} by {options.adapt_by}: {before:.1%} without, {after:.1%} "
        f"with, on {len(labels)} pictures {where}"
    )
    if tells[1] < tells[0]:
        work.progress.note(f"{options.adapt_by} made the guesses at {target.name} less sure or less even, a sign that "
                           "it went wrong: try another --adapt-by")  # fmt: skip
    if apart > _FAR:
        work.progress.note(f"{target.name} is told apart from the labelled pictures in {apart:.0%} of cases: these "
                           "domains share little, and what is adapted may be worse")  # fmt: skip
    return Trained(network, network, "adapted", temperature, base.stages, base.logits, logits)


def adapt_network(network: TransferClassifier, source: tuple[Tensor, Tensor], target: Tensor, work: Workshop) -> None:
    """Adapt a network in place by --adapt-by: `source` images (N, 3, H, W) uint8 and their targets (N, C), `target`
    images of the other domain."""
    how, (here, targets) = work.options.adapt_by, source
    if how == "coral":
        seen = coral(_features(network.backbone, here), _features(network.backbone, target))
        network.head = solve_head(seen, targets, work.options.ridge)
    else:
        adopt_statistics(network.backbone, target)
        if how != "batch-norm":
            _learn_both(network, source, target, work)
            adopt_statistics(network.backbone, target)
    network.eval()


def adopt_statistics(backbone: Backbone, images: Tensor) -> None:
    """Adaptive batch norm (Li et al. 2018, arXiv 1603.04779): means and variances of these (N, 3, H, W) uint8."""
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    backbone.eval()
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        for part in torch.split(images, 128):
            if len(part) > 1:
                backbone(normalize(part, backbone.input))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    backbone.eval()


def coral(source: Tensor, target: Tensor) -> Tensor:
    """CORAL (Sun et al. 2016, arXiv 1511.05547): the source's features (N, D) with the target's mean and covariance."""

    def root(features: Tensor, power: float) -> Tensor:
        centred = features.double() - features.double().mean(0)
        scale = centred.square().mean()
        covariance = centred.T @ centred / (len(features) - 1) + 0.1 * scale * torch.eye(features.shape[1]).double()
        values, vectors = torch.linalg.eigh(covariance)
        made: Tensor = vectors @ torch.diag(values.clamp(min=1e-12) ** power) @ vectors.T
        return made

    white = (source.double() - source.double().mean(0)) @ root(source, -0.5)
    return (white @ root(target, 0.5) + target.double().mean(0)).float()


def strong_views(options: ClassifierOptions) -> BatchViews:
    """What the target's pictures look like where their own guesses are the labels."""
    much = options.augmentation
    return BatchViews(
        max(0.1, 1 - 0.3 * much), 0.2 * much, mirror=options.mirror, turn=12 * much, slant=0.2 * much, zoom=0.35 * much,
        bend=0.045 * much, hole=0.3 if much else 0.0,
    )  # fmt: skip


def aligned(chances: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
    """Distribution alignment (Berthelot et al. 2020, arXiv 1911.09785): chances (N, C) of a domain whose guesses have
    the shares `seen` (C,), as they would be were the shares those that are `wanted`."""
    made = chances * (wanted / seen.clamp(min=1e-6))
    return made / made.sum(1, keepdim=True)


def unsure_or_uneven(logits: Tensor, wanted: Tensor) -> Tensor:
    """Information maximisation (Liang et al. 2020, arXiv 2002.08546): the mean entropy of what logits (N, C) say, and
    how far their mean lies from the shares `wanted` (C,); 0 where each is sure and all together are as wanted."""
    chances = logits.softmax(1)
    mean = chances.mean(0)
    entropy = -(chances * logits.log_softmax(1)).sum(1).mean()
    return entropy + (mean * (mean.clamp(min=1e-9) / wanted.clamp(min=1e-9)).log()).sum()


def told_apart(chances: NDArray[np.float64]) -> float:
    """How much guesses (N, C) tell of a picture, 0 to 1: their mutual information with it, over the most that there is.

    It needs no labels: 1 where each guess is sure and the classes are as frequent as each other.
    """
    mean = chances.mean(0)
    return float(((chances * np.log(chances + 1e-12)).sum(1).mean() - (mean * np.log(mean + 1e-12)).sum())
                 / np.log(chances.shape[1]))  # fmt: skip


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return -ctx.strength * gradients[0], None


def _learn_both(network: TransferClassifier, source: tuple[Tensor, Tensor], target: Tensor, work: Workshop) -> None:
    """Go on learning every layer from batches of both domains.

    DANN (Ganin et al. 2016, arXiv 1505.07818): a second head tells the domains apart, and the layers below learn to
    prevent it. Self-training: what is guessed of one view of a target's picture is the label of another, much changed
    one, where the guess is sure (AdaMatch: Berthelot et al. 2021, arXiv 2106.04732), and beside that guesses are to be
    sure and as frequent as the labelled classes. Without the latter a network that reads few sevens reads fewer.
    """
    backbone, head, options = network.backbone, network.head, work.options
    dann = options.adapt_by == "dann"
    images, targets = source
    shares = targets.mean(0)
    torch.manual_seed(options.seed)
    draw = torch.Generator().manual_seed(options.seed)
    teller = nn.Sequential(nn.Linear(backbone.features, 64), nn.ReLU(), nn.Linear(64, 1))
    learning = [parameter for part in (backbone, head, teller) for parameter in part.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning, lr=RATE / 2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    weak = BatchViews(max(0.1, 1 - 0.5 * options.augmentation), 0.3 * options.augmentation, mirror=options.mirror)
    view = weak if dann else strong_views(options)
    seen, sure = shares, torch.zeros(())
    # On a CPU with bf16 units a step takes half the time.
    half = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    backbone.train()
    head.train()
    work.progress.stage("adapting", _STEPS)
    for step in range(_STEPS):
        near = torch.randint(len(images), (_BATCH,), generator=draw)
        far = torch.randint(len(target), (_BATCH if dann else _TARGETS,), generator=draw)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            # One domain at a time, for the norms take the mean of what they see: of both at once it is neither's, and
            # what is judged later is judged with the target's.
            first, second = (
                backbone(normalize(view(part.float(), draw), backbone.input)).float()
                for part in (images[near], target[far])
            )
            if not dann:
                with torch.no_grad():
                    plain = backbone(normalize(weak(target[far].float(), draw), backbone.input)).float()
        loss = head.loss(first, targets[near])
        if dann:
            # As the paper: from nothing to full strength, so that noise does not lead at the beginning.
            strength = 2 / (1 + float(np.exp(-10 * step / _STEPS))) - 1
            guessed = teller(_Reversed.apply(torch.cat([first, second]), 0.3 * strength)).flatten()
            domain = torch.cat([torch.zeros(len(first)), torch.ones(len(second))])
            loss = loss + functional.binary_cross_entropy_with_logits(guessed, domain)
        else:
            with torch.no_grad():
                sure = sure.lerp(head(first).softmax(1).amax(1).mean(), 0.1 if step else 1.0)
                chances = head(plain).softmax(1)
                seen = seen.lerp(chances.mean(0), 0.05)
                chances, guesses = aligned(chances, seen, shares).max(1)
            logits = head(second)
            believed = (chances > _SURE * sure) * min(1.0, step / (0.3 * _STEPS))
            loss = loss + (believed * functional.cross_entropy(logits, guesses, reduction="none")).mean()
            loss = loss + unsure_or_uneven(logits, shares)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        work.progress.advance(step + 1)
    for parameter in learning:
        parameter.requires_grad_(False)
    network.eval()


def _features(backbone: Backbone, images: Tensor) -> Tensor:
    return _run(lambda part: backbone(normalize(part, backbone.input)), images)


def _chances(network: TransferClassifier, images: Tensor) -> NDArray[np.float64]:
    return probabilities(_run(lambda part: network(normalize(part, network.backbone.input)), images).double().numpy())


def _run(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([net(part).float() for part in torch.split(images, 128)]).clone()


def _distance(backbone: Backbone, here: Tensor, there: Tensor) -> float:
    """Share of pictures, half of them not learned from, whose domain a linear rule on features tells."""
    backbone.eval()
    first, second = _features(backbone, here[:512]), _features(backbone, there[:512])
    features = torch.cat([first, second])
    domain = functional.one_hot(torch.cat([torch.zeros(len(first)), torch.ones(len(second))]).long(), 2).float()
    learn = torch.arange(len(features)) % 2 == 0
    with torch.enable_grad():
        rule = solve_head(features[learn], domain[learn], 3.0)
    with torch.inference_mode():
        guesses = rule(features[~learn]).argmax(1)
    return float((guesses == domain[~learn].argmax(1)).float().mean())


def _target(work: Workshop, root: Path) -> list[Path]:
    """The pictures to adapt to, without those that judge."""
    pool = read_pool(root, work.folder, work.split.judging)
    for note in pool.notes(root):
        work.progress.note(note)
    if len(pool.files) < _LEAST:
        raise UsageError(
            f"{root} holds {counted(len(pool.files), 'picture')} to adapt to", expected=f"at least {_LEAST}",
            remedy="others than those of the labelled folder, and others than those that judge",
        )  # fmt: skip
    return [path for path, _ in pool.files]
