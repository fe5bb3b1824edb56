"""Puts what a written file gives on the app's sample pictures into it, by which `edge-app models add` finds out whether
card or graph were changed since.
"""

from __future__ import annotations

from pathlib import Path

from edge_app.inference import onnx_model
from edge_app.model_store import fingerprint
from edge_export.graph.card import model_bytes, read_model, write_bytes


def prove(path: Path) -> None:
    """Measure the file as the app opens it and put the proof into it, atomically; a detector gets none.

    Raises ModelError when the file cannot be opened or carries no card, OSError when it cannot be written.
    """
    measured = fingerprint.measure(onnx_model.load(path, threads=1))
    if measured is None:
        return
    model = read_model(path)
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != fingerprint.KEY]
    del model.metadata_props[:]
    for key, value in (*kept, (fingerprint.KEY, measured.to_json())):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    write_bytes(path, model_bytes(model))
