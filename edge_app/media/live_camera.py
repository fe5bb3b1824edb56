"""The newest frame of any source, from a capture thread that opens a lost camera again by itself.

A camera that is absent, busy, lost, black or frozen is a status of one line and a retry, never an exception.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from edge_app.core.errors import CameraError, EdgeError, MediaError
from edge_app.core.types import Frame
from edge_app.media.health import Health, Soundness
from edge_app.media.source_spec import SourceSpec, parse_source
from edge_app.media.sources import Source, open_source
from edge_app.system.closing import Closing
from edge_app.system.timing import back_off_s


class CameraState(Enum):
    """What a live camera is doing."""

    OPENING = "opening"
    """No picture yet."""
    LIVE = "live"
    """Pictures arrive."""
    LOST = "lost"
    """Absent, busy, unplugged or silent; it is being tried again."""
    BLACK = "black"
    """Pictures arrive, and are black: a closed shutter, or a failing camera."""
    FROZEN = "frozen"
    """The same picture arrives again and again."""
    ENDED = "ended"
    """No more will come: the file is over, or the camera was closed."""


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """How a live camera is, at one moment."""

    state: CameraState
    message: str
    """One line for a person; empty when all is well. Never holds a password."""
    error: EdgeError | None = None
    """Why it is lost, or what was wrong with the file; None when all is well."""
    received: int = 0
    """Frames that arrived."""
    dropped: int = 0
    """Frames that were replaced by a newer one before anybody took them."""
    reconnects: int = 0
    """Times the source was opened again after it was lost, black or frozen."""
    fps: float = 0.0
    """Frames per second that arrive, over the last second or two."""
    size_px: tuple[int, int] | None = None
    """(width, height) of the newest frame."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a source is played live."""

    realtime: bool = True
    """Files play at their own speed, and what nobody takes is dropped. False: each frame waits for its taker."""
    loop: bool = False
    """Files start again at their end."""
    size_px: tuple[int, int] | None = None
    """(width, height) asked of a webcam."""
    retry_first_s: float = 0.5
    """Wait before the first retry; doubled with each that fails."""
    retry_max_s: float = 8.0
    """Longest wait between retries."""
    stall_s: float = 3.0
    """A live source that is silent this long is reported lost, even if its driver hangs."""
    reopen_after_s: float = 10.0
    """A live source that stays black or frozen this long is opened again; doubled each time, at most 16-fold."""


Opener = Callable[[str], Source]


