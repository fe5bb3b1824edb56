"""Losses of a classifier on soft targets (N, C) that sum to 1: smoothing and mixing only change the targets."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

LossName = Literal["cross-entropy", "cosine", "cosine+cross-entropy"]
"""One of `edge_models.classifier.options.LOSSES`."""

CROSS_ENTROPY_SHARE: Final = 0.1
"""Weight of the cross-entropy beside the cosine loss, the paper's lambda."""


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(N,) class numbers to (N, C) float targets."""
    return functional.one_hot(labels.long(), classes).float()


def smoothed(targets: Tensor, amount: float) -> Tensor:
    """Label smoothing (Szegedy et al. 2016): `amount` in [0, 1) of every target is spread over all classes."""
    return targets * (1 - amount) + amount / targets.shape[1]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of softmax(logits) against soft targets."""
    return (-targets * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


def cosine_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine between outputs and targets, mean (Barz and Denzler 2020, arXiv 1901.09054, equation 2)."""
    return (1 - functional.cosine_similarity(outputs, targets, dim=1)).mean()


def penalty(weights: Tensor, strength: float) -> Tensor:
    """Ridge penalty, `strength` / 2 times the sum of squares."""
    return torch.as_tensor(0.5 * strength) * weights.square().sum()
