"""Operating points measured on the user's own pictures, in place of those that a model's card brings.

Hides how thresholds come from pairs of strangers, how a trial on the other half says what they are worth, and the
file that keeps them. Flows in: unit vectors with a label each, the data folder. Flows out: `OperatingPoint`s, and a
`Trial` with intervals. They belong to one model file, told by its hash: another file starts from its card again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.documents import DocumentError, parse_json, typed
from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_app.core.model_card import ModelCard, OperatingPoint, check_operating_points
from edge_app.core.types import Float32s
from edge_app.gallery.matching import rule_for
from edge_app.model_store.catalogue import catalogue
from edge_app.system.data_folder import Home
from edge_app.system.files import readable_os_errors, write_json

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
_BLOCK_ROWS: Final = 256
_FILE_LIMIT_BYTES: Final = 1 << 20
_SAME_PICTURE: Final = 0.99999
"""Two things this alike are one picture filed twice: it would push every threshold to 1."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """A measured share with the interval it is trusted to lie in, 95 %."""

    value: float
    low: float
    high: float
    identities: int
    """How many things or people it rests on; pictures of one are not independent, so they count once."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What thresholds from one half of the identities did on the other, over `SPLITS` random halves."""

    enrolled: int
    """Identities in each gallery, with two pictures each."""
    fpir: Share
    """Share of strangers' pictures that were called somebody."""
    fnir: Share
    """Share of pictures of the enrolled that were not given their own name."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds of one model file, and what they rest on."""

    model_id: str
    sha256: str
    """Hash of the model file."""
    identities: int
    pictures: int
    points: tuple[OperatingPoint, ...]
    """For one template and for the mean of two."""
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


def operating_points(vectors: Float32s, labels: Numbers, templates: int = 1) -> tuple[OperatingPoint, ...]:
    """The exact threshold at each rate of `FMRS` over (N, D) unit rows with (N,) identity numbers.

    `templates=1`: all pairs of pictures of two identities. `templates=2`: every picture against the mean of the first
    two of every other identity. At a threshold at most floor(fmr * pairs) impostors match. A rate that would rest on
    less than one impostor is left out.
    """
    if templates == 1:
        rows, owners = vectors, labels
    else:
        rows, owners = _means_of_two(vectors, labels)
    sizes = np.bincount(labels, minlength=int(labels.max(initial=0)) + 1)
    pairs = int((len(labels) - sizes[owners]).sum()) // (2 if templates == 1 else 1)
    keep = math.floor(max(FMRS) * pairs + 1e-9) + 1
    largest = np.empty(0, np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS] @ rows.T
        other = labels[start : start + _BLOCK_ROWS, None] != owners[None, :]
        if templates == 1:
            # Every unordered pair once.
            other &= np.arange(start, start + len(block))[:, None] < np.arange(len(rows))[None, :]
        largest = _largest(np.concatenate([largest, block[other]]), keep)
    ordered = np.sort(largest)[::-1]
    return tuple(
        OperatingPoint(fmr, _just_above(ordered[math.floor(fmr * pairs + 1e-9)]), pairs, templates)
        for fmr in FMRS
        if fmr * pairs >= 1
    )


def calibrate(
    vectors: Float32s, names: Sequence[str], *, model_id: str, sha256: str, fpir: float = 0.01, margin: float = 0.05
) -> Calibration:
    """Measure thresholds on (N, D) unit rows with one name each, and try them out.

    Raises UsageError when there are too few or too many pictures, or one picture is filed under two names.
    """
    _check_enough(names)
    labels = np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1).astype(np.int64)
    _check_apart(vectors, labels, names)
    single = operating_points(vectors, labels)
    genuine = _genuine(vectors, labels)
    return Calibration(
        model_id,
        sha256,
        int(labels.max()) + 1,
        len(labels),
        single + operating_points(vectors, labels, 2),
        float(np.median(genuine)),
        {point.fmr: float((genuine >= point.threshold).mean()) for point in single},
        try_out(vectors, labels, fpir, margin),
    )


def try_out(vectors: Float32s, labels: Numbers, fpir: float, margin: float) -> Trial | None:
    """Thresholds from half of the identities, tried on a gallery and strangers of the other half."""
    identities = int(labels.max()) + 1
    strangers, mates = np.zeros((2, identities)), np.zeros((2, identities))
    enrolled = 0
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(identities)
        half, known = identities // 2, identities // 4
        ours = np.isin(labels, order[:half])
        points = [p for n in (1, 2) for p in operating_points(vectors[ours], _renumbered(labels[ours]), n)]
        if min(sum(p.templates == n for p in points) for n in (1, 2)) < 2:
            return None
        gallery_ids, enrolled = np.sort(order[half : half + known]), known
        rule = rule_for(points, 0, known, fpir, margin)
        enrolled_rows = np.concatenate([rng.permutation(np.flatnonzero(labels == i))[:2] for i in gallery_ids])
        gallery, _ = _means_of_two(vectors[enrolled_rows], labels[enrolled_rows])
        for totals, ids in ((mates, gallery_ids), (strangers, order[half + known :])):
            probes = np.setdiff1d(np.flatnonzero(np.isin(labels, ids)), enrolled_rows)
            named, best = _named(vectors[probes] @ gallery.T, rule.threshold, rule.margin)
            right = gallery_ids[best] == labels[probes]
            wrong = named if totals is strangers else ~(named & right)
            totals += [
                np.bincount(labels[probes], wrong, identities),
                np.bincount(labels[probes], minlength=identities),
            ]
    return Trial(enrolled, _share(*strangers), _share(*mates))


