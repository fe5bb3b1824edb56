"""face_recognition's encodings judged as that library uses them: by distance, the nearest of all pictures counts.

Galleries are drawn as in `edge_app.accuracy.open_set`: same seeds, two pictures each, the rest mates, people with a
single picture strangers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.face_recognition_encode import Encodings
from edge_app.accuracy.lfw_pairs import LfwPairs, Verification, verification
from edge_app.accuracy.pair_scores import Ints, label_numbers
from edge_app.core.errors import MediaError, ModelError
from edge_app.core.types import Float32s

TOLERANCE = 0.6
"""face_recognition's default: the largest distance at which it says "same"."""
_SEEDS = tuple(range(10))
_SIZES = (10, 100)
_FAR = 10.0
"""Distance of a pair one of whose faces was not found: beyond every real one."""


@dataclass(frozen=True, slots=True)
class PeerGallery:
    """Galleries of one size, means over ten draws."""

    people: int
    named_at_tolerance: float
    """Share of strangers that get a name at the default tolerance."""
    missed_at_tolerance: float
    """Share of mates that do not get their own name at the default tolerance."""
    fnir_at_fpir: float
    """The same at the tolerance that names 1 % of the strangers of each gallery."""
    tolerance_at_fpir: float
    """Mean of those tolerances."""


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """What the encodings of a folder of people are worth."""

    pictures: int
    not_found: int
    """Pictures without a face; left out of the galleries."""
    pairs: Verification | None
    pairs_not_found: int
    tolerance: float
    galleries: tuple[PeerGallery, ...]


def judge(encodings: Encodings, folder: Path, pairs: LfwPairs | None, fpir: float = 0.01) -> PeerFigures:
    """Judge encodings of the pictures under `folder`. Raises MediaError when a listed picture was not encoded."""
    names = [path.split("/")[0] for path in encodings.paths]
    kept = encodings.vectors[encodings.found]
    numbers = label_numbers([name for name, found in zip(names, encodings.found, strict=True) if found], len(kept))
    verified, unseen = (None, 0) if pairs is None else _judge_pairs(encodings, folder, pairs)
    able = int((np.bincount(numbers) > 2).sum()) if len(numbers) else 0
    sizes = (*(size for size in _SIZES if size < able), able) if able else ()
    galleries = tuple(_gallery(kept, numbers, size, fpir) for size in sizes)
    missed = int((~encodings.found).sum())
    return PeerFigures(len(encodings.paths), missed, verified, unseen, TOLERANCE, galleries)


def _judge_pairs(encodings: Encodings, folder: Path, pairs: LfwPairs) -> tuple[Verification, int]:
    position = {path: index for index, path in enumerate(encodings.paths)}
    try:
        listed = np.array([position[path.relative_to(folder).as_posix()] for path in pairs.paths])
    except KeyError as error:
        raise MediaError(f"{error.args[0]} is in the list of pairs, but was not encoded") from error
    rows = listed[pairs.pairs]
    seen = encodings.found[rows].all(axis=1)
    distances = np.linalg.norm(encodings.vectors[rows[:, 0]] - encodings.vectors[rows[:, 1]], axis=1)
    nearness = np.where(seen, -distances, -_FAR).astype(np.float32)
    return verification(nearness, pairs.same, pairs.folds), int((~seen).sum())


def _gallery(vectors: Float32s, numbers: Ints, size: int, fpir: float) -> PeerGallery:
    outcomes = [_draw(vectors, numbers, size, fpir, seed) for seed in _SEEDS]
    means = np.mean(np.array(outcomes), axis=0)
    return PeerGallery(size, *(float(value) for value in means))


def _draw(vectors: Float32s, numbers: Ints, size: int, fpir: float, seed: int) -> tuple[float, float, float, float]:
    """Strangers named and mates missed at the default tolerance, mates missed at the FPIR, that tolerance."""
    order = np.argsort(numbers, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(numbers))[:-1])
    able = [group for group in groups if len(group) > 2]
    alone = np.array([group[0] for group in groups if len(group) == 1], np.int64)
    if not len(alone):
        raise ModelError("nobody has a single picture", expected="strangers")
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(able[i]) for i in rng.choice(len(able), size, replace=False)]
    enrolled = vectors[np.stack([group[:2] for group in drawn])]
    mates = np.concatenate([group[2:] for group in drawn])
    owner = np.repeat(np.arange(size), [len(group) - 2 for group in drawn])
    strangers = nearest(enrolled, vectors[alone])[1]
    best, distance = nearest(enrolled, vectors[mates])
    allowed = math.floor(fpir * len(strangers) + 1e-9)
    tolerance = float(np.nextafter(np.sort(strangers)[allowed], -np.inf))

    def missed(limit: float) -> float:
        return float(np.mean((distance > limit) | (best != owner)))

    return float(np.mean(strangers <= TOLERANCE)), missed(TOLERANCE), missed(tolerance), tolerance


def nearest(enrolled: Float32s, probes: Float32s) -> tuple[Ints, NDArray[np.float64]]:
    """The person with the nearest picture and its distance, for (P, D) probes and (G, T, D) pictures enrolled."""
    people, templates, size = enrolled.shape
    flat = enrolled.reshape(-1, size).astype(np.float64)
    wide = probes.astype(np.float64)
    squares = (wide**2).sum(axis=1)[:, None] + (flat**2).sum(axis=1)[None] - 2 * wide @ flat.T
    distances = np.sqrt(np.maximum(squares, 0)).reshape(-1, people, templates).min(axis=2)
    best = distances.argmin(axis=1)
    return best, distances[np.arange(len(distances)), best]
