"""Where the user's things lie: the data folder, its settings, and what was measured on this machine.

Hides the platforms' conventions, file modes and atomic writing. Flows in: the --home option, the environment,
settings, measurements. Flows out: paths, `Settings`, mappings. Reading never makes a file or folder; the first write
makes the folder, mode 0700, and every file in it has mode 0600.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_type_hints

from edge_app.core.types import EdgeError, UsageError

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
ENVIRONMENT: Final = "EDGE_APP_HOME"
_ELSEWHERE: Final = f"or choose another folder with --home or {ENVIRONMENT}"
_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_NO_FOLDER: Final = {errno.ENOTDIR, errno.EEXIST}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose, validated at birth: a wrong kind or range raises UsageError."""

    fpir: float = 0.01
    """Share of strangers that may be called somebody, (0, 1)."""
    margin: float = 0.05
    """Least lead in similarity over the runner-up identity, [0, 1]."""
    precision: Literal["auto", "fp32", "int8", "fp16"] = "auto"
    """Build of the model: auto takes the one that was measured faster on this machine."""
    detector: str = "yunet"
    """Which network finds faces: yunet, mtcnn, or the id of an installed one."""
    embedder: str = "sface"
    """Id of the face embedder whose templates are matched."""
    model: str = "faces"
    """What recognize, watch and Live look for: "faces", or the id of a classifier or a general image embedder."""
    source: str | None = None
    """Camera number, file or address that live commands open; None: the first camera."""
    keep_pictures: bool = False
    """Whether enrollment keeps the face pictures beside the templates."""
    threads: int | None = None
    """Threads for each model, at least 1; None: chosen for this machine."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for name in (field.name for field in fields(self)):
            _check_kind(name, getattr(self, name), kinds[name])
        if not 0.0 < self.fpir < 1.0:
            raise UsageError(f"fpir is {self.fpir}", expected="a share between 0 and 1, such as 0.01")
        if not 0.0 <= self.margin <= 1.0:
            raise UsageError(f"margin is {self.margin}", expected="a difference of similarities in [0, 1]")
        for name in ("detector", "embedder", "model"):
            if not getattr(self, name).strip():
                raise UsageError(f"{name} is empty", expected="the id of a model; `edge-app models list` shows them")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}", expected="at least 1, or null for the app's choice")


def _check_kind(name: str, value: object, kind: Any) -> None:
    """Refuse a value that is not of its field's annotation; an int passes for a float, a bool never for a number."""
    allowed = get_args(kind) or (kind,)
    if any(isinstance(choice, str) for choice in allowed):
        fits, expected = value in allowed, "one of " + ", ".join(allowed)
    else:
        wanted = (*allowed, int) if float in allowed else allowed
        fits = type(value) in wanted
        expected = " or ".join("null" if one is type(None) else one.__name__ for one in allowed)
    if not fits:
        raise UsageError(f"{name} is {json.dumps(value, ensure_ascii=False, default=str)}", expected=expected)


