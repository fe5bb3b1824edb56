"""Who a track is, decided from several looks at it, at the rate of strangers that the rule allows per visit.

A stranger who stays is compared again and again; with one threshold for every look, more get a name the longer they
stay. So the share that the rule allows is spent over the visit (alpha spending, Lan and DeMets 1983): each test of the
averaged embedding may use a part of it, the parts add up to one, and tests grow rarer as the evidence grows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from edge_app.core.types import Embedding, Match, Quality
from edge_app.gallery.matching import NO_RUNNER_UP, Gallery, MatchRule

DecisionState = Literal["new", "known", "unknown"]
Agreement = Literal["first", "agrees", "unsure", "contradicts"]

NOBODY_YET: Final = Match(None, -1.0, NO_RUNNER_UP)
FIRST_SHARES: Final = (0.05, 0.15, 0.15, 0.10)
"""Of the strangers that may be named, the part that each of the first tests may use: after 1, 2, 3 and 4 looks."""
LATER_SHARE: Final = 1.0 - sum(FIRST_SHARES)
"""What is left for all later tests, of which each uses three tenths of what the ones before have left."""
GROWTH: Final = 1.35
"""A later test comes when this many times as much has been seen as at the one before."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One embedding of a tracked face."""

    embedding: Embedding
    weight: float
    """How much it is worth in the average, (0, 1]."""
    is_face: bool = True
    """Whether the detector would find a face there; a wall, a hand or a turned back may be followed for a while."""


@dataclass(frozen=True, slots=True)
class DecisionOptions:
    """How many looks a decision needs."""

    looks_kept: int = 16
    """Newest looks that are averaged."""
    least_weight: float = 0.5
    """Sum of the weights that a decision wants; poor looks alone need `looks_to_settle`."""
    looks_to_reject: int = 4
    """Looks until somebody is unknown, when the average is clearly below the threshold."""
    looks_to_settle: int = 7
    """Looks after which a case near the threshold is decided as it stands."""
    band: float = 1.2
    """Hysteresis: a name is kept until the average is this many tenfold steps of strangers below the threshold."""
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


def share_of_test(number: int) -> float:
    """The part of the allowed strangers that the test `number` (from 0) of a visit may use; all add up to one."""
    if number < len(FIRST_SHARES):
        return FIRST_SHARES[number]
    return LATER_SHARE * 0.3 * 0.7 ** (number - len(FIRST_SHARES))


