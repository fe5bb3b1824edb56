"""The PostgreSQL server of a fleet: every question is answered, or given up, within a bounded time."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from edge_app.core.errors import EdgeError
from edge_app.fleet import schema
from edge_app.fleet.connection import Address
from edge_app.system.closing import Closing

if TYPE_CHECKING:
    from pg8000.native import Connection as Driver

CONNECT_S: Final = 3.0
ANSWER_S: Final = 10.0
"""For one question; a page of 500 people takes 0.05 s beside the server."""


class Away(EdgeError):
    """The server cannot be reached, or does not answer: the door goes on alone and tries again."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the server stands."""

    fleet_id: bytes | None
    """None: no office connected yet."""
    key_check: bytes | None
    model_id: str | None
    model_version: str | None
    dimensions: int | None
    revision: int
    stamp: str
    """Of the revision that was asked about; empty where the server has none."""
    may_write: bool
    clock_s: float
    """Unix time, by the server's clock."""


@dataclass(frozen=True, slots=True)
class Row:
    """A person as the server has one."""

    uid: bytes
    revision: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """A change for the server."""

    uid: bytes
    gone: bool
    sealed: bytes
    words: str = ""
    """What was decided on the way, for the server's trail; without a name."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How far a machine is."""

    name: str
    login: str
    revision: int
    silent_s: float
    """Seconds since it last reported, by the server's clock."""


class Transport(Protocol):
    """What a fleet needs of a server; tests bring one without a network."""

    def head(self, known: int) -> Head:
        """Where the server stands, and its stamp of revision `known`."""
        ...

    def changes(self, since: int, limit: int) -> Sequence[Row]:
        """Who changed after a revision, earliest first, at most `limit`."""
        ...

    def put(self, known: int, machine: str, changes: Sequence[Sent]) -> int | None:
        """Send changes made in knowledge of everything up to `known`; the new revision, None where that is not all."""
        ...

    def report(self, machine: str, known: int, visits: Sequence[bytes], visit: bytes, *, takes_over: bool) -> bool:
        """Say how far a machine is; False where the last report under its name left none of `visits`."""
        ...


