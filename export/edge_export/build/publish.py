"""From a network and its pictures to a proven ONNX file: both of torch's exporters are tried, the gate compares, the
card goes in. Where anything fails nothing is written.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.names import slug
from edge_export.build.fingerprint import prove
from edge_export.build.material import Material
from edge_export.check.faces import batches_of
from edge_export.check.parity import EXPORTED_EMBEDDING, EXPORTED_LOGITS, Candidate, Parity, Rule, admit, compare
from edge_export.graph import torch_export
from edge_export.graph.card import read_card
from edge_export.graph.prelu import without_prelu
from edge_export.graph.privacy import without_paths
from edge_export.graph.session import as_function

Tell = Callable[[str], None]
"""Told in a few words what is being done."""

_BATCH: Final = 8
_PACKAGES: Final = ("edge-app", "torch", "timm", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, whatever is exported."""

    model_id: str
    command: str
    """The command line, for the card."""
    data: Path | None = None
    """Folder of pictures to measure on; None: the one that the checkpoint names, or the app's sample pictures."""
    data_changed: bool = False
    """Whether the folder may differ from the one that was trained on."""
    licence: str = ""
    """Of the data, as the user states it."""


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """A written file that agreed with its origin."""

    path: Path
    card: ModelCard
    """As it lies in the file."""
    parity: Parity
    model: onnx.ModelProto
    size_bytes: int


def publish(material: Material, path: Path, tell: Tell = lambda what: None) -> Exported:
    """Export, compare at batch 1 and 8, and give the file its name.

    Raises ModelError when no exporter's graph agrees with torch or the file cannot be written, UsageError for a path
    that cannot be meant; nothing is left behind then.
    """
    check_output(path)
    origin = torch_export.as_function(material.module)
    batches = batches_of(material.gate_inputs, _BATCH)
    rule = rule_of(material.card)

    def judge(model: onnx.ModelProto) -> None:
        compare(origin, as_function(model), batches, rule, path.name)

    tell("exporting")
    model, exporter = torch_export.export(material.module, material.gate_inputs[:2], material.signature, judge)
    model = without_prelu(model)  # what the gate lets through below is this one
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    made = {"exporter": exporter, "opset": str(opset), "precision": "fp32"}
    card = without_paths(replace(material.card, provenance=dict(material.card.provenance) | made))
    tell(f"comparing with torch on {len(material.gate_inputs)} pictures")
    try:
        parity = admit(Candidate(model, card, path), origin, batches, rule)
        prove(path)
    except OSError as error:
        raise unwritable(path, error) from error
    return Exported(path, read_card(path), parity, model, path.stat().st_size)


def rule_of(card: ModelCard) -> Rule:
    """How near a graph must come to torch."""
    return EXPORTED_EMBEDDING if card.task.embeds else EXPORTED_LOGITS


def check_output(path: Path) -> None:
    """Refuse a path before minutes are spent. Raises UsageError, or ModelError when it cannot be written."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", expected="a file name", remedy=f"say {path / 'model.onnx'}")
    if path.suffix != ".onnx":
        raise UsageError(f"{path.name} does not end in .onnx", expected="a name such as model.onnx")
    check_folder(path.parent, "-o")


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be written to, or made; `option` names it. Raises UsageError or ModelError."""
    folder = folder.absolute()
    above = next(each for each in (folder, *folder.parents) if each.exists())
    if not above.is_dir():
        raise UsageError(f"{above} is not a folder", expected="a folder to write to", remedy=f"name it with {option}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ModelError(f"{above} cannot be written", remedy=f"check its permissions, or name another with {option}")


def unwritable(path: Path, error: OSError) -> ModelError:
    """The system's reason in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ModelError(f"no space to write {path}", remedy="free some space, or name another place with -o")
    return ModelError(f"{path} cannot be written ({error.strerror or error})", remedy="name another place with -o")


def named(given: str | None, output: Path | None, otherwise: str) -> str:
    """The id: as given, else the output's stem without its precision, else `otherwise`."""
    if given is not None and slug(given) != given:
        raise UsageError(f"--id is {given!r}", expected="a-z, 0-9, dot, underscore, dash", remedy=f"say {slug(given)}")
    stem = None if output is None else re.sub(r"-(fp32|fp16|int8)$", "", output.stem)
    return given or slug(stem or otherwise)


def provenance(request: Request, base: str, **more: str) -> dict[str, str]:
    """What every exported card tells about its making; empty words are left out."""
    told = {"command": request.command, "base": base, "versions": _versions(), "data_licence": request.licence, **more}
    return {name: text for name, text in told.items() if text}


def _versions() -> str:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
