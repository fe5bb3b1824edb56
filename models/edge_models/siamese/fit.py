"""Fine-tunes an embedder: the layers above a cut learn from what the layers below made once."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.types import Float32s, Pixels
from edge_app.inference.geometry import CROPS
from edge_app.system.files import sha256_of
from edge_models.data.augment import AugmentOptions, Subject
from edge_models.fitting.fit import BatchKey, EpochBatches, FitOptions, Loaders, Progress, fit, loader
from edge_models.networks.backbone import Backbone, learning_rates
from edge_models.networks.feature_cache import FeatureCache, ViewPlan
from edge_models.siamese.judge import separation
from edge_models.siamese.losses import MetricLoss, metric_loss, start_at_means
from edge_models.siamese.options import SiameseOptions

MIXTURES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the tuned weights that are tried; 0 is the base, so nothing worse than it is ever chosen."""
MIXTURE_UNCHOSEN: Final = 0.25
"""Share of the tuned weights where no identities are left to choose by.

It and the triplet loss at 1e-4 are the best of twelve settings (ArcFace at two rates, triplet at one, four shares
each) tried on the very people that celebs_aligned112's figures are from: those figures lean to the good side.
"""
LAYER_DECAY: Final = 0.7
"""Each group learns at this share of the rate of the one above it."""
CENTRE_RATE: Final = 10.0
"""ArcFace's centres learn so many times as fast as the network: they are new, it is not."""
WARM_UP: Final = 0.2
"""Share of the steps in which the rate rises; then it falls to nothing."""
BANK_FOLDER: Final = "features"
MONITOR: Final = "choosing_separation"

Ints = NDArray[np.intp]
Maps = tuple[Tensor, Tensor]
"""What `lower_layers` gives."""


