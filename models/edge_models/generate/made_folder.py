"""A folder that appears under its name when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError, UsageError

_ENDING: Final = ".part"
_RANDOM: Final = 8
"""Characters that `mkdtemp` makes up."""


@contextlib.contextmanager
def made_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to write to, which gets its name at the end and is removed where something fails.

    What a killed process left of the same name is removed first: the system lets go of its lock however it ends.
    Raises UsageError when `out` is there already, EdgeError when the disk refuses.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already", expected="a new folder", remedy="name another")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        begin = f".{out.name[:40]}."
        _sweep(out.parent, begin)
        scratch = Path(tempfile.mkdtemp(prefix=begin, suffix=_ENDING, dir=out.parent))
        lock = _locked(scratch)
    except OSError as error:
        raise EdgeError(f"{out} cannot be made ({error.strerror})", expected="a folder to write to") from error
    try:
        yield scratch
        scratch.rename(out)
    except OSError as error:
        raise EdgeError(f"{out} cannot be written ({error.strerror or error})", remedy="free some space") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _sweep(parent: Path, begin: str) -> None:
    """Remove the hidden folders that nobody holds any more."""
    size = len(begin) + _RANDOM + len(_ENDING)
    for left in parent.iterdir():
        if not (left.name.startswith(begin) and left.name.endswith(_ENDING) and len(left.name) == size):
            continue
        if left.is_dir() and not left.is_symlink() and (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """The descriptor that holds a folder; None where another process does, or the file system knows no locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
