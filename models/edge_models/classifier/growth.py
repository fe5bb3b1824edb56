"""Learning curve on the frozen base, and a forecast of what the next hundred pictures would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_models.classifier.analysis import Float32s, Labels
from edge_models.classifier.heads import logits_of, solve_head
from edge_models.data.folder import PictureFolder, Split, folds

_CURVE_SHARES: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
_CURVE_FOLDS: Final = 5
_CURVE_ROUNDS: Final = 2
_RESAMPLES: Final = 400
_MOST_PRODUCTS: Final = 1e9
"""Of the fits' matrices, summed over parts: about 10 s of one core. 60 classes of five are 1e8."""
_WITHIN: Final = (0.05, 0.95)
NEXT_PICTURES: Final = 100

Part = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Positions to learn from and positions to judge."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Accuracy after learning from so many pictures, and where 90 % of resamples lie."""

    pictures: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """A figure of the fitted curve, and where 90 % of resamples lie."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Accuracy against the number of training pictures, and where it is likely to go."""

    points: tuple[CurvePoint, ...]
    now: int
    """Pictures that the network at hand learned from."""
    more: int
    """Pictures that the forecast adds."""
    fitted: float
    """Accuracy with today's pictures, on the fitted curve: what the forecast is to be held against."""
    forecast: Forecast
    """Accuracy with `more` of them, on the same curve."""
    gain: Forecast
    """The forecast less `fitted`; its interval is paired, hence narrower than theirs."""
    judged: int
    """Pictures that the curve was judged on."""
    sentence: str


def curve_parts(folder: PictureFolder, split: Split, seed: int) -> list[Part]:
    """What each repeat of the curve learns from and is judged on.

    Two five-fold divisions of all pictures, so that the luck of one small validation part does not bend the curve.
    A folder that came divided keeps its division, for its parts may differ; so does one with too few pictures.
    """
    divided = any(picture.part for picture in folder.pictures)
    everything = range(len(folder.pictures))
    rounds = [] if divided else [folds(folder, everything, _CURVE_FOLDS, seed + n) for n in range(_CURVE_ROUNDS)]
    if rounds and all(len(one) == _CURVE_FOLDS for one in rounds):
        return [pair for one in rounds for pair in one]
    return [(np.array(split.fit, np.intp), np.array(split.validation, np.intp))] * (_CURVE_FOLDS * _CURVE_ROUNDS)


def growth(features: Tensor, targets: Tensor, parts: Sequence[Part], now: int, ridge: float, seed: int) -> Growth:
    """Learn from growing shares of each part (plain views, frozen base), judge on its other side, extend the curve.

    `features` (N, D), `targets` (N, C); `now` pictures are what the network at hand learned from. Forecast: error =
    a * n^-b through the points (power law, Hestness et al. 2017); intervals by resampling parts and pictures at once
    (Owen 2007, the pigeonhole bootstrap), for pictures of one part share what was learned.
    """
    rng = np.random.default_rng([seed, 7])
    parts = _affordable(parts, features.shape[1], targets.shape[1])
    most = min(len(learn) for learn, _ in parts)
    sizes = sorted({min(most, max(2 * targets.shape[1], round(share * most))) for share in _CURVE_SHARES})
    hits, seen = _answers(features, targets, parts, sizes, ridge, rng)
    judged = int(seen.any(axis=0).sum())
    whole = hits.sum(axis=(1, 2)) / seen.sum()
    draws = _resampled(hits, seen, rng)
    low, high = np.quantile(draws, _WITHIN, axis=0)
    points = tuple(
        CurvePoint(size, float(mean), float(a), float(b))
        for size, mean, a, b in zip(sizes, whole, low, high, strict=True)
    )

    def at(means: Float32s, pictures: int) -> float:
        return _extend(sizes, means, pictures, judged)

    wanted = now + NEXT_PICTURES
    ends = np.array([(at(draw, wanted), at(draw, wanted) - at(draw, now)) for draw in draws])
    (low_end, low_gain), (high_end, high_gain) = np.quantile(ends, _WITHIN, axis=0).tolist()
    forecast = Forecast(at(whole, wanted), low_end, high_end)
    gain = Forecast(at(whole, wanted) - at(whole, now), low_gain, high_gain)
    fitted = at(whole, now)
    return Growth(
        points, now, NEXT_PICTURES, fitted, forecast, gain, judged, _sentence(now, fitted, forecast, gain, judged)
    )


