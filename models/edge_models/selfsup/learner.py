"""A network that learns from pictures without labels, by one of five methods, epoch by epoch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.errors import UsageError
from edge_models.data.batch_views import BatchViews, plain_views
from edge_models.networks.backbone import Backbone, features_of, normalize
from edge_models.networks.small_resnet import PREFIX
from edge_models.selfsup.losses import byol, nt_xent, spread_of, vicreg, where_hidden
from edge_models.selfsup.options import PretrainOptions

_IN_MEMORY_BYTES: Final = 1_500_000_000
_PROJECTED: Final = 128
_SLOW: Final = 0.99
"""Share of itself that BYOL's slow network keeps at each step."""
_HIDDEN_SHARE: Final = 0.6
_NOISE: Final = 0.25
"""Of normalized pixels, that the denoising autoencoder takes away (Vincent et al. 2008)."""
_WATCHED: Final = 512
_DECAY: Final = 1e-4
"""AdamW's, of matrices and kernels; none of norms and biases."""


class Lessons:
    """A network that learns from a pool, epoch by epoch."""

    def __init__(self, options: PretrainOptions, backbone: Backbone, files: Sequence[Path], device: str) -> None:
        self._files, self._backbone, self._device, self._seed = files, backbone, device, options.seed
        self._learner = _Learner(backbone, options.method).to(memory_format=torch.channels_last).to(device)
        for parameter in self._learner.parameters():
            parameter.requires_grad_(True)
        # On a CPU with bf16 units an epoch of small-resnet-8 takes half the time (3.9 s instead of 7.7 for 6,000).
        amx = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
        self._half = device == "cuda" or (device == "cpu" and amx)
        rate = options.learning_rate * (1 if backbone.name.startswith(PREFIX) else 0.1)
        taught = self._learner.taught()
        self._optimizer = torch.optim.AdamW(
            [{"params": [p for p in taught if p.ndim > 1], "weight_decay": _DECAY},
             {"params": [p for p in taught if p.ndim <= 1], "weight_decay": 0.0}], lr=rate)  # fmt: skip
        side = backbone.input.width_px or 0
        self._images = self._views(files) if len(files) * 3 * side * side <= _IN_MEMORY_BYTES else None
        self._watched = self._views(files[:_WATCHED]) if self._images is None else self._images[:_WATCHED]
        self._batch = min(options.batch_size, len(files))
        self._steps = len(files) // self._batch
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, rate, total_steps=max(2, self._steps * options.epochs), pct_start=0.1
        )

    def epoch(self, number: int) -> float:
        """Learn from all pictures in an order that the seed and the number decide; the mean loss."""
        losses = []
        draw = torch.Generator().manual_seed(1_000_003 * self._seed + number)
        order = torch.randperm(len(self._files), generator=draw)[: self._steps * self._batch]
        self._learner.train()
        for at in order.view(self._steps, self._batch):
            seen = self._views([self._files[int(i)] for i in at]) if self._images is None else self._images[at]
            loss = self._learner.loss(seen.to(self._device).float(), draw, half=self._half)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._schedule.step()
            self._learner.after_step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def spread(self) -> tuple[float, float]:
        """Spread and effective rank of the features of a few pictures."""
        return spread_of(features_of(self._backbone, self._watched, self._device))

    def state(self) -> dict[str, Any]:
        """Everything that going on needs."""
        return {
            "learner": self._learner.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._learner.load_state_dict(state["learner"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])

    def _views(self, files: Sequence[Path]) -> Tensor:
        return plain_views(files, self._backbone.input, self._backbone.crop)


class _Learner(nn.Module):
    """A backbone with what a method needs beside it; `loss` takes (N, 3, H, W) float32 of 0 to 255."""

    def __init__(self, backbone: Backbone, method: str) -> None:
        super().__init__()
        self.backbone, self.method = backbone, method
        self._view = BatchViews(0.2, 0.5, grey=0.2, hue=0.1)
        width = backbone.features
        self.slow: nn.Module | None = None
        if method in ("simclr", "byol", "vicreg"):
            self.projector = nn.Sequential(
                nn.Linear(width, 4 * _PROJECTED), nn.BatchNorm1d(4 * _PROJECTED), nn.ReLU(),
                nn.Linear(4 * _PROJECTED, _PROJECTED),
            )  # fmt: skip
            if method == "byol":
                self.predictor = nn.Sequential(
                    nn.Linear(_PROJECTED, 2 * _PROJECTED), nn.BatchNorm1d(2 * _PROJECTED), nn.ReLU(),
                    nn.Linear(2 * _PROJECTED, _PROJECTED),
                )  # fmt: skip
                self.slow = copy.deepcopy(nn.Sequential(backbone, self.projector))
        else:
            side = backbone.input.width_px or 0
            with torch.inference_mode():
                maps = backbone.eval().maps(torch.zeros(1, 3, side, side))
            if maps.ndim != 4:
                raise UsageError(f"{backbone.name} has no feature maps to rebuild pictures from",
                                 remedy="a convolutional network, or --method simclr")  # fmt: skip
            layers: list[nn.Module] = [nn.Conv2d(maps.shape[1], 64, 1)]
            at = int(maps.shape[2])
            while at < side:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
                at *= 2
            self.decoder = nn.Sequential(*layers, nn.Conv2d(64, 3, 3, padding=1))

    def taught(self) -> list[nn.Parameter]:
        """What the optimizer changes: all but the slow network."""
        slow = {id(parameter) for parameter in self.slow.parameters()} if self.slow is not None else set()
        return [parameter for parameter in self.parameters() if id(parameter) not in slow]

    def loss(self, images: Tensor, draw: torch.Generator, half: bool = False) -> Tensor:
        """Of one batch; the network's layers in bf16 where `half`."""
        spec, kind = self.backbone.input, images.device.type
        if self.method in ("mae", "autoencoder"):
            truth = normalize(BatchViews(0.5, 0.2)(images, draw), spec)
            side = truth.shape[-1]
            if self.method == "mae":
                cells = max(4, side // 4)
                hidden = (torch.rand(len(truth), 1, cells, cells, generator=draw) < _HIDDEN_SHARE).float()
                hidden = functional.interpolate(hidden, size=side).to(truth.device)
                seen = truth * (1 - hidden)
            else:
                hidden = torch.ones_like(truth[:, :1])
                seen = truth + _NOISE * torch.randn(truth.shape, generator=draw).to(truth.device)
            with torch.autocast(kind, torch.bfloat16, enabled=half):
                made = self.decoder(self.backbone.maps(seen.contiguous(memory_format=torch.channels_last))).float()
            if made.shape[-1] != side:
                made = functional.interpolate(made, size=side)
            return where_hidden(made, truth, hidden)
        views = normalize(torch.cat([self._view(images, draw) for _ in range(2)]), spec)
        views = views.contiguous(memory_format=torch.channels_last)
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            features = self.backbone(views)
        one, two = (self.projector(part) for part in features.float().chunk(2))
        if self.method == "simclr":
            return nt_xent(one, two)
        if self.method == "vicreg":
            return vicreg(one, two)
        assert self.slow is not None
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=half):
            slow_one, slow_two = self.slow(views).float().chunk(2)
        return (byol(self.predictor(one), slow_two) + byol(self.predictor(two), slow_one)) / 2

    def after_step(self) -> None:
        """The slow network follows."""
        if self.slow is None:
            return
        with torch.no_grad():
            fast = nn.Sequential(self.backbone, self.projector)
            for kept, new in zip(self.slow.parameters(), fast.parameters(), strict=True):
                kept.lerp_(new, 1 - _SLOW)
