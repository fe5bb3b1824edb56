"""The whole recognizer on a folder of people: faces found, pairs, galleries among strangers, shots refused.

A folder becomes embeddings by the laptop's own detector, crop and embedder, one picture per core; the app's rule is
held against people its thresholds were not made from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.lfw_pairs import LfwPairs, Verification, verification
from edge_app.accuracy.open_set import OpenSet, OpenSetProtocol, Rule, open_set
from edge_app.accuracy.pair_scores import Ints, label_numbers, operating_points, shares_of, unit_rows
from edge_app.accuracy.spoil import SPOILERS
from edge_app.core.cohort import Cohort
from edge_app.core.errors import MediaError
from edge_app.core.model_card import OperatingPoint
from edge_app.core.types import Face, Float32s, Pixels
from edge_app.gallery.calibration import Thresholds
from edge_app.gallery.enrollment import Refusal, choose_face, judge_quality, prominence
from edge_app.gallery.matching import MatchRule, rule_for
from edge_app.inference.detector import Detector
from edge_app.inference.embedder import Embedder
from edge_app.inference.face_quality import QualityLimits, measure
from edge_app.inference.geometry import align, crop_named
from edge_app.media.folders import find_pictures, is_junk, named_folders
from edge_app.media.pictures import read_picture
from edge_app.system.parallel import cores, ordered_map

Tick = Callable[[], None]
"""Called after every picture."""

GALLERY_SIZES = (10, 100)
"""Besides the largest that the folder allows."""
FPIR = 0.01
MARGIN = 0.05
"""The app's own defaults: the share of strangers that may be named, and the least lead over the runner-up."""
SPLITS = tuple(range(20))
_BATCH = 16
_NEVER_ALIKE = -2.0
"""Similarity of a pair one of whose faces was not found: below every cosine, so it is told different."""


def no_tick() -> None:
    """No progress bar."""


# --- seeing ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What detector and enrollment gate made of each picture of a folder of people."""

    paths: tuple[Path, ...]
    identities: tuple[str, ...]
    """Name of the sub-folder of each picture."""
    found: NDArray[np.bool_]
    """(N,) whether a face was found."""
    crops: Pixels
    """(found.sum(), S, S, 3) upright crops of the most prominent faces, in the order of `paths`."""
    reasons: tuple[str | None, ...]
    """Why the enrollment gate would refuse each picture, None where it would not."""

    @property
    def labels(self) -> list[str]:
        """Identity of each crop."""
        return [name for name, found in zip(self.identities, self.found, strict=True) if found]

    @property
    def refused(self) -> Mapping[str, int]:
        """Refused pictures by reason, the most frequent first."""
        return dict(Counter(reason for reason in self.reasons if reason).most_common())


@dataclass(frozen=True, slots=True, eq=False)
class Glance:
    """One picture: the face it is about, and the gate's opinion."""

    face: Face | None
    crop: Pixels | None
    reason: str | None


def glance(pixels: Pixels, detector: Detector, crop: str, limits: QualityLimits) -> Glance:
    """Find the most prominent face, cut it out, and ask the enrollment gate about the picture."""
    faces = detector.detect(pixels, any_way_up=True)
    size_px = (pixels.shape[1], pixels.shape[0])
    chosen = choose_face(faces, size_px, largest=False)
    if not faces:
        return Glance(None, None, chosen.reason if isinstance(chosen, Refusal) else None)
    face = max(faces, key=lambda each: prominence(each, size_px))
    cut = align(pixels, face.landmarks, crop)
    refusal = chosen if isinstance(chosen, Refusal) else judge_quality(measure(face, cut), limits)
    return Glance(face, cut, refusal.reason if refusal else None)


def people_in(folder: Path, *, flat: bool = False) -> list[tuple[str, Path]]:
    """Identity and path of every picture, sorted. Raises MediaError for a sub-folder without pictures, or none at all.

    `flat`: a folder without sub-folders is one of pictures of as many people, named like the files.
    """
    if flat and folder.is_dir() and not any(path.is_dir() and not is_junk(path.name) for path in folder.iterdir()):
        return [(path.name, path) for path in find_pictures(folder)]

    def refuse(problem: str) -> None:
        raise MediaError(problem)

    people = named_folders(folder, of="person", unused=[], problem=refuse)
    return [(name, path) for name, pictures in people for path in pictures]


def look_at(people: Sequence[tuple[str, Path]], detector: Detector, crop: str, tick: Tick = no_tick) -> Looks:
    """Look at every picture, one per core: open the detector with one thread. Unreadable pictures count as no face."""
    limits = QualityLimits()

    def one(item: tuple[str, Path]) -> Glance:
        try:
            return glance(read_picture(item[1]), detector, crop, limits)
        except MediaError:
            return Glance(None, None, "unreadable")

    seen: list[Glance] = []
    for each in ordered_map(one, people, cores()):
        seen.append(each)
        tick()
    size = crop_named(crop).size_px
    crops = [each.crop for each in seen if each.crop is not None]
    return Looks(
        tuple(path for _, path in people),
        tuple(name for name, _ in people),
        np.array([each.crop is not None for each in seen], np.bool_),
        np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8),
        tuple(each.reason for each in seen),
    )


