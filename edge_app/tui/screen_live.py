"""The first screen: the live picture, who is here, what happened, and how fast it goes.

Hides where each thing stands. In: updates. Out: commands to the worker, and calls for the other screens.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import RichLog, Sparkline, Static

from edge_app.camera import CameraState
from edge_app.domain import Observation
from edge_app.tui.dialogs import ChooseRule, ChooseSource
from edge_app.tui.frame import EdgeScreen, KeyBar, put
from edge_app.tui.messages import Pause, SetRule, Switch, Update
from edge_app.tui.picture import Picture
from edge_app.tui.words import clock_words, event_words, figures, here_now, marks_of, title_of

GREETING_S = 4.0
"""How long a greeting stays."""

_NEW_SHARE = 0.07
"""Share of the newest picture in the averages."""


class LiveScreen(EdgeScreen[None]):
    """What the camera sees."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause"),
        Binding("s", "snapshot", "Snapshot"),
        Binding("m", "mirror", "Mirror"),
        Binding("c", "source", "Source"),
        Binding("t", "threshold", "Threshold"),
        Binding("e", "app.enroll", "Enroll"),
        Binding("p", "app.people", "People"),
        Binding("o", "app.models", "Models"),
        Binding("comma", "app.settings", "Settings"),
        Binding("question_mark", "app.help", "Help"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._loads_ms: deque[float] = deque(maxlen=60)
        self._stages_ms: dict[str, float] = {}
        self._drawn_s: deque[float] = deque(maxlen=30)
        self._first_drawn_s: float | None = None
        self._greeting, self._greeting_until_s = "", 0.0
        self._observation: Observation | None = None
        self._paused = False

    def compose(self) -> ComposeResult:
        """Picture on the left, the rest beside it."""
        yield Static(id="title")
        with Horizontal():
            yield Picture(self.edge.desk.terminal, id="picture")
            with Vertical(id="side"):
                yield Static(id="here")
                yield RichLog(id="log", max_lines=300, wrap=True, min_width=10)
                yield Static(id="figures")
                yield Sparkline(id="spark")
        yield Static(id="notice")
        yield KeyBar()

    def on_mount(self) -> None:
        """Focus the picture: every key is a command here."""
        self.query_one("#here", Static).border_title = "Here now"
        self.query_one("#log", RichLog).border_title = "Events"
        self.query_one("#figures", Static).border_title = "Speed"
        self.query_one("#log", RichLog).can_focus = False
        self.picture.mirror = self.edge.mirror
        self.picture.focus()

    @property
    def picture(self) -> Picture:
        """The live picture."""
        return self.query_one("#picture", Picture)

    @property
    def drawn_for_s(self) -> float:
        """From the first picture to the last."""
        return self._drawn_s[-1] - self._first_drawn_s if self._first_drawn_s is not None else 0.0

    def show(self, update: Update) -> None:
        """Draw an update."""
        # Textual mixes what lies under a dialog with it cell by cell, 0.1 s a picture: it stands still meanwhile.
        if self.app.screen is not self:
            return
        self._paused = update.paused
        if update.observation is not None:
            self._draw(update, update.observation)
        put(self.query_one("#title", Static), self._title(update))
        put(self.query_one("#here", Static), here_now(update.tracks))
        self._show_notice(update)

    def note(self, update: Update) -> None:
        """Log the events of an update; also called while another screen lies over this one."""
        log = self.query_one("#log", RichLog)
        now_s = self.edge.desk.now_s()
        for event in update.events:
            words, style = event_words(event)
            log.write(Text.assemble((clock_words(now_s) + " ", "dim"), (words, style)))
            if event.event == "recognized":
                self._greeting, self._greeting_until_s = f"Hello, {event.name}!", now_s + GREETING_S

    def _draw(self, update: Update, observation: Observation) -> None:
        now_s = self.edge.steady_s()
        self._observation = observation
        self.picture.show(observation.frame.pixels, marks_of(update.tracks))
        self._drawn_s.append(now_s)
        if self._first_drawn_s is None:
            self._first_drawn_s = self._drawn_s[0]
        self._loads_ms.append(float(observation.timings_ms.get("total", 0.0)))
        span_s = self._drawn_s[-1] - self._drawn_s[0]
        fps = (len(self._drawn_s) - 1) / span_s if span_s > 0 else 0.0
        put(self.query_one("#figures", Static), figures(update, fps, self._smoothed(observation)))
        self.query_one("#spark", Sparkline).data = list(self._loads_ms)

    def _smoothed(self, observation: Observation) -> dict[str, float]:
        """The stages' milliseconds, averaged over about a second: digits that dance cannot be read."""
        for stage, ms in observation.timings_ms.items():
            self._stages_ms[stage] = self._stages_ms.get(stage, ms) * (1 - _NEW_SHARE) + ms * _NEW_SHARE
        return self._stages_ms

    def _title(self, update: Update) -> Text:
        fresh = self.edge.desk.now_s() < self._greeting_until_s
        return title_of(update, self._greeting if fresh else "")

    def _show_notice(self, update: Update) -> None:
        """What is wrong, in words; the line is gone when all is well."""
        words = update.trouble or update.status.message
        if not words and update.status.state is CameraState.ENDED:
            words = f"{update.source} is at its end: press c for another source"
        if not words and update.paused:
            words = "paused: nothing is looked at; space goes on"
        notice = self.query_one("#notice", Static)
        notice.display = bool(words)
        put(notice, Text(words))

    @work
    async def action_pause(self) -> None:
        """Stop looking, or go on."""
        with self.telling():
            await self.order(Pause(not self._paused))

    def action_mirror(self) -> None:
        """Flip the picture."""
        self.picture.mirror = not self.picture.mirror
        self.edge.keep_mirror(self.picture.mirror)
        self.picture.redraw()

    @work
    async def action_snapshot(self) -> None:
        """Keep the picture with its boxes and names."""
        if self._observation is None:
            self.edge.tell("there is no picture yet", severity="warning")
            return
        with self.telling():
            path = await self.edge.beside(partial(self.edge.desk.snapshot, self._observation))
            self.edge.tell(f"kept as {path}")

    @work
    async def action_threshold(self) -> None:
        """Choose how many strangers may be called somebody."""
        chosen = await self.app.push_screen_wait(ChooseRule(self.edge.worker.workbench))
        if chosen is None:
            return
        with self.telling():
            rule = await self.order(SetRule(fpir=chosen))
            self.edge.keep_settings(fpir=chosen)
            self.edge.tell(rule.words)

    @work
    async def action_source(self) -> None:
        """Choose a camera, a file, an address or the sample clip."""
        chosen = await self.app.push_screen_wait(ChooseSource(self.edge.desk.cameras))
        if chosen is None:
            return
        with self.telling():
            await self.order(Switch(chosen))
            self.edge.source = chosen
            self.edge.keep_settings(source=chosen)
