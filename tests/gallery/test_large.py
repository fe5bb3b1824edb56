"""The layout for large galleries: blocks, pages, names in pages, and that no byte of the forgotten stays."""

import json
import random
import sqlite3

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.errors import GalleryError
from edge_app.core.types import Embedding, Template
from edge_app.gallery import blocks, sqlite_file
from edge_app.gallery.storage import MOST_TEMPLATES, Vault
from tests.gallery.earlier import as_second_schema
from tests.gallery.test_storage import QUALITY


def taken(rng, size=16, source="", model="m"):
    vector = rng.normal(size=size)
    return Template(Embedding((vector / np.linalg.norm(vector)).astype(np.float32), model), QUALITY, source, 1.0)


@pytest.mark.parametrize("numbers", [(), (0,), (4095,), (70_000, 1), (2**40, 300)])
def test_what_must_leave_no_byte_lies_in_overflow_pages_alone(tmp_path, numbers):
    """SQLite is asked to say where it put them: the pages of the tree hold none of it, the others hold it whole."""
    for size in (1, 57, 58, 59, 700, 985, 1019, 1020, 1021, 5_000, 70_000):
        path = tmp_path / f"{size}.db"
        content = bytes(random.Random(size).choices(range(1, 256), k=size))
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(f"PRAGMA page_size = {sqlite_file.PAGE_BYTES}")
        columns = ["id INTEGER PRIMARY KEY", *(f"n{at}" for at in range(len(numbers))), "pad", "one", "other"]
        db.execute(f"CREATE TABLE row ({', '.join(columns)})")
        cut = size // 3
        pad = sqlite_file.padding(numbers, (content[:cut], content[cut:]))
        marks = ", ".join("?" * len(numbers))
        statement = f"INSERT INTO row VALUES (7, {marks + ', ' if marks else ''}zeroblob(?), ?, ?)"
        db.execute(statement, (*numbers, pad, content[:cut], content[cut:]))
        db.close()
        file = path.read_bytes()
        pages = [file[at : at + sqlite_file.PAGE_BYTES] for at in range(0, len(file), sqlite_file.PAGE_BYTES)]
        [tree] = [page for page in pages[1:] if page[0] == 13]  # a leaf of a table
        assert content[:16] not in tree and content[-16:] not in tree
        assert b"".join(page[4:] for page in pages[2:]).endswith(content)  # filled to the last byte


