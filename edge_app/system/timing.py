"""A stopwatch, medians of runs that take turns, and the waits between tries."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

WARM_UP_ROUNDS: Final = 2
"""Rounds that fill caches and thread pools and are not counted."""


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, stages: Sequence[str] = ()) -> None:
        """`clock` gives seconds; `stages` are listed even when no lap is taken in them."""
        self._clock = clock
        self._started_s = self._lap_s = clock()
        self._cpu_s = time.process_time()
        self._laps_ms = dict.fromkeys(stages, 0.0)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap, or since the start, to `stage`."""
        now_s = self._clock()
        self._laps_ms[stage] = self._laps_ms.get(stage, 0.0) + (now_s - self._lap_s) * 1e3
        self._lap_s = now_s

    def skip(self) -> None:
        """Leave out the time since the last lap."""
        self._lap_s = self._clock()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started_s

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of all threads of this process since the start."""
        return time.process_time() - self._cpu_s

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by stage, and `total` since the start."""
        return self._laps_ms | {"total": self.seconds * 1e3}


def process_began_s() -> float:
    """When this process was started, on time.monotonic(): loading and all. Now, where the system does not tell."""
    now_s = time.monotonic()
    try:
        # Field 22 behind the name, which may hold blanks: clock ticks since the machine was started.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now_s
    return now_s - max(0.0, age_s)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work as a turn that returns the milliseconds it took."""

    def turn() -> float:
        watch = Stopwatch()
        work()
        return watch.seconds * 1e3

    return turn


def times_in_turns(
    turns: Mapping[str, Callable[[], float]],
    rounds: int,
    warm_up: int = WARM_UP_ROUNDS,
    *,
    most_s: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, list[float]]:
    """Milliseconds of every turn by contestant.

    Each takes one turn in each round: what disturbs the machine for a moment disturbs all. No round begins after
    `most_s` once each has a time, even of warming up: a machine on which a turn takes seconds needs no more of them.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    end_s = clock() + most_s
    for number in range(warm_up + rounds):
        told = {name: turn() for name, turn in turns.items()}
        is_late = clock() >= end_s
        if number >= warm_up or is_late:
            for name, ms in told.items():
                times[name].append(ms)
        if is_late:
            break
    return times


def medians(times: Mapping[str, Sequence[float]], digits: int | None = None) -> dict[str, float]:
    """The median of each contestant's times, rounded where `digits` says so."""
    found = {name: statistics.median(each) for name, each in times.items()}
    return found if digits is None else {name: round(value, digits) for name, value in found.items()}


def median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """How many times as long `times` are as `others`: the median of the rounds' ratios, not the ratio of medians."""
    return statistics.median(one / other for one, other in zip(times, others, strict=True))


def median_ms(work: Callable[[], object], rounds: int, warm_up: int = WARM_UP_ROUNDS) -> float:
    """Median milliseconds of one run of `work`."""
    return medians(times_in_turns({"": timed(work)}, rounds, warm_up))[""]


def back_off_s(failures: int, first_s: float, most_s: float) -> float:
    """Seconds to wait after so many failures in a row: `first_s` after the first, doubled each time, at most `most_s`.

    >>> [back_off_s(failures, 0.5, 8.0) for failures in (1, 2, 3, 9)]
    [0.5, 1.0, 2.0, 8.0]
    """
    return min(most_s, first_s * 2.0 ** min(max(failures - 1, 0), 60))
