"""The gallery's file: what comes back, what a killed process leaves, what forgetting leaves, what is refused."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_app.core.errors import EdgeError, GalleryError, UsageError
from edge_app.core.types import Embedding, Quality, Template
from edge_app.gallery import sqlite_file
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.gallery.storage import SCHEMA, Vault
from edge_app.system.files import write_private

posix = pytest.mark.skipif(os.name != "posix", reason="file modes and signals are POSIX")
REPOSITORY = Path(__file__).resolve().parents[2]
QUALITY = Quality(
    face_px=101.5, sharpness=0.25, brightness=120.0, clipped=0.0, yaw=-0.1, pitch=0.5, roll_deg=2.0, score=0.875
)


def shots(count: int, *, seed: int = 0, model: str = "m", size: int = 16) -> list[Template]:
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return [
        Template(Embedding(vector.astype(np.float32), model), QUALITY, f"shot{i}.jpg", 1000.0 + i)
        for i, vector in enumerate(vectors)
    ]


def files_hold(folder: Path, needle: bytes) -> bool:
    return any(needle in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def vault(home):
    with Vault(home.gallery_path, clock=lambda: 5.0) as opened:
        yield opened


def test_reading_where_nothing_is_finds_an_empty_gallery_and_makes_nothing(vault, home):
    stored = vault.read("m")
    assert (stored.names, stored.means.shape, stored.counts.shape, stored.generation) == ((), (0, 0), (0,), 0)
    assert (vault.names(), vault.roster(), vault.models(), vault.events()) == ((), (), {}, ())
    vault.verify()
    assert vault.touch("Ada", 1.0) is False
    for call in (vault.identity, vault.forget, vault.last_seen, lambda name: vault.rename(name, "Eve")):
        with pytest.raises(GalleryError, match="nobody named 'Ada'"):
            call("Ada")
    assert not home.path.exists()


def test_an_identity_comes_back_as_it_was_enrolled(vault):
    enrolled = shots(2)
    vault.add("Ada", enrolled)
    back = vault.identity("Ada")
    assert back.name == "Ada"
    for one, other in zip(back.templates, enrolled, strict=True):
        np.testing.assert_allclose(one.embedding.vector, other.embedding.vector, atol=1e-7)
        assert (one.quality, one.source, one.created_s) == (QUALITY, other.source, other.created_s)
        assert one.embedding.model_id == "m"


def test_reading_gives_everybodys_mean_in_order_of_enrollment(vault):
    bob, ada, more = shots(2, seed=1), shots(1, seed=2), shots(1, seed=3)
    vault.add("Bob", bob)
    vault.add("Ada", ada)
    vault.add("Bob", more)
    stored = vault.read("m")
    assert stored.names == ("Bob", "Ada")
    assert stored.counts.tolist() == [3, 1]
    assert stored.means.dtype == np.float32
    mean = sum(t.embedding.vector for t in (*bob, *more))
    np.testing.assert_allclose(stored.means, [mean / np.linalg.norm(mean), ada[0].embedding.vector], atol=1e-6)
    assert not stored.means.flags.writeable
    assert stored.generation == vault.generation()


def test_models_are_kept_apart(vault):
    vault.add("Ada", shots(2, model="old"))
    vault.add("Ada", shots(1, model="new", size=8))
    vault.add("Bob", shots(1, model="old"))
    assert vault.models() == {"new": 1, "old": 3}
    assert vault.read("new").names == ("Ada",)
    assert vault.names("new") == ("Ada",)
    assert vault.names() == ("Ada", "Bob")
    assert len(vault.identity("Ada", "old").templates) == 2
    assert vault.identity("Ada").model_id == "new"
    with pytest.raises(GalleryError, match="no template of new"):
        vault.identity("Bob", "new")
    with pytest.raises(GalleryError, match="8 numbers came from old"):
        vault.add("Eve", shots(1, model="old", size=8))
    assert "Eve" not in vault.names()


def test_a_roster_counts_templates_pictures_and_sightings(vault):
    vault.add("Ada", shots(2), (b"jpeg", None))
    vault.add("Ada", shots(1, model="new"))
    vault.add("Ábel", shots(1))
    assert vault.touch("Ada", 70.0)
    assert vault.touch("Ada", 60.0)  # a late report does not turn the clock back
    ada, abel = vault.roster()
    assert (ada.name, dict(ada.templates), ada.pictures, ada.created_s, ada.last_seen_s) == (
        "Ada",
        {"m": 2, "new": 1},
        1,
        1000.0,
        70.0,
    )
    assert (abel.name, abel.last_seen_s, vault.last_seen("Ábel")) == ("Ábel", None, None)
    assert vault.last_seen("Ada") == 70.0


def test_pictures_are_parallel_to_the_templates(vault):
    vault.add("Ada", shots(3), (None, b"\xff\xd8 one", None))
    assert vault.pictures("Ada") == (None, b"\xff\xd8 one", None)
    vault.add("Bob", shots(1))
    assert vault.pictures("Bob") == (None,)
    with pytest.raises(ValueError, match="pictures"):
        vault.add("Eve", shots(2), (b"one",))
    with pytest.raises(ValueError, match="0 templates"):
        vault.add("Eve", [])


def test_whoever_is_nearest_to_a_known_stranger_gets_nobodys_name(vault):
    ada, postman = shots(2, seed=1)
    vault.add("Ada", [ada])
    vault.add("postman", [postman], ignored=True)
    with pytest.raises(GalleryError, match="'postman' is a known stranger already"):
        vault.add("postman", shots(1, seed=3))
    with pytest.raises(GalleryError, match="'Ada' is enrolled already"):
        vault.add("Ada", shots(1, seed=3), ignored=True)
    vault.rename("postman", "the postman")
    stored = vault.read("m")
    assert stored.ignored == {"the postman"} and [one.ignored for one in vault.roster()] == [False, True]
    rule = MatchRule(0.3, 0.0, 0.01, 0.01, "")
    between = ada.embedding.vector * 0.6 + postman.embedding.vector * 0.8
    probes = [ada.embedding, postman.embedding, Embedding(between, "m"), shots(1, seed=9)[0].embedding]
    matches = Gallery.of_means(stored).match(probes, rule)
    assert [(m.name, m.ignored) for m in matches][:3] == [("Ada", None), (None, "the postman"), (None, "the postman")]
    open_to_all = replace(stored, ignored=frozenset())
    assert [m.name for m in Gallery.of_means(open_to_all).match(probes, rule)][:3] == [
        "Ada",
        "the postman",
        "the postman",
    ]


def test_names_are_one_in_both_unicode_forms(vault):
    vault.add(unicodedata.normalize("NFD", "Zoë Ångström"), shots(1))
    vault.add(" Zoë Ångström ", shots(1, seed=2))
    assert vault.names() == (unicodedata.normalize("NFC", "Zoë Ångström"),)
    assert vault.forget(unicodedata.normalize("NFD", "Zoë Ångström")) == 2
    for name in ("", "  ", "a/b", "..", "x" * 500, "a\nb", "\udc80"):
        with pytest.raises(UsageError):
            vault.add(name, shots(1))


def test_a_file_name_that_is_not_utf8_can_be_a_source(vault):
    vault.add("Ada", [Template(shots(1)[0].embedding, QUALITY, "caf\udce9.jpg", np.float64(1.0))])
    assert vault.identity("Ada").templates[0].source == "caf\\udce9.jpg"


def test_renaming_keeps_the_templates_and_refuses_a_taken_name(vault):
    vault.add("Ada", shots(2))
    vault.add("Bob", shots(1))
    with pytest.raises(GalleryError, match="'Bob' is in the gallery already"):
        vault.rename("Ada", "Bob")
    vault.rename("Ada", "Ada")
    vault.rename("Ada", "ada")
    assert vault.names() == ("Bob", "ada")
    assert len(vault.identity("ada").templates) == 2
    with pytest.raises(GalleryError, match="did you mean 'ada'"):
        vault.rename("Adaa", "Eve")


def test_the_audit_trail_tells_what_happened_and_to_nobody(vault):
    vault.add("Ada", shots(2))
    vault.rename("Ada", "Eve")
    vault.note("login", "Eve")
    vault.forget("Eve")
    assert [(e.time_s, e.happening, e.templates) for e in vault.events()] == [
        (5.0, "enroll", 2),
        (5.0, "rename", 2),
        (5.0, "login", 0),
        (5.0, "forget", 2),
    ]


def test_generation_changes_with_the_gallery_in_any_process_but_not_with_sightings(vault, home):
    seen = [vault.generation()]
    with Vault(home.gallery_path) as other:
        steps = (
            lambda: other.add("Ada", shots(1)),
            lambda: vault.add("Ada", shots(1)),
            lambda: other.rename("Ada", "Eve"),
            lambda: other.forget("Eve"),
        )
        for step in steps:
            step()
            seen.append(vault.generation())
        assert len(set(seen)) == 5
        vault.add("Bob", shots(1))
        before = vault.generation()
        other.touch("Bob", 1.0)
        assert vault.generation() == before


@pytest.mark.parametrize("seed", range(3))
def test_forgetting_leaves_no_byte_of_a_name_a_vector_or_a_picture(home, seed):
    rng = random.Random(seed)
    living: dict[str, list[bytes]] = {}
    gone: list[bytes] = []
    with Vault(home.gallery_path) as vault:
        with vault.transaction():
            for number in range(200):
                name, picture = f"Person {rng.randbytes(rng.randrange(4, 12)).hex()}", rng.randbytes(3000)
                taken = shots(2, seed=seed * 1000 + number, size=128)
                vault.add(name, taken, (picture, None))
                living[name] = [name.encode(), picture[:64], *(t.embedding.vector.tobytes()[:64] for t in taken)]
        for name in rng.sample(sorted(living), 40):
            if rng.random() < 0.2:
                vault.rename(name, f"Renamed {name[:6:-1]}")
                gone.append(name.encode())
                name, traces = f"Renamed {name[:6:-1]}", living.pop(name)[1:]
                living[name] = [name.encode(), *traces]
            assert all(files_hold(home.path, trace) for trace in living[name])
            assert vault.forget(name) == 2
            gone += living.pop(name)
            assert sorted(path.name for path in home.path.iterdir()) == ["gallery.db"]
        content = home.gallery_path.read_bytes()
        assert not [trace for trace in gone if trace in content]
        assert all(trace in content for traces in living.values() for trace in traces if len(trace) <= 64)
        vault.verify()


def with_larger_pages(path):
    """As version 0.2.0 made them: these leave copies, so that a deletion rebuilds the file."""
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA page_size = 4096")
    raw.execute("VACUUM")
    raw.close()


def test_a_forgetting_that_was_cut_short_is_finished_at_the_next_opening(home, monkeypatch):
    with Vault(home.gallery_path) as vault, monkeypatch.context() as cut:
        vault.add("Ada", shots(200))
        vault.add("Bob", shots(2, seed=1))
        vault.close()
        with_larger_pages(home.gallery_path)
        cut.setattr(sqlite_file.Database, "_scrub", lambda *_: None)
        vault.forget("Ada")
    raw = sqlite3.connect(home.gallery_path)
    assert raw.execute("SELECT unscrubbed FROM state").fetchone()[0] > 0
    assert raw.execute("PRAGMA freelist_count").fetchone()[0] > 0
    raw.close()
    # Deleting has overwritten all the same.
    assert not [shot for shot in shots(200) if files_hold(home.path, shot.embedding.vector.tobytes())]
    with Vault(home.gallery_path) as vault:
        assert vault.names() == ("Bob",)
    raw = sqlite3.connect(home.gallery_path)
    assert raw.execute("SELECT unscrubbed FROM state").fetchone()[0] == 0
    assert raw.execute("PRAGMA freelist_count").fetchone()[0] == 0
    assert raw.execute("PRAGMA page_size").fetchone()[0] == sqlite_file.PAGE_BYTES
    raw.close()


def test_what_was_stored_is_not_told_as_failed_because_an_earlier_deletion_cannot_be_finished(vault, home, monkeypatch):
    vault.add("Ada", shots(2))
    vault.close()
    with_larger_pages(home.gallery_path)

    def full(*_):
        raise GalleryError("the deletion is done, but rebuilding failed")

    monkeypatch.setattr(sqlite_file.Database, "_scrub", full)
    vault.add("Bob", shots(1))
    with vault.transaction():
        vault.add("Eve", shots(1))
        with pytest.raises(ValueError, match="mine"), vault.transaction():
            vault.forget("Eve")  # undone: nothing is left to be said about it
            raise ValueError("mine")
    with pytest.raises(GalleryError, match="the deletion is done"):
        vault.forget("Ada")
    assert vault.names() == ("Bob", "Eve")


@posix
def test_file_and_journal_are_closed_to_others_whatever_the_umask(home):
    before = os.umask(0)
    try:
        with Vault(home.gallery_path) as vault, vault.transaction():
            vault.add("Ada", shots(2))
            names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()}
    finally:
        os.umask(before)
    assert names == {"gallery.db": 0o600, "gallery.db-journal": 0o600}
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert sorted(path.name for path in home.path.iterdir()) == ["gallery.db"]


@posix
def test_a_copy_brought_back_is_closed_to_others_at_the_next_write(vault, home):
    vault.add("Ada", shots(1))
    home.gallery_path.chmod(0o644)
    vault.add("Ada", shots(1))
    assert stat.S_IMODE(home.gallery_path.stat().st_mode) == 0o600


def test_a_transaction_lands_whole_or_not_at_all(vault):
    vault.add("Ada", shots(1))
    with pytest.raises(FileNotFoundError), vault.transaction():
        vault.add("Bob", shots(1))
        vault.forget("Ada")
        raise FileNotFoundError("a picture of the caller's")  # the caller's own error passes as it is
    assert vault.names() == ("Ada",)
    with vault.transaction():
        vault.add("Bob", shots(1))
        with pytest.raises(GalleryError):
            vault.add("Eve", [*shots(1), *shots(1, size=8)])  # undone alone
        assert vault.names() == ("Ada", "Bob")
    assert vault.names() == ("Ada", "Bob")


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from tests.gallery.test_storage import Vault, shots
with Vault(Path(sys.argv[3])) as vault:
    print("ready", flush=True)
    for number in range(int(sys.argv[5])):
        vault.add(f"{sys.argv[4]} {number}", shots(3, seed=number, size=128))
        if sys.argv[6] == "churn" and number % 3 == 2:
            vault.forget(f"{sys.argv[4]} {number - 1}")
"""


