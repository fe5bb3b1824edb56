"""Which build runs: clearly faster and no worse on strangers, remembered for this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_app.core.errors import UsageError
from edge_app.model_store import choose_build
from edge_app.model_store.catalogue import builds as builds_of
from edge_app.model_store.choose_build import _measure, choose
from edge_app.model_store.shipped import Entry

FP32 = Entry("m", "fp32", "face-embedding", Path("m-fp32.onnx"), "a" * 64, 10)
INT8 = Entry("m", "int8", "face-embedding", Path("m-int8.onnx"), "b" * 64, 5)


@pytest.fixture
def builds(monkeypatch):
    """Two builds with speeds and false matches that a test sets."""
    known = {"medians": {"fp32": 10.0, "int8": 5.0}, "ratios": {"fp32": 1.0, "int8": 1.0}, "measured": 0}

    def measure(shipped, threads):
        known["measured"] += 1
        return dict(known["medians"])

    monkeypatch.setattr(choose_build, "builds", lambda home, model_id: (FP32, INT8))
    monkeypatch.setattr(
        choose_build, "build", lambda home, model_id, precision: {"fp32": FP32, "int8": INT8}[precision]
    )
    monkeypatch.setattr(choose_build, "_measure", measure)
    monkeypatch.setattr(choose_build, "_false_matches", lambda entry: known["ratios"][entry.precision])
    return known


@pytest.mark.parametrize(("int8_ms", "runs"), [(5.0, INT8), (9.0, INT8), (9.1, FP32), (10.0, FP32), (12.0, FP32)])
def test_a_lower_precision_runs_when_it_is_a_tenth_faster(builds, int8_ms, runs):
    builds["medians"] = {"fp32": 10.0, "int8": int8_ms}
    assert choose("m", "auto").entry is runs


@pytest.mark.parametrize(("ratio", "runs"), [(0.8, INT8), (1.2, INT8), (1.21, FP32), (2.6, FP32)])
def test_a_build_that_takes_strangers_for_one_person_more_often_does_not_run(builds, ratio, runs):
    builds["ratios"]["int8"] = ratio
    made = choose("m", "auto")
    assert made.entry is runs and made.medians_ms == {"fp32": 10.0, "int8": 5.0}
    if runs is FP32:
        assert f"int8 errs {ratio:.2g} times as often" in made.why
        with pytest.raises(UsageError, match="m in int8 takes strangers for one person"):
            choose("m", "int8")
    else:
        assert choose("m", "int8").entry is INT8


def test_what_was_measured_is_remembered_with_what_it_errs(builds, home):
    builds["ratios"]["int8"] = 2.0
    assert choose("m", "auto", home).entry is FP32
    builds["ratios"]["int8"] = 1.0  # the files are the same, so this is not asked again
    assert choose("m", "auto", home).entry is FP32
    assert builds["measured"] == 1


def test_what_version_0_1_0_remembered_is_kept_and_completed(builds, home):
    home.remember(choose_build._key((FP32, INT8), None), {"fp32": 10.0, "int8": 20.0})
    assert choose("m", "auto", home).entry is FP32
    assert builds["measured"] == 0
    builds["ratios"]["int8"] = 9.0
    assert "errs" not in choose("m", "auto", home).why


def test_all_builds_of_a_model_are_measured_in_turn():
    found = _measure(builds_of(None, "sface"), 1)
    assert set(found) == {"fp32", "int8"} and min(found.values()) > 0 and found["fp32"] != found["int8"]
