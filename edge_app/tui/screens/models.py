"""The Models screen: the installed models, their licences, what was measured, and which of them run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Static

from edge_app.core.errors import EdgeError
from edge_app.core.model_card import ModelCard, OperatingPoint
from edge_app.core.task import PEOPLE
from edge_app.system.files import size_words
from edge_app.tui.inbox import Run
from edge_app.tui.picture.operating_plot import operating_plot
from edge_app.tui.screens.base import Ask, EdgeScreen, KeyBar, back
from edge_app.tui.screens.dialogs import Confirm
from edge_app.tui.services import ModelLine

PRECISIONS: Final = ("auto", "fp32", "int8", "fp16")
DETECTORS: Final = ("yunet", "mtcnn")
_MOST_LABELS: Final = 8


class ModelsScreen(EdgeScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "use", "Use", key_display="enter"),
        Binding("a", "add", "Add a file"),
        Binding("delete", "remove", "Remove"),
        Binding("v", "precision", "Next precision"),
        Binding("d", "detector", "Next detector"),
        Binding("b", "measure", "Measure here"),
        Binding("question_mark", "app.help", "Help"),
        *back(),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._lines: tuple[ModelLine, ...] = ()
        self._measured: dict[tuple[str, str], float] = {}

    def compose(self) -> ComposeResult:
        """The table over the card of the chosen model."""
        yield Static(id="title")
        yield DataTable(cursor_type="row", zebra_stripes=True, id="models")
        with VerticalScroll(id="cards"), Horizontal(id="card-row"):
            yield Static(id="card")
            yield Static(id="plot")
        yield KeyBar()

    def on_mount(self) -> None:
        """Ask for the catalogue."""
        table = self.query_one(DataTable)
        for label in ("", "model", "build", "for", "licence", "size", "here"):
            table.add_column(label, key=label or "in use")
        table.focus()
        self._read()

    @work(exclusive=True, group="catalogue")
    async def _read(self, then: str | None = None) -> None:
        with self.telling():
            bench = self.edge.worker.people
            self._lines = await self.order(Run(self.edge.desk.catalogue))
            self._fill(then)
            settings = self.edge.settings
            title = Text.assemble((" Models ", "bold reverse"), f"  Live looks for {settings.model}")
            title.append(f"  ·  detector {settings.detector}  ·  embedder {settings.embedder}")
            title.append(f" as {settings.precision}: {bench.choice.why}", "dim")
            self.query_one("#title", Static).update(title)

    def _fill(self, then: str | None = None) -> None:
        """Write the rows, and put the cursor on the model `then`, or leave it where it was."""
        table = self.query_one(DataTable)
        where = table.cursor_row
        table.clear()
        for line in self._lines:
            ms = self._measured.get((line.model_id, line.precision), line.measured_ms)
            table.add_row(
                Text("●" if line.in_use else "", "green"),
                Text(line.model_id, "bold" if line.in_use else ""),
                Text(line.precision),
                Text(line.task),
                _licence(line),
                Text(size_words(line.size_bytes), justify="right"),
                Text("" if ms is None else f"{ms:.1f} ms", justify="right"),
                key=f"{line.model_id} {line.precision}",
            )
        if self._lines:
            ids = [line.model_id for line in self._lines]
            table.move_cursor(row=ids.index(then) if then in ids else min(where, len(ids) - 1))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The cursor moved: show that card."""
        line = self._line()
        if line is None:
            return
        words = _card_words(line.card, line.points, line.calibrated) if line.card else Text(line.problem, "yellow")
        self.query_one("#card", Static).update(words)
        plot = self.query_one("#plot", Static)
        plot.display = line.card is not None and line.task.embeds
        if plot.display:
            plot.update(operating_plot(line.points, line.threshold))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        self.action_use()

    @work(exclusive=True, group="choose")
    async def action_use(self) -> None:
        """Make the chosen model the one in use for its task; a second time, look for faces again."""
        line = self._line()
        if line is None:
            return
        ends = line.model_id == self.edge.settings.model
        with self.telling():
            await self.edge.use(PEOPLE.word if ends else line.model_id)
            note = "" if line.card is None or line.card.commercial_use else "; NO COMMERCIAL USE"
            used = f"{line.model_id} is in use for {line.task}{note}"
            self.edge.tell("Live looks for faces again" if ends else used)
            self._read()

    @work
    async def action_add(self) -> None:
        """Validate a file and install it."""

        async def add(typed: str) -> str:
            path = _path(typed)
            return cast(str, await self.edge.beside(lambda: self.edge.desk.add_model(path)))

        model_id = await self.app.push_screen_wait(Ask("Which model file?", add, hint="path of an .onnx file"))
        if model_id is not None:
            self.edge.tell(f"{model_id} is installed; enter uses it")
            self._read(model_id)

    @work
    async def action_remove(self) -> None:
        """Uninstall the chosen model, every build of it."""
        line = self._line()
        if line is None:
            return
        model_id = line.model_id
        if not await self.app.push_screen_wait(Confirm(f"Remove {model_id} with all its builds?")):
            return
        with self.telling():
            await self.edge.remove(model_id)
            self.edge.tell(f"{model_id} is removed")
            self._read()

    def _line(self) -> ModelLine | None:
        row = self.query_one(DataTable).cursor_row
        return self._lines[row] if 0 <= row < len(self._lines) else None

    @work(exclusive=True, group="choose")
    async def action_precision(self) -> None:
        """Load the embedder in the next precision that it has."""
        used = self.edge.worker.people.choice.entry.id
        has = {line.precision for line in self._lines if line.model_id == used and not line.problem}
        with self.telling():
            await self.edge.apply(
                precision=_next(
                    [one for one in PRECISIONS if one == "auto" or one in has], self.edge.settings.precision
                )
            )
            self.edge.tell(f"the embedder runs as {self.edge.worker.people.choice.entry.precision}")
            self._read()

    @work(exclusive=True, group="choose")
    async def action_detector(self) -> None:
        """Load the other detector."""
        with self.telling():
            await self.edge.apply(detector=_next(detectors(self.edge.settings.detector), self.edge.settings.detector))
            self.edge.tell(f"faces are found by {self.edge.settings.detector}")
            self._read()

    @work(exclusive=True, group="measure")
    async def action_measure(self) -> None:
        """Measure the chosen model on this machine; the live picture waits for a moment."""
        line = self._line()
        if line is None:
            return
        with self.telling():
            ms = await self.order(Run(lambda bench: self.edge.desk.measure(bench, line.model_id, line.precision)))
            self._measured[line.model_id, line.precision] = cast(float, ms)
            self._fill()

    def action_back(self) -> None:
        """To the live picture."""
        self.dismiss()


