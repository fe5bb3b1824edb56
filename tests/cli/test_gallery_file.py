"""The commands about the gallery as a file, as a user and a script meet them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from edge_app.cli import main
from edge_app.gallery import archive, keys
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.recognition.open_session import open_people
from edge_app.system.settings import Settings
from tests.gallery.test_storage import files_hold, shots


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(keys, "_unlocked", {})
    monkeypatch.setattr(keys, "SCRYPT_N", 2**8)
    monkeypatch.setattr(archive, "SCRYPT_N", 2**8)
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")


@pytest.fixture
def run(home, capsys):
    with Vault(home.gallery_path) as vault:
        vault.add("Ada", shots(2), (b"picture", None))
        vault.add("Bob", shots(1, seed=1))

    def command(*words, code=0):
        assert main(["gallery", *words, "--home", str(home.path)]) == code
        return capsys.readouterr()

    return command


def test_a_gallery_is_protected_and_opened_again(run, home):
    assert "protected with passphrase" in run("protect", "--with", "passphrase").out
    assert not files_hold(home.path, b"Ada")
    assert "Ada" in run("list").out and "protected with passphrase" in run("check").out
    assert json.loads(run("protect", "--off", "--json").out) == {"protected": None}
    assert files_hold(home.path, b"Ada")
    run("protect", "--off", code=1)
    assert "one of them" in run("protect", "--off", "--with", "file", code=2).err


def test_a_file_beside_the_gallery_says_what_it_is_worth(run):
    assert "not a stolen disk" in run("protect", "--with", "file").err


def test_an_exported_gallery_comes_in_elsewhere(run, home, tmp_path, capsys, monkeypatch):
    out = tmp_path / "people.edge"
    assert json.loads(run("export", str(out), "--json").out)["people"] == 2
    assert "exists already" in run("export", str(out), code=1).err
    elsewhere = ["--home", str(tmp_path / "elsewhere")]
    assert main(["gallery", "import", str(out), *elsewhere]) == 0
    assert "2 names with 3 templates" in capsys.readouterr().out
    monkeypatch.setenv(keys.PASSPHRASE, "another horse")
    assert main(["gallery", "import", str(out), *elsewhere]) == 1
    assert "the passphrase it was exported with" in capsys.readouterr().err
    (tmp_path / "x.npz").write_bytes(b"PK")
    assert main(["gallery", "import", str(tmp_path / "x.npz"), *elsewhere]) == 2
    assert "--model" in capsys.readouterr().err


def test_a_damaged_gallery_is_checked_and_salvaged(run, home, tmp_path):
    db = sqlite3.connect(home.gallery_path, isolation_level=None)
    db.execute("UPDATE template SET vector = x'00' WHERE identity = 2")
    db.execute("UPDATE identity SET name = x'2b1b5b324a' WHERE id = 2")
    db.close()
    told = run("check", code=1)
    assert "number 2" in told.out and "salvage OUT" in told.err and "\x1b" not in told.out
    assert json.loads(run("check", "--json", code=1).out)["faults"]
    found = json.loads(run("salvage", str(tmp_path / "saved.db"), "--json", code=1).out)
    assert found["saved"] == ["Ada"] and len(found["lost"]) == 1
    with Vault(tmp_path / "saved.db") as vault:
        assert vault.names() == ("Ada",)
    assert "exists already" in run("salvage", str(tmp_path / "saved.db"), code=1).err


def test_the_trail_tells_people_by_the_name_they_have_now(run):
    run("rename", "Ada", "Ada Lovelace")
    run("forget", "Bob", "--yes")
    events = json.loads(run("audit", "--json").out)["events"]
    assert [(e["happening"], e["name"]) for e in events] == [
        ("enroll", "Ada Lovelace"), ("enroll", None), ("rename", "Ada Lovelace"), ("forget", None)
    ]  # fmt: skip
    assert "number 2 (forgotten)" in run("audit").out


def test_old_people_go_and_it_is_said(run):
    told = run("retention", "--last-seen", "365d", "--yes").out
    assert "people go after 365 days unseen" in told and "gone: Ada, Bob" in told
    assert json.loads(run("list", "--json").out)["people"] == []
    assert "365 days" in run("retention").out
    assert "everybody is kept" in run("retention", "--last-seen", "off").out
    assert "no age" in run("retention", "--last-seen", "soon", code=2).err


OBAMA, BIDEN = (tuple(map(str, sample.people()[name])) for name in ("Barack Obama", "Joe Biden"))


@pytest.fixture
def edge(home, capsys):
    def command(*words, code=0):
        assert main([*words, "--home", str(home.path)]) == code
        return capsys.readouterr()

    return command


def test_a_known_stranger_gets_nobodys_name(edge):
    edge("enroll", "Joe", *BIDEN)
    assert "known stranger now, from 2 pictures" in edge("gallery", "ignore", "postman", *OBAMA).out
    assert "postman (ignored)" in edge("gallery", "list").out
    [probe] = sample.probes()["Barack Obama"]
    seen = json.loads(edge("recognize", str(probe), "--json").out.splitlines()[0])
    assert [face["name"] for face in seen["faces"]] == [None]
    assert "is a known stranger already" in edge("enroll", "postman", str(probe), code=1).err


def test_a_consent_is_noted_and_shown(edge):
    edge("enroll", "Barack Obama", *OBAMA, "--consent", "signed on paper, drawer 3")
    assert "signed on paper, drawer 3" in edge("gallery", "show", "Barack Obama").out
    [one] = json.loads(edge("gallery", "list", "--json").out)["people"]
    assert [consent["text"] for consent in one["consents"]] == ["signed on paper, drawer 3"]


def test_somebody_who_looks_like_another_is_enrolled_and_listed_where_nobody_can_be_asked(edge):
    edge("enroll", "Barack Obama", OBAMA[0])
    told = edge("enroll", "Barry", OBAMA[1])
    assert "Barry looks like Barack Obama (similarity 0." in told.err and "gallery review" in told.err
    [report] = json.loads(edge("enroll", "Third", OBAMA[1], "--json").out)["enrolled"]
    assert {found["name"] for found in report["resembles"]} >= {"Barry"}


@pytest.mark.parametrize("answer", [True, False])
def test_at_a_terminal_a_resemblance_is_a_question(edge, home, monkeypatch, answer):
    edge("enroll", "Barack Obama", OBAMA[0])
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda question, **_: asked.append(question) or answer)
    edge("enroll", "Barry", OBAMA[1], code=0 if answer else 1)
    assert len(asked) == 1 and "Barry looks like Barack Obama" in asked[0] and "(similarity 0." in asked[0]
    with Vault(home.gallery_path) as vault:
        assert ("Barry" in vault.names()) == answer


def test_a_review_says_how_high_others_and_strangers_come_with_each_shot_and_without(edge, home, tmp_path):
    edge("enroll", "Barack Obama", *OBAMA)
    edge("enroll", "Joe Biden", BIDEN[0])
    folder = tmp_path / "strangers"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(Path(sample.stranger()).read_bytes())
    given = ("--strangers", str(folder))
    people = {one["name"]: one for one in json.loads(edge("gallery", "review", *given, "--json").out)["people"]}
    for shot in people["Barack Obama"]["shots"]:
        assert all(-1 < shot[f"{who}_{how}"] < 1 for who in ("other", "strangers") for how in ("with", "without"))
        assert shot["strangers_with"] != shot["strangers_without"]
    [only] = people["Joe Biden"]["shots"]
    assert only["strangers_with"] is not None and only["strangers_without"] is None
    # The stranger is one picture: the cosine to a person's mean can be counted again.
    bench = open_people(home, Settings(precision="fp32"))
    stranger = bench.recognizer.shot(read_picture(sample.stranger()), "x").embedding
    mean = bench.recognizer.gallery.similarity_to("Barack Obama", stranger)
    assert people["Barack Obama"]["shots"][0]["strangers_with"] == pytest.approx(mean, abs=0.02)
    told = " ".join(edge("gallery", "review", "Barack Obama", *given).out.split())
    assert "strangers" in told and f"{people['Barack Obama']['shots'][0]['strangers_with']:.2f}" in told


def test_a_face_of_a_kind_that_nobody_can_tell_is_told_when_it_is_enrolled(edge, monkeypatch):
    assert "hardly tell" not in edge("enroll", "Barack Obama", OBAMA[0]).err
    monkeypatch.setattr("edge_app.gallery.matching.looks_like_nobody_can_tell", lambda template, cohort: True)
    told = edge("enroll", "Joe Biden", BIDEN[0]).err
    assert "can hardly tell this face from others of its kind" in told
    [report] = json.loads(edge("enroll", "Jill", OBAMA[1], "--json").out)["enrolled"]
    assert report["hard_to_tell"] is True


def test_a_review_names_the_shot_of_somebody_else(edge, home):
    edge("enroll", "Barack Obama", *OBAMA)
    edge("enroll", "Joe Biden", *BIDEN)
    assert "at night it may fail" in edge("gallery", "review").out
    with Vault(home.gallery_path) as vault:
        vault.add("Barack Obama", vault.identity("Joe Biden").templates)
    [found] = json.loads(edge("gallery", "review", "Barack Obama", "--json", code=1).out)["people"]
    assert [bool(shot["harm"]) for shot in found["shots"]] == [False, False, True]
    assert "did you mean" in edge("gallery", "review", "Barak Obama", code=1).err
