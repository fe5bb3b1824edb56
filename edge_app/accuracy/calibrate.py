"""Thresholds from a folder of the user's own, and a trial that says what they are worth there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.cohort_fit import LEAST_PEOPLE, Strangers, cohort_from_folder
from edge_app.accuracy.groups import EVERYBODY, fpir_by_group
from edge_app.accuracy.intervals import Estimate, wilson
from edge_app.accuracy.open_set import Rule, identify, named_by
from edge_app.accuracy.pair_scores import Ints, label_numbers, mean_templates, operating_points, pair_scores, shares_of
from edge_app.core.cohort import Cohort
from edge_app.core.errors import UsageError
from edge_app.core.types import Float32s
from edge_app.gallery.calibration import Calibration, Thresholds
from edge_app.gallery.matching import rule_for

FMRS: Final = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""False-match rates that are looked up; those that a folder is too small for are left out."""
LEAST_IDENTITIES: Final = 10
"""Things or people needed: half of them give thresholds, a quarter is enrolled, a quarter are strangers."""
LEAST_PICTURES: Final = 3
"""Pictures needed of each: two are enrolled, one is looked for."""
MOST_PICTURES: Final = 20_000
"""200 million pairs; the tenth of them that is kept takes 80 MB."""
SPLITS: Final = 20
HOPELESS_FNIR: Final = 0.5
"""An embedder that misses or misnames more than this share in the trial is of little use for these pictures."""
_ALIKE: Final = 5
"""People in the galleries of one kind by which a cohort is tried: a folder has few of each."""
_MOST_COST: Final = 0.003
_BLOCK_ROWS: Final = 256
_SAME_PICTURE: Final = 0.99999
"""Two things this alike are one picture filed twice: it would push every threshold to 1."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What thresholds from one half of the identities did on the other, over `SPLITS` random halves."""

    enrolled: int
    """Identities in each gallery, with two pictures each."""
    fpir: Estimate
    """Share of strangers' pictures that were called somebody; pictures of one stranger count once in its interval."""
    fnir: Estimate
    """Share of pictures of the enrolled that were not given their own name; its interval likewise."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Thresholds to keep, and what was seen on the way."""

    calibration: Calibration
    genuine_median: float
    """Similarity that half of the pairs of one thing or person reach."""
    tar: Mapping[float, float]
    """Share of those pairs at or above the threshold, by false-match rate."""
    trial: Trial | None
    """None when half of the pictures is too little to draw a line through."""

    @property
    def hopeless(self) -> bool:
        """Whether the trial says that this model can hardly tell these things or people apart."""
        return self.trial is not None and self.trial.fnir.value > HOPELESS_FNIR


def calibrate(
    vectors: Float32s,
    names: Sequence[str],
    *,
    model_id: str,
    sha256: str,
    fpir: float = 0.01,
    margin: float = 0.05,
    cohort: Cohort | None = None,
) -> Calibrated:
    """Measure thresholds on (N, D) unit rows with one name each, and try them out.

    `cohort` is the model's own. Without one, and with `LEAST_PEOPLE` identities or more, one is fitted to half of them,
    and kept where it pays on the others. Raises UsageError when there are too few or too many pictures, or one picture
    is filed under two names.
    """
    _check_enough(names)
    labels = label_numbers(names, len(vectors))
    _check_apart(vectors, labels, names)
    own = None
    if cohort is None and int(labels.max()) + 1 >= LEAST_PEOPLE:
        fitted, aside = cohort_from_folder(Strangers(vectors, labels, np.full(len(labels), "folder", dtype=np.str_)))
        if fitted and _pays(vectors[aside], label_numbers(labels[aside], int(aside.sum())), fitted, fpir, margin):
            own = cohort = fitted
    trial = try_out(vectors, labels, fpir, margin, cohort)
    single, double = (operating_points(vectors, labels, FMRS, templates, cohort) for templates in (1, 2))
    genuine = pair_scores(vectors, labels, cohort=cohort).genuine
    return Calibrated(
        Calibration(model_id, sha256, int(labels.max()) + 1, len(labels), single + double, own),
        float(np.median(genuine)),
        {point.fmr: float((genuine >= point.threshold).mean()) for point in single},
        trial,
    )