@dataclass(frozen=True, slots=True)
class Home:
    """The user's data folder; it need not exist."""

    path: Path
    """The folder itself."""

    @classmethod
    def locate(cls, option: str | Path | None) -> Home:
        """Find the folder: the --home option, else EDGE_APP_HOME, else the platform's data folder.

        An empty option or variable counts as absent. Makes nothing. Raises EdgeError when no home folder is known.
        """
        chosen = str(option or "") or os.environ.get(ENVIRONMENT, "")
        try:
            path = Path(chosen).expanduser() if chosen else platform_folder(sys.platform, os.environ)
        except RuntimeError as error:
            raise EdgeError(
                f"no home folder is known: {error}", remedy=f"name one with --home or {ENVIRONMENT}"
            ) from error
        return cls(path.absolute())

    @property
    def gallery_path(self) -> Path:
        """The gallery's file; only `edge_app.gallery.storage` touches it."""
        return self.path / "gallery.db"

    @property
    def models_dir(self) -> Path:
        """Models that the user brought."""
        return self.path / "models"

    @property
    def log_path(self) -> Path:
        """What went wrong, for bug reports."""
        return self.path / "edge-app.log"

    @property
    def settings_path(self) -> Path:
        """The settings, a JSON object."""
        return self.path / "settings.json"

    @property
    def measurements_path(self) -> Path:
        """What was measured on this machine, a JSON object."""
        return self.path / "measurements.json"

    def settings(self) -> Settings:
        """Read the settings; fields the file leaves out, and a missing file, give the defaults.

        Raises EdgeError, naming the file, when it is not a JSON object or holds a wrong value.
        """
        stored = self._stored_settings()
        known = {name: value for name, value in stored.items() if name in _FIELD_NAMES}
        try:
            return Settings(**known)
        except UsageError as error:
            raise _broken(self.settings_path, str(error)) from error

    def save_settings(self, settings: Settings) -> None:
        """Write every field; keys that this version does not know are kept, they may be a newer version's.

        Raises EdgeError rather than overwrite a settings file that cannot be read.
        """
        self._write_json(self.settings_path, self._stored_settings() | asdict(settings))

    def unknown_settings(self) -> tuple[str, ...]:
        """Keys in the settings file that mean nothing to this version: a newer version's, or mistyped."""
        return tuple(sorted(self._stored_settings().keys() - _FIELD_NAMES))

    def recall(self, key: str) -> Mapping[str, Any] | None:
        """Return what `remember` kept under `key`, or None."""
        kept = self._measurements().get(key)
        return kept if isinstance(kept, dict) else None

    def remember(self, key: str, mapping: Mapping[str, Any]) -> None:
        """Keep a measurement, in place of an earlier one under the same key.

        `mapping` holds JSON values. Of two processes that write at once the later wins: the other measures again.
        """
        self._write_json(self.measurements_path, self._measurements() | {key: dict(mapping)})

    def write_private(self, path: Path, data: bytes) -> None:
        """Write a file of mode 0600 whole or not at all; missing folders are made with mode 0700.

        Raises EdgeError when the folder is read-only, full or not a folder; an earlier file then stays as it was.
        """
        with told_plainly(path.parent):
            make_private_folder(path.parent)
            descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as stream:  # mkstemp has given it mode 0600
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(scratch).replace(path)
            except BaseException:
                Path(scratch).unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)

    def exposed(self) -> tuple[Path, ...]:
        """The folder and the files in it that other users of the machine may open, sorted; empty when all is well."""
        if os.name != "posix" or not self.path.is_dir():
            return ()
        with told_plainly(self.path):
            held = (self.path, *sorted(self.path.rglob("*")))
            return tuple(path for path in held if not path.is_symlink() and path.stat().st_mode & 0o077)

    def _stored_settings(self) -> dict[str, Any]:
        try:
            return _read_object(self.settings_path)
        except ValueError as error:
            raise _broken(self.settings_path, str(error)) from error

    def _measurements(self) -> dict[str, Any]:
        try:
            return _read_object(self.measurements_path)
        except ValueError:
            return {}  # measuring again costs a second and loses nothing, so a spoiled file counts as none

    def _write_json(self, path: Path, plain: Mapping[str, Any]) -> None:
        self.write_private(path, (json.dumps(plain, ensure_ascii=False, indent=2) + "\n").encode())


_FIELD_NAMES: Final = frozenset(field.name for field in fields(Settings))


def platform_folder(platform: str, environment: Mapping[str, str]) -> Path:
    """Where `platform` (as in sys.platform) keeps an application's data; RuntimeError when no home folder is known."""
    if platform == "win32":
        roaming = environment.get("APPDATA", "")
        return (Path(roaming) if roaming else Path.home() / "AppData" / "Roaming") / "edge-app"
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edge-app"
    data = Path(environment.get("XDG_DATA_HOME", ""))
    # The XDG specification: a relative path here is invalid and to be ignored.
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "edge-app"


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
def told_plainly(folder: Path) -> Iterator[None]:
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


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one. Raises ValueError for anything else, EdgeError unreadable."""
    with told_plainly(path.parent):
        try:
            text = path.read_bytes().decode("utf-8-sig")  # Windows editors put a mark in front
        except (FileNotFoundError, NotADirectoryError):
            return {}
    plain = json.loads(text)
    if not isinstance(plain, dict):
        raise ValueError(f"found {type(plain).__name__}, expected an object")
    return plain


def _broken(path: Path, reason: str) -> EdgeError:
    return EdgeError(
        f"the settings file {path} cannot be used: {reason}", remedy="correct it, or delete it to get the defaults"
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows has no such call for folders and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
