"""Checkpoints and training state as safetensors files: weights, and everything else as JSON in the header.

Files are written atomically, for the owner's eyes only; nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from edge_app.core.attributes import Attribute
from edge_app.core.documents import typed
from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_app.core.hierarchy import Hierarchy
from edge_app.core.model_card import InputSpec
from edge_app.system.files import replacing, size_words

FORMAT: Final = 2
"""Version of the checkpoint's header that is written."""
READABLE: Final = (1, FORMAT)
"""Versions that are read; 1 is edge-app 0.1.0's, which tells no split. A reader refuses any other."""
STATE_FORMAT: Final = 1

_KEY: Final = "edge_app.checkpoint"
_STATE_KEY: Final = "edge_app.state"
_JUDGED: Final = "judged."
"""What the names of tensors begin with that are no weights but answers."""
_POOL: Final = "pool.thumbnails"
_PACKAGES: Final = ("torch", "torchvision", "timm", "lightning", "numpy", "safetensors", "edge-app")


def package_versions() -> dict[str, str]:
    """Versions of the packages that a result depends on; absent ones are left out."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, slots=True)
class Base:
    """The pretrained network that was trained on, and what its owner allows."""

    name: str
    """Name for `edge_models.networks.backbones.create_backbone`, or of the Siamese base."""
    features: int
    """Size of its features."""
    licence: str
    commercial_use: bool
    origin: str
    """Where its weights come from, in words."""
    origin_sha256: str
    """Hash of the file they came in; empty for random weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained model and all that is needed to use it, export it, or train it again."""

    kind: Literal["classifier", "embedder", "backbone"]
    """A backbone is pretrained without labels and has no head yet."""
    tensors: Mapping[str, Tensor]
    """State dictionary of the module, on the CPU."""
    base: Base
    input: InputSpec
    """Size, channel order, mean and std in 0-255 units."""
    crop: str
    """How a picture becomes the input: "centre-S" (see `edge_app.inference.geometry.prepare`) or a name of its
    CROPS."""
    head: Mapping[str, Any]
    """How the module behind the backbone is built; a classifier's: see `edge_models.classifier.network.Head`."""
    classes: tuple[str, ...] = ()
    """Class names in the order of the logits; for an embedder the identities it was trained on."""
    temperature: float = 1.0
    """softmax(logits / temperature) is a calibrated probability."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Every option of the run, and the command."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    data_sha256: str = ""
    """Hash of the list of pictures, their labels and contents."""
    versions: Mapping[str, str] = field(default_factory=package_versions)
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """SHA-256 of the pictures of each part: a classifier's `train`, `selection` and `validation`, an embedder's
    `learning`, `choosing` and `held_out`, a backbone's `pool`. Empty in files of version 0.1.0."""
    learned_all: bool = False
    """Whether the weights were fitted again on all parts after judging: the figures are then of the fit before."""
    judged: Mapping[str, Tensor] = field(default_factory=dict)
    """A classifier's answers that its figures are of, in the order of `split["validation"]`: `logits` (V, C) of a model
    that did not learn from them, `labels` (V,). Empty in files of version 0.1.0."""
    pool: Tensor | None = None
    """(N, H, W) uint8 grey thumbnails of the pictures of a backbone's `split["pool"]`, in that order."""
    hierarchy: Hierarchy | None = None
    """Families of a classifier's classes, where it learned with some."""
    attributes: tuple[Attribute, ...] = ()
    """What a user stated of a classifier's classes; those behind the folder's have no pictures."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically, for the owner's eyes only. Raises ModelError when it cannot be written."""
    plain: dict[str, Any] = {
        "format": FORMAT,
        "kind": checkpoint.kind,
        "base": asdict(checkpoint.base),
        "input": asdict(checkpoint.input),
        "crop": checkpoint.crop,
        "head": dict(checkpoint.head),
        "classes": list(checkpoint.classes),
        "temperature": checkpoint.temperature,
        "configuration": dict(checkpoint.configuration),
        "metrics": dict(checkpoint.metrics),
        "data_sha256": checkpoint.data_sha256,
        "versions": dict(checkpoint.versions),
        "split": {part: list(pictures) for part, pictures in checkpoint.split.items()},
        "learned_all": checkpoint.learned_all,
    }
    if checkpoint.hierarchy is not None:  # earlier versions do not know the field
        plain["hierarchy"] = asdict(checkpoint.hierarchy)
    if checkpoint.attributes:
        plain["attributes"] = [asdict(one) for one in checkpoint.attributes]
    named = {**checkpoint.tensors, **{_JUDGED + name: tensor for name, tensor in checkpoint.judged.items()}}
    if checkpoint.pool is not None:
        named[_POOL] = checkpoint.pool
    tensors = {name: _on_cpu(tensor) for name, tensor in named.items()}
    header = {_KEY: json.dumps(plain, ensure_ascii=False, allow_nan=False)}
    write_atomic(path, to_bytes(tensors, metadata=header))


