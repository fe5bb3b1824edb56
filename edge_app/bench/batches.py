"""Times one network over the same pictures, one by one and several a run.

Only the network is timed: reading, cutting and drawing are done picture by picture in any case.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_app.core.errors import UsageError
from edge_app.core.types import Float32s
from edge_app.inference import onnx_model
from edge_app.inference.onnx_model import Model
from edge_app.system.parallel import cores, ordered_map
from edge_app.system.timing import Stopwatch

SIZES: Final = (1, 2, 4, 8, 16)
"""Pictures a run."""
PICTURES: Final = 32
"""Pictures a lap: several runs of the largest size for each of two workers."""


def measure(files: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """Rows of {"file", "workers", "threads", "batch", "ms", "cpu_ms"}: medians over the rounds, for one picture.

    `workers` runs go on at once, each on `threads`: one after the other on one core, one after the other on all cores,
    and as many as there are cores on one each, which is how `recognize` goes through a folder. Every way takes its
    turn in each round, so that a busy moment hits all. Raises UsageError for a network without a fixed input size.
    """
    ways = list(dict.fromkeys(((1, 1), (1, cores()), (cores(), 1))))
    rows = []
    for file in files:
        models = {threads: onnx_model.load(file, threads=threads) for threads in {way[1] for way in ways}}
        inputs = _inputs(models[1])
        laps: dict[tuple[int, int, int], list[tuple[float, float]]] = {}
        for round_ in range(rounds + 1):
            for workers, threads in ways:
                for size in SIZES:
                    lap = _lap(models[threads], inputs, size, workers)
                    if round_:  # the first one warms up
                        laps.setdefault((workers, threads, size), []).append(lap)
        for (workers, threads, size), times in laps.items():
            wall, cpu = (round(statistics.median(lap[i] for lap in times), 2) for i in range(2))
            place = {"workers": workers, "threads": threads, "batch": size}
            rows.append({"file": file.name} | place | {"ms": wall, "cpu_ms": cpu})
    return rows


def _inputs(model: Model) -> Float32s:
    spec = model.card.input
    if not spec.width_px or not spec.height_px:
        raise UsageError(f"{model.card.id} takes pictures of any size", expected="a network of one input size")
    shape = (PICTURES, 3, spec.height_px, spec.width_px)
    pixels = np.random.default_rng(0).uniform(0, 255, shape)
    mean, std = (np.array(values, np.float64)[:, None, None] for values in (spec.mean, spec.std))
    return ((pixels - mean) / std).astype(np.float32)


def _lap(model: Model, inputs: Float32s, size: int, workers: int) -> tuple[float, float]:
    """Milliseconds for one picture: on the clock, and of all threads' processor time."""
    parts = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    watch = Stopwatch()
    for _ in ordered_map(partial(model.run, outputs=model.card.outputs[:1]), parts, workers):
        pass
    return watch.seconds * 1e3 / len(inputs), watch.cpu_seconds * 1e3 / len(inputs)
