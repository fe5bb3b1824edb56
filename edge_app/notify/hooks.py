"""Programs that run when something was seen, within a time limit and a number, each once in a while for each person.

No shell is involved, so nothing in a name can become a command.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from edge_app.core.errors import UsageError
from edge_app.system.data_folder import ENVIRONMENT

Report = Callable[[str], object]
"""Takes one line for the person who runs this; called from any thread."""

PREFIX: Final = "EDGE_APP_"
"""Variables that start with this are set for hooks; of those this process was given they get the data folder alone."""

_GRACE_S: Final = 0.3
"""Between asking a program to end and killing it."""

_SLICE_S: Final = 0.2
"""How often a supervisor looks whether it should hurry."""

_STDERR: Final = 2
"""What hooks print goes here: standard output belongs to the events."""

_GUARD: Final = str(Path(__file__).with_name("hook_guard.py"))
_CAN_GUARD: Final = sys.platform == "linux" and bool(sys.executable) and hasattr(os, "pidfd_open")
"""Elsewhere what a hook starts in a session of its own outlives it."""
_GUARD_S: Final = 4.0
"""Longest time that the guard takes to end everything."""


@dataclass(frozen=True, slots=True)
class HookOptions:
    """How hooks are held in check."""

    cooldown_s: float = 30.0
    """Least time between two runs of one hook for one person; all strangers count as one person."""
    timeout_s: float = 30.0
    """A run that takes longer is ended, with everything it started."""
    most_at_once: int = 4
    """Runs beyond this are dropped, and reported."""
    home: Path | None = None
    """The data folder that programs of ours find when a hook runs them; None: theirs, as the environment says."""

    def __post_init__(self) -> None:
        if not 0 <= self.cooldown_s < float("inf"):
            raise UsageError(f"the cool-down is {self.cooldown_s} s", expected="0 or more")
        if not 0 < self.timeout_s < float("inf"):
            raise UsageError(f"the time limit of hooks is {self.timeout_s} s", expected="more than 0")
        if self.most_at_once < 1:
            raise UsageError(f"{self.most_at_once} hooks may run at once", expected="at least 1")


@dataclass(frozen=True, slots=True)
class Command:
    """A program and its arguments."""

    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        """The program's name without its folder and arguments, which may hold secrets."""
        return Path(self.argv[0]).name

    @classmethod
    def parse(cls, text: str) -> Command:
        """Split a command line as a shell would, expanding nothing, and find its program.

        Raises UsageError when quotes are left open or the program is not there or may not be run.
        """
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(f"the hook {text!r} cannot be read ({error})", remedy="close its quotes") from error
        program = shutil.which(words[0]) if words else None
        if program is None:
            found = f"the hook's program {words[0]!r} is not there or may not be run" if words else "the hook is empty"
            raise UsageError(found, expected="a program on PATH, or a path to one", remedy="no shell reads it")
        return cls((str(Path(program).absolute()), *words[1:]))


