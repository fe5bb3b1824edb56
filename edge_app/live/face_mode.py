"""The live loop's face half: hides tracks, their events, and how a changed gallery comes into use.

Flows in: a `Workbench`, frames in order, what a person asks of them. Flows out: `Observation`s and the events that
follow from them. Everything here happens on the live loop's thread; only `workbench` is read from others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from edge_app.core.errors import MediaError
from edge_app.core.types import Frame, Identity, Observation
from edge_app.gallery.enrollment import Refusal, Shot
from edge_app.gallery.matching import MatchRule
from edge_app.gallery.storage import Vault
from edge_app.live.events import Events, LiveEvent
from edge_app.live.tracker import TrackInfo
from edge_app.live.video_recognizer import LiveRecognizer
from edge_app.media.pictures import read_picture
from edge_app.recognition.face_session import Workbench


class FaceLoop:
    """Everybody in front of the source, matched against the gallery as it was last read."""

    def __init__(self, workbench: Workbench, live: LiveRecognizer) -> None:
        self.workbench = workbench
        """The newest; an immutable value."""
        self._live = live
        self._events = Events()

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        """All living tracks after the last frame, lost ones included, by number."""
        return self._live.tracks

    @property
    def people(self) -> int:
        """Identities in the gallery in use."""
        return len(self._live.recognizer.gallery)

    @property
    def rule(self) -> MatchRule:
        """The rule in use."""
        return self._live.recognizer.rule

    def observe(self, frame: Frame) -> tuple[Observation, tuple[LiveEvent, ...]]:
        """Take in the next frame. Raises EdgeError."""
        observation = self._live.observe(frame)
        return observation, self._events.update(frame.time_s, self._live.tracks)

    def shot(self, observation: Observation, source: str) -> Shot | Refusal:
        """The prominent face of a frame just observed, as enrollment wants it."""
        return self._live.look(observation, source)

    def touch(self, events: Sequence[LiveEvent]) -> None:
        """Note in the vault who was just recognized. Raises EdgeError when it cannot be written."""
        touch_recognized(self.workbench.vault, events)

    def reset(self) -> None:
        """End all tracks: the next frame has nothing to do with the last."""
        self._live.reset()

    def finish(self, time_s: float) -> tuple[LiveEvent, ...]:
        """The source is over or changes: everybody has left."""
        events = self._events.finish(time_s)
        self._live.reset()
        return events

    def look_at(self, paths: Sequence[Path], *, largest: bool) -> tuple[tuple[str, Shot | Refusal], ...]:
        """Find, measure and embed the faces of picture files; an unreadable one is a `Refusal`."""
        return tuple((path.name, self._look_at(path, largest)) for path in paths)

    def _look_at(self, path: Path, largest: bool) -> Shot | Refusal:
        try:
            pixels = read_picture(path)
        except MediaError as error:
            return Refusal("unreadable", str(error))
        return self.workbench.recognizer.shot(pixels, path.name, largest=largest)

    def forget(self, name: str) -> Identity:
        """Delete a person from the vault and return what was deleted. Raises GalleryError when nobody has the name."""
        identity = self.workbench.vault.identity(name)
        self.workbench.vault.forget(name)
        return identity

    def use(self, workbench: Workbench) -> None:
        """Go on with another workbench of the same embedder: tracks stay, and are decided afresh.

        Raises GalleryError when its gallery is of another model, and goes on as before.
        """
        self._live.with_gallery(workbench.recognizer.gallery, workbench.recognizer.rule)
        self.workbench = workbench


def touch_recognized(vault: Vault, events: Sequence[LiveEvent]) -> None:
    """Note in the vault who, or what, was just recognized. Raises EdgeError when it cannot be written."""
    for name in [event.name for event in events if event.event == "recognized" and event.name is not None]:
        vault.touch(name, time.time())
