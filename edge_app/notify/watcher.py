"""Watching a source without a screen: its events in order, until it is over or a signal or a deadline ends it."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

from edge_app.core.errors import EdgeError, MediaError
from edge_app.core.types import Frame, Match
from edge_app.live.events import EventName, LiveEvent
from edge_app.live.mode import Mode
from edge_app.live.update import Update, WorkerOptions
from edge_app.live.worker import Worker
from edge_app.media.folders import find_pictures
from edge_app.media.live_camera import CameraState, CameraStatus, LiveOptions
from edge_app.media.pictures import read_picture
from edge_app.media.source_spec import parse_source
from edge_app.notify.hooks import Report
from edge_app.recognition.session import Session

_POLL_S: Final = 0.2
"""A signal is answered within this time even when nothing happens."""

_PROBLEMS: Final = (CameraState.LOST, CameraState.BLACK, CameraState.FROZEN)


class Stop:
    """Takes the signals that ask a program to end, and remembers the first; use it in a `with` statement.

    A second one ends the program at once, as it would have without this.
    """

    SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGHUP")

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that came, None before."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        numbers = [getattr(signal, name) for name in self.SIGNALS if hasattr(signal, name)]
        # A program started by nohup, or in the background of a script, is told to ignore some: that holds.
        taken = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._came) for number in taken}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def exit_code(self) -> int:
        """What the program says at its end: 130 after Ctrl-C, 0 when it was asked to end or the source is over."""
        return 130 if self.number == signal.SIGINT else 0

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def watch(
    session: Session,
    source: str,
    stop: Stop,
    report: Report,
    *,
    realtime: bool = False,
    deadline_s: float | None = None,
    mode: Mode | None = None,
) -> Generator[LiveEvent, None, None]:
    """Yield what happens in front of a source until it is over, `stop` was asked, or `deadline_s` has passed.

    Of a classifier or of things the events are their answers: "recognized" for a label, "unknown" for not sure.
    Files are read as fast as they can be, every frame of them, or with `realtime` at their own speed; `deadline_s`
    is on time.monotonic. Who is there when it is stopped has not left: "left" at the end comes for files only.
    `mode` stands for the session's own. `report` is told of troubles. Raises MediaError when the source makes no sense
    or the file was damaged, and EdgeError when the loop failed. Close the generator, or exhaust it. Of a picture, and
    of each in a folder, it tells who is on it, at once: tracks want two frames before they are believed.
    """
    spec = parse_source(source)
    if session.look_for.is_people and (spec.kind == "picture" or (spec.kind == "folder" and not realtime)):
        told = 0
        paths = [Path(spec.target)] if spec.kind == "picture" else find_pictures(Path(spec.target))
        for number, path in enumerate(paths):
            if stop.number is not None or (deadline_s is not None and time.monotonic() >= deadline_s):
                return
            try:
                for event in _in_a_picture(session, path, report):
                    told += 1
                    yield replace(event, time_s=float(number), track=told)
            except MediaError as error:
                if spec.kind == "picture":
                    raise
                report(str(error))  # one bad picture of a folder does not stop the others
        return
    followed = follow(session, source, stop, report, realtime=realtime, deadline_s=deadline_s, mode=mode)
    with closing(followed):
        for news in followed:
            if news is not None:
                yield from news.events


def follow(
    session: Session,
    source: str,
    stop: Stop,
    report: Report,
    *,
    realtime: bool = False,
    deadline_s: float | None = None,
    mode: Mode | None = None,
) -> Generator[News | None, None, None]:
    """Run the live loop and yield what it tells, None where it is silent for a moment; see `watch`.

    Close it, or exhaust it.
    """
    updates: queue.SimpleQueue[News] = queue.SimpleQueue()
    options = WorkerOptions(camera=LiveOptions(realtime=realtime), until_end=True)
    troubles = Troubles(report)
    with Worker(session, source, lambda update: updates.put(News.of(update)), options, mode=mode) as worker:
        while stop.number is None and (deadline_s is None or time.monotonic() < deadline_s):
            over = worker.join(_POLL_S if troubles.is_ended else 0)
            try:
                news = updates.get(timeout=0 if over else _POLL_S)
            except queue.Empty:
                if over:
                    troubles.judge()
                    return
                yield None
                continue
            yield news
            troubles.note(news)


@dataclass(frozen=True, slots=True)
class NamedSource:
    """One of several sources."""

    name: str
    """How its events call it."""
    text: str
    """What to open."""


class Turns:
    """Lets as many workers observe at a time as asked, in the order in which they came; a `with` statement each."""

    def __init__(self, at_once: int) -> None:
        self._changed = threading.Condition()
        self._free = at_once
        self._waiting: deque[object] = deque()

    def __enter__(self) -> None:
        mine = object()
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] is mine)
            self._waiting.popleft()
            self._free -= 1
            self._changed.notify_all()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()


def watch_several(
    sources: Sequence[NamedSource],
    stop: Stop,
    report: Report,
    open_worker: Callable[[NamedSource, Callable[[Update], None], WorkerOptions, Turns], Worker],
    *,
    at_once: int,
    realtime: bool = False,
) -> Generator[LiveEvent, None, None]:
    """Yield what happens in front of several sources, as `watch` does; every event says at which.

    `open_worker` makes each source's worker, over models that all share. `at_once` frames are looked at together, by
    turns: a source that stalls or is lost waits alone. One that fails is told of, and the others go on. Raises the
    first one's error when all have failed.
    """
    news: queue.SimpleQueue[tuple[str, News]] = queue.SimpleQueue()
    turns = Turns(at_once)
    options = WorkerOptions(camera=LiveOptions(realtime=realtime), until_end=True)
    errors: dict[str, EdgeError] = {}
    with ExitStack() as stack:
        running: dict[str, tuple[Worker, Troubles]] = {}
        for one in sources:

            def take(update: Update, name: str = one.name) -> None:
                news.put((name, News.of(update)))

            worker = stack.enter_context(open_worker(one, take, options, turns))
            running[one.name] = worker, Troubles(lambda text, name=one.name: report(f"{name}: {text}"))  # type: ignore[misc]
        while stop.number is None:
            try:
                name, said = news.get(timeout=_POLL_S if running else 0)
            except queue.Empty:
                for name in [name for name, (worker, _) in running.items() if worker.join(0) and news.empty()]:
                    _, troubles = running.pop(name)
                    try:
                        troubles.judge()
                    except EdgeError as error:
                        errors[name] = error
                        report(f"{name}: {error}")
                if running or not news.empty():
                    continue
                break
            for event in said.events:
                yield replace(event, source=name)
            if name in running:
                running[name][1].note(said)
    if len(errors) == len(sources):
        raise errors[sources[0].name]


def _in_a_picture(session: Session, path: Path, report: Report) -> Iterator[LiveEvent]:
    """Who is on a picture; tells `report` when nobody is."""
    seen = session.recognizer.observe(Frame(read_picture(path)), any_way_up=True)
    for number, finding in enumerate(seen.findings, 1):
        answer = finding.answer
        if isinstance(answer, Match):
            event: EventName = "unknown" if answer.name is None else "recognized"
            similarity = round(answer.similarity, 3) if answer.similarity > -1 else None
            yield LiveEvent(event, 0.0, number, answer.name, similarity, 0.0)
    if not seen.findings:
        report(f"no face in {path}")


@dataclass(frozen=True, slots=True)
class News:
    """An `Update` without its pixels: these must not pile up behind a slow reader."""

    events: tuple[LiveEvent, ...]
    status: CameraStatus
    trouble: str

    @classmethod
    def of(cls, update: Update) -> Self:
        return cls(update.events, update.status, update.trouble)


class Troubles:
    """Tells each trouble once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._status = CameraStatus(CameraState.OPENING, "")
        self._trouble = ""

    @property
    def is_ended(self) -> bool:
        """Whether the source is over; a last frame may still be looked at."""
        return self._status.state is CameraState.ENDED

    def note(self, news: News) -> None:
        """Report what is wrong with the source, when its state changes, or with the loop."""
        before, self._status = self._status.state, news.status
        if news.status.state is not before and news.status.state in _PROBLEMS:
            self._report(news.status.message)
        if news.trouble and news.trouble != self._trouble and not self.is_ended:
            self._report(news.trouble)
        self._trouble = news.trouble

    def judge(self) -> None:
        """Raise what was wrong at the end of the source, if anything was."""
        if self._status.error is not None:
            raise self._status.error
        if self._trouble:
            raise EdgeError(self._trouble)
