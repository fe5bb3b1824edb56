"""Titles that users give to groups of labels, as cards carry them."""

from __future__ import annotations

from typing import Final

from edge_app.core.errors import ModelError
from edge_app.core.plain_text import plain

_MOST_CHARS: Final = 80


def check_title(title: str, of: str) -> None:
    """Raise ModelError unless the title, of "a family" for example, is plain, not too long and stripped of blanks."""
    if not 1 <= len(title) <= _MOST_CHARS or title != title.strip() or plain(title) != title:
        raise ModelError(
            f"{of} is called {title[:_MOST_CHARS]!r}",
            expected=f"1 to {_MOST_CHARS} plain characters, no blanks around them",
        )
