"""Faults of the live loop: hides the private log, its size, and how often one fault is written.

Flows in: exceptions. Flows out: one readable line each, and entries without messages, names or values in the log.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError
from edge_app.system.files import FILE_MODE, make_private_folder

_LOG_AGAIN_S: Final = 60.0
_LOG_LIMIT_BYTES: Final = 1 << 20


class Faults:
    """Writes faults to a log, the same one once a minute at most."""

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
            log_fault(self._path, error)
        except OSError as second:
            return f"{line} (which cannot be written: {second.strerror})"
        return line


def log_fault(path: Path, error: BaseException) -> None:
    """Append one line on a fault to a private log: when, what kind, and where in the code.

    Never the message nor any value: these may hold names, paths or templates. Raises OSError.
    """
    places = [f"{Path(f.filename).name}:{f.lineno}:{f.name}" for f in traceback.extract_tb(error.__traceback__)]
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    make_private_folder(path.parent)
    # A log that grows for ever fills a disk: the older half goes.
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.write_bytes(path.read_bytes()[-_LOG_LIMIT_BYTES // 2 :])
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
    with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
        stream.write(f"{stamp} {type(error).__name__} at {' < '.join(reversed(places)) or 'unknown'}\n")
