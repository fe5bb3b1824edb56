"""INT8 and FP16 builds of any exported network, kept only when its own metric stays.

INT8 is static: QDQ, weights per channel, calibrated on the material's training pictures. Convolutions with what follows
them (activation, Add, pooling) work in bytes; the classifier's last matrix and its map of places stay float: they cost
nothing and the answers hang on them. Weights of dense layers use 7 bits, those of depthwise layers 8: AVX2 multiplies
bytes with 16 bits of room (see `edge_export.graph.quantize_sface`). On ants_bees in EfficientNet-Lite0, one run's
mean change of a
probability: this 0.0157; 8 bits everywhere 0.0162 even when equalized, 7 bits everywhere 0.0238 when equalized; this
with streams equalized (`edge_export.graph.equalize`) 0.0112. Where ReLU6 is not among what is quantized, it is a
float island:
0.0488, and slow. A graph with PReLU is SFace's, and gets the recipe of `edge_export.graph.quantize_sface`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from edge_app.accuracy.intervals import Estimate
from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Float32s
from edge_app.inference import onnx_model
from edge_app.system.files import sha256_of
from edge_export.build.material import Material
from edge_export.check.metrics import Score, drop, matched_temperature, score
from edge_export.check.not_sure_bar import families_words
from edge_export.check.parity import Rule, compare
from edge_export.check.shared_gallery import Mixed, mixed
from edge_export.check.timing import in_turns, served
from edge_export.graph.card import attach_card, model_bytes, write_bytes
from edge_export.graph.equalize import equalize
from edge_export.graph.graph import Graph
from edge_export.graph.prelu import flatten_before_gemm, restore_prelu
from edge_export.graph.quantize_sface import is_depthwise, quantize, quietly, single_inputs
from edge_export.graph.session import Function, as_function

Lower = Literal["int8", "fp16"]
Tell = Callable[[str], None]
MAX_DROP: Final = 0.005
SAME_SPACE_COSINE: Final = 0.98
"""Least mean cosine to fp32: `edge_app.model_store.install` takes no build below it under the same id."""
MOST_STRANGERS: Final = 1.5
"""How many times the false-match rate asked for may come through where templates and probes are of two builds."""
_IN_BYTES: Final = ("Conv", "Clip", "Relu", "Add", "MaxPool", "Concat")
_RANGE_PICTURES: Final = 64
"""Pictures that channels' ranges are measured on."""
_PRELU_PICTURES: Final = 64
"""What `edge_export.graph.quantize_sface` asks for."""
_BATCH: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """What became of one lower precision."""

    precision: Lower
    kept: bool
    path: Path | None
    """Where it lies; None when refused."""
    card: ModelCard | None
    """As it lies in the file; None when refused."""
    score: Score | None
    """On the held-out pictures; None where it could not be judged."""
    drop: float
    """What of the metric was lost against fp32; NaN where it could not be judged."""
    interval: Estimate | None
    """`drop` with its paired 95 % interval."""
    size_bytes: int
    ms: Mapping[int, float]
    """Milliseconds of one picture by threads; empty when refused."""
    fp32_ms: Mapping[int, float]
    """The same of the fp32 build, taken in turns with it."""
    outputs: Float32s | None
    """(M, K) first output for the held-out pictures."""
    reason: str
    """One line: why it was kept or refused."""

    @property
    def slower(self) -> bool:
        """Whether it is slower than fp32 at every number of threads that was measured."""
        return bool(self.ms) and all(self.ms[count] > self.fp32_ms[count] for count in self.ms)


