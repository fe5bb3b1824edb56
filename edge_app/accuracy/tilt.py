"""How many people are still named when their heads are tilted, their faces small, half hidden or in the dark.

People of a folder are enrolled with two pictures each; their other pictures are spoiled in known ways and recognized by
the app's own rule, and so are pictures of strangers. Where the landmarks should lie is known: where they were found in
the clean picture, moved along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import Estimate, wilson
from edge_app.accuracy.people_folder import FPIR, MARGIN, Tick, no_tick
from edge_app.core.errors import MediaError
from edge_app.core.types import Embedding, Face, Float32s, Match, Pixels
from edge_app.gallery.calibration import Thresholds
from edge_app.gallery.enrollment import prominence
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference.detector import Detector
from edge_app.inference.embedder import Embedder
from edge_app.media.pictures import read_picture
from edge_app.system.parallel import cores, ordered_map

Matrix = NDArray[np.float64]
Hardship = Callable[[Pixels, Face, np.random.Generator], tuple[Pixels, Matrix]]
"""Pixels (H, W, 3) uint8 RGB and the face they are about, to other pixels and the (2, 3) matrix that moves its points
along."""

_STAYS: Final = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SMALL_FACE_PX: Final = 24.0
CUT_SHARE: Final = 0.35
"""Share of the face's box that lies beyond the picture's left edge."""
FULL_WELL: Final = 1500.0
READ_NOISE: Final = 3.0
"""Electrons of a white pixel in full light, and of the noise of reading a pixel: a small webcam's sensor."""
SPLIT_SEED: Final = 20261126
"""Draws the half of lfw_dev's people that the limits in `edge_app.inference` were chosen on."""


def rolled(degrees: float) -> Hardship:
    """The whole picture turned on a canvas that holds it: counter-clockwise for one half of the pictures."""

    def turn(pixels: Pixels, _face: Face, rng: np.random.Generator) -> tuple[Pixels, Matrix]:
        height, width = pixels.shape[:2]
        side = math.ceil(math.hypot(height, width))
        way = degrees if rng.random() < 0.5 else -degrees
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), way, 1.0)
        matrix[:, 2] += [(side - width) / 2, (side - height) / 2]
        return cast(Pixels, cv2.warpAffine(pixels, matrix, (side, side))), matrix.astype(np.float64)

    return turn


def small(pixels: Pixels, face: Face, _rng: np.random.Generator) -> tuple[Pixels, Matrix]:
    """The picture scaled down until the face's box is 24 px."""
    height, width = pixels.shape[:2]
    size = tuple(max(1, round(side * SMALL_FACE_PX / face.size_px)) for side in (width, height))
    scale = np.array([size[0] / width, size[1] / height])
    moved = np.column_stack([np.diag(scale), scale / 2 - 0.5])
    return cast(Pixels, cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)), moved


def sunglasses(pixels: Pixels, face: Face, _rng: np.random.Generator) -> tuple[Pixels, Matrix]:
    """Two opaque lenses, 0.92 by 0.72 eye distances, and the bridge between them."""
    worn, eyes = pixels.copy(), face.landmarks[:2]
    along = eyes[1] - eyes[0]
    distance, angle = float(np.linalg.norm(along)), math.degrees(math.atan2(along[1], along[0]))
    for x, y in eyes.tolist():
        cv2.ellipse(worn, ((x, y), (0.92 * distance, 0.72 * distance), angle), (18, 18, 20), -1, cv2.LINE_AA)
    ends = [(round(x), round(y)) for x, y in eyes.tolist()]
    cv2.line(worn, ends[0], ends[1], (18, 18, 20), max(1, round(distance * 0.08)), cv2.LINE_AA)
    return worn, _STAYS


def cut_off(pixels: Pixels, face: Face, _rng: np.random.Generator) -> tuple[Pixels, Matrix]:
    """The picture ends in the face: its left third is gone."""
    left = min(max(0, round(float(face.box[0] + CUT_SHARE * face.width_px))), pixels.shape[1] - 1)
    return np.ascontiguousarray(pixels[:, left:]), np.array([[1.0, 0.0, -left], [0.0, 1.0, 0.0]])


def dimmed(light: float) -> Hardship:
    """Every grey level multiplied and rounded: at 0.02 six levels are left."""
    return lambda pixels, _face, _rng: (np.round(pixels.astype(np.float32) * light).astype(np.uint8), _STAYS)


