"""The cameras of this machine, the formats that their drivers offer, and the frame rate that really arrives.

A camera that cannot be used is listed with the reason, not left out.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edge_app.core.errors import CameraError, MediaError
from edge_app.media.sources import open_source
from edge_app.media.video import Capture

_DEV: Final = Path("/dev")
_SYS: Final = Path("/sys/class/video4linux")
_PROBED: Final = range(5)
"""Camera numbers tried where the system does not list its cameras."""

_COMMON: Final = ("MJPG", "JPEG", "H264", "YUYV", "NV12", "YU12", "UYVY")
_SHOWN_ENCODINGS: Final = 4
_SHOWN_SIZES: Final = 4

_MEASURE_S: Final = 1.5
_MEASURE_FRAMES: Final = 240


@dataclass(frozen=True, slots=True)
class CameraFormat:
    """One way a camera can send its pictures."""

    encoding: str
    """Four letters, "-BE" behind them for big-endian: MJPG is compressed, YUYV is not; "" where it is not told."""
    size_px: tuple[int, int]
    """(width, height)."""
    fps: float | None
    """Most frames per second at this size; None where the system does not tell."""


@dataclass(frozen=True, slots=True)
class CameraInfo:
    spec: str
    """What to pass as a source to use it, e.g. "0"."""
    device: str
    """Its device path, or its number where there is none."""
    name: str
    """As its driver calls it."""
    formats: tuple[CameraFormat, ...] = ()
    """What it offers, largest picture first; empty where the system does not tell."""
    measured_fps: float | None = None
    """Frames per second that really arrived; None when not measured."""
    measured_size_px: tuple[int, int] | None = None
    """(width, height) at which it was measured."""
    problem: str = ""
    """One line: why it cannot be used; empty when it can, or was not tried."""


def list_cameras(
    *, measure: bool = False, check: bool = False, clock: Callable[[], float] = time.monotonic
) -> tuple[CameraInfo, ...]:
    """List the cameras of this machine, by number.

    With `check` each is opened until its first picture comes, with `measure` for about two seconds to count its frames.
    Where the system does not list cameras (not Linux), the numbers 0-4 are tried.
    """
    found = _linux_cameras() if sys.platform == "linux" else _probed_cameras()
    frames = _MEASURE_FRAMES if measure else 1 if check else 0
    return tuple(_measured(info, frames, clock) if frames and not info.problem else info for info in found)


def formats_line(formats: Sequence[CameraFormat]) -> str:
    """Formats for people, on one line: those that are sent compressed or plain first, of each its largest sizes.

    A driver may offer forty encodings of ten sizes each; what does not fit is counted.
    """
    sizes: dict[str, list[str]] = {}
    for one in formats:
        size = f"{one.size_px[0]}x{one.size_px[1]}"
        sizes.setdefault(one.encoding or "any", []).append(f"{size}@{one.fps:.0f}" if one.fps else size)
    named = sorted(sizes, key=lambda encoding: (encoding not in _COMMON, list(sizes).index(encoding)))
    parts = []
    for encoding in named[:_SHOWN_ENCODINGS]:
        more = len(sizes[encoding]) - _SHOWN_SIZES
        parts.append(" ".join([encoding, *sizes[encoding][:_SHOWN_SIZES], *([f"+{more}"] if more > 0 else [])]))
    if len(named) > _SHOWN_ENCODINGS:
        parts.append(f"and {len(named) - _SHOWN_ENCODINGS} more encodings (--json lists them)")
    return "; ".join(parts)


def _linux_cameras() -> list[CameraInfo]:
    nodes = [node for node in _DEV.glob("video*") if re.fullmatch(r"video\d+", node.name)]
    nodes.sort(key=lambda node: int(node.name[5:]))
    return [info for node in nodes if (info := _linux_camera(node)) is not None]


def _linux_camera(node: Path) -> CameraInfo | None:
    """What a device node says of itself; None for nodes that carry metadata or put video out."""
    number = node.name[5:]
    label = _SYS / node.name / "name"
    name = label.read_text(errors="replace").strip() if label.exists() else ""
    info = CameraInfo(number, str(node), name or node.name)
    try:
        descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return replace(info, problem=f"cannot be opened ({error.strerror}); sudo usermod -aG video $USER may help")
    try:
        about = bytearray(104)
        if not _ioctl(descriptor, _QUERYCAP, about) or not _can_capture(about):
            return None
        card = bytes(about[16:48]).partition(b"\0")[0].decode(errors="replace").strip()
        formats = sorted(set(_formats(descriptor)), key=lambda f: (-f.size_px[0] * f.size_px[1], f.encoding))
        return replace(info, name=name or card or node.name, formats=tuple(formats))
    except OSError as error:
        return replace(info, problem=f"does not answer ({error.strerror})")
    finally:
        os.close(descriptor)


def _probed_cameras() -> list[CameraInfo]:
    found = []
    for number in _PROBED:
        capture = Capture.of_device(number)
        if capture is not None:
            formats = (CameraFormat("", capture.size_px, capture.fps),)
            capture.close()
            found.append(CameraInfo(str(number), str(number), f"camera {number}", formats))
    return found


def _measured(info: CameraInfo, frames: int, clock: Callable[[], float]) -> CameraInfo:
    """Count frames for a while, at most so many; the first is not counted, since cameras take long to start."""
    try:
        with open_source(f"camera:{info.spec}", clock=clock) as source:
            first = source.read()
            if first is None:
                return replace(info, problem="sends no picture")
            count, last_s = 0, first.time_s
            while count + 1 < frames and last_s - first.time_s < _MEASURE_S:
                frame = source.read()
                if frame is None:
                    break
                count, last_s = count + 1, frame.time_s
    except (CameraError, MediaError) as error:
        return replace(info, problem=str(error))
    span_s = last_s - first.time_s
    return replace(info, measured_fps=count / span_s if span_s > 0 else None, measured_size_px=first.size_px)


# Video4Linux, linux/videodev2.h. Each request is direction << 30 | size of the struct << 16 | 'V' << 8 | number.
_QUERYCAP: Final = 0x80685600  # struct v4l2_capability, 104 bytes
_ENUM_FMT: Final = 0xC0405602  # struct v4l2_fmtdesc, 64 bytes
_ENUM_FRAMESIZES: Final = 0xC02C564A  # struct v4l2_frmsizeenum, 44 bytes
_ENUM_FRAMEINTERVALS: Final = 0xC034564B  # struct v4l2_frmivalenum, 52 bytes
_CAN_CAPTURE: Final = 0x1
_HAS_DEVICE_CAPS: Final = 0x80000000
_BUFFER_CAPTURE: Final = 1
_DISCRETE: Final = 1
_MOST_ENTRIES: Final = 64  # a driver that never says "no more" must not hold us


def _ioctl(descriptor: int, request: int, data: bytearray) -> bool:
    """Fill `data` in place; False when the driver has no more entries (EINVAL) or no such request (ENOTTY)."""
    import errno
    import fcntl

    try:
        fcntl.ioctl(descriptor, request, data, True)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return False
        raise
    return True


def _can_capture(about: bytearray) -> bool:
    """Whether a struct v4l2_capability is of a node that gives pictures: others give metadata, or take pictures."""
    capabilities, device_caps = struct.unpack_from("=II", about, 84)
    return bool((device_caps if capabilities & _HAS_DEVICE_CAPS else capabilities) & _CAN_CAPTURE)


def _formats(descriptor: int) -> Iterator[CameraFormat]:
    for index in range(_MOST_ENTRIES):
        data = bytearray(64)
        struct.pack_into("=II", data, 0, index, _BUFFER_CAPTURE)
        if not _ioctl(descriptor, _ENUM_FMT, data):
            return
        (code,) = struct.unpack_from("=I", data, 44)
        encoding = _four_letters(code)
        for size_px in _sizes(descriptor, code):
            yield CameraFormat(encoding, size_px, _fastest(descriptor, code, size_px))


def _four_letters(code: int) -> str:
    """The name of an encoding: its four letters; the top bit says that its numbers are big-endian."""
    letters = (code & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace").strip()
    plain = "".join(letter if letter.isprintable() else "?" for letter in letters)
    return plain + ("-BE" if code >> 31 else "")


def _sizes(descriptor: int, code: int) -> Iterator[tuple[int, int]]:
    for index in range(_MOST_ENTRIES):
        data = bytearray(44)
        struct.pack_into("=II", data, 0, index, code)
        if not _ioctl(descriptor, _ENUM_FRAMESIZES, data):
            return
        kind, width, height_or_max = struct.unpack_from("=III", data, 8)
        if kind != _DISCRETE:  # a range: min width, max width, step, min height, max height, step
            yield height_or_max, struct.unpack_from("=I", data, 28)[0]
            return
        yield width, height_or_max


def _fastest(descriptor: int, code: int, size_px: tuple[int, int]) -> float | None:
    best: float | None = None
    for index in range(_MOST_ENTRIES):
        data = bytearray(52)
        struct.pack_into("=IIII", data, 0, index, code, *size_px)
        if not _ioctl(descriptor, _ENUM_FRAMEINTERVALS, data):
            break
        kind, seconds, per = struct.unpack_from("=III", data, 16)
        if seconds:
            best = max(best or 0.0, per / seconds)
        if kind != _DISCRETE:  # a range, whose first member is the shortest interval
            break
    return best
