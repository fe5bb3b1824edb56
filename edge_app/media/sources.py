"""Frames from any source, in order and in RGB: webcam, stream, snapshot address, video, folder, picture, sample clip.

A source is what a user types: "0", "/dev/video2", "clip.mp4", "holiday/", "rtsp://...", "sample". Passwords in
addresses never reach a message.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np

from edge_app.core.counts import counted
from edge_app.core.errors import CameraError, MediaError
from edge_app.core.types import Frame, Pixels
from edge_app.media.container import has_times, missing_bytes, promised_frames
from edge_app.media.folders import find_pictures
from edge_app.media.interlaced import DeinterlacedCapture, is_interlaced
from edge_app.media.kinds import HEAD_BYTES, kind_of_bytes
from edge_app.media.pictures import read_picture
from edge_app.media.source_spec import SourceSpec, parse_source
from edge_app.media.video import MAX_VIDEO_PIXELS, Capture
from edge_app.system.closing import Closing

FOLDER_FPS: Final = 1.0
"""A folder is shown as if one picture were taken every second."""

STILL_FPS: Final = 5.0
STILL_FRAMES: Final = 10
"""A single picture is shown for two seconds: whoever follows faces over time believes no single look."""

# Of a whole file some pictures may be damaged, or wait for one that never came; a video is called damaged beyond this.
_COUNT_SLACK: Final = 3
_COUNT_SLACK_SHARE: Final = 0.05

_MAX_TIME_S: Final = 1e6
"""A time stamp beyond this is a container's way to say that it has none."""


class Source(Protocol):
    """Frames in order. Close it when done, or use it in a `with` statement."""

    spec: SourceSpec
    fps: float | None
    """Frames per second as claimed; None when not known."""
    frame_count: int | None
    """Frames in all; None when endless or not known."""

    def read(self) -> Frame | None:
        """The next frame, None at the end.

        Raises CameraError when a live source is lost, and MediaError when a file cannot be read or ended early;
        after a MediaError reading may go on.
        """

    def close(self) -> None:
        """Release what is held; may be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(
    spec: str, *, size_px: tuple[int, int] | None = None, clock: Callable[[], float] = time.monotonic
) -> Source:
    """Open a source by what the user typed.

    `size_px` asks a webcam for (width, height); other sources have their own. `clock` stamps the frames of live
    sources; files carry their own time from 0 s. Raises CameraError or MediaError when it cannot be opened.
    """
    parsed = parse_source(spec)
    if parsed.kind == "webcam":
        return _open_webcam(parsed, size_px, clock)
    if parsed.kind == "stream":
        return _open_stream(parsed, clock)
    if parsed.kind == "video":
        return _open_video(parsed, clock)
    if parsed.kind == "sample":
        return _open_sample(parsed)
    if parsed.kind == "picture":
        return _open_picture(parsed)
    paths = find_pictures(Path(parsed.target))
    return IndexedSource(
        parsed, FOLDER_FPS, len(paths), lambda index: Frame(read_picture(paths[index]), index, index / FOLDER_FPS)
    )


def frames(spec: str) -> Iterator[Frame]:
    """Yield every frame of a source in order, and release it at the end.

    What cannot be read is left out, and told at the end: then MediaError is raised after the last frame, as for a
    video that is shorter than it claims. CameraError is raised when a live source is lost.
    """
    failures: list[MediaError] = []
    with open_source(spec) as source:
        while True:
            try:
                frame = source.read()
            except MediaError as error:
                failures.append(error)
                continue
            if frame is None:
                break
            yield frame
    if len(failures) > 1:
        raise MediaError(
            f"of {source.spec.name} {counted(len(failures), 'picture')} could not be read; the first: {failures[0]}"
        )
    if failures:
        raise failures[0]


class CaptureSource(Closing):
    """A webcam, a stream or a video file."""

    def __init__(
        self,
        spec: SourceSpec,
        capture: Capture | DeinterlacedCapture,
        clock: Callable[[], float],
        *,
        stamped: bool = True,
        doubtful: bool = False,
    ) -> None:
        """`stamped`: a file has time stamps, not a rate alone; `doubtful`: it may be interlaced and read wrongly."""
        self.spec = spec
        self.fps = capture.fps
        self.frame_count = None if spec.is_live else capture.frame_count
        self._capture: Capture | DeinterlacedCapture | None = capture
        self._clock = clock
        self._next = 0
        self._time_s = 0.0
        self._stamped = stamped
        self._doubtful = doubtful
        self._first: Pixels | None = None

    def read(self) -> Frame | None:
        if self._capture is None:
            return None
        pixels = self._capture.read()
        if pixels is None:
            self._end()
            return None
        self._time_s = self._clock() if self.spec.is_live else self._file_time_s(self._capture.position_s)
        self._next += 1
        if self._doubtful:
            self._first = pixels if self._first is None else self._first
            self._doubtful = np.array_equal(self._first, pixels)
        return Frame(pixels, self._next - 1, self._time_s)

    def close(self) -> None:
        """Release the device, connection or file."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.close()

    def _file_time_s(self, position_s: float) -> float:
        """The container's time stamp, which may repeat; where it has none, the frame rate's."""
        there = self._stamped and position_s < _MAX_TIME_S
        if self._next == 0:
            return max(0.0, position_s) if there else 0.0
        return max(self._time_s, position_s) if there else self._time_s + 1 / (self.fps or 25.0)

    def _end(self) -> None:
        """A live source is lost; a file is over, and says so once when it should have been longer."""
        self.close()
        if self.spec.is_live:
            raise CameraError(
                f"{self.spec.name} stopped sending pictures" if self._next else f"{self.spec.name} sends no picture",
                remedy="check the cable and the network, and that no other program uses it",
            )
        try:
            missing, promised = missing_bytes(Path(self.spec.target)), promised_frames(Path(self.spec.target)) or 0
        except OSError:
            missing, promised = 1, 0  # the drive it lay on is gone
        found = f"{self.spec.name} ended after {counted(self._next, 'frame')}"
        if missing:
            raise MediaError(f"{found}: the file is cut short", remedy="copy it again from where it came")
        if self._next == 0 or promised - self._next > max(_COUNT_SLACK, _COUNT_SLACK_SHARE * promised):
            expected = counted(promised, "frame") if promised else "at least one"
            raise MediaError(found, expected=expected, remedy="the file is damaged: copy it again")
        if self._doubtful:
            raise MediaError(
                f"all {self._next} frames of {self.spec.name} came out the same",
                remedy="if it moves, it is an interlaced recording, which takes ffmpeg to read: install that",
            )


