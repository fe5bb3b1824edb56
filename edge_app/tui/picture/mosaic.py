"""Draws RGB pixels, with boxes and words over them, as lines of terminal cells.

Each cell is an upper half block, so it shows two pixels, one above the other. What changed by less than can be seen is
not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from edge_app.core.types import Pixels
from edge_app.tui.picture.palette import dithered, palette_numbers
from edge_app.tui.picture.terminal import Terminal

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Glyphs = NDArray[np.bytes_]

MarkKind = Literal["known", "unknown", "new", "ignored"]

HALF: Final = "▀".encode()
_SLOT: Final = 12
"""Most UTF-8 bytes of one cell: a letter with its combining marks."""

SEEN_STEP: Final = 6
"""A pixel keeps its colour until it differs by more than this, of 255: sensor noise is not worth sending."""

INKS: Final[dict[MarkKind, tuple[tuple[int, int, int], tuple[int, int, int]]]] = {
    "known": ((255, 255, 255), (0, 125, 92)),
    "unknown": ((0, 0, 0), (230, 159, 0)),
    "new": ((255, 255, 255), (70, 90, 110)),
    "ignored": ((200, 200, 200), (60, 60, 60)),
}
"""Letters and ground of a label by kind: Okabe and Ito's palette, which colour-blind people tell apart."""

_LINES: Final[dict[MarkKind, str]] = {"known": "┌─┐│└┘", "unknown": "┌╌┐╎└┘", "new": "┌ ┐ └┘", "ignored": "┌ ┐ └┘"}
_ASCII_LINES: Final[dict[MarkKind, str]] = {
    "known": "+-+|++",
    "unknown": "+.+:++",
    "new": "+ + ++",
    "ignored": "+ + ++",
}
"""Corner, top, corner, side, corners: whole, dashed, and corners only, so that kinds differ without colour."""

