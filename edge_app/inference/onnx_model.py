"""Opens an ONNX file with its card and runs it, float32 in and out; the only importer of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Float32s
from edge_app.system.files import sha256_of_file

_METADATA_LIMIT_CHARS: Final = 4 << 20
"""A card with a million labels is a mistake or an attack; ImageNet-21k's labels take 0.6 MB."""

ort.set_default_logger_severity(3)


class Model:
    """A loaded network: runs batches, knows what it is."""

    def __init__(self, session: ort.InferenceSession, card: ModelCard, path: Path) -> None:
        self.card = card
        self.path = path
        self._session = session
        self._input = session.get_inputs()[0].name
        shape = session.get_inputs()[0].shape
        # Files that others made often take one picture only; the rest of the app need not know.
        self._one_by_one = bool(shape) and shape[0] == 1
        self._outputs = [output.name for output in session.get_outputs()]
        self._only_needed = ort.RunOptions()
        self._only_needed.only_execute_path_to_fetches = True
        self._only_needed.log_severity_level = 3

    def run(self, batch: Float32s, outputs: Sequence[str] | None = None) -> tuple[Float32s, ...]:
        """Run float32 (N, 3, H, W), already normalized; returns every output in the graph's order.

        `outputs` names those that are wanted, in that order; nodes that only the others need are not run. A graph
        that takes one picture is run N times. Raises ModelError when the graph refuses the shape or fails.
        """
        if self._one_by_one and len(batch) > 1:
            parts = [self._run(batch[i : i + 1], outputs) for i in range(len(batch))]
            return tuple(np.concatenate(each) for each in zip(*parts, strict=True))
        return self._run(batch, outputs)

    def _run(self, batch: Float32s, outputs: Sequence[str] | None) -> tuple[Float32s, ...]:
        try:
            results: Sequence[Any] = self._session.run(
                outputs or self._outputs, {self._input: batch}, self._only_needed if outputs else None
            )
        except Exception as error:
            raise ModelError(
                f"model {self.card.id!r} failed on an input of shape {tuple(batch.shape)}: {_first_line(error)}",
                remedy="run `edge-app models verify`",
            ) from error
        return tuple(np.asarray(result) for result in results)


def load(path: Path, *, threads: int | None = None, sha256: str | None = None) -> Model:
    """Open a model file.

    `threads`: how many this model may use, None for one per physical core. `sha256`: the hash it must have.
    Raises ModelError when the file is missing, changed, damaged, without a card, or unlike its card.
    """
    if sha256 is not None:
        try:
            found = sha256_of_file(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}", remedy="reinstall edge-app") from error
        if found != sha256:
            raise ModelError(
                f"{path.name} has changed: SHA-256 {found[:12]}…",
                expected=f"{sha256[:12]}…",
                remedy="reinstall edge-app, or add the file as a model of your own",
            )
    session = _session(path, threads)
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    text = metadata.get(ModelCard.KEY)
    if text is None:
        raise ModelError(f"{path.name} carries no card", expected="a file that `edge-app export` wrote")
    if len(text) > _METADATA_LIMIT_CHARS:
        raise ModelError(f"the card in {path.name} has {len(text)} characters", expected="at most 4 million")
    card = ModelCard.from_json(text)
    _check_against_graph(session, card, path)
    return Model(session, card, path)


def _session(path: Path, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    # Waiting workers would burn whole cores between two frames of a live loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        what = "does not exist" if not path.exists() else f"cannot be loaded: {_first_line(error)}"
        raise ModelError(f"{path.name} {what}", expected="an ONNX model", remedy="reinstall or export again") from error


def _check_against_graph(session: ort.InferenceSession, card: ModelCard, path: Path) -> None:
    """A card that describes another graph is found out here, not in the middle of a recognition."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    names = tuple(output.name for output in outputs)
    if len(inputs) != 1 or inputs[0].name != card.input.name or names != card.outputs:
        found = f"{[i.name for i in inputs]} -> {list(names)}"
        raise ModelError(
            f"the graph in {path.name} is {found}",
            expected=f"{[card.input.name]} -> {list(card.outputs)} as its card says",
        )
    shape = inputs[0].shape
    wanted = (3, card.input.height_px, card.input.width_px)
    fits = len(shape) == 4 and all(
        not isinstance(have, int) or want is None or have == want for have, want in zip(shape[1:], wanted, strict=True)
    )
    if inputs[0].type != "tensor(float)" or not fits:
        raise ModelError(
            f"the graph in {path.name} takes {inputs[0].type} {shape}", expected=f"float (N, {wanted}) as its card says"
        )
    size = outputs[0].shape[-1] if outputs[0].shape else None
    if card.embedding_size and isinstance(size, int) and size != card.embedding_size:
        raise ModelError(f"the graph in {path.name} gives {size} numbers", expected=f"{card.embedding_size}")


def raw_session(path: Path, threads: int | None = None) -> Callable[[Float32s], tuple[Float32s, ...]]:
    """Open any ONNX file with one input, for comparisons only: no card, no hash, the same options as `load`.

    Returns a function of the input, float32 of the graph's own shape. Raises ModelError when it cannot be loaded.
    """
    session = _session(path, threads)
    name = session.get_inputs()[0].name
    return lambda batch: tuple(np.asarray(output) for output in session.run(None, {name: batch}))


def byte_products() -> Callable[[NDArray[np.uint8], NDArray[np.int8]], NDArray[np.int32]]:
    """A function of (N, D) and (D, M) that gives their exact product (N, M), on one thread.

    The second must stay within -64 and 64: processors without VNNI add two products in 16 bits. NumPy multiplies
    integers without SIMD; of 500,000 rows of 128 this took 13 ms, NumPy's float32 product 23, FAISS's 8 bits 11 to 14.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(_BYTE_PRODUCTS, options, providers=["CPUExecutionProvider"])
    return lambda rows, columns: np.asarray(session.run(None, {"a": rows, "b": columns})[0])


_BYTE_PRODUCTS: Final = (
    b'\x08\x07:b\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01sZ\x15\n\x01a\x12\x10\n\x0e\x08\x02\x12\n\n\x03\x12'
    b"\x01n\n\x03\x12\x01dZ\x15\n\x01b\x12\x10\n\x0e\x08\x03\x12\n\n\x03\x12\x01d\n\x03\x12\x01mb\x15\n\x01c\x12\x10\n\x0e"
    b"\x08\x06\x12\n\n\x03\x12\x01n\n\x03\x12\x01mB\x04\n\x00\x10\r"
)
"""ONNX of opset 13: c (n, m) int32 = MatMulInteger(a (n, d) uint8, b (d, m) int8)."""


def providers() -> tuple[str, ...]:
    """Execution providers that this ONNX Runtime was built with, best first."""
    return tuple(ort.get_available_providers())


def version() -> str:
    """ONNX Runtime's version."""
    return str(ort.__version__)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
