"""A small plot of characters: how often a head is right over the number of labels, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.text import Text

from edge_app.accuracy.intervals import Estimate


class Point(Protocol):
    """One place on a learning curve."""

    @property
    def labels(self) -> int: ...

    @property
    def accuracy(self) -> Estimate: ...

    @property
    def classless(self) -> int: ...


def learning_curve(points: Sequence[Point], width: int, height: int) -> Text:
    """Draw the share that is right over the labels, the interval as a band; says so while nothing can be measured."""
    measured = [point for point in points if point.accuracy.trials]
    if not measured:
        return Text("no estimate yet: every fifth picture is drawn at random to measure by", "dim")
    most = max(point.labels for point in measured)
    columns: list[Estimate | None] = [None] * width
    for point in measured:
        columns[min(width - 1, round(point.labels / most * (width - 1)))] = point.accuracy
    grid = [[" "] * width for _ in range(height)]
    last: Estimate | None = None
    for x, found in enumerate(columns):
        last = found or last
        if last is None:
            continue
        for y in range(height):
            value = 1 - y / (height - 1)
            if abs(value - last.value) <= 0.5 / (height - 1):
                grid[y][x] = "●" if found else "─"
            elif last.low <= value <= last.high:
                grid[y][x] = "░"
    now, classless = measured[-1].accuracy, measured[-1].classless
    of = "what has one class" if classless else "the pile"
    text = Text.assemble((f"right on {100 * now.value:.0f} % of {of} ", "bold"))
    more = f", {classless} more have not" if classless else ""
    text.append(f"({100 * now.low:.0f} to {100 * now.high:.0f}; {now.trials} drawn at random{more})\n", "dim")
    for y, row in enumerate(grid):
        label = {0: "100 %", height - 1: "0 %"}.get(y, "")
        text.append(f"{label:>6}│").append(f"{''.join(row)}\n", "cyan")
    return text.append(f"{'':>6}└{'─' * width}\n{'':>7}0{'labels':^{width - 6}}{most:>5}")
