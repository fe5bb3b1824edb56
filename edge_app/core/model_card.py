"""What a model is: the card that travels inside its ONNX file.

Hides the card's JSON. Flows in: fields, or the text in a file's metadata. Flows out: `ModelCard`s, validated and
immutable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Final, Literal

from edge_app.core.errors import ModelError

Task = Literal["face-detection", "face-embedding", "image-embedding", "classification", "liveness"]
Precision = Literal["fp32", "int8", "fp16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "int8", "fp16")
TASKS: Final[tuple[Task, ...]] = ("face-detection", "face-embedding", "image-embedding", "classification", "liveness")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and how often it lets a stranger pass."""

    fmr: float
    """False-match rate of one comparison, (0, 1)."""
    threshold: float
    """Similarity at which that rate was measured."""
    impostor_pairs: int
    """How many impostor comparisons the figure rests on."""
    templates: int = 1
    """Templates averaged into the identity that was compared."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How pixels become the network's input: (pixels - mean) / std, channels first."""

    name: str
    """Name of the graph's input."""
    width_px: int | None
    """None: any width."""
    height_px: int | None
    """None: any height."""
    channels: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In units of 0-255, in the order of `channels`."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """In units of 0-255, in the order of `channels`."""
    layout: Literal["NCHW"] = "NCHW"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is. It lives in the ONNX file's own metadata, so one file is a whole model."""

    id: str
    """Name of the model; all precisions of one model share it and its embedding space."""
    task: Task
    family: str
    """How outputs are decoded: yunet, mtcnn-pnet, mtcnn-rnet, mtcnn-onet, embedding, logits."""
    input: InputSpec
    outputs: tuple[str, ...]
    """Names of the graph's outputs, in the graph's order."""
    precision: Precision
    licence: str
    """SPDX id, or the words of the owner."""
    commercial_use: bool
    """False: weights or data forbid it; shown whenever the model is chosen."""
    origin: str
    """Where the weights come from, in words."""
    origin_sha256: str
    """Hash of the file the weights came in."""
    crop: str = "none"
    """What part of a picture it takes: an alignment template of `edge_app.inference.geometry.CROPS`, "centre-S" (the
    central rectangle, S times the largest that fits), "face-S" (a face's box grown S times), or "none"."""
    embedding_size: int | None = None
    labels: tuple[str, ...] = ()
    temperature: float = 1.0
    """softmax(logits / temperature) is a calibrated probability; classifiers only."""
    unsure_below: float = 0.0
    """Probability of the best label under which the answer is "not sure", [0, 1); classifiers only."""
    operating_points: tuple[OperatingPoint, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measured figures by name, e.g. accuracy on a named protocol."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """How the file was made: command, package versions, parity with the origin."""

    KEY: ClassVar[str] = "edge_app.card"
    """Key of the card in the ONNX file's metadata."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ModelError(f"the card names the task {self.task!r}", expected=f"one of {', '.join(TASKS)}")
        if self.precision not in PRECISIONS:
            raise ModelError(f"the card names the precision {self.precision!r}", expected=", ".join(PRECISIONS))
        if self.task.endswith("embedding") and not self.embedding_size:
            raise ModelError(f"the card of {self.id!r} gives no embedding size", expected="a positive number")
        if not (math.isfinite(self.temperature) and self.temperature > 0 and 0.0 <= self.unsure_below < 1.0):
            raise ModelError(
                f"the card of {self.id!r} gives temperature {self.temperature} and unsure_below {self.unsure_below}",
                expected="a temperature above 0 and a probability in [0, 1)",
            )
        if self.task in ("classification", "liveness") and not self.labels:
            raise ModelError(f"the card of {self.id!r} gives no labels", expected="one label per class")

    def to_json(self) -> str:
        """The card as one JSON object."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain |= {
            "input": asdict(self.input),
            "operating_points": [asdict(point) for point in self.operating_points],
            "metrics": dict(self.metrics),
            "provenance": dict(self.provenance),
        }
        return json.dumps(plain, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read what `to_json` wrote. Raises ModelError when a field is missing, unknown or of the wrong kind."""
        try:
            plain: dict[str, Any] = json.loads(text)
            spec = plain["input"]
            return cls(
                **plain
                | {
                    "input": InputSpec(**spec | {"mean": tuple(spec["mean"]), "std": tuple(spec["std"])}),
                    "outputs": tuple(plain["outputs"]),
                    "labels": tuple(plain.get("labels", ())),
                    "operating_points": tuple(OperatingPoint(**p) for p in plain.get("operating_points", ())),
                }
            )
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's card cannot be read: {error}", expected="a card that edge-app wrote"
            ) from error
