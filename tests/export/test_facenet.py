"""facenet-pytorch's network, all the way: a weight file like the published ones to a name under a face."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch

from edge_app.cli import main
from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec
from edge_app.core.types import Pixels
from edge_app.inference import onnx_model
from edge_app.inference.geometry import resize, to_input
from edge_app.media import sample
from edge_app.media.pictures import encode_png, read_picture
from edge_app.system.data_folder import Home
from edge_export.check.samples import sample_crops
from edge_export.graph import torch_export

facenet_pytorch = pytest.importorskip("facenet_pytorch", reason="needs the extra export")

PUBLISHED = "20180402-114759-vggface2.pt"
CLASSES = 8631
"""People of VGGFace2: the published file carries their layer too."""
WHO = np.array([0, 1, 2, 2, 2])
"""Of the sample's pictures by name: astronaut, Biden, Obama three times."""


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def views(pixels: Pixels) -> list[Pixels]:
    """Eight of a picture: mirrored, darker, brighter."""
    dimmed = [np.clip(pixels * gain, 0, 255).astype(np.uint8) for gain in (1.0, 0.9, 1.1, 0.8)]
    return [np.ascontiguousarray(one[:, ::step]) for one in dimmed for step in (1, -1)]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five to measure thresholds on: the sample's three, and two made of them by squeezing."""
    folder, samples = tmp_path_factory.mktemp("people"), Path(sample.__file__).parent
    for name, squeeze in (("astronaut", 1), ("biden_1", 1), ("obama_1", 1), ("biden_1", 0.7), ("obama_1", 0.7)):
        pixels = read_picture(samples / f"{name}.jpg")
        pixels = resize(pixels, int(pixels.shape[1] * squeeze), pixels.shape[0])
        for number, view in enumerate(views(pixels)):
            path = folder / f"{name}-{squeeze}" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_png(view))
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the shape and in the format of the published one, whose last layer knows the sample's faces.

    What lies below is random: its batch norms are set by those faces, and one least-squares step does the rest.
    """
    torch.manual_seed(0)
    net = facenet_pytorch.InceptionResnetV1(pretrained=None, classify=True, num_classes=CLASSES)
    spec = InputSpec("input", 160, 160, "RGB", (127.5,) * 3, (128.0,) * 3)
    faces = torch.from_numpy(to_input(sample_crops(spec, "arcface-160"), spec))
    held: list[torch.Tensor] = []
    hook = net.avgpool_1a.register_forward_hook(lambda _, inputs, output: held.append(output.flatten(1)))
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        net.train()(faces[::2])
        net.eval()(faces)
        hook.remove()
        who = WHO[np.arange(len(faces)) % len(WHO)]  # the pictures in turn, then the same mirrored, darker, brighter
        wanted = torch.nn.functional.one_hot(torch.from_numpy(who), 512).float() * 4
        net.last_linear.weight.copy_(torch.linalg.lstsq(held[-1], wanted, driver="gelsd").solution.T)
        net.last_bn.load_state_dict(torch.nn.BatchNorm1d(512).state_dict())
    path = tmp_path_factory.mktemp("weights") / PUBLISHED
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.slow
def test_from_the_weight_file_to_a_name(
    published: Path,
    people: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_long(*args: object) -> NoReturn:
        raise ModelError("22 s for this network; the other exporter takes 2, and other tests try both")

    monkeypatch.setattr(torch_export, "_dynamo", too_long)
    file, home = tmp_path / "facenet.onnx", Home(tmp_path / "home")
    assert main(["export", "facenet", "--weights", str(published), "--faces", str(people), "-o", str(file)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"agrees with torch on (3[2-9]|40) pictures", told)
    assert "NO COMMERCIAL USE; licence: MIT code; weights trained on research-only pictures" in told
    card = onnx_model.load(file, threads=1).card
    assert (card.id, card.task, card.crop, card.embedding_size) == ("facenet", "face-embedding", "arcface-160", 512)
    assert (card.commercial_use, card.origin) == (False, "facenet-pytorch, vggface2")
    assert (card.input.mean, card.input.std) == ((127.5,) * 3, (128.0,) * 3)

    at = ["--home", str(home.path)]
    assert main(["models", "add", str(file), *at]) == 0
    assert "NO COMMERCIAL USE" in capsys.readouterr().err
    assert main(["models", "use", "facenet", *at]) == 0
    assert "NO COMMERCIAL USE" in capsys.readouterr().err
    assert main(["models", "show", "facenet", *at]) == 0
    assert "NO COMMERCIAL USE" in capsys.readouterr().out

    known = str(sample.people()[sample.OBAMA][0])  # one: to this network, fitted to them, both are the same picture
    (probe,) = sample.probes()[sample.OBAMA]
    assert main(["enroll", "Barack Obama", known, *at]) == 0
    capsys.readouterr()
    assert main(["recognize", str(probe), str(sample.stranger()), "--json", *at]) == 0
    frames = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[face["name"] for face in frame["faces"]] for frame in frames] == [["Barack Obama"], [None]]


def test_offline_it_says_which_file_belongs_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert main(["export", "facenet", "--weights", "casia", "-o", str(tmp_path / "a.onnx")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    file = "20180408-102900-casia-webface.pt"
    assert f"https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/{file}" in line
    assert str(tmp_path / "torch" / "checkpoints" / file) in line
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.slow
def test_a_folder_above_the_people_is_told_apart_from_one_person(
    published: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "images").symlink_to(people)
    command = ["export", "facenet", "--weights", str(published), "--faces", str(tmp_path / "above")]
    assert main([*command, "-o", str(tmp_path / "a.onnx")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edge-app:")]
    assert "holds one sub-folder, images" in line and f"say {tmp_path / 'above' / 'images'}" in line
