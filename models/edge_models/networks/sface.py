"""SFace (Zhong et al. 2021, arXiv 2205.12010) as a PyTorch module, its weights read out of an ONNX file.

OpenCV Zoo's own file (batch-norms and PReLUs) and the rewritten one that edge-app ships (batch-norms folded, PReLUs
taken apart) give the same module: what stands between two layers is not recognized by its form but probed, because per
channel it can only be a line with one bend. Batch-norms stay folded: fine-tuning on a few people has no use for new
running statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard

INPUT_PX: Final = 112
"""Side of the crop; the crop's name is arcface-112."""
EMBEDDING_SIZE: Final = 128
LICENCE: Final = "Apache-2.0"
MEAN: Final = 127.5
"""Subtracted from RGB in 0-255; the division by 128 lies in the first weights."""

POINTWISE: Final = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Width after each depthwise-separable pair and the stride of its depthwise half."""

Array = NDArray[np.float64]
_PROBES: Final = np.array([0.0, 1.0, -1.0, 2.0, -2.0], np.float32)


class Stage(nn.Sequential):
    """A convolution with its batch-norm folded in, then PReLU."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        conv = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2, groups=groups)
        super().__init__(conv, nn.PReLU(width))

    @property
    def conv(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self[0])

    @property
    def slopes(self) -> Tensor:
        """Slope of each channel below zero, (width,)."""
        return cast(nn.PReLU, self[1]).weight


