"""What is wrong with a gallery's file, and whole people saved from a damaged one into a new file."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_app.core.errors import EdgeError, GalleryError
from edge_app.gallery import keys, records
from edge_app.gallery.people import Person
from edge_app.gallery.records import FIRST_TABLES, SCHEMA, SECOND_TABLES, SPOILED
from edge_app.gallery.rows import read_person
from edge_app.gallery.sealing import Clear, Sealed, Sealer
from edge_app.gallery.sqlite_file import damaged
from edge_app.gallery.storage import Vault
from edge_app.system.files import make_private_folder, readable_os_errors, settle

MOST_FAULTS: Final = 20
MOST_BYTES: Final = 4 * 2**30
_HEADER: Final = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a salvage brought."""

    names: tuple[str, ...]
    """Whoever is in the new file, with all templates and pictures that could be found."""
    lost: tuple[str, ...]
    """Whoever is not: the name, or the number where the name is damaged, and why."""
    key_file: Path | None
    """The key file that the new gallery needs beside it; None for every other kind of protection, and for none."""


def faults(path: Path) -> list[str]:
    """Every fault of a gallery's file, one line each, at most 20; empty when all is well. Changes nothing."""
    if not path.exists():
        return []
    found = []
    with Vault(path) as vault:
        try:
            vault.verify()
        except EdgeError as error:
            found.append(str(error))
    if not found:
        return []
    try:
        with _in_memory(path) as db:
            found += [f"file: {line}" for (line,) in db.execute(f"PRAGMA quick_check({MOST_FAULTS})") if line != "ok"]
    except (EdgeError, sqlite3.Error):
        return found
    try:
        with _copied(path) as (db, sealer, lost):
            found += lost
            found += [why for why in _people(db, sealer) if isinstance(why, str)]
    except (EdgeError, sqlite3.Error) as error:
        found.append(str(error))
    return list(dict.fromkeys(found))[:MOST_FAULTS]


