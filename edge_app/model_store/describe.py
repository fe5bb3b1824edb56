"""Cards for models that others made: hides what can be read off the graph, the presets, and the TOML file.

Flows in: options or a small TOML file, and what `edge_app.model_store.onnx_inspect` saw in the graph. Flows out: a
`ModelCard`, its own statements checked (`check_card`); whether it is true is found out by running it
(`edge_app.model_store.sandbox_check`).
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import PRECISIONS, TASKS, InputSpec, ModelCard, OperatingPoint, Precision, Task
from edge_app.inference.geometry import CROPS
from edge_app.model_store.onnx_inspect import OnnxFile

_FLOAT32: Final = 1
_SIDE_LIMIT_PX: Final = 4096
_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEFAULT_CROP: Final[dict[str, str]] = {
    "face-embedding": "arcface-112",
    "image-embedding": "centre-1.0",
    "classification": "centre-1.0",
    "liveness": "face-2.7",
    "face-detection": "none",
}


@dataclass(frozen=True, slots=True)
class Description:
    """What somebody says of a model; None where it was left out."""

    id: str | None = None
    """None: the file's stem."""
    task: str | None = None
    crop: str | None = None
    """As `ModelCard.crop`; None: the usual one of the task."""
    channels: str | None = None
    """RGB or BGR; None: RGB."""
    mean: tuple[float, ...] | None = None
    """One number or three, in units of 0-255; None: 0."""
    std: tuple[float, ...] | None = None
    """One number or three, in units of 0-255; None: 1."""
    labels: tuple[str, ...] | None = None
    embedding_size: int | None = None
    """None: read off the graph."""
    licence: str | None = None
    commercial_use: bool | None = None
    """None counts as forbidden: nobody has said that it is allowed."""
    temperature: float | None = None
    unsure_below: float | None = None
    precision: str | None = None
    origin: str | None = None
    operating_points: tuple[OperatingPoint, ...] | None = None

    def over(self, other: Description) -> Description:
        """The same, and what `other` says where this one is silent."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(other, **{name: value for name, value in given.items() if value is not None})

    def card(self, file: OnnxFile, sha256: str) -> ModelCard:
        """The card of that file. Raises ModelError when graph and description cannot both be right."""
        task = self._task()
        spec = self._input(file)
        embeds = task.endswith("embedding")
        return ModelCard(
            id=self.id or slug(Path(file.name).stem),
            task=task,
            family={"face-detection": "yunet"}.get(task, "embedding" if embeds else "logits"),
            input=spec,
            outputs=tuple(port.name for port in file.outputs),
            precision=self._precision(file),
            licence=self.licence or "not stated",
            commercial_use=bool(self.commercial_use),
            origin=self.origin or f"a file that the user brought, {file.name}",
            origin_sha256=sha256,
            crop=self.crop or _DEFAULT_CROP[task],
            embedding_size=self.embedding_size or (_last_extent(file) if embeds else None),
            labels=self.labels or (),
            temperature=1.0 if self.temperature is None else self.temperature,
            unsure_below=0.0 if self.unsure_below is None else self.unsure_below,
            operating_points=self.operating_points or (),
            provenance={"card": "written from the user's description", "opset": str(file.opsets.get("", ""))},
        )

    def _task(self) -> Task:
        if self.task not in TASKS:
            raise UsageError(
                f"the description names the task {self.task!r}" if self.task else "the description names no task",
                expected=f"one of {', '.join(TASKS)}",
                remedy="say it with --task, or use a --preset",
            )
        return self.task

    def _precision(self, file: OnnxFile) -> Precision:
        if self.precision is None:
            return "int8" if {"DequantizeLinear", "QLinearConv"} & set(file.operators) else "fp32"
        if self.precision not in PRECISIONS:
            raise UsageError(f"the precision is {self.precision!r}", expected=", ".join(PRECISIONS))
        return self.precision

    def _input(self, file: OnnxFile) -> InputSpec:
        if len(file.inputs) != 1 or len(file.inputs[0].shape) != 4:
            shapes = ", ".join(f"{port.name} {list(port.shape)}" for port in file.inputs)
            raise ModelError(f"{file.name} takes {shapes or 'nothing'}", expected="one picture, (N, 3, H, W)")
        if self.channels not in (None, "RGB", "BGR"):
            raise UsageError(f"the channels are {self.channels!r}", expected="RGB or BGR")
        port = file.inputs[0]
        height, width = (extent if isinstance(extent, int) else None for extent in port.shape[2:])
        channels = cast(Literal["RGB", "BGR"], self.channels or "RGB")
        return InputSpec(
            port.name, width, height, channels, _three(self.mean, 0.0, "mean"), _three(self.std, 1.0, "std")
        )


def _three(values: tuple[float, ...] | None, default: float, what: str) -> tuple[float, float, float]:
    given = (default,) if values is None else values
    if len(given) not in (1, 3):
        raise UsageError(f"{what} has {len(given)} numbers", expected="one, or one for each channel")
    return cast(tuple[float, float, float], tuple(given) * (3 // len(given)))


def _last_extent(file: OnnxFile) -> int | None:
    shape = file.outputs[0].shape if file.outputs else ()
    last = shape[-1] if shape else None
    if not isinstance(last, int):
        raise ModelError(
            f"the graph in {file.name} does not say how many numbers it gives", remedy="say it with --embedding-size"
        )
    return last


def slug(text: str) -> str:
    """The nearest valid id: small letters, digits, dot, dash and underscore."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "model"