def build(
    material: Material,
    fp32_model: onnx.ModelProto,
    precision: Lower,
    max_drop: float,
    path: Path,
    progress: Tell = lambda what: None,
) -> Lowered:
    """Make a lower precision of an exported graph, judge it, and write it when it is good enough.

    `fp32_model`: as `edge_export.graph.card.read_model` reads the exported file, so that the hash in the new card is
    that file's.
    `max_drop`: largest loss of accuracy, or of TAR, in [0, 1]. An embedder must also keep it against templates of the
    fp32 build, since both share a gallery (`edge_export.check.shared_gallery`). Nothing is written when it is refused.
    """
    progress(f"{precision}: converting")
    try:
        model = to_int8(fp32_model, material.calibration) if precision == "int8" else to_fp16(fp32_model)
    except ModelError as error:
        return _refused(precision, 0, str(error))
    size = len(model_bytes(model))
    if len(material.held_out) == 0:
        return _refused(precision, size, "there are no held-out pictures to judge it on")
    progress(f"{precision}: judging on {len(material.held_out)} held-out pictures")
    origin, candidate = as_function(fp32_model), as_function(model)
    before, after = first_outputs(origin, material.held_out), first_outputs(candidate, material.held_out)
    card = _card(material.card, precision, before, after)
    try:
        scored = score(card, after, material.held_out_labels)
        lost = drop(card, before, after, material.held_out_labels)
        space = mixed(before, after, material.held_out_labels, scored.rate) if card.family == "embedding" else None
    except ModelError as error:
        return _refused(precision, size, str(error))
    told = f"{scored.metric} {100 * scored.value:.2f} % (fp32: {100 * (scored.value + lost.value):.2f} %)"
    judged = replace(_refused(precision, size, told), score=scored, drop=lost.value, interval=lost, outputs=after)
    if not lost.value <= max_drop + 1e-9:
        return replace(judged, reason=f"{told}; at most {100 * max_drop:g} points less are allowed")
    if space is not None and not _shares_gallery(space, max_drop):
        least = f"at most {100 * max_drop:g} points, {MOST_STRANGERS:g} times and {SAME_SPACE_COSINE:g}"
        return replace(judged, reason=f"{told}, but {space.words()}; {least} in a gallery that both share")
    try:
        parity = compare(origin, candidate, [material.gate_inputs[:_BATCH], *_rest(material)], Rule(), path.name)
    except ModelError as error:
        return replace(judged, reason=str(error))
    progress(f"{precision}: timing")
    content, fp32 = model_bytes(fp32_model), attach_card(_copy(fp32_model), replace(card, precision="fp32"))
    made = {
        **{name: text for name, text in card.provenance.items() if not name.startswith("parity_")},
        **parity.figures(),
        "precision": precision,
        "fp32_sha256": sha256_of(content),
        "drop": f"{lost.value:.4f} ({lost.low:.4f} to {lost.high:.4f}) of {scored.metric}",
        "judged_on": scored.rests_on,
        **({"shared_gallery": space.words()} if space is not None else {}),
    }
    card = with_score(replace(card, provenance=made), scored, lost.value)
    attach_card(model, card)
    ms = _timed({"fp32": fp32, precision: model}, material.held_out[:1])
    write_bytes(path, model_bytes(model), lambda temporary: _reopened(temporary, candidate, material))
    faster = min(ms["fp32"][count] / ms[precision][count] for count in ms[precision])
    pace = f"{faster:.1f} times as fast" if faster >= 1 else f"slower here: {faster:.2f} times as fast"
    reason = f"{told}; {pace} as fp32"
    return replace(
        judged, kept=True, path=path, card=card, ms=ms[precision], fp32_ms=ms["fp32"], size_bytes=path.stat().st_size,
        reason=reason,
    )  # fmt: skip


def _shares_gallery(space: Mixed, max_drop: float) -> bool:
    kept = space.drop <= max_drop + 1e-9 and space.strangers <= MOST_STRANGERS
    return kept and space.mean_cosine >= SAME_SPACE_COSINE


def first_outputs(function: Function, inputs: Float32s) -> Float32s:
    """(M, K) of (M, 3, H, W), a few at a time."""
    return np.concatenate([function(inputs[i : i + _BATCH])[0] for i in range(0, len(inputs), _BATCH)])


