"""Names of people and things, ids of models."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from edge_app.core.errors import UsageError

NAME_MAX_CHARS: Final = 80
ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What a model's id looks like."""


def valid_name(name: str) -> str:
    """Return the name of an identity in its stored form (NFC, outer blanks removed).

    Raises UsageError for an empty name, one of more than 80 characters, or one that holds a slash,
    a backslash or a control character: names become file names and terminal lines. The joiners that Persian, Hindi and
    other scripts need between two letters (U+200C, U+200D) are letters there, and nowhere else.
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
    bad = sorted(
        {
            c
            for at, c in enumerate(cleaned)
            if c in "/\\"
            or (unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and not _joins_letters(cleaned, at))
        }
    )
    if bad or cleaned in {".", ".."}:
        listed = " ".join(repr(c) for c in bad) or cleaned
        raise UsageError(
            f"the name {cleaned!r} holds {listed}",
            expected="no slashes, no control or invisible characters",
            remedy="choose a plain name",
        )
    return cleaned


def same_but_for_case(name: str, others: Iterable[str]) -> str | None:
    """Which of the names differs from `name` by capital and small letters only; None when none does."""
    folded = unicodedata.normalize("NFC", name.casefold())
    return next((one for one in others if one != name and unicodedata.normalize("NFC", one.casefold()) == folded), None)


def _joins_letters(name: str, at: int) -> bool:
    """Whether the character there is a joiner between two letters or marks of a script that uses joiners.

    Latin, Greek and Cyrillic have none: there it would only make two names look like one.
    """
    if name[at] not in "\u200c\u200d" or not 0 < at < len(name) - 1:
        return False
    around = name[at - 1], name[at + 1]
    return all(unicodedata.category(c)[0] in "LM" and ord(c) > 0x058F for c in around)


def slug(text: str) -> str:
    """The nearest valid id of a model: small letters, digits, dot, dash and underscore, at most 64.

    >>> slug("Ants & Bees, v2.onnx")
    'ants-bees-v2.onnx'
    """
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64].strip("-._") or "model"
