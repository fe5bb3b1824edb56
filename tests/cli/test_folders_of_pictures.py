"""Folders given to commands: odd names, files of other kinds, and what is said of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_app.cli import calibrate, main
from edge_app.media import sample
from tests.media.heic import HEIC

OBAMA = sample.people()["Barack Obama"]
BIDEN = sample.people()["Joe Biden"]
[PROBE] = sample.probes()["Barack Obama"]


@pytest.fixture
def say(capsys, tmp_path):
    def run(*argv):
        code = main([*map(str, argv), "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture(autouse=True)
def without_heic(monkeypatch):
    """As where the extra is not installed."""
    monkeypatch.setattr("edge_app.media.folders.can_read_heic", lambda: False)


def test_recognize_reads_what_is_a_picture_and_counts_the_rest(say, tmp_path):
    folder = tmp_path / "holiday"
    folder.mkdir()
    for name in ("~temp", " lead.bak", os.fsdecode(b"caf\xe9.jpg")):
        shutil.copy(PROBE, folder / name)
    (folder / "IMG_1.HEIC").write_bytes(HEIC)
    (folder / "notes.txt").write_text("hello")
    code, out, err = say("recognize", folder, "--json")
    assert (code, len(out.splitlines())) == (0, 3)
    told = [line for line in err.splitlines() if "not used" in line]
    assert told == [
        "edge-app: not used: 1 HEIC picture (to read them: pip install 'edge-app[heic]'), 1 other file (.txt)"
    ]


def test_a_bad_sub_folder_name_stops_that_person_only(say, tmp_path):
    for name, pictures in (("Ada", OBAMA), ("ada", BIDEN), ("bell\a", BIDEN), ("empty", ())):
        (tmp_path / "people" / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copy(picture, tmp_path / "people" / name)
    (tmp_path / "people" / "Ada" / "b.heic").write_bytes(HEIC)
    code, _, err = say("enroll", "--folder", tmp_path / "people")
    assert code == 1
    assert "'ada' differs from 'Ada', who is enrolled, by capital letters only" in err
    assert r"the name 'bell\x07' holds" in err
    assert "not used: 1 HEIC picture" in err
    people = json.loads(say("gallery", "list", "--json")[1])["people"]
    assert [person["name"] for person in people] == ["Ada"]


def test_a_name_that_differs_by_case_only_is_asked_about(say, tmp_path, monkeypatch):
    assert say("enroll", "Ada", OBAMA[0])[0] == 0
    code, _, err = say("enroll", "ADA", OBAMA[1])
    assert code == 2
    assert "write 'Ada' if it is the same person, or add --new-person" in err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr("click.confirm", lambda text, **_: asked.append(text) or True)
    assert say("enroll", "ADA", OBAMA[1])[0] == 0
    assert asked == ["Is it the same person?"]
    people = json.loads(say("gallery", "list", "--json")[1])["people"]
    assert [person["name"] for person in people] == ["Ada"]
    assert say("enroll", "ADA", BIDEN[0], "--new-person")[0] == 0
    assert len(json.loads(say("gallery", "list", "--json")[1])["people"]) == 2


def test_calibrate_says_what_it_did_not_use(say, tmp_path):
    for number in range(2):
        (tmp_path / "people" / str(number)).mkdir(parents=True)
        (tmp_path / "people" / str(number) / "b.HEIC").write_bytes(HEIC)
    _, _, err = say("calibrate", tmp_path / "people")
    assert err.count("it holds 1 HEIC picture (to read them: pip install 'edge-app[heic]')") == 2


def test_calibrate_says_why_nothing_could_be_used(say, tmp_path):
    for number in range(2):
        (tmp_path / "people" / str(number)).mkdir(parents=True)
        (tmp_path / "people" / str(number) / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    code, _, err = say("calibrate", tmp_path / "people")
    assert code == 2 and err.count("b.jpg is damaged or cut short") == 2
    assert err.splitlines()[-1].startswith("edge-app: 0 of 0 sub-folders have 3 or more usable pictures")


def test_calibrate_leaves_out_who_has_too_few_pictures_and_says_so():
    """Two of 272 people with one picture that shows two faces refused the whole folder once."""
    names = [f"p{one:02d}" for one in range(12) for _ in range(2 if one == 5 else 3)]
    rows = np.arange(len(names), dtype=np.float32)[:, None]
    left_out: list[tuple[str, str]] = []
    [kept], who = calibrate._without_the_few(Path("folder"), [rows], names, left_out)
    assert left_out == [(str(Path("folder") / "p05"), "2 usable pictures, 3 are needed")]
    assert len(who) == 33 and "p05" not in who
    assert [names[int(row)] for row in kept[:, 0]] == who
    few = ["a", "a", "a", "b", "b"]
    assert calibrate._without_the_few(Path("folder"), [rows[:5]], few, left_out)[1] == few
