"""What the gallery's tables hold: the schema, records to bytes and back, and the tables of version 0.1.0.

Everything that says something about a person lies in a BLOB that `edge_app.gallery.sealing` may encrypt. Decoding
raises ValueError (or one of `SPOILED`) for whatever an encoder here does not write.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any, Final

import numpy as np

from edge_app.core.errors import UsageError
from edge_app.core.names import NAME_MAX_CHARS, valid_name
from edge_app.core.types import Embedding, Float32s, Quality, Template
from edge_app.gallery.sealing import Clear
from edge_app.gallery.sqlite_file import Schema, padding

LITTLE: Final = np.dtype("<f4")
UNIT_TOLERANCE: Final = 1e-3
"""How far a stored vector's squared length may be from 1; float32 rounding stays below 1e-6."""
GALLERY_ID_BYTES: Final = 16
MOST_DIMENSIONS: Final = 65_536
MOST_TEXT_CHARS: Final = 4_096
LATEST_S: Final = 253_402_214_400.0
"""The last day of the year 9999: a time beyond it, or before 1970, was written by nobody."""
CHAIN_END: Final = b"end"
"""What the gallery's own link is made of, after the last line of the audit trail: a cut-off end shows."""
SPOILED: Final = (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError)
"""What decoding a damaged record raises."""


MOST_FAILURES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an identity besides its name."""

    last_seen_s: float | None = None
    """Unix time of the last sighting; None: never seen."""
    consents: tuple[tuple[float, str], ...] = ()
    """Unix times and words of the consents that were noted at enrollment."""
    failures: int = 0
    """Logins in this name that failed since the last that did not."""
    failed_s: float = 0.0
    """Unix time of the last of them."""


def encode_name(name: str, *, ignored: bool = False) -> bytes:
    """The name's bytes behind one that says whether it is a known stranger's: matching needs both and nothing else."""
    return (b"-" if ignored else b"+") + name.encode()


def decode_name(record: bytes) -> tuple[str, bool]:
    """The name, which is a valid one, and whether it is a known stranger's."""
    name, kind = record[1:].decode(), record[:1]
    if kind not in (b"+", b"-"):
        raise ValueError("a name of no known kind")
    # Of ASCII, printable means valid but for slashes, blanks and length: 100,000 names in full take a second.
    if not (name.isascii() and name.isprintable() and 0 < len(name) <= NAME_MAX_CHARS):
        try:
            stored_form = valid_name(name)
        except UsageError as error:
            raise ValueError("a name that is none") from error
        if stored_form != name:
            raise ValueError("a name in another form than it is stored in")
    elif "/" in name or "\\" in name or name != name.strip() or name in {".", ".."}:
        raise ValueError("a name that is none")
    return name, kind == b"-"


def encode_facts(facts: Facts) -> bytes:
    plain: dict[str, object] = {"last_seen_s": facts.last_seen_s, "consents": facts.consents}
    if facts.failures:
        plain |= {"failures": facts.failures, "failed_s": facts.failed_s}
    return json.dumps(plain).encode()


def decode_facts(record: bytes) -> Facts:
    plain = json.loads(record)
    seen = plain["last_seen_s"]
    consents = tuple((valid_time(time_s), _text(words)) for time_s, words in plain["consents"])
    failures = plain.get("failures", 0)
    if type(failures) is not int or not 0 <= failures <= MOST_FAILURES:
        raise ValueError("a number of failures that is none")
    failed_s = valid_time(plain.get("failed_s", 0.0))
    return Facts(None if seen is None else valid_time(seen), consents, failures, failed_s)


def encode_shot(template: Template) -> bytes:
    """What was measured on a template, and where it came from."""
    # A file name that is not UTF-8 reaches us with surrogates.
    source = template.source.encode(errors="backslashreplace").decode()[:MOST_TEXT_CHARS]
    quality = [float(value) for value in astuple(template.quality)]
    return json.dumps([source, float(template.created_s), *quality], ensure_ascii=False).encode()


def decode_shot(record: bytes) -> tuple[str, float, Quality]:
    """Source, Unix time and quality of a template."""
    source, created_s, *measured = json.loads(record)
    if len(measured) != len(fields(Quality)) or not all(
        type(value) in (int, float) and math.isfinite(value) for value in measured
    ):
        raise ValueError("a measurement that is no number")
    return _text(source), valid_time(created_s), Quality(*(float(value) for value in measured))


def encode_vector(embedding: Embedding) -> bytes:
    """The vector's bytes."""
    return embedding.vector.astype(LITTLE).tobytes()