class LiveCamera(Closing):
    """A source with its own capture thread and one slot: the newest frame wins.

    Use it in a `with` statement, or call `close`. One consumer takes frames; any thread may ask for the status.
    """

    def __init__(
        self,
        spec: str,
        options: LiveOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
        opener: Opener | None = None,
    ) -> None:
        """Start capturing from `spec`.

        `clock` gives seconds; `wait` sleeps for seconds and must return early when the camera is closed (the default
        does); `opener` opens the source: all three are for tests. Raises MediaError for a path that does not exist;
        an absent camera is a status.
        """
        self.spec: SourceSpec = parse_source(spec)
        self._text = spec
        self._options = options or LiveOptions()
        self._clock = clock
        self._opener = opener or (lambda text: open_source(text, size_px=self._options.size_px, clock=clock))
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._changed = threading.Condition()
        self._slot: Frame | None = None
        self._status = CameraStatus(CameraState.OPENING, f"opening {self.spec.name}")
        self._arrivals: deque[float] = deque(maxlen=60)
        self._next_index = 0
        self._loop_offset_s = 0.0
        self._failed_tries = 0
        self._reopens = 0
        self._source: Source | None = None
        self._stall_s = self._options.stall_s
        self._thread = threading.Thread(target=self._run, name=f"capture {self.spec.name}", daemon=True)
        atexit.register(self.close)
        self._thread.start()

    @property
    def status(self) -> CameraStatus:
        """How the camera is now."""
        with self._changed:
            status, arrivals = self._status, self._arrivals
            span_s = arrivals[-1] - arrivals[0] if len(arrivals) > 1 else 0.0
            silent_s = self._clock() - arrivals[-1] if arrivals else 0.0
            fps = (len(arrivals) - 1) / span_s if span_s > 0 else 0.0
        if self.spec.is_live and status.state in _DELIVERING and silent_s > self._stall_s:
            error = CameraError(f"{self.spec.name} has sent no picture for {silent_s:.0f} s", remedy=_CHECK)
            return replace(status, state=CameraState.LOST, message=str(error), error=error, fps=0.0)
        return replace(status, fps=fps if status.state in _DELIVERING else 0.0)

    def take(self, timeout_s: float = 1.0) -> Frame | None:
        """Take the newest frame that was not taken yet, waiting up to `timeout_s` for one.

        None when none came in time, or when the source has ended: then `status.state` is ENDED. `index` counts all
        frames that arrived, so a gap in it is a drop; `time_s` is the clock's for live sources, else the file's.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._over, timeout_s)
            frame, self._slot = self._slot, None
            self._changed.notify_all()
            return frame

    def close(self, join_s: float = 10.0) -> None:
        """Stop, release the source and join the thread; may be called twice.

        Waits for a read in progress, which has a time-out of its own (3-4 s for streams). A driver that hangs beyond
        `join_s` is left to its thread, which releases the camera as soon as the driver returns.
        """
        atexit.unregister(self.close)
        self._stopping.set()
        if self._source is not None and self._source.spec.kind == "snapshot":
            self._source.close()  # it may be waiting for the time of its next picture
        with self._changed:
            self._slot = None
            self._changed.notify_all()
        self._thread.join(join_s)
        if self._status.state is not CameraState.ENDED:
            self._update(state=CameraState.ENDED, message="closed", error=None)

    @property
    def _over(self) -> bool:
        return self._stopping.is_set() or self._status.state is CameraState.ENDED

    def _run(self) -> None:
        """The capture thread."""
        try:
            while not self._stopping.is_set() and self._play_once():
                pass
            if not self._stopping.is_set() and self._status.state is not CameraState.ENDED:
                # A file that ends black or frozen is over, not broken.
                self._end(self._status.error if isinstance(self._status.error, MediaError) else None)
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence would look like a hang
            self._end(CameraError(f"capture from {self.spec.name} failed ({type(error).__name__}: {error})"))

    def _play_once(self) -> bool:
        """Open the source and read it until it ends or is lost; True when it is to be opened again."""
        try:
            source = self._opener(self._text)
        except MediaError as error:
            self._end(error)
            return False
        except CameraError as error:
            return self._lost(error)
        with source:
            self._source = source
            try:
                return self._pump(source)
            except CameraError as error:
                problem = error
        return self._lost(problem)

    def _pump(self, source: Source) -> bool:
        """Deliver frames until the end; True when the source is to be opened again. Raises CameraError when lost."""
        health = Health()
        if source.spec.kind == "snapshot":
            health = Health(_STILL_SNAPSHOTS_S)
            # A camera that is asked every ten seconds is not silent after three.
            self._stall_s = max(self._options.stall_s, 2.5 / (source.fps or 1))
        first_index, start_s, last_time_s = self._next_index, self._clock(), 0.0
        unsound_since_s: float | None = None
        while not self._stopping.is_set():
            try:
                frame = source.read()
            except MediaError as error:  # one bad picture, or a video that ended early: told, and read on
                self._update(error=error, message=str(error))
                continue
            if frame is None:
                if self._options.loop and self._next_index > first_index:
                    self._loop_offset_s += last_time_s + 1 / (source.fps or 25.0)
                    return True
                return False
            last_time_s = frame.time_s
            self._pace(frame, start_s)
            now_s = self._clock()
            sound = self._judge(health, frame, now_s)
            if health.certain:  # a camera that is black again counts as sound until it had time to set its exposure
                self._reopens = 0
            if sound == "sound":
                unsound_since_s = None
            elif unsound_since_s is None:
                unsound_since_s = now_s
            self._deliver(frame, sound, now_s)
            patience_s = self._options.reopen_after_s * 2 ** min(self._reopens, 4)
            if self.spec.is_live and unsound_since_s is not None and now_s - unsound_since_s > patience_s:
                self._reopens += 1
                self._update(reconnects=self._status.reconnects + 1)
                return True
        return False

    def _judge(self, health: Health, frame: Frame, now_s: float) -> Soundness:
        if self.spec.kind in ("folder", "picture"):  # stills may be dark, and alike
            return "sound"
        return health.judge(frame.pixels, now_s if self.spec.is_live else frame.time_s)

    def _pace(self, frame: Frame, start_s: float) -> None:
        """Hold a file's frame back until its time has come, or until the one before it was taken."""
        if self.spec.is_live:
            return
        if self._options.realtime:
            early_s = start_s + frame.time_s - self._clock()
            if early_s > 0:
                self._wait(early_s)
            return
        with self._changed:
            self._changed.wait_for(lambda: self._slot is None or self._over)

    def _deliver(self, frame: Frame, sound: Soundness, now_s: float) -> None:
        state = _STATE_OF[sound]
        message = f"{self.spec.name}: {_ADVICE[sound]}" if sound in _ADVICE else ""
        if state is CameraState.LIVE:
            self._failed_tries = 0
        time_s = frame.time_s if self.spec.is_live else frame.time_s + self._loop_offset_s
        with self._changed:
            if self._stopping.is_set():
                return
            before = self._status
            # A file that could not be read whole stays told; black or frozen pictures are over once they are sound.
            lasting = before.error if isinstance(before.error, MediaError) and not self.spec.is_live else None
            error = lasting or (CameraError(message) if message else None)
            self._status = replace(
                before,
                state=state,
                message=message,
                error=error,
                received=before.received + 1,
                dropped=before.dropped + (self._slot is not None),
                size_px=frame.size_px,
            )
            self._slot = Frame(frame.pixels, self._next_index, time_s)
            self._next_index += 1
            self._arrivals.append(now_s)
            self._changed.notify_all()

    def _lost(self, error: CameraError) -> bool:
        """Tell that the source is lost, and wait before the next try; True: try again."""
        if not self.spec.is_live:
            self._end(error)
            return False
        self._failed_tries += 1
        delay_s = back_off_s(self._failed_tries, self._options.retry_first_s, self._options.retry_max_s)
        self._update(state=CameraState.LOST, message=f"{error}; trying again in {delay_s:g} s", error=error)
        with self._changed:
            self._arrivals.clear()
        self._wait(delay_s)
        if self._stopping.is_set():
            return False
        self._update(reconnects=self._status.reconnects + 1)
        return True

    def _end(self, error: EdgeError | None) -> None:
        self._update(state=CameraState.ENDED, message=str(error) if error else "", error=error)

    def _update(self, **changes: object) -> None:
        with self._changed:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
            self._changed.notify_all()


_CHECK: Final = "check the cable and the network; it is being tried again"
_STILL_SNAPSHOTS_S: Final = 60.0
"""Cameras that give a picture a request make a new one at their own pace; some take ten seconds."""
_DELIVERING: Final = (CameraState.LIVE, CameraState.BLACK, CameraState.FROZEN)
_STATE_OF: Final = {"sound": CameraState.LIVE, "black": CameraState.BLACK, "frozen": CameraState.FROZEN}
_ADVICE: Final = {
    "black": "the picture is black; open the shutter, turn on the light, or choose another camera",
    "frozen": "the picture stands still; unplug the camera and plug it in again, or check the stream",
}
