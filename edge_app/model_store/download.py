"""Fetches files from the addresses that the app knows, resumes what was cut off, and checks the pinned hash.

A file gets its final name once it is whole; until then it is a `.part` file, from which the next call goes on. Proxies
come from the environment (HTTPS_PROXY, NO_PROXY), as urllib reads them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from edge_app import __version__
from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_app.model_store.describe import Description, preset
from edge_app.system.data_folder import Home
from edge_app.system.files import FILE_MODE, make_private_folder, readable_os_errors, sha256_of_file
from edge_app.system.timing import back_off_s

_CHUNK_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 30.0
_TRIES: Final = 3
"""Connections that may break in one call before it gives up; each goes on where the last one stopped."""
_PAUSE_S: Final = 1.0
"""Before a server that was too busy is asked again; doubled each time."""
_LONGEST_PAUSE_S: Final = 8.0
_LIMIT_BYTES: Final = 1 << 30

_FACENET: Final = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
_OPENCV: Final = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/"
_MINIFASNET: Final = (
    "https://github.com/QingHeYang/Silent-Face-Anti-Spoofing-onnx/raw/584d4421d7ac42c59e640796f46e886b0095367a/onnx/"
)

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes expected, None when the server did not say."""


@dataclass(frozen=True, slots=True)
class Known:
    """One file of the registry."""

    name: str
    url: str
    sha256: str | None
    """None: it could not be verified when this release was made, so whoever pulls it has to say it."""
    licence: str
    commercial_use: bool
    kind: Literal["model", "weights"]
    description: Description | None = None
    """How `edge_app.model_store.install.add` is to describe a model; None for weights."""
    next_step: str = ""
    """What to do with the file, as a command; `{path}` is its place."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


def _facenet(name: str, file: str, sha256: str | None) -> Known:
    return Known(
        f"facenet-{name}",
        _FACENET + file,
        sha256,
        "MIT code; weights trained on research-only pictures",
        False,
        "weights",
        next_step=f"edge-app export facenet --weights {name.split('-')[0]}",
    )


def _minifasnet(scale: str, file: str, sha256: str) -> Known:
    return Known(
        f"minifasnet-{scale}",
        _MINIFASNET + file,
        sha256,
        "Apache-2.0",
        True,
        "model",
        replace(
            preset(f"minifasnet-{scale}"), id=f"minifasnet-{scale}", origin="minivision-ai, Silent-Face-Anti-Spoofing"
        ),
    )


REGISTRY: Mapping[str, Known] = {
    known.name: known
    for known in (
        # The hashes are those of the zoo's LFS pointers, and of the files that the shipped models were made from.
        Known(
            "sface-2021dec",
            _OPENCV + "face_recognition_sface/face_recognition_sface_2021dec.onnx",
            "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
            "Apache-2.0",
            True,
            "model",
            replace(
                preset("arcface"),
                mean=(0.0,),
                std=(1.0,),
                id="sface-2021dec",
                origin="OpenCV Zoo, SFace",
                licence="Apache-2.0",
                commercial_use=True,
            ),
        ),
        Known(
            "yunet-2023mar",
            _OPENCV + "face_detection_yunet/face_detection_yunet_2023mar.onnx",
            "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            "MIT",
            True,
            "weights",
            next_step="edge-app export zoo makes the shipped YuNet of it: {path}",
        ),
        # Hashes as seven public projects pin them for the files of that commit; never fetched here.
        _minifasnet(
            "2.7",
            "2.7_80x80_MiniFASNetV2.onnx",
            "0cbe5caec95c31de9d2ef845cb85407d76aecd1b6a2c0e343f7d35306bfbccb8",
        ),
        _minifasnet(
            "4.0",
            "4_0_0_80x80_MiniFASNetV1SE.onnx",
            "a25886a85cdcfa2c4ea23edb71de35f250c17827b4cadd253a972b28c80fdf1e",
        ),
        # The release states no hash. This is the one (111,898,327 bytes) that independent public projects check the
        # release's file against before they use it; for the other file none was found, so its user has to say it.
        _facenet(
            "vggface2",
            "20180402-114759-vggface2.pt",
            "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        ),
        _facenet("casia-webface", "20180408-102900-casia-webface.pt", None),
    )
}
"""What `models pull` knows, by name."""


def known(name: str) -> tuple[Known, ...]:
    """The entry of that name, or all models of a family, such as "minifasnet". Raises UsageError for another name."""
    family = tuple(one for key, one in REGISTRY.items() if key.startswith(f"{name}-") and one.kind == "model")
    found = (REGISTRY[name],) if name in REGISTRY else family
    if not found:
        raise UsageError(f"there is no known address for {name!r}", expected=f"one of {', '.join(REGISTRY)}")
    return found


def pull(home: Home, wanted: Known, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch a file and check it; one that is there already, with the right hash, is not fetched again.

    `sha256` stands in where none is pinned; it never overrides one that is. Returns the file's place. Raises
    UsageError without any hash, EdgeError or ModelError when the file cannot be had or is another one.
    """
    pinned = wanted.sha256 or (sha256 or "").lower()
    place = place_of(home, wanted)
    if not re.fullmatch("[0-9a-f]{64}", pinned):
        raise UsageError(
            f"no hash of {wanted.name} could be verified when this edge-app was made",
            expected="--sha256 with 64 hex digits from a source that you trust",
            remedy=f"or fetch {wanted.url} yourself and put it at {place}",
        )
    if sha256 and wanted.sha256 and sha256.lower() != wanted.sha256:
        raise UsageError(f"--sha256 is not the hash pinned for {wanted.name}", expected=wanted.sha256)
    if place.is_file() and sha256_of_file(place) == pinned:
        return place
    fetch(wanted.url, place, pinned, progress or (lambda have, total: None))
    return place