def every_file(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("protected", [False, True])
def test_no_byte_of_the_forgotten_stays_though_nothing_is_rebuilt(home, protected, monkeypatch):
    rng, numbers = random.Random(5), np.random.default_rng(5)
    here, gone = {}, set()
    with Vault(home.gallery_path) as vault:
        if protected:
            vault.protect("file")
        monkeypatch.setattr(sqlite_file.Database, "_scrub", lambda *_: None)

        def needles(name):
            raw = vault._file._connection
            with vault._file.reading():
                number = raw.execute(
                    "SELECT identity FROM lasting WHERE uid = ?", (vault.lasting(name).uid,)
                ).fetchone()
                rows = raw.execute("SELECT name, facts FROM identity WHERE id = ?", number).fetchall()
                rows += raw.execute("SELECT vector, shot FROM template WHERE identity = ?", number).fetchall()
                rows += raw.execute(
                    "SELECT bytes FROM picture JOIN template ON template = template.id WHERE identity = ?", number
                ).fetchall()
            person = vault.person(name)
            plain = [name.encode(), *(s.template.source.encode() for s in person.shots)]
            plain += [s.template.embedding.vector.tobytes()[8:40] for s in person.shots]
            return [*plain, *(bytes(blob)[at : at + 24] for row in rows for blob in row for at in (0, len(blob) // 2))]

        for step in range(700):
            what = rng.choice("eeeefrtta") if len(here) < 120 else rng.choice("ffrrtta")
            name = rng.choice(sorted(here)) if here else ""
            if what == "e" or not here:
                name = f"person-{step:05d}-{rng.getrandbits(80):020x}"
                pictures = (rng.randbytes(rng.choice((40, 900, 3_000))), None)
                vault.add(name, [taken(numbers, source=f"/home/{rng.getrandbits(64):x}") for _ in "ab"], pictures)
                here[name] = True
            elif what == "f":
                gone.update(needles(name))
                vault.forget(name)
                del here[name]
            elif what == "r":
                gone.add(name.encode())
                new = f"renamed-{step:05d}-{rng.getrandbits(80):020x}"[: rng.choice((20, 34))]
                vault.rename(name, new)
                here[new] = here.pop(name)
            elif what == "t":
                vault.touch(name, 1_000_000.0 + step)
            else:
                vault.add(name, [taken(numbers, source=f"/srv/{rng.getrandbits(64):x}")])
        vault.verify()
    left = every_file(home.path)
    everybodys = (b"last_seen", b"consents", b"120.0")
    gone = {needle for needle in gone if len(needle) >= 8 and not any(word in needle for word in everybodys)}
    assert len(gone) > 1_000
    assert [needle for needle in gone if needle in left] == []


def test_an_enrollment_rewrites_one_block(home):
    rng = np.random.default_rng(1)
    with Vault(home.gallery_path) as vault:
        with vault.transaction():
            for number in range(3 * blocks.PEOPLE):
                vault.add(f"p{number:05d}", [taken(rng)])
        before = vault._file._connection.total_changes
        vault.add("Ada", [taken(rng)])
        vault.forget("p00003")
        assert vault._file._connection.total_changes - before < 40
        stored = vault.read("m")
        assert len(stored.names) == 3 * blocks.PEOPLE and stored.names[-1] == "Ada" and "p00003" not in stored.names
        assert stored.names.index("p00004") == 3
        vault.verify()


def test_pages_of_a_list_are_its_parts(home):
    rng = np.random.default_rng(2)
    names = ["Zoë", "ada", "Ada", "李", *(f"p{n}" for n in range(300))]
    with Vault(home.gallery_path) as vault:
        with vault.transaction():
            for name in names:
                vault.add(name, [taken(rng)], ignored=name == "p7")
        paged, after = [], ""
        while page := vault.page(after, 37):
            paged += page
            after = page[-1].name
        assert tuple(paged) == vault.roster() and [one.name for one in paged] == sorted(names)
        assert vault.count() == len(names) and [one.name for one in paged if one.ignored] == ["p7"]
        assert vault.read("m").ignored == {"p7"}
        assert vault.has("Ada") and vault.has("Ada", "m") and not vault.has("Ada", "n") and not vault.has("Eve")
        vault.add("Eve", [taken(rng, model="n")])
        assert vault.without("m") == ("Eve",) and len(vault.without("n")) == len(names)


@pytest.mark.parametrize("protected", [False, True])
def test_a_gallery_of_version_0_2_comes_over_whole(home, protected):
    rng = np.random.default_rng(3)
    with Vault(home.gallery_path) as vault:
        if protected:
            vault.protect("file")
        with vault.transaction():
            for number in range(300):
                vault.add(f"p{number}", [taken(rng), taken(rng, 8, model="n")], (b"picture" * number, None))
        vault.forget("p299")
        vault.touch("p5", 77.0)
        before, stored, trail = list(vault.people(pictures=True)), vault.read("m"), vault.events()
    as_second_schema(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        after = list(vault.people(pictures=True))
        assert [one.name for one in after] == [one.name for one in before]
        assert [one.facts for one in after] == [one.facts for one in before]
        pictures = [[shot.picture for shot in one.shots] for one in after]
        assert pictures == [[shot.picture for shot in one.shots] for one in before]
        np.testing.assert_array_equal(vault.read("m").means, stored.means)
        assert vault.events() == trail
        vault.add("p299", [taken(rng)])
        vault.verify()
        number = vault.events()[-1].person
        assert number > 300  # the forgotten one's number is not used again
    assert b"p299" not in every_file(home.path) or not protected
    raw = sqlite3.connect(home.gallery_path)
    assert raw.execute("PRAGMA page_size").fetchone()[0] == sqlite_file.PAGE_BYTES
    raw.close()


def test_a_million_people_of_one_name_are_told_apart(home):
    vault = Vault(home.gallery_path)
    rng = np.random.default_rng(4)
    one = taken(rng)
    vault.add("Maria", [one] * MOST_TEMPLATES)
    with pytest.raises(GalleryError, match="would have 10,001 templates"):
        vault.add("Maria", [one])
    assert len(vault.identity("Maria").templates) == MOST_TEMPLATES


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM identity WHERE id = 2",
        "DELETE FROM template WHERE identity = 2",
        "DELETE FROM packed",
        "UPDATE packed SET people = 1",
        "UPDATE packed SET vectors = zeroblob(length(vectors))",
        "UPDATE packed SET vectors = (SELECT vectors FROM packed ORDER BY id DESC LIMIT 1)",
        "UPDATE directory SET names = (SELECT names FROM directory ORDER BY id DESC LIMIT 1)",
        "UPDATE directory SET names = replace(names, 'p1', 'p2')",
        "UPDATE identity SET name = (SELECT name FROM identity WHERE id = 1) WHERE id = 2",
        "UPDATE model SET dimensions = 8",
    ],
)
def test_a_file_that_somebody_edited_lets_nobody_else_in(home, edit):
    rng = np.random.default_rng(6)
    with Vault(home.gallery_path) as vault, vault.transaction():
        for number in range(300):
            vault.add(f"p{number}", [taken(rng)])
    with sqlite3.connect(home.gallery_path) as raw:
        raw.execute(edit)
    raw.close()
    with Vault(home.gallery_path) as vault:
        with pytest.raises(GalleryError, match="damaged"):
            vault.verify()
        if "name" not in edit:
            with pytest.raises(GalleryError, match="damaged"):
                vault.read("m")


def test_names_are_found_without_decoding_them():
    rows = [(n, b"+" + name.encode()) for n, name in enumerate(("ada", "a", "Ada", "daA"), 5)]
    text = b"\0" + b"".join(record + b"\0" for _, record in rows)
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0)
    names = blocks.Names(text, ends[:-1] + 1, ends[1:])
    assert list(names) == ["ada", "a", "Ada", "daA"] and names.index("a") == 1 and "d" not in names
    part = names.chosen(np.array([0, 3]))
    assert list(part) == ["ada", "daA"] and "a" not in part and part.index("daA") == 1
    assert part[-1] == "daA" and list(names[1:3]) == ["a", "Ada"]
    assert part.all_raw() == [b"+ada", b"+daA"] and names.all_raw()[2] == b"+Ada"


def test_a_name_that_differs_by_case_is_found_among_all(home):
    rng = np.random.default_rng(8)
    with Vault(home.gallery_path) as vault:
        assert vault.twin("Ada") is None
        for name in ("ada", "adam", "Stra\u00dfe", "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2"):
            vault.add(name, [taken(rng)])
        vault.add("Gast", [taken(rng)], ignored=True)
        told = [
            vault.twin(name)
            for name in ("ADA", "Ad", "ADAMS", "STRASSE", "\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3", "gast", "ada")
        ]
    assert told == ["ada", None, None, "Stra\u00dfe", "\u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "Gast", None]


def test_lines_come_one_by_one_and_are_the_roster(home):
    rng = np.random.default_rng(9)
    with Vault(home.gallery_path) as vault:
        for name in ("Zoe", "Ada", "Bob"):
            vault.add(name, [taken(rng)])
        lines = list(vault.lines())
        assert [one.name for one in lines] == ["Zoe", "Ada", "Bob"]
        assert sorted(lines, key=lambda one: one.name) == list(vault.roster())


def test_enrolling_and_retention_do_not_read_everybody(home, monkeypatch):
    """An enrollment asks for its own name; what is overdue is looked for line by line."""
    from edge_app.gallery.retention import Retention, apply_retention, keep_retention
    from edge_app.media import sample

    [(name, pictures)] = list(sample.people().items())[:1]

    def refused(*_):
        raise AssertionError("everybody was read")

    monkeypatch.setattr(Vault, "roster", refused)
    monkeypatch.setattr(Vault, "names", refused)
    assert main(["enroll", name, *map(str, pictures), "--home", str(home.path)]) == 0
    assert main(["enroll", name.upper(), *map(str, pictures), "--home", str(home.path), "--json"]) == 2
    with Vault(home.gallery_path) as vault:
        keep_retention(vault, Retention(last_seen_s=3600.0))
        assert apply_retention(vault, 0.0).people == () and vault.count() == 1
        assert apply_retention(vault, 1e12).people == (name,) and vault.count() == 0


def test_the_list_comes_in_pages(home, capsys):
    rng = np.random.default_rng(7)
    with Vault(home.gallery_path) as vault, vault.transaction():
        for name in ("Ada", "Bob", "Cyd's", "Dan"):
            vault.add(name, [taken(rng)])
    at = ["--home", str(home.path)]
    assert main(["gallery", "list", "--most", "3", *at]) == 0
    out = capsys.readouterr().out
    assert "Bob" in out and "Dan" not in out and """--most 3 --after 'Cyd'"'"'s'""" in out
    assert main(["gallery", "list", "--after", "Cyd's", "--json", *at]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["people"]] == ["Dan"]
    assert main(["gallery", "list", "--after", "Dan", *at]) == 0
    assert "comes after 'Dan'" in capsys.readouterr().out
    assert main(["gallery", "list", "--most", "0", *at]) == 2
