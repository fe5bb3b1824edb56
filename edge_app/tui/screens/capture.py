"""What enrolling a person and a thing share: a name, the picture over advice, what was captured, and saving it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.containers import Horizontal, ItemGrid, Vertical, VerticalScroll
from textual.widgets import Input, Label, Static

from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError
from edge_app.core.names import valid_name
from edge_app.core.types import Pixels
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict
from edge_app.tui.inbox import Capture, Enroll
from edge_app.tui.picture.widget import Picture, Thumbnail
from edge_app.tui.screens.base import EdgeScreen, KeyBar, put

Looks = tuple[tuple[str, Shot | Refusal], ...]
"""Where each picture came from, and what it gave."""


class CaptureScreen(EdgeScreen[None]):
    """Learns one person or one thing; until the end nothing is stored, so leaving in between leaves nothing behind."""

    WHAT = "Enroll"
    ASKS = "name, then enter"
    NONE_YET = "Nothing yet"
    FIRST = "Type a name and press enter"
    ONE, MANY = "shot", "shots"
    ENOUGH = 1
    """So many are needed before they can be saved."""

    def __init__(self, name: str = "") -> None:
        """Ask for a name first, unless one is given: then captures are added to what is known by it."""
        super().__init__()
        self._who = name
        self._saving = self._saved = False

    @property
    def taken(self) -> Sequence[Shot]:
        """What would be saved now."""
        raise NotImplementedError

    def labels(self) -> Sequence[str]:
        """A few words for each of `taken`, numbered from 1."""
        raise NotImplementedError

    def thumbnail(self, number: int) -> Pixels:
        """The picture of one of `taken`, (H, W, 3) uint8 RGB; `number` counts from 0."""
        return self.taken[number].crop

    def show_taken(self) -> None:
        self.refresh_bindings()
        self.show_captures([(words, self.thumbnail(i)) for i, words in enumerate(self.labels())])

    def count(self, number: int) -> str:
        """So many shots, in words."""
        return counted(number, self.ONE, self.MANY)

    async def store(self, name: str, looks: Looks, options: EnrollOptions) -> list[Verdict]:
        """Enroll looks under a name; when anything was stored, say what came of it.

        Returns what became of each. Raises EdgeError when nothing was stored. What was stored is told as stored,
        whatever fails after it.
        """
        verdicts: list[Verdict] = await self.order(Enroll(name, looks, options))
        refusals = [verdict.refusal for verdict in verdicts if verdict.refusal is not None]
        stored = len(verdicts) - len(refusals)
        if not stored:
            return verdicts
        self._who, self._saved = name, True
        self.edge.worker.send(Capture(False))
        try:
            total, better, after = await self.facts()
        except EdgeError as error:
            total, better, after = self.count(stored), (), f"its figures cannot be read now: {error}"
        text = Text()
        text.append(f"● {name} is enrolled with {total}", "bold green")
        text.append(f" ({stored} of them new)\n\n" if self.count(stored) != total else "\n\n")
        for refusal in refusals:
            text.append(f"not taken: {refusal.message}\n\n", "yellow")
        if better:
            text.append("What could be better\n", "bold")
        for fact in better:
            text.append(f"  • {fact}\n")
        text.append(f"\nPress enter for the live picture: {after}", "dim")
        self.show_facts(text)
        return verdicts

    async def facts(self) -> tuple[str, tuple[str, ...], str]:
        """How much is enrolled under the name now, what could be better, and what will happen when it is seen."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Name on top, picture and advice on the left, captures on the right."""
        with Horizontal(id="who"):
            yield Label(self.WHAT)
            yield Input(self._who, placeholder=self.ASKS, compact=True, id="name")
        with Horizontal():
            with Vertical(id="stage"):
                yield Picture(self.edge.desk.terminal, id="picture")
                yield VerticalScroll(id="review")
                yield Static(self.FIRST, id="advice")
                yield Static(id="caution")
                yield Static(id="facts")
            with VerticalScroll(id="shots"):
                yield Static(self.NONE_YET, id="none", classes="hint")
                yield ItemGrid()
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin at the name, or with the captures when it is known."""
        self.query_one("#shots").can_focus = False
        self.picture.mirror = self.edge.mirror
        if self._who:
            self.begin(self._who)
        else:
            self.query_one("#name", Input).focus()

    def on_unmount(self) -> None:
        """Capture no more."""
        self.edge.worker.send(Capture(False))

    @property
    def picture(self) -> Picture:
        return self.query_one("#picture", Picture)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The name was typed."""
        with self.telling():
            self.begin(valid_name(event.value))

    def begin(self, name: str) -> Any:
        """Start to capture what is called `name`."""
        raise NotImplementedError

    def keep_name(self, name: str) -> None:
        """Show the name as settled; from here on keys are commands."""
        self._who = name
        field = self.query_one("#name", Input)
        field.value, field.disabled = name, True
        self.picture.focus()
        self.refresh_bindings()

    def advise(self, words: str, *, well: bool) -> None:
        """What to do next, under the picture."""
        line = self.query_one("#advice", Static)
        put(line, Text(words))
        line.set_class(well, "well")

    def caution(self, words: str) -> None:
        """What is wrong; nothing when all is well."""
        line = self.query_one("#caution", Static)
        line.display = bool(words)
        put(line, Text(words))

    @work(exclusive=True, group="shots")
    async def show_captures(self, captures: Sequence[tuple[str, Pixels | None]]) -> None:
        """Show the captures as thumbnails, each over a few words; None: there is nothing to be seen of it."""
        self.query_one("#none").display = not captures
        grid = self.query_one(ItemGrid)
        terminal = self.edge.desk.terminal
        boxes = [
            Vertical(
                Static() if pixels is None else Thumbnail(terminal, pixels),
                Label(words, markup=False),
                classes="shot",
            )
            for words, pixels in captures
        ]
        async with self.batch():
            await grid.remove_children()
            await grid.mount_all(boxes)

    def show_facts(self, text: Text) -> None:
        """What came of it, in place of the picture."""
        for hidden_part in ("#picture", "#review", "#advice", "#caution"):
            self.query_one(hidden_part).display = False
        facts = self.query_one("#facts", Static)
        facts.display = True
        facts.update(text)
        self.refresh_bindings()

    def action_mirror(self) -> None:
        """Flip the picture."""
        self.picture.mirror = not self.picture.mirror
        self.edge.keep_mirror(self.picture.mirror)
        self.picture.redraw()

    def action_done(self) -> None:
        """Go back to the live picture: all is stored."""
        self.dismiss()

    def action_leave(self) -> None:
        """Go back; what was not saved is gone."""
        self.dismiss()
