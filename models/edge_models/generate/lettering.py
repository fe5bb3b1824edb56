"""Text, numbers and number plates drawn in whatever fonts a machine has; fonts that lack a character are left out."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge_app.core.errors import UsageError
from edge_app.core.types import Pixels
from edge_models.generate.cutouts import CutOut

DIGITS: Final = "digits"
"""The pattern that stands for one picture per digit, each digit a class."""
FONT_FOLDERS: Final = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path("/Library/Fonts"))
_ENDINGS: Final = frozenset({".ttf", ".otf", ".ttc"})
_LETTERS: Final = "ABCDEFGHJKLMNPRSTUVWXYZ"
"""I, O and Q stand on few plates, for they look like 1 and 0."""
_NOBODY_HAS: Final = "\U0010fffe"
"""No font draws it: what it shows is the box for a character that is absent."""
_LONGEST: Final = 24
"""Characters of a text."""
_DRAWN_PX: Final = 64
_LEAST_ALIKE: Final = 0.25
"""Correlation with the median of all fonts that characters must have. Of 60 fonts here digits of a script hand have
0.50, of the others 0.58 and more; dingbats have -0.01."""
_PLATES: Final = (((250, 250, 246), (20, 20, 24)), ((250, 206, 40), (20, 20, 24)), ((24, 60, 150), (246, 246, 250)))
"""Ground and letters of plates: white, yellow, blue."""


@dataclass(frozen=True, slots=True)
class Fonts:
    """Font files that draw everything that is wanted."""

    files: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]
    """Others, and why."""


def find_fonts(folder: Path | None, wanted: str) -> Fonts:
    """The fonts of a folder, or of the system, that draw every character of `wanted`.

    Raises UsageError where none does or the folder is absent.
    """
    folders = [folder] if folder is not None else [one for one in FONT_FOLDERS if one.is_dir()]
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", expected="a folder of .ttf or .otf fonts")
    found = sorted(path for one in folders for path in one.rglob("*") if path.suffix.lower() in _ENDINGS)
    kept, left_out = [], []
    for path in found:
        if why := _fault(path, wanted):
            left_out.append((path, why))
        else:
            kept.append(path)
    if len(kept) > 2:
        shapes = np.stack([_look(path, wanted) for path in kept])
        alike = shapes @ (usual := np.median(shapes, axis=0)) / max(float(np.linalg.norm(usual)), 1e-9)
        # Fonts of symbols have crosses and arrows where others have digits.
        odd = {path for path, score in zip(kept, alike, strict=True) if score < _LEAST_ALIKE}
        left_out += [(path, "draws something else than the other fonts") for path in sorted(odd)]
        kept = [path for path in kept if path not in odd]
    if not kept:
        where = folder or " and ".join(map(str, folders)) or "the system's font folders"
        raise UsageError(
            f"no font in {where} draws {wanted!r}" + (f" ({left_out[0][0].name}: {left_out[0][1]})" if found else ""),
            expected="at least one .ttf or .otf file that does",
            remedy="apt install fonts-dejavu, or name a folder with --fonts DIR",
        )
    return Fonts(tuple(kept), tuple(left_out))


def _fault(path: Path, wanted: str) -> str:
    """Why a font cannot be used; "" where it can."""
    try:
        font = ImageFont.truetype(str(path), _DRAWN_PX)
        absent = _shape(font, _NOBODY_HAS)
        shapes = {character: _shape(font, character) for character in sorted(set(wanted) - {" "})}
    except (OSError, ValueError) as error:
        return f"cannot be read ({str(error).splitlines()[0][:60]})"
    lacking = [one for one, shape in shapes.items() if shape == absent or not any(shape)]
    if lacking:
        return f"lacks {''.join(lacking)}"
    if len(set(shapes.values())) < len(shapes):
        return "draws two characters alike"
    return ""


def _look(path: Path, wanted: str) -> NDArray[np.float64]:
    """Its characters side by side, each stretched to 16 x 16; one vector of unit length."""
    font, seen = ImageFont.truetype(str(path), _DRAWN_PX), []
    for character in sorted(set(wanted) - {" "}):
        canvas = Image.frombytes("L", (3 * _DRAWN_PX, 3 * _DRAWN_PX), _shape(font, character))
        drawn = np.asarray(canvas.crop(canvas.getbbox()).resize((16, 16)), np.float64).ravel()
        seen.append(drawn - drawn.mean())
    vector = np.concatenate(seen)
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))


def _shape(font: ImageFont.FreeTypeFont, character: str) -> bytes:
    box = font.getbbox(character)
    canvas = Image.new("L", (3 * _DRAWN_PX, 3 * _DRAWN_PX))
    ImageDraw.Draw(canvas).text((_DRAWN_PX - box[0], _DRAWN_PX - box[1]), character, 255, font)
    return canvas.tobytes()


def read_texts(text: str) -> dict[str, tuple[str, ...]]:
    """The patterns of `--text`, by the class that each stands for; "" where they stand for none.

    `[CLASS=]PATTERN`, several with commas between; a class may have several. In a pattern A is a letter, 9 a digit, and
    the character after a backslash itself. Raises UsageError for what is none of this.
    """
    found: dict[str, list[str]] = {}
    for entry in re.split(r"(?<!\\),", text):
        name, equals, pattern = entry.rpartition("=")
        name = name.strip()
        if equals and (not name or name.startswith(".") or "/" in name or "\\" in name or name != name.rstrip(".")):
            raise UsageError(f"{name!r} in --text {text!r} is no class", expected="a name that a folder can have")
        if not pattern and not name:
            raise UsageError(f"--text {text!r} holds no pattern", expected="such as A99, or ours=AB-12,none=")
        if len(_choices(pattern)) > _LONGEST:
            raise UsageError(f"--text {pattern!r} is too long", expected=f"at most {_LONGEST} characters")
        found.setdefault(name, []).append(pattern)
    if "" in found and len(found) > 1:
        raise UsageError(f"{found[''][0]!r} in --text {text!r} has no class, others have", remedy="write CLASS=PATTERN")
    folded = Counter(name.casefold() for name in found)
    if twins := [name for name in found if folded[name.casefold()] > 1]:
        raise UsageError(f"two classes of --text differ only by case: {' and '.join(twins)}", remedy="rename one")
    return {name: tuple(patterns) for name, patterns in found.items()}


def _choices(pattern: str) -> list[str]:
    """The characters that may stand in each place of a pattern."""
    places: list[str] = []
    for literal, one in re.findall(r"\\(.)|(.)", pattern):
        places.append(literal or {"A": _LETTERS, "9": string.digits}.get(one, one))
    return places


def characters_of(pattern: str) -> str:
    """Every character that texts of a pattern may hold."""
    return string.digits if pattern == DIGITS else "".join(_choices(pattern))


def text_of(pattern: str, rng: np.random.Generator) -> str:
    """A text: each A of the pattern becomes a letter, each 9 a digit, all else stays; `\\A` is an A."""
    return "".join(str(rng.choice(list(some))) if len(some) > 1 else some for some in _choices(pattern))


def draw_letters(text: str, fonts: Sequence[Path], rng: np.random.Generator) -> CutOut:
    """A text in one of the fonts, upright, in a random stroke and ink; nothing around it."""
    mask = _letters(text, fonts, rng, stroke=int(rng.integers(0, 4)))
    ink = np.array([rng.integers(0, 256)] * 3, np.uint8) if rng.random() < 0.5 else rng.integers(0, 256, 3, np.uint8)
    colour = np.broadcast_to(ink, (*mask.shape, 3)).astype(np.uint8)
    return CutOut(text, colour.copy(), mask, "", text)


def draw_plate(text: str, label: str, fonts: Sequence[Path], rng: np.random.Generator) -> CutOut:
    """A number plate of a class: a ground with a frame, and the text on it."""
    mask = _letters(text, fonts, rng, stroke=int(rng.integers(0, 2)))
    ground, ink = _PLATES[int(rng.choice(len(_PLATES), p=(0.6, 0.3, 0.1)))]
    margin = int(0.28 * mask.shape[0])
    size = (mask.shape[1] + 2 * margin, mask.shape[0] + 2 * margin)
    shape = Image.new("L", size)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), margin // 2, 255)
    plate = Image.new("RGB", size, ground)
    frame = (1, 1, size[0] - 2, size[1] - 2)
    ImageDraw.Draw(plate).rounded_rectangle(frame, margin // 2, outline=ink, width=max(1, margin // 6))
    plate.paste(Image.new("RGB", size, ink), (0, 0), Image.fromarray(_padded(mask, margin)))
    pixels: Pixels = np.asarray(plate, np.uint8)
    return CutOut(label, pixels.copy(), np.asarray(shape, np.float32) / np.float32(255), "", text)


def _padded(mask: NDArray[np.float32], margin: int) -> NDArray[np.uint8]:
    return np.pad(np.rint(255 * mask).astype(np.uint8), margin)


def _letters(text: str, fonts: Sequence[Path], rng: np.random.Generator, stroke: int) -> NDArray[np.float32]:
    font = ImageFont.truetype(str(fonts[int(rng.integers(len(fonts)))]), _DRAWN_PX)
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    canvas = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, 255, font, stroke_width=stroke)
    return np.asarray(canvas, np.float32) / np.float32(255)
