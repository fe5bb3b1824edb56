"""The gallery on disk: identities, templates, kept pictures, last sightings and an audit trail without names.

Hides the tables and how they are read fast. Flows in: names and `Template`s. Flows out: `Identity`, `Stored` (all
vectors of one model as one array), `Enrolled` (a line per identity). The file itself is
`edge_app.gallery.sqlite_file`'s.
"""

from __future__ import annotations

import contextlib
import difflib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import GalleryError
from edge_app.core.names import valid_name
from edge_app.core.types import Embedding, Float32s, Identity, Quality, Template
from edge_app.gallery.sqlite_file import Database, Schema, damaged

Happening = Literal["enroll", "rename", "forget"]

_LITTLE: Final = np.dtype("<f4")
_UNIT_TOLERANCE: Final = 1e-3
"""How far a stored vector's squared length may be from 1; float32 rounding stays below 1e-6."""
_QUALITY: Final = ", ".join(field.name for field in fields(Quality))

SCHEMA: Final = Schema(
    statements=(
        "CREATE TABLE model (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dimensions INTEGER NOT NULL)",
        "CREATE TABLE identity (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last_seen_s REAL)",
        f"""CREATE TABLE template (
            id INTEGER PRIMARY KEY,
            identity INTEGER NOT NULL REFERENCES identity ON DELETE CASCADE,
            model INTEGER NOT NULL REFERENCES model,
            vector BLOB NOT NULL,
            source TEXT NOT NULL,
            created_s REAL NOT NULL,
            {_QUALITY.replace(",", " REAL NOT NULL,")} REAL NOT NULL)""",
        "CREATE INDEX template_of ON template (identity)",
        # Apart from the templates, so that reading all vectors does not wade through pictures.
        """CREATE TABLE picture (
            template INTEGER PRIMARY KEY REFERENCES template ON DELETE CASCADE,
            bytes BLOB NOT NULL)""",
        "CREATE TABLE event (time_s REAL NOT NULL, happening TEXT NOT NULL, templates INTEGER NOT NULL)",
    ),
    version=1,
    application_id=0x45444745,  # "EDGE"
)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """All templates of one model, as matching wants them."""

    model_id: str
    """The model they belong to."""
    names: tuple[str, ...]
    """The identities that have templates of this model, in order of enrollment."""
    vectors: Float32s
    """(T, D) float32, rows of unit length, read-only; (0, 0) when there is none."""
    owner: NDArray[np.intp]
    """(T,) index into `names` of each row, read-only."""
    generation: int
    """`Vault.generation()` at the moment of reading."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One identity in a line."""

    name: str
    """As it is stored."""
    templates: Mapping[str, int]
    """Number of templates by model id, read-only."""
    pictures: int
    """How many of the templates have their picture kept."""
    created_s: float
    """Unix time of the first template."""
    last_seen_s: float | None
    """Unix time of the last sighting; None: never seen."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit trail; it holds no name, so that forgetting leaves nothing."""

    time_s: float
    """Unix time."""
    happening: Happening
    """What was done."""
    templates: int
    """How many templates it concerned."""