def night(light: float, *, amplified: bool) -> Hardship:
    """A share of the light on a small sensor, with its shot and read noise; `amplified` to the usual brightness."""

    def expose(pixels: Pixels, _face: Face, rng: np.random.Generator) -> tuple[Pixels, Matrix]:
        electrons = (pixels.astype(np.float32) / 255) ** 2.2 * (light * FULL_WELL)
        counted = np.clip(rng.poisson(electrons) + rng.normal(0, READ_NOISE, electrons.shape), 0, None)
        linear = np.clip(counted / (FULL_WELL * (light if amplified else 1.0)), 0, 1)
        return np.round(linear ** (1 / 2.2) * 255).astype(np.uint8), _STAYS

    return expose


HARDSHIPS: Final[Mapping[str, Hardship]] = {
    "as it is": lambda pixels, _face, _rng: (pixels, _STAYS),
    **{f"rolled {degrees} degrees": rolled(degrees) for degrees in (15, 30, 45, 60, 90, 180)},
    "face of 24 px": small,
    "sunglasses": sunglasses,
    "cut at the left, 35 %": cut_off,
    "levels x 0.02": dimmed(0.02),
    "light x 0.02": night(0.02, amplified=False),
    "light x 0.02, amplified": night(0.02, amplified=True),
    "light x 0.01, amplified": night(0.01, amplified=True),
}


@dataclass(frozen=True, slots=True)
class TiltOptions:
    """Who takes part."""

    people: int = 100
    """Enrolled with two pictures each; fewer where the folder has fewer people with three or more."""
    probes: int = 3
    """Further pictures of each, at most."""
    strangers: int = 200
    """Pictures of people with a single one."""
    seed: int = 0
    """Draws the enrolled, and the noise."""
    fpir: float = FPIR
    margin: float = MARGIN


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of pictures with one hardship."""

    named: Estimate
    """Share of the probes that were given their own name, as photographs."""
    live: Estimate
    """The same as single frames of a camera, which are searched upright only."""
    found: Estimate
    """Share of the probes, as photographs, in which a face was found."""
    misnamed: int
    """Probes, as photographs, that were given another's name."""
    strangers_named: Estimate
    """Share of the strangers' photographs that were given a name."""
    landmarks_median: float
    """Mean distance of the five landmarks from where they should lie, in eye distances, over the photographs."""
    landmarks_p90: float


@dataclass(frozen=True, slots=True)
class TiltStudy:
    """What became of the pictures, by the way they were spoiled."""

    enrolled: int
    probes: int
    strangers: int
    threshold: float
    outcomes: Mapping[str, Outcome]


@dataclass(frozen=True, slots=True)
class _Seen:
    photo: Match | None
    """None where no face was found."""
    live: Match | None
    off: float


def part_of(people: Sequence[tuple[str, Path]], *, tuned: bool) -> list[tuple[str, Path]]:
    """The pictures of the half of the people that limits were tuned on, or of the other half."""
    names = sorted({name for name, _ in people})
    drawn = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    half = {names[i] for i in (drawn[0::2] if tuned else drawn[1::2])}
    return [(name, path) for name, path in people if name in half]


def study(
    people: Sequence[tuple[str, Path]],
    detector: Detector,
    embedder: Embedder,
    thresholds: Thresholds,
    options: TiltOptions = TiltOptions(),
    tick: Tick = no_tick,
) -> TiltStudy:
    """Enroll, spoil and recognize; `thresholds` make the app's rule. Detector and embedder on one thread each.

    Calls `tick` once for each of the people of the gallery, and for each probe and stranger. Raises MediaError when
    nobody has three pictures in which a face is found.
    """
    pictures: dict[str, list[Path]] = {}
    for name, path in people:
        pictures.setdefault(name, []).append(path)
    able = [name for name, paths in sorted(pictures.items()) if len(paths) > 2]
    drawn = [able[i] for i in np.random.default_rng(options.seed).permutation(len(able))[: options.people]]
    enrolled = list(ordered_map(lambda name: _template(pictures[name][:2], detector, embedder, tick), drawn, cores()))
    names = [name for name, vector in zip(drawn, enrolled, strict=True) if vector is not None]
    if not names:
        raise MediaError(f"{len(able)} people have three pictures", expected="one at least whose faces are found")
    vectors = np.stack([vector for vector in enrolled if vector is not None])
    # Two rows each: the gallery's rule counts the templates, and their mean is the same.
    gallery = Gallery(embedder.model_id, names, np.repeat(vectors, 2, axis=0), np.repeat(np.arange(len(names)), 2))
    rule = gallery.rule(thresholds.points, options.fpir, options.margin, thresholds.cohort)
    probes = [(name, path) for name in names for path in pictures[name][2 : 2 + options.probes]]
    alone = [("", paths[0]) for _, paths in sorted(pictures.items()) if len(paths) == 1][: options.strangers]

    def one(item: tuple[int, tuple[str, Path]]) -> dict[str, _Seen]:
        seen = _hardships(
            item[1][1], np.random.SeedSequence((options.seed, item[0])), detector, embedder, gallery, rule
        )
        tick()
        return seen

    judged = list(ordered_map(one, list(enumerate([*probes, *alone])), cores()))
    outcomes = {
        hardship: _outcome(
            [name for name, _ in probes],
            [seen.get(hardship) for seen in judged[: len(probes)]],
            [seen.get(hardship) for seen in judged[len(probes) :]],
        )
        for hardship in HARDSHIPS
    }
    return TiltStudy(len(names), len(probes), len(alone), rule.threshold, outcomes)


