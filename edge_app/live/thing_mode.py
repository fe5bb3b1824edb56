"""Live mode for things enrolled over a general image embedder: the whole picture, or the box that was drawn."""

from __future__ import annotations

from dataclasses import replace

from edge_app.core.errors import UsageError
from edge_app.core.types import Float32s, Seen, valid_area
from edge_app.gallery.enrollment import Refusal, Shot
from edge_app.live.class_mode import ClassMode
from edge_app.recognition.session import Session
from edge_app.recognition.things import ThingSession


class ThingMode(ClassMode):
    """One area of the picture, named when what it shows is enrolled."""

    session: ThingSession

    def shot(self, seen: Seen, source: str) -> Shot | Refusal:
        """The thing in the area."""
        recognizer = self.session.recognizer
        return recognizer.shot(seen.frame.pixels, source, box=recognizer.area)

    def gallery_changed(self, session: Session | None = None) -> None:
        area = self.session.recognizer.area
        fresh = session if isinstance(session, ThingSession) else self.session.refreshed()
        self.session = replace(fresh, recognizer=fresh.recognizer.looking_at(area))
        self._smoothing.reset()

    def look_area(self, box: Float32s | tuple[float, float, float, float] | None) -> None:
        try:
            area = None if box is None else valid_area(box)
        except ValueError as error:
            raise UsageError(str(error), remedy="draw the box anew") from error
        self.session = replace(self.session, recognizer=self.session.recognizer.looking_at(area))
        self._smoothing.reset()
