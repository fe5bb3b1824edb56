"""The gallery on disk: identities, templates, kept pictures, last sightings and an audit trail without names."""

from __future__ import annotations

import contextlib
import heapq
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, cast, get_args

import numpy as np

from edge_app.core.errors import GalleryError
from edge_app.core.names import valid_name
from edge_app.core.types import Identity, Template
from edge_app.gallery import blocks, keys, records
from edge_app.gallery.people import Enrolled, Event, Happening, KeptShot, Lasting, Person, Stored
from edge_app.gallery.records import CHAIN_END, SCHEMA, SPOILED, UID_BYTES, Facts, bucket, put
from edge_app.gallery.rows import (
    bytes_of,
    drop_unused_models,
    find,
    gallery_row,
    line_of,
    model_key,
    model_of,
    models_of,
    next_number,
    number_of,
    read_identity,
    read_person,
    write_identity,
)
from edge_app.gallery.sealing import Clear, Sealed, Sealer
from edge_app.gallery.sqlite_file import Database, damaged
from edge_app.system.closing import Closing

__all__ = ["SCHEMA", "Vault"]

_HAPPENINGS: Final = frozenset(get_args(Happening))
_CHANGES_NOBODY: Final = frozenset({"login", "export", "merge"})
_LEAVES_NOTHING: Final = frozenset({"rename", "forget", "retention"})
MOST_TEMPLATES: Final = 10_000
"""Of one person; beyond it several people were meant by one name."""


