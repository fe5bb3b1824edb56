"""Bad input: one clear line, the right exit code, nothing lost. Pictures of bad kinds are in test_pictures.py."""

import errno
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_app.cli import main
from edge_app.core.errors import EdgeError
from edge_app.media import sample
from edge_app.model_store import shipped
from edge_app.system import data_folder as home_module

OBAMA = sample.people()["Barack Obama"]
[PROBE] = sample.probes()["Barack Obama"]


@pytest.fixture
def say(capsys, tmp_path):
    """Run a command over a data folder of this test; returns exit code, output, and the one line of the error."""

    def run(*argv, home=tmp_path / "home"):
        code = main([str(a) for a in argv] + ["--home", str(home)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        notes = ("strangers may be called somebody", "nobody is enrolled yet")
        told = [line for line in err.splitlines() if not any(note in line for note in notes)]
        assert all(line.startswith("edge-app: ") for line in told)
        return code, out, told

    return run


def files(folder):
    """What lies in a folder, but for the log of commands."""
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and p.name != "edge-app.log"}


@pytest.mark.parametrize("name", ["", "   ", "a/b", "a\\b", "..", "tab\there", "bell\a", "n" * 500, "\u202eevil"])
def test_impossible_names_are_misuse_and_make_nothing(say, tmp_path, name):
    code, _, told = say("enroll", name, OBAMA[0])
    assert code == 2 and len(told) == 1 and "expected" in told[0]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["Zoë", "李小龍", "علي", "O'Brien", "Anne-Marie 2"])
def test_names_of_people_are_names(say, name):
    assert say("enroll", name, OBAMA[0])[0] == 0
    assert json.loads(say("gallery", "list", "--json")[1])["people"][0]["name"] == name


@pytest.mark.parametrize(
    "options",
    [
        ["--fpir", "2"],
        ["--fpir", "0"],
        ["--margin", "-1"],
        ["--min-face", "-3"],
        ["--min-face", "1e9"],
        ["--threads", "0"],
    ],
)
def test_senseless_numbers_are_misuse(say, options):
    code, out, told = say("recognize", PROBE, *options)
    assert code == 2 and out == "" and len(told) == 1 and "expected" in told[0]


@pytest.mark.parametrize(
    "argv",
    [
        ["enroll"],
        ["enroll", "Ada"],
        ["enroll", "Ada", "--folder", "x"],
        ["recognize", "0"],
        ["recognize", PROBE, "--detector", "haar"],
    ],
)
def test_misuse_has_exit_code_2(say, argv):
    code, _, told = say(*argv)
    assert code == 2 and len(told) == 1


@pytest.mark.parametrize(
    "argv", [["recognize"], ["--nonsense"], ["recognize", "x.jpg", "--precision", "fp8"], ["gallery"]]
)
def test_what_the_parser_refuses_is_one_line_and_exit_code_2(argv, capsys):
    assert main([str(word) for word in argv]) == 2
    told = capsys.readouterr().err
    assert told.startswith("edge-app") and told.endswith("--help\n") and told.count("\n") == 1


def picture(path, kind):
    pixels = np.asarray(Image.open(PROBE).convert("RGB"))
    made = {
        "grey": lambda: Image.fromarray(pixels).convert("L").save(path.with_suffix(".png")),
        "alpha": lambda: Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])).save(
            path.with_suffix(".png")
        ),
        "CMYK": lambda: Image.fromarray(pixels).convert("CMYK").save(path.with_suffix(".jpg"), quality=95),
        "16-bit": lambda: cv2.imwrite(str(path.with_suffix(".png")), pixels[:, :, ::-1].astype(np.uint16) * 257),
        "animated": lambda: Image.fromarray(pixels).save(
            path.with_suffix(".webp"), save_all=True, append_images=[Image.new("RGB", pixels.shape[1::-1])]
        ),
        "rotated": lambda: Image.fromarray(np.rot90(pixels)).save(
            path.with_suffix(".jpg"), quality=95, exif=exif_orientation(6)
        ),
    }
    made[kind]()
    return next(path.parent.glob(path.name + ".*"))


def exif_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("kind", ["grey", "alpha", "CMYK", "16-bit", "animated", "rotated"])
def test_odd_pictures_are_read_as_people_see_them(say, tmp_path, kind):
    assert say("enroll", "Barack Obama", *OBAMA)[0] == 0
    code, out, told = say("recognize", picture(tmp_path / "odd", kind), "--json")
    assert (code, told) == (0, []) and [f["name"] for f in json.loads(out)["faces"]] == ["Barack Obama"]


