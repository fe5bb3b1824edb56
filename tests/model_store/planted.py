"""Small ONNX models with planted answers, as files with cards: the share of red, green and blue decides the class."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.system.data_folder import Home

LABELS = ("red", "green", "blue")
SIDE_PX = 32
CELLS = 4
GAIN = 10.0
"""A picture that is all of one colour gets this logit for it and 0 for the others."""


def colour_card(**changes: Any) -> ModelCard:
    """The card of a classifier of colours; `changes` are fields."""
    fields: dict[str, Any] = {
        "id": "colours",
        "task": "classification",
        "family": "logits",
        "input": InputSpec("input", SIDE_PX, SIDE_PX, std=(255.0, 255.0, 255.0)),
        "outputs": ("logits", "class_maps"),
        "precision": "fp32",
        "licence": "CC0-1.0",
        "commercial_use": True,
        "origin": "made up",
        "origin_sha256": "0" * 64,
        "crop": "centre-1",
        "labels": LABELS,
        "temperature": 2.0,
        "unsure_below": 0.8,
    }
    return ModelCard(**fields | changes)


def write_colours(path: Path, card: ModelCard | None = None) -> Path:
    """Write the classifier: maps are block averages times GAIN, logits the averages of the maps."""
    card = card or colour_card()
    side = card.input.width_px or SIDE_PX
    block = side // CELLS
    nodes = [
        helper.make_node("AveragePool", ["input"], ["blocks"], kernel_shape=[block, block], strides=[block, block]),
        helper.make_node("Mul", ["blocks", "gain"], ["class_maps"]),
        helper.make_node("ReduceMean", ["class_maps"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    shapes: dict[str, list[int | str]] = {"logits": ["n", 3], "class_maps": ["n", 3, CELLS, CELLS]}
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in card.outputs],
        [numpy_helper.from_array(np.float32(GAIN), "gain")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {ModelCard.KEY: card.to_json()})
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def install(home: Home, card: ModelCard | None = None) -> ModelCard:
    """Put a classifier of colours among the models of a data folder, as `edge-app models add` does."""
    card = card or colour_card()
    path = write_colours(home.models_dir / f"{card.id}-{card.precision}.onnx", card)
    data = path.read_bytes()
    entry = {
        "id": card.id,
        "precision": card.precision,
        "task": card.task,
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }
    listed = home.models_dir / "installed.json"
    before = json.loads(listed.read_text())["models"] if listed.exists() else []
    listed.write_text(json.dumps({"models": [*before, entry]}))
    return card


def plain(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> np.ndarray:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)