class SFace(nn.Module):
    """27 convolutions and one matrix, 9.6 million weights; random until `load` fills them."""

    def __init__(self) -> None:
        super().__init__()
        stages, width = [Stage(3, 32, 3)], 32
        for wider, stride in POINTWISE:
            stages += [Stage(width, width, 3, stride, groups=width), Stage(width, wider, 1)]
            width = wider
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(width * (INPUT_PX // 16) ** 2, EMBEDDING_SIZE)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, 128) embeddings, not normalized, from (N, 3, 112, 112) RGB in 0-255."""
        embeddings: Tensor = self.head(self.stages(images - MEAN).flatten(1))
        return embeddings


def load(path: Path) -> SFace:
    """Return SFace with the weights of an fp32 ONNX file, in eval mode.

    Raises ModelError when the file cannot be read, is quantized, or holds another network.
    """
    layers, network = _layers(_Chain.of(path), path.name), SFace()
    targets: list[tuple[nn.Conv2d | nn.Linear, Tensor | None]] = [
        *((stage.conv, stage.slopes) for stage in cast(Iterable[Stage], network.stages)),
        (network.head, None),
    ]
    if len(layers) != len(targets):
        raise _wrong(path.name, f"it has {len(layers)} layers, not {len(targets)}")
    for number, (layer, (module, slopes)) in enumerate(zip(layers, targets, strict=True)):
        if layer.weight.shape != tuple(module.weight.shape):
            raise _wrong(path.name, f"layer {number} is {layer.weight.shape}, not {tuple(module.weight.shape)}")
        if isinstance(module, nn.Conv2d) and layer.geometry != (module.stride, module.padding, module.groups):
            raise _wrong(path.name, f"layer {number} has stride, padding, groups {layer.geometry}")
        _copy(layer.weight, module.weight)
        _copy(layer.bias, cast(Tensor, module.bias))
        if slopes is not None:
            _copy(layer.slopes, slopes)
    return network.eval()


def _copy(values: Array, target: Tensor) -> None:
    with torch.no_grad():
        target.copy_(torch.from_numpy(values.astype(np.float32)))


def _wrong(name: str, what: str) -> ModelError:
    return ModelError(
        f"{name} does not hold SFace: {what}",
        expected="OpenCV Zoo's face_recognition_sface_2021dec.onnx, or the sface-fp32.onnx that edge-app ships",
    )


# --- the graph as a chain of linear layers, with a bent line per channel between two of them ----------


@dataclass(slots=True)
class _Layer:
    """One convolution or matrix, all that follows it up to the next folded in where it can be."""

    weight: Array
    bias: Array
    slopes: Array
    geometry: tuple[Any, ...]
    """Stride, padding, groups of a convolution; empty for a matrix."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """An ONNX graph without branches that outlive the next layer: nodes in order, weights by name."""

    nodes: Sequence[onnx.NodeProto]
    weights: dict[str, NDArray[Any]]
    opsets: Sequence[onnx.OperatorSetIdProto]
    input: str
    card: ModelCard | None

    @classmethod
    def of(cls, path: Path) -> _Chain:
        try:
            model = onnx.load(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}", expected="SFace's ONNX file") from error
        except Exception as error:
            # protobuf's DecodeError; protobuf ships no types and is no dependency of ours to import from.
            raise ModelError(f"{path} is not an ONNX file", expected="SFace's ONNX file") from error
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        inputs = [value.name for value in model.graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise _wrong(path.name, f"it has {len(inputs)} inputs")
        text = {entry.key: entry.value for entry in model.metadata_props}.get(ModelCard.KEY)
        card = ModelCard.from_json(text) if text else None
        return cls(model.graph.node, weights, model.opset_import, inputs[0], card)

    def is_layer(self, node: onnx.NodeProto) -> bool:
        """Whether a node mixes channels or pixels; a depthwise 1x1 convolution does neither."""
        weight = self.weights.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None:
            return node.op_type in {"Conv", "Gemm"}
        return weight.shape[1:] != (1, 1, 1) or _attribute(node, "group", 1) != len(weight)

    def probe(self, nodes: Sequence[onnx.NodeProto], start: str, end: str, channels: int) -> Array:
        """Return (5, channels): what the nodes between two layers make of 0, 1, -1, 2, -2 in every channel."""
        plain = [step for node in nodes for step in self._plain(node)]
        names = {name for node in plain for name in node.input} & self.weights.keys()
        graph = helper.make_graph(
            plain,
            "between",
            [helper.make_tensor_value_info(start, onnx.TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(self.weights[name], name) for name in sorted(names)],
        )
        values = np.broadcast_to(_PROBES[:, None, None, None], (len(_PROBES), channels, 1, 1)).copy()
        if start == end:
            return values.reshape(len(_PROBES), channels).astype(np.float64)
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=list(self.opsets)))
        out = np.asarray(cast(list[Any], evaluator.run(None, {start: values}))[0], dtype=np.float64)
        return out.reshape(len(_PROBES), channels)

    def _plain(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The node itself; a batch-norm as Mul and Add, for onnx 1.23's evaluator normalizes opset 9's by the batch."""
        if node.op_type != "BatchNormalization":
            return [node]
        y = node.output[0]
        scale, shift = _batch_norm(self, node)
        for name, values in ((f"{y}/scale", scale), (f"{y}/shift", shift)):
            self.weights[name] = values.reshape(-1, 1, 1).astype(np.float32)
        return [
            helper.make_node("Mul", [node.input[0], f"{y}/scale"], [f"{y}/scaled"]),
            helper.make_node("Add", [f"{y}/scaled", f"{y}/shift"], [y]),
        ]


@dataclass(frozen=True, slots=True)
class _Bend:
    """y = shift + above * max(x, 0) + below * min(x, 0), per channel."""

    shift: Array
    above: Array
    below: Array


def _layers(chain: _Chain, name: str) -> list[_Layer]:
    """Every layer in order, with what stands between them folded into weights and slopes."""
    layers: list[_Layer] = []
    between: list[onnx.NodeProto] = []
    value, channels = chain.input, 3
    for node in chain.nodes:
        if node.op_type == "BatchNormalization" and layers and not between and node.input[0] == value:
            _fold_batch_norm(layers[-1], chain, node)
            value = node.output[0]
        elif not chain.is_layer(node):
            between.append(node)
        else:
            layer = _layer(chain, node, name)
            bend = _bend(chain, between, value, node.input[0], channels, name)
            _fold_bend(layers[-1] if layers else None, layer, bend, chain.card, name)
            layers.append(layer)
            between, value, channels = [], node.output[0], len(layer.bias)
    if between:
        raise _wrong(name, f"{between[0].op_type} follows its last layer")
    return layers


def _layer(chain: _Chain, node: onnx.NodeProto, name: str) -> _Layer:
    if not all(weight in chain.weights for weight in node.input[1:] if weight):
        raise _wrong(name, f"{node.op_type} {node.name!r} has computed weights; a quantized file cannot be trained")
    weight = chain.weights[node.input[1]].astype(np.float64)
    if node.op_type == "Gemm" and not _attribute(node, "transB", 0):
        weight = weight.T
    has_bias = len(node.input) > 2 and node.input[2]
    bias = chain.weights[node.input[2]].astype(np.float64) if has_bias else np.zeros(len(weight))
    geometry: tuple[Any, ...] = ()
    if node.op_type == "Conv":
        pads = _attribute(node, "pads", [0, 0, 0, 0])
        stride = tuple(_attribute(node, "strides", [1, 1]))
        geometry = (stride, tuple(pads[:2]) if pads[:2] == pads[2:] else tuple(pads), _attribute(node, "group", 1))
    return _Layer(weight, bias, np.ones(len(weight)), geometry)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _batch_norm(chain: _Chain, node: onnx.NodeProto) -> tuple[Array, Array]:
    """Scale and shift of each channel."""
    gamma, beta, mean, variance = (chain.weights[weight].astype(np.float64) for weight in node.input[1:5])
    scale = gamma / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _fold_batch_norm(layer: _Layer, chain: _Chain, node: onnx.NodeProto) -> None:
    scale, shift = _batch_norm(chain, node)
    layer.weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias = layer.bias * scale + shift


def _bend(chain: _Chain, nodes: Sequence[onnx.NodeProto], start: str, end: str, channels: int, name: str) -> _Bend:
    """Probe what stands between two layers; raise ModelError unless it is a line with a bend at zero."""
    try:
        zero, one, minus_one, two, minus_two = chain.probe(nodes, start, end, channels)
    except Exception as error:
        raise _wrong(name, f"what precedes {end!r} cannot be computed ({type(error).__name__})") from error
    bend = _Bend(zero, one - zero, zero - minus_one)
    expected = np.concatenate([zero + 2 * bend.above, zero - 2 * bend.below])
    if not np.allclose(np.concatenate([two, minus_two]), expected, rtol=1e-4, atol=1e-4):
        raise _wrong(name, f"what precedes {end!r} is no line with a bend at zero")
    return bend


def _fold_bend(before: _Layer | None, after: _Layer, bend: _Bend, card: ModelCard | None, name: str) -> None:
    """Give the bend's slopes to the layer before it, its scale and shift to the layer after it."""
    if before is None:
        after.weight *= _input_scale(bend, card, name)
        return
    before.slopes = bend.below / bend.above
    if not after.geometry:
        pixels = after.weight.shape[1] // len(bend.above)
        after.bias = after.bias + after.weight @ np.repeat(bend.shift, pixels)
        after.weight = after.weight * np.repeat(bend.above, pixels)
        return
    if np.abs(bend.shift).max() > 1e-6:
        raise _wrong(name, "a shift stands before a padded convolution")
    depthwise = after.weight.shape[1] == 1
    after.weight = after.weight * bend.above.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1))


def _input_scale(bend: _Bend, card: ModelCard | None, name: str) -> float:
    """The scale before the first layer, once its shift is known to be that of the pixels' MEAN."""
    mean = np.array(card.input.mean if card else (0.0,) * 3)
    std = np.array(card.input.std if card else (1.0,) * 3)
    scale = bend.above / std
    shifts = mean - bend.shift / scale
    straight = np.allclose(bend.above, bend.below) and np.ptp(scale) < 1e-6 * abs(scale[0])
    if not straight or np.abs(shifts - MEAN).max() > 1e-3 or (card is not None and card.input.channels != "RGB"):
        raise _wrong(name, f"its input is normalized in another way (mean {shifts.tolist()})")
    return float(scale[0])
