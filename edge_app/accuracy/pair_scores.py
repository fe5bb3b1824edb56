"""Thresholds at false-match rates, and true accepts at them, from all pairs of a labelled set of embeddings.

One rule everywhere: two pictures match when their similarity is at or above the threshold. A threshold for a rate is
the lowest at which no more than that share of the impostors measured here match.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_app.accuracy.intervals import Estimate, Weights, bootstrap, bootstrap_gain, wilson
from edge_app.core.cohort import Cohort
from edge_app.core.errors import EdgeError, ModelError
from edge_app.core.model_card import OperatingPoint
from edge_app.core.types import Float32s, Pixels

FMRS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""False-match rates that a card lists."""
BLOCK_PAIRS = 1_000_000
"""Entries of the similarity matrix that exist at one time: 20 MB with their positions."""
KEEP_ALL_PAIRS = 1_000_000
"""Up to so many impostor pairs, all are kept; beyond, only the largest, which thresholds rest on."""

Ints = NDArray[np.int64]


def in_batches(function: Callable[[Pixels], Float32s], images: Pixels, batch: int = 32) -> Float32s:
    """Return the rows (N, K) float32 of any `images -> rows` function over (N, H, W, 3) uint8 images.

    Raises ModelError when the function returns another number of rows than it got images.
    """
    rows: list[Float32s] = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        out = np.asarray(function(part), dtype=np.float32)
        if out.ndim != 2 or len(out) != len(part):
            raise ModelError(f"the model gave shape {out.shape} for {len(part)} images", expected="one row each")
        rows.append(out)
    return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


def unit_rows(embeddings: ArrayLike) -> Float32s:
    """Return (N, D) rows scaled to unit length, float32.

    Raises ModelError naming the first row that is zero or not finite.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise ModelError(f"found embeddings of shape {rows.shape}", expected="(N, D)")
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths < 1e-12))
    if bad.size:
        raise ModelError(f"embedding {bad[0]} has length {lengths[bad[0]]}", expected="a finite vector, not zero")
    return np.asarray(rows / lengths[:, None], dtype=np.float32)


def label_numbers(labels: Sequence[Any] | NDArray[Any], count: int) -> Ints:
    """Return labels of any kind as (N,) numbers 0..I-1 in sorted order. Raises ModelError unless N == count."""
    numbers = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1) if len(labels) else np.empty(0)
    if len(numbers) != count:
        raise ModelError(f"found {len(numbers)} labels for {count} embeddings", expected="one label each")
    return numbers.astype(np.int64)


def accuracy(logits: ArrayLike, labels: ArrayLike) -> Estimate:
    """Return the share of rows (N, C) whose largest entry is the label's (N,), with Wilson's interval."""
    scores, truth = np.asarray(logits), np.asarray(labels)
    if len(scores) != len(truth):
        raise ModelError(f"found {len(truth)} labels for {len(scores)} rows", expected="one label each")
    return wilson(int((scores.argmax(axis=1) == truth).sum()) if len(truth) else 0, len(truth))


def confusion(predicted: ArrayLike, truth: ArrayLike, classes: int) -> Ints:
    """Return (classes, classes) counts: row is the truth, column the prediction."""
    flat = np.asarray(truth, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, slots=True, eq=False)
class Histograms:
    """Counts of similarities over all unordered pairs."""

    edges: NDArray[np.float64]
    """(bins + 1,) from -1 to 1; the first and last bin also hold what rounding pushed past them."""
    genuine: Ints
    """(bins,) pairs of one identity."""
    impostor: Ints
    """(bins,) pairs of two identities."""


@dataclass(frozen=True, slots=True, eq=False)
class PairScores:
    """Similarities of all pairs of a labelled set, as far as thresholds and rates rest on them."""

    genuine: Float32s
    """(G,) similarities within an identity."""
    genuine_owner: Ints
    """(G,) that identity's number."""
    impostor: Float32s
    """(K,) the largest similarities between two identities, descending."""
    impostor_owners: Ints
    """(K, 2) the numbers of the two."""
    sizes: Ints
    """(I,) pictures of each identity."""

    @property
    def impostor_pairs(self) -> int:
        """How many impostor pairs there are, kept or not."""
        return _pairs_between(self.sizes.astype(np.float64))

    def threshold(self, far: float, weights: Weights | None = None) -> float:
        """Return the lowest threshold that at most a share `far` of impostor pairs reach.

        `weights` (I,) repeats identities for the bootstrap; copies of one identity are no impostors
        of each other. NaN where there are no impostors.
        """
        weights = np.ones(len(self.sizes)) if weights is None else weights
        pairs = _pairs_between(weights * self.sizes)
        if pairs == 0:
            return math.nan
        allowed = math.floor(far * pairs + 1e-9)
        # Nearly always a few times the allowed number decides; a resample rich in look-alikes needs more.
        for look_at in (4 * allowed + 1000, len(self.impostor)):
            owners = self.impostor_owners[:look_at]
            reached = np.cumsum(weights[owners[:, 0]] * weights[owners[:, 1]])
            if reached[-1] > allowed:
                break
        first_refused = min(int(np.searchsorted(reached, allowed, side="right")), len(reached) - 1)
        return just_above(self.impostor[first_refused])

    def tar(self, far: float, weights: Weights | None = None) -> float:
        """Return the share of genuine pairs at or above `threshold(far)`; NaN where there is nothing to compare."""
        weights = np.ones(len(self.sizes)) if weights is None else weights
        threshold = self.threshold(far, weights)
        each = weights[self.genuine_owner]
        total = float(each.sum())
        return float(each @ (self.genuine >= threshold)) / total if total and not math.isnan(threshold) else math.nan


