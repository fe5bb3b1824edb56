"""The commands `generate` and `translate`: help, misuse in one line, a run from its words to its pictures."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from edge_app.cli import main
from edge_models.classifier.options import ClassifierOptions
from edge_models.cli.fields import parameters
from edge_models.generate import sample
from edge_models.generate.options import GanOptions
from edge_models.networks.backbones import create_backbone


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, top in (("dark", 90), ("light", 250)):
        for number in range(10):
            path = root / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(top - 80, top, (20, 20, 3), dtype=np.uint8)).save(path)
    return root


@pytest.mark.parametrize(
    "words",
    [
        ["translate", "train", "{in}/dark", "{in}/light", "--output", "{out}/r", "--size", "30"],
        ["translate", "train", "{in}/dark", "{in}/none", "--output", "{out}/r"],
        ["translate", "train", "{in}/dark", "{in}/light", "--output", "{in}"],
        ["translate", "train", "{in}/dark", "{in}/light", "--output", "{out}/r", "--resume"],
        ["translate", "apply", "{out}", "{in}", "--into", "{out}/o"],
        ["generate", "train", "{in}", "--output", "{out}/r", "--steps", "0"],
        ["generate", "train", "{in}/dark", "--output", "{out}/r"],
        ["generate", "sample", "{in}", "--output", "{out}/o"],
        ["generate", "sample", "{in}", "--output", "{in}"],
    ],
)
def test_misuse_is_told_in_one_line_and_nothing_is_written(pictures, tmp_path, capsys, words):
    before = sorted(pictures.rglob("*"))
    assert main([word.replace("{in}", str(pictures)).replace("{out}", str(tmp_path)) for word in words]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("edge-app: ") and "\n" not in told
    assert not list(tmp_path.iterdir()) and sorted(pictures.rglob("*")) == before


def test_a_translator_from_its_words_to_its_pictures(pictures, tmp_path, capsys):
    run, out = str(tmp_path / "run"), tmp_path / "out"
    words = ["translate", "train", str(pictures / "dark"), str(pictures / "light"), "--output", run, "--size", "16",
             "--steps", "2", "--batch-size", "2", "--device", "cpu"]  # fmt: skip
    assert main(words) == 0
    assert f"next: edge-app translate apply {run} DIR --into OUT" in capsys.readouterr().out
    assert main(["translate", "apply", run, str(pictures), "--into", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 20 == len(list((out / "pictures" / "dark").iterdir())) * 2 and told["boxes"] == 0


def test_a_generator_from_its_words_to_its_pictures(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sample, "create_backbone", lambda name: create_backbone("small-resnet-8"))
    run, out = str(tmp_path / "run"), tmp_path / "my out"
    words = ["generate", "train", str(pictures), "--output", run, "--size", "16", "--steps", "2", "--batch-size", "4",
             "--device", "cpu"]  # fmt: skip
    assert main(words) == 0
    assert f"next: edge-app generate sample {run} --output DIR" in capsys.readouterr().out
    assert main(["generate", "sample", run, "--output", str(out), "--count", "3"]) == 0
    told = capsys.readouterr().out
    assert f"6 pictures in {out}" in told and "KID " in told and "95 % interval" in told
    assert f"next: edge-app train classifier '{out / 'pictures'}' --output RUN" in told
    assert len(list((out / "pictures").rglob("*.png"))) == 6


def test_no_help_names_a_default_that_is_nothing():
    told = [one.help or "" for kind in (ClassifierOptions, GanOptions) for one in parameters(kind)]
    assert any(one.endswith("(default 0)") for one in told) and not [one for one in told if "(default )" in one]
