"""The live loop: hides the thread that takes frames, observes them, and answers commands between two frames.

Flows in: a `Workbench`, or a `ReaderBench` where nobody asks for faces; a source's text; commands. Flows out: an
`Update` for every frame, handed to a sink on the worker's thread, and a Future for every command. The gallery in use is
an immutable value that the worker swaps when this or another process has changed the vault. What goes wrong is a
readable line and an entry in the log.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Frame, Observation, Reading
from edge_app.gallery.enrollment import Refusal, Shot
from edge_app.gallery.matching import NAMES_NOBODY, MatchRule
from edge_app.live.commands import (
    Capture,
    Command,
    Enroll,
    Explain,
    Forget,
    LookArea,
    LookAt,
    Pause,
    Rename,
    Run,
    SetRule,
    Switch,
    UseModel,
)
from edge_app.live.events import LiveEvent, SourceEvents
from edge_app.live.face_mode import FaceLoop, touch_recognized
from edge_app.live.model_mode import ReadLoop
from edge_app.live.update import Update, WorkerOptions
from edge_app.live.video_recognizer import LiveRecognizer
from edge_app.media.live_camera import CameraState, CameraStatus, LiveCamera, LiveOptions, parse_source
from edge_app.recognition.classes import FACES, Reader, ReaderBench
from edge_app.recognition.face_session import Workbench
from edge_app.system.error_log import Faults

if TYPE_CHECKING:
    from edge_app.recognition.things import ThingShot

__all__ = [
    "Capture",
    "Command",
    "Enroll",
    "Explain",
    "Forget",
    "LiveRecognizer",
    "LookArea",
    "LookAt",
    "Pause",
    "Rename",
    "Run",
    "SetRule",
    "Switch",
    "Update",
    "UseModel",
    "Worker",
    "WorkerOptions",
]

_TAKE_S: Final = 0.1
"""Longest wait for a frame: a command is answered within this time even when the camera is silent."""
_GENERATION_EVERY_S: Final = 1.0
_BACK_OFF_S: Final = 0.5
"""Pause after a frame that could not be observed: a lasting fault must not fill the log or a core."""
_UNSEEN: Final = (CameraState.LOST, CameraState.BLACK, CameraState.FROZEN)


@dataclass(frozen=True, slots=True, eq=False)
class _News:
    """What one frame gave."""

    observation: Observation | None = None
    reading: Reading | None = None
    look: Shot | ThingShot | Refusal | None = None


class Worker:
    """Observes one source after another on its own thread; use it in a `with` statement, or call `start` and `stop`."""

    def __init__(
        self,
        bench: Workbench | ReaderBench,
        source: str,
        sink: Callable[[Update], None],
        options: WorkerOptions | None = None,
        *,
        camera: Callable[[str, LiveOptions], LiveCamera] = LiveCamera,
        recognizer: LiveRecognizer | None = None,
        reader: Reader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`sink` is called on the worker's thread and must return soon.

        `reader` reads the frames instead of the face recognizer, until `UseModel` says otherwise; with a
        `ReaderBench` its own does, and there are no faces to go back to. `camera` opens sources and `clock` gives
        seconds, for tests. Raises MediaError when `source` makes no sense.
        """
        parse_source(source)
        self._options = options or WorkerOptions()
        self._sink = sink
        self._open = camera
        self._clock = clock
        self._source = source
        self._home, self._settings, self._vault = bench.home, bench.settings, bench.vault
        self._faces: FaceLoop | None = None
        if isinstance(bench, Workbench):
            self._faces = FaceLoop(bench, recognizer or LiveRecognizer(bench.recognizer, self._options.tracker))
        self._commands: queue.SimpleQueue[tuple[Command, Future[Any]]] = queue.SimpleQueue()
        self._accepting = threading.Lock()
        self._closed = False
        self._stopping = threading.Event()
        self._reads = ReadLoop(bench.reader if isinstance(bench, ReaderBench) else reader)
        self._availability = SourceEvents()
        self._pending: list[LiveEvent] = []
        self._observed_s: deque[float] = deque(maxlen=120)
        self._frame_time_s = 0.0
        self._frame_at_s = self._notified_s = self._asked_s = clock()
        self._generation = self._vault.generation() if self._vault else 0
        self._paused = self._capturing = False
        self._trouble = self._gallery_trouble = ""
        self._faults = Faults(self._home.log_path, clock)
        self._thread = threading.Thread(target=self._main, name="worker", daemon=True)

    # For other threads

    @property
    def workbench(self) -> Workbench:
        """The newest workbench. Raises UsageError when the loop was opened for a model alone."""
        return self._known_faces.workbench

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
        camera: LiveCamera | None = None
        try:
            camera = self._open(self._source, self._options.camera)
            while not self._stopping.is_set():
                camera = self._answer_all(camera)
                if self._turn(camera):
                    break
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence would look like a hang
            self._trouble = self._report(error)
        finally:
            status = camera.status if camera is not None else CameraStatus(CameraState.ENDED, self._trouble)
            if camera is not None:
                camera.close()
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
            self._tell(None, status)
        if frame is None and status.state is CameraState.ENDED:
            self._finish()
            if self._options.until_end:
                return True
            self._stopping.wait(_TAKE_S)  # an ended camera does not make `take` wait
        return False

    def _observe(self, frame: Frame, status: CameraStatus) -> None:
        self._frame_time_s, self._frame_at_s = frame.time_s, self._clock()
        try:
            news = self._read(frame) if self._reads.is_active else self._recognize(frame)
            self._trouble = ""
        except Exception as error:  # noqa: BLE001 - whatever a frame does, the next one gets its chance
            self._trouble = self._report(error)
            if self._faces:
                self._faces.reset()
            self._tell(None, status)
            self._stopping.wait(_BACK_OFF_S)
            return
        self._observed_s.append(self._clock())
        self._tell(news, status)

    def _recognize(self, frame: Frame) -> _News:
        faces = self._known_faces
        observation, events = faces.observe(frame)
        look = faces.shot(observation, self._name) if self._capturing else None
        self._pending += events
        try:
            if self._options.touch:
                faces.touch(events)
        except EdgeError as error:  # seen all the same; the disk may be full or read-only
            self._gallery_trouble = self._report(error)
        return _News(observation, look=look)

    def _read(self, frame: Frame) -> _News:
        reading, events = self._reads.read(frame)
        self._pending += events
        self._note_things(events)
        look = self._reads.shot(frame, self._name) if self._capturing else None
        return _News(reading=reading, look=cast("ThingShot | Refusal | None", look))

    def _finish(self) -> None:
        """What comes next has nothing to do with what was: everybody has left."""
        if self._faces:
            self._pending += self._faces.finish(self._frame_time_s)
        events = self._reads.finish(self._frame_time_s)
        self._pending += events
        self._note_things(events)

    def _note_things(self, events: tuple[LiveEvent, ...]) -> None:
        """Note in the vault which things were just recognized; a classifier's labels are nobody's names."""
        if not (self._options.touch and self._vault and self._reads.is_of_things):
            return
        try:
            touch_recognized(self._vault, events)
        except EdgeError as error:  # seen all the same; the disk may be full or read-only
            self._gallery_trouble = self._report(error)

    def _tell(self, news: _News | None, status: CameraStatus) -> None:
        news = news or _News()
        events, self._pending = tuple(self._pending), []
        self._notified_s = self._clock()
        faces = self._faces
        update = Update(
            observation=news.observation,
            tracks=faces.tracks if faces else (),
            events=events,
            status=status,
            source=self._name,
            fps=self._fps(),
            people=faces.people if faces else 0,
            rule=faces.rule if faces else NAMES_NOBODY,
            paused=self._paused,
            look=news.look,
            trouble=self._trouble or self._gallery_trouble,
            reading=news.reading,
            model_id=self._reads.model_id,
        )
        try:
            self._sink(update)
        except Exception as error:  # noqa: BLE001 - a screen that is closing must not end the loop
            self._trouble = self._report(error)

    @property
    def _known_faces(self) -> FaceLoop:
        if self._faces is None:
            raise UsageError(f"only {self._reads.model_id} is in use here", expected="a loop that was opened for faces")
        return self._faces

    @property
    def _name(self) -> str:
        return parse_source_name(self._source)

    def _fps(self) -> float:
        now_s = self._clock()
        recent = [at_s for at_s in self._observed_s if now_s - at_s <= 2.0]
        span_s = recent[-1] - recent[0] if len(recent) > 1 else 0.0
        return (len(recent) - 1) / span_s if span_s > 0 else 0.0

    def _note_source(self, status: CameraStatus) -> None:
        if status.state is CameraState.LIVE or status.state in _UNSEEN:
            # The frames' own clock goes on by the wall's while there are none.
            time_s = self._frame_time_s + max(0.0, self._clock() - self._frame_at_s)
            self._pending += self._availability.update(time_s, status.state is CameraState.LIVE)
        followed = self._faces is not None and self._faces.tracks
        if status.state is CameraState.LOST and (followed or self._reads.is_active):
            self._finish()

    def _follow_vault(self) -> None:
        """Swap the gallery in when this or another process has changed the vault."""
        if self._clock() - self._asked_s < _GENERATION_EVERY_S:
            return
        self._asked_s = self._clock()
        try:
            self._catch_up()
            self._gallery_trouble = ""
        except EdgeError as error:  # the gallery in memory goes on
            self._gallery_trouble = self._report(error)

    def _catch_up(self) -> None:
        if self._vault is None:
            return
        generation = self._vault.generation()  # asked first: a change meanwhile is read once more
        if generation == self._generation:
            return
        if self._faces:
            self._faces.use(self._faces.workbench.refreshed())
        self._reads.renew(self._home, self._settings)
        self._generation = generation

    # Commands

    def _answer_all(self, camera: LiveCamera) -> LiveCamera:
        while True:
            try:
                command, future = self._commands.get_nowait()
            except queue.Empty:
                return camera
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = None
                if isinstance(command, Switch):
                    camera = self._switch(command.source, camera)
                else:
                    result = self._answer(command)
                self._catch_up()
            except Exception as error:  # noqa: BLE001 - it is the asker's to handle
                if not isinstance(error, EdgeError):
                    self._report(error)
                future.set_exception(error)
            else:
                future.set_result(result)
            self._tell(None, camera.status)

    def _answer(self, command: Command) -> Any:
        match command:
            case Enroll(name, looks, options):
                return self.workbench.enroll(name, looks, options)
            case LookAt(paths, largest):
                return self._known_faces.look_at(paths, largest=largest)
            case Forget(name):
                return self._known_faces.forget(name)
            case Rename(old, new):
                return self.workbench.vault.rename(old, new)
            case SetRule(fpir, margin):
                return self._set_rule(fpir, margin)
            case Capture(active):
                self._capturing = active
            case Pause(paused):
                self._pause(paused)
            case UseModel(model_id, unsure_below):
                return self._use(model_id, unsure_below)
            case Explain(active):
                self._reads.explain(active)
            case LookArea(box):
                self._reads.look_area(box)
            case Run(action):
                return action(self.workbench)
            case _:
                raise UsageError(f"the live loop knows no command {type(command).__name__}")
        return None

    def _use(self, model_id: str, unsure_below: float | None) -> ModelCard | None:
        """Swap the model that reads; what the one before was about to tell is told when the swap has succeeded."""
        if model_id == FACES and self._faces is None:
            raise UsageError("faces were not opened here", expected="the id of a classifier or an image embedder")
        before = self._reads
        fresh = ReadLoop()
        card = fresh.use(self._home, self._settings, model_id, unsure_below)
        fresh.explain(before.explaining)
        self._finish()
        self._reads = fresh
        self._observed_s.clear()
        return card

    def _set_rule(self, fpir: float | None, margin: float | None) -> MatchRule:
        faces, old = self._known_faces, self._settings
        settings = replace(
            old, fpir=old.fpir if fpir is None else fpir, margin=old.margin if margin is None else margin
        )
        faces.use(replace(faces.workbench, settings=settings).refreshed())
        self._settings = settings
        self._reads.renew(self._home, settings)
        return faces.rule

    def _pause(self, paused: bool) -> None:
        if paused and not self._paused:
            self._finish()
        self._paused = paused

    def _switch(self, source: str, camera: LiveCamera) -> LiveCamera:
        parse_source(source)
        # The old one goes first: it may be the same device.
        camera.close()
        self._finish()
        self._availability, self._trouble, self._source = SourceEvents(), "", source
        self._observed_s.clear()
        return self._open(source, self._options.camera)

    # The end, and what went wrong

    def _end(self, status: CameraStatus) -> None:
        self._finish()
        self._tell(None, status)
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