_SHADES: Final = {True: " ░▒▓█", False: " `,;cxoOX#@"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A box with a few words, drawn over the picture."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in the picture's pixels, not mirrored."""
    text: str
    """Empty: a frame alone."""
    kind: MarkKind


class Mosaic:
    """The lines of one picture area, and what of them was drawn already."""

    def __init__(self, terminal: Terminal, ground: tuple[int, int, int] = (0, 0, 0)) -> None:
        self._terminal = terminal
        self._ground = ground
        self._shown: Bytes | None = None
        self._cells: _Cells | None = None
        self._place: tuple[float, int, int] = (1.0, 0, 0)
        self.strips: list[Strip] = []
        self.bytes_encoded = 0
        """Length of all escape sequences made so far: what the terminal was sent."""

    def resize(self, columns: int, rows: int) -> None:
        """Start again with an empty area of so many cells."""
        self._cells = None
        self._shown = np.full((2 * rows, columns, 3), self._ground, np.uint8)
        self.paint(None)

    def paint(
        self, pixels: Pixels | None, marks: Sequence[Mark] = (), *, mirror: bool = False, exact: bool = False
    ) -> list[int]:
        """Draw (H, W, 3) uint8 RGB pixels as large as they fit, and return the lines that changed.

        None draws nothing but the ground. `mirror` flips the picture, not the words. `exact` draws the smallest
        differences too, as after something was laid over the picture: its faint edges are no noise.
        """
        if self._shown is None or 0 in self._shown.shape:
            return []
        area, self._place = self._fitted(pixels, mirror)
        moved = np.abs(area.astype(np.int16) - self._shown).max(axis=2) > (0 if exact else SEEN_STEP)
        self._shown = np.where(moved[..., None], area, self._shown)
        # Fewer shades make longer runs of one colour, and a run's colour is sent once.
        shades = (self._shown & np.uint8(0xF8)) | np.uint8(4) if self._terminal.remote else self._shown
        cells = _picture_cells(shades, self._terminal)
        if pixels is not None:
            placed = [_placed(mark, self._place, pixels.shape[1], mirror) for mark in marks]
            for mark in placed:
                _draw_frame(cells, mark, self._terminal)
            taken = np.zeros(cells.glyph.shape, np.bool_)
            # The last is the largest: its label gets the best place, the others make room.
            for mark in reversed(placed):
                _write_label(cells, mark, taken, self._terminal)
        return self._take_over(cells)

    def pixel_at(self, column: float, row: float) -> tuple[float, float]:
        """Which x, y of the last picture, as it was shown (mirrored or not), lie at a place in the area, in cells."""
        scale, left, top = self._place
        return (column - left) / scale, (2 * row - top) / scale

    def _fitted(self, pixels: Pixels | None, mirror: bool) -> tuple[Bytes, tuple[float, int, int]]:
        """The area's new pixels, and scale, left and top of the picture in it; half cells are taken as square."""
        assert self._shown is not None
        rows, columns = self._shown.shape[:2]
        area = np.full((rows, columns, 3), self._ground, np.uint8)
        if pixels is None:
            return area, (1.0, 0, 0)
        height, width = pixels.shape[:2]
        scale = min(columns / width, rows / height)
        size = max(1, round(width * scale)), max(2, round(height * scale) // 2 * 2)
        # Area averaging is the right way down; enlarging needs another.
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = np.asarray(cv2.resize(pixels, size, interpolation=method), np.uint8)
        left, top = (columns - size[0]) // 2, (rows - size[1]) // 4 * 2
        area[top : top + size[1], left : left + size[0]] = small[:, ::-1] if mirror else small
        return area, (scale, left, top)

    def _take_over(self, cells: _Cells) -> list[int]:
        """Make strips of the lines that differ from what was drawn."""
        before = self._cells
        changed = cells.lines_unlike(before)
        if before is None:
            self.strips = [Strip.blank(cells.glyph.shape[1])] * cells.glyph.shape[0]
        for y, text in zip(changed, cells.encoded(changed), strict=True):
            self.bytes_encoded += len(text)
            self.strips[y] = MosaicStrip(cells.glyph.shape[1], text, cells.maker(y))
        self._cells = cells
        return changed


class MosaicStrip(Strip):
    """A line whose escape sequences are ready; its segments are only made when something lies over it.

    4,800 cells as rich Segments cost 60 ms a frame, as numpy bytes 3 ms.
    """

    __slots__ = ("_made", "_make")

    def __init__(self, width: int, text: str, make: Callable[[], list[Segment]]) -> None:
        self._make = make
        self._made: list[Segment] | None = None
        super().__init__((), width)
        self._render_cache = text

    @property
    def _segments(self) -> list[Segment]:
        if self._made is None:
            self._made = self._make()
        return self._made

    @_segments.setter
    def _segments(self, value: list[Segment]) -> None:
        """What the base class starts with is not wanted."""


@dataclass(slots=True, eq=False)
class _Cells:
    """A character, its colour and its ground for every cell; the last two in the terminal's own depth."""

    glyph: Glyphs
    """(R, C) UTF-8 bytes; empty where the cell before is two wide."""
    ink: Bytes
    """(R, C, 3)."""
    paper: Bytes
    """(R, C, 3)."""
    terminal: Terminal

    def lines_unlike(self, other: _Cells | None) -> list[int]:
        """Lines that look different in the other; all, when there is none."""
        if other is None:
            return list(range(len(self.glyph)))
        unlike = (self.glyph != other.glyph).any(axis=1)
        if self.terminal.ink != "mono":
            unlike |= ((self.ink != other.ink) | (self.paper != other.paper)).any(axis=(1, 2))
        return [int(y) for y in np.flatnonzero(unlike)]

    def encoded(self, lines: Sequence[int]) -> list[str]:
        """Each line as escape sequences and text, ending with colours off."""
        if not lines:
            return []
        if self.terminal.ink == "mono":
            return [b"".join(self.glyph[y].tolist()).decode() for y in lines]
        wanted = np.asarray(lines)
        return _sequences(self.glyph[wanted], self._codes(self.ink[wanted]), self._codes(self.paper[wanted]))

    def maker(self, y: int) -> Callable[[], list[Segment]]:
        """Return what makes the line's segments, when they are wanted."""
        return lambda: [
            Segment(bytes(glyph).decode(), self._style(ink, paper))
            for glyph, ink, paper in zip(self.glyph[y], self.ink[y], self.paper[y], strict=True)
            if glyph
        ]

    def _codes(self, colours: Bytes) -> Bytes:
        """(L, C, 3) true colours, or (L, C, 1) numbers of the palette."""
        return colours if self.terminal.ink == "truecolor" else palette_numbers(colours)[..., None]

    def _style(self, ink: Bytes, paper: Bytes) -> Style | None:
        if self.terminal.ink == "mono":
            return None
        if self.terminal.ink == "256":
            return Style(
                color=Color.from_ansi(int(palette_numbers(ink))), bgcolor=Color.from_ansi(int(palette_numbers(paper)))
            )
        return Style(color=Color.from_rgb(*ink.tolist()), bgcolor=Color.from_rgb(*paper.tolist()))


def _picture_cells(shown: Bytes, terminal: Terminal) -> _Cells:
    """The picture alone, (2R, C, 3) pixels as R lines of cells."""
    top, bottom = shown[0::2], shown[1::2]
    if terminal.ink == "mono":
        shades = _SHADES[terminal.unicode]
        light = shown.reshape(len(top), 2, -1, 3).mean(axis=(1, 3))
        ramp = np.array([shade.encode() for shade in shades], f"S{_SLOT}")
        step = np.minimum((light * len(shades) / 256).astype(np.intp), len(shades) - 1)
        return _Cells(ramp[step], top.copy(), bottom.copy(), terminal)
    if not terminal.unicode:
        mean = ((top.astype(np.uint16) + bottom) // 2).astype(np.uint8)
        return _Cells(np.full(top.shape[:2], b" ", f"S{_SLOT}"), mean, mean.copy(), terminal)
    if terminal.ink == "256":
        coarse = dithered(shown)
        top, bottom = coarse[0::2], coarse[1::2]
    return _Cells(np.full(top.shape[:2], HALF, f"S{_SLOT}"), top.copy(), bottom.copy(), terminal)


def _placed(mark: Mark, place: tuple[float, int, int], width_px: int, mirror: bool) -> Mark:
    """The mark with its box in cells."""
    scale, left, top = place
    x1, y1, x2, y2 = mark.box
    if mirror:
        x1, x2 = width_px - x2, width_px - x1
    box = (x1 * scale + left, (y1 * scale + top) / 2, x2 * scale + left, (y2 * scale + top) / 2)
    return Mark(box, mark.text, mark.kind)


def _draw_frame(cells: _Cells, mark: Mark, terminal: Terminal) -> None:
    """Draw a frame; what lies outside the area is left out."""
    rows, columns = cells.glyph.shape
    x1, y1, x2, y2 = _corners(mark)
    if x2 < 0 or y2 < 0 or x1 >= columns or y1 >= rows:
        return
    lines = _LINES if terminal.unicode else _ASCII_LINES
    corner1, across, corner2, down, corner3, corner4 = tuple(lines[mark.kind])
    for x in range(x1 + 1, x2):
        _put(cells, x, y1, across, mark.kind)
        _put(cells, x, y2, across, mark.kind)
    for y in range(y1 + 1, y2):
        _put(cells, x1, y, down, mark.kind)
        _put(cells, x2, y, down, mark.kind)
    for x, y, corner in ((x1, y1, corner1), (x2, y1, corner2), (x1, y2, corner3), (x2, y2, corner4)):
        _put(cells, x, y, corner, mark.kind)


def _corners(mark: Mark) -> tuple[int, int, int, int]:
    """A frame's cells, at least three by three."""
    x1, y1, x2, y2 = (round(value) for value in mark.box)
    return x1, y1, max(x2, x1 + 2), max(y2, y1 + 2)


def _put(cells: _Cells, x: int, y: int, character: str, kind: MarkKind) -> None:
    """One character of a frame, on the picture's own colour."""
    if character == " " or not (0 <= y < cells.glyph.shape[0] and 0 <= x < cells.glyph.shape[1]):
        return
    under = (cells.ink[y, x].astype(np.uint16) + cells.paper[y, x]) // 2
    # A frame must be seen on white and on black: its ground is drawn towards black.
    cells.paper[y, x] = under // 2
    cells.ink[y, x] = _FRAME_INKS[kind]
    cells.glyph[y, x] = character.encode()


_FRAME_INKS: Final[dict[MarkKind, tuple[int, int, int]]] = {
    "known": (60, 235, 170),
    "unknown": (255, 190, 40),
    "new": (220, 230, 240),
    "ignored": (150, 150, 150),
}

_LEAST_LABEL: Final = 6
"""Cells of the shortest label that still says something: a letter or three between blanks, and the sign of a cut."""


def _write_label(cells: _Cells, mark: Mark, taken: Mask, terminal: Terminal) -> None:
    """Write a mark's words where no other label is, near its frame; shortened, or left out, where there is no room."""
    rows, columns = cells.glyph.shape
    x1, y1, x2, y2 = _corners(mark)
    if not mark.text or x2 < 0 or y2 < 0 or x1 >= columns or y1 >= rows:
        return None
    text = f" {mark.text} "
    # Above the frame, below it, and then in it, from its edges inwards: never on another's frame first.
    inside = [y for pair in zip(range(y1, y2 + 1), range(y2, y1 - 1, -1), strict=True) for y in pair]
    lines = [y for y in dict.fromkeys((y1 - 1, y2 + 1, *inside)) if 0 <= y < rows]
    fits = cell_len(text) <= columns
    places = [(y, left) for y in lines for left in _lefts(x1, x2, cell_len(text), columns)] if fits else []
    for y, left in places:
        if not taken[y, max(0, left - 1) : left + cell_len(text) + 1].any():
            return _write(cells, mark.kind, text, left, y, taken)
    # Nowhere is room for all of it: as much as the freest of these lines has, from the frame's own left side on.
    start = max(0, min(x1, columns - _LEAST_LABEL))
    room = {y: _free(taken[y], start) for y in lines}
    best = max(room, key=lambda y: room[y], default=None)
    if best is None or room[best] < _LEAST_LABEL:
        return None
    cut = set_cell_size(mark.text, room[best] - 3).rstrip() + ("…" if terminal.unicode else "~")
    return _write(cells, mark.kind, f" {cut} ", start, best, taken)


def _lefts(x1: int, x2: int, width: int, columns: int) -> list[int]:
    """Where a label of so many cells may begin: at the frame's left side, in its middle, ending at its right side."""
    wanted = (x1, (x1 + x2 + 1 - width) // 2, x2 + 1 - width)
    return list(dict.fromkeys(max(0, min(left, columns - width)) for left in wanted))


def _free(line: Mask, start: int) -> int:
    """Cells from `start` on that no label has, one apart from the next label."""
    if line[max(0, start - 1) : start + 1].any():
        return 0
    others = np.flatnonzero(line[start:])
    return int(others[0]) - 1 if len(others) else len(line) - start


def _write(cells: _Cells, kind: MarkKind, text: str, left: int, y: int, taken: Mask) -> None:
    ink, paper = INKS[kind]
    columns = cells.glyph.shape[1]
    x = left
    for cluster in _clusters(text):
        width = cell_len(cluster)
        if x + width > columns:
            break
        encoded = cluster.encode()
        cells.glyph[y, x] = encoded if len(encoded) <= _SLOT else b"?" * width
        cells.glyph[y, x + 1 : x + width] = b""
        cells.ink[y, x : x + width], cells.paper[y, x : x + width] = ink, paper
        x += width
    taken[y, left:x] = True


def _clusters(text: str) -> Iterator[str]:
    """Letters, each with the marks of no width that follow it."""
    cluster = ""
    for character in text:
        if cluster and cell_len(character) > 0:
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _digits() -> tuple[Bytes, Mask]:
    """The decimal digits of 0-255 as (256, 3) bytes, and which of them are written (no leading zeros)."""
    text = np.array([list(f"{value:03d}".encode()) for value in range(256)], np.uint8)
    written = np.arange(256)[:, None] >= np.array([100, 10, 0])
    return text, written


_DIGITS, _WRITTEN = _digits()


def _sequences(glyphs: Glyphs, ink: Bytes, paper: Bytes) -> list[str]:
    """Lines as text: a colour is only written where it differs from the cell's before.

    All is laid out as one table of bytes with a place for everything, and a mask of what is written: a Python loop
    over 4,800 cells takes ten times as long.
    """
    lines, columns, parts = ink.shape
    new_ink, new_paper = _differs(ink), _differs(paper)
    either, both = new_ink | new_paper, new_ink & new_paper
    lengths = np.strings.str_len(glyphs).ravel()
    sizes = [2, 4, *[4] * parts, 1, 4, *[4] * parts, 1, _SLOT]
    table = np.empty((lines * columns, sum(sizes)), np.uint8)
    written = np.empty(table.shape, np.bool_)
    ends = np.cumsum(sizes)
    places = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    slots = iter([(table[:, place], written[:, place]) for place in places])
    _fixed(*next(slots), b"\x1b[", either)
    _colour(slots, b"38;2" if parts == 3 else b"38;5", ink.reshape(-1, parts), new_ink)
    _fixed(*next(slots), b";", both)
    _colour(slots, b"48;2" if parts == 3 else b"48;5", paper.reshape(-1, parts), new_paper)
    _fixed(*next(slots), b"m", either)
    text, mask = next(slots)
    text[:] = np.frombuffer(glyphs.tobytes(), np.uint8).reshape(-1, _SLOT)
    # A cell that is the second half of a wide letter writes nothing, and its colours are its left half's.
    mask[:] = np.arange(_SLOT)[None, :] < lengths[:, None]
    whole = table[written].tobytes()
    stops = np.cumsum(written.reshape(lines, -1).sum(axis=1)).tolist()
    return [whole[start:stop].decode() + "\x1b[0m" for start, stop in zip([0, *stops], stops, strict=False)]


def _differs(colours: Bytes) -> Mask:
    """(L * C,) whether a cell's colour is unlike that of the cell before it in its line."""
    differs = np.ones(colours.shape[:2], np.bool_)
    differs[:, 1:] = (colours[:, 1:] != colours[:, :-1]).any(axis=2)
    return differs.ravel()


def _fixed(table: Bytes, written: Mask, text: bytes, where: Mask) -> None:
    table[:] = np.frombuffer(text, np.uint8)
    written[:] = where[:, None]


def _colour(slots: Iterator[tuple[Bytes, Mask]], start: bytes, colours: Bytes, where: Mask) -> None:
    """Fill the places of one colour: its introduction, and for each part a semicolon and up to three digits."""
    _fixed(*next(slots), start, where)
    for part in range(colours.shape[1]):
        table, written = next(slots)
        table[:, 0], written[:, 0] = ord(";"), where
        table[:, 1:] = _DIGITS[colours[:, part]]
        written[:, 1:] = _WRITTEN[colours[:, part]] & where[:, None]
