"""Matches embeddings with the enrolled templates: a name, or nobody."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from edge_app.core.cohort import Cohort, Kinds
from edge_app.core.errors import GalleryError, UsageError
from edge_app.core.model_card import OperatingPoint
from edge_app.core.types import Embedding, Float32s, Match
from edge_app.gallery.blocks import mean_directions
from edge_app.gallery.people import Stored
from edge_app.gallery.scan import Scan

NO_RUNNER_UP: Final = 2.0
"""Margin when there is nobody to confuse with: the largest distance two cosines can have."""
USUAL_ROOM: Final = 0.708
"""Room between strangers and oneself in SFace's space, 1 - its threshold at a false-match rate of 1 %. Margins and
hysteresis were tuned there. dlib's space is ten times narrower: strangers' median cosine is 0.92, and with SFace's
margin of 0.05 only 38 of 135 known LFW people were named."""
_FEW: Final = 512
"""People who are all compared exactly; among more, the nearest are looked for first."""
_LEAST_PEERS: Final = 0.05
"""A stranger of a kind unlike everybody enrolled is asked no less than this asks."""


@dataclass(frozen=True, slots=True, eq=False)
class Company:
    """What a gallery is to a stranger: how many of the enrolled are of his kind, and the threshold that this asks for.

    A stranger is mistaken for somebody of his own kind. A household of one kind needs a higher threshold than as many
    people of a mixed crowd, and in a mixed crowd somebody whose kind is common a higher one than somebody who is alone.
    """

    kinds: Kinds
    towards: Float32s
    """(K,): people of one's own kind that the gallery counts for, to a face of each kind."""
    peers: Float32s
    """(T,) ascending logarithms of numbers of people of one kind."""
    thresholds: Float32s
    """(T,) the threshold for each."""
    usual: float
    """The threshold for the mean of the enrolled, which the rule has."""

    def surplus(self, shares: Float32s) -> Float32s:
        """How much more similarity than the rule's threshold faces of `shares` (N, K) need, or less; (N,)."""
        return self.threshold(shares @ self.towards) - np.float32(self.usual)

    def threshold(self, peers: Float32s) -> Float32s:
        """The threshold for numbers of people of one's own kind, of any shape."""
        return np.asarray(np.interp(np.log(np.maximum(peers, 1e-6)), self.peers, self.thresholds), np.float32)


@dataclass(frozen=True, slots=True)
class MatchRule:
    """When a face is somebody."""

    threshold: float
    """Least similarity to an identity: cosine, less both faces' excess where there is a cohort."""
    margin: float
    """Least lead over the runner-up identity, in this space."""
    fpir: float
    """Share of strangers that may be called somebody, as asked."""
    fmr: float
    """False-match rate of one comparison that this asks for."""
    words: str
    """What was done, in one sentence."""
    scale: float = 1.0
    """How wide this model's space is beside SFace's; differences of similarities are measured in it."""
    decade: float = 0.07
    """How much more similarity a ten times smaller share of strangers costs, in the threshold's own units."""
    same_person: float | None = None
    """Cosine of two embeddings that one pair of strangers in a hundred reaches; None where nobody measured it."""
    cohort: Cohort | None = None
    """What the similarities that `threshold` and `margin` speak of are evened with; None: they are plain cosines."""
    company: Company | None = None
    """How many people of a probe's kind are enrolled; None: everybody counts alike."""
    unpromised: str = ""
    """Why the share asked for cannot be promised for so many, a sentence that `words` ends with; "" where it can."""

    def taken_off(self, probes: Float32s) -> Float32s:
        """What is taken off all similarities of each of (N, D) unit rows before `threshold` is applied; (N,)."""
        if self.cohort is None:
            return np.zeros(len(probes), np.float32)
        excess = self.cohort.excess(probes)
        if self.company is not None:
            excess += self.company.surplus(self.company.kinds.shares(probes))
        return excess

    def stricter(self, share: float) -> float:
        """The threshold when only `share`, in (0, 1], of the strangers that `fpir` allows may still be named."""
        return self.threshold - self.decade * math.log10(share)


