"""Pictures of 28 and 32 pixels: seen, enlarged to a size that suits them, learned from scratch, exported and served."""

import os

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_app.core.errors import UsageError
from edge_models.classifier.network import load_classifier
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.run import train_classifier
from edge_models.classifier.start import settled, suitable_size
from edge_models.data.checks import scan
from edge_models.fitting.progress import Silence
from edge_models.networks.backbones import check_name, create_backbone


def paint(path, bar, seed, side=28):
    """A light bar on noise, upright or lying."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (side, side), dtype=np.uint8)
    at = int(rng.integers(6, side - 10))
    where = (slice(3, side - 3), slice(at, at + 4)) if bar == "upright" else (slice(at, at + 4), slice(3, side - 3))
    pixels[where] = rng.integers(170, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    root = tmp_path_factory.mktemp("bars")
    for number in range(20):
        paint(root / "lying" / f"{number}.png", "lying", number)
        paint(root / "upright" / f"{number}.png", "upright", 100 + number)
    return root


def test_pictures_of_28_px_are_kept_and_enlarged_five_times(bars):
    folder = scan(bars)
    assert len(folder.pictures) == 40 and not [f for f in folder.findings if f.kind == "small picture"]
    assert suitable_size(folder) == 128
    options = ClassifierOptions(bars, bars)
    assert settled(options, folder).size == 128
    assert settled(ClassifierOptions(bars, bars, size=64), folder).size == 64
    scratch = settled(ClassifierOptions(bars, bars, from_scratch=True, depth=14), folder)
    assert (scratch.backbone, scratch.size) == ("small-resnet-14", None)


def test_ordinary_pictures_keep_the_network_s_own_size(tmp_path):
    for number in range(4):
        for name in ("lying", "upright"):
            paint(tmp_path / name / f"{number}.png", name, number + 50 * (name == "lying"), side=60)
    assert suitable_size(scan(tmp_path)) is None


def test_a_network_takes_another_size_or_says_that_it_cannot():
    lite = create_backbone(pretrained=False, size=64)
    assert (lite.input.width_px, lite.input.height_px) == (64, 64)
    assert lite(torch.zeros(1, 3, 64, 64)).shape == (1, lite.features)
    with pytest.raises(UsageError, match="cannot take pictures of 64 px"):
        create_backbone("timm:vit_tiny_patch16_224", pretrained=False, size=64)


def test_the_small_resnet_has_the_layers_of_its_name_and_learns_its_norms():
    for depth in (8, 14):
        net = create_backbone(f"small-resnet-{depth}", pretrained=False)
        convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(convolutions) == depth - 1  # and the head
    assert net.sequential and net.train().body[0][2].training
    assert not net.eval().body[0][2].training
    with pytest.raises(UsageError, match="small-resnet-8, small-resnet-14"):
        check_name("small-resnet-9")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"from_scratch": True, "depth": 8}, {"size": 64, "backbone": "efficientnet-lite0"}]
)
def test_bars_are_learned_exported_and_served_at_their_size(bars, tmp_path, capsys, monkeypatch, changes):
    from edge_app.cli import main
    from edge_models.classifier import scratch

    monkeypatch.setattr(scratch, "LEAST_STEPS", 80)
    options = ClassifierOptions(
        bars, tmp_path / "run", epochs=8, unfreeze=0, views=0, device="cpu", search=0, augmentation=0.3, mirror=True,
        log="none", keep_out=True, **changes,
    )  # fmt: skip
    result = train_classifier(options, Silence())
    assert result.report["accuracy"]["value"] >= 0.85
    model, checkpoint = load_classifier(result.checkpoint)
    side = changes.get("size", 32)
    assert model.backbone.input.width_px == checkpoint.input.width_px == side
    if "from_scratch" in changes:  # norms that never learned were once the reason that nothing did
        assert float(model.backbone.body[0][2].running_mean.abs().min()) > 0
    assert main(["export", str(result.checkpoint), "-o", str(tmp_path / "bars.onnx")]) == 0
    home = ["--home", str(tmp_path / "home")]
    assert main(["models", "add", str(tmp_path / "bars.onnx"), *home]) == 0
    capsys.readouterr()
    assert main(["recognize", str(bars / "upright" / "3.png"), "--model", "bars", *home]) == 0
    assert "upright" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_told_by_a_head_on_a_network_that_has_learned_nothing(bars, tmp_path, monkeypatch):
    """--from-scratch begins with random weights: their curve, their doubts and their groups are not the network's."""
    from edge_models.classifier import scratch

    monkeypatch.setattr(scratch, "LEAST_STEPS", 4)
    monkeypatch.setattr(scratch, "LEAST_EPOCHS", 1)
    rows = [f"{path.relative_to(bars).as_posix()},{'ab'[at % 2]}" for at, path in enumerate(sorted(bars.glob("*/*")))]
    (tmp_path / "groups.csv").write_text("\n".join(["file,camera", *rows]))
    said, notes = Silence(), []
    said.note = notes.append
    result = train_classifier(
        ClassifierOptions(bars, tmp_path / "run", from_scratch=True, tune_epochs=1, device="cpu", search=0, log="none",
                          keep_out=True, groups=tmp_path / "groups.csv"), said,
    )  # fmt: skip
    report = result.report
    assert report["growth"]["sentence"].startswith("No forecast") and not report["suspects_found"]
    assert not report["groups"] and [note for note in notes if note.startswith("no results per group")]


@pytest.mark.slow
def test_what_lies_at_the_edge_of_a_wide_picture_is_learned_exported_and_served(bars, tmp_path, capsys):
    from edge_app.cli import main

    rng = np.random.default_rng(7)
    for path in sorted(bars.glob("*/*.png")):
        wide = rng.integers(0, 90, (56, 280), dtype=np.uint8)
        wide[:, :56] = np.asarray(Image.open(path).resize((56, 56)))  # the middle square begins at 112
        (tmp_path / "wide" / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(wide).save(tmp_path / "wide" / path.parent.name / path.name)
    right = {}
    for name in ("efficientnet-lite0@96-whole", "efficientnet-lite0@96"):
        options = ClassifierOptions(
            tmp_path / "wide", tmp_path / name, backbone=name, unfreeze=0, views=0, mirror=False, device="cpu",
            search=0, log="none", keep_out=True,
        )  # fmt: skip
        result = train_classifier(options, Silence())
        right[name] = result.report["accuracy"]["value"]
        if name.endswith("whole"):
            model, _ = load_classifier(result.checkpoint)
            assert model.backbone.crop == "whole" and model.backbone.input.width_px == 96
            assert main(["export", str(result.checkpoint), "-o", str(tmp_path / "wide.onnx")]) == 0
    assert right["efficientnet-lite0@96-whole"] >= right["efficientnet-lite0@96"] + 0.2
    home = ["--home", str(tmp_path / "home")]
    assert main(["models", "add", str(tmp_path / "wide.onnx"), *home]) == 0
    capsys.readouterr()
    for kind in ("upright", "lying"):
        assert main(["recognize", str(tmp_path / "wide" / kind / "3.png"), "--model", "wide", *home]) == 0
        assert kind in capsys.readouterr().out
