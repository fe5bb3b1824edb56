"""The task's own metric for any precision of a model, and how much of it a lower precision costs (paired bootstrap)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import Estimate, bootstrap_gain, weighted_share, wilson
from edge_app.accuracy.pair_scores import PairScores, pair_scores, tar_at_far, tar_gain, unit_rows
from edge_app.accuracy.people_folder import points_of
from edge_app.core.attributes import Attribute
from edge_app.core.errors import ModelError
from edge_app.core.hierarchy import Hierarchy
from edge_app.core.model_card import ModelCard, OperatingPoint
from edge_app.core.types import Float32s
from edge_export.check.not_sure_bar import (
    Answers,
    answers,
    at_bar,
    attributes_with_bar,
    family_answers,
    family_bar,
    unsure_below,
)

Labels = NDArray[np.intp]

_RATES: Final = (1e-3, 1e-2)
"""False-match rates that TAR is judged at: the lowest that rests on enough impostors."""
_ENOUGH_IMPOSTORS: Final = 10
"""Impostor pairs above the threshold that make a rate worth choosing."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one build is worth on held-out pictures."""

    metric: str
    """"accuracy", or "tar_at_fmr_0.01" with the rate that was chosen."""
    value: float
    """[0, 1]."""
    points: tuple[OperatingPoint, ...]
    """Of an embedder, for one template and for two; rates that the pairs cannot show are left out."""
    unsure_below: float
    """Of a classifier, at its temperature; 0 otherwise."""
    temperature: float
    """Of a classifier; 1 otherwise."""
    interval: Estimate
    """`value` with its 95 % interval: Wilson's for pictures, the bootstrap's over identities."""
    rests_on: str
    """On how much, in words."""
    answers: Answers | None = None
    """Of a classifier: what a bar does to pictures that did not set it."""
    hierarchy: Hierarchy | None = None
    """Of a classifier, with the bars that this build's own answers set; so are the attributes'."""
    families: Answers | None = None
    """The same as `answers` of its families, over the pictures without a sure label."""
    attributes: tuple[Attribute, ...] = ()

    @property
    def rate(self) -> float:
        """The false-match rate that the metric's name tells; embedders only."""
        return float(self.metric.rpartition("_")[2])

    @property
    def metrics(self) -> dict[str, float]:
        """As a card holds them."""
        told = {self.metric: self.value} | (self.answers.metrics() if self.answers else {})
        return told | ({"family_right": self.families.right / self.families.answered}
                       if self.families is not None and self.families.answered else {})  # fmt: skip


def score(card: ModelCard, outputs: Float32s, labels: Labels) -> Score:
    """Judge the first output of a build: logits (M, C), or embeddings (M, D) of any length.

    `labels` (M,): the class, or the number of the identity. Raises ModelError for a task without such a metric, for
    nothing to judge on, and where there are too few pairs for any rate.
    """
    if len(outputs) == 0:
        raise ModelError("there are no held-out pictures", expected="some", remedy="name a folder of them")
    if card.task.embeds:
        vectors = unit_rows(outputs)
        scores = pair_scores(vectors, labels)
        rate = _rate(scores)
        (measured,) = tar_at_far(scores, (rate,))
        told = f"{measured.genuine_pairs} genuine and {measured.impostor_pairs} impostor pairs of {len(scores.sizes)}"
        points = points_of(vectors, [str(label) for label in labels])
        return Score(
            f"tar_at_fmr_{rate:g}", measured.tar.value, points, 0.0, 1.0, measured.tar, f"{told} held-out identities"
        )
    if card.family == "logits":
        return _classifier_score(card, outputs, labels)
    raise ModelError(f"a model of the task {card.task} has no metric here", expected="a classifier or an embedder")


def drop(card: ModelCard, before: Float32s, after: Float32s, labels: Labels) -> Estimate:
    """How much of the metric a second build loses on the same pictures: before less after, paired.

    Arrays as for `score`. Positive is worse. Resampled: pictures for a classifier, identities for an embedder.
    """
    if card.task.embeds:
        scores = [pair_scores(unit_rows(rows), labels) for rows in (before, after)]
        return tar_gain(scores[1], scores[0], _rate(scores[0]))
    right = [(rows.argmax(axis=1) == labels).astype(np.float64) for rows in (before, after)]
    each = np.ones(len(labels))
    return bootstrap_gain(weighted_share(right[1], each), weighted_share(right[0], each), len(labels))


def matched_temperature(reference: Float32s, temperature: float, logits: Float32s) -> float:
    """The temperature that brings a second build's probabilities nearest to the first's calibrated ones.

    Both (M, C), of the same pictures. Nearest by Kullback-Leibler divergence. No label is looked at, so the held-out
    pictures stay held out. Between half and twice `temperature`.
    """
    from edge_models.classifier.analysis import probabilities  # with lightning: not needed to export an embedder

    wanted = probabilities(reference.astype(np.float64), temperature)
    grid = temperature * np.exp(np.linspace(np.log(0.5), np.log(2.0), 281))
    spent = [
        -float((wanted * np.log(np.maximum(probabilities(logits.astype(np.float64), t), 1e-30))).sum()) for t in grid
    ]
    return float(grid[int(np.argmin(spent))])


def _classifier_score(card: ModelCard, logits: Float32s, labels: Labels) -> Score:
    from edge_models.classifier.analysis import probabilities

    if logits.ndim != 2 or logits.shape[1] != len(card.labels):
        raise ModelError(f"found logits of shape {logits.shape}", expected=f"(M, {len(card.labels)}) as the card says")
    chances = probabilities(logits.astype(np.float64), card.temperature)
    right = wilson(int((logits.argmax(axis=1) == labels).sum()), len(labels))
    bar, judged = unsure_below(chances, labels), answers(chances, labels)
    tree, families, names = card.hierarchy, None, card.labels
    if tree is not None:
        families = family_answers(chances, labels, names, tree, bar)
        tree = at_bar(tree, family_bar(chances, labels, names, tree, bar))
    attributes = attributes_with_bar(chances, labels, names, card.attributes)
    return Score("accuracy", right.value, (), bar, card.temperature, right, f"{len(labels)} pictures", judged, tree,
                 families, attributes)  # fmt: skip


def _rate(scores: PairScores) -> float:
    """The lowest rate that ten impostors show; 1 % where there are fewer, down to a single one."""
    pairs = scores.impostor_pairs
    if len(scores.genuine) == 0 or max(_RATES) * pairs < 1:
        raise ModelError(
            f"found {len(scores.genuine)} genuine and {pairs} impostor pairs of held-out pictures",
            expected=f"some, and at least {round(1 / max(_RATES))}",
            remedy="give more identities, with two pictures or more",
        )
    return next((rate for rate in _RATES if rate * pairs >= _ENOUGH_IMPOSTORS), max(_RATES))
