"""What all screens share: running a command on the worker's thread, showing its error, the bar of keys, asking for a
line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Label, Static

from edge_app.core.errors import EdgeError
from edge_app.tui.inbox import Update

if TYPE_CHECKING:
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
        """Errors inside become a message on the screen."""
        try:
            yield
        except EdgeError as error:
            self.edge.tell(str(error), severity="error")


class KeyBar(Static):
    """Every key of the screen that is shown, in as many lines as it takes."""

    DEFAULT_CSS = "KeyBar { dock: bottom; height: auto; background: $panel; color: $foreground; padding: 0 1; }"

    def on_mount(self) -> None:
        """Follow the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self._write())
        self.call_after_refresh(self._write)

    def _write(self) -> None:
        # While a dialog lies over it the screen's own keys do not act, and are not asked for.
        if not self.is_attached or self.screen is not self.app.screen:
            return
        text = Text()
        for key, active in self.screen.active_bindings.items():
            binding = active.binding
            if not binding.show or not binding.description:
                continue
            shown = binding.key_display or _KEY_SIGNS.get(key, key.replace("ctrl+", "^"))
            text.append(f"{shown}\u00a0", "bold")
            text.append(binding.description.replace(" ", "\u00a0"), "" if active.enabled else "dim")
            text.append("  ")
        self.update(text)


def put(line: Static, text: Text) -> None:
    """Write a text, laying the screen out again only where it may need another height: that takes 5 ms."""
    before = line.content
    if isinstance(before, Text) and before == text and before.spans == text.spans:
        return
    alike = isinstance(before, Text) and len(before) > 0 and abs(len(before) - len(text)) < 4
    same_lines = alike and isinstance(before, Text) and before.plain.count("\n") == text.plain.count("\n")
    line.update(text, layout=not same_lines)


class Ask(ModalScreen[str | None]):
    """Asks for one line; gives it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, question: str, *, value: str = "", hint: str = "") -> None:
        super().__init__()
        self._question, self._value, self._hint = question, value, hint

    def compose(self) -> ComposeResult:
        """The question over an input."""
        with Vertical(classes="dialog"):
            yield Label(self._question, markup=False)
            yield Input(self._value, placeholder=self._hint, compact=True)
            yield Static("enter: done   esc: cancel", classes="hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip() or None)


def hidden(key: str, action: str, description: str) -> Binding:
    """A key that works and is listed in the help, but not in the bar."""
    return Binding(key, action, description, show=False)


def back(description: str = "Back") -> list[BindingType]:
    """The keys that every screen but the first has."""
    return [Binding("escape", "back", description)]
