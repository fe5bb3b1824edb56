"""Live mode for people whose liveness networks judge: who is recognized is told together with what they make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from edge_app.core.types import Frame, Seen
from edge_app.live.events import LiveEvent, LiveWord
from edge_app.live.face_mode import FaceMode
from edge_app.live.tracker import TrackerOptions
from edge_app.recognition.classes import ClassRecognizer
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.liveness import PassiveLiveness

_WAIT_S: Final = 2.5
"""So long a name is kept back for frames enough to judge by; then it is told as unchecked."""


@dataclass(slots=True)
class _Watched:
    """One track with a name."""

    liveness: PassiveLiveness
    held: LiveEvent | None = None
    """A recognition that is not told yet."""


class PassiveMode(FaceMode):
    """Everybody in front of the source; faces with a name are shown to liveness networks as well."""

    def __init__(
        self, session: PeopleSession, networks: Sequence[ClassRecognizer], options: TrackerOptions | None = None
    ) -> None:
        super().__init__(session, options)
        self._networks = networks
        self._time_s = 0.0
        self._watched: dict[int, _Watched] = {}

    def liveness_of(self, name: str) -> PassiveLiveness | None:
        """What is known of the person of that name who is in view; None when nobody is."""
        found = [track.number for track in self.tracks if track.name == name]
        return next((self._watched[number].liveness for number in found if number in self._watched), None)

    def observe(self, frame: Frame) -> Seen:
        """See `Mode.observe`."""
        seen = super().observe(frame)
        self._time_s = frame.time_s
        for finding in seen.findings:
            if finding.track is not None and finding.name is not None and finding.face is not None:
                fresh = _Watched(PassiveLiveness(self._networks))
                self._watched.setdefault(finding.track, fresh).liveness.see(frame.pixels, finding.face)
        return seen

    def events(self) -> tuple[LiveEvent, ...]:
        """What happened; recognitions say whether the person is live, and are told when that is known."""
        told: list[LiveEvent] = []
        for event in super().events():
            watched = None if event.track is None else self._watched.get(event.track)
            if event.event == "recognized":
                watched = watched or _Watched(PassiveLiveness(self._networks))
                self._watched[event.track or 0] = watched
                watched.held = event
                continue
            if event.event == "left" and watched is not None:
                told += _told(watched, event.time_s)
                self._watched.pop(event.track or 0)
            told.append(event)
        for watched in self._watched.values():
            known = watched.liveness.verdict is not None
            if watched.held is not None and (known or self._time_s - watched.held.time_s >= _WAIT_S):
                told += _told(watched, self._time_s)
        return tuple(told)


def _told(watched: _Watched, time_s: float) -> list[LiveEvent]:
    """The recognition that was kept back, at the time when it is told."""
    event, watched.held = watched.held, None
    if event is None:
        return []
    word: LiveWord = {True: "yes", False: "no", None: "unchecked"}[watched.liveness.verdict]  # type: ignore[assignment]
    later_s = max(0.0, time_s - event.time_s)
    duration_s = None if event.duration_s is None else round(event.duration_s + later_s, 3)
    return [replace(event, time_s=round(event.time_s + later_s, 3), duration_s=duration_s, live=word)]