def load(path: Path) -> Checkpoint:
    """Read what `save` wrote.

    Raises ModelError when the file is absent, cut short, no checkpoint of ours, or one of another version.
    """
    tensors, metadata = _read(path)
    if _KEY not in metadata:
        raise ModelError(f"{path} is a safetensors file without our header", expected="a checkpoint of edge-app train")
    try:
        plain = json.loads(metadata[_KEY])
        if plain.get("format") not in READABLE:
            raise ModelError(
                f"{path} is a checkpoint of version {plain.get('format')}",
                expected=f"version {' or '.join(map(str, READABLE))}",
                remedy="train again, or use the edge-app that wrote it",
            )
        del plain["format"]
        pool = tensors.pop(_POOL, None)
        spec = plain["input"]
        if (
            plain["kind"] not in ("classifier", "embedder", "backbone")
            or not 0 < float(plain["temperature"]) < math.inf
        ):
            raise ValueError(f"{plain['kind']!r} of temperature {plain['temperature']!r}")
        return Checkpoint(
            **plain
            | {
                "tensors": {name: tensor for name, tensor in tensors.items() if not name.startswith(_JUDGED)},
                "pool": pool,
                "judged": {n.removeprefix(_JUDGED): t for n, t in tensors.items() if n.startswith(_JUDGED)},
                "split": {str(part): tuple(map(str, names)) for part, names in plain.get("split", {}).items()},
                "base": Base(**plain["base"]),
                "input": InputSpec(**spec | {"mean": tuple(spec["mean"]), "std": tuple(spec["std"])}),
                "classes": tuple(str(name) for name in plain["classes"]),
                "temperature": float(plain["temperature"]),
                "hierarchy": typed(plain["hierarchy"], Hierarchy) if "hierarchy" in plain else None,
                "attributes": tuple(typed(one, Attribute) for one in plain.get("attributes", ())),
            }
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelError(f"the header of {path} cannot be read ({error})", expected="a checkpoint of ours") from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dictionaries, lists, tuples, tensors and plain values, atomically; Lightning's state is such.

    Raises ModelError for a value of any other kind, or when the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(dict(state), tensors)
    header = {_STATE_KEY: json.dumps({"format": STATE_FORMAT, "tree": tree})}
    write_atomic(path, to_bytes(tensors, metadata=header))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote. Raises ModelError when the file is absent, cut short or of another version."""
    tensors, metadata = _read(path)
    try:
        header = json.loads(metadata[_STATE_KEY])
        if header["format"] != STATE_FORMAT:
            raise ModelError(
                f"{path} is a training state of version {header['format']}",
                expected=f"version {STATE_FORMAT}",
                remedy="train from the start",
            )
        state = _unpack(header["tree"], tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no training state ({error})", remedy="train from the start") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path} is no training state", remedy="train from the start")
    return state


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that it stands under its name whole or not at all; mode 0600.

    Raises ModelError, with the system's reason, when there is no space or no permission; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        with replacing(path) as scratch:
            scratch.write_bytes(data)
    except OSError as error:
        raise _unwritable(path, len(data), error) from error


def make_folder(path: Path) -> None:
    """Create a folder and those above it; the last with mode 0700.

    Raises UsageError where a file stands in its place or above it, ModelError when it cannot be made otherwise.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next((one for one in (path, *path.parents) if one.exists() and not one.is_dir()), path)
        raise UsageError(f"{file} is a file", expected="a folder to write to", remedy="name another") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be made ({error.strerror})", expected="a folder to write to") from error


def _unwritable(path: Path, size: int, error: OSError) -> EdgeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ModelError(
            f"no space to write {path} ({size_words(size)})",
            remedy="free some space and go on with --resume; what was saved before is whole",
        )
    return ModelError(f"{path} cannot be written ({error.strerror or error})", remedy="check the folder's permissions")


def _on_cpu(tensor: Tensor) -> Tensor:
    """A contiguous copy of its own: safetensors refuses tensors that share memory."""
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise ModelError(f"{path} does not exist", expected="a checkpoint", remedy="check the path")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged or cut short ({str(error).splitlines()[0][:120]})",
            expected="a whole safetensors file",
            remedy="use another checkpoint or train again",
        ) from error


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON has neither tuples nor keys that are numbers, so containers are wrapped in a one-key object."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = _on_cpu(value)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"map": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelError(f"a training state holds a {type(value).__name__}", expected="tensors and plain values")


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in content}
