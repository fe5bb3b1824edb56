"""Compares an exported model with its origin on real inputs, before it gets its final name.

The origin may be another ONNX graph, a torch module or any other function of arrays: shipped models and exported
training runs pass the same gate. A refused candidate leaves the file that had its name untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from edge_app.inference import onnx_model
from edge_export.graph.card import attach_card, card_of, model_bytes, read_model, with_measurements_of, write_bytes
from edge_export.graph.session import Float32s, Function, as_function


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as agreement; every limit that is set must hold."""

    max_abs: float | None = None
    """Largest difference of any output number."""
    per_size: bool = False
    """`max_abs` is for numbers up to 1, and grows with the origin's largest where that is above."""
    min_cosine: float | None = None
    """Least cosine between corresponding rows of the first output."""
    mean_cosine: float | None = None
    """Least mean of these cosines."""
    same_decisions: bool = False
    """The largest entry of every row of the first output must be the same one."""


EXACT_EMBEDDING = Rule(min_cosine=0.99999)
"""A rewrite of an embedder in the same precision."""
EXPORTED_EMBEDDING = Rule(min_cosine=0.9999)
"""An embedder exported from torch."""
EXPORTED_LOGITS = Rule(max_abs=1e-4, per_size=True, same_decisions=True)
"""A classifier exported from torch. A discriminant head's logits go to 100 and more, and differ by 0.0015."""
QUANTIZED_EMBEDDING = Rule(mean_cosine=0.98, min_cosine=0.9)
"""An INT8 build that may share the embedding space of its float original."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far candidate and origin were apart, the worst over all inputs and batch sizes."""

    inputs: int
    """How many pictures were compared."""
    max_abs: float
    """Largest difference of any output number."""
    min_cosine: float
    """Least cosine between rows of the first output."""
    mean_cosine: float
    """Mean cosine between rows of the first output."""
    same_decisions: float
    """Share of rows of the first output whose largest entry is the same, [0, 1]."""

    def figures(self) -> dict[str, str]:
        """The figures as a card's provenance holds them."""
        return {
            "parity_inputs": str(self.inputs),
            "parity_max_abs": f"{self.max_abs:.1e}",
            "parity_min_cosine": f"{self.min_cosine:.7f}",
            "parity_mean_cosine": f"{self.mean_cosine:.7f}",
        }


def compare(origin: Function, candidate: Function, batches: Sequence[Float32s], rule: Rule, what: str) -> Parity:
    """Run both functions on real inputs, each batch whole and split into single pictures.

    `batches`: arrays (N, ...) float32, of which each may have its own height and width. Raises ModelError that names
    `what` when shapes differ, a number is not finite, or a limit of `rule` is broken.
    """
    if not any(len(batch) for batch in batches):
        raise ModelError(f"{what} was compared on no input", expected="at least one picture")
    rows: list[tuple[Float32s, Float32s]] = []
    max_abs, size = 0.0, 1.0
    for batch in batches:
        wanted = origin(batch)
        size = max([size, *(float(np.abs(array).max(initial=0.0)) for array in wanted)]) if rule.per_size else 1.0
        singles = [candidate(batch[i : i + 1]) for i in range(len(batch))]
        split = [np.concatenate(column) for column in zip(*singles, strict=True)]
        for found in (split, candidate(batch)) if len(batch) > 1 else (split,):
            max_abs = max(max_abs, _largest_difference(wanted, found, what))
            rows.append((_rows(wanted[0]), _rows(found[0])))
    cosines = np.concatenate([_cosines(a, b) for a, b in rows])
    same = np.concatenate([a.argmax(axis=1) == b.argmax(axis=1) for a, b in rows])
    parity = Parity(
        inputs=sum(len(batch) for batch in batches),
        max_abs=max_abs,
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        same_decisions=float(same.mean()),
    )
    _enforce(parity, rule, size, what)
    return parity


def _largest_difference(wanted: Sequence[Float32s], found: Sequence[Float32s], what: str) -> float:
    shapes = [array.shape for array in wanted], [array.shape for array in found]
    if shapes[0] != shapes[1]:
        raise ModelError(f"{what} returns the shapes {shapes[1]}", expected=f"{shapes[0]} as its origin does")
    if not all(np.isfinite(array).all() for array in found):
        raise ModelError(f"{what} returns numbers that are not finite", expected="finite numbers as its origin does")
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(wanted, found, strict=True))


def _rows(array: Float32s) -> Float32s:
    return array.reshape(len(array), -1)


def _cosines(a: Float32s, b: Float32s) -> NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosines: NDArray[np.float64] = (a64 * b64).sum(axis=1) / np.maximum(lengths, 1e-30)
    return cosines


def _enforce(parity: Parity, rule: Rule, size: float, what: str) -> None:
    limits = [
        ("largest difference", parity.max_abs, "at most", None if rule.max_abs is None else size * rule.max_abs),
        ("least cosine", parity.min_cosine, "at least", rule.min_cosine),
        ("mean cosine", parity.mean_cosine, "at least", rule.mean_cosine),
        ("share of equal decisions", parity.same_decisions, "at least", 1.0 if rule.same_decisions else None),
    ]
    for name, found, side, limit in limits:
        if limit is not None and not (found <= limit if side == "at most" else found >= limit):
            raise ModelError(
                f"{what} disagrees with its origin: {name} {found:.7g} over {parity.inputs} pictures",
                expected=f"{side} {limit:g}",
                remedy="nothing was written",
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph that is compared with its origin before it gets its name."""

    model: onnx.ModelProto
    card: ModelCard
    """What it claims to be; the parity figures are added to its provenance."""
    path: Path
    """Where it goes when it is let through."""


def admit(candidate: Candidate, origin: Function, batches: Sequence[Float32s], rule: Rule) -> Parity:
    """Compare a candidate with its origin, write it, and give it its final name when all agreed.

    `batches`: as for `compare`. Before the file gets its name it is opened as the laptop opens it, card against graph,
    and compared once more on one input: what was compared is what ships. Where the file under that name holds the
    same graph, its operating points and metrics are kept, unless the candidate brings its own. Raises ModelError, and
    leaves the folder as it was, when the candidate is refused.
    """
    parity = compare(origin, as_function(candidate.model), batches, rule, candidate.path.name)
    card = replace(candidate.card, provenance=dict(candidate.card.provenance) | parity.figures())
    model = attach_card(candidate.model, _with_old_measurements(candidate, card))

    def reopened(temporary: Path) -> None:
        compare(origin, onnx_model.load(temporary).run, [batches[0][:1]], rule, candidate.path.name)

    write_bytes(candidate.path, model_bytes(model), reopened)
    return parity


def _with_old_measurements(candidate: Candidate, card: ModelCard) -> ModelCard:
    """Thresholds belong to a graph: they survive a rebuild of the same graph, unless it brings newer ones."""
    if not candidate.path.exists() or card.operating_points or card.metrics:
        return card
    try:
        old = read_model(candidate.path)
        old_card = card_of(old, candidate.path.name)
    except ModelError:
        return card
    if old.graph.SerializeToString(deterministic=True) != candidate.model.graph.SerializeToString(deterministic=True):
        return card
    return with_measurements_of(card, old_card)