def child(path: Path, name: str, count: int, kind: str) -> subprocess.Popen[bytes]:
    arguments: Sequence[str] = (str(REPOSITORY), str(REPOSITORY / "tests"), str(path), name, str(count), kind)
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE)


@pytest.mark.slow
@posix
def test_a_process_killed_at_any_moment_leaves_every_identity_whole_or_absent(home):
    rng = random.Random(7)
    journals, landed = 0, 0
    for kill in range(300):
        if kill >= 30 and journals and landed:  # on a busy machine most kills hit no transaction, or the first one
            break
        process = child(home.gallery_path, f"kill {kill}", 100_000, "churn")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.06))
        process.kill()
        process.wait()
        process.stdout.close()
        journals += (home.path / "gallery.db-journal").exists()
        with Vault(home.gallery_path) as vault:
            vault.verify()
            landed = len(vault.names())
            assert {tuple(one.templates.items()) for one in vault.roster()} <= {(("m", 3),)}
    assert journals > 0, "no kill hit a transaction, so the test proves nothing"
    assert landed > 0


def test_two_processes_write_at_once_and_all_lands(home):
    processes = [child(home.gallery_path, name, 40, "add") for name in ("left", "right")]
    for process in processes:
        assert process.stdout is not None
        with process:
            process.stdout.read()
        assert process.returncode == 0
    with Vault(home.gallery_path) as vault:
        assert set(vault.names()) == {f"{name} {number}" for name in ("left", "right") for number in range(40)}
        assert vault.models() == {"m": 240}
        assert vault.generation() == 80


