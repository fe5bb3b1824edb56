"""Stopwatch, medians of turns, waits: with a clock that the test moves."""

import pytest

from edge_app.system.timing import (
    Stopwatch,
    back_off_s,
    median_ms,
    median_ratio,
    medians,
    timed,
    times_in_turns,
)


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_laps_add_up_by_stage_and_what_is_skipped_is_in_the_total_only():
    clock = Clock()
    watch = Stopwatch(clock, stages=("detect", "embed"))
    clock.now_s += 0.010
    watch.lap("detect")
    clock.now_s += 0.005
    watch.skip()
    clock.now_s += 0.020
    watch.lap("detect")
    found = watch.timings_ms()
    assert {stage: round(ms, 6) for stage, ms in found.items()} == {"detect": 30.0, "embed": 0.0, "total": 35.0}
    assert watch.seconds == pytest.approx(0.035)


def test_everybody_takes_a_turn_in_each_round_and_the_first_rounds_do_not_count():
    order = []

    def turn(name, ms):
        def run():
            order.append(name)
            return ms.pop(0)

        return run

    found = times_in_turns({"a": turn("a", [99.0, 1.0, 2.0]), "b": turn("b", [98.0, 3.0, 4.0])}, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert found == {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert medians(found) == {"a": 1.5, "b": 3.5}
    assert medians({"a": [1.23456]}, digits=2) == {"a": 1.23}


def test_the_ratio_is_that_of_the_rounds():
    # Somebody disturbed the second round: both took ten times as long there.
    assert median_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0
    assert median_ratio([3.0, 10.0], [1.0, 10.0]) == 2.0


def test_a_timed_step_runs_once_a_turn_and_tells_milliseconds(monkeypatch):
    runs = []
    assert timed(lambda: runs.append(1))() >= 0.0 and runs == [1]
    clock = Clock()
    with monkeypatch.context() as patched:
        patched.setattr("edge_app.system.timing.Stopwatch", lambda: Stopwatch(clock))
        assert timed(lambda: setattr(clock, "now_s", clock.now_s + 0.25))() == 250.0
    assert median_ms(lambda: runs.append(1), rounds=4, warm_up=1) >= 0.0 and len(runs) == 6


def test_waits_double_up_to_the_longest():
    assert [back_off_s(failures, 0.5, 8.0) for failures in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert back_off_s(10**9, 0.5, 8.0) == 8.0


@pytest.mark.parametrize(
    ("turn_s", "most_s", "warm_up", "kept"), [(1, 100, 2, 3), (1, 7, 2, 2), (30, 10, 2, 1), (1, 0, 0, 1)]
)
def test_a_slow_machine_takes_no_more_rounds_than_its_time_and_one_at_least(turn_s, most_s, warm_up, kept):
    now_s = [0.0]

    def turn() -> float:
        now_s[0] += turn_s
        return 1e3 * turn_s

    found = times_in_turns({"a": turn, "b": turn}, 3, warm_up, most_s=most_s, clock=lambda: now_s[0])
    assert found == {name: [1e3 * turn_s] * kept for name in ("a", "b")}
