"""The live loop's other half: hides which model reads the frames instead of the face recognizer, if any.

Flows in: readers, frames in order, what a person asks of them. Flows out: steady `Reading`s and the events that follow
from them. Everything here happens on the live loop's thread.
"""

from __future__ import annotations

from edge_app.core.errors import UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Float32s, Frame, Reading, valid_area
from edge_app.live.events import AnswerEvents, LiveEvent
from edge_app.recognition.classes import FACES, Reader, Steady, ThingWatcher, open_reader
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings


class ReadLoop:
    """A reader in use, or none, with its steady answers and what was told of them."""

    def __init__(self, reader: Reader | None = None) -> None:
        self._steady: Steady | None = None
        self._events = AnswerEvents()
        self._explaining = False
        self._unsure_below: float | None = None
        self._put(reader)

    @property
    def is_active(self) -> bool:
        """Whether a model reads the frames; False: faces are recognized."""
        return self._steady is not None

    @property
    def model_id(self) -> str:
        """The model in use, or "faces"."""
        return self._steady.card.id if self._steady else FACES

    @property
    def explaining(self) -> bool:
        """Whether readings carry heatmaps."""
        return self._explaining

    @property
    def is_of_things(self) -> bool:
        """Whether what reads are enrolled things, which can be captured too."""
        return self._steady is not None and isinstance(self._steady.reader, ThingWatcher)

    def use(self, home: Home, settings: Settings, model_id: str, unsure_below: float | None = None) -> ModelCard | None:
        """Read with another model from now on, "faces": none. Raises EdgeError, and goes on as before."""
        reader = None if model_id == FACES else open_reader(home, settings, model_id, unsure_below=unsure_below)
        self._put(reader)
        self._unsure_below = unsure_below
        return reader.card if reader else None

    def renew(self, home: Home, settings: Settings) -> None:
        """The gallery has changed: things are read against the new one. Raises EdgeError, and goes on as before."""
        if self._steady is None or not isinstance(self._steady.reader, ThingWatcher):
            return
        area = self._steady.reader.area
        fresh = open_reader(home, settings, self.model_id, unsure_below=self._unsure_below)
        self._steady = Steady(fresh.looking_at(area) if isinstance(fresh, ThingWatcher) else fresh)

    def explain(self, active: bool) -> None:
        """Whether readings carry heatmaps."""
        self._explaining = active

    def look_area(self, box: Float32s | tuple[float, float, float, float] | None) -> None:
        """Judge a part of the frames. Raises UsageError when the model in use takes none, or the box is empty."""
        if self._steady is None or not isinstance(self._steady.reader, ThingWatcher):
            raise UsageError(f"{self.model_id} takes no area", expected="a general image embedder in use")
        try:
            area = None if box is None else valid_area(box)
        except ValueError as error:
            raise UsageError(str(error), remedy="draw the box anew") from error
        self._steady = Steady(self._steady.reader.looking_at(area))

    def read(self, frame: Frame) -> tuple[Reading, tuple[LiveEvent, ...]]:
        """Read the next frame. Raises EdgeError; RuntimeError when no model is in use."""
        if self._steady is None:
            raise RuntimeError("found no reader, expected one in use")
        reading = self._steady.read(frame, explain=self._explaining)
        return reading, self._events.update(frame.time_s, self._steady.answers)

    def shot(self, frame: Frame, source: str) -> object | None:
        """The thing in a frame's area, as enrollment wants it; None when the model in use enrolls nothing."""
        if self._steady is None or not isinstance(self._steady.reader, ThingWatcher):
            return None
        return self._steady.reader.shot(frame.pixels, source, self._steady.reader.area)

    def finish(self, time_s: float) -> tuple[LiveEvent, ...]:
        """The source is over or changes: tells what is left to tell, and begins afresh."""
        if self._steady is not None:
            self._steady.reset()
        events, self._events = self._events.finish(time_s), AnswerEvents()
        return events

    def _put(self, reader: Reader | None) -> None:
        self._steady = reader if isinstance(reader, Steady) or reader is None else Steady(reader)
        self._events = AnswerEvents()