# MiniFASNet (minivision-ai, Silent-Face-Anti-Spoofing, Apache-2.0): class 1 is live, 0 and 2 are two kinds of fakes.
_MINIFASNET: Final = Description(
    task="liveness", channels="BGR", labels=("fake (0)", "live", "fake (2)"), licence="Apache-2.0", commercial_use=True
)
PRESETS: Final[Mapping[str, Description]] = {
    "arcface": Description(task="face-embedding", crop="arcface-112", channels="RGB", mean=(127.5,), std=(127.5,)),
    "yunet": Description(task="face-detection", crop="none", channels="BGR"),
    "minifasnet-2.7": replace(_MINIFASNET, crop="face-2.7"),
    "minifasnet-4.0": replace(_MINIFASNET, crop="face-4.0"),
}
"""Descriptions of well-known kinds of models."""


def preset(name: str) -> Description:
    """One of `PRESETS`. Raises UsageError for another name."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset called {name!r}", expected=f"one of {', '.join(PRESETS)}")
    return PRESETS[name]


def read_description(path: Path) -> Description:
    """Read a TOML file with the fields of `Description`, and `preset` or `labels_file` (one label a line).

    Raises UsageError in one line for a missing file, bad TOML, or a field that is unknown or of the wrong kind.
    """
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the description {path} cannot be read: {error}", expected="a small TOML file") from error
    base = preset(str(plain.pop("preset"))) if "preset" in plain else Description()
    if "labels_file" in plain:
        plain["labels"] = read_labels(path.parent / str(plain.pop("labels_file")))
    known = {field.name for field in fields(Description)}
    if unknown := sorted(plain.keys() - known):
        raise UsageError(f"{path.name} says {', '.join(unknown)}", expected=f"only {', '.join(sorted(known))}")
    try:
        return Description(**{name: _typed(name, value) for name, value in plain.items()}).over(base)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path.name}: {error}", expected="a value of the right kind") from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels from a text file, one a line, in the order of the logits. Raises UsageError when it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"the labels {path} cannot be read: {error}", expected="a text file, one a line") from error
    return tuple(line.strip() for line in lines if line.strip())


def _typed(name: str, value: Any) -> Any:
    if name in ("mean", "std"):
        return tuple(float(one) for one in (value if isinstance(value, list) else [value]))
    if name == "labels":
        return tuple(str(one) for one in _of_kind(name, value, (list, tuple)))
    if name == "operating_points":
        return tuple(OperatingPoint(**point) for point in _of_kind(name, value, (list,)))
    if name in ("temperature", "unsure_below"):
        return float(_of_kind(name, value, (int, float)))
    kind = {"embedding_size": int, "commercial_use": bool}.get(name, str)
    return _of_kind(name, value, (kind,))


def _of_kind(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    if type(value) not in kinds:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def check_card(card: ModelCard, file: OnnxFile) -> None:
    """Refuse a card that no model could keep, or that this graph does not: one line, ModelError."""
    for problem, expected in _problems(card, file):
        raise ModelError(f"the card of {str(card.id)[:64]!r} {problem}", expected=expected, remedy="correct the card")


def _problems(card: ModelCard, file: OnnxFile) -> list[tuple[str, str]]:
    found = []
    if not isinstance(card.id, str) or not _ID.fullmatch(card.id):
        found.append(("has a bad id", "small letters, digits, dot, dash and underscore, at most 64"))
    texts = (card.family, card.licence, card.origin, card.origin_sha256, card.crop, *card.outputs, *card.labels)
    if not all(isinstance(text, str) and len(text) <= 2000 and (not text or text.isprintable()) for text in texts):
        found.append(("holds something that is not plain text", "printable text of at most 2000 characters"))
    if len(set(card.labels)) != len(card.labels):
        found.append(("names a label twice", "each label once"))
    found += _input_problems(card.input)
    found += _task_problems(card)
    port = file.inputs[0] if len(file.inputs) == 1 else None
    if port is None or port.element_type != _FLOAT32 or len(port.shape) != 4 or port.shape[1] not in (3, *_open(port)):
        shapes = ", ".join(f"{one.name} {list(one.shape)}" for one in file.inputs)
        found.append((f"is on a graph that takes {shapes or 'nothing'}", "one float32 picture (N, 3, H, W)"))
    return found


def _open(port: Any) -> tuple[str, ...]:
    return tuple(extent for extent in port.shape if isinstance(extent, str))


def _input_problems(spec: InputSpec) -> list[tuple[str, str]]:
    found = []
    numbers = (*spec.mean, *spec.std)
    plain = len(numbers) == 6 and all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
    if not plain or not all(one > 0 for one in spec.std):
        found.append((f"gives mean {spec.mean} and std {spec.std}", "three finite numbers each, std above 0"))
    if spec.channels not in ("RGB", "BGR") or spec.layout != "NCHW" or not isinstance(spec.name, str):
        found.append((f"gives channels {spec.channels!r} in {spec.layout!r}", "RGB or BGR, NCHW"))
    sides = (side for side in (spec.width_px, spec.height_px) if side is not None)
    wrong = [side for side in sides if type(side) is not int or not 8 <= side <= _SIDE_LIMIT_PX]
    found += [(f"gives an input side of {side}", f"8 to {_SIDE_LIMIT_PX} pixels") for side in wrong]
    return found


def _task_problems(card: ModelCard) -> list[tuple[str, str]]:
    found = []
    family = {"face-detection": "yunet"}.get(card.task, "embedding" if card.task.endswith("embedding") else "logits")
    if card.family != family:
        found.append((f"names the family {card.family!r}", f"{family!r} for {card.task}"))
    template = CROPS.get(card.crop)
    if card.task == "face-embedding" and template is None:
        found.append((f"names the crop {card.crop!r}", f"one of {', '.join(CROPS)}"))
    if template and card.task != "face-detection":
        sides = {card.input.width_px, card.input.height_px}
        if sides != {template.size_px}:
            found.append((f"gives an input of {sides} px for {card.crop}", f"{template.size_px} px"))
    if card.task == "face-detection" and (card.input.width_px or card.input.height_px):
        found.append((f"gives an input of {card.input.width_px}x{card.input.height_px} px", "a detector of any size"))
    if card.task != "face-detection" and not (card.input.width_px and card.input.height_px):
        found.append(("gives no input size", "a fixed width and height"))
    if not template and card.task in ("classification", "liveness", "image-embedding") and not _share(card.crop):
        found.append((f"names the crop {card.crop!r}", "centre-S, face-S or a face template"))
    if card.task == "liveness" and not (2 <= len(card.labels) <= 3 and "live" in card.labels):
        found.append((f"gives the labels {list(card.labels)[:5]}", "two or three, one of them 'live'"))
    return found


def _share(crop: str) -> bool:
    kind, _, number = crop.partition("-")
    try:
        value = float(number)
    except ValueError:
        return False
    return (kind == "centre" and 0 < value <= 1) or (kind == "face" and 0.5 <= value <= 10)


__all__ = ["PRESETS", "Description", "check_card", "preset", "read_description", "read_labels", "slug"]
