"""Runs one program and ends it, with everything it started, when its time is up: `hook_guard.py SECONDS PROGRAM ...`.

A process of its own, because on Linux a process may ask to become the parent of all orphans below it: then nothing
that the program started can leave, not even with a session of its own. Takes nothing but the standard library, and is
started without site-packages: 15 ms. SIGTERM, or the end of whoever started it, ends everything at once. Its standard
output gets one line: how it ended (see `Outcome` in hooks.py).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_GRACE_S: Final = 0.3
"""Between asking to end and killing."""
_KILL_S: Final = 2.0
_WAITED_FOR: Final = {signal.SIGCHLD, signal.SIGTERM}


def main() -> None:
    """Run the program in the arguments; tells "exit N", "signal N", "limit", "left", "stopped" or "errno N"."""
    deadline_s = time.monotonic() + float(sys.argv[1])
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        program = os.posix_spawn(
            sys.argv[2],
            sys.argv[2:],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)],  # the events have standard output for themselves
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        os.write(1, f"errno {error.errno}".encode())
        return
    ended, word = "", ""
    while not word:
        found = signal.sigtimedwait(_WAITED_FOR, max(0.0, deadline_s - time.monotonic()))
        dead, alone = _reaped()
        if program in dead:
            code = os.waitstatus_to_exitcode(dead[program])
            ended = f"exit {code}" if code >= 0 else f"signal {-code}"
        if alone:
            word = ended or "exit 0"
        elif found is None:
            word = "left" if ended else "limit"
        elif found.si_signo == signal.SIGTERM:
            word = ended or "stopped"
    _end_all()
    os.write(1, word.encode())


def _reaped() -> tuple[dict[int, int], bool]:
    """Status by process of every child that has ended, adopted ones too; and whether none is left.

    The kernel knows: a look through /proc misses a daemon whose parent is just ending.
    """
    dead: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return dead, True
        if pid == 0:
            return dead, False
        dead[pid] = status


def _children(of: int) -> list[int]:
    """Everything below a process, children before their children."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes 20 ms to import
        if name.isdigit() and (parent := _parent(int(name))):
            parents.setdefault(parent, []).append(int(name))
    found = list(parents.get(of, ()))
    for pid in found:
        found += parents.get(pid, ())
    return found


def _parent(pid: int) -> int:
    """Of a process; 0 when it is gone or dead already."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state == b"Z" else int(parent)


def _end_all() -> None:
    """Ask everything to end, and kill what does not."""
    _signal(signal.SIGTERM)
    grace_s = time.monotonic() + _GRACE_S
    while _children(os.getpid()) and time.monotonic() < grace_s:
        time.sleep(0.02)
        _reaped()
    killing_s = time.monotonic() + _KILL_S
    while _children(os.getpid()) and time.monotonic() < killing_s:
        _signal(signal.SIGKILL)  # again and again: one of them may be starting others
        time.sleep(0.01)
        _reaped()


def _signal(number: signal.Signals) -> None:
    for pid in _children(os.getpid()):
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if _parent(pid):  # not a number that another process has got meanwhile
                signal.pidfd_send_signal(handle, number)
        except OSError:
            pass
        finally:
            os.close(handle)


if __name__ == "__main__":
    main()
