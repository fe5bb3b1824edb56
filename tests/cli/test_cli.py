"""The command line, end to end: real pictures, the exit codes, the JSON that scripts get."""

import json
import re
import shutil
import subprocess
import sys

import click
import numpy as np
import pytest

from edge_app.cli import main
from edge_app.cli.commands import program
from edge_app.cli.summaries import SUMMARIES
from edge_app.media import sample
from edge_app.media.pictures import read_picture, write_picture
from edge_app.media.video_writer import VideoWriter
from edge_app.system.data_folder import Home
from tests.model_store.planted import colour_card, install, plain

OBAMA = sample.people()["Barack Obama"]
[PROBE] = sample.probes()["Barack Obama"]


def call(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def walk(command=None, context=None):
    """Every command with its context, groups too, as a shell would find them."""
    command = command or program()
    context = click.Context(command, info_name=command.name, parent=context)
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), context)


EVERY = list(walk())


@pytest.mark.parametrize("words", [["cameras", "--help"], ["--home", "watch", "cameras", "--help"]])
def test_a_command_loads_its_own_module_alone(words):
    script = f"import sys\nfrom edge_app.cli import main\nassert main({words!r}) == 0\nprint(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "edge_app.cli.watch" in told and "rich" not in told
    assert not {"edge_app.cli.recognize", "edge_app.cli.tui", "edge_models.cli.train"} & set(told)


def test_all_commands_are_found():
    assert len(EVERY) > 35 and {c.command_path for c in EVERY} >= {f"edge-app {name}" for name in SUMMARIES}


@pytest.mark.parametrize("context", EVERY, ids=lambda context: context.command_path)
def test_every_command_has_help_and_an_example(context):
    text = context.get_help()
    example = text.split("example: ", 1)[1].splitlines()[0]
    assert context.command_path in example or context.command.name in ("edge-app", "export", "checkpoint", "completion")
    assert "--home DIR" in text
    assert all(param.help for param in context.command.params), "an option without help"


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory):
    """A data folder in which the sample people are enrolled."""
    home = tmp_path_factory.mktemp("enrolled") / "home"
    assert main(["enroll", "Barack Obama", *map(str, OBAMA), "--home", str(home)]) == 0
    return home


@pytest.fixture
def copied(enrolled, tmp_path):
    return shutil.copytree(enrolled, tmp_path / "home")


def test_no_command_shows_the_help(capsys):
    code, out, _ = call(capsys)
    assert code == 2 and "enroll" in out


def test_enrolling_says_what_was_taken(capsys, tmp_path):
    code, out, err = call(capsys, "enroll", "Joe Biden", *sample.people()["Joe Biden"], "--home", tmp_path)
    assert code == 0 and "biden_1.jpg: accepted" in out and "two are clearly better" in err


def test_enrolling_in_json(capsys, tmp_path):
    code, out, _ = call(capsys, "enroll", "Ada", OBAMA[0], sample.stranger(), "--home", tmp_path, "--json")
    [person] = json.loads(out)["enrolled"]
    assert code == 1 and person["accepted"] == 1 and person["templates"] == 1
    assert [s["reason"] for s in person["shots"]] == [None, "unlike-the-others"]
    assert person["shots"][0]["quality"]["face_px"] > 40


def test_a_folder_of_people(capsys, tmp_path):
    for name, paths in sample.people().items():
        (tmp_path / "people" / name).mkdir(parents=True)
        for path in paths:
            shutil.copy(path, tmp_path / "people" / name)
    (tmp_path / "people" / "Nobody").mkdir()
    code, _, err = call(capsys, "enroll", "--folder", tmp_path / "people", "--home", tmp_path / "home")
    assert code == 1 and "Nobody" in err
    code, out, _ = call(capsys, "gallery", "list", "--json", "--home", tmp_path / "home")
    assert [p["name"] for p in json.loads(out)["people"]] == ["Barack Obama", "Joe Biden"]


