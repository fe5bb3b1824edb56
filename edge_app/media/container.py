"""What a video file says of itself without being decoded: whether it is all there, and whether it has sound.

A container's claim of so many frames is an estimate from its longest stream and its mean rate, and is wrong for most
recordings that are triggered by motion or whose sound goes on. Its lengths in bytes are not: a file that was cut ends
inside a box, an element, a chunk, a tag or a packet.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

_TAIL_BYTES: Final = 1 << 17
_HEAD_BYTES: Final = 1 << 16
_INDEX_BYTES: Final = 64 << 20
_MOST_BOXES: Final = 1_000_000
"""A file of boxes of no length must not hold us."""

_EBML: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT: Final = 0x18538067
_CLUSTER: Final = 0x1F43B675
_TOP_LEVEL: Final = {_CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}
_ASF_FILE: Final = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def missing_bytes(path: Path) -> int:
    """How many bytes at least are missing at the end of a video file; 0 when it is whole or its format cannot tell.

    Raises OSError when it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD_BYTES)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp"):
            # MP4, MOV, 3GP: boxes, one after the other; what phones write behind the last is let be.
            needed = (end for name, _, end in _boxes(file, 0, size) if name in (b"mdat", b"moov", b"moof"))
            return max(0, max(needed, default=0) - size)
        if head[:4] == _EBML:
            return _missing_elements(file, size)
        if head[:4] == b"RIFF":
            return _missing_chunks(file, size)
        if head[:3] == b"FLV":
            return _missing_tags(file, size)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
        if head[:4] == b"\0\0\x01\xba":
            return _missing_of_packs(tail)
        if head[:4] == b"OggS":
            return _missing_of_pages(tail)
        if head[:8] == b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" and (at := head.find(_ASF_FILE)) >= 0:
            return max(0, _little(head, at + 40, 8) - size)
        for step in (188, 192, 204):
            start = 4 if step == 192 else 0
            if size > 5 * step and all(head[at] == 0x47 for at in range(start, 5 * step, step)):
                return -size % step or _missing_packets(head, tail[-(len(tail) // step * step) :], step, start)
        return 0


def promised_frames(path: Path) -> int | None:
    """Pictures in the index of an MP4, MOV or 3GP file; None for others, and where an edit list leaves some out.

    Raises OSError.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        index = next((box for box in _boxes(file, 0, size) if box[0] == b"moov"), None)
        if index is None or not 0 < index[2] - index[1] <= min(size, _INDEX_BYTES):
            return None
        file.seek(index[1])
        moov = file.read(index[2] - index[1])
    movie_s, _ = _time_base(moov, moov.find(b"mvhd"))
    for track in moov.split(b"trak")[1:]:
        samples, edits = track.find(b"stsz"), track.find(b"elst")
        units_s, length = _time_base(track, track.find(b"mdhd"))
        if not re.search(rb"hdlr.{8}vide", track, re.DOTALL) or samples < 0 or not (units_s and movie_s):
            continue
        if edits >= 0:
            wide = 8 if track[edits + 4 : edits + 5] == b"\1" else 4
            shown_s = _big(track, edits + 12, wide) / movie_s
            skipped_s = _big(track, edits + 12 + wide, wide) / units_s
            # One entry that skips less than a second: how encoders hide the delay of their B-frames.
            if _big(track, edits + 8, 4) != 1 or skipped_s > 1 or shown_s < length / units_s - 1:
                return None
        return _big(track, samples + 12, 4) or None
    return None


def _time_base(data: bytes, at: int) -> tuple[int, int]:
    """Units in a second and length in units, of a movie's or a track's header whose name stands at `at`."""
    wide = data[at + 4 : at + 5] == b"\1"
    first = at + (24 if wide else 16)
    return (_big(data, first, 4), _big(data, first + 4, 8 if wide else 4)) if at >= 0 else (0, 0)


def has_times(head: bytes) -> bool:
    """Whether a video that begins with `head` has time stamps; bare H.264, MPEG or JPEG pictures have only a rate."""
    return re.match(rb"\0?\0\0\x01[^\xba]|\xff\xd8|--", head) is None


def has_sound(path: Path) -> bool | None:
    """Whether a video file has a sound track; None where this is not told without decoding. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD_BYTES)
        if head[:4] == _EBML:
            return re.search(rb"\x83\x81\x02", head) is not None  # TrackType 2
        if head[:4] == b"RIFF":
            return b"auds" in head
        if head[:3] == b"FLV":
            return bool(head[4] & 4)
        if head[4:8] == b"ftyp":
            file.seek(max(0, size - (4 << 20)))  # the index stands at one of the ends
            return any(re.search(rb"hdlr.{8}soun", part, re.DOTALL) for part in (head, file.read()))
    return None


def _big(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "big")


def _little(data: bytes, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "little")


def _boxes(file: IO[bytes], at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and end of the boxes from `at` on; the last may end beyond `end`."""
    for _ in range(_MOST_BOXES):
        if at >= end:  # a length may lead to where no file can be
            return
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or not re.fullmatch(rb"[ -~\xa9]{4}", head[4:8]):
            return
        length, start = _big(head, 0, 4), at + 8
        if length == 1:
            length, start = _big(head, 8, 8), at + 16
        elif length == 0:
            length = end - at
        if length < 8:
            return
        yield head[4:8], start, at + length
        at += length


def _missing_elements(file: IO[bytes], size: int) -> int:
    """Matroska, WebM: elements of a variable-length number and length; a recorder that was stopped left some open."""
    at, _, length = _element(file, 0)
    at += length
    for _ in range(_MOST_BOXES):
        start, name, length = _element(file, at)
        if start == 0:
            return 0
        if name == _SEGMENT or (name == _CLUSTER and length < 0):
            if length >= 0 and start + length > size:
                return start + length - size
            at = start
            continue
        if length < 0:
            return 0
        at = start + length
        if at > size:
            return at - size
        if at == size:
            return 0
    return 0


def _element(file: IO[bytes], at: int) -> tuple[int, int, int]:
    """Where the content of the element at `at` starts (0: there is none), its number, and its length (-1: open)."""
    file.seek(at)
    head = file.read(12)
    if not head or head[0] < 0x08 or len(head) < 2:
        return 0, 0, 0
    width = 9 - head[0].bit_length()
    if len(head) <= width or head[width] == 0:
        return 0, 0, 0
    more = 9 - head[width].bit_length()
    bits = _big(head, width, more) & ((1 << 7 * more) - 1)
    return at + width + more, _big(head, 0, width), -1 if bits == (1 << 7 * more) - 1 else bits


def _missing_chunks(file: IO[bytes], size: int) -> int:
    """AVI: RIFF chunks, of which a file over a gigabyte has several."""
    at = 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF" or _little(head, 4, 4) == 0:  # 0: the recorder did not come to its end
            return 0
        at += 8 + _little(head, 4, 4)
        if at > size:
            return at - size
    return 0


def _missing_tags(file: IO[bytes], size: int) -> int:
    """FLV: a header and tags, behind each of which stands its length."""
    file.seek(0)
    claim = re.search(rb"filesize\0(.{8})", file.read(_HEAD_BYTES), re.DOTALL)
    if claim and size < (claimed := struct.unpack(">d", claim[1])[0]) < 1 << 60:
        return int(claimed) - size
    file.seek(size - 4)
    length = _big(file.read(4), 0, 4)
    if 11 <= length <= size - 13:
        file.seek(size - 4 - length)
        head = file.read(4)
        if head[0] & 0x1F in (8, 9, 18) and _big(head, 1, 3) == length - 11:
            return 0
    at = 9  # slower, and for a recorder that left the last length away
    while at + 4 < size:
        file.seek(at + 4)
        head = file.read(11)
        if len(head) < 11 or head[0] & 0x1F not in (8, 9, 18):
            return 1 if len(head) < 11 else 0
        at += 4 + 11 + _big(head, 1, 3)
    return max(0, at - size)


def _missing_packets(head: bytes, tail: bytes, step: int, start: int) -> int:
    """Transport stream cut between two packets, told for FFmpeg's alone.

    A receiver's recording is cut anywhere and whole all the same. FFmpeg ends every picture with a packet that is
    stuffed to its length, but for the one in 184 that needs no stuffing.
    """
    if b"FFmpeg" not in head:
        return 0
    last: dict[int, bytes] = {}
    starts = set()
    for data in (head, tail):
        for at in range(start, len(data) - 187, step):
            packet = data[at : at + 188]
            number = _big(packet, 1, 2) & 0x1FFF
            last[number] = packet[:4]
            payload = 5 + packet[4] if packet[3] & 0x20 else 4
            if packet[payload : payload + 3] == b"\0\0\x01":
                starts.add(number)  # of pictures or sound, not a table
    return int(any(last[number][3] & 0x30 == 0x10 for number in starts))


def _missing_of_packs(tail: bytes) -> int:
    """MPEG program stream: packs of packets with their length, ended by a code or by the file."""
    for pack in re.finditer(rb"\0\0\x01\xba", tail):
        at = pack.start()
        while tail[at : at + 3] == b"\0\0\x01" and at + 6 <= len(tail):
            code = tail[at + 3]
            if code == 0xBA:
                long = at + 14 <= len(tail) and tail[at + 4] >> 6 == 1
                at += 14 + (tail[at + 13] & 7) if long else 12
            elif code == 0xB9:
                at += 4
            elif code >= 0xBB:
                at += 6 + _big(tail, at + 4, 2)
            else:
                break
        if at > len(tail):
            return at - len(tail)
        rest = tail[at:]
        if not rest.strip(b"\0\xff") or rest == b"\0\0\x01\xb9":
            return 0
        if len(rest) < 6 and rest[:3] == b"\0\0\x01"[: len(rest)]:
            return 1
    return 0


def _missing_of_pages(tail: bytes) -> int:
    """Ogg: pages with a table of their segments."""
    at = tail.rfind(b"OggS")
    if at < 0:
        return 0
    count = tail[at + 26] if at + 26 < len(tail) else 0
    end = at + 27 + count + sum(tail[at + 27 : at + 27 + count])
    return max(0, end - len(tail), at + 27 - len(tail))
