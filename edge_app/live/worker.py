"""The live loop: a thread that takes frames, hands them to a mode, and answers commands between two frames."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import LookFor
from edge_app.core.types import Frame, Seen
from edge_app.gallery.enrollment import Refusal, Shot
from edge_app.gallery.matching import MatchRule
from edge_app.live.commands import Command
from edge_app.live.events import LiveEvent, SourceEvents, in_order
from edge_app.live.mode import Mode
from edge_app.live.modes import mode_for
from edge_app.live.update import Update, WorkerOptions
from edge_app.media.live_camera import CameraState, CameraStatus, LiveCamera, LiveOptions
from edge_app.media.source_spec import parse_source
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.gallery_session import GallerySession
from edge_app.recognition.open_session import OpenOptions, open_session
from edge_app.recognition.session import Session
from edge_app.system.log import Faults

_TAKE_S: Final = 0.1
"""Longest wait for a frame: a command is answered within this time even when the camera is silent."""
_GENERATION_EVERY_S: Final = 1.0
_BACK_OFF_S: Final = 0.5
"""Pause after a frame that could not be observed: a lasting fault must not fill the log or a core."""
_UNSEEN: Final = (CameraState.LOST, CameraState.BLACK, CameraState.FROZEN)


class Worker:
    """Observes one source after another on its own thread; use it in a `with` statement, or call `start` and `stop`."""

    def __init__(
        self,
        session: Session,
        source: str,
        sink: Callable[[Update], None],
        options: WorkerOptions | None = None,
        *,
        mode: Mode | None = None,
        turn: AbstractContextManager[object] | None = None,
        camera: Callable[[str, LiveOptions], LiveCamera] = LiveCamera,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sink` is called on the worker's thread and must return soon.

        `session` decides what is looked for, until `Look` says otherwise. `mode` stands for the session's own; every
        frame is observed inside `turn`, where several workers share a machine. `camera` opens sources and `clock` gives
        seconds, for tests. Raises MediaError when `source` makes no sense.
        """
        parse_source(source)
        self._options = options or WorkerOptions()
        self._sink = sink
        self._open = camera
        self._turn_to_observe = turn or nullcontext()
        self._clock = clock
        self._source = source
        self._settings = session.settings
        self._first = mode or mode_for(session, self._options.tracker)
        self.mode = self._first
        """What looks at the frames now; commands may change it."""
        self.capturing = False
        self._commands: queue.SimpleQueue[tuple[Command, Future[Any]]] = queue.SimpleQueue()
        self._accepting = threading.Lock()
        self._closed = False
        self._stopping = threading.Event()
        self._camera: LiveCamera | None = None
        self._availability = SourceEvents()
        self._pending: list[LiveEvent] = []
        self._told_s = -math.inf
        self._observed_s: deque[float] = deque(maxlen=120)
        self._frame_time_s = 0.0
        self._frame_at_s = self._notified_s = self._asked_s = clock()
        self._generation = session.vault.generation() if session.vault else 0
        self._paused = False
        self._trouble = self._gallery_trouble = ""
        self._faults = Faults(session.home.log_path, clock)
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)

    # For other threads

    @property
    def people(self) -> PeopleSession:
        """The newest session of the people. Raises UsageError when the loop was opened for something else."""
        session = self._first.session
        if not isinstance(session, PeopleSession):
            raise UsageError(f"only {session.look_for} is in use here", expected="a loop that was opened for faces")
        return session

    def start(self) -> None:
        """Begin; once only."""
        self._thread.start()

    def send(self, command: Command) -> Future[Any]:
        """Queue a command; its Future gets the result or the EdgeError, within a frame or 0.1 s."""
        future: Future[Any] = Future()
        with self._accepting:
            if self._closed:
                future.set_exception(EdgeError("the live loop has ended", remedy="start it again"))
            else:
                self._commands.put((command, future))
        return future

    def stop(self, join_s: float = 10.0) -> None:
        """End the loop, release the source and join the thread; may be called twice, and from any thread."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(join_s)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the loop to end by itself; True when it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # The worker's thread

    def _main(self) -> None:
        try:
            self._camera = self._open(self._source, self._options.camera)
            while not self._stopping.is_set():
                self._answer_all()
                if self._turn(self._camera):
                    break
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence would look like a hang
            self._trouble = self._report(error)
        finally:
            status = CameraStatus(CameraState.ENDED, self._trouble)
            if self._camera is not None:
                status = self._camera.status
                self._camera.close()
            self._end(replace(status, state=CameraState.ENDED))

    def _turn(self, camera: LiveCamera) -> bool:
        """One frame, or one wait for it; True when the source is over and that ends the loop."""
        frame = camera.take(_TAKE_S)
        status = camera.status
        if frame is None or status.state is not CameraState.LOST:  # a frame from just before the loss still counts
            self._note_source(status)
        self._follow_vault()
        if frame is not None and not self._paused:
            self._observe(frame, status)
        elif self._clock() - self._notified_s >= self._options.notice_every_s:
            self._tell(status)
        if frame is None and status.state is CameraState.ENDED:
            self._finish()
            if self._options.until_end:
                return True
            self._stopping.wait(_TAKE_S)  # an ended camera does not make `take` wait
        return False

    def _observe(self, frame: Frame, status: CameraStatus) -> None:
        self._frame_time_s, self._frame_at_s = frame.time_s, self._clock()
        try:
            with self._turn_to_observe:
                seen = self.mode.observe(frame)
                shot = self.mode.shot(seen, self._name) if self.capturing else None
            self._trouble = ""
        except Exception as error:  # noqa: BLE001 - whatever a frame does, the next one gets its chance
            self._trouble = self._report(error)
            self.mode.reset()
            self._tell(status)
            self._stopping.wait(_BACK_OFF_S)
            return
        self._observed_s.append(self._clock())
        self._collect_events()
        self._tell(status, seen, shot)

    def _finish(self) -> None:
        """What comes next has nothing to do with what was: everybody has left."""
        self.mode.finish(self._frame_time_s)
        self._collect_events()

    def _collect_events(self) -> None:
        """Take the mode's events, and note in the vault who, or what, was just recognized."""
        events = self.mode.events()
        self._pending += events
        vault = self.mode.session.vault
        if not self._options.touch or vault is None:
            return
        try:
            for event in events:
                if event.event == "recognized" and event.name is not None:
                    vault.touch(event.name, time.time())
        except EdgeError as error:  # seen all the same; the disk may be full or read-only
            self._gallery_trouble = self._report(error)

    def _tell(self, status: CameraStatus, seen: Seen | None = None, shot: Shot | Refusal | None = None) -> None:
        events, self._pending = in_order(self._pending, self._told_s), []
        self._told_s = events[-1].time_s if events else self._told_s
        self._notified_s = self._clock()
        update = Update(
            seen=seen,
            tracks=self.mode.tracks,
            events=events,
            status=status,
            source=self._name,
            fps=self._fps(),
            people=self.mode.enrolled,
            rule=self.mode.rule,
            paused=self._paused,
            shot=shot,
            trouble=self._trouble or self._gallery_trouble,
            look_for=self.mode.session.look_for,
            asked=(examiner.name or "") if (examiner := self.mode.examiner) else "",
            challenge=examiner.progress if examiner else None,
        )
        try:
            self._sink(update)
        except Exception as error:  # noqa: BLE001 - a screen that is closing must not end the loop
            self._trouble = self._report(error)

    @property
    def _name(self) -> str:
        return parse_source_name(self._source)

    def _fps(self) -> float:
        now_s = self._clock()
        recent = [at_s for at_s in self._observed_s if now_s - at_s <= 2.0]
        span_s = recent[-1] - recent[0] if len(recent) > 1 else 0.0
        return (len(recent) - 1) / span_s if span_s > 0 else 0.0

    def _note_source(self, status: CameraStatus) -> None:
        if status.state is CameraState.LOST:
            self._finish()  # who was there left before the source was lost, and is told first
        if status.state is CameraState.LIVE or status.state in _UNSEEN:
            # The frames' own clock goes on by the wall's while there are none.
            time_s = self._frame_time_s + max(0.0, self._clock() - self._frame_at_s)
            self._pending += self._availability.update(time_s, status.state is CameraState.LIVE)

    def _follow_vault(self) -> None:
        """Swap the gallery in when this or another process has changed the vault."""
        if self._clock() - self._asked_s < _GENERATION_EVERY_S:
            return
        self._asked_s = self._clock()
        self._follow()

    def _follow(self) -> None:
        try:
            self._catch_up()
            self._gallery_trouble = ""
        except EdgeError as error:  # the gallery in memory goes on
            self._gallery_trouble = self._report(error)

    def _catch_up(self) -> None:
        vault = self._first.session.vault or self.mode.session.vault
        if vault is None:
            return
        generation = vault.generation()  # asked first: a change meanwhile is read once more
        if generation == self._generation:
            return
        for mode in {id(mode): mode for mode in (self._first, self.mode)}.values():
            mode.gallery_changed()
        self._generation = generation

    # Commands

    def _answer_all(self) -> None:
        while True:
            try:
                command, future = self._commands.get_nowait()
            except queue.Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result: Any = command.run(self)
                self._follow()  # what was stored must not be told as failed because it cannot be read back
            except Exception as error:  # noqa: BLE001 - it is the asker's to handle
                if not isinstance(error, EdgeError):
                    self._report(error)
                result = error
            if self._camera is not None:
                self._tell(self._camera.status)  # first: who waits for the result finds what it did told
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def look_for(self, look_for: LookFor, unsure_below: float | None) -> ModelCard | None:
        """Look at frames for something else; what was about to be told of the last is told when that has succeeded."""
        first = self._first
        if look_for == first.session.look_for and unsure_below is None:
            mode = first
        else:
            if look_for.is_people:
                raise UsageError("faces were not opened here", expected="the id of a classifier or an image embedder")
            options = OpenOptions(unsure_below=unsure_below)
            mode = mode_for(open_session(first.session.home, self._settings, look_for, options), self._options.tracker)
        self._finish()
        mode.explaining = self.mode.explaining
        self._drop(self.mode, mode)
        self.mode = mode
        self._observed_s.clear()
        return None if look_for.is_people else mode.session.recognizer.card

    def _drop(self, old: Mode, new: Mode) -> None:
        if old is not self._first and old is not new:
            old.session.close()

    def set_rule(self, fpir: float | None, margin: float | None) -> MatchRule:
        """Change from when on somebody is named, for people and things alike."""
        old = self._settings
        settings = replace(
            old, fpir=old.fpir if fpir is None else fpir, margin=old.margin if margin is None else margin
        )
        modes = {id(mode): mode for mode in (self._first, self.mode)}.values()
        sessions = [(mode, mode.session) for mode in modes if isinstance(mode.session, GallerySession)]
        if not sessions:
            raise UsageError(f"only {self.mode.session.look_for} is in use here", expected="people or things")
        for mode, session in sessions:
            mode.gallery_changed(replace(session, settings=settings).refreshed())
        self._settings = settings
        return self._first.rule

    def pause(self, paused: bool) -> None:
        """Take frames and throw them away unseen, or look at them again."""
        if paused and not self._paused:
            self._finish()
        self._paused = paused

    def switch(self, source: str) -> None:
        """Go on with another source. Raises MediaError for a text that makes no sense, and goes on as before."""
        parse_source(source)
        # The old one goes first: it may be the same device.
        if self._camera is not None:
            self._camera.close()
        self._finish()
        self._pending = list(in_order(self._pending, self._told_s))
        self._told_s = -math.inf  # another source has another clock
        self._availability, self._trouble, self._source = SourceEvents(), "", source
        self._observed_s.clear()
        self._camera = self._open(source, self._options.camera)

    # The end, and what went wrong

    def _end(self, status: CameraStatus) -> None:
        self._finish()
        self._drop(self.mode, self._first)
        self._tell(status)
        with self._accepting:
            self._closed = True
        while not self._commands.empty():
            _, future = self._commands.get_nowait()
            if future.set_running_or_notify_cancel():
                future.set_exception(EdgeError("the live loop has ended", remedy="start it again"))

    def _report(self, error: Exception) -> str:
        return self._faults.report(error)


def parse_source_name(source: str) -> str:
    """How a source is called in messages."""
    try:
        return parse_source(source).name
    except MediaError:  # a file that was deleted while it played
        return Path(source).name
