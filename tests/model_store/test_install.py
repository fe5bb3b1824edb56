"""Models that the user brings: tried on real pictures, installed whole or not at all, used, removed."""

import json
import math
import os
import struct
from dataclasses import asdict, replace

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.inference import onnx_model
from edge_app.inference.geometry import face_scale, seen_area
from edge_app.media import sample
from edge_app.model_store import catalogue, fingerprint, install, sandbox_check
from edge_app.model_store.describe import Description, check_card, preset, read_description
from edge_app.model_store.onnx_inspect import inspect, with_card, with_metadata
from edge_app.recognition.gallery_session import unenrolled
from edge_app.system.files import sha256_of_file
from edge_app.system.settings import Settings
from tests.model_store import onnx_by_hand as by_hand

COLOURS = ModelCard(
    "colours",
    "classification",
    "logits",
    InputSpec("input", 32, 32, "RGB", (127.5,) * 3, (127.5,) * 3),
    ("logits",),
    "fp32",
    "CC0-1.0",
    True,
    "a test",
    "0" * 64,
    crop="centre-1.0",
    labels=("red", "green", "blue"),
)
SFACE = catalogue.build(None, "sface", "int8").path


def write(folder, card=COLOURS, content=None, name="net.onnx"):
    path = folder / name
    path.write_bytes(with_card(by_hand.colour_classifier(len(COLOURS.labels)) if content is None else content, card))
    return path


def spoiled(folder, **changes):
    """A file whose card was edited by hand, as no `ModelCard` can be made."""
    plain = json.loads(COLOURS.to_json()) | changes
    path = folder / "net.onnx"
    path.write_bytes(with_metadata(by_hand.colour_classifier(len(COLOURS.labels)), {ModelCard.KEY: json.dumps(plain)}))
    return path


POINT = {"fmr": 0.01, "threshold": 0.5, "impostor_pairs": 10_000}
INPUT = asdict(COLOURS.input)


def nothing_installed(home):
    left = (
        [p for p in home.models_dir.iterdir() if p.name not in (".lock", "installed.json")]
        if home.models_dir.exists()
        else []
    )
    return catalogue.installed(home) == () and left == []


