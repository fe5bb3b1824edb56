"""Which detector should find the faces: two of them on a folder of people, and on crowds composed from it.

Nobody marked these pictures by hand. A face counts as known where both detectors, looking at the whole picture at its
own size, agree on its landmarks; the truth is the mean of the two, and in a crowd that mean moved as the face was. Both
have the same share in it. Faces that one of them misses or misplaces at full size are not in the truth: recall by size
is that of faces which both find when large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy import crowd
from edge_app.accuracy.crowd import Crowd, Patch, Truth
from edge_app.accuracy.intervals import Estimate, wilson
from edge_app.accuracy.lfw_pairs import LfwPairs
from edge_app.accuracy.open_set import OpenSetProtocol, open_set
from edge_app.accuracy.pair_scores import label_numbers
from edge_app.accuracy.people_folder import FPIR, Looks, Tick, embed_crops, judge_pairs, no_tick
from edge_app.core.errors import MediaError, ModelError
from edge_app.core.types import Face, Float32s, Pixels
from edge_app.gallery.enrollment import prominence
from edge_app.inference.detector import Detector
from edge_app.inference.embedder import Embedder
from edge_app.inference.geometry import align, box_iou, crop_named
from edge_app.media.pictures import read_picture
from edge_app.system.parallel import cores, ordered_map
from edge_app.system.timing import medians, timed, times_in_turns

AGREE: Final = 0.25
"""Two detectors mean the same face when their landmarks lie within this share of the eye distance, on average."""
FOUND_IOU: Final = 0.4
"""Overlap from which a box found is the face: the contestants frame faces differently, MTCNN tighter."""
BINS_PX: Final = (16.0, 20.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 200.0)
GALLERY: Final = 100


@dataclass(frozen=True, slots=True)
class SizeFigures:
    """One detector on crowd faces of one range of sizes."""

    from_px: float
    to_px: float
    recall: Estimate
    landmark_median: float | None
    """Mean distance of the five landmarks from the truth, as a share of the eye distance: median over faces found."""
    landmark_p90: float | None
    """The same, 90th percentile."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the names are worth that follow from one detector's landmarks; the embedder is the same."""

    not_found: int
    """Pictures without any face found."""
    pairs: Estimate | None
    """Cross-validated accuracy on the list of pairs; None without a list."""
    fnir: Estimate | None
    """FNIR at FPIR 1 % in galleries of `GALLERY` people with two pictures; None where the folder is too small."""


@dataclass(frozen=True, slots=True)
class DetectorFigures:
    sizes: tuple[SizeFigures, ...]
    crowd_recall: Estimate
    """Over all sizes."""
    false_alarms: float
    """Boxes per crowd picture that are no known face, doubles included."""
    empty_alarms: float | None
    """Boxes per background before anything was pasted; None without pictures for backgrounds."""
    names: Names
    speed_ms: Mapping[str, float]
    """Median per picture, contestants taking turns, by what was looked at."""


@dataclass(frozen=True, slots=True)
class Study:
    """Both contestants on the same pictures."""

    pictures: int
    """Pictures of people looked at."""
    known: int
    """Of these, with a face on which both agree."""
    disagreement: float
    """Median distance between the two contestants' landmarks there, as a share of the eye distance."""
    crowds: int
    crowd_faces: int
    detectors: Mapping[str, DetectorFigures]


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """How much is looked at."""

    crowds: int = 200
    """Crowd pictures that are composed."""
    rounds: int = 15
    """Turns of each contestant in the timing."""
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One picture of the folder: each contestant's most prominent face and crop, and the truth if they agree."""

    crops: tuple[Pixels | None, ...]
    truth: Truth | None
    apart: float
    patch: Patch | None
    corner: Pixels | None


@dataclass(frozen=True, slots=True, eq=False)
class _Hits:
    """One detector on one crowd picture."""

    sizes: NDArray[np.float64]
    """(F,) truth."""
    errors: NDArray[np.float64]
    """(F,) landmark error of the faces found, NaN for those missed."""
    alarms: int
    empty: int


