"""What happened, as events: tracks, answers and the source's state, each told once. Pure, and light to import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from edge_app.core.types import ClassScore

if TYPE_CHECKING:
    from edge_app.live.tracker import TrackInfo
    from edge_app.recognition.smoothing import SteadyAnswer

EventName = Literal["appeared", "recognized", "unknown", "left", "source_lost", "source_back"]

_SKEW_S: Final = 2.0
"""How far a frame's clock may be behind the moment in which it is noticed that a source is lost."""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One thing that happened; its fields, in order, are the JSON line of `edge-app watch --json`."""

    event: EventName
    time_s: float
    """Clock of the frames: a file's own time, a camera's monotonic one."""
    track: int | None = None
    """None for the source's own events."""
    name: str | None = None
    """Who, or which label or thing, was recognized or left; None for everybody and everything else."""
    similarity: float | None = None
    """Of the track's averaged embedding to the nearest identity; None before a decision."""
    duration_s: float | None = None
    """recognized, unknown: since it appeared; left: how long it was here; source_back: how long it was away."""

    classes: tuple[ClassScore, ...] | None = None
    """What a classifier says, best first; None for faces and things."""

    def as_dict(self) -> dict[str, object]:
        """The fields, in order, for JSON; "classes" only of a classifier."""
        plain = asdict(self)
        classes = plain.pop("classes")
        if classes is None:
            return plain
        return plain | {"classes": [one | {"probability": round(one["probability"], 4)} for one in classes]}


@dataclass(slots=True)
class _Said:
    """One area's answer now, and what has been told of it."""

    answer: SteadyAnswer
    held_since_s: float
    seen_s: float
    told: bool = False
    name: str | None = None

    @property
    def is_news(self) -> bool:
        return not self.told or self.name != self.answer.name


class AnswerEvents:
    """Turns the steady answers of successive frames into events, each told once.

    An answer is told when it has stood for `HOLD_S`: what flashes up for less is not worth an event.
    """

    HOLD_S: Final = 0.2

    def __init__(self) -> None:
        self._areas: dict[int | None, _Said] = {}

    def update(self, time_s: float, answers: Sequence[SteadyAnswer]) -> tuple[LiveEvent, ...]:
        """Compare the answers of the frame at `time_s` with those before; a face that is gone has "left"."""
        here = {answer.number for answer in answers}
        events = [event for number in set(self._areas) - here for event in self._gone(time_s, number)]
        for answer in answers:
            said = self._areas.get(answer.number)
            if said is None:
                self._areas[answer.number] = _Said(answer, time_s, time_s)
                continue
            # Where frames are far apart each one is an answer that stands.
            if said.answer.name != answer.name and time_s - said.seen_s < self.HOLD_S:
                said.held_since_s = time_s
            said.answer, said.seen_s = answer, time_s
            if said.is_news and time_s - said.held_since_s >= self.HOLD_S:
                events.append(_tell(time_s, said))
        return tuple(events)

    def finish(self, time_s: float) -> tuple[LiveEvent, ...]:
        """The source is over: what was about to be told is told, and faces have left."""
        pending = [_tell(time_s, said) for said in self._areas.values() if said.is_news]
        return (*pending, *(event for number in list(self._areas) for event in self._gone(time_s, number)))

    def _gone(self, time_s: float, number: int | None) -> list[LiveEvent]:
        said = self._areas.pop(number)
        if number is None or not said.told:
            return []
        return [LiveEvent("left", _round(time_s), number, said.name, None, _round(said.seen_s - said.answer.since_s))]


def _tell(time_s: float, said: _Said) -> LiveEvent:
    answer, said.told, said.name = said.answer, True, said.answer.name
    event: EventName = "recognized" if answer.name is not None else "unknown"
    similarity = None if answer.similarity is None else _round(answer.similarity)
    since_s = _round(time_s - answer.since_s)
    return LiveEvent(event, _round(time_s), answer.number, answer.name, similarity, since_s, answer.classes)


@dataclass(slots=True)
class _Told:
    """What has been told of one track."""

    info: TrackInfo
    verdict: tuple[bool, str | None] = (False, None)


class Events:
    """Turns the tracks of successive frames into events, each told once."""

    CONFIRM_FRAMES = 2
    """A face that flashed up in one frame only, and was not decided there, is not worth an event."""

    def __init__(self) -> None:
        self._here: dict[int, _Told] = {}
        self._now_s = -math.inf

    def update(self, time_s: float, tracks: Sequence[TrackInfo]) -> tuple[LiveEvent, ...]:
        """Compare the tracks of the frame at `time_s` with those before.

        Everything is told at the time of the frame that it was noticed in, so that events never go back in time;
        durations count from the first frame of a track. Whoever has left is told first, then the others by number.
        """
        living = {info.number: info for info in tracks}
        # A clock that goes back has ended all tracks: they left when they were seen last.
        left_s = max(time_s, self._now_s)
        events = [self._left(left_s, number) for number in [n for n in self._here if n not in living]]
        self._now_s = time_s
        for number, info in sorted(living.items()):
            if number in self._here or info.frames >= self.CONFIRM_FRAMES or info.decided:
                events += self._news(time_s, info)
        return tuple(events)

    def finish(self, time_s: float) -> tuple[LiveEvent, ...]:
        """The source is over: everybody has left."""
        return self.update(time_s, ())

    def _news(self, time_s: float, info: TrackInfo) -> list[LiveEvent]:
        events = []
        told = self._here.get(info.number)
        if info.ignored is not None:
            # A known stranger: nothing is told of one, but that somebody who was told of has left.
            if told is not None:
                told.info = info
            return []
        if told is None:
            told = self._here[info.number] = _Told(info)
            events.append(LiveEvent("appeared", _round(time_s), info.number))
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


def in_order(events: Sequence[LiveEvent], not_before_s: float) -> tuple[LiveEvent, ...]:
    """The events of several sources of them, none before `not_before_s` or the one told before it.

    A camera's frames are a little older than the moment in which a loss is noticed. A clock that has really been set
    back, by more than that, is left as it is.
    """
    ordered = []
    for event in events:
        late_s = not_before_s - event.time_s
        if 0 < late_s <= _SKEW_S:
            event = replace(event, time_s=not_before_s)
        not_before_s = event.time_s
        ordered.append(event)
    return tuple(ordered)


class SourceEvents:
    """Turns whether the source delivers into events."""

    def __init__(self) -> None:
        self._lost_since_s: float | None = None

    def update(self, time_s: float, available: bool) -> tuple[LiveEvent, ...]:
        """Note whether the source delivers; an event when that has changed."""
        lost_since_s = self._lost_since_s
        if available and lost_since_s is not None:
            self._lost_since_s = None
            return (LiveEvent("source_back", _round(time_s), duration_s=_round(time_s - lost_since_s)),)
        if not available and lost_since_s is None:
            self._lost_since_s = time_s
            return (LiveEvent("source_lost", _round(time_s)),)
        return ()


def _round(value: float) -> float:
    """Milliseconds and thousandths are all that means anything."""
    return round(value, 3)
