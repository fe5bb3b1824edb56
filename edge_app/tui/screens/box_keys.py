"""Keys and mouse for the box in which things are looked for.

The next key moves the box from where it is shown, while the worker's answer to the last one is still on its way.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from textual import work
from textual.binding import Binding

from edge_app.core.types import Seen
from edge_app.tui.picture.area import Area
from edge_app.tui.screens.base import EdgeScreen

_ARROWS: Final = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

BOX_KEYS: Final[tuple[Binding, ...]] = (
    Binding("b", "box", "Box"),
    # One word in the bar for all four.
    *(
        Binding(key, f"nudge({x}, {y})", "Move the box", show=key == "left", key_display="arrows")
        for key, (x, y) in _ARROWS.items()
    ),
    *(
        Binding(f"shift+{key}", f"grow({x}, {y})", "Stretch the box", show=False, key_display="shift+arrows")
        for key, (x, y) in _ARROWS.items()
    ),
    Binding("plus", "grow(1, 1)", "Resize it", key_display="+/-"),
    Binding("minus", "grow(-1, -1)", "Resize it", show=False, key_display="+/-"),
)
"""For the BINDINGS of a `BoxScreen`, where they should stand in the bar."""

BOX_ACTIONS: Final = frozenset({"box", "nudge", "grow", "whole"})
"""What `BoxScreen.offers` answers for."""


class BoxScreen(EdgeScreen[None]):
    """A screen on which the box is moved and resized; mixed into those that show the picture."""

    @property
    def area(self) -> Area | None:
        """The box that is looked at; None: the whole picture."""
        return self.edge.area

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the picture that is shown; None before the first."""
        raise NotImplementedError

    def offers(self, action: str) -> bool:
        """Whether one of `BOX_ACTIONS` does something now; a box can always be made."""
        return action == "box" or self.area is not None

    def is_behind(self, seen: Seen) -> bool:
        """Whether the answer is for another box than the one that is looked at."""
        # Boxes cross to the worker as float32.
        area = self.area
        return area is not None and not (
            bool(seen.findings) and bool(np.allclose(seen.findings[0].box, area.box, atol=1.0))
        )

    def action_box(self) -> None:
        """A box in the middle, to be moved with the arrow keys."""
        if self.size_px is not None:
            self.look_at(Area.middle(*self.size_px))

    def action_nudge(self, across: int, down: int) -> None:
        """Move the box."""
        if self.area is not None:
            self.look_at(self.area.moved(across, down))

    def action_grow(self, across: int, down: int) -> None:
        """Make the box larger or smaller."""
        if self.area is not None:
            self.look_at(self.area.grown(across, down))

    def action_whole(self) -> None:
        """Look at the whole picture again."""
        self.look_at(None)

    def look_at(self, area: Area | None) -> None:
        """Look for things in this box from now on."""
        # At once: the next key moves the box from where it is now.
        self.edge.area = area
        self.refresh_bindings()
        self._send_area(area)

    @work(exclusive=True, group="area")
    async def _send_area(self, area: Area | None) -> None:
        with self.telling():
            await self.edge.look_at(area)