@dataclass(frozen=True, slots=True)
class TarAtFar:
    """True-accept rate at a false-accept rate."""

    far: float
    tar: Estimate
    """Its interval is the bootstrap's over identities, the threshold chosen anew in each resample."""
    threshold: float
    genuine_pairs: int
    impostor_pairs: int


def pair_scores(
    embeddings: Float32s, labels: Sequence[Any] | NDArray[Any], max_far: float = 1e-2, cohort: Cohort | None = None
) -> PairScores:
    """Return the scores of all pairs of (N, D) unit rows, in blocks: the N x N matrix never exists.

    All genuine pairs are kept; of the impostors all up to a million pairs, else the largest
    4 * max_far of them, so that a resample's threshold at `max_far` still lies among those kept.
    """
    numbers = label_numbers(labels, len(embeddings))
    sizes = np.bincount(numbers) if len(numbers) else np.empty(0, np.int64)
    pairs = _pairs_between(sizes.astype(np.float64))
    largest = _Largest(pairs if pairs <= KEEP_ALL_PAIRS else max(KEEP_ALL_PAIRS, math.ceil(4 * max_far * pairs)))
    genuine: list[Float32s] = []
    owners: list[Ints] = []
    for similarities, rows, columns in _upper_blocks(embeddings, excess_of(cohort, embeddings)):
        same = numbers[rows] == numbers[columns]
        genuine.append(similarities[same])
        owners.append(numbers[rows[same]])
        largest.add(similarities[~same], np.stack([numbers[rows[~same]], numbers[columns[~same]]], axis=1))
    values, pairs_of = largest.descending()
    empty = [np.empty(0, np.int64)]
    return PairScores(
        np.concatenate([*genuine, np.empty(0, np.float32)]), np.concatenate(owners + empty), values, pairs_of, sizes
    )


def histograms(
    embeddings: Float32s, labels: Sequence[Any] | NDArray[Any], bins: int = 400, cohort: Cohort | None = None
) -> Histograms:
    """Return how the similarities of all unordered pairs of (N, D) unit rows spread, in blocks."""
    numbers = label_numbers(labels, len(embeddings))
    counts = np.zeros((2, bins), np.int64)
    for similarities, rows, columns in _upper_blocks(embeddings, excess_of(cohort, embeddings)):
        bin_of = np.clip(((similarities + 1) * (bins / 2)).astype(np.int64), 0, bins - 1)
        impostor = (numbers[rows] != numbers[columns]).astype(np.int64)
        counts += np.bincount(impostor * bins + bin_of, minlength=2 * bins).reshape(2, bins)
    return Histograms(np.linspace(-1, 1, bins + 1), counts[0], counts[1])


