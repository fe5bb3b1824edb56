"""What the reports of both kinds of training share: templates, charts as SVG, figures as words."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edge_app.core.errors import ModelError

STYLE_FOLDER: Final = Path(__file__).parent
"""Where the style sheet lies that all pages include."""


def render(template: Path, **values: Any) -> str:
    """Fill a template; everything but charts is escaped, and a value that lacks is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, STYLE_FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": percent, "interval": interval, "points": points}
    return environment.get_template(template.name).render(**values)


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json back. Raises ModelError when it is absent or cut short."""
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return report | {"checkpoint": report["checkpoint"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is no report of a run ({error})", remedy="train again into a new folder") from error


def percent(value: float | None) -> str:
    """A share in per cent."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def interval(estimate: Mapping[str, float | None]) -> str:
    """A share in per cent with its interval."""
    if estimate["value"] is None:
        return "–"
    low, high = (percent(estimate[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{percent(estimate['value'])} ({low} to {high})"


def points(estimate: Mapping[str, float | None]) -> str:
    """A gain in points with its interval."""
    told = ["–" if estimate[k] is None else f"{100 * (estimate[k] or 0.0):+.2f}" for k in ("value", "low", "high")]
    return f"{told[0]} ({told[1]} to {told[2]})"


def svg(figure: Any) -> str:
    """A matplotlib figure as an SVG element."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def figure_of(width: float = 6.2) -> tuple[Any, Any]:
    """An empty figure, `width` inches wide, and its axes."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "edge-app"  # the same run draws the same file
    figure = Figure(figsize=(width, 3.0))
    axis = figure.subplots()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
