"""The command line: one module a command; the only place that prints and sets exit codes.

Exit codes: 0 done, 1 failed, 2 misuse, 130 stopped with ctrl-C.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from edge_app.core.errors import EdgeError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot write is escaped, not a crash.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    import click

    from edge_app.cli import commands

    if instruction := os.environ.get(commands.COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(commands.program(), {}, commands.PROGRAM, commands.COMPLETE_VARIABLE, instruction)
    try:
        return int(commands.parse(sys.argv[1:] if argv is None else argv, lambda parsed: parsed.run(parsed.arguments)))
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        print(commands.misuse(error), file=sys.stderr)
        return 2
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
