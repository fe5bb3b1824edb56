"""Options of the command line from the fields of a training's options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import click

from edge_app.cli.parameters import Argument, Kind, Option
from edge_models.fitting.options import options_in

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def parameters(kind: type[DataclassInstance], *, may_lack: Sequence[str] = ()) -> list[click.Parameter]:
    """An option for each field that tells how it is given, in their order; `may_lack` are not asked for at once."""
    made: list[click.Parameter] = []
    hints = get_type_hints(kind)
    for field, told in options_in(kind):
        hint = next((one for one in get_args(hints[field.name]) if one is not type(None)), hints[field.name])
        if told.positional:
            made.append(Argument(field.name, told.metavar, told.help, kind=hint))
            continue
        lacks = field.default is MISSING
        default = None if lacks else field.default
        if hint is bool:
            flag = told.flag(field.name)
            made.append(Option(field.name, flag, kind=bool, off=told.off, section=told.section, help=told.help))
            continue
        shown = "" if default in (None, "") else f" (default {default if isinstance(default, str) else f'{default:g}'})"
        value: Kind = told.choices or (_or_none(hint, told.none) if told.none else hint)
        made.append(
            Option(
                field.name,
                told.flag(field.name),
                kind=value,
                metavar=told.metavar or None,
                default=default,
                required=lacks and field.name not in may_lack,
                section=told.section,
                help=told.help + shown,
            )
        )
    return made


def _or_none(hint: Any, word: str) -> Callable[[str], Any]:
    """Reads a number, or `word` as None."""

    def read(text: str) -> Any:
        if text == word:
            return None
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise click.BadParameter(f"{text!r} is neither {kind} nor {word}") from None

    return read