def refused(home, path, *words, description=None, error=(ModelError, UsageError), **options):
    with pytest.raises(error) as told:
        install.add(home, path, description, **options)
    line = str(told.value)
    assert "\n" not in line and all(word in line for word in words), line
    return line


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A data folder with one installed classifier, and its file."""
    folder = tmp_path_factory.mktemp("colours")
    from edge_app.system.data_folder import Home

    home = Home(folder / "home")
    return home, write(folder), install.add(home, write(folder))


def test_a_good_model_is_installed_privately_and_runs(colours):
    home, path, entry = colours
    assert entry == catalogue.installed(home)[0] and entry.path.read_bytes() == path.read_bytes()
    assert entry.sha256 == sha256_of_file(path)
    assert catalogue.open_entry(entry).run(np.ones((2, 3, 32, 32), np.float32))[0].shape == (2, 3)
    if os.name == "posix":
        assert home.exposed() == ()
    assert not [p for p in home.models_dir.iterdir() if p.name.endswith(".part")]


def test_the_same_build_is_not_installed_twice(colours):
    home, path, entry = colours
    refused(home, path, "installed as fp32 already", "--replace")
    assert catalogue.installed(home) == (entry,) and entry.path.exists()


def test_replacing_puts_the_new_file_in_place_of_the_old(tmp_path, home):
    old = install.add(home, write(tmp_path))
    new = install.add(home, write(tmp_path, replace(COLOURS, licence="MIT")), replace=True)
    assert catalogue.installed(home) == (new,) and new.path.exists() and not old.path.exists()


def test_another_precision_must_be_the_same_model(colours, tmp_path):
    home, _, entry = colours
    other = by_hand.colour_classifier(weights=[float((5 * i) % 7 - 3) for i in range(9)])
    refused(home, write(tmp_path, replace(COLOURS, precision="fp16"), other), "does not agree")
    refused(home, write(tmp_path, replace(COLOURS, precision="fp16", labels=("a", "b", "c"))), "other labels")
    assert catalogue.installed(home) == (entry,)


@pytest.mark.parametrize(
    ("crop", "is_one"),
    [
        *((crop, True) for crop in ("whole", "whole@0,0,1,0.5", "centre-0.875", "centre-1@0,0,0.5,1", "face-2.7")),
        *((crop, False) for crop in ("whole-0.5", "centre-0", "centre-1.1", "centre-nan", "centre-", "centre", "0.5")),
        *((crop, False) for crop in ("face-0.4", "face-x", "face-2@0,0,1,1", "whole@0,0,2,1", "none-1", "")),
    ],
)
def test_a_card_s_crop_is_taken_where_it_tells_what_a_network_sees(tmp_path, crop, is_one):
    def is_taken(look, *arguments):
        try:
            look(*arguments)
        except (ModelError, UsageError):
            return False
        return True

    graph = inspect(write(tmp_path))
    assert is_taken(check_card, replace(COLOURS, crop=crop), graph) is is_one
    look = (face_scale, crop) if crop.startswith("face-") else (seen_area, 1, 1, COLOURS.input, crop)
    assert is_taken(*look) is is_one


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"id": "../../evil"}, "bad id"),
        ({"id": "sface"}, "ships with edge-app"),
        ({"id": "faces"}, "ships with edge-app"),
        ({"labels": ("red", "red", "blue")}, "each once"),
        ({"labels": ("red", "gr\x1been", "blue")}, "plain text"),
        ({"crop": "somewhere"}, "crop"),
        ({"input": INPUT | {"std": [0.0, 1.0, 1.0]}}, "std"),
        ({"input": INPUT | {"mean": [math.nan] * 3}}, "NaN"),
        ({"input": INPUT | {"mean": [1, 2, "3"]}}, "input.mean[2]: expected float"),
        ({"input": INPUT | {"gamma": 1}}, "input.'gamma' is unknown"),
        ({"metrics": {"accuracy": [[1]]}}, "metrics"),
        ({"provenance": {"by": "a \x1b[2J"}}, "provenance"),
        ({"licence": "free\u202e"}, "licence"),
        ({"outputs": ["\ud800"]}, "half a character"),
        ({"embedding_size": 10**30}, "64 bits"),
        ({"operating_points": [{"fmr": 0.01, "threshold": 0.5, "impostor_pairs": 99}]}, "impostor_pairs is 99"),
        ({"operating_points": [{"fmr": 1.5, "threshold": 0.5, "impostor_pairs": 99}]}, "fmr is 1.5"),
        ({"operating_points": [{"fmr": 0.01, "threshold": -3, "impostor_pairs": 1000}]}, "threshold is -3"),
        ({"operating_points": [POINT, POINT | {"fmr": 0.001, "threshold": 0.2}]}, "higher thresholds for lower rates"),
        ({"operating_points": [POINT, POINT]}, "each rate once"),
        ({"input": INPUT | {"width_px": None}}, "input size"),
        ({"input": INPUT | {"width_px": 10**9}}, "side"),
        ({"family": "yunet"}, "family"),
        ({"task": "liveness"}, "live"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_card_that_no_model_could_keep_is_refused(home, tmp_path, change, word):
    refused(home, spoiled(tmp_path, **change), word)
    assert nothing_installed(home)


def test_a_lie_about_the_number_of_labels_is_refused(home, tmp_path):
    path = write(tmp_path, replace(COLOURS, labels=("red", "green")))
    refused(home, path, "(20, 3)", "2 labels")
    assert nothing_installed(home)


def test_a_wrong_shape_and_wrong_names_are_refused(home, tmp_path):
    refused(
        home, write(tmp_path, replace(COLOURS, input=replace(COLOURS.input, width_px=64, height_px=64))), "as its card"
    )
    refused(home, write(tmp_path, replace(COLOURS, outputs=("scores",))), "as its card says")
    assert nothing_installed(home)


def loaded(path, **change):
    """The file as a model whose card says something else."""
    model = onnx_model.load(path, threads=2)
    model.card = replace(model.card, **change)
    return model


def test_the_true_card_of_a_shipped_embedder_is_believed():
    outputs = sandbox_check.judge(loaded(SFACE))
    assert outputs.shape == (5, 128)


def test_a_lie_about_the_normalization_is_found_and_told():
    spec = replace(onnx_model.load(SFACE).card.input, mean=(127.5,) * 3, std=(127.5,) * 3)
    with pytest.raises(ModelError, match=r"RGB mean 0 std 1.*than what the card says, RGB mean 127.5 std 127.5"):
        sandbox_check.judge(loaded(SFACE, input=spec))


def test_a_lie_about_the_embedding_size_is_found():
    with pytest.raises(ModelError, match="expected 64 numbers"):
        sandbox_check.judge(loaded(SFACE, embedding_size=64, cohort=None))


def test_an_embedder_is_no_classifier_and_no_detector():
    with pytest.raises(ModelError, match="expected 2 labels"):
        sandbox_check.judge(loaded(SFACE, task="classification", labels=("a", "b")))
    with pytest.raises(ModelError, match="12 of a YuNet"):
        sandbox_check.judge(loaded(SFACE, task="face-detection"))


def test_a_yunet_fed_in_the_wrong_range_finds_nothing_and_what_works_is_named():
    path = catalogue.build(None, "yunet", "fp32").path
    assert sandbox_check.judge(loaded(path)).all()
    spec = replace(onnx_model.load(path).card.input, std=(255.0,) * 3)
    with pytest.raises(ModelError, match="finds 0 of the sample's 5 faces; expected BGR mean 0 std 1"):
        sandbox_check.judge(loaded(path, input=spec))


class Bars:
    """Never saw a colour: a little brighter, a little more; with pixels ten times as large it saturates by colour."""

    def __init__(self, **change):
        self.card = replace(COLOURS, labels=("lying", "upright"), **change)

    def run(self, batch, outputs=None):
        red, green, _ = batch.mean(axis=(2, 3)).T
        far = 5 * (np.maximum(red - 3, 0) - np.maximum(green - 3, 0))
        return (np.stack([0.01 * (red + green) + far, -far], axis=1).astype(np.float32),)


def test_a_calm_network_of_other_pictures_is_believed_where_its_maker_measured_it_with_this_card():
    with pytest.raises(ModelError, match=r"hardly tells pictures apart with RGB mean 127\.5"):
        sandbox_check.judge(Bars())
    proof = fingerprint.measure(Bars())
    assert sandbox_check.judge(Bars(), proof).shape == (20, 2)
    # A card that was changed after the measurement proves nothing, nor does a measurement of other pictures.
    wrong = replace(COLOURS.input, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    for other, claimed in ((Bars(input=wrong), proof), (Bars(), replace(proof, sample="0" * 64))):
        with pytest.raises(ModelError, match="hardly tells pictures apart"):
            sandbox_check.judge(other, claimed)


def test_answers_that_never_change_or_are_no_numbers_are_refused(home, tmp_path):
    for weights, word in (([0.0] * 9, "the same answer"), ([math.inf] * 9, "not finite")):
        refused(home, write(tmp_path, content=by_hand.colour_classifier(weights=weights)), word)
    assert nothing_installed(home)


def test_a_file_without_a_card_wants_a_description(home, tmp_path):
    path = tmp_path / "Net One.onnx"
    path.write_bytes(by_hand.colour_classifier())
    refused(home, path, "no card", "models add --help")
    refused(home, path, "no task", description=Description(id="x"))
    refused(home, path, "no labels", description=Description(task="classification"))
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    told = tmp_path / "net.toml"
    told.write_text('task = "classification"\nlabels_file = "labels.txt"\nmean = 127.5\nstd = [127.5, 127.5, 127.5]\n')
    entry = install.add(home, path, read_description(told))
    card = inspect(entry.path).card
    assert entry.id == "net-one" and card.labels == ("red", "green", "blue") and not card.commercial_use
    assert card.input == InputSpec("input", 32, 32, "RGB", (127.5,) * 3, (127.5,) * 3)
    assert card.origin_sha256 == sha256_of_file(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [("task = ", "is wrong"), ("tusk = 1", "tusk"), ("a." * 40_000 + "a = 1", "dots"),
     ('id = "a\\u001bb"\nx = [', "is wrong"), ("id = 3", "id: expected str"), ('preset = "x"', "preset"),
     ('labels_file = "none"', "labels"), ("mean = true\nlabels = 3", r"mean\[0\]")],
)  # fmt: skip
def test_bad_descriptions_are_told_in_one_line(tmp_path, text, word):
    (tmp_path / "net.toml").write_text(text)
    with pytest.raises(UsageError, match=word) as told:
        read_description(tmp_path / "net.toml")
    assert "\n" not in str(told.value)


def test_a_model_that_takes_all_memory_brings_nothing_down(home, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox_check.run_apart, "__defaults__", (1 << 30, 60.0))
    # 32 x 32 pixels made 60,000 times as many: no tensor in the file is large.
    shape = by_hand.tensor("sizes", [4], struct.pack("<4q", 1, 3, 8000, 8000), by_hand.INT64)
    resized = by_hand.node("Resize", ["input", "", "", "sizes"], ["grown"])
    body = by_hand.graph(
        [resized, by_hand.node("GlobalAveragePool", ["grown"], ["logits"])],
        [shape],
        [by_hand.port("input", (1, 3, 32, 32))],
        [by_hand.port("logits", (1, 3, 1, 1))],
    )
    refused(home, write(tmp_path, content=by_hand.model(body)), "1024 MB")
    assert nothing_installed(home)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_model_that_takes_too_long_is_stopped(tmp_path):
    with pytest.raises(ModelError, match=r"after 0\.05 s"):
        sandbox_check.run_apart(write(tmp_path), time_s=0.05)


HOSTILE = {
    "no network": b"this is a letter, not a network",
    "external": by_hand.network([by_hand.external("w", [4], "../../../etc/passwd")]),
    "custom": by_hand.network(nodes=[by_hand.node("RunShell", [], ["c"], "evil")]),
    "huge": by_hand.network([by_hand.tensor("w", [1 << 40], b"")]),
    "bomb": by_hand.network(metadata=[("edge_app.card", "x" * (5 << 20))]),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("command", ["add", "show"])
def test_hostile_files_are_refused_by_command_in_one_line(home, tmp_path, capsys, monkeypatch, kind, command):
    path = tmp_path / "net.onnx"
    path.write_bytes(HOSTILE[kind])
    monkeypatch.setattr(onnx_model, "_session", None)  # nothing of them is ever loaded
    assert main(["models", command, str(path), "--home", str(home.path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "net.onnx" in err
    assert nothing_installed(home)


def test_use_and_remove_by_command(colours, capsys):
    home, _, _ = colours
    at = ["--home", str(home.path)]
    assert main(["models", "use", "colours", "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)["setting"] == "model" and home.settings().model == "colours"
    assert main(["models", "list", "--precision", "fp32", "--json", *at]) == 0
    used = [m["id"] for m in json.loads(capsys.readouterr().out)["models"] if m["in_use"]]
    assert used == ["sface", "yunet", "colours"]
    assert main(["models", "show", "colours", *at]) == 0 and "red, green, blue" in capsys.readouterr().out
    assert main(["models", "verify", *at]) == 0
    assert main(["models", "remove", "colours", *at]) == 0
    assert "model is faces again" in capsys.readouterr().out
    assert home.settings() == Settings() and nothing_installed(home)
    for gone in ("colours", "sface"):
        assert main(["models", "remove", gone, *at]) == 2
    assert main(["models", "use", "colours", *at]) == 2


@pytest.mark.parametrize(
    ("model_id", "field"), [("sface", "embedder"), ("yunet", "detector"), ("mtcnn", "detector"), ("faces", "model")]
)
def test_using_a_model_sets_what_it_is_for(home, model_id, field):
    home.change_settings(embedder="x", detector="x", model="x", precision="fp16")
    assert getattr(install.use(home, model_id), field) == model_id == getattr(home.settings(), field)
    assert home.settings().precision == ("auto" if field == "embedder" else "fp16")


def test_a_changed_embedder_says_who_must_be_enrolled_again(home, capsys):
    at = ["--home", str(home.path)]
    assert main(["enroll", "Barack Obama", *map(str, sample.people()["Barack Obama"]), *at]) == 0
    home.change_settings(embedder="other")
    assert unenrolled(home, "other") == ("Barack Obama",) and unenrolled(home, "sface") == ()


def test_a_failed_list_leaves_nothing_behind(home, tmp_path, monkeypatch):
    def full(*_):
        raise ModelError("no space")

    monkeypatch.setattr(sandbox_check, "run_apart", lambda path: np.zeros((20, 3), np.float32))
    monkeypatch.setattr(install, "_write_list", full)
    refused(home, write(tmp_path), "no space")
    assert nothing_installed(home)


@pytest.mark.slow
def test_models_that_others_made(shared_data, home, capsys):
    folder, at = shared_data / "onnx", ["--home", str(home.path)]
    fas = str(folder / "2.7_80x80_MiniFASNetV2.onnx")
    assert main(["models", "add", fas, "--preset", "minifasnet-2.7", "--id", "live", "--json", *at]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "live"
    assert main(["models", "add", fas, "--preset", "minifasnet-2.7", "--id", "b", "--channels", "RGB", *at]) == 1
    assert "expected BGR mean 0 std 1" in capsys.readouterr().err
    entry = install.add(home, folder / "yunet_n_dynamic.onnx", replace(preset("yunet"), licence="MIT"))
    assert [e.id for e in catalogue.installed(home)] == ["live", entry.id]
    refused(home, folder / "yunet_n_dynamic.onnx", "expected", description=replace(preset("arcface"), id="y"))