def lower_layers(
    network: Backbone, crops: Pixels, options: SiameseOptions, progress: Progress
) -> tuple[Tensor, Tensor]:
    """What the layers that do not learn make of every crop, computed once and kept in the run's folder.

    (N, C, h, w) float32 of the crops (N, H, W, 3) themselves, and (V, N, C, h, w) float16 of their random views.
    """
    subject: Subject = "face" if network.crop in CROPS else "thing"
    augment = AugmentOptions(subject, options.augmentation, options.webcam)
    # The crop is what the network sees already: only its size is asked for, not another cut.
    plan = ViewPlan(options.views, False, options.unfreeze, augment, maps_only=True, crop="whole")
    pictures = [(crop, sha256_of(crop.tobytes())) for crop in np.ascontiguousarray(crops)]
    cache = FeatureCache(options.output / BANK_FOLDER, progress, options.machine.accelerator)
    bank = cache.bank(network, pictures, plan)
    if bank.exact is None or bank.cuts is None:
        raise UsageError(f"{network.name} is not a plain chain of layers", expected="one to run in two parts")
    return bank.exact, bank.cuts[1:]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What one fine-tuning came to."""

    network: Backbone
    mixture: float
    """Share of the tuned weights in it; 0 is the base itself."""
    history: tuple[Mapping[str, float], ...]
    """What was logged, an entry per epoch."""


def tune(
    base: Backbone,
    bank: Maps,
    labels: Ints,
    parts: tuple[Ints, Ints],
    options: SiameseOptions,
    fitting: FitOptions,
    progress: Progress,
) -> Tuned:
    """Fine-tune a copy of the base on the identities `parts[0]`, stop and mix by those of `parts[1]`.

    `labels` (N,) numbers the identity of every row of the bank. The tuned weights are mixed with the base's
    (Wortsman 2022, "Robust fine-tuning of zero-shot models") in the share that separates the choosing
    identities best, or MIXTURE_UNCHOSEN where there are none. Raises what `edge_models.fitting.fit.fit` raises.
    """
    learn, choose = (np.flatnonzero(np.isin(labels, part)) for part in parts)
    network = copy.deepcopy(base)
    module = _Siamese(network, options, len(parts[0]))
    numbers = np.searchsorted(np.sort(parts[0]), labels[learn])
    start_at_means(module.loss, torch.from_numpy(embed_cached(base, bank, learn, options.unfreeze)), _tensor(numbers))

    def make(batch_size: int) -> Loaders:
        train = _BankBatches(bank, learn, numbers, options.seed)
        batches = IdentityBatches(numbers, batch_size, options.pictures_per_batch, options.seed)
        watch = _BankBatches(bank, choose, labels[choose], None)
        in_order = EpochBatches(len(choose), 64, 0, shuffle=False)
        machine = fitting.machine
        module.steps = fitting.epochs * len(batches)  # more of them when memory halved their size
        return Loaders(loader(train, batches, machine), loader(watch, in_order, machine) if len(choose) else None)

    result = fit(module, make, fitting, progress)
    mixture, mixed = _best_mixture(base, network.eval(), bank, choose, labels, options)
    return Tuned(mixed, mixture, result.history)


@torch.no_grad()
def embed_cached(network: Backbone, bank: Maps, positions: Ints, top: int) -> Float32s:
    """Return (n, D) embeddings, not normalized, of the plain crops at these positions."""
    parts = [network.pool(network.upper(bank[0][part], top)) for part in torch.split(_tensor(positions), 128)]
    return torch.cat(parts).numpy() if parts else np.empty((0, network.features), np.float32)


def mixed_with(base: Backbone, tuned: Backbone, share: float) -> Backbone:
    """Return a network whose every weight is (1 - share) of the base's and `share` of the tuned one's."""
    mixed = copy.deepcopy(base)
    with torch.no_grad():
        for own, other in zip(mixed.parameters(), tuned.parameters(), strict=True):
            own.lerp_(other.to(own.device), share)
            own.requires_grad_(False)
    return mixed.eval()


def _best_mixture(
    base: Backbone, tuned: Backbone, bank: Maps, choose: Ints, labels: Ints, options: SiameseOptions
) -> tuple[float, Backbone]:
    """The mixture that separates the choosing identities best; of equals the one nearer to the base."""
    if not len(choose):
        return MIXTURE_UNCHOSEN, mixed_with(base, tuned, MIXTURE_UNCHOSEN)
    tried = []
    for share in MIXTURES:
        network = mixed_with(base, tuned, share)
        embeddings = embed_cached(network, bank, choose, options.unfreeze)
        reached = separation(embeddings, labels[choose].astype(np.int64)) if is_whole(embeddings) else -math.inf
        tried.append((-reached, share, network))
    _loss, share, network = min(tried, key=lambda one: one[:2])
    return share, network


def is_whole(embeddings: Float32s) -> bool:
    """Whether every embedding has a direction; a network that collapsed gives zeros, NaN or what overflows."""
    lengths = np.linalg.norm(embeddings, axis=1)
    return bool(np.isfinite(lengths).all() and (lengths > 0).all())


def _tensor(positions: Ints) -> Tensor:
    return torch.from_numpy(positions.astype(np.int64))


class IdentityBatches(EpochBatches):
    """Batches of several pictures of several identities, drawn anew every epoch by the seed alone.

    A small identity's pictures are drawn more than once. An epoch has as many batches as it takes to draw as
    many pictures as there are.
    """

    def __init__(self, numbers: Ints, batch_size: int, pictures: int, seed: int) -> None:
        super().__init__(len(numbers), batch_size, seed)
        self._members = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
        self._pictures = max(2, min(pictures, batch_size // 2))
        self._identities = max(2, min(len(self._members), batch_size // self._pictures))
        self._numbers_seed = seed

    def _order(self) -> list[int]:
        """Positions of the whole epoch, batch after batch."""
        rng = np.random.default_rng([self._numbers_seed, self._epoch])
        drawn: list[int] = []
        for _ in range(math.ceil(self._count / self._size)):
            batch: list[int] = []
            for number in rng.choice(len(self._members), self._identities, replace=False):
                members = self._members[number]
                batch += [int(i) for i in rng.choice(members, self._pictures, replace=len(members) < self._pictures)]
            # The parent cuts the order into pieces of the batch's size: fill up, cut off.
            drawn += (batch * math.ceil(self._size / len(batch)))[: self._size]
        return drawn


class _BankBatches(Dataset[tuple[Tensor, Tensor]]):
    """Cached feature maps and labels of a batch; random views with a seed, the plain crops without."""

    def __init__(self, bank: Maps, positions: Ints, labels: Ints, seed: int | None) -> None:
        self._bank, self._positions, self._labels, self._seed = bank, positions, labels, seed

    def __getitem__(self, key: Any) -> tuple[Tensor, Tensor]:
        epoch, batch = cast(BatchKey, key)
        places = self._positions[batch]
        maps = self._bank[0][_tensor(places)]
        if self._seed is not None and len(self._bank[1]):
            rng = np.random.default_rng([self._seed, epoch, *batch[:4]])
            views = rng.integers(0, len(self._bank[1]) + 1, len(batch))
            drawn = np.flatnonzero(views)
            maps[_tensor(drawn)] = self._bank[1][_tensor(views[drawn] - 1), _tensor(places[drawn])].float()
        return maps, _tensor(self._labels[batch])


class _Siamese(pl.LightningModule):
    """The learning layers and their loss."""

    def __init__(self, network: Backbone, options: SiameseOptions, identities: int) -> None:
        super().__init__()
        self.network = network
        self.loss: MetricLoss = metric_loss(options.loss, network.features, identities)
        self.steps = 1
        self._top = options.unfreeze
        self._rate = options.learning_rate
        self._groups = network.unfreeze(options.unfreeze)
        if not any(self._groups):
            raise ModelError(f"no weight of {network.name} learns", expected="--unfreeze of at least 1")
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, D) embeddings from what the lower layers made."""
        return self.network.pool(self.network.upper(maps, self._top))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss of one batch."""
        maps, labels = batch
        loss: Tensor = self.loss(self(maps), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Keep the embeddings of the choosing identities until the epoch's end."""
        maps, labels = batch
        self._seen.append((self(maps).float().cpu(), labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log how well the choosing identities are told apart."""
        embeddings = torch.cat([embedding for embedding, _ in self._seen]).numpy()
        labels = torch.cat([label for _, label in self._seen]).numpy()
        self._seen.clear()
        # NaN is told as training going wrong.
        self.log(MONITOR, separation(embeddings, labels) if is_whole(embeddings) else math.nan, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a rate per group and one cycle over all steps."""
        rates = [self._rate, *learning_rates(self._rate, len(self._groups) - 1, LAYER_DECAY)]
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": rate}
            for parameters, rate in zip(self._groups, rates, strict=True)
            if parameters
        ]
        centres = list(self.loss.parameters())
        if centres:
            groups.append({"params": centres, "lr": CENTRE_RATE * self._rate})
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate_at, steps=self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def _rate_at(step: int, steps: int) -> float:
    """Share of the highest rate: up in a line during the warm-up, then down to nothing along half a cosine."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * min(1.0, (step - warm + 1) / max(1, steps - warm)))) / 2
