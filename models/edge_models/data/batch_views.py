"""Random views of a whole batch at once, on any device: small pictures would wait longer for a view than to be learned.

A view of 32 px takes 0.14 milliseconds of one core here, one of `edge_models.data.augment.view_maker` a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_app.core.model_card import InputSpec
from edge_app.inference.geometry import prepare
from edge_app.media.pictures import read_picture

_TO_YIQ: Final = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True, slots=True)
class BatchViews:
    """How much the views differ from the pictures."""

    least_area: float = 0.35
    """Share of the picture that a view shows at the least."""
    colour: float = 0.3
    """Most that brightness, contrast and saturation change by, as a share."""
    grey: float = 0.0
    """Chance that a view has no colour (Chen et al. 2020 take 0.2)."""
    hue: float = 0.0
    """Most that colours are turned by to either side, as a share of the circle (Chen et al. take 0.2)."""
    mirror: bool = True
    turn: float = 0.0
    """Most degrees to either side."""

    def __call__(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """(N, 3, H, W) float32 of 0 to 255 to other views of the same pictures, likewise; `draw` is on the CPU."""
        count, device = len(images), images.device

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return (low + (high - low) * torch.rand(count, *shape, generator=draw)).to(device)

        side = uniform(self.least_area, 1.0).sqrt()
        aspect = uniform(-0.29, 0.29).exp().sqrt()  # 3:4 to 4:3
        wide, high = (side * aspect).clamp(max=1), (side / aspect).clamp(max=1)
        angle = torch.deg2rad(uniform(-self.turn, self.turn)) if self.turn else torch.zeros(count, device=device)
        flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if self.mirror else torch.ones(count, device=device)
        cos, sin = torch.cos(angle), torch.sin(angle)
        left = (1 - wide) * uniform(-1, 1)
        top = (1 - high) * uniform(-1, 1)
        rows = [wide * cos * flip, -high * sin, left, wide * sin * flip, high * cos, top]
        theta = torch.stack(rows, dim=1).view(count, 2, 3)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        seen = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        if self.colour:
            seen = seen * uniform(1 - self.colour, 1 + self.colour, 1, 1, 1)
            mean = seen.mean(dim=(1, 2, 3), keepdim=True)
            seen = mean + (seen - mean) * uniform(1 - self.colour, 1 + self.colour, 1, 1, 1)
            luma = seen.mean(dim=1, keepdim=True)
            seen = luma + (seen - luma) * uniform(1 - self.colour, 1 + self.colour, 1, 1, 1)
        if self.hue:
            turned = _TO_YIQ.inverse() @ _turns(uniform(-self.hue, self.hue).cpu()) @ _TO_YIQ
            seen = (turned.to(device) @ seen.flatten(2)).view_as(seen)
        if self.grey:
            luma = seen.mean(dim=1, keepdim=True).expand_as(seen)
            seen = torch.where((uniform(0, 1) < self.grey).view(-1, 1, 1, 1), luma, seen)
        return seen.clamp(0, 255)


def _turns(shares: Tensor) -> Tensor:
    """(N, 3, 3) that turn the colours of Y, I and Q by `shares` (N,) of a circle; how light they are stays."""
    cos, sin = torch.cos(2 * torch.pi * shares), torch.sin(2 * torch.pi * shares)
    turns = torch.zeros(len(shares), 3, 3)
    turns[:, 0, 0] = 1
    turns[:, 1, 1], turns[:, 1, 2], turns[:, 2, 1], turns[:, 2, 2] = cos, -sin, sin, cos
    return turns


def plain_views(paths: Sequence[Path], spec: InputSpec, crop: str) -> Tensor:
    """(N, 3, H, W) uint8 RGB: every picture as serving prepares it. Raises MediaError for one that cannot be read."""
    seen = [torch.from_numpy(np.ascontiguousarray(prepare(read_picture(path), spec, crop))) for path in paths]
    return torch.stack(seen).permute(0, 3, 1, 2).contiguous()
