"""A person as the server holds one: sealed with the key that the doors share, which the server never has.

The server sees a random number for each person, whether that one was forgotten, how long the sealed record is (in steps
of 256 bytes), and when and by which login it changed: no name, no template, nothing that compares two faces.
A record is AES-256-GCM bound to the fleet and to the person's number, so that one put in another's place does not
open. It also holds an edition that only grows, by which an old one put back shows.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from edge_app.core.errors import EdgeError
from edge_app.core.names import valid_name
from edge_app.core.types import Embedding, Template
from edge_app.fleet.merge import Copy
from edge_app.gallery import records
from edge_app.gallery.people import KeptShot, Person
from edge_app.gallery.records import SPOILED, Facts
from edge_app.gallery.sealing import Sealed

MOST_BYTES: Final = 16 * 2**20
"""Of one person, as sealed: about 20,000 shots."""
_STEP: Final = 256
_MOST_EDITION: Final = 2**62
_Kind = TypeVar("_Kind")


class _Shot(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    vector: bytes
    shot: bytes


class _Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    edition: int
    gone: bool
    name: str = ""
    ignored: bool = False
    consents: list[tuple[float, str]] = []
    model: str = ""
    shots: list[_Shot] = []


class _Base(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    edition: int
    name: str
    ignored: bool
    shots: list[bytes]
    consents: list[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Base:
    """What this machine and the server last agreed on about a person."""

    edition: int
    copy: Copy

    def encode(self) -> bytes:
        """As the gallery keeps it."""
        copy = self.copy
        return msgspec.msgpack.encode(
            _Base(self.edition, copy.name, copy.ignored, sorted(copy.shots), sorted(copy.consents))
        )

    @classmethod
    def decode(cls, stored: bytes) -> Base:
        """Read it back. Raises ValueError for what `encode` does not write."""
        held = _typed(stored, _Base)
        return cls(held.edition, Copy(held.name, held.ignored, frozenset(held.shots), frozenset(held.consents)))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A person as sealed for the server."""

    edition: int
    """Grows with every change."""
    person: Person | None
    """With shots of the fleet's model only, and no pictures; None: forgotten."""


class Envelope:
    """Seals and opens the records of one fleet."""

    def __init__(self, fleet_id: bytes, key: bytes, model_id: str, dimensions: int) -> None:
        self._sealer = Sealed(fleet_id, key)
        self._model_id, self._dimensions = model_id, dimensions

    @property
    def key_check(self) -> bytes:
        """(16,) bytes by which the server can tell one key from another, and nothing more."""
        return self._sealer.token("the key of an edge-app fleet")

    def seal(self, uid: bytes, record: Record) -> bytes:
        """Raises EdgeError when the person is too large for the server."""
        plain = _Record(record.edition, record.person is None)
        if record.person is not None:
            one = record.person
            shots = [
                _Shot(records.encode_vector(shot.template.embedding), records.encode_shot(shot.template))
                for shot in one.shots
            ]
            plain = _Record(
                record.edition, False, one.name, one.ignored, sorted(one.facts.consents), self._model_id, shots
            )
        packed = msgspec.msgpack.encode(plain)
        packed = struct.pack(">I", len(packed)) + packed
        sealed = self._sealer.seal("person.sealed", _place(uid), packed + bytes(-len(packed) % _STEP))
        if len(sealed) > MOST_BYTES:
            raise EdgeError(f"somebody has {len(sealed):,} bytes of templates", expected=f"at most {MOST_BYTES:,}")
        return sealed

    def open(self, uid: bytes, sealed: object) -> Record:
        """Raises ValueError for whatever `seal` did not make for that uid with this key."""
        padded = self._sealer.open("person.sealed", _place(uid), sealed)
        (length,) = struct.unpack(">I", padded[:4])
        plain = _typed(padded[4 : 4 + length], _Record)
        if not 0 < plain.edition < _MOST_EDITION:
            raise ValueError("an edition that is none")
        if plain.gone:
            return Record(plain.edition, None)
        if plain.model != self._model_id:
            raise ValueError("templates of another model than the fleet's")
        try:
            if valid_name(plain.name) != plain.name:
                raise ValueError("a name in another form than it is stored in")
            consents = tuple((records.valid_time(time_s), words) for time_s, words in plain.consents)
            shots = []
            for one in plain.shots:
                [unit] = records.unit_rows(one.vector, (1, self._dimensions))
                source, created_s, quality = records.decode_shot(one.shot)
                shots.append(KeptShot(Template(Embedding(unit, self._model_id), quality, source, created_s), None))
        except (*SPOILED, EdgeError) as error:
            raise ValueError(str(error) or "a record that no edge-app wrote") from error
        if not shots:
            raise ValueError("somebody without a template")
        return Record(plain.edition, Person(plain.name, Facts(consents=consents), tuple(shots), plain.ignored))


def shot_id(shot: KeptShot) -> bytes:
    """(16,) bytes that are the same at every door."""
    embedding = shot.template.embedding
    return hashlib.sha256(embedding.model_id.encode() + b"|" + records.encode_vector(embedding)).digest()[:16]


def shared(person: Person, model_id: str) -> Person:
    """What of a person goes to other doors: the shots of the fleet's model, without their pictures."""
    shots = {
        shot_id(shot): KeptShot(shot.template, None)
        for shot in person.shots
        if shot.template.embedding.model_id == model_id
    }
    return Person(person.name, Facts(consents=person.facts.consents), tuple(shots.values()), person.ignored)


def copy_of(person: Person) -> Copy:
    """What `edge_app.fleet.merge` compares."""
    shots = frozenset(map(shot_id, person.shots))
    return Copy(person.name, person.ignored, shots, frozenset(person.facts.consents))


def _place(uid: bytes) -> tuple[int, ...]:
    return struct.unpack(">qq", uid)


def _typed(packed: bytes, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.msgpack.decode(packed, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"a record that no edge-app wrote ({error})") from error
