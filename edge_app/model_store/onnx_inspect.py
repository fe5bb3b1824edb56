"""Reads what an ONNX file holds without running it, and refuses files that exceed the limits.

Neither ONNX Runtime nor the onnx package is loaded, and no byte of a weight is copied.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from edge_app.model_store.protobuf import Damage, Reader, Span, chunk

SIZE_LIMIT_BYTES: Final = 2**31 - 1
"""What protobuf itself can hold in one message."""
_TENSOR_LIMIT: Final = 1 << 28
"""Numbers in one tensor that a graph declares or builds: 1 GB of float32."""
_INPUT_LIMIT: Final = 1 << 24
"""Numbers in one picture: 2,300 x 2,300 pixels of three channels."""
_METADATA_LIMIT: Final = 64
_METADATA_LIMIT_BYTES: Final = 4 << 20
"""ImageNet-21k's labels take 0.6 MB."""
_DEPTH_LIMIT: Final = 16

_ELEMENT_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4,
}  # fmt: skip
"""Bits of one element by TensorProto.DataType; strings (8) have none."""
_STRING: Final = 8
_INT64: Final = 7
_STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_RUNTIME_OPERATORS: Final = frozenset(
    (
        *("QuantizeLinear", "DequantizeLinear", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool"),
        *("QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearReduceMean"),
        *("QLinearWhere", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits"),
        *("FusedConv", "FusedMatMul", "FusedGemm"),
    )
)
"""Operators of com.microsoft that ONNX Runtime's CPU build has; its quantizer and optimizer write them."""


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph."""

    name: str
    element_type: int
    """TensorProto.DataType: 1 is float32."""
    shape: tuple[int | str, ...]
    """Extents; a name, or "" for one left open, where it may vary."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a file holds, all limits kept."""

    name: str
    size_bytes: int
    ir_version: int
    opsets: Mapping[str, int]
    """Version by domain; "" is ONNX's own."""
    operators: tuple[str, ...]
    """Kinds of nodes, sub-graphs and functions included, sorted; "domain:Kind" outside ONNX's own."""
    nodes: int
    tensors: int
    """Initializers and constants."""
    tensor_bytes: int
    inputs: tuple[Port, ...]
    """Without the weights that old files list as inputs too."""
    outputs: tuple[Port, ...]
    metadata: Mapping[str, str]

    @property
    def card(self) -> ModelCard | None:
        """The card in the metadata, None when there is none. Raises ModelError when it is no card."""
        text = self.metadata.get(ModelCard.KEY)
        if text is None:
            return None
        try:
            return ModelCard.from_json(text)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error.found}", expected=error.expected, remedy=error.remedy) from error


def inspect(path: Path) -> OnnxFile:
    """Look into a file without running or copying it. Raises ModelError in one line for whatever is wrong with it."""
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise ModelError(f"{path.name} is empty", expected="an ONNX file")
            # Never closed by hand: an error on its way up may still hold a view of it.
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            return inspect_bytes(memoryview(mapped), path.name)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", expected="an ONNX file") from error


def inspect_bytes(content: bytes | memoryview, name: str) -> OnnxFile:
    """Look into a file's bytes; `name` is used in errors. Raises ModelError as `inspect` does."""
    if len(content) > SIZE_LIMIT_BYTES:
        raise ModelError(f"{name} has {len(content)} bytes", expected="at most 2 GB, what ONNX allows")
    _refuse_other_formats(bytes(content[:8]), name)
    walk = _Walk(memoryview(content), name)
    try:
        return walk.model()
    except Damage as damage:
        raise ModelError(
            f"{name} is not an ONNX file, or was cut short: {damage}",
            expected="a whole ONNX file",
            remedy="export or download it again",
        ) from damage


def with_card(content: bytes, card: ModelCard) -> bytes:
    """The same file with `card` in its metadata, in place of a card that was there; all else stays byte for byte."""
    return with_metadata(content, {ModelCard.KEY: card.to_json()})


def with_metadata(content: bytes, changes: Mapping[str, str | None]) -> bytes:
    """The same file with these entries in its metadata in place of earlier ones; None takes an entry out."""
    reader = Reader(memoryview(content))
    kept = []
    for start, end, number, value in reader.fields_with_place((0, len(content))):
        if not (number == 14 and isinstance(value, tuple) and reader.entry(value, len(content))[0] in changes):
            kept.append(content[start:end])
    entries = (chunk(1, key.encode()) + chunk(2, text.encode()) for key, text in changes.items() if text is not None)
    return b"".join((*kept, *(chunk(14, entry) for entry in entries)))


def _refuse_other_formats(head: bytes, name: str) -> None:
    known = {
        b"PK\x03\x04": "a zip archive, as PyTorch writes its checkpoints",
        b"\xff\xd8\xff": "a JPEG picture",
        b"\x89PNG": "a PNG picture",
        b"version ": "a Git LFS pointer: the file itself was not fetched",
        b"\x1f\x8b": "a gzip archive",
    }
    for magic, what in known.items():
        if head.startswith(magic):
            raise ModelError(f"{name} is {what}", expected="an ONNX file", remedy="see `edge-app export --help`")


@dataclass(slots=True)
class _Tensor:
    """A TensorProto without its numbers."""

    name: str = ""
    element_type: int = 0
    dims: list[int] = field(default_factory=list)
    raw_bytes: int | None = None
    counts: dict[int, int] = field(default_factory=dict)
    """Elements held in typed fields, by field number."""
    external: dict[str, str] | None = None
    small: list[int] = field(default_factory=list)
    """The numbers themselves, for int64 tensors of up to 8: they may be shapes."""


class _Walk:
    """One pass over a model, gathering what is told and refusing what is not allowed."""

    def __init__(self, view: memoryview, name: str) -> None:
        self.read = Reader(view)
        self.name = name
        self.opsets: dict[str, int] = {}
        self.metadata: dict[str, str] = {}
        self.kinds: set[tuple[str, str]] = set()
        self.own: set[tuple[str, str]] = set()
        self.nodes = self.tensors = self.tensor_bytes = self.ir_version = 0
        self.initializers: set[str] = set()
        self.shapes: dict[str, list[int]] = {}
        self.builders: list[tuple[str, str]] = []
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []

    def model(self) -> OnnxFile:
        graphs, entries = 0, 0
        for number, value in self.read.fields((0, len(self.read.view))):
            if number == 1:
                self.ir_version = self.read.number(value)
            elif number == 7:
                graphs += 1
                self.graph(self.read.span(value), 0)
            elif number == 8:
                self.opset(self.read.span(value))
            elif number == 14:
                entries += 1
                self.entry(self.read.span(value), entries)
            elif number == 25:
                self.function(self.read.span(value))
        if graphs != 1 or not self.nodes or not self.opsets or not 1 <= self.ir_version <= 1000:
            raise Damage(f"it holds {graphs} graphs with {self.nodes} nodes")
        self.check()
        kinds = tuple(sorted(f"{domain}:{kind}" if domain else kind for domain, kind in self.kinds))
        inputs = tuple(port for port in self.inputs if port.name not in self.initializers)
        return OnnxFile(
            self.name, len(self.read.view), self.ir_version, dict(self.opsets), kinds, self.nodes, self.tensors,
            self.tensor_bytes, inputs, tuple(self.outputs), dict(self.metadata),
        )  # fmt: skip

    def opset(self, span: Span) -> None:
        domain, version = "", 0
        for number, value in self.read.fields(span):
            if number == 1:
                domain = self.read.text(value)
            elif number == 2:
                version = self.read.number(value)
        self.opsets[domain] = version

    def entry(self, span: Span, count: int) -> None:
        if count > _METADATA_LIMIT:
            raise ModelError(f"{self.name} has more than {_METADATA_LIMIT} metadata entries", expected="a card")
        if span[1] - span[0] > _METADATA_LIMIT_BYTES:
            raise ModelError(
                f"{self.name} has a metadata entry of {span[1] - span[0]} bytes",
                expected=f"at most {_METADATA_LIMIT_BYTES}",
            )
        key, value = self.read.entry(span, _METADATA_LIMIT_BYTES)
        if key in self.metadata:
            raise ModelError(f"{self.name} has the metadata entry {key[:60]!r} twice", expected="each once")
        self.metadata[key] = value

    def function(self, span: Span) -> None:
        name = domain = ""
        nodes = []
        for number, value in self.read.fields(span):
            if number == 1:
                name = self.read.text(value)
            elif number == 10:
                domain = self.read.text(value)
            elif number == 7:
                nodes.append(self.read.span(value))
        self.own.add((domain, name))
        for node in nodes:
            self.node(node, 1)

    def graph(self, span: Span, depth: int) -> None:
        if depth > _DEPTH_LIMIT:
            raise ModelError(f"{self.name} nests graphs deeper than {_DEPTH_LIMIT}", expected="a plain network")
        for number, value in self.read.fields(span):
            if number == 1:
                self.node(self.read.span(value), depth)
            elif number == 5:
                self.initializers.add(self.tensor(self.read.span(value)).name)
            elif number == 15:
                self.sparse(self.read.span(value))
            elif number in (11, 12) and depth == 0:
                (self.inputs if number == 11 else self.outputs).append(self.port(self.read.span(value)))

    def node(self, span: Span, depth: int) -> None:
        self.nodes += 1
        kind = domain = ""
        feeds: list[str] = []
        gives: list[str] = []
        constants: list[_Tensor] = []
        for number, value in self.read.fields(span):
            if number == 1:
                feeds.append(self.read.text(value))
            elif number == 2:
                gives.append(self.read.text(value))
            elif number == 4:
                kind = self.read.text(value)
            elif number == 7:
                domain = self.read.text(value)
            elif number == 5:
                constants += self.attribute(self.read.span(value), depth)
        self.kinds.add(("" if domain == "ai.onnx" else domain, kind))
        if kind == "Constant" and gives and constants and constants[0].small:
            self.shapes[gives[0]] = constants[0].small
        if kind in ("ConstantOfShape", "Expand") and feeds:
            self.builders.append((kind, feeds[-1]))

    def attribute(self, span: Span, depth: int) -> list[_Tensor]:
        found = []
        for number, value in self.read.fields(span):
            if number in (5, 10):
                found.append(self.tensor(self.read.span(value)))
            elif number in (6, 11):
                self.graph(self.read.span(value), depth + 1)
            elif number in (22, 23):
                self.sparse(self.read.span(value))
        return found

    def sparse(self, span: Span) -> None:
        dims: list[int] = []
        for number, value in self.read.fields(span):
            if number in (1, 2):
                name = self.tensor(self.read.span(value)).name
                if number == 1:
                    self.initializers.add(name)
            elif number == 3:
                dims += self.read.numbers(value)
        self.limit("a sparse tensor", dims, _TENSOR_LIMIT)

    def tensor(self, span: Span) -> _Tensor:
        made = _Tensor()
        raw: Span | None = None
        for number, value in self.read.fields(span):
            if number == 1:
                made.dims += self.read.numbers(value)
            elif number == 2:
                made.element_type = self.read.number(value)
            elif number == 8:
                made.name = self.read.text(value)
            elif number == 9:
                raw = self.read.span(value)
                made.raw_bytes = raw[1] - raw[0]
            elif number in (4, 5, 6, 7, 10, 11):
                made.counts[number] = made.counts.get(number, 0) + self.held(number, value)
                if number == 7 and made.counts[7] <= 8:
                    made.small += self.read.numbers(value)
            elif number == 13 or (number == 14 and value == 1):
                made.external = dict(made.external or {})
                if number == 13:
                    key, text = self.read.entry(self.read.span(value), _METADATA_LIMIT_BYTES)
                    made.external[key] = text
        if raw is not None and made.element_type == _INT64 and 0 < made.raw_bytes <= 64 and made.raw_bytes % 8 == 0:  # type: ignore[operator]
            made.small = [int(one) for one in np.frombuffer(self.read.view[raw[0] : raw[1]], "<i8")]
        self.tensors += 1
        self.check_tensor(made)
        if made.small:
            self.shapes[made.name] = made.small
        return made

    def held(self, number: int, value: int | Span) -> int:
        """How many elements a typed data field holds."""
        if isinstance(value, int) or number == 6:
            return 1
        start, end = value
        if number in (4, 10):
            return max(1, (end - start) // (4 if number == 4 else 8))
        return int((np.frombuffer(self.read.view[start:end], np.uint8) < 0x80).sum())

    def check_tensor(self, tensor: _Tensor) -> None:
        what = f"the tensor {tensor.name[:60]!r}"
        if tensor.external is not None:
            self.refuse_external(tensor)
        count = self.limit(what, tensor.dims, _TENSOR_LIMIT)
        if tensor.element_type == _STRING:
            if tensor.counts.get(6, 0) != count:
                raise ModelError(f"{what} in {self.name} declares {count} strings", expected="as many as it holds")
            return
        bits = _ELEMENT_BITS.get(tensor.element_type)
        if bits is None:
            raise ModelError(
                f"{what} in {self.name} has the element type {tensor.element_type}", expected="a known one"
            )
        if tensor.raw_bytes is not None:
            wanted, have, unit = -(-count * bits // 8), tensor.raw_bytes, "bytes"
        else:
            per_field = 2 if bits == 4 else 1  # two 4-bit numbers share one
            double = 2 if tensor.element_type in (14, 15) else 1
            wanted, have, unit = -(-count * double // per_field), sum(tensor.counts.values()), "numbers"
        if wanted != have:
            raise ModelError(
                f"{what} in {self.name} declares the shape {tensor.dims}, {wanted} {unit}, and holds {have}",
                expected="as many as declared",
                remedy="export or download the file again",
            )
        self.tensor_bytes += -(-count * bits // 8)

    def limit(self, what: str, dims: list[int], limit: int) -> int:
        if any(extent < 0 for extent in dims) or math.prod(dims) > limit:
            raise ModelError(f"{what} in {self.name} declares the shape {dims}", expected=f"at most {limit} numbers")
        return math.prod(dims)

    def refuse_external(self, tensor: _Tensor) -> None:
        place = (tensor.external or {}).get("location", "")
        parts = place.replace("\\", "/").split("/")
        outside = place.startswith(("/", "\\", "~")) or ".." in parts or ":" in parts[0]
        where = "outside its folder" if outside else "in another file"
        raise ModelError(
            f"{self.name} keeps the tensor {tensor.name[:60]!r} {where}: {place[:120]!r}",
            expected="one file that is a whole model",
            remedy="save it with onnx.save(onnx.load(FILE), NEW, save_as_external_data=False)",
        )

    def port(self, span: Span) -> Port:
        name, element_type = "", 0
        shape: list[int | str] = []
        for number, value in self.read.fields(span):
            if number == 1:
                name = self.read.text(value)
            elif number == 2:
                for kind, inner in self.read.fields(self.read.span(value)):
                    if kind == 1:
                        element_type, shape = self.tensor_type(self.read.span(inner))
        return Port(name, element_type, tuple(shape))

    def tensor_type(self, span: Span) -> tuple[int, list[int | str]]:
        element_type = 0
        shape: list[int | str] = []
        for number, value in self.read.fields(span):
            if number == 1:
                element_type = self.read.number(value)
            elif number == 2:
                for kind, dim in self.read.fields(self.read.span(value)):
                    if kind == 1:
                        shape.append(self.extent(self.read.span(dim)))
        return element_type, shape

    def extent(self, span: Span) -> int | str:
        found: int | str = ""
        for number, value in self.read.fields(span):
            if number == 1:
                found = self.read.number(value)
            elif number == 2:
                found = self.read.text(value)
        return found

    def check(self) -> None:
        """What only shows when all has been read."""
        strange = sorted(f"{domain}.{kind}" for domain, kind in self.kinds - self.own if not _known(domain, kind))
        if strange:
            raise ModelError(
                f"{self.name} needs custom operators: {', '.join(strange[:5])}",
                expected="ONNX's own operators",
                remedy="export it again with standard operators",
            )
        for kind, source in self.builders:
            if source in self.shapes:
                self.limit(f"a {kind}", self.shapes[source], _TENSOR_LIMIT)
        for port in self.inputs:
            if port.name not in self.initializers:
                fixed = [extent for extent in port.shape if isinstance(extent, int)]
                self.limit(f"the input {port.name[:60]!r}", fixed, _INPUT_LIMIT)


def _known(domain: str, kind: str) -> bool:
    return domain in _STANDARD_DOMAINS or (domain == "com.microsoft" and kind in _RUNTIME_OPERATORS)
