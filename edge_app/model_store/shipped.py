"""The models that ship with the app, each with the hash its file must have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, cast

from edge_app.core.errors import ModelError
from edge_app.core.model_card import Precision
from edge_app.core.task import Task

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
