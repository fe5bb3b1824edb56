"""Model files that are tried before they are installed, and what commands that were killed left of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError, ModelError
from edge_app.model_store.catalogue import LIST_NAME, installed
from edge_app.system.data_folder import Home
from edge_app.system.files import hidden_beside, locked, make_private_folder, readable_os_errors, sha256_of_file

_CANDIDATE: Final = "candidate"
_LEFT_BEHIND: Final = (f".{_CANDIDATE}.", f".{LIST_NAME}.")
_OURS: Final = re.compile(r"[a-z0-9][a-z0-9._-]*-(?:fp32|int8|fp16)-[0-9a-f]{12}\.onnx")
"""How `install.add` calls a file: id, precision, and how its hash begins."""


@contextlib.contextmanager
def candidate_file(home: Home, content: bytes) -> Iterator[Path]:
    """The bytes as a private file beside the installed ones; gone afterwards unless it was given a final name.

    A lock beside it tells that its process lives.
    """
    with contextlib.ExitStack() as stack:
        with readable_os_errors(home.models_dir):
            make_private_folder(home.path)
            with locked(lock_of(home)):  # `remove_abandoned` sees no candidate without its lock
                candidate = hidden_beside(home.models_dir / _CANDIDATE)
                stack.callback(candidate.unlink, missing_ok=True)
                stack.callback(_living(candidate).unlink, missing_ok=True)
                stack.enter_context(locked(_living(candidate)))
            candidate.write_bytes(content)
        yield candidate


def _living(candidate: Path) -> Path:
    return candidate.with_suffix(".lock")


def remove_abandoned(home: Home) -> None:
    """Remove what commands that were killed left among the models: candidates, half a list, a file that no list names.

    Candidates of living processes stay. A file is only taken for one of ours when its name ends in its own hash.
    """
    try:
        names = [path.name for path in home.models_dir.iterdir()]
        listed = {entry.path.name for entry in installed(home)} if LIST_NAME in names else None
    except (OSError, ModelError):
        return  # an absent folder holds nothing, and a damaged list is no licence to delete
    unlisted = [name for name in names if listed is not None and name not in listed and _OURS.fullmatch(name)]
    if not unlisted and not any(name.startswith(_LEFT_BEHIND) for name in names):
        return
    # A folder that cannot be written keeps what it has: reading must go on.
    with contextlib.suppress(EdgeError, OSError), locked(lock_of(home)):
        now = {entry.path.name for entry in installed(home)}
        for path in list(home.models_dir.iterdir()):
            name = path.name
            if name.startswith(f".{LIST_NAME}."):
                path.unlink(missing_ok=True)
            elif name.startswith(f".{_CANDIDATE}."):
                with locked(_living(path.with_suffix(".part")), wait=False) as ours:
                    if ours:
                        path.unlink(missing_ok=True)
                if ours:
                    _living(path).unlink(missing_ok=True)
            elif name in unlisted and name not in now and sha256_of_file(path).startswith(path.stem[-12:]):
                path.unlink(missing_ok=True)


def lock_of(home: Home) -> Path:
    """One process at a time changes the list."""
    return home.models_dir / ".lock"
