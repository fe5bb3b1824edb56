"""The models at hand: those that ship and those that the user installed, as one catalogue.

Hides the folder of installed models and its list with their hashes. Flows in: the data folder, ids. Flows out:
`Entry`s, shipped ones first, and loaded `Model`s whose hash was checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import Precision
from edge_app.core.suggest import did_you_mean
from edge_app.core.task import Task
from edge_app.inference import onnx_model
from edge_app.inference.onnx_model import Model
from edge_app.model_store import shipped as zoo
from edge_app.model_store.shipped import Entry
from edge_app.system.data_folder import Home

LIST_NAME: Final = "installed.json"


def list_path(home: Home) -> Path:
    """The list of installed models."""
    return home.models_dir / LIST_NAME


def installed(home: Home) -> tuple[Entry, ...]:
    """What the user installed, oldest first. Raises ModelError when the list is damaged."""
    path = list_path(home)
    try:
        listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["models"]
        return tuple(_entry(home, plain) for plain in listed)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the list of installed models {path} cannot be read: {error}",
            remedy=f"correct it, or delete {home.models_dir} and add the models again",
        ) from error


def _entry(home: Home, plain: dict[str, Any]) -> Entry:
    file = str(plain["file"])
    if Path(file).name != file:
        raise ValueError(f"the file {file!r} lies elsewhere")
    return Entry(
        str(plain["id"]),
        cast(Precision, plain["precision"]),
        Task(plain["task"]),
        home.models_dir / file,
        str(plain["sha256"]),
        int(plain["bytes"]),
    )


def catalogue(home: Home | None) -> tuple[Entry, ...]:
    """Every model at hand, shipped ones first."""
    return zoo.entries() + (installed(home) if home else ())


def builds(home: Home | None, model_id: str) -> tuple[Entry, ...]:
    """The builds of one model. Raises UsageError when there is none."""
    every = catalogue(home)
    found = tuple(entry for entry in every if entry.id == model_id)
    if not found:
        known = ", ".join(sorted({entry.id for entry in every}))
        raise UsageError(
            f"there is no model called {model_id!r}",
            expected=f"one of {known}",
            remedy=did_you_mean(
                model_id, (entry.id for entry in every), "export one and add it with `edge-app models add FILE`"
            ),
        )
    return found


def build(home: Home | None, model_id: str, precision: Precision) -> Entry:
    """One build of a model. Raises UsageError when there is no such one."""
    found = builds(home, model_id)
    for entry in found:
        if entry.precision == precision:
            return entry
    raise UsageError(
        f"there is no {precision} build of {model_id}", expected=", ".join(entry.precision for entry in found)
    )


def open_entry(entry: Entry, threads: int | None = None) -> Model:
    """Load one build, its hash checked. Raises ModelError when the file has changed or is gone."""
    return onnx_model.load(entry.path, threads=threads, sha256=entry.sha256)
