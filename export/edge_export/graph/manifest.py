"""`manifest.json`, which pins the shipped files: id, precision, task, file, SHA-256 and size of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_app.core.errors import ModelError
from edge_app.core.model_card import PRECISIONS, ModelCard
from edge_app.system.files import json_bytes, sha256_of
from edge_export.graph.card import attach_card, card_of, model_bytes, read_card, read_model, write_bytes

MANIFEST_NAME = "manifest.json"


def record(folder: Path, changed: Iterable[Path]) -> None:
    """Pin the present bytes of the files in `changed`, and leave every other entry as it is.

    Only the files named are read: one that was tampered with elsewhere in the folder keeps its old hash and goes on
    being refused; files that are gone are dropped. Raises ModelError for a damaged manifest or a file without a card.
    """
    path = folder / MANIFEST_NAME
    entries = {entry["file"]: entry for entry in _read(path)} if path.exists() else {}
    entries = {name: entry for name, entry in entries.items() if (folder / name).is_file()}
    entries |= {file.name: _entry(file) for file in changed}
    _write(path, entries)


def rewrite_card(path: Path, card: ModelCard) -> None:
    """Replace the card of a file and, where a manifest lies beside it, the file's entry there.

    The graph stays as it is; both files are replaced atomically, the model first. Raises ModelError when the file
    carries the card of another model.
    """
    model = read_model(path)
    present = card_of(model, path.name)
    if (present.id, present.precision) != (card.id, card.precision):
        raise ModelError(
            f"{path.name} is {present.id} {present.precision}, the new card is of {card.id} {card.precision}",
            expected="a card of the same model and precision",
        )
    write_bytes(path, model_bytes(attach_card(model, card)))
    if (path.parent / MANIFEST_NAME).exists():
        record(path.parent, [path])


def refresh_manifest(folder: Path) -> None:
    """Pin every ONNX file that lies in `folder` now, and nothing else."""
    _write(folder / MANIFEST_NAME, {file.name: _entry(file) for file in sorted(folder.glob("*.onnx"))})


def pinned(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, as the manifest of `folder` has it; empty where there is none."""
    path = folder / MANIFEST_NAME
    return {entry["file"]: entry["sha256"] for entry in _read(path)} if path.exists() else {}


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["models"]
        if not all({"file", "sha256"} <= entry.keys() for entry in listed):
            raise KeyError("file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be read", expected="a manifest that `edge-app export zoo` wrote", remedy="delete it"
        ) from error
    return listed


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    card = read_card(path)
    return {
        "id": card.id,
        "precision": card.precision,
        "task": card.task,
        "file": path.name,
        "sha256": sha256_of(content),
        "bytes": len(content),
    }


def _write(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    order = sorted(entries.values(), key=lambda entry: (entry["id"], PRECISIONS.index(entry["precision"])))
    write_bytes(path, json_bytes({"models": order}))
