"""Milliseconds of one picture in each build, and in torch: taken in turns, so that a busy moment hits all alike.

Hides how threads are set on either side. Flows in: files as they are served, a torch module. Flows out: medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import torch

from edge_app.core.types import Float32s
from edge_app.inference import onnx_model

THREADS: Final = (1, 2)
_ROUNDS: Final = 25
_REST_S: Final = 0.02
"""torch's workers wait for work with their eyes open; the next contestant starts when they have closed them."""

Start = Callable[[int], Callable[[], object]]
"""Threads in, a step that judges one picture out."""


def served(path: Path, picture: Float32s) -> Start:
    """A file as the app runs it, (1, 3, H, W): only its first output, no spinning."""

    def start(threads: int) -> Callable[[], object]:
        model = onnx_model.load(path, threads=threads)
        first = model.card.outputs[:1]
        return lambda: model.run(picture, first)

    return start


def eager(module: torch.nn.Module, picture: Float32s) -> Start:
    """A torch module as it is, on the CPU."""
    tensor = torch.from_numpy(picture)

    def start(threads: int) -> Callable[[], object]:
        def step() -> object:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                return module(tensor)

        return step

    return start


def in_turns(
    contestants: Mapping[str, Start], *, threads: Sequence[int] = THREADS, rounds: int = _ROUNDS
) -> dict[str, dict[int, float]]:
    """Median milliseconds by contestant and number of threads, all in one run, one after another in every round."""
    before = torch.get_num_threads()
    taken: dict[str, dict[int, float]] = {name: {} for name in contestants}
    try:
        for count in threads:
            steps = {name: start(count) for name, start in contestants.items()}
            for name, times in _timed(steps, rounds).items():
                taken[name][count] = 1e3 * median(times)
    finally:
        torch.set_num_threads(before)
    return taken


def _timed(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            time.sleep(_REST_S)
            begun = time.perf_counter()
            step()
            if number >= 2:  # the first two fill caches and pools
                times[name].append(time.perf_counter() - begun)
    return times