def unit_rows(blob: bytes | memoryview, shape: tuple[int, int]) -> Float32s:
    """Vectors as a read-only (T, D) float32 array, without a copy where the machine is little-endian."""
    if len(blob) != shape[0] * shape[1] * LITTLE.itemsize:
        raise ValueError("a vector of the wrong length")
    rows = np.frombuffer(blob, dtype=LITTLE).reshape(shape).astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.einsum("td,td->t", rows, rows)
    if not np.all(np.abs(lengths - 1.0) < UNIT_TOLERANCE):  # also false for NaN
        raise ValueError("a vector that is not of unit length")
    rows.setflags(write=False)
    return rows


def valid_model(name: object, dimensions: object) -> tuple[str, int]:
    """A model's id and its number of dimensions."""
    if type(dimensions) is not int or not 0 < dimensions <= MOST_DIMENSIONS:
        raise ValueError("a model whose vectors have no possible length")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
        raise ValueError("a model without a plain id")
    return name, dimensions


def valid_time(value: Any) -> float:
    """A Unix time between 1970 and 9999."""
    if type(value) not in (int, float) or not 0 <= value < LATEST_S:
        raise ValueError("a time that is none")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_TEXT_CHARS:
        raise ValueError("a text that is none, or too long")
    return value


def _fill(db: sqlite3.Connection) -> None:
    gallery_id = os.urandom(GALLERY_ID_BYTES)
    chain = Clear(gallery_id).link(b"", 0, CHAIN_END)
    db.execute("INSERT INTO gallery VALUES (1, ?, NULL, NULL, ?)", (gallery_id, chain))


def upgrade_first(db: sqlite3.Connection, version: int, lost: list[str] | None = None) -> None:
    """From the tables of version 0.1.0, where names, sources and numbers had columns of their own.

    With `lost`, identities that are damaged are left out and named there (by their number where the name is damaged).
    """
    if version != 1:
        raise ValueError(f"a schema of version {version}")
    for table in ("identity", "template", "picture", "event"):
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    db.execute("DROP INDEX IF EXISTS template_of")
    models = {}
    for key, name, size in db.execute("SELECT id, name, dimensions FROM model").fetchall():
        try:
            models[key] = valid_model(name, size)
        except SPOILED:
            if lost is None:
                raise
    db.execute("DROP TABLE model")
    for statement in SECOND_TABLES:
        db.execute(statement)
    _fill(db)
    (gallery_id,) = db.execute("SELECT gallery_id FROM gallery").fetchone()
    clear = Clear(gallery_id)
    db.executemany("INSERT INTO model VALUES (?, ?, ?)", ((key, *model) for key, model in models.items()))
    templates = (
        f"SELECT id, model, vector, source, created_s, {_QUALITY} FROM old_template WHERE identity = ? ORDER BY id"
    )
    pictures = "SELECT bytes FROM old_picture WHERE template = ?"
    moved = 0
    for person, name, seen in db.execute("SELECT id, name, last_seen_s FROM old_identity").fetchall():
        db.execute("SAVEPOINT person")
        try:
            decode_name(encode_name(_text(name)))
            facts = encode_facts(Facts(last_seen_s=None if seen is None else valid_time(seen)))
            row = (person, clear.token(name), encode_name(name), facts)
            db.execute("INSERT INTO identity VALUES (?, ?, ?, ?)", row)
            shots = db.execute(templates, (person,)).fetchall()
            for key, model, vector, source, created_s, *measured in shots:
                if not isinstance(vector, bytes):
                    raise TypeError("a vector that is none")
                unit_rows(vector, (1, models[model][1]))
                shot = json.dumps([_text(source), valid_time(created_s), *measured], ensure_ascii=False).encode()
                decode_shot(shot)
                db.execute("INSERT INTO template VALUES (?, ?, ?, ?, ?)", (key, person, model, vector, shot))
                held = db.execute(pictures, (key,)).fetchone()
                if held is not None:
                    if not isinstance(held[0], bytes):
                        raise TypeError("a picture that is none")
                    db.execute("INSERT INTO picture VALUES (?, ?)", (key, held[0]))
            if not shots:
                raise ValueError("somebody without a template")
            moved += len(shots)
        except (*SPOILED, sqlite3.Error):
            db.execute("ROLLBACK TO person")
            if lost is None:
                raise
            lost.append(name if isinstance(name, str) else f"number {person}")
        db.execute("RELEASE person")
    if lost is None and moved != db.execute("SELECT count(*) FROM old_template").fetchone()[0]:
        raise ValueError("a template of nobody")
    link, number = b"", 0
    for time_s, happening, count in db.execute(
        "SELECT time_s, happening, templates FROM old_event ORDER BY rowid"
    ).fetchall():
        try:
            record = encode_event(time_s, happening, count, None, "")
            decode_event(record)
        except SPOILED:
            if lost is None:
                raise
            continue
        number += 1
        link = clear.link(link, number, record)
        db.execute("INSERT INTO event VALUES (?, ?, ?)", (number, record, link))
    db.execute("UPDATE gallery SET chain = ?", (clear.link(link, number, CHAIN_END),))
    for table in ("picture", "template", "identity", "event"):
        db.execute(f"DROP TABLE old_{table}")