def _affordable(parts: Sequence[Part], width: int, classes: int) -> Sequence[Part]:
    """As many parts as the curve's price allows, two at least: each costs a fit with all of its pictures and less."""
    price = sum(_CURVE_SHARES) * max(len(learn) * min(len(learn), width) * classes for learn, _ in parts)
    return parts[: max(2, int(_MOST_PRODUCTS // max(1.0, price)))]


def _answers(
    features: Tensor,
    targets: Tensor,
    parts: Sequence[Part],
    sizes: Sequence[int],
    ridge: float,
    rng: np.random.Generator,
) -> tuple[Float32s, Float32s]:
    """(S, P, N) 1 where a picture was named rightly, and (P, N) 1 where it was judged at all."""
    labels = targets.argmax(1).numpy()
    seen = np.zeros((len(parts), len(labels)))
    hits = np.zeros((len(sizes), *seen.shape))
    for number, (learn, judge) in enumerate(parts):
        seen[number, judge] = 1
        order = _order(learn, labels, rng)
        for row, size in enumerate(sizes):
            drawn = order[:size]
            head = solve_head(features[drawn], targets[drawn], ridge)
            found = logits_of(head, features[torch.from_numpy(judge)]).argmax(axis=1)
            hits[row, number, judge] = found == labels[judge]
    return hits, seen


def _order(learn: Labels, labels: Labels, rng: np.random.Generator) -> Labels:
    """A random order whose every beginning is stratified: each class first once, then in its share."""
    order: list[tuple[float, int]] = []
    for label in np.unique(labels[learn]):
        own = rng.permutation(learn[labels[learn] == label])
        order += [((rank + 0.5) / len(own) if rank else -1.0, int(i)) for rank, i in enumerate(own)]
    return np.array([i for _, i in sorted(order)], np.intp)


def _resampled(hits: Float32s, seen: Float32s, rng: np.random.Generator) -> Float32s:
    """(R, S) accuracy at every size, parts and pictures drawn with replacement, independently of each other."""
    parts, judged = len(seen), seen.any(axis=0)
    rows = []
    for _ in range(_RESAMPLES):
        of_part = rng.multinomial(parts, np.full(parts, 1 / parts)).astype(float)
        of_picture = rng.multinomial(int(judged.sum()), judged / judged.sum()).astype(float)
        total = of_part @ seen @ of_picture
        if total:  # of very few pictures, those drawn may lie in no part that was
            rows.append(np.einsum("spn,p,n->s", hits, of_part, of_picture, optimize=True) / total)
    return np.stack(rows)


def _extend(sizes: Sequence[int], means: Float32s, wanted: int, judged: int) -> float:
    # No error at all cannot be put on a logarithm; half a picture is what so small a judgement could have missed.
    errors = np.log(np.maximum(1 - means, 0.5 / judged))
    if len(sizes) < 2:
        return float(1 - math.exp(errors.mean()))
    slope, start = np.polyfit(np.log(sizes), errors, 1)
    if slope > 0:  # more pictures do not hurt: what looks so is chance, and the best guess is a level line
        slope, start = 0.0, errors.mean()
    return float(1 - min(1.0, math.exp(start + slope * math.log(wanted))))


def _sentence(now: int, fitted: float, forecast: Forecast, gain: Forecast, judged: int) -> str:
    figures = (
        f"the fitted curve goes from {fitted:.1%} with {now} to {forecast.value:.1%} with {now + NEXT_PICTURES} "
        f"({forecast.low:.1%} to {forecast.high:.1%} in 90 % of resamples)"
    )
    if gain.value < 1 / judged:
        return (
            f"The next {NEXT_PICTURES} pictures would likely bring less than could be measured here: {figures}, and "
            f"one of the {judged} judged pictures is {1 / judged:.1%}. "
            "Look at the probable label errors and the worst mistakes first."
        )
    return (
        f"The next {NEXT_PICTURES} pictures would likely bring {100 * gain.value:+.1f} points "
        f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}): {figures}."
    )