def study(
    people: Sequence[tuple[str, Path]],
    detectors: Mapping[str, Detector],
    embedder: Embedder,
    *,
    pairs: LfwPairs | None = None,
    grounds: Sequence[Path] = (),
    timed: Mapping[str, Detector] | None = None,
    frames: Mapping[str, Pixels] | None = None,
    options: StudyOptions = StudyOptions(),
    tick: Tick = no_tick,
) -> Study:
    """Hold two detectors, opened with one thread, against each other.

    `people` as `protocol.people_in` gives them; `grounds` are pictures without faces; `timed` are the same detectors
    with the threads and options to be timed on `frames`, beside a crowd picture. `tick` is called once per picture of
    `people` and per crowd. Raises ModelError when they agree on no face at all.
    """
    names = tuple(detectors)
    seen: list[_Seen] = []
    for each in ordered_map(lambda item: _look(item[1], tuple(detectors.values()), embedder.crop), people, cores()):
        seen.append(each)
        tick()
    known = [each for each in seen if each.patch is not None]
    if not known:
        raise ModelError(f"{' and '.join(names)} agree on no face of {len(people)} pictures", expected="at least one")
    crowds = _crowds(known, grounds, options)
    hits: dict[str, list[_Hits]] = {name: [] for name in names}
    example: Crowd | None = None
    for made, found in ordered_map(lambda make: _judge(make(), detectors), crowds, cores()):
        example = example or made
        for name in names:
            hits[name].append(found[name])
        tick()
    sights = dict(frames or {}) | ({"a crowd, {}x{}".format(*crowd.CROWD_PX): example.pixels} if example else {})
    speed = _speed(timed or detectors, sights, options.rounds)
    figures = {
        name: _figures(
            hits[name],
            _names([each.crops[number] for each in seen], people, embedder, pairs),
            {what: times[name] for what, times in speed.items()},
            bool(grounds),
        )
        for number, name in enumerate(names)
    }
    apart = float(np.median([each.apart for each in known]))
    faces = sum(len(each.sizes) for each in hits[names[0]])
    return Study(len(people), len(known), apart, options.crowds, faces, figures)


# --- the pictures as they are ------------------------------------------------------------------------


def _look(path: Path, detectors: tuple[Detector, ...], crop: str) -> _Seen:
    """Both contestants on one picture of a person; an unreadable one shows no face."""
    try:
        pixels = read_picture(path)
    except MediaError:
        return _Seen((None,) * len(detectors), None, 0.0, None, None)
    size_px = (pixels.shape[1], pixels.shape[0])
    found = [detector.detect(pixels) for detector in detectors]
    faces = [max(each, key=lambda face: prominence(face, size_px)) if each else None for each in found]
    crops = tuple(None if face is None else align(pixels, face.landmarks, crop) for face in faces)
    truth, apart = consensus(faces)
    patch = None if truth is None else crowd.cut(pixels, truth)
    return _Seen(crops, truth, apart, patch, _corner(pixels, found))


def consensus(faces: Sequence[Face | None]) -> tuple[Truth | None, float]:
    """The mean of what the detectors say, if all mean one face; and how far two of them lie apart at most.

    Distances are shares of the mean eye distance, averaged over the five landmarks.
    """
    if any(face is None for face in faces):
        return None, float("inf")
    marks = np.stack([face.landmarks for face in faces if face is not None]).astype(np.float32)
    boxes = np.stack([face.box for face in faces if face is not None]).astype(np.float32)
    truth = Truth(boxes.mean(axis=0), marks.mean(axis=0))
    if truth.eyes_px < 1e-3:
        return None, float("inf")
    apart = max(float(np.linalg.norm(a - b, axis=1).mean()) / truth.eyes_px for a in marks for b in marks)
    return (truth if apart <= AGREE else None), apart


