"""Writes, reads and replaces the model card inside an ONNX file.

The metadata holds the card alone, so the same card and graph give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from edge_app.system.files import replacing


def attach_card(model: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Make `card` the model's only metadata; works in place and returns the same model."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = ModelCard.KEY, card.to_json()
    return model


def card_of(model: onnx.ModelProto, name: str) -> ModelCard:
    """The card inside a model; `name` is used in errors. Raises ModelError when it has none."""
    for entry in model.metadata_props:
        if entry.key == ModelCard.KEY:
            return ModelCard.from_json(entry.value)
    raise ModelError(f"{name} carries no card", expected="a file that `edge-app export` wrote")


def read_card(path: Path) -> ModelCard:
    """The card inside a file. Raises ModelError when there is no file, no model or no card."""
    return card_of(read_model(path), path.name)


def read_model(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file. Raises ModelError when it is missing or is not one."""
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", expected="an ONNX file") from error
    except Exception as error:  # protobuf's DecodeError: its package carries no types to name it by
        raise ModelError(f"{path} is not an ONNX file", expected="an ONNX file", remedy="export it again") from error


def with_measurements_of(card: ModelCard, old: ModelCard) -> ModelCard:
    """`card` with the operating points and metrics that were measured on the same graph before."""
    return replace(card, operating_points=old.operating_points, metrics=old.metrics)


def model_bytes(model: onnx.ModelProto) -> bytes:
    """Serialize; the same model gives the same bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write_bytes(path: Path, content: bytes, check: Callable[[Path], None] = lambda temporary: None) -> None:
    """Write a file so that it is there whole or not at all; `check` may refuse the written bytes by raising."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, mode=0o644) as scratch:  # shipped files are read by everyone
        scratch.write_bytes(content)
        check(scratch)
