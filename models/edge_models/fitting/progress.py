"""Who is told how training goes, and the error that ends it; imports nothing heavy."""

from __future__ import annotations

from typing import Protocol

from edge_app.core.errors import EdgeError


class TrainingError(EdgeError):
    """Training cannot go on: the loss is not a number, or memory does not suffice for one picture."""


class Progress(Protocol):
    """Who is told how far things are; the command line draws it."""

    def note(self, text: str) -> None:
        """Tell one line that the user should read."""

    def stage(self, name: str, total: int) -> None:
        """A piece of work begins, of `total` steps."""

    def advance(self, done: int, detail: str = "") -> None:
        """So many steps of the piece of work are done; `detail` tells its figures, or "of N" a total found by now."""


class Silence:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def stage(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self, done: int, detail: str = "") -> None:
        """Say nothing."""
