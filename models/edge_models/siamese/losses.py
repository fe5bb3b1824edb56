"""Losses that pull pictures of one identity together and push those of two apart, by pytorch-metric-learning.

A `MetricLoss` takes embeddings and identity numbers to one number; all measure by cosine, as matching does.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.errors import UsageError

LOSSES: Final = ("contrastive", "triplet", "arcface")

POSITIVE_COSINE: Final = 0.9
"""Contrastive: pairs of one identity are pulled up to here; beyond, differences are the picture's own."""
NEGATIVE_COSINE: Final = 0.1
"""Contrastive: pairs of two identities are pushed down to here, where strangers lie in SFace's space."""
TRIPLET_MARGIN: Final = 0.2
"""By how much the same identity must be nearer than another, in cosine (FaceNet's margin)."""
ARCFACE_MARGIN_DEG: Final = 28.6
"""Half a radian, as in the paper."""
ARCFACE_SCALE: Final = 32.0
"""Half the paper's 64: with a handful of identities, sharper than this only the hardest picture teaches."""


class MetricLoss(nn.Module):
    """(B, D) embeddings of any length and (B,) identity numbers to a scalar; zero where a batch teaches nothing."""

    def __init__(self, loss: Any, miner: Any = None) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; embeddings are scaled to unit length first."""
        unit = functional.normalize(embeddings)
        mined = self.miner(unit, labels) if self.miner is not None else None
        value: Tensor = self.loss(unit, labels, mined) if mined is not None else self.loss(unit, labels)
        return value


def metric_loss(name: str, embedding_size: int, identities: int) -> MetricLoss:
    """Build a loss by name.

    - contrastive: every pair of a batch is a Siamese pair (Hadsell 2006);
    - triplet: semi-hard triplets are mined in every batch (Schroff 2015, FaceNet);
    - arcface: an additive angular margin against one learned centre per identity (Deng 2019).

    Raises UsageError for another name, or fewer than two identities.
    """
    if identities < 2:
        raise UsageError(f"found {identities} identities to learn from", expected="at least two")
    cosine = distances.CosineSimilarity()
    if name == "contrastive":
        return MetricLoss(losses.ContrastiveLoss(POSITIVE_COSINE, NEGATIVE_COSINE, distance=cosine))
    if name == "triplet":
        miner = miners.TripletMarginMiner(TRIPLET_MARGIN, type_of_triplets="semihard", distance=cosine)
        return MetricLoss(losses.TripletMarginLoss(TRIPLET_MARGIN, distance=cosine), miner)
    if name == "arcface":
        return MetricLoss(losses.ArcFaceLoss(identities, embedding_size, ARCFACE_MARGIN_DEG, ARCFACE_SCALE))
    raise UsageError(f"there is no loss called {name!r}", expected=f"one of {', '.join(LOSSES)}")


def start_at_means(loss: MetricLoss, embeddings: Tensor, labels: Tensor) -> None:
    """Put ArcFace's centres where the identities' means already are; other losses have none.

    From random centres, the first steps would tear apart what the base knows. `embeddings` (N, D), `labels` (N,)
    with every number from 0 to identities - 1.
    """
    if not isinstance(loss.loss, losses.ArcFaceLoss):
        return
    unit = functional.normalize(embeddings.float())
    centres = torch.stack([unit[labels == number].mean(dim=0) for number in range(loss.loss.W.shape[1])], dim=1)
    with torch.no_grad():
        loss.loss.W.copy_(functional.normalize(centres, dim=0))
