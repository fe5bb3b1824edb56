"""Encryption of the gallery's records: AES-256-GCM under one data key, each record bound to its place.

A record's additional data are the gallery's id, the table and column, and the numbers of its row and of the rows it
belongs to: a record that was moved, or that comes from another gallery, does not open. An old copy of the whole file
put back in its place cannot be told from the file; only its owner can know.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""Random for every record; at 2^32 records under one key, a repetition is still less likely than 2^-32."""
_TAG_BYTES: Final = 16


class Sealer(Protocol):
    """Turns records into what the file holds and back."""

    def seal(self, column: str, place: tuple[int, ...], record: bytes) -> bytes:
        """What the file holds of a record of `column` ("table.column") in the row that `place` numbers."""
        ...

    def open(self, column: str, place: tuple[int, ...], stored: object) -> bytes:
        """The record. Raises ValueError when it is no bytes or does not belong there."""
        ...

    def open_all(self, column: str, rows: Sequence[tuple[tuple[int, ...], object]]) -> list[bytes]:
        """The records of one column in many rows, given as place and what is stored; raises as `open`."""
        ...

    def token(self, name: str) -> bytes:
        """(16,) bytes by which a name is found without reading all names."""
        ...

    def link(self, before: bytes, place: int, record: bytes) -> bytes:
        """(32,) bytes that chain an audit record to the one before it."""
        ...


class Clear:
    """Records as they are. Tokens and links then only show what was changed by somebody who did not recompute them."""

    def __init__(self, gallery_id: bytes) -> None:
        self._gallery_id = gallery_id

    def seal(self, column: str, place: tuple[int, ...], record: bytes) -> bytes:
        return record

    def open(self, column: str, place: tuple[int, ...], stored: object) -> bytes:
        if not isinstance(stored, bytes):
            raise ValueError(f"{column} is no bytes")
        return stored

    def open_all(self, column: str, rows: Sequence[tuple[tuple[int, ...], object]]) -> list[bytes]:
        found = [stored for _, stored in rows if isinstance(stored, bytes)]
        if len(found) != len(rows):
            raise ValueError(f"{column} is no bytes")
        return found

    def token(self, name: str) -> bytes:
        return _mac(self._gallery_id, b"token", name.encode())[:16]

    def link(self, before: bytes, place: int, record: bytes) -> bytes:
        return _mac(self._gallery_id, b"link", before, struct.pack(">q", place), record)


class Sealed:
    """Records encrypted with the gallery's data key."""

    def __init__(self, gallery_id: bytes, data_key: bytes) -> None:
        """`data_key` has 32 bytes."""
        from cryptography.exceptions import InvalidTag

        self._invalid = InvalidTag
        self._gallery_id = gallery_id
        self._cipher = _cipher(_mac(data_key, b"records", gallery_id))
        self._token_key = _mac(data_key, b"tokens", gallery_id)
        self._link_key = _mac(data_key, b"links", gallery_id)

    def seal(self, column: str, place: tuple[int, ...], record: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, record, self._where(column, place))

    def open(self, column: str, place: tuple[int, ...], stored: object) -> bytes:
        if not isinstance(stored, bytes) or len(stored) < NONCE_BYTES + _TAG_BYTES:
            raise ValueError(f"{column} is no encrypted record")
        try:
            return self._cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], self._where(column, place))
        except self._invalid:
            raise ValueError(f"{column} was changed, or moved from another place") from None

    def open_all(self, column: str, rows: Sequence[tuple[tuple[int, ...], object]]) -> list[bytes]:
        return [self.open(column, place, stored) for place, stored in rows]

    def token(self, name: str) -> bytes:
        return _mac(self._token_key, name.encode())[:16]

    def link(self, before: bytes, place: int, record: bytes) -> bytes:
        return _mac(self._link_key, before, struct.pack(">q", place), record)

    def _where(self, column: str, place: tuple[int, ...]) -> bytes:
        return b"%b|%b|%b" % (self._gallery_id, column.encode(), struct.pack(f">{len(place)}q", *place))


def wrap_key(key: bytes, data_key: bytes, gallery_id: bytes) -> bytes:
    """The data key as the gallery may hold it, encrypted with `key`; both have 32 bytes."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, data_key, b"data key|" + gallery_id)


def unwrap_key(key: bytes, wrapped: bytes, gallery_id: bytes) -> bytes:
    """The data key. Raises ValueError when `key` is not the one it was wrapped with."""
    from cryptography.exceptions import InvalidTag

    if len(key) != KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes")
    try:
        data_key = _cipher(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], b"data key|" + gallery_id)
    except InvalidTag:
        raise ValueError("the key is another one's") from None
    if len(data_key) != KEY_BYTES:
        raise ValueError("the data key has another length")
    return data_key


def _cipher(key: bytes) -> AESGCM:
    # Takes 12 ms to import, which a gallery in clear need not wait for.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"|".join(struct.pack(">I", len(part)) + part for part in parts), hashlib.sha256).digest()
