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
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, ItemGrid, Vertical, VerticalScroll
from textual.widgets import Input, Label, Static

from edge_app.domain import Pixels, Reading, valid_name
from edge_app.enroll import Refusal
from edge_app.tui.frame import EdgeScreen, KeyBar, put
from edge_app.tui.messages import Capture, LookArea, Pause, Run, Update
from edge_app.tui.mosaic import Mark
from edge_app.tui.picture import Picture, Thumbnail
from edge_app.tui.readings import marks_of_reading

_ENOUGH: Final = 2
"""So many captures recognize a thing from more than one side."""
_MOST: Final = 9


@dataclass(frozen=True, slots=True, eq=False)
class _Capture:
    """One capture: what will be enrolled, and its picture."""

    shot: Any
    pixels: Pixels


class ThingScreen(EdgeScreen[None]):
    """Learns one thing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "capture", "Capture"),
        Binding("enter", "save", "Save"),
        Binding("backspace", "drop", "Drop the last"),
        Binding("w", "whole", "Whole picture"),
        Binding("escape", "leave", "Leave", priority=True),
    ]

    def __init__(self, model_id: str) -> None:
        """Things are enrolled for the image embedder in use."""
        super().__init__()
        self._model_id = model_id
        self._thing = ""
        self._captures: list[_Capture] = []
        self._look: Any = None
        self._reading: Reading | None = None
        self._saving = self._saved = False

    def compose(self) -> ComposeResult:
        """Name on top, picture and advice on the left, captures on the right."""
        with Horizontal(id="who"):
            yield Label("Enroll a thing")
            yield Input(placeholder="what is it called? then enter", compact=True, id="name")
        with Horizontal():
            with Vertical(id="stage"):
                yield Picture(self.edge.desk.terminal, id="picture")
                yield Static("Type a name and press enter", id="advice")
                yield Static(id="caution")
                yield Static(id="facts")
            with VerticalScroll(id="shots"):
                yield Static("No capture yet", id="none", classes="hint")
                yield ItemGrid()
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin at the name."""
        self.query_one("#shots").can_focus = False
        self.picture.mirror = self.edge.mirror
        self.query_one("#name", Input).focus()

    def on_unmount(self) -> None:
        """Capture no more."""
        self.edge.worker.send(Capture(False))

    @property
    def picture(self) -> Picture:
        """The live picture."""
        return self.query_one("#picture", Picture)

    @property
    def captures(self) -> int:
        """How many captures there are."""
        return len(self._captures)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The name was typed."""
        with self.telling():
            self._begin(valid_name(event.value))

    @work
    async def _begin(self, name: str) -> None:
        with self.telling():
            await self.order(Pause(False))
            await self.order(Capture(True))
            self._thing = name
            field = self.query_one("#name", Input)
            field.value, field.disabled = name, True
            self.picture.focus()
            self._advise()
            self.refresh_bindings()

    def show(self, update: Update) -> None:
        """Draw the picture and the box."""
        if self._saved or update.reading is None:
            return
        self._reading, self._look = update.reading, update.look
        self.picture.show(update.reading.frame.pixels, marks_of_reading(update.reading))

    def on_picture_dragged(self, event: Picture.Dragged) -> None:
        """A box is drawn with the mouse."""
        if self._reading is not None and not event.done:
            self.picture.show(self._reading.frame.pixels, [Mark(event.box, "", "new")])
        elif event.done:
            self._look_at(event.box)

    def action_whole(self) -> None:
        """Look at the whole picture."""
        self._look_at(None)

    @work(exclusive=True, group="area")
    async def _look_at(self, box: tuple[float, float, float, float] | None) -> None:
        with self.telling():
            await self.order(LookArea(None if box is None else np.array(box, np.float32)))

    def action_capture(self) -> None:
        """Keep what lies in the box now."""
        look, reading = self._look, self._reading
        if look is None or reading is None or not reading.spotted:
            self.edge.tell("there is no picture yet", severity="warning")
        elif isinstance(look, Refusal):
            self._caution(f"Not taken: {look.message}")
        elif len(self._captures) >= _MOST:
            self._caution(f"{_MOST} captures are enough: press enter to save")
        else:
            self._captures.append(_Capture(look, _cut(reading)))
            self._caution("")
            self._show_captures()

    def action_drop(self) -> None:
        """Take the last capture back."""
        if self._captures:
            self._captures.pop()
            self._show_captures()

    @work(exclusive=True, group="shots")
    async def _show_captures(self) -> None:
        self._advise()
        self.refresh_bindings()
        self.query_one("#none").display = not self._captures
        grid = self.query_one(ItemGrid)
        async with self.batch():
            await grid.remove_children()
            await grid.mount_all([self._box(number, one) for number, one in enumerate(self._captures, 1)])

    def _box(self, number: int, one: _Capture) -> Vertical:
        height, width = one.pixels.shape[:2]
        label = Label(f"{number} {width}x{height}", markup=False)
        return Vertical(Thumbnail(self.edge.desk.terminal, one.pixels), label, classes="shot")

    def _advise(self) -> None:
        line = self.query_one("#advice", Static)
        words = {
            0: "Show it, draw a box around it with the mouse, and press space",
            1: "Turn it or move it a little, and press space again",
        }.get(len(self._captures), "Enter saves; another side makes it surer")
        put(line, Text(words))
        line.set_class(len(self._captures) >= _ENOUGH, "well")

    def _caution(self, words: str) -> None:
        line = self.query_one("#caution", Static)
        line.display = bool(words)
        put(line, Text(words))

    def action_save(self) -> None:
        """Store the captures; after that, leave."""
        if self._saved:
            self.dismiss()
        elif len(self._captures) < _ENOUGH:
            self._caution(f"{len(self._captures)} of {_ENOUGH} captures: one more side is needed")
        elif not self._saving:
            self._store()

    @work
    async def _store(self) -> None:
        self._saving = True
        name, model_id = self._thing, self._model_id
        shots = tuple(one.shot for one in self._captures)
        try:
            with self.telling():
                refusals = await self.order(
                    Run(lambda bench: self.edge.desk.enroll_things(bench, model_id, name, shots))
                )
                if len(refusals) == len(shots):
                    self._caution(f"Nothing was stored: {refusals[0]}")
                    return
                await self.order(Capture(False))
                self._saved = True
                self._show_facts(len(shots) - len(refusals), refusals)
        finally:
            self._saving = False

    def _show_facts(self, stored: int, refusals: tuple[str, ...]) -> None:
        text = Text.assemble((f"● {self._thing} is enrolled with {stored} more captures\n\n", "bold green"))
        for words in refusals:
            text.append(f"not taken: {words}\n\n", "yellow")
        text.append("Press enter: it will be named when it is seen.", "dim")
        for hidden_part in ("#picture", "#advice", "#caution"):
            self.query_one(hidden_part).display = False
        facts = self.query_one("#facts", Static)
        facts.display = True
        facts.update(text)
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        if action in {"capture", "whole"}:
            return bool(self._thing) and not self._saved
        if action == "drop":
            return bool(self._captures) and not self._saved
        return True

    def action_leave(self) -> None:
        """Go back; what was not saved is gone."""
        self.dismiss()


def _cut(reading: Reading) -> Pixels:
    """The pixels of the box."""
    x1, y1, x2, y2 = (round(float(value)) for value in reading.spotted[0].box)
    return np.ascontiguousarray(reading.frame.pixels[max(0, y1) : max(y2, y1 + 1), max(0, x1) : max(x2, x1 + 1)])
