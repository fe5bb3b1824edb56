"""A classifier for tests: it tells how red, green and blue a picture is."""

import hashlib
import json

import onnx
from onnx import TensorProto, helper

from edge_app.core.model_card import InputSpec, ModelCard

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


def colours(path, **changes):
    """A classifier of 8x8 whose logits are eight times the mean of each channel, and its entry in the list beside."""
    fields = {
        "id": "colours",
        "task": "classification",
        "family": "logits",
        "input": InputSpec("input", 8, 8, mean=(127.5,) * 3, std=(127.5,) * 3),
        "outputs": ("logits",),
        "precision": "fp32",
        "licence": "CC0-1.0",
        "commercial_use": True,
        "origin": "made up",
        "origin_sha256": "0" * 64,
        "labels": tuple(COLOURS),
        "temperature": 0.25,
    }
    card = ModelCard(**fields | changes)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    ins = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])]
    model = helper.make_model(
        helper.make_graph(nodes, "colours", ins, outs), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    helper.set_model_props(model, {ModelCard.KEY: card.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    entry = {"id": card.id, "precision": "fp32", "task": card.task, "file": path.name}
    entry |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    listed = path.parent / "installed.json"
    models = json.loads(listed.read_text())["models"] if listed.exists() else []
    listed.write_text(json.dumps({"models": [*models, entry]}))
