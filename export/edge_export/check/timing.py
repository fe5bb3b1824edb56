"""Milliseconds of one picture in each build, and in torch: taken in turns, so that a busy moment hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from edge_app.core.types import Float32s
from edge_app.inference import onnx_model
from edge_app.system.timing import medians, timed, times_in_turns

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
            turns = {name: _rested(timed(step)) for name, step in steps.items()}
            for name, ms in medians(times_in_turns(turns, rounds)).items():
                taken[name][count] = ms
    finally:
        torch.set_num_threads(before)
    return taken


def _rested(turn: Callable[[], float]) -> Callable[[], float]:
    def after_a_rest() -> float:
        time.sleep(_REST_S)
        return turn()

    return after_a_rest
