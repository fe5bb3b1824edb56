"""From a labelled domain to one without labels: batch-norm statistics, CORAL, self-training, DANN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.errors import MediaError, UsageError
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of_file
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.network import TransferClassifier
from edge_models.classifier.recipe import Trained, Workshop, fit_temperature, predict, solve_head, train
from edge_models.classifier.scratch import RATE, train_every_layer
from edge_models.data.batch_views import BatchViews, plain_views
from edge_models.data.checks import near_between, thumbnail_of
from edge_models.data.folder import find_unlabelled
from edge_models.networks.backbone import Backbone, normalize
from edge_models.networks.pretrained_run import pixels_hash
from edge_models.networks.small_resnet import PREFIX

_LEAST: Final = 16
_STEPS: Final = 200
_BATCH: Final = 32
_ROUNDS: Final = 3
_FAR: Final = 0.995
"""From this share of pictures told apart on, the user hears of it."""
_SHARES: Final = (0.3, 0.6, 0.9)
"""Of the target's pictures, the surest of each class first, that a round of self-training believes (Zou 2018)."""


def train_adapted(work: Workshop, target: Path) -> Trained:
    """Train on the labelled folder, then adapt to the pictures of `target`, whose labels nobody knows.

    The network that ships is the adapted one that was judged. Raises UsageError for a target with pictures that judge.
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
    targets = work.targets[list(work.split.fit)]
    apart = _distance(network.backbone, here, there)
    if options.adapt_by == "batch-norm":
        adopt_statistics(network.backbone, there)
    elif options.adapt_by == "coral":
        seen = coral(_features(network.backbone, here), _features(network.backbone, there))
        network.head = solve_head(seen, targets, options.ridge)
    elif options.adapt_by == "self-training":
        adopt_statistics(network.backbone, there)
        for share in _SHARES[:_ROUNDS]:
            at, believed = surest(_chances(network, there), share)
            work.progress.note(f"self-training: believes {len(at)} of {len(there)} pictures of {target.name}")
            _learn_both(network, (here, targets), (there[at], believed), work, dann=False)
            adopt_statistics(network.backbone, there)
    else:
        _learn_both(network, (here, targets), (there, None), work, dann=True)
        adopt_statistics(network.backbone, there)
    network.eval()
    selection = predict(network, [work.paths[i] for i in work.split.selection], device)
    temperature = fit_temperature(selection, work.folder.labels[list(work.split.selection)])
    logits = predict(network, [work.paths[i] for i in work.split.validation], device)
    labels = work.folder.labels[list(work.split.validation)]
    before, after = (float((found.argmax(1) == labels).mean()) for found in (base.logits, logits))
    where = (
        "the test part" if work.folder.has_test else "pictures of the labelled domain, which say little of the other"
    )
    work.progress.note(
        f"adapted to {len(files)} pictures of {target.name} by {options.adapt_by}: {before:.1%} without, {after:.1%} "
        f"with, on {len(labels)} of {where}"
    )
    if apart > _FAR:
        work.progress.note(f"{target.name} is told apart from the labelled pictures in {apart:.0%} of cases: these "
                           "domains share little, and what is adapted may be worse")  # fmt: skip
    return Trained(network, network, "adapted", temperature, base.stages, base.logits, logits)


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


def surest(chances: NDArray[np.float64], share: float) -> tuple[Tensor, Tensor]:
    """Rows that are believed and their soft labels: of each class the surest `share` of the pictures given to it."""
    guesses, sure = chances.argmax(1), chances.max(1)
    rows: list[int] = []
    for label in np.unique(guesses):
        members = np.flatnonzero(guesses == label)
        rows += members[np.argsort(-sure[members])][: max(1, round(share * len(members)))].tolist()
    at = torch.as_tensor(sorted(rows))
    return at, torch.from_numpy(chances[at.numpy()]).float()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None]:
        return -ctx.strength * gradients[0], None


def _learn_both(
    network: TransferClassifier,
    source: tuple[Tensor, Tensor],
    target: tuple[Tensor, Tensor | None],
    work: Workshop,
    *,
    dann: bool,
) -> None:
    """Go on learning every layer from batches that are half of each domain.

    With `dann` (Ganin et al. 2016, arXiv 1505.07818) a second head tells the domains apart and the layers below learn
    to prevent it; else the target's own soft labels are learned.
    """
    backbone, head = network.backbone, network.head
    options = work.options
    torch.manual_seed(options.seed)
    draw = torch.Generator().manual_seed(options.seed)
    teller = nn.Sequential(nn.Linear(backbone.features, 64), nn.ReLU(), nn.Linear(64, 1))
    learning = [parameter for part in (backbone, head, teller) for parameter in part.parameters()]
    for parameter in learning:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(learning, lr=RATE / 2, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    view = BatchViews(max(0.1, 1 - 0.5 * options.augmentation), 0.3 * options.augmentation, mirror=options.mirror)
    backbone.train()
    head.train()
    work.progress.stage("adapting", _STEPS)
    for step in range(_STEPS):
        parts = []
        for images, _ in (source, target):
            at = torch.randint(len(images), (_BATCH,), generator=draw)
            parts.append((at, normalize(view(images[at].float(), draw), backbone.input)))
        (near, first), (far, second) = parts
        # One domain at a time, for the norms take the mean of what they see: of both at once it is neither's, and what
        # is judged later is judged with the target's.
        features = torch.cat([backbone(first), backbone(second)])
        loss = head.loss(features[:_BATCH], source[1][near])
        if dann:
            # As the paper: from nothing to full strength, so that noise does not lead at the beginning.
            strength = 2 / (1 + float(np.exp(-10 * step / _STEPS))) - 1
            guessed = teller(_Reversed.apply(features, 0.3 * strength)).flatten()
            domain = torch.cat([torch.zeros(_BATCH), torch.ones(_BATCH)])
            loss = loss + functional.binary_cross_entropy_with_logits(guessed, domain)
        elif target[1] is not None:
            loss = loss + head.loss(features[_BATCH:], target[1][far])
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


def _target(work: Workshop, root: Path) -> Sequence[Path]:
    judging = {work.folder.pictures[i].sha256: work.folder.pictures[i] for i in work.split.validation}
    pixels = {pixels_hash(picture.path) for picture in judging.values()}
    files: list[Path] = []
    seen: list[Path] = []
    thumbs: list[NDArray[np.uint8]] = []
    for path in find_unlabelled(root):
        try:
            thumbnail = thumbnail_of(read_picture(path))
        except MediaError as error:
            work.progress.note(f"{error}; left out")
            continue
        if sha256_of_file(path) in judging or pixels_hash(path) in pixels:
            seen.append(path)
        else:
            files.append(path)
            thumbs.append(thumbnail)
    if seen:
        raise UsageError(
            f"{root} holds {len(seen)} of the pictures that judge ({', '.join(path.name for path in seen[:3])})",
            expected="pictures that nothing is judged by",
        )
    if near := {j for _, j in near_between([picture.thumbnail for picture in judging.values()], thumbs)}:
        work.progress.note(f"{root}: {len(near)} pictures that look like one that judges left out")
        files = [path for at, path in enumerate(files) if at not in near]
    if len(files) < _LEAST:
        raise UsageError(f"{root} holds {len(files)} pictures", expected=f"at least {_LEAST} to adapt to")
    return files
