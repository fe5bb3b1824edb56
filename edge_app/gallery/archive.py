"""Whole people in one encrypted file: `gallery export` and `gallery import` of our own format.

A file is a line of text, 16 bytes of salt, and chunks of a length (4 bytes, big-endian) and AES-256-GCM under a key
that scrypt derives from a passphrase. A chunk's nonce is its number, and its additional data say whether it is the last
one: chunks that were exchanged, left out or cut off show. The first holds JSON about the whole, every other one person.
"""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from edge_app.core.errors import GalleryError, MediaError
from edge_app.core.names import valid_name
from edge_app.core.types import Embedding, Template
from edge_app.gallery import keys, records
from edge_app.gallery.people import KeptShot, Person
from edge_app.gallery.records import SPOILED, Facts
from edge_app.gallery.storage import Vault
from edge_app.system.files import make_private_folder, readable_os_errors, replacing

MAGIC: Final = b"edge-app gallery, version 1\n"
SCRYPT_N: Final = 2**17
"""128 MB and 0.4 s for one guess (r = 8, p = 1); part of the format, so that no file can ask for more."""
MOST_CHUNK_BYTES: Final = 256 * 2**20
MOST_PEOPLE: Final = 1_000_000
_SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Imported:
    people: dict[str, int]
    """Number of new templates by name."""
    held: tuple[str, ...]
    """Who was here already with all of it."""
    models: tuple[str, ...]
    """Ids of the models that the templates are of."""


def is_archive(path: Path) -> bool:
    """Whether a file begins as an exported gallery does; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def export_gallery(vault: Vault, out: Path, passphrase: str) -> int:
    """Write everybody into the new file `out` (mode 0600, whole or not at all); returns how many.

    Raises GalleryError when `out` exists, when nobody is enrolled, or when a record is damaged.
    """
    if out.exists() or out.is_symlink():
        raise GalleryError(f"{out} exists already", expected="the name of a new file")
    names = vault.names()
    if not names:
        raise GalleryError("nobody is enrolled", expected="a gallery with somebody in it")
    if len(passphrase) < keys.LEAST_PASSPHRASE_CHARS:
        raise GalleryError(
            f"the passphrase has {len(passphrase)} characters", expected=f"at least {keys.LEAST_PASSPHRASE_CHARS}"
        )
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = os.urandom(_SALT_BYTES)
    cipher = AESGCM(keys.stretched(passphrase, salt, SCRYPT_N))
    count = 0
    with readable_os_errors(out.parent):
        make_private_folder(out.parent)
        try:
            with replacing(out, replace=False) as part, part.open("wb") as file:
                file.write(MAGIC + salt)
                pending = json.dumps({"people": len(names)}).encode()
                for person in vault.people(pictures=True):
                    _write(file, cipher, count, pending, last=False)
                    pending = _encoded(person)
                    count += 1
                _write(file, cipher, count, pending, last=True)
        except FileExistsError:
            raise GalleryError(f"{out} exists already", expected="the name of a new file") from None
    vault.note("export", templates=sum(vault.models().values()))
    return count


def import_gallery(vault: Vault, path: Path, passphrase: str) -> Imported:
    """Enroll everybody of an exported file, all in one transaction.

    Whoever is here already gets the shots that are new. Raises MediaError when the file is damaged or the passphrase is
    another, GalleryError when a name here has none of the file's shots: that may be somebody else.
    """
    added: dict[str, int] = {}
    held: list[str] = []
    models: set[str] = set()
    with vault.transaction():
        known = set(vault.names())
        for person in read_archive(path, passphrase):
            new = person.shots
            if person.name in known:
                here = vault.person(person.name)
                have = {_identifying(shot) for shot in here.shots}
                new = tuple(shot for shot in person.shots if _identifying(shot) not in have)
                if len(new) == len(person.shots):
                    raise GalleryError(
                        f"{person.name!r} is enrolled here with other shots: it may be somebody else of that name",
                        remedy=f"`edge-app gallery rename {person.name!r} NEW` first",
                    )
            if new:
                vault.restore(Person(person.name, person.facts, new, person.ignored))
                added[person.name] = len(new)
                models |= {shot.template.embedding.model_id for shot in new}
            else:
                held.append(person.name)
    return Imported(added, tuple(held), tuple(sorted(models)))


def read_archive(path: Path, passphrase: str) -> Iterator[Person]:
    """Everybody in an exported file, one after the other. Raises MediaError for whatever is wrong with it."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise MediaError(f"{path} is no exported gallery")
            cipher = AESGCM(keys.stretched(passphrase, file.read(_SALT_BYTES), SCRYPT_N))
            expected, number = 0, 0
            last = False
            while not last:
                length = file.read(4)
                size = struct.unpack(">I", length)[0] if len(length) == 4 else 0
                stored = file.read(size) if 16 <= size <= MOST_CHUNK_BYTES and number <= MOST_PEOPLE else b""
                if not stored or len(stored) != size:
                    raise MediaError(f"{path} is damaged or cut off", remedy="export it again")
                nonce = struct.pack(">IQ", 0, number)
                chunk = b""
                for last in (False, True):
                    try:
                        chunk = cipher.decrypt(nonce, stored, _mark(last=last))
                        break
                    except InvalidTag:
                        continue
                else:
                    if number == 0:
                        raise MediaError(f"{path} does not open", expected="the passphrase it was exported with")
                    raise MediaError(f"{path} is damaged", remedy="export it again")
                try:
                    if number == 0:
                        expected = int(json.loads(chunk)["people"])
                    else:
                        yield _decoded(chunk)
                except (*SPOILED, struct.error) as error:
                    raise MediaError(f"{path} holds somebody who cannot be read: {error}") from error
                number += 1
            if file.read(1) or number - 1 != expected:
                raise MediaError(f"{path} holds {number - 1} people", expected=f"{expected}, and nothing behind them")
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _write(file: IO[bytes], cipher: Any, number: int, chunk: bytes, *, last: bool) -> None:
    if len(chunk) + 16 > MOST_CHUNK_BYTES:
        raise GalleryError("somebody has more pictures than an export can hold", remedy="drop some of them")
    sealed = cipher.encrypt(struct.pack(">IQ", 0, number), chunk, _mark(last=last))
    file.write(struct.pack(">I", len(sealed)) + sealed)


