"""Curves, histograms and rates by group as PNG files. Drawing imports matplotlib: ImportError where it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_app.accuracy.pair_scores import Histograms


def det_curve(counted: Histograms, path: Path) -> None:
    """Draw the share of genuine pairs missed over the share of impostor pairs accepted, both logarithmic."""
    accepted, missed = rates(counted)
    figure, axes = _figure("Detection error trade-off, all pairs")
    seen = (accepted > 0) & (missed > 0)
    axes.loglog(accepted[seen], missed[seen], color="#0072b2")
    axes.set_xlabel("false-match rate: strangers taken for the same person")
    axes.set_ylabel("false-non-match rate: the same person not recognized")
    axes.grid(True, which="both", alpha=0.3)
    _save(figure, path)


def score_histogram(counted: Histograms, path: Path) -> None:
    """Draw how the similarities of the same and of different people spread, as densities."""
    figure, axes = _figure("Similarities of all pairs")
    each = max(1, len(counted.genuine) // 200)
    edges = counted.edges[::each]
    for counts, label, colour in (
        (counted.genuine, "same person", "#0072b2"),
        (counted.impostor, "different people", "#d55e00"),
    ):
        merged = np.add.reduceat(counts, np.arange(0, len(counts), each)) / max(1, counts.sum())
        axes.stairs(merged, edges, label=f"{label} ({int(counts.sum()):,} pairs)", color=colour, fill=True, alpha=0.5)
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("share of pairs")
    axes.legend()
    _save(figure, path)


def rates_by_group(
    rows: Sequence[tuple[str, float, float, float]], asked: float, what: str, title: str, path: Path
) -> None:
    """Draw (group, rate, low, high) as points with their intervals beside the rate asked for, logarithmic."""
    figure, axes = _figure(title)
    least = asked / 100
    for place, (_, rate, low, high) in enumerate(rows):
        axes.plot([max(low, least), max(high, least)], [place, place], color="#0072b2", linewidth=2)
        axes.plot([max(rate, least)], [place], "o", color="#0072b2")
    axes.axvline(asked, color="#d55e00", label=f"asked for: {asked:g}")
    axes.axvline(2 * asked, color="#d55e00", linestyle="--", linewidth=1, label="twice that")
    axes.set_yticks(range(len(rows)), [group for group, *_ in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(what)
    axes.grid(True, axis="x", alpha=0.3)
    axes.legend()
    _save(figure, path)


def rates(counted: Histograms) -> tuple[Any, Any]:
    """False-match and false-non-match rate, (bins,) each, with the threshold at each bin's lower edge."""
    accepted = np.cumsum(counted.impostor[::-1])[::-1] / max(1, int(counted.impostor.sum()))
    below = np.concatenate([[0], np.cumsum(counted.genuine)[:-1]])
    return accepted, below / max(1, int(counted.genuine.sum()))


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
