"""The command that trains the same again, told from a run's options: right however the library was called.

Hides argparse. Flows in: the function that adds a command's arguments, and the options. Flows out: a line to type.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

PathTeller = Callable[[Path], str]
"""How a path is told: `str` as it was given, `absolute` for good, `own_name` for what is passed on."""

NEVER: Final = "never"
FIND: Final = "find"
WORDS_OF_NONE: Final[Mapping[str, str]] = {"patience": NEVER, "tune_rate": FIND}
"""What an option is given on the command line to become None, where None is not what it is by default."""

LARGEST: Final = 1e30
"""No rate or penalty is larger: from about 3e38 on it is no number of single precision."""

_ALWAYS: Final = ("seed", "output")
"""Told even where they are the default."""
_LEFT_OUT: Final = ("resume", "command")
"""`resume` would not begin anew, and `command` is how the parser remembers the sub-command."""


class Options(Protocol):
    """What the options of every kind of training can tell."""

    @property
    def directory(self) -> Path:
        """The folder of pictures."""

    def configuration(self, tell: PathTeller = ...) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""

    def command(self, tell: PathTeller = ...) -> str:
        """The command that trains the same again."""


def passed_on(options: Options) -> dict[str, Any]:
    """What a checkpoint tells of its run: paths by their own names, for it is passed on, and so is its export.

    Only `directory` stays as it was given: an export finds the pictures there. `command` is what a card may tell.
    """
    told = options.configuration(own_name)
    return told | {"directory": str(options.directory), "command": options.command(own_name)}


def absolute(path: Path) -> str:
    """A path that means the same in whatever folder one stands; links are kept."""
    return os.path.abspath(path)  # noqa: PTH100


def own_name(path: Path) -> str:
    """The last part of a path: where the user keeps things is nobody's business that a file is passed on to."""
    return Path(absolute(path)).name or str(path)


def plain(values: Mapping[str, Any], tell: PathTeller = str) -> dict[str, Any]:
    """Options as plain values, ready for JSON."""
    return {name: tell(value) if isinstance(value, Path) else value for name, value in values.items()}


def command_of(
    kind: str, add_arguments: Callable[[argparse.ArgumentParser], None], options: object, tell: PathTeller = str
) -> str:
    """The command `edge-app train KIND ...` whose parsed options are these; what is the default is left out."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    words = ["edge-app", "train", kind]
    for action in parser._actions:
        if action.dest not in _LEFT_OUT and hasattr(options, action.dest):
            words += _words(action, getattr(options, action.dest), tell)
    return shlex.join(words)


def _words(action: argparse.Action, value: Any, tell: PathTeller) -> list[str]:
    text = tell(value) if isinstance(value, Path) else str(value)
    if not action.option_strings:
        return ["./" + text if text.startswith("-") else text]
    if value == action.default and action.dest not in _ALWAYS:
        return []
    flag = action.option_strings[-1]
    if action.nargs == 0:
        return [flag]
    if value is None:
        text = WORDS_OF_NONE[action.dest]
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
