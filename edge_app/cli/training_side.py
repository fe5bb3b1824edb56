"""Finds what models/ and export/ bring: commands and measurements, by the name they are registered under."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Final

from edge_app.core.errors import UsageError

COMMANDS: Final = "edge_app.commands"
"""Entry points that are modules with `add_parser`, one a command."""
MEASUREMENTS: Final = "edge_app.measurements"
"""Entry points that are functions; an option of `bench` or `evaluate` calls them."""


def find(group: str, name: str, extra: str) -> Any:
    """Load what is registered. Raises UsageError, which says what to install, where nothing is."""
    for found in entry_points(group=group, name=name):
        return found.load()
    raise UsageError(
        f"`{name}` belongs to the training side, which is not installed",
        remedy=f"in a checkout of edge-app: pip install '.[{extra}]' ./models ./export",
    )
