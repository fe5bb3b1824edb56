"""The classifiers' contest: the ratios are of one round."""

import pytest

from edge_models.classifier.serving_speed import PEER, _rows


def test_a_ratio_is_the_peers_time_over_ours_in_the_same_round():
    ours, peer = _rows({"a.onnx": [1.0, 2.0, 10.0], PEER: [4.0, 8.0, 20.0]})
    assert ours == {"who": "a.onnx", "ms": 2.0, "times faster": 4.0, "target": 3.0, "met": True}
    assert peer == {"who": PEER, "ms": 8.0}


@pytest.mark.parametrize(("ms", "met"), [(30.0, True), (29.0, False)])
def test_a_target_is_met_or_missed(ms, met):
    assert _rows({"a.onnx": [10.0], PEER: [ms]})[0]["met"] is met
