"""Figures of a trained classifier from its logits and labels: intervals, calibration, probable label errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_app.accuracy.intervals import Estimate, wilson
from edge_app.core.numeric import softmax
from edge_models.classifier.recipe import logits_of, solve_head
from edge_models.data.folder import PictureFolder, folds

Float32s = NDArray[np.float64]
Labels = NDArray[np.intp]

CALIBRATION_BINS: Final = 10


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of one class, on the validation part."""

    name: str
    pictures: int
    precision: Estimate
    recall: Estimate


@dataclass(frozen=True, slots=True)
class Suspect:
    """A picture whose label is probably wrong."""

    index: int
    given: str
    suggested: str
    probability: float
    """Of the given label, by a head that never saw the picture."""


def probabilities(logits: Float32s, temperature: float = 1.0) -> Float32s:
    """softmax(logits / temperature), (N, C)."""
    return np.asarray(softmax(logits, temperature), np.float32)


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


def calibration(chances: Float32s, labels: Labels) -> tuple[list[dict[str, float]], float]:
    """Reliability bins {confidence, accuracy, low, high, count} and the expected calibration error (Guo et al. 2017).

    `low` and `high` are Wilson's interval of the bin's accuracy.
    """
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    bins: list[dict[str, float]] = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        share = wilson(int(right[inside].sum()), int(inside.sum()))
        told = {"accuracy": share.value, "low": share.low, "high": share.high, "count": float(share.trials)}
        bins.append({"confidence": float(confidence[inside].mean())} | told)
    error = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(labels)
    return bins, float(error)


def out_of_fold(folder: PictureFolder, features: Tensor, targets: Tensor, ridge: float, seed: int) -> Float32s | None:
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


def label_suspects(folder: PictureFolder, chances: Float32s) -> tuple[Suspect, ...]:
    """Probable label errors, the most probable first (confident learning, Northcutt et al. 2021, by cleanlab)."""
    from cleanlab.filter import find_label_issues

    labels = folder.labels
    order = find_label_issues(labels, chances, return_indices_ranked_by="self_confidence", n_jobs=1)
    return tuple(
        Suspect(
            int(i), folder.classes[labels[i]], folder.classes[int(chances[i].argmax())], float(chances[i, labels[i]])
        )
        for i in order
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
