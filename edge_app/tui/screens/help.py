"""The Help screen: every key of the screen below, what its signs and figures mean, and what this terminal lacks."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from edge_app.tui.picture.terminal import SMALLEST, Terminal

_INKS = {
    "truecolor": "24-bit colour, two pixels in each cell",
    "256": "256 colours, dithered, two pixels in each cell",
    "mono": "shades of characters, no colour",
}

_WORDS: Final = (
    "A whole frame and a name: somebody enrolled; the number is the similarity. A dashed frame and a question mark: "
    "somebody unknown. Corners: still looking, or with a name in grey a known stranger, who is ignored.",
    "Speed: pictures a second that the source gave, that were looked at, that were drawn; milliseconds of each stage. "
    "Skipped: pictures that came while an older one was looked at; nothing is wrong, this machine looks at fewer than "
    "the source gives. The graph shows what each of the last 60 pictures took, in its highest bar the longest.",
    "Enrolling: press e, type a name, and choose the camera (c) or picture files (f). With the camera do what the line "
    "under the picture says: shots are taken by themselves. Two are enough; three are better, two of them turned to "
    "the sides. What is kept and what is not is shown before it is stored.",
    "Press i to ignore an unknown face: it is learned as a known stranger, of whom nothing is told.",
    "Press l to look for a classifier's classes or for things instead of faces. Things: draw a box with the mouse, or "
    "press b and the arrows; then e enrolls what is in it.",
    "A photograph or a replayed video can pass for the person: do not open doors with this.",
)


class HelpScreen(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,q", "dismiss", "Close", key_display="esc"),
    ]

    def __init__(self, below: Screen[Any], terminal: Terminal) -> None:
        super().__init__()
        self._below = below
        self._terminal = terminal

    def compose(self) -> ComposeResult:
        """Keys, words, terminal."""
        with VerticalScroll(id="help"):
            yield Static(self._text())

    def on_mount(self) -> None:
        """Arrow keys scroll."""
        self.query_one("#help").focus()

    def _text(self) -> Text:
        text = Text.assemble(("Keys of this screen\n", "bold"))
        keys = _keys(self._below)
        width = max(len(key) for key, _ in keys) + 2
        for key, words in keys:
            text.append(f"  {key:<{width}}", "bold cyan")
            text.append(f"{words}\n")
        text.append("\n" + "\n\n".join(_WORDS) + "\n\n")
        text.append("This terminal\n", "bold")
        size = self.app.size
        text.append(f"  {size.width} columns by {size.height} lines; {_INKS[self._terminal.ink]}.\n")
        lacks = list(self._terminal.lacks)
        if size.width < SMALLEST[0] or size.height < SMALLEST[1]:
            lacks.append(f"It is smaller than {SMALLEST[0]} by {SMALLEST[1]}: parts of the screens are cut off.")
        for lack in lacks:
            text.append(f"  {lack}\n", "yellow")
        if not lacks:
            text.append("  It lacks nothing that this app uses.\n", "green")
        text.append("\nesc closes this", "dim")
        return text


_USUAL: Final = {"app.focus_next", "app.focus_previous", "screen.copy_text"}
"""What tab and the keys for copying do is the same everywhere."""


def _keys(screen: Screen[Any]) -> list[tuple[str, str]]:
    """Keys and what they do, of a screen and of the app, each once."""
    found: dict[str, str] = {}
    for bindings in (screen._bindings, screen.app._bindings):
        for _, binding in bindings:
            if binding.description and not binding.system and binding.action not in _USUAL:
                found.setdefault(binding.key_display or screen.app.get_key_display(binding), binding.description)
    return list(found.items())
