"""The report of an embedder's run as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_models.fitting.report_parts import figure_of, render, svg
from edge_models.siamese.fit import MONITOR
from edge_models.siamese.judge import SplitScores

Sides = tuple[Sequence[SplitScores], Sequence[SplitScores]]
"""Every split as the base and as the tuned network see it."""

_RATES: Final = np.logspace(-4, 0, 60)
_SIDES: Final = (("before", "0.5"), ("after", "C0"))


def page(report: Mapping[str, Any], sides: Sides) -> str:
    """The whole page; `report` as it stands in siamese.json."""
    charts = {
        "gains": _gains_chart(report["figures"]),
        "errors": _errors_chart(sides),
        "epochs": _epochs_charts(report["splits"]),
    }
    return render(Path(__file__).with_name("siamese.html.j2"), r=report, charts=charts)


def _gains_chart(figures: Mapping[str, Any]) -> str:
    """Before and after with their intervals, a row per figure."""
    figure, axis = figure_of(width=7.0)
    for shift, (side, colour) in zip((0.12, -0.12), _SIDES, strict=True):
        for row, one in enumerate(figures.values()):
            value, low, high = (one[side][name] for name in ("value", "low", "high"))
            if None in (value, low, high):
                continue
            error = [[max(0.0, 100 * (value - low))], [max(0.0, 100 * (high - value))]]
            label = side if row == 0 else None
            axis.errorbar([100 * value], [-row + shift], xerr=error, fmt="o", color=colour, capsize=3, label=label)
    axis.set_yticks([-row for row in range(len(figures))], list(figures))
    axis.set(xlabel="%, with the 95 % interval over identities", ylim=(-len(figures) + 0.5, 0.5))
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return svg(figure)


def _errors_chart(sides: Sides) -> str:
    """Detection error trade-off: genuine pairs missed over impostor pairs let in, the mean over splits."""
    figure, axis = figure_of()
    for scores, (side, colour) in zip(sides, _SIDES, strict=True):
        known = _RATES[_RATES * min((one.pairs.impostor_pairs for one in scores), default=0) >= 1]
        missed = [1 - float(np.mean([one.pairs.tar(rate) for one in scores])) for rate in known]
        axis.plot(100 * known, 100 * np.array(missed), color=colour, label=side)
    axis.set(xscale="log", xlabel="impostor pairs let in, %", ylabel="genuine pairs missed, %", ylim=(0, None))
    axis.legend(fontsize=8, frameon=False)
    return svg(figure)


def _epochs_charts(splits: Sequence[Mapping[str, Any]]) -> str:
    """Training loss of every split over its epochs; beside it what epochs were chosen by, where anything was."""
    charts = [_curves(splits, "train_loss", "training loss")]
    if any(MONITOR in entry for split in splits for entry in split["history"]):
        charts.append(_curves(splits, MONITOR, "pairs in the right order, %", 100))
    return "".join(charts)


def _curves(splits: Sequence[Mapping[str, Any]], name: str, told: str, scale: float = 1) -> str:
    figure, axis = figure_of(width=4.7)
    for number, split in enumerate(splits):
        known = [entry for entry in split["history"] if name in entry]
        at = [int(entry["epoch"]) + 1 for entry in known]
        axis.plot(at, [scale * entry[name] for entry in known], "o-", markersize=3, label=f"split {number + 1}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="epoch", ylabel=told)
    if name != MONITOR:
        axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, frameon=False)
    return svg(figure)
