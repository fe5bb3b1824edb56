"""How certain a measured figure is: Wilson's interval, the bootstrap over identities, paired differences."""

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
    """How many trials (Wilson), identities (bootstrap) or differences it rests on."""

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


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return a proportion with its exact interval (Clopper and Pearson 1934), as ISO/IEC 30107-3 wants of attacks.

    `trials` of 0 gives NaN with the interval [0, 1]. Raises ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"found {successes} successes in {trials} trials, expected 0 <= successes <= trials")
    if trials == 0:
        return Estimate(math.nan, 0.0, 1.0, 0)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _bisect(lambda p: 1 - _at_most(successes - 1, trials, p) < tail)
    high = 1.0 if successes == trials else _bisect(lambda p: _at_most(successes, trials, p) > tail)
    return Estimate(successes / trials, low, high, trials)


def _at_most(successes: int, trials: int, share: float) -> float:
    """Probability of so many successes or fewer."""
    logs = (
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(share) + (trials - k) * math.log1p(-share)
        for k in range(successes + 1)
    )  # fmt: skip
    return math.fsum(math.exp(one) for one in logs)


def _bisect(below: Callable[[float], bool]) -> float:
    """The share in (0, 1) up to which `below` holds."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


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


def paired(differences: NDArray[np.float64], largest: float = 1.0, confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean of (U,) paired differences of shares, with Bonett and Price's interval (2012).

    One difference per judged unit, in [-largest, largest]: 1 where only the one side was right, -1 where only the
    other was, 0 where both agreed. One unit that speaks for each side is added before the normal interval is taken,
    so that units which all agree are not taken for proof that all others would. Units must be independent.
    """
    if not len(differences):
        return Estimate(math.nan, -largest, largest, 0)
    padded = np.concatenate([differences, [largest, -largest]])
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(float(padded.var()) / len(padded))
    middle, value = float(padded.mean()), float(differences.mean())
    # The middle is drawn towards 0; of a handful of units that all differ, so far that it would leave the mean out.
    low, high = min(value, max(-largest, middle - half)), max(value, min(largest, middle + half))
    return Estimate(value, low, high, len(differences))


def over_repeats(differences: NDArray[np.float64], confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean of (S,) differences, one per repetition, with Student's interval.

    Two or more repetitions, which should not share what they are judged by. Raises ValueError for fewer.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"found {count} repetitions, expected 2 or more")
    angle = _bisect(lambda share: _student(share * math.pi / 2, count - 1) < confidence) * math.pi / 2
    half = math.tan(angle) * math.sqrt(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    mean = float(differences.mean())
    return Estimate(mean, mean - half, mean + half, count)


def _student(angle: float, freedom: int) -> float:
    """Probability that |t| <= tan(angle) * sqrt(freedom), for 0 <= angle < pi/2 (Abramowitz and Stegun 26.7.3, 26.7.4).

    By hand, for the laptop has no scipy.
    """
    cosine, odd = math.cos(angle), freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


def wider(first: Estimate, second: Estimate) -> Estimate:
    """Return `first` with an interval that holds both: what neither way of counting would contradict."""
    return Estimate(first.value, min(first.low, second.low), max(first.high, second.high), first.trials)
