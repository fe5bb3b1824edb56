"""The whole command line: which module has which command, loaded when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from edge_app import __version__
from edge_app.cli.parameters import Parsed, home_option
from edge_app.cli.summaries import SUMMARIES
from edge_app.core.errors import EdgeError

PROGRAM: Final = "edge-app"
COMPLETE_VARIABLE: Final = "_EDGE_APP_COMPLETE"
"""Where a shell says that it wants completions; the name that click gives it."""

_MODULES: Final[Mapping[str, str]] = {"cameras": "watch"}
"""Modules of this package that hold a command of another name."""
TRAINING_SIDE: Final = ("train", "compose", "generate", "translate", "export")
"""Commands that models/ and export/ bring, as entry points of the group `edge_app.commands`."""

Act = Callable[[Parsed], Any]
"""What is done with a command line that was understood."""


def load(name: str) -> click.Command:
    """The command of that name. Raises UsageError where it is of the training side and that is not installed."""
    if name in TRAINING_SIDE:
        from edge_app.cli import training_side

        module = training_side.find(training_side.COMMANDS, name, "export" if name == "export" else "train")
        return _checked(module.command())
    module = importlib.import_module(f"edge_app.cli.{_MODULES.get(name, name)}")
    return _checked(getattr(module, f"{name}_command" if name in _MODULES else "command")())


def _checked(made: object) -> click.Command:
    if not isinstance(made, click.Command):
        raise TypeError(f"found {made!r}, expected a command")
    return made


class _Top(click.Group):
    """The program itself; a command's module is imported when that command is asked for.

    All modules together are 0.1 s of processor time, an eighth of what it takes to classify one picture.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, None when there is none of that name."""
        if cmd_name not in SUMMARIES:
            return None
        try:
            return load(cmd_name)
        except EdgeError:
            if ctx.resilient_parsing:  # a shell asks for completions
                return None
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names, the nearest ones in the error where there is none."""
        if args[0] not in SUMMARIES and not ctx.resilient_parsing:
            raise click.NoSuchCommand(args[0], possibilities=SUMMARIES, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The summaries; no module is loaded."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names alone; no module is loaded."""
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=does) for name, does in SUMMARIES.items() if name.startswith(incomplete)] + (
            options
        )


def _without_command(ctx: click.Context, /, **_: object) -> int | None:
    """Open the terminal app, or show the help where there is no terminal."""
    if ctx.invoked_subcommand is not None:
        return None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo(ctx.get_help())
        return 2
    tui = load("tui")
    with tui.make_context("tui", [], parent=ctx) as inner:
        return int(tui.invoke(inner))


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


def program() -> click.Group:
    """The whole command line."""
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="print the version",
    )
    return _Top(
        PROGRAM,
        params=[home_option(), version],
        callback=click.pass_context(_without_command),
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        help="Teach this laptop to recognize anyone from two pictures: offline, on its CPU.\n\n"
        "Without a command it opens the terminal app.",
        epilog="\b\nexample: edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg && edge-app recognize party.jpg",
        subcommand_metavar="COMMAND ...",
        no_args_is_help=False,
    )


def parse(words: Sequence[str], act: Act = lambda parsed: parsed) -> Any:
    """Understand a command line and do `act` with it; what that returns.

    Raises click.UsageError for misuse, click.exceptions.Exit once --help or --version were shown, and EdgeError.
    """
    top = program()
    with top.make_context(PROGRAM, list(words), obj=act) as ctx:
        return top.invoke(ctx)


def misuse(error: click.ClickException) -> tuple[str, str]:
    """Which command was misused, and what is wrong in one line."""
    path = PROGRAM
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
    if isinstance(error, click.NoSuchOption | click.NoSuchCommand):
        kind, name = (
            ("option", error.option_name) if isinstance(error, click.NoSuchOption) else ("command", error.command_name)
        )
        near = " or ".join(error.possibilities or ())
        what = f"there is no {kind} {name}" + (f", did you mean {near}?" if near else "")
    else:
        what = " ".join(error.format_message().split()).rstrip(".")
        what = what[:1].lower() + what[1:]
    return path, what
