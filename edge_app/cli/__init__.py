"""The command line: parses, dispatches, prints errors in one line, sets exit codes.

Hides which module answers which command. Exit codes: 0 done, 1 failed, 2 misuse. Each command's module imports what
it needs only when it runs, so that `edge-app --help` loads neither ONNX Runtime nor OpenCV.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from edge_app import __version__
from edge_app.core.errors import EdgeError, UsageError

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "tui": ("tui",),
    "demo": ("demo",),
    "enroll": ("enroll",),
    "recognize": ("recognize",),
    "watch": ("watch", "verify", "cameras"),
    "gallery": ("gallery",),
    "calibrate": ("calibrate",),
    "models": ("models",),
    "doctor": ("doctor",),
    "bench": ("bench",),
    "evaluate": ("evaluate",),
}
"""Modules of this package and the commands that each adds, in the order of the help."""
ELSEWHERE: Final[Mapping[str, str]] = {
    "train": "train a classifier or an embedder on a folder of pictures",
    "export": "write ONNX models that were proven to agree with what they were made from",
}
"""Commands that the training side brings, as entry points of the group `edge_app.commands`."""


class _Parser(argparse.ArgumentParser):
    """Misuse is one line too: a page of usage above it hides what was wrong. Commands inherit this class."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser(group: str | None = None) -> argparse.ArgumentParser:
    """The whole command line, or what one module of `GROUPS` adds to it."""
    top = _Parser(
        prog="edge-app",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Teach this laptop to recognize anyone from two pictures: offline, on its CPU.\n"
        "Without a command it opens the terminal app.",
        epilog="example: edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg && edge-app recognize party.jpg",
    )
    # Its own name: a command's --home, absent, would else wipe out the one given before the command.
    top.add_argument("--home", dest="home_of_all", metavar="DIR", help="data folder, as the commands take it too")
    top.add_argument("--version", action="version", version=f"edge-app {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name in GROUPS if group is None else (group,):
        importlib.import_module(f"edge_app.cli.{name}").add_parser(commands)
    for name, does in ELSEWHERE.items() if group is None else ():
        commands.add_parser(name, help=does, epilog=f"example: edge-app {name} --help")
    return top


def elsewhere(name: str) -> argparse.ArgumentParser:
    """The command line with one command of the training side. Raises UsageError where that is not installed."""
    from edge_app.cli import training_side

    command = training_side.find(training_side.COMMANDS, name, name)
    top = _Parser(prog="edge-app")
    top.add_argument("--home", dest="home_of_all", metavar="DIR")
    command.add_parser(top.add_subparsers(metavar="COMMAND", dest="command", required=True))
    return top


def _group(words: Sequence[str]) -> str | None:
    """The module that has the command which `words` name, None for all: no command, an unknown one, or --help.

    All modules are 0.2 s of processor time, a quarter of what it takes to classify one picture.
    """
    rest = iter(words)
    for word in rest:
        if word == "--home":
            next(rest, None)
        elif not word.startswith("--home="):
            if word in ELSEWHERE:
                return word
            return next((group for group, commands in GROUPS.items() if word in commands), None)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot write is escaped, not a crash.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else argv
    group = _group(words)
    try:
        top = elsewhere(group) if group is not None and group in ELSEWHERE else parser(group)
    except UsageError as error:
        return _told(error, 2)
    args = top.parse_args(words)
    if args.command is None:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            top.print_help()
            return 2
        args = top.parse_args(["tui"] if args.home_of_all is None else ["--home", args.home_of_all, "tui"])
    if args.home_of_all is not None and getattr(args, "home", None) is None:
        args.home = Path(args.home_of_all)
    try:
        return int(args.run(args))
    except UsageError as error:
        return _told(error, 2)
    except EdgeError as error:
        return _told(error, 1)
    except BrokenPipeError:
        # The reader went away (`| head`): keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("edge-app: stopped", file=sys.stderr)
        return 130


def _told(error: EdgeError, code: int) -> int:
    print(f"edge-app: {error}", file=sys.stderr)
    return code