def with_score(card: ModelCard, scored: Score, lost: float | None = None) -> ModelCard:
    """The card with what was measured on this very precision."""
    metrics = {name: value for name, value in card.metrics.items() if name != "family_right"} | scored.metrics
    if lost is not None:
        metrics["drop"] = lost
    told = {} if scored.families is None else {"families": families_words(scored.families)}
    return replace(
        card, metrics=metrics, operating_points=scored.points, unsure_below=scored.unsure_below,
        hierarchy=scored.hierarchy, attributes=scored.attributes, provenance={**card.provenance, **told},
    )  # fmt: skip


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in 16 bits; input and outputs stay float32."""
    with quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights below 6e-8, which become 6e-8
        try:
            made: onnx.ModelProto = convert_float_to_float16(_copy(model), keep_io_types=True)
            topological_sort(made.graph)  # its casts stand behind what reads them
            onnx.checker.check_model(made)
        except (ValueError, TypeError, RuntimeError, onnx.checker.ValidationError) as error:
            raise ModelError(f"the graph cannot be turned to fp16: {str(error).splitlines()[0][:200]}") from error
    return made


def topological_sort(graph: onnx.GraphProto) -> None:
    """Put every node behind those that make its inputs, in place; otherwise the order stays."""
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = next((node for node in waiting if known.issuperset(node.input)), None)
        if ready is None:
            raise ModelError("the graph runs in a circle", expected="values that are made before they are read")
        waiting = [node for node in waiting if node is not ready]
        ordered.append(ready)
        known.update(ready.output)
    del graph.node[:]
    graph.node.extend(ordered)


def to_int8(model: onnx.ModelProto, calibration: Float32s) -> onnx.ModelProto:
    """Bytes instead of floats; `calibration` (N >= 32, 3, H, W) training pictures. Deterministic.

    Raises ModelError when the graph has nothing to quantize, or the quantizer refuses it.
    """
    graph, opset = Graph.of(model), _opset(model)
    if not any(node.op_type in ("Conv", "MatMul", "Gemm") for node in graph.nodes):
        raise ModelError("the graph has no layer with weights", expected="convolutions or matrices")
    flatten_before_gemm(graph)
    restore_prelu(graph)
    if any(node.op_type == "PRelu" for node in graph.nodes):
        faces = calibration[np.arange(max(len(calibration), _PRELU_PICTURES)) % len(calibration)]
        return quantize(graph, faces)
    equalize(graph, calibration[:_RANGE_PICTURES], opset)
    return _quantized(graph, opset, calibration)


def _quantized(graph: Graph, opset: int, calibration: Float32s) -> onnx.ModelProto:
    convolutions = any(node.op_type == "Conv" and len(graph.consumers(node.output[0])) for node in graph.nodes)
    matrices = any(node.op_type == "MatMul" for node in graph.nodes)
    overrides = {
        node.input[1]: [{"quant_type": QuantType.QInt8, "reduce_range": False, "axis": 0}]
        for node in graph.nodes
        if node.op_type == "Conv" and node.input[1] in graph.weights and is_depthwise(graph, node)
    }
    with tempfile.TemporaryDirectory(prefix="edge-app-int8-") as folder, quietly():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model_bytes(graph.to_model(opset)))
        try:
            quantize_static(
                str(source),
                str(target),
                single_inputs(graph.inputs[0].name, calibration),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*(_IN_BYTES if convolutions else ("Gemm",)), *(["MatMul"] if matrices else [])],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"TensorQuantOverrides": overrides, "CalibMovingAverage": True},
            )
        except Exception as error:  # the quantizer raises whatever its parts do
            raise ModelError(f"the graph cannot be quantized: {(str(error).splitlines() or [''])[0][:200]}") from error
        made = onnx.load(str(target))
    return Graph.of(made).to_model(_opset(made))


def _opset(model: onnx.ModelProto) -> int:
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _refused(precision: Lower, size: int, reason: str) -> Lowered:
    return Lowered(precision, False, None, None, None, float("nan"), None, size, {}, {}, None, reason)


def _card(card: ModelCard, precision: Lower, before: Float32s, after: Float32s) -> ModelCard:
    """The card of the build before it was judged: a classifier's temperature follows its logits."""
    card = replace(card, precision=precision)
    if card.family != "logits":
        return card
    return replace(card, temperature=matched_temperature(before, card.temperature, after))


def _rest(material: Material) -> list[Float32s]:
    rest = material.gate_inputs[_BATCH:]
    return [rest[i : i + _BATCH] for i in range(0, len(rest), _BATCH)]


def _timed(models: Mapping[str, onnx.ModelProto], picture: Float32s) -> dict[str, dict[int, float]]:
    with tempfile.TemporaryDirectory(prefix="edge-app-timing-") as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in models}
        for name, file in files.items():
            file.write_bytes(model_bytes(models[name]))
        return in_turns({name: served(file, picture) for name, file in files.items()})


def _reopened(temporary: Path, candidate: Function, material: Material) -> None:
    """What was judged is what lies on the disk, opened as the app opens it."""
    compare(candidate, onnx_model.load(temporary).run, [material.gate_inputs[:1]], Rule(max_abs=1e-5), temporary.name)
