"""A pretrained network without its classifier, in groups of layers from input to output: unfrozen from the top."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Self, cast

import torch
from torch import Tensor, nn

from edge_app.core.errors import UsageError
from edge_app.core.model_card import InputSpec
from edge_models.fitting.checkpoint import Base

_HEADS: Final = frozenset({"global_pool", "classifier", "fc", "head", "head_drop", "fc_norm", "num_features"})
_NORMS: Final = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, slots=True)
class Source:
    """Where weights come from and what may be done with them."""

    licence: str
    """SPDX id, or the words of the owner."""
    commercial_use: bool
    """False: weights or the pictures behind them forbid it."""
    origin: str
    """Where the weights come from, in words."""
    origin_sha256: str
    """Hash of the file the weights came in; empty for a network that was not pretrained."""


class Backbone(nn.Module, ABC):
    """A network without its classifier: `forward` turns normalized pictures (N, 3, H, W) into features (N, D).

    `groups` are its layers from input to output, one or more per group; unfreezing goes from the last to the first.
    Batch-norms stay in evaluation mode while training: a few hundred pictures spoil their running statistics.
    A child says how its `body` comes apart: `layers`, `maps` and `pool`.
    """

    sequential: bool = True
    """Whether applying `layers` one after the other gives `maps`; only then can the network be run in two parts."""

    def __init__(self, name: str, body: nn.Module, spec: InputSpec, crop: str, source: Source) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.input = spec
        self.crop = crop
        self.source = source
        self.features = 0

    @abstractmethod
    def layers(self) -> tuple[nn.Module, ...]:
        """From the input to the last feature maps."""

    def maps(self, images: Tensor) -> Tensor:
        """The last feature maps: (N, C, h, w) for convolutional networks, whatever the network has for others."""
        for layer in self.layers():
            images = layer(images)
        return images

    @abstractmethod
    def pool(self, maps: Tensor) -> Tensor:
        """Feature maps to features (N, D); (N, C, 1, 1) maps give what the network would see at one place."""

    def forward(self, images: Tensor) -> Tensor:
        """Normalized pictures (N, 3, H, W) float32 to features (N, D)."""
        return self.pool(self.maps(images))

    @property
    def groups(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Layers from input to output; a norm, activation or pooling belongs to the layer before it."""
        return _groups(self.layers())

    def lower(self, images: Tensor, top: int) -> Tensor:
        """Run all groups but the last `top`; (N, C, h, w). Raises UsageError when the network cannot be cut."""
        for layer in self._part(slice(None, len(self.groups) - top)):
            images = layer(images)
        return images

    def upper(self, cut: Tensor, top: int) -> Tensor:
        """Run the last `top` groups on what `lower` gave; feature maps."""
        for layer in self._part(slice(len(self.groups) - top, None)):
            cut = layer(cut)
        return cut

    def _part(self, part: slice) -> Iterator[nn.Module]:
        if not self.sequential:
            raise UsageError(f"{self.name} is not a plain chain of layers", expected="one to run in two parts")
        return (layer for group in self.groups[part] for layer in group)

    def resize(self, side_px: int) -> None:
        """Take square pictures of another side from now on; the weights stay.

        Raises UsageError for a network that takes its own size alone, or cannot take so few pixels.
        """
        spec = replace(self.input, width_px=side_px, height_px=side_px)
        try:
            with torch.inference_mode():
                seen = self.eval()(torch.zeros(1, 3, side_px, side_px))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"{self.name} cannot take pictures of {side_px} px ({str(error).splitlines()[0][:80]})",
                expected=f"its own {self.input.width_px} px",
                remedy="leave --size out, or name a convolutional network with --backbone",
            ) from error
        if seen.shape[1] != self.features:
            raise UsageError(f"{self.name} gives other features at {side_px} px", remedy="leave --size out")
        self.input = spec

    def unfreeze(self, top: int) -> list[list[nn.Parameter]]:
        """Let the last `top` groups learn and freeze the rest; returns their parameters, the output's group first.

        What lies behind the last group (a final norm or projection) learns with it.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        groups = self.groups
        learning = [[p for layer in group for p in layer.parameters()] for group in groups[::-1][: max(0, top)]]
        if learning:
            grouped = {id(p) for group in groups for layer in group for p in layer.parameters()}
            learning[0] += [p for p in self.parameters() if id(p) not in grouped]
        for parameter in (p for group in learning for p in group):
            parameter.requires_grad_(True)
        return learning

    def train(self, mode: bool = True) -> Self:
        """Switch dropout and the like; batch-norms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


