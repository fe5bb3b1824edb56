"""The first screen: the live picture, who is here, what happened, and how fast it goes."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from itertools import count
from typing import ClassVar, cast

import numpy as np
from rich.text import Text
from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import RichLog, Sparkline, Static

from edge_app.core.errors import EdgeError
from edge_app.core.model_card import ModelCard
from edge_app.core.names import valid_name
from edge_app.core.task import PEOPLE, LookFor, Task
from edge_app.core.types import Finding, Pixels, Seen
from edge_app.gallery.enrollment import EnrollOptions, Shot
from edge_app.inference.classifier import MAPS
from edge_app.live.challenge import Progress
from edge_app.live.tracker import TrackInfo
from edge_app.media.drawing import warmed
from edge_app.media.live_camera import CameraState
from edge_app.recognition.classes import judges_faces
from edge_app.recognition.faces import PeopleSession
from edge_app.tui.face_text import (
    EventWords,
    challenge_words,
    clock_words,
    event_line,
    event_words,
    figures,
    here_now,
    kind_of,
    marks_of,
    title_of,
)
from edge_app.tui.inbox import Ask as AskToMove
from edge_app.tui.inbox import Enroll, Pause, Run, SetRule, Switch, Update
from edge_app.tui.model_text import (
    answer_event_words,
    heat_words,
    licence_words,
    marks_of_findings,
    seen_words,
)
from edge_app.tui.picture.area import Area
from edge_app.tui.picture.mosaic import Mark
from edge_app.tui.picture.widget import Picture
from edge_app.tui.screens.base import Ask, KeyBar, put
from edge_app.tui.screens.box_keys import BOX_ACTIONS, BOX_KEYS, BoxScreen
from edge_app.tui.screens.dialogs import ChooseModel, ChooseRule, ChooseSource

GREETING_S = 4.0
"""How long a greeting stays."""

CHALLENGED_S = 8.0
"""How long it stays under the picture how a challenge ended."""

_NEW_SHARE = 0.07
"""Share of the newest picture in the averages."""


MOST_LINES = 300
"""Events in the list; older ones are let go."""


class EventLog(RichLog, can_focus=False):
    """What happened, a line each, however wide it is: a list that wraps shows half as much, and cannot be skimmed."""

    def __init__(self, *, id: str, max_lines: int, min_width: int) -> None:
        super().__init__(id=id, max_lines=max_lines, min_width=min_width, wrap=False)
        self._events: deque[tuple[str, EventWords]] = deque(maxlen=max_lines)

    def note(self, clock: str, event: EventWords) -> None:
        """Add an event."""
        self._events.append((clock, event))
        if self.scrollable_content_region.width:
            self.write(event_line(clock, event, self.scrollable_content_region.width))

    def on_resize(self, _: events.Resize) -> None:
        """Write all lines again for the new width."""
        self.clear()
        for clock, event in self._events:
            self.write(event_line(clock, event, self.scrollable_content_region.width))


class LiveScreen(BoxScreen):
    """The live picture, who is here, and what happened."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause"),
        Binding("s", "snapshot", "Snapshot"),
        Binding("m", "mirror", "Mirror"),
        Binding("c", "source", "Source"),
        Binding("t", "threshold", "Threshold"),
        Binding("v", "challenge", "Challenge"),
        Binding("l", "look_for", "Look for"),
        Binding("x", "explain", "Explain"),
        *BOX_KEYS,
        Binding("escape", "whole", "Whole picture"),
        Binding("e", "app.enroll", "Enroll"),
        Binding("i", "ignore", "Ignore"),
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
        self._shown: Seen | None = None
        self._look_for = PEOPLE
        self._told_card: ModelCard | None = None
        self._shown_explained = False
        self._paused = False
        self._challenging = False
        self._told_challenge: Progress | None = None
        """The end of a challenge that is in the list of events already."""
        self._challenged_until_s = 0.0
        """How long the end of a challenge stays under the picture."""
        self._newest: tuple[Seen, tuple[TrackInfo, ...]] | None = None
        """The newest picture with everybody on it, drawn or not."""

    def compose(self) -> ComposeResult:
        """Picture on the left, the rest beside it."""
        yield Static(id="title")
        with Horizontal():
            yield Picture(self.edge.desk.terminal, id="picture")
            with Vertical(id="side"):
                yield Static(id="here")
                yield EventLog(id="log", max_lines=MOST_LINES, min_width=1)
                with Vertical(id="speed"):
                    yield Static(id="figures")
                    yield Sparkline(id="spark")
        yield Static(id="notice")
        yield KeyBar()

    def on_mount(self) -> None:
        """Focus the picture: every key is a command here."""
        self.query_one("#here", Static).border_title = "Here now"
        self.query_one("#log", EventLog).border_title = "Events"
        self.query_one("#speed").border_title = "Speed"
        self.picture.mirror = self.edge.mirror
        self.picture.focus()

    @property
    def picture(self) -> Picture:
        return self.query_one("#picture", Picture)

    @property
    def drawn_for_s(self) -> float:
        """From the first picture to the last."""
        return self._drawn_s[-1] - self._first_drawn_s if self._first_drawn_s is not None else 0.0

    def show(self, update: Update) -> None:
        # Textual mixes what lies under a dialog with it cell by cell, 0.1 s a picture. Even with two a second, typing
        # 16 letters took 2.2 s instead of 0.2 on a busy machine, and half the time a key was lost: it stands still.
        if self.app.screen is not self:
            return
        self._paused = update.paused
        self._challenging = update.challenge is not None and update.challenge.outcome == "waiting"
        if update.look_for != self._look_for:
            self._change(update.look_for)
        if self._told_card is not self.card:
            self._tell_card()
        if update.seen is not None and update.look_for.is_people:
            self._shown, self._shown_explained = update.seen, False
            self.picture.show(update.seen.frame.pixels, marks_of(update.tracks))
            self._count(update, update.seen)
        elif update.seen is not None:
            self._show_answers(update.seen)
            self._count(update, update.seen)
            put(self.query_one("#here", Static), seen_words(update.seen, unicode=self.edge.desk.terminal.unicode))
        put(self.query_one("#title", Static), self._title(update))
        if update.look_for.is_people:
            put(self.query_one("#here", Static), here_now(update.tracks))
        self._show_notice(update)

    def note(self, update: Update) -> None:
        """Log the events of an update; also called while another screen lies over this one."""
        if update.seen is not None and update.look_for.is_people:
            self._newest = update.seen, update.tracks
        log = self.query_one("#log", EventLog)
        now_s = self.edge.desk.now_s()
        for event in update.events:
            words = event_words(event) if update.look_for.is_people else answer_event_words(event)
            log.note(clock_words(now_s), words)
            if event.event == "recognized" and update.look_for.is_people and event.live != "no":
                self._greeting, self._greeting_until_s = f"Hello, {event.name}!", now_s + GREETING_S

        ended = update.challenge is not None and update.challenge.outcome != "waiting"
        if update.challenge is not None and ended and update.challenge is not self._told_challenge:
            self._told_challenge, self._challenged_until_s = update.challenge, now_s + CHALLENGED_S
            log.note(clock_words(now_s), challenge_words(update.asked, update.challenge))

    def _change(self, look_for: LookFor) -> None:
        """Something else is looked for: what was said and drawn of the last is gone."""
        self._look_for = look_for
        self._stages_ms.clear()
        here = self.query_one("#here", Static)
        here.border_title = "Here now" if look_for.is_people else look_for.word
        put(here, Text("looking…", "dim"))
        self.refresh_bindings()

    @property
    def card(self) -> ModelCard | None:
        """Of the model that reads; None for faces."""
        card = self.edge.card
        return card if card is not None and card.id == self._look_for.word else None

    def _tell_card(self) -> None:
        """The card comes a moment after the first answer, or before it: licence and keys follow it."""
        self._told_card = card = self.card
        self.query_one("#here", Static).border_subtitle = licence_words(card) if card else ""
        self.refresh_bindings()

    def _show_answers(self, seen: Seen) -> None:
        """The picture with what was said of it, and its evidence while that is wanted."""
        marks = marks_of_findings(seen)
        if self.area is not None and self.is_behind(seen):
            # The answer to a box that has just moved is still on its way.
            marks = [Mark(self.area.box, "", "new")]
        pixels = seen.frame.pixels
        self._shown = seen
        # The last faint colours are no noise: they go too.
        ended = self._shown_explained and not self.edge.explaining
        self._shown_explained = self.edge.explaining
        self.picture.show(warmed(pixels, seen.findings) if self.edge.explaining else pixels, marks, exact=ended)

    def _count(self, update: Update, shown: Seen) -> None:
        """How fast it goes."""
        now_s = self.edge.steady_s()
        self._drawn_s.append(now_s)
        if self._first_drawn_s is None:
            self._first_drawn_s = self._drawn_s[0]
        self._loads_ms.append(float(shown.timings_ms.get("total", 0.0)))
        span_s = self._drawn_s[-1] - self._drawn_s[0]
        fps = (len(self._drawn_s) - 1) / span_s if span_s > 0 else 0.0
        put(self.query_one("#figures", Static), figures(update, fps, self._smoothed(shown)))
        self.query_one("#spark", Sparkline).data = list(self._loads_ms)

    def _smoothed(self, shown: Seen) -> dict[str, float]:
        """The stages' milliseconds, averaged over about a second: digits that dance cannot be read."""
        for stage, ms in shown.timings_ms.items():
            self._stages_ms[stage] = self._stages_ms.get(stage, ms) * (1 - _NEW_SHARE) + ms * _NEW_SHARE
        return self._stages_ms

    def _title(self, update: Update) -> Text:
        fresh = self.edge.desk.now_s() < self._greeting_until_s
        licence = licence_words(self.card) if self.card else ""
        return title_of(update, self._greeting if fresh else "", licence)

    def _show_notice(self, update: Update) -> None:
        """What is wrong, in words; the line is gone when all is well."""
        words = update.trouble or update.status.message
        if not words and update.status.state is CameraState.ENDED:
            words = f"{update.source} is at its end: press c for another source"
        style = ""
        if not words and update.challenge is not None:
            going_on = update.challenge.outcome == "waiting"
            if going_on or self.edge.desk.now_s() < self._challenged_until_s:
                said = challenge_words(update.asked, update.challenge)
                words, style = said.words + said.detail + ("; v ends it" if going_on else ""), said.style
        if not words and update.paused:
            words = "paused: nothing is looked at; space goes on"
        notice = self.query_one("#notice", Static)
        explained = heat_words(self._shown)
        notice.set_class(not words, "quiet")
        words = words or (explained if self.edge.explaining else "")
        notice.display = bool(words)
        put(notice, Text(words, style))

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
        if self._shown is None:
            self.edge.tell("there is no picture yet", severity="warning")
            return
        with self.telling():
            path = await self.edge.beside(partial(self.edge.desk.snapshot, self._shown))
            self.edge.tell(f"kept as {path}")

    @work
    async def action_threshold(self) -> None:
        """Choose how many strangers may be called somebody."""
        chosen = await self.app.push_screen_wait(ChooseRule(self.edge.worker.people))
        if chosen is None:
            return
        with self.telling():
            rule = await self.order(SetRule(fpir=chosen))
            self.edge.keep_settings(fpir=chosen)
            self.edge.tell(rule.words)

    @work
    async def action_challenge(self) -> None:
        """Ask the person in view to make movements that a picture cannot, or ask no more."""
        with self.telling():
            await self.order(AskToMove(active=not self._challenging))

    @work
    async def action_source(self) -> None:
        """Choose a camera, a file, an address or the sample clip."""
        chosen = await self.app.push_screen_wait(ChooseSource(self.edge.desk.cameras, self._switch))
        if chosen is not None:
            with self.telling():
                self.edge.keep_settings(source=chosen)

    async def _switch(self, source: str) -> str:
        await self.order(Switch(source))
        self.edge.source = source
        return source

    @work
    async def action_ignore(self) -> None:
        """Learn the largest unknown face as a known stranger: of whom nothing is told, and who gets nobody's name."""
        stranger = self._unknown_face()
        if stranger is None:
            self.edge.tell("no unknown face is in the picture: the largest one would be ignored", severity="warning")
            return
        seen, finding = stranger
        first = _cut_out(seen, finding)

        async def ignore(typed: str) -> str:
            name = valid_name(typed)
            shots = [await first_shot]
            # The same face as it is by now: two shots are better than one.
            later = self._unknown_face(finding.track)
            if later is not None and later[0].frame.index != seen.frame.index:
                shots.append(await self._shot(*later))
            options = EnrollOptions(allow_lookalike=True, ignored=True)
            verdicts = await self.order(Enroll(name, tuple((shot.source, shot) for shot in shots), options))
            refusals = [verdict.refusal for verdict in verdicts if verdict.refusal is not None]
            if len(refusals) == len(verdicts):
                raise EdgeError(f"nothing was stored: {refusals[0].message}", remedy="come closer, and try again")
            return name

        with self.telling():
            first_shot = asyncio.ensure_future(self._shot(seen, finding))
            names = await self.order(Run(lambda bench: bench.vault.names()))
            free = next(f"stranger {n}" for n in count(1) if f"stranger {n}" not in names)
            question = "Ignore this face from now on? What it is called here:"
            name = await self.app.push_screen_wait(Ask(question, ignore, value=free, picture=first))
            if name is not None:
                self.edge.tell(f"{name} is ignored from now on; People (p) lists and forgets known strangers")

    def _unknown_face(self, number: int | None = None) -> tuple[Seen, Finding] | None:
        """The largest unknown face of the newest picture, or that of one track, with its picture."""
        if self._newest is None or not self._look_for.is_people:
            return None
        seen, tracks = self._newest
        unknown = {one.number for one in tracks if kind_of(one) == "unknown" and number in (None, one.number)}
        found = [one for one in seen.findings if one.track in unknown and one.face is not None]
        return (seen, max(found, key=lambda one: one.face.area_px2 if one.face else 0.0)) if found else None

    async def _shot(self, seen: Seen, finding: Finding) -> Shot:
        def measured(bench: PeopleSession) -> Shot:
            assert finding.face is not None
            [checked] = bench.recognizer.detector.check(seen.frame.pixels, [finding.face])
            return bench.recognizer.shot_of(seen.frame.pixels, checked.face, "live picture")

        return cast(Shot, await self.order(Run(measured)))

    @work
    async def action_look_for(self) -> None:
        """Choose what the picture is looked at for: faces, classes or things."""
        with self.telling():
            lines = await self.order(Run(self.edge.desk.catalogue))
            chosen = await self.app.push_screen_wait(ChooseModel(lines, self._look_for))
            if chosen is not None and chosen != self._look_for.word:
                await self.edge.use(chosen)

    @work
    async def action_explain(self) -> None:
        """Show where the network sees the best class, or no more."""
        if not self._has_maps and not self.edge.explaining:
            self.edge.tell(f"{self._look_for} has no class activation maps: it cannot be explained", severity="warning")
            return
        with self.telling():
            await self.edge.explain(not self.edge.explaining)
        if self._shown is not None and not self._look_for.is_people:
            # The next picture may be long in coming: paused, or at its end.
            self._show_answers(self._shown)

    # The box that is looked at, for things and by classifiers

    def on_picture_dragged(self, event: Picture.Dragged) -> None:
        """A box is drawn with the mouse."""
        size = self.size_px
        if self._takes_box and size is not None:
            self.edge.area = Area(event.box, *size)
            if event.done:
                self.look_at(self.edge.area)
                if self.looks_for(Task.CLASSIFICATION):
                    shares = ",".join(f"{v / side:.3g}" for v, side in zip(event.box, size * 2, strict=True))
                    self.edge.tell(f"the same elsewhere: train classifier, recognize and watch --roi {shares}")

    @property
    def _takes_box(self) -> bool:
        """Whether a box means something to the model in use: to one of things, and to a classifier of pictures."""
        if self.looks_for(Task.CLASSIFICATION):
            return self.card is not None and "@" not in self.card.crop and not judges_faces(self.card.crop)
        return self.looks_for(Task.IMAGE_EMBEDDING)

    @property
    def area(self) -> Area | None:
        """The box that is looked at; None: the whole picture."""
        return self.edge.area if self._takes_box else None

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the picture that is shown; None before the first."""
        return self._shown.frame.size_px if self._shown is not None else None

    @property
    def _has_maps(self) -> bool:
        return self.card is not None and MAPS in self.card.outputs

    def looks_for(self, *tasks: Task) -> bool:
        """Whether the model in use is of one of these tasks; the face recognizer is of none."""
        return self.card is not None and self.card.task in tasks

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        if action == "challenge":
            return self._look_for.is_people and self.edge.settings.liveness == "challenge"
        if action in {"threshold", "ignore"}:
            return self._look_for.is_people
        if action == "explain":
            return self.looks_for(Task.CLASSIFICATION, Task.LIVENESS)
        if action in BOX_ACTIONS:
            return self._takes_box and self.offers(action)
        return True


def _cut_out(seen: Seen, finding: Finding) -> Pixels:
    """The pixels of a box, as far as it lies in the picture."""
    x1, y1, x2, y2 = (max(0, round(float(value))) for value in finding.box)
    return np.ascontiguousarray(seen.frame.pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)])
