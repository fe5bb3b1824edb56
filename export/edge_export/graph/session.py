"""Any ONNX graph as a function from arrays to arrays, for comparing and calibrating.

`edge_app.inference.onnx_model.load` insists on a card; files of other packages have none, and a candidate is compared
before it is given a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edge_app.core.errors import ModelError

Float32s = NDArray[np.float32]
Function = Callable[[Float32s], Sequence[Float32s]]
"""A batch (N, ...) in, one or more arrays (N, ...) out."""


def as_function(model: onnx.ModelProto | bytes, *, threads: int = 2) -> Function:
    """Open a graph with one input; its outputs come in the graph's order. Raises ModelError when it cannot run."""
    options = ort.SessionOptions()
    # Raw files that declare weights as inputs make ONNX Runtime print hundreds of warnings.
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    content = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses the graph: {_first_line(error)}", expected="a valid graph") from error
    name = session.get_inputs()[0].name

    def run(batch: Float32s) -> Sequence[Float32s]:
        try:
            outputs: Sequence[Any] = session.run(None, {name: batch})
        except Exception as error:
            raise ModelError(f"the graph fails on {batch.shape}: {_first_line(error)}") from error
        return [np.asarray(output) for output in outputs]

    return run


def one_by_one(function: Function) -> Function:
    """The same function for a graph whose batch is fixed at 1."""

    def run(batch: Float32s) -> Sequence[Float32s]:
        parts = [function(batch[i : i + 1]) for i in range(len(batch))]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    return run


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
