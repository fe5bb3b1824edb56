"""What every command that trains does before torch is imported, and when it is stopped."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
from collections.abc import Iterator
from typing import Final

from edge_app.cli.parameters import Arguments
from edge_app.core.errors import EdgeError
from edge_models.cli.progress import TrainingProgress

_NEEDS: Final = ("torch", "torchvision", "timm", "lightning", "safetensors", "sklearn")
LOADING: Final = "PyTorch"
"""What takes the first seconds."""
_COLLECTED_EVERY: Final = (100_000, 50, 100)
"""Objects after which Python looks for unreachable ones, and how seldom among the older. Importing torch, timm,
scikit-learn and matplotlib makes a million that stay: as Python is set (700, 10, 10) looking through them took 0.6 to
1.2 of 6.2 to 7.8 s of processor time.
"""
_RUN_FILE: Final = "run.json"
"""As `edge_models.fitting.run_folder` calls it, which imports torch."""


@contextlib.contextmanager
def stopped(args: Arguments, told: TrainingProgress) -> Iterator[None]:
    """Who presses ctrl-C learns that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if (args.output / _RUN_FILE).is_file():
            told.note(f"what is done lies in {args.output}: the same command with --resume goes on from there")
        raise


def require() -> None:
    """Refuse when torch is absent; before it is imported, settle what it reads from the environment.

    Its threads hardly spin while they wait. Spinning costs whatever else runs on the machine: beside two other busy
    processes on two cores one run of ants_bees took 208 s and 171 s of CPU time, and 51 s and 56 s of CPU time
    without it. A moment of it stays: on two idle cores a run took 60 s without any, 52 s with this, 49 s with no end
    of it. Its tensors lie on large pages, where Linux gives them: with small ones 40 % of the CPU time of computing
    features was the kernel's, with large ones 14 %.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    gc.set_threshold(*_COLLECTED_EVERY)
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise EdgeError(
            f"training needs {', '.join(missing)}, which the laptop side leaves out",
            remedy="pip install 'edge-app[train]'",
        )
