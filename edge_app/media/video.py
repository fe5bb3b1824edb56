"""Reading video from files, cameras and network streams through OpenCV.

Importing this module silences OpenCV's and FFmpeg's own messages, which would be written over a terminal app's screen.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final, Self

# Read by OpenCV when it first opens a video.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# OpenCV waits 10 s for a picture of a camera that hangs; a person notices after 3.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")
# It gives a file up after 4,096 packets without a picture, or 64 that do not decode: sound goes on that long in 95 s.
os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", "1000000000")
os.environ.setdefault("OPENCV_FFMPEG_DECODE_ATTEMPTS", "1000000000")

import cv2
import numpy as np

from edge_app.core.types import Pixels

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

OPEN_TIMEOUT_MS: Final = 4000
"""Longest wait for a network stream to answer."""

READ_TIMEOUT_MS: Final = 3000
"""Longest wait for the next picture of a network stream."""

MAX_VIDEO_PIXELS: Final = 8192 * 8192
"""Larger pictures are refused before one is decoded: H.264 of 10,000 x 10,000 px takes 240-430 MiB to open and 1 GiB to
read."""


class Capture:
    """An open video: pictures come out as RGB, one at a time, until there are no more."""

    def __init__(self, capture: cv2.VideoCapture, timeout_s: float = float("inf")) -> None:
        self._capture = capture
        self._timeout_s = timeout_s
        self._ahead: deque[tuple[Pixels, float]] = deque()
        self._position_s: float | None = None

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
        return cls(capture) if _is_open(capture) else None

    @classmethod
    def of_stream(cls, address: str) -> Self | None:
        """Open an http or RTSP address, waiting at most OPEN_TIMEOUT_MS; None when it does not answer with a video."""
        options = {
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: OPEN_TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC: READ_TIMEOUT_MS,
            # A decoder of n threads holds n - 1 pictures back, and hands them out as new when nothing comes any more.
            cv2.CAP_PROP_N_THREADS: 1,
        }
        limits = [number for option in options.items() for number in option]
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
        return cls(capture, READ_TIMEOUT_MS / 1000) if _is_open(capture) else None

    @classmethod
    def of_file(cls, path: Path) -> Self | None:
        """Open a video file by its content, whatever it is called; None when it is none. Raises OSError."""
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            # FFmpeg takes "10:30.mp4" for a protocol and "a%02d.jpg" for a pattern, and OpenCV crashes on a name that
            # is not UTF-8. This one is plain; FFmpeg opens the file again by it.
            plain = Path("/proc/self/fd", str(descriptor))
            capture = cv2.VideoCapture(str(plain if plain.exists() else path.absolute()), cv2.CAP_FFMPEG)
        finally:
            os.close(descriptor)
        return cls(capture) if _is_open(capture) else None

    def peek(self, count: int) -> list[Pixels]:
        """The next pictures, fewer at the end of a file; `read` gives them again."""
        while len(self._ahead) < count and (pixels := self._read()) is not None:
            self._ahead.append((pixels, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000))
        return [pixels for pixels, _ in self._ahead]

    def read(self) -> Pixels | None:
        """The next picture, (H, W, 3) uint8 RGB, or None when none comes within the time-out."""
        if self._ahead:
            pixels, self._position_s = self._ahead.popleft()
            return pixels
        self._position_s = None
        return self._read()

    def _read(self) -> Pixels | None:
        asked_s = time.monotonic()
        try:
            there, bgr = self._capture.read()
        except cv2.error:  # a decoder that gives up in mid-stream ends the stream
            return None
        if not there or bgr is None or bgr.ndim != 3 or 0 in bgr.shape:
            return None
        # What comes when the time is up did not arrive: the decoder was emptied of pictures that it had put in order.
        if time.monotonic() - asked_s >= self._timeout_s:
            return None
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    @property
    def fps(self) -> float | None:
        """Frames per second as the container or driver claims, None when it says nothing believable."""
        claimed = self._capture.get(cv2.CAP_PROP_FPS)
        return claimed if 0.1 <= claimed <= 1000 else None

    @property
    def frame_count(self) -> int | None:
        """Frames as the container claims or as its length suggests, None when neither says anything."""
        claimed = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        return int(claimed) if 0 < claimed < 1e9 else None

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) as the container or driver claims."""
        get = self._capture.get
        return int(get(cv2.CAP_PROP_FRAME_WIDTH)), int(get(cv2.CAP_PROP_FRAME_HEIGHT))

    @property
    def position_s(self) -> float:
        """Time stamp of the picture read last, seconds from the start of a file; 0 where there are none."""
        if self._position_s is not None:
            return self._position_s
        return self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000

    def close(self) -> None:
        """Release the device, file or connection."""
        self._capture.release()


def _is_open(capture: cv2.VideoCapture) -> bool:
    if not capture.isOpened():
        capture.release()
    return capture.isOpened()
