"""Writing a video file: pictures at their own times, and the sound of the video they came from."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import cv2
import numpy as np

from edge_app.core.errors import MediaError
from edge_app.core.types import Pixels
from edge_app.media.container import has_sound
from edge_app.media.video import Capture
from edge_app.system.files import hidden_beside, settle

_CODECS: Final = {".mp4": "mp4v", ".avi": "MJPG"}  # the wheel's FFmpeg has no H.264 encoder


class VideoWriter:
    """A video file being written: it appears under its name, mode 0600, when all went well, and else not at all."""

    def __init__(
        self, path: Path, size_px: tuple[int, int], fps: float, *, sound_of: Path | None = None, replace: bool = True
    ) -> None:
        """Start a .mp4 (MPEG-4) or .avi (Motion JPEG) video of pictures of (width, height).

        The sound of the video `sound_of` goes into it where ffmpeg is installed; `note` says so where not. The codecs
        store even sizes: an odd last row or column is lost. With `replace=False` a file of that name is left as it is,
        which is a failure too. Raises MediaError when it cannot be written.
        """
        self.path = Path(path)
        self.note = ""
        """After `close`: one line about what the file lacks; "" when nothing."""
        self._size_px = size_px
        self._sound_of = sound_of
        self._replace = replace
        self._times_s: list[float] = []
        self._fps = fps
        codec = _CODECS.get(self.path.suffix.lower())
        if codec is None:
            raise MediaError(
                f"{self.path} cannot be written: its name ends in {self.path.suffix or 'nothing'!r}",
                expected=", ".join(_CODECS),
            )
        if min(size_px) < 2 or not 0.1 <= fps <= 1000:
            raise MediaError(f"{self.path}: {size_px[0]} x {size_px[1]} px at {fps} fps is no video")
        try:
            self._temporary = hidden_beside(self.path, self.path.suffix)
            folder = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        try:
            # OpenCV crashes on names that are not UTF-8; the temporary file's own name is plain. It keeps its mode.
            plain = Path("/proc/self/fd", str(folder), self._temporary.name)
            name = str(plain if plain.exists() else self._temporary.absolute())
            self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size_px)
        finally:
            os.close(folder)
        if not self._writer.isOpened():
            self.abandon()
            raise self._failed("no encoder")

    def write(self, pixels: Pixels, time_s: float | None = None) -> None:
        """Append one picture, (H, W, 3) uint8 RGB; all must have the size of the video, or MediaError is raised.

        `time_s` is when it is shown, in seconds from the start, kept in .mp4 only; without it the pictures come at an
        even rate.
        """
        size_px = (pixels.shape[1], pixels.shape[0])
        if size_px != self._size_px:  # OpenCV would drop it without a word
            raise MediaError(
                f"{self.path}: found a picture of {size_px[0]} x {size_px[1]} px",
                expected=f"{self._size_px[0]} x {self._size_px[1]} px like the others",
            )
        self._writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        self._times_s.append(len(self._times_s) / self._fps if time_s is None else time_s)

    def close(self) -> None:
        """Finish the file and give it its name. Raises MediaError when it did not arrive whole, say on a full disk."""
        self._writer.release()
        if not self._temporary.exists():
            return
        try:
            # OpenCV does not tell that writing failed; the file does.
            written = len(self._times_s)
            if not written:
                raise self._failed("no picture was given")
            capture = Capture.of_file(self._temporary)
            found = capture.frame_count if capture else None
            if capture:
                capture.close()
            if found is None or found < written:
                raise self._failed(f"{found or 0} of {written} pictures arrived in the file")
            if self.path.suffix.lower() == ".mp4":
                set_times(self._temporary, self._times_s, 1 / self._fps)
            if self._sound_of is not None:
                self.note = add_sound(self._temporary, self._sound_of)
            settle(self._temporary, self.path, replace=self._replace)
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

    def _failed(self, reason: str) -> MediaError:
        return MediaError(
            f"{self.path} cannot be written ({reason})", remedy="check the folder, its permissions and the free space"
        )


def set_times(path: Path, times_s: list[float], last_s: float) -> bool:
    """Give the pictures of an .mp4 of even rate, as OpenCV writes it, times of their own; the last is shown `last_s`.

    The index (moov) is the last box of such a file, so it may grow. False, and nothing is changed, where the file looks
    otherwise. Raises OSError.
    """
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - (64 << 20)))
        data = file.read()
    at = data.rfind(b"moov") - 4
    index = data[at:]
    if at < 0 or len(index) != struct.unpack(">I", index[:4])[0] or index.count(b"trak") != 1:
        return False
    units = struct.unpack(">I", index[(m := index.find(b"mdhd") + 16) : m + 4])[0]
    ticks = np.rint(np.array([*times_s, times_s[-1] + last_s]) * units).astype(np.int64)
    # No two at once: a player drops one of them.
    ticks = np.maximum.accumulate(ticks - np.arange(len(ticks))) + np.arange(len(ticks))
    if index.count(b"stts") != 1 or ticks[-1] >= 1 << 32 or b"ctts" in index:
        return False
    # The first is shown at 0: a player knows no other start without an edit list.
    ticks[0] = 0
    entries = b"".join(struct.pack(">II", 1, step) for step in np.diff(ticks))
    table = struct.pack(">I4sII", 16 + len(entries), b"stts", 0, len(ticks) - 1) + entries
    old = index.find(b"stts") - 4
    old_size = struct.unpack(">I", index[old : old + 4])[0]
    made = bytearray(index[:old] + table + index[old + old_size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = made.find(name) - 4
        size = struct.unpack_from(">I", made, place)[0]
        struct.pack_into(">I", made, place, size + len(table) - old_size)
    movie = struct.unpack_from(">I", made, made.find(b"mvhd") + 16)[0]
    whole = int(ticks[-1])
    struct.pack_into(">I", made, made.find(b"mdhd") + 20, whole)
    struct.pack_into(">I", made, made.find(b"mvhd") + 20, whole * movie // units)
    struct.pack_into(">I", made, made.find(b"tkhd") + 24, whole * movie // units)
    if (edits := made.find(b"elst")) >= 0:
        struct.pack_into(">I", made, edits + 12, whole * movie // units)
    with path.open("r+b") as file:
        file.seek(-len(index), os.SEEK_END)
        file.write(made)
    return True


def add_sound(video: Path, source: Path) -> str:
    """Put the sound of the video file `source` into `video`, in place; says what is lacking where that failed.

    Needs ffmpeg on PATH. Sound that .mp4 does not take is encoded as AAC. Raises OSError.
    """
    there = has_sound(source)
    if there is False:
        return ""
    program = shutil.which("ffmpeg")
    if program is None:
        perhaps = "" if there else ", if that had any"
        return f"the copy of {source} has no sound{perhaps}: ffmpeg, which keeps it, is not installed"
    delay_s = _picture_delay_s(source)
    made = hidden_beside(video, video.suffix)
    try:
        for codec in ("copy", "aac"):
            taken = ["-i", f"file:{video}", "-protocol_whitelist", "file", "-i", f"file:{source}"]
            made_of = ["-map", "0:v:0", "-map", "1:a?", "-c:v", "copy", "-c:a", codec]
            if _run(program, "-y", "-itsoffset", f"{delay_s:.6f}", *taken, *made_of, f"file:{made}") is None:
                continue
            if made.stat().st_size > 0:
                made.replace(video)
                return ""
    finally:
        made.unlink(missing_ok=True)
    return f"the copy of {source} has no sound: ffmpeg could not copy it"


def _picture_delay_s(source: Path) -> float:
    """How long after the first sound the first picture comes: times of pictures count from the latter."""
    program = shutil.which("ffprobe")
    if program is None:
        return 0.0
    wanted = ("-select_streams", "v:0", "-show_entries", "stream=start_time:format=start_time", "-of", "csv=p=0")
    told = _run(program, "-protocol_whitelist", "file", *wanted, f"file:{source}") or b""
    try:
        picture, whole = (float(word) for word in told.split()[:2])
    except ValueError:
        return 0.0
    return max(0.0, picture - whole)


def _run(*command: str) -> bytes | None:
    """What a program of FFmpeg's puts out; None when it failed."""
    done = subprocess.run(
        [command[0], "-v", "error", *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return done.stdout if done.returncode == 0 else None