def place_of(home: Home, wanted: Known) -> Path:
    """Where a pulled file lies: torch weights of facenet-pytorch where that package keeps them, others in `home`."""
    if not wanted.name.startswith("facenet-"):
        return home.path / "pulled" / wanted.file
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(os.environ.get("TORCH_HOME") or Path(cache) / "torch").expanduser() / "checkpoints" / wanted.file


def fetch(url: str, target: Path, sha256: str, progress: Progress, limit_bytes: int = _LIMIT_BYTES) -> None:
    """Fetch `url` to `target`, which appears whole and with that hash or not at all.

    Raises EdgeError when the address does not answer or the network breaks, then `target` with `.part` appended holds
    what came and the next call goes on there; ModelError when another file came, then nothing is kept.
    """
    if not url.startswith(("https://", "http://")):
        raise UsageError(f"the address is {url}", expected="https:// or http://")
    part = target.with_name(target.name + ".part")
    with readable_os_errors(target.parent):
        make_private_folder(target.parent)
        for attempt in range(_TRIES):
            try:
                _transfer(url, part, limit_bytes, progress)
                break
            except (http.client.HTTPException, ConnectionError, TimeoutError, urllib.error.URLError) as error:
                if attempt + 1 == _TRIES or not _worth_another_try(error):
                    raise _no_transfer(url, part, error) from error
                if isinstance(error, urllib.error.HTTPError):
                    time.sleep(back_off_s(attempt + 1, _PAUSE_S, _LONGEST_PAUSE_S))
        _finish(part, target, sha256)


def _transfer(url: str, part: Path, limit_bytes: int, progress: Progress) -> None:
    """One connection: goes on where the part ends, when the server still has the same file."""
    have, tag = _kept(part)
    request = urllib.request.Request(url, headers={"User-Agent": f"edge-app/{__version__}"})
    if have and tag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag)
    try:
        # An opener of its own: urllib's shared one keeps the proxies that it first saw.
        answer: Any = urllib.request.build_opener().open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        _forget(part)  # the part reaches past the file's end: it is of another one
        raise http.client.HTTPException("the file has changed meanwhile") from error
    with answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status == 206 and not resumed:
            _forget(part)
            raise http.client.HTTPException("another range came than was asked for")
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        _check_size(url, total or 0, limit_bytes)
        if not resumed:
            _remember_tag(part, answer.headers.get("ETag") or answer.headers.get("Last-Modified"))
        _append(answer, part, start, total, url, limit_bytes, progress)


def _append(
    answer: Any, part: Path, start: int, total: int | None, url: str, limit_bytes: int, progress: Progress
) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT, FILE_MODE)
    with os.fdopen(descriptor, "r+b") as stream:
        stream.truncate(start)
        stream.seek(start)
        have = start
        while chunk := answer.read(_CHUNK_BYTES):
            have += len(chunk)
            _check_size(url, have, limit_bytes)
            stream.write(chunk)
            progress(have, total)
        stream.flush()
        os.fsync(stream.fileno())
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def _check_size(url: str, have: int, limit_bytes: int) -> None:
    if have > limit_bytes:
        raise ModelError(f"{url} sends {have} bytes or more", expected=f"at most {limit_bytes}")


def _kept(part: Path) -> tuple[int, str]:
    """Bytes of an earlier transfer, and the server's tag of the file they belong to."""
    try:
        return part.stat().st_size, _tag_file(part).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return 0, ""


def _remember_tag(part: Path, tag: str | None) -> None:
    # A weak tag promises no equal bytes: without a strong one the next call starts anew.
    strong = tag if tag and not tag.startswith("W/") and "\n" not in tag else ""
    descriptor = os.open(_tag_file(part), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(strong)


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _forget(part: Path) -> None:
    for path in (part, _tag_file(part)):
        path.unlink(missing_ok=True)


def _finish(part: Path, target: Path, sha256: str) -> None:
    found = sha256_of_file(part)
    if found != sha256:
        _forget(part)
        raise ModelError(
            f"what came for {target.name} has SHA-256 {found[:16]}…",
            expected=f"{sha256[:16]}…",
            remedy="nothing was kept; the file at that address has changed, or the connection is not to be trusted",
        )
    part.replace(target)
    with contextlib.suppress(FileNotFoundError):
        _tag_file(part).unlink()


def _worth_another_try(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (408, 429, 500, 502, 503, 504)
    reason = getattr(error, "reason", error)
    return not isinstance(reason, (socket.gaierror, ConnectionRefusedError, TimeoutError, ssl.SSLCertVerificationError))


def _no_transfer(url: str, part: Path, error: Exception) -> EdgeError:
    kept = part.stat().st_size if part.is_file() else 0
    again = f"{kept} bytes are kept: run the command again to go on" if kept else "check the network, or HTTPS_PROXY"
    if isinstance(error, urllib.error.HTTPError):
        moved = "the file may have moved" if error.code in (404, 410) else again
        return EdgeError(f"{url} answers {error.code} {error.reason}", expected="the file", remedy=moved)
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        found = f"{url} did not answer within {_TIMEOUT_S:g} s"
    elif isinstance(reason, socket.gaierror):
        found = f"{url} cannot be reached: the name is not known here, is there a network?"
    elif isinstance(reason, ssl.SSLCertVerificationError):
        found = f"{url} shows a certificate that is not trusted here ({reason.verify_message})"
        again = "a proxy that reads along has its own: SSL_CERT_FILE=its.pem, or fetch the file elsewhere"
    elif isinstance(error, http.client.IncompleteRead):
        found = f"{url} broke off"
    else:
        found = f"{url} cannot be fetched: {reason or type(error).__name__}"
    return EdgeError(found, remedy=again)
