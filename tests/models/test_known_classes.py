"""Chances of the classes that a network knows, beside its features."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

import timm
import torch

from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.media.pictures import write_picture
from edge_models.fitting.progress import Silence
from edge_models.networks.backbones import LITES, create_backbone
from edge_models.networks.feature_cache import FeatureCache, ViewPlan
from edge_models.networks.folded import folded
from edge_models.networks.known_classes import KnowingBackbone
from edge_models.networks.weights import read_state


def paint(path, kind, seed, side=72):
    """Stripes that stand or lie."""
    rng = np.random.default_rng(seed)
    wave = 127 + 90 * np.sin(np.arange(side) * 2 * np.pi / rng.uniform(8, 14))
    stripes = np.tile(wave, (side, 1)) + rng.normal(0, 12, (side, side))
    write_picture(
        path, np.repeat((stripes.T if kind == "lying" else stripes).clip(0, 255)[..., None], 3, 2).astype(np.uint8)
    )


NAME = "efficientnet-lite0:classes"


@pytest.fixture(scope="module")
def knowing():
    backbone = create_backbone(f"{NAME}@64").eval()
    assert isinstance(backbone, KnowingBackbone)
    return backbone


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_chances_are_those_of_the_classifier_in_the_package(knowing, images):
    from edge_models.networks.backbones import _lite_file

    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = read_state(_lite_file(LITES["efficientnet-lite0"]))
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    with torch.inference_mode():
        wanted, seen = whole(images).softmax(1), knowing(images)
        plain = create_backbone("efficientnet-lite0@64").eval()(images)
    assert seen.shape == (3, 2280) and knowing.features == 2280
    assert torch.allclose(seen[:, :1280], plain, atol=1e-4)
    assert torch.allclose((seen[:, 1280:] / 12) ** 2, wanted, atol=1e-5)


def test_pictures_go_through_the_network_once_for_both(knowing, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [(rng.integers(0, 255, (80, 90, 3), np.uint8), f"{n:064x}") for n in range(3)]
    cache, plan = FeatureCache(tmp_path, Silence()), ViewPlan(1)
    plain = cache.bank(create_backbone("efficientnet-lite0@64"), pictures, plan).features
    both = cache.bank(knowing, pictures, plan).features
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(both[..., :1280], plain) and torch.equal(both, knowing.beside(plain))


def test_layers_are_fine_tuned_below_chances_that_stay_as_they_are(knowing, images):
    network = folded(knowing)
    before = network.matrix.clone()
    learning = [p for group in network.unfreeze(len(network.groups)) for p in group]
    with torch.no_grad():
        network.bias[0] += 500.0  # all the other classes have no chance left
    network(images).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in learning if p.grad is not None)
    assert not network.matrix.requires_grad and torch.equal(network.matrix, before)
    assert {id(p) for p in network.parameters()} == {id(p) for p in learning}


def test_a_file_of_weights_need_not_know_the_classes(tmp_path):
    with pytest.raises(UsageError, match="one weight file for efficientnet-lite0:classes"):
        create_backbone(NAME, weights=tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    ("words", "name", "told"),
    [
        (["classifier", "--from-scratch"], NAME, "without :classes"),
        (["pretrain"], NAME, "without :classes"),
        (["pretrain"], "efficientnet-lite9", "there is no backbone called"),
    ],
)
def test_where_every_layer_learns_anew_no_classes_are_known(words, name, told, tmp_path, capsys):
    for kind in ("lying", "standing"):
        (tmp_path / "stripes" / kind).mkdir(parents=True)
        for number in range(12):
            paint(tmp_path / "stripes" / kind / f"{number}.png", kind, number + 100 * (kind == "lying"))
    command, *flags = words
    run = tmp_path / "run"
    said = ["train", command, tmp_path / "stripes", "--output", run, "--backbone", name, *flags]
    assert main([*map(str, said)]) == 2 and not run.exists()
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("unfreeze", [0, 2])
def test_a_network_that_knows_classes_is_exported_installed_and_served(unfreeze, tmp_path, capsys):
    folder, run, home = tmp_path / "stripes", tmp_path / "run", tmp_path / "home"
    for kind in ("lying", "standing"):
        (folder / kind).mkdir(parents=True)
        for number in range(12):
            paint(folder / kind / f"{number}.png", kind, number + 100 * (kind == "lying"))

    def say(*argv):
        code = main([*map(str, argv)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    say("train", "classifier", folder, "--output", run, "--backbone", f"{NAME}@64", "--search", 0,
        "--unfreeze", unfreeze, "--tune-epochs", 1, "--device", "cpu", "--json")  # fmt: skip
    [best] = run.glob("best-*.safetensors")
    say("export", best, "-o", tmp_path / "stripes.onnx")
    say("models", "add", tmp_path / "stripes.onnx", "--home", home)
    paint(tmp_path / "fresh.png", "lying", 999)
    answer = json.loads(say("recognize", tmp_path / "fresh.png", "--model", "stripes", "--json", "--home", home))
    assert answer["classes"][0]["label"] == "lying"
