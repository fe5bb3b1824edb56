"""Makes cards for models from elsewhere: from the graph, a preset, and options or a small TOML file.

The card's own statements are checked here (`check_card`); whether they are true shows when the model is run
(`edge_app.model_store.sandbox_check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal, cast

from edge_app.core.documents import DocumentError, parse_toml, typed
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import (
    CARD_LIMIT_BYTES,
    PRECISIONS,
    TASKS,
    InputSpec,
    ModelCard,
    OperatingPoint,
    Precision,
)
from edge_app.core.names import ID, slug
from edge_app.core.task import Task
from edge_app.inference.geometry import CROPS, face_scale, picture_crop
from edge_app.model_store.onnx_inspect import OnnxFile

_FLOAT32: Final = 1
_LEAST_SIDE_PX: Final = 8
_TEXT_LIMIT: Final = 2000
_DESCRIPTION_LIMIT_BYTES: Final = 1 << 20
_DEFAULT_CROP: Final[dict[str, str]] = {
    Task.FACE_EMBEDDING: "arcface-112",
    Task.IMAGE_EMBEDDING: "centre-1.0",
    Task.CLASSIFICATION: "centre-1.0",
    Task.LIVENESS: "face-2.7",
    Task.FACE_DETECTION: "none",
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
        if self.task not in TASKS:
            raise UsageError(
                f"the description names the task {self.task!r}" if self.task else "the description names no task",
                expected=f"one of {', '.join(TASKS)}",
                remedy="say it with --task, or use a --preset",
            )
        task = Task(self.task)
        spec = self._input(file)
        embeds = task.embeds
        return ModelCard(
            id=self.id or slug(Path(file.name).stem),
            task=task,
            family={Task.FACE_DETECTION: "yunet"}.get(task, "embedding" if embeds else "logits"),
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


# MiniFASNet (minivision-ai, Silent-Face-Anti-Spoofing, Apache-2.0): class 1 is live, 0 and 2 are two kinds of fakes.
_MINIFASNET: Final = Description(
    task=Task.LIVENESS,
    channels="BGR",
    labels=("fake (0)", "live", "fake (2)"),
    licence="Apache-2.0",
    commercial_use=True,
)
PRESETS: Final[Mapping[str, Description]] = {
    "arcface": Description(task=Task.FACE_EMBEDDING, crop="arcface-112", channels="RGB", mean=(127.5,), std=(127.5,)),
    "yunet": Description(task=Task.FACE_DETECTION, crop="none", channels="BGR"),
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
        with path.open("rb") as stream:
            plain = parse_toml(stream.read(_DESCRIPTION_LIMIT_BYTES + 1), most_bytes=_DESCRIPTION_LIMIT_BYTES)
        base = preset(str(plain.pop("preset"))) if "preset" in plain else Description()
        if "labels_file" in plain:
            plain["labels"] = read_labels(path.parent / str(plain.pop("labels_file")))
        for name in ("mean", "std"):
            if isinstance(plain.get(name), int | float):
                plain[name] = [plain[name]]
        return typed(plain, Description).over(base)
    except OSError as error:
        raise UsageError(
            f"the description {path} cannot be read: {error.strerror}", expected="a small TOML file"
        ) from error
    except (DocumentError, ModelError) as error:
        raise UsageError(f"the description {path.name} is wrong: {error}", remedy="correct it") from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels from a text file, one a line, in the order of the logits. Raises UsageError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            content = stream.read(CARD_LIMIT_BYTES + 1)
        if len(content) > CARD_LIMIT_BYTES:
            raise ValueError(f"it has more than {CARD_LIMIT_BYTES} bytes")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"the labels {path} cannot be read: {error}", expected="a text file, one a line") from error
    return tuple(line.strip() for line in lines if line.strip())


def check_card(card: ModelCard, file: OnnxFile) -> None:
    """Refuse a card that no model could keep, or that this graph does not: one line, ModelError."""
    for problem, expected in _problems(card, file):
        raise ModelError(f"the card of {card.id[:64]!r} {problem}", expected=expected, remedy="correct the card")


def _problems(card: ModelCard, file: OnnxFile) -> list[tuple[str, str]]:
    found = []
    if not ID.fullmatch(card.id):
        found.append(("has a bad id", "small letters, digits, dot, dash and underscore, at most 64: --id gives one"))
    if any(len(text) > _TEXT_LIMIT for text in (card.family, card.licence, card.origin, card.origin_sha256, card.crop)):
        found.append(("holds a long text", f"at most {_TEXT_LIMIT} characters"))
    sides = (side for side in (card.input.width_px, card.input.height_px) if side is not None)
    found += [(f"gives an input side of {side}", "8 pixels or more") for side in sides if side < _LEAST_SIDE_PX]
    found += _task_problems(card)
    port = file.inputs[0] if len(file.inputs) == 1 else None
    channels = port.shape[1] if port is not None and len(port.shape) == 4 else None
    if port is None or port.element_type != _FLOAT32 or not (channels == 3 or isinstance(channels, str)):
        shapes = ", ".join(f"{one.name} {list(one.shape)}" for one in file.inputs)
        found.append((f"is on a graph that takes {shapes or 'nothing'}", "one float32 picture (N, 3, H, W)"))
    return found


def _task_problems(card: ModelCard) -> list[tuple[str, str]]:
    found = []
    family = {Task.FACE_DETECTION: "yunet"}.get(card.task, "embedding" if card.task.embeds else "logits")
    if card.family != family:
        found.append((f"names the family {card.family!r}", f"{family!r} for {card.task}"))
    template = CROPS.get(card.crop)
    if card.task is Task.FACE_EMBEDDING and template is None:
        found.append((f"names the crop {card.crop!r}", f"one of {', '.join(CROPS)}"))
    if template and card.task is not Task.FACE_DETECTION:
        sides = {card.input.width_px, card.input.height_px}
        if sides != {template.size_px}:
            found.append((f"gives an input of {sides} px for {card.crop}", f"{template.size_px} px"))
    if card.task is Task.FACE_DETECTION and (card.input.width_px or card.input.height_px):
        found.append((f"gives an input of {card.input.width_px}x{card.input.height_px} px", "a detector of any size"))
    if card.task is not Task.FACE_DETECTION and not (card.input.width_px and card.input.height_px):
        found.append(("gives no input size", "a fixed width and height"))
    if (
        not template
        and card.task in (Task.CLASSIFICATION, Task.LIVENESS, Task.IMAGE_EMBEDDING)
        and not _is_crop(card.crop)
    ):
        found.append(
            (f"names the crop {card.crop!r}", "centre-S, whole, either with @x1,y1,x2,y2, face-S or a face template")
        )
    if card.task is Task.LIVENESS and not (2 <= len(card.labels) <= 3 and "live" in card.labels):
        found.append((f"gives the labels {list(card.labels)[:5]}", "two or three, one of them 'live'"))
    return found


def _is_crop(crop: str) -> bool:
    try:
        face_scale(crop) if crop.startswith("face-") else picture_crop(crop)
    except (ModelError, UsageError):
        return False
    return True


__all__ = ["PRESETS", "Description", "check_card", "preset", "read_description", "read_labels"]
