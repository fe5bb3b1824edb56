"""A cohort: centres of many strangers' faces, which tell how alike two strangers are where a face lies."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from edge_app.core.documents import check_fields
from edge_app.core.errors import ModelError
from edge_app.core.types import Float32s

_MOST_CENTRES: Final = 4096
_MOST_KINDS: Final = 64
_ROWS: Final = 4096
"""Faces that are compared with the centres at one time: 10 MB of similarities."""
_WHOLE: Final = 127.0
"""What a centre's largest possible coordinate, 1, is stored as."""


@dataclass(frozen=True)
class Kinds:
    """How faces divide into kinds, softly, and how often strangers of two kinds are taken for one another.

    Fitted from groups that somebody wrote down and from clusters; a kind has no name here. Whoever stands before a
    gallery meets some people of his own kind and others, who count for less: see `peers`.
    """

    directions: str
    """Base64 of (K, D) float16: a face's kinds are the softmax of its products with these, plus `offsets`."""
    offsets: tuple[float, ...]
    """(K,)."""
    alike: tuple[tuple[float, ...], ...]
    """(K, K), symmetric: false matches between strangers of two kinds, in those between strangers of one."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        count = len(self.offsets)
        if not 2 <= count <= _MOST_KINDS or any(len(row) != count for row in (self.alike, *self.alike)):
            raise ModelError(
                f"the cohort has {count} kinds and {len(self.alike)} rows of how alike they are",
                expected=f"2 to {_MOST_KINDS}, and as many rows and columns",
            )
        if not (
            all(abs(each) < 1000 for each in self.offsets) and all(0 <= x < 1e5 for row in self.alike for x in row)
        ):
            raise ModelError("the cohort's kinds hold numbers out of range", expected="rates of 0 or more")

    @cached_property
    def weights(self) -> Float32s:
        """`directions` as (K, D) float32. Raises ModelError where the text holds something else."""
        content = _decoded(self.directions)
        rows = len(self.offsets)
        if not content or len(content) % (2 * rows):
            raise ModelError(f"the cohort holds {len(content)} bytes of directions", expected=f"{rows} rows of float16")
        weights = np.frombuffer(content, "<f2").reshape(rows, -1).astype(np.float32)
        if not np.isfinite(weights).all():
            raise ModelError("the cohort's directions are not finite")
        return weights

    @cached_property
    def rates(self) -> Float32s:
        """`alike` as (K, K) float32."""
        return np.array(self.alike, np.float32)

    def shares(self, vectors: Float32s) -> Float32s:
        """How much of each kind each of (N, D) unit rows is: (N, K), rows that sum to 1."""
        shares = np.empty((len(vectors), len(self.offsets)), np.float32)
        for start in range(0, len(vectors), _ROWS):
            products = vectors[start : start + _ROWS] @ self.weights.T + np.array(self.offsets, np.float32)
            products -= products.max(axis=1, keepdims=True)
            np.exp(products, out=products)
            np.divide(products, products.sum(axis=1, keepdims=True), out=shares[start : start + _ROWS])
        return shares

    def peers(self, shares: Float32s, enrolled: Float32s) -> Float32s:
        """For how many people of one's own kind the `enrolled` (G, K) count, to each of `shares` (N, K); (N,)."""
        return np.asarray(shares @ (self.rates @ enrolled.sum(axis=0)), np.float32)


@dataclass(frozen=True)
class Cohort:
    """Statistics of strangers in one embedding space. A centre is the mean of several people: nobody's template.

    Where a network tells faces apart badly (children to one trained on grown-ups), a stranger's nearest centres are
    nearer too. `excess` says by how much more alike two strangers are there than grown-ups ever are; it is taken off
    both sides of a comparison. Cohorts are adaptive score normalization's (Matejka et al. 2017, Interspeech); the
    excess is additive, a quantile regression on the same statistics (Koenker 2005). Grown-ups keep their plain
    cosines: evening them this way cost 0.6 of 100 known faces at the same rate of strangers. For them `kinds` say how
    many of a gallery count.
    """

    centres: str
    """Base64 of (K, D) int8, unit vectors times 127."""
    size: int
    """D, the numbers in an embedding of this space."""
    nearest: int
    """How many of the centres nearest to a face are looked at, in [2, K]."""
    mean_weight: float
    """What a face's mean cosine to them counts."""
    spread_weight: float
    """What the standard deviation of these cosines counts."""
    usual: float
    """What the weighted sum is at most for a usual face: up to there similarities stay the cosines they are."""
    doubtful_from: float
    """Excess from which the network can hardly tell a face from another of its kind, such as toddlers'."""
    kinds: Kinds | None
    """None where the thresholds are those of a crowd as the gallery's."""
    same_person: float
    """Cosine of two embeddings that one pair of strangers in a hundred reaches, before any excess is taken off."""
    people: int
    """How many people the centres average."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        numbers = (self.mean_weight, self.spread_weight, self.usual, self.doubtful_from)
        if not all(abs(number) < 100 for number in numbers) or not -1.0 < self.same_person < 1.0:
            raise ModelError(f"the cohort holds {numbers} and {self.same_person}", expected="weights and cosines")
        count = len(self.units)
        if not (2 <= self.nearest <= count and self.people >= count):
            raise ModelError(
                f"the cohort looks at {self.nearest} of {count} centres of {self.people} people",
                expected="2 or more of the centres, and a person or more to each",
            )
        if self.kinds is not None and self.kinds.weights.shape[1] != self.size:
            raise ModelError(
                f"the cohort's kinds are of {self.kinds.weights.shape[1]} numbers a face", expected=f"{self.size}"
            )

    @cached_property
    def units(self) -> Float32s:
        """The centres as (K, D) unit rows float32. Raises ModelError where the text holds something else."""
        content = _decoded(self.centres)
        if not 1 <= self.size <= len(content) or len(content) % self.size:
            raise ModelError(f"the cohort holds {len(content)} bytes of centres", expected=f"rows of {self.size}")
        rows = np.frombuffer(content, np.int8).reshape(-1, self.size).astype(np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not 16 <= len(rows) <= _MOST_CENTRES or not float(lengths.min()) > 0.5 * _WHOLE:
            raise ModelError(
                f"the cohort holds {len(rows)} centres, the shortest {float(lengths.min()) / _WHOLE:.2f} long",
                expected=f"16 to {_MOST_CENTRES} unit vectors",
            )
        return np.asarray(rows / lengths, np.float32)

    def excess(self, vectors: Float32s) -> Float32s:
        """By how much two strangers near each of (N, D) unit rows are more alike than usual; (N,), cosines >= 0.

        Raises ModelError for vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise ModelError(f"embeddings have the shape {vectors.shape}", expected=f"(N, {self.size}) as the cohort")
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(vectors), _ROWS):
            near = vectors[start : start + _ROWS] @ self.units.T
            near = np.partition(near, len(self.units) - self.nearest, axis=1)[:, -self.nearest :]
            above = self.mean_weight * near.mean(axis=1) + self.spread_weight * near.std(axis=1) - self.usual
            parts.append(np.maximum(above, 0.0))
        return np.concatenate(parts, dtype=np.float32)


def stored_centres(centres: Float32s) -> str:
    """(K, D) unit rows as a cohort keeps them."""
    return base64.b64encode(np.rint(centres * _WHOLE).clip(-127, 127).astype(np.int8).tobytes()).decode()


def stored_directions(directions: Float32s) -> str:
    """(K, D) rows as kinds keep them."""
    return base64.b64encode(directions.astype("<f2").tobytes()).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelError(f"the cohort's vectors cannot be read: {error}", expected="base64") from error
