"""Networks that embed pictures, and the crops they are trained on, detected and aligned as the runtime does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec
from edge_app.core.types import Float32s, Pixels
from edge_app.inference.detector import Detector
from edge_app.inference.geometry import CROPS, align, prepare, to_input
from edge_app.media.pictures import read_picture
from edge_app.model_store import catalogue
from edge_app.model_store.open_detector import open_detector
from edge_models.data.folder import PictureFolder
from edge_models.fitting.checkpoint import Checkpoint
from edge_models.fitting.fit import Progress
from edge_models.networks import sface
from edge_models.networks.backbone import Backbone, Source, normalize
from edge_models.networks.backbones import NAMES, check_name, create_backbone

SFACE: Final = "sface"
_SFACE_ORIGIN_SHA256: Final = "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
_BATCH: Final = 32
_SAME_COSINE: Final = 0.9999


class SFaceBackbone(Backbone):
    """SFace cut into its 27 stages; its 128 features are the embedding before it is made unit length."""

    def __init__(self, body: sface.SFace, source: Source) -> None:
        size = sface.INPUT_PX
        spec = InputSpec("input", size, size, "RGB", (sface.MEAN,) * 3, (1.0, 1.0, 1.0))
        super().__init__(SFACE, body, spec, "arcface-112", source)
        self.features = sface.EMBEDDING_SIZE
        self._stages, self._head = body.stages, body.head

    def layers(self) -> tuple[nn.Module, ...]:
        """The stages, from the input to the last feature maps."""
        return tuple(self._stages)

    def pool(self, maps: Tensor) -> Tensor:
        """Return (N, 128) from (N, 1024, 7, 7) maps."""
        features: Tensor = self._head(maps.flatten(1))
        return features


def create_embedder(name: str = SFACE, *, weights: Path | None = None, pretrained: bool = True) -> Backbone:
    """Build a base by name, in eval mode: "sface", or any name of `edge_models.networks.backbones.create_backbone`.

    SFace's weights are read from the ONNX file that edge-app ships, or from `weights`: that file or OpenCV
    Zoo's own. Raises ModelError when weights are absent or of another network, UsageError for an unknown name.
    """
    # Channels last: SFace took 82 ms a face instead of 127 (best of 3, one after the other, both cores shared).
    return _create(name, weights, pretrained).eval().to(memory_format=torch.channels_last)


def check_base(name: str) -> None:
    """Raise UsageError for a name that `create_embedder` does not know; nothing is built, read or fetched."""
    check_name(name, (SFACE, *NAMES))


def _create(name: str, weights: Path | None, pretrained: bool) -> Backbone:
    if name != SFACE:
        check_base(name)
        return create_backbone(name, weights=weights, pretrained=pretrained)
    if not pretrained:
        return SFaceBackbone(sface.SFace(), Source(sface.LICENCE, True, "random weights", ""))
    path = weights or catalogue.build(None, SFACE, "fp32").path
    source = Source(sface.LICENCE, True, "OpenCV Zoo, face_recognition_sface_2021dec", _SFACE_ORIGIN_SHA256)
    return SFaceBackbone(sface.load(path), source)


def load_embedder(checkpoint: Checkpoint) -> Backbone:
    """Rebuild what `edge_models.siamese.run` trained, in eval mode. Raises ModelError when the weights do not fit."""
    if checkpoint.kind != "embedder":
        raise ModelError(f"the checkpoint holds a {checkpoint.kind}", expected="an embedder")
    network = create_embedder(checkpoint.base.name, pretrained=False)
    try:
        network.load_state_dict(dict(checkpoint.tensors))
    except RuntimeError as error:
        raise ModelError(
            f"the checkpoint's weights do not fit {checkpoint.base.name}: {str(error).splitlines()[0]}",
            expected="a checkpoint of edge-app train siamese",
        ) from error
    return network.eval()


@torch.no_grad()
def embed(network: Backbone, crops: Pixels, device: str | torch.device = "cpu") -> Float32s:
    """Return (N, D) float32 embeddings, not normalized, of (N, H, W, 3) uint8 RGB crops of the input's size."""
    rows = [network(batch).cpu().numpy() for batch in _inputs(network, crops, device)]
    return np.concatenate(rows) if rows else np.empty((0, network.features), np.float32)


def _inputs(network: Backbone, crops: Pixels, device: str | torch.device) -> Iterator[Tensor]:
    """Give the crops as normalized batches (n, 3, H, W)."""
    for start in range(0, len(crops), _BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(crops[start : start + _BATCH])).to(device)
        yield normalize(batch.permute(0, 3, 1, 2), network.input)


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """What a network sees of a folder."""

    images: Pixels
    """(N, H, W, 3) uint8 RGB, of the network's input size."""
    labels: NDArray[np.intp]
    """(N,) index into the folder's classes."""
    without_face: tuple[str, ...]
    """Names of pictures that were left out because no face was found."""


def crops_of(folder: PictureFolder, network: Backbone, *, aligned: bool, detector: str, progress: Progress) -> Crops:
    """Return every picture as the network takes it.

    A base for faces gets the largest face that the runtime's detector finds, aligned as the runtime aligns;
    with `aligned`, and for things, the picture itself is cut and scaled. Pictures without a face are left out.
    """
    find = None if aligned or network.crop not in CROPS else open_detector(detector)
    images: list[Pixels] = []
    kept: list[int] = []
    progress.stage("crops", len(folder.pictures))
    for number, picture in enumerate(folder.pictures):
        pixels = read_picture(picture.path)
        crop = prepare(pixels, network.input, network.crop) if find is None else _face(find, pixels, network.crop)
        if crop is not None:
            images.append(crop)
            kept.append(number)
        progress.advance(number + 1)
    lost = sorted(set(range(len(folder.pictures))) - set(kept))
    size = (network.input.height_px or 0, network.input.width_px or 0, 3)
    stacked = np.stack(images) if images else np.empty((0, *size), np.uint8)
    return Crops(stacked, folder.labels[kept], tuple(folder.pictures[number].name for number in lost))


def _face(detector: Detector, pixels: Pixels, crop: str) -> Pixels | None:
    faces = detector.detect(pixels)
    return align(pixels, faces[0].landmarks, crop) if faces else None


def check_served_alike(network: Backbone, crops: Pixels) -> None:
    """Raise ModelError unless SFace in torch and the shipped file in the runtime agree on these crops."""
    # The graph itself: the runtime's embedder clears dark and noisy crops first.
    graph = catalogue.open_shipped(SFACE)
    served = graph.run(to_input(crops, graph.card.input))[0].astype(np.float64)
    trained = embed(network, crops).astype(np.float64)
    cosines = (served * trained).sum(axis=1) / np.linalg.norm(served, axis=1) / np.linalg.norm(trained, axis=1)
    if len(cosines) and cosines.min() < _SAME_COSINE:
        raise ModelError(
            f"SFace in torch and in ONNX Runtime agree only to cosine {cosines.min():.5f}",
            expected=f"at least {_SAME_COSINE}",
            remedy="reinstall edge-app, or name the right file with --weights",
        )
