"""Suggestions for what was mistyped."""

import pytest

from edge_app.core.suggest import did_you_mean, near

PEOPLE = ("Ada Lovelace", "Zoë", "李小龍", "Adam")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("Ada Lovelase", ("Ada Lovelace",)),
        ("ADAM", ("Adam",)),
        ("zoe", ("Zoë",)),
        ("李小", ("李小龍",)),
        ("Grace", ()),
        ("", ()),
    ],
)
def test_near_words_are_found_whatever_their_case_and_accents(word, found):
    assert near(word, PEOPLE) == found


def test_the_question_names_them_and_falls_back():
    assert did_you_mean("Adm", ["Adam", "Ada"]) == "did you mean 'Adam' or 'Ada'?"
    assert did_you_mean("Grace", PEOPLE, "look at the list") == "look at the list"