NAMES_NOBODY: Final = MatchRule(2.0, 0.0, 0.0, 0.0, "Nobody is named.")
"""What holds where no rule is known: no cosine reaches 2."""


class Gallery:
    """Known identities of one model, immutable; one mean vector each."""

    def __init__(
        self,
        model_id: str,
        names: Sequence[str],
        vectors: Float32s,
        owner: NDArray[np.integer],
        ignored: Collection[str] = (),
    ) -> None:
        """Average `vectors` (T, D), unit rows, by their `owner` (T,), an index into `names` (N).

        Those of `names` that are `ignored` are known strangers: whoever is nearest to them gets no name.
        """
        if len(vectors) != len(owner) or (len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < len(names)):
            raise ValueError(f"gallery: found {len(vectors)} vectors, {len(owner)} owners, {len(names)} names")
        counts = np.bincount(owner, minlength=len(names)).astype(np.int64)
        if len(names) and int(counts.min()) == 0:
            raise ValueError("gallery: found an identity without a template")
        try:
            means = mean_directions(vectors, owner, counts)
        except ValueError as error:
            raise GalleryError(str(error), remedy="forget that person and enroll again") from error
        self._set(model_id, tuple(names), means, counts, ignored)

    @classmethod
    def of_means(cls, stored: Stored) -> Self:
        """Everybody as the vault holds them; their names are read when they are asked for."""
        gallery = cls.__new__(cls)
        gallery._set(stored.model_id, stored.names, stored.means, stored.counts, stored.ignored)
        return gallery

    def _set(
        self, model_id: str, names: Sequence[str], means: Float32s, counts: NDArray[np.int64], ignored: Collection[str]
    ) -> None:
        self.model_id = model_id
        self.names = names
        self.ignored = frozenset(ignored)
        self.template_counts = counts
        self._candidates: NDArray[np.bool_] | None = None
        self._means = means
        self._excess: tuple[Cohort, Float32s] | None = None
        self._scan: Scan | None = None

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def empty(cls, model_id: str) -> Gallery:
        """A gallery that knows nobody."""
        return cls(model_id, (), np.zeros((0, 0), np.float32), np.zeros(0, np.int64))

    def limited_to(self, candidates: Collection[str]) -> Gallery:
        """The same people, of whom only `candidates` are named, and only they count for the `rule`.

        Everybody else stays a rival: whoever is nearest to one of them is nobody, so that leaving a person out gives
        this person no other's name. Names that are not enrolled do not count.
        """
        gallery = Gallery.__new__(Gallery)
        gallery._set(self.model_id, self.names, self._means, self.template_counts, self.ignored)
        wanted = frozenset(candidates)
        gallery._candidates = np.fromiter((name in wanted for name in self.names), np.bool_, len(self.names))
        return gallery

    def match(self, embeddings: Sequence[Embedding], rule: MatchRule) -> list[Match]:
        """Name every embedding, or nobody. Raises GalleryError for embeddings of another model."""
        for embedding in embeddings:
            if embedding.model_id != self.model_id:
                raise GalleryError(
                    f"the gallery holds templates of {self.model_id}, the face was embedded with {embedding.model_id}",
                    remedy="enroll again with the model in use",
                )
        return [self._decide(self._leaders(e.vector, rule), rule) for e in embeddings]

    def nearest(
        self, embedding: Embedding, *, other_than: str | None = None, rule: MatchRule | None = None
    ) -> tuple[str, float] | None:
        """The nearest identity and its similarity, leaving one name out; None when nobody is left.

        Give the `rule` where the similarity is held against its threshold; without one it is the plain cosine.
        """
        for where, similarity in self._leaders(embedding.vector, rule):
            name = self.names[where]
            if name != other_than:
                return name, similarity
        return None

    def similarity_to(self, name: str, embedding: Embedding, rule: MatchRule | None = None) -> float:
        """Similarity to one identity's mean, as the `rule` has it; without one the plain cosine.

        Raises GalleryError when nobody has that name.
        """
        try:
            where = self.names.index(name)
        except ValueError:
            raise GalleryError(f"nobody called {name!r} is enrolled", remedy="see `edge-app gallery list`") from None
        own = 0.0 if rule is None else float(rule.taken_off(embedding.vector[None])[0])
        return float(self._similarities(np.array([where]), embedding.vector, rule, own)[0])

    def mean(self, where: int) -> Float32s:
        """The mean template (D,) of the identity at `where` of `names`, read-only."""
        mean: Float32s = self._means[where]
        return mean

    def neighbours(self) -> list[tuple[str, float] | None]:
        """For every identity its nearest other one and their cosine; None for the only one."""
        if len(self.names) < 2:
            return [None] * len(self.names)
        return [
            self.nearest(Embedding(mean, self.model_id), other_than=name)
            for name, mean in zip(self.names, self._means, strict=True)
        ]

    def rule(
        self, points: Sequence[OperatingPoint], fpir: float, margin: float, cohort: Cohort | None = None
    ) -> MatchRule:
        """Turn the share of strangers that may be called somebody into a threshold for this gallery.

        `points` and `cohort` belong together: see `edge_app.gallery.calibration.thresholds_of`. `margin` is the least
        lead over the second best as it would be in SFace's space; narrower spaces scale it. Raises UsageError for a
        share outside (0, 1), GalleryError when there are no operating points or the cohort is of another embedder.
        """
        if not any(_Curve([p for p in points if p.templates == count]).known for count in (1, 2)):
            raise GalleryError(
                f"{self.model_id} has no operating points: nobody knows how alike two strangers may be",
                remedy=f"run `edge-app calibrate DIR --model {self.model_id}` over a folder with a sub-folder per "
                "person or thing, or use another model",
            )
        chosen = slice(None) if self._candidates is None else self._candidates
        counts, means = self.template_counts[chosen], self._means[chosen]
        single = int((counts == 1).sum())
        if cohort is not None:
            self._excess_of(np.zeros(0, np.intp), cohort)  # refuses a cohort of another embedder
        shares = cohort.kinds.shares(means) if cohort and cohort.kinds and len(means) else None
        rule = rule_for(points, single, len(counts) - single, fpir, margin, cohort, shares)
        if self._candidates is None:
            return rule
        place = " as the one candidate" if len(counts) == 1 else " as candidates"
        return replace(rule, words=rule.words.replace(" enrolled", place, 1))

    def _leaders(self, probe: Float32s, rule: MatchRule | None) -> list[tuple[int, float]]:
        """The two most similar identities and their similarities, fewer where there are fewer; the first is first."""
        count = len(self.names)
        if count == 0:
            return []
        own = 0.0 if rule is None or rule.cohort is None else float(rule.taken_off(probe[None])[0])
        if count <= _FEW:
            return self._first_two(np.arange(count), probe, rule, own)
        if self._scan is None:
            self._scan = Scan(self._means)
        rough, error = self._scan.cosines(probe)
        down_to = float(rough.max()) - 2 * error
        while True:
            best = self._first_two(np.flatnonzero(rough >= down_to), probe, rule, own)
            # Excess only lowers a similarity: whoever is rougher than this is below the second, exactly and evened.
            enough = best[1][1] + own - error if len(best) == 2 else down_to - 0.1
            if down_to <= enough:
                return best
            down_to = enough

    def _first_two(
        self, where: NDArray[np.intp], probe: Float32s, rule: MatchRule | None, own: float
    ) -> list[tuple[int, float]]:
        exact = self._similarities(where, probe, rule, own)
        found = []
        for _ in range(min(2, len(where))):
            best = int(exact.argmax())
            found.append((int(where[best]), float(exact[best])))
            exact[best] = -9.0
        return found

    def _similarities(self, where: NDArray[np.intp], probe: Float32s, rule: MatchRule | None, own: float) -> Float32s:
        """The exact similarities of those at `where` (K,), less the probe's `own` part of what is taken off."""
        # Not through BLAS, whose threads wait for one another on a busy machine.
        similarities: Float32s = np.einsum("nd,d->n", self._means[where], probe)
        if rule is not None and rule.cohort is not None:
            similarities -= self._excess_of(where, rule.cohort)
            similarities -= np.float32(own)
        return similarities

    def _excess_of(self, where: NDArray[np.intp], cohort: Cohort) -> Float32s:
        """What is taken off whoever is compared, kept for the cohort last used: of 100,000 it takes half a second."""
        if self._excess is None or self._excess[0] is not cohort:
            if self.names and self._means.shape[1] != cohort.size:
                raise GalleryError(
                    f"the cohort of {self.model_id} is of {cohort.size} numbers a face, the gallery of "
                    f"{self._means.shape[1]}",
                    remedy="use the model that the gallery was enrolled with, or enroll again",
                )
            self._excess = cohort, np.full(len(self.names), np.nan, np.float32)
        known = self._excess[1]
        missing = where[np.isnan(known[where])]
        if len(missing):
            known[missing] = cohort.excess(self._means[missing])
        return known[where]

    def _decide(self, leaders: Sequence[tuple[int, float]], rule: MatchRule) -> Match:
        if not leaders:
            return Match(None, -1.0, NO_RUNNER_UP)
        (best, similarity), *rest = leaders
        margin = similarity - rest[0][1] if rest else NO_RUNNER_UP
        near = similarity >= rule.threshold and margin >= rule.margin
        name = self.names[best] if near else None
        if name in self.ignored:
            return Match(None, similarity, margin, ignored=name)
        if name is not None and self._candidates is not None and not self._candidates[best]:
            return Match(None, similarity, margin, left_out=name)
        return Match(name, similarity, margin)


