"""`recognize`: annotated copies that replace nothing, sums, paths for scripts, and what is told how often."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from edge_app.cli import main
from edge_app.media import sample
from edge_app.media.pictures import write_picture
from edge_app.media.video_writer import VideoWriter
from edge_app.system.data_folder import Home
from tests.model_store.planted import colour_card, install, plain

RED, GREEN, GREY = (250, 5, 5), (5, 250, 5), (130, 120, 110)
OBAMA = sample.people()["Barack Obama"]
[PROBE] = sample.probes()["Barack Obama"]


@pytest.fixture
def say(home, capsys):
    """Recognize colours; exit code, standard output, notes without their "edge-app: "."""
    install(home, colour_card())

    def run(*words):
        code = main(["recognize", *map(str, words), "--model", "colours", "--home", str(home.path)])
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert all(line.startswith("edge-app: ") for line in lines)
        return code, out, [line.removeprefix("edge-app: ") for line in lines]

    return run


@pytest.fixture
def album(tmp_path):
    """Three pictures, one of them of no colour that is known."""
    folder = tmp_path / "album"
    folder.mkdir()
    for name, colour in (("a", RED), ("b", GREEN), ("c", GREY)):
        write_picture(folder / f"{name}.png", plain(colour))
    return folder


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Copies


def test_pictures_of_one_name_never_replace_each_other_nor_their_sources(say, tmp_path):
    for folder, colour in (("a", RED), ("b", GREEN)):
        (tmp_path / folder).mkdir()
        write_picture(tmp_path / folder / "x.jpg", plain(colour))
    before = bytes_of(tmp_path)
    code, out, notes = say(tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg", "--save", tmp_path / "a")
    after = bytes_of(tmp_path)
    assert code == 0 and before.items() <= after.items()
    assert {str(path) for path in after.keys() - before.keys()} >= {"a/x-2.jpg", "a/x-3.jpg"}
    assert out.splitlines()[0].endswith("(copy: x-2.jpg)") and out.splitlines()[1].endswith("(copy: x-3.jpg)")
    assert notes[0] == f"2 annotated copies in {tmp_path / 'a'}"


def test_a_picture_of_another_kind_keeps_its_name(say, tmp_path, album):
    write_picture(album / "a.jpg", plain(GREEN))
    before = bytes_of(album)
    assert say(album, "--save", album)[0] == 0
    assert before.items() <= bytes_of(album).items()


def test_a_link_to_the_folder_of_the_sources_is_that_folder(say, tmp_path):
    (tmp_path / "real").mkdir()
    write_picture(tmp_path / "real" / "x.jpg", plain(RED))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    before = bytes_of(tmp_path / "real")
    code, out, _ = say(tmp_path / "real" / "x.jpg", "--save", tmp_path / "link", "--json")
    assert code == 0 and before.items() <= bytes_of(tmp_path / "real").items()
    assert json.loads(out)["copy"] == str(tmp_path / "link" / "x-2.jpg")


def test_a_dangling_link_in_the_place_of_a_copy_is_left_alone(say, tmp_path, album):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").symlink_to(tmp_path / "elsewhere")
    assert say(album / "a.png", "--save", tmp_path / "out")[0] == 0
    assert not (tmp_path / "elsewhere").exists() and (tmp_path / "out" / "a-2.jpg").is_file()


def test_the_same_source_twice_gives_two_copies(say, tmp_path, album):
    code, out, _ = say(album / "a.png", album / "a.png", "--save", tmp_path / "out", "--json")
    assert code == 0 and [json.loads(line)["copy"][-7:] for line in out.splitlines()] == ["t/a.jpg", "a-2.jpg"]


def test_copies_of_earlier_runs_are_known_and_left_out(say, album):
    for run in range(3):
        code, out, notes = say(album, "--recursive", "--save", album / "marked")
        assert code == 0 and len(out.splitlines()) == 3
        left = f"left out of {album}: {3 * run} annotated copies of an earlier run"
        assert (left in notes) == (run > 0)
    assert len(list((album / "marked").iterdir())) == 9
    code, out, notes = say(album / "marked")
    assert (code, out) == (1, "") and "holds only 9 annotated copies" in notes[0]
    assert say(album / "marked" / "a.jpg")[0] == 0


def test_a_video_s_copy_replaces_no_other_file(say, tmp_path):
    with VideoWriter(tmp_path / "v.avi", (64, 48), 15.0) as video:
        for _ in range(10):
            video.write(plain(RED))
    (tmp_path / "v.mp4").write_bytes(b"the user's own")
    code, out, _ = say(tmp_path / "v.avi", "--save", tmp_path)
    assert code == 0 and out.startswith(f"{tmp_path}/v.avi: (copy: v-2.mp4)\n")
    assert (tmp_path / "v.mp4").read_bytes() == b"the user's own" and (tmp_path / "v-2.mp4").stat().st_size > 100
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_half_a_video(home, tmp_path, number):
    install(home, colour_card())
    out = tmp_path / "out"
    with VideoWriter(tmp_path / "v.mp4", (640, 480), 15.0) as video:
        for _ in range(600):
            video.write(plain(RED, 640, 480))
    command = [sys.executable, "-m", "edge_app", "recognize", str(tmp_path / "v.mp4"), "--save", str(out), "--json",
        "--model", "colours", "--home", str(home.path)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGHUP)])  # fmt: skip
    process.stdout.readline()
    assert [path.name[:1] for path in out.iterdir()] == ["."]
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number and err == "edge-app: stopped\n" and not list(out.iterdir())


# What is told


def test_a_folder_ends_in_a_sum(say, album):
    (album / "d.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (album / "notes.txt").write_text("hello")
    code, _, notes = say(album)
    assert code == 1
    assert notes[-2:] == [
        "3 pictures: red 1, green 1, 1 not sure; 1 could not be read or written",
        "not used: 1 other file (.txt)",
    ]
    assert not [note for note in say(album, "--quiet")[2] if "pictures:" in note or "not used" in note]
    assert "could not" not in " ".join(say(album / "a.png")[2])


def test_faces_are_summed_by_name(home, capsys):
    assert main(["enroll", "Barack Obama", *map(str, OBAMA), "--home", str(home.path)]) == 0
    capsys.readouterr()
    paths = [PROBE, *OBAMA, sample.stranger()]
    assert main(["recognize", *map(str, paths), "--home", str(home.path)]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err[-1] == "edge-app: 4 pictures, 4 faces: Barack Obama 3, 1 unknown"


def test_how_strict_it_is_is_told_once_and_again_when_it_changes(home, capsys):
    def told(*extra):
        assert main(["recognize", str(PROBE), "--home", str(home.path), *extra]) == 0
        return capsys.readouterr().err.count("strangers may be called somebody")

    assert main(["enroll", "Barack Obama", *map(str, OBAMA), "--home", str(home.path)]) == 0
    capsys.readouterr()
    assert [told("--quiet"), told("--json"), told(), told(), told("--verbose"), told()] == [0, 0, 1, 0, 1, 0]
    assert [told("--fpir", "0.001"), told("--fpir", "0.001")] == [1, 0]
    assert main(["enroll", "Joe", *map(str, sample.people()["Joe Biden"]), "--home", str(home.path)]) == 0
    assert [told(), told()] == [1, 0]


# For scripts


def test_paths_alone_are_those_in_which_somebody_is_recognized(say, album):
    code, out, notes = say(album, "--paths-only", "--quiet")
    assert (code, notes) == (0, []) and out == f"{album}/a.png\n{album}/b.png\n"
    assert say(album, "--paths-only", "--only", "green", "--quiet")[1] == f"{album}/b.png\n"
    assert say(album, "--paths-only", "-0")[1] == f"{album}/a.png\0{album}/b.png\0"


def test_only_one_is_told_of(say, album):
    assert (
        say(album, "--only", "red")[1].startswith(f"{album}/a.png: red")
        and "b.png" not in say(album, "--only", "red")[1]
    )
    [line] = say(album, "--only", "red", "--json")[1].splitlines()
    assert json.loads(line)["label"] == "red"
    code, out, notes = say(album, "--only", "gren")
    assert (code, out, notes) == (2, "", ["there is no 'gren' to look for; did you mean 'green'?"])


def test_videos_too_are_told_as_paths(say, tmp_path):
    for name, colour in (("red", RED), ("grey", GREY)):
        with VideoWriter(tmp_path / f"{name}.mp4", (64, 48), 15.0) as video:
            for _ in range(10):
                video.write(plain(colour))
    assert say(tmp_path / "red.mp4", tmp_path / "grey.mp4", "--paths-only")[1] == f"{tmp_path}/red.mp4\n"


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_path_is_printed_in_its_own_bytes(home, album):
    install(home, colour_card())
    odd = os.path.join(os.fsencode(album), b"caf\xe9\x1b[31m\n.png")  # noqa: PTH118
    shutil.copy(album / "a.png", odd)
    command = [sys.executable, "-m", "edge_app", "recognize", odd, "--model", "colours", "--home", str(home.path)]
    done = subprocess.run([*command, "--paths-only", "-0"], capture_output=True, timeout=300)
    assert done.stdout == odd + b"\0"
    done = subprocess.run(command, capture_output=True, timeout=300, text=True)
    assert done.stdout.startswith(f"{album}/caf\\xe9\\x1b[31m\\n.png: red") and done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "extra", [["--explain"], ["--paths-only", "--json"], ["--null"], ["--only", "nothing"], ["--top", "0"]]
)
def test_wishes_that_do_not_fit_are_misuse(say, album, extra):
    code, out, notes = say(album / "a.png", *extra)
    assert (code, out, len(notes)) == (2, "", 1)


def test_a_data_folder_that_cannot_be_written_is_told_the_same_again(home, capsys, monkeypatch):
    from edge_app.core.errors import EdgeError

    def refuse(*_):
        raise EdgeError("read-only")

    assert main(["enroll", "Barack Obama", *map(str, OBAMA), "--home", str(home.path)]) == 0
    monkeypatch.setattr(Home, "remember", refuse)
    for _ in range(2):
        capsys.readouterr()
        assert main(["recognize", str(PROBE), "--home", str(home.path)]) == 0
        assert "strangers may be called somebody" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_looked_at(say, album, tmp_path):
    (tmp_path / "file").write_text("x")
    code, out, notes = say(album, "--save", tmp_path / "file")
    assert (code, out) == (1, "") and "a file stands where a folder should be" in notes[0]
