"""What a file is, by its first bytes: a picture, a video, or something that is not read here.

The name decides only where the bytes cannot: a stream of JPEGs begins like one JPEG, a camera's raw photo like a TIFF,
and a file whose bytes mean nothing is taken for what its name says, so that its damage is told.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final, Literal

Kind = Literal["picture", "heic", "raw", "video", "folder", "empty", "special", "unreadable", "other"]
"""heic: readable with the extra `heic`; raw: a camera's undeveloped photo; special: a pipe, socket or device."""

PICTURE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
    | {".jp2"}
)
VIDEO_SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mjpg", ".mjpeg"}
    | {".mts", ".m2ts", ".ogv", ".vob", ".asf", ".m2v"}
)
"""Without .ts: a program's text has it more often than a damaged transport stream."""
_HEIC_SUFFIXES: Final = frozenset({".heic", ".heif", ".hif"})
_RAW_SUFFIXES: Final = frozenset(
    {".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".pef", ".srw", ".raf"}
)

HEAD_BYTES: Final = 4096
"""Enough for 21 packets of a transport stream, whose only mark is one byte in every 188."""

_PICTURE: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*|II\+\0|MM\0\+|P[1-6]\s|\0\0\0\x0cjP  \r\n"
    rb"|\xff\x4f\xff\x51|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    re.DOTALL,
)
_RAW: Final = re.compile(rb"II\*\0.{4}CR|IIR[OS]|MMOR|IIU\0|FUJIFILMCCD-RAW|.{4}ftypcrx ", re.DOTALL)
_VIDEO: Final = re.compile(
    rb"\x1a\x45\xdf\xa3|RIFF.{4}(AVI |AMV |CDXA)|FLV\x01|\0\0\x01[\xba\xb3]|\x30\x26\xb2\x75\x8e\x66\xcf\x11|YUV4MPEG2 "
    rb"|DKIF|\x06\x0e\x2b\x34|\x1f\x07\0[\x3f\xbf]|\0?\0\0\x01[\x67\x27\x47\x09\x06\x40\x42\x46]"
    rb"|.{4}(moov|mdat|wide|free|skip|pnot|moof|styp|sidx)|--.{1,200}?content-type: ?image/jpeg",
    re.DOTALL | re.IGNORECASE,
)
_HEIC_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"}
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_SOUND_BRANDS: Final = {b"M4A ", b"M4B ", b"M4P ", b"F4A "}


def kind_of(path: Path) -> Kind:
    """What `path` is. Never raises: what cannot be opened or is not there is "unreadable"."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait forever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        return "folder" if path.is_dir() else _unopened(path)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            return "folder"
        if not stat.S_ISREG(mode):
            return "special"
        head = os.read(descriptor, HEAD_BYTES)
    except OSError:
        return "unreadable"
    finally:
        os.close(descriptor)
    return kind_of_bytes(head, path.suffix.lower())


def _unopened(path: Path) -> Kind:
    """A device may say no to opening, and a socket always does."""
    try:
        return "unreadable" if stat.S_ISREG(path.stat().st_mode) else "special"
    except (OSError, ValueError):
        return "unreadable"


def kind_of_bytes(head: bytes, suffix: str = "") -> Kind:
    """What a file is that begins with `head` (HEAD_BYTES of it, or all) and whose name ends in `suffix`."""
    if _RAW.match(head) or (head[:4] in (b"II*\0", b"MM\0*") and suffix in _RAW_SUFFIXES):
        return "raw"
    if _PICTURE.match(head):
        return "video" if suffix in (".mjpg", ".mjpeg") else "picture"
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head[:4] == b"OggS":
        return "video" if b"theora" in head[:256] or b"\x80theora" in head else "other"
    if _VIDEO.match(head) or _is_transport_stream(head):
        return "video"
    if suffix in PICTURE_SUFFIXES:
        return "picture"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in _HEIC_SUFFIXES:
        return "heic"
    return ("raw" if suffix in _RAW_SUFFIXES else "other") if head else "empty"


def _by_brand(head: bytes) -> Kind:
    """Of an ISO base media file: which of its kinds, by major brand first."""
    size = min(len(head), max(16, int.from_bytes(head[:4], "big")))
    major, brands = head[8:12], {head[at : at + 4] for at in range(16, size - 3, 4)}
    if major in _AVIF_BRANDS or (major in _HEIC_BRANDS and brands & _AVIF_BRANDS and not brands & {b"heic", b"heix"}):
        return "picture"
    if major in _HEIC_BRANDS:
        return "heic"
    return "other" if major in _SOUND_BRANDS else "video"


def _is_transport_stream(head: bytes) -> bool:
    """Whether the sync byte comes back at every packet: 188 bytes, on Blu-ray 192, with error correction 204."""
    for step in (188, 192, 204):
        for start in range(min(step, len(head) - 4 * step)):
            if head[start] == 0x47 and all(head[at] == 0x47 for at in range(start, len(head), step)):
                return True
    return False
