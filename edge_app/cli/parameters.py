"""Commands, options and arguments of the command line, on click.

Every command of every room is a `Command` made of `Option` and `Argument`, each declared in one place. Imports
nothing heavy: click alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from edge_app.cli.summaries import SUMMARIES

Kind = type[str] | type[int] | type[float] | type[bool] | type[Path] | Sequence[str] | Callable[[str], Any]
"""What a value is: a kind, the words to choose from, or a function that raises click.BadParameter."""
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
"""Suggests values to a shell: the context, the option, and what is typed already."""

_NUMBER: Final = re.compile(r"-\.?\d")


class Arguments:
    """What a command line said: each option and argument by its name, as an attribute; never changed."""

    __slots__ = ("_values",)

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"the command has no option or argument {name!r}")
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: what a command line said is not changed; see `replaced`")

    def __repr__(self) -> str:
        return f"Arguments({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def replaced(self, **changed: Any) -> Arguments:
        """The same with other values."""
        return Arguments(**{**self._values, **changed})

    def values(self) -> Mapping[str, Any]:
        """Everything by name."""
        return dict(self._values)


Run = Callable[[Arguments], int]
"""Does a command's work and returns its exit code."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A command line that was understood."""

    path: str
    """The command's name in full, such as "edge-app gallery list"."""
    run: Run
    arguments: Arguments


def _click_type(kind: Kind) -> Any:
    if kind is Path:
        return click.Path(path_type=Path)
    if isinstance(kind, Sequence):
        return click.Choice(kind)
    return kind


class Option(click.Option):
    """An option: "--name", also "-n", "--on/--off", or "name" first where the value has another name."""

    def __init__(
        self,
        *names: str,
        help: str,
        kind: Kind = str,
        metavar: str | None = None,
        default: Any = None,
        required: bool = False,
        repeated: bool = False,
        many: bool = False,
        off: bool = False,
        section: str = "Options",
        complete: Complete | None = None,
    ) -> None:
        """A `kind` of bool is a flag, which sets False with `off`.

        `repeated`: may be given more than once; `many`: takes several words at once; both give a tuple. `section` is
        the heading in the help under which it stands.
        """
        self.many, self.section = many, section
        flag = kind is bool
        more: dict[str, Any] = {"flag_value": False} if off else {}
        if flag and default is None and not any("/" in name for name in names):
            default = off
        if default is not None or not (repeated or many):  # None would be taken for a value of theirs
            more["default"] = default
        super().__init__(
            names,
            help=help,
            type=None if flag else _click_type(kind),
            is_flag=flag or None,  # False would mean a value that may be left out
            metavar=metavar if metavar is None or not many else f"{metavar}...",
            required=required,
            multiple=repeated or many,
            shell_complete=complete,
            **more,
        )


class Argument(click.Argument):
    """A word that is told by its place; several with `many`."""

    def __init__(
        self,
        name: str,
        metavar: str,
        help: str,
        *,
        kind: Kind = str,
        required: bool = True,
        default: Any = None,
        many: bool = False,
        complete: Complete | None = None,
    ) -> None:
        shown = metavar if required else f"[{metavar}]"
        super().__init__(
            (name,),
            required=required,
            help=help,
            type=_click_type(kind),
            metavar=f"{shown}..." if many else shown,
            nargs=-1 if many else 1,
            shell_complete=complete,
            **({"default": default} if default is not None else {}),
        )


def home_option() -> Option:
    """--home, which stands before or after the command."""
    return Option("--home", kind=Path, metavar="DIR", help="data folder (default: EDGE_APP_HOME, or the user's)")


def words_and_values(params: Sequence[click.Parameter], words: Sequence[str]) -> Iterator[tuple[str, Option | None]]:
    """Each word of a line, with the option whose value it is; click's own reading, one step earlier.

    Ends before "--". Raises click.UsageError for an option that lacks its value because another option follows.
    """
    known = {name: param for param in params for name in (*param.opts, *param.secondary_opts)}
    takes = {name: one for name, one in known.items() if isinstance(one, click.Option) and not one.is_flag}
    rest = list(words)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        yield word, None
        option = takes.get(word)
        if option is None or not rest:
            continue
        if rest[0] == "--" or (rest[0].startswith("-") and rest[0] in known):
            raise click.BadOptionUsage(word, f"Option {word!r} requires an argument.")
        several = isinstance(option, Option) and option.many
        while rest:
            yield rest.pop(0), option if isinstance(option, Option) else None
            if not several or not rest or (rest[0].startswith("-") and not _NUMBER.match(rest[0])):
                break


class _Help:
    """Help as every command shows it; sections of options under their headings."""

    def __init__(self, help: str, more: str, example: str) -> None:
        told = [help[0].upper() + help[1:] + ".", f"\b\n{more}" if more else ""]
        self.help_text = "\n\n".join(part for part in told if part)
        self.example_text = f"\b\nexample: {example}"


class Command(click.Command):
    """One command: parses, and hands over what to run to the context's object, a function of a `Parsed`."""

    def __init__(
        self,
        name: str,
        run: Run,
        *,
        example: str,
        help: str = "",
        more: str = "",
        params: Sequence[click.Parameter] = (),
    ) -> None:
        """`help` is what `SUMMARIES` says of `name` unless it is given; `more` and `example` are shown as they are."""
        summary = help or SUMMARIES[name]
        told = _Help(summary, more, example)
        self.run = run
        super().__init__(
            name,
            params=[
                *params,
                home_option(),
                Option("--quiet", kind=bool, help="no hints, notes and sums: results and what went wrong alone"),
                Option("--verbose", kind=bool, help="hints too that were given before"),
            ],
            help=told.help_text,
            short_help=summary,
            epilog=told.example_text,
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give options that take several words one at a time, as click wants them."""
        try:
            return super().parse_args(ctx, args if ctx.resilient_parsing else self._one_value_each(ctx, args))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def _one_value_each(self, ctx: click.Context, args: Sequence[str]) -> list[str]:
        made: list[str] = []
        taken, last, count = 0, "", 0
        for word, option in words_and_values(self.get_params(ctx), args):
            taken += 1
            count = count + 1 if option is not None else 0
            if count > 1:
                made.append(last)  # the option's name again, before its next value
            if option is None:
                last = word
            made.append(word)
        return [*made, *args[taken:]]

    def invoke(self, ctx: click.Context) -> Any:
        """Hand over what was parsed; --home is the command's, else that of the commands above it."""
        values, above = dict(ctx.params), ctx.parent
        while values.get("home") is None and above is not None:
            values["home"], above = above.params.get("home"), above.parent
        return ctx.obj(Parsed(ctx.command_path, self.run, Arguments(**values)))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under the headings of their sections."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(param.section if isinstance(param, Option) else "Options", []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Group(click.Group):
    """A command with commands of its own."""

    def __init__(self, name: str, *, example: str, commands: Sequence[click.Command], more: str = "") -> None:
        summary = SUMMARIES[name]
        told = _Help(summary, more, example)
        super().__init__(
            name,
            commands=commands,
            params=[home_option()],
            help=told.help_text,
            short_help=summary,
            epilog=told.example_text,
            no_args_is_help=False,
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their declaration."""
        return list(self.commands)
