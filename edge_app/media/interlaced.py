"""Interlaced video, as camcorders and television record it, through the ffmpeg that is installed.

OpenCV 5.0 (and 4.13) does not convert interlaced pictures to RGB and says that it did: what it hands out is memory that
nobody wrote. It is the same with every frame, which is how it is noticed.
"""

from __future__ import annotations

import queue
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Final

import numpy as np

from edge_app.core.types import Pixels

_PROBE_S: Final = 20.0
_SHOWN: Final = re.compile(rb"pts_time:\s*(-?[\d.]+).*? s:(\d+)x(\d+)")


def is_interlaced(path: Path) -> bool | None:
    """Whether the first pictures of a video are interlaced; None where there is no ffprobe to ask."""
    program = shutil.which("ffprobe")
    if program is None or shutil.which("ffmpeg") is None:
        return None
    wanted = ("-select_streams", "v:0", "-read_intervals", "%+#5", "-show_entries", "frame=interlaced_frame")
    try:
        done = subprocess.run(
            [program, "-v", "error", "-protocol_whitelist", "file", *wanted, "-of", "csv=p=0", f"file:{path}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return b"1" in re.findall(rb"\d", done.stdout)


class DeinterlacedCapture:
    """An interlaced video file, read as `Capture` reads others: a whole picture for every two fields."""

    def __init__(self, path: Path) -> None:
        """Start ffmpeg. Raises OSError when it cannot be started."""
        self.fps: float | None = None
        self.frame_count: int | None = None
        self.size_px = (0, 0)
        self.position_s = 0.0
        self._first_s: float | None = None
        self._shown: queue.SimpleQueue[tuple[float, int, int] | None] = queue.SimpleQueue()
        taken = ("-protocol_whitelist", "file,pipe", "-i", f"file:{path}", "-map", "0:v:0")
        made = ("-vf", "yadif=deint=interlaced,showinfo", "-fps_mode", "passthrough", "-pix_fmt", "rgb24")
        self._process = subprocess.Popen(
            ["ffmpeg", "-nostdin", "-v", "info", "-nostats", *taken, *made, "-f", "rawvideo", "pipe:1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._thread = threading.Thread(target=self._listen, name="ffmpeg's words", daemon=True)
        self._thread.start()

    def read(self) -> Pixels | None:
        """The next picture, (H, W, 3) uint8 RGB; None at the end."""
        shown = self._shown.get()
        if shown is None or self._process.stdout is None:
            self._shown.put(None)
            return None
        time_s, width, height = shown
        data = self._process.stdout.read(width * height * 3)
        if len(data) < width * height * 3:
            return None
        self._first_s = time_s if self._first_s is None else self._first_s
        self.position_s = time_s - self._first_s
        self.size_px = width, height
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)

    def close(self) -> None:
        """End ffmpeg; may be called twice."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        """Time and size of each picture, as ffmpeg's filter tells them on standard error."""
        if self._process.stderr is not None:
            for line in self._process.stderr:
                if found := _SHOWN.search(line):
                    self._shown.put((float(found[1]), int(found[2]), int(found[3])))
        self._shown.put(None)
