"""The process around a command: its standard streams and the signals that end it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final, Literal, TextIO

from edge_app.core.plain_text import plain

ENDING: Final = ("SIGTERM", "SIGHUP")
"""Signals that end a command as ctrl-C does: what it was writing is put away."""


_IMPORT_S: Final = 0.05
"""How long a signal that comes while modules are loaded is put off, again and again."""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Stopped` in the main thread, once; a signal that is ignored stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ENDING:
        number = getattr(signal, name, None)
        # A program started by nohup is told to ignore SIGHUP: that holds.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, _stop)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see edge_app/__main__.py
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):
        # A compiled module that is interrupted while it is loaded prints a traceback and fails: it is given its time.
        again = threading.Timer(_IMPORT_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
        return
    # A second one would interrupt the tidying up after the first.
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def open_standard_streams() -> None:
    """Give the process the standard streams that it was started without, and let none fail for a character.

    A descriptor that is closed would be given to the next file that is opened, and whoever writes to standard error
    (OpenCV does) would write into the gallery. What is printed to a closed standard output fails as a full disk does;
    what is printed to a closed standard error is gone, for `print` would put it among the results.
    """
    for number, name, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, mode)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            opened = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot write is escaped, not a crash.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def coloured(stream: TextIO) -> bool:
    """Whether what goes to a stream may have colours: a terminal that knows them, and NO_COLOR not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "", None)


def tell_error(text: str, *, colour: Literal["red", "yellow"] = "red", who: str = "edge-app") -> None:
    """Print one line to standard error, if it can be written; nothing in it steers the terminal."""
    with contextlib.suppress(OSError, ValueError):
        head = f"{who}:"
        if coloured(sys.stderr):
            head = f"\x1b[{31 if colour == 'red' else 33}m{head}\x1b[0m"
        print(f"{head} {plain(text)}", file=sys.stderr, flush=True)


def give_up_output() -> None:
    """Let what standard output still holds go nowhere: Python would complain at its end that it cannot write it."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
