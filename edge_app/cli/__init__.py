"""The command line: one module a command; the only place that prints and sets exit codes.

Exit codes: 0 done, 1 failed, 2 misuse, and 128 + N when signal N ended it: 130 for ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_app.cli import process
from edge_app.core.errors import EdgeError, UsageError

if TYPE_CHECKING:
    from edge_app.cli.parameters import Parsed


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    process.open_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    try:
        with process.signals_as_interrupts():
            code = _run(words)
            sys.stdout.flush()
            return code
    except UsageError as error:
        process.tell_error(str(error))
        return 2
    except EdgeError as error:
        process.tell_error(str(error))
        return 1
    except BrokenPipeError:  # the reader went away: `| head`
        process.give_up_output()
        return 1
    except OSError as error:
        process.give_up_output()
        where = f"{error.filename}" if error.filename is not None else "standard output"
        process.tell_error(f"{where}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt as stop:
        process.tell_error("stopped")
        return 128 + (stop.number if isinstance(stop, process.Stopped) else signal.SIGINT)
    except Exception as error:
        if os.environ.get("EDGE_APP_DEBUG"):
            raise
        process.tell_error(_internal_fault(error, words))
        return 1


def _run(words: Sequence[str]) -> int:
    import click

    from edge_app.cli import commands

    if instruction := os.environ.get(commands.COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(commands.program(), {}, commands.PROGRAM, commands.COMPLETE_VARIABLE, instruction)
    try:
        return int(commands.parse(words, _logged))
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:  # ctrl-C or the end of the input where a question was asked
        process.tell_error("stopped")
        return 128 + signal.SIGINT
    except click.ClickException as error:
        path, what = commands.misuse(error)
        process.tell_error(f"{what}; see {path} --help", who=path)
        return 2


def _logged(parsed: Parsed) -> int:
    """Run a command and note in the log how it ended."""
    started_s = time.monotonic()
    try:
        code = parsed.run(parsed.arguments)
    except (EdgeError, OSError, KeyboardInterrupt) as error:  # what else is raised is logged by `_internal_fault`
        _log(parsed, time.monotonic() - started_s, error)
        raise
    _log(parsed, time.monotonic() - started_s, code)
    return code


def _log(parsed: Parsed, seconds: float, outcome: int | BaseException) -> None:
    from edge_app.system.data_folder import Home
    from edge_app.system.log import log_command  # after the command, which may have no time to lose

    with contextlib.suppress(EdgeError):  # there is no data folder at all
        log_command(Home.locate(parsed.arguments.home).log_path, parsed.path, seconds, outcome)


def _internal_fault(error: Exception, words: Sequence[str]) -> str:
    from edge_app.system.data_folder import Home
    from edge_app.system.log import Faults

    named = [after for word, after in zip(words, [*words[1:], ""], strict=True) if word == "--home"]
    named += [word.partition("=")[2] for word in words if word.startswith("--home=")]
    return Faults(Home.locate(named[-1] if named else None).log_path).report(error)
