"""YuNet for any picture size: OpenCV Zoo's graph with its fixed shapes removed and its heads merged.

The graph takes (N, 3, H, W) BGR 0–255, H and W multiples of 32, and gives the file's twelve outputs in their order.

The original declares 640×640 and its reshapes hold the batch 1; the convolutions themselves do not care. Each of the
three levels has four heads — class 1, objectness 1, box 4, landmarks 10 channels — each a 1×1 convolution followed by
a depthwise 3×3 one. Convolutions with 1, 4 or 10 channels do not fill a vector register; together they are 16
channels, so one pair of convolutions per level computes them all, and one transpose instead of four follows.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge_app.core.errors import ModelError
from edge_export.graph.graph import Graph, clean, set_shape

STRIDES = (8, 16, 32)
"""Pixels between neighbouring cells of the three levels."""
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""Channels of each head, in the order of the outputs."""


def build_graph(content: bytes) -> onnx.ModelProto:
    """Build the dynamic graph. Raises ModelError when the file does not have YuNet's structure."""
    graph = clean(Graph.of(onnx.load_model_from_string(content)))
    if [value.name for value in graph.outputs] != [f"{head}_{stride}" for head in HEADS for stride in STRIDES]:
        raise ModelError("the YuNet file has other outputs than the 2023mar release", expected="its twelve outputs")
    shape = graph.add_weight("head/shape", np.array([0, -1, sum(HEADS.values())], np.int64))
    split = graph.add_weight("head/split", np.array(list(HEADS.values()), np.int64))
    for level, stride in enumerate(STRIDES):
        _merge_heads(graph, level, stride, shape, split)
    _declare_shapes(graph)
    return graph.to_model()


def loosened(content: bytes) -> onnx.ModelProto:
    """The original graph with nothing changed but what it declares: the reference at sizes other than 640×640."""
    model = onnx.load_model_from_string(content)
    del model.graph.value_info[:]
    set_shape(model.graph.input[0], (1, 3, "height", "width"))
    for value in model.graph.output:
        set_shape(value, (1, "cells", HEADS[value.name.split("_")[0]]))
    return model


def _merge_heads(graph: Graph, level: int, stride: int, shape: str, split: str) -> None:
    """Compute the four heads of one level with one pair of convolutions."""
    pairs = [_head_pair(graph, head, level) for head in HEADS]
    old = [node for head in HEADS for node in _backwards(graph, f"{head}_{stride}", pairs)]
    source = pairs[0][0].input[0]
    name = f"head_{stride}"
    point = _joined(graph, [pair[0] for pair in pairs], source, f"{name}/point", 1)
    depth = _joined(graph, [pair[1] for pair in pairs], f"{name}/point", f"{name}/depth", sum(HEADS.values()))
    raw = [f"{head}_{stride}" if head in ("bbox", "kps") else f"{head}_{stride}/logit" for head in HEADS]
    new = [
        point,
        depth,
        helper.make_node("Transpose", [f"{name}/depth"], [f"{name}/last"], f"{name}/last", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{name}/last", shape], [f"{name}/cells"], f"{name}/cells"),
        helper.make_node("Split", [f"{name}/cells", split], raw, f"{name}/split", axis=2),
        helper.make_node("Sigmoid", [raw[0]], [f"cls_{stride}"], f"cls_{stride}"),
        helper.make_node("Sigmoid", [raw[1]], [f"obj_{stride}"], f"obj_{stride}"),
    ]
    graph.replace(old, new)


def _head_pair(graph: Graph, head: str, level: int) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    names = [f"bbox_head.multi_level_{head}.{level}.conv{part}.weight" for part in (1, 2)]
    found = [next((n for n in graph.nodes if name in n.input), None) for name in names]
    if found[0] is None or found[1] is None or found[1].input[0] != found[0].output[0]:
        raise ModelError(f"the YuNet file has no head {head!r} at level {level}", expected="the 2023mar release")
    return found[0], found[1]


def _backwards(graph: Graph, output: str, pairs: list[tuple[onnx.NodeProto, onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """All nodes from an output back to the first convolution of its head."""
    firsts = {id(pair[0]) for pair in pairs}
    nodes: list[onnx.NodeProto] = []
    name = output
    while not nodes or id(nodes[-1]) not in firsts:
        node = graph.producer(name)
        if node is None:
            raise ModelError(f"the YuNet output {output!r} does not come from a head", expected="the 2023mar release")
        nodes.append(node)
        name = node.input[0]
    return nodes


def _joined(graph: Graph, convs: list[onnx.NodeProto], source: str, output: str, group: int) -> onnx.NodeProto:
    """One convolution that computes the channels of all `convs`, in order."""
    weight = graph.add_weight(f"{output}/weight", np.concatenate([graph.weights[c.input[1]] for c in convs]))
    bias = graph.add_weight(f"{output}/bias", np.concatenate([graph.weights[c.input[2]] for c in convs]))
    side = int(graph.weights[weight].shape[-1])
    return helper.make_node(
        "Conv", [source, weight, bias], [output], output, group=group, kernel_shape=[side] * 2, pads=[side // 2] * 4
    )


def _declare_shapes(graph: Graph) -> None:
    set_shape(graph.inputs[0], ("N", 3, "height", "width"))
    graph.outputs = [
        helper.make_tensor_value_info(f"{head}_{stride}", TensorProto.FLOAT, ("N", f"cells_{stride}", channels))
        for head, channels in HEADS.items()
        for stride in STRIDES
    ]