def tar_at_far(scores: PairScores, fars: Sequence[float], *, rounds: int = 300, seed: int = 0) -> tuple[TarAtFar, ...]:
    """Return the true-accept rate at each false-accept rate, with intervals over identities.

    A rate below one impostor pair in all cannot be measured and is left out.
    """
    impostors = scores.impostor_pairs
    return tuple(
        TarAtFar(
            far,
            bootstrap(partial(scores.tar, far), len(scores.sizes), rounds=rounds, seed=seed),
            scores.threshold(far),
            len(scores.genuine),
            impostors,
        )
        for far in fars
        if far * impostors >= 1
    )


def tar_gain(before: PairScores, after: PairScores, far: float, *, rounds: int = 300, seed: int = 0) -> Estimate:
    """Return how much the true-accept rate at `far` rose from one model to another on the same pictures (paired)."""
    if not np.array_equal(before.sizes, after.sizes):
        raise ModelError("the two models were scored on different pictures", expected="the same pictures, paired")
    identities = len(before.sizes)
    return bootstrap_gain(partial(before.tar, far), partial(after.tar, far), identities, rounds=rounds, seed=seed)


def operating_points(
    embeddings: Float32s,
    labels: Sequence[Any] | NDArray[Any],
    fmrs: Sequence[float] = FMRS,
    templates: int = 1,
    cohort: Cohort | None = None,
) -> tuple[OperatingPoint, ...]:
    """Return the exact threshold at each false-match rate over (N, D) unit rows with (N,) identity labels.

    `templates=1`: all unordered pairs of pictures of two identities, N(N-1)/2 less the genuine ones.
    `templates=2`: every picture against the normalized mean of the first two pictures (in the order
    given) of every other identity that has at least two: sum over those identities of N - n_i.
    At a threshold at most floor(fmr * pairs) impostors match; ties are all refused. A rate that would
    rest on less than one impostor (fmr * pairs < 1) is left out. With a cohort the similarities are less both sides'
    excess. Memory: about twice the largest rate times the pairs, never the N x N matrix.
    """
    numbers = label_numbers(labels, len(embeddings))
    pairs, values = impostors(embeddings, numbers, max(fmrs, default=0.0), templates, cohort)
    evened = cohort is not None
    return tuple(
        OperatingPoint(fmr, just_above(values[math.floor(fmr * pairs + 1e-9)]), pairs, templates, evened)
        for fmr in fmrs
        if fmr * pairs >= 1
    )


def mean_templates(embeddings: Float32s, numbers: Ints, templates: int) -> tuple[Float32s, Ints]:
    """Return the normalized mean of the first `templates` rows of each identity that has so many.

    Returns (T, D) unit rows and the (T,) identity numbers, ascending. A mean of zero raises ModelError.
    """
    order = np.argsort(numbers, kind="stable")
    owners, starts, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
    fit = sizes >= templates
    chosen = order[starts[fit][:, None] + np.arange(templates)[None, :]]
    if len(chosen) == 0:
        return np.empty((0, embeddings.shape[1]), np.float32), np.empty(0, np.int64)
    return unit_rows(embeddings[chosen].mean(axis=1, dtype=np.float64)), owners[fit]