def upgrade(db: sqlite3.Connection, version: int, lost: list[str] | None = None) -> None:
    """From the tables of version 0.1.0 (1) or 0.2.0 (2); with `lost` as `upgrade_first`, and damaged records stay."""
    if version != 2:
        upgrade_first(db, version, lost)
    old = ("identity", "template", "picture")
    for table in old:
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    db.execute("DROP INDEX IF EXISTS template_of")
    for statement in (*_PEOPLE, *_SHARING):
        db.execute(statement)

    def moved(table: str, columns: str) -> Iterator[tuple[object, ...]]:
        numbers = db.execute(f"SELECT rowid FROM old_{table} ORDER BY rowid").fetchall()
        for (number,) in numbers:
            yield db.execute(f"SELECT {columns} FROM old_{table} WHERE rowid = ?", (number,)).fetchone()

    for number, token, name, facts in moved("identity", "id, token, name, facts"):
        put(db, "identity", (number, bucket(token)), name, facts)
        db.execute("INSERT INTO lasting VALUES (?, ?, 1, 0)", (os.urandom(UID_BYTES), number))
    for key, person, model, vector, shot in moved("template", "id, identity, model, vector, shot"):
        put(db, "template", (key, person, model), vector, shot)
    for key, content in moved("picture", "template, bytes"):
        put(db, "picture", (key,), content)
    # Numbers of whoever was forgotten are not used again either.
    for table in ("identity", "template"):
        used = "SELECT max(seq) FROM sqlite_sequence WHERE name IN (?, 'old_' || ?)"
        [last] = db.execute(used, (table, table)).fetchone()
        db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last or 0))
    for table in reversed(old):
        db.execute(f"DROP TABLE old_{table}")


def put(db: sqlite3.Connection, table: str, numbers: tuple[object, ...], *blobs: object) -> None:
    """Write a row: its number, what else is no secret, and what must leave no byte when it is deleted.

    See `edge_app.gallery.sqlite_file` for why these are padded.
    """
    columns = COLUMNS[table]
    updates = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
    marks = ", ".join("zeroblob(?)" if column == "pad" else "?" for column in columns)
    pad = padding(numbers[1:], blobs)
    statement = f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT ({columns[0]}) DO UPDATE SET {updates}"
    db.execute(statement, (*numbers, pad, *blobs))


def bucket(token: object) -> int:
    """One of 4,096 that a name is in, by its token: enough to find it among a million, too little to confirm it.

    An index may keep a stale entry; of a token that would tell whether somebody who guesses the name is right.
    """
    return int.from_bytes(token[:2], "big") >> 4 if isinstance(token, bytes) else -1


def encode_event(time_s: float, happening: str, templates: int, person: int | None, process: str) -> bytes:
    """A line of the audit trail; `person` is the number of the identity, never its name."""
    return json.dumps([time_s, happening, templates, person, process], ensure_ascii=False).encode()


def decode_event(record: bytes) -> tuple[float, str, int, int | None, str]:
    """Time, happening, templates, person and process."""
    time_s, happening, templates, person, process = json.loads(record)
    fits = type(templates) is int and (person is None or type(person) is int) and isinstance(happening, str)
    if not fits or not happening.isprintable():
        raise ValueError("a line of the audit trail that is none")
    return valid_time(time_s), happening, templates, person, _text(process)


