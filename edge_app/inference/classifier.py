"""Runs a picture classifier: cut pictures in, calibrated probabilities and class activation maps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.attributes import Attribute
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.hierarchy import Hierarchy
from edge_app.core.numeric import softmax
from edge_app.core.task import Task
from edge_app.core.types import Classification, ClassScore, Float32s, Heatmap, Pixels
from edge_app.inference.geometry import prepare, to_input
from edge_app.inference.onnx_model import Model

BATCH: Final = 8
"""Most pictures in one run: bounds memory; larger batches are no faster on a CPU."""

MAPS: Final = "class_maps"
"""Name of the graph's output with the class activation maps."""

TASKS: Final = (Task.CLASSIFICATION, Task.LIVENESS)


class Classifier:
    """Classifies cut pictures, with calibrated probabilities."""

    def __init__(self, model: Model, unsure_below: float | None = None) -> None:
        """`unsure_below` takes the place of the card's bar.

        Raises ModelError for a model of another task or of any input size, and UsageError for a bar outside [0, 1).
        """
        card = model.card
        if card.task not in TASKS or card.family != "logits":
            raise ModelError(
                f"{card.id} is a model for {card.task} with outputs of the kind {card.family}",
                expected="a classifier that gives logits",
            )
        if not card.input.width_px or not card.input.height_px:
            raise ModelError(f"the card of {card.id} gives no input size", expected="one fixed size for a classifier")
        if unsure_below is not None and not 0.0 <= unsure_below < 1.0:
            raise UsageError(f"the bar for sure answers is {unsure_below}", expected="a probability in [0, 1)")
        self.card = card
        self.unsure_below = card.unsure_below if unsure_below is None else unsure_below
        """Probability of the best label under which the answer is "not sure"."""
        self._model = model
        self._logits = "logits" if "logits" in card.outputs else card.outputs[0]

    @property
    def explains(self) -> bool:
        """Whether the graph has class activation maps."""
        return MAPS in self.card.outputs

    def classify(self, pictures: Sequence[Pixels]) -> list[Classification]:
        """Judge (H, W, 3) uint8 RGB pictures of any sizes; centre crops are taken here, faces are cut out before."""
        return [self.judge(row) for row in self.logits(self.inputs(pictures))]

    def inputs(self, pictures: Sequence[Pixels]) -> Float32s:
        """The network's input (N, 3, H, W) float32 for pictures of any sizes."""
        card = self.card
        if not pictures:
            return np.zeros((0, 3, card.input.height_px or 0, card.input.width_px or 0), np.float32)
        return to_input(np.stack([prepare(one, card.input, card.crop) for one in pictures]), card.input)

    def logits(self, inputs: Float32s) -> Float32s:
        """Run (N, 3, H, W) float32 inputs, a few at a time; N may be 0. Returns (N, C) before temperature."""
        parts = [
            self._model.run(inputs[start : start + BATCH], outputs=(self._logits,))[0]
            for start in range(0, len(inputs), BATCH)
        ]
        return self._checked(np.concatenate(parts) if parts else np.zeros((0, len(self.card.labels)), np.float32))

    def explain(
        self, pixels: Pixels, label: str | None = None, *, runner_up: bool = False
    ) -> tuple[Classification, Heatmap]:
        """Judge a picture and show where it sees `label`, by default the best one or the `runner_up`; both in one run.

        The map covers what the network saw of the picture. Raises UsageError for a label that the model does not
        know, or a model without maps.
        """
        if not self.explains:
            raise UsageError(
                f"{self.card.id} cannot show where it looks: its graph has no {MAPS}",
                expected="a convolutional classifier that `edge-app export` wrote",
            )
        if label is not None and label not in self.card.labels:
            raise UsageError(f"{self.card.id} knows no {label!r}", expected=f"one of {', '.join(self.card.labels)}")
        logits, maps = self._model.run(self.inputs([pixels]), outputs=(self._logits, MAPS))
        if maps.ndim != 4 or maps.shape[:2] != (1, len(self.card.labels)):
            raise ModelError(
                f"the maps of {self.card.id} have the shape {maps.shape}",
                expected=f"(1, {len(self.card.labels)}, h, w)",
                remedy="export it again",
            )
        classification = self.judge(self._checked(logits)[0])
        second = classification.scores[min(1, len(classification.scores) - 1)].label
        shown = label or (second if runner_up else classification.scores[0].label)
        return classification, Heatmap(shown, maps[0, self.card.labels.index(shown)])

    def judge(self, logits: Float32s) -> Classification:
        """Turn one picture's (C,) logits into calibrated probabilities and a verdict."""
        costs = np.array([self.card.costs.get(label, 1.0) for label in self.card.labels])
        chances = softmax(logits, self.card.temperature)
        return ranked(self.card.labels, chances, self.unsure_below, costs, self.card.hierarchy, self.card.attributes)

    def _checked(self, logits: Float32s) -> Float32s:
        count = len(self.card.labels)
        if logits.ndim != 2 or logits.shape[1] != count:
            raise ModelError(
                f"{self.card.id} gives outputs of the shape {logits.shape}",
                expected=f"(N, {count}), as its card has {count} labels",
                remedy="correct its card, or export it again",
            )
        if not np.isfinite(logits).all():
            raise ModelError(f"{self.card.id} gives numbers that are not finite", remedy="use another precision of it")
        return logits


def ranked(
    labels: Sequence[str],
    probabilities: NDArray[np.float64],
    unsure_below: float,
    costs: NDArray[np.float64] | None = None,
    hierarchy: Hierarchy | None = None,
    attributes: tuple[Attribute, ...] = (),
) -> Classification:
    """Labels and their probabilities, best first, sure when the best reaches the bar; ties in the card's order.

    With `costs` (C,) of missing each label the best is the one with the least expected cost, and the bar is for the
    probabilities weighted by them (Elkan 2001, The foundations of cost-sensitive learning). Where it misses the bar one
    of the `hierarchy`'s families may be told.
    """
    costs = np.ones(len(labels)) if costs is None else costs
    weighted = probabilities * costs
    order = np.argsort(-weighted, kind="stable")
    scores = tuple(ClassScore(labels[i], float(probabilities[i]), float(costs[i])) for i in order)
    share = float(weighted[order[0]] / max(float(weighted.sum()), 1e-12))
    # Without costs the probability itself is compared: the sum is 1 but for rounding.
    reached = share if np.ptp(costs) > 0 else scores[0].probability
    return Classification(scores, reached >= unsure_below, unsure_below, hierarchy, attributes)
