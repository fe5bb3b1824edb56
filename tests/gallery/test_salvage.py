"""A gallery damaged inside valid SQLite: refused in one line, left as it is, its faults named, whole people saved."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from edge_app.core.errors import EdgeError, GalleryError
from edge_app.gallery.salvage import faults, salvage
from edge_app.gallery.storage import Vault
from tests.gallery.test_storage import shots

MADE_BY_0_1_0 = Path(__file__).parents[1] / "data" / "made_by_0_1_0" / "gallery.db"
VALUES = (
    None,
    -1,
    0,
    2**63 - 1,
    1e308,
    -1e308,
    b"",
    b"\xff\xfe",
    "",
    "x" * 5000,
    "\x1b[2J",
    "\udc80",
    "nan",
    "[1]",
    b"{}",
)
READING = (
    lambda vault: vault.read("m"),
    lambda vault: vault.roster(),
    lambda vault: vault.names(),
    lambda vault: vault.names("m"),
    lambda vault: vault.models(),
    lambda vault: vault.models_without_poses(),
    lambda vault: vault.identity("Ada"),
    lambda vault: vault.pictures("Ada"),
    lambda vault: vault.last_seen("Ada"),
    lambda vault: vault.events(),
    lambda vault: vault.generation(),
    lambda vault: vault.protection(),
    lambda vault: vault.verify(),
)
WRITING = (
    lambda vault: vault.touch("Ada", 7.0),
    lambda vault: vault.add("Ada", shots(1, seed=9)),
    lambda vault: vault.add("New", shots(1, seed=10)),
    lambda vault: vault.rename("Ada", "Ava"),
    lambda vault: vault.forget("Bob"),
)


def make(path: Path) -> None:
    with Vault(path, clock=lambda: 5.0) as vault:
        vault.add("Ada", shots(2), (b"picture of Ada", None))
        vault.add("Bob", shots(1, seed=1))
        vault.add("Zoë", shots(1, seed=2, model="other", size=8), consent="yes, at the door")


def raw(path: Path, *statements: tuple[object, ...] | str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA ignore_check_constraints = ON")
    for one in statements:
        db.execute(*((one,) if isinstance(one, str) else one))
    db.close()


DAMAGE = {
    "no state": "DELETE FROM state",
    "two states": "INSERT INTO state VALUES (1, 0)",
    "a state of text": "UPDATE state SET generation = 'x'",
    "no gallery row": "DELETE FROM gallery",
    "a gallery without an id": "UPDATE gallery SET gallery_id = x'00'",
    "a protection that is none": "UPDATE gallery SET protection = x'7b7d'",
    "no table of people": "DROP TABLE identity",
    "no table of pictures": "DROP TABLE picture",
    "no events": "DROP TABLE event",
    "one column more": "ALTER TABLE identity ADD COLUMN more",
    "a trigger": "CREATE TRIGGER t AFTER DELETE ON identity BEGIN DELETE FROM template; END",
    "a view": "CREATE VIEW names AS SELECT * FROM identity",
    "no models": "DELETE FROM model",
    "a model without dimensions": "UPDATE model SET dimensions = 0",
    "a model with a billion": "UPDATE model SET dimensions = 1000000000",
    "an event too few": "DELETE FROM event WHERE id = 2",
    "a cut-off event": "DELETE FROM event WHERE id = 3",
    "an event that was changed": "UPDATE event SET record = replace(record, 'enroll', 'forget') WHERE id = 1",
    "a name with escapes": "UPDATE identity SET name = x'2b1b5b324a' WHERE id = 1",
    "a name that is no UTF-8": "UPDATE identity SET name = x'2bff' WHERE id = 1",
    "a name exchanged": "UPDATE identity SET name = x'2b4576' WHERE id = 1",
    "a vector of text": "UPDATE template SET vector = 'x' WHERE id = 1",
    "a vector cut short": "UPDATE template SET vector = x'0000803f' WHERE id = 1",
    "a template of nobody": "UPDATE template SET identity = 99 WHERE id = 1",
    "a template of no model": "UPDATE template SET model = 99 WHERE id = 1",
    "a picture of nothing": "UPDATE picture SET template = 99",
    "somebody without templates": "DELETE FROM template WHERE identity = 2",
    "facts that are a list": "UPDATE identity SET facts = x'5b5d' WHERE id = 1",
    "facts of the year 40000": ("UPDATE identity SET facts = ? WHERE id = 1",
                                (b'{"last_seen_s": 1.2e12, "consents": []}',)),
    "a shot of text": "UPDATE template SET shot = x'5b226122' WHERE id = 1",
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_gallery_damaged_inside_valid_sqlite_is_one_line_and_stays_as_it_is(home, what):
    make(home.gallery_path)
    raw(home.gallery_path, DAMAGE[what])
    before = home.gallery_path.read_bytes()
    refused = 0
    for call in READING:
        with Vault(home.gallery_path) as vault:
            try:
                call(vault)
            except EdgeError as error:
                refused += 1
                assert len(str(error).splitlines()) == 1 and str(error).isprintable()
    assert refused > 0
    found = faults(home.gallery_path)
    assert found and all(line.isprintable() for line in found)
    assert home.gallery_path.read_bytes() == before


def test_a_sound_gallery_and_none_have_no_faults(home):
    assert faults(home.gallery_path) == [] and not home.gallery_path.exists()
    make(home.gallery_path)
    assert faults(home.gallery_path) == []


@pytest.mark.parametrize(
    ("what", "saved"),
    [
        ("no state", {"Ada", "Bob", "Zoë"}),
        ("no gallery row", {"Ada", "Bob", "Zoë"}),
        ("no table of pictures", {"Ada", "Bob", "Zoë"}),
        ("a trigger", {"Ada", "Bob", "Zoë"}),
        ("a cut-off event", {"Ada", "Bob", "Zoë"}),
        ("a name with escapes", {"Bob", "Zoë"}),
        ("a vector cut short", {"Bob", "Zoë"}),
        ("facts that are a list", {"Bob", "Zoë"}),
        ("somebody without templates", {"Ada", "Zoë"}),
    ],
)
def test_whole_people_are_saved_into_a_new_file_and_the_others_are_named(home, tmp_path, what, saved):
    make(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        whole = {one.name: one for one in vault.people(pictures=True)}
    raw(home.gallery_path, DAMAGE[what])
    before = home.gallery_path.read_bytes()
    found = salvage(home.gallery_path, tmp_path / "saved.db")
    assert set(found.names) == saved and len(found.lost) == 3 - len(saved)
    with Vault(tmp_path / "saved.db") as vault:
        vault.verify()
        for one in vault.people(pictures=True):
            for shot, other in zip(one.shots, whole[one.name].shots, strict=True):
                np.testing.assert_array_equal(shot.template.embedding.vector, other.template.embedding.vector)
                assert shot.picture == (None if what == "no table of pictures" else other.picture)
                assert shot.template.quality == other.template.quality
            assert one.facts == whole[one.name].facts
    assert home.gallery_path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "saved.db"]
    with pytest.raises(GalleryError, match="exists already"):
        salvage(home.gallery_path, tmp_path / "saved.db")


def test_nobody_to_save_leaves_no_file(home, tmp_path):
    make(home.gallery_path)
    raw(home.gallery_path, "UPDATE template SET shot = x'00'")
    with pytest.raises(GalleryError, match="nobody could be saved"):
        salvage(home.gallery_path, tmp_path / "saved.db")
    (tmp_path / "text").write_text("no database")
    with pytest.raises(GalleryError, match="no database"):
        salvage(tmp_path / "text", tmp_path / "saved.db")
    assert not (tmp_path / "saved.db").exists()


def test_people_on_sound_pages_of_a_torn_file_are_saved(home, tmp_path):
    with Vault(home.gallery_path) as vault, vault.transaction():
        for number in range(300):
            vault.add(f"p{number}", shots(2, seed=number, size=128))
    content = bytearray(home.gallery_path.read_bytes())
    rng = random.Random(3)
    for _ in range(6):
        start = rng.randrange(40, len(content) // 4096) * 4096
        content[start : start + 4096] = rng.randbytes(4096)
    home.gallery_path.write_bytes(content)
    assert faults(home.gallery_path)
    found = salvage(home.gallery_path, tmp_path / "saved.db")
    assert 100 < len(found.names) < 300
    with Vault(tmp_path / "saved.db") as vault:
        vault.verify()
        for name in found.names:
            held = [t.embedding.vector for t in vault.identity(name).templates]
            np.testing.assert_allclose(
                held, [t.embedding.vector for t in shots(2, seed=int(name[1:]), size=128)][: len(held)]
            )


def test_an_empty_database_is_refused_and_left_alone(home):
    home.path.mkdir()
    raw(home.gallery_path, "CREATE TABLE x (y)", "DROP TABLE x")
    before = home.gallery_path.read_bytes()
    assert before
    for call in (*READING, *WRITING):
        with Vault(home.gallery_path) as vault, pytest.raises(GalleryError, match="empty database"):
            call(vault)
    assert home.gallery_path.read_bytes() == before


def mutated(path: Path, rng: random.Random) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA ignore_check_constraints = ON")
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    for _ in range(rng.randrange(1, 4)):
        table = rng.choice(tables)
        column = rng.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall()])
        where = rng.choice(["", "WHERE rowid = 1", "WHERE rowid = (SELECT max(rowid) FROM " + table + ")"])
        value = rng.choice(VALUES)
        try:
            if rng.random() < 0.15:
                db.execute(f"DELETE FROM {table} {where}")
            else:
                db.execute(f"UPDATE OR REPLACE {table} SET {column} = ? {where}", (value,))
        except (sqlite3.Error, UnicodeError):
            continue
    db.close()


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_any_value_in_any_column_is_one_line_or_a_sound_answer(home, tmp_path, first):
    rng = random.Random(11)
    made = tmp_path / "made.db"
    if first:
        shutil.copy(MADE_BY_0_1_0, made)
    else:
        make(made)
    home.path.mkdir()
    refused = 0
    for round_ in range(60):
        shutil.copy(made, home.gallery_path)
        mutated(home.gallery_path, rng)
        for call in (*READING, *(WRITING if round_ % 2 else ())):
            with Vault(home.gallery_path) as vault:
                try:
                    call(vault)
                except EdgeError as error:
                    refused += 1
                    assert len(str(error).splitlines()) == 1
        out = tmp_path / f"out{round_}.db"
        try:
            found = salvage(home.gallery_path, out)
        except EdgeError:
            continue
        with Vault(out) as vault:
            vault.verify()
            assert set(vault.names()) == set(found.names)
    assert refused > 100
