"""The models that ship with the app, each with the hash its file must have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, cast

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import Precision
from edge_app.core.task import Task
from edge_app.inference.onnx_model import Model
from edge_app.inference.onnx_model import load as load_file

FOLDER: Final = Path(__file__).resolve().parents[1] / "zoo"
MANIFEST: Final = FOLDER / "manifest.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One shipped file."""

    id: str
    precision: Precision
    task: Task
    path: Path
    sha256: str
    bytes: int


@cache
def entries() -> tuple[Entry, ...]:
    """Every shipped file, in the manifest's order. Raises ModelError when the manifest is damaged."""
    try:
        listed = json.loads(MANIFEST.read_text(encoding="utf-8"))["models"]
        return tuple(
            Entry(
                e["id"],
                cast(Precision, e["precision"]),
                Task(e["task"]),
                FOLDER / e["file"],
                e["sha256"],
                int(e["bytes"]),
            )
            for e in listed
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the list of shipped models cannot be read: {error}", remedy="reinstall edge-app") from error


def builds(model_id: str) -> tuple[Entry, ...]:
    """The shipped builds of one model. Raises UsageError when there is none."""
    found = tuple(entry for entry in entries() if entry.id == model_id)
    if not found:
        known = ", ".join(sorted({entry.id for entry in entries()}))
        raise UsageError(f"there is no model called {model_id!r}", expected=f"one of {known}")
    return found


def build(model_id: str, precision: Precision) -> Entry:
    """One shipped build. Raises UsageError when that precision does not ship."""
    found = builds(model_id)
    for entry in found:
        if entry.precision == precision:
            return entry
    have = ", ".join(entry.precision for entry in found)
    raise UsageError(f"{model_id} does not ship as {precision}", expected=have)


def load(model_id: str, precision: Precision = "fp32", *, threads: int | None = None) -> Model:
    """Load a shipped model, its hash checked against the manifest."""
    entry = build(model_id, precision)
    return load_file(entry.path, threads=threads, sha256=entry.sha256)
