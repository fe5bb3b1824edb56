"""MediaPipe's face mesh, from the TensorFlow Lite file in its wheel to ONNX.

The graph takes (N, 3, 192, 192) RGB in 0 to 1 and gives "landmarks" (N, 1404), x, y, z of 468 points in pixels of that
square, and "presence" (N, 1), the logit of there being a face. Kartynnik et al. 2019, Real-time facial surface geometry
from monocular video on mobile GPUs (arXiv 1907.06724). The file uses six kinds of layers, so it is read with the
flatbuffer's own schema (package `tflite`) and written layer by layer; TensorFlow is not needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge_app.core.errors import ModelError
from edge_export.graph.graph import Array, Graph, set_shape
from edge_export.graph.prelu import rewrite_prelu
from edge_export.graph.session import Float32s, Function

SIDE_PX = 192
POINTS = 468
_OUTPUTS = {"conv2d_21": ("landmarks", 3 * POINTS), "conv2d_31": ("presence", 1)}


def build_graph(content: bytes) -> onnx.ModelProto:
    """Build the ONNX graph. Raises ModelError when the file holds layers that MediaPipe's mesh does not have."""
    import tflite

    model = tflite.Model.GetRootAsModel(content, 0)
    source = model.Subgraphs(0)
    graph = Graph([], {}, [_value("input", ("N", 3, SIDE_PX, SIDE_PX))], [], "face-mesh")
    layers = _Layers(model, source, graph)
    for number in range(source.OperatorsLength()):
        layers.add(source.Operators(number))
    for number in range(source.OutputsLength()):
        layers.give(source.Outputs(number))
    set_shape(graph.inputs[0], ("N", 3, SIDE_PX, SIDE_PX))
    rewrite_prelu(graph)
    return graph.to_model()


