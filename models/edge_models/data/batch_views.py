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
_KNOTS: Final = 5


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
    slant: float = 0.0
    """Most that rows are moved against each other, as a share of their distance."""
    zoom: float = 0.0
    """Most that a view shows beyond the picture's edge on either axis, as a share of the side: what lies there is the
    edge's own pixels."""
    bend: float = 0.0
    """Elastic distortion (Simard et al. 2003): standard deviation, as a share of the side, of how far the knots of a
    grid of 5 x 5 are moved."""
    hole: float = 0.0
    """Side of a square without detail somewhere in a view (DeVries and Taylor 2017, arXiv 1708.04552), as a share."""

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
        beyond = 1 + self.zoom * uniform(0, 1) if self.zoom else torch.ones(count, device=device)
        wide, high = wide * beyond, high * beyond
        slant = uniform(-self.slant, self.slant) if self.slant else torch.zeros(count, device=device)
        rows = [wide * cos * flip, high * (slant * cos - sin), left, wide * sin * flip, high * (slant * sin + cos), top]
        theta = torch.stack(rows, dim=1).view(count, 2, 3)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        if self.bend:
            knots = 2 * self.bend * torch.randn(count, 2, _KNOTS, _KNOTS, generator=draw).to(device)
            moved = functional.interpolate(knots, images.shape[2:], mode="bicubic", align_corners=True)
            grid = grid + moved.permute(0, 2, 3, 1)
        # Reflected, what a view shows beyond the edge would be a second object.
        edge = "border" if self.zoom or self.bend else "reflection"
        seen = functional.grid_sample(images, grid, padding_mode=edge, align_corners=False)
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
        if self.hole:
            places = [(torch.arange(side, device=device) + 0.5) / side for side in images.shape[2:]]
            near = [(uniform(0, 1, 1) - place).abs() < self.hole / 2 for place in places]
            hidden = (near[0][:, :, None] & near[1][:, None, :])[:, None]
            seen = torch.where(hidden, seen.mean(dim=(1, 2, 3), keepdim=True), seen)
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
