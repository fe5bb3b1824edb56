"""Where the key of a protected gallery is kept: the system's keyring, a file, a passphrase, or systemd's credentials.

The gallery's records are encrypted with a data key that never changes while it is protected; the file holds that data
key encrypted ("wrapped") with the key that is kept here. Choosing another place wraps it anew.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import getpass
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from edge_app.core.errors import GalleryError, UsageError
from edge_app.gallery.sealing import KEY_BYTES, unwrap_key, wrap_key
from edge_app.system.files import write_private

Method = Literal["keyring", "passphrase", "file", "systemd-creds"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

PASSPHRASE: Final = "EDGE_APP_PASSPHRASE"
"""Environment variable with the passphrase; with _FILE behind it, one with the path of a file that holds it."""
LEAST_PASSPHRASE_CHARS: Final = 8
SCRYPT_N: Final = 2**16
"""64 MB and 0.2 s for one guess on the machine at hand (r = 8, p = 1)."""
_SERVICE: Final = "edge-app gallery"
_PATIENCE_S: Final = 20.0
"""How long a keyring or systemd may take: a dialog that nobody sees must not hang a service for ever."""
_MOST_BYTES: Final = 64 * 1024

_unlocked: dict[tuple[bytes, bytes], bytes] = {}
"""Data keys of this process, so that a passphrase is asked for and stretched once."""


@dataclass(frozen=True, slots=True)
class Protection:
    """How a gallery's data key is kept."""

    method: Method
    wrapped: bytes
    """The data key, encrypted."""
    details: Mapping[str, str]
    """What the method needs besides: a salt, a credential."""

    def encode(self) -> bytes:
        """As the gallery holds it."""
        plain = {"method": self.method, "wrapped": base64.b64encode(self.wrapped).decode(), **self.details}
        return json.dumps(plain).encode()

    @classmethod
    def decode(cls, stored: object) -> Protection:
        """Read it back. Raises ValueError for anything that `encode` does not write."""
        if not isinstance(stored, bytes) or len(stored) > _MOST_BYTES:
            raise ValueError("the protection is no text of a fitting length")
        plain = json.loads(stored)
        if not isinstance(plain, dict) or not all(isinstance(value, str) for value in plain.values()):
            raise ValueError("the protection is no object of texts")
        method, wrapped = plain.pop("method"), base64.b64decode(plain.pop("wrapped"), validate=True)
        if method not in METHODS:
            raise ValueError("the protection is of an unknown kind")
        return cls(method, wrapped, plain)


