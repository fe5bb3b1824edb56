"""What a report says about a trained classifier, as plain values.

Hides the statistics: intervals, calibration, the curve over the number of pictures, probable label errors. Flows in:
logits, labels and cached features. Flows out: frozen values that are ready for JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data import PictureFolder, folds
from models.intervals import Estimate, wilson
from models.recipe import logits_of, solve_head

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]

CALIBRATION_BINS: Final = 10
_CURVE_SHARES: Final = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
_CURVE_REPEATS: Final = 8
NEXT_PICTURES: Final = 100


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of one class, on the validation part."""

    name: str
    pictures: int
    precision: Estimate
    recall: Estimate


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Accuracy after learning from so many pictures."""

    pictures: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Accuracy against the number of training pictures, and where it is likely to go."""

    points: tuple[CurvePoint, ...]
    more: int
    """Pictures that the forecast adds."""
    forecast: float
    """Accuracy with them, on the fitted curve."""
    fitted: float
    """Accuracy with today's pictures, on the same curve: what the forecast is to be held against."""
    low: float
    high: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """A picture whose label is probably wrong."""

    index: int
    given: str
    suggested: str
    probability: float
    """Of the given label, by a head that never saw the picture."""


def probabilities(logits: Floats, temperature: float = 1.0) -> Floats:
    """softmax(logits / temperature), (N, C)."""
    scaled = logits / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Floats = scaled / scaled.sum(axis=1, keepdims=True)
    return result


def accuracy(predicted: Labels, labels: Labels) -> Estimate:
    """Share of right answers with Wilson's interval."""
    return wilson(int((predicted == labels).sum()), len(labels))


def confusion(predicted: Labels, labels: Labels, classes: int) -> NDArray[np.int64]:
    """(C, C) counts: rows are true classes, columns predicted ones."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def class_figures(table: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Precision and recall of every class with Wilson intervals, from a confusion table."""
    return tuple(
        ClassFigures(
            name,
            int(table[i].sum()),
            wilson(int(table[i, i]), int(table[:, i].sum())),
            wilson(int(table[i, i]), int(table[i].sum())),
        )
        for i, name in enumerate(names)
    )