def points_of(home: Home | None, card: ModelCard, sha256: str | None = None) -> tuple[OperatingPoint, ...]:
    """The operating points that hold here: those calibrated on the user's folder, else the card's.

    `sha256` is the hash of the model's file; without it, of the build of that id and precision at hand. Raises
    EdgeError when the file of calibrations is damaged.
    """
    stored = _stored(home) if home else ()
    of_model = [one for one in stored if one.model == card.id]
    if home and of_model:
        if sha256 is None:
            builds = (e.sha256 for e in catalogue(home) if (e.id, e.precision) == (card.id, card.precision))
            sha256 = next(builds, "")
        for one in of_model:
            if one.sha256 == sha256:
                return one.points
    return card.operating_points


def save(home: Home, calibrations: Sequence[Calibration], created_s: float) -> None:
    """Keep calibrations, each in place of an earlier one of the same file."""
    hashes = {one.sha256 for one in calibrations}
    kept = [one for one in _stored(home) if one.sha256 not in hashes]
    _write(
        home,
        [
            *kept,
            *(
                _Stored(one.model_id, one.sha256, one.points, created_s, one.identities, one.pictures)
                for one in calibrations
            ),
        ],
    )


def reset(home: Home, model_id: str) -> int:
    """Go back to the card's operating points; returns how many calibrations of that model were deleted."""
    stored = _stored(home)
    kept = [one for one in stored if one.model != model_id]
    if len(kept) < len(stored):
        _write(home, kept)
    return len(stored) - len(kept)


def path_of(home: Home) -> Path:
    """The file that keeps calibrations."""
    return home.path / "calibrations.json"


def share_of(hits: int | float, trials: int | float, identities: int) -> Share:
    """`hits` of `trials` with Wilson's interval (Wilson 1927) as if every identity had been tried once.

    That is the cautious end: pictures of one identity may all fail together. Zero of a few is not taken for never.
    """
    if not trials or not identities:
        return Share(math.nan, 0.0, 1.0, 0)
    z, share = NormalDist().inv_cdf(0.975), hits / trials
    centre = (share + z * z / (2 * identities)) / (1 + z * z / identities)
    spread = math.sqrt(share * (1 - share) / identities + z * z / (4 * identities**2))
    half = z / (1 + z * z / identities) * spread
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Share(share, 0.0 if hits == 0 else low, 1.0 if hits == trials else high, identities)


def _share(hits: NDArray[np.float64], trials: NDArray[np.float64]) -> Share:
    return share_of(float(hits.sum()), float(trials.sum()), int((trials > 0).sum()))


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


def _check_apart(vectors: Float32s, labels: Numbers, names: Sequence[str]) -> None:
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


def _genuine(vectors: Float32s, labels: Numbers) -> Float32s:
    found = []
    for label in range(int(labels.max()) + 1):
        own = vectors[labels == label]
        found.append((own @ own.T)[np.triu_indices(len(own), 1)])
    return np.concatenate(found)


def _means_of_two(vectors: Float32s, labels: Numbers) -> tuple[Float32s, Numbers]:
    """Unit mean of the first two rows of each identity that has so many, and the identities, ascending."""
    order = np.argsort(labels, kind="stable")
    owners, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    first = starts[sizes >= 2]
    means = vectors[order[first]] + vectors[order[first + 1]]
    lengths = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return np.asarray(means / lengths, np.float32), owners[sizes >= 2].astype(np.int64)


def _named(similarities: Float32s, threshold: float, margin: float) -> tuple[NDArray[np.bool_], Numbers]:
    best = similarities.argmax(axis=1)
    top = similarities[np.arange(len(best)), best]
    lead = np.full(len(best), 2.0) if similarities.shape[1] < 2 else top - np.partition(similarities, -2, axis=1)[:, -2]
    named: NDArray[np.bool_] = (top >= threshold) & (lead >= margin)
    return named, best


def _renumbered(labels: Numbers) -> Numbers:
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _largest(values: Float32s, keep: int) -> Float32s:
    return values if len(values) <= keep else np.partition(values, len(values) - keep)[len(values) - keep :]


def _just_above(similarity: np.float32) -> float:
    return float(np.nextafter(similarity, np.float32(np.inf)))


@dataclass(frozen=True, slots=True)
class _Stored:
    """One entry of the file."""

    model: str
    sha256: str
    points: tuple[OperatingPoint, ...]
    created_s: float = 0.0
    identities: int = 0
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    calibrations: tuple[_Stored, ...]


def _stored(home: Home) -> tuple[_Stored, ...]:
    path = path_of(home)
    with readable_os_errors(path.parent):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return ()
    try:
        stored = typed(parse_json(content, most_bytes=_FILE_LIMIT_BYTES), _File).calibrations
        for one in stored:
            check_operating_points(one.points)
    except (DocumentError, ModelError) as error:
        raise EdgeError(
            f"the calibrations in {path} cannot be read: {error}", remedy="delete that file and calibrate again"
        ) from error
    return stored


def _write(home: Home, stored: Sequence[_Stored]) -> None:
    write_json(path_of(home), {"calibrations": [asdict(one) for one in stored]})
