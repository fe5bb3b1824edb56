"""A folder that appears under its name when it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_app.core.errors import EdgeError, UsageError


@contextlib.contextmanager
def made_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to write to, which gets its name at the end and is removed where something fails.

    Raises UsageError when `out` is there already, EdgeError when the disk refuses.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already", expected="a new folder", remedy="name another")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise EdgeError(f"{out} cannot be made ({error.strerror})", expected="a folder to write to") from error
    try:
        yield scratch
        scratch.rename(out)
    except OSError as error:
        raise EdgeError(f"{out} cannot be written ({error.strerror or error})", remedy="free some space") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
