"""A cohort says by how much more alike strangers are where a face lies, and refuses to be anything else."""

from __future__ import annotations

import base64
from dataclasses import asdict, replace

import numpy as np
import pytest

from edge_app.core.cohort import Cohort, stored_centres
from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from tests.fakes import embedder_card, points


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def made(**changes):
    centres = unit(np.random.default_rng(0).normal(size=(40, 8)))
    whole = Cohort(stored_centres(centres), 8, 5, 0.5, 2.0, 0.1, 0.3, (0.3, 0.1, 1.2), 0.29, 120)
    return replace(whole, **changes)


def card(cohort, size=8):
    told = points((0.01, 0.3), (0.001, 0.4), templates=(1,), evened=True)
    return embedder_card(embedding_size=size, operating_points=told, cohort=cohort)


def test_excess_is_the_weighted_mean_and_spread_of_the_nearest_centres():
    cohort = made()
    faces = unit(np.random.default_rng(1).normal(size=(7, 8)))
    nearest = np.sort(faces @ cohort.units.T, axis=1)[:, -5:]
    assert np.allclose(cohort.excess(faces), 0.5 * nearest.mean(axis=1) + 2.0 * nearest.std(axis=1) - 0.1, atol=1e-6)
    assert cohort.excess(np.zeros((0, 8), np.float32)).shape == (0,)


def test_many_faces_are_no_different_from_one_at_a_time():
    cohort = made()
    faces = unit(np.random.default_rng(2).normal(size=(5000, 8)))
    one_by_one = np.concatenate([cohort.excess(faces[i : i + 1]) for i in (0, 4095, 4096, 4999)])
    assert np.allclose(cohort.excess(faces)[[0, 4095, 4096, 4999]], one_by_one, atol=1e-6)


def test_centres_lose_less_than_a_hundredth_by_being_stored():
    centres = unit(np.random.default_rng(3).normal(size=(64, 128)))
    cohort = made(centres=stored_centres(centres), size=128, people=200)
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
        ({"likeness": (0.3, 0.1, 0.0)}, "power 0.0"),
        ({"likeness": (0.3, 0.1)}, "likeness"),
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


def as_json(values):
    import json

    return json.dumps(values)


def test_a_cohort_of_another_embedder_is_refused():
    with pytest.raises(ModelError, match="cohort of 8 numbers a face; expected 16"):
        card(made(), size=16)
    with pytest.raises(ModelError, match=r"shape \(1, 16\)"):
        made().excess(np.zeros((1, 16), np.float32))
