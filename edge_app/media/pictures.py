"""Reading pictures as upright RGB pixels of a bounded size, and writing them.

A JPEG is decoded at a fraction of its size; other formats have no such mode and cost 1-4 bytes a pixel while they are
read, but nothing of full size is made after that. Peak memory measured at 12,000 x 9,000: 225 MiB for a JPEG (414 for a
progressive one, which libjpeg must hold whole), 660 MiB for a PNG.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from edge_app.core.errors import MediaError
from edge_app.core.types import Pixels
from edge_app.media.kinds import HEAD_BYTES, kind_of_bytes
from edge_app.system.files import replacing

WORKING_PX: Final = 4096
"""Default longest side of what is read: a 24 px face of a 12,000 px picture is still 8 px here, too small to name."""

MAX_PIXELS: Final = 178_956_970
"""More than this is refused unread; Pillow's own limit, 2**31 bytes / 12."""

MAX_SIDE_PX: Final = 65_500
"""The longest side a JPEG can have; anything beyond it is a damaged header or a trap."""

# Named one by one because Pillow would otherwise also try EPS, which starts a PostScript interpreter.
_FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
_HEIC_REMEDY: Final = "install what reads it: pip install 'edge-app[heic]'; or export it as JPEG"

_ITEM: Final = re.compile(rb"\0[\0\1]..infe", re.DOTALL)
"""The head of an entry, with a length below 131,072: by chance one in a million megabytes of pixels looks so."""

# What Pillow's decoders raise on damaged data, as seen by feeding them cut and altered files.
_DAMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    ZeroDivisionError,
    MemoryError,
    RuntimeError,  # AVIF
    struct.error,
    zlib.error,
)

# Mid-grey, not white: the enrollment gate counts blown-out pixels, and a cut-out portrait on white would fail it.
_BEHIND_ALPHA: Final = (128, 128, 128)

_BAND_PIXELS: Final = 4_000_000
"""Pixels converted at a time: bounds what a huge picture costs beyond its own decoding."""

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION: Final = 0x0112

_WRITE_FORMATS: Final = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}

# Pillow warns of size from 89 megapixels on, and of odd metadata; this module decides for itself, in its own words.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture as it was read, and how large it was in its file."""

    pixels: Pixels
    """(H, W, 3) uint8 RGB, upright."""
    original_size_px: tuple[int, int]
    """(width, height) in the file, upright."""

    @property
    def scale(self) -> float:
        """Length of a line in `pixels` over its length in the file, (0, 1]; divide a box by it to go back."""
        height, width = self.pixels.shape[:2]
        return float(max(width, height) / max(self.original_size_px))


def read_picture(path: Path, *, max_px: int = WORKING_PX) -> Pixels:
    """Read a picture as upright RGB pixels, (H, W, 3) uint8; see `open_picture`, which also tells the scale."""
    return open_picture(path, max_px=max_px).pixels


def open_picture(path: Path, *, max_px: int = WORKING_PX) -> Picture:
    """Read a picture, turned upright by its EXIF tag and shrunk until its longest side is at most `max_px`.

    Grey, 16-bit, palette and CMYK pictures become 8-bit RGB; transparent ones lie on mid-grey; of an animation the
    first frame is taken. Raises MediaError for a file that is absent, empty, no picture, cut short or too large.
    """
    path = Path(path)
    with _open_file(path) as file:
        kind = kind_of_bytes(file.read(HEAD_BYTES), path.suffix.lower())
        file.seek(0)
        if kind == "heic" and not can_read_heic():
            raise MediaError(f"{path} is a HEIC picture", remedy=_HEIC_REMEDY)
        if kind == "heic" and _has_nameless_items(file.read()):
            raise _damaged(path, "its index makes no sense")
        file.seek(0)
        if kind == "raw":
            raise MediaError(f"{path} is a camera's raw photo", expected="a picture", remedy="export it as JPEG")
        try:
            return _decode(file, path, max_px, ("HEIF",) if kind == "heic" else _FORMATS)
        except UnidentifiedImageError:
            if kind == "heic":
                raise _damaged(path, "its index makes no sense") from None
            found = f"{path} is a video" if kind == "video" else f"{path} is not a picture"
            raise MediaError(found, expected=f"one of {', '.join(_FORMATS)}", remedy="check the file") from None
        except Image.DecompressionBombError:
            raise _too_large(path, f"more than {MAX_PIXELS // 10**6} megapixels") from None
        except _DAMAGE as error:
            raise _damaged(path, _reason(error)) from error


