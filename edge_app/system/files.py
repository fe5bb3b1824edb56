"""Private files and folders, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_ELSEWHERE: Final = "or choose another folder with --home or EDGE_APP_HOME"
_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_NO_FOLDER: Final = {errno.ENOTDIR, errno.EEXIST}


def size_words(size_bytes: int) -> str:
    """A file's size as people say it, of small ones in kB."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"


def make_private_folder(folder: Path) -> None:
    """Make `folder` and its missing parents with mode 0700; a folder that lay there empty is closed to others too.

    A folder that holds something keeps its mode: it may be one that others need (`Home.exposed` reports it).
    Raises OSError.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was first
            path.mkdir(mode=FOLDER_MODE)
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    shared = status.st_mode & (stat.S_ISVTX | stat.S_ISGID)  # /tmp and group folders stay open
    if os.name == "posix" and status.st_mode & 0o077 and not shared and status.st_uid == os.getuid():
        with os.scandir(folder) as entries:
            empty = next(entries, None) is None
        if empty:
            folder.chmod(FOLDER_MODE)


@contextlib.contextmanager
def readable_os_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into one line that names the folder and says what to do."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in _FULL:
            raise EdgeError(f"cannot write in {folder}: {reason}", remedy=f"free some space, {_ELSEWHERE}") from error
        if error.errno in _NO_FOLDER:
            raise EdgeError(
                f"cannot write in {folder}: a file stands where a folder should be",
                remedy=f"move that file away, {_ELSEWHERE}",
            ) from error
        raise EdgeError(f"cannot use {folder}: {reason}", remedy=f"make it writable, {_ELSEWHERE}") from error


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows has no such call for folders and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
