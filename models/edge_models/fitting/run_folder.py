"""The folder of a run: begun empty, held by one process, gone on with by the same command only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from edge_app.core.errors import UsageError
from edge_app.system.files import is_half_written, json_bytes, sweep
from edge_models.fitting.checkpoint import make_folder, write_atomic

STATE_FOLDER: Final = "state"
"""Where a run keeps what it needs to be gone on with."""
_RUN_FILE: Final = "run.json"
_WORDS: Final = {
    "data_sha256": "pictures",
    "base_sha256": "weights of the base",
    "families_sha256": "families",
    "attributes_sha256": "attributes",
}
"""What a difference between two runs is called, where its name says little."""


class Hold(contextlib.AbstractContextManager["Hold"]):
    """A run's folder, held by this process alone; the system lets go of it however the process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, -1

    def take(self) -> None:
        """Hold the folder if it is there. Raises UsageError when another process does."""
        if self._lock >= 0 or not self._folder.is_dir():
            return
        # The folder itself is locked: no file to be left behind, none to be put in its place.
        lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise UsageError(
                f"another process is training in {self._folder}",
                expected="one process to a run",
                remedy="wait for it, or train into another folder",
            ) from error
        except OSError:
            pass  # a file system that knows no locks, some network shares: as before there were any
        self._lock = lock

    def __enter__(self) -> Hold:
        self.take()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def finish_run(folder: Path, cache: Path | None = None) -> None:
    """Remove what only an unfinished run needs: the stages' states, and the run's own cache of features."""
    for needless in (folder / STATE_FOLDER, cache):
        if needless is not None and needless.is_dir():
            shutil.rmtree(needless)


def open_run(
    folder: Path, configuration: Mapping[str, Any], *, resume: bool, unsaid: Mapping[str, Any] | None = None
) -> None:
    """Begin a run in an empty folder, or go on with one whose configuration is the same.

    Raises UsageError when the folder holds a run and `resume` is not set, holds none and it is, or was begun
    otherwise; the options that differ are named. `unsaid` holds what a run of an older version leaves out.
    """
    refuse_folder(folder, resume=resume)
    path = folder / _RUN_FILE
    wanted = json.loads(json.dumps(configuration))
    if not resume:
        make_folder(folder)
        write_atomic(path, json_bytes(wanted))
        return
    begun = {**(unsaid or {}), **begun_with(folder)}
    differing = sorted(_WORDS.get(key, key) for key in {*begun, *wanted} if begun.get(key) != wanted.get(key))
    if differing:
        raise UsageError(
            f"the run in {folder} was begun with other {', '.join(differing)}",
            expected="the same command",
            remedy="train into another folder",
        )


def refuse_folder(folder: Path, *, resume: bool) -> None:
    """Raise what `open_run` would raise without knowing the options: before pictures are read, and nothing is made.

    What a kill left half-written in a run is removed: it is no reason to refuse. In any other folder nothing is.
    """
    if os.path.isfile(folder):  # noqa: PTH113 (a folder above that may not be entered is told when it is made)
        raise UsageError(f"{folder} is a file", expected="a folder to write to", remedy="name another")
    if resume:
        begun_with(folder)
        sweep(folder)
        left = list(folder.rglob(".lr_find_*.ckpt"))  # the range test's own copy
    elif folder.is_dir():
        left = list(folder.iterdir())
        # Until run.json is there nothing else is written.
        if not all(is_half_written(path) and path.name.startswith(f".{_RUN_FILE}.") for path in left):
            raise UsageError(
                f"{folder} is not empty", expected="a new folder", remedy="name another, or go on with --resume"
            )
    else:
        return
    for path in left:
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def begun_with(folder: Path) -> dict[str, Any]:
    """The options of the run that was begun in a folder."""
    path = folder / _RUN_FILE
    try:
        begun = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder} holds no run to go on with", remedy="leave --resume out") from error
    if not isinstance(begun, dict):
        raise UsageError(f"{path} holds no run's options", remedy="train into another folder")
    return begun


@contextlib.contextmanager
def make_scratch() -> Iterator[Path]:
    """A private folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edge-app-") as folder:
        yield Path(folder)
