"""Keeps a door's copy up to date: once before it opens, and in a thread of its own while it is open."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError
from edge_app.fleet.connection import Connection, load
from edge_app.fleet.server import CONNECT_S, Away, Server
from edge_app.fleet.sync import Fleet, Synced
from edge_app.gallery.storage import Vault

POLL_S: Final = 1.0
"""How often the server is asked; it says by itself when something changes, where the network lets that through."""
BEAT_S: Final = 60.0
"""How often a machine reports where nothing changes."""
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What an exchange came to."""

    done: Synced | None
    """None: there was none."""
    alone: str = ""
    """Why there was none, and how old the copy is, in a sentence."""


def catch_up(vault: Vault, *, connect_s: float = CONNECT_S) -> CaughtUp | None:
    """Exchange with the server once; None for a gallery that is not shared.

    Where the server cannot be reached, or refuses, this says so: the gallery is as it was.
    """
    here = load(vault)
    if here is None:
        return None
    try:
        with Server(here.address, connect_s=connect_s) as server:
            return CaughtUp(Fleet(vault, server).sync())
    except Away as error:
        return CaughtUp(None, f"{error}; going on alone with {age(here)}")
    except EdgeError as error:
        return CaughtUp(None, f"{error} (this machine goes on alone with {age(here)})")


def lines(found: CaughtUp | None) -> list[str]:
    """What a user should read of an exchange."""
    if found is None:
        return []
    if found.done is None:
        return [found.alone]
    done = found.done
    told = [*done.told, *done.problems]
    if done.waiting:
        count = counted(done.waiting, "change")
        told.append(f"{count} made here stay here: this login may not enroll or forget for others")
    if done.is_copied:
        told.append(
            "another machine reports under this one's name: this gallery, or that one, is a copy; connect one of them "
            "again with another --machine"
        )
    return told


def age(here: Connection) -> str:
    """How old a copy is, in words."""
    if not here.contact_s:
        return "what is enrolled here"
    passed_s = max(0.0, time.time() - here.contact_s)
    for unit_s, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if passed_s >= unit_s:
            count = int(passed_s // unit_s)
            return f"a copy that is {counted(count, unit)} old"
    return "a copy that is less than a minute old"


class Follower:
    """Exchanges with the server from a thread until it is closed; does nothing for a gallery that is not shared.

    Each trouble, and its end, is told once to `tell`, as is whatever was decided where changes met. `is_alone` says
    that the first trouble is known already.
    """

    def __init__(self, gallery: Path, tell: Callable[[str], None], *, is_alone: bool = False) -> None:
        self._gallery, self._tell, self._is_alone = gallery, tell, is_alone
        self._stop = threading.Event()
        self._server: Server | None = None
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def __enter__(self) -> Self:
        with Vault(self._gallery) as vault:
            if load(vault) is not None:
                self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(POLL_S + 0.5)

    def _run(self) -> None:
        pause_s = POLL_S
        with Vault(self._gallery) as vault:
            while not self._stop.is_set():
                try:
                    here = load(vault)
                    if here is None:
                        return
                    with Server(here.address) as server:
                        fleet = Fleet(vault, server)
                        server.listen()
                        told = self._tell_new(fleet.sync(), frozenset())
                        if self._is_alone:
                            self._say("the server is back")
                        self._is_alone, self._told = False, ""
                        pause_s = POLL_S
                        self._follow(fleet, server, told)
                except Exception as error:  # noqa: BLE001 - a thread that ends in silence leaves the door an old copy
                    # What a driver says of an error of its own may hold a row.
                    name = type(error).__name__
                    known = str(error) if isinstance(error, EdgeError) else f"the exchange failed unexpectedly ({name})"
                    if known != self._told and not (self._is_alone and not self._told):
                        self._say(f"{known}; going on alone")
                    self._is_alone, self._told = True, known
                    self._stop.wait(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _follow(self, fleet: Fleet, server: Server, told: frozenset[str]) -> None:
        reported_s = time.monotonic()
        while not self._stop.is_set():
            server.wait(POLL_S)
            if fleet.is_behind() or time.monotonic() - reported_s > BEAT_S:
                told = self._tell_new(fleet.sync(), told)
                reported_s = time.monotonic()

    def _tell_new(self, done: Synced, told: frozenset[str]) -> frozenset[str]:
        """Tell what was not told the last time; returns all of it."""
        found = lines(CaughtUp(done))
        for line in found:
            if line not in told:
                self._say(line)
        return frozenset(found)

    def _say(self, line: str) -> None:
        if not self._stop.is_set():
            with contextlib.suppress(Exception):  # a standard error that was closed must not end the exchange
                self._tell(line)