class Server(Closing):
    """A connection to the server, for one thread. Use it in a `with` statement.

    Every method raises Away when the network or the server fails, and EdgeError when somebody has to do something.
    """

    def __init__(self, address: Address, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> None:
        self.address, self._answer_s = address, answer_s
        try:
            from pg8000 import exceptions
            from pg8000.native import Connection as driver
        except ImportError as error:
            raise EdgeError(
                "the driver for PostgreSQL is not installed", remedy="pip install 'edge-app[fleet]'"
            ) from error
        self._errors = exceptions
        context: ssl.SSLContext | bool = False
        if address.tls:
            try:
                context = ssl.create_default_context(cafile=address.root_certificate or None)
            except (OSError, ssl.SSLError) as error:
                raise EdgeError(
                    f"the certificate {address.root_certificate} cannot be used", remedy="give the file that signed it"
                ) from error
        self._handle: socket.socket | None = None
        self._is_cut = False
        with self._bounded(connect_s):
            raw = socket.create_connection((address.host, address.port), connect_s)
            raw.settimeout(None)  # the whole of each question is bounded instead
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._handle = raw.dup()
            if self._is_cut:
                raw.close()
                raise TimeoutError
            try:
                self._driver: Driver = driver(
                    address.user,
                    host=address.host,
                    database=address.database,
                    password=address.password,
                    application_name="edge-app",
                    ssl_context=context,
                    sock=raw,
                )
            except BaseException:
                raw.close()
                self._handle.close()
                raise

    def close(self) -> None:
        """Let go of the connection."""
        if self._handle is not None:
            # The driver's farewell would wait for a network that is gone.
            with contextlib.suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(self._errors.Error, OSError, ValueError, AttributeError):
                self._driver.close()
            self._handle.close()
            self._handle = None

    def head(self, known: int) -> Head:
        """See `Transport`. Raises EdgeError for a server without the tables, or with those of a newer version."""
        row = self._ask_row("SELECT * FROM edge_app.head(:known)", known=known)
        version, fleet_id, key_check, model_id, model_version, dimensions, revision, stamp, may_write, clock_s = row
        if version != schema.VERSION:
            newer = isinstance(version, int) and version > schema.VERSION
            raise EdgeError(
                f"the server's tables are of version {version}",
                expected=f"version {schema.VERSION}",
                remedy="upgrade edge-app here" if newer else "let the administrator run `gallery serve-schema` anew",
            )
        stamp = "" if stamp is None else str(stamp)
        return Head(fleet_id, key_check, model_id, model_version, dimensions, revision, stamp, may_write, clock_s)

    def changes(self, since: int, limit: int) -> Sequence[Row]:
        """See `Transport`."""
        asked = (
            "SELECT uid, revision, sealed FROM edge_app.person WHERE revision > :since ORDER BY revision LIMIT :most"
        )
        return [
            Row(bytes(uid), revision, sealed) for uid, revision, sealed in self._ask(asked, since=since, most=limit)
        ]

    def put(self, known: int, machine: str, changes: Sequence[Sent]) -> int | None:
        """See `Transport`."""
        (revision,) = self._ask_row(
            "SELECT edge_app.put(:known, :machine, cast(:uids AS bytea[]), cast(:gones AS boolean[]), "
            "cast(:seals AS bytea[]), cast(:told AS text[]))",
            known=known,
            machine=machine,
            uids=[one.uid for one in changes],
            gones=[one.gone for one in changes],
            seals=[one.sealed for one in changes],
            told=[one.words for one in changes],
        )
        return None if revision is None else int(revision)

    def report(self, machine: str, known: int, visits: Sequence[bytes], visit: bytes, *, takes_over: bool) -> bool:
        """See `Transport`."""
        (own,) = self._ask_row(
            "SELECT edge_app.report(:machine, :known, cast(:visits AS bytea[]), :visit, :over)",
            machine=machine,
            known=known,
            visits=list(visits),
            visit=visit,
            over=takes_over,
        )
        return bool(own)

    def found(self, fleet_id: bytes, key_check: bytes, model_id: str, model_version: str, dimensions: int) -> bool:
        """Make this the fleet of a server that has none yet; False where another machine was first."""
        asked = "SELECT edge_app.found(:id, :check, :model, :version, :dimensions)"
        (first,) = self._ask_row(
            asked, id=fleet_id, check=key_check, model=model_id, version=model_version, dimensions=dimensions
        )
        return bool(first)

    def machines(self) -> list[Machine]:
        """Every machine that this login may see, by name."""
        rows = self._ask("SELECT name, login, revision, silent_s FROM edge_app.status ORDER BY name")
        return [Machine(*row) for row in rows]

    def version(self) -> tuple[str, str | None]:
        """The server's own version, and that of pgvector where it is installed in the database."""
        server, vector = self._ask_row(
            "SELECT current_setting('server_version'), "
            "(SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector')"
        )
        return str(server), None if vector is None else str(vector)

    def certificate_ends(self) -> str | None:
        """Until when the server's certificate holds, None where there is no TLS."""
        wrapped = self._driver._usock
        if not isinstance(wrapped, ssl.SSLSocket):
            return None
        return str((wrapped.getpeercert() or {}).get("notAfter", ""))

    def listen(self) -> None:
        """Let `wait` return as soon as something changes."""
        self._ask(f"LISTEN {schema.CHANNEL}")

    def wait(self, seconds: float) -> bool:
        """Sleep until the server says something, or the time is over; whether it said something."""
        wrapped = self._driver._usock
        if isinstance(wrapped, ssl.SSLSocket) and wrapped.pending():
            return True
        try:
            return bool(select.select([wrapped], [], [], seconds)[0])
        except (OSError, ValueError) as error:
            raise self._away("the connection is closed") from error

    def _ask(self, sql: str, **values: Any) -> list[Any]:
        with self._bounded(self._answer_s):
            rows = list(self._driver.run(sql, **values) or [])
            if sql.startswith("SELECT") and self._driver.row_count != len(rows):
                raise ValueError("rows are missing")  # a way that loses bytes; without TLS nothing else notices
            return rows

    def _ask_row(self, sql: str, **values: Any) -> tuple[Any, ...]:
        rows = self._ask(sql, **values)
        if len(rows) != 1:
            raise self._away("it answers with nothing")
        return tuple(rows[0])

    @contextlib.contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        """Cut the connection when the time is up; tell whatever goes wrong in one line."""
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except self._errors.DatabaseError as error:
            raise self._refused(error) from error
        except (
            self._errors.Error, OSError, struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError,
        ) as error:  # fmt: skip
            # Whatever the driver makes of bytes that were cut off, or that no server sent.
            if self._is_cut or isinstance(error, TimeoutError):
                raise self._away(f"it does not answer within {seconds:g} s") from error
            if isinstance(error, ssl.SSLCertVerificationError):
                raise EdgeError(
                    f"the certificate of {self.address.host} is not valid: {error.verify_message}",
                    expected="one that the system trusts, or that ?sslrootcert=FILE signed",
                    remedy="nothing was sent; ask the administrator for the certificate",
                ) from error
            if "refuses SSL" in str(error):
                raise EdgeError(
                    f"{self.address.shown} speaks no TLS",
                    expected="TLS: only a server on this machine may do without",
                    remedy="set ssl = on in its postgresql.conf",
                ) from error
            reason = (error.strerror if isinstance(error, OSError) else "") or "the connection broke off"
            raise self._away(reason.lower()) from error
        finally:
            timer.cancel()

    def _cut(self) -> None:
        self._is_cut = True
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def _away(self, reason: str) -> Away:
        return Away(f"the server {self.address.shown} is not to be had: {reason}")

    def _refused(self, error: Exception) -> EdgeError:
        """One line for an error that the server told, by its SQLSTATE."""
        told = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
        state, message = str(told.get("C", "")), str(told.get("M", error))
        where = self.address.shown
        match state[:2], state:
            case ("28", _):
                return EdgeError(
                    f"{where} does not let this login in: {message}", remedy="check the login and its password"
                )
            case (_, "3D000"):
                return EdgeError(f"{where}: {message}", remedy="check the address")
            case (_, "3F000" | "42P01" | "42883" | "42703"):
                return EdgeError(
                    f"{where} has no tables of a fleet, or another version's",
                    remedy="let the administrator run what `edge-app gallery serve-schema` prints",
                )
            case (_, "42501"):
                return EdgeError(
                    f"{where} does not allow that to this login: {message}",
                    remedy="let the administrator grant edge_app_door or edge_app_office",
                )
            case ("53", "53100"):
                return Away(f"the disk of {where} is full")
            case ("53" | "57" | "08", _):
                return Away(f"the server {where} is not to be had: {message}")
            case _:
                return EdgeError(f"{where} refused: {message}", remedy="see the server's log")