def embed_crops(embedder: Embedder, crops: Pixels, tick: Tick = no_tick) -> Float32s:
    """Embed (N, S, S, 3) crops to (N, D) unit rows, one batch per core: open the embedder with one thread."""
    parts: list[Float32s] = []
    batches = [crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)]
    for batch, rows in zip(batches, ordered_map(embedder.vectors, batches, cores()), strict=True):
        parts.append(rows)
        for _ in batch:
            tick()
    return unit_rows(np.concatenate(parts)) if parts else np.zeros((0, embedder.card.embedding_size or 0), np.float32)


# --- judging -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The app's rule with thresholds from one half of the people, on the other half; over random halves."""

    people: int
    """How many were enrolled; where a half has fewer than asked for, all it has (the mean over the splits)."""
    fpir: float
    """Mean share of strangers that were named."""
    fpir_spread: tuple[float, float]
    """10th and 90th percentile over the splits."""
    fnir: float
    """Mean share of mates that were not given their own name."""
    splits: int


@dataclass(frozen=True, slots=True)
class GalleryFigures:
    """Galleries of one size, two pictures of each person, everybody with a single picture a stranger."""

    people: int
    open_set: OpenSet
    """FNIR at the FPIR asked for; its `realized` is the app's own rule with the given operating points."""
    threshold: float
    """The app's threshold for this many people."""
    held_out: HeldOut | None
    """None where a half has too few people."""


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """What embeddings of a folder of people are worth."""

    pictures: int
    identities: int
    not_found: int
    pairs: Verification | None
    """None without a list of pairs."""
    pairs_not_found: int
    """Pairs told different because a face was not found."""
    points: tuple[OperatingPoint, ...]
    """Measured here, for one template and for two."""
    galleries: tuple[GalleryFigures, ...]


def points_of(vectors: Float32s, labels: Sequence[str], cohort: Cohort | None = None) -> tuple[OperatingPoint, ...]:
    """Operating points of one template and of two averaged, over (N, D) unit rows."""
    return tuple(
        p for templates in (1, 2) for p in operating_points(vectors, labels, templates=templates, cohort=cohort)
    )


def figures_of(
    looks: Looks,
    vectors: Float32s,
    pairs: LfwPairs | None = None,
    thresholds: Thresholds | None = None,
    *,
    fpir: float = FPIR,
    margin: float = MARGIN,
) -> Figures:
    """Judge the (F, D) unit rows of the faces found.

    `thresholds` are what the app would use; without points the ones measured here stand in.
    """
    cohort = thresholds.cohort if thresholds else None
    points = points_of(vectors, looks.labels, cohort)
    rated = thresholds if thresholds and thresholds.points else Thresholds(points, cohort and _measured_with(cohort))
    numbers = label_numbers(looks.labels, len(vectors))
    verified, unseen = (None, 0) if pairs is None else judge_pairs(looks, vectors, pairs)
    galleries = gallery_figures(vectors, numbers, rated, fpir, margin) if rated.points else ()
    names = len(set(looks.identities))
    missed = int((~looks.found).sum())
    return Figures(len(looks.paths), names, missed, verified, unseen, points, galleries)


def judge_pairs(looks: Looks, vectors: Float32s, pairs: LfwPairs) -> tuple[Verification, int]:
    """Cross-validated accuracy; a pair with a face that was not found is told different. Returns also their number.

    Raises MediaError when a listed picture was not looked at.
    """
    row_of = dict(zip(np.flatnonzero(looks.found).tolist(), range(len(vectors)), strict=True))
    position = {path.resolve(): index for index, path in enumerate(looks.paths)}
    try:
        rows = np.array([row_of.get(position[path.resolve()], -1) for path in pairs.paths])
    except KeyError as error:
        raise MediaError(f"{error.args[0]} is in the list of pairs, but was not looked at") from error
    similarities, seen = pair_scores_of(vectors, rows[pairs.pairs])
    return verification(similarities, pairs.same, pairs.folds), int((~seen).sum())


def pair_scores_of(vectors: Float32s, rows: Ints) -> tuple[Float32s, NDArray[np.bool_]]:
    """Cosines of (P, 2) pairs of rows, where -1 is a face not found; and (P,) whether both were found."""
    seen: NDArray[np.bool_] = np.asarray((rows >= 0).all(axis=1), np.bool_)
    similarities = np.full(len(rows), _NEVER_ALIKE, np.float32)
    similarities[seen] = np.einsum("pd,pd->p", vectors[rows[seen, 0]], vectors[rows[seen, 1]])
    return similarities, seen