class Hooks:
    """Runs hooks beside the loop that calls it, each in a process group of its own.

    One thread fires and closes; what goes wrong comes out of `report`.
    """

    def __init__(self, options: HookOptions, report: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._report = report
        self._clock = clock
        self._free = threading.Semaphore(options.most_at_once)
        self._last_s: dict[tuple[Command, str | None], float] = {}
        self._threads: list[threading.Thread] = []
        self._hurry = threading.Event()

    def fire(self, command: Command, person: str | None, text: str, variables: Mapping[str, str]) -> bool:
        """Start `command` unless it ran for `person` (None: any stranger) within the cool-down; never waits.

        `text` goes to its standard input, and `variables` into its environment. True when it was started; when too
        many run already it is dropped and reported, and counts as not having run.
        """
        now_s, key = self._clock(), (command, person)
        last_s = self._last_s.get(key)
        if last_s is not None and now_s - last_s < self._options.cooldown_s:
            return False
        if not self._free.acquire(blocking=False):
            self._report(f"the hook {command.name} was dropped: {self._options.most_at_once} run already")
            return False
        self._last_s[key] = now_s
        # The others may hold passwords of a webhook or a broker.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name == ENVIRONMENT
        }
        home = {} if self._options.home is None else {ENVIRONMENT: str(self._options.home)}
        environment = {**inherited, **home, **variables}
        # A daemon, so that a program that cannot be killed does not keep this process from ending.
        thread = threading.Thread(
            target=self._supervise, args=(command, text, environment), name=f"hook {command.name}", daemon=True
        )
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()
        return True

    def close(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for the hooks that run, then end them."""
        self._join(timeout_s)
        self._hurry.set()
        self._join(_SLICE_S + 2 * _GRACE_S + 1)

    def _join(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def _supervise(self, command: Command, text: str, environment: Mapping[str, str]) -> None:
        """One run, from start to end, in a thread of its own: nobody else may reap the process."""
        try:
            # A file and not a pipe: whether the program reads it or not, nobody waits for it.
            with tempfile.TemporaryFile() as given:
                given.write(text.encode() + b"\n")
                given.seek(0)
                problem = self._run(command, environment, given)
        except OSError as error:
            problem = f"cannot be started ({error.strerror})"
        finally:
            self._free.release()
        if problem:
            self._report(f"the hook {command.name} {problem}")

    def _run(self, command: Command, environment: Mapping[str, str], given: IO[bytes]) -> str:
        """Run it to its end, or bring that about; "" when all went well. Raises OSError."""
        limit_s = self._options.timeout_s
        guard = [sys.executable, "-I", "-S", _GUARD, str(limit_s)] if _CAN_GUARD else []
        process = subprocess.Popen(  # no shell
            [*guard, *command.argv],
            stdin=given,
            stdout=subprocess.PIPE if guard else _STDERR,
            env=environment,
            start_new_session=True,
        )
        deadline_s = time.monotonic() + limit_s + (_GUARD_S if guard else 0)
        while (left_s := deadline_s - time.monotonic()) > 0 and not self._hurry.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(left_s, _SLICE_S))
                break
        else:
            if guard:
                process.terminate()
            if not guard or not _has_ended(process, _GUARD_S):
                _end_group(process)
        word = "limit" if left_s <= 0 else "stopped" if self._hurry.is_set() else f"exit {process.returncode}"
        if process.stdout is not None:
            with process.stdout as told:  # nothing comes of a guard that was ended before it began
                word = told.read(100).decode(errors="replace") or word
        return _problem(word, limit_s)


def _problem(word: str, limit_s: float) -> str:
    """What the guard's word means to a person; "" when all went well."""
    kind, _, number = word.partition(" ")
    if kind == "exit":
        return "" if number == "0" else f"ended with exit code {number}"
    if kind == "signal":
        return f"ended with exit code -{number}"
    if kind == "errno":
        return f"cannot be started ({os.strerror(int(number))})"
    if kind == "stopped":
        return "was ended with this program"
    return f"{'left programs running, which were' if kind == 'left' else 'was'} ended after {limit_s:g} s"


def _has_ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
        return True
    return False


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and what is left of its group."""
    if os.name != "posix":
        process.kill()
    else:
        # Until it is reaped below its number belongs to it, dead or alive: the signals cannot hit a stranger.
        _signal_group(process.pid, signal.SIGTERM)
        time.sleep(_GRACE_S)
        _signal_group(process.pid, signal.SIGKILL)
    _has_ended(process, 1)


def _signal_group(group: int, number: int) -> None:
    # macOS answers EPERM for a group of which only dead members are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def variables(event: Mapping[str, object]) -> dict[str, str]:
    """The event as environment variables: EDGE_APP_EVENT, EDGE_APP_NAME and so on; what is None becomes ""."""
    return {PREFIX + key.upper(): "" if value is None else str(value) for key, value in event.items()}


def parse_all(texts: Mapping[str, Sequence[str]]) -> dict[str, tuple[Command, ...]]:
    """Parse the command lines of each event; see `Command.parse`."""
    return {event: tuple(Command.parse(text) for text in given) for event, given in texts.items()}