def looks_like_nobody_can_tell(template: Embedding, cohort: Cohort | None) -> bool:
    """Whether a face is of a kind that the network cannot tell apart, such as toddlers'.

    Such a person can be enrolled and is hardly ever recognized: say so. False where there is no cohort to tell by.
    """
    return cohort is not None and float(cohort.excess(template.vector[None])[0]) >= cohort.doubtful_from


def rule_for(
    points: Sequence[OperatingPoint],
    single: int,
    averaged: int,
    fpir: float,
    margin: float,
    cohort: Cohort | None = None,
    enrolled: Float32s | None = None,
) -> MatchRule:
    """The threshold at which a stranger is called somebody with probability `fpir`.

    `single` identities have one template, `averaged` have more. A stranger meets every identity once:
    FPIR(t) = 1 - (1 - FMR1(t))^single * (1 - FMR2(t))^averaged, the independence that ISO/IEC 19795-1 names as an
    approximation; the README gives what really happens. The false-match rates come from measured operating points,
    log-linear between them and beyond them; at least two of the same number of templates are needed. With a cohort
    they are those of strangers of one kind, and `enrolled` (G, K) are the shares of kinds of those in the gallery:
    each face then has the threshold for as many people of its own kind as they count for (`Company`); without them all
    are of one kind. `margin` is scaled to the width of the space, `USUAL_ROOM`. Raises UsageError for a share outside
    (0, 1), GalleryError when there are no points, or points that were measured with a cohort and come without it.
    """
    if not 0.0 < fpir < 1.0:
        raise UsageError(f"--fpir is {fpir}", expected="a share between 0 and 1, such as 0.01")
    if any(p.evened != (cohort is not None) for p in points):
        raise GalleryError(
            f"these operating points were measured with{'out' if cohort else ''} a cohort",
            expected="the points and the cohort of one card or calibration",
        )
    curves = {count: _Curve([p for p in points if p.templates == count]) for count in (1, 2)}
    if not curves[1].known and not curves[2].known:
        raise GalleryError("there are no operating points to draw a threshold from", expected="two at least")
    one = curves[1] if curves[1].known else curves[2]
    two = curves[2] if curves[2].known else curves[1]
    people = single + averaged
    if people == 0:
        single = 1  # The rule of an empty gallery is the rule of its first member.

    def spared(threshold: float) -> float:
        """Mean logarithm of the chance that one comparison errs not."""
        lone, mean = math.log1p(-one.fmr(threshold)), math.log1p(-two.fmr(threshold))
        return (single * lone + averaged * mean) / (single + averaged)

    kinds = cohort.kinds if cohort is not None and enrolled is not None and len(enrolled) else None
    peers = float(max(1, people))
    if kinds is not None and enrolled is not None:
        totals = enrolled.sum(axis=0, dtype=np.float64).astype(np.float32)
        peers = max(_LEAST_PEERS, float(totals @ kinds.rates @ totals) / len(enrolled))
    allowed = math.log1p(-fpir)
    high = _where(lambda threshold: peers * spared(threshold) >= allowed)
    company = None
    if kinds is not None and enrolled is not None:
        grid = np.linspace(-0.2, 1.0, 121)
        log_peers = [math.log(allowed / min(-1e-300, spared(float(threshold)))) for threshold in grid]
        towards = kinds.rates @ totals
        company = Company(kinds, towards, np.array(log_peers, np.float32), grid.astype(np.float32), high)
    same_person = cohort.same_person if cohort else _where(lambda threshold: one.fmr(threshold) <= 0.01)
    decade = _where(lambda threshold: peers * spared(threshold) >= math.log1p(-fpir / 10)) - high
    scale = max(0.01, (1.0 - same_person) / USUAL_ROOM)
    margin *= scale
    fmr = -math.expm1(allowed / max(1.0, peers))
    measured = min((p.fmr for p in points), default=1.0)
    pairs = max((p.impostor_pairs for p in points), default=0)
    most = math.floor(math.log1p(-fpir) / math.log1p(-measured)) if measured < 1.0 else 0
    kind = " of one kind" if kinds is not None else ""
    words = _words(fpir, people, peers if kinds is not None else None, fmr, high, margin)
    unpromised = ""
    if fmr < measured:
        unpromised = (
            f"At most {share_words(fpir)} strangers called somebody cannot be promised for {people:,} people: "
            f"{pairs:,} pairs of strangers were measured, which is enough for errors of {share_words(measured)} and "
            f"about {most:,} people{kind}; beyond that the threshold is extrapolated. --candidates FILE limits who may "
            "be named to those who may be there today."
        )
        words += f" {unpromised}"
    elif any(p.evened for p in points):
        words += (
            f" It rests on {pairs:,} pairs of strangers, enough for about {most:,} people of one kind; for relatives, "
            "twins and toddlers nothing can be promised."
        )
    return MatchRule(high, margin, fpir, fmr, words, scale, decade, same_person, cohort, company, unpromised)