class Vault(Closing):
    """The gallery's file. It need not exist: reading then finds an empty gallery and makes nothing.

    Usable from several threads and by several processes at once. Close it, or use it in a `with` statement. Every
    method raises GalleryError when the file is damaged, newer than this version, locked with a key that is not at
    hand, or in use for too long, or when the disk is full or read-only (EdgeError for the folder); the gallery is then
    as it was before the call.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._file = Database(path, SCHEMA, self._settle)
        self._changed_blocks: set[int] = set()
        self._clock = clock
        self._opened: tuple[tuple[object, object], Sealer] | None = None

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        self._file.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside lands together or not at all; other processes wait meanwhile."""
        with self._file.transaction():
            yield

    def unlock(self) -> None:
        """Get the key of a protected gallery now, before a screen covers the terminal that may ask for it."""
        with self._file.reading() as db:
            self._sealer(db)

    def _directory(self, db: sqlite3.Connection, sealer: Sealer) -> blocks.Directory:
        if self._file.is_writing:  # what the transaction in which this is asked has changed counts
            self._settle(db)
        return blocks.directory(db, sealer)

    def _settle(self, db: sqlite3.Connection) -> None:
        """Make the blocks anew whose people were changed; all of them where an earlier version left none."""
        if self._changed_blocks:
            with self._sound():
                changed = blocks.all_blocks(db) if blocks.are_missing(db) else sorted(self._changed_blocks)
                blocks.rewrite(db, self._sealer(db), changed)
            self._changed_blocks.clear()

    def _build(self) -> None:
        """Make the blocks that an earlier version left none of, unless the file is busy or read-only."""
        with self._file.reading() as db:
            missing = blocks.are_missing(db)
        if missing:
            with contextlib.suppress(GalleryError), self._file.writing() as db:
                self._changed_blocks.update(blocks.all_blocks(db))

    def protection(self) -> keys.Protection | None:
        """How the gallery is protected, None for not at all. Needs no key."""
        with self._file.reading() as db, self._sound():
            stored = gallery_row(db)[1]
            return None if stored is None else keys.Protection.decode(stored)

    def read(self, model_id: str) -> Stored:
        """Read everybody's mean template of one model. Raises GalleryError when one is damaged."""
        self._build()
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            generation = self._file.generation()
            everybody = self._directory(db, sealer)
            key, dimensions = model_of(db, model_id) or (0, 0)
            found = blocks.means(db, sealer, key, dimensions)
            where = np.searchsorted(everybody.numbers, found.numbers)
            if not np.array_equal(everybody.numbers[np.minimum(where, len(everybody.numbers) - 1)], found.numbers):
                raise ValueError("vectors of nobody")
            names = everybody.names if len(where) == len(everybody.names) else everybody.names.chosen(where)
        return Stored(model_id, names, found.vectors, found.counts, generation, names.ignored())

    def identity(self, name: str, model_id: str | None = None) -> Identity:
        """Return one identity with its templates of one model, oldest first.

        Without `model_id`, of the model it was last enrolled with. Raises GalleryError when there is none.
        """
        held = self.person(name)
        model = model_id or held.shots[-1].template.embedding.model_id
        templates = tuple(s.template for s in held.shots if s.template.embedding.model_id == model)
        if not templates:
            raise GalleryError(f"{held.name!r} has no template of {model}", remedy="enroll it again with that model")
        return Identity(held.name, templates)

    def pictures(self, name: str, model_id: str | None = None) -> tuple[bytes | None, ...]:
        """Return the kept picture of each template, None where there is none; parallel to `identity`'s templates."""
        held = self.person(name, pictures=True)
        model = model_id or held.shots[-1].template.embedding.model_id
        return tuple(s.picture for s in held.shots if s.template.embedding.model_id == model)

    def person(self, name: str, *, pictures: bool = False) -> Person:
        """Everything that is held of one identity; its pictures only on request. Raises GalleryError when absent."""
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            number, _ = find(db, sealer, name)
            return read_person(db, sealer, number, pictures=pictures)

    def people(self, *, pictures: bool = False) -> Iterator[Person]:
        """Everybody, in order of enrollment, as they are at one moment."""
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            for (number,) in db.execute("SELECT id FROM identity ORDER BY id").fetchall():
                yield read_person(db, sealer, number, pictures=pictures)

    def names(self, model_id: str | None = None) -> tuple[str, ...]:
        """All names, sorted; with `model_id`, those that have templates of that model."""
        self._build()
        with self._file.reading() as db, self._sound():
            everybody = self._directory(db, self._sealer(db))
            names: Sequence[str] = everybody.names
            if model_id is not None:
                key, _ = model_of(db, model_id) or (0, 0)
                having = db.execute("SELECT DISTINCT identity FROM template WHERE model = ?", (key,)).fetchall()
                which = np.isin(everybody.numbers, np.array(having, np.int64).ravel())
                names = everybody.names.chosen(np.flatnonzero(which))
            return tuple(sorted(names))

    def has(self, name: str, model_id: str | None = None) -> bool:
        """Whether a name is enrolled; with `model_id`, whether it has templates of that model."""
        with self._file.reading() as db, self._sound():
            number = number_of(db, self._sealer(db), valid_name(name))
            if number is None or model_id is None:
                return number is not None
            key, _ = model_of(db, model_id) or (0, 0)
            found = db.execute("SELECT 1 FROM template WHERE identity = ? AND model = ?", (number, key)).fetchone()
            return found is not None

    def twin(self, name: str) -> str | None:
        """Who is enrolled under a name that differs from this one by capital and small letters only; None: nobody."""
        with self._file.reading() as db, self._sound():
            return self._directory(db, self._sealer(db)).names.same_but_for_case(valid_name(name))

    def without(self, model_id: str) -> tuple[str, ...]:
        """Names of whoever has no template of a model, sorted."""
        with self._file.reading() as db, self._sound():
            key, _ = model_of(db, model_id) or (0, 0)
            if not db.execute("SELECT 1 FROM model WHERE id <> ?", (key,)).fetchone():
                return ()
            everybody = self._directory(db, self._sealer(db))
            having = db.execute("SELECT DISTINCT identity FROM template WHERE model = ?", (key,)).fetchall()
            which = ~np.isin(everybody.numbers, np.array(having, np.int64).ravel())
            return tuple(sorted(everybody.names.chosen(np.flatnonzero(which))))

    def models_without_poses(self) -> frozenset[str]:
        """Models none of whose templates was measured to be turned or tilted, and all with the score 1: of things.

        Imported templates, of which nothing was measured, tell nothing.
        """
        of_things = set()
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            for model, (name, _) in models_of(db).items():
                measured = False
                rows = db.execute("SELECT id, identity, shot FROM template WHERE model = ?", (model,))
                for number, person, shot in rows:
                    _, _, q = records.decode_shot(sealer.open("template.shot", (number, person, model), shot))
                    if q.yaw or q.pitch or q.roll_deg or (q.score != 1 and q.face_px != 0):
                        break
                    measured = measured or q.score == 1
                else:
                    if measured:
                        of_things.add(name)
        return frozenset(of_things)

    def roster(self) -> tuple[Enrolled, ...]:
        """All identities, a line each, sorted by name."""
        return self.page()

    def lines(self) -> Iterator[Enrolled]:
        """All identities, a line each, one after the other in order of enrollment, as they are at one moment."""
        with self._file.reading() as db, self._sound():
            sealer, models = self._sealer(db), models_of(db)
            for (number,) in db.execute("SELECT id FROM identity ORDER BY id").fetchall():
                yield line_of(db, sealer, models, number)

    def page(self, after: str = "", most: int | None = None) -> tuple[Enrolled, ...]:
        """The first `most` identities whose names come after `after`, sorted by name; None: all of them."""
        self._build()
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            everybody = self._directory(db, sealer)
            start = after.encode(errors="replace")
            listed = ((record[1:], at) for at, record in enumerate(everybody.names.all_raw()) if record[1:] > start)
            chosen = sorted(listed) if most is None else heapq.nsmallest(most, listed)
            models = models_of(db)
            return tuple(line_of(db, sealer, models, int(everybody.numbers[at])) for _, at in chosen)

    def line(self, name: str) -> Enrolled | None:
        """One identity in a line; None when nobody has that name."""
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            number = number_of(db, sealer, valid_name(name))
            return None if number is None else line_of(db, sealer, models_of(db), number)

    def count(self) -> int:
        """How many are enrolled."""
        with self._file.reading() as db:
            return int(db.execute("SELECT count(*) FROM identity").fetchone()[0])

    def models(self) -> dict[str, int]:
        """Number of templates by model id."""
        with self._file.reading() as db, self._sound():
            known = models_of(db)
            counts = db.execute("SELECT model, count(*) FROM template GROUP BY 1").fetchall()
            return dict(sorted((known[model][0], count) for model, count in counts))

    def generation(self) -> int:
        """A number that changes with every enrollment, renaming and forgetting by any process, not with sightings.

        Cheap enough for a live loop to ask between frames (compare with !=); 0 for a gallery that never was.
        """
        return self._file.generation()

    def add(
        self,
        name: str,
        templates: Sequence[Template],
        pictures: Sequence[bytes | None] = (),
        *,
        ignored: bool = False,
        consent: str | None = None,
    ) -> None:
        """Enroll an identity, or give one that exists more templates, in one transaction.

        `pictures`, when given, is parallel to `templates` and holds encoded pictures to keep; `ignored` makes a new
        identity a known stranger; `consent` is noted with the time. Raises UsageError for an unfit name, GalleryError
        when a vector is not as long as those its model already has here, or when the name is a known stranger's and
        `ignored` is not given, or the other way round.
        """
        kept = pictures or (None,) * len(templates)
        if not templates or len(kept) != len(templates):
            raise ValueError(f"found {len(templates)} templates and {len(kept)} pictures, expected as many, not none")
        consents = () if consent is None else ((self._clock(), consent),)
        shots = tuple(KeptShot(template, picture) for template, picture in zip(templates, kept, strict=True))
        self.restore(Person(valid_name(name), Facts(consents=consents), shots, ignored))

    def restore(self, person: Person, *, uid: bytes | None = None) -> None:
        """Enroll everything of a `Person` in one transaction, beside what one of that name has; raises as `add`.

        `uid` is what other doors know somebody by who is new here; None: nobody knows them yet.
        """
        with self._file.writing(create=True) as db, self._sound():
            sealer = self._sealer(db)
            name = valid_name(person.name)
            number = number_of(db, sealer, name)
            if number is None:
                number, facts = next_number(db, "identity"), person.facts
                write_identity(db, sealer, number, name, ignored=person.ignored, facts=facts)
                db.execute("INSERT INTO lasting VALUES (?, ?, 0, 0)", (uid or os.urandom(UID_BYTES), number))
            else:
                _, ignored, held = read_identity(db, sealer, number)
                if ignored != person.ignored:
                    what = "a known stranger" if ignored else "enrolled"
                    raise GalleryError(
                        f"{person.name!r} is {what} already", remedy="choose another name or forget it first"
                    )
                [had] = db.execute("SELECT count(*) FROM template WHERE identity = ?", (number,)).fetchone()
                if had + len(person.shots) > MOST_TEMPLATES:
                    raise GalleryError(
                        f"{person.name!r} would have {had + len(person.shots):,} templates",
                        expected=f"{MOST_TEMPLATES:,} at most of one person; do several people have that name?",
                    )
                seen = [at for at in (held.last_seen_s, person.facts.last_seen_s) if at is not None]
                consents = held.consents + tuple(c for c in person.facts.consents if c not in held.consents)
                facts = replace(held, last_seen_s=max(seen, default=None), consents=consents)
                write_identity(db, sealer, number, name, ignored=ignored, facts=facts)
            for shot in person.shots:
                model = model_key(db, shot.template.embedding)
                place = (next_number(db, "template"), number, model)
                vector = sealer.seal("template.vector", place, records.encode_vector(shot.template.embedding))
                measured = sealer.seal("template.shot", place, records.encode_shot(shot.template))
                put(db, "template", place, vector, measured)
                if shot.picture is not None:
                    put(db, "picture", place[:1], sealer.seal("picture.bytes", place[:1], shot.picture))
            self._changed_blocks.add(blocks.block_of(number))
            self._record(db, "enroll", len(person.shots), number)

    def rename(self, old: str, new: str) -> None:
        """Give an identity another name, the old one leaving no trace.

        Raises UsageError for an unfit name, GalleryError when `old` is absent or `new` is taken.
        """
        new = valid_name(new)
        with self._file.writing() as db, self._sound():
            sealer = self._sealer(db)
            person, old = find(db, sealer, old)
            if old == new:
                return
            if number_of(db, sealer, new) is not None:
                raise GalleryError(
                    f"{new!r} is in the gallery already", remedy="choose another name or forget it first"
                )
            _, ignored, facts = read_identity(db, sealer, person)
            write_identity(db, sealer, person, new, ignored=ignored, facts=facts)
            self._changed_blocks.add(blocks.block_of(person))
            (count,) = db.execute("SELECT count(*) FROM template WHERE identity = ?", (person,)).fetchone()
            self._record(db, "rename", count, person)

    def forget(self, name: str, *, because: Literal["forget", "retention"] = "forget") -> int:
        """Delete an identity with its templates and pictures; returns how many templates there were.

        Neither its name nor any byte of a vector or picture stays in the file or beside it. Raises GalleryError when
        the name is absent.
        """
        with self._file.writing() as db, self._sound():
            person, _ = find(db, self._sealer(db), name)
            count = db.execute("DELETE FROM template WHERE identity = ?", (person,)).rowcount
            db.execute("DELETE FROM identity WHERE id = ?", (person,))
            self._changed_blocks.add(blocks.block_of(person))
            drop_unused_models(db)
            self._record(db, because, count, person)
        return count

    def drop(self, name: str, model_id: str, index: int | None = None) -> int:
        """Delete one model's templates of an identity, or only the one at `index` of `identity`'s, with their pictures.

        Returns how many were deleted; an identity left without any template goes too, and as little stays as after
        `forget`. Raises GalleryError when there is no such template.
        """
        with self._file.writing() as db, self._sound():
            person, name = find(db, self._sealer(db), name)
            key, _ = model_of(db, model_id) or (0, 0)
            rows = db.execute("SELECT id FROM template WHERE identity = ? AND model = ? ORDER BY id", (person, key))
            held = rows.fetchall()
            doomed = held if index is None else held[index : index + 1] if index >= 0 else []
            if not doomed:
                which = f"template {index}" if held else "template"
                raise GalleryError(f"{name!r} has no {which} of {model_id}", remedy="see `edge-app gallery show NAME`")
            db.executemany("DELETE FROM template WHERE id = ?", doomed)
            if not db.execute("SELECT 1 FROM template WHERE identity = ?", (person,)).fetchone():
                db.execute("DELETE FROM identity WHERE id = ?", (person,))
            self._changed_blocks.add(blocks.block_of(person))
            drop_unused_models(db)
            self._record(db, "forget", len(doomed), person)
        return len(doomed)

    def touch(self, name: str, time_s: float) -> bool:
        """Note that an identity was seen at a Unix time; False when it is no longer enrolled.

        Waits for the disk, some milliseconds: call it once per appearance, not per frame.
        """
        with self._file.writing() as db, self._sound():
            sealer = self._sealer(db)
            number = number_of(db, sealer, valid_name(name))
            if number is None:
                return False
            stored, ignored, facts = read_identity(db, sealer, number)
            seen = records.valid_time(float(time_s))
            facts = replace(facts, last_seen_s=max(seen, facts.last_seen_s or 0.0))
            write_identity(db, sealer, number, stored, ignored=ignored, facts=facts)
            return True

    def last_seen(self, name: str) -> float | None:
        """Unix time of the last sighting, None for never. Raises GalleryError when the name is absent."""
        return self.person(name).facts.last_seen_s

    def note_attempt(self, name: str, *, passed: bool) -> None:
        """Count a login that failed, or forget those before one that did not."""
        with self._file.writing() as db, self._sound():
            sealer = self._sealer(db)
            number, _ = find(db, sealer, name)
            stored, ignored, held = read_identity(db, sealer, number)
            failures = 0 if passed else min(held.failures + 1, records.MOST_FAILURES)
            at = 0.0 if passed else records.valid_time(self._clock())
            if (failures, at) != (held.failures, held.failed_s):
                facts = replace(held, failures=failures, failed_s=at)
                write_identity(db, sealer, number, stored, ignored=ignored, facts=facts)

    def note(
        self,
        happening: Literal["export", "login", "merge"],
        name: str | None = None,
        templates: int = 0,
        *,
        words: str = "",
    ) -> None:
        """Add a line to the audit trail: an export, a recognition that let somebody in, what became of two changes.

        `words`, which hold no name, follow the program's.
        """
        with self._file.writing() as db, self._sound():
            person = None if name is None else find(db, self._sealer(db), name)[0]
            self._record(db, happening, templates, person, words)

    def connection(self) -> bytes | None:
        """What `edge_app.fleet` keeps here of the server that this gallery is shared through, None for nothing."""
        with self._file.reading() as db, self._sound():
            row = db.execute("SELECT record FROM connection").fetchone()
            return None if row is None else self._sealer(db).open("connection.record", (1,), row[0])

    def set_connection(self, record: bytes | None) -> None:
        """Keep a record for `edge_app.fleet`; with None, go back to a gallery that nobody else ever knew."""
        with self._file.writing(create=True) as db, self._sound():
            db.execute("DELETE FROM connection")
            if record is None:
                # Others may still have whoever was forgotten, and meet this gallery again through another server.
                db.execute("UPDATE lasting SET agreed = CASE WHEN identity IS NULL AND agreed <> 0 THEN -1 ELSE 0 END")
                db.execute("DELETE FROM base")
            else:
                sealed = self._sealer(db).seal("connection.record", (1,), record)
                db.execute("INSERT INTO connection VALUES (1, ?)", (sealed,))

    def unagreed(self) -> tuple[bytes, ...]:
        """The uids of whoever was enrolled, changed or forgotten here since `agree`; the earliest change first."""
        with self._file.reading() as db, self._sound():
            found = db.execute("SELECT uid FROM lasting WHERE revision > agreed ORDER BY revision, uid")
            return tuple(bytes_of(uid) for (uid,) in found)

    def uids(self) -> frozenset[bytes]:
        """The uids of everybody who is here."""
        with self._file.reading() as db, self._sound():
            found = db.execute("SELECT uid FROM lasting WHERE identity IS NOT NULL")
            return frozenset(bytes_of(uid) for (uid,) in found)

    def lasting(self, key: bytes | str) -> Lasting | None:
        """What is known of a uid, or of a name that is here; None where it was never here."""
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            column, value = "uid", cast("bytes | int | None", key)
            if isinstance(key, str):
                column, value = "identity", number_of(db, sealer, valid_name(key))
            asked = f"SELECT uid, identity, revision, agreed FROM lasting WHERE {column} = ?"
            row = db.execute(asked, (value,)).fetchone()
            if row is None:
                return None
            uid, number, revision, agreed = row
            name = base = None
            if number is not None:
                name, _, _ = read_identity(db, sealer, number)
                held = db.execute("SELECT record FROM base WHERE identity = ?", (number,)).fetchone()
                base = None if held is None else sealer.open("base.record", (number,), held[0])
            return Lasting(bytes_of(uid), name, base, revision > agreed, revision, agreed < 0, agreed != 0)

    def agree(self, uid: bytes, base: bytes | None) -> None:
        """Note that other doors know a person as they are here now; `base` describes that, None for a forgotten one.

        A uid that was never here is remembered as forgotten.
        """
        with self._file.writing(create=True) as db:
            row = db.execute("SELECT identity FROM lasting WHERE uid = ?", (uid,)).fetchone()
            if (row is not None and row[0] is not None) != (base is not None):
                raise ValueError("found a base for somebody who is not here, or none for somebody who is")
            if row is None:
                db.execute("INSERT INTO lasting VALUES (?, NULL, 1, 1)", (uid,))
            else:
                db.execute("UPDATE lasting SET agreed = revision WHERE uid = ?", (uid,))
                if base is not None:
                    put(db, "base", row, self._sealer(db).seal("base.record", row, base))

    def disagree(self, uid: bytes | None) -> None:
        """Note that other doors may not know a person, or that they were forgotten, any more; None: all of them."""
        with self._file.writing() as db:
            db.execute("UPDATE lasting SET agreed = -1 WHERE uid = ? OR (? IS NULL AND agreed <> 0)", (uid, uid))

    def relabel(self, name: str, uid: bytes) -> None:
        """Let a person be known by the uid that other doors have for the same person."""
        with self._file.writing() as db, self._sound():
            person, _ = find(db, self._sealer(db), name)
            db.execute("DELETE FROM lasting WHERE uid = ? AND identity IS NULL", (uid,))
            db.execute("UPDATE lasting SET uid = ?, agreed = -1 WHERE identity = ?", (uid, person))
            db.execute("DELETE FROM base WHERE identity = ?", (person,))

    def events(self) -> tuple[Event, ...]:
        """The audit trail, oldest first. Raises GalleryError when a line was removed, changed or moved."""
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            people: dict[int, str | None] = {}
            link, number, found = b"", 0, []
            for number, sealed, stored in db.execute("SELECT id, record, link FROM event ORDER BY id"):
                record = sealer.open("event.record", (number,), sealed)
                link = sealer.link(link, number, record)
                if link != stored:
                    raise damaged(self.path, f"its audit trail was changed at or before line {number}")
                time_s, happening, templates, person, process = records.decode_event(record)
                if happening not in _HAPPENINGS:
                    raise ValueError("a happening that is none")
                if person is not None and person not in people:
                    here = db.execute("SELECT 1 FROM identity WHERE id = ?", (person,)).fetchone()
                    people[person] = read_identity(db, sealer, person)[0] if here else None
                name = None if person is None else people[person]
                found.append(Event(time_s, cast(Happening, happening), templates, person, name, process))
            if gallery_row(db)[3] != sealer.link(link, number, CHAIN_END):
                raise damaged(self.path, "the end of its audit trail was cut off or added to")
        return tuple(found)

    def retention(self) -> bytes | None:
        """What `edge_app.gallery.retention` keeps here, None for nothing."""
        with self._file.reading() as db, self._sound():
            stored = gallery_row(db)[2]
            return None if stored is None else self._sealer(db).open("gallery.retention", (1,), stored)

    def set_retention(self, record: bytes | None) -> None:
        """Keep a record for `edge_app.gallery.retention`, or none."""
        with self._file.writing(create=True) as db, self._sound():
            stored = None if record is None else self._sealer(db).seal("gallery.retention", (1,), record)
            db.execute("UPDATE gallery SET retention = ?", (stored,))

    def drop_picture(self, name: str, index: int) -> None:
        """Delete the kept picture of the shot at `index` of `person`'s, and leave its template."""
        with self._file.writing() as db, self._sound():
            person, _ = find(db, self._sealer(db), name)
            rows = db.execute("SELECT id FROM template WHERE identity = ? ORDER BY id", (person,)).fetchall()
            db.execute("DELETE FROM picture WHERE template = ?", rows[index])
            self._record(db, "retention", 0, person)

    def protect(self, method: keys.Method, ask: Callable[[], str] | None = None) -> None:
        """Encrypt the gallery, or keep the key of an encrypted one elsewhere, in one transaction.

        `ask` gives a new passphrase. The key is durable before the transaction begins, and an old one is deleted after
        it has landed: killed at any moment, the gallery opens with what is there. Raises GalleryError when the place
        cannot keep a key.
        """
        with self._file.transaction(create=True):
            pass  # makes the file, and with it the gallery's id
        with self._file.reading() as db, self._sound():
            before = self._sealer(db)
            gallery_id, stored, _, _ = gallery_row(db)
            old = None if stored is None else keys.Protection.decode(stored)
        # Before the transaction: somebody may be typing a passphrase, and others must not wait for that.
        data_key = os.urandom(32) if old is None else keys.unlock(old, gallery_id, self.path.parent)
        new = keys.protect(method, gallery_id, data_key, self.path.parent, ask)
        with self._file.transaction(create=False) as db:
            with self._sound():
                unchanged = gallery_row(db)[:2] == (gallery_id, stored)
            if not unchanged:
                raise GalleryError("another process protected the gallery meanwhile", remedy="try again")
            db.execute("UPDATE gallery SET protection = ?", (new.encode(),))
            if old is None:
                self._reseal(db, before, Sealed(gallery_id, data_key))
            self._record(db, "protect", 0, None)
            self._file.changed(rebuilt=True)
        if old is not None and old.method != method:
            keys.discard(old, gallery_id, self.path.parent)

    def unprotect(self) -> None:
        """Decrypt the gallery in one transaction, and delete its key. Raises GalleryError when it is not protected."""
        with self._file.transaction(create=False) as db:
            sealer = self._sealer(db)
            gallery_id, stored, _, _ = gallery_row(db)
            if stored is None:
                raise GalleryError("the gallery is not protected")
            with self._sound():
                old = keys.Protection.decode(stored)
            db.execute("UPDATE gallery SET protection = NULL")
            self._reseal(db, sealer, Clear(gallery_id))
            self._record(db, "unprotect", 0, None)
            self._file.changed(rebuilt=True)
        keys.discard(old, gallery_id, self.path.parent)

    def adopt(self, gallery_id: bytes, protection: bytes | None, sealer: Sealer) -> None:
        """Make a new, empty gallery open with the key of another one."""
        with self._file.writing(create=True) as db:
            if db.execute("SELECT 1 FROM identity").fetchone():
                raise ValueError("found a gallery that holds somebody, expected an empty one")
            chain = sealer.link(b"", 0, CHAIN_END)
            db.execute("UPDATE gallery SET gallery_id = ?, protection = ?, chain = ?", (gallery_id, protection, chain))
            self._opened = ((gallery_id, protection), sealer)

    def verify(self) -> None:
        """Check the file's structure and every record; raises GalleryError with the first fault."""
        self._file.verify()
        for model_id in self.models():
            self.read(model_id)
        with self._file.reading() as db, self._sound():
            sealer = self._sealer(db)
            names = set()
            for number, held in db.execute("SELECT id, bucket FROM identity").fetchall():
                name = read_person(db, sealer, number, pictures=True).name
                if bucket(sealer.token(name)) != held or name in names:
                    raise ValueError("a name that was changed, or that two people have")
                names.add(name)
            if not blocks.are_missing(db):
                blocks.check(db, sealer)
            if db.execute(
                "SELECT 1 FROM identity LEFT JOIN lasting ON lasting.identity = identity.id WHERE uid IS NULL"
            ).fetchone():
                raise ValueError("somebody without a lasting number")
        self.connection()
        self.events()
        self.retention()

    def _reseal(self, db: sqlite3.Connection, old: Sealer, new: Sealer) -> None:
        """Write every record anew. Raises GalleryError when one is damaged."""
        with self._sound():
            for table in ("identity", "template", "picture", "base"):
                pad = records.COLUMNS[table].index("pad")
                columns = records.COLUMNS[table][:pad] + records.COLUMNS[table][pad + 1 :]
                numbers = db.execute(f"SELECT {columns[0]} FROM {table}").fetchall()
                for row in numbers:
                    held = db.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE {columns[0]} = ?", row)
                    whole = held.fetchone()
                    place = whole[:1] if table == "identity" else whole[:pad]
                    named = [
                        (f"{table}.{column}", stored) for column, stored in zip(columns[pad:], whole[pad:], strict=True)
                    ]
                    opened = [old.open(column, place, stored) for column, stored in named]
                    if table == "identity":
                        whole = (*place, bucket(new.token(records.decode_name(opened[0])[0])))
                    sealed = [new.seal(column, place, one) for (column, _), one in zip(named, opened, strict=True)]
                    put(db, table, whole[:pad], *sealed)
            for column in ("event.record", "gallery.retention", "connection.record"):
                table, name = column.split(".")
                for number, stored in db.execute(f"SELECT id, {name} FROM {table} WHERE {name} IS NOT NULL").fetchall():
                    sealed_one = new.seal(column, (number,), old.open(column, (number,), stored))
                    db.execute(f"UPDATE {table} SET {name} = ? WHERE id = ?", (sealed_one, number))
            db.execute("DELETE FROM directory")
            db.execute("DELETE FROM packed")
            self._changed_blocks.update(blocks.all_blocks(db))
            link, number = b"", 0
            for number, sealed in db.execute("SELECT id, record FROM event ORDER BY id").fetchall():
                link = new.link(link, number, new.open("event.record", (number,), sealed))
                db.execute("UPDATE event SET link = ? WHERE id = ?", (link, number))
            db.execute("UPDATE gallery SET chain = ?", (new.link(link, number, CHAIN_END),))

    def _record(
        self, db: sqlite3.Connection, happening: Happening, templates: int, person: int | None, words: str = ""
    ) -> None:
        sealer = self._sealer(db)
        before, link = db.execute("SELECT id, link FROM event ORDER BY id DESC LIMIT 1").fetchone() or (0, b"")
        if not isinstance(link, bytes) or gallery_row(db)[3] != sealer.link(link, before, CHAIN_END):
            # Lines are missing, or were added: going on from a link that nobody computes lets `events` find it.
            link = b"broken"
        number = before + 1
        program = f"{_process()}: {words}" if words else _process()
        record = records.encode_event(self._clock(), happening, templates, person, program)
        link = sealer.link(link, number, record)
        sealed = sealer.seal("event.record", (number,), record)
        db.execute("INSERT INTO event VALUES (?, ?, ?)", (number, sealed, link))
        db.execute("UPDATE gallery SET chain = ?", (sealer.link(link, number, CHAIN_END),))
        if happening not in _CHANGES_NOBODY:  # nobody has to read the templates again
            self._file.changed(leaves_nothing=happening in _LEAVES_NOTHING)
            if person is not None:
                db.execute("UPDATE lasting SET revision = (SELECT generation FROM state) WHERE identity = ?", (person,))
                if not db.execute("SELECT 1 FROM identity WHERE id = ?", (person,)).fetchone():
                    db.execute("UPDATE lasting SET identity = NULL WHERE identity = ?", (person,))
                    db.execute("DELETE FROM base WHERE identity = ?", (person,))

    def _sealer(self, db: sqlite3.Connection) -> Sealer:
        """What opens and seals the records as the file is protected now; another process may have changed that."""
        with self._sound():
            gallery_id, stored, _, _ = gallery_row(db)
            if self._opened is not None and self._opened[0] == (gallery_id, stored):
                return self._opened[1]
            sealer: Sealer = Clear(gallery_id)
            if stored is not None:
                protection = keys.Protection.decode(stored)
                sealer = Sealed(gallery_id, keys.unlock(protection, gallery_id, self.path.parent))
        self._opened = ((gallery_id, stored), sealer)
        return sealer

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        """Tell a record that cannot be decoded in one line."""
        try:
            yield
        except GalleryError:
            raise
        except SPOILED as error:
            raise damaged(self.path, f"a record cannot be read ({error or type(error).__name__})") from error


def _process() -> str:
    """The running program and its number, for the audit trail; the arguments, which may name people, are left out."""
    return f"{Path(sys.argv[0] or 'python').name[:80]} ({os.getpid()})".encode(errors="replace").decode()
