"""Enrollment of a thing: a name, captures of the box that is looked at, and what came of them.

Hides the order of naming, capturing, saving. In: updates with looks at the box. Out: one enrollment at the end; until
then nothing is stored, so quitting in between leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType

from edge_app.core.types import Pixels, Reading
from edge_app.gallery.enrollment import Refusal
from edge_app.tui.inbox import Capture, Pause, Run, Update
from edge_app.tui.model_text import marks_of_reading
from edge_app.tui.picture.area import Area
from edge_app.tui.picture.mosaic import Mark
from edge_app.tui.picture.widget import Picture
from edge_app.tui.screens.box_keys import BOX_ACTIONS, BOX_KEYS, BoxScreen
from edge_app.tui.screens.capture import CaptureScreen

_ENOUGH: Final = 2
"""So many captures recognize a thing from more than one side."""
_MOST: Final = 9


@dataclass(frozen=True, slots=True, eq=False)
class _Capture:
    """One capture: what will be enrolled, and its picture."""

    shot: Any
    pixels: Pixels


class ThingScreen(BoxScreen, CaptureScreen):
    """Learns one thing."""

    WHAT = "Enroll a thing"
    ASKS = "what is it called? then enter"
    NONE_YET = "No capture yet"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "capture", "Capture"),
        Binding("enter", "save", "Save"),
        Binding("enter", "done", "Live picture"),
        Binding("backspace", "drop", "Drop the last"),
        *BOX_KEYS,
        Binding("w", "whole", "Whole picture"),
        Binding("m", "mirror", "Mirror"),
        Binding("escape", "leave", "Leave", priority=True),
    ]

    def __init__(self, model_id: str, name: str = "") -> None:
        """Things are enrolled for the image embedder in use."""
        super().__init__(name)
        self._model_id = model_id
        self._begun = False
        self._captures: list[_Capture] = []
        self._look: Any = None
        self._reading: Reading | None = None
        self._saving = self._saved = False

    @property
    def captures(self) -> int:
        """How many captures there are."""
        return len(self._captures)

    @work
    async def begin(self, name: str) -> None:
        """Start to capture what is called `name`."""
        with self.telling():
            await self.order(Pause(False))
            await self.order(Capture(True))
            self._begun = True
            self.keep_name(name)
            self._advise()

    def show(self, update: Update) -> None:
        """Draw the picture and the box."""
        if self._saved or update.reading is None:
            return
        self._reading, self._look = update.reading, update.look
        self._draw(update.reading)

    def _draw(self, reading: Reading) -> None:
        marks = marks_of_reading(reading)
        if self.area is not None and self.is_behind(reading):
            marks = [Mark(self.area.box, "", "new")]
        self.picture.show(reading.frame.pixels, marks)

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the picture that is shown; None before the first."""
        return self._reading.frame.size_px if self._reading is not None else None

    def look_at(self, area: Area | None) -> None:
        """Look for the thing in this box from now on, and show it before there is an answer."""
        super().look_at(area)
        if self._reading is not None:
            self._draw(self._reading)

    def on_picture_dragged(self, event: Picture.Dragged) -> None:
        """A box is drawn with the mouse."""
        if self._reading is not None and not event.done:
            self.picture.show(self._reading.frame.pixels, [Mark(event.box, "", "new")])
        elif self._reading is not None:
            self.look_at(Area(event.box, *self._reading.frame.size_px))

    def action_capture(self) -> None:
        """Keep what lies in the box now."""
        look, reading = self._look, self._reading
        if look is None or reading is None or not reading.spotted:
            self.edge.tell("there is no picture yet", severity="warning")
        elif self.is_behind(reading):
            self.caution("The box has just moved: wait for the next picture, then press space")
        elif isinstance(look, Refusal):
            self.caution(f"Not taken: {look.message}")
        elif len(self._captures) >= _MOST:
            self.caution(f"{_MOST} captures are enough: press enter to save")
        else:
            self._captures.append(_Capture(look, _cut(reading)))
            self.caution("")
            self._show_captures()

    def action_drop(self) -> None:
        """Take the last capture back."""
        if self._captures:
            self._captures.pop()
            self._show_captures()

    def _show_captures(self) -> None:
        self._advise()
        self.refresh_bindings()
        self.show_captures([(_label(number, one), one.pixels) for number, one in enumerate(self._captures, 1)])

    def _advise(self) -> None:
        words = {
            0: "Show it, put a box around it (mouse, or b and the arrows), and press space",
            1: "Turn it or move it a little, and press space again",
        }.get(len(self._captures), "Enter saves; another side makes it surer")
        self.advise(words, well=len(self._captures) >= _ENOUGH)

    def action_save(self) -> None:
        """Store the captures; after that, leave."""
        if len(self._captures) < _ENOUGH:
            self.caution(f"{len(self._captures)} of {_ENOUGH} captures: one more side is needed")
        elif not self._saving:
            self._store()

    @work
    async def _store(self) -> None:
        self._saving = True
        name, model_id = self._who, self._model_id
        shots = tuple(one.shot for one in self._captures)
        try:
            with self.telling():
                refusals = await self.order(
                    Run(lambda bench: self.edge.desk.enroll_things(bench, model_id, name, shots))
                )
                if len(refusals) == len(shots):
                    self.caution(f"Nothing was stored: {refusals[0]}")
                    return
                await self.order(Capture(False))
                self._saved = True
                self._show_facts(len(shots) - len(refusals), refusals)
        finally:
            self._saving = False

    def _show_facts(self, stored: int, refusals: tuple[str, ...]) -> None:
        text = Text.assemble((f"● {self._who} is enrolled with {_captures(stored)}\n\n", "bold green"))
        for words in refusals:
            text.append(f"not taken: {words}\n\n", "yellow")
        text.append("Press enter for the live picture: it will be named when it is seen.", "dim")
        self.show_facts(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        if action in {"save", "done"}:
            return self._saved == (action == "done")
        if action in {"capture", "mirror"}:
            return self._begun and not self._saved
        if action in BOX_ACTIONS:
            return self._begun and not self._saved and self.offers(action)
        if action == "drop":
            return bool(self._captures) and not self._saved
        return True


def _label(number: int, one: _Capture) -> str:
    height, width = one.pixels.shape[:2]
    return f"{number} {width}x{height}"


def _captures(count: int) -> str:
    return "1 capture" if count == 1 else f"{count} captures"


def _cut(reading: Reading) -> Pixels:
    """The pixels of the box."""
    x1, y1, x2, y2 = (round(float(value)) for value in reading.spotted[0].box)
    return np.ascontiguousarray(reading.frame.pixels[max(0, y1) : max(y2, y1 + 1), max(0, x1) : max(x2, x1 + 1)])