def test_threads_share_one_vault(vault):
    def enroll(who: int) -> None:
        for number in range(10):
            vault.add(f"{who} {number}", shots(1))
            vault.read("m")

    threads = [threading.Thread(target=enroll, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(vault.names()) == 40


def test_a_locked_gallery_is_one_line(vault, home, monkeypatch):
    vault.add("Ada", shots(1))
    monkeypatch.setattr(sqlite_file, "BUSY_S", 0.05)
    other = sqlite3.connect(home.gallery_path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with Vault(home.gallery_path) as impatient:
        for call in (lambda: impatient.read("m"), lambda: impatient.add("Bob", shots(1))):
            with pytest.raises(GalleryError, match="in use by another process"):
                call()
        other.execute("ROLLBACK")
        assert impatient.names() == ("Ada",)
    other.close()


def test_a_newer_schema_is_refused_and_left_alone(home):
    with Vault(home.gallery_path) as vault:
        vault.add("Ada", shots(1))
    raw = sqlite3.connect(home.gallery_path)
    raw.execute(f"PRAGMA user_version = {SCHEMA.version + 1}")
    raw.close()
    refused_untouched(home.gallery_path, "made by a newer edge-app .* upgrade")


def refused_untouched(path: Path, message: str) -> None:
    before = path.read_bytes()
    for call in (lambda vault: vault.read("m"), lambda vault: vault.add("Eve", shots(1))):
        with Vault(path) as vault, pytest.raises(GalleryError, match=message) as caught:
            call(vault)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_garbage_is_refused_and_left_alone(home):
    write_private(home.gallery_path, random.Random(0).randbytes(9000))
    refused_untouched(home.gallery_path, "damaged or not a gallery")


def test_a_text_file_is_refused_and_left_alone(home):
    write_private(home.gallery_path, b"hello")
    refused_untouched(home.gallery_path, "damaged or not a gallery")


def test_another_programs_database_is_refused_and_left_alone(home):
    home.path.mkdir()
    raw = sqlite3.connect(home.gallery_path)
    raw.execute("CREATE TABLE bookmarks (url TEXT)")
    raw.close()
    refused_untouched(home.gallery_path, "another program")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_gallery_is_refused_and_left_alone(home, share):
    with Vault(home.gallery_path) as vault, vault.transaction():
        for number in range(100):
            vault.add(f"p{number}", shots(2, seed=number, size=128))
    size = home.gallery_path.stat().st_size
    os.truncate(home.gallery_path, int(size * share))
    refused_untouched(home.gallery_path, "damaged or not a gallery")


def test_a_spoiled_vector_is_noticed(home):
    with Vault(home.gallery_path) as vault:
        vault.add("Ada", shots(1, size=128))
    vector = shots(1, size=128)[0].embedding.vector.tobytes()
    content = home.gallery_path.read_bytes()
    assert content.count(vector) == 2  # the template, and the block that is read at once
    home.gallery_path.write_bytes(content.replace(vector, vector[:-4] + b"\x00\x00\xc0\x7f"))  # a NaN at its end
    with Vault(home.gallery_path) as vault:
        for call in (lambda: vault.read("m"), vault.verify, lambda: vault.identity("Ada")):
            with pytest.raises(GalleryError, match="damaged"):
                call()


def test_an_empty_file_as_a_process_killed_at_birth_leaves_it_is_an_empty_gallery(home):
    write_private(home.gallery_path, b"")
    with Vault(home.gallery_path) as vault:
        assert vault.names() == ()
        vault.add("Ada", shots(1))
        assert vault.names() == ("Ada",)


def test_a_file_removed_or_put_back_while_open_is_noticed(vault, home):
    vault.add("Ada", shots(1))
    shutil.copy(home.gallery_path, home.path / "copy")
    home.gallery_path.unlink()
    assert vault.names() == ()
    vault.add("Bob", shots(1))
    assert vault.names() == ("Bob",)
    (home.path / "copy").replace(home.gallery_path)
    assert vault.names() == ("Ada",)


def test_a_full_disk_is_one_line_and_loses_nothing(vault):
    vault.add("Ada", shots(1))
    pages = vault._file._connection.execute("PRAGMA page_count").fetchone()[0]
    vault._file._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says what a full disk says
    with pytest.raises(GalleryError, match=r"is full; free some space"):
        vault.add("Bob", shots(500))
    assert vault.names() == ("Ada",)
    vault.verify()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with Vault(tmp_path / "file" / "gallery.db") as vault:
        assert vault.names() == ()
        with pytest.raises(EdgeError, match="move that file away"):
            vault.add("Ada", shots(1))


def test_a_read_only_gallery_can_be_read_and_says_why_it_cannot_be_written(vault, home, monkeypatch):
    vault.add("Ada", shots(1))
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **kw: connect(name.replace("mode=rw", "mode=ro"), **kw))
    with Vault(home.gallery_path) as locked:  # as SQLite falls back to it; root may write to any file
        assert locked.names() == ("Ada",)
        with pytest.raises(GalleryError, match="writable, or choose another folder with --home"):
            locked.add("Bob", shots(1))
    assert vault.names() == ("Ada",)


@pytest.mark.slow
def test_a_hundred_thousand_templates_come_back(vault):
    vectors = np.random.default_rng(1).normal(size=(100_000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    taken = [Template(Embedding(vector, "m"), QUALITY, "s", 1.0) for vector in vectors]
    with vault.transaction():
        for start in range(0, 100_000, 50):
            vault.add(f"p{start:06d}", taken[start : start + 50])
    stored = vault.read("m")
    means = vectors.reshape(2_000, 50, 128).sum(axis=1)
    np.testing.assert_allclose(stored.means, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    assert list(stored.names) == [f"p{start:06d}" for start in range(0, 100_000, 50)]
    assert stored.counts.tolist() == [50] * 2_000
