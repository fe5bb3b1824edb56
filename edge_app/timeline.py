"""Who was seen when: observations of a video become stretches of time.

Hides how gaps are bridged. Flows in: observations in order. Flows out: stretches, and lines for people.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from edge_app.domain import Observation

GAP_S: Final = 1.0
"""A person not seen for longer than this has left."""
MIN_FRAMES: Final = 3
"""A name given to fewer frames than this is told apart: one frame may be a slip."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One person, seen from one moment to another."""

    name: str | None
    """None: a face nobody was matched to."""
    start_s: float
    end_s: float
    frames: int
    similarity: float
    """Mean over the frames."""


class Timeline:
    """Collects what was seen in a video."""

    def __init__(self) -> None:
        self._open: dict[str | None, list[tuple[float, float]]] = {}
        self._closed: list[Stretch] = []
        self.frames = 0
        self.end_s = 0.0

    def add(self, seen: Observation) -> None:
        """Take the next frame of the video."""
        now_s = seen.frame.time_s
        self.frames += 1
        self.end_s = now_s
        for name, sightings in list(self._open.items()):
            if now_s - sightings[-1][0] > GAP_S:
                self._close(name)
        for name in Counter(s.match.name for s in seen.sightings):
            best = max(s.match.similarity for s in seen.sightings if s.match.name == name)
            self._open.setdefault(name, []).append((now_s, best))

    def stretches(self) -> list[Stretch]:
        """All stretches so far, by their start."""
        for name in list(self._open):
            self._close(name)
        return sorted(self._closed, key=lambda stretch: (stretch.start_s, stretch.name or ""))

    def lines(self) -> list[str]:
        """The stretches in words."""
        found = self.stretches()
        if not found:
            return [f"no face in {self.frames} frames"]
        return [_line(stretch) for stretch in found if stretch.frames >= MIN_FRAMES] + [
            _line(stretch) + ", too short to trust" for stretch in found if stretch.frames < MIN_FRAMES
        ]

    def _close(self, name: str | None) -> None:
        sightings = self._open.pop(name)
        mean = sum(similarity for _, similarity in sightings) / len(sightings)
        self._closed.append(Stretch(name, sightings[0][0], sightings[-1][0], len(sightings), mean))


def _line(stretch: Stretch) -> str:
    who = stretch.name if stretch.name is not None else "somebody unknown"
    return (
        f"{stretch.start_s:6.1f} s to {stretch.end_s:6.1f} s  {who} "
        f"({stretch.frames} frames, similarity {stretch.similarity:.2f})"
    )
