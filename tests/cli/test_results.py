"""Files in folders of the user's: never replaced, whole or absent, private; and what evaluate says of small folders."""

import json
import os
import shutil

import pytest

from edge_app.cli import main, results
from edge_app.core.errors import EdgeError
from edge_app.media import sample
from edge_app.media.pictures import comment_of, write_picture
from tests.model_store.planted import plain

MINE = b"the user's own"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two people with two pictures each: too few for galleries."""
    folder = tmp_path_factory.mktemp("people")
    for name, paths in sample.people().items():
        (folder / name).mkdir()
        for path in paths[:2]:
            shutil.copy(path, folder / name)
    return folder


def test_results_that_belong_together_never_replace_anything(tmp_path, capsys):
    out = tmp_path / "out"
    results.write_results(out, {"a.json": b"1", "a.png": lambda path: path.write_bytes(b"2")})
    assert capsys.readouterr().err == ""
    results.write_results(out, {"a.json": b"3", "a.png": lambda path: path.write_bytes(b"4")})
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "a.json": b"1", "a.png": b"2", "a-2.json": b"3", "a-2.png": b"4"
    }  # fmt: skip
    assert f"{out}/a.json was there before: this one is a-2.json" in capsys.readouterr().err
    assert os.name != "posix" or {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}


def test_a_plot_whose_library_is_absent_is_left_out(tmp_path, capsys):
    def plot(_path):
        raise ImportError("matplotlib")

    results.write_results(tmp_path, {"a.png": plot, "a.json": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and "a.png is left out" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_bytes(MINE)
    with pytest.raises(EdgeError, match="a file stands where a folder should be"):
        results.make_folder(tmp_path / "file")
    results.make_folder(None)
    results.write_results(None, {"a": b""})


def test_evaluate_says_why_its_table_is_empty_and_keeps_an_earlier_report(people, tmp_path, capsys):
    out = tmp_path / "report"
    out.mkdir()
    (out / "report.json").write_bytes(MINE)
    command = ["evaluate", str(people), "--output", str(out), "--no-spoil", "--home", str(tmp_path / "home")]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "no table of galleries" in told.out and "(here 0)" in told.out
    assert (out / "report.json").read_bytes() == MINE and "report-2.json" in told.err
    report = json.loads((out / "report-2.json").read_text())
    assert report["galleries"] == [] and report["no galleries"].startswith("no table of galleries")
    assert (out / "det-2.png").stat().st_size > 1000


@pytest.mark.parametrize("extra", [[], ["--detectors"]])
@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_a_senseless_smallest_face_is_one_line(people, tmp_path, capsys, size, extra):
    assert main(["evaluate", str(people), "--min-face", size, *extra, "--home", str(tmp_path / "home")]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "expected 12 to 10000 pixels" in told.err and told.err.count("\n") == 1


def test_a_picture_is_written_beside_the_one_that_is_there(tmp_path):
    path = tmp_path / "x.jpg"
    write_picture(path, plain((9, 9, 9)), comment="edge-app: é")
    assert comment_of(path) == "edge-app: é"
    before = path.read_bytes()
    with pytest.raises(EdgeError, match=r"x\.jpg cannot be written"):
        write_picture(path, plain((200, 9, 9)), replace=False)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["x.jpg"]
    for content in (
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xfe",
        b"\xff\xd8\xff\xfe\x00\x00",
        b"\xff\xd8\xff\xe0\x00\x02",
        MINE,
    ):
        path.write_bytes(content)
        assert comment_of(path) == ""
    assert comment_of(tmp_path / "absent.jpg") == ""
