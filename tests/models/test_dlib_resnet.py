"""dlib's face network: its file is parsed strictly, and PyTorch computes what dlib computes."""

import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_app.core.errors import ModelError
from edge_models.networks import dlib_resnet
from tests.origins import folder_with

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "data" / "dlib_descriptors.json"
"""What dlib 20.0.1 itself computed on the sample pictures, each resized to 150 x 150 as below."""


def compact(number: int) -> bytes:
    """dlib's own rule, written anew: one control byte that counts, then the bytes from the least significant."""
    digits = []
    while number or not digits:
        digits.append(number & 0xFF)
        number >>= 8
    return bytes([len(digits), *digits])


def tensor(values: np.ndarray, samples: int, channels: int = 1) -> bytes:
    return b"".join(map(compact, (2, samples, channels, 1, 1))) + values.astype("<f4").tobytes()


def written(network: dlib_resnet.DlibResNet, *, last: np.ndarray | None = None) -> bytes:
    """The network as dlib would serialize it, names and settings replaced by filler of the usual length."""
    parts = [b"\x01\x01\x01\rloss_metric_2" + b"\x01\x00" * 150]
    stages = [(network.conv, network.affine)]
    for block in network.blocks:
        assert isinstance(block, dlib_resnet.Block)
        stages += [(block.conv1, block.affine1), (block.conv2, block.affine2)]
    for conv, affine in stages:
        assert conv.bias is not None
        both = np.concatenate([conv.weight.detach().numpy().ravel(), conv.bias.detach().numpy()])
        parts += [tensor(both, both.size), b"\x01\x00" * 45]
        both = np.concatenate([affine.scale.detach().numpy().ravel(), affine.shift.detach().numpy().ravel()])
        parts += [tensor(both, both.size), b"\x01\x00" * 100]
    matrix = network.head.weight.detach().numpy().T if last is None else last
    return b"".join([*parts, tensor(matrix, 256, 128), b"\x01\x00" * 29])


@pytest.fixture(scope="module")
def network() -> dlib_resnet.DlibResNet:
    torch.manual_seed(0)
    net = dlib_resnet.DlibResNet()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, dlib_resnet.Affine):
                module.scale.uniform_(0.5, 1.5)
                module.shift.uniform_(-0.5, 0.5)
    return net.eval()


@pytest.fixture(scope="module")
def content(network: dlib_resnet.DlibResNet) -> bytes:
    return written(network)


def test_every_weight_comes_back_where_it_was(network: dlib_resnet.DlibResNet, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "face.dat").write_bytes(content)
    found = dlib_resnet.load_dlib(tmp_path / "face.dat").state_dict()
    expected = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sum(weight.numel() for weight in expected.values()) == 5_614_592


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent.dat cannot be read"):
        dlib_resnet.load_dlib(tmp_path / "absent.dat")


@pytest.mark.parametrize("keep", [0, 100, 10_000, 300_000, 22_000_000, 22_400_000])
def test_a_file_cut_short_is_refused(content: bytes, tmp_path: Path, keep: int) -> None:
    (tmp_path / "cut.dat").write_bytes(content[:keep])
    with pytest.raises(ModelError, match=r"cut.dat: weight tensor \d+ of \d+ x \d+ numbers is not where it belongs"):
        dlib_resnet.load_dlib(tmp_path / "cut.dat")


def test_other_content_is_refused(network: dlib_resnet.DlibResNet, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.dat"
    path.write_bytes(np.random.default_rng(0).bytes(100_000))
    with pytest.raises(ModelError, match="weight tensor 0"):
        dlib_resnet.load_dlib(path)
    path.write_bytes(content + b"\x00" * 1000)
    with pytest.raises(ModelError, match="1058 bytes follow the last weight tensor"):
        dlib_resnet.load_dlib(path)
    path.write_bytes(written(network, last=np.full((256, 128), np.nan)))
    with pytest.raises(ModelError, match="weight tensor 58 holds numbers that are not finite"):
        dlib_resnet.load_dlib(path)
    # A tensor that the network does not have pushes the next one out of reach.
    path.write_bytes(content[:100] + tensor(np.ones(500), 500) + content[100:])
    with pytest.raises(ModelError, match="weight tensor 0 of 4736 x 1"):
        dlib_resnet.load_dlib(path)


def test_a_halving_block_pads_at_the_bottom_the_right_and_in_the_channels() -> None:
    block = dlib_resnet.Block(2, 3, halves=True)
    with torch.no_grad():
        for weight in block.parameters():
            weight.zero_()
        block.affine2.shift.fill_(1.0)
        # 8 x 8: the convolutions leave 3 x 3 of ones, the shortcut is 4 x 4 averages in two channels.
        out = block(torch.full((1, 2, 8, 8), 5.0))[0]
    expected = torch.zeros(3, 4, 4)
    expected[:2] = 5.0
    expected[:, :3, :3] += 1.0
    assert torch.equal(out, expected)


def test_folding_keeps_the_function_and_leaves_convolutions_alone(
    network: dlib_resnet.DlibResNet, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "face.dat").write_bytes(content)
    images = torch.randn(2, 3, 150, 150)
    made = dlib_resnet.folded(dlib_resnet.load_dlib(tmp_path / "face.dat"))
    with torch.inference_mode():
        wanted, found = network(images), made(images)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert not [module for module in made.modules() if isinstance(module, dlib_resnet.Affine)]
    assert sum(weight.numel() for weight in made.parameters()) == 5_614_592 - 2 * sum(
        conv.out_channels for conv in made.modules() if isinstance(conv, torch.nn.Conv2d)
    )


def test_shapes_and_batches(network: dlib_resnet.DlibResNet) -> None:
    images = torch.randn(3, 3, 150, 150)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert together.shape == (3, dlib_resnet.EMBEDDING_SIZE)
    assert torch.allclose(together, alone, atol=1e-5)


def published_file() -> Path:
    """The real weights: where EDGE_APP_DLIB_DAT points, installed, or brought by `tests.origins`."""
    name = "dlib_face_recognition_resnet_model_v1.dat"
    spec = importlib.util.find_spec("face_recognition_models")
    installed = Path(spec.origin).parent / "models" / name if spec and spec.origin else None
    path = Path(os.environ["EDGE_APP_DLIB_DAT"]) if "EDGE_APP_DLIB_DAT" in os.environ else installed
    return path or folder_with(name) / name


def sample_crop(name: str) -> np.ndarray:
    """The middle square of a sample picture, 150 x 150 RGB: any pixels will do to compare two networks."""
    picture = cv2.imread(str(REPOSITORY / "edge_app" / "media" / "sample" / name))[..., ::-1]
    side = min(picture.shape[:2])
    top, left = ((extent - side) // 2 for extent in picture.shape[:2])
    return np.ascontiguousarray(cv2.resize(picture[top : top + side, left : left + side], (150, 150)))


def test_descriptors_are_those_of_dlib() -> None:
    path = published_file()
    golden = json.loads(GOLDEN.read_text())
    crops = np.stack([sample_crop(name) for name in golden]).astype(np.float32)
    batch = (crops - np.array(dlib_resnet.MEAN, np.float32)) / np.array(dlib_resnet.STD, np.float32)
    with torch.inference_mode():
        found = dlib_resnet.load_dlib(path)(torch.from_numpy(batch.transpose(0, 3, 1, 2))).numpy()
    assert len(golden) >= 5
    assert np.abs(found - np.array(list(golden.values()))).max() < 1e-5
