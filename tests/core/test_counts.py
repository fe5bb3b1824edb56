"""Numbers of things in words."""

import pytest

from edge_app.core.counts import counted


@pytest.mark.parametrize(
    ("number", "words", "told"),
    [(0, ("picture",), "0 pictures"), (1, ("picture",), "1 picture"), (2, ("usable picture",), "2 usable pictures"),
     (12345, ("frame",), "12,345 frames"), (1, ("person", "people"), "1 person"), (3, ("box", "boxes"), "3 boxes")],
)  # fmt: skip
def test_one_is_one_and_many_are_many(number, words, told):
    assert counted(number, *words) == told
