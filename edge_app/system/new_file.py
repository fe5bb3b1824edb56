"""New files in folders of the user's: a file that this run did not write is never replaced.

A result gets the name that was asked for, or that name with a number where something has it already.
"""

from __future__ import annotations

import itertools
import os
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path

from edge_app.system.files import hidden_beside, settle


class NewFiles:
    """The names that one run gives to its files; several threads may ask."""

    def __init__(self) -> None:
        self._given: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def free(self, *wanted: Path) -> tuple[Path, ...]:
        """The paths as wanted where nothing has any of these names, else all with the same number: x.jpg, x-2.jpg.

        What has a name may be a file, a folder, a link that leads nowhere, or a file of this run that is not written
        yet; names that differ by case or accents' spelling alone are one, as some disks see it.
        """
        with self._lock:
            for number in itertools.count(1):
                paths = tuple(_numbered(path, number) for path in wanted)
                if not any(os.path.lexists(path) or _key(path) in self._given for path in paths):
                    self._given.update(_key(path) for path in paths)
                    return paths
        raise AssertionError("a number is always free")


def write_new(path: Path, write: Callable[[Path], object], mode: int = 0o600, suffix: str | None = None) -> Path:
    """Fill a new file under `path`, or under its first free number, and return the path it got.

    `write` gets a hidden file of the same suffix, or of `suffix`, to fill; whole or not at all, the file appears under
    its name. The folder must exist. Raises OSError, and what `write` raises.
    """
    scratch = hidden_beside(path, path.suffix if suffix is None else suffix)
    try:
        write(scratch)
        for number in itertools.count(1):
            try:
                settle(scratch, _numbered(path, number), mode, replace=False)
            except FileExistsError:
                continue
            return _numbered(path, number)
        raise AssertionError("a number is always free")
    finally:
        scratch.unlink(missing_ok=True)


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _key(path: Path) -> tuple[str, str]:
    """What makes two paths one: the folder itself, whatever links lead to it, and the name as loose disks see it."""
    return os.path.realpath(path.parent), unicodedata.normalize("NFC", path.name).casefold()