class Decision:
    """The looks of one track, and what they add up to."""

    def __init__(self, options: DecisionOptions | None = None) -> None:
        self._options = options or DecisionOptions()
        self._looks: deque[Look] = deque(maxlen=self._options.looks_kept)
        self._seen = 0.0
        self._next_test_at = 0.0
        self._tests = 0
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

    @property
    def contested(self) -> bool:
        """Whether the newest looks spoke for somebody else than the name that was given."""
        return self._against > 0

    def agreement(self, look: Look, rule: MatchRule) -> Agreement:
        """Whether a look is of the person seen so far.

        Judged by cosine, against the one that a pair of strangers in a hundred reaches: well above agrees, well below
        is somebody else.
        """
        if self.average is None:
            return "first"
        similarity = self.average.similarity(look.embedding)
        floor = same_person(rule)
        if similarity >= floor + 0.3 * (1.0 - floor):
            return "agrees"
        return "unsure" if similarity >= floor - 0.15 * (1.0 - floor) else "contradicts"

    def add(
        self,
        look: Look,
        gallery: Gallery,
        rule: MatchRule,
        *,
        only: bool = False,
        taken: Mapping[str, float] | None = None,
    ) -> None:
        """Take in one look and decide anew. Raises GalleryError when the gallery is of another model.

        `only`: there will be no other look, so it may use all that the rule allows, as for a photograph. `taken`: the
        names that others in the picture have, and how alike those are; such a name goes to somebody more alike only.
        """
        self._looks.append(look)
        self._seen += look.weight
        self.average = _average(self._looks)
        self._decide(gallery, rule, only, taken or {})

    def give_up_name(self) -> None:
        """Somebody else in the picture has the better claim: undecided again, with the looks so far."""
        self.state = "new"
        self.match = Match(None, self.match.similarity, self.match.margin)

    def again(self, gallery: Gallery, rule: MatchRule) -> None:
        """Decide afresh from the kept looks: the gallery or its rule has changed."""
        self.state, self.match, self._against = "new", NOBODY_YET, 0
        self._tests = min(self._tests, 1)
        self._next_test_at = 0.0
        if self._looks:
            self._decide(gallery, rule, False, {})

    def _decide(self, gallery: Gallery, rule: MatchRule, only: bool, taken: Mapping[str, float]) -> None:
        assert self.average is not None
        (found,) = gallery.match([self.average], rule)
        if self.state == "known":
            self._keep_or_drop(found, gallery, rule)
            return
        free = found.name is None or found.similarity > taken.get(found.name, -math.inf)
        before = self.match.ignored
        if free and self._test_passed(found, gallery, rule, only):
            self.state, self.match, self._against = "known" if found.name else "unknown", found, 0
            return
        self.match = Match(None, found.similarity, found.margin, before if before == found.ignored else None)
        if self.state == "new" and self._enough_to_reject(found, rule, only):
            self.state = "unknown"

    def _test_passed(self, found: Match, gallery: Gallery, rule: MatchRule, only: bool) -> bool:
        """Spend the next test, when it is due, on the average; most looks that name somebody must agree with it."""
        poor = self.weight < self._options.least_weight and len(self._looks) < self._options.looks_to_settle
        if not only and (poor or self._seen < self._next_test_at):
            return False
        number, self._tests = self._tests, self._tests + 1
        if self._tests >= len(FIRST_SHARES):
            self._next_test_at = GROWTH * self._seen
        needed = rule.threshold if only else rule.stricter(share_of_test(number))
        claimed = found.claimed
        if claimed is None or found.similarity < needed:
            return False
        votes = [match.claimed for match in gallery.match([one.embedding for one in self._looks], rule)]
        cast = [name for name in votes if name is not None]
        return 2 * cast.count(claimed) > len(cast)

    def _keep_or_drop(self, found: Match, gallery: Gallery, rule: MatchRule) -> None:
        """A name that was given stays until several looks in a row speak against it."""
        name = self.match.name
        assert name is not None
        if name not in gallery.names or self.average is None:
            self.again(gallery, rule)
            return
        similarity = gallery.similarity_to(name, self.average, rule)
        # The average of many looks is slow to tell somebody alike who took the place: the newest look has a say too.
        (newest,) = gallery.match([self._looks[-1].embedding], rule)
        claimed = {one.claimed for one in (found, newest)}
        holds = similarity >= rule.threshold - self._options.band * rule.decade and claimed <= {None, name}
        self._against = 0 if holds else self._against + 1
        self.match = Match(name, similarity, found.margin)
        if self._against >= self._options.strikes:
            # What overturned the name is what the next one is decided from.
            recent = list(self._looks)[-self._options.strikes :]
            self._looks.clear()
            self._looks.extend(recent)
            self.average = _average(self._looks)
            self.again(gallery, rule)

    def _enough_to_reject(self, found: Match, rule: MatchRule, only: bool) -> bool:
        clear = found.similarity < rule.threshold - self._options.band * rule.decade
        weighty = self.weight >= self._options.least_weight
        settled = only or len(self._looks) >= self._options.looks_to_settle
        return settled or (clear and weighty and len(self._looks) >= self._options.looks_to_reject)


def same_person(rule: MatchRule) -> float:
    """The cosine of two looks that a pair of strangers in a hundred reaches; without a measurement, the threshold."""
    return rule.threshold if rule.same_person is None else rule.same_person


def _average(looks: deque[Look]) -> Embedding:
    """Weighted mean direction; looks that cancel out leave the newest one."""
    total = np.sum([look.weight * look.embedding.vector for look in looks], axis=0)
    if float(np.linalg.norm(total)) < 1e-6:
        return looks[-1].embedding
    return Embedding(total, looks[-1].embedding.model_id)
