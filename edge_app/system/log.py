"""The log: which commands ran, how they ended, and where in the code something failed.

One private file that rotates. An entry holds kinds of errors and places in the code, never a message, a name, a path
or any other value: those may be of people.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import stat
import sys
import time
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError
from edge_app.system.files import FILE_MODE, make_private_folder

_LOG_AGAIN_S: Final = 60.0
_LIMIT_BYTES: Final = 512 << 10
_FORMAT: Final = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
_FORMAT.converter = time.gmtime


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A file of mode 0600, and an older one beside it; a link in its place is not followed."""

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self.baseFilename, flags, FILE_MODE)
        if os.name == "posix" and stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            os.fchmod(descriptor, FILE_MODE)
        return TextIOWrapper(os.fdopen(descriptor, "ab"), encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        """The caller decides what a full disk means; logging would print a traceback."""
        error = sys.exc_info()[1]
        if error is not None:
            raise error


def write_log(path: Path, message: str, level: int = logging.INFO) -> None:
    """Append one line with the time in UTC. Raises OSError.

    The file is opened for this line alone: entries are rare, and another process may have rotated it meanwhile.
    """
    make_private_folder(path.parent)
    handler = _PrivateFile(path, maxBytes=_LIMIT_BYTES, backupCount=1, encoding="utf-8")
    try:
        handler.setFormatter(_FORMAT)
        handler.emit(logging.LogRecord("edge_app", level, "", 0, message, None, None))
    finally:
        handler.close()


def places(error: BaseException) -> str:
    """The kind of an error and where it was raised, innermost first: file, line and function."""
    frames = [f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__} at {' < '.join(reversed(frames)) or 'unknown'}"


def log_command(path: Path, command: str, seconds: float, outcome: int | BaseException) -> None:
    """Note how a command ended: its exit code, or what was raised. A data folder that is not there is not made for it.

    A full disk or a read-only folder stops no command.
    """
    if not path.parent.is_dir():
        return
    told, level = f"ended with {outcome}", logging.INFO
    if isinstance(outcome, BaseException):
        expected = isinstance(outcome, EdgeError | KeyboardInterrupt)
        told, level = f"failed: {places(outcome)}", logging.WARNING if expected else logging.ERROR
    with contextlib.suppress(OSError):
        write_log(path, f"{command}, {seconds:.2f} s, {told}", level)


class Faults:
    """Turns what goes wrong in a long run into lines for people, and logs the same fault once a minute at most."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._logged = ("", 0.0)

    def report(self, error: Exception) -> str:
        """Log a fault and return one line for people."""
        known = isinstance(error, EdgeError)
        line = str(error) if known else f"internal fault ({type(error).__name__}); see {self._path}"
        kind, now_s = f"{type(error).__name__} {error}", self._clock()
        if kind == self._logged[0] and now_s - self._logged[1] < _LOG_AGAIN_S:
            return line
        self._logged = kind, now_s
        try:
            write_log(self._path, places(error), logging.WARNING if known else logging.ERROR)
        except OSError as second:
            return f"{line} (which cannot be written: {second.strerror})"
        return line
