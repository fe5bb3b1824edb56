"""Averages answers over the frames of a video, so that what is told does not flicker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from edge_app.core.types import Answer, Classification, ClassScore, Finding, Float32s, Match, Seen
from edge_app.inference.classifier import ranked
from edge_app.inference.geometry import box_iou


@dataclass(frozen=True, slots=True)
class SteadyAnswer:
    """What is said of one face, thing or area over several frames: averaged here, or voted on by the tracker."""

    number: int | None
    """Number of the face that is judged; None for the whole picture."""
    first_seen_s: float
    """Clock of the frames."""
    last_seen_s: float
    name: str | None
    """The person, the label or the thing; None: not sure, or nobody and nothing that is enrolled."""
    similarity: float | None
    """None for a classifier."""
    classes: tuple[ClassScore, ...] | None = None
    """Of a classifier, best first."""
    decided: bool = True
    """False for a face that was not looked at often enough, or is doubted."""
    ignored: bool = False
    """A known stranger, of whom nothing is told."""


class Smoothing:
    """Averages answers over time: probabilities fade out instead of being replaced.

    Each area keeps an exponential average of its probabilities with the time constant `TIME_S` on the frames' clock,
    so the answer settles alike at 5 and at 60 frames a second. The first frame counts in full: the first answer is not
    delayed. Areas are those of the last frame that overlap by more than `OVERLAP`. Of enrolled things the names are
    averaged the same way, and the one with the most weight is told with its mean similarity.
    """

    TIME_S: Final = 0.4
    """A change of what is shown is told after 0.28 s (0.7 time constants), when both answers are equally certain."""
    OVERLAP: Final = 0.3
    FORGET_S: Final = 2.0
    """After a pause as long as this the picture is of something else."""
    KEEP_S: Final = 0.5
    """A face that is not found for this long is gone; before, it goes on where it was."""

    def __init__(self, *, follows_faces: bool) -> None:
        """`follows_faces`: findings are faces, which are numbered; else the whole picture, or a box, is one area."""
        self._follows_faces = follows_faces
        self._areas: list[_Area] = []
        self._time_s = 0.0
        self._numbers = 0

    @property
    def answers(self) -> tuple[SteadyAnswer, ...]:
        """What is said of every area now; of faces too that were not found in the last few frames."""
        return tuple(area.answer for area in self._areas if area.answer is not None)

    def reset(self) -> None:
        """Forget all: the next frame has nothing to do with the last."""
        self._areas = []

    def smooth(self, seen: Seen) -> Seen:
        """Average what was seen in the next frame with what was seen before. Heatmaps stay the frame's own."""
        if not 0 <= seen.frame.time_s - self._time_s <= self.FORGET_S:
            self.reset()
        self._time_s = seen.frame.time_s
        before, self._areas = self._areas, []
        findings = tuple(self._smoothed(one, before) for one in seen.findings)
        kept_s = self.KEEP_S if self._follows_faces else 0.0
        self._areas += [area for area in before if self._time_s - area.seen_s <= kept_s]
        return replace(seen, findings=findings)

    def _smoothed(self, now: Finding, before: list[_Area]) -> Finding:
        area = self._follow(now.box, before)
        fade = float(np.exp((area.seen_s - self._time_s) / self.TIME_S))
        answer: Answer
        if isinstance(now.answer, Classification):
            area.mix({score.label: score.probability for score in now.answer.scores}, fade)
            labels = tuple(score.label for score in now.answer.scores if score.label in area.weights)
            weights = np.array([area.weights[label] for label in labels])
            cost_of = {score.label: score.cost for score in now.answer.scores}
            costs = np.array([cost_of[label] for label in labels])
            said = now.answer
            answer = ranked(labels, weights, said.unsure_below, costs, said.hierarchy, said.attributes)
            area.tell(self._time_s, answer.name, None, answer.scores)
        else:
            area.mix({now.answer.name: 1.0}, fade)
            area.note(now.answer, fade)
            answer = area.matches[max(area.weights, key=lambda one: area.weights[one])]
            area.tell(self._time_s, answer.name, answer.similarity, None)
        return replace(now, answer=answer, track=area.number)

    def _follow(self, box: Float32s, before: list[_Area]) -> _Area:
        """The area of the last frames that this one goes on from, each used once; a fresh one when there is none."""
        shares = [float(box_iou(box[None], area.box[None])[0, 0]) for area in before]
        best = int(np.argmax(shares)) if shares else -1
        if shares and shares[best] > self.OVERLAP:
            area = before.pop(best)
        else:
            # The whole picture is one area for ever, and a thing is one too wherever the box is drawn.
            self._numbers += self._follows_faces
            area = _Area(box, self._numbers if self._follows_faces else None, self._time_s, self._time_s)
        area.box = box
        self._areas.append(area)
        return area


@dataclass(slots=True, eq=False)
class _Area:
    """One area over time."""

    box: Float32s
    number: int | None
    since_s: float
    seen_s: float
    answer: SteadyAnswer | None = None
    weights: dict[str | None, float] = field(default_factory=dict)
    """Averaged probability of each label, or how much of the time each name was told."""
    matches: dict[str | None, Match] = field(default_factory=dict)
    """Of things: averaged similarity and margin for each name."""

    def mix(self, fresh: dict[str | None, float], fade: float) -> None:
        """Let `fade` of what was stay, and fill up with what is."""
        if not self.weights:
            self.weights = fresh
            return
        names = self.weights | fresh
        self.weights = {n: fade * self.weights.get(n, 0.0) + (1 - fade) * fresh.get(n, 0.0) for n in names}

    def tell(
        self, time_s: float, name: str | None, similarity: float | None, classes: tuple[ClassScore, ...] | None
    ) -> None:
        """Take in the answer of the frame at `time_s`."""
        self.seen_s = time_s
        self.answer = SteadyAnswer(self.number, self.since_s, time_s, name, similarity, classes)

    def note(self, match: Match, fade: float) -> None:
        """Average a name's similarity and margin with those it had."""
        old = self.matches.get(match.name, match)
        similarity, margin = (
            fade * was + (1 - fade) * now
            for was, now in ((old.similarity, match.similarity), (old.margin, match.margin))
        )
        self.matches[match.name] = Match(match.name, similarity, margin)
