"""Exported galleries: whole people there and back, and nothing readable or believed without the passphrase."""

from __future__ import annotations

import json
import random
import stat

import numpy as np
import pytest

from edge_app.core.errors import EdgeError, GalleryError, MediaError
from edge_app.gallery import archive
from edge_app.gallery.archive import export_gallery, import_gallery, is_archive
from edge_app.gallery.storage import Vault
from tests.gallery.test_storage import shots

PHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(archive, "SCRYPT_N", 2**8)


@pytest.fixture
def vault(home):
    with (made := Vault(home.gallery_path, clock=lambda: 5.0)):
        made.add("Ada Lovelace", shots(2), (b"picture of Ada", None), consent="yes, at the door")
        made.add("Ada Lovelace", shots(1, seed=7, model="other", size=8))
        made.add("Stranger", shots(1, seed=1), ignored=True)
        made.touch("Ada Lovelace", 70.0)
        yield made


@pytest.fixture
def other(tmp_path):
    with (made := Vault(tmp_path / "other" / "gallery.db")):
        yield made


def same(one, two):
    assert (one.name, one.facts, one.ignored) == (two.name, two.facts, two.ignored)
    for a, b in zip(one.shots, two.shots, strict=True):
        np.testing.assert_array_equal(a.template.embedding.vector, b.template.embedding.vector)
        assert a.template.embedding.model_id == b.template.embedding.model_id
        assert (a.picture, a.template.quality, a.template.source, a.template.created_s) == (
            b.picture, b.template.quality, b.template.source, b.template.created_s
        )  # fmt: skip


def test_whole_people_come_back(vault, other, tmp_path):
    out = tmp_path / "gallery.export"
    assert export_gallery(vault, out, PHRASE) == 2
    assert is_archive(out) and stat.S_IMODE(out.stat().st_mode) == 0o600
    content = out.read_bytes()
    assert not [secret for secret in (b"Ada", b"picture", b"shot0", b"door") if secret in content]
    found = import_gallery(other, out, PHRASE)
    assert found.people == {"Ada Lovelace": 3, "Stranger": 1} and found.models == ("m", "other")
    for one, two in zip(vault.people(pictures=True), other.people(pictures=True), strict=True):
        same(one, two)
    again = import_gallery(other, out, PHRASE)
    assert again.people == {} and again.held == ("Ada Lovelace", "Stranger")
    assert vault.events()[-1].happening == "export" and vault.events()[-1].templates == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery.export", "home", "other"]


def test_an_export_replaces_nothing_and_leaves_nothing(vault, other, tmp_path):
    out = tmp_path / "x"
    out.write_text("mine")
    with pytest.raises(GalleryError, match="exists already"):
        export_gallery(vault, out, PHRASE)
    assert out.read_text() == "mine"
    with pytest.raises(GalleryError, match="nobody is enrolled"):
        export_gallery(other, tmp_path / "y", PHRASE)
    with pytest.raises(GalleryError, match="has 5 characters"):
        export_gallery(vault, tmp_path / "y", "short")
    assert not (tmp_path / "y").exists() and not other.path.exists()


def test_somebody_else_of_that_name_is_not_mixed_in_and_nothing_is_stored(vault, other, tmp_path):
    export_gallery(vault, tmp_path / "x", PHRASE)
    other.add("Stranger", shots(1, seed=99))
    with pytest.raises(GalleryError, match="may be somebody else"):
        import_gallery(other, tmp_path / "x", PHRASE)
    assert other.names() == ("Stranger",)


def test_new_shots_of_somebody_known_are_added(vault, other, tmp_path):
    other.add("Ada Lovelace", shots(2)[:1])
    export_gallery(vault, tmp_path / "x", PHRASE)
    assert import_gallery(other, tmp_path / "x", PHRASE).people == {"Ada Lovelace": 2, "Stranger": 1}


def chunks(content):
    start, found = len(archive.MAGIC) + 16, []
    while start < len(content):
        size = int.from_bytes(content[start : start + 4], "big")
        found.append(content[start : start + 4 + size])
        start += 4 + size
    return content[: len(archive.MAGIC) + 16], found


def test_an_archive_that_was_changed_is_one_line_and_stores_nothing(vault, other, tmp_path):
    export_gallery(vault, tmp_path / "x", PHRASE)
    good = (tmp_path / "x").read_bytes()
    with pytest.raises(MediaError, match="does not open; expected the passphrase"):
        import_gallery(other, tmp_path / "x", "another passphrase")
    head, parts = chunks(good)
    wrong = {
        "cut off": good[:-1],
        "the last person left out": head + b"".join(parts[:-1]),
        "exchanged": head + parts[0] + parts[2] + parts[1],
        "more behind it": good + b"x",
        "twice": good + parts[-1],
        "a length of 4 GB": head + b"\xff\xff\xff\xff" + parts[0][4:],
        "empty": archive.MAGIC,
        "another file": b"hello",
    }
    for content in wrong.values():
        (tmp_path / "y").write_bytes(content)
        with pytest.raises(MediaError) as refused:
            import_gallery(other, tmp_path / "y", PHRASE)
        assert len(str(refused.value).splitlines()) == 1
    assert other.names() == ()
    rng = random.Random(2)
    for _ in range(100):
        content = bytearray(good)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "y").write_bytes(content)
        with pytest.raises(EdgeError):
            import_gallery(other, tmp_path / "y", PHRASE)
    assert other.names() == ()


@pytest.mark.parametrize(
    "plain",
    [b"[]", b"{}", b'{"name": "A/B", "ignored": false, "facts": "{}", "shots": []}', b"[" * 100_000, b"\xff",
     b'{"name": "A", "ignored": false, "facts": "{\\"last_seen_s\\": null, \\"consents\\": []}", "shots": []}',
     b'{"name": "A", "ignored": false, "facts": "{\\"last_seen_s\\": null, \\"consents\\": []}", "shots": [{}]}'],
)  # fmt: skip
def test_a_person_written_by_somebody_who_knows_the_passphrase_is_checked_too(
    vault, other, tmp_path, plain, monkeypatch
):
    monkeypatch.setattr(archive, "_encoded", lambda _: plain)
    export_gallery(vault, tmp_path / "x", PHRASE)
    with pytest.raises(EdgeError) as refused:
        import_gallery(other, tmp_path / "x", PHRASE)
    assert len(str(refused.value).splitlines()) == 1
    assert other.names() == ()


@pytest.mark.parametrize("field", ["facts", "shot", "vector", "model", "picture", "name", "ignored", "shots"])
@pytest.mark.parametrize("odd", [7, {}, [[]], True], ids=repr)
def test_a_record_that_is_no_text_is_one_line(tmp_path, monkeypatch, field, odd):
    monkeypatch.setattr(archive, "SCRYPT_N", 2**4)
    with Vault(tmp_path / "gallery.db") as vault:
        vault.add("Ada", shots(1))
        plain = json.loads(archive._encoded(vault.person("Ada")))
    (plain if field in plain else plain["shots"][0])[field] = odd
    monkeypatch.setattr(archive, "_encoded", lambda _: json.dumps(plain).encode())
    with Vault(tmp_path / "gallery.db") as vault:
        archive.export_gallery(vault, tmp_path / "out", "correct horse")
    if field == "ignored" and odd is True:
        assert [one.ignored for one in archive.read_archive(tmp_path / "out", "correct horse")] == [True]
        return
    with pytest.raises(MediaError, match="holds somebody who cannot be read"):
        list(archive.read_archive(tmp_path / "out", "correct horse"))
