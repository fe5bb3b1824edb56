"""One identity in the tables: found by its name or number, read, written."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, cast

from edge_app.core.errors import GalleryError
from edge_app.core.names import valid_name
from edge_app.core.suggest import did_you_mean
from edge_app.core.types import Embedding, Template
from edge_app.gallery import blocks, records
from edge_app.gallery.people import Enrolled, KeptShot, Person
from edge_app.gallery.records import SPOILED, Facts, bucket, put
from edge_app.gallery.sealing import Sealer

_MOST_COMPARED: Final = 5_000
"""Names that are held against a mistyped one."""


def bytes_of(stored: object) -> bytes:
    if not isinstance(stored, bytes):
        raise ValueError("a number that is no bytes")
    return stored


def read_person(db: sqlite3.Connection, sealer: Sealer, number: int, *, pictures: bool) -> Person:
    """One identity by its number. Raises one of `SPOILED` when any part of it is damaged or missing."""
    row = db.execute("SELECT name, facts FROM identity WHERE id = ?", (number,)).fetchone()
    name, ignored = records.decode_name(sealer.open("identity.name", (number,), row[0]))
    facts = records.decode_facts(sealer.open("identity.facts", (number,), row[1]))
    models = models_of(db)
    shots = []
    rows = db.execute("SELECT id, model, vector, shot FROM template WHERE identity = ? ORDER BY id", (number,))
    for key, model, vector, shot in rows.fetchall():
        place = (key, number, model)
        model_id, size = models[model]
        [unit] = records.unit_rows(sealer.open("template.vector", place, vector), (1, size))
        source, created_s, quality = records.decode_shot(sealer.open("template.shot", place, shot))
        picture = None
        if pictures:
            held = db.execute("SELECT bytes FROM picture WHERE template = ?", (key,)).fetchone()
            picture = None if held is None else sealer.open("picture.bytes", (key,), held[0])
        shots.append(KeptShot(Template(Embedding(unit, model_id), quality, source, created_s), picture))
    if not shots:
        raise ValueError("somebody without a template")
    return Person(name, facts, tuple(shots), ignored)


def gallery_row(db: sqlite3.Connection) -> tuple[bytes, bytes | None, bytes | None, bytes]:
    """The gallery's id, protection, retention and chain."""
    rows = db.execute("SELECT gallery_id, protection, retention, chain FROM gallery LIMIT 2").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], bytes) or len(rows[0][0]) != records.GALLERY_ID_BYTES:
        raise ValueError("the gallery's own row is missing or damaged")
    return cast("tuple[bytes, bytes | None, bytes | None, bytes]", rows[0])


def read_identity(db: sqlite3.Connection, sealer: Sealer, number: int) -> tuple[str, bool, Facts]:
    """An identity's name, whether it is a known stranger's, and its facts."""
    name, facts = db.execute("SELECT name, facts FROM identity WHERE id = ?", (number,)).fetchone()
    return (
        *records.decode_name(sealer.open("identity.name", (number,), name)),
        records.decode_facts(sealer.open("identity.facts", (number,), facts)),
    )


def write_identity(
    db: sqlite3.Connection, sealer: Sealer, number: int, name: str, *, ignored: bool, facts: Facts
) -> None:
    named = sealer.seal("identity.name", (number,), records.encode_name(name, ignored=ignored))
    known = sealer.seal("identity.facts", (number,), records.encode_facts(facts))
    put(db, "identity", (number, bucket(sealer.token(name))), named, known)


def next_number(db: sqlite3.Connection, table: str) -> int:
    """The next number of a table, never used before."""
    asked = (
        f"SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = ?), 0), coalesce(max(id), 0)) FROM {table}"
    )
    return int(db.execute(asked, (table,)).fetchone()[0]) + 1


def drop_unused_models(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM model WHERE NOT EXISTS (SELECT 1 FROM template WHERE template.model = model.id)")


def number_of(db: sqlite3.Connection, sealer: Sealer, name: str) -> int | None:
    """The number of a name; None when nobody has it. Raises ValueError when two have."""
    found = []
    rows = db.execute("SELECT id, name FROM identity WHERE bucket = ?", (bucket(sealer.token(name)),))
    for number, stored in rows.fetchall():
        with contextlib.suppress(*SPOILED):  # somebody else's damage; `verify` tells of it
            if records.decode_name(sealer.open("identity.name", (number,), stored))[0] == name:
                found.append(int(number))
    if len(found) > 1:
        raise ValueError("two people of one name")
    return found[0] if found else None


def line_of(db: sqlite3.Connection, sealer: Sealer, models: Mapping[int, tuple[str, int]], number: int) -> Enrolled:
    """One identity in a line."""
    name, ignored, facts = read_identity(db, sealer, number)
    counts: dict[str, int] = {}
    created = []
    rows = db.execute("SELECT id, model, shot FROM template WHERE identity = ? ORDER BY id", (number,))
    for key, model, shot in rows.fetchall():
        model_id = models[model][0]
        counts[model_id] = counts.get(model_id, 0) + 1
        created.append(records.decode_shot(sealer.open("template.shot", (key, number, model), shot))[1])
    kept = "SELECT count(*) FROM template JOIN picture ON template = template.id WHERE identity = ?"
    [pictures] = db.execute(kept, (number,)).fetchone()
    by_model = MappingProxyType(counts)
    return Enrolled(name, by_model, pictures, min(created), facts.last_seen_s, ignored, facts.consents)


def find(db: sqlite3.Connection, sealer: Sealer, name: str) -> tuple[int, str]:
    """Number and stored form of a name. Raises GalleryError, with near names, when it is absent."""
    name = valid_name(name)
    number = number_of(db, sealer, name)
    if number is not None:
        return number, name
    names = blocks.directory(db, sealer).names
    known: Iterable[str] = names
    if len(names) > _MOST_COMPARED:  # a tenth of a second instead of half a minute
        letter, length = name.encode()[:1], len(name.encode())
        alike = (at for at, one in enumerate(names.all_raw()) if one[1:2] == letter and abs(len(one) - 1 - length) < 2)
        known = [names[at] for at in itertools.islice(alike, _MOST_COMPARED)]
    remedy = did_you_mean(name, known, "`edge-app gallery list` shows the names")
    raise GalleryError(f"nobody named {name!r} is in the gallery", remedy=remedy)


def models_of(db: sqlite3.Connection) -> dict[int, tuple[str, int]]:
    """Id and dimensions of every model by its key."""
    rows = db.execute("SELECT id, name, dimensions FROM model").fetchall()
    return {key: records.valid_model(name, dimensions) for key, name, dimensions in rows}


def model_of(db: sqlite3.Connection, model_id: str) -> tuple[int, int] | None:
    """Key and dimensions of a model, None when the gallery has nothing of it."""
    return next(((key, size) for key, (name, size) in models_of(db).items() if name == model_id), None)


def model_key(db: sqlite3.Connection, embedding: Embedding) -> int:
    """Key of the model of an embedding, made when it is new. Raises GalleryError for another number of dimensions."""
    size = embedding.vector.size
    key, known = model_of(db, embedding.model_id) or (None, size)
    if known != size:
        raise GalleryError(
            f"a vector of {size} numbers came from {embedding.model_id}",
            expected=f"{known}, as this gallery has of that model",
            remedy="give the changed model another id, or forget those enrolled with the earlier one",
        )
    if key is None:
        key = db.execute("INSERT INTO model (name, dimensions) VALUES (?, ?)", (embedding.model_id, size)).lastrowid
    assert key is not None
    return key
