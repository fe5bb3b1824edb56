"""The rule for two changes of one person."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_app.core.names import NAME_MAX_CHARS
from edge_app.fleet.merge import FIRST_NAME_STANDS, FORGET_WINS, NO_SHOT_LEFT, Copy, free_name, merge

A, B, C, D = (bytes([number]) * 16 for number in range(4))
ADA = Copy("Ada", False, frozenset({A, B}), frozenset({(1.0, "yes")}))
copies = st.builds(
    Copy,
    st.sampled_from(["Ada", "Eve", "Zoe"]),
    st.just(False),
    st.frozensets(st.sampled_from([A, B, C, D]), min_size=1),
    st.frozensets(st.sampled_from([(1.0, "yes"), (2.0, "again")])),
)


def test_forgetting_wins_over_any_change_and_says_so_only_where_there_was_one():
    renamed = replace(ADA, name="Eve")
    assert merge(ADA, None, renamed).copy is None and merge(ADA, None, renamed).told == (FORGET_WINS,)
    assert merge(ADA, renamed, None).copy is None and merge(ADA, renamed, None).told == (FORGET_WINS,)
    assert merge(ADA, ADA, None).told == merge(ADA, None, None).told == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "name", "told"),
    [
        ("Ada", "Eve", "Eve", ()),
        ("Eve", "Ada", "Eve", ()),
        ("Eve", "Eve", "Eve", ()),
        ("Zoe", "Eve", "Eve", (FIRST_NAME_STANDS,)),
    ],
)
def test_a_name_changed_on_one_side_stands_and_of_two_the_one_at_the_server(ours, theirs, name, told):
    merged = merge(ADA, replace(ADA, name=ours), replace(ADA, name=theirs))
    assert (merged.copy.name, merged.told) == (name, told)


def test_shots_added_on_both_sides_stay_and_shots_taken_away_on_either_are_gone():
    ours, theirs = replace(ADA, shots=frozenset({A, B, C})), replace(ADA, shots=frozenset({A, D}))
    assert merge(ADA, ours, theirs).copy.shots == {A, C, D}
    assert merge(None, ours, theirs).copy.shots == {A, B, C, D}


def test_whoever_is_left_without_a_shot_by_both_together_is_forgotten():
    merged = merge(ADA, replace(ADA, shots=frozenset({A})), replace(ADA, shots=frozenset({B})))
    assert (merged.copy, merged.told) == (None, (NO_SHOT_LEFT,))


def test_a_side_without_a_shot_of_the_model_takes_none_away():
    assert merge(ADA, replace(ADA, shots=frozenset()), ADA).copy == ADA


def test_consents_are_united():
    ours, theirs = replace(ADA, consents=frozenset({(2.0, "b")})), replace(ADA, consents=frozenset())
    assert merge(ADA, ours, theirs).copy.consents == {(2.0, "b")}


@given(st.none() | copies, copies, copies)
def test_merging_again_with_what_came_of_it_changes_nothing(base, ours, theirs):
    first = merge(base, ours, theirs).copy
    if first is None:
        assert merge(base, None, theirs).copy is None
    else:
        # Sent, it comes back as theirs; at another machine it arrives over what that had agreed.
        assert merge(theirs, first, first).copy == first
        assert merge(theirs, theirs, first).copy == first
        assert first.name in (ours.name, theirs.name) and first.shots <= ours.shots | theirs.shots


@given(copies, copies)
def test_a_change_on_one_side_alone_is_taken_as_it_is(base, changed):
    expected = replace(changed, consents=base.consents | changed.consents)
    assert merge(base, changed, base).copy == expected and merge(base, base, changed).copy == expected
    assert not merge(base, changed, base).told + merge(base, base, changed).told


def test_a_free_name_has_the_lowest_number_and_is_never_too_long():
    taken = {"Ada", "Ada (2)", "Ada (3)"}
    assert free_name("Ada", taken.__contains__) == "Ada (4)"
    asked = []
    among = {f"Ada ({number})" for number in range(2, 1_000_001)}
    assert free_name("Ada", lambda one: asked.append(one) or one in among) == "Ada (1000001)" and len(asked) < 60
    assert len(free_name("A" * NAME_MAX_CHARS, taken.__contains__)) == NAME_MAX_CHARS
