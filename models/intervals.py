"""Hides how certain a measured figure is: Wilson's interval and the bootstrap over identities.

Flows in: counts, or a statistic of weighted identities. Flows out: an `Estimate` with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Coverage of every interval unless told otherwise."""

Weights = NDArray[np.float64]
Statistic = Callable[[Weights], float]
"""A figure computed from (U,) weights, one per identity; all ones is the plain figure."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured figure and the interval it is trusted to lie in."""

    value: float
    """The figure itself; NaN where nothing could be measured."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    trials: int
    """How many trials (Wilson) or identities (bootstrap) it rests on."""

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval lies above zero: the only ground for calling a gain a gain."""
        return self.low > 0.0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0.0

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} % ({100 * self.low:.2f} to {100 * self.high:.2f})"


def wilson(successes: float, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return a proportion with Wilson's score interval (Wilson 1927).

    `trials` of 0 gives NaN with the interval [0, 1]. Raises ValueError unless 0 <= successes <= trials.
    Trials must be independent: for many pictures of few people use `bootstrap`.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"found {successes} successes in {trials} trials, expected 0 <= successes <= trials")
    if trials == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Estimate(share, low, high, trials)


def bootstrap(
    statistic: Statistic, identities: int, *, rounds: int = 1000, seed: int = 0, confidence: float = CONFIDENCE
) -> Estimate:
    """Return a figure with its percentile interval over resampled identities (Efron 1979).

    Identities, not pictures, are drawn with replacement: pictures of one person are not independent.
    Resamples in which the statistic is NaN (nothing to compare) are left out. With fewer than about
    ten identities the interval is known to be too narrow; read it with that in mind.
    """
    if identities == 0:
        return Estimate(math.nan, -math.inf, math.inf, 0)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(identities, np.full(identities, 1.0 / identities), size=rounds)
    values = np.array([statistic(draw.astype(np.float64)) for draw in draws])
    values = values[~np.isnan(values)]
    value = statistic(np.ones(identities))
    if values.size == 0:
        return Estimate(value, -math.inf, math.inf, identities)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), identities)


def bootstrap_gain(
    before: Statistic, after: Statistic, identities: int, *, rounds: int = 1000, seed: int = 0
) -> Estimate:
    """Return after less before with the interval of the paired bootstrap: both sides see the same resamples."""
    return bootstrap(lambda weights: after(weights) - before(weights), identities, rounds=rounds, seed=seed)


def weighted_share(hits: NDArray[np.float64], trials: NDArray[np.float64]) -> Statistic:
    """Return the statistic "hits per trial" for (U,) hits and (U,) trials of each identity."""

    def share(weights: Weights) -> float:
        total = float(weights @ trials)
        return float(weights @ hits) / total if total else math.nan

    return share
