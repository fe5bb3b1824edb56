"""Who may be named at all, today: the names in a text file that somebody else writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.names import valid_name
from edge_app.core.suggest import did_you_mean
from edge_app.gallery.storage import Vault

_MOST_BYTES: Final = 64 * 2**20
"""A million long names; more is not a list of names."""
_FEW: Final = 500
"""Names that are looked up one by one, 0.16 ms each; of more, all 100,000 enrolled are read at once in 0.2 s."""


def read_candidates(path: Path) -> tuple[str, ...]:
    """The names in a file, one a line, each once, in their order, but for blank lines and those that begin with `#`.

    A `#` further on belongs to the name: "Anna #2" must not be taken for Anna.

    UTF-8 with or without a mark, lines ended in any way. Raises UsageError for a file that cannot be read, is no text,
    holds what cannot be a name, or names nobody.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", expected="a text file, a name a line") from error
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{path} has more than {_MOST_BYTES >> 20} MB", expected="a text file, a name a line")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", expected="a text file, a name a line") from error
    names: dict[str, None] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        written = line.strip()
        if written and not written.startswith("#"):
            try:
                names[valid_name(written)] = None
            except UsageError as error:
                raise UsageError(f"line {number} of {path}: {error.found}", expected=error.expected) from error
    if not names:
        raise UsageError(f"{path} names nobody", expected="a name a line; a line that begins with # is a comment")
    return tuple(names)


def check_candidates(vault: Vault, names: tuple[str, ...]) -> None:
    """Raise UsageError where one of the names is not enrolled: a door must not wait for somebody mistyped."""
    if len(names) <= _FEW:
        unknown = [name for name in names if not vault.has(name)]
    else:
        enrolled = frozenset(vault.names())
        unknown = [name for name in names if name not in enrolled]
    if unknown:
        more = f" and {len(unknown) - 1:,} more are" if len(unknown) > 1 else " is"
        try:
            remedy = did_you_mean(unknown[0], vault.names(), "`edge-app gallery list` shows the names")
        except EdgeError:
            remedy = "`edge-app gallery list` shows the names"
        raise UsageError(f"{unknown[0]!r}{more} among the candidates and not enrolled", remedy=remedy)
