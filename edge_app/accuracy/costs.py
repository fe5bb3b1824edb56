"""What a classifier's costs buy on labelled pictures: how much of each label is found, and how often it cries wolf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import Estimate, clopper_pearson

Chances = NDArray[np.float64]
"""(N, C) calibrated probabilities."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A rule on labelled pictures."""

    found: Mapping[str, Estimate]
    """For each label that has pictures, how many of them are told as it."""
    alarms: Estimate
    """Normal pictures that are told as something else."""
    alarmed: Estimate
    """Pictures of the other labels that are told as anything but normal."""
    cost: float
    """Mean cost of a picture: what a missed label costs, 0 where it is right."""


def judge(
    chances: Chances,
    truth: NDArray[np.intp],
    labels: Sequence[str],
    costs: Mapping[str, float],
    normal: str,
    *,
    weigh: bool = True,
) -> Judged:
    """Tell each of (N, C) pictures as the label with the least expected cost, beside the `truth` (N,).

    The cost of a mistake is that of the label it misses; `normal` is the label whose loss is a false alarm. Without
    `weigh` the likeliest label is told, and its mistakes cost the same.
    """
    weights = np.array([costs.get(label, 1.0) for label in labels])
    told = (chances * weights if weigh else chances).argmax(axis=1)
    usual = labels.index(normal)
    found = {
        label: clopper_pearson(int(np.sum(told[truth == i] == i)), int(np.sum(truth == i)))
        for i, label in enumerate(labels)
        if np.any(truth == i)
    }
    is_usual = truth == usual
    return Judged(
        found,
        clopper_pearson(int(np.sum(told[is_usual] != usual)), int(is_usual.sum())),
        clopper_pearson(int(np.sum(told[~is_usual] != usual)), int((~is_usual).sum())),
        float(np.mean(np.where(told == truth, 0.0, weights[truth]))) if len(truth) else 0.0,
    )


def found_at(chances: Chances, truth: NDArray[np.intp], usual: int, rate: float) -> Estimate:
    """How many unusual pictures are found where at most `rate` of the usual ones raise an alarm.

    The alarm is the probability of anything but the usual label, and its bar the one that these pictures themselves
    give: a figure to compare networks by, not one to promise.
    """
    alarm = 1.0 - chances[:, usual]
    usual_ones, others = np.sort(alarm[truth == usual])[::-1], alarm[truth != usual]
    allowed = int(rate * len(usual_ones) + 1e-9)
    bar = usual_ones[allowed] if allowed < len(usual_ones) else -1.0
    return clopper_pearson(int(np.sum(others > bar)), len(others))
