"""The model card: what a model is, what it takes and gives, and what was measured with it.

It travels as JSON inside the ONNX file, and anybody may have written it: every field is checked when a card is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import ClassVar, Final, Literal

from edge_app.core.attributes import Attribute, check_attributes
from edge_app.core.cohort import Cohort
from edge_app.core.documents import DocumentError, check_fields, parse_json, typed
from edge_app.core.errors import ModelError
from edge_app.core.hierarchy import Hierarchy
from edge_app.core.plain_text import plain
from edge_app.core.task import Task

Precision = Literal["fp32", "int8", "fp16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "int8", "fp16")
FALSE_MATCHES_BESIDE_FP32: Final = "false matches beside fp32"
"""Metric of an embedder's build: how often strangers on tight crops match, over how often they do in fp32."""
CARD_LIMIT_BYTES: Final = 4 << 20
"""ImageNet-21k's labels take 0.6 MB."""
_LABEL_LIMIT: Final = 50_000
_TEXT_LIMIT: Final = 20_000
_SIDE_LIMIT_PX: Final = 4096
_COSINE_LIMIT: Final = 1.0001
"""A threshold lies just above a similarity, which rounding may carry past 1."""
_ID_LIMIT: Final = 80
"""`models add` takes 64; files of earlier exports may have more, and get another id there."""
_COST_LIMIT: Final = 1e6
TASKS: Final = tuple(Task)


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
    evened: bool = False
    """Whether the model's cohort was used: then the threshold holds for similarities less both faces' excess."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        wrong = (
            f"fmr is {self.fmr}, expected a rate between 0 and 1"
            if not 0.0 < self.fmr < 1.0
            else f"threshold is {self.threshold}, expected a cosine"
            if not -_COSINE_LIMIT <= self.threshold <= _COSINE_LIMIT
            else f"impostor_pairs is {self.impostor_pairs}, too few to measure a rate of {self.fmr:g}"
            if not self.impostor_pairs * self.fmr >= 1.0 - 1e-6
            else f"templates is {self.templates}, expected 1 to 100"
            if not 1 <= self.templates <= 100
            else ""
        )
        if wrong:
            raise ModelError(f"an operating point's {wrong}")


def check_operating_points(points: Sequence[OperatingPoint]) -> None:
    """Refuse a table of thresholds that no measurement gives: ModelError.

    For each number of templates every rate stands once, and lower rates have thresholds that are no lower.
    """
    ordered = sorted(points, key=lambda point: (point.templates, -point.fmr))
    for one, next_ in pairwise(ordered):
        if one.templates == next_.templates and (one.fmr == next_.fmr or next_.threshold < one.threshold):
            raise ModelError(
                f"the operating points give {one.threshold:g} at a rate of {one.fmr:g} "
                f"and {next_.threshold:g} at {next_.fmr:g}",
                expected="each rate once, higher thresholds for lower rates",
            )


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

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0.0:
            raise ModelError(
                f"the input has mean {self.mean} and std {self.std}", expected="finite numbers, std above 0"
            )
        for side in (self.width_px, self.height_px):
            if side is not None and not 1 <= side <= _SIDE_LIMIT_PX:
                raise ModelError(f"the input has a side of {side} pixels", expected=f"1 to {_SIDE_LIMIT_PX}")


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
    central rectangle, S times the largest that fits), "whole" (all of it, squeezed into the input), either with
    "@x1,y1,x2,y2" behind it (that of a region of the picture, given as shares of it), "face-S" (a face's box grown S
    times), or "none"."""
    embedding_size: int | None = None
    labels: tuple[str, ...] = ()
    temperature: float = 1.0
    """softmax(logits / temperature) is a calibrated probability; classifiers only."""
    unsure_below: float = 0.0
    """Probability of the best label under which the answer is "not sure", [0, 1); classifiers only."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """What it costs to miss a label, 1 for those that are not named: the label with the least expected cost is told,
    and is sure from `unsure_below` of the probability so weighted. Classifiers only."""
    hierarchy: Hierarchy | None = None
    """Families of labels, one of which is told where no label is sure. Classifiers only."""
    attributes: tuple[Attribute, ...] = ()
    """What some labels have in common without being a family. Classifiers only."""
    operating_points: tuple[OperatingPoint, ...] = ()
    cohort: Cohort | None = None
    """What evens out how alike strangers of one kind are; None: similarities are the cosines as they are."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Measured figures by name, e.g. accuracy on a named protocol."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """How the file was made: command, package versions, parity with the origin."""

    KEY: ClassVar[str] = "edge_app.card"
    """Key of the card in the ONNX file's metadata."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        for path, text in self._texts():
            # Long words may have lines: a licence, a command.
            long = path.startswith(("licence", "origin", "provenance"))
            bare = text.replace("\n", " ").replace("\t", " ") if long else text
            if len(text) > _TEXT_LIMIT or plain(bare) != bare:
                raise ModelError(f"{path} of the card is no plain text of at most {_TEXT_LIMIT} characters")
        if not 1 <= len(self.id) <= _ID_LIMIT:
            raise ModelError(f"the card's id has {len(self.id)} characters", expected=f"1 to {_ID_LIMIT}")
        if len(self.labels) > _LABEL_LIMIT or len(set(self.labels)) != len(self.labels):
            raise ModelError(
                f"the card of {self.id!r} names {len(self.labels)} labels", expected=f"each once, <= {_LABEL_LIMIT}"
            )
        if not all(map(math.isfinite, self.metrics.values())):
            raise ModelError(f"the card of {self.id!r} has a metric that is not finite")
        if self.task.embeds and not self.embedding_size:
            raise ModelError(f"the card of {self.id!r} gives no embedding size", expected="a positive number")
        if self.embedding_size is not None and not 1 <= self.embedding_size <= 1 << 20:
            raise ModelError(f"the card of {self.id!r} gives an embedding size of {self.embedding_size}")
        if not (math.isfinite(self.temperature) and self.temperature > 0 and 0.0 <= self.unsure_below < 1.0):
            raise ModelError(
                f"the card of {self.id!r} gives temperature {self.temperature} and unsure_below {self.unsure_below}",
                expected="a temperature above 0 and a probability in [0, 1)",
            )
        if self.cohort is not None and self.cohort.size != self.embedding_size:
            raise ModelError(
                f"the card of {self.id!r} gives a cohort of {self.cohort.size} numbers a face",
                expected=f"{self.embedding_size or 'none'}, as its embeddings have",
            )
        if self.task.classifies and not self.labels:
            raise ModelError(f"the card of {self.id!r} gives no labels", expected="one label per class")
        wrong = [label for label, cost in self.costs.items() if label not in self.labels or not 0 < cost <= _COST_LIMIT]
        if wrong:
            raise ModelError(
                f"the card of {self.id!r} gives {wrong[0][:80]!r} a cost",
                expected=f"labels of its own, and costs above 0, at most {_COST_LIMIT:g}",
            )
        if self.hierarchy is not None:
            self.hierarchy.check(self.labels)
        check_attributes(self.attributes, self.labels)
        check_operating_points(self.operating_points)

    @property
    def names(self) -> tuple[str, ...]:
        """What a classifier may answer: its labels, and the families of them."""
        families = () if self.hierarchy is None else self.hierarchy.families
        return (*self.labels, *(family.name for family in families))

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Every text of the card with its field's name."""
        for name in ("id", "family", "licence", "origin", "origin_sha256", "crop"):
            yield name, getattr(self, name)
        yield "input.name", self.input.name
        for name in ("outputs", "labels"):
            yield from ((f"{name}[{number}]", text) for number, text in enumerate(getattr(self, name)))
        yield from (("a label in costs", text) for text in self.costs)
        yield from (("a name in metrics", text) for text in self.metrics)
        for name, text in self.provenance.items():
            yield "a name in provenance", name
            yield "provenance", text

    def to_json(self) -> str:
        """The card as one JSON object."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {
            "input": asdict(self.input),
            "operating_points": [asdict(point) for point in self.operating_points],
            "cohort": self.cohort and asdict(self.cohort),
            "costs": dict(self.costs),
            "hierarchy": self.hierarchy and asdict(self.hierarchy),
            "attributes": [asdict(one) for one in self.attributes],
            "metrics": dict(self.metrics),
            "provenance": dict(self.provenance),
        }
        for late in ("costs", "hierarchy", "attributes"):  # earlier versions do not know these fields
            if not values[late]:
                del values[late]
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read what `to_json` wrote. Raises ModelError, naming the field, when one is missing, unknown or wrong."""
        try:
            return typed(parse_json(text, most_bytes=CARD_LIMIT_BYTES), cls)
        except DocumentError as error:
            raise ModelError(
                f"the model's card cannot be read: {error}", expected="a card that edge-app wrote"
            ) from error
