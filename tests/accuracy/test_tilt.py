"""The study of tilt: hardships do what they say, points move as their matrices say, planted answers are counted."""

import cv2
import numpy as np
import pytest

from edge_app.accuracy import tilt
from edge_app.accuracy.tilt import HARDSHIPS, TiltOptions, part_of, steps, study
from edge_app.core.errors import MediaError
from edge_app.core.types import Embedding, Face
from edge_app.gallery.calibration import Thresholds
from edge_app.media.pictures import write_picture
from tests.fakes import points

MARKS = np.array([[80, 70], [120, 72], [101, 95], [85, 120], [117, 121]], np.float32)
COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10], [10, 250, 250]])
FACE = Face(np.array([60, 40, 140, 140], np.float32), MARKS, 0.9)


def marked():
    """A grey picture with a coloured dot on every landmark."""
    pixels = np.full((180, 220, 3), 128, np.uint8)
    for (x, y), colour in zip(MARKS.tolist(), COLOURS.tolist(), strict=True):
        cv2.circle(pixels, (int(x), int(y)), 5, colour, -1)
    return pixels


@pytest.mark.parametrize("name", [n for n in HARDSHIPS if n.startswith(("as", "rolled", "face", "cut"))])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_matrix_leads_to_where_the_points_went(name, seed):
    pixels, moved = HARDSHIPS[name](marked(), FACE, np.random.default_rng(seed))
    places = MARKS @ moved[:, :2].T + moved[:, 2]
    seen = [(x, y, colour) for (x, y), colour in zip(places, COLOURS, strict=True) if 2 < x < pixels.shape[1] - 2]
    assert len(seen) >= 3
    for x, y, colour in seen:
        assert np.abs(pixels[round(y), round(x)].astype(int) - colour).max() < 60


def test_rolls_go_either_way_by_the_degrees_they_say():
    ways = set()
    for seed in range(8):
        _, moved = HARDSHIPS["rolled 30 degrees"](marked(), FACE, np.random.default_rng(seed))
        ways.add(round(float(np.degrees(np.arctan2(moved[1, 0], moved[0, 0])))))
    assert ways == {-30, 30}


def test_a_small_face_is_24_px_and_sunglasses_hide_the_eyes():
    pixels, moved = HARDSHIPS["face of 24 px"](marked(), FACE, np.random.default_rng(0))
    assert FACE.size_px * moved[0, 0] == pytest.approx(24, rel=0.02) and pixels.shape[1] == round(220 * 24 / 80)
    worn, _ = HARDSHIPS["sunglasses"](marked(), FACE, np.random.default_rng(0))
    assert worn[70, 80].max() < 25 and worn[72, 120].max() < 25 and worn[71, 100].max() < 25
    assert (worn[120, 85] == marked()[120, 85]).all()


def test_the_dark_is_dark_and_the_amplified_night_is_bright_and_noisy():
    dim, _ = HARDSHIPS["levels x 0.02"](marked(), FACE, np.random.default_rng(0))
    assert dim.max() == 5
    night, _ = HARDSHIPS["light x 0.02"](marked(), FACE, np.random.default_rng(0))
    loud, _ = HARDSHIPS["light x 0.01, amplified"](marked(), FACE, np.random.default_rng(0))
    corner = (slice(0, 30), slice(0, 30))
    assert night[corner].mean() < 40 and loud[corner].std() > 30 and 90 < loud[corner].mean() < 160


class SeesMarks:
    """Finds the face of `marked` in upright pictures, and where asked for any way up, in all."""

    def detect(self, pixels, *, any_way_up=False):
        upright = pixels.shape == (180, 220, 3)
        return (FACE,) if upright or any_way_up else ()


class ReadsTheCorner:
    """The embedding of a picture is the one that its first pixel's red names; a dark picture is everybody's."""

    model_id = "corner"

    def crops(self, pixels, faces):
        return np.stack([pixels[:2, :2]] * len(faces)) if faces else np.zeros((0, 2, 2, 3), np.uint8)

    def embed(self, crops):
        return [Embedding(np.eye(8)[int(crop[0, 0, 0]) // 32], self.model_id) for crop in crops]


@pytest.fixture
def folder(tmp_path):
    """Three people with four pictures whose corner tells them, and two strangers, one of whom has a corner of them."""
    people = []
    for name, red, count in (("ann", 64, 4), ("ben", 128, 4), ("cem", 200, 3), ("dot", 255, 1), ("eve", 128, 1)):
        for number in range(count):
            pixels = marked()
            pixels[:40, :40] = (red, 0, 0)
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            write_picture(path, pixels)
            people.append((name, path))
    return people


THRESHOLDS = Thresholds(points((1e-2, 0.3), (1e-3, 0.4), (1e-4, 0.5), pairs=10_000), None)


def test_planted_answers_are_counted(folder):
    ticks = []
    options = TiltOptions(people=3, probes=3, strangers=5)
    made = study(folder, SeesMarks(), ReadsTheCorner(), THRESHOLDS, options, lambda: ticks.append(1))
    assert (made.enrolled, made.probes, made.strangers) == (3, 5, 2)
    assert len(ticks) == 3 + 5 + 2 <= steps(folder, options)
    plain = made.outcomes["as it is"]
    assert (plain.named.value, plain.live.value, plain.found.value, plain.misnamed) == (1.0, 1.0, 1.0, 0)
    assert plain.strangers_named.value == 0.5 and plain.landmarks_median == 0.0
    lying = made.outcomes["rolled 90 degrees"]
    assert lying.found.value == 1.0 and lying.live.value == 0.0
    assert made.outcomes["rolled 45 degrees"].landmarks_median > 0.5


def test_a_face_that_is_not_found_is_not_named(folder):
    class Blind(SeesMarks):
        def detect(self, pixels, *, any_way_up=False):
            return super().detect(pixels) if pixels[:40, :40, 0].max() > 10 else ()

    made = study(folder, Blind(), ReadsTheCorner(), THRESHOLDS)
    dim = made.outcomes["levels x 0.02"]
    assert dim.found.value == dim.named.value == 0.0 and np.isnan(dim.landmarks_median)


def test_the_two_halves_share_nobody_and_miss_nobody(folder):
    tuned, kept = part_of(folder, tuned=True), part_of(folder, tuned=False)
    assert {n for n, _ in tuned} & {n for n, _ in kept} == set() and sorted(tuned + kept) == sorted(folder)
    assert len({n for n, _ in tuned}) == 3


def test_too_few_pictures_are_told(folder):
    with pytest.raises(MediaError, match="0 people have three pictures"):
        study([item for item in folder if item[0] in ("dot", "eve")], SeesMarks(), ReadsTheCorner(), THRESHOLDS)


def test_every_hardship_is_judged(folder):
    made = study(folder, SeesMarks(), ReadsTheCorner(), THRESHOLDS, TiltOptions(strangers=0))
    assert tuple(made.outcomes) == tuple(tilt.HARDSHIPS)
    assert made.outcomes["as it is"].strangers_named.trials == 0
