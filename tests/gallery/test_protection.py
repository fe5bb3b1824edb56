"""The gallery at rest: nothing in clear, records bound to their place, keys in four places, migrated at any kill."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import keyring
import keyring.backend
import numpy as np
import pytest

from edge_app.core.errors import GalleryError, UsageError
from edge_app.gallery import keys
from edge_app.gallery.salvage import faults, salvage
from edge_app.gallery.sealing import Clear, Sealed, unwrap_key, wrap_key
from edge_app.gallery.storage import Vault
from tests.gallery.test_storage import files_hold, shots

REPOSITORY = Path(__file__).resolve().parents[2]
MADE_BY_0_1_0 = Path(__file__).parents[1] / "data" / "made_by_0_1_0" / "gallery.db"
posix = pytest.mark.skipif(os.name != "posix", reason="signals and file modes are POSIX")


class MemoryRing(keyring.backend.KeyringBackend):
    """A keyring for one test."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.answers = threading.Event()
        self.answers.set()

    def get_password(self, service, username):
        self.answers.wait(60)
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]


@pytest.fixture
def ring(monkeypatch):
    made = MemoryRing()
    monkeypatch.setattr(keyring, "get_keyring", lambda: made)
    for call in ("get_password", "set_password", "delete_password"):
        monkeypatch.setattr(keyring, call, getattr(made, call))
    return made


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """As a new process: no key is remembered."""
    monkeypatch.setattr(keys, "_unlocked", {})
    monkeypatch.setattr(keys, "SCRYPT_N", 2**10)
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)


SYSTEMD_CREDS = """#!/bin/sh
# Encrypts nothing; stands for the machine's key by a word in front.
case "$1" in
  encrypt) printf 'sealed-%s' "$(cat)" ;;
  decrypt) sed 's/^sealed-//' ;;
esac
"""


