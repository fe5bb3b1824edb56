"""What a large gallery reads at once: blocks of names and of mean vectors, made from the records of their people.

A block is of the 256 people whose numbers follow one another, so an enrollment rewrites a single one. Its record is
sealed as all others are. Who changes a person marks the block; `rewrite` makes it anew before the transaction lands,
so that a block never says anything else than the records do.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from edge_app.core.names import same_but_for_case
from edge_app.core.types import Float32s
from edge_app.gallery import records
from edge_app.gallery.records import LITTLE
from edge_app.gallery.sealing import Sealer

PEOPLE: Final = 256
_MODEL: Final = 2**40
"""A block of vectors is numbered by its model's key times this, plus the block of people."""
_NUMBERS, _COUNTS, _TIMES = np.dtype("<i8"), np.dtype("<u4"), np.dtype("<f8")


class Names(Sequence[str]):
    """Names in order of enrollment; a name is decoded when it is asked for."""

    def __init__(self, text: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """`starts` and `ends` say where in `text` each name's record is; a zero byte is on either side of it."""
        self._text, self._starts, self._ends = text, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        if isinstance(at, slice):
            return Names(self._text, self._starts[at], self._ends[at])
        return records.decode_name(self.raw(at))[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} names>"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name) is not None

    def index(self, name: str, start: int = 0, stop: int | None = None) -> int:
        """Where a name is, without decoding the others. Raises ValueError when it is not there."""
        place = self._place(name)
        if place is None or not start <= place < (len(self) if stop is None else stop):
            raise ValueError(f"{name!r} is not there")
        return place

    def raw(self, at: int) -> bytes:
        """The name's record, see `edge_app.gallery.records.encode_name`."""
        return self._text[self._starts[at] : self._ends[at]]

    def all_raw(self) -> list[bytes]:
        """Every record: of 500,000 in a twentieth of a second."""
        if len(self) and self._ends[-1] - self._starts[0] == int((self._ends - self._starts + 1).sum()) - 1:
            return self._text[self._starts[0] : self._ends[-1]].split(b"\0")
        return [self.raw(at) for at in range(len(self))]

    def chosen(self, which: NDArray[np.intp]) -> Names:
        """Those at `which`, ascending."""
        return Names(self._text, self._starts[which], self._ends[which])

    def ignored(self) -> frozenset[str]:
        """Names of known strangers."""
        kinds = np.frombuffer(self._text, np.uint8)[self._starts]
        return frozenset(self[int(at)] for at in np.flatnonzero(kinds == ord("-")))

    def same_but_for_case(self, name: str) -> str | None:
        """Which of the names differs from `name` by capital and small letters only; None when none does.

        All are folded in one go: of 100,000 in a hundredth of a second, where one after the other takes a tenth.
        """
        everything = unicodedata.normalize("NFC", self._text.decode(errors="replace").casefold())
        folded = unicodedata.normalize("NFC", name.casefold())
        if not any(f"\0{kind}{folded}\0" in everything for kind in "+-"):
            return None
        return same_but_for_case(name, self)

    def _place(self, name: str) -> int | None:
        for kind in (b"+", b"-"):
            found = self._text.find(b"\0" + kind + name.encode(errors="replace") + b"\0") + 1
            at = int(np.searchsorted(self._starts, found))
            if found and at < len(self) and self._starts[at] == found:
                return at
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Directory:
    """Everybody."""

    numbers: NDArray[np.int64]
    """(N,) the numbers of the identities, ascending."""
    names: Names


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """Everybody with templates of one model."""

    numbers: NDArray[np.int64]
    """(N,), ascending."""
    counts: NDArray[np.int64]
    """(N,) how many templates each has."""
    created_s: NDArray[np.float64]
    """(N,) Unix time of each one's first template."""
    vectors: Float32s
    """(N, D) unit means, read-only."""


def block_of(number: int) -> int:
    """The block of an identity."""
    return number // PEOPLE


def rewrite(db: sqlite3.Connection, sealer: Sealer, blocks: Iterable[int]) -> None:
    """Make blocks from the records of their people. Raises one of `SPOILED` when a record is damaged."""
    for block in blocks:
        old = {row[0] for row in db.execute("SELECT id FROM packed WHERE id % ? = ?", (_MODEL, block))}
        names, packed = _of_records(db, sealer, block)
        if names:
            sealed = sealer.seal("directory.names", (block,), _encode_names(names))
            records.put(db, "directory", (block, len(names)), sealed)
        else:
            db.execute("DELETE FROM directory WHERE id = ?", (block,))
        for number, means in packed:
            sealed = sealer.seal("packed.vectors", (number,), _encode_means(means))
            records.put(db, "packed", (number, len(means.numbers), int(means.counts.sum())), sealed)
            old.discard(number)
        db.executemany("DELETE FROM packed WHERE id = ?", ((number,) for number in old))


def all_blocks(db: sqlite3.Connection) -> list[int]:
    """Every block that somebody is in."""
    return [row[0] for row in db.execute(f"SELECT DISTINCT id / {PEOPLE} FROM identity ORDER BY 1")]


def are_missing(db: sqlite3.Connection) -> bool:
    """Whether there are people and no blocks yet, as an earlier version leaves it."""
    return not db.execute("SELECT EXISTS (SELECT 1 FROM directory) OR NOT EXISTS (SELECT 1 FROM identity)").fetchone()[
        0
    ]


def directory(db: sqlite3.Connection, sealer: Sealer) -> Directory:
    """Everybody's number and name. Raises ValueError when the blocks do not hold whom the records hold."""
    parts: list[bytes] = []
    numbers: list[NDArray[np.int64]] = []
    if are_missing(db):  # and the file cannot be written
        for block in all_blocks(db):
            some, _ = _of_records(db, sealer, block)
            numbers.append(np.array([number for number, _ in some], np.int64))
            parts.append(b"".join(record + b"\0" for _, record in some))
    else:
        for block, people, stored in db.execute("SELECT id, people, names FROM directory ORDER BY id"):
            record = sealer.open("directory.names", (block,), stored)
            numbers.append(_numbers(record, people, block))
            parts.append(record[people * _NUMBERS.itemsize :])
    text = b"\0" + b"".join(parts)
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0).astype(np.int64)
    found = np.concatenate([np.zeros(0, np.int64), *numbers])
    if len(ends) != len(found) + 1 or len(found) != db.execute("SELECT count(*) FROM identity").fetchone()[0]:
        raise ValueError("the names are not those of the people")
    return Directory(found, Names(text, ends[:-1] + 1, ends[1:]))