def _pays(vectors: Float32s, labels: Ints, cohort: Cohort, fpir: float, margin: float) -> bool:
    """Whether, among people it was not fitted to, fewer strangers are named in galleries of one kind, and no more of
    the enrolled are missed in mixed ones than `_MOST_COST` of them."""
    assert cohort.kinds is not None
    plain, evened = (try_out(vectors, labels, fpir, margin, which) for which in (None, cohort))
    if plain is None or evened is None or evened.fnir.value > plain.fnir.value + _MOST_COST:
        return False
    people = Strangers(vectors, labels, np.full(len(labels), "", dtype=np.str_)).one_each()
    kind = np.array([f"kind {one}" for one in cohort.kinds.shares(people.vectors).argmax(axis=1)])
    named = []
    for which in (None, cohort):
        points = tuple(p for n in (1, 2) for p in operating_points(vectors, labels, FMRS, n, which))
        found = fpir_by_group(
            Strangers(people.vectors, people.people, kind), Thresholds(points, which), (_ALIKE,), (fpir,),
            margin=margin, named=True,
        )  # fmt: skip
        named.append([each.happened.value for each in found if each.group != EVERYBODY])
    return bool(named[0]) and float(np.mean(named[1])) < float(np.mean(named[0]))


def try_out(vectors: Float32s, labels: Ints, fpir: float, margin: float, cohort: Cohort | None = None) -> Trial | None:
    """Thresholds from half of the identities, tried on a gallery and strangers of the other half."""
    identities = int(labels.max()) + 1
    strangers, mates = np.zeros((2, identities)), np.zeros((2, identities))
    enrolled = 0
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(identities)
        half, known = identities // 2, identities // 4
        ours = np.isin(labels, order[:half])
        points = [p for n in (1, 2) for p in operating_points(vectors[ours], labels[ours], FMRS, n, cohort)]
        if min(sum(p.templates == n for p in points) for n in (1, 2)) < 2:
            return None
        gallery_ids, enrolled = np.sort(order[half : half + known]), known
        enrolled_rows = np.concatenate([rng.permutation(np.flatnonzero(labels == i))[:2] for i in gallery_ids])
        gallery, _ = mean_templates(vectors[enrolled_rows], labels[enrolled_rows], 2)
        found = rule_for(points, 0, known, fpir, margin, cohort, shares_of(cohort, gallery))
        rule = Rule(found.threshold, found.margin, found.company)
        for totals, ids in ((mates, gallery_ids), (strangers, order[half + known :])):
            probes = np.setdiff1d(np.flatnonzero(np.isin(labels, ids)), enrolled_rows)
            ranked = identify(gallery, vectors[probes], cohort)
            named = named_by(rule, ranked)
            right = gallery_ids[ranked.best] == labels[probes]
            wrong = named if totals is strangers else ~(named & right)
            totals += [
                np.bincount(labels[probes], wrong, identities),
                np.bincount(labels[probes], minlength=identities),
            ]
    return Trial(enrolled, _share(*strangers), _share(*mates))


def _share(hits: NDArray[np.float64], trials: NDArray[np.float64]) -> Estimate:
    """Hits per trial with Wilson's interval as if every identity had been tried once.

    That is the cautious end: pictures of one identity may all fail together. Zero of a few is not taken for never.
    """
    tried = int((trials > 0).sum())
    return wilson(min(float(tried), tried * float(hits.sum()) / float(trials.sum())) if tried else 0.0, tried)


def _check_enough(names: Sequence[str]) -> None:
    found, counts = np.unique(np.asarray(names), return_counts=True) if len(names) else (np.empty(0), np.empty(0))
    fit = int((counts >= LEAST_PICTURES).sum())
    if fit < LEAST_IDENTITIES or fit < len(found):
        raise UsageError(
            f"{fit} of {len(found)} sub-folders have {LEAST_PICTURES} or more usable pictures",
            expected=f"at least {LEAST_IDENTITIES}, each with {LEAST_PICTURES} or more",
            remedy="add pictures, or take the others out",
        )
    if len(names) > MOST_PICTURES:
        raise UsageError(f"the folder holds {len(names):,} pictures", expected=f"at most {MOST_PICTURES:,}")


def _check_apart(vectors: Float32s, labels: Ints, names: Sequence[str]) -> None:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS] @ vectors.T
        block[labels[start : start + _BLOCK_ROWS, None] == labels[None, :]] = -1.0
        row, column = np.unravel_index(int(block.argmax()), block.shape)
        if block[row, column] >= _SAME_PICTURE:
            raise UsageError(
                f"{names[start + int(row)]!r} and {names[int(column)]!r} hold the same picture",
                expected="every picture under one name",
                remedy="delete the one that is filed wrongly",
            )