def spoil(path, kind):
    data = PROBE.read_bytes()
    if kind == "missing":
        return path
    if kind == "folder without pictures":
        path.with_suffix("").mkdir()
        return path.with_suffix("")
    path.write_bytes({"empty": b"", "text": b"not a picture\n" * 9, "truncated": data[: len(data) // 2]}[kind])
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "folder without pictures"])
def test_what_cannot_be_read_is_one_line(say, tmp_path, kind):
    bad = spoil(tmp_path / "bad.jpg", kind)
    code, out, told = say("recognize", bad, "--json")
    assert code == 1 and out == "" and len(told) == 1 and "bad" in told[0]


def test_an_unreadable_picture_does_not_spoil_an_enrollment(say, tmp_path):
    bad = spoil(tmp_path / "bad.jpg", "truncated")
    code, out, _ = say("enroll", "Barack Obama", OBAMA[0], bad, OBAMA[1])
    assert code == 1 and "bad.jpg: refused, unreadable" in out and "enrolled with 2 pictures" in out


def test_pictures_without_a_face_enroll_nobody(say, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    code, out, told = say("enroll", "Ada", tmp_path / "dot.png")
    assert code == 1 and "no-face" in out and "was not enrolled" in told[0]
    assert not (tmp_path / "home" / "gallery.db").exists()


@pytest.mark.slow
def test_a_huge_picture_is_read_small(say, tmp_path):
    Image.new("RGB", (12_000, 9_000), (90, 90, 90)).save(tmp_path / "huge.jpg", quality=30)
    code, out, told = say("recognize", tmp_path / "huge.jpg", "--json")
    assert (code, told) == (0, []) and json.loads(out)["faces"] == []


def test_a_video_that_ends_early_is_told_and_counts_as_far_as_it_goes(say, tmp_path):
    from edge_app.media.video_writer import VideoWriter

    clip = tmp_path / "clip.avi"
    with VideoWriter(clip, (160, 120), 10.0) as writer:
        for frame, _ in sample.clip((160, 120), 10.0):
            writer.write(frame.pixels)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    code, out, told = say("recognize", clip, "--json")
    assert code == 1 and len(told) == 1 and "clip.avi" in told[0]
    assert 20 < len([json.loads(line) for line in out.splitlines()]) < 180


def enrolled(say, tmp_path):
    assert say("enroll", "Barack Obama", *OBAMA)[0] == 0
    return tmp_path / "home" / "gallery.db"


def test_a_gallery_of_a_newer_version_is_left_alone(say, tmp_path):
    gallery = enrolled(say, tmp_path)
    with sqlite3.connect(gallery) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = gallery.read_bytes()
    for argv in (["enroll", "Joe", OBAMA[0]], ["gallery", "list"], ["recognize", PROBE]):
        code, _, told = say(*argv)
        assert code == 1 and len(told) == 1 and "newer" in told[0]
    assert gallery.read_bytes() == before


def test_a_gallery_that_is_no_gallery_is_left_alone(say, tmp_path):
    gallery = enrolled(say, tmp_path)
    gallery.write_bytes(b"these are my notes, not a database\n" * 100)
    before = gallery.read_bytes()
    code, _, told = say("enroll", "Joe", OBAMA[0])
    assert code == 1 and len(told) == 1 and gallery.read_bytes() == before


def test_a_gallery_of_another_model_is_not_matched(say, tmp_path):
    gallery = enrolled(say, tmp_path)
    with sqlite3.connect(gallery) as db:
        db.execute("UPDATE model SET name = 'dlib'")
    db.close()
    code, out, told = say("recognize", PROBE)
    assert code == 0 and "Barack Obama" not in out and "unknown" in out
    assert any("enrolled again" in line and "Barack Obama" in line for line in told)


def test_a_changed_model_is_refused(say, tmp_path, monkeypatch):
    folder = shutil.copytree(shipped.FOLDER, tmp_path / "zoo", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    spoiled = folder / "yunet-fp32.onnx"
    data = bytearray(spoiled.read_bytes())
    data[len(data) // 2] ^= 1
    spoiled.write_bytes(data)
    monkeypatch.setattr(shipped, "FOLDER", folder)
    monkeypatch.setattr(shipped, "MANIFEST", folder / "manifest.json")
    shipped.entries.cache_clear()
    try:
        code, _, told = say("recognize", PROBE)
        assert code == 1 and "yunet-fp32.onnx has changed" in told[0]
    finally:
        shipped.entries.cache_clear()


def test_a_broken_settings_file_is_named(say, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "settings.json").write_text("{")
    code, _, told = say("recognize", PROBE)
    assert code == 1 and len(told) == 1 and "settings.json" in told[0]


def test_a_data_folder_that_is_a_file_is_told(say, tmp_path):
    (tmp_path / "home").write_text("I was here first")
    code, _, told = say("enroll", "Barack Obama", *OBAMA)
    assert code == 1 and len(told) == 1 and str(tmp_path / "home") in told[0]
    assert (tmp_path / "home").read_text() == "I was here first"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_leaves_everything_as_it_was(say, tmp_path, monkeypatch, number):
    enrolled(say, tmp_path)
    before = files(tmp_path / "home")

    def refuse(*_, **__):
        raise OSError(number, "no")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    code, _, told = say("recognize", PROBE, "--save", tmp_path / "copies" / "deep")
    assert code == 1 and len(told) == 1 and "copies" in told[0]
    assert files(tmp_path / "home") == before


def test_measuring_goes_on_where_nothing_can_be_remembered(say, tmp_path, monkeypatch):
    def refuse(path, data):
        raise EdgeError("cannot write", remedy="free some space")

    monkeypatch.setattr(home_module, "write_json", refuse)
    assert say("models", "list")[0] == 0