@pytest.fixture
def places(ring, monkeypatch, tmp_path):
    """Everything that the four ways need."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemd-creds").write_text(SYSTEMD_CREDS)
    (tools / "systemd-creds").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")


def enrolled(path: Path) -> list[bytes]:
    """Enroll two and rename one; returns what must not be found in clear."""
    picture = b"\xff\xd8 picture of Ada Lovelace " + bytes(range(256))
    with Vault(path, clock=lambda: 5.0) as vault:
        vault.add("Ada Lovelace", shots(2, size=64), (picture, None), consent="yes, said Ada at the door")
        vault.add("Grace", shots(1, seed=1, size=64))
        vault.rename("Grace", "Grace Hopper")
        vault.touch("Ada Lovelace", 70.0)
    secrets = [b"Ada Lovelace", b"Grace", b"Hopper", picture[:30], picture[40:80], b"said Ada", b"shot0.jpg", b"enroll"]
    return secrets + [t.embedding.vector.tobytes()[:16] for t in (*shots(2, size=64), *shots(1, seed=1, size=64))]


def same(vault: Vault) -> None:
    ada = vault.person("Ada Lovelace", pictures=True)
    np.testing.assert_array_equal(
        [s.template.embedding.vector for s in ada.shots], [t.embedding.vector for t in shots(2, size=64)]
    )
    assert ada.shots[0].picture is not None and ada.shots[0].picture.endswith(bytes(range(256)))
    assert ada.facts.last_seen_s == 70.0 and ada.facts.consents == ((5.0, "yes, said Ada at the door"),)
    assert vault.names() == ("Ada Lovelace", "Grace Hopper")
    assert [e.happening for e in vault.events()][:3] == ["enroll", "enroll", "rename"]
    vault.verify()


@pytest.mark.parametrize("method", keys.METHODS)
def test_nothing_is_in_clear_and_everything_comes_back(home, places, method, monkeypatch):
    secrets = enrolled(home.gallery_path)
    assert all(files_hold(home.path, secret) for secret in secrets)
    with Vault(home.gallery_path) as vault:
        vault.protect(method)
        assert not [secret for secret in secrets if files_hold(home.path, secret)]
        assert vault.protection().method == method
        same(vault)
        vault.add("Edsger", shots(1, seed=2, size=64), (b"picture of Edsger",))
        vault.touch("Edsger", 80.0)
    monkeypatch.setattr(keys, "_unlocked", {})
    with Vault(home.gallery_path) as vault:
        assert vault.last_seen("Edsger") == 80.0
        assert vault.pictures("Edsger") == (b"picture of Edsger",)
        assert not files_hold(home.path, b"Edsger")
        vault.forget("Edsger")
        same(vault)
        vault.unprotect()
        assert vault.protection() is None
        same(vault)
    assert all(files_hold(home.path, secret) for secret in secrets)
    assert [path.name for path in home.path.iterdir()] == ["gallery.db"], "a key that opens nothing lies about"


def test_nothing_is_in_clear_in_the_journal_of_a_protected_gallery(home, places):
    secrets = enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
        with vault.transaction():
            vault.add("Edsger", shots(400, seed=2, size=64))
            vault.forget("Grace Hopper")
            journal = home.path / "gallery.db-journal"
            assert journal.stat().st_size > 0
            assert not [secret for secret in (*secrets, b"Edsger") if files_hold(home.path, secret)]


def test_the_key_can_move_and_the_passphrase_change(home, places, ring, monkeypatch):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
        assert len(list(home.path.glob("*.key"))) == 1
        vault.protect("keyring")
        assert not list(home.path.glob("*.key")) and len(ring.kept) == 1
        vault.protect("passphrase", lambda: "another long one")
        assert not ring.kept
        same(vault)
    monkeypatch.setattr(keys, "_unlocked", {})
    with Vault(home.gallery_path) as vault, pytest.raises(GalleryError, match="passphrase is not the gallery's"):
        vault.names()
    monkeypatch.setenv(keys.PASSPHRASE, "another long one")
    with Vault(home.gallery_path) as vault:
        same(vault)


def test_a_protected_gallery_is_protected_from_its_first_person_on(home, places):
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
        vault.add("Ada", shots(1))
        assert vault.names() == ("Ada",) and not files_hold(home.path, b"Ada")


@posix
def test_the_key_file_is_closed_to_others(home, places):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
    [path] = home.path.glob("*.key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def locked(home, message):
    keys._unlocked.clear()
    before = home.gallery_path.read_bytes()
    for call in (
        lambda vault: vault.names(),
        lambda vault: vault.read("m"),
        lambda vault: vault.add("Eve", shots(1, size=64)),
        lambda vault: vault.forget("Ada Lovelace"),
        lambda vault: vault.events(),
        lambda vault: vault.unprotect(),
    ):
        with Vault(home.gallery_path) as vault, pytest.raises(GalleryError, match=message) as caught:
            call(vault)
        assert len(str(caught.value).splitlines()) == 1
    assert home.gallery_path.read_bytes() == before


def test_a_lost_or_wrong_key_is_one_line_and_changes_nothing(home, places, ring, monkeypatch):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
    [path] = home.path.glob("*.key")
    kept = path.read_bytes()
    path.unlink()
    locked(home, r"key file .* is gone.*enrolled people are lost")
    path.write_bytes(b"dG9vIHNob3J0")
    locked(home, "the key has 9 bytes, expected 32")
    path.write_bytes(b"A" * 43 + b"=")
    locked(home, "the key is another one's")
    path.write_bytes(kept)
    with Vault(home.gallery_path) as vault:
        same(vault)
        vault.protect("keyring")
    ring.kept.clear()
    locked(home, "keyring has no key for it")


def test_a_keyring_that_gives_no_answer_is_given_up(home, places, ring, monkeypatch):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("keyring")
    monkeypatch.setattr(keys, "_PATIENCE_S", 0.05)
    ring.answers.clear()
    keys._unlocked.clear()
    try:
        with (
            Vault(home.gallery_path) as vault,
            pytest.raises(GalleryError, match=r"no answer in .* dialog that nobody sees"),
        ):
            vault.names()
    finally:
        ring.answers.set()


def test_without_a_keyring_the_other_places_are_named(home, monkeypatch):
    from keyring.backends import fail

    monkeypatch.setattr(keyring, "get_keyring", fail.Keyring)
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault, pytest.raises(GalleryError, match="choose --with passphrase, file"):
        vault.protect("keyring")
    with Vault(home.gallery_path) as vault:
        same(vault)
    assert not keys.usable_keyring()


def test_a_passphrase_is_not_short_and_comes_from_somewhere(home, tmp_path, monkeypatch):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        with pytest.raises(UsageError, match="has 3 characters"):
            vault.protect("passphrase", lambda: "abc")
        with pytest.raises(GalleryError, match="no terminal to ask"):
            vault.protect("passphrase")
        (tmp_path / "phrase").write_text("correct horse\n")
        monkeypatch.setenv(f"{keys.PASSPHRASE}_FILE", str(tmp_path / "phrase"))
        vault.protect("passphrase")
        same(vault)
    monkeypatch.delenv(f"{keys.PASSPHRASE}_FILE")
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")
    keys._unlocked.clear()
    with Vault(home.gallery_path) as vault:
        same(vault)


def raw(path: Path, statement: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(statement)
    db.close()


EXCHANGE = "UPDATE {t} SET {c} = (SELECT {c} FROM {t} o WHERE o.{k} = 3 - {t}.{k}) WHERE {k} IN (1, 2)"
TAMPERING = {
    "names exchanged": EXCHANGE.format(t="identity", c="name", k="id"),
    "facts exchanged": EXCHANGE.format(t="identity", c="facts", k="id"),
    "vectors exchanged": EXCHANGE.format(t="template", c="vector", k="id"),
    "a template given to another person": "UPDATE template SET identity = 2 WHERE id = 1",
    "a picture moved": "UPDATE picture SET template = 2",
    "an audit line exchanged": EXCHANGE.format(t="event", c="record", k="id"),
    "an audit line removed": "DELETE FROM event WHERE id = 2",
    "the end of the trail cut off": "DELETE FROM event WHERE id > 2",
    "the trail cut off, the chain set to its last link": (
        "UPDATE gallery SET chain = (SELECT link FROM event WHERE id = 2); DELETE FROM event WHERE id > 2"
    ),
    "one bit": "UPDATE template SET vector = substr(vector, 1, 20) || x'00' || substr(vector, 22) WHERE id = 1",
}


@pytest.mark.parametrize("what", TAMPERING)
def test_a_record_that_was_changed_or_moved_shows(home, places, what):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
        same(vault)
    for statement in TAMPERING[what].split("; "):
        raw(home.gallery_path, statement)
    with Vault(home.gallery_path) as vault, pytest.raises(GalleryError, match="damaged"):
        vault.verify()
    assert faults(home.gallery_path)


def test_the_trail_that_was_cut_shows_after_more_was_written_too(home, places):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
    raw(home.gallery_path, "DELETE FROM event WHERE id > 2")
    with Vault(home.gallery_path) as vault:
        vault.add("Edsger", shots(1, seed=2, size=64))
        with pytest.raises(GalleryError, match="audit trail was changed"):
            vault.events()


def test_a_record_of_another_gallery_does_not_open(home, places, tmp_path):
    other = tmp_path / "other" / "gallery.db"
    for path in (home.gallery_path, other):
        enrolled(path)
        with Vault(path) as vault:
            vault.protect("file")
    db = sqlite3.connect(home.gallery_path, isolation_level=None)
    db.execute("ATTACH ? AS other", (str(other),))
    db.execute("UPDATE template SET vector = (SELECT vector FROM other.template o WHERE o.id = template.id)")
    db.execute("UPDATE packed SET vectors = (SELECT vectors FROM other.packed o WHERE o.id = packed.id)")
    db.close()
    with Vault(home.gallery_path) as vault:
        for call in (lambda: vault.read("m"), lambda: vault.identity("Ada Lovelace")):
            with pytest.raises(GalleryError, match="changed, or moved from another place"):
                call()


def test_what_is_salvaged_from_a_protected_gallery_is_protected_by_the_same_key(home, places, tmp_path):
    secrets = enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.protect("file")
    raw(home.gallery_path, "UPDATE template SET vector = x'00' WHERE id = 3")
    out = tmp_path / "out" / "gallery.db"
    found = salvage(home.gallery_path, out)
    assert found.names == ("Ada Lovelace",) and "Grace Hopper" in found.lost[0]
    assert not [secret for secret in secrets if files_hold(out.parent, secret)]
    shutil.copy(found.key_file, out.parent)
    keys._unlocked.clear()
    with Vault(out) as vault:
        assert vault.names() == ("Ada Lovelace",)
        vault.verify()


def test_wrapping_and_sealing_are_bound_to_gallery_and_place():
    one, other = bytes(16), bytes(15) + b"\1"
    key, data_key = b"k" * 32, b"d" * 32
    assert unwrap_key(key, wrap_key(key, data_key, one), one) == data_key
    with pytest.raises(ValueError, match="another one's"):
        unwrap_key(key, wrap_key(key, data_key, one), other)
    with pytest.raises(ValueError, match="5 bytes"):
        unwrap_key(b"short", b"", one)
    sealed = Sealed(one, data_key)
    stored = sealed.seal("a.b", (1, 2), b"record")
    assert sealed.open("a.b", (1, 2), stored) == b"record"
    assert sealed.seal("a.b", (1, 2), b"record") != stored
    wrong = [("a.c", (1, 2)), ("a.b", (2, 1)), ("a.b", (1,)), ("a.b", (1, 2, 0))]
    for column, place in wrong:
        with pytest.raises(ValueError, match="moved"):
            sealed.open(column, place, stored)
    for stranger in (Sealed(other, data_key), Sealed(one, key)):
        with pytest.raises(ValueError, match="changed"):
            stranger.open("a.b", (1, 2), stored)
        assert stranger.token("Ada") != sealed.token("Ada") != Clear(one).token("Ada")


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
from edge_app.gallery import keys
from edge_app.gallery.storage import Vault
keys.SCRYPT_N = 2**10
with Vault(Path(sys.argv[2])) as vault:
    print("ready", flush=True)
    while True:
        vault.protect("file")
        vault.unprotect()
        print("both ways", flush=True)
"""


