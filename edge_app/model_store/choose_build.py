"""Which build of a model runs on this machine: the fastest by measurement, of those that err no more often."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.model_card import FALSE_MATCHES_BESIDE_FP32, InputSpec, Precision
from edge_app.inference import onnx_model
from edge_app.model_store.catalogue import build, builds
from edge_app.model_store.onnx_inspect import inspect
from edge_app.model_store.shipped import Entry
from edge_app.system.data_folder import Home
from edge_app.system.files import sha256_of
from edge_app.system.timing import medians, timed, times_in_turns

_ROUNDS: Final = 15
_MOST_S: Final = 10.0
"""No more rounds after this: an emulated machine measured for half an hour before it looked at the camera."""
_CLEARLY_FASTER: Final = 0.9
"""A lower precision has to be a tenth faster: less would be noise, and it costs a little accuracy."""
_RATIO: Final = "false matches "
_MOST_FALSE_MATCHES: Final = 1.2
"""Of fp32's: with plain thresholds INT8 matched strangers on tight crops 2.1 to 2.6 times as often."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A build and why it runs."""

    entry: Entry
    why: str
    medians_ms: Mapping[str, float]
    """Milliseconds of one run by precision; empty when nothing had to be measured."""


def choose(
    model_id: str, wanted: Literal["auto"] | Precision, home: Home | None = None, threads: int | None = None
) -> Choice:
    """The build of `model_id` that runs: the one set, the only one, or the one measured faster here.

    The first call measures for about a second, and `home` remembers it for this processor, runtime and files. Raises
    UsageError when there is no such model, or `wanted` is not among its builds or takes strangers for one person too
    often beside fp32.
    """
    if wanted != "auto":
        entry = build(home, model_id, wanted)
        ratio = _false_matches(entry)
        if ratio > _MOST_FALSE_MATCHES:
            raise UsageError(
                f"{model_id} in {wanted} takes strangers for one person {ratio:.2g} times as often as in fp32",
                expected=f"at most {_MOST_FALSE_MATCHES:g} times",
                remedy="use --precision auto or fp32",
            )
        return Choice(entry, "set by the user", {})
    shipped = builds(home, model_id)
    if len(shipped) == 1:
        return Choice(shipped[0], f"{shipped[0].precision} is the only build", {})
    key = _key(shipped, threads)
    kept = home.recall(key) if home else None
    found, ratios = _medians(kept, shipped), _medians(kept, shipped, _RATIO)
    if not found or not ratios:
        found = found or _measure(shipped, threads)
        ratios = {entry.precision: _false_matches(entry) for entry in shipped}
        if home:
            _remember(home, key, found | {_RATIO + precision: ratio for precision, ratio in ratios.items()})
    fit = tuple(entry for entry in shipped if ratios[entry.precision] <= _MOST_FALSE_MATCHES) or shipped
    choice = _decide(fit, {entry.precision: found[entry.precision] for entry in fit})
    left_out = [
        f"{e.precision} errs {ratios[e.precision]:.2g} times as often on strangers" for e in shipped if e not in fit
    ]
    return replace(choice, why="; ".join([choice.why, *left_out]), medians_ms=found)


def _false_matches(entry: Entry) -> float:
    """How often this build takes strangers for one person, over how often fp32 does; 1 where nobody measured it."""
    if entry.precision == "fp32":
        return 1.0
    card = inspect(entry.path).card
    return 1.0 if card is None else float(card.metrics.get(FALSE_MATCHES_BESIDE_FP32, 1.0))


def _decide(shipped: tuple[Entry, ...], medians: Mapping[str, float]) -> Choice:
    full = next((e for e in shipped if e.precision == "fp32"), shipped[0])
    fastest = min(shipped, key=lambda entry: medians[entry.precision])
    told = ", ".join(f"{precision} {ms:.1f} ms" for precision, ms in medians.items())
    if fastest is full or medians[fastest.precision] > _CLEARLY_FASTER * medians[full.precision]:
        return Choice(full, f"measured on this machine: {told}; no lower precision is clearly faster", medians)
    return Choice(fastest, f"measured on this machine: {told}; {fastest.precision} is clearly faster", medians)


def _medians(kept: Mapping[str, Any] | None, shipped: tuple[Entry, ...], what: str = "") -> dict[str, float]:
    """What was remembered, if it speaks of all builds; else nothing."""
    values = {entry.precision: (kept or {}).get(what + entry.precision) for entry in shipped}
    return {p: float(v) for p, v in values.items() if isinstance(v, int | float)} if None not in values.values() else {}


def _remember(home: Home, key: str, medians: Mapping[str, float]) -> None:
    try:
        home.remember(key, medians)
    except EdgeError:
        # A read-only or full data folder must not stop a recognition: it will be measured again.
        return


def _measure(shipped: tuple[Entry, ...], threads: int | None) -> dict[str, float]:
    """Median milliseconds of one crop per build, the builds taking turns so that a busy moment hits all."""
    models = {entry.precision: onnx_model.load(entry.path, threads=threads, sha256=entry.sha256) for entry in shipped}
    turns: dict[str, Callable[[], float]] = {
        precision: timed(partial(model.run, _crop(model.card.input))) for precision, model in models.items()
    }
    return medians(times_in_turns(turns, _ROUNDS, most_s=_MOST_S), digits=3)


def _crop(spec: InputSpec) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = (1, 3, spec.height_px or 112, spec.width_px or 112)
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def _key(shipped: tuple[Entry, ...], threads: int | None) -> str:
    parts = [processor(), onnx_model.version(), str(threads), *(entry.sha256 for entry in shipped)]
    return "precision:" + shipped[0].id + ":" + sha256_of("|".join(parts))[:16]


def processor() -> str:
    """Name and feature flags of this machine's processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    return f"{kept.get('model name', platform.machine())} {kept.get('flags', kept.get('Features', ''))}"
