"""What the worker's thread and the screens send each other.

Screens send the commands of `edge_app.live.commands`, named here once. Back comes one message, `News`, which says that
the `Inbox` has something. Pictures that nobody took yet are replaced by newer ones, so a slow terminal skips pictures
and never falls behind; events are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from textual.message import Message

from edge_app.live.commands import (
    Ask,
    Capture,
    Enroll,
    Explain,
    Forget,
    Look,
    LookArea,
    LookAt,
    Pause,
    Rename,
    Run,
    SetRule,
    Switch,
)
from edge_app.live.update import Update

__all__ = [
    "Ask",
    "Capture",
    "Enroll",
    "Explain",
    "Forget",
    "Inbox",
    "Look",
    "LookArea",
    "LookAt",
    "News",
    "Pause",
    "Rename",
    "Run",
    "SetRule",
    "Switch",
    "Update",
]

MOST_EVENTS = 500
"""Events kept while nobody takes them; older ones are let go."""


class News(Message, bubble=False):
    """Something new lies in the inbox."""

    def can_replace(self, message: Message) -> bool:
        """Any number of these says no more than one."""
        return isinstance(message, News)


class Inbox:
    """One slot between the worker and the screen: the newest update, with all events since the last was taken."""

    def __init__(self, tell: Callable[[News], object]) -> None:
        """`tell` is called on the worker's thread, once for each time that the empty slot is filled."""
        self._tell = tell
        self._lock = threading.Lock()
        self._waiting: Update | None = None
        self._closed = False
        self.replaced = 0
        """Pictures that were replaced before anybody took them."""

    def put(self, update: Update) -> None:
        """Leave an update; called on the worker's thread, never waits."""
        with self._lock:
            if self._closed:
                return
            earlier, self._waiting = self._waiting, update
            if earlier is not None:
                self._waiting = _merged(earlier, update)
                self.replaced += earlier.seen is not None and update.seen is not None
        if earlier is None:
            self._tell(News())

    def take(self) -> Update | None:
        """The newest update, None when it was taken already."""
        with self._lock:
            update, self._waiting = self._waiting, None
            return update

    def close(self) -> None:
        """Take nothing more: the screen is going away."""
        with self._lock:
            self._closed, self._waiting = True, None


def _merged(earlier: Update, later: Update) -> Update:
    """The later update with the events of both, and with the earlier picture where it brings none itself."""
    same = (earlier.source, earlier.look_for) == (later.source, later.look_for)
    keeps = later.seen is None and same
    return replace(
        later,
        events=(*earlier.events, *later.events)[-MOST_EVENTS:],
        seen=earlier.seen if keeps else later.seen,
        shot=earlier.shot if keeps else later.shot,
    )
