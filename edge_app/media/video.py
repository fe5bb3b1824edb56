"""Video through OpenCV: hides captures, codecs, time-outs, and all that C++ would print on the terminal.

In: a device, a file or an address, and RGB pixels to write. Out: an open capture whose pictures come as RGB, or a
finished video file under its final name. Importing this module silences OpenCV's and FFmpeg's own messages.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# Read by OpenCV when it first opens a video; they would be written over a terminal app's screen.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# OpenCV waits 10 s for a picture of a camera that hangs; a person notices after 3.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")

import cv2
import numpy as np

from edge_app.core.errors import MediaError
from edge_app.core.types import Pixels

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

OPEN_TIMEOUT_MS: Final = 4000
"""Longest wait for a network stream to answer."""

READ_TIMEOUT_MS: Final = 3000
"""Longest wait for the next picture of a network stream."""

VIDEO_SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".mjpg", ".mjpeg"}
)
"""File names that count as videos."""

_CODECS: Final = {".mp4": "mp4v", ".avi": "MJPG"}  # the wheel's FFmpeg has no H.264 encoder


class Capture:
    """An open video: pictures come out as RGB, one at a time, until there are no more."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture

    @classmethod
    def of_device(cls, device: int | str, size_px: tuple[int, int] | None = None) -> Self | None:
        """Open a webcam by number or device path, at the size nearest to (width, height); None when it will not."""
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        capture = cv2.VideoCapture()
        if isinstance(device, int):  # two overloads of one function, each with its own type
            capture.open(device, backend)
        else:
            capture.open(device, backend)
        if capture.isOpened():
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # of the driver's queue too, the newest picture is the one wanted
            if size_px is not None:
                # Uncompressed 720p does not fit through USB 2 at 30 fps; Motion JPEG does.
                capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
                capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_px[0])
                capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_px[1])
        return cls._opened(capture)

    @classmethod
    def of_stream(cls, address: str) -> Self | None:
        """Open an http or RTSP address, waiting at most OPEN_TIMEOUT_MS; None when it does not answer with a video."""
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS]
        return cls._opened(cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits))

    @classmethod
    def of_file(cls, path: Path) -> Self | None:
        """Open a video file; None when it is none."""
        return cls._opened(cv2.VideoCapture(str(path), cv2.CAP_FFMPEG))

    @classmethod
    def _opened(cls, capture: cv2.VideoCapture) -> Self | None:
        if capture.isOpened():
            return cls(capture)
        capture.release()
        return None

    def read(self) -> Pixels | None:
        """The next picture, (H, W, 3) uint8 RGB, or None when none comes within the time-out."""
        try:
            there, bgr = self._capture.read()
        except cv2.error:  # a decoder that gives up in mid-stream ends the stream
            return None
        if not there or bgr is None or bgr.ndim != 3 or 0 in bgr.shape:
            return None
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    @property
    def fps(self) -> float | None:
        """Frames per second as the container or driver claims, None when it says nothing believable."""
        claimed = self._capture.get(cv2.CAP_PROP_FPS)
        return claimed if 0.1 <= claimed <= 1000 else None

    @property
    def frame_count(self) -> int | None:
        """Frames as the container claims, None when it does not say."""
        claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return int(claimed) if 0 < claimed < 1e9 else None

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) as the container or driver claims."""
        get = self._capture.get
        return int(get(cv2.CAP_PROP_FRAME_WIDTH)), int(get(cv2.CAP_PROP_FRAME_HEIGHT))

    @property
    def position_s(self) -> float:
        """Time stamp of the picture read last, seconds from the start of a file."""
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000

    def close(self) -> None:
        """Release the device, file or connection."""
        self._capture.release()


class VideoWriter:
    """A video file being written: it appears under its name, mode 0600, when all went well, and else not at all."""

    def __init__(self, path: Path, size_px: tuple[int, int], fps: float) -> None:
        """Start a .mp4 (MPEG-4) or .avi (Motion JPEG) video of pictures of (width, height).

        The codecs store even sizes: an odd last row or column is lost. Raises MediaError when it cannot be written.
        """
        self.path = Path(path)
        self._size_px = size_px
        self._written = 0
        codec = _CODECS.get(self.path.suffix.lower())
        if codec is None:
            raise MediaError(
                f"{self.path} cannot be written: its name ends in {self.path.suffix or 'nothing'!r}",
                expected=", ".join(_CODECS),
            )
        if min(size_px) < 2 or not 0.1 <= fps <= 1000:
            raise MediaError(f"{self.path}: {size_px[0]} x {size_px[1]} px at {fps} fps is no video")
        try:
            descriptor, name = tempfile.mkstemp(prefix=".", suffix=self.path.suffix, dir=self.path.parent)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        os.close(descriptor)  # OpenCV opens it again, and keeps its mode
        self._temporary = Path(name)
        self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size_px)
        if not self._writer.isOpened():
            self.abandon()
            raise self._failed("no encoder")

    def write(self, pixels: Pixels) -> None:
        """Append one picture, (H, W, 3) uint8 RGB; all must have the size of the video, or MediaError is raised."""
        size_px = (pixels.shape[1], pixels.shape[0])
        if size_px != self._size_px:  # OpenCV would drop it without a word
            raise MediaError(
                f"{self.path}: found a picture of {size_px[0]} x {size_px[1]} px",
                expected=f"{self._size_px[0]} x {self._size_px[1]} px like the others",
            )
        self._writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        self._written += 1

    def close(self) -> None:
        """Finish the file and give it its name. Raises MediaError when it did not arrive whole, say on a full disk."""
        self._writer.release()
        if not self._temporary.exists():
            return
        try:
            self._check()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self.path)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        finally:
            self._temporary.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Throw away what was written; a file that stood under the name before stays as it was."""
        self._writer.release()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _check(self) -> None:
        """OpenCV does not tell that writing failed; the file does."""
        if not self._written:
            raise self._failed("no picture was given")
        capture = Capture.of_file(self._temporary)
        found = capture.frame_count if capture else None
        if capture:
            capture.close()
        if found is None or found < self._written:
            raise self._failed(f"{found or 0} of {self._written} pictures arrived in the file")

    def _failed(self, reason: str) -> MediaError:
        return MediaError(
            f"{self.path} cannot be written ({reason})", remedy="check the folder, its permissions and the free space"
        )
