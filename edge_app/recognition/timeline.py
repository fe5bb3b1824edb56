"""Who or what was seen when: the findings of a video's frames become stretches of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from edge_app.core.counts import counted
from edge_app.core.task import Task, Words
from edge_app.core.types import Seen

GAP_S: Final = 1.0
"""A person not seen for longer than this has left."""
MIN_FRAMES: Final = 3
"""A name given to fewer frames than this is told apart: one frame may be a slip."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One person, label or thing, seen from one moment to another."""

    name: str | None
    """None: a face nobody was matched to, or an answer that is not sure."""
    start_s: float
    end_s: float
    frames: int
    similarity: float
    """Mean over the frames; of a classifier the best label's probability."""


class Timeline:
    """Collects what was seen in a video."""

    def __init__(self, words: Words = Task.FACE_EMBEDDING.words) -> None:
        self._words = words
        self._open: dict[str | None, list[tuple[float, float]]] = {}
        self._closed: list[Stretch] = []
        self.frames = 0
        self.end_s = 0.0

    def add(self, seen: Seen) -> None:
        """Take the next frame of the video."""
        self._note(seen.frame.time_s, ((one.name, one.answer.value) for one in seen.findings))

    def _note(self, now_s: float, found: Iterable[tuple[str | None, float]]) -> None:
        self.frames += 1
        self.end_s = now_s
        for name, sightings in list(self._open.items()):
            if now_s - sightings[-1][0] > GAP_S:
                self._close(name)
        best: dict[str | None, float] = {}
        for name, value in found:
            best[name] = max(value, best.get(name, value))
        for name, value in best.items():
            self._open.setdefault(name, []).append((now_s, value))

    def stretches(self) -> list[Stretch]:
        """All stretches so far, by their start."""
        for name in list(self._open):
            self._close(name)
        return sorted(self._closed, key=lambda stretch: (stretch.start_s, stretch.name or ""))

    def lines(self) -> list[str]:
        """The stretches in words."""
        found = self.stretches()
        if not found:
            return [f"{self._words.nothing} in {counted(self.frames, 'frame')}"]
        return [self._line(stretch) for stretch in found if stretch.frames >= MIN_FRAMES] + [
            self._line(stretch) + ", too short to trust" for stretch in found if stretch.frames < MIN_FRAMES
        ]

    def _close(self, name: str | None) -> None:
        sightings = self._open.pop(name)
        mean = sum(similarity for _, similarity in sightings) / len(sightings)
        self._closed.append(Stretch(name, sightings[0][0], sightings[-1][0], len(sightings), mean))

    def _line(self, stretch: Stretch) -> str:
        who = stretch.name if stretch.name is not None else self._words.unknown
        return (
            f"{stretch.start_s:6.1f} s to {stretch.end_s:6.1f} s  {who} "
            f"({counted(stretch.frames, 'frame')}, {self._words.measure} {stretch.similarity:.2f})"
        )
