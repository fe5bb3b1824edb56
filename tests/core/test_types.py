"""Nouns keep what they were made from, whatever becomes of it."""

import numpy as np
import pytest

from edge_app.core.model_card import InputSpec
from edge_app.core.types import frozen_array


@pytest.mark.parametrize(
    "source", [lambda b: memoryview(b), lambda b: np.frombuffer(b, np.uint8)], ids=["buffer", "array"]
)
def test_an_array_does_not_change_with_the_buffer_it_was_made_from(source):
    buffer = bytearray(4)
    array = frozen_array(source(buffer), np.uint8, (4,), "x")
    buffer[0] = 9
    assert array.tolist() == [0, 0, 0, 0] and not array.flags.writeable


def test_a_card_that_says_nothing_of_normalization_leaves_pixels_as_they_are():
    spec = InputSpec("x", 32, 32)
    assert (spec.mean, spec.std, spec.channels) == ((0.0,) * 3, (1.0,) * 3, "RGB")
