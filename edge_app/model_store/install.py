"""Models that the user brings: taken in whole or not at all, put to use, taken out.

A file is looked into, tried in a process of its own under a name that nothing lists, and only then listed with its
hash. What a command that was killed left behind is removed by `edge_app.model_store.candidates`.
"""

from __future__ import annotations

from dataclasses import replace as changed_copy
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.numeric import softmax
from edge_app.core.task import Task
from edge_app.core.types import Float32s
from edge_app.inference import onnx_model
from edge_app.model_store import fingerprint, sandbox_check, shipped
from edge_app.model_store.candidates import candidate_file, lock_of
from edge_app.model_store.catalogue import builds, installed, list_path
from edge_app.model_store.describe import Description, check_card
from edge_app.model_store.onnx_inspect import SIZE_LIMIT_BYTES, OnnxFile, inspect_bytes, with_card, with_metadata
from edge_app.model_store.shipped import Entry
from edge_app.system.data_folder import Home
from edge_app.system.files import (
    locked,
    readable_os_errors,
    settle,
    sha256_of,
    write_json,
)
from edge_app.system.settings import Settings

_SAME_SPACE_COSINE: Final = 0.98
"""Mean cosine from which two builds share an embedding space."""
_SAME_ANSWERS: Final = 0.1
"""Mean difference of probabilities up to which two builds are one classifier."""
_NAMES_OF_OTHERS: Final = frozenset({"faces", "auto", "mtcnn"})
"""Words that settings use in place of an id."""


def add(home: Home, path: Path, description: Description | None = None, replace: bool = False) -> Entry:
    """Check a model file and install it; `description` stands for the card of a file that carries none.

    One that says no more than an id gives a file with a card another name: proof and measurements stay.
    `replace` allows to put it in place of an installed build of the same id and precision. Nothing of the file is run
    before it was looked into, and then in a process of its own first. Raises ModelError or UsageError in one line;
    then nothing was installed.
    """
    content = _read(path)
    file = inspect_bytes(content, path.name)
    card = _card(file, content, description)
    check_card(card, file)
    old = _place_for(home, card, replace)
    if description is not None:
        proof = {} if _only_renames(file, description) else {fingerprint.KEY: None}
        content = with_metadata(content, {ModelCard.KEY: card.to_json(), **proof})
    with candidate_file(home, content) as candidate:
        outputs = _tried(candidate, path.name)
        # Another build of the same id must be the same model: one embedding space, the same answers.
        for entry in installed(home):
            if entry.id != card.id or entry.precision == card.precision:
                continue
            other = onnx_model.load(entry.path, threads=1, sha256=entry.sha256)
            if other.card.labels != card.labels or other.card.embedding_size != card.embedding_size:
                raise ModelError(f"{card.id} as {card.precision} has other labels or sizes than as {entry.precision}")
            theirs = sandbox_check.run_apart(entry.path)
            if theirs.shape != outputs.shape or not _agree(card, outputs, theirs):
                raise ModelError(
                    f"{card.id} as {card.precision} does not agree with the installed {entry.precision} build",
                    expected="one model in two precisions",
                    remedy="give it an --id of its own",
                )
        return _admit(home, candidate, content, card, old)


def _read(path: Path) -> bytes:
    """The file's bytes, read once: what was checked is what is installed."""
    try:
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise ModelError(f"{path.name} has {path.stat().st_size} bytes", expected="at most 2 GB")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", expected="an ONNX file") from error
    if not content:
        raise ModelError(f"{path.name} is empty", expected="an ONNX file")
    return content


def _card(file: OnnxFile, content: bytes, description: Description | None) -> ModelCard:
    card = file.card
    if card is not None and description is not None and description.id and _only_renames(file, description):
        return changed_copy(card, id=description.id)
    if description is not None:
        return description.card(file, sha256_of(content))
    if card is None:
        raise ModelError(
            f"{file.name} carries no card",
            expected="a file that `edge-app export` wrote",
            remedy="describe it: see `edge-app models add --help`",
        )
    return card


def _only_renames(file: OnnxFile, description: Description) -> bool:
    """Whether a file keeps its own card, and its proof, under another id."""
    return file.card is not None and description == Description(id=description.id)


def _place_for(home: Home, card: ModelCard, replace_: bool) -> Entry | None:
    """The installed build that gives way, None when there is none. Raises ModelError when the place is taken."""
    if card.id in {entry.id for entry in shipped.entries()} | _NAMES_OF_OTHERS:
        raise ModelError(f"{card.id} ships with edge-app", expected="another id", remedy="name it with --id")
    mine = [entry for entry in installed(home) if entry.id == card.id]
    if mine and mine[0].task != card.task:
        raise ModelError(f"{card.id} is installed for {mine[0].task}", expected=f"another id for {card.task}")
    old = next((entry for entry in mine if entry.precision == card.precision), None)
    if old is not None and not replace_:
        raise ModelError(
            f"{card.id} is installed as {card.precision} already",
            remedy="replace it with --replace, or give it an --id",
        )
    return old


