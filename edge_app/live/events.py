"""Events of a live source: who came, was recognized and left, and whether the source delivers; each told once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from edge_app.core.types import ClassScore

if TYPE_CHECKING:
    from edge_app.recognition.smoothing import SteadyAnswer

EventName = Literal["appeared", "recognized", "unknown", "left", "source_lost", "source_back"]

LiveWord = Literal["yes", "no", "unchecked"]

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
    live: LiveWord | None = None
    """What liveness networks make of who was recognized; None where none was asked."""
    source: str | None = None
    """Which of several sources it was; None where there is one."""

    def as_dict(self) -> dict[str, object]:
        """The fields, in order, for JSON; "classes", "live" and "source" only where there are any."""
        plain = asdict(self)
        classes = plain.pop("classes")
        if self.live is None:
            plain.pop("live")
        if self.source is None:
            plain.pop("source")
        if classes is None:
            return plain
        told = [{"label": one["label"], "probability": round(one["probability"], 4)} for one in classes]
        return plain | {"classes": told}


@dataclass(slots=True)
class _Told:
    """One track or area: its answer now, and what has been told of it."""

    answer: SteadyAnswer
    held_since_s: float
    seen_s: float
    here: bool = False
    """Whether anything has been told: only then can it leave."""
    verdict: tuple[bool, str | None] = (False, None)
    """Whether an answer has been told, and which."""

    @property
    def is_news(self) -> bool:
        return self.answer.decided and not self.answer.ignored and self.verdict != (True, self.answer.name)


class Events:
    """Turns the answers for successive frames, of tracks or of areas, into events, each told once."""

    HOLD_S: Final = 0.2
    """For answers that nobody has voted on: what flashes up for less is not worth an event."""

    def __init__(self, *, arrivals: bool = True, hold_s: float = 0.0) -> None:
        """`arrivals`: tell "appeared" before there is an answer. An answer is told once it has stood for `hold_s`."""
        self._arrivals = arrivals
        self._hold_s = hold_s
        self._areas: dict[int | None, _Told] = {}
        self._now_s = -math.inf

    def update(self, time_s: float, answers: Sequence[SteadyAnswer]) -> tuple[LiveEvent, ...]:
        """Compare the answers for the frame at `time_s` with those before.

        Everything is told at the time of the frame that it was noticed in, so that events never go back in time;
        durations count from the first frame. Whoever has left is told first, then the others by number.
        """
        living = {answer.number for answer in answers}
        # A clock that goes back has ended all tracks: they left when they were seen last.
        left_s = max(time_s, self._now_s)
        events = [event for number in list(self._areas) if number not in living for event in self._gone(left_s, number)]
        self._now_s = time_s
        for answer in sorted(answers, key=lambda one: one.number or 0):
            told = self._areas.get(answer.number)
            if told is None:
                if answer.ignored:
                    continue
                told = self._areas[answer.number] = _Told(answer, time_s, time_s)
                if self._arrivals:
                    told.here = True
                    events.append(LiveEvent("appeared", _round(time_s), answer.number))
            # Where frames are far apart each one is an answer that stands.
            elif told.answer.name != answer.name and time_s - told.seen_s < self._hold_s:
                told.held_since_s = time_s
            told.answer, told.seen_s = answer, time_s
            if told.is_news and time_s - told.held_since_s >= self._hold_s:
                events.append(_tell(time_s, told))
        return tuple(events)

    def finish(self, time_s: float) -> tuple[LiveEvent, ...]:
        """The source is over: what was about to be told is told, and everybody has left."""
        pending = [_tell(time_s, told) for told in self._areas.values() if told.is_news]
        return (*pending, *self.update(time_s, ()))

    def _gone(self, time_s: float, number: int | None) -> list[LiveEvent]:
        told = self._areas.pop(number)
        if number is None or not told.here:
            return []
        answer, (_, name) = told.answer, told.verdict
        if not answer.decided or answer.ignored:
            name = None
        similarity = _round(answer.similarity) if answer.decided and answer.similarity is not None else None
        seen_s = _round(answer.last_seen_s - answer.first_seen_s)
        return [LiveEvent("left", _round(time_s), number, name, similarity, seen_s)]


def _tell(time_s: float, told: _Told) -> LiveEvent:
    answer, told.here, told.verdict = told.answer, True, (True, told.answer.name)
    event: EventName = "recognized" if answer.name is not None else "unknown"
    similarity = None if answer.similarity is None else _round(answer.similarity)
    since_s = _round(time_s - answer.first_seen_s)
    return LiveEvent(event, _round(time_s), answer.number, answer.name, similarity, since_s, answer.classes)


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
