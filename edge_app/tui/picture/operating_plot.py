"""A small plot of characters: how seldom strangers pass, over the similarity, with the threshold in use."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from edge_app.core.model_card import OperatingPoint
from edge_app.gallery.matching import share_words

SIGNS = {1: "○", 2: "●"}
"""Points by the number of templates averaged."""


def operating_plot(points: Sequence[OperatingPoint], threshold: float | None, width: int = 40, height: int = 9) -> Text:
    """Draw false-match rate (logarithmic, downwards) over similarity; a line marks the threshold in use.

    Without points it says so.
    """
    if not points:
        return Text("no operating points: this model cannot name anybody by a share of strangers", "dim")
    low = min([*(p.threshold for p in points), *([threshold] if threshold is not None else [])])
    high = max([*(p.threshold for p in points), *([threshold] if threshold is not None else [])])
    least, most = (math.log10(bound(p.fmr for p in points)) for bound in (min, max))
    grid = [[" "] * width for _ in range(height)]

    def column(value: float) -> int:
        return round((value - low) / max(high - low, 1e-9) * (width - 1))

    if threshold is not None:
        for row in grid:
            row[column(threshold)] = "│"
    for point in points:
        row_number = round((most - math.log10(point.fmr)) / max(most - least, 1e-9) * (height - 1))
        grid[row_number][column(point.threshold)] = SIGNS.get(point.templates, "·")
    text = Text.assemble(("strangers that pass one comparison\n", "bold"))
    for number, row in enumerate(grid):
        share = 10 ** (most - (most - least) * number / max(1, height - 1))
        label = share_words(share) if number in (0, height // 2, height - 1) else ""
        text.append(f"{label:>12} ┤{''.join(row)}\n")
    text.append(f"{'':>13}└{'─' * width}\n")
    text.append(f"{'':>14}{low:<.2f}{'similarity':^{max(0, width - 8)}}{high:>.2f}\n")
    text.append("○ one template  ● mean of two  │ in use", "dim")
    return text
