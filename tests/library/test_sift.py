"""A pile is sifted step by step: what each saw, what is kept where, stopped and gone on with, and undone."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from edge_app.core.errors import UsageError
from edge_app.library import sift as sifting
from edge_app.library.steps import Bound, bounded, parse_step
from edge_app.library.tools import Look, Tools
from edge_app.media import sample
from edge_app.media.pictures import write_picture
from tests.library.models import COLOURS, colours
from tests.recognition.test_things import blocks, thing


@pytest.fixture
def pile(tmp_path):
    """Two red pictures, one of them small, a green and a blue one, and one that is none."""
    folder = tmp_path / "pile"
    (folder / "sub").mkdir(parents=True)
    grain = np.random.default_rng(0).integers(-25, 26, (200, 300, 3))
    for name, colour, side in (("a", "red", 200), ("b", "red", 50), ("c", "green", 200), ("sub/d", "blue", 200)):
        pixels = np.clip(np.array(COLOURS[colour]) + grain[:side, :side], 0, 255).astype(np.uint8)
        write_picture(folder / f"{name}.png", pixels)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    return folder


@pytest.fixture
def classifier(tmp_path):
    colours(tmp_path / "home" / "models" / "colours-fp32.onnx")


def decisions(out):
    with (out / "decisions.csv").open(newline="") as stream:
        return {row.pop("picture"): row for row in csv.DictReader(stream)}


def test_each_step_sees_what_the_last_left(say, pile, tmp_path, classifier):
    out = tmp_path / "out"
    code, told, err = say(
        "sift", pile, "--into", out, "--step", "larger:100", "--step", "not colours:red>=0.5", "--recursive", "--json"
    )
    assert code == 0
    told = json.loads(told)
    assert told["steps"] == [
        {"step": "larger:100", "seen": 4, "passed": 3},
        {"step": "not colours:red>=0.5", "seen": 3, "passed": 2},
    ]
    assert (told["pictures"], told["kept"], told["unreadable"]) == (5, 2, 1) and "1 could not be read" in err
    assert sorted(path.relative_to(out / "kept").as_posix() for path in (out / "kept").rglob("*.png")) == [
        "c.png",
        "sub/d.png",
    ]
    assert (out / "kept" / "c.png").is_symlink() and (out / "kept" / "c.png").resolve() == (pile / "c.png").resolve()
    rows = decisions(out)
    assert rows["b.png"] == {
        "outcome": "left",
        "stopped by": "1 larger:100",
        "1 larger:100": "50x50",
        "2 not colours:red>=0.5": "",
    }
    assert rows["a.png"]["stopped by"] == "2 not colours:red>=0.5"
    assert float(rows["a.png"]["2 not colours:red>=0.5"]) > 0.99
    assert rows["broken.jpg"]["outcome"] == "unreadable" and "damaged or cut short" in rows["broken.jpg"]["stopped by"]
    page = (out / "sift.html").read_text()
    assert page.count("<img") == 7 and "3 of 4 passed" in page and "2 of 3 passed" in page
    assert (out / "decisions.csv").stat().st_mode & 0o077 == 0


def test_the_same_command_goes_on_and_another_is_refused(say, pile, tmp_path):
    out = tmp_path / "my out"
    assert say("sift", pile, "--into", out, "--step", "larger:100")[0] == 0
    shutil.copy(pile / "a.png", pile / "later.png")
    code, told, _ = say("sift", pile, "--into", out, "--step", "larger:100", "--json")
    told = json.loads(told)
    assert (code, told["pictures"], told["resumed"], told["kept"]) == (0, 5, 4, 3)
    code, _, err = say("sift", pile, "--into", out, "--step", "larger:10")
    assert code == 2 and "holds a sift whose steps are larger:100" in err
    assert shlex.split(err)[-2:] == ["--undo", str(out)]  # as a shell takes what is copied from the line
    other = tmp_path / "mine"
    other.mkdir()
    (other / "letter.txt").write_text("hello")
    code, _, err = say("sift", pile, "--into", other, "--step", "larger:10")
    assert code == 2 and "holds letter.txt and no sift" in err


def test_where_there_is_no_pile_nothing_is_made(say, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        assert say("sift", tmp_path / folder, "--into", tmp_path / "out", "--step", "larger:100")[0] == 1
    assert not (tmp_path / "out").exists()


def test_when_all_was_moved_the_same_command_still_ends_well(say, pile, tmp_path):
    for _ in range(2):
        code, told, _ = say("sift", pile, "--into", tmp_path / "out", "--step", "larger:1", "--move", "--json")
        assert code == 0 and json.loads(told)["kept"] == 3
    (pile / "broken.jpg").unlink()
    assert say("sift", pile, "--into", tmp_path / "out", "--step", "larger:1", "--move")[0] == 0


def test_a_row_cut_off_by_a_kill_is_decided_again_and_nothing_is_placed_twice(say, pile, tmp_path):
    out = tmp_path / "out"
    say("sift", pile, "--into", out, "--step", "larger:100", "--copy")
    whole = (out / "decisions.csv").read_bytes()
    for cut in range(len(whole) - 1, whole.index(b"\n"), -7):
        (out / "decisions.csv").write_bytes(whole[:cut])
        assert say("sift", pile, "--into", out, "--step", "larger:100", "--copy")[0] == 0
        assert (out / "decisions.csv").read_bytes() == whole
    assert sorted(path.name for path in (out / "kept").iterdir()) == ["a.png", "c.png"]


def test_what_a_kill_left_of_a_copy_goes_with_the_next_call_and_with_undoing(say, pile, tmp_path):
    out, words = tmp_path / "out", ("--step", "larger:100", "--copy")
    say("sift", pile, "--into", out, *words)
    half = out / "kept" / ".c.png.a1b2c3d_.part"
    half.write_bytes(b"half")
    assert say("sift", pile, "--into", out, *words)[0] == 0 and not half.exists()
    half.write_bytes(b"half")
    assert say("sift", "--undo", out)[0] == 0 and not out.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_leaves_no_note_by_which_a_moved_picture_would_be_lost(tmp_path):
    """Half a line in the list of what was moved would swallow the next one: undoing would not know that picture."""
    folder, out, homes = tmp_path / "pile", tmp_path / "out", ("--home", str(tmp_path / "home"))
    folder.mkdir()
    for number in range(8):
        write_picture(folder / f"{number}.png", np.full((64, 64, 3), 90 + number, np.uint8))
    words = ["sift", str(folder), "--into", str(out), "--step", "larger:50", "--move", *homes]
    # Bytes that a file may have: decisions.csv is the shorter one, and the list of the moved ends within a line.
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (240, 240)); {_MAIN}"
    found = subprocess.run([sys.executable, "-c", full, *words], check=False, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr.count("edge-app: ") == 1 and "Traceback" not in found.stderr
    assert 0 < len(list((out / "kept").glob("*.png"))) < 8
    assert all(json.loads(line) for line in (out / "placed.jsonl").read_text().splitlines())
    assert subprocess.run([sys.executable, "-c", _MAIN, *words], check=False, capture_output=True).returncode == 0
    assert len(list((out / "kept").glob("*.png"))) == 8
    assert sifting.undo(out).back == 8 and len(list(folder.glob("*.png"))) == 8 and not out.exists()


_MAIN = "import sys; from edge_app.cli import main; sys.exit(main(sys.argv[1:]))"


def test_copies_and_moves_are_undone_and_what_was_changed_stays(say, pile, tmp_path):
    before = {path.name: path.read_bytes() for path in pile.iterdir() if path.is_file()}
    moved = tmp_path / "moved"
    assert say("sift", pile, "--into", moved, "--step", "larger:100", "--move")[0] == 0
    assert sorted(path.name for path in pile.iterdir()) == ["b.png", "broken.jpg", "sub"]
    assert say("sift", "--undo", moved)[1] == "2 pictures moved back, 0 links and copies deleted\n"
    assert {path.name: path.read_bytes() for path in pile.iterdir() if path.is_file()} == before
    assert not moved.exists()

    copied = tmp_path / "copied"
    assert say("sift", pile, "--into", copied, "--step", "larger:100", "--copy")[0] == 0
    assert not (copied / "kept" / "a.png").is_symlink()
    (copied / "kept" / "a.png").write_bytes(b"mine now")
    code, _, err = say("sift", "--undo", copied)
    assert code == 1 and "a.png stays: it was changed since" in err
    assert [path.name for path in (copied / "kept").iterdir()] == ["a.png"]


def test_a_picture_that_came_back_is_not_overwritten_by_undoing(say, pile, tmp_path):
    out = tmp_path / "out"
    say("sift", pile, "--into", out, "--step", "larger:100", "--move")
    (pile / "a.png").write_bytes(b"another")
    code, _, err = say("sift", "--undo", out)
    assert code == 1 and "is there again" in err
    assert (pile / "a.png").read_bytes() == b"another" and (pile / "c.png").exists()
    (pile / "a.png").unlink()
    assert say("sift", "--undo", out)[0] == 0 and not out.exists()


def test_a_list_that_names_files_elsewhere_moves_nothing(say, pile, tmp_path):
    out = tmp_path / "out"
    say("sift", pile, "--into", out, "--step", "larger:100", "--move")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"x")
    with (out / "placed.jsonl").open("a") as stream:
        stream.write(json.dumps({"picture": "b2.png", "to": "../../secret.png", "how": "move"}) + "\nnot json\n")
    say("sift", "--undo", out)
    assert secret.exists() and not (pile / "b2.png").exists()


def test_a_step_that_nothing_passes_is_told_in_a_line(say, pile, tmp_path):
    out = tmp_path / "out"
    code, _, err = say("sift", pile, "--into", out, "--step", "larger:40", "--step", "larger:5000")
    assert code == 1
    assert [line for line in err.splitlines() if "nothing passes" in line] == [
        f"edge-app: nothing passes step 2, larger:5000: 0 of 3; {out}/sift.html shows some of them"
    ]


@pytest.mark.parametrize(
    ("step", "line"),
    [
        ("cats:cat>=0.9", "names no model and no kind of step"),
        ("colors:red", "did you mean 'colours'?"),
        ("colours:rde>=0.5", "colours knows no label 'rde'; expected one of red, green, blue; did you mean 'red'?"),
        ("colours:red>=90", "expected a number from 0 to 1"),
        ("Ada", "nobody of that name is enrolled"),
        ("name:sharp", "nobody of that name is enrolled"),
        ("faces:many", "compares with 'many'"),
        ("like:a.png", "says not how alike"),
        ("like:nowhere.png>=0.5", "has no picture: nowhere.png does not exist"),
        ("not", "asks nothing"),
        ("", "asks nothing"),
        ("faces:>=x", "the step 'faces:>=x' compares"),
    ],
)
def test_a_step_that_makes_no_sense_is_one_line_and_makes_no_folder(say, pile, tmp_path, classifier, step, line):
    code, _, err = say("sift", pile, "--into", tmp_path / "out", "--step", step)
    assert code == 2 and line in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_an_embedder_it_says_how_to_make_one(say, pile, tmp_path):
    code, _, err = say("sift", pile, "--into", tmp_path / "out", "--step", f"like:{pile / 'a.png'}>=0.8")
    assert code == 2 and "no general image embedder is installed" in err and "edge-app export backbone" in err


def test_likeness_is_a_cosine_to_the_picture_and_needs_no_thresholds(say, tmp_path):
    blocks(tmp_path / "home" / "models" / "blocks-fp32.onnx", operating_points=())
    folder = tmp_path / "pile"
    folder.mkdir()
    for name, seed, view in (("same", 1, 1), ("other", 2, 0)):
        write_picture(folder / f"{name}.png", thing(seed, noise=view))
    write_picture(tmp_path / "asked.png", thing(1))
    assert say("sift", folder, "--into", tmp_path / "out", "--step", f"like:{tmp_path / 'asked.png'}>=0.9")[0] == 0
    assert [path.name for path in (tmp_path / "out" / "kept").iterdir()] == ["same.png"]


def test_people_and_faces_are_steps(say, tmp_path):
    folder = tmp_path / "pile"
    folder.mkdir()
    [probe] = sample.probes()["Barack Obama"]
    for path in (probe, sample.people()["Joe Biden"][0]):
        shutil.copy(path, folder)
    write_picture(folder / "wall.png", np.full((300, 300, 3), 120, np.uint8))
    assert say("enroll", "Barack Obama", *sample.people()["Barack Obama"])[0] == 0
    assert say("sift", folder, "--into", tmp_path / "o", "--step", "faces:>=1", "--step", "Barack Obama")[0] == 0
    assert [path.name for path in (tmp_path / "o" / "kept").iterdir()] == [probe.name]
    assert say("sift", folder, "--into", tmp_path / "none", "--step", "faces:0")[0] == 0
    assert [path.name for path in (tmp_path / "none" / "kept").iterdir()] == ["wall.png"]


def test_a_blurred_picture_is_not_sharp(home, tmp_path):
    import cv2

    pixels = cv2.imread(str(sample.people()["Barack Obama"][0]))[..., ::-1]
    tools = Tools(home, home.settings())
    step = parse_step("sharp", tools)
    write_picture(tmp_path / "sharp.png", pixels)
    write_picture(tmp_path / "soft.png", cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), 12))
    assert step.judge(Look(tmp_path / "sharp.png", tools)).passes
    assert not step.judge(Look(tmp_path / "soft.png", tools)).passes


def test_bounds_are_read():
    assert bounded("a>=0.5", 0, 1) == ("a", Bound(">=", 0.5))
    assert bounded("label>x<0.25", 0, 1) == ("label>x", Bound("<", 0.25))
    assert bounded("plain", 0, 1) == ("plain", None)
    with pytest.raises(UsageError):
        bounded("a>=nan", 0, 1)
    assert [sign for sign in (">=", "<=", ">", "<", "=", "") if Bound(sign, 2.0).holds(2.0)] == [">=", "<=", "=", ""]


def test_the_folder_of_the_sift_is_no_part_of_the_pile(say, pile):
    for steps in (("larger:100",), ("larger:100",)):
        code, told, _ = say("sift", pile, "--into", pile / "out", "--step", *steps, "--recursive", "--copy", "--json")
        assert code == 0 and json.loads(told)["pictures"] == 5


@pytest.mark.slow
def test_killed_at_any_moment_every_picture_is_in_one_place_and_undone(tmp_path):
    folder, out = tmp_path / "pile", tmp_path / "out"
    folder.mkdir()
    write_picture(folder / "0.png", np.full((64, 64, 3), 90, np.uint8))
    for number in range(1, 400):
        shutil.copy(folder / "0.png", folder / f"{number}.png")
    words = ["sift", str(folder), "--into", str(out), "--step", "larger:50", "--move", "--home", str(tmp_path / "home")]
    command = [sys.executable, "-m", "edge_app", *words]
    stopped = 0
    for moved in (0, 20, 60, 150, 300):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and len(list((out / "kept").glob("[0-9]*.png"))) <= moved:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        stopped += child.wait() == -signal.SIGKILL
        there = len(list(folder.glob("*.png"))) + len(list((out / "kept").glob("[0-9]*.png")))
        assert there == 400
    assert stopped
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert len(list((out / "kept").glob("*.png"))) == 400
    assert {(name, row["outcome"]) for name, row in decisions(out).items()} == {
        (f"{n}.png", "kept") for n in range(400)
    }
    assert sifting.undo(out).back == 400 and len(list(folder.glob("*.png"))) == 400