def picture_of_bytes(data: bytes, name: str, *, max_px: int = WORKING_PX) -> Picture:
    """As `open_picture`, from the bytes of a file; `name` is what it is called in messages."""
    try:
        return _decode(io.BytesIO(data), name, max_px, _FORMATS)
    except (*_DAMAGE, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise MediaError(f"{name} is no whole picture ({_reason(error)})") from error


def write_picture(path: Path, pixels: Pixels, *, quality: int = 92, replace: bool = True, comment: str = "") -> None:
    """Write (H, W, 3) uint8 RGB pixels to a .jpg, .png or .webp file, atomically and with mode 0600.

    `quality` is 1-100 and means nothing to .png. With `replace=False` a file of that name is left as it is, which is a
    failure too. A JPEG carries the `comment`, which `comment_of` reads. Raises MediaError when the suffix is another or
    writing fails; what stood under that name before is then still whole.
    """
    path = Path(path)
    kind = _WRITE_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise MediaError(
            f"{path} cannot be written: its name ends in {path.suffix or 'nothing'!r}",
            expected=", ".join(_WRITE_FORMATS),
        )
    options: dict[str, int | bytes] = {} if kind == "PNG" else {"quality": quality}
    if kind == "JPEG" and comment:
        options["comment"] = comment.encode()
    try:
        with replacing(path, replace=replace) as scratch, scratch.open("wb") as file:
            Image.fromarray(np.ascontiguousarray(pixels), "RGB").save(file, kind, **options)
    except OSError as error:
        raise MediaError(
            f"{path} cannot be written ({_reason(error)})",
            remedy="check the folder, its permissions and the free space",
        ) from error


def comment_of(path: Path) -> str:
    """The comment in a JPEG file's head, "" where there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    at = 2 if head[:2] == b"\xff\xd8" else len(head)
    while head[at : at + 1] == b"\xff" and at + 4 <= len(head):
        length = int.from_bytes(head[at + 2 : at + 4], "big")
        if head[at + 1] == 0xFE:
            return head[at + 4 : at + 2 + length].decode("utf-8", "replace")
        at += 2 + length
    return ""


def encode_png(pixels: Pixels) -> bytes:
    """The bytes of a PNG file of (H, W, 3) uint8 RGB pixels: what the gallery keeps when the user wants pictures."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), "RGB").save(buffer, "PNG")
    return buffer.getvalue()


@cache
def can_read_heic() -> bool:
    """Whether HEIC pictures can be read here: the extra `heic` brings a decoder, which this makes known to Pillow."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False)
    return True


def _has_nameless_items(data: bytes) -> bool:
    """Whether an entry of a HEIC file's list of items is no text: a segmentation fault in pi-heif 1.4.0."""
    for found in _ITEM.finditer(data):
        at = found.start()
        entry = data[at + 8 : at + int.from_bytes(data[at : at + 4], "big")]
        # Version and flags, the item's number and protection; then its type of four letters, its name, and more texts.
        texts = entry[{3: 10}.get(entry[0], 8) if entry else 0 :]
        try:
            texts.decode()
        except UnicodeDecodeError:
            return True
    return False


def _open_file(path: Path) -> IO[bytes]:
    """Open a regular, non-empty file; the handle keeps it readable if its name disappears meanwhile."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait forever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise MediaError(f"{path} does not exist", expected="a picture", remedy="check the path") from None
    except (OSError, ValueError) as error:
        raise MediaError(
            f"{path} cannot be opened ({_reason(error)})", expected="a readable picture", remedy="check its permissions"
        ) from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path} is empty", expected="a picture", remedy="copy or save the file again")
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{path} is a folder", expected="a picture file", remedy="name a file in it")
    raise MediaError(f"{path} is a pipe or a device", expected="a picture file", remedy="save it to a file first")


def _decode(file: IO[bytes], path: Path | str, max_px: int, formats: tuple[str, ...]) -> Picture:
    with Image.open(file, formats=formats) as image:
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
            raise _too_large(path, f"{width} x {height} px")
        # A JPEG can be decoded at 1/2, 1/4 or 1/8; the smallest of these that is not under the limit is taken.
        shrink = min(1.0, max_px / max(width, height))
        image.draft(None, _scaled(image.size, shrink))
        image.load()
        small = _to_rgb(image, _scaled((width, height), shrink))
        turn = _orientation(image)
    if turn in _UPRIGHT:
        small = small.transpose(_UPRIGHT[turn])
    original = (height, width) if turn in (5, 6, 7, 8) else (width, height)
    return Picture(np.array(small, dtype=np.uint8), original)


def _scaled(size_px: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size_px[0] * scale)), max(1, round(size_px[1] * scale))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; a damaged EXIF block says nothing about the pixels, so it counts as upright."""
    with suppress(*_DAMAGE):
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    return 1


def _to_rgb(image: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    """Convert to RGB and shrink to `size_px`, band by band while the picture is much larger than that."""
    white = _white_level(image)
    width, height = image.size
    factor = max(1, min(width // size_px[0], height // size_px[1]))
    if width * height <= _BAND_PIXELS or (factor == 1 and image.mode == "RGB"):
        factor, whole = 1, _band_to_rgb(image, white)
    else:
        whole = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        rows = max(factor, _BAND_PIXELS // width // factor * factor)
        for top in range(0, height, rows):
            band = _band_to_rgb(image.crop((0, top, width, min(height, top + rows))), white)
            whole.paste(band.reduce(factor), (0, top // factor))
    if whole.size == size_px:
        return whole
    # Last column and row of a reduced picture stand for fewer pixels than the others: the box gives them their due.
    return whole.resize(size_px, Image.Resampling.LANCZOS, box=(0, 0, width / factor, height / factor))


def _white_level(image: Image.Image) -> float:
    """The value that means white in a picture of more than 8 bits per sample, 255 for all others."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in ("I", "F"):
        return 255.0
    values = np.asarray(image)
    top = float(values.max(where=np.isfinite(values), initial=0))  # maps of depth say "nothing" by infinity, or NaN
    return next((level for level in (1.0, 255.0, 65535.0) if top <= level and (level > 1 or image.mode == "F")), top)


def _band_to_rgb(image: Image.Image, white: float) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        known = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=white, neginf=0.0)
        values = known * np.float32(255.0 / white)
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*_BEHIND_ALPHA, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    return image.convert("RGB")


def _damaged(path: Path, reason: str) -> MediaError:
    found = f"{path} is damaged or cut short ({reason})"
    return MediaError(found, expected="a whole picture", remedy="copy or save the file again")


def _too_large(path: Path | str, size: str) -> MediaError:
    return MediaError(
        f"{path} claims {size}",
        expected=f"at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE_PX} px a side",
        remedy="scale it down",
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
