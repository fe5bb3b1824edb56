"""The widgets that show pictures: the live one, on which boxes are drawn with the mouse, and thumbnails."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from edge_app.core.types import Pixels
from edge_app.tui.picture.mosaic import Mark, Mosaic
from edge_app.tui.picture.terminal import Terminal

_LEAST_CELLS = 2
"""A drag over less is a click."""


class Picture(Widget, can_focus=True):
    """A picture that fills its widget, as large as it fits."""

    ALLOW_SELECT = False

    class Dragged(Message):
        """A box was drawn with the mouse, or is being drawn."""

        def __init__(self, box: tuple[float, float, float, float], *, done: bool) -> None:
            """`box` is x1, y1, x2, y2 in the picture's pixels, not mirrored, within the picture."""
            super().__init__()
            self.box = box
            self.done = done

    DEFAULT_CSS = "Picture { width: 1fr; height: 1fr; padding: 0; border: none; background: black; }"

    def __init__(self, terminal: Terminal, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._mosaic = Mosaic(terminal)
        self._pixels: Pixels | None = None
        self._marks: Sequence[Mark] = ()
        self._pressed: tuple[int, int] | None = None
        self.mirror = False
        """Whether the picture is flipped, as in a mirror; words are not."""
        self.drawn = 0
        """Pictures drawn so far."""
        self.drawing_s = 0.0
        """Processor time spent on turning them into lines."""

    @property
    def bytes_encoded(self) -> int:
        """What the terminal was sent of it so far."""
        return self._mosaic.bytes_encoded

    def show(self, pixels: Pixels | None, marks: Sequence[Mark] = (), *, exact: bool = False) -> None:
        """Draw (H, W, 3) uint8 RGB pixels with boxes and words; None clears the area. `exact`: see `Mosaic.paint`."""
        self._pixels, self._marks = pixels, marks
        start_s = time.thread_time()
        changed = self._mosaic.paint(pixels, marks, mirror=self.mirror, exact=exact)
        self.drawing_s += time.thread_time() - start_s
        self.drawn += 1
        if changed:
            self.refresh(*_bands(changed, self.size.width))

    def redraw(self) -> None:
        """Draw the same picture again, after `mirror` was changed."""
        self.show(self._pixels, self._marks)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """A box begins."""
        if self._pixels is not None and event.button == 1:
            self._pressed = event.x, event.y
            self.capture_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The box grows."""
        self._tell_box(event, done=False)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        """The box is there."""
        self._tell_box(event, done=True)
        if self._pressed is not None:
            self._pressed = None
            self.release_mouse()

    def _tell_box(self, event: events.MouseEvent, *, done: bool) -> None:
        box = self._dragged_over(event)
        if box is not None:
            self.post_message(self.Dragged(box, done=done))

    def _dragged_over(self, event: events.MouseEvent) -> tuple[float, float, float, float] | None:
        """The pixels under the cells from where the button went down to here."""
        if self._pressed is None or self._pixels is None:
            return None
        columns, rows = sorted((self._pressed[0], event.x)), sorted((self._pressed[1], event.y))
        if columns[1] - columns[0] < _LEAST_CELLS or rows[1] - rows[0] < 1:
            return None
        height, width = self._pixels.shape[:2]
        x1, y1 = self._mosaic.pixel_at(columns[0], rows[0])
        x2, y2 = self._mosaic.pixel_at(columns[1] + 1, rows[1] + 1)
        x1, x2 = (min(max(x, 0.0), float(width)) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), float(height)) for y in (y1, y2))
        if x2 - x1 < 1 or y2 - y1 < 1:
            return None
        return (width - x2, y1, width - x1, y2) if self.mirror else (x1, y1, x2, y2)

    def on_resize(self, event: events.Resize) -> None:
        """Draw the last picture in the new size."""
        self._fit(event.size)

    def _fit(self, size: Size) -> None:
        self._mosaic.resize(size.width, size.height)
        self._mosaic.paint(self._pixels, self._marks, mirror=self.mirror)
        self.refresh()

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of a part of the widget; Textual's cache of styled lines would cost more than it saves."""
        strips = self._mosaic.strips
        if len(strips) < self.size.height or (strips and strips[0].cell_length != self.size.width):
            return [Strip.blank(crop.width, self.rich_style)] * crop.height
        right = crop.x + crop.width
        return [strips[y].crop(crop.x, right) for y in crop.line_range]


def _bands(lines: Sequence[int], width: int) -> list[Region]:
    """Neighbouring lines as one region each."""
    starts = [lines[0], *(b for a, b in pairwise(lines) if b != a + 1)]
    ends = [*(a for a, b in pairwise(lines) if b != a + 1), lines[-1]]
    return [Region(0, start, width, end - start + 1) for start, end in zip(starts, ends, strict=True)]


class Thumbnail(Picture, can_focus=False):
    """A small picture that does not change."""

    DEFAULT_CSS = "Thumbnail { width: 12; height: 6; }"

    def __init__(self, terminal: Terminal, pixels: Pixels) -> None:
        super().__init__(terminal)
        self._pixels = pixels
