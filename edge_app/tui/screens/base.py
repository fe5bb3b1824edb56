"""What all screens share: the base screen, the bar of keys, and the dialog that asks for one line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.css.query import NoMatches
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Label, Static

from edge_app.core.errors import EdgeError
from edge_app.core.types import Pixels
from edge_app.tui.inbox import Update
from edge_app.tui.picture.terminal import ROOMY, SMALLEST
from edge_app.tui.picture.widget import Thumbnail

if TYPE_CHECKING:
    from textual.binding import ActiveBinding

    from edge_app.tui.app import EdgeApp

Result = TypeVar("Result")

_KEY_SIGNS = {
    "space": "space",
    "question_mark": "?",
    "comma": ",",
    "escape": "esc",
    "enter": "enter",
    "delete": "del",
}


class EdgeScreen(Screen[Result]):
    @property
    def edge(self) -> EdgeApp:
        """The app, by its own type."""
        from edge_app.tui.app import EdgeApp

        return cast(EdgeApp, self.app)

    def show(self, update: Update) -> None:
        """Take in the newest update; screens that show nothing live ignore it."""

    async def order(self, command: Any) -> Any:
        """Send a command to the worker and wait for its result. Raises EdgeError."""
        return await self.edge.order(command)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Errors inside become a message on the screen.

        A screen that was left while it waited for an answer is being taken apart: that is no error.
        """
        try:
            yield
        except EdgeError as error:
            self.edge.tell(str(error), severity="error")
        except NoMatches:
            if self.edge.is_running and self in self.edge.screen_stack:
                raise


class KeyBar(Static):
    """Every key of the screen that is shown, in as many lines as it takes."""

    DEFAULT_CSS = "KeyBar { dock: bottom; height: auto; background: $panel; color: $foreground; padding: 0 1; }"

    def on_mount(self) -> None:
        """Follow the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._write())
        self.call_after_refresh(self._write)

    def on_resize(self) -> None:
        """Another size may be too small for all keys."""
        self.call_after_refresh(self._write)

    def _write(self) -> None:
        # While a dialog lies over it the screen's own keys do not act, and are not asked for.
        if not self.is_attached or self.screen is not self.app.screen:
            return
        columns, rows = self.app.size
        keys = [_key_words(key, active) for key, active in self.screen.active_bindings.items()]
        keys = [key for key in keys if key]
        if columns >= ROOMY[0] and rows >= ROOMY[1]:
            lines = [Text()]
            for key in keys:
                # Left to itself the text would be broken between a key and its word.
                if lines[-1] and lines[-1].cell_len + key.cell_len > columns - 2:
                    lines.append(Text())
                lines[-1].append_text(key).append("  ")
            self.update(Text("\n").join(lines))
            return
        # Two lines: what is missing, and as many keys as fit, the way to all of them first.
        small = Text(f"{columns}x{rows} is small: {SMALLEST[0]}x{SMALLEST[1]} shows all", "bold yellow")
        line = Text("  ").join(sorted(keys, key=lambda key: "Help" not in key.plain))
        for words in (small, line):
            words.truncate(columns - 2, overflow="ellipsis")
        self.update(Text("\n").join((small, line)))


def _key_words(key: str, active: ActiveBinding) -> Text:
    """A key and what it does; nothing for one that is not for the bar."""
    binding = active.binding
    if not binding.show or not binding.description:
        return Text()
    shown = binding.key_display or _KEY_SIGNS.get(key, key.replace("ctrl+", "^"))
    words = binding.description.replace(" ", "\u00a0")
    return Text.assemble((f"{shown}\u00a0", "bold"), (words, "" if active.enabled else "dim"))


def put(line: Static, text: Text) -> None:
    """Write a text, laying the screen out again only where it may need another height: that takes 5 ms."""
    before = line.content
    if isinstance(before, Text) and before == text and before.spans == text.spans:
        return
    alike = isinstance(before, Text) and len(before) > 0 and abs(len(before) - len(text)) < 4
    same_lines = alike and isinstance(before, Text) and before.plain.count("\n") == text.plain.count("\n")
    line.update(text, layout=not same_lines)


class Ask(ModalScreen[Result | None]):
    """Asks for one line, and does with it what it is for; gives what came of that, or None.

    What cannot be used is said under the line, which stays as it was typed.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(
        self,
        question: str,
        use: Callable[[str], Awaitable[Result]],
        *,
        value: str = "",
        hint: str = "",
        picture: Pixels | None = None,
    ) -> None:
        """`picture` (H, W, 3) shows what the question is about.

        `use` gets the line without blanks around it, never an empty one, and raises EdgeError to refuse it.
        """
        super().__init__()
        self._question, self._use, self._value, self._hint = question, use, value, hint
        self._picture = picture

    def compose(self) -> ComposeResult:
        """The question over an input."""
        with Vertical(classes="dialog"):
            yield Label(self._question, markup=False)
            if self._picture is not None:
                yield Thumbnail(cast("EdgeApp", self.app).desk.terminal, self._picture)
            yield Input(self._value, placeholder=self._hint, compact=True)
            yield Static(classes="problem")
            yield Static("enter: done   esc: cancel", classes="hint")

    @work(exclusive=True, group="use")
    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        if not event.value.strip():
            self.dismiss(None)
            return
        done, found = await used(self, self._use(event.value.strip()))
        if done:
            self.dismiss(found)


async def used(dialog: ModalScreen[Result | None], outcome: Awaitable[Result]) -> tuple[bool, Result | None]:
    """Wait for what a dialog's answer leads to: whether it worked, and what came; else the reason stands in it."""
    problem = dialog.query_one(".problem", Static)
    problem.display = True
    problem.update(Text("one moment…", "dim"))
    try:
        found = await outcome
    except EdgeError as error:
        problem.update(Text(str(error), "yellow"))
        return False, None
    return True, found


def hidden(key: str, action: str, description: str) -> Binding:
    """A key that works and is listed in the help, but not in the bar."""
    return Binding(key, action, description, show=False)


def back(description: str = "Back") -> list[BindingType]:
    """The keys that every screen but the first has."""
    return [Binding("escape", "back", description)]
