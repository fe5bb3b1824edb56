"""What a tenth of a second of classical features tells: patterns counted by hand."""

import numpy as np

from edge_models.classifier import baseline


def test_patterns_of_a_pit_a_peak_an_edge_and_a_checkerboard_are_told_apart():
    """Each 3 x 3 patch has one centre: 8 neighbours as bright as it, none, a half, and every other one."""
    pit = np.array([[9, 9, 9], [9, 1, 9], [9, 9, 9]], np.uint8)
    edge = np.array([[9, 9, 9], [5, 5, 5], [1, 1, 1]], np.uint8)
    checks = np.array([[1, 9, 1], [9, 5, 9], [1, 9, 1]], np.uint8)
    kinds = [int(baseline._patterns(patch).argmax()) for patch in (pit, 10 - pit, edge, checks)]
    # Corners and sides alternate around the checkerboard's centre: eight changes, which is no plain pattern.
    assert kinds == [8, 0, 5, 9]
    assert [baseline._patterns(patch).max() for patch in (pit, edge)] == [1.0, 1.0]
