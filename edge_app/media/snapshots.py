"""Addresses that give one picture for each request, as many network cameras do beside their stream."""

from __future__ import annotations

import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPException
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from edge_app.core.errors import CameraError, MediaError
from edge_app.core.types import Frame
from edge_app.media.kinds import kind_of_bytes
from edge_app.media.pictures import picture_of_bytes
from edge_app.system.closing import Closing
from edge_app.system.http import answer_of
from edge_app.system.timing import back_off_s

if TYPE_CHECKING:
    from edge_app.media.source_spec import SourceSpec

FPS: Final = 5.0
"""Requests a second where the address does not say otherwise; fewer when the camera takes longer to answer."""

REQUEST_S: Final = 4.0
"""Longest wait for a whole picture."""

PATIENCE_S: Final = 3.0
"""Pictures that fail in a row for this long mean that the camera is lost."""

_RETRY_S: Final = 0.25
_MOST_BYTES: Final = 32 << 20
_FPS_RANGE: Final = (0.01, 30.0)


def open_snapshots(spec: SourceSpec, clock: Callable[[], float]) -> SnapshotSource | None:
    """A source of the pictures at an http or https address; None when it gives no picture, but perhaps a stream.

    "#fps=0.5" at the end of the address sets how often it is asked. Raises CameraError when nothing answers.
    """
    source = SnapshotSource(replace(spec, kind="snapshot"), clock)
    try:
        return source if source.is_picture() else None
    except _Failed as failed:
        raise CameraError(
            f"{spec.name} does not answer with a video ({failed})",
            expected="an MJPEG stream, or a JPEG for each request",
            remedy="check the address, the password and the network",
        ) from None


class _Failed(Exception):
    """One request gave no picture; its text holds nothing of the address."""


class SnapshotSource(Closing):
    """A camera that is asked for every picture."""

    def __init__(self, spec: SourceSpec, clock: Callable[[], float]) -> None:
        """Nothing is asked yet. Raises MediaError when the address sets a rate that makes no sense."""
        self.spec = spec
        self.frame_count: int | None = None
        parts = urlsplit(spec.target)
        asked = re.fullmatch(r"fps=([0-9.]+)", parts.fragment)
        try:
            self.fps: float | None = float(asked[1]) if asked else FPS
            host, port = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError as error:
            raise MediaError(f"{spec.name} cannot be read as an address", remedy="check it") from error
        if not _FPS_RANGE[0] <= (self.fps or 0) <= _FPS_RANGE[1]:
            raise MediaError(f"{spec.name} asks for {self.fps} pictures a second", expected="#fps=0.01 to #fps=30")
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
        self._url = urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))
        self._login = (unquote(parts.username), unquote(parts.password or "")) if parts.username is not None else None
        self._clock = clock
        self._next = 0
        self._due_s = 0.0
        self._open = True

    def is_picture(self) -> bool:
        """Ask once, and see whether a picture comes. Raises _Failed when no answer does."""
        return kind_of_bytes(self._ask(1024)) == "picture"

    def read(self) -> Frame | None:
        trouble_s = time.monotonic() + PATIENCE_S
        failures = 0
        while self._open:
            self._wait(self._due_s - time.monotonic())
            self._due_s = time.monotonic() + 1 / (self.fps or FPS)
            try:
                pixels = picture_of_bytes(self._ask(_MOST_BYTES), self.spec.name).pixels
            except (_Failed, MediaError) as error:
                failures += 1
                wait_s = back_off_s(failures, _RETRY_S, PATIENCE_S)
                if time.monotonic() + wait_s > trouble_s:
                    reason = str(error) if isinstance(error, _Failed) else "it sends no whole picture"
                    raise CameraError(
                        f"{self.spec.name} stopped sending pictures ({reason})",
                        remedy="check the camera, the password and the network",
                    ) from error
                self._due_s = time.monotonic() + wait_s
                continue
            self._next += 1
            return Frame(pixels, self._next - 1, self._clock())
        return None

    def close(self) -> None:
        """Ask no more."""
        self._open = False

    def _wait(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while self._open and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.1))

    def _ask(self, most_bytes: int) -> bytes:
        """The first bytes of an answer. Raises _Failed."""
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPRedirectHandler()]
        if self._login is not None:
            passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, self._url, *self._login)
            handlers += [
                urllib.request.HTTPBasicAuthHandler(passwords),
                urllib.request.HTTPDigestAuthHandler(passwords),
            ]
        # Cameras sign their certificates themselves, and FFmpeg, which opens their streams, checks none either.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        problem, data = "", b""
        try:
            with answer_of(urllib.request.Request(self._url), REQUEST_S, context=context, handlers=handlers) as answer:
                data = answer.read(most_bytes)
                if most_bytes == _MOST_BYTES and answer.length:
                    problem = "its picture was cut short"
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"it answered {error.code}"
        except (OSError, HTTPException, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            problem = reason or ("it takes too long" if isinstance(error, TimeoutError) else "it speaks no HTTP")
        if problem:  # raised out here: the error above holds on to its connection
            raise _Failed(problem)
        return data
