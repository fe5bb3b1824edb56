"""Who a track is, decided from several of its frames: pure values, no pictures.

Hides averaging by quality, voting and hysteresis. Flows in: `Look`s (an embedding and how much it is worth), the
gallery and its rule. Flows out: a state (new, known, unknown) and the `Match` of the averaged embedding.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from edge_app.core.types import Embedding, Match, Quality
from edge_app.gallery.matching import NO_RUNNER_UP, Gallery, MatchRule

DecisionState = Literal["new", "known", "unknown"]
Agreement = Literal["first", "agrees", "unsure", "contradicts"]

NOBODY_YET: Final = Match(None, -1.0, NO_RUNNER_UP)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One embedding of a tracked face."""

    embedding: Embedding
    weight: float
    """How much it is worth in the average, (0, 1]."""


@dataclass(frozen=True, slots=True)
class DecisionOptions:
    """How many looks a name needs, and how much it takes to lose it; differences of cosines as in SFace's space."""

    looks_kept: int = 8
    """Newest looks that are averaged."""
    sure_lead: float = 0.10
    """Two looks suffice for a name when the average is this far above the threshold."""
    looks_to_know: int = 3
    """Looks for a name that is nearer to the threshold."""
    least_weight: float = 0.5
    """Sum of the weights that a decision wants; poor looks alone need `looks_to_settle`."""
    looks_to_reject: int = 4
    """Looks until somebody is unknown, when the average is clearly below the threshold."""
    looks_to_settle: int = 7
    """Looks after which a case near the threshold is decided as it stands."""
    band: float = 0.08
    """Hysteresis: a name is kept until the average is this far below the threshold."""
    strikes: int = 3
    """Looks in a row that must speak against a decision to overturn it."""


def weight_of(quality: Quality) -> float:
    """How much a look of this quality is worth, in [0.02, 1]: large, sharp, frontal and evenly lit is 1."""
    size = min(1.0, quality.face_px / 80.0)
    sharp = min(1.0, max(0.0, quality.sharpness) / 0.25)
    frontal = max(0.1, 1.0 - 0.8 * abs(quality.yaw))
    lit = 1.0 if 50.0 <= quality.brightness <= 210.0 else 0.5
    found = min(1.0, max(0.1, (quality.score - 0.5) / 0.35))  # YuNet's score falls when a face is covered
    return max(0.02, size * sharp * frontal * lit * found * (1.0 - min(0.9, quality.clipped)))


class Decision:
    """The looks of one track, and what they add up to."""

    def __init__(self, options: DecisionOptions | None = None) -> None:
        self._options = options or DecisionOptions()
        self._looks: deque[Look] = deque(maxlen=self._options.looks_kept)
        self._against = 0
        self.state: DecisionState = "new"
        self.match: Match = NOBODY_YET
        self.average: Embedding | None = None

    @property
    def looks(self) -> tuple[Look, ...]:
        """The looks that are averaged, oldest first."""
        return tuple(self._looks)

    @property
    def weight(self) -> float:
        """What the looks are worth together."""
        return sum(look.weight for look in self._looks)

    def agreement(self, look: Look, rule: MatchRule) -> Agreement:
        """Whether a look is of the person seen so far: alike as the rule asks is, far below is somebody else."""
        if self.average is None:
            return "first"
        similarity = self.average.similarity(look.embedding)
        if similarity >= rule.threshold:
            return "agrees"
        return "unsure" if similarity >= rule.threshold - 0.15 * rule.scale else "contradicts"

    def add(self, look: Look, gallery: Gallery, rule: MatchRule) -> None:
        """Take in one look and decide anew. Raises GalleryError when the gallery is of another model."""
        self._looks.append(look)
        self.average = _average(self._looks)
        self._decide(gallery, rule)

    def again(self, gallery: Gallery, rule: MatchRule) -> None:
        """Decide afresh from the kept looks: the gallery or its rule has changed."""
        self.state, self.match, self._against = "new", NOBODY_YET, 0
        if self._looks:
            self._decide(gallery, rule)

    def _decide(self, gallery: Gallery, rule: MatchRule) -> None:
        assert self.average is not None
        (found,) = gallery.match([self.average], rule)
        if self.state == "known":
            self._keep_or_drop(found, gallery, rule)
        elif found.name is not None and self._enough_to_know(found, gallery, rule):
            self.state, self.match, self._against = "known", found, 0
        else:
            self.match = Match(None, found.similarity, found.margin)
            if self.state == "new" and found.name is None and self._enough_to_reject(found, rule):
                self.state = "unknown"

    def _keep_or_drop(self, found: Match, gallery: Gallery, rule: MatchRule) -> None:
        """A name that was given stays until several looks in a row speak against it."""
        name = self.match.name
        assert name is not None
        if name not in gallery.names or self.average is None:
            self.again(gallery, rule)
            return
        similarity = gallery.similarity_to(name, self.average, rule)
        holds = similarity >= rule.threshold - self._options.band * rule.scale and found.name in (None, name)
        self._against = 0 if holds else self._against + 1
        self.match = Match(name, similarity, found.margin)
        if self._against >= self._options.strikes:
            # What overturned the name is what the next one is decided from.
            recent = list(self._looks)[-self._options.strikes :]
            self._looks.clear()
            self._looks.extend(recent)
            self.average = _average(self._looks)
            self.again(gallery, rule)

    def _enough_to_know(self, found: Match, gallery: Gallery, rule: MatchRule) -> bool:
        options, count = self._options, len(self._looks)
        votes = [match.name for match in gallery.match([look.embedding for look in self._looks], rule)]
        cast = [name for name in votes if name is not None]
        if 2 * cast.count(found.name or "") <= len(cast) or not cast:
            return False
        sure = count >= 2 and found.similarity >= rule.threshold + options.sure_lead * rule.scale
        return (sure or count >= options.looks_to_know) and self._weighty()

    def _enough_to_reject(self, found: Match, rule: MatchRule) -> bool:
        clear = found.similarity < rule.threshold - self._options.band * rule.scale
        settled = len(self._looks) >= self._options.looks_to_settle
        return settled or (clear and len(self._looks) >= self._options.looks_to_reject and self._weighty())

    def _weighty(self) -> bool:
        return self.weight >= self._options.least_weight or len(self._looks) >= self._options.looks_to_settle


def _average(looks: deque[Look]) -> Embedding:
    """Weighted mean direction; looks that cancel out leave the newest one."""
    total = np.sum([look.weight * look.embedding.vector for look in looks], axis=0)
    if float(np.linalg.norm(total)) < 1e-6:
        return looks[-1].embedding
    return Embedding(total, looks[-1].embedding.model_id)
