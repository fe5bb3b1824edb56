"""The models at hand: those that ship and those that the user installed, each with the hash its file must have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_app.core.documents import DocumentError, parse_json, typed
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import Precision
from edge_app.core.names import ID
from edge_app.core.plain_text import plain
from edge_app.core.suggest import did_you_mean
from edge_app.core.task import Task
from edge_app.inference import onnx_model
from edge_app.inference.onnx_model import Model
from edge_app.model_store.shipped import Entry, entries
from edge_app.system.data_folder import Home

LIST_NAME: Final = "installed.json"
_LIST_LIMIT_BYTES: Final = 1 << 20


def list_path(home: Home) -> Path:
    """The list of installed models."""
    return home.models_dir / LIST_NAME


@dataclass(frozen=True, slots=True)
class _Listed:
    """One entry of the list."""

    id: str
    precision: Precision
    task: Task
    file: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise ValueError(f"the id {self.id[:80]!r} is none")
        name = Path(self.file).name
        if name != self.file or name in ("", ".", "..") or "\\" in name or plain(name) != name:
            raise ValueError(f"the file {self.file[:80]!r} lies elsewhere")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256) or self.bytes < 0:
            raise ValueError(f"the hash or the size of {self.file[:80]!r} is none")


@dataclass(frozen=True, slots=True)
class _List:
    models: tuple[_Listed, ...]


def installed(home: Home) -> tuple[Entry, ...]:
    """What the user installed, oldest first. Raises ModelError when the list is damaged."""
    path = list_path(home)
    try:
        with path.open("rb") as stream:
            content = stream.read(_LIST_LIMIT_BYTES + 1)
        listed = typed(parse_json(content, most_bytes=_LIST_LIMIT_BYTES), _List, known=False).models
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, DocumentError) as error:
        raise ModelError(
            f"the list of installed models {path} cannot be read: {error}",
            remedy=f"correct it, or delete {home.models_dir} and add the models again",
        ) from error
    return tuple(
        Entry(one.id, one.precision, one.task, home.models_dir / one.file, one.sha256, one.bytes) for one in listed
    )


def catalogue(home: Home | None) -> tuple[Entry, ...]:
    """Every model at hand, shipped ones first; without a data folder those alone."""
    return entries() + (installed(home) if home else ())


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


def open_shipped(model_id: str, precision: Precision = "fp32", *, threads: int | None = None) -> Model:
    """Load a model that ships. Raises UsageError when there is no such one, ModelError when its file has changed."""
    return open_entry(build(None, model_id, precision), threads)
