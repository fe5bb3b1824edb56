"""What is minimized without labels, each a few lines.

They are our own: `lightly`, whose losses are the same, brings hydra and pytorch-lightning for these forty lines.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """SimCLR (Chen et al. 2020, arXiv 2002.05709): of all other views (2 N - 1) each must find its own picture's.

    `first` and `second` (N, D), row i of both being views of one picture.
    """
    views = functional.normalize(torch.cat([first, second]), dim=1)
    alike = views @ views.T / temperature
    alike.fill_diagonal_(-1e9)
    count = len(first)
    own = torch.cat([torch.arange(count, 2 * count), torch.arange(count)]).to(alike.device)
    return functional.cross_entropy(alike, own)


def byol(predicted: Tensor, target: Tensor) -> Tensor:
    """BYOL (Grill et al. 2020, arXiv 2006.07733): 2 - 2 cos, mean; `target` (N, D) is of the slow network."""
    return (2 - 2 * functional.cosine_similarity(predicted, target.detach(), dim=1)).mean()


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    """VICReg (Bardes et al. 2022, arXiv 2105.04906) with its weights 25, 25 and 1; (N, D) each."""
    alike = functional.mse_loss(first, second)
    spread, told_twice = first.new_zeros(()), first.new_zeros(())
    for seen in (first, second):
        spread = spread + functional.relu(1 - (seen.var(dim=0) + 1e-4).sqrt()).mean() / 2
        centred = seen - seen.mean(dim=0)
        covariance = centred.T @ centred / (len(seen) - 1)
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        told_twice = told_twice + off / seen.shape[1]
    return 25 * alike + 25 * spread + told_twice


def where_hidden(made: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """Masked autoencoding (He et al. 2022, arXiv 2111.06377): squared error on hidden pixels alone, mean.

    `made` and `truth` (N, 3, H, W), `hidden` (N, 1, H, W), 1 where the network did not see.
    """
    return ((made - truth).square() * hidden).sum() / (3 * hidden.sum()).clamp(min=1)


def spread_of(features: Tensor) -> tuple[float, float]:
    """How far features (N, D) are from collapse: mean standard deviation of their unit vectors, 1 where they point
    everywhere and 0 where all are one (Chen and He 2021, arXiv 2011.10566); and their effective rank."""
    unit = functional.normalize(features.double(), dim=1)
    deviation = float(unit.std(dim=0).mean()) * features.shape[1] ** 0.5
    centred = features.double() - features.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    if float(values.sum()) < 1e-9:
        return deviation, 0.0
    shares = values / values.sum()
    return deviation, float(torch.exp(-(shares * shares.clamp(min=1e-12).log()).sum()))
