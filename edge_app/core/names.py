"""Names of people and things."""

from __future__ import annotations

import unicodedata
from typing import Final

from edge_app.core.errors import UsageError

NAME_MAX_CHARS: Final = 80


def valid_name(name: str) -> str:
    """Return the name of an identity in its stored form (NFC, outer blanks removed).

    Raises UsageError for an empty name, one of more than 80 characters, or one that holds a slash,
    a backslash or a control character: names become file names and terminal lines.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not cleaned:
        raise UsageError("the name is empty", expected="at least one visible character")
    if len(cleaned) > NAME_MAX_CHARS:
        raise UsageError(
            f"the name has {len(cleaned)} characters",
            expected=f"at most {NAME_MAX_CHARS}",
            remedy="shorten it",
        )
    bad = sorted({c for c in cleaned if c in "/\\" or unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}})
    if bad or cleaned in {".", ".."}:
        listed = " ".join(repr(c) for c in bad) or cleaned
        raise UsageError(
            f"the name {cleaned!r} holds {listed}",
            expected="no slashes, no control or invisible characters",
            remedy="choose a plain name",
        )
    return cleaned