def test_somebody_enrolled_already_is_listed_for_review_under_another_name(capsys, copied):
    code, out, err = call(capsys, "enroll", "Somebody", PROBE, "--home", copied)
    assert code == 0 and "Somebody: enrolled" in out and "for review: Somebody looks like Barack Obama" in err


def test_recognizing_in_json(capsys, enrolled):
    code, out, err = call(capsys, "recognize", PROBE, sample.stranger(), "--json", "--home", enrolled)
    known, stranger = (json.loads(line) for line in out.splitlines())
    assert code == 0 and err == ""
    assert set(known) == {"source", "index", "time_s", "faces", "timings_ms"}
    [face] = known["faces"]
    assert set(face) == {"box", "score", "name", "similarity", "margin"} and len(face["box"]) == 4
    assert face["name"] == "Barack Obama" and face["similarity"] > 0.5
    assert stranger["faces"][0]["name"] is None


def test_recognizing_in_words_says_how_strict_it_is(capsys, enrolled):
    code, out, err = call(capsys, "recognize", PROBE, "--fpir", "0.001", "--home", enrolled)
    assert code == 0 and "Barack Obama" in out and "1 in 1,000 strangers" in err


def test_a_bad_source_is_reported_and_the_rest_is_done(capsys, enrolled, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(PROBE.read_bytes()[:3000])
    code, out, err = call(capsys, "recognize", bad, "missing.jpg", PROBE, "--json", "--home", enrolled)
    assert code == 1 and len(out.splitlines()) == 1
    assert "bad.jpg" in err and "missing.jpg" in err


def test_a_folder_with_saved_copies(capsys, enrolled, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for path in (PROBE, *OBAMA):
        shutil.copy(path, source)
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    code, out, _ = call(capsys, "recognize", source, "--save", source, "--home", enrolled)
    assert code == 0 and out.count("Barack Obama") == 3
    assert {name: (source / name).read_bytes() for name in before} == before
    copies = [p for p in source.iterdir() if p.name not in before]
    assert len(copies) == 3 and all(p.stat().st_mode & 0o077 == 0 for p in copies)


def short_clip(path):
    from edge_app.media.video_writer import VideoWriter

    scene = sample.clip_scene((320, 240), 10.0)
    with VideoWriter(path, scene.size_px, scene.fps) as writer:
        for frame, _ in sample.clip((320, 240), 10.0):
            if 20 <= frame.index < 35:
                writer.write(frame.pixels)


def test_a_video_says_who_was_seen_when(capsys, enrolled, tmp_path):
    short_clip(tmp_path / "clip.mp4")
    code, out, _ = call(capsys, "recognize", tmp_path / "clip.mp4", "--save", tmp_path / "out", "--home", enrolled)
    assert code == 0 and "Barack Obama (15 frames" in out
    assert (tmp_path / "out" / "clip.mp4").stat().st_size > 1000
    code, out, _ = call(capsys, "recognize", tmp_path / "clip.mp4", "--json", "--home", enrolled)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["index"] for line in lines] == list(range(15))
    assert lines[3]["time_s"] == pytest.approx(0.3, abs=0.02)


def test_the_gallery_by_command(capsys, copied):
    assert "Barack Obama" in call(capsys, "gallery", "list", "--home", copied)[1]
    _, out, _ = call(capsys, "gallery", "show", "Barack Obama", "--json", "--home", copied)
    assert [t["source"] for t in json.loads(out)["templates"]] == [p.name for p in OBAMA]
    assert "vector" not in out
    assert call(capsys, "gallery", "rename", "Barack Obama", "Zoë 李", "--home", copied)[0] == 0
    code, out, _ = call(capsys, "gallery", "forget", "Zoë 李", "--home", copied)
    assert code == 0 and "2 templates deleted" in out
    code, _, err = call(capsys, "gallery", "forget", "Zoë 李", "--home", copied)
    assert code == 1 and err.count("\n") == 1
    assert "nobody is enrolled" in call(capsys, "gallery", "list", "--home", copied)[1]


def test_the_data_folder_may_be_named_before_the_command(capsys, enrolled, tmp_path):
    assert "Barack Obama" in call(capsys, "--home", enrolled, "gallery", "list")[1]
    assert "Barack Obama" in call(capsys, "--home", tmp_path, "gallery", "list", "--home", enrolled)[1]


def test_the_models_by_command(capsys, tmp_path):
    code, out, _ = call(capsys, "models", "list", "--json", "--home", tmp_path)
    listed = json.loads(out)
    assert code == 0 and listed["why"] and {m["id"] for m in listed["models"]} >= {"sface", "yunet", "mtcnn-pnet"}
    assert all(m["licence"] in ("Apache-2.0", "MIT") and len(m["sha256"]) == 64 for m in listed["models"])
    assert call(capsys, "models", "verify")[0] == 0
    code, out, _ = call(capsys, "models", "show", "sface")
    assert code == 0 and "operating points" in out and re.search(r"\d,\d{3},\d{3} ", out) and "Apache-2.0" in out
    assert call(capsys, "models", "show", "resnet")[0] == 2


def test_the_doctor_is_content_and_notices_open_doors(capsys, copied):
    assert call(capsys, "doctor", "--home", copied)[0] == 0
    (copied / "gallery.db").chmod(0o644)
    code, out, _ = call(capsys, "doctor", "--home", copied)
    assert code == 1 and "chmod" in out


@pytest.mark.slow
def test_the_demo_recognizes_the_sample_people_and_not_the_stranger(capsys, tmp_path):
    code, out, _ = call(capsys, "demo", "--output", tmp_path / "demo", "--json")
    seen = json.loads(out)
    assert code == 0 and seen["frames_misnamed"] == 0
    assert seen["frames_named"]["Barack Obama"] > 100 and seen["frames_named"]["Joe Biden"] > 100
    assert seen["stranger_frames_left_unknown"] > 50
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"demo.jpg", "demo.mp4"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_picture_in_a_process_of_its_own_stays_small(enrolled):
    # VmHWM, not getrusage: the latter also remembers the size of the process that forked.
    script = (
        "import sys; from edge_app.cli import main; code = main(sys.argv[1:]); "
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]; "
        "print(peak[0].split()[1], file=sys.stderr); "
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "recognize", str(PROBE), "--json", "--home", str(enrolled)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stderr.splitlines()[-1]) < 300_000  # kilobytes


