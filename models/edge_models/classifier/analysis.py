"""Figures of a trained classifier from its logits and labels: intervals, calibration, probable label errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_app.accuracy.intervals import Estimate, wilson
from edge_app.core.numeric import softmax
from edge_models.classifier.heads import logits_of, solve_head
from edge_models.data.folder import PictureFolder, folds

Float32s = NDArray[np.float64]
Labels = NDArray[np.intp]

CALIBRATION_BINS: Final = 10
FEW_JUDGED: Final = 5
"""Of fewer pictures even all right ones leave the share of a class below half (Wilson's interval of 4 of 4: 51 %)."""
FEW_LEARNED: Final = 5
MAJORITY: Final = 0.7
"""Share of one class from which on plain accuracy says little."""


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


def balanced_accuracy(table: NDArray[np.int64]) -> Estimate:
    """Mean over classes of the share that was named rightly, with a 95 % interval, from a confusion table.

    Classes that are not judged are left out. The interval adds the classes' variances, each share drawn half a picture
    towards the middle at both ends (Agresti and Coull 1998), so that two pictures out of two do not look certain.
    """
    counts = table.sum(axis=1)
    judged = counts > 0
    right, counts = table.diagonal()[judged], counts[judged]
    value = float((right / counts).mean())
    drawn = (right + 2) / (counts + 4)
    half = 1.96 * math.sqrt(float((drawn * (1 - drawn) / (counts + 4)).sum())) / len(counts)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), int(counts.sum()))


def warnings_of(table: NDArray[np.int64], names: Sequence[str], learned: NDArray[np.intp]) -> list[str]:
    """What a reader of the figures must know first: classes hardly judged, a class that alone makes the accuracy.

    `learned` (C,) pictures of each class that were learned from.
    """
    counts = table.sum(axis=1)
    total = int(counts.sum())
    told = []
    few = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < FEW_JUDGED]
    if few:
        told.append(
            f"{'This class is' if len(few) == 1 else 'These classes are'} judged by fewer than {FEW_JUDGED} pictures, "
            f"too few to say how well {'it is' if len(few) == 1 else 'they are'} known: {_listed(few)}."
        )
    largest = int(counts.argmax())
    share = int(counts[largest]) / max(1, total)
    right = int(table.diagonal().sum()) / max(1, total)
    if share >= MAJORITY:
        balanced = balanced_accuracy(table).value
        told.append(
            f"{share:.0%} of the judged pictures are {names[largest]}: naming every picture so scores {share:.1%}, the "
            f"network {right:.1%}. Look at balanced accuracy, {balanced:.1%}, where guessing scores "
            f"{1 / int((counts > 0).sum()):.1%}."
        )
    poor = [f"{name} ({count})" for name, count in zip(names, learned, strict=True) if count < FEW_LEARNED]
    if poor:
        told.append(f"Learned from fewer than {FEW_LEARNED} pictures: {_listed(poor)}. More of them help most.")
    return told


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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


def plain_estimate(estimate: Estimate) -> dict[str, float | int | None]:
    """An estimate for JSON: NaN becomes null."""
    value = None if math.isnan(estimate.value) else estimate.value
    return {"value": value, "low": estimate.low, "high": estimate.high, "trials": estimate.trials}
