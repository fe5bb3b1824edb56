"""What happened, as events: hides the comparison of one frame's tracks with those before.

Flows in: the tracks of successive frames, and whether the source delivers. Flows out: `LiveEvent`s, which scripts
read as JSON. Pure, and light to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from edge_app.track import TrackInfo

EventName = Literal["appeared", "recognized", "unknown", "left", "source_lost", "source_back"]


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One thing that happened; its fields, in order, are the JSON line of `edge-app watch --json`."""

    event: EventName
    time_s: float
    """Clock of the frames: a file's own time, a camera's monotonic one."""
    track: int | None = None
    """None for the source's own events."""
    name: str | None = None
    """Who was recognized, or left; None for everybody else."""
    similarity: float | None = None
    """Of the track's averaged embedding to the nearest identity; None before a decision."""
    duration_s: float | None = None
    """recognized, unknown: since it appeared; left: how long it was here; source_back: how long it was away."""

    def as_dict(self) -> dict[str, object]:
        """The six fields, in order, for JSON."""
        return asdict(self)


@dataclass(slots=True)
class _Told:
    """What has been told of one track."""

    info: TrackInfo
    verdict: tuple[bool, str | None] = (False, None)


class Events:
    """Turns the tracks of successive frames into events, each told once."""

    CONFIRM_FRAMES = 2
    """A face that flashed up in one frame only is not worth an event."""

    def __init__(self) -> None:
        self._here: dict[int, _Told] = {}
        self._lost_since_s: float | None = None

    def update(self, time_s: float, tracks: Sequence[TrackInfo]) -> tuple[LiveEvent, ...]:
        """Compare the tracks of the frame at `time_s` with those before; events in the order of their tracks."""
        living = {info.number: info for info in tracks}
        events = [self._left(time_s, number) for number in [n for n in self._here if n not in living]]
        for number, info in sorted(living.items()):
            if number in self._here or info.frames >= self.CONFIRM_FRAMES:
                events += self._news(time_s, info)
        return tuple(events)

    def finish(self, time_s: float) -> tuple[LiveEvent, ...]:
        """The source is over: everybody has left."""
        return self.update(time_s, ())

    def source(self, time_s: float, available: bool) -> tuple[LiveEvent, ...]:
        """Note whether the source delivers; an event when that has changed."""
        lost_since_s = self._lost_since_s
        if available and lost_since_s is not None:
            self._lost_since_s = None
            return (LiveEvent("source_back", _round(time_s), duration_s=_round(time_s - lost_since_s)),)
        if not available and lost_since_s is None:
            self._lost_since_s = time_s
            return (LiveEvent("source_lost", _round(time_s)),)
        return ()

    def _news(self, time_s: float, info: TrackInfo) -> list[LiveEvent]:
        events = []
        told = self._here.get(info.number)
        if told is None:
            told = self._here[info.number] = _Told(info)
            events.append(LiveEvent("appeared", _round(info.first_seen_s), info.number))
        told.info = info
        verdict = (info.decided, info.name)
        if verdict != told.verdict and info.decided:
            event: EventName = "recognized" if info.name is not None else "unknown"
            since_s = _round(time_s - info.first_seen_s)
            events.append(LiveEvent(event, _round(time_s), info.number, info.name, _round(info.similarity), since_s))
            told.verdict = verdict
        return events

    def _left(self, time_s: float, number: int) -> LiveEvent:
        info = self._here.pop(number).info
        similarity = _round(info.similarity) if info.decided else None
        return LiveEvent("left", _round(time_s), number, info.name, similarity, _round(info.duration_s))


def _round(value: float) -> float:
    """Milliseconds and thousandths are all that means anything."""
    return round(value, 3)
