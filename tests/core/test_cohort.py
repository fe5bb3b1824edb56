"""A cohort says by how much more alike strangers are where a face lies, and refuses to be anything else."""

from __future__ import annotations

import base64
from dataclasses import asdict, replace

import numpy as np
import pytest

from edge_app.core.cohort import Cohort, Kinds, stored_centres, stored_directions
from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from tests.fakes import embedder_card, points


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def kinds(**changes):
    directions = np.random.default_rng(7).normal(size=(3, 8)).astype(np.float32) * 4
    alike = ((2.0, 0.5, 0.0), (0.5, 1.0, 0.1), (0.0, 0.1, 0.25))
    return replace(Kinds(stored_directions(directions), (0.5, -0.5, 0.0), alike), **changes)


def made(**changes):
    centres = unit(np.random.default_rng(0).normal(size=(40, 8)))
    whole = Cohort(stored_centres(centres), 8, 5, 0.5, 2.0, 0.45, 0.3, kinds(), 0.29, 120)
    return replace(whole, **changes)


def card(cohort, size=8):
    told = points((0.01, 0.3), (0.001, 0.4), templates=(1,), evened=True)
    return embedder_card(embedding_size=size, operating_points=told, cohort=cohort)


def test_excess_is_the_weighted_mean_and_spread_of_the_nearest_centres():
    cohort = made()
    faces = unit(np.random.default_rng(1).normal(size=(7, 8)))
    nearest = np.sort(faces @ cohort.units.T, axis=1)[:, -5:]
    above = 0.5 * nearest.mean(axis=1) + 2.0 * nearest.std(axis=1) - 0.45
    assert (above > 0).any() and (above < 0).any()
    assert np.allclose(cohort.excess(faces), np.maximum(0, above), atol=1e-6)
    assert cohort.excess(np.zeros((0, 8), np.float32)).shape == (0,)


def test_many_faces_are_no_different_from_one_at_a_time():
    cohort = made()
    faces = unit(np.random.default_rng(2).normal(size=(5000, 8)))
    one_by_one = np.concatenate([cohort.excess(faces[i : i + 1]) for i in (0, 4095, 4096, 4999)])
    assert np.allclose(cohort.excess(faces)[[0, 4095, 4096, 4999]], one_by_one, atol=1e-6)


def test_centres_lose_less_than_a_hundredth_by_being_stored():
    centres = unit(np.random.default_rng(3).normal(size=(64, 128)))
    cohort = made(centres=stored_centres(centres), size=128, people=200, kinds=None)
    assert (cohort.units * centres).sum(axis=1).min() > 0.999


def test_a_card_carries_its_cohort():
    cohort = made()
    again = ModelCard.from_json(card(cohort).to_json())
    assert again.cohort == cohort and again.operating_points[0].evened
    assert ModelCard.from_json(card(None).to_json()).cohort is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"centres": "no base64!"}, "cannot be read"),
        ({"centres": ""}, "rows of 8"),
        ({"centres": base64.b64encode(bytes(8 * 40)).decode()}, "unit vectors"),
        ({"centres": base64.b64encode(b"\x7f" * 24).decode()}, "unit vectors"),
        ({"centres": base64.b64encode(b"\x7f" * 321).decode()}, "rows of 8"),
        ({"size": 0}, "rows of 0"),
        ({"nearest": 1}, "looks at 1 of 40"),
        ({"nearest": 41}, "looks at 41 of 40"),
        ({"people": 39}, "40 centres of 39 people"),
        ({"mean_weight": float("nan")}, "weights and cosines"),
        ({"spread_weight": 1e9}, "weights and cosines"),
        ({"same_person": 1.5}, "weights and cosines"),
        ({"usual": "x"}, "usual"),
    ],
)
def test_a_damaged_cohort_is_one_clear_line(changes, words):
    with pytest.raises(ModelError, match=words) as caught:
        made(**changes)
    assert "\n" not in str(caught.value)
    whole = asdict(made()) | changes
    with pytest.raises(ModelError):
        ModelCard.from_json(card(None).to_json().replace('"cohort": null', f'"cohort": {as_json(whole)}'))


def test_shares_of_kinds_are_a_softmax_and_peers_are_those_of_ones_own_kind():
    ours = kinds()
    faces = unit(np.random.default_rng(1).normal(size=(9, 8)))
    products = np.exp(faces @ ours.weights.T + [0.5, -0.5, 0.0])
    shares = ours.shares(faces)
    assert np.allclose(shares, products / products.sum(axis=1, keepdims=True), atol=1e-6)
    whole = np.eye(3, dtype=np.float32)
    # To one of the first kind, two of his own count twice each and one of the second counts half.
    assert ours.peers(whole[:1], whole[[0, 0, 1]]).tolist() == [4.5]
    assert ours.shares(np.zeros((0, 8), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"directions": "no base64!"}, "cannot be read"),
        ({"directions": ""}, "3 rows of float16"),
        ({"directions": stored_directions(np.full((3, 8), np.inf, np.float32))}, "not finite"),
        ({"directions": stored_directions(np.zeros((3, 4), np.float32))}, "kinds are of 4 numbers a face"),
        ({"offsets": (0.0, float("nan"), 0.0)}, "out of range"),
        ({"offsets": (0.0,)}, "1 kinds and 3 rows"),
        ({"alike": ((1.0, 0.0), (0.0, 1.0))}, "3 kinds and 2 rows"),
        ({"alike": ((1.0, 0.0, -1.0),) * 3}, "out of range"),
    ],
)
def test_damaged_kinds_are_one_clear_line(changes, words):
    with pytest.raises(ModelError, match=words):
        made(kinds=kinds(**changes))
    whole = asdict(made()) | {"kinds": asdict(kinds()) | changes}
    with pytest.raises(ModelError):
        ModelCard.from_json(card(None).to_json().replace('"cohort": null', f'"cohort": {as_json(whole)}'))


def as_json(values):
    import json

    return json.dumps(values)


def test_a_cohort_of_another_embedder_is_refused():
    with pytest.raises(ModelError, match="cohort of 8 numbers a face; expected 16"):
        card(made(), size=16)
    with pytest.raises(ModelError, match=r"shape \(1, 16\)"):
        made().excess(np.zeros((1, 16), np.float32))