def original(content: bytes) -> Function:
    """The untouched file as a function of (N, 3, 192, 192) batches, run by LiteRT one picture at a time."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content, num_threads=1)
    runner.allocate_tensors()
    entry = runner.get_input_details()[0]["index"]
    exits = {detail["name"]: detail["index"] for detail in runner.get_output_details()}

    def run(batch: Float32s) -> list[Float32s]:
        rows: dict[str, list[Float32s]] = {name: [] for name in _OUTPUTS}
        for picture in batch:
            runner.set_tensor(entry, np.ascontiguousarray(picture.transpose(1, 2, 0)[None]))
            runner.invoke()
            for name, found in rows.items():
                found.append(runner.get_tensor(exits[name]).reshape(1, -1))
        return [np.concatenate(found) for found in rows.values()]

    return run


class _Layers:
    """Writes the file's layers, channels last, as ONNX nodes, channels first."""

    def __init__(self, model: Any, source: Any, graph: Graph) -> None:
        import tflite

        self._model, self._source, self._graph = model, source, graph
        self._kinds = {number: name for name, number in vars(tflite.BuiltinOperator).items() if name[0] != "_"}
        self._constants: dict[int, Array] = {}
        self._names = {source.Inputs(0): "input"}

    def add(self, layer: Any) -> None:
        """Write one layer."""
        code = self._model.OperatorCodes(layer.OpcodeIndex())
        kind = self._kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        write = getattr(self, f"_{kind.lower()}", None)
        if write is None:
            raise ModelError(f"the mesh has a layer {kind}", expected="the face_landmark.tflite of mediapipe 0.10.21")
        write(layer)

    def give(self, tensor: int) -> None:
        """Name an output, as rows."""
        told = self._source.Tensors(tensor).Name().decode()
        if told not in _OUTPUTS:
            raise ModelError(f"the mesh has an output {told}", expected=" and ".join(_OUTPUTS))
        name, width = _OUTPUTS[told]
        self._graph.nodes.append(helper.make_node("Flatten", [self._names[tensor]], [name], name, axis=1))
        self._graph.outputs.append(_value(name, ("N", width)))

    def _constant(self, tensor: int) -> Array:
        import tflite

        if tensor in self._constants:
            return self._constants[tensor]
        entry = self._source.Tensors(tensor)
        types = {tflite.TensorType.FLOAT16: np.float16, tflite.TensorType.FLOAT32: np.float32}
        kind = types.get(entry.Type(), np.int32)
        raw = self._model.Buffers(entry.Buffer()).DataAsNumpy()
        return np.frombuffer(raw.tobytes(), kind).reshape(entry.ShapeAsNumpy())

    def _dequantize(self, layer: Any) -> None:
        self._constants[layer.Outputs(0)] = self._constant(layer.Inputs(0)).astype(np.float32)

    def _conv_2d(self, layer: Any) -> None:
        import tflite

        weight = self._constant(layer.Inputs(1)).transpose(0, 3, 1, 2)
        self._conv(layer, tflite.Conv2DOptions(), weight, 1)

    def _depthwise_conv_2d(self, layer: Any) -> None:
        import tflite

        weight = self._constant(layer.Inputs(1)).transpose(3, 0, 1, 2)
        self._conv(layer, tflite.DepthwiseConv2DOptions(), weight, len(weight))

    def _conv(self, layer: Any, options: Any, weight: Array, group: int) -> None:
        import tflite

        _read(options, layer)
        if options.FusedActivationFunction() != tflite.ActivationFunctionType.NONE:
            raise ModelError("the mesh has a fused activation", expected="PReLU layers of their own")
        strides = [options.StrideH(), options.StrideW()]
        name = self._output(layer)
        names = [self._graph.add_weight(f"{name}/weight", weight)]
        names.append(self._graph.add_weight(f"{name}/bias", self._constant(layer.Inputs(2))))
        self._node(
            "Conv", layer, names, kernel_shape=list(weight.shape[2:]), strides=strides, group=group,
            pads=self._pads(layer, options, weight.shape[2:], strides),
        )  # fmt: skip

    def _max_pool_2d(self, layer: Any) -> None:
        import tflite

        options = tflite.Pool2DOptions()
        _read(options, layer)
        kernel, strides = [options.FilterHeight(), options.FilterWidth()], [options.StrideH(), options.StrideW()]
        pads = self._pads(layer, options, kernel, strides)
        self._node("MaxPool", layer, [], kernel_shape=kernel, strides=strides, pads=pads)

    def _pads(self, layer: Any, options: Any, kernel: Any, strides: list[int]) -> list[int]:
        """TensorFlow's "same": what is odd of the border goes behind, not before."""
        import tflite

        if options.Padding() == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        before, behind = [], []
        for extent, size, step in zip(self._shape(layer.Inputs(0))[1:3], kernel, strides, strict=True):
            total = max((-(-int(extent) // step) - 1) * step + int(size) - int(extent), 0)
            before.append(total // 2)
            behind.append(total - total // 2)
        return [*before, *behind]

    def _pad(self, layer: Any) -> None:
        pads = self._constant(layer.Inputs(1))[[0, 3, 1, 2]]
        name = self._graph.add_weight(f"{self._output(layer)}/pads", pads.T.reshape(-1).astype(np.int64))
        self._node("Pad", layer, [name], mode="constant")

    def _add(self, layer: Any) -> None:
        self._node("Add", layer, [self._names[layer.Inputs(1)]])

    def _prelu(self, layer: Any) -> None:
        slopes = self._constant(layer.Inputs(1)).reshape(-1, 1, 1)
        self._node("PRelu", layer, [self._graph.add_weight(f"{self._output(layer)}/slope", slopes)])

    def _shape(self, tensor: int) -> Any:
        return self._source.Tensors(tensor).ShapeAsNumpy()

    def _output(self, layer: Any) -> str:
        return str(self._source.Tensors(layer.Outputs(0)).Name().decode())

    def _node(self, kind: str, layer: Any, more: list[str], **attributes: Any) -> None:
        name = self._output(layer)
        self._graph.nodes.append(
            helper.make_node(kind, [self._names[layer.Inputs(0)], *more], [name], name, **attributes)
        )
        self._names[layer.Outputs(0)] = name


def _read(options: Any, layer: Any) -> None:
    """Let a table of the schema look at the layer's options."""
    table = layer.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)


def _value(name: str, shape: tuple[str | int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