def calibration(chances: Floats, labels: Labels) -> tuple[list[dict[str, float]], float]:
    """Reliability bins {confidence, accuracy, count} and the expected calibration error (Guo et al. 2017)."""
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins: list[dict[str, float]] = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        means = {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
        bins.append(means | {"count": float(inside.sum())})
    error = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(labels)
    return bins, float(error)


def growth(
    features: Tensor, targets: Tensor, fit: Sequence[int], judged: Sequence[int], ridge: float, seed: int
) -> Growth:
    """Learn from growing parts of `fit` (plain views, frozen base), judge on `judged`, and extend the curve.

    Forecast: error = a * n^-b through the points (power law, Hestness et al. 2017), its interval from refitting to
    resampled repeats.
    """
    rng = np.random.default_rng([seed, 7])
    labels = targets.argmax(1).numpy()
    sizes = sorted({min(len(fit), max(2 * targets.shape[1], round(share * len(fit)))) for share in _CURVE_SHARES})

    def once(size: int) -> float:
        learn = _draw(fit, labels, size, rng)
        head = solve_head(features[learn], targets[learn], ridge)
        found = logits_of(head, features[list(judged)]).argmax(axis=1)
        return float((found == labels[list(judged)]).mean())

    # All pictures can be drawn in one way only.
    rows = [[once(size) for _ in range(_CURVE_REPEATS if size < len(fit) else 1)] for size in sizes]
    scores = np.array([row * (_CURVE_REPEATS // len(row)) for row in rows])
    points = tuple(
        CurvePoint(size, float(row.mean()), float(np.quantile(row, 0.05)), float(np.quantile(row, 0.95)))
        for size, row in zip(sizes, scores, strict=True)
    )
    wanted = len(fit) + NEXT_PICTURES
    draws = [scores[:, rng.integers(0, _CURVE_REPEATS, _CURVE_REPEATS)].mean(axis=1) for _ in range(200)]
    low, high = (float(q) for q in np.quantile([_extend(sizes, d, wanted, len(judged)) for d in draws], [0.05, 0.95]))
    middle, fitted = (_extend(sizes, scores.mean(axis=1), count, len(judged)) for count in (wanted, len(fit)))
    sentence = _growth_sentence(len(fit), fitted, middle, (low, high), len(judged))
    return Growth(points, NEXT_PICTURES, middle, fitted, low, high, sentence)


def _draw(fit: Sequence[int], labels: Labels, size: int, rng: np.random.Generator) -> list[int]:
    """A stratified draw: every class keeps its share, and at least one picture."""
    at = rng.permutation(np.asarray(fit))
    if size >= len(at):
        return [int(i) for i in at]
    order: list[tuple[float, int]] = []
    for label in np.unique(labels[at]):
        own = at[labels[at] == label]
        order += [((rank + 0.5) / len(own) if rank else -1.0, int(i)) for rank, i in enumerate(own)]
    return [i for _, i in sorted(order)[:size]]


def _extend(sizes: Sequence[int], means: Floats, wanted: int, judged: int) -> float:
    # No error at all cannot be put on a logarithm; half a picture is what so small a judgement could have missed.
    errors = np.log(np.maximum(1 - means, 0.5 / judged))
    slope, start = np.polyfit(np.log(sizes), errors, 1)
    if slope > 0:  # more pictures do not hurt: what looks so is chance, and the best guess is a level line
        slope, start = 0.0, errors.mean()
    return float(1 - min(1.0, math.exp(start + slope * math.log(wanted))))


def _growth_sentence(now: int, fitted: float, forecast: float, within: tuple[float, float], judged: int) -> str:
    low, high = within
    figures = (
        f"the fitted curve goes from {fitted:.1%} with {now} to {forecast:.1%} with {now + NEXT_PICTURES} "
        f"(90 % of resamples: {low:.1%} to {high:.1%}), and one of the {judged} judged pictures is {1 / judged:.1%}"
    )
    if forecast - fitted < 1 / judged:
        return (
            f"The next {NEXT_PICTURES} pictures would likely bring less than could be measured here: {figures}. "
            "Look at the probable label errors and the worst mistakes first."
        )
    return f"The next {NEXT_PICTURES} pictures would likely bring {forecast - fitted:+.1%}: {figures}."


def out_of_fold(folder: PictureFolder, features: Tensor, targets: Tensor, ridge: float, seed: int) -> Floats | None:
    """(N, C) probabilities of every picture by heads that never saw it nor its near-duplicates; None when too few."""
    everything = list(range(len(folder.pictures)))
    parts = folds(folder, everything, 5, seed)
    if not parts:
        return None
    chances = np.zeros((len(everything), len(folder.classes)))
    for learn, judge in parts:
        head = solve_head(features[torch.from_numpy(learn)], targets[torch.from_numpy(learn)], ridge)
        chances[judge] = probabilities(logits_of(head, features[torch.from_numpy(judge)]))
    return chances


def label_suspects(folder: PictureFolder, chances: Floats, limit: int = 12) -> tuple[Suspect, ...]:
    """Probable label errors, the most probable first (confident learning, Northcutt et al. 2021, by cleanlab)."""
    from cleanlab.filter import find_label_issues

    labels = folder.labels
    order = find_label_issues(labels, chances, return_indices_ranked_by="self_confidence", n_jobs=1)
    return tuple(
        Suspect(
            int(i), folder.classes[labels[i]], folder.classes[int(chances[i].argmax())], float(chances[i, labels[i]])
        )
        for i in order[:limit]
    )


def group_figures(groups: Sequence[str], predicted: Labels, labels: Labels) -> dict[str, dict[str, Any]]:
    """Accuracy with interval of every group that a CSV gives; pictures without one are left out."""
    names = np.array(groups)
    return {
        name: {"accuracy": plain_estimate(accuracy(predicted[names == name], labels[names == name]))}
        for name in sorted(set(groups) - {""})
    }


def plain_estimate(estimate: Estimate) -> dict[str, float | int | None]:
    """An estimate for JSON: NaN becomes null."""
    value = None if math.isnan(estimate.value) else estimate.value
    return {"value": value, "low": estimate.low, "high": estimate.high, "trials": estimate.trials}
