"""The terminal app, and the one function that composes it for the command line and for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen

from edge_app.core.errors import EdgeError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import LookFor, Task
from edge_app.gallery.people import Person
from edge_app.system.settings import Settings
from edge_app.tui.gallery_queries import missing_words
from edge_app.tui.inbox import Explain, Inbox, Look, LookArea, Run, SetRule, Update
from edge_app.tui.picture.area import Area
from edge_app.tui.picture.terminal import ROOMY
from edge_app.tui.screens.base import EdgeScreen
from edge_app.tui.screens.enroll_person import EnrollScreen
from edge_app.tui.screens.enroll_thing import ThingScreen
from edge_app.tui.screens.help import HelpScreen
from edge_app.tui.screens.live import LiveScreen
from edge_app.tui.screens.models import ModelsScreen
from edge_app.tui.screens.people import PeopleScreen
from edge_app.tui.screens.settings import SettingsScreen
from edge_app.tui.services import Desk, LiveWorker

Severity = Literal["information", "warning", "error"]

_JOIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """How the live pictures were drawn, counted when the app closes."""

    drawn: int
    span_s: float
    """From the first picture to the last."""
    drawing_s: float
    """Processor time of turning pixels into lines."""
    screen_s: float
    """Processor time of the screen's thread in all, from the app's start."""
    bytes_encoded: int
    size: str
    """Columns and lines of the terminal, and of the picture in it."""


def compose_app(desk: Desk) -> EdgeApp:
    """Load the models and make the app. Raises EdgeError when they, the gallery or the source cannot be used."""
    app = EdgeApp(desk)
    app.worker = desk.open_worker(desk.settings, desk.source, app.inbox.put)
    return app


class EdgeApp(App[None]):
    """The live picture with everything around it."""

    TITLE = "edge-app"
    CSS_PATH = "app.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (ROOMY[0], "-narrow"), (100, "-wide"), (160, "-huge")]  # noqa: RUF012 - Textual's own way
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (ROOMY[1], "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
        Binding("f1", "help", "Help", show=False),
        Binding("ctrl+p", "command_palette", "Commands", show=True, priority=True),
    ]

    worker: LiveWorker

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.inbox = Inbox(self.post_message)
        self.settings = desk.settings
        self.source = desk.source
        self.forgotten: list[Person] = []
        """Who can be brought back until the app closes, the last one last."""
        self.latest: Update | None = None
        self.drawing: Drawing | None = None
        """Known once the app has closed."""
        self.card: ModelCard | None = None
        """Of the model that Live looks with; None while faces are looked for."""
        self.area: Area | None = None
        """The box in which things are looked for; None: the whole picture."""
        self.explaining = False
        """Whether the picture shows where a classifier sees its answer."""
        self._screen_began_s = 0.0
        kept = desk.recall()
        self.mirror = bool(kept.get("mirror", False))
        self._first_theme = str(kept.get("theme", ""))

    def get_default_screen(self) -> LiveScreen:
        """The screen under all others."""
        return LiveScreen()

    def on_mount(self) -> None:
        """Begin to watch."""
        self._screen_began_s = time.thread_time()
        if self._first_theme in self.available_themes:
            self.theme = self._first_theme
        self.theme_changed_signal.subscribe(self, lambda _: self._keep_looks())
        for notice in (*self.desk.notices, *self.desk.terminal.lacks):
            self.tell(notice, severity="warning", timeout_s=10)
        self.worker.start()
        self.resume_model()
        self._tell_missing()

    @work(exclusive=True, group="resume")
    async def resume_model(self) -> None:
        """Go on with the model that was chosen; faces are looked for meanwhile, and when it is gone."""
        look_for = LookFor(self.settings.model)
        if look_for.is_people:
            return
        try:
            await self._look(look_for)
            # What a fresh worker or a fresh reader does not know.
            await self.order(Explain(self.explaining))
            if self.area is not None:
                await self.order(LookArea(self.area.box))
        except EdgeError as error:
            self.tell(f"{error}; faces are looked for instead", severity="warning", timeout_s=10)

    @work(exclusive=True, group="missing")
    async def _tell_missing(self) -> None:
        """Who is a stranger to the embedder in use, and what to do about it."""
        try:
            words = await self.order(Run(missing_words))
        except EdgeError as error:
            words = str(error)
        if words:
            self.tell(words, severity="warning", timeout_s=12)

    async def on_unmount(self) -> None:
        """Let the camera go before the terminal is given back."""
        self.inbox.close()
        await asyncio.to_thread(self.worker.stop, _JOIN_S)

    async def action_quit(self) -> None:
        """Count what was drawn, and close."""
        for screen in self.screen_stack:
            if isinstance(screen, LiveScreen):
                self._count(screen)
        self.exit()

    def _count(self, live: LiveScreen) -> None:
        picture = live.picture
        size = f"{self.size.width}x{self.size.height} cells, the picture {picture.size.width}x{picture.size.height}"
        screen_s = time.thread_time() - self._screen_began_s
        self.drawing = Drawing(
            picture.drawn, live.drawn_for_s, picture.drawing_s, screen_s, picture.bytes_encoded, size
        )

    def on_news(self) -> None:
        """Hand the newest update to the screen in front, and to the one under a dialog."""
        update = self.inbox.take()
        # What arrives while the screens are being taken down has no place to go.
        if update is None or not self.is_running:
            return
        self.latest = update
        for screen in self.screen_stack:
            if isinstance(screen, LiveScreen) and screen.is_mounted:
                screen.note(update)
        for screen in reversed(self.screen_stack):
            if isinstance(screen, EdgeScreen) and screen.is_mounted:
                screen.show(update)
            if not isinstance(screen, ModalScreen):
                return

    # What screens use

    async def order(self, command: Any) -> Any:
        """Send a command to the worker and wait for its result. Raises EdgeError."""
        return await self._plain(asyncio.wrap_future(self.worker.send(command)))

    async def beside(self, action: Callable[[], Any]) -> Any:
        """Do something slow on another thread. Raises EdgeError."""
        return await self._plain(asyncio.to_thread(action))

    async def _plain(self, awaited: Any) -> Any:
        try:
            return await awaited
        except EdgeError:
            raise
        except Exception as error:
            # The worker has logged it; here it is a line, not a traceback over the screen.
            raise EdgeError(
                f"internal fault ({type(error).__name__})", remedy="see the log in the data folder"
            ) from error

    def tell(self, words: str, *, severity: Severity = "information", timeout_s: float = 6) -> None:
        """Show a message for a while."""
        self.notify(words, severity=severity, timeout=timeout_s, markup=False)

    def steady_s(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def keep_settings(self, **changes: Any) -> Settings:
        """Change settings and save them. Raises EdgeError; the settings are then as before."""
        settings = replace(self.settings, **changes)
        self.desk.save_settings(**changes)
        self.settings = settings
        return settings

    def keep_mirror(self, mirror: bool) -> None:
        """Remember whether the picture is flipped."""
        self.mirror = mirror
        self._keep_looks()

    def _keep_looks(self) -> None:
        try:
            self.desk.remember({"mirror": self.mirror, "theme": self.theme})
        except EdgeError as error:
            self.tell(str(error), severity="warning")

    async def apply(self, **changes: Any) -> None:
        """Change settings; models are loaded again where that needs it. Raises EdgeError, and goes on as before."""
        before, settings = self.settings, replace(self.settings, **changes)
        other = settings.model != before.model
        if other:
            await self._look(LookFor(settings.model))
        renew = _models_of(settings) != _models_of(before)
        try:
            if renew:
                await self._renew_worker(settings)
            else:
                await self.order(SetRule(settings.fpir, settings.margin))
        except EdgeError:
            if other:
                await self._look(LookFor(before.model))
            raise
        if other:
            self.area = None
        self.keep_settings(**changes)
        if renew:
            self.resume_model()
            self._tell_missing()

    async def _look(self, look_for: LookFor) -> None:
        self.card = cast("ModelCard | None", await self.order(Look(look_for)))

    async def _renew_worker(self, settings: Settings) -> None:
        fresh = await self.beside(lambda: self.desk.open_worker(settings, self.source, self.inbox.put))
        await asyncio.to_thread(self.worker.stop, _JOIN_S)
        self.worker = fresh
        self.worker.start()

    async def use(self, model_id: str) -> None:
        """Make a model the one in use for its task, by id, or "faces". Raises EdgeError, and goes on as before."""
        await self.apply(**await self.beside(lambda: self.desk.changes_to_use(model_id)))

    async def remove(self, model_id: str) -> None:
        """Uninstall a model; what ships takes over what it did. Raises EdgeError."""
        usual = Settings()
        roles = [name for name in ("embedder", "detector", "model") if getattr(self.settings, name) == model_id]
        if roles:
            await self.apply(**{name: getattr(usual, name) for name in roles})
        await self.beside(lambda: self.desk.remove_model(model_id))

    async def explain(self, active: bool) -> None:
        """Show where the network sees its answer, or no more. Raises EdgeError."""
        self.explaining = active
        await self.order(Explain(active))

    async def look_at(self, area: Area | None) -> None:
        """Look for things in a box, or in the whole picture. Raises EdgeError."""
        self.area = area
        await self.order(LookArea(None if area is None else area.box))

    # Where to go

    def action_enroll(self) -> None:
        """Enroll somebody, or a thing while things are looked for."""
        self.go(ThingScreen() if self._looks_for_things else EnrollScreen())

    @property
    def _looks_for_things(self) -> bool:
        live = self.screen_stack[0]
        return isinstance(live, LiveScreen) and live.looks_for(Task.IMAGE_EMBEDDING)

    def action_people(self) -> None:
        """Everyone enrolled, or the things while things are looked for."""
        self.go(PeopleScreen(self.settings.model if self._looks_for_things else None))

    def action_models(self) -> None:
        self.go(ModelsScreen())

    def action_settings(self) -> None:
        """Choices that stay."""
        self.go(SettingsScreen())

    def action_help(self) -> None:
        """Every key, and what this terminal lacks."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen, self.desk.terminal))

    def go(self, screen: Screen[None]) -> None:
        """Show a screen over the live one, in place of another; not over an open question."""
        if isinstance(self.screen, ModalScreen):
            return
        # What was told on the last screen would lie over this one.
        self.clear_notifications()
        if isinstance(self.screen, LiveScreen):
            self.push_screen(screen)
        else:
            self.switch_screen(screen)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the command palette offers: this app's screens and actions first."""
        yield SystemCommand("Enroll", "Learn a person, or a thing, from the live picture or files", self.action_enroll)
        yield SystemCommand("People", "Everyone enrolled: rename, add shots, forget", self.action_people)
        yield SystemCommand("Models", "Licences, operating points, speed here", self.action_models)
        yield SystemCommand("Settings", "Choices that stay", self.action_settings)
        if isinstance(screen, LiveScreen):
            yield SystemCommand("Pause", "Stop looking, or go on", screen.action_pause)
            yield SystemCommand("Snapshot", "Keep the picture with boxes and names", screen.action_snapshot)
            yield SystemCommand("Mirror", "Flip the picture", screen.action_mirror)
            yield SystemCommand("Source", "Another camera, a file, the sample clip", screen.action_source)
            yield SystemCommand("Look for", "Faces, a classifier's classes, or enrolled things", screen.action_look_for)
            yield SystemCommand("Threshold", "How many strangers may be named", screen.action_threshold)
        yield SystemCommand("Help", "Every key, and what this terminal lacks", self.action_help)
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)
        yield SystemCommand("Quit", "Close the camera and go", self.action_quit)


def _models_of(settings: Settings) -> tuple[Any, ...]:
    """The settings that decide which models are loaded, and how."""
    passive = settings.liveness == "passive"
    return settings.precision, settings.detector, settings.embedder, settings.threads, settings.keep_pictures, passive
