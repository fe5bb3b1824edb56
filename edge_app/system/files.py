"""Private files and folders: written whole or not at all, hashed, locked; and what the disk refuses, in words."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edge_app.core.errors import EdgeError

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_ELSEWHERE: Final = "or choose another folder with --home or EDGE_APP_HOME where it is edge-app's own"
_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_HALF: Final = re.compile(r"\..+\.[A-Za-z0-9]+\.[a-z0-9_]{8}\.part")
"""A name with a suffix, and a random one: `.film.download.part` is somebody else's."""
_NO_FOLDER: Final = {errno.ENOTDIR, errno.EEXIST}


def size_words(size_bytes: int) -> str:
    """A file's size as people say it, of small ones in kB."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"


def sha256_of(content: bytes | memoryview | str) -> str:
    """Hex SHA-256 of bytes, or of a text's UTF-8."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def replacing(path: Path, mode: int = FILE_MODE, replace: bool = True) -> Iterator[Path]:
    """Give a hidden file beside `path` to be filled; when the block ends well it stands whole under its final name.

    When the block raises, the hidden file is gone and what stood under `path` is as it was. `mode` and `replace` are
    as in `settle`. Raises OSError; the folder must exist.
    """
    scratch = hidden_beside(path)
    try:
        yield scratch
        settle(scratch, path, mode, replace)
    finally:
        scratch.unlink(missing_ok=True)


def hidden_beside(path: Path, suffix: str = ".part") -> Path:
    """Make an empty hidden file of mode 0600 in the folder of `path`, to be filled and then given to `settle`.

    `suffix` ends its name, for writers that choose a format by it; the rest is ASCII, for writers that crash on names
    which are not UTF-8. Raises OSError.
    """
    plain = re.sub(r"[^A-Za-z0-9.-]", "_", path.name[:40])
    descriptor, name = tempfile.mkstemp(prefix=f".{plain}.", suffix=suffix, dir=path.parent)
    os.close(descriptor)
    return Path(name)


def is_half_written(path: Path) -> bool:
    """Whether a file is what a kill left of `hidden_beside` with its own suffix; nothing is said of who made it."""
    return _HALF.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def sweep(folder: Path) -> None:
    """Delete what a kill left half-written below a folder of ours, which the caller alone writes into."""
    for path in list(folder.rglob(".*.part")):
        if is_half_written(path):
            path.unlink(missing_ok=True)


def settle(scratch: Path, path: Path, mode: int = FILE_MODE, replace: bool = True) -> None:
    """Give a hidden file its final name; its bytes and the name have then reached the disk.

    With `replace=False` a file that stands under `path` is never touched: FileExistsError. Raises OSError.
    """
    with scratch.open("rb+") as stream:
        os.fsync(stream.fileno())
    scratch.chmod(mode)
    if replace:
        scratch.replace(path)
    else:
        # Rename, but fail with FileExistsError where the name is taken, by a link that leads nowhere too.
        try:
            os.link(scratch, path)
        except FileExistsError:
            raise
        except OSError:  # FAT and some network folders have no hard links: claim the name, then replace what claims it
            path.open("xb").close()
            scratch.replace(path)
    sync_folder(path.parent)


def write_private(path: Path, data: bytes | str) -> None:
    """Write a file of mode 0600 whole or not at all; missing folders are made with mode 0700.

    Raises EdgeError when the folder is read-only, full or not a folder; an earlier file then stays as it was.
    """
    with readable_os_errors(path.parent):
        make_private_folder(path.parent)
        with replacing(path) as scratch:
            scratch.write_bytes(data.encode() if isinstance(data, str) else data)


def csv_row(cells: Iterable[str]) -> str:
    """A line of CSV, with its line break."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def csv_cells(line: str) -> list[str]:
    """The cells of one line of CSV, of which a row has no more; none where it is none, for people edit such files."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a carriage return in the middle, a cell of more than 128 KiB
        return []


def append_row(path: Path, row: bytes, header: bytes = b"", sync: bool = True) -> None:
    """Append a line, which ends with a line break, to a file of mode 0600; with `sync` it has then reached the disk.

    A new or empty file begins with `header`. After a line that a kill cut off a new one is begun; where the disk
    refuses a part of this one, none of it stays. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            row = header + row
        elif os.pread(descriptor, 1, size - 1) != b"\n":
            row = b"\n" + row
        try:
            while row:
                row = row[os.write(descriptor, row) :]
            if sync:
                os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    """Write `value`, as `json_ready` makes it, with `write_private`."""
    write_private(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """`json_ready(value)` as a text file of indented lines."""
    text = json.dumps(json_ready(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Half a character stands for a byte of a file name that is not UTF-8; escaped, it is JSON.
    return (text + "\n").encode("utf-8", "backslashreplace")


def json_ready(value: object) -> Any:
    """`value` in JSON's own kinds: numpy's numbers as plain ones, paths as text, null where a number is not finite."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return json_ready(value.tolist())
    return value


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Let one process at a time into the block: an advisory lock on the file `path`, which stays, empty.

    Gives True; with `wait=False`, False at once where another holds it. A link in its place is never followed, let
    alone emptied. Raises EdgeError where the lock cannot be had.
    """
    import filelock  # 12 ms, and only what writes needs it

    with readable_os_errors(path.parent):
        make_private_folder(path.parent)
        if path.is_symlink():
            raise EdgeError(f"{path} is a link", expected="a plain file for the lock", remedy="delete that link")
        lock = filelock.FileLock(path, mode=FILE_MODE)
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(blocking=wait)
    try:
        yield lock.is_locked
    finally:
        lock.release()


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
