"""Thresholds from the user's own pictures: exact on planted pairs, tried out on others, or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_app.accuracy import calibrate as calibration
from edge_app.accuracy.calibrate import calibrate, try_out
from edge_app.accuracy.pair_scores import label_numbers, operating_points
from edge_app.core.errors import UsageError
from edge_app.gallery.matching import rule_for


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


def test_a_threshold_lets_through_no_more_strangers_than_it_says():
    rows, names = clouds()
    labels = np.unique(names, return_inverse=True)[1]
    similar = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    strange = (labels[:, None] != labels[None, :])[np.triu_indices(len(rows), 1)]
    points = operating_points(rows, labels, calibration.FMRS)
    assert len(points) > 5
    for point in points:
        assert point.impostor_pairs == strange.sum()
        assert (similar[strange] >= point.threshold).sum() == math.floor(point.fmr * strange.sum() + 1e-9)


def test_a_trial_counts_what_the_other_half_suffers():
    rows, names = clouds()
    good = calibration.calibrate(rows, names, model_id="m", sha256="a" * 64).trial
    assert good is not None and good.enrolled == 6
    assert good.fnir.value < 0.2 and good.fpir.value < 0.15
    rows, names = clouds(spread=3.0)
    hopeless = calibration.calibrate(rows, names, model_id="m", sha256="a" * 64).trial
    assert hopeless is not None and hopeless.fnir.value > 0.7


def test_a_name_wants_a_lead_over_the_second_best():
    # Everybody has a twin: whoever is near to one is nearly as near to the other.
    rng = np.random.default_rng(3)
    centres = np.repeat(rng.normal(size=(20, 1, 32)), 2, axis=0) + 0.25 * rng.normal(size=(40, 1, 32))
    rows = (centres + 0.1 * rng.normal(size=(40, 5, 32))).reshape(-1, 32)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels = label_numbers(np.repeat(np.arange(40), 5), 200)
    without, with_lead = (try_out(rows, labels, 0.05, margin) for margin in (0.0, 2.0))
    assert without is not None and with_lead is not None
    assert without.fnir.value < 0.1
    # A quarter of the people have their twin in the gallery.
    assert 0.15 < with_lead.fnir.value < 0.35 and with_lead.fpir.value <= without.fpir.value


def test_zero_of_a_few_is_not_never():
    rows, names = clouds(spread=0.05)
    trial = calibration.calibrate(rows, names, model_id="m", sha256="a" * 64).trial
    assert trial is not None and trial.fnir.value == 0 == trial.fnir.low
    # 24 people, each of whom was enrolled in some half: as if each had been tried once.
    assert trial.fnir.trials <= 24 and 0.1 < trial.fnir.high < 0.2


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


def kinds_of_people(seed=5, count=360):
    """Two groups of people with three pictures each: of a group strangers are alike at about 0.4, of two at 0."""
    rng = np.random.default_rng(seed)

    def unit(rows):
        return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)

    own = unit(0.65 * np.eye(64)[np.arange(count) % 2] + np.sqrt(1 - 0.65**2) * unit(rng.normal(size=(count, 64))))
    owner = np.repeat(np.arange(count), 3)
    return unit(own[owner] + 0.35 * unit(rng.normal(size=(len(owner), 64)))), [f"p{one:03d}" for one in owner]


@pytest.mark.slow
def test_a_large_folder_gets_kinds_of_its_own_where_they_pay():
    vectors, names = kinds_of_people()
    made = calibrate(vectors, names, model_id="m", sha256="0" * 64)
    cohort = made.calibration.cohort
    assert cohort is not None and cohort.kinds is not None
    assert all(point.evened for point in made.calibration.points)
    assert made.trial is not None and made.trial.fpir.value < 0.03
    alike = cohort.kinds.shares(vectors[:180:6])  # people of one group
    mixed = cohort.kinds.shares(vectors[:90:3])
    rules = [rule_for(made.calibration.points, 0, 30, 0.01, 0.05, cohort, who) for who in (alike, mixed)]
    assert rules[0].threshold > rules[1].threshold


def test_a_small_folder_keeps_plain_cosines():
    rng = np.random.default_rng(6)
    own = rng.normal(size=(320, 64))
    rows = np.repeat(own, 3, axis=0) + 0.3 * rng.normal(size=(960, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    names = [f"p{one // 3:03d}" for one in range(960)]
    made = calibrate(rows[:600], names[:600], model_id="m", sha256="0" * 64)
    assert made.calibration.cohort is None
    assert not any(point.evened for point in made.calibration.points)
