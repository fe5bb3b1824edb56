"""Thresholds from the user's own pictures are kept by file, and a damaged file is named."""

from __future__ import annotations

import json
import math
import stat
from dataclasses import replace

import numpy as np
import pytest

from edge_app.core.cohort import Cohort, Kinds, stored_centres, stored_directions
from edge_app.core.errors import EdgeError
from edge_app.core.model_card import InputSpec
from edge_app.gallery import calibration
from edge_app.system.files import write_private
from tests.fakes import embedder_card, points

CARD = embedder_card(
    task="image-embedding",
    input=InputSpec("input", 32, 32),
    crop="centre-1",
    embedding_size=16,
    operating_points=points((0.01, 0.5), templates=(1,)),
)


def test_calibrated_points_take_the_place_of_the_cards_for_that_file_alone(home):
    assert calibration.points_of(home, CARD, "a" * 64) == CARD.operating_points
    measured = points((0.01, 0.4), (0.001, 0.5), templates=(1,))
    made = calibration.Calibration("m", "a" * 64, 24, 120, measured)
    calibration.save(home, [made], 1.0)
    assert calibration.points_of(home, CARD, "a" * 64) == made.points
    assert calibration.points_of(home, CARD, "b" * 64) == CARD.operating_points
    assert calibration.points_of(home, replace(CARD, id="other"), "a" * 64) == CARD.operating_points
    assert calibration.points_of(None, CARD, "a" * 64) == CARD.operating_points
    assert stat.S_IMODE(calibration.path_of(home).stat().st_mode) == 0o600
    assert calibration.reset(home, "m") == 1 and calibration.reset(home, "m") == 0
    assert calibration.points_of(home, CARD, "a" * 64) == CARD.operating_points


def entry(**changes):
    point = {"fmr": 0.01, "threshold": 0.5, "impostor_pairs": 100, "templates": 1} | changes
    return json.dumps({"calibrations": [{"model": "m", "sha256": "a", "points": [point]}]})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"calibrations": 3}',
        '{"calibrations": [{"model": "m"}]}',
        entry(fmr=2),
        entry(fmr="x"),
        entry(threshold=math.nan),
        entry(surprise=1),
    ],
)
def test_a_damaged_file_is_named(home, text):
    write_private(calibration.path_of(home), text.encode())
    with pytest.raises(EdgeError, match=r"calibrations.json cannot be read"):
        calibration.points_of(home, CARD, "a")


def cohort(**changes):
    centres = np.random.default_rng(0).normal(size=(20, 16))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    kinds = Kinds(stored_directions(np.ones((2, 16), np.float32)), (0.0, 0.0), ((1.0, 0.1), (0.1, 1.0)))
    whole = Cohort(stored_centres(centres), 16, 5, 0.5, 1.0, 0.1, 0.3, kinds, 0.29, 60)
    return replace(whole, **changes)


EVENED = points((0.01, 0.4), (0.001, 0.5), templates=(1,), evened=True)


def test_thresholds_come_with_the_cohort_that_they_were_measured_with(home):
    card = replace(CARD, operating_points=EVENED, cohort=cohort())
    assert calibration.thresholds_of(home, card, "a").cohort == cohort()
    # A folder calibrated with the card's cohort: its own crowd is the one that counts.
    calibration.save(home, [calibration.Calibration("m", "a", 24, 120, EVENED)], 1.0)
    assert calibration.thresholds_of(home, card, "a").cohort == cohort(kinds=None)
    # An embedder that brought none: the folder's own.
    own = cohort(usual=0.2, kinds=None)
    calibration.save(home, [calibration.Calibration("m", "a", 24, 120, EVENED, own)], 1.0)
    assert calibration.thresholds_of(home, CARD, "a").cohort == own
    # What 0.1.0 measured holds for plain cosines.
    calibration.save(home, [calibration.Calibration("m", "a", 24, 120, CARD.operating_points)], 1.0)
    assert calibration.thresholds_of(home, card, "a").cohort is None


def test_a_damaged_cohort_in_the_file_is_named(home):
    calibration.save(home, [calibration.Calibration("m", "a", 24, 120, EVENED, cohort())], 1.0)
    text = calibration.path_of(home).read_text().replace('"nearest": 5', '"nearest": 500')
    write_private(calibration.path_of(home), text.encode())
    with pytest.raises(EdgeError, match="looks at 500 of 20 centres"):
        calibration.thresholds_of(home, CARD, "a")
