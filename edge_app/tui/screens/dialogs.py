"""The choices that lie over the live picture: threshold, source and model; and questions with a few answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from edge_app.core.errors import EdgeError
from edge_app.core.task import PEOPLE, LookFor, Task
from edge_app.gallery.matching import share_words
from edge_app.media.cameras import CameraInfo
from edge_app.recognition.faces import PeopleSession
from edge_app.tui.screens.base import used
from edge_app.tui.services import ModelLine

SHARES: Final = (0.1, 1 / 30, 0.01, 1 / 300, 0.001, 0.0001)
"""Shares of strangers that may be called somebody, from lenient to strict."""

_MEANINGS: Final = {
    0.1: "a game among friends",
    1 / 30: "greeting people",
    0.01: "the usual choice",
    1 / 300: "a diary of who was here",
    0.001: "alarms that must not cry wolf",
    0.0001: "as strict as it gets; more friends go unnamed",
}


class ChooseRule(ModalScreen[float | None]):
    """Chooses the false-alarm rate; what it means stands below, in words and numbers."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, bench: PeopleSession) -> None:
        super().__init__()
        self._bench = bench

    def compose(self) -> ComposeResult:
        """The rates over their meaning."""
        with Vertical(classes="dialog"):
            yield Label("How many strangers may be called somebody?")
            yield OptionList(*(Option(f"{share_words(share):<13} {_MEANINGS[share]}") for share in SHARES))
            yield Static(id="meaning")
            yield Static("enter: choose   esc: leave as it is", classes="hint")

    def on_mount(self) -> None:
        """Start at the rate in use."""
        used = self._bench.settings.fpir
        nearest = min(range(len(SHARES)), key=lambda index: abs(SHARES[index] - used))
        self.query_one(OptionList).highlighted = nearest

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Say what the rate means for the gallery as it is."""
        points, cohort = self._bench.thresholds.points, self._bench.thresholds.cohort
        share, margin = SHARES[event.option_index], self._bench.settings.margin
        rule = self._bench.recognizer.gallery.rule(points, share, margin, cohort)
        self.query_one("#meaning", Static).update(Text(rule.words))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(SHARES[event.option_index])


class ChooseSource(ModalScreen[str | None]):
    """Chooses what to watch, and opens it; the cameras are looked for while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(
        self, cameras: Callable[[], Sequence[CameraInfo]], open_source: Callable[[str], Awaitable[str]]
    ) -> None:
        """`open_source` goes on with a source and gives it back; it raises EdgeError for one that makes no sense."""
        super().__init__()
        self._cameras, self._open = cameras, open_source
        self._specs: list[str] = ["sample"]

    def compose(self) -> ComposeResult:
        """A list, and a line to type in."""
        with Vertical(classes="dialog"):
            yield Label("What shall be watched?")
            yield OptionList(Option("the sample clip"))
            yield Static("looking for cameras…", id="looking", classes="hint")
            yield Input(placeholder="or a file, folder, http:// or rtsp:// address", compact=True)
            yield Static(classes="problem")
            yield Static("tab: type a path   enter: choose   esc: leave as it is", classes="hint")

    def on_mount(self) -> None:
        """Begin to look for cameras."""
        self._look()

    @work
    async def _look(self) -> None:
        words = "no camera was found on this machine"
        try:
            found = await asyncio.to_thread(self._cameras)
        except EdgeError as error:
            found, words = (), str(error)
        options = self.query_one(OptionList)
        for camera in found:
            self._specs.append(camera.spec)
            options.add_option(Option(Text(camera_line(camera))))
        looking = self.query_one("#looking", Static)
        looking.display = not found
        looking.update(Text(words))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter in the list."""
        self._choose(self._specs[event.option_index])

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the line."""
        if event.value.strip():
            self._choose(event.value.strip())

    @work(exclusive=True, group="use")
    async def _choose(self, source: str) -> None:
        done, found = await used(self, self._open(source))
        if done:
            self.dismiss(found)


LIVE_TASKS: Final[Mapping[Task, str]] = {
    Task.CLASSIFICATION: "classifier",
    Task.LIVENESS: "liveness, each face",
    Task.IMAGE_EMBEDDING: "enrolled things",
}
"""Tasks of the models that Live can show, in a word or two."""


class ChooseModel(ModalScreen[str | None]):
    """Chooses what the live picture is looked at for."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, lines: Sequence[ModelLine], used: LookFor) -> None:
        super().__init__()
        cards = {line.model_id: line.card for line in lines if line.card and line.task in LIVE_TASKS}
        self._ids = [PEOPLE.word, *cards]
        self._words = [f"{PEOPLE}: names of the people who are enrolled"]
        for card in cards.values():
            note = "" if card.commercial_use else "  NO COMMERCIAL USE"
            self._words.append(f"{card.id}: {LIVE_TASKS[card.task]}{note}")
        self._used = used.word

    def compose(self) -> ComposeResult:
        """The models over what to do when there is none."""
        with Vertical(classes="dialog"):
            yield Label("What shall the picture be looked at for?")
            yield OptionList(*(Option(Text(words)) for words in self._words))
            if len(self._ids) == 1:
                yield Static("Classifiers and image embedders are added on the Models screen.", classes="hint")
            yield Static("enter: choose   esc: leave as it is", classes="hint")

    def on_mount(self) -> None:
        """Start at the one in use."""
        self.query_one(OptionList).highlighted = self._ids.index(self._used) if self._used in self._ids else 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._ids[event.option_index])


class Confirm(ModalScreen[bool]):
    """Asks before something is lost."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("escape,n", "dismiss(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """The question over the keys."""
        with Vertical(classes="dialog"):
            yield Label(self._question, markup=False)
            yield Static("y: yes   esc: no", classes="hint")


class Choose(ModalScreen[str | None]):
    """Asks a question that has a few answers; gives the word of one of them, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, question: str, answers: Mapping[str, str]) -> None:
        """`answers` are words for the program, each with the sentence that is shown."""
        super().__init__()
        self._question, self._answers = question, dict(answers)

    def compose(self) -> ComposeResult:
        """The question over the answers."""
        with Vertical(classes="dialog"):
            yield Label(Text(self._question))
            yield OptionList(*(Option(Text(words)) for words in self._answers.values()))
            yield Static("enter: choose   esc: back", classes="hint")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter."""
        self.dismiss(list(self._answers)[event.option_index])


def camera_line(camera: CameraInfo) -> str:
    """A camera in a line: number, name, its largest picture, or why it cannot be used."""
    if camera.problem:
        return f"camera {camera.spec}: {camera.name} ({camera.problem})"
    best = camera.formats[0] if camera.formats else None
    size = f", {best.size_px[0]}x{best.size_px[1]}" if best else ""
    return f"camera {camera.spec}: {camera.name}{size}"