@pytest.fixture
def colours(tmp_path):
    """A data folder with a classifier of colours, and a folder of pictures."""
    install(Home(tmp_path / "home"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in {"a": (255, 0, 0), "b": (0, 255, 0), "c": (130, 120, 110)}.items():
        write_picture(folder / f"{name}.png", plain(colour))
    return tmp_path / "home", folder


def test_a_classifier_says_what_is_on_pictures_and_when_it_is_not_sure(capsys, colours):
    home, folder = colours
    code, out, err = call(capsys, "recognize", folder, "--model", "colours", "--home", home, "--top", "2")
    assert code == 0 and err == "edge-app: 3 pictures: red 1, green 1, 1 not sure\n"
    assert out.splitlines() == [
        f"{folder}/a.png: red 0.99, green 0.01",
        f"{folder}/b.png: green 0.99, red 0.01",
        f"{folder}/c.png: not sure (red 0.40, green 0.33)",
    ]
    code, out, _ = call(
        capsys, "recognize", folder / "c.png", "--model", "colours", "--home", home, "--unsure-below", "0.3"
    )
    assert out.startswith(f"{folder}/c.png: red 0.40")


def test_classes_in_json_are_all_there_best_first(capsys, colours):
    home, folder = colours
    Home(home).change_settings(model="colours")
    code, out, _ = call(capsys, "recognize", folder / "b.png", folder / "c.png", "--home", home, "--json")
    sure, unsure = map(json.loads, out.splitlines())
    assert code == 0 and list(sure) == ["source", "index", "time_s", "model", "classes", "label", "timings_ms"]
    assert (sure["model"], sure["label"], unsure["label"]) == ("colours", "green", None)
    assert [c["label"] for c in sure["classes"]] == ["green", "red", "blue"]
    assert sum(c["probability"] for c in unsure["classes"]) == pytest.approx(1, abs=1e-3)
    code, out, _ = call(capsys, "recognize", folder / "b.png", "--model", "faces", "--home", home, "--json")
    assert json.loads(out)["faces"] == []


def test_explanations_are_drawn_on_the_saved_copies(capsys, colours, tmp_path):
    home, folder = colours
    corner = plain((0, 0, 200), 400, 400)
    corner[:200, :200] = (200, 0, 0)
    write_picture(folder / "corner.png", corner)
    args = ["recognize", folder / "corner.png", "--model", "colours", "--home", home]
    for name, extra in (("bare", []), ("marked", ["--explain"])):
        assert call(capsys, *args, "--save", tmp_path / name, *extra)[0] == 0
    bare, marked = (read_picture(tmp_path / name / "corner.jpg").astype(int) for name in ("bare", "marked"))
    changed = np.abs(marked - bare).sum(axis=2)
    assert changed[250:350, 250:350].mean() > 100 > 40 > changed[80:160, 80:160].mean()  # blue is told, red is not it
    assert changed[-8:].mean() > 100  # the legend
    code, _, err = call(capsys, *args, "--explain")
    assert code == 2 and "--save" in err


def test_a_video_is_told_in_stretches(capsys, colours, tmp_path):
    home, _ = colours
    with VideoWriter(tmp_path / "v.mp4", (64, 48), 15.0) as video:
        for i in range(60):
            video.write(plain((250, 5, 5) if i < 30 else (5, 250, 5)))
    code, out, _ = call(capsys, "recognize", tmp_path / "v.mp4", "--model", "colours", "--home", home)
    lines = out.splitlines()
    assert code == 0 and "red" in lines[1] and "probability 0.9" in lines[1] and "green" in lines[-1]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--model", "nobody"], "no model called 'nobody'"),
        (["--model", "yunet"], "--detector yunet"),
        (["--model", "sface", "--top", "2"], "for classifiers"),
        (["--unsure-below", "0.5"], "for classifiers"),
        (["--model", "colours", "--unsure-below", "1.5"], "[0, 1)"),
        (["--model", "colours", "--top", "0"], "at least 1"),
        (["--model", "colours", "--precision", "int8"], "no int8 build"),
    ],
)
def test_wishes_that_no_model_can_grant_are_refused_in_words(capsys, colours, extra, words):
    home, folder = colours
    code, out, err = call(capsys, "recognize", folder / "a.png", "--home", home, *extra)
    assert (code, out) == (2, "") and words in err


def test_a_face_embedder_as_model_recognizes_faces(capsys, enrolled):
    code, out, _ = call(capsys, "recognize", PROBE, "--model", "sface", "--home", enrolled)
    assert code == 0 and "Barack Obama" in out


def test_a_licence_that_forbids_business_is_told_once(capsys, colours):
    home, folder = colours
    install(Home(home), colour_card(id="research", commercial_use=False, licence="CC-BY-NC-4.0"))
    code, _, err = call(capsys, "recognize", folder, "--model", "research", "--home", home)
    assert code == 0 and err.count("non-commercial use only (licence: CC-BY-NC-4.0") == 1


def test_classifying_loads_nothing_that_only_training_or_faces_need(colours):
    home, folder = colours
    script = (
        "import sys; from edge_app.cli import main\n"
        f"main(['recognize', {str(folder / 'a.png')!r}, '--model', 'colours', '--home', {str(home)!r}])\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {
        "torch",
        "onnx",
        "sqlite3",
        "textual",
        "edge_app.recognition.face_session",
        "edge_app.recognition.things",
    }
