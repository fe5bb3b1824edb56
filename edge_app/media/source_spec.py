"""What the text means that a user types as a source: a camera, an address, a path, or the sample clip."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from edge_app.core.errors import MediaError
from edge_app.media.kinds import Kind, kind_of

SourceKind = Literal["webcam", "stream", "snapshot", "video", "folder", "picture", "sample"]
"""snapshot: an address that gives one picture a request; told from a stream when it is opened."""

_SCHEMES: Final = ("http", "https", "rtsp", "rtsps", "rtmp", "tcp", "udp")
_EXPECTED: Final = "a camera number, a device, a video, picture or folder, an http or rtsp address, or 'sample'"

_SECRET_WORDS: Final = re.compile(r"pass|pwd|token|secret|auth|key|sig|session|credential", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What a source's text means."""

    kind: SourceKind
    target: str = field(repr=False)
    """Number, path or address, as it is opened; may hold a password, so it is kept out of logs."""
    name: str
    """How it is called in messages; without passwords."""

    @property
    def is_live(self) -> bool:
        """Whether it has no end of its own: frames are lost when they are not taken."""
        return self.kind in ("webcam", "stream", "snapshot")


def parse_source(spec: str) -> SourceSpec:
    """Tell what kind of source a text names: a path that exists is that path, whatever else it could mean.

    "camera:0" and "sample:" mean camera 0 and the sample clip where a file or folder of the short name is about.
    Raises MediaError for a path that does not exist or holds neither picture nor video, and for an address of an
    unknown scheme. Cameras and streams are not touched here, they may come later.
    """
    text = spec if _is_there(spec) else spec.strip()
    path = Path(text)
    if not _is_there(text):
        if text in ("sample", "sample:"):
            return SourceSpec("sample", "sample", "sample clip")
        if number := re.fullmatch(r"(?:camera:)?(\d{1,3})", text):
            return SourceSpec("webcam", number[1], f"camera {int(number[1])}")
        if "://" in text:
            scheme = text.partition("://")[0].lower()
            name = without_secrets(text)
            if scheme not in _SCHEMES:
                raise MediaError(f"{name} is no address of a camera", expected=f"one of {', '.join(_SCHEMES)}")
            return SourceSpec("stream", text, name)
        path = typed_path(text)
        if path.as_posix().startswith("/dev/") and not _is_there(path):
            return SourceSpec("webcam", str(path), f"camera {path}")
        if not text or not _is_there(path):
            raise MediaError(f"{text!r} does not exist", expected=_EXPECTED, remedy="check the path")
    if path.is_char_device():
        return SourceSpec("webcam", str(path), f"camera {path}")
    kind = kind_of(path)
    if kind in ("other", "special"):
        found = "neither a picture nor a video" if kind == "other" else "a pipe or a device"
        raise MediaError(f"{path} is {found}", expected=_EXPECTED, remedy="check the file")
    return SourceSpec(_SOURCE_OF.get(kind, "picture"), str(path), str(path))


def _is_there(path: str | Path) -> bool:
    with suppress(OSError, ValueError):  # too long, or with a zero byte
        return bool(str(path)) and Path(path).exists()
    return False


_SOURCE_OF: Final[dict[Kind, SourceKind]] = {"folder": "folder", "video": "video"}
"""All others are opened as a picture, which says what is wrong with them."""


def typed_path(text: str) -> Path:
    """The path that somebody typed: as it is where it exists, else with "~" for the home folder."""
    path = Path(text)
    if not _is_there(text) and text.startswith("~"):
        with suppress(RuntimeError):  # nobody of that name
            return path.expanduser()
    return path


def without_secrets(address: str) -> str:
    """The address with its password and everything in its query that looks like one replaced by ***."""
    scheme, _, rest = address.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = ""
    # A password typed without escapes may hold / ? # and @, so it ends at the last @ there is.
    if "@" in rest and ("@" in authority or re.search(r":(?!\d*$)", authority)):
        secret, _, rest = rest.rpartition("@")
        name, colon, _ = secret.partition(":")
        user = f"{name}:***@" if colon else "***@"
    place, question, query = rest.partition("#")[0].partition("?")
    return f"{scheme.lower()}://{user}{place}{question}{'&'.join(_field(field) for field in query.split('&'))}"


def _field(field: str) -> str:
    key, equals, _ = field.partition("=")
    return f"{key}=***" if equals and _SECRET_WORDS.search(key) else field
