"""Which known words a mistyped one may have meant."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from typing import Final

_MOST: Final = 3


def near(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """Up to three known words that look like `word`, the likeliest first; case and accents do not count."""
    folded = {_folded(one): one for one in known}
    return tuple(folded[one] for one in difflib.get_close_matches(_folded(word), folded, n=_MOST))


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """The question "did you mean 'Ada'?", `otherwise` where nothing is near."""
    found = " or ".join(repr(one) for one in near(word, known))
    return f"did you mean {found}?" if found else otherwise


def _folded(word: str) -> str:
    apart = unicodedata.normalize("NFD", word.casefold())
    return "".join(one for one in apart if not unicodedata.combining(one))