def protect(
    method: Method, gallery_id: bytes, data_key: bytes, folder: Path, ask: Callable[[], str] | None = None
) -> Protection:
    """Keep a key by `method` and wrap the data key with it; the key is durable when this returns.

    `ask` gives a new passphrase. Raises GalleryError when the place cannot keep a key.
    """
    details: dict[str, str] = {}
    match method:
        case "passphrase":
            phrase = (ask or (lambda: passphrase(confirm=True)))()
            if len(phrase) < LEAST_PASSPHRASE_CHARS:
                raise UsageError(
                    f"the passphrase has {len(phrase)} characters", expected=f"at least {LEAST_PASSPHRASE_CHARS}"
                )
            salt = os.urandom(16)
            details["salt"] = salt.hex()
            key = stretched(phrase, salt, SCRYPT_N)
        case "keyring":
            key = _from_keyring(gallery_id) or os.urandom(KEY_BYTES)
            _keyring(lambda ring: ring.set_password(_SERVICE, gallery_id.hex(), base64.b64encode(key).decode()))
            if _from_keyring(gallery_id) != key:
                raise GalleryError("the keyring did not keep the key", remedy="choose --with passphrase or file")
        case "file":
            path = key_path(folder, gallery_id)
            if not path.exists():
                write_private(path, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
            key = _from_file(path)
        case "systemd-creds":
            key = os.urandom(KEY_BYTES)
            sealed = _systemd_creds(["encrypt", f"--name={_credential(gallery_id)}", "-", "-"], base64.b64encode(key))
            details["credential"] = "".join(sealed.decode("ascii", "replace").split())
    made = Protection(method, wrap_key(key, data_key, gallery_id), details)
    _unlocked[gallery_id, made.encode()] = data_key
    return made


def unlock(protection: Protection, gallery_id: bytes, folder: Path) -> bytes:
    """The data key of a gallery. Raises GalleryError, in one line that says what is lost, when the key is not there."""
    known = (gallery_id, protection.encode())
    if known in _unlocked:
        return _unlocked[known]
    match protection.method:
        case "passphrase":
            try:
                salt = bytes.fromhex(protection.details["salt"])
            except (KeyError, ValueError):
                raise _lost(protection.method, "the salt in the gallery is damaged") from None
            key = stretched(passphrase(), salt, SCRYPT_N)
        case "keyring":
            found = _from_keyring(gallery_id)
            if found is None:
                raise _lost(protection.method, "the system's keyring has no key for it")
            key = found
        case "file":
            key = _from_file(key_path(folder, gallery_id))
        case "systemd-creds":
            key = _from_systemd(protection, gallery_id)
    try:
        data_key = unwrap_key(key, protection.wrapped, gallery_id)
    except ValueError as error:
        if protection.method == "passphrase":
            raise GalleryError(
                "the passphrase is not the gallery's", expected="the one it was protected with", remedy="try again"
            ) from None
        raise _lost(protection.method, str(error)) from None
    _unlocked[known] = data_key
    return data_key


def discard(protection: Protection, gallery_id: bytes, folder: Path) -> None:
    """Delete a key that no gallery needs any more."""
    if protection.method == "file":
        key_path(folder, gallery_id).unlink(missing_ok=True)
    elif protection.method == "keyring":
        with contextlib.suppress(GalleryError):
            _keyring(lambda ring: ring.delete_password(_SERVICE, gallery_id.hex()))


def key_path(folder: Path, gallery_id: bytes) -> Path:
    """The key file of a gallery in its data folder."""
    return folder / f"gallery-{gallery_id.hex()[:8]}.key"


def worth(method: Method) -> str:
    """One line that says what a way of keeping the key is worth."""
    return {
        "keyring": "The key lies in the system's keyring, which opens when you log in.",
        "passphrase": "The passphrase is kept nowhere. Whoever loses it loses the gallery.",
        "file": "The key lies in a file beside the gallery: that protects a copy of the gallery alone, "
        "not a stolen disk or a backup of the whole folder.",
        "systemd-creds": "The key is bound to this machine (its TPM where it has one): the gallery opens nowhere else.",
    }[method]


def passphrase(*, confirm: bool = False, what: str = "of the gallery") -> str:
    """The passphrase from the environment, else asked for on the terminal. Raises GalleryError where neither is."""
    if named := os.environ.get(f"{PASSPHRASE}_FILE"):
        try:
            with Path(named).open(encoding="utf-8") as file:
                return file.read(_MOST_BYTES).rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise GalleryError(f"the passphrase's file {named} cannot be read: {error}") from error
    if typed := os.environ.get(PASSPHRASE):
        return typed
    if not (sys.stdin and sys.stdin.isatty()) or threading.current_thread() is not threading.main_thread():
        raise GalleryError(
            f"the passphrase {what} is needed, and there is no terminal to ask for it",
            remedy=f"give it in {PASSPHRASE}, or the path of a file with it in {PASSPHRASE}_FILE",
        )
    typed = getpass.getpass(f"passphrase {what}: ")
    if confirm and getpass.getpass("once more: ") != typed:
        raise UsageError("the two passphrases differ")
    return typed


def stretched(phrase: str, salt: bytes, n: int) -> bytes:
    """(32,) bytes that take memory and time to derive from a passphrase (scrypt, RFC 7914; r = 8, p = 1)."""
    return hashlib.scrypt(phrase.encode(), salt=salt, n=n, r=8, p=1, maxmem=n * 8 * 128 + 2**20, dklen=KEY_BYTES)


def usable_keyring() -> bool:
    """Whether this machine has a keyring that encrypts what it keeps."""
    try:
        _keyring(lambda ring: ring.get_password(_SERVICE, "probe"))
    except GalleryError:
        return False
    return True


def _keyring(act: Callable[[Any], Any]) -> Any:
    """Run `act` on the system's keyring, and give up after a while. Raises GalleryError."""
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        raise GalleryError(
            "the package keyring is not installed", remedy="pip install 'edge-app[keyring]', or choose another --with"
        ) from None
    ring = keyring.get_keyring()
    module = type(ring).__module__
    if isinstance(ring, (fail.Keyring, null.Keyring)) or "plaintext" in f"{module}.{type(ring).__name__}".lower():
        raise GalleryError(
            "this machine has no keyring that keeps secrets", remedy="choose --with passphrase, file or systemd-creds"
        )
    result: list[Any] = []
    fault: list[BaseException] = []

    def run() -> None:
        try:
            result.append(act(keyring))
        except Exception as error:  # noqa: BLE001 - every backend raises its own
            fault.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if thread.is_alive():
        raise GalleryError(
            f"the system's keyring gave no answer in {_PATIENCE_S:.0f} s: it may be locked, or ask in a dialog that "
            "nobody sees",
            remedy="unlock it (log in at the desktop), and try again",
        )
    if fault:
        raise GalleryError(
            f"the system's keyring refused: {fault[0] or type(fault[0]).__name__}", remedy="unlock it, and try again"
        ) from fault[0]
    return result[0]


def _from_keyring(gallery_id: bytes) -> bytes | None:
    kept = _keyring(lambda ring: ring.get_password(_SERVICE, gallery_id.hex()))
    return None if kept is None else _decoded("keyring", cast(str, kept).encode())


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _decoded("file", file.read(1024))
    except FileNotFoundError:
        raise _lost("file", f"its key file {path} is gone") from None
    except OSError as error:
        raise GalleryError(f"the key file {path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _decoded(method: Method, text: bytes) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise _lost(method, f"the key has {len(key)} bytes, expected {KEY_BYTES}")
    return key


def _credential(gallery_id: bytes) -> str:
    return f"edge-app-gallery-{gallery_id.hex()[:8]}"


def _from_systemd(protection: Protection, gallery_id: bytes) -> bytes:
    # A service gets its credentials decrypted in a folder that only it can read (LoadCredentialEncrypted=).
    if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
        with contextlib.suppress(OSError):
            return _decoded("systemd-creds", (Path(folder) / _credential(gallery_id)).read_bytes())
    sealed = protection.details.get("credential", "").encode()
    return _decoded("systemd-creds", _systemd_creds(["decrypt", f"--name={_credential(gallery_id)}", "-", "-"], sealed))


def _systemd_creds(arguments: list[str], given: bytes) -> bytes:
    try:
        done = subprocess.run(
            ["systemd-creds", *arguments], input=given, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise GalleryError("systemd-creds is not on this machine", remedy="choose another --with") from None
    except subprocess.TimeoutExpired:
        raise GalleryError(f"systemd-creds gave no answer in {_PATIENCE_S:.0f} s") from None
    if done.returncode:
        why = " ".join(done.stderr.decode(errors="replace").split())[:200] or f"exit code {done.returncode}"
        remedy = "it needs root or a service that loads the key, and does not open what another machine sealed"
        raise GalleryError(f"systemd-creds refused: {why}", remedy=remedy)
    return done.stdout


def _lost(method: Method, why: str) -> GalleryError:
    return GalleryError(
        f"the gallery cannot be opened: {why}",
        expected=f"the key that was kept with --with {method}",
        remedy="bring the key back; without it the enrolled people are lost and must be enrolled again",
    )