def salvage(path: Path, out: Path) -> Saved:
    """Save every whole person of a gallery into the new file `out`, which is protected as the damaged one is.

    The audit trail stays behind: a chain cannot be carried on where it broke. Raises GalleryError when `out` exists,
    when nobody can be saved, or when the key is not at hand; `path` is only read.
    """
    if out.exists() or out.is_symlink():
        raise GalleryError(f"{out} exists already", expected="the name of a new file")
    with _copied(path) as (db, sealer, lost), readable_os_errors(out.parent):
        (gallery_id, protection) = db.execute("SELECT gallery_id, protection FROM gallery").fetchone()
        make_private_folder(out.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        part = folder / "gallery.db"
        names = []
        try:
            with Vault(part) as new, new.transaction():
                new.adopt(gallery_id, protection, sealer)
                for one in _people(db, sealer):
                    if isinstance(one, str):
                        lost.append(one)
                    else:
                        new.restore(one)
                        names.append(one.name)
            if not names:
                raise GalleryError(f"nobody could be saved from {path}", remedy="enroll again; it was left untouched")
            try:
                settle(part, out, replace=False)
            except FileExistsError:
                raise GalleryError(f"{out} exists already", expected="the name of a new file") from None
        finally:
            part.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
    key_file = None
    if protection is not None and keys.Protection.decode(protection).method == "file":
        key_file = keys.key_path(path.parent, gallery_id)
    return Saved(tuple(names), tuple(lost), key_file)


def _people(db: sqlite3.Connection, sealer: Sealer) -> Iterator[Person | str]:
    """Everybody who is whole, and a line for everybody else."""
    had = _templates_by_trail(db, sealer)
    for (number,) in db.execute("SELECT id FROM identity ORDER BY id").fetchall():
        label = f"number {number}"
        try:
            row = db.execute("SELECT name FROM identity WHERE id = ?", (number,)).fetchone()
            label, _ = records.decode_name(sealer.open("identity.name", (number,), row[0]))
            person = read_person(db, sealer, number, pictures=True)
            if (missing := had.get(number, 0) - len(person.shots)) > 0:
                raise ValueError(f"{missing} of {had[number]} templates cannot be found")
            yield person
        except (*SPOILED, sqlite3.Error) as error:
            yield f"{label}: {str(error) or type(error).__name__}"


def _templates_by_trail(db: sqlite3.Connection, sealer: Sealer) -> dict[int, int]:
    """How many templates each identity should have, by the lines of the audit trail that can be read."""
    counts: dict[int, int] = {}
    for number, stored in db.execute("SELECT id, record FROM event").fetchall():
        with contextlib.suppress(*SPOILED):
            record = sealer.open("event.record", (number,), stored)
            _, happening, templates, person, _ = records.decode_event(record)
            if person is not None and happening in {"enroll", "forget"}:
                counts[person] = counts.get(person, 0) + (templates if happening == "enroll" else -templates)
    return counts


@contextlib.contextmanager
def _in_memory(path: Path) -> Iterator[sqlite3.Connection]:
    """The file's bytes as a database in memory, so that nothing can happen to the file."""
    with readable_os_errors(path.parent):
        if path.stat().st_size > MOST_BYTES:
            raise GalleryError(f"{path} is larger than what can be salvaged", expected=f"{MOST_BYTES:,} bytes at most")
        content = path.read_bytes()
    if not content.startswith(_HEADER):
        raise damaged(path, "it is no database")
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(content)
        db.execute("PRAGMA trusted_schema = OFF")
        yield db


@contextlib.contextmanager
def _copied(path: Path) -> Iterator[tuple[sqlite3.Connection, Sealer, list[str]]]:
    """What can be read of every table, in sound tables of today's schema; what opens it; who was lost on the way."""
    lost: list[str] = []
    with _in_memory(path) as db, contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        try:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
        except sqlite3.Error as error:
            raise damaged(path, str(error)) from error
        tables_of = {1: FIRST_TABLES, 2: SECOND_TABLES}
        for statement in tables_of.get(version, SCHEMA.statements):
            fresh.execute(statement)
        tables = [row[0] for row in fresh.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
        for table in tables:
            if table.startswith("sqlite_"):
                continue
            columns = [row[1] for row in fresh.execute(f"PRAGMA table_info({table})").fetchall()]
            marks = ", ".join("?" * len(columns))
            for row in _readable_rows(db, table, columns):
                fresh.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
        if version in tables_of:
            try:
                records.upgrade(fresh, version, lost)
            except (*SPOILED, sqlite3.Error) as error:
                raise damaged(path, str(error)) from error
        yield fresh, _opener(fresh, path), lost


def _readable_rows(db: sqlite3.Connection, table: str, columns: list[str]) -> Iterator[tuple[object, ...]]:
    """The rows from the front up to the first damage, then those from the end."""
    seen = set()
    for order in ("ASC", "DESC"):
        try:
            for number, *row in db.execute(f"SELECT rowid, {', '.join(columns)} FROM {table} ORDER BY rowid {order}"):
                if number in seen:
                    return
                seen.add(number)
                yield tuple(row)
        except (sqlite3.Error, ValueError, OverflowError):
            continue
        else:
            return


def _opener(db: sqlite3.Connection, path: Path) -> Sealer:
    rows = db.execute("SELECT gallery_id, protection FROM gallery").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], bytes) or len(rows[0][0]) != records.GALLERY_ID_BYTES:
        # What was not protected can be read without it; of the others nobody will be found whole.
        db.execute("DELETE FROM gallery")
        SCHEMA.fill(db)
        rows = db.execute("SELECT gallery_id, protection FROM gallery").fetchall()
    gallery_id, stored = rows[0]
    if stored is None:
        return Clear(gallery_id)
    try:
        protection = keys.Protection.decode(stored)
    except SPOILED as error:
        raise damaged(path, "how it is protected is damaged, and nothing opens without it") from error
    return Sealed(gallery_id, keys.unlock(protection, gallery_id, path.parent))