def gallery_figures(
    vectors: Float32s, numbers: Ints, thresholds: Thresholds, fpir: float, margin: float
) -> tuple[GalleryFigures, ...]:
    """Galleries of 10, of 100 and of everybody with more than two pictures; none where nobody is a stranger."""
    sizes = np.bincount(numbers) if len(numbers) else np.zeros(0, np.int64)
    able = int((sizes > 2).sum())
    if able == 0 or not (sizes == 1).any():
        return ()
    apart = _held_out(vectors, numbers, thresholds.cohort, fpir, margin)
    made = []
    for people in (*(size for size in GALLERY_SIZES if size < able), able):
        used: list[float] = []

        def rule_of(means: Float32s) -> Rule:
            rule = rule_for_means(means, thresholds, fpir, margin)
            used.append(rule.threshold)  # noqa: B023 - called in this turn only
            return Rule(rule.threshold, rule.margin, rule.company)

        outcome = open_set(vectors, numbers, OpenSetProtocol(people, fpir=fpir), rule_of, thresholds.cohort)
        mean = float(np.mean(used))
        made.append(GalleryFigures(people, outcome, mean, apart.get(people if people != able else 0)))
    return tuple(made)


def rule_for_means(means: Float32s, thresholds: Thresholds, fpir: float, margin: float) -> MatchRule:
    """The app's rule for a gallery of (N, D) unit means of two templates each."""
    cohort = thresholds.cohort
    return rule_for(thresholds.points, 0, len(means), fpir, margin, cohort, shares_of(cohort, means))


def _measured_with(cohort: Cohort) -> Cohort:
    """The cohort for thresholds from the very crowd that they are used on."""
    return replace(cohort, kinds=None)


def _held_out(
    vectors: Float32s, numbers: Ints, cohort: Cohort | None, fpir: float, margin: float
) -> dict[int, HeldOut]:
    """Held-out figures by gallery size; 0 stands for all that a half allows."""
    outcomes: dict[int, list[tuple[float, float, float]]] = {}
    for seed in SPLITS:
        people = np.random.default_rng(seed).permutation(int(numbers.max()) + 1)
        kept_back = np.isin(numbers, people[: len(people) // 2])
        points = points_of(vectors[~kept_back], [str(n) for n in numbers[~kept_back]], cohort)
        rows, owners = vectors[kept_back], numbers[kept_back]
        sizes = np.bincount(owners)
        able = int((sizes > 2).sum())
        if not points or able == 0 or not (sizes == 1).any():
            continue
        for size in (*(s for s in GALLERY_SIZES if s < able), 0):
            enrolled = size or able
            rule = rule_for(points, 0, enrolled, fpir, margin, cohort and _measured_with(cohort))
            protocol = OpenSetProtocol(enrolled, seeds=(seed,), fpir=fpir)
            realized = open_set(rows, owners, protocol, Rule(rule.threshold, rule.margin), cohort).realized
            if realized is not None:
                outcomes.setdefault(size, []).append((realized.fpir.value, realized.fnir.value, enrolled))
    return {size: _summary(np.array(values)) for size, values in outcomes.items()}


def _summary(values: NDArray[np.float64]) -> HeldOut:
    low, high = np.quantile(values[:, 0], [0.1, 0.9])
    fpir, fnir, people = (float(column.mean()) for column in values.T)
    return HeldOut(round(people), fpir, (float(low), float(high)), fnir, len(values))


# --- cards -------------------------------------------------------------------------------------------


def metrics_of(figures: Figures, pairs_file: Path | None = None) -> dict[str, float]:
    """A card's figures by name, shares as shares."""
    named: dict[str, float] = {
        "pictures measured": float(figures.pictures),
        "faces not found": float(figures.not_found),
    }
    if figures.pairs is not None and pairs_file is not None:
        named[f"10-fold accuracy on {pairs_file.stem}"] = round(figures.pairs.accuracy.value, 5)
    for each in figures.galleries:
        named[f"FNIR at FPIR {FPIR:g}, {each.people} people"] = round(each.open_set.fnir_at_fpir.value, 5)
    return named


# --- the enrollment gate -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpoiledRefusals:
    """What the enrollment gate did with one kind of spoiled picture."""

    pictures: int
    """Pictures that passed the gate before they were spoiled."""
    reasons: Mapping[str, int]
    """Refused, by reason."""

    @property
    def share(self) -> float:
        """Share that was refused."""
        return sum(self.reasons.values()) / max(1, self.pictures)


def refused_when_spoiled(
    people: Sequence[tuple[str, Path]], detector: Detector, crop: str, tick: Tick = no_tick
) -> dict[str, SpoiledRefusals]:
    """Spoil every picture that passes the gate in each way of `edge_app.accuracy.spoil`, and ask the gate again."""
    limits = QualityLimits()

    def one(item: tuple[str, Path]) -> dict[str, str | None]:
        try:
            pixels = read_picture(item[1])
        except MediaError:
            return {}
        seen = glance(pixels, detector, crop, limits)
        if seen.face is None or seen.reason is not None:
            return {}
        face = seen.face
        return {name: glance(spoil(pixels, face), detector, crop, limits).reason for name, spoil in SPOILERS.items()}

    told: list[dict[str, str | None]] = []
    for each in ordered_map(one, people, cores()):
        told.append(each)
        tick()
    passed = [each for each in told if each]
    return {
        name: SpoiledRefusals(
            len(passed), dict(Counter(reason for each in passed if (reason := each[name])).most_common())
        )
        for name in SPOILERS
    }
