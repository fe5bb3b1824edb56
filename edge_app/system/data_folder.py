"""Where the user's things lie: the data folder, its settings, and what was measured on this machine.

Hides the platforms' conventions, file modes and atomic writing. Flows in: the --home option, the environment,
settings, measurements. Flows out: paths, `Settings`, mappings. Reading never makes a file or folder; the first write
makes the folder, mode 0700, and every file in it has mode 0600.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from edge_app.core.errors import EdgeError, UsageError
from edge_app.system.files import make_private_folder, readable_os_errors, sync_folder
from edge_app.system.settings import Settings

ENVIRONMENT: Final = "EDGE_APP_HOME"


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
        with readable_os_errors(path.parent):
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
            sync_folder(path.parent)

    def exposed(self) -> tuple[Path, ...]:
        """The folder and the files in it that other users of the machine may open, sorted; empty when all is well."""
        if os.name != "posix" or not self.path.is_dir():
            return ()
        with readable_os_errors(self.path):
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


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one. Raises ValueError for anything else, EdgeError unreadable."""
    with readable_os_errors(path.parent):
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