def steps(people: Sequence[tuple[str, Path]], options: TiltOptions = TiltOptions()) -> int:
    """How often `study` will tick, at most."""
    counts = np.unique([name for name, _ in people], return_counts=True)[1]
    enrolled = min(options.people, int((counts > 2).sum()))
    return enrolled * (1 + options.probes) + min(options.strangers, int((counts == 1).sum()))


def _template(paths: Sequence[Path], detector: Detector, embedder: Embedder, tick: Tick) -> Float32s | None:
    """The mean of the pictures in which a face is found, unit length; None where there is none."""
    vectors = []
    for path in paths:
        pixels = _readable(path)
        face = None if pixels is None else _prominent(detector.detect(pixels, any_way_up=True), pixels)
        if pixels is not None and face is not None:
            vectors += [each.vector for each in embedder.embed(embedder.crops(pixels, [face]))]
    tick()
    return Embedding(np.mean(vectors, axis=0), embedder.model_id).vector if vectors else None


def _hardships(
    path: Path,
    seed: np.random.SeedSequence,
    detector: Detector,
    embedder: Embedder,
    gallery: Gallery,
    rule: MatchRule,
) -> dict[str, _Seen]:
    """What is seen of one picture under each hardship; nothing where the clean picture shows no face."""
    pixels = _readable(path)
    clean = None if pixels is None else _prominent(detector.detect(pixels, any_way_up=True), pixels)
    if pixels is None or clean is None:
        return {}
    seen = {}
    for (name, hardship), child in zip(HARDSHIPS.items(), seed.spawn(len(HARDSHIPS)), strict=True):
        spoiled, moved = hardship(pixels, clean, np.random.default_rng(child))
        photo = _prominent(detector.detect(spoiled, any_way_up=True), spoiled)
        live = _prominent(detector.detect(spoiled), spoiled)
        faces = [face for face in (photo, live) if face is not None]
        same = len(faces) == 2 and np.array_equal(faces[0].landmarks, faces[1].landmarks)
        crops = embedder.crops(spoiled, faces[:1] if same else faces)
        matches = iter(gallery.match(embedder.embed(crops), rule))
        of_photo = next(matches) if photo is not None else None
        of_live = of_photo if same else next(matches) if live is not None else None
        truth = clean.landmarks @ moved[:, :2].T + moved[:, 2]
        eyes = float(np.linalg.norm(truth[1] - truth[0]))
        off = math.nan if photo is None else float(np.linalg.norm(photo.landmarks - truth, axis=1).mean()) / eyes
        seen[name] = _Seen(of_photo, of_live, off)
    return seen


def _prominent(faces: Sequence[Face], pixels: Pixels) -> Face | None:
    size_px = (pixels.shape[1], pixels.shape[0])
    return max(faces, key=lambda face: prominence(face, size_px), default=None)


def _readable(path: Path) -> Pixels | None:
    try:
        return read_picture(path)
    except MediaError:
        return None


def _outcome(names: Sequence[str], probes: Sequence[_Seen | None], strangers: Sequence[_Seen | None]) -> Outcome:
    photos = [seen.photo if seen else None for seen in probes]
    lives = [seen.live if seen else None for seen in probes]
    told = [match.name if match else None for match in photos]
    offs = [seen.off for seen in probes if seen and not math.isnan(seen.off)]
    named = [seen.photo.name is not None for seen in strangers if seen and seen.photo]
    return Outcome(
        named=wilson(sum(one == name for one, name in zip(told, names, strict=True)), len(names)),
        live=wilson(sum(m is not None and m.name == n for m, n in zip(lives, names, strict=True)), len(names)),
        found=wilson(sum(match is not None for match in photos), len(names)),
        misnamed=sum(one is not None and one != name for one, name in zip(told, names, strict=True)),
        strangers_named=wilson(sum(named), len(strangers)),
        landmarks_median=float(np.median(offs)) if offs else math.nan,
        landmarks_p90=float(np.quantile(offs, 0.9)) if offs else math.nan,
    )
