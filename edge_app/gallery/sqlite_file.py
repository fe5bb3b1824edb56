"""One SQLite file that is private, versioned, shared between processes and leaves nothing behind.

The journal is SQLite's rollback journal, not a WAL. A process killed at any moment leaves it behind and the next one
rolls it back; processes take turns, each for milliseconds. A WAL would let readers run beside a writer, which nobody
here needs, and would keep deleted bytes in a second file for as long as any reader has it open.
Deleting leaves nothing and rewrites nothing else. SQLite overwrites what is deleted (secure_delete), but a page of a
tree that is split or merged keeps copies of what it held: of 7,000 names that were deleted one survived so. Only
overflow pages are never moved and are zeroed as a whole when they are freed. So what must leave no byte is padded from
the front until it lies in overflow pages alone (`padding`); the pages of the trees hold numbers and zeros. They are
small, for a row fills whole ones: 1,000,000 templates of 128 numbers and 500,000 people take 2.1 GB. A file of an
earlier version has larger pages until it is rebuilt once. Copies that the drive keeps below the file system are out of
reach.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError, GalleryError
from edge_app.system.files import FILE_MODE, make_private_folder, readable_os_errors

BUSY_S: Final = 10.0
"""How long a process waits for another; reading 100,000 templates holds the file for a third of a second."""

PAGE_BYTES: Final = 1024
_IN_TREE_BYTES: Final = (PAGE_BYTES - 12) * 32 // 255 - 23
"""What stays in a tree's page of a row that overflows by whole pages; see "Inside the tree" of SQLite's file format."""
_OVERFLOW_BYTES: Final = PAGE_BYTES - 4

_STATE: Final = (
    # One row. `generation` counts changes. `unscrubbed` is the generation of a deletion after which the file was not
    # rebuilt yet, 0 when there is none: a process killed in between leaves the rest to the next.
    "CREATE TABLE state (generation INTEGER NOT NULL, unscrubbed INTEGER NOT NULL)",
    "INSERT INTO state VALUES (0, 0)",
)


@dataclass(frozen=True, slots=True)
class Schema:
    """What the file holds and how it is told from others."""

    statements: tuple[str, ...]
    """They make the tables in an empty file; a file whose tables, indices, views or triggers differ is refused."""
    version: int
    """Kept in PRAGMA user_version, at least 1; a greater one in a file is refused."""
    application_id: int
    """Kept in PRAGMA application_id; another one in a file is refused."""
    fill: Callable[[sqlite3.Connection], None]
    """Writes the rows that a new file starts with."""
    upgrade: Callable[[sqlite3.Connection, int], None]
    """Turns the tables of an earlier version into today's, within a transaction. Raises ValueError when it finds
    something that no such version wrote; the file then stays as it was."""


class Database:
    """The file; it need not exist: reading then sees an empty one in memory and makes nothing.

    Usable from several threads, one at a time, and by several processes. A file that was replaced or removed is
    noticed at the next call. Raises GalleryError, or EdgeError when it is the folder that cannot be used.
    """

    def __init__(
        self, path: Path, schema: Schema, before_commit: Callable[[sqlite3.Connection], None] = lambda _: None
    ) -> None:
        """`before_commit` is called with the connection at the end of every writing, within its transaction."""
        self.path = path.absolute()
        self._before_commit = before_commit
        self._schema = schema
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._mark: tuple[int, int] | None = None
        self._depth = 0
        self._asked_to_scrub = False
        """Whether the transaction in progress deletes something of which nothing may stay."""

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one consistent state of the file."""
        with self._lock, self._plainly():
            db = self._current()
            if db.in_transaction:
                yield db
                return
            db.execute("BEGIN")
            try:
                yield db
            finally:
                self._undo(db, "ROLLBACK")

    @contextlib.contextmanager
    def writing(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction that lands whole or not at all; `create` makes a missing file."""
        with self.transaction(create=create) as db, self._plainly():
            yield db

    @contextlib.contextmanager
    def transaction(self, *, create: bool = True) -> Iterator[sqlite3.Connection]:
        """As `writing`, but what the caller's own code raises inside passes through as it is.

        One inside another is a part of the outer one, and is undone alone when it fails.
        """
        with self._lock:
            save = f"nested_{self._depth}"
            with self._plainly():
                db = self._current() if self._depth else self._ready(create)
                # Taking the write lock at once: two readers that both want to write would wait for each other.
                db.execute(f"SAVEPOINT {save}" if self._depth else "BEGIN IMMEDIATE")
            self._depth += 1
            asked = self._asked_to_scrub
            try:
                yield db
                with self._plainly():
                    if self._depth == 1:
                        self._before_commit(db)
                    db.execute(f"RELEASE {save}" if self._depth > 1 else "COMMIT")
            except BaseException:
                self._asked_to_scrub = asked
                self._undo(db, f"ROLLBACK TO {save}" if self._depth > 1 else "ROLLBACK")
                raise
            finally:
                self._depth -= 1
            if self._depth == 0:
                own = self._asked_to_scrub
                self._asked_to_scrub = False
                # What was stored must not be told as failed because an earlier deletion cannot be finished now.
                with contextlib.nullcontext() if own else contextlib.suppress(GalleryError):
                    self._scrub(db)

    @property
    def is_writing(self) -> bool:
        """Whether this thread is inside `writing`."""
        return self._depth > 0

    def changed(self, *, leaves_nothing: bool = False, rebuilt: bool = False) -> None:
        """Count a change, inside `writing`; with `rebuilt` the whole file is rewritten once it has landed.

        So it is with `leaves_nothing` where its pages are larger than those that leave nothing by themselves.
        """
        with self.writing() as db:
            db.execute("UPDATE state SET generation = generation + 1")
            if rebuilt or (leaves_nothing and db.execute("PRAGMA page_size").fetchone()[0] != PAGE_BYTES):
                db.execute("UPDATE state SET unscrubbed = generation")
                self._asked_to_scrub = True

    def generation(self) -> int:
        """How many changes there were, by any process."""
        with self.reading() as db:
            return self._state(db)[0]

    def _state(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Generation and unscrubbed."""
        rows = db.execute("SELECT generation, unscrubbed FROM state LIMIT 2").fetchall()
        if len(rows) != 1 or not all(type(value) is int for value in rows[0]):
            raise damaged(self.path, "its state is missing or is no number")
        generation, unscrubbed = rows[0]
        return generation, unscrubbed

    def verify(self) -> None:
        """Check the structure of the whole file; raises GalleryError with the first fault."""
        with self.reading() as db:
            fault = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
            if fault != "ok":
                raise damaged(self.path, fault)
            if db.execute("PRAGMA foreign_key_check").fetchone():
                raise damaged(self.path, "a row without its owner")

    def _current(self) -> sqlite3.Connection:
        """The open connection, or a new one when the file is no longer the one that was opened."""
        if self._connection is not None and (self._depth or self._mark == self._identify()):
            return self._connection
        return self._open()

    def _ready(self, create: bool) -> sqlite3.Connection:
        """A connection to write through, the file made if wanted, its mode as it should be."""
        db = self._current()
        if create and self._mark is None:
            self._make()
            db = self._open()
            if self._mark is None:
                raise GalleryError(f"{self.path} vanished while it was made", remedy="try again")
        if self._mark and os.name == "posix" and self.path.stat().st_mode & 0o077:
            self.path.chmod(FILE_MODE)  # a copy brought back from elsewhere
        return db

    def _identify(self) -> tuple[int, int] | None:
        """Device and number of the file; None when it is absent, or empty, as a process killed at birth leaves it."""
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (status.st_dev, status.st_ino) if status.st_size else None

    def _make(self) -> None:
        """Make folder, file and tables; the file gets its mode before SQLite sees it, and the journal takes it over."""
        make_private_folder(self.path.parent)
        with contextlib.suppress(FileExistsError):  # another process was first
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
        db = self._connect()
        try:
            db.execute("BEGIN IMMEDIATE")
            if _is_empty(db):
                self._install(db)
            db.execute("COMMIT")
        finally:
            db.close()

    def _open(self) -> sqlite3.Connection:
        self.close()
        mark = self._identify()
        db = self._connect() if mark else sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            if _is_empty(db):
                # Opening rolls back what a process killed at birth left, to a length of 0; anything else was emptied.
                if self._identify() is not None:
                    raise damaged(self.path, "an empty database, without a table")
                db.close()
                mark, db = None, sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                self._install(db)
            version = self._check(db)
            if mark:
                self._check_length(db)
            if version < self._schema.version:
                db = self._upgraded(db)
            self._check_structure(db)
        except BaseException:
            db.close()
            raise
        self._connection, self._mark = db, mark
        # A deletion that was cut short is finished here, unless the file is busy or read-only: then by a later one.
        with contextlib.suppress(GalleryError):
            self._scrub(db)
        return db

    def _connect(self) -> sqlite3.Connection:
        # mode=rw makes nothing, and falls back to reading where writing is not allowed.
        db = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that exists: from its next rebuilding on
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA trusted_schema = OFF")  # a stranger's file may hold triggers and views
        db.execute("PRAGMA temp_store = MEMORY")  # rebuilding writes no copy to /tmp
        db.execute("PRAGMA synchronous = EXTRA")  # after a power cut a removed journal must not come back
        return db

    def _install(self, db: sqlite3.Connection) -> None:
        for statement in (*_STATE, *self._schema.statements):
            db.execute(statement)
        self._schema.fill(db)
        db.execute(f"PRAGMA application_id = {self._schema.application_id}")
        db.execute(f"PRAGMA user_version = {self._schema.version}")

    def _upgraded(self, db: sqlite3.Connection) -> sqlite3.Connection:
        """A connection to today's tables: the file's own, or a copy in memory where the file is read-only."""
        try:
            self._upgrade(db)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
            copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            db.backup(copy)
            db.close()
            self._upgrade(copy)
            copy.execute("PRAGMA query_only = ON")
            return copy
        return db

    def _upgrade(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA foreign_keys = OFF")  # dropping a table would empty those that refer to it
        db.execute("BEGIN IMMEDIATE")
        try:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version < self._schema.version:  # else another process was first
                try:
                    self._schema.upgrade(db, version)
                except (ValueError, TypeError, LookupError, OverflowError, EdgeError, sqlite3.IntegrityError) as error:
                    raise damaged(self.path, f"a record that no edge-app wrote ({type(error).__name__})") from error
                db.execute(f"PRAGMA user_version = {self._schema.version}")
                # What the earlier version wrote in clear must not stay in pages that are free now.
                db.execute("UPDATE state SET unscrubbed = generation + 1, generation = generation + 1")
            db.execute("COMMIT")
        except BaseException:
            self._undo(db, "ROLLBACK")
            raise
        db.execute("PRAGMA foreign_keys = ON")

    def _check_structure(self, db: sqlite3.Connection) -> None:
        """Refuse a file whose tables are not those we make; a view or trigger in it could change what is read."""
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
            self._install(fresh)
            if _structure(db) != _structure(fresh):
                raise damaged(self.path, "its tables are not those of a gallery")
        self._state(db)

    def _check(self, db: sqlite3.Connection) -> int:
        """Refuse a file that is not ours or is newer than we are, before anything is written to it; its version."""
        if db.execute("PRAGMA application_id").fetchone()[0] != self._schema.application_id:
            raise GalleryError(
                f"{self.path} is a database of another program",
                expected="a gallery that edge-app made",
                remedy="move it away, or choose another folder with --home",
            )
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > self._schema.version:
            raise GalleryError(
                f"the gallery {self.path} was made by a newer edge-app (schema {version})",
                expected=f"schema {self._schema.version}",
                remedy="upgrade edge-app; the gallery is untouched",
            )
        if version < 1:
            raise damaged(self.path, f"a schema of version {version}")
        return int(version)

    def _check_length(self, db: sqlite3.Connection) -> None:
        """Refuse a file that lost its end; SQLite itself reads a last page that was cut as if zeros followed."""
        db.execute("BEGIN")  # nobody changes the length between the two questions
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        found_bytes = self.path.stat().st_size
        db.execute("ROLLBACK")
        if found_bytes < pages * page_bytes:
            raise damaged(self.path, f"it has {found_bytes} of {pages * page_bytes} bytes")

    def _scrub(self, db: sqlite3.Connection) -> None:
        """Rebuild the file if a deletion asked for it, so that no page keeps a stray copy."""
        try:
            _, pending = self._state(db)
            if pending and not db.execute("PRAGMA query_only").fetchone()[0]:
                db.execute("VACUUM")
                db.execute("UPDATE state SET unscrubbed = 0 WHERE unscrubbed = ?", (pending,))
        except sqlite3.Error as error:
            raise GalleryError(
                f"the deletion is done, but rebuilding {self.path} failed: {error}",
                remedy="free some space and close other programs that use it; the next change rebuilds it",
            ) from error

    def _undo(self, db: sqlite3.Connection, statement: str) -> None:
        try:
            if db.in_transaction:  # SQLite itself has undone everything after some errors
                db.execute(statement)
        except sqlite3.Error:
            self.close()  # the journal stays, and the next opening rolls it back

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """Tell SQLite's errors and the folder's in one line; mistakes of ours stay tracebacks."""
        with readable_os_errors(self.path.parent):
            try:
                yield
            except sqlite3.ProgrammingError:
                raise
            except sqlite3.DatabaseError as error:
                raise _told(self.path, error) from error


def padding(numbers: Sequence[object], blobs: Sequence[object]) -> int:
    """How many zeros to put before `blobs` in a row, so that all of them lie in overflow pages and fill these.

    `numbers` are the row's columns before the zeros, but for its own number, which SQLite keeps elsewhere. What is no
    number or no bytes, as in a damaged file, gets no zeros.
    """
    if not all(type(number) is int for number in numbers) or not all(isinstance(blob, bytes) for blob in blobs):
        return 0
    widths = [_width(number) for number in numbers if isinstance(number, int)]
    sizes = [len(blob) for blob in blobs if isinstance(blob, bytes)]
    # The record's head has a byte for its own length, one for the row's number, one for each number of the row.
    fixed = 2 + len(widths) + sum(widths) + sum(_head(size) for size in sizes)
    pages = -(-sum(sizes) // _OVERFLOW_BYTES)
    while True:
        free = _IN_TREE_BYTES + pages * _OVERFLOW_BYTES - sum(sizes) - fixed
        for head in (1, 2, 3):
            if free - head >= 0 and _head(free - head) == head:
                return free - head
        pages += 1


def _width(number: int) -> int:
    """Bytes of an integer in a record."""
    bits = (number if number >= 0 else ~number).bit_length() + 1
    return 0 if number in (0, 1) else next(width for width in (1, 2, 3, 4, 6, 8) if bits <= 8 * width)


def _head(size: int) -> int:
    """Bytes that say in a record's head how long a BLOB is."""
    return max(1, -(-(2 * size + 12).bit_length() // 7))


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] and not _stamp(db)


def _structure(db: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    return set(db.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"))


def _stamp(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA application_id").fetchone()[0])


def damaged(path: Path, fault: str) -> GalleryError:
    """The error for a file whose content cannot be trusted."""
    return GalleryError(
        f"the gallery {path} is damaged or not a gallery: {fault}",
        remedy="`edge-app gallery check` says what is wrong, `edge-app gallery salvage OUT` saves whole people; "
        "it was left untouched",
    )


def _told(path: Path, error: sqlite3.DatabaseError) -> GalleryError:
    """One line for an error of SQLite, by its primary result code."""
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return GalleryError(
                f"the gallery {path} is in use by another process (waited {BUSY_S:.0f} s)",
                remedy="close the other edge-app, or try again",
            )
        case sqlite3.SQLITE_FULL:
            return GalleryError(f"the disk of {path.parent} is full", remedy="free some space; nothing was changed")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return GalleryError(
                f"cannot open or write {path}: {error}",
                remedy=f"make {path.parent} writable, or choose another folder with --home",
            )
        case sqlite3.SQLITE_IOERR:
            return GalleryError(f"the disk of {path.parent} failed: {error}", remedy="check the disk; try again")
        case _:
            return damaged(path, str(error))
