"""A residual network for pictures of about 32 pixels, learned from scratch; "small-resnet-8", -14, -20 and so on."""

from __future__ import annotations

import re
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.errors import UsageError
from edge_app.core.model_card import InputSpec
from edge_models.networks.backbone import Backbone, Source

PREFIX: Final = "small-resnet-"
DEPTHS: Final = (8, 14, 20, 26, 32)
"""Layers: 6 n + 2 for n blocks in each of three stages (He et al. 2016, section 4.2)."""
SIDE_PX: Final = 32
_WIDTHS: Final = (32, 64, 128)
"""Twice the paper's, on maps of half the side: the same work."""


class SmallResnetBackbone(Backbone):
    """Normalized pictures (N, 3, H, W) to features (N, 128); `seed` decides the random weights that it begins with.

    Its batch-norms learn while it trains, for they have no statistics of a larger set to lose.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        depth = depth_of(name)
        stages: list[nn.Module] = []
        before = _WIDTHS[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            stem = nn.Sequential(
                nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False),
                nn.MaxPool2d(2),  # before the norm, which with the ReLU was half of all work at the whole side
                nn.BatchNorm2d(_WIDTHS[0]),
                nn.ReLU(),
            )
            for number, width in enumerate(_WIDTHS):
                for block in range((depth - 2) // 6):
                    stages.append(_Block(before, width, 2 if block == 0 and number > 0 else 1))
                    before = width
        spec = InputSpec("input", SIDE_PX, SIDE_PX, "RGB", (127.5,) * 3, (127.5,) * 3)
        source = Source("Apache-2.0", True, "random weights", "")
        super().__init__(name, nn.ModuleList([stem, *stages]), spec, "centre-1", source)
        self.features = _WIDTHS[-1]
        self.eval()

    def layers(self) -> tuple[nn.Module, ...]:
        """Stem and blocks."""
        return tuple(self.body.children())

    def pool(self, maps: Tensor) -> Tensor:
        """The mean over places, (N, 128)."""
        return maps.mean(dim=(2, 3))

    def train(self, mode: bool = True) -> Self:
        """Batch-norms learn too."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode)
        return self


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.short = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.first_norm(self.first(maps)))
        return functional.relu(self.second_norm(self.second(inner)) + self.short(maps))


def depth_of(name: str) -> int:
    """The number in "small-resnet-14". Raises UsageError for a depth that there is not."""
    found = re.fullmatch(re.escape(PREFIX) + r"(\d{1,3})", name)
    if found is None or int(found[1]) not in DEPTHS:
        raise UsageError(
            f"there is no backbone called {name!r}", expected=", ".join(f"{PREFIX}{depth}" for depth in DEPTHS)
        )
    return int(found[1])
