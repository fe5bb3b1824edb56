"""Which server a gallery is shared through, as the gallery itself keeps it, sealed with everything else."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.plain_text import plain
from edge_app.gallery.sealing import KEY_BYTES
from edge_app.gallery.storage import Vault
from edge_app.system.files import write_private

PASSWORD: Final = "PGPASSWORD"
_FORM: Final = "postgresql://USER@HOST[:PORT]/DATABASE[?sslrootcert=FILE]"
_KEY_LINE: Final = "edge-app fleet key 1 "


class Address(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server is and who asks it."""

    host: str
    port: int
    database: str
    user: str
    password: str
    tls: bool
    """Always beyond this machine, and then the certificate is checked."""
    root_certificate: str
    """Path of the certificate that signed the server's; empty: one of those that the system trusts did."""

    @property
    def shown(self) -> str:
        """Without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{self.user}@{host}:{self.port}/{self.database}"


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that one machine knows of its fleet."""

    address: Address
    machine: str
    """The name under which the server knows this copy of the gallery."""
    fleet_id: bytes
    key: bytes
    """32 bytes, which every machine of the fleet has and the server never gets."""
    model_id: str
    model_version: str
    dimensions: int
    same_person: float
    """Cosine from which two people of one name are taken for one."""
    cursor: int = 0
    """Everything up to this revision of the server is here."""
    stamp: str = ""
    """What the server said of that revision; another answer means that it was put back to an earlier state."""
    visit: bytes = b""
    """What this machine left at the server when it last reported; a copy of the gallery elsewhere leaves another."""
    visit_tried: bytes = b""
    contact_s: float = 0.0
    """Unix time, by this machine's clock, of the last answer."""


def load(vault: Vault) -> Connection | None:
    """What the gallery is shared through, None for a gallery of one machine. Raises GalleryError when it is damaged."""
    stored = vault.connection()
    if stored is None:
        return None
    try:
        return msgspec.json.decode(stored, type=Connection)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EdgeError(
            "what the gallery keeps of its server cannot be read", remedy="connect again: edge-app gallery connect"
        ) from error


def save(vault: Vault, connection: Connection) -> None:
    """Keep it in the gallery."""
    vault.set_connection(msgspec.json.encode(connection))


def changed(connection: Connection, **fields: object) -> Connection:
    """The same with other values."""
    return msgspec.structs.replace(connection, **fields)


def parse_address(text: str, ask: Callable[[], str] | None = None) -> Address:
    """Understand postgresql://USER@HOST[:PORT]/DATABASE; `ask` gives the password where none is known.

    The password is that of the address, else PGPASSWORD's. Raises UsageError for anything else, and for an sslmode that
    would not check the certificate.
    """
    try:
        parts = urlsplit(text)
        port = parts.port or 5432
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError as error:
        raise UsageError(f"the address of the server is none: {error}", expected=_FORM) from error
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not parts.username:
        raise UsageError("the address of the server is none", expected=_FORM)
    if unknown := query.keys() - {"sslmode", "sslrootcert"}:
        raise UsageError(f"the address has {', '.join(sorted(unknown))}", expected="sslmode and sslrootcert at most")
    mode = query.get("sslmode", ["verify-full"])[-1]
    if mode != "verify-full":
        raise UsageError(
            f"sslmode is {mode}", expected="verify-full: beyond this machine the certificate is always checked"
        )
    root = query.get("sslrootcert", [""])[-1]
    if root and not Path(root).is_file():
        raise UsageError(f"there is no certificate {root}")
    values = [unquote(part) for part in (parts.username, parts.path.strip("/"), parts.hostname)]
    if not values[1] or "/" in values[1] or any(plain(value) != value for value in values):
        raise UsageError("the address names no database", expected=_FORM)
    password = unquote(parts.password or "") or os.environ.get(PASSWORD, "") or (ask() if ask else "")
    tls = bool(query) or not is_here(parts.hostname)
    return Address(values[2], port, values[1], values[0], password, tls, str(Path(root).absolute()) if root else "")


def is_here(host: str) -> bool:
    """Whether packets to a host never leave this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def write_key(path: Path, key: bytes) -> None:
    """Write the fleet's key into a new private file, to be carried to the next machine."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already", expected="the name of a new file")
    write_private(path, f"{_KEY_LINE}{key.hex()}\n")


def read_key(path: Path) -> bytes:
    """The key in such a file. Raises UsageError for any other file."""
    try:
        with path.open("rb") as file:
            text = file.read(1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    try:
        key = bytes.fromhex(text.removeprefix(_KEY_LINE))
    except ValueError:
        key = b""
    if not text.startswith(_KEY_LINE) or len(key) != KEY_BYTES:
        raise UsageError(f"{path} is no key of a fleet", expected="the file that `edge-app gallery connect` wrote")
    return key
