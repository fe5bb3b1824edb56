"""Options of a training: each field of their dataclass says how it is given on the command line.

From the fields come the options of `edge-app train`, their help, and the command that trains the same again.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PathTeller = Callable[[Path], str]
"""How a path is told: `str` as it was given, `absolute` for good, `own_name` for what is passed on."""

NEVER: Final = "never"
FIND: Final = "find"

LARGEST: Final = 1e30
"""No rate or penalty is larger: from about 3e38 on it is no number of single precision."""

_ALWAYS: Final = ("seed", "output")
"""Told even where they are the default."""
_LEFT_OUT: Final = ("resume",)
"""It would not begin anew."""


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


@dataclass(frozen=True, slots=True)
class Told:
    """How a field of a training's options is given on the command line."""

    help: str
    metavar: str = ""
    """Empty for a flag."""
    section: str = "Options"
    choices: tuple[str, ...] = ()
    none: str = ""
    """The word that gives None, where None is not the default."""
    positional: bool = False
    off: bool = False
    """A flag that is on unless --no-NAME is given."""
    spelled: str = ""
    """The option's name where it is not the field's."""

    def flag(self, name: str) -> str:
        """The option's name on the command line."""
        return self.spelled or f"--{'no-' if self.off else ''}{name.replace('_', '-')}"


def told(help: str, metavar: str = "", section: str = "Options", **more: Any) -> dict[str, Told]:
    """Metadata of a dataclass field that makes it an option; see `Told` for the rest."""
    return {"told": Told(help, metavar, section, **more)}


def options_in(kind: type[DataclassInstance]) -> Iterator[tuple[Field[Any], Told]]:
    """The fields that are options, with how they are given."""
    for field in fields(kind):
        if isinstance(one := field.metadata.get("told"), Told):
            yield field, one


Kind = TypeVar("Kind", bound="DataclassInstance")


def chosen(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """The options of a parsed command line, which may hold more. Raises UsageError for values out of range."""
    return kind(**{field.name: values[field.name] for field, _ in options_in(kind) if field.name in values})


def command_of(kind: str, options: DataclassInstance, tell: PathTeller = str, of: str = "train") -> str:
    """The command `edge-app OF KIND ...` whose parsed options are these; what is the default is left out."""
    words = ["edge-app", of, kind]
    for field, one in options_in(type(options)):
        if field.name not in _LEFT_OUT:
            words += _words(field, one, getattr(options, field.name), tell)
    return shlex.join(words)


def _words(field: Field[Any], one: Told, value: Any, tell: PathTeller) -> list[str]:
    text = tell(value) if isinstance(value, Path) else str(value)
    if one.positional:
        return ["./" + text if text.startswith("-") else text]
    if value == field.default and field.name not in _ALWAYS:
        return []
    flag = one.flag(field.name)
    if isinstance(value, bool):
        return [flag]
    if value is None:
        text = one.none
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