class IndexedSource(Closing):
    """Frames that are made by their number: pictures of a folder, the sample clip."""

    def __init__(self, spec: SourceSpec, fps: float, frame_count: int, frame_at: Callable[[int], Frame]) -> None:
        self.spec = spec
        self.fps: float | None = fps
        self.frame_count: int | None = frame_count
        self._size = frame_count
        self._frame_at = frame_at
        self._next = 0

    def read(self) -> Frame | None:
        if self._next >= self._size:
            return None
        self._next += 1
        return self._frame_at(self._next - 1)

    def close(self) -> None:
        """No frame after this."""
        self._next = self._size


def _open_picture(spec: SourceSpec) -> Source:
    @cache
    def pixels() -> Pixels:
        return read_picture(Path(spec.target))

    def shown(index: int) -> Frame:
        try:
            return Frame(pixels(), index, index / STILL_FPS)
        except MediaError:
            source.close()  # it is told once
            raise

    source = IndexedSource(spec, STILL_FPS, STILL_FRAMES, shown)
    return source


def _open_stream(spec: SourceSpec, clock: Callable[[], float]) -> Source:
    from edge_app.media.snapshots import open_snapshots  # urllib takes 30 ms to import, and files need none

    if spec.target.lower().startswith("http"):
        snapshots = open_snapshots(spec, clock)
        if snapshots is not None:
            return snapshots
    capture = Capture.of_stream(spec.target)
    if capture is None:
        raise CameraError(
            f"{spec.name} does not answer with a video",
            expected="an MJPEG or RTSP stream, or a JPEG for each request",
            remedy="check the address, the password and the network",
        )
    return CaptureSource(spec, capture, clock)


def _open_video(spec: SourceSpec, clock: Callable[[], float]) -> Source:
    path = Path(spec.target)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        # By bytes alone: FFmpeg would also open a playlist, and what files and addresses that names.
        known = kind_of_bytes(head) == "video" or (
            kind_of_bytes(head, path.suffix.lower()) == "video" and head[:1] == b"\xff"
        )
        capture = Capture.of_file(path) if known else None
    except OSError as error:
        raise MediaError(f"{spec.name} cannot be opened ({error.strerror})", remedy="check its permissions") from error
    if not head:
        raise MediaError(f"{spec.name} is empty", expected="a video", remedy="copy the file again")
    if capture is None:
        raise MediaError(
            f"{spec.name} is not a video, or damaged or cut short",
            expected="a whole MP4, AVI, MOV, MKV or WebM file",
            remedy="check the file, or copy it again",
        )
    width, height = capture.size_px
    if width * height > MAX_VIDEO_PIXELS:
        capture.close()
        raise MediaError(
            f"{spec.name} has pictures of {width} x {height} px",
            expected=f"at most {MAX_VIDEO_PIXELS // 10**6} megapixels",
            remedy="scale it down: ffmpeg -i VIDEO -vf scale=1920:-2 OUT.mp4",
        )
    first = capture.peek(2)
    doubtful = bool(first) and np.array_equal(first[0], first[-1])
    interlaced = is_interlaced(path) if doubtful else False
    if interlaced:
        capture.close()
        return CaptureSource(spec, DeinterlacedCapture(path), clock)
    return CaptureSource(spec, capture, clock, stamped=has_times(head), doubtful=interlaced is None)


def _open_webcam(spec: SourceSpec, size_px: tuple[int, int] | None, clock: Callable[[], float]) -> Source:
    device: int | str = int(spec.target) if spec.target.isdigit() else os.path.realpath(spec.target)
    if sys.platform == "linux":
        _check_device(spec, f"/dev/video{device}" if isinstance(device, int) else device)
    capture = Capture.of_device(device, size_px)
    if capture is None:
        raise CameraError(
            f"{spec.name} cannot be opened",
            remedy="close other programs that use it, or choose another: `edge-app cameras` lists them",
        )
    return CaptureSource(spec, capture, clock)


def _check_device(spec: SourceSpec, path: str) -> None:
    if not Path(path).exists():
        raise CameraError(
            f"{spec.name} is not there ({path} does not exist)",
            remedy="plug it in, or choose another: `edge-app cameras` lists them",
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise CameraError(f"{spec.name} may not be used", remedy=f"allow it: sudo usermod -aG video $USER ({path})")


def _open_sample(spec: SourceSpec) -> Source:
    from edge_app.media import sample  # its pictures are read only when somebody asks for them

    scene = sample.clip_scene()
    return IndexedSource(spec, scene.fps, scene.frame_count, lambda index: sample.render(scene, index)[0])