class Vault:
    """The gallery's file. It need not exist: reading then finds an empty gallery and makes nothing.

    Usable from several threads and by several processes at once. Close it, or use it in a `with` statement. Every
    method raises GalleryError when the file is damaged, newer than this version or in use for too long, or when the
    disk is full or read-only (EdgeError for the folder); the gallery is then as it was before the call.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._file = Database(path, SCHEMA)
        self._clock = clock

    def __enter__(self) -> Vault:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        self._file.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside lands together or not at all; other processes wait meanwhile."""
        with self._file.transaction():
            yield

    def read(self, model_id: str) -> Stored:
        """Read all templates of one model. Raises GalleryError when a vector is damaged."""
        with self._file.reading() as db:
            generation = self._file.generation()
            key, dimensions = _model(db, model_id) or (0, 0)
            names: dict[int, str] = dict(db.execute("SELECT id, name FROM identity"))
            rows = db.execute("SELECT identity, vector FROM template WHERE model = ? ORDER BY id", (key,)).fetchall()
        owners = np.fromiter((row[0] for row in rows), np.int64, len(rows))
        present, owner = np.unique(owners, return_inverse=True)
        owner = owner.astype(np.intp, copy=False)
        owner.setflags(write=False)
        vectors = self._unit_rows(b"".join(row[1] for row in rows), (len(rows), dimensions if rows else 0))
        return Stored(model_id, tuple(names[found] for found in present.tolist()), vectors, owner, generation)

    def identity(self, name: str, model_id: str | None = None) -> Identity:
        """Return one identity with its templates of one model, oldest first.

        Without `model_id`, of the model it was last enrolled with. Raises GalleryError when there is none.
        """
        with self._file.reading() as db:
            person, name = _find(db, name)
            model = model_id or _latest_model(db, person)
            key, dimensions = _model(db, model) or (0, 0)
            rows = db.execute(
                f"SELECT vector, source, created_s, {_QUALITY} FROM template"
                " WHERE identity = ? AND model = ? ORDER BY id",
                (person, key),
            ).fetchall()
        if not rows:
            raise GalleryError(f"{name!r} has no template of {model}", remedy="enroll it again with the model in use")
        vectors = self._unit_rows(b"".join(row[0] for row in rows), (len(rows), dimensions))
        templates = (
            Template(Embedding(vector, model), Quality(*row[3:]), source=row[1], created_s=row[2])
            for vector, row in zip(vectors, rows, strict=True)
        )
        return Identity(name, tuple(templates))

    def pictures(self, name: str, model_id: str | None = None) -> tuple[bytes | None, ...]:
        """Return the kept picture of each template, None where there is none; parallel to `identity`'s templates."""
        with self._file.reading() as db:
            person, _ = _find(db, name)
            key, _ = _model(db, model_id or _latest_model(db, person)) or (0, 0)
            rows = db.execute(
                "SELECT bytes FROM template LEFT JOIN picture ON picture.template = template.id"
                " WHERE identity = ? AND model = ? ORDER BY template.id",
                (person, key),
            )
            return tuple(row[0] for row in rows)

    def names(self, model_id: str | None = None) -> tuple[str, ...]:
        """All names, sorted; with `model_id`, those that have templates of that model."""
        return tuple(one.name for one in self.roster() if model_id is None or model_id in one.templates)

    def models_without_poses(self) -> frozenset[str]:
        """Models none of whose templates was measured to be turned or tilted, and all with the score 1: of things.

        Imported templates, of which nothing was measured, tell nothing.
        """
        with self._file.reading() as db:
            rows = db.execute(
                "SELECT model.name FROM template JOIN model ON model.id = model GROUP BY 1"
                " HAVING max(score) = 1 AND min(score = 1 OR face_px = 0)"
                " AND max(abs(yaw) + abs(pitch) + abs(roll_deg)) = 0"
            )
            return frozenset(row[0] for row in rows)

    def roster(self) -> tuple[Enrolled, ...]:
        """All identities, a line each, sorted by name."""
        with self._file.reading() as db:
            counts: dict[int, dict[str, int]] = {}
            for person, model, count in db.execute(
                "SELECT identity, model.name, count(*) FROM template JOIN model ON model.id = model GROUP BY 1, 2"
            ):
                counts.setdefault(person, {})[model] = count
            people = db.execute(
                "SELECT identity.id, name, count(picture.template), min(created_s), last_seen_s FROM identity"
                " JOIN template ON identity = identity.id LEFT JOIN picture ON picture.template = template.id"
                " GROUP BY identity.id ORDER BY name"
            ).fetchall()
        return tuple(Enrolled(name, MappingProxyType(counts[person]), *rest) for person, name, *rest in people)

    def models(self) -> dict[str, int]:
        """Number of templates by model id."""
        with self._file.reading() as db:
            return dict(
                db.execute("SELECT name, count(*) FROM template JOIN model ON model.id = model GROUP BY 1 ORDER BY 1")
            )

    def generation(self) -> int:
        """A number that changes with every enrollment, renaming and forgetting by any process, not with sightings.

        Cheap enough for a live loop to ask between frames (compare with !=); 0 for a gallery that never was.
        """
        return self._file.generation()

    def add(self, name: str, templates: Sequence[Template], pictures: Sequence[bytes | None] = ()) -> None:
        """Enroll an identity, or give one that exists more templates, in one transaction.

        `pictures`, when given, is parallel to `templates` and holds encoded pictures to keep. Raises UsageError for
        an unfit name, GalleryError when a vector is not as long as those its model already has here.
        """
        kept = pictures or (None,) * len(templates)
        if not templates or len(kept) != len(templates):
            raise ValueError(f"found {len(templates)} templates and {len(kept)} pictures, expected as many, not none")
        name = valid_name(name)
        with self._file.writing(create=True) as db:
            db.execute("INSERT INTO identity (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            person, _ = _find(db, name)
            for template, picture in zip(templates, kept, strict=True):
                row = (person, _model_key(db, template.embedding), *_columns(template))
                added = db.execute(f"INSERT INTO template VALUES (NULL{', ?' * len(row)})", row).lastrowid
                if picture is not None:
                    db.execute("INSERT INTO picture VALUES (?, ?)", (added, picture))
            self._record(db, "enroll", len(templates))

    def rename(self, old: str, new: str) -> None:
        """Give an identity another name, the old one leaving no trace.

        Raises UsageError for an unfit name, GalleryError when `old` is absent or `new` is taken.
        """
        new = valid_name(new)
        with self._file.writing() as db:
            person, old = _find(db, old)
            if old == new:
                return
            if db.execute("SELECT 1 FROM identity WHERE name = ?", (new,)).fetchone():
                raise GalleryError(
                    f"{new!r} is in the gallery already", remedy="choose another name or forget it first"
                )
            db.execute("UPDATE identity SET name = ? WHERE id = ?", (new, person))
            (count,) = db.execute("SELECT count(*) FROM template WHERE identity = ?", (person,)).fetchone()
            self._record(db, "rename", count)

    def forget(self, name: str) -> int:
        """Delete an identity with its templates and pictures; returns how many templates there were.

        Neither its name nor any byte of a vector or picture stays in the file or beside it. Raises GalleryError when
        the name is absent.
        """
        with self._file.writing() as db:
            person, _ = _find(db, name)
            count = db.execute("DELETE FROM template WHERE identity = ?", (person,)).rowcount
            db.execute("DELETE FROM identity WHERE id = ?", (person,))
            db.execute("DELETE FROM model WHERE id NOT IN (SELECT model FROM template)")
            self._record(db, "forget", count)
        return count

    def drop(self, name: str, model_id: str, index: int | None = None) -> int:
        """Delete one model's templates of an identity, or only the one at `index` of `identity`'s, with their pictures.

        Returns how many were deleted; an identity left without any template goes too, and as little stays as after
        `forget`. Raises GalleryError when there is no such template.
        """
        with self._file.writing() as db:
            person, name = _find(db, name)
            key, _ = _model(db, model_id) or (0, 0)
            rows = db.execute("SELECT id FROM template WHERE identity = ? AND model = ? ORDER BY id", (person, key))
            held = rows.fetchall()
            doomed = held if index is None else held[index : index + 1] if index >= 0 else []
            if not doomed:
                which = f"template {index}" if held else "template"
                raise GalleryError(f"{name!r} has no {which} of {model_id}", remedy="see `edge-app gallery show NAME`")
            db.executemany("DELETE FROM template WHERE id = ?", doomed)
            db.execute("DELETE FROM identity WHERE id = ? AND id NOT IN (SELECT identity FROM template)", (person,))
            db.execute("DELETE FROM model WHERE id NOT IN (SELECT model FROM template)")
            self._record(db, "forget", len(doomed))
        return len(doomed)

    def touch(self, name: str, time_s: float) -> bool:
        """Note that an identity was seen at a Unix time; False when it is no longer enrolled.

        Waits for the disk, some milliseconds: call it once per appearance, not per frame.
        """
        with self._file.writing() as db:
            touched = db.execute(
                "UPDATE identity SET last_seen_s = max(coalesce(last_seen_s, ?1), ?1) WHERE name = ?2",
                (float(time_s), valid_name(name)),
            )
            return touched.rowcount > 0

    def last_seen(self, name: str) -> float | None:
        """Unix time of the last sighting, None for never. Raises GalleryError when the name is absent."""
        with self._file.reading() as db:
            person, _ = _find(db, name)
            seen: float | None = db.execute("SELECT last_seen_s FROM identity WHERE id = ?", (person,)).fetchone()[0]
            return seen

    def events(self) -> tuple[Event, ...]:
        """The audit trail, oldest first."""
        with self._file.reading() as db:
            return tuple(Event(*row) for row in db.execute("SELECT * FROM event ORDER BY rowid"))

    def verify(self) -> None:
        """Check the file's structure and every vector; raises GalleryError with the first fault."""
        self._file.verify()
        for model_id in self.models():
            self.read(model_id)

    def _record(self, db: sqlite3.Connection, happening: Happening, templates: int) -> None:
        db.execute("INSERT INTO event VALUES (?, ?, ?)", (self._clock(), happening, templates))
        self._file.changed(leaves_nothing=happening != "enroll")

    def _unit_rows(self, blob: bytes, shape: tuple[int, int]) -> Float32s:
        """Vectors as a read-only (T, D) float32 array, without a copy where the machine is little-endian."""
        if len(blob) != shape[0] * shape[1] * _LITTLE.itemsize:
            raise damaged(self.path, "a vector of the wrong length")
        rows = np.frombuffer(blob, dtype=_LITTLE).reshape(shape).astype(np.float32, copy=False)
        if not np.all(np.abs(np.einsum("td,td->t", rows, rows) - 1.0) < _UNIT_TOLERANCE):  # also false for NaN
            raise damaged(self.path, "a vector that is not of unit length")
        rows.setflags(write=False)
        return rows


def _find(db: sqlite3.Connection, name: str) -> tuple[int, str]:
    """Key and stored form of a name. Raises GalleryError, with near names, when it is absent."""
    name = valid_name(name)
    row = db.execute("SELECT id FROM identity WHERE name = ?", (name,)).fetchone()
    if row:
        return int(row[0]), name
    folded = {known.casefold(): known for (known,) in db.execute("SELECT name FROM identity")}
    near = " or ".join(repr(folded[one]) for one in difflib.get_close_matches(name.casefold(), folded, n=3))
    remedy = f"did you mean {near}?" if near else "`edge-app gallery list` shows the names"
    raise GalleryError(f"nobody named {name!r} is in the gallery", remedy=remedy)


def _model(db: sqlite3.Connection, model_id: str) -> tuple[int, int] | None:
    """Key and dimensions of a model, None when the gallery has nothing of it."""
    row: tuple[int, int] | None = db.execute("SELECT id, dimensions FROM model WHERE name = ?", (model_id,)).fetchone()
    return row


def _model_key(db: sqlite3.Connection, embedding: Embedding) -> int:
    """Key of the model of an embedding, made when it is new. Raises GalleryError for another number of dimensions."""
    size = embedding.vector.size
    key, known = _model(db, embedding.model_id) or (None, size)
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


def _latest_model(db: sqlite3.Connection, person: int) -> str:
    row = db.execute(
        "SELECT name FROM template JOIN model ON model.id = model WHERE identity = ? ORDER BY template.id DESC",
        (person,),
    ).fetchone()
    return str(row[0])


def _columns(template: Template) -> tuple[bytes | str | float, ...]:
    """A template as the columns from `vector` on; numpy's numbers become Python's, which SQLite takes."""
    # A file name that is not UTF-8 reaches us with surrogates, which SQLite refuses.
    source = template.source.encode(errors="backslashreplace").decode()
    vector = template.embedding.vector.astype(_LITTLE).tobytes()
    return vector, source, float(template.created_s), *(float(value) for value in astuple(template.quality))