def _tried(candidate: Path, name: str) -> Float32s:
    try:
        return sandbox_check.run_apart(candidate)
    except ModelError as error:
        # The person knows the file by its own name.
        found = error.found.replace(candidate.name, name)
        raise ModelError(found, expected=error.expected, remedy=_remedy(error.remedy)) from error


def _remedy(remedy: str) -> str:
    return "" if "reinstall" in remedy or "models verify" in remedy else remedy


def _agree(card: ModelCard, ours: Float32s, theirs: Float32s) -> bool:
    if card.task.embeds:
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines = (ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-12)
        return float(cosines.mean()) >= _SAME_SPACE_COSINE
    if card.task is Task.FACE_DETECTION:
        return True  # both found the sample's faces where they are
    ours_p, theirs_p = (softmax(each, card.temperature) for each in (ours, theirs))
    return float(np.abs(ours_p - theirs_p).max(axis=1).mean()) <= _SAME_ANSWERS


def _admit(home: Home, candidate: Path, content: bytes, card: ModelCard, old: Entry | None) -> Entry:
    """Give the file its final name, then list it: a crash between the two leaves an unlisted file, never a lie."""
    sha256 = sha256_of(content)
    path = home.models_dir / f"{card.id}-{card.precision}-{sha256[:12]}.onnx"
    entry = Entry(card.id, card.precision, card.task, path, sha256, len(content))
    with locked(lock_of(home)):
        # Somebody may have been faster while this one was tried.
        kept = [one for one in installed(home) if (one.id, one.precision) != (card.id, card.precision)]
        if old is None and len(kept) != len(installed(home)):
            raise ModelError(f"{card.id} was installed by another process meanwhile", remedy="try again")
        with readable_os_errors(home.models_dir):
            if not list_path(home).exists():  # without a list `remove_abandoned` leaves everything where it is
                _write_list(home, [])
            settle(candidate, path)
        try:
            _write_list(home, [*kept, entry])
        except BaseException:
            if old is None or old.path != path:
                path.unlink(missing_ok=True)
            raise
        if old is not None and old.path != path:
            old.path.unlink(missing_ok=True)
    return entry


def replace_card(home: Home, entry: Entry, card: ModelCard) -> Entry:
    """Install the same network with another card of the same id and precision in place of `entry`. Raises EdgeError."""
    content = with_card(_read(entry.path), card)
    if sha256_of(content) == entry.sha256:
        return entry
    with candidate_file(home, content) as candidate:
        return _admit(home, candidate, content, card, entry)


def _write_list(home: Home, entries: list[Entry]) -> None:
    plain = [
        {
            "id": entry.id,
            "precision": entry.precision,
            "task": entry.task,
            "file": entry.path.name,
            "sha256": entry.sha256,
            "bytes": entry.bytes,
        }
        for entry in entries
    ]
    write_json(list_path(home), {"models": plain})


def remove(home: Home, model_id: str) -> tuple[Entry, ...]:
    """Take out every build of an installed model; settings that named it go back to their defaults.

    Returns what was removed. Raises UsageError for a model that ships or is not there.
    """
    gone = tuple(entry for entry in installed(home) if entry.id == model_id)
    if not gone:
        builds(home, model_id)  # says so when there is no such model at all
        raise UsageError(f"{model_id} ships with edge-app", expected="a model that was added")
    fallen: dict[str, Any] = {name: getattr(Settings(), name) for name in in_use(home.settings(), model_id)}
    if fallen:
        home.change_settings(**fallen)
    with locked(lock_of(home)):
        _write_list(home, [entry for entry in installed(home) if entry.id != model_id])
    for entry in gone:
        entry.path.unlink(missing_ok=True)
    return gone


def in_use(settings: Settings, model_id: str) -> tuple[str, ...]:
    """Names of the settings that name this model."""
    return tuple(name for name in ("embedder", "detector", "model") if getattr(settings, name) == model_id)


def use(home: Home, model_id: str) -> Settings:
    """Put a model to use for what it does, as `changes_to_use` says. Returns the new settings, saved."""
    return home.change_settings(**changes_to_use(home, model_id))


def changes_to_use(home: Home, model_id: str) -> dict[str, Any]:
    """The settings that put a model to use: it becomes the embedder, the detector, or what Live looks for.

    "faces" brings the face recognizer back, "mtcnn" means the three networks of that cascade. Saves nothing. Raises
    UsageError when there is no such model, or it is one part of several.
    """
    if model_id == "faces":
        return {"model": "faces"}
    if model_id == "mtcnn":
        return {"detector": "mtcnn"}
    found = builds(home, model_id)
    if model_id.startswith("mtcnn-") and found[0] in shipped.entries():
        raise UsageError(f"{model_id} is one of three networks", remedy="use them all with `edge-app models use mtcnn`")
    if model_id == "face-mesh" and found[0] in shipped.entries():
        raise UsageError("face-mesh finds the surface of faces", remedy="`edge-app verify` uses it by itself")
    field = found[0].task.setting
    there = ("auto", *(entry.precision for entry in found))
    if field != "detector" and home.settings().precision not in there:
        return {field: model_id, "precision": "auto"}
    return {field: model_id}
