"""The page of a comparison: self-contained HTML, light or dark as the reader's screen, charts as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edge_models.comparison.gains import minutes, points
from edge_models.fitting.report_parts import render

_LEFT, _WIDTH, _ROW = 150, 640, 24
"""Pixels: names, the whole chart, a row."""
_STEPS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_MOST_MARKS: Final = 10


def page(comparison: Mapping[str, Any]) -> str:
    """The whole page; `comparison` as it stands in comparison.json."""
    tables = [
        {
            **table,
            "learning": words(table["per_class"]),
            "chart": chart([(row["method"], row["accuracy"]) for row in table["rows"][1:]]),
            "curve": chart([(f"generation {line['generation']}", line["over_plain"] | {"verdict": ""})
                            for line in table["generations"]]) if len(table["generations"]) > 1 else None,
            "lines": [_line(row, measure, table) for measure in _measures(table) for row in table["rows"]],
        }
        for table in comparison["tables"]
    ]  # fmt: skip
    return render(Path(__file__).with_name("comparison.html.j2"), c=comparison, tables=tables)


def words(few: int | None) -> str:
    return "every label" if few is None else f"{few} labels per class"


def chart(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Places of a chart of gains, in pixels: a mark and its interval a row, and a ruler in points."""
    ends = [100 * figures[end] for _, figures in rows for end in ("low", "high")]
    low, high = min(-1.0, *ends), max(1.0, *ends)
    step = next((one for one in _STEPS if (high - low) / one <= _MOST_MARKS), _STEPS[-1])
    scale = (_WIDTH - _LEFT - 20) / (high - low)

    def x(value: float) -> float:
        return float(round(_LEFT + 10 + scale * (value - low), 1))

    first, last = int(-(-low // step)), int(high // step)
    return {
        "width": _WIDTH,
        "height": _ROW * len(rows) + 30,
        "zero": x(0.0),
        "marks": [(x(step * n), f"{step * n:+g}" if n else "0") for n in range(first, last + 1)],
        "rows": [
            {"name": name, "y": _ROW * number + 14, "x": x(100 * one["gain"]), "low": x(100 * one["low"]),
             "high": x(100 * one["high"]), "told": points(one), "kind": kind(one["verdict"])}
            for number, (name, one) in enumerate(rows)
        ],
    }  # fmt: skip


def kind(verdict: str) -> str:
    """Class of the style sheet: what is shown stands out."""
    return {"better": "right", "worse": "wrong"}.get(verdict, "soft")


def _measures(table: Mapping[str, Any]) -> tuple[str, ...]:
    return ("accuracy", "recall") if table["unequal_classes"] else ("accuracy",)


def _line(row: Mapping[str, Any], measure: str, table: Mapping[str, Any]) -> dict[str, Any]:
    figures, first = row[measure], row is table["rows"][0]
    return {
        "method": row["method"],
        "measure": measure,
        "with": f"{100 * figures['with']:.1f} %",
        "gain": "" if first else points(figures),
        "holm": "" if first else f"{figures['p_holm']:.2g}",
        "verdict": "" if first else figures["verdict"],
        "kind": "" if first else kind(figures["verdict"]),
        "minutes": minutes(row["seconds"]),
    }
