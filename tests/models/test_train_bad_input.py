"""`edge-app train` with what makes no sense: one line, the right exit code, and nothing written."""

import json

import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from safetensors.torch import save_file

from edge_app.cli import main
from edge_app.core.errors import ModelError, UsageError
from edge_models.data.augment import contact_sheet
from edge_models.fitting.checkpoint import FORMAT, load, make_folder
from edge_models.networks.backbones import create_backbone
from tests.models.test_train_data import paint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    for label, name in enumerate(("cat", "dog")):
        for number in range(4):
            paint(tmp_path / "pictures" / name / f"{number}.png", 100 * label + number)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "one" / "only.png", 7)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edge-app: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("kind", ["classifier", "siamese"])
@pytest.mark.parametrize(
    ("directory", "words"),
    [
        ("nowhere", "nowhere does not exist; expected a folder with a sub-folder per {noun}"),
        ("notes.txt", "notes.txt is not a folder"),
        ("empty", "empty holds 0 usable {nouns}; expected at least"),
        ("pictures/cat", "holds 4 loose pictures and no sub-folder of pictures; expected at least"),
    ],
)
def test_folders_that_teach_nothing(pictures, capsys, kind, directory, words):
    nouns = {"classifier": ("class", "classes"), "siamese": ("identity", "identities")}
    words = words.format(noun=nouns[kind][0], nouns=nouns[kind][1])
    assert main(["train", kind, directory, "--output", "run"]) == 2
    assert words in told(capsys) and not (pictures / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "notes.txt"], "notes.txt is a file; expected a folder to write to"),
        (["--output", "notes.txt/run"], "notes.txt is a file"),
        (["--output", "used"], "used is not empty; expected a new folder"),
        (["--output", "run", "--resume"], "run holds no run to go on with"),
        (["--output", "run", "--groups", "none.csv"], "none.csv cannot be read (No such file or directory)"),
        (["--output", "run", "--groups", "empty"], "empty cannot be read (Is a directory)"),
        (["--output", "run", "--unlabelled", "empty"], "no picture below empty"),
        (["--output", "run", "--unlabelled", "none"], "none does not exist"),
        (["--output", "run", "--style", "one"], "one holds one picture to take styles from; expected two or more"),
        (["--output", "run", "--adapt", "empty"], "no picture below empty"),
        (["--output", "run", "--backbone", "efficentnet-lite0"], "expected efficientnet-lite0"),
        (["--output", "run", "--learning-rate", "nan"], "found nan as learning rate"),
        (["--output", "run", "--learning-rate", "1e39"], "found 1e+39 as learning rate"),
        (["--output", "run", "--tune-rate", "inf"], "found inf as tuning rate"),
        (["--output", "run", "--ridge", "inf"], "found inf as ridge"),
        (["--output", "run", "--ridge", "nan"], "found nan as ridge"),
        ([], "--output is missing"),
    ],
)
def test_options_of_the_classifier_that_make_no_sense(pictures, capsys, options, words):
    before = sorted(pictures.rglob("*"))
    assert main(["train", "classifier", "pictures", *options]) == 2
    assert words in told(capsys) and sorted(pictures.rglob("*")) == before


@pytest.mark.parametrize("kind", ["classifier", "siamese"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "notes.txt"], "notes.txt is a file"),
        (["--output", "used"], "used is not empty; expected a new folder"),
        (["--output", "used", "--resume"], "used holds no run to go on with"),
        (["--output", "run", "--resume"], "run holds no run to go on with"),
        (["--output", "run", "--NETWORK", "inception-resnet-v1:vgg"], "no backbone called 'inception-resnet-v1:vgg'"),
        (["--output", "run", "--NETWORK", "resnet81"], "no backbone called 'resnet81'"),
    ],
)
def test_what_is_known_to_be_wrong_is_told_before_pictures_are_read(
    pictures, capsys, monkeypatch, kind, options, words
):
    def read(*_, **__):
        raise AssertionError("pictures were read")

    monkeypatch.setattr("edge_models.siamese.run.scan", read)
    monkeypatch.setattr("edge_models.classifier.run.scan", read)
    network = {"classifier": "--backbone", "siamese": "--base"}[kind]
    before = sorted(pictures.rglob("*"))
    assert main(["train", kind, "pictures", *(word.replace("--NETWORK", network) for word in options)]) == 2
    assert words in told(capsys) and sorted(pictures.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning-rate", "0"], "found 0.0 as learning rate"),
        (["--learning-rate", "inf"], "found inf as learning rate"),
        (["--learning-rate", "nan"], "found nan as learning rate"),
        (["--augmentation", "9"], "found an augmentation strength of 9.0"),
        (["--webcam", "nan"], "found a webcam share of nan"),
        (["--epochs", "0"], "--epochs is 0"),
    ],
)
def test_options_of_the_embedder_that_make_no_sense(pictures, capsys, options, words):
    assert main(["train", "siamese", "pictures", "--output", "run", "--aligned", *options]) == 2
    assert words in told(capsys) and not (pictures / "run").exists()