def _corner(pixels: Pixels, found: Sequence[tuple[Face, ...]]) -> Pixels | None:
    """The upper left fifth of a picture where nobody saw a face."""
    height, width = (max(1, side // 5) for side in pixels.shape[:2])
    free = all(face.box[0] >= width or face.box[1] >= height for faces in found for face in faces)
    return pixels[:height, :width].copy() if free else None


def _names(
    crops: Sequence[Pixels | None], people: Sequence[tuple[str, Path]], embedder: Embedder, pairs: LfwPairs | None
) -> Names:
    """Pairs and galleries from one detector's crops."""
    kept = [each for each in crops if each is not None]
    size = crop_named(embedder.crop).size_px
    looks = Looks(
        tuple(path for _, path in people),
        tuple(name for name, _ in people),
        np.array([each is not None for each in crops], np.bool_),
        np.stack(kept) if kept else np.zeros((0, size, size, 3), np.uint8),
        (None,) * len(people),
    )
    vectors = embed_crops(embedder, looks.crops)
    numbers = label_numbers(looks.labels, len(vectors))
    sizes = np.bincount(numbers) if len(numbers) else np.zeros(0, np.int64)
    able = int((sizes > 2).sum())
    fnir = None
    if able and (sizes == 1).any():
        fnir = open_set(vectors, numbers, OpenSetProtocol(min(GALLERY, able), fpir=FPIR)).fnir_at_fpir
    verified = None if pairs is None else judge_pairs(looks, vectors, pairs)[0].accuracy
    return Names(len(crops) - len(kept), verified, fnir)


# --- crowds ------------------------------------------------------------------------------------------


def _crowds(
    known: Sequence[_Seen], grounds: Sequence[Path], options: StudyOptions
) -> Iterator[Callable[[], tuple[Pixels, Crowd]]]:
    """Each crowd as a call that makes it, so that they are made one per core; the n-th is the same in every run."""
    patches = [each.patch for each in known if each.patch is not None]
    corners = [each.corner for each in known if each.corner is not None] or [np.full((8, 8, 3), 127, np.uint8)]

    def make(number: int) -> tuple[Pixels, Crowd]:
        rng = np.random.default_rng((options.seed, number))
        ground = (
            crowd.background(read_picture(grounds[number % len(grounds)])) if grounds else crowd.mosaic(corners, rng)
        )
        chosen = rng.choice(len(patches), min(crowd.FACES, len(patches)), replace=False)
        return ground, crowd.compose(ground, [patches[i] for i in chosen], rng)

    for number in range(options.crowds):
        yield lambda number=number: make(number)  # type: ignore[misc]


def _judge(made: tuple[Pixels, Crowd], detectors: Mapping[str, Detector]) -> tuple[Crowd, dict[str, _Hits]]:
    ground, picture = made
    return picture, {name: _hits(detector, ground, picture) for name, detector in detectors.items()}


def _hits(detector: Detector, ground: Pixels, picture: Crowd) -> _Hits:
    found = detector.detect(picture.pixels)
    errors = match(found, picture.faces)
    alarms = len(found) - int(np.isfinite(errors).sum())
    sizes = np.array([face.size_px for face in picture.faces])
    return _Hits(sizes, errors, alarms, len(detector.detect(ground)))


def match(found: Sequence[Face], truth: Sequence[Truth]) -> NDArray[np.float64]:
    """Give each known face at most one box found, the best overlaps first.

    Returns (F,) landmark errors as shares of the eye distance, NaN for faces that were missed.
    """
    errors = np.full(len(truth), np.nan)
    if not found or not truth:
        return errors
    overlap = box_iou(np.stack([face.box for face in found]), np.stack([face.box for face in truth]))
    free = np.ones(len(found), np.bool_)
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(truth))
        if overlap[row, column] < FOUND_IOU:
            break
        if free[row] and np.isnan(errors[column]):
            free[row] = False
            known = truth[column]
            errors[column] = np.linalg.norm(found[row].landmarks - known.landmarks, axis=1).mean() / known.eyes_px
    return errors


def _figures(hits: Sequence[_Hits], names: Names, speed_ms: Mapping[str, float], has_grounds: bool) -> DetectorFigures:
    sizes, errors = (np.concatenate([getattr(each, what) for each in hits]) for what in ("sizes", "errors"))
    rows = []
    for low, high in pairwise(BINS_PX):
        # The truth's sizes are those of whole pixels: half a pixel beyond the ends still belongs to them.
        inside = (sizes >= (low if low > BINS_PX[0] else 0)) & (sizes < (high if high < BINS_PX[-1] else np.inf))
        rows.append(_of_size(low, high, errors[inside]))
    return DetectorFigures(
        tuple(rows),
        wilson(int(np.isfinite(errors).sum()), len(errors)),
        sum(each.alarms for each in hits) / max(1, len(hits)),
        sum(each.empty for each in hits) / max(1, len(hits)) if has_grounds else None,
        names,
        speed_ms,
    )


def _of_size(low: float, high: float, errors: Float32s | NDArray[np.float64]) -> SizeFigures:
    found = errors[np.isfinite(errors)]
    middle, most = (float(np.quantile(found, q)) for q in (0.5, 0.9)) if len(found) else (None, None)
    return SizeFigures(low, high, wilson(len(found), len(errors)), middle, most)


def _speed(detectors: Mapping[str, Detector], frames: Mapping[str, Pixels], rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each contestant on each frame, turn by turn."""
    return {
        what: medians(
            times_in_turns(
                {name: timed(partial(detector.detect, pixels)) for name, detector in detectors.items()}, rounds
            )
        )
        for what, pixels in frames.items()
    }
