"""Text from outside (file names, names in a foreign gallery, replies of servers) made safe to show on a terminal."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Final

_JOINERS: Final = "\u200c\u200d"
"""Zero-width non-joiner and joiner: spelling, not decoration, in Persian, Hindi and many emoji."""
_BEYOND_ASCII: Final = re.compile(r"[\x7f-\U0010ffff]")


def plain(text: object, *, longest: int | None = None) -> str:
    """`str(text)` on one line, with everything that could steer a terminal as a visible escape such as \\x1b.

    Escaped are control characters (line breaks and tabs too), those that turn the writing direction around, other
    invisible ones, and bytes that are not UTF-8. Letters of every script, spaces, accents and emoji stay. `longest`
    cuts: the result has at most so many characters and ends in "..." where something is missing.
    """
    shown = str(text)
    if longest is not None and len(shown) > longest:
        shown = shown[: max(0, longest - 3)] + "..."
    if not shown.isprintable():
        shown = "".join(
            one if _harmless(one, shown[at - 1 : at], shown[at + 1 : at + 2]) else _escape(one)
            for at, one in enumerate(shown)
        )
    if longest is not None and len(shown) > longest:  # escapes are longer than what they stand for
        shown = shown[: max(0, longest - 3)] + "..."
    return shown


def json_line(value: object, *, ascii_only: bool = False) -> str:
    """One JSON value on one line, in which no character can steer a terminal: those are escaped as JSON does it.

    Raises ValueError for a number that JSON does not know.
    """
    text = json.dumps(value, ensure_ascii=ascii_only, allow_nan=False)
    return _BEYOND_ASCII.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def _harmless(one: str, before: str, after: str) -> bool:
    if one in _JOINERS:
        return all(side not in _JOINERS and side.isprintable() and not side.isspace() for side in (before, after)) and (
            bool(before and after)
        )
    return one.isprintable() or unicodedata.category(one) == "Zs"


def _escape(one: str) -> str:
    if "\udc80" <= one <= "\udcff":  # how Python carries a byte that is not UTF-8
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")
