"""What this terminal can show, told from the environment and the encoding of its stream, and what it lacks in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from rich.cells import cell_len

Ink = Literal["truecolor", "256", "mono"]
"""How cells are coloured: 16 million colours, the 256 of xterm, or none (shades made of characters)."""

SMALLEST: Final = (80, 24)
"""Columns and rows that every screen fits in."""
ROOMY: Final = (60, 16)
"""With fewer columns or rows there is room for the picture or the table alone: what stands beside it is left out."""

# TERM says nothing of 24-bit colour, so terminals that have it are also known by their own variables.
_TRUE_PROGRAMS: Final = {"iTerm.app", "WezTerm", "vscode", "ghostty", "Hyper", "rio", "Tabby"}
_TRUE_TERMS: Final = ("kitty", "alacritty", "foot", "wezterm", "ghostty", "contour", "-direct", "truecolor")


@dataclass(frozen=True, slots=True)
class Terminal:
    """What one terminal can show."""

    ink: Ink
    unicode: bool = True
    """Whether half blocks, lines and shades can be written; else plain ASCII stands for them."""
    remote: bool = False
    """Reached over a network: pictures are sent with fewer shades, which halves what has to be sent."""
    lacks: tuple[str, ...] = ()
    """What is missing and what would help, one sentence each."""

    @classmethod
    def detect(cls, environment: Mapping[str, str], encoding: str) -> Terminal:
        """Tell from the environment, and the encoding of standard output, what can be shown."""
        ink, why = _ink(environment)
        unicode = encoding.lower().replace("-", "").startswith("utf")
        lacks = [why] if why else []
        if not unicode:
            lacks.append(
                f"This terminal writes {encoding or 'ASCII'}, not UTF-8: pictures are coarser. Try LANG=C.UTF-8."
            )
        remote = any(environment.get(name) for name in ("SSH_CONNECTION", "SSH_TTY", "MOSH_CONNECTION"))
        return cls(ink, unicode, remote, tuple(lacks))


_STAND_INS: Final = {
    one: plain
    for plain, many in {
        "-": "─━═╌┄┈╴╶·\u2013\u2014\u2010",
        "|": "│┃║╎┆┊",
        "+": "┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛╔╗╚╝",
        "*": "●•◉",
        "o": "○◯",
        ".": "…",
        "<": "←\u2039«◀",
        ">": "→\u203a»▶",
        "^": "↑▲",
        "v": "↓▼✓✔",
        "_": "▁▂▃▔",
        "#": "▀▄█▌▐▅▆▇░▒▓▏▎▍▋▊▉▝▘▖▗▚▞▛▜▙▟",
        " ": "\u00a0\u2002\u2003\u2009",
    }.items()
    for one in many
}


def in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    """An error handler for `codecs.register_error`: what the terminal's encoding lacks is written in ASCII, as wide.

    An escape in its place would be six characters in one cell, and shift everything after it.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_STAND_INS.get(one, "?" * cell_len(one)) for one in lacking), error.end


def _ink(environment: Mapping[str, str]) -> tuple[Ink, str]:
    """The best way to colour cells, and what to say when it is not true colour."""
    term = environment.get("TERM", "")
    if environment.get("NO_COLOR"):
        return "mono", "NO_COLOR is set: pictures are drawn with shades of characters."
    if _is_true(environment, term):
        return "truecolor", ""
    if "256" in term or term in {"xterm-kitty", "xterm-ghostty"}:
        hint = (
            "in tmux add: set -as terminal-features ',*:RGB' and export COLORTERM=truecolor"
            if environment.get("TMUX") or term.startswith(("tmux", "screen"))
            else "if it has 24-bit colour, export COLORTERM=truecolor"
        )
        return "256", f"This terminal announces 256 colours: pictures are dithered; {hint}."
    return "mono", f"TERM={term or 'unset'} announces fewer than 256 colours: pictures are drawn with characters."


def _is_true(environment: Mapping[str, str], term: str) -> bool:
    if environment.get("COLORTERM", "").lower() in {"truecolor", "24bit"} or environment.get("WT_SESSION"):
        return True
    return environment.get("TERM_PROGRAM", "") in _TRUE_PROGRAMS or any(part in term for part in _TRUE_TERMS)
