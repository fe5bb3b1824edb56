"""An embedder on given pairs of pictures, as Labeled Faces in the Wild does (Huang 2007): accuracy with thresholds
chosen by cross-validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import Estimate, wilson
from edge_app.core.errors import MediaError, ModelError
from edge_app.core.types import Float32s

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class LfwPairs:
    """Pairs of pictures as LFW lists them."""

    paths: tuple[Path, ...]
    """Each picture once."""
    pairs: Ints
    """(P, 2) positions in `paths`."""
    same: Bools
    """(P,) whether the two show one person."""
    folds: Ints
    """(P,) the list's own fold, or ten stratified ones where the list has none."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How well a threshold tells same from different on given pairs."""

    accuracy: Estimate
    """Share of pairs told right by thresholds chosen on the other folds."""
    threshold: float
    """Mean of the folds' thresholds."""
    folds: int


def lfw_pairs(file: Path, images_root: Path) -> LfwPairs:
    """Read LFW's pairsDevTest.txt, pairsDevTrain.txt or pairs.txt; pictures are NAME/NAME_0001.jpg under the root.

    Raises MediaError for a line of another form, a wrong count, or a picture that is not there.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{file} cannot be read: {error}", expected="LFW's list of pairs") from error
    try:
        header = [int(word) for word in lines[0]]
        folds, each = (header[0], header[1]) if len(header) == 2 else (1, header[0])
    except (IndexError, ValueError) as error:
        raise MediaError(f"{file} does not begin with a count", expected="LFW's list of pairs") from error
    if len(lines) - 1 != folds * each * 2:
        raise MediaError(f"{file} lists {len(lines) - 1} pairs", expected=f"{folds * each * 2} as its head says")
    positions: dict[Path, int] = {}
    pairs = [
        [positions.setdefault(path, len(positions)) for path in _pair_paths(words, images_root, f"{file}:{number}")]
        for number, words in enumerate(lines[1:], start=2)
    ]
    missing = next((path for path in positions if not path.is_file()), None)
    if missing is not None:
        raise MediaError(f"{missing} is not there", expected="every picture that the list names")
    same = np.array([len(words) == 3 for words in lines[1:]], dtype=np.bool_)
    order = np.arange(len(pairs))
    fold = order // (2 * each) if folds > 1 else order % 10
    return LfwPairs(tuple(positions), np.array(pairs, dtype=np.int64).reshape(-1, 2), same, fold)


def _pair_paths(words: list[str], root: Path, where: str) -> tuple[Path, Path]:
    """The two pictures of one line: `NAME i j` or `NAME i OTHER j`."""
    if len(words) == 3:
        words = [words[0], words[1], words[0], words[2]]
    if len(words) != 4 or not (words[1].isdigit() and words[3].isdigit()):
        raise MediaError(f"{where} reads {' '.join(words)!r}", expected="NAME i j, or NAME i OTHER j")
    first, second = (root / name / f"{name}_{int(number):04d}.jpg" for name, number in (words[:2], words[2:]))
    return first, second


def pair_similarities(embeddings: Float32s, pairs: Ints) -> Float32s:
    """Return the (P,) cosines of (P, 2) pairs of positions in (N, D) unit rows."""
    found: Float32s = np.einsum("pd,pd->p", embeddings[pairs[:, 0]], embeddings[pairs[:, 1]], dtype=np.float32)
    return found


def accuracy_at(similarities: Float32s, same: Bools, threshold: float) -> Estimate:
    """Return the share of pairs that one given threshold tells right, with Wilson's interval."""
    return wilson(int(((similarities >= threshold) == same).sum()), len(same))


def best_threshold(similarities: Float32s, same: Bools) -> float:
    """Return the threshold with the most pairs told right; of equals, the middle of the widest gap.

    Raises ModelError for no pairs.
    """
    if len(similarities) == 0:
        raise ModelError("found no pairs", expected="at least one pair to choose a threshold on")
    order = np.argsort(similarities, kind="stable")
    values, is_same = similarities[order].astype(np.float64), same[order].astype(np.int64)
    # Cut i rejects the i smallest: right are the different below it and the same from it on.
    right = np.concatenate([[0], np.cumsum(1 - is_same)]) + is_same.sum() - np.concatenate([[0], np.cumsum(is_same)])
    edges = np.concatenate([[values[0] - 2e-6], values, [values[-1] + 2e-6]])
    gaps = np.diff(edges)  # zero between ties, where no threshold fits
    right = np.where(gaps > 0, right, -1)
    cut = int(np.lexsort((gaps, right))[-1])
    return float((edges[cut] + edges[cut + 1]) / 2)


def verification(similarities: Float32s, same: Bools, folds: Ints) -> Verification:
    """Return k-fold cross-validated accuracy on (P,) pairs, each with the number of its fold.

    The threshold of a fold is the best on all others. Raises ModelError for fewer than two folds.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ModelError(f"found {len(numbers)} fold(s)", expected="at least two")
    thresholds = {int(fold): best_threshold(similarities[folds != fold], same[folds != fold]) for fold in numbers}
    per_pair = np.array([thresholds[int(fold)] for fold in folds])
    right = int(((similarities >= per_pair) == same).sum())
    return Verification(wilson(right, len(same)), float(np.mean(list(thresholds.values()))), len(numbers))
