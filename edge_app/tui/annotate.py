"""The app that asks about pictures: one at a time, a key per class, and what the answers are worth beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final

from rich.cells import set_cell_size
from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError
from edge_app.core.plain_text import plain
from edge_app.core.types import Pixels
from edge_app.library.annotation import Annotation, Asked
from edge_app.library.labels import Kind
from edge_app.tui.picture.curve import learning_curve
from edge_app.tui.picture.terminal import ROOMY, Terminal
from edge_app.tui.picture.widget import Picture

KEYS: Final = "123456789acdefghijklmoprtvwxyz"
"""The keys of the classes, in their order; the other letters are commands."""
_BAR: Final = 10
_NAME: Final = 16
"""Cells of a class's name beside its bar, where there is room for both."""
_FLAT: Final = 12
"""Rows under which the classes need the room of the keys."""
_WHY: Final = {
    "group": "typical of a large group",
    "doubt": "the head doubts what it is",
    "random": "drawn at random, to measure by",
    "check": "its label may be wrong",
}


class AskClass(ModalScreen[str | None]):
    """Asks for the name of a class."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]
    DEFAULT_CSS = """
    AskClass { align: center middle; }
    AskClass Vertical { width: 60; max-width: 96%; height: auto; border: round $accent; padding: 0 2; }
    """

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label("A new class: its name, then enter")
            yield Input(placeholder="scratch")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)


class AnnotateApp(App[None]):
    """One picture after the other."""

    TITLE = "edge-app annotate"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-slim"), (40, "-tiny"), (ROOMY[0], "-narrow"), (100, "-wide")]  # noqa: RUF012 - Textual's own way
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (_FLAT, "-high")]  # noqa: RUF012
    CSS = """
    #side { width: 44; padding: 0 1; border-left: solid $primary; }
    .-narrow #side { width: 36; }
    .-tiny #side { width: 26; }
    .-slim #side { width: 60%; padding: 0; }
    .-flat #keys { display: none; }
    .-flat #classes { margin-top: 0; }
    #question { height: auto; }
    #classes { height: auto; margin-top: 1; }
    #curve { height: auto; margin-top: 1; }
    #said { height: auto; margin-top: 1; color: $text-warning; }
    #keys { dock: bottom; height: auto; background: $panel; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
        Binding("q", "quit", "Quit"),
        Binding("n", "new_class", "New class"),
        Binding("b", "both", "Both"),
        Binding("0", "neither", "Neither"),
        Binding("space", "skip", "Skip"),
        Binding("u", "undo", "Undo"),
        Binding("backspace", "undo", "Undo", show=False),
        Binding("enter", "agree", "As it says"),
    ]

    def __init__(self, session: Annotation, read: Callable[[str], Pixels], terminal: Terminal) -> None:
        """`read` gives the pixels of one of the session's pictures; it raises EdgeError where that is gone."""
        super().__init__()
        self.session, self._read, self._terminal = session, read, terminal
        self._asked: Asked | None = None
        self._looked = False
        """Whether it is known what is asked about, or that nothing is."""
        self._seen = False
        """Whether the picture that is asked about is on the screen: keys of classes are for nothing else."""
        self._both: list[str] | None = None
        """Classes chosen so far while several are; None: one key is an answer."""

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Picture(self._terminal, id="picture")
            with Vertical(id="side"):
                yield Static(id="question")
                yield Static(id="classes")
                yield Static(id="curve")
                yield Static(id="said")
        yield Static(id="keys")

    def on_mount(self) -> None:
        self.query_one(Picture).focus()
        self.fit()
        self.ask()

    @work(exclusive=True, group="ask")
    async def ask(self) -> None:
        """Show the picture that is asked about now."""
        asked = await asyncio.to_thread(self.session.asked)
        if asked is None or asked != self._asked:
            pixels = None
            if asked is not None:
                try:
                    pixels = await asyncio.to_thread(self._read, asked.picture)
                except EdgeError as error:
                    self.notify(plain(str(error)), severity="warning", markup=False)
            self.query_one(Picture).show(pixels)
            self._asked, self._seen = asked, pixels is not None
        self._looked = True
        self._write()
        if asked is not None and not self.session.classes:
            self.action_new_class()

    @work(exclusive=True, group="fit")
    async def fit(self) -> None:
        """Fit the head in the background, again as long as enough was answered meanwhile."""
        while self.session.wants_fit:
            if not await asyncio.to_thread(self.session.refit):
                break
            self.ask()
        self._write()
        if self._asked is None:
            self.ask()

    def on_resize(self) -> None:
        """The classes have other room."""
        self.call_after_refresh(self._write)

    def on_key(self, event: events.Key) -> None:
        """A key of a class is an answer, or one of several."""
        number = KEYS.find(event.character or "")
        if not event.character or number < 0 or number >= len(self.session.classes):
            return
        event.stop()
        name = self.session.classes[number]
        if self._both is None:
            self._answer(name)
        elif name in self._both:
            self._both.remove(name)
            self._write()
        else:
            self._both.append(name)
            self._write()

    def action_both(self) -> None:
        """Begin to choose several classes, or answer with those that were chosen."""
        if self._both is None:
            self._both = []
            self._write()
            return
        chosen, self._both = self._both, None
        if len(chosen) > 1:
            self._tell("both", *chosen)
        elif chosen:
            self._answer(chosen[0])
        else:
            self._write()

    def action_neither(self) -> None:
        """None of the classes."""
        self._tell("neither")

    def action_skip(self) -> None:
        """Somebody else may know."""
        self._tell("skip")

    def action_agree(self) -> None:
        """The likeliest class, or the label that is checked."""
        if self._asked is not None and self._asked.why == "check" and self._asked.given is not None:
            self._answer(self._asked.given)
        elif self._asked is not None and self._asked.guesses:
            self._answer(self._asked.guesses[0][0])

    def action_undo(self) -> None:
        """Take the last answer back and ask again."""
        self._both = None
        try:
            picture = self.session.undo()
        except EdgeError as error:
            self.notify(plain(str(error)), severity="error", markup=False)
            return
        if picture is None:
            self.notify("there is no answer to take back", markup=False)
        elif picture not in self.session.pictures:
            self.notify(f"taken back: what was said of {plain(picture)}, which is not here", markup=False)
        self._next()

    @work
    async def action_new_class(self) -> None:
        """Name one more class."""
        if len(self.session.classes) >= len(KEYS):
            self.notify(f"there are keys for {len(KEYS)} classes", severity="warning", markup=False)
            return
        name = await self.push_screen_wait(AskClass())
        if name is not None:
            try:
                self.session.add_class(name)
            except EdgeError as error:
                self.notify(plain(str(error)), severity="error", markup=False)
        self._write()

    def _answer(self, name: str) -> None:
        self._tell("label", name)

    def _tell(self, kind: Kind, *classes: str) -> None:
        """Answer, and go on; what cannot be written is told, and asked again."""
        asked = self._asked
        if asked is None:  # a key that was pressed before the next picture is there says nothing of it
            return
        self._both = None
        if not self._seen and kind != "skip":
            self.notify("this picture cannot be shown: space passes over it", severity="warning", markup=False)
            return
        try:
            self.session.answer(kind, *classes, of=asked.picture)
        except EdgeError as error:
            self.notify(plain(str(error)), severity="error", timeout=10, markup=False)
            return
        if self.session.wants_fit:
            self.fit()
        self._next()

    def _next(self) -> None:
        """Go on to the next picture; until it is there, keys answer nothing."""
        self._asked, self._looked = None, False
        self.ask()

    def _write(self) -> None:
        """Everything beside the picture."""
        if not self.is_running or not self.query("#question"):
            return
        asked, session = self._asked, self.session
        question = Text()
        if asked is None:
            question.append("nothing left to ask about" if self._looked else "a moment", "bold")
        else:
            question.append(plain(asked.picture), "bold").append(f"\n{_WHY[asked.why]}", "dim")
            if asked.given is not None:
                question.append(f"\nlabelled {plain(asked.given)}", "yellow")
        self.query_one("#question", Static).update(question)
        self.query_one("#classes", Static).update(self._class_lines())
        self.query_one("#curve", Static).update(learning_curve(session.curve, 30, 7))
        self.query_one("#said", Static).update(self._said())
        keys = Text()
        for binding in self.BINDINGS:
            if isinstance(binding, Binding) and binding.show:
                keys.append(f"{binding.key_display or binding.key.replace('ctrl+', '^')}\u00a0", "bold")
                keys.append(f"{binding.description.replace(' ', chr(0xA0))}  ")
        self.query_one("#keys", Static).update(keys)

    def _class_lines(self) -> Text:
        likely = dict(self._asked.guesses) if self._asked is not None else {}
        counts, full = self.session.counts, "█" if self._terminal.unicode else "#"
        room = self.query_one("#classes", Static).content_size.width or _NAME + _BAR + 8
        bar = _BAR if room >= 2 * _NAME else _BAR // 2 if room >= _NAME + _BAR // 2 else 0
        wide = max(3, min(_NAME, room - bar - 8))
        text = Text()
        for key, name in zip(KEYS, self.session.classes, strict=False):
            chosen = self._both is not None and name in self._both
            share = likely.get(name, 0.0)
            text.append(f" {key} ", "bold reverse" if chosen else "bold").append(f"{set_cell_size(plain(name), wide)} ")
            text.append(f"{full * round(share * bar):<{bar}}", "green").append(f" {counts[name]:>3}\n", "dim")
        if self._both is not None:
            text.append("several: their keys, then b", "bold yellow")
        return text

    def _said(self) -> str:
        """How far it is, in a sentence."""
        done = self.session.answered
        told = ", ".join(f"{done[kind]} {kind}" for kind in ("both", "neither", "skip") if done[kind])
        line = counted(done.total(), "answer") + (f" ({told})" if told else "")
        if self.session.is_over:
            line += ". More answers change little: the last quarter of them left what the head says as it was."
        return line