def _where(enough: Callable[[float], bool]) -> float:
    """The least cosine that is `enough`, which every larger one is too."""
    low, high = -1.0, 1.0
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


class _Curve:
    """FMR over threshold, log-linear through the measured points."""

    def __init__(self, points: Sequence[OperatingPoint]) -> None:
        ordered = sorted(points, key=lambda p: p.threshold)
        self._thresholds = [p.threshold for p in ordered]
        self._logs = [math.log(p.fmr) for p in ordered]

    @property
    def known(self) -> bool:
        """Whether there are points enough to draw a line."""
        return len(self._thresholds) >= 2

    def fmr(self, threshold: float) -> float:
        """False-match rate at a threshold, at most 0.999."""
        t, logs = self._thresholds, self._logs
        # The outermost segments go on straight: a Gaussian tail falls faster, so strangers fare no better.
        segment = min(max(bisect_left(t, threshold) - 1, 0), len(t) - 2)
        slope = (logs[segment + 1] - logs[segment]) / max(t[segment + 1] - t[segment], 1e-9)
        return min(0.999, math.exp(min(0.0, logs[segment] + slope * (threshold - t[segment]))))


def _words(
    fpir: float,
    people: int,
    peers: float | None,
    fmr: float,
    threshold: float,
    margin: float,
) -> str:
    who = "nobody yet" if people == 0 else "1 person" if people == 1 else f"{people:,} people"
    alike, about = ",", ""
    if peers is not None and people > 1:
        alike, about = f", who count for about {max(1, round(peers)):,} people of one kind to one of them,", "about "
    return (
        f"With {who} enrolled{alike} at most about {share_words(fpir)} strangers may be called somebody: "
        f"each comparison may err {share_words(fmr)} times, "
        f"which needs a similarity of {about}{threshold:.3f} and a lead of {margin:.2g} over the second best."
    )


def share_words(share: float) -> str:
    """A rate as people say it: "1 in 100"."""
    return f"1 in {1 / share:,.0f}" if share <= 0.1 else f"{share:.0%} of"
