"""The Lightning module that trains a head, with or without layers of its backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from edge_models.classifier.losses import cross_entropy, penalty, smoothed
from edge_models.classifier.network import Head
from edge_models.data.augment import Mixing, mix
from edge_models.networks.backbone import learning_rates


@dataclass(frozen=True, slots=True)
class Learning:
    """How fast what learns."""

    head_rate: float
    """Peak learning rate of the head."""
    epochs: int
    """Epochs that the cosine schedule spans."""
    decay: float = 0.3
    """Each unfrozen group learns at this share of the rate of the group above it."""
    ridge: float = 0.0
    """Penalty on the head's matrix, see `edge_models.classifier.losses.penalty`."""
    weight_decay: float = 0.01
    """AdamW's, for unfrozen layers."""
    smoothing: float = 0.0
    mixing: Mixing = "none"
    warmup: int = 1
    """Epochs over which the rate rises."""
    by_batch: bool = False
    """The rate rises over the first tenth of the batches and falls with each one after: what lasts for two epochs would
    end at its highest rate."""


class ClassifierModule(pl.LightningModule):
    """What Lightning drives: `net` gives features (nothing at all for cached ones), the head gives the loss.

    A batch is (inputs, soft targets (N, C)). Logs train_loss, validation_loss, validation_accuracy.
    """

    def __init__(self, net: nn.Module, head: Head, groups: Sequence[Sequence[nn.Parameter]], how: Learning) -> None:
        super().__init__()
        self.net = net
        self.head = head
        self._groups = [list(group) for group in groups]
        self._how = how

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, C)."""
        logits: Tensor = self.head(self.net(inputs))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch."""
        inputs, targets = mix(*batch, self._how.mixing)
        loss = self.head.loss(self.net(inputs), smoothed(targets, self._how.smoothing))
        loss = loss + penalty(self.head.linear.weight, self._how.ridge)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(inputs))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Plain cross-entropy whatever the loss, so that stages and methods can be compared."""
        inputs, targets = batch
        logits = self(inputs).float()
        right = (logits.argmax(1) == targets.argmax(1)).float().mean()
        self.log("validation_loss", cross_entropy(logits, targets), batch_size=len(inputs), sync_dist=True)
        self.log("validation_accuracy", right, batch_size=len(inputs), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW, a rate per group, warm-up and a cosine down to a hundredth."""
        how = self._how
        rates = learning_rates(how.head_rate, len(self._groups), how.decay)
        groups: list[dict[str, Any]] = [
            {"params": list(self.head.parameters()), "lr": how.head_rate, "weight_decay": 0.0}
        ]
        groups += [{"params": group, "lr": rate} for group, rate in zip(self._groups, rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=how.weight_decay)
        if how.by_batch:
            trainer = self.trainer
            whole = how.epochs * float(trainer.estimated_stepping_batches) / (trainer.max_epochs or how.epochs)
            falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda batch: _rate(batch, whole, 0.1 * whole))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falls, "interval": "step"}}
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: _rate(epoch, how.epochs, how.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def _rate(epoch: float, epochs: float, warmup: float) -> float:
    if epoch < warmup < epochs:
        return (epoch + 1) / (warmup + 1)
    done = min(1.0, (epoch - warmup) / max(1, epochs - warmup))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
