"""Thresholds from the user's own pictures: exact on planted pairs, kept by file, refused where they mean nothing."""

from __future__ import annotations

import json
import math
import stat
from dataclasses import replace

import numpy as np
import pytest

from edge_app.accuracy import pair_scores
from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.model_card import InputSpec, ModelCard, OperatingPoint
from edge_app.gallery import calibration
from edge_app.system.files import write_private

CARD = ModelCard(
    id="m",
    task="image-embedding",
    family="embedding",
    input=InputSpec("input", 32, 32),
    outputs=("embedding",),
    precision="fp32",
    licence="CC0-1.0",
    commercial_use=True,
    origin="made up",
    origin_sha256="0" * 64,
    crop="centre-1",
    embedding_size=16,
    operating_points=(OperatingPoint(0.01, 0.5, 1000),),
)


def clouds(identities=24, each=5, spread=0.3, size=16, seed=0):
    """Unit vectors around a random direction per identity, and their names."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(identities, 1, size))
    rows = (
        centres / np.linalg.norm(centres, axis=2, keepdims=True)
        + spread * rng.normal(size=(identities, each, size)) / 4
    )
    rows = rows.reshape(-1, size)
    names = [f"thing {i:02d}" for i in range(identities) for _ in range(each)]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), names


def calibrated(**options):
    rows, names = clouds()
    return calibration.calibrate(rows, names, model_id="m", sha256="a" * 64, **options)


@pytest.mark.parametrize("templates", [1, 2])
def test_points_are_those_of_the_evaluator(templates):
    rows, names = clouds(identities=70, each=7)
    labels = np.unique(names, return_inverse=True)[1]
    ours = calibration.operating_points(rows, labels, templates)
    theirs = pair_scores.operating_points(rows, labels, calibration.FMRS, templates)
    # Matrix products of other block sizes differ in the last bit.
    assert [replace(p, threshold=0.0) for p in ours] == [replace(p, threshold=0.0) for p in theirs]
    assert np.allclose([p.threshold for p in ours], [p.threshold for p in theirs], atol=1e-6)
    assert len(ours) > 6


def test_a_threshold_lets_through_no_more_strangers_than_it_says():
    rows, names = clouds()
    labels = np.unique(names, return_inverse=True)[1]
    similar = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    strange = (labels[:, None] != labels[None, :])[np.triu_indices(len(rows), 1)]
    for point in calibration.operating_points(rows, labels):
        assert point.impostor_pairs == strange.sum()
        assert (similar[strange] >= point.threshold).sum() == math.floor(point.fmr * strange.sum() + 1e-9)


def test_a_trial_counts_what_the_other_half_suffers():
    good = calibrated().trial
    assert good is not None and good.enrolled == 6
    assert good.fnir.value < 0.2 and good.fpir.value < 0.15
    rows, names = clouds(spread=3.0)
    hopeless = calibration.calibrate(rows, names, model_id="m", sha256="a" * 64).trial
    assert hopeless is not None and hopeless.fnir.value > 0.7


def test_zero_of_a_few_is_not_never():
    share = calibration.share_of(0, 400, 20)
    assert share.value == 0 and share.low == 0 and 0.1 < share.high < 0.2


def test_too_little_is_refused_with_what_is_needed():
    for identities, each in ((9, 5), (12, 2)):
        rows, names = clouds(identities, each)
        with pytest.raises(UsageError, match="at least 10, each with 3"):
            calibration.calibrate(rows, names, model_id="m", sha256="a")
    with pytest.raises(UsageError, match="0 of 0"):
        calibration.calibrate(np.zeros((0, 4), np.float32), [], model_id="m", sha256="a")


def test_one_picture_under_two_names_is_found():
    rows, names = clouds()
    rows[7] = rows[100]
    with pytest.raises(UsageError, match="'thing 01' and 'thing 20' hold the same picture"):
        calibration.calibrate(rows, names, model_id="m", sha256="a")


def test_calibrated_points_take_the_place_of_the_cards_for_that_file_alone(home):
    assert calibration.points_of(home, CARD, "a" * 64) == CARD.operating_points
    made = calibrated()
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