_SHARING: Final = (
    # Everybody who ever was here, by a random number that is the same at every door; `identity` is NULL for whoever was
    # forgotten. `revision` is the generation of the last change, `agreed` the one that other doors know.
    "CREATE TABLE lasting (uid BLOB PRIMARY KEY, identity INTEGER UNIQUE, revision INTEGER NOT NULL, "
    "agreed INTEGER NOT NULL)",
    "CREATE INDEX unagreed ON lasting (uid) WHERE revision > agreed",
    # What other doors then had of somebody.
    "CREATE TABLE base (identity INTEGER PRIMARY KEY, pad BLOB NOT NULL, record BLOB NOT NULL)",
    "CREATE TABLE connection (id INTEGER PRIMARY KEY CHECK (id = 1), record BLOB NOT NULL)",
)
UID_BYTES: Final = 16
_PEOPLE: Final = (
    # Numbers are not used again: the audit trail speaks of people by their number.
    "CREATE TABLE identity (id INTEGER PRIMARY KEY AUTOINCREMENT, bucket INTEGER NOT NULL, pad BLOB NOT NULL, "
    "name BLOB NOT NULL, facts BLOB NOT NULL)",
    "CREATE INDEX identity_in ON identity (bucket)",
    "CREATE TABLE template (id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "identity INTEGER NOT NULL REFERENCES identity ON DELETE CASCADE, "
    "model INTEGER NOT NULL REFERENCES model, pad BLOB NOT NULL, vector BLOB NOT NULL, shot BLOB NOT NULL)",
    "CREATE INDEX template_of ON template (identity, model)",
    "CREATE INDEX template_by ON template (model)",
    # Apart from the templates, so that reading all vectors does not wade through pictures.
    "CREATE TABLE picture (template INTEGER PRIMARY KEY REFERENCES template ON DELETE CASCADE, pad BLOB NOT NULL, "
    "bytes BLOB NOT NULL)",
    # See `edge_app.gallery.blocks`.
    "CREATE TABLE directory (id INTEGER PRIMARY KEY, people INTEGER NOT NULL, pad BLOB NOT NULL, names BLOB NOT NULL)",
    "CREATE TABLE packed (id INTEGER PRIMARY KEY, people INTEGER NOT NULL, templates INTEGER NOT NULL, "
    "pad BLOB NOT NULL, vectors BLOB NOT NULL)",
)
COLUMNS: Final = {
    "identity": ("id", "bucket", "pad", "name", "facts"),
    "template": ("id", "identity", "model", "pad", "vector", "shot"),
    "picture": ("template", "pad", "bytes"),
    "directory": ("id", "people", "pad", "names"),
    "packed": ("id", "people", "templates", "pad", "vectors"),
    "base": ("identity", "pad", "record"),
}
"""The tables that hold what must leave no byte."""
_BESIDE: Final = (
    "CREATE TABLE gallery (id INTEGER PRIMARY KEY CHECK (id = 1), gallery_id BLOB NOT NULL, protection BLOB, "
    "retention BLOB, chain BLOB NOT NULL)",
    "CREATE TABLE model (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dimensions INTEGER NOT NULL)",
    "CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, record BLOB NOT NULL, link BLOB NOT NULL)",
)
SECOND_TABLES: Final = (
    *_BESIDE,
    "CREATE TABLE identity (id INTEGER PRIMARY KEY AUTOINCREMENT, token BLOB NOT NULL UNIQUE, name BLOB NOT NULL, "
    "facts BLOB NOT NULL)",
    "CREATE TABLE template (id INTEGER PRIMARY KEY AUTOINCREMENT, "
    "identity INTEGER NOT NULL REFERENCES identity ON DELETE CASCADE, "
    "model INTEGER NOT NULL REFERENCES model, vector BLOB NOT NULL, shot BLOB NOT NULL)",
    "CREATE INDEX template_of ON template (identity)",
    "CREATE TABLE picture (template INTEGER PRIMARY KEY REFERENCES template ON DELETE CASCADE, bytes BLOB NOT NULL)",
)
"""Those of version 0.2.0."""

_QUALITY: Final = ", ".join(field.name for field in fields(Quality))
FIRST_TABLES: Final = (
    "CREATE TABLE model (id INTEGER PRIMARY KEY, name TEXT, dimensions INTEGER)",
    "CREATE TABLE identity (id INTEGER PRIMARY KEY, name TEXT, last_seen_s REAL)",
    "CREATE TABLE template (id INTEGER PRIMARY KEY, identity INTEGER, model INTEGER, vector BLOB, source TEXT, "
    f"created_s REAL, {_QUALITY.replace(',', ' REAL,')} REAL)",
    "CREATE TABLE picture (template INTEGER PRIMARY KEY, bytes BLOB)",
    "CREATE TABLE event (time_s REAL, happening TEXT, templates INTEGER)",
)
"""The columns of version 0.1.0, without its constraints: what can be read of a damaged file is gathered in them."""

SCHEMA: Final = Schema(
    statements=(*_BESIDE, *_PEOPLE, *_SHARING),
    version=3,
    application_id=0x45444745,  # "EDGE"
    fill=_fill,
    upgrade=upgrade,
)
