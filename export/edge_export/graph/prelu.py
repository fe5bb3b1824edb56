"""PReLU without ONNX Runtime's slow PReLU kernel: an exact rewrite into operations that stay in its fast layout.

PRelu nodes must have one constant slope per channel. The way back, `restore_prelu`, is for INT8, which has a form of
its own.

For a slope a, prelu(x) = a·x + (1 − a)·relu(x). (max(x, a·x) would be wrong: some of SFace's slopes exceed 1.)
ONNX Runtime keeps activations in blocks of 8 or 16 channels (NCHWc) as long as every operation knows that layout:
Conv, Relu and Add do; PRelu, and in older releases a multiplication by one number per channel, do not and force the
tensor to be re-ordered and back. A depthwise 1×1 convolution is such a multiplication that does, and it adds its
result onto another tensor for free. Dividing by (1 − a), which the next linear layer takes into its weights, leaves

    r = relu(x);   y' = conv1x1_depthwise(x; a / (1 − a)) + r

that is two passes over the tensor. What was measured beside it (SFace, 1 thread, AVX2, ms, interleaved medians): the
file as it is 37.5; PRelu kept, the rest folded 31.5; a·x + (1 − a)·relu(x) from Mul and Add 17.4; this form 16.2; two
depthwise convolutions in place of every depthwise one (no elementwise pass at all) 16.5; the slopes folded into both
halves of a doubled following depthwise convolution 16.1 (for stride 2 only); all slopes zero (plain Relu, the floor;
a sum of profiled kernels) 14.5. So PReLU now costs a tenth of the time. Four fifths are the pointwise convolutions,
which run at 47 GMAC/s on one AVX2 core, about what 16 multiply-adds a cycle at 3 GHz allow; the last matrix (25.7 MB
read for each face) is 9 %.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from edge_export.graph.graph import Array, Graph, attribute, scale_inputs

_SAFE_DISTANCE = 1e-2
"""A slope nearer to 1 than this would make a / (1 − a) large enough to cost digits."""


def rewrite_prelu(graph: Graph) -> int:
    """Replace every PRelu of a 4-D tensor that has constant slopes; returns how many were replaced.

    Works in place. Where the only reader is a Conv, or a Gemm behind a Flatten, its weights take part of the
    multiplication; elsewhere both halves are multiplied where they are.
    """
    replaced = 0
    for node in [n for n in graph.nodes if n.op_type == "PRelu"]:
        slope = _slope(graph, node)
        if slope is None:
            continue
        if np.abs(1.0 - slope).min() > _SAFE_DISTANCE and scale_inputs(graph, node.output[0], 1.0 - slope):
            x, y = node.input[0], node.output[0]
            relu = helper.make_node("Relu", [x], [f"{y}/relu"], name=f"{y}/relu")
            scaled = per_channel(graph, x, slope / (1.0 - slope), f"{y}/linear")
            graph.replace([node], [relu, scaled, _add(f"{y}/linear", f"{y}/relu", y)])
        else:
            _three_passes(graph, node, slope)
        replaced += 1
    return replaced


def without_prelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that torch exported, with every PRelu written anew where that can be done; others come back as they are.

    An SFace that `train siamese` made took 103 ms as exported, as the shipped one is written 51 (1 thread, busy AVX2
    machine, interleaved medians).
    """
    graph = Graph.of(model)
    flatten_before_gemm(graph)
    if not rewrite_prelu(graph):
        return model
    return graph.to_model(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def flatten_before_gemm(graph: Graph) -> None:
    """Write a reshape of maps to rows as Flatten, through which factors find the matrix behind it."""
    for node in graph.nodes:
        shape: Array | None = graph.weights.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and len(shape) == 2 and graph.only_consumer(node.output[0], "Gemm") is not None:
            flat = helper.make_node("Flatten", [node.input[0]], list(node.output), name=node.name, axis=1)
            node.CopyFrom(flat)


def restore_prelu(graph: Graph) -> int:
    """Undo `rewrite_prelu`, in place and up to float32 rounding; returns how many PRelu there are of it."""
    restored = 0
    for node in [n for n in graph.nodes if n.op_type == "Add"]:
        halves = _halves(graph, node)
        if halves is None:
            continue
        relu, linear, above = halves
        factor = graph.weights[linear.input[1]].reshape(-1).astype(np.float64)
        if above is None and not scale_inputs(graph, node.output[0], 1.0 + factor):
            continue
        slope = factor / (1.0 + factor) if above is None else factor
        name = graph.add_weight(f"{node.output[0]}/slope", slope.reshape(-1, 1, 1).astype(np.float32))
        prelu = helper.make_node("PRelu", [relu.input[0], name], list(node.output), name=node.output[0])
        graph.replace([relu, linear, node, *([above] if above is not None else [])], [prelu])
        restored += 1
    return restored


def _halves(graph: Graph, add: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto | None] | None:
    """The Relu, the multiplication of x, and that of relu(x) where there is one, whose sum a PRelu became."""
    linear, other = (graph.producer(name) for name in add.input)
    above = other if other is not None and _multiplies(graph, other) else None
    relu = graph.producer(above.input[0]) if above is not None else other
    if linear is None or relu is None or not _multiplies(graph, linear):
        return None
    if relu.op_type != "Relu" or relu.input[0] != linear.input[0]:
        return None
    inner = [linear, relu] if above is None else [linear, relu, above]
    if any(len(graph.consumers(one.output[0])) != 1 for one in inner):
        return None
    if above is not None:
        both = graph.weights[linear.input[1]] + graph.weights[above.input[1]]
        return (relu, linear, above) if np.allclose(both, 1.0, atol=1e-5) else None
    return relu, linear, None


def _multiplies(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is what `per_channel` makes."""
    weight = graph.weights.get(node.input[1]) if node.op_type == "Conv" and len(node.input) == 2 else None
    return weight is not None and weight.shape == (attribute(node, "group", 1), 1, 1, 1)


def _slope(graph: Graph, node: onnx.NodeProto) -> Array | None:
    """(C,) constant slopes of a 4-D tensor, None where they are something else, or one for all channels."""
    slopes = graph.weights.get(node.input[1])
    if slopes is None or slopes.size == 1 or slopes.shape[-3:] != (slopes.size, 1, 1):
        return None
    return slopes.reshape(-1).astype(np.float64)


def _three_passes(graph: Graph, node: onnx.NodeProto, slope: Array) -> None:
    x, y = node.input[0], node.output[0]
    relu = helper.make_node("Relu", [x], [f"{y}/relu"], name=f"{y}/relu")
    above = per_channel(graph, f"{y}/relu", 1.0 - slope, f"{y}/above")
    linear = per_channel(graph, x, slope, f"{y}/linear")
    graph.replace([node], [relu, above, linear, _add(f"{y}/linear", f"{y}/above", y)])


def _add(left: str, right: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Add", [left, right], [output], name=output)


def per_channel(graph: Graph, source: str, factors: Array, output: str) -> onnx.NodeProto:
    """Multiply channel c by factors[c], as a depthwise 1×1 convolution."""
    weight = graph.add_weight(f"{output}/weight", factors.reshape(-1, 1, 1, 1).astype(np.float32))
    return helper.make_node(
        "Conv", [source, weight], [output], name=output, group=factors.size, kernel_shape=[1, 1], pads=[0, 0, 0, 0]
    )
