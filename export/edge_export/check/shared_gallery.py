"""Whether two builds of an embedder may meet in one gallery.

A gallery belongs to a model's id, not to a build: templates that one precision made are matched with what another
makes of the camera, at the thresholds of whichever runs. A cosine between the two outputs does not say how well that
goes: how much cosine a build may lose depends on how far apart its space puts people. dlib's space lies within a narrow
cone (strangers at 0.7 to 0.9), where 0.98 would be ruin; and a space that is turned as a whole keeps every distance
of its own, and none to its original.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.pair_scores import label_numbers, pair_scores, unit_rows
from edge_app.core.types import Float32s

_BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Mixed:
    """Templates of one build against probes of the other, both ways round."""

    drop: float
    """What of the true-accept rate is lost against the first build on its own, at the stricter of both thresholds."""
    strangers: float
    """How many times the false-match rate asked for come through, at the looser of both thresholds."""
    mean_cosine: float
    """Between the two embeddings of a picture."""
    min_cosine: float

    def words(self) -> str:
        return (
            f"mixed with fp32 {100 * self.drop:.2f} points less and {self.strangers:.2f} times the false matches, "
            f"mean cosine {self.mean_cosine:.4f}"
        )


def mixed(before: Float32s, after: Float32s, labels: NDArray[np.intp], rate: float) -> Mixed:
    """Judge pairs of which either build made one half.

    `before`, `after` (M, D) of any length, of the same pictures; `labels` (M,) numbers of identities; `rate` a
    false-match rate that their impostor pairs can show.
    """
    ours, theirs = unit_rows(before), unit_rows(after)
    alone = pair_scores(ours, labels), pair_scores(theirs, labels)
    thresholds = [scores.threshold(rate) for scores in alone]
    accepted, strangers = _shares(ours, theirs, label_numbers(labels, len(ours)), max(thresholds), min(thresholds))
    cosines = np.einsum("nd,nd->n", ours, theirs, dtype=np.float64)
    return Mixed(
        float((alone[0].genuine >= thresholds[0]).mean()) - accepted,
        strangers / rate,
        float(cosines.mean()),
        float(cosines.min()),
    )


def _shares(
    ours: Float32s, theirs: Float32s, numbers: NDArray[np.int64], strict: float, loose: float
) -> tuple[float, float]:
    """Share of genuine pairs at or above `strict`, of impostor pairs at or above `loose`; no picture with itself."""
    accepted = genuine = passed = impostors = 0
    for start in range(0, len(ours), _BLOCK):
        similarities = ours[start : start + _BLOCK] @ theirs.T
        same = numbers[start : start + _BLOCK, None] == numbers
        other = ~same
        rows = np.arange(len(similarities))
        same[rows, start + rows] = False
        accepted += int((similarities[same] >= strict).sum())
        passed += int((similarities[other] >= loose).sum())
        genuine, impostors = genuine + int(same.sum()), impostors + int(other.sum())
    return accepted / max(genuine, 1), passed / max(impostors, 1)