def impostors(
    embeddings: Float32s, numbers: Ints, max_fmr: float, templates: int = 1, cohort: Cohort | None = None
) -> tuple[int, Float32s]:
    """The number of impostor comparisons and the largest of their similarities, descending."""
    if templates not in (1, 2):
        raise EdgeError(f"found {templates} templates", expected="1 or 2")
    if not 0 <= max_fmr < 1:
        raise EdgeError(f"found a false-match rate of {max_fmr}", expected="between 0 and 1")
    sizes = np.bincount(numbers) if len(numbers) else np.empty(0, np.int64)
    if templates == 1:
        pairs = _pairs_between(sizes.astype(np.float64))
        blocks = _upper_blocks(embeddings, excess_of(cohort, embeddings))
        columns_of = numbers
    else:
        means, columns_of = mean_templates(embeddings, numbers, templates)
        pairs = int((len(numbers) - sizes[columns_of]).sum())
        blocks = _full_blocks(embeddings, means, excess_of(cohort, embeddings), excess_of(cohort, means))
    largest = _Largest(math.floor(max_fmr * pairs) + 2)
    for similarities, rows, columns in blocks:
        other = (numbers[rows] != columns_of[columns]) & (similarities > largest.floor)
        largest.add(similarities[other], np.empty((int(other.sum()), 0), np.int64))
    return pairs, largest.descending()[0]


class _Largest:
    """The `keep` largest values of a stream, each with a row of numbers beside it."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.floor = -math.inf
        """Values at or below it cannot be among the largest any more."""
        self._values: list[Float32s] = []
        self._beside: list[Ints] = []
        self._held = 0

    def add(self, values: Float32s, beside: Ints) -> None:
        above = values > self.floor
        self._values.append(values[above])
        self._beside.append(beside[above])
        self._held += int(above.sum())
        if self._held > 2 * self.keep:
            self._shrink()

    def descending(self) -> tuple[Float32s, Ints]:
        self._shrink()
        order = np.argsort(-self._values[0], kind="stable")
        return self._values[0][order], self._beside[0][order]

    def _shrink(self) -> None:
        values = np.concatenate(self._values) if self._values else np.empty(0, np.float32)
        beside = np.concatenate(self._beside) if self._beside else np.empty((0, 2), np.int64)
        if len(values) > self.keep:
            best = np.argpartition(-values, self.keep - 1)[: self.keep]
            values, beside = values[best], beside[best]
            self.floor = float(values.min())
        self._values, self._beside, self._held = [values], [beside], len(values)


def excess_of(cohort: Cohort | None, vectors: Float32s) -> Float32s:
    """What a cohort takes off the similarities of each of (N, D) unit rows; (N,), zeros without one."""
    return np.zeros(len(vectors), np.float32) if cohort is None else cohort.excess(vectors)


def shares_of(cohort: Cohort | None, vectors: Float32s) -> Float32s | None:
    """How much of each of a cohort's kinds (N, D) unit rows are, (N, K); None where it has none."""
    return None if cohort is None or cohort.kinds is None else cohort.kinds.shares(vectors)


def _upper_blocks(embeddings: Float32s, excess: Float32s) -> Iterator[tuple[Float32s, Ints, Ints]]:
    """Every unordered pair once: similarities with the two positions, a block of rows at a time."""
    step = max(1, BLOCK_PAIRS // max(1, len(embeddings)))
    for start in range(0, len(embeddings), step):
        block = embeddings[start : start + step] @ embeddings[start:].T
        block -= excess[start : start + step, None] + excess[None, start:]
        rows, columns = np.triu_indices(len(block), 1, block.shape[1])
        yield block[rows, columns], rows + start, columns + start


def _full_blocks(
    probes: Float32s, means: Float32s, excess: Float32s, means_excess: Float32s
) -> Iterator[tuple[Float32s, Ints, Ints]]:
    """Every probe with every mean: similarities with the two positions, a block of probes at a time."""
    step = max(1, BLOCK_PAIRS // max(1, len(means)))
    for start in range(0, len(probes), step):
        block = probes[start : start + step] @ means.T
        block -= excess[start : start + step, None] + means_excess[None, :]
        rows, columns = np.indices(block.shape).reshape(2, -1)
        yield block.reshape(-1), rows + start, columns


def _pairs_between(sizes: NDArray[np.float64]) -> int:
    """Unordered pairs of pictures of two different identities."""
    return round((float(sizes.sum()) ** 2 - float((sizes**2).sum())) / 2)


def just_above(similarity: np.float32) -> float:
    """The next float32 up: the lowest threshold that refuses this similarity."""
    return float(np.nextafter(similarity, np.float32(np.inf)))
