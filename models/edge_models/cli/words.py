"""What commands that make pictures say alike."""

from __future__ import annotations

import shlex
from pathlib import Path


def next_training(pictures: Path) -> str:
    """The command that learns from a folder of made pictures, ready to be copied."""
    return f"next: edge-app train classifier {shlex.quote(str(pictures))} --output RUN, real pictures beside to judge"