def _mark(*, last: bool) -> bytes:
    return b"last" if last else b"more"


def _identifying(shot: KeptShot) -> tuple[str, bytes]:
    return shot.template.embedding.model_id, records.encode_vector(shot.template.embedding)


def _encoded(person: Person) -> bytes:
    shots = [
        {
            "model": shot.template.embedding.model_id,
            "vector": base64.b64encode(records.encode_vector(shot.template.embedding)).decode(),
            "shot": records.encode_shot(shot.template).decode(),
            "picture": None if shot.picture is None else base64.b64encode(shot.picture).decode(),
        }
        for shot in person.shots
    ]
    facts = records.encode_facts(person.facts).decode()
    return json.dumps({"name": person.name, "ignored": person.ignored, "facts": facts, "shots": shots}).encode()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a record that is no text")
    return value


def _decoded(chunk: bytes) -> Person:
    plain = json.loads(chunk)
    name = plain["name"]
    if not isinstance(name, str) or valid_name(name) != name or type(plain["ignored"]) is not bool:
        raise ValueError("a name that is none")
    facts: Facts = records.decode_facts(_text(plain["facts"]).encode())
    shots = []
    for one in plain["shots"]:
        vector = base64.b64decode(one["vector"], validate=True)
        model_id, size = records.valid_model(one["model"], len(vector) // records.LITTLE.itemsize)
        [unit] = records.unit_rows(vector, (1, size))
        source, created_s, quality = records.decode_shot(_text(one["shot"]).encode())
        picture = None if one["picture"] is None else base64.b64decode(one["picture"], validate=True)
        shots.append(KeptShot(Template(Embedding(unit, model_id), quality, source, created_s), picture))
    if not shots:
        raise ValueError("somebody without a template")
    return Person(name, facts, tuple(shots), plain["ignored"])
