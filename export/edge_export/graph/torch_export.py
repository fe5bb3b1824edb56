"""Turns a torch module into an ONNX graph with plain names and without paths of the builder's machine.

torch's default exporter (dynamo) has shipped wrong graphs, so its result is taken only when the caller's judge accepts
it; else the older TorchScript exporter is tried.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, cast

import onnx
import torch

from edge_app.core.errors import ModelError
from edge_export.graph.graph import OPSET, Graph, clean, set_shape
from edge_export.graph.session import Float32s, Function

Judge = Callable[[onnx.ModelProto], None]
"""Raises ModelError when a graph disagrees with its origin."""
DYNAMO, TORCHSCRIPT = "torch.onnx dynamo", "torch.onnx torchscript"


@dataclass(frozen=True, slots=True)
class Signature:
    """What the graph takes and gives."""

    input: str
    """Name of the input."""
    input_shape: tuple[int | str, ...]
    """Extents of the input; a word names one that may vary."""
    outputs: tuple[str, ...]
    """Names of the outputs, in order."""
    output_shapes: tuple[tuple[int | str, ...], ...]
    """Extents of each output."""


def export(
    module: torch.nn.Module, example: Float32s, signature: Signature, judge: Judge
) -> tuple[onnx.ModelProto, str]:
    """Export a module; returns the graph and the name of the exporter.

    `example`: (N >= 2, ...) float32, a typical input. The dynamo exporter is tried first, then TorchScript. Raises
    ModelError with both reasons when neither graph passes the judge.
    """
    module.eval()
    reasons = []
    for name, exporter in ((DYNAMO, _dynamo), (TORCHSCRIPT, _torchscript)):
        try:
            model = _tidy(exporter(module, torch.from_numpy(example), signature), signature)
            judge(model)
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything; the reason is reported below
            reasons.append(f"{name}: {_first_line(error)}")
        else:
            return model, name
    raise ModelError(
        f"no exporter made a graph that agrees with torch ({'; '.join(reasons)})", remedy="report the model's layers"
    )


def as_function(module: torch.nn.Module) -> Function:
    """A torch module as a function of arrays, without gradients."""
    module.eval()

    def run(batch: Float32s) -> Sequence[Float32s]:
        with torch.inference_mode():
            result = module(torch.from_numpy(batch))
        outputs = result if isinstance(result, tuple) else (result,)
        return [output.detach().cpu().numpy() for output in outputs]

    return run


def _dynamo(module: torch.nn.Module, example: torch.Tensor, signature: Signature) -> onnx.ModelProto:
    dynamic = {
        axis: torch.export.Dim.DYNAMIC for axis, extent in enumerate(signature.input_shape) if isinstance(extent, str)
    }
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[signature.input],
            output_names=list(signature.outputs),
            dynamic_shapes=(dynamic,),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch returned no program")
    return program.model_proto


def _torchscript(module: torch.nn.Module, example: torch.Tensor, signature: Signature) -> onnx.ModelProto:
    shapes = zip((signature.input, *signature.outputs), (signature.input_shape, *signature.output_shapes), strict=True)
    dynamic = {name: {i: e for i, e in enumerate(shape) if isinstance(e, str)} for name, shape in shapes}
    stream = io.BytesIO()
    with _quiet():
        torch.onnx.export(
            module,
            (example,),
            cast(Any, stream),
            input_names=[signature.input],
            output_names=list(signature.outputs),
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_model_from_string(stream.getvalue())


def _tidy(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """Fold, drop the traces of the builder's machine, declare the extents that were promised."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    graph = clean(Graph.of(model))
    for node in graph.nodes:
        node.doc_string = ""
        del node.metadata_props[:]
    for value, shape in zip(
        (*graph.inputs, *graph.outputs), (signature.input_shape, *signature.output_shapes), strict=True
    ):
        value.doc_string = ""
        del value.metadata_props[:]
        set_shape(value, shape)
    graph.name = "graph"
    return graph.to_model(opset)


@contextmanager
def _quiet() -> Iterator[None]:
    """Both exporters talk: progress on standard output, warnings about their own internals, log lines."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
