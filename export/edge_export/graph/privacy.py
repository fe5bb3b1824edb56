"""Cuts absolute paths in a card's texts to their last name: cards are passed on, and folders tell of their owner."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Final

from edge_app.core.model_card import ModelCard

_COMMANDS: Final = ("command", "trained_by")
"""Texts that a shell would split; a path in them may hold spaces."""
_BEGINNING: Final = r"(?:file:///?|~[\w.-]*[\\/]|[A-Za-z]:[\\/]|\\\\|/|\.\.[\\/])"
_WHOLE: Final = re.compile(_BEGINNING + r".*", re.DOTALL)
_RELATIVE: Final = re.compile(r"[^\s:]+[\\/][^\s:]*")
# Not behind a letter, a colon or a slash: "and/or", "timm:net/a" and a page's address are no folders; nor is "</b>".
_WITHIN: Final = re.compile(r"(?<![\w:/\\.~-])(?!/\w+>)" + _BEGINNING + r"[^\s'\"<>|;,()\[\]]+")


def without_paths(card: ModelCard) -> ModelCard:
    """The card with every absolute path in its texts cut down to the name of the file or folder."""
    told = {
        name: _command(text) if name in _COMMANDS else shortened(text) for name, text in dict(card.provenance).items()
    }
    return replace(card, origin=shortened(card.origin), licence=shortened(card.licence), provenance=told)


def shortened(text: str) -> str:
    """Any text, each path that begins at a root, a drive, a home or above the present folder cut to its last name."""
    return _WITHIN.sub(lambda found: _last_name(found[0]), text)


def _command(line: str) -> str:
    """A command line, word by word: `export runs/a -o '/home/ada/my ants.onnx'` becomes `export a -o 'my ants.onnx'`.

    Here relative paths are cut too: they tell of folders just as well, and no command is repeated by a stranger.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # a quote without its partner
        return shortened(line)
    if "\\" in line and shlex.join(words) != line:  # not quoted for this shell: its backslashes are gone now
        return shortened(line)
    return shlex.join(_word(word) for word in words)


def _word(word: str) -> str:
    option, equals, value = word.partition("=")
    if option.startswith("-") and equals:
        return option + equals + _word(value)
    if len(word) > 2 and word[0] == "-" != word[1]:  # -o/home/ada/ants.onnx
        return word[:2] + _word(word[2:])
    return _last_name(word) if _WHOLE.fullmatch(word) or _RELATIVE.fullmatch(word) else shortened(word)


def _last_name(path: str) -> str:
    name = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
    return name or "."
