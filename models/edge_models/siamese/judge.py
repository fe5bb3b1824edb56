"""Figures of an embedder before and after fine-tuning on held-out identities, with intervals over identities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_app.accuracy.intervals import Estimate, Statistic, Weights, bootstrap, bootstrap_gain, weighted_share
from edge_app.accuracy.open_set import NShot, n_shot
from edge_app.accuracy.pair_scores import Ints, PairScores, pair_scores, unit_rows
from edge_app.core.types import Float32s

FARS = (1e-2, 1e-3, 1e-4)
"""False-accept rates that are reported where enough impostors allow it."""
MIN_IMPOSTORS = 10
"""A rate is reported when a threshold at it would let at least so many impostor pairs pass in every split."""
SHOTS = (1, 2, 5)
FEW_IDENTITIES = 10
"""Below this many, a bootstrap over identities is known to be too narrow, and the report says so."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitScores:
    """What one model made of the held-out identities of one split."""

    identities: Ints
    """(H,) numbers of the held-out identities, ascending."""
    pairs: PairScores
    shots: tuple[NShot, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One figure of both models on the same held-out identities."""

    name: str
    before: Estimate
    after: Estimate
    gain: Estimate
    """After less before, paired; its interval is over identities."""

    @property
    def verdict(self) -> str:
        """Better or worse where the interval of the gain lies on one side of zero, else no difference shown."""
        if self.gain.above_zero:
            return "better"
        return "worse" if self.gain.below_zero else "no difference shown"


def score(embeddings: Float32s, identities: Ints) -> SplitScores:
    """Score (N, D) embeddings of any length by (N,) numbers of held-out identities."""
    rows = unit_rows(embeddings)
    return SplitScores(np.unique(identities), pair_scores(rows, identities), n_shot(rows, identities, SHOTS))


def separation(embeddings: Float32s, identities: Ints) -> float:
    """Return the chance that a genuine pair is nearer than an impostor pair (area under the ROC curve).

    Epochs and mixtures are chosen by it: on a few identities a rate at a threshold moves in jumps, this does not.
    NaN where there are no pairs of both kinds.
    """
    scores = pair_scores(unit_rows(embeddings), identities)
    genuine, impostor = np.sort(scores.genuine), scores.impostor
    if not len(genuine) or not len(impostor):
        return math.nan
    below = np.searchsorted(genuine, impostor, side="left") + np.searchsorted(genuine, impostor, side="right")
    return float(1 - below.mean() / 2 / len(genuine))


def judge(before: Sequence[SplitScores], after: Sequence[SplitScores]) -> tuple[Judgement, ...]:
    """Return every figure of both models, pooled over splits: the mean over splits, resampled by identity.

    An identity held out in several splits is one identity: all its appearances are drawn together.
    """
    if not before:
        return ()
    allowed = min(scores.pairs.impostor_pairs for scores in before)
    figures: list[tuple[str, Callable[[SplitScores], Statistic]]] = [
        (f"TAR at FAR {far:g}", _tar(far)) for far in FARS if far * allowed >= MIN_IMPOSTORS
    ]
    figures += [
        (f"{count}-shot accuracy", _shot(index))
        for index, count in enumerate(SHOTS)
        if all(len(scores.shots[index].hits) > 1 for scores in before)
    ]
    return tuple(_judgement(name, figure, before, after) for name, figure in figures)


def verdict(judgements: Sequence[Judgement]) -> str:
    """Return one sentence: better only where the strictest TAR says so with certainty and nothing got worse."""
    if not judgements:
        return "nothing could be judged: too few pictures are held out"
    strict = [judgement for judgement in judgements if judgement.name.startswith("TAR")][-1:] or [judgements[0]]
    worse = [judgement.name for judgement in judgements if judgement.verdict == "worse"]
    told = f"{strict[0].name}: {_signed(strict[0].gain)} points"
    if worse:
        return f"worse than its base in {', '.join(worse)} ({told}): keep the base"
    if strict[0].verdict == "better":
        return f"better than its base ({told})"
    return f"not shown to be better than its base ({told}): keep the base"


def table(judgements: Sequence[Judgement]) -> list[str]:
    """Return the figures as lines of text."""
    lines = [f"{'held-out identities':<20} {'before':>28} {'after':>28}   gain in points"]
    lines += [f"{j.name:<20} {j.before!s:>28} {j.after!s:>28}   {_signed(j.gain)}" for j in judgements]
    if warning := few_identities(judgements):
        lines.append(warning)
    return lines


def few_identities(judgements: Sequence[Judgement]) -> str:
    """A warning where too few identities were held out for the intervals to be believed, else nothing."""
    identities = max((judgement.gain.trials for judgement in judgements), default=0)
    if 0 < identities < FEW_IDENTITIES:
        return f"Only {identities} identities were held out: these intervals are too narrow. Try --splits."
    return ""


def judgements_of(figures: Mapping[str, Any]) -> tuple[Judgement, ...]:
    """What `plain` made data of; unknown values are NaN again."""

    def estimate(figure: Mapping[str, Any], side: str) -> Estimate:
        value, low, high = (math.nan if figure[side][k] is None else figure[side][k] for k in ("value", "low", "high"))
        return Estimate(value, low, high, figure["identities"])

    return tuple(
        Judgement(name, *(estimate(figure, side) for side in ("before", "after", "gain")))
        for name, figure in figures.items()
    )


def plain(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return the figures as data for JSON: value, low, high of before, after and gain by name; None where unknown."""
    return {
        judgement.name: {
            side: {name: _finite(getattr(estimate, name)) for name in ("value", "low", "high")}
            for side, estimate in (
                ("before", judgement.before),
                ("after", judgement.after),
                ("gain", judgement.gain),
            )
        }
        | {"identities": judgement.gain.trials, "verdict": judgement.verdict}
        for judgement in judgements
    }


def _finite(value: float) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _signed(gain: Estimate) -> str:
    return f"{100 * gain.value:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"


def _tar(far: float) -> Callable[[SplitScores], Statistic]:
    return lambda scores: lambda weights: scores.pairs.tar(far, weights)


def _shot(index: int) -> Callable[[SplitScores], Statistic]:
    def statistic(scores: SplitScores) -> Statistic:
        shot = scores.shots[index]
        share = weighted_share(shot.hits, shot.probes)
        # Identities with too few pictures took no part; every other one did, in order.
        took_part = np.flatnonzero(scores.pairs.sizes > shot.shots)
        return lambda weights: share(weights[took_part])

    return statistic


def _judgement(
    name: str,
    figure: Callable[[SplitScores], Statistic],
    before: Sequence[SplitScores],
    after: Sequence[SplitScores],
) -> Judgement:
    everyone = np.unique(np.concatenate([scores.identities for scores in before]))
    sides = [_pooled([figure(scores) for scores in side], side, everyone) for side in (before, after)]
    count = len(everyone)
    gain = bootstrap_gain(sides[0], sides[1], count)
    return Judgement(name, bootstrap(sides[0], count), bootstrap(sides[1], count), gain)


def _pooled(statistics: Sequence[Statistic], splits: Sequence[SplitScores], everyone: Ints) -> Statistic:
    """The mean over splits, each seeing the weights of its own held-out identities."""
    places = [np.searchsorted(everyone, scores.identities) for scores in splits]

    def mean(weights: Weights) -> float:
        values = [statistic(weights[place]) for statistic, place in zip(statistics, places, strict=True)]
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    return mean