def detectors(current: str) -> tuple[str, ...]:
    """The shipped detectors, and the one in use where it is the user's own."""
    return DETECTORS if current in DETECTORS else (*DETECTORS, current)


def _next(choices: Sequence[str], current: str) -> str:
    return choices[(choices.index(current) + 1) % len(choices)] if current in choices else choices[0]


def _path(typed: str) -> Path:
    """One path as it was typed, quoted as in a shell or not. Raises EdgeError when there are several."""
    try:
        words = shlex.split(typed)
    except ValueError:
        words = [typed]
    plain = Path(typed).expanduser()
    if len(words) != 1 and not plain.exists():
        raise EdgeError(f"{typed!r} names {len(words)} files", expected="one .onnx file")
    return Path(words[0]).expanduser() if len(words) == 1 else plain


def _licence(line: ModelLine) -> Text:
    if line.card is None:
        return Text("cannot be used", "yellow")
    return Text(line.card.licence if line.card.commercial_use else f"{line.card.licence} (NO COMMERCIAL USE)")


def _card_words(card: ModelCard, points: Sequence[OperatingPoint], calibrated: bool) -> Text:
    """A card, its weightiest facts first."""
    text = Text.assemble((f"{card.id} ({card.precision})\n", "bold"))
    facts = [
        ("task", card.task),
        ("licence", card.licence + ("" if card.commercial_use else ", NO COMMERCIAL USE")),
        ("origin", card.origin),
        ("input", f"{card.input.width_px}x{card.input.height_px}" if card.input.width_px else "pictures of any size"),
    ]
    if card.labels:
        shown = ", ".join(card.labels[:_MOST_LABELS])
        more = len(card.labels) - _MOST_LABELS
        facts.append(("labels", f"{shown} and {more:,} more" if more > 0 else shown))
        facts.append(("not sure", f"below {card.unsure_below:.2f}"))
    if card.hierarchy is not None:
        families = [f"{one.name} from {one.sure_from:.2f}" for one in card.hierarchy.families[:_MOST_LABELS]]
        more = len(card.hierarchy.families) - len(families)
        facts.append(("families", ", ".join(families) + (f" and {more:,} more" if more else "")))
    if card.embedding_size:
        facts.append(("embedding", f"{card.embedding_size} numbers"))
    facts.append(("crop", card.crop))
    facts += [(name, f"{value:.4g}") for name, value in card.metrics.items()]
    pairs = max((point.impostor_pairs for point in points), default=0)
    if pairs:
        whose = " of yours (calibrated)" if calibrated else ""
        facts.append(("thresholds from", f"{pairs:,} pairs of strangers{whose}"))
    for name, value in facts:
        text.append(f"{name}: ", "dim")
        text.append(f"{value}\n")
    return text
