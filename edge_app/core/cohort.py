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
_ROWS: Final = 4096
"""Faces that are compared with the centres at one time: 10 MB of similarities."""
_WHOLE: Final = 127.0
"""What a centre's largest possible coordinate, 1, is stored as."""


@dataclass(frozen=True)
class Cohort:
    """Statistics of strangers in one embedding space. A centre is the mean of several people: nobody's template.

    Where a network tells faces apart badly (children to one trained on grown-ups), a stranger's nearest centres are
    nearer too. `excess` says by how much more alike two strangers are there than usual; taking it off both sides of a
    comparison makes one threshold mean the same for everybody. Cohorts are adaptive score normalization's (Matejka et
    al. 2017, Interspeech); the excess is additive, a quantile regression on the same statistics (Koenker 2005).
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
    """What the weighted sum is for a usual face: there similarities stay the cosines they are."""
    doubtful_from: float
    """Excess from which the network can hardly tell a face from another of its kind, such as toddlers'."""
    likeness: tuple[float, float, float] | None
    """(t, a, b): people of whose pairs a hundredth times x have a similarity of t or more are mistaken for one another
    exp(a) * x ** b times as often as people of one kind; see `Gallery.likeness`. None where the thresholds are those
    of a crowd as the gallery's."""
    same_person: float
    """Cosine of two embeddings that one pair of strangers in a hundred reaches, before any excess is taken off."""
    people: int
    """How many people the centres average."""

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        numbers = (self.mean_weight, self.spread_weight, self.usual, self.doubtful_from, *(self.likeness or ()))
        if not all(abs(number) < 100 for number in numbers) or not -1.0 < self.same_person < 1.0:
            raise ModelError(f"the cohort holds {numbers} and {self.same_person}", expected="weights and cosines")
        if self.likeness is not None and not 0.1 <= self.likeness[2] <= 10.0:
            raise ModelError(f"the cohort's likeness grows as the power {self.likeness[2]}", expected="0.1 to 10")
        count = len(self.units)
        if not (2 <= self.nearest <= count and self.people >= count):
            raise ModelError(
                f"the cohort looks at {self.nearest} of {count} centres of {self.people} people",
                expected="2 or more of the centres, and a person or more to each",
            )

    @cached_property
    def units(self) -> Float32s:
        """The centres as (K, D) unit rows float32. Raises ModelError where the text holds something else."""
        try:
            content = base64.b64decode(self.centres, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ModelError(f"the cohort's centres cannot be read: {error}", expected="base64") from error
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
        """By how much two strangers near each of (N, D) unit rows are more alike than usual; (N,) in cosines.

        Raises ModelError for vectors of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.size:
            raise ModelError(f"embeddings have the shape {vectors.shape}", expected=f"(N, {self.size}) as the cohort")
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(vectors), _ROWS):
            near = vectors[start : start + _ROWS] @ self.units.T
            near = np.partition(near, len(self.units) - self.nearest, axis=1)[:, -self.nearest :]
            parts.append(self.mean_weight * near.mean(axis=1) + self.spread_weight * near.std(axis=1) - self.usual)
        return np.concatenate(parts, dtype=np.float32)


def stored_centres(centres: Float32s) -> str:
    """(K, D) unit rows as a cohort keeps them."""
    return base64.b64encode(np.rint(centres * _WHOLE).clip(-127, 127).astype(np.int8).tobytes()).decode()
