"""A classifier's head fitted in a moment on the features of few labelled pictures, with its own leave-one-out answers.

Kernel ridge regression onto the classes: fitted exactly, every picture's answer by a head that never saw it comes for
free (Allen 1974, PRESS), and on features of one backbone it is as good as logistic regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Float32s

Float64s = NDArray[np.float64]
Integers = NDArray[np.intp]

_RIDGES: Final = np.logspace(-3, 1, 9)
_SHARPNESSES: Final = np.geomspace(0.5, 32.0, 13)
MOST: Final = 2500
"""Labelled pictures that a fit uses; of more a random part. 2,500 take 0.9 s on one core."""
_CHOSEN_ON: Final = 800
"""Labelled pictures on which the strength of the ridge is chosen."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A fitted head."""

    weights: Float64s
    """(D + 1, C); the last row is the bias."""
    sharpness: float
    """softmax(sharpness * scores) is a probability."""
    fitted_on: Integers
    """(n,) which of the labelled pictures were used."""
    left_out: Float64s
    """(n, C) for each of them the probabilities by a head that was fitted without it."""

    def probabilities(self, features: Float32s) -> Float64s:
        """(N, C) for (N, D) features."""
        return _softmax(self.sharpness * (features @ self.weights[:-1] + self.weights[-1]))


def fit(features: Float32s, classes: Integers, count: int, seed: int = 0) -> Head:
    """Fit on (n, D) features and their classes (n,) in [0, count); n >= 1.

    Classes count alike, however many pictures each has: the error of a picture weighs as much as its class is rare.
    """
    if len(features) == 0:
        raise ValueError("head: found no labelled picture, expected one or more")
    rng = np.random.default_rng(seed)
    used = np.arange(len(features)) if len(features) <= MOST else np.sort(rng.permutation(len(features))[:MOST])
    x, y = features[used].astype(np.float64), classes[used]
    if len(x) > _CHOSEN_ON:
        some = rng.permutation(len(x))[:_CHOSEN_ON]
        ridge = _best_ridge(x[some], y[some], count)
    else:
        ridge = _best_ridge(x, y, count)
    root = _roots(y, count)
    rooted = np.concatenate([x, np.ones((len(x), 1))], axis=1) * root[:, None]
    targets = _targets(y, count) * root[:, None]
    inverse = np.linalg.inv(rooted @ rooted.T + ridge * np.eye(len(x)))
    dual = inverse @ targets
    left_out = (targets - dual / np.diag(inverse)[:, None]) / root[:, None]
    sharpness = _best_sharpness(left_out, y)
    return Head(rooted.T @ dual, sharpness, used.astype(np.intp), _softmax(sharpness * left_out))


def _best_ridge(x: Float64s, y: Integers, count: int) -> float:
    """The strength with the least squared error of the pictures left out."""
    root = _roots(y, count)
    rooted = np.concatenate([x, np.ones((len(x), 1))], axis=1) * root[:, None]
    values, vectors = np.linalg.eigh(rooted @ rooted.T)
    targets = vectors.T @ (_targets(y, count) * root[:, None])
    errors = []
    for ridge in _RIDGES:
        shrunk = 1.0 / (np.maximum(values, 0.0) + ridge)
        dual = vectors @ (shrunk[:, None] * targets)
        errors.append(float(((dual / (vectors**2 @ shrunk)[:, None]) ** 2).sum()))
    return float(_RIDGES[int(np.argmin(errors))])


def _best_sharpness(left_out: Float64s, y: Integers) -> float:
    """The one that gives the pictures left out the most likelihood."""
    likelihoods = [float(np.log(_softmax(one * left_out)[np.arange(len(y)), y] + 1e-9).sum()) for one in _SHARPNESSES]
    return float(_SHARPNESSES[int(np.argmax(likelihoods))])


def _roots(y: Integers, count: int) -> Float64s:
    counts = np.bincount(y, minlength=count)
    return cast(Float64s, np.sqrt(len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[y])


def _targets(y: Integers, count: int) -> Float64s:
    return np.eye(count)[y] - 1.0 / count


def _softmax(scores: Float64s) -> Float64s:
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return cast(Float64s, exps / exps.sum(axis=1, keepdims=True))


def centred(features: Float32s) -> Float32s:
    """(N, D) features of a pile less their mean, each of unit length: what all pictures share tells none apart."""
    less = features - features.mean(axis=0, keepdims=True)
    return cast(Float32s, (less / np.maximum(np.linalg.norm(less, axis=1, keepdims=True), 1e-9)).astype(np.float32))
