"""What the live loop does with frames while one kind of thing is looked for."""

from __future__ import annotations

from abc import ABC, abstractmethod

from edge_app.core.errors import UsageError
from edge_app.core.types import Float32s, Frame, Seen
from edge_app.gallery.enrollment import Refusal, Shot
from edge_app.gallery.matching import NAMES_NOBODY, MatchRule
from edge_app.live.events import LiveEvent
from edge_app.live.examiner import Examiner
from edge_app.live.tracker import TrackInfo
from edge_app.recognition.gallery_session import GallerySession
from edge_app.recognition.session import Session


class Mode(ABC):
    """One kind of thing that is looked for, over time. Everything here happens on the live loop's thread.

    A mode implements `observe`, and what else it has: events, tracks, shots for enrollment, an area.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        """The newest; an immutable value, which other threads may read."""
        self.explaining = False
        """Whether findings carry heatmaps, where the recognizer has them."""
        self.examiner: Examiner | None = None
        """Asks one of the people to move; None while nobody is asked."""
        self._happened: list[LiveEvent] = []

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        """All living tracks after the last frame, lost ones included, by number; empty where nothing is tracked."""
        return ()

    @property
    def enrolled(self) -> int:
        """Identities in the gallery in use; 0 where there is none."""
        return len(self.session.recognizer.gallery) if isinstance(self.session, GallerySession) else 0

    @property
    def rule(self) -> MatchRule:
        """From when on somebody is named."""
        return self.session.recognizer.rule if isinstance(self.session, GallerySession) else NAMES_NOBODY

    @abstractmethod
    def observe(self, frame: Frame) -> Seen:
        """Take in the next frame. Raises EdgeError."""

    def events(self) -> tuple[LiveEvent, ...]:
        """What happened since this was last asked, in order of time."""
        happened, self._happened = tuple(self._happened), []
        return happened

    def shot(self, seen: Seen, source: str) -> Shot | Refusal | None:
        """What a frame just observed shows, as enrollment wants it; None where nothing is enrolled."""
        return None

    def finish(self, time_s: float) -> None:  # noqa: B027 - a mode may have nothing to do
        """The source is over or changes at `time_s`: whatever was there has left."""

    def reset(self) -> None:  # noqa: B027 - a mode may have nothing to do
        """A frame could not be observed: the next one has nothing to do with the last."""

    def gallery_changed(self, session: Session | None = None) -> None:  # noqa: B027 - a mode may have nothing to do
        """Go on over the gallery as it is now on disk, or over another `session` of the same model. Raises EdgeError,
        and goes on as before."""

    def look_area(self, box: Float32s | tuple[float, float, float, float] | None) -> None:
        """Judge a part of the frames only. Raises UsageError when that means nothing here, or the box is empty."""
        raise UsageError(f"{self.session.look_for} takes no area", expected="a general image embedder in use")