def means(db: sqlite3.Connection, sealer: Sealer, key: int, size: int) -> Means:
    """Everybody's mean vector of the model `key`, of `size` numbers; raises as `directory`."""
    if are_missing(db):
        of_model = (one for block in all_blocks(db) for number, one in _of_records(db, sealer, block)[1]
                    if number // _MODEL == key)  # fmt: skip
        return _together(list(of_model), size)
    within = (key * _MODEL, (key + 1) * _MODEL)
    [people] = db.execute("SELECT sum(people) FROM packed WHERE id >= ? AND id < ?", within).fetchone()
    vectors = np.empty((people or 0, size), np.float32)
    found = []
    at = 0
    for number, some, stored in db.execute(
        "SELECT id, people, vectors FROM packed WHERE id >= ? AND id < ? ORDER BY id", within
    ):
        part = _decode_means(sealer.open("packed.vectors", (number,), stored), some, size, number)
        vectors[at : at + some] = part.vectors
        at += some
        found.append(Means(part.numbers, part.counts, part.created_s, vectors[at - some : at]))
    vectors.setflags(write=False)
    whole = _together(found, size, vectors)
    [templates] = db.execute("SELECT count(*) FROM template WHERE model = ?", (key,)).fetchone()
    if templates != int(whole.counts.sum()):
        raise ValueError("the vectors are not those of the templates")
    return whole


def check(db: sqlite3.Connection, sealer: Sealer) -> None:
    """Raise ValueError unless every block holds what the records of its people do."""
    kept = {row[0] for row in db.execute("SELECT id FROM packed")}
    for block in all_blocks(db):
        names, packed = _of_records(db, sealer, block)
        row = db.execute("SELECT names FROM directory WHERE id = ?", (block,)).fetchone()
        if row is None or sealer.open("directory.names", (block,), row[0]) != _encode_names(names):
            raise ValueError("the names are not those of the people")
        for number, made in packed:
            row = db.execute("SELECT vectors FROM packed WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise ValueError("the vectors are not those of the templates")
            record = sealer.open("packed.vectors", (number,), row[0])
            held = _decode_means(record, len(made.numbers), made.vectors.shape[1], number)
            same = np.array_equal(held.numbers, made.numbers) and np.array_equal(held.counts, made.counts)
            # Another processor may round the last bit of a mean differently.
            if not same or not np.allclose(held.vectors, made.vectors, atol=1e-5):
                raise ValueError("the vectors are not those of the templates")
            kept.discard(number)
    if kept:
        raise ValueError("the vectors are not those of the templates")


def mean_directions(vectors: Float32s, owner: NDArray[np.integer], counts: NDArray[np.int64]) -> Float32s:
    """Unit means (N, D) of (T, D) unit rows by their `owner` (T,): on LFW the mean of two beat the best of the two.

    Raises ValueError where they cancel out.
    """
    if len(vectors) == 0:
        return np.zeros((0, 0), np.float32)
    if len(counts) == len(vectors):
        unit = np.empty_like(vectors)
        unit[owner] = vectors
        return unit
    order = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sums = np.add.reduceat(vectors[order], starts, axis=0)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    if float(lengths.min()) < 1e-6:
        raise ValueError("two templates of one identity cancel out")
    return np.asarray(sums / lengths, np.float32)


def _of_records(
    db: sqlite3.Connection, sealer: Sealer, block: int
) -> tuple[list[tuple[int, bytes]], list[tuple[int, Means]]]:
    """A block from its people's records: their numbers and names, and by its number each model's part."""
    within = (block * PEOPLE, (block + 1) * PEOPLE)
    names = []
    for number, stored in db.execute("SELECT id, name FROM identity WHERE id >= ? AND id < ? ORDER BY id", within):
        record = sealer.open("identity.name", (number,), stored)
        records.decode_name(record)
        names.append((number, record))
    rows: dict[int, list[tuple[int, int, object, object]]] = {}
    for at, who, key, vector, shot in db.execute(
        "SELECT id, identity, model, vector, shot FROM template WHERE identity >= ? AND identity < ? "
        "ORDER BY identity, id",
        within,
    ):
        rows.setdefault(key, []).append((at, who, vector, shot))
    packed = []
    for key, of_model in sorted(rows.items()):
        row = db.execute("SELECT name, dimensions FROM model WHERE id = ?", (key,)).fetchone()
        _, size = records.valid_model(*(row or (None, None)))
        opened = sealer.open_all("template.vector", [((at, who, key), vector) for at, who, vector, _ in of_model])
        vectors = records.unit_rows(b"".join(opened), (len(of_model), size))
        shots = sealer.open_all("template.shot", [((at, who, key), shot) for at, who, _, shot in of_model])
        times = np.array([records.decode_shot(shot)[1] for shot in shots])
        owners = np.array([who for _, who, _, _ in of_model], np.int64)
        numbers, first, owner, counts = np.unique(owners, return_index=True, return_inverse=True, return_counts=True)
        found = mean_directions(vectors, owner, counts)
        packed.append((key * _MODEL + block, Means(numbers, counts, np.minimum.reduceat(times, first), found)))
    return names, packed


def _encode_names(names: Sequence[tuple[int, bytes]]) -> bytes:
    numbers = np.array([number for number, _ in names], _NUMBERS)
    return numbers.tobytes() + b"".join(record + b"\0" for _, record in names)


def _encode_means(part: Means) -> bytes:
    columns = part.numbers.astype(_NUMBERS), part.counts.astype(_COUNTS), part.created_s.astype(_TIMES)
    return b"".join(column.tobytes() for column in (*columns, part.vectors.astype(LITTLE)))


def _decode_means(record: bytes, people: int, size: int, number: int) -> Means:
    numbers = _numbers(record, people, number % _MODEL)
    at = people * _NUMBERS.itemsize
    counts = np.frombuffer(record, _COUNTS, people, at).astype(np.int64)
    times = np.frombuffer(record, _TIMES, people, at := at + people * _COUNTS.itemsize)
    vectors = records.unit_rows(memoryview(record)[at + people * _TIMES.itemsize :], (people, size))
    if not counts.all() or not np.isfinite(times).all():
        raise ValueError("a block of vectors that no edge-app wrote")
    return Means(numbers, counts, times, vectors)


def _numbers(record: bytes, people: object, block: int) -> NDArray[np.int64]:
    if type(people) is not int or not 0 < people <= PEOPLE:
        raise ValueError("a block of no possible size")
    numbers = np.frombuffer(record, _NUMBERS, people)
    if numbers[0] // PEOPLE != block or numbers[-1] // PEOPLE != block or not (np.diff(numbers) > 0).all():
        raise ValueError("a block of other people")
    return numbers.astype(np.int64)


def _together(parts: Sequence[Means], size: int, vectors: Float32s | None = None) -> Means:
    none = np.zeros(0)
    if vectors is None:
        vectors = np.concatenate([np.zeros((0, size), np.float32), *(part.vectors for part in parts)])
        vectors.setflags(write=False)
    return Means(
        np.concatenate([none.astype(np.int64), *(part.numbers for part in parts)]),
        np.concatenate([none.astype(np.int64), *(part.counts for part in parts)]),
        np.concatenate([none, *(part.created_s for part in parts)]),
        vectors,
    )
