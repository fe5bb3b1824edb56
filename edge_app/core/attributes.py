"""Attributes of classes that a user states, such as stripes of tigers and zebras: told where no class is sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edge_app.core.documents import check_fields
from edge_app.core.errors import ModelError
from edge_app.core.titles import check_title

MOST_ATTRIBUTES: Final = 1000


@dataclass(frozen=True, slots=True)
class Attribute:
    """What some labels have and others lack."""

    name: str
    labels: tuple[str, ...]
    """Those that have it."""
    sure_from: float = 0.95
    """Summed probability of its labels from which it is told, [0.5, 1]."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        check_title(self.name, "an attribute")
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ModelError(f"the attribute {self.name!r} has {len(self.labels)} labels", expected="some, each once")
        if not 0.5 <= self.sure_from <= 1.0:
            raise ModelError(f"the attribute {self.name!r} is sure from {self.sure_from}", expected="0.5 to 1")

    def probability(self, probabilities: Mapping[str, float]) -> float:
        """Of having it, from the probabilities of the labels."""
        return min(1.0, sum(probabilities.get(label, 0.0) for label in self.labels))


def check_attributes(attributes: tuple[Attribute, ...], labels: tuple[str, ...]) -> None:
    """Raise ModelError unless each attribute stands once and has labels that there are."""
    if len(attributes) > MOST_ATTRIBUTES or len({one.name for one in attributes}) != len(attributes):
        raise ModelError(f"found {len(attributes)} attributes", expected=f"each once, at most {MOST_ATTRIBUTES}")
    known = set(labels)
    for one in attributes:
        if wrong := [label for label in one.labels if label not in known]:
            raise ModelError(
                f"the attribute {one.name!r} has the label {wrong[0][:80]!r}", expected="labels of the card"
            )
