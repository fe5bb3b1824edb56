"""The settings screen: a changed setting is applied at once and saved."""

from __future__ import annotations

from typing import Any, ClassVar, get_args, get_type_hints

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label, Select, Static, Switch

from edge_app.core.errors import EdgeError, UsageError
from edge_app.gallery.matching import share_words
from edge_app.system.settings import Settings
from edge_app.tui.screens.base import EdgeScreen, KeyBar, back
from edge_app.tui.screens.dialogs import SHARES
from edge_app.tui.screens.models import PRECISIONS, detectors

_ABOUT = {
    "fpir": "Of all strangers who pass, this share may be called by somebody's name.",
    "margin": "How much more like one person than like the next a face must be, 0 to 1.",
    "precision": "auto takes the build that was measured faster on this machine.",
    "detector": "yunet is fast; mtcnn places landmarks more carefully and is slower.",
    "liveness": "passive: installed networks judge who is named. challenge: v in Live asks for movements.",
    "threads": "For each model; empty lets the app choose.",
    "keep_pictures": "Off: only templates are stored, from which no picture can be shown.",
    "theme": "Colours of this app.",
}


class SettingsScreen(EdgeScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", priority=True),
        Binding("tab", "app.focus_next", "Next", show=True),
        Binding("f1", "app.help", "Help", key_display="f1"),
        *back(),
    ]

    def compose(self) -> ComposeResult:
        """One row for each setting, over what it means."""
        kept = self.edge.settings
        shares = sorted({*SHARES, kept.fpir}, reverse=True)
        yield Static(
            Text.assemble((" Settings ", "bold reverse"), "  ctrl+s saves, esc leaves them as they were"), id="title"
        )
        with VerticalScroll(id="form"):
            yield from _row("Strangers who may be named", "fpir", _select("fpir", shares, kept.fpir))
            yield from _row("Lead over the second best", "margin", Input(f"{kept.margin:g}", id="margin", compact=True))
            yield from _row("Build of the embedder", "precision", _select("precision", PRECISIONS, kept.precision))
            yield from _row("Detector", "detector", _select("detector", detectors(kept.detector), kept.detector))
            liveness = get_args(get_type_hints(Settings)["liveness"])
            yield from _row("Liveness", "liveness", _select("liveness", liveness, kept.liveness))
            threads = "" if kept.threads is None else str(kept.threads)
            yield from _row("Threads", "threads", Input(threads, id="threads", compact=True, placeholder="automatic"))
            yield from _row("Keep face pictures", "keep_pictures", Switch(kept.keep_pictures, id="keep_pictures"))
            themes = sorted(self.app.available_themes)
            yield from _row("Theme", "theme", _select("theme", themes, self.app.theme))
            yield Static(Text(self._place()), classes="about")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin at the first."""
        self.query_one("#form").can_focus = False
        self.query_one("#fpir").focus()

    def _place(self) -> str:
        bench = self.edge.worker.people
        return f"Everything is kept in {bench.home.path}, readable by you alone."

    @work(exclusive=True)
    async def action_save(self) -> None:
        """Apply and keep what was chosen."""
        try:
            kept = self.edge.settings
            # What stands as it was is not saved: it may come from an option, and the file may say otherwise.
            await self.edge.apply(**{k: v for k, v in self._changes().items() if v != getattr(kept, k)})
        except EdgeError as error:
            self.edge.tell(str(error), severity="error")
            return
        theme = self.query_one("#theme", Select).value
        if theme != self.app.theme:
            self.app.theme = str(theme)
        self.edge.tell("saved")
        self.dismiss()

    def _changes(self) -> dict[str, Any]:
        threads = self.query_one("#threads", Input).value.strip()
        chosen: dict[str, Any] = {
            name: self.query_one(f"#{name}", Select).value for name in ("fpir", "precision", "detector", "liveness")
        }
        return chosen | {
            "margin": _number(self.query_one("#margin", Input).value, float, "the lead"),
            "threads": _number(threads, int, "the number of threads") if threads else None,
            "keep_pictures": self.query_one("#keep_pictures", Switch).value,
        }

    def action_back(self) -> None:
        """Leave the settings as they were."""
        self.dismiss()


def _row(label: str, name: str, control: Any) -> ComposeResult:
    with Horizontal(classes="row"):
        yield Label(label)
        yield control
    yield Static(_ABOUT[name], classes="about")


def _select(name: str, values: Any, current: Any) -> Select[Any]:
    options = [(share_words(value) if isinstance(value, float) else str(value), value) for value in values]
    return Select(options, value=current, allow_blank=False, id=name, compact=True)


def _number(text: str, kind: type[int] | type[float], what: str) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{what} is {text!r}", expected="a number") from error
