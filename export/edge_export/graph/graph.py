"""An ONNX graph that can be edited, and the exact simplifications that every shipped model gets.

Nodes are folded into their neighbours where the function stays the same; the same graph gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_app.core.errors import ModelError

OPSET = 17
"""Operator set of the shipped files: old enough for every ONNX Runtime since 1.12."""
IR_VERSION = 8
"""File format version that belongs to OPSET."""

Array = NDArray[Any]


@dataclass
class Graph:
    """A graph as plain Python: nodes in topological order, weights as arrays by name."""

    nodes: list[onnx.NodeProto]
    weights: dict[str, Array]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    name: str = "graph"
    _fresh: int = field(default=0, repr=False)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Graph:
        """Take a model apart; weights that were also declared as inputs (IR 3 style) become plain weights."""
        graph = model.graph
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        nodes = []
        for node in graph.node:
            if node.op_type == "Constant":
                weights[node.output[0]] = _constant_value(node)
            else:
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                nodes.append(copy)
        inputs = [value for value in graph.input if value.name not in weights]
        return cls(nodes, weights, inputs, list(graph.output), graph.name or "graph")

    def to_model(self, opset: int = OPSET) -> onnx.ModelProto:
        """Put the model together: unused weights dropped, names as they are, the checker run.

        Raises ModelError when the graph is not valid ONNX.
        """
        used = {name for node in self.nodes for name in node.input} | {value.name for value in self.outputs}
        tensors = [
            numpy_helper.from_array(np.asarray(self.weights[name], order="C"), name)
            for name in sorted(self.weights)
            if name in used
        ]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, tensors)
        opsets = [helper.make_opsetid("", opset)]
        # The oldest file format that may hold this operator set: old runtimes read it too.
        ir_version = max(IR_VERSION, helper.find_min_ir_version_for(opsets))
        model = helper.make_model(graph, producer_name="edge-app", ir_version=ir_version, opset_imports=opsets)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ModelError(
                f"the rewritten graph is not valid ONNX: {str(error).splitlines()[0]}",
                expected="a graph that passes the ONNX checker",
                remedy="this is a defect of edge-app: report it",
            ) from error
        return model

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """Nodes that read the value `name`."""
        return [node for node in self.nodes if name in node.input]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes `name`, None for an input or a weight."""
        return next((node for node in self.nodes if name in node.output), None)

    def only_consumer(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """The one node that reads `name` when it is the only one, of that type, and `name` is no output."""
        readers = self.consumers(name)
        if len(readers) != 1 or readers[0].op_type != op_type or name in {value.name for value in self.outputs}:
            return None
        return readers[0]

    def add_weight(self, hint: str, values: Array) -> str:
        """Store `values` under a new name that begins with `hint`; return the name."""
        self._fresh += 1
        name = f"{hint}/{self._fresh}"
        self.weights[name] = values
        return name

    def replace(self, old: Iterable[onnx.NodeProto], new: Sequence[onnx.NodeProto]) -> None:
        """Put `new` where the last of `old` stood and drop `old`."""
        gone = {id(node) for node in old}
        place = max(index for index, node in enumerate(self.nodes) if id(node) in gone)
        kept_before = [node for node in self.nodes[: place + 1] if id(node) not in gone]
        kept_after = [node for node in self.nodes[place + 1 :] if id(node) not in gone]
        self.nodes = [*kept_before, *new, *kept_after]

    def rename(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new` instead."""
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new


def _constant_value(node: onnx.NodeProto) -> Array:
    value = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if "value" not in value:
        raise ModelError(f"the constant {node.name!r} is of the kind {sorted(value)}", expected="a tensor")
    return numpy_helper.to_array(value["value"])


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, `default` where it is not set."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def clean(graph: Graph) -> Graph:
    """Fold batch-norms and scalings into their neighbours and drop what does nothing at inference.

    Works in place and returns the same graph. Exact up to float32 rounding; the arithmetic on weights is float64.
    """
    drop_no_ops(graph)
    fold_scalar_mul_into_conv(graph)
    fold_batch_norm_after(graph)
    fold_batch_norm_before_gemm(graph)
    return graph


def drop_no_ops(graph: Graph) -> None:
    """Remove Identity and Dropout: at inference both return what they are given."""
    outputs = {value.name for value in graph.outputs}
    for node in [n for n in graph.nodes if n.op_type in {"Identity", "Dropout"}]:
        if node.output[0] not in outputs:
            graph.nodes = [n for n in graph.nodes if n is not node]
            graph.rename(node.output[0], node.input[0])


def fold_scalar_mul_into_conv(graph: Graph) -> None:
    """Fold x * s before a convolution into its weights (s one number: zero padding commutes with it)."""
    for node in [n for n in graph.nodes if n.op_type == "Mul"]:
        scale = graph.weights.get(node.input[1])
        conv = graph.only_consumer(node.output[0], "Conv")
        if scale is None or scale.size != 1 or conv is None:
            continue
        weight = graph.weights[conv.input[1]].astype(np.float64) * float(scale.reshape(()))
        conv.input[1] = graph.add_weight(conv.input[1], weight.astype(np.float32))
        conv.input[0] = node.input[0]
        graph.nodes = [n for n in graph.nodes if n is not node]


def batch_norm_affine(graph: Graph, node: onnx.NodeProto) -> tuple[Array, Array]:
    """Scale and shift (float64, one per channel) that a BatchNormalization applies at inference."""
    gamma, beta, mean, variance = (graph.weights[name].astype(np.float64) for name in node.input[1:5])
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def fold_batch_norm_after(graph: Graph) -> None:
    """Fold a batch-norm into the Conv or Gemm whose output it alone reads."""
    for node in [n for n in graph.nodes if n.op_type == "BatchNormalization"]:
        linear = graph.producer(node.input[0])
        if linear is None or graph.only_consumer(linear.output[0], "BatchNormalization") is None:
            continue
        if linear.op_type == "Conv" or _is_plain_gemm(linear):
            scale_outputs(graph, linear, *batch_norm_affine(graph, node))
            linear.output[0] = node.output[0]
            graph.nodes = [n for n in graph.nodes if n is not node]


def fold_batch_norm_before_gemm(graph: Graph) -> None:
    """Fold batch-norm → Flatten → Gemm: every channel owns H*W consecutive columns of the matrix."""
    for node in [n for n in graph.nodes if n.op_type == "BatchNormalization"]:
        flatten = graph.only_consumer(node.output[0], "Flatten")
        gemm = graph.only_consumer(flatten.output[0], "Gemm") if flatten is not None else None
        if flatten is None or gemm is None or not _is_plain_gemm(gemm):
            continue
        scale, shift = batch_norm_affine(graph, node)
        weight = graph.weights[gemm.input[1]].astype(np.float64)
        columns = weight.shape[1] // scale.size
        bias = _bias(graph, gemm, weight.shape[0]) + weight @ np.repeat(shift, columns)
        _set_linear(graph, gemm, weight * np.repeat(scale, columns)[None, :], bias)
        flatten.input[0] = node.input[0]
        graph.nodes = [n for n in graph.nodes if n is not node]


def scale_outputs(graph: Graph, linear: onnx.NodeProto, scale: Array, shift: Array | float = 0.0) -> None:
    """Make a Conv or Gemm return scale * y + shift per output channel instead of y."""
    weight = graph.weights[linear.input[1]].astype(np.float64)
    bias = _bias(graph, linear, weight.shape[0]) * scale + shift
    _set_linear(graph, linear, weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias)


def scale_inputs(graph: Graph, name: str, scale: Array) -> bool:
    """Multiply what the one reader of `name` makes of each channel by `scale`, inside its weights.

    Afterwards `name` may be made `scale` times smaller and the reader returns what it did before. The reader is a
    Conv (zero padding commutes with a factor), or a Flatten whose one reader is a Gemm. Returns False, and changes
    nothing, where there is no such reader.
    """
    flatten = graph.only_consumer(name, "Flatten")
    linear = graph.only_consumer(name if flatten is None else flatten.output[0], "Conv" if flatten is None else "Gemm")
    if linear is None or linear.input[1] not in graph.weights or linear.input[0] == linear.input[1]:
        return False
    weight = graph.weights[linear.input[1]].astype(np.float64)
    if linear.op_type == "Conv":
        groups = attribute(linear, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:]) * scale.reshape(groups, 1, -1, 1, 1)
        weight = grouped.reshape(weight.shape)
    elif _is_plain_gemm(linear):
        weight = weight * np.repeat(scale, weight.shape[1] // scale.size)[None, :]
    else:
        return False
    linear.input[1] = graph.add_weight(f"{linear.output[0]}/weight", weight.astype(np.float32))
    return True


def _is_plain_gemm(node: onnx.NodeProto) -> bool:
    """Whether a node is x @ W.T + b, with W (out, in)."""
    wanted = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    return node.op_type == "Gemm" and all(attribute(node, k, defaults[k]) == v for k, v in wanted.items())


def _bias(graph: Graph, linear: onnx.NodeProto, size: int) -> Array:
    if len(linear.input) > 2 and linear.input[2]:
        return graph.weights[linear.input[2]].astype(np.float64)
    return np.zeros(size)


def _set_linear(graph: Graph, linear: onnx.NodeProto, weight: Array, bias: Array) -> None:
    base = linear.output[0]
    inputs = [
        linear.input[0],
        graph.add_weight(f"{base}/weight", weight.astype(np.float32)),
        graph.add_weight(f"{base}/bias", bias.astype(np.float32)),
    ]
    del linear.input[:]
    linear.input.extend(inputs)


def set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | str]) -> None:
    """Declare the extents of a graph input or output; a word names an extent that may vary."""
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for extent in shape:
        dim = dims.add()
        if isinstance(extent, int):
            dim.dim_value = extent
        else:
            dim.dim_param = extent
