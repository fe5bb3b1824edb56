"""Model cards: everything that a card of 0.1.0 held is read, and a wrong value is refused wherever it stands."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec, ModelCard, OperatingPoint
from edge_app.model_store import catalogue, shipped
from edge_app.model_store.onnx_inspect import inspect

CARD = inspect(catalogue.build(None, "sface", "fp32").path).card


def test_every_shipped_card_comes_back_from_its_own_json():
    cards = [inspect(entry.path).card for entry in shipped.entries()]
    assert len(cards) >= 6
    for card in cards:
        assert ModelCard.from_json(card.to_json()) == card


def places(value, path=()):
    """Every place of a JSON document."""
    yield path
    if isinstance(value, dict):
        for name, each in value.items():
            yield from places(each, (*path, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from places(each, (*path, number))


PLAIN = json.loads(CARD.to_json())
PLACES = [path for path in places(PLAIN) if path]
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\x1b[2J", "\ud800", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(path=st.sampled_from(PLACES), value=odd)
def test_any_field_with_any_value_gives_a_card_or_one_line(path, value):
    plain = json.loads(CARD.to_json())
    inside = plain
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    try:
        card = ModelCard.from_json(json.dumps(plain))
    except ModelError as error:
        assert str(error).isprintable()
        return
    assert ModelCard.from_json(card.to_json()) == card
    shown = card.to_json().replace("\\n", " ").replace("\\t", " ")
    assert "\x1b" not in shown and "\\u001b" not in shown


@pytest.mark.parametrize(
    "point",
    [
        {"fmr": 0.0}, {"fmr": 1.0}, {"fmr": math.nan}, {"fmr": -0.1},
        {"threshold": math.inf}, {"threshold": 1.1}, {"threshold": -1.1},
        {"impostor_pairs": 99}, {"impostor_pairs": 0}, {"impostor_pairs": -5}, {"impostor_pairs": 1e6},
        {"templates": 0}, {"templates": 101}, {"templates": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_a_point_that_nothing_could_have_measured_is_refused(point):
    with pytest.raises(ModelError, match=next(iter(point))):
        OperatingPoint(**{"fmr": 0.01, "threshold": 0.4, "impostor_pairs": 10_000} | point)


def test_the_smallest_measurement_that_is_one_passes():
    assert OperatingPoint(0.01, 0.4, 100).templates == 1


def test_thresholds_rise_as_rates_fall_for_each_number_of_templates():
    first, second = OperatingPoint(0.01, 0.4, 10_000), OperatingPoint(0.001, 0.5, 10_000)
    both = replace(CARD, operating_points=(second, first, replace(first, templates=2, threshold=0.9)))
    assert len(both.operating_points) == 3
    for wrong in (replace(second, threshold=0.3), first):
        with pytest.raises(ModelError, match="higher thresholds for lower rates"):
            replace(CARD, operating_points=(first, wrong))


def test_numbers_of_the_input_are_finite_and_std_divides():
    for changes in ({"std": (1.0, 0.0, 1.0)}, {"mean": (math.nan, 0.0, 0.0)}, {"std": (1.0, math.inf, 1.0)}):
        with pytest.raises(ModelError, match="finite"):
            InputSpec("x", 32, 32, **changes)
    with pytest.raises(ModelError, match="side"):
        InputSpec("x", 10**6, 32)


def test_joiners_of_persian_labels_are_letters():
    card = replace(CARD, task="classification", labels=("نیم\u200cفاصله", "b"))
    assert ModelCard.from_json(card.to_json()).labels == card.labels
