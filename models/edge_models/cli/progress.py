"""How training is told while it goes on: bars on a terminal, plain lines elsewhere, nothing but notes with --json."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from edge_app.core.plain_text import plain

_LINE_EVERY_S: Final = 15.0
"""Seconds between two lines of one stage, off a terminal."""


@dataclass(slots=True)
class _Stage:
    name: str
    total: int
    done: int = 0
    detail: str = ""
    told: str = ""
    """The last line about it that was printed."""
    told_s: float = 0.0
    """When that was."""
    task: TaskID | None = None

    @property
    def line(self) -> str:
        """The same in words."""
        return f"{self.name}: {self.done} of {self.total}" + (f", {self.detail}" if self.detail else "")


class TrainingProgress:
    """A `edge_models.fitting.progress.Progress`: use it as a context, so that the terminal is left tidy."""

    def __init__(
        self, *, quiet: bool, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`quiet` tells notes only; `console` is standard error unless given."""
        self._console = console or Console(file=sys.stderr)
        self._quiet, self._clock = quiet, clock
        self._now: _Stage | None = None
        self._bars = None if quiet or not self._console.is_terminal else _Bars(self._console)

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish()
        if self._bars is not None:
            self._bars.stop()

    def note(self, text: str) -> None:
        """Print one line, above the bars."""
        if self._bars is None:
            print(plain(text), file=self._console.file, flush=True)
        else:
            self._console.print(plain(text), markup=False, highlight=False)

    def stage(self, name: str, total: int) -> None:
        """Begin a bar; the one before it stays where it was left."""
        self._finish()
        self._now = _Stage(name, total, told_s=self._clock())
        if self._bars is not None:
            self._now.task = self._bars.add_task(name, total=total, detail="")

    def advance(self, done: int, detail: str = "") -> None:
        """Move the bar, or print a line when one is due."""
        stage = self._now
        if stage is None:
            return
        # What is found while counting is told as "of N".
        if detail.startswith("of "):
            stage.total, detail = int(detail.removeprefix("of ")), ""
        stage.done, stage.detail = done, detail or stage.detail
        if self._bars is not None and stage.task is not None:
            self._bars.update(stage.task, completed=done, total=stage.total, detail=stage.detail)
        elif self._clock() - stage.told_s >= _LINE_EVERY_S:
            self._tell(stage)

    def _finish(self) -> None:
        """The stage is over, early or not: its clock stops, and off a terminal its last figures are told."""
        stage, self._now = self._now, None
        if stage is None:
            return
        if self._bars is not None and stage.task is not None:
            self._bars.stop_task(stage.task)
        elif stage.done and stage.line != stage.told:
            self._tell(stage)

    def _tell(self, stage: _Stage) -> None:
        # A single step, as loading PyTorch, is no news to a file.
        if not self._quiet and stage.total > 1:
            stage.told, stage.told_s = stage.line, self._clock()
            print(plain(stage.told), file=self._console.file, flush=True)


class _Minutes(ProgressColumn):
    """What is left of a stage while it goes on, what it took afterwards; early stopping leaves steps undone."""

    def render(self, task: Task) -> Text:
        """Minutes and seconds."""
        over = task.finished or task.stop_time is not None
        seconds = task.elapsed if over else task.time_remaining
        told = "-:--" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
        return Text(told if over else f"{told} left")


class _Bars(Progress):
    """Stage, bar, steps, minutes and the latest figures, cut where the terminal ends."""

    def __init__(self, console: Console) -> None:
        self._terminal = console  # asked for its width before Progress knows it
        whole = Column(no_wrap=True)
        super().__init__(
            TextColumn("{task.description}", table_column=whole),
            BarColumn(bar_width=5),
            MofNCompleteColumn(table_column=whole),
            _Minutes(table_column=whole),
            TextColumn(
                "{task.fields[detail]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=console,
            transient=True,
            expand=True,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars, narrower than the terminal: a full line and the ^C of who stops it would make two."""
        yield Constrain(self.make_tasks_table(self.tasks), max(1, self._terminal.width - len("^C") - 1))
