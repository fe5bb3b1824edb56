"""Numbers of things, in words."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """So many things: "1 picture", "2,000 pictures"; `many` where it is more than an s behind `one`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
