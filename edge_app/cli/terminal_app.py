"""What every app in the terminal needs around it: a terminal that can draw, its encoding, and signals that close it."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import io
import os
import signal
import sys
import threading
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from edge_app.cli import process
from edge_app.core.errors import UsageError

if TYPE_CHECKING:
    from textual.app import App

_GRACE_S: Final = 10.0
"""Between a signal and the end of a process that cannot close its app."""


def require_terminal(remedy: str) -> None:
    """Raise UsageError where there is no terminal to draw in; `remedy` says what does without one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("this is no terminal", expected="a terminal to draw in", remedy=remedy)
    if os.environ.get("TERM", "") in ("", "dumb"):
        raise UsageError(
            "this terminal cannot move its cursor (TERM is unset or dumb)", remedy="export TERM=xterm-256color"
        )


def run_app(app: App[Any]) -> int:
    """Run an app until it is closed, by a signal too; its exit code."""
    _write_in_this_encoding()
    app.call_later(_end_on_signals, app)
    app.run()
    return app.return_code or 0


def _write_in_this_encoding() -> None:
    """Let the app draw in a locale that is not UTF-8 with what that has: it draws on standard error."""
    from edge_app.tui.picture.terminal import in_plain_characters

    codecs.register_error("edge-app-plain", in_plain_characters)
    if isinstance(sys.__stderr__, io.TextIOWrapper):
        sys.__stderr__.reconfigure(errors="edge-app-plain")


def _end_on_signals(app: App[Any]) -> None:
    """Let SIGTERM and SIGHUP close the app as `q` does: the terminal is given back, the camera let go.

    Where the terminal is gone Textual may wait for ever to write to it, and its loop with it: then the process ends
    without. What was stored is stored.
    """
    loop = asyncio.get_running_loop()

    def end(number: int, _frame: FrameType | None) -> None:
        last = threading.Timer(_GRACE_S, os._exit, (128 + number,))
        last.daemon = True
        last.start()
        with contextlib.suppress(RuntimeError):  # the loop is over already
            loop.call_soon_threadsafe(partial(app.exit, return_code=128 + number))

    for name in process.ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
