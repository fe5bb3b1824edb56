"""Families of labels: what is a tree, which family is told, and what a card may hold."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_app.core.errors import ModelError
from edge_app.core.hierarchy import MOST_DEPTH, Family, Hierarchy
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Classification, ClassScore
from tests.model_store.planted import colour_card

LABELS = ("ant", "bee", "eagle", "hawk", "robin", "stone")
TREE = Hierarchy(
    (
        Family("bird", ("raptor", "robin"), 0.8),
        Family("raptor", ("eagle", "hawk"), 0.6),
        Family("insect", ("ant", "bee"), 0.9),
    )
)


def answer(bar=0.9, **chances):
    scores = [ClassScore(label, chances.get(label, 0.0)) for label in LABELS]
    scores.sort(key=lambda score: -score.probability)
    return Classification(tuple(scores), scores[0].probability >= bar, bar, TREE)


def test_the_tree_knows_what_lies_in_it():
    TREE.check(LABELS)
    assert {name: sorted(leaves) for name, leaves in TREE.leaves.items()} == {
        "bird": ["eagle", "hawk", "robin"], "raptor": ["eagle", "hawk"], "insect": ["ant", "bee"],
    }  # fmt: skip
    assert TREE.ancestors("hawk") == ("raptor", "bird") and TREE.ancestors("stone") == ()


@pytest.mark.parametrize(
    ("chances", "name", "words", "value"),
    [
        ({"ant": 0.95, "bee": 0.05}, "ant", "ant", 0.95),
        ({"ant": 0.5, "bee": 0.45, "stone": 0.05}, "insect", "some insect", 0.95),
        ({"ant": 0.5, "bee": 0.35, "stone": 0.15}, None, None, 0.5),
        ({"eagle": 0.35, "hawk": 0.3, "robin": 0.35}, "raptor", "some raptor", 0.65),  # the smallest that is sure
        ({"eagle": 0.3, "hawk": 0.25, "robin": 0.45}, "bird", "some bird", 1.0),
        ({"robin": 0.45, "stone": 0.55}, None, None, 0.55),
    ],
)
def test_where_no_label_is_sure_the_smallest_family_that_is_gets_told(chances, name, words, value):
    told = answer(**chances)
    assert (told.name, told.words) == (name, words)
    assert told.value == pytest.approx(value)
    assert (told.family is None) == (name is None or name == "ant")


def refused(families, labels=LABELS):
    with pytest.raises(ModelError) as caught:
        Hierarchy(tuple(Family(name, tuple(members)) for name, members in families.items())).check(labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_tree_of_these_labels_is_refused_in_words():
    assert "is inside itself" in refused({"a": ["b", "ant"], "b": ["a", "bee"]})
    assert "is inside itself" in refused({"a": ["a", "ant"]})
    assert "in two places" in refused({"a": ["ant", "bee"], "b": ["bee", "hawk"]})
    assert "in two places" in refused({"a": ["ant", "ant"]})
    assert "neither a class nor a family; expected classes such as" in refused({"a": ["ant", "wasp"]})
    assert "both a family and a class" in refused({"ant": ["bee", "hawk"]})
    assert "holds every class" in refused({"all": LABELS})
    assert "1 member" in refused({"a": ["ant"]})
    assert "a family is called" in refused({"a\x1b[2J": ["ant", "bee"]})
    assert "a family is called" in refused({" a": ["ant", "bee"]})
    assert "a family is called" in refused({"a" * 81: ["ant", "bee"]})
    with pytest.raises(ModelError, match="twice as a family"):
        Hierarchy((Family("a", ("ant", "bee")), Family("a", ("hawk", "eagle"))))
    with pytest.raises(ModelError, match="0 families"):
        Hierarchy(())


def test_a_tree_may_be_as_deep_as_the_limit_and_no_deeper():
    def chain(depth):
        labels = [str(number) for number in range(depth + 1)]
        return tuple(
            Family(f"f{n}", (labels[n], f"f{n + 1}" if n < depth - 1 else labels[n + 1])) for n in range(depth)
        )

    assert len(Hierarchy(chain(MOST_DEPTH)).ancestors(str(MOST_DEPTH))) == MOST_DEPTH
    with pytest.raises(ModelError, match="lies in 8 others or more"):
        Hierarchy(chain(MOST_DEPTH + 1))


CARD = colour_card(hierarchy=Hierarchy((Family("warm", ("red", "green"), 0.7),)))
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["red", "warm", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    ("hierarchy",), ("hierarchy", "families"), ("hierarchy", "families", 0),
    *(("hierarchy", "families", 0, name) for name in ("name", "members", "sure_from")),
    ("hierarchy", "families", 0, "members", 1),
]  # fmt: skip


def test_a_card_keeps_its_families_and_one_without_says_nothing_of_them():
    assert ModelCard.from_json(CARD.to_json()) == CARD
    assert CARD.names == ("red", "green", "blue", "warm")
    assert "hierarchy" not in json.loads(colour_card().to_json())


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(PLACES), value=odd)
def test_any_value_in_a_card_s_tree_gives_a_card_or_one_line(path, value):
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
