"""The widgets that show pictures: the live one, and thumbnails.

Hides when a line is drawn again. In: pixels and marks. Out: lines for Textual's compositor, only those that changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

from textual import events
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from edge_app.domain import Pixels
from edge_app.tui.mosaic import Mark, Mosaic
from edge_app.tui.terminal import Terminal


class Picture(Widget, can_focus=True):
    """A picture that fills its widget, as large as it fits."""

    DEFAULT_CSS = "Picture { width: 1fr; height: 1fr; padding: 0; border: none; background: black; }"

    def __init__(self, terminal: Terminal, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._mosaic = Mosaic(terminal)
        self._pixels: Pixels | None = None
        self._marks: Sequence[Mark] = ()
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

    def show(self, pixels: Pixels | None, marks: Sequence[Mark] = ()) -> None:
        """Draw (H, W, 3) uint8 RGB pixels with boxes and words; None clears the area."""
        self._pixels, self._marks = pixels, marks
        start_s = time.thread_time()
        changed = self._mosaic.paint(pixels, marks, mirror=self.mirror)
        self.drawing_s += time.thread_time() - start_s
        self.drawn += 1
        if changed:
            self.refresh(*_bands(changed, self.size.width))

    def redraw(self) -> None:
        """Draw the same picture again, after `mirror` was changed."""
        self.show(self._pixels, self._marks)

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