class TimmBackbone(Backbone):
    """Any network of timm, its classifier removed."""

    def __init__(self, name: str, body: nn.Module, spec: InputSpec, crop: str, source: Source, chain: int = 0) -> None:
        """`chain` is the number of features of a network that is known to be a plain chain of layers; 0: tried."""
        super().__init__(name, body, spec, crop, source)
        self._channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self.eval()
        if chain:
            self.features = chain
            return
        probe = torch.linspace(-1, 1, 3 * (spec.height_px or 0) * (spec.width_px or 0))
        probe = probe.view(1, 3, spec.height_px or 0, spec.width_px or 0)
        with torch.inference_mode():
            expected = self.maps(probe)
            self.features = int(self.pool(expected).shape[1])
            # Tried, not looked up: timm has a thousand networks, and some add steps between their layers.
            self.sequential = _is_chain(self.layers(), probe, expected)

    def layers(self) -> tuple[nn.Module, ...]:
        """From the input to the last feature maps."""
        children = [child for name, child in self.body.named_children() if name not in _HEADS]
        return tuple(part for child in children for part in _parts(child))

    def maps(self, images: Tensor) -> Tensor:
        """The last feature maps; (N, C, h, w) also for networks that keep channels last."""
        found: Tensor = cast(Any, self.body).forward_features(images)
        return found.permute(0, 3, 1, 2) if self._channels_last and found.ndim == 4 else found

    def pool(self, maps: Tensor) -> Tensor:
        """Feature maps to features (N, D)."""
        own = maps.permute(0, 2, 3, 1) if self._channels_last and maps.ndim == 4 else maps
        return cast(Tensor, cast(Any, self.body).forward_head(own, pre_logits=True))


class InceptionBackbone(Backbone):
    """facenet-pytorch's InceptionResnetV1; its 512 features are the embedding before it is made unit length."""

    _TAIL: Final = frozenset({"avgpool_1a", "dropout", "last_linear", "last_bn", "logits"})

    def __init__(self, name: str, body: nn.Module, spec: InputSpec, crop: str, source: Source) -> None:
        super().__init__(name, body, spec, crop, source)
        self.features = 512
        self.eval()

    def layers(self) -> tuple[nn.Module, ...]:
        """From the input to the last feature maps."""
        children = [child for name, child in self.body.named_children() if name not in self._TAIL]
        return tuple(part for child in children for part in _parts(child))

    def pool(self, maps: Tensor) -> Tensor:
        """Feature maps to features (N, 512)."""
        tail = cast(Any, self.body)
        return cast(Tensor, tail.last_bn(tail.last_linear(tail.avgpool_1a(maps).flatten(1))))


def base_of(backbone: Backbone) -> Base:
    """What a checkpoint remembers of the network that was trained on."""
    source = backbone.source
    return Base(
        backbone.name,
        backbone.features,
        source.licence,
        source.commercial_use,
        source.origin,
        source.origin_sha256,
    )


def normalize(images: Tensor, spec: InputSpec) -> Tensor:
    """Pictures (N, 3, H, W) uint8 RGB to the network's input, float32; the same as
    `edge_app.inference.geometry.to_input`."""
    ordered = images.flip(1) if spec.channels == "BGR" else images
    mean = torch.tensor(spec.mean, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(1, 3, 1, 1)
    return (ordered.float() - mean) / std


def features_of(backbone: Backbone, images: Tensor, device: str = "cpu") -> Tensor:
    """(N, D) features, on the CPU, of pictures (N, 3, H, W) uint8; `backbone`, on `device`, is left evaluating."""
    backbone.eval()
    with torch.inference_mode():
        parts = [
            backbone(normalize(part.to(device), backbone.input)).float().cpu() for part in torch.split(images, 128)
        ]
    return torch.cat(parts).clone()


def _groups(layers: tuple[nn.Module, ...]) -> tuple[tuple[nn.Module, ...], ...]:
    groups: list[list[nn.Module]] = []
    for layer in layers:
        alone = isinstance(layer, _NORMS) or next(layer.parameters(), None) is None
        if groups and alone:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return tuple(tuple(group) for group in groups)


def _parts(child: nn.Module) -> Iterator[nn.Module]:
    """Stages and blocks are unfrozen one at a time; what is not a container is a layer."""
    if isinstance(child, nn.Sequential | nn.ModuleList) and len(child):
        yield from child
    else:
        yield child


def _is_chain(layers: tuple[nn.Module, ...], probe: Tensor, expected: Tensor) -> bool:
    try:
        for layer in layers:
            probe = layer(probe)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError):
        return False
    return probe.shape == expected.shape and bool(torch.allclose(probe, expected, atol=1e-5, rtol=1e-4))


def learning_rates(head: float, groups: int, decay: float) -> list[float]:
    """Learning rate of each unfrozen group, the output's first: each is `decay` times the one above it."""
    if not (head > 0 and 0 < decay <= 1 and math.isfinite(head)):
        raise UsageError(f"found a learning rate of {head} and a decay of {decay}", expected="both above 0, decay <= 1")
    return [head * decay**depth for depth in range(1, groups + 1)]
