"""Live mode for whatever answers a frame at a time: classifiers, and any recognizer without a mode of its own."""

from __future__ import annotations

from dataclasses import replace

from edge_app.core.errors import UsageError
from edge_app.core.types import Float32s, Frame, Seen, valid_area
from edge_app.live.events import Events
from edge_app.live.mode import Mode
from edge_app.recognition.classes import ClassRecognizer
from edge_app.recognition.session import Session
from edge_app.recognition.smoothing import Smoothing


class ClassMode(Mode):
    """Answers averaged over time, each change told once as an event."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._smoothing = Smoothing(follows_faces=session.recognizer.finds_faces)
        self._events = Events(arrivals=False, hold_s=Events.HOLD_S)

    def observe(self, frame: Frame) -> Seen:
        seen = self._smoothing.smooth(self.session.recognizer.observe(frame, explain=self.explaining))
        self._happened += self._events.update(frame.time_s, self._smoothing.answers)
        return seen

    def look_area(self, box: Float32s | tuple[float, float, float, float] | None) -> None:
        recognizer = self.session.recognizer
        if not isinstance(recognizer, ClassRecognizer):
            return super().look_area(box)
        try:
            area = None if box is None else valid_area(box)
        except ValueError as error:
            raise UsageError(str(error), remedy="draw the box anew") from error
        self.session = replace(self.session, recognizer=recognizer.looking_at(area))
        self._smoothing.reset()
        return None

    def finish(self, time_s: float) -> None:
        self._smoothing.reset()
        self._happened += self._events.finish(time_s)