@posix
@pytest.mark.slow
def test_killed_at_any_moment_a_migration_has_happened_or_has_not(home):
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault, vault.transaction():
        for number in range(150):
            vault.add(f"p{number}", shots(2, seed=number, size=64), (bytes(2000), None))
    rng = random.Random(5)
    states, both_ways_s = [], None
    kills = int(os.environ.get("EDGE_APP_KILLS", "12"))
    for kill in range(20 * kills):
        if kill >= kills and len(set(states)) == 2:
            break
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(REPOSITORY), str(home.gallery_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        if both_ways_s is None:
            began_s = time.monotonic()
            process.stdout.readline()
            both_ways_s = time.monotonic() - began_s
        time.sleep(rng.uniform(0.0, both_ways_s))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        keys._unlocked.clear()
        with Vault(home.gallery_path) as vault:
            vault.verify()
            assert len(vault.names()) == 152
            states.append(vault.protection() is not None)
            if states[-1]:
                assert not files_hold(home.path, b"Ada Lovelace")
    assert len(set(states)) == 2, "every kill hit the same state, so the test proves little"


def test_a_gallery_of_0_1_0_opens_with_everybody_and_can_be_protected(home, places):
    home.path.mkdir()
    shutil.copy(MADE_BY_0_1_0, home.gallery_path)
    db = sqlite3.connect(home.gallery_path)
    vectors = [row[0] for row in db.execute("SELECT vector FROM template ORDER BY id")]
    pictures = [row[0] for row in db.execute("SELECT bytes FROM picture ORDER BY template")]
    scores = [row[0] for row in db.execute("SELECT score FROM template ORDER BY id")]
    db.close()
    assert len(vectors) == len(pictures) == 3
    with Vault(home.gallery_path) as vault:
        for _ in range(2):
            vault.verify()
            people = list(vault.people(pictures=True))
            assert [one.name for one in people] == ["Barack Obama", "Joe Biden"]
            held = [shot for one in people for shot in one.shots]
            assert [s.template.embedding.vector.tobytes() for s in held] == vectors
            assert [s.picture for s in held] == pictures and [s.template.quality.score for s in held] == scores
            assert vault.last_seen("Barack Obama") == 1764000000.0 and vault.last_seen("Joe Biden") is None
            assert [e.happening for e in vault.events()][:4] == ["enroll", "enroll", "rename", "rename"]
            if vault.protection() is None:
                vault.protect("file")
    assert not files_hold(home.path, b"Barack") and not files_hold(home.path, pictures[0][:100])


def test_a_gallery_of_0_1_0_that_is_read_only_is_read_and_left_alone(home, monkeypatch):
    home.path.mkdir()
    shutil.copy(MADE_BY_0_1_0, home.gallery_path)
    before = home.gallery_path.read_bytes()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **kw: connect(name.replace("mode=rw", "mode=ro"), **kw))
    with Vault(home.gallery_path) as vault:
        assert vault.names() == ("Barack Obama", "Joe Biden")
        with pytest.raises(GalleryError, match="cannot open or write"):
            vault.forget("Joe Biden")
    assert home.gallery_path.read_bytes() == before