@pytest.mark.parametrize("wrong", [{"temperature": "hot"}, {"temperature": 0}, {"kind": "detector"}, {"classes": None}])
def test_a_header_that_makes_no_sense_is_one_line(tmp_path, wrong):
    spec = {"name": "input", "width_px": 8, "height_px": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}
    base = {"name": "n", "features": 1, "licence": "", "commercial_use": True, "origin": "", "origin_sha256": ""}
    plain = {"format": FORMAT, "kind": "classifier", "base": base, "input": spec, "crop": "centre-1", "head": {}}
    plain |= {"classes": ["a", "b"], "temperature": 1.5}
    save_file({"w": torch.ones(1)}, tmp_path / "good.safetensors", {"edge_app.checkpoint": json.dumps(plain)})
    assert load(tmp_path / "good.safetensors").classes == ("a", "b")
    save_file({"w": torch.ones(1)}, tmp_path / "odd.safetensors", {"edge_app.checkpoint": json.dumps(plain | wrong)})
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "odd.safetensors")


def test_a_weight_file_that_is_absent_is_a_failure(pictures, capsys):
    words = "train classifier pictures --output run --backbone efficientnet-lite0 --weights none.pth"
    assert main(words.split()) == 1
    assert "none.pth does not exist; expected a weight file" in told(capsys) and not (pictures / "run").exists()


def test_the_benchmark_refuses_as_training_does(pictures, capsys):
    assert main(["train", "bench", "pictures", "--epochs", "0"]) == 2
    assert "found 0 epochs" in told(capsys)


def test_a_file_above_the_folder_is_named(pictures):
    with pytest.raises(UsageError, match=r"notes[.]txt is a file"):
        make_folder(pictures / "notes.txt" / "a" / "b")
    make_folder(pictures / "new" / "b")
    assert (pictures / "new" / "b").stat().st_mode & 0o777 == 0o700


def test_the_augmentation_is_shown_beside_the_plain_view(pictures, capsys, monkeypatch):
    # 0.4 million weights of timm's own test network, 96 pixels: what is tried is the sheet, not the network.
    tiny = create_backbone("timm:test_efficientnet", pretrained=False)
    monkeypatch.setattr("edge_models.classifier.start.create_backbone", lambda *_, **__: tiny)
    side = tiny.input.width_px
    assert main(["train", "classifier", "pictures", "--show-augmentation", "sheet.txt"]) == 2
    assert "no picture's ending" in told(capsys)
    assert main(["train", "classifier", "pictures", "--show-augmentation", "sheet.png"]) == 0
    # Six pictures; a plain view and eight random ones, gaps of 4 px and one of 16.
    assert Image.open("sheet.png").size == (9 * side + 16 + 7 * 4, 6 * side + 5 * 4)


def test_a_contact_sheet_begins_with_the_plain_view():
    import numpy as np

    grey = np.full((8, 8, 3), 100, np.uint8)
    sheet = contact_sheet([grey, grey], lambda pixels, seed: pixels, lambda pixels, seed: pixels // 2, views=2)
    assert sheet.shape == (8 + 4 + 8, 8 + 16 + 8 + 4 + 8, 3)
    assert (sheet[:8, :8] == 100).all() and (sheet[:8, 8:24] == 255).all() and (sheet[12:, -8:] == 50).all()
