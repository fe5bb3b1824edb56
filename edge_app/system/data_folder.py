"""The user's data folder: where it lies, its settings, and what was measured on this machine.

Reading never makes a file or folder; the first write makes the folder, mode 0700, and every file in it has mode 0600.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from edge_app.core.documents import DocumentError, parse_json, typed
from edge_app.core.errors import EdgeError, UsageError
from edge_app.system.files import locked, readable_os_errors, write_json
from edge_app.system.settings import Settings

ENVIRONMENT: Final = "EDGE_APP_HOME"
_LIMIT_BYTES: Final = 1 << 20
"""A settings file has 300 bytes, one of measurements a few kilobytes."""


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
            path = Path(chosen).expanduser() if chosen else platform_folder()
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

        Raises EdgeError, naming the file and the field, when it is not a JSON object or holds a wrong value.
        """
        return self._typed(self._stored_settings())

    def change_settings(self, **changes: Any) -> Settings:
        """Write the fields named, and no other: what another process wrote meanwhile stays, and so do keys that this
        version does not know, for they may be a newer version's. Returns the settings as they now are.

        Raises UsageError for a wrong value, EdgeError rather than overwrite a settings file that cannot be read.
        """
        replace(Settings(), **changes)  # a wrong value is the caller's, not the file's
        with locked(self.path / ".settings.lock"):
            stored = self._stored_settings() | changes
            settings = self._typed(stored)
            write_json(self.settings_path, stored)
        return settings

    def unknown_settings(self) -> tuple[str, ...]:
        """Keys in the settings file that mean nothing to this version: a newer version's, or mistyped."""
        return tuple(sorted(self._stored_settings().keys() - _FIELD_NAMES))

    def recall(self, key: str) -> Mapping[str, Any] | None:
        """Return what `remember` kept under `key`, or None."""
        kept = self._measurements().get(key)
        return kept if isinstance(kept, dict) else None

    def remember(self, key: str, mapping: Mapping[str, Any]) -> None:
        """Keep a measurement, in place of an earlier one under the same key; `mapping` holds JSON values."""
        with locked(self.path / ".measurements.lock"):
            write_json(self.measurements_path, self._measurements() | {key: dict(mapping)})

    def exposed(self) -> tuple[Path, ...]:
        """The folder and the files in it that other users of the machine may open, sorted; empty when all is well."""
        if os.name != "posix" or not self.path.is_dir():
            return ()
        with readable_os_errors(self.path):
            held = (self.path, *sorted(self.path.rglob("*")))
            return tuple(path for path in held if not path.is_symlink() and path.stat().st_mode & 0o077)

    def _typed(self, stored: Mapping[str, Any]) -> Settings:
        try:
            return typed({name: value for name, value in stored.items() if name in _FIELD_NAMES}, Settings)
        except (DocumentError, UsageError) as error:
            raise self._broken(error) from error

    def _stored_settings(self) -> dict[str, Any]:
        try:
            return _read_object(self.settings_path)
        except DocumentError as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> EdgeError:
        return EdgeError(
            f"the settings file {self.settings_path} cannot be used: {error}",
            remedy="correct it, or delete it to get the defaults",
        )

    def _measurements(self) -> dict[str, Any]:
        try:
            return _read_object(self.measurements_path)
        except DocumentError:
            return {}  # measuring again costs a second and loses nothing, so a spoiled file counts as none


_FIELD_NAMES: Final = frozenset(field.name for field in fields(Settings))


def platform_folder() -> Path:
    """Where this platform keeps an application's data. Raises RuntimeError when no home folder is known."""
    import platformdirs  # 5 ms, and --home does without

    folder = platformdirs.user_data_path("edge-app", appauthor=False, roaming=True)
    if not folder.is_absolute():  # "~/.local/share": there was nothing to put in the tilde's place
        raise RuntimeError(f"{folder} leads nowhere")
    return folder


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one. Raises DocumentError for anything else, EdgeError when the
    file cannot be read.
    """
    with readable_os_errors(path.parent):
        try:
            with path.open("rb") as stream:
                content = stream.read(_LIMIT_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
    plain = parse_json(content, most_bytes=_LIMIT_BYTES, halves=True)
    if not isinstance(plain, dict):
        raise DocumentError(f"found {type(plain).__name__}, expected an object")
    return plain
