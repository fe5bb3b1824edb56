"""Live mode for people: tracks, names over time, and the events that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_app.core.types import Frame, Seen
from edge_app.gallery.enrollment import Refusal, Shot
from edge_app.gallery.matching import MatchRule
from edge_app.live.events import Events
from edge_app.live.mode import Mode
from edge_app.live.tracker import TrackerOptions, TrackInfo
from edge_app.live.video_recognizer import LiveRecognizer
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.session import Session
from edge_app.recognition.smoothing import SteadyAnswer

_CONFIRM_FRAMES: Final = 2
"""A face that flashed up in one frame only, and was not decided there, is not worth an event."""


def steady_answers(tracks: Sequence[TrackInfo]) -> list[SteadyAnswer]:
    """What is said of each track, for events."""
    return [
        SteadyAnswer(
            info.number,
            info.first_seen_s,
            info.last_seen_s,
            info.name,
            info.similarity,
            decided=info.decided,
            ignored=info.ignored is not None,
        )
        for info in tracks
        if info.frames >= _CONFIRM_FRAMES or info.decided
    ]


class FaceMode(Mode):
    """Everybody in front of the source, matched against the gallery as it was last read."""

    session: PeopleSession

    def __init__(
        self, session: PeopleSession, options: TrackerOptions | None = None, live: LiveRecognizer | None = None
    ) -> None:
        """`live` follows faces, for tests; the default is made over the session."""
        super().__init__(session)
        self._live = live or LiveRecognizer(session.recognizer, options)
        self._events = Events()

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        return self._live.tracks

    @property
    def enrolled(self) -> int:
        return len(self._live.recognizer.gallery)

    @property
    def rule(self) -> MatchRule:
        return self._live.recognizer.rule

    def observe(self, frame: Frame) -> Seen:
        seen = self._live.observe(frame)
        self._happened += self._events.update(frame.time_s, steady_answers(self._live.tracks))
        if self.examiner is not None:
            self.examiner.look(frame, seen)
        return seen

    def shot(self, seen: Seen, source: str) -> Shot | Refusal:
        """The prominent face of a frame just observed."""
        return self._live.look(seen, source)

    def finish(self, time_s: float) -> None:
        self._happened += self._events.finish(time_s)
        self._live.reset()

    def reset(self) -> None:
        """End all tracks."""
        self._live.reset()

    def gallery_changed(self, session: Session | None = None) -> None:
        """Tracks stay, and are decided afresh. Raises GalleryError when the gallery is of another model."""
        fresh = session if isinstance(session, PeopleSession) else self.session.refreshed()
        self._live.with_gallery(fresh.recognizer.gallery, fresh.recognizer.rule)
        self.session = fresh
