"""The classifier's head, the whole network, and the examples that either learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from edge_app.core.errors import ModelError, UsageError
from edge_app.inference.geometry import prepare
from edge_app.media.pictures import read_picture
from edge_models.classifier.losses import CROSS_ENTROPY_SHARE, LossName, cosine_loss, cross_entropy
from edge_models.classifier.options import LOSSES
from edge_models.data.augment import View
from edge_models.fitting.checkpoint import Checkpoint, load
from edge_models.fitting.fit import BatchKey
from edge_models.fitting.seeds import seed_of
from edge_models.networks.backbone import Backbone, normalize
from edge_models.networks.backbones import create_backbone

_SHARPNESS: Final = 10.0
"""What cosines are multiplied by to become logits; the temperature corrects it afterwards."""

_NO_LENGTH: Final = 1e-12
_NEARLY_ZERO: Final = 1e-4
"""Of a cosine head's weights at the start: its direction is then the data's within a few steps. From torch's usual
weights, on discs and squares, 3 seeds, where cross-entropy had 100 %: 67 % (beside cross-entropy 63 %) after 8 epochs
of one batch, 100 % (75 %) after 40; from these 100 % throughout."""


class Head(nn.Module):
    """Features (N, D) to logits (N, C).

    Cross-entropy: a matrix. Cosine: the matrix's output made unit length. Cosine + cross-entropy: a second matrix on
    top of that, as in Barz and Denzler 2020 (whose code has a ReLU and a batch-norm between the two).
    """

    scale: Tensor

    def __init__(self, features: int, classes: int, loss: LossName = "cross-entropy", dropout: float = 0.0) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise UsageError(f"there is no loss called {loss!r}", expected=", ".join(LOSSES))
        self.loss_name = loss
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, classes)
        self.top = nn.Linear(classes, classes) if loss == "cosine+cross-entropy" else None
        # Which class wins early is the data's doing, not the seed's. No weights at all would have no direction.
        if loss == "cross-entropy":
            nn.init.zeros_(self.linear.weight)
        else:
            nn.init.normal_(self.linear.weight, std=_NEARLY_ZERO)
        nn.init.zeros_(self.linear.bias)
        if self.top is not None:
            # It begins as the cosine head and learns from there.
            nn.init.eye_(self.top.weight)
            nn.init.zeros_(self.top.bias)
            self.top.weight.data.mul_(_SHARPNESS)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, C)."""
        return self._logits(self._outputs(features))

    def loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """Mean loss against soft targets (N, C)."""
        outputs = self._outputs(features)
        if self.loss_name == "cross-entropy":
            return cross_entropy(outputs, targets)
        loss = cosine_loss(outputs, targets)
        if self.top is not None:
            loss = loss + CROSS_ENTROPY_SHARE * cross_entropy(self._logits(outputs), targets)
        return loss

    @property
    def described(self) -> dict[str, Any]:
        """What `Head(**described)` needs to be built again; `features` and `classes` are known elsewhere."""
        return {"loss": self.loss_name, "dropout": self.dropout.p}

    def _outputs(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.dropout(features) / self.scale)
        return outputs

    def at_places(self, places: Tensor, whole: Tensor) -> Tensor:
        """What each place adds: features of places (N, P, D) and of whole pictures (N, D) to logits (N, P, C).

        Where features are averages over places, logits are. A cosine divides by the length of the whole picture's
        outputs: by its own length every place, however empty, would be as sure as any other.
        """
        outputs = self._outputs(places)
        if self.loss_name == "cross-entropy":
            return outputs
        unit = outputs / self._outputs(whole).norm(dim=1).clamp_min(_NO_LENGTH)[:, None, None]
        return _SHARPNESS * unit if self.top is None else cast(Tensor, self.top(unit))

    def _logits(self, outputs: Tensor) -> Tensor:
        if self.loss_name == "cross-entropy":
            return outputs
        unit = functional.normalize(outputs, dim=1)
        return _SHARPNESS * unit if self.top is None else cast(Tensor, self.top(unit))


class TransferClassifier(nn.Module):
    """A backbone and a head: normalized pictures (N, 3, H, W) to logits (N, C)."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, C)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def logits_and_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and class activation maps (N, C, h, w): what each place adds to the logits.

        Zhou et al. 2016 (arXiv 1512.04150). Exact for networks that average their maps and then are linear, a good
        picture for others. Raises UsageError for a network whose last maps are not (N, C, h, w).
        """
        maps = self.backbone.maps(images)
        if maps.ndim != 4:
            raise UsageError(f"{self.backbone.name} has no feature maps", expected="a convolutional network")
        _, channels, height, width = maps.shape
        places = self.backbone.pool(maps.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1))
        whole = self.backbone.pool(maps)
        at_places = self.head.at_places(places.reshape(-1, height * width, places.shape[1]), whole)
        logits: Tensor = self.head(whole)
        return logits, at_places.permute(0, 2, 1).reshape(-1, logits.shape[1], height, width)


class UpperPart(nn.Module):
    """The unfrozen layers: takes what lies below them (N, c, h, w), gives features (N, D)."""

    def __init__(self, backbone: Backbone, top: int) -> None:
        super().__init__()
        self.backbone = backbone
        self._top = top

    def forward(self, cut: Tensor) -> Tensor:
        """Features (N, D)."""
        return self.backbone.pool(self.backbone.upper(cut, self._top))


class CachedViews(Dataset[Any]):
    """Batches out of a bank: of each picture a view, another one each epoch, or the plain one for judging."""

    def __init__(
        self, rows: Tensor, indices: Sequence[int], targets: Tensor, *, seed: int | None, all_views: bool = False
    ) -> None:
        """`rows` (V, N, ...), `targets` (len(indices), C); `seed` None gives the plain view.

        `all_views` makes every view an example of its own: position p is view p // n of picture p % n.
        """
        self._rows, self._targets, self._seed, self._all = rows, targets, seed, all_views
        self._indices = torch.as_tensor(list(indices))

    def __len__(self) -> int:
        """Examples."""
        return len(self._indices) * (len(self._rows) if self._all else 1)

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """Inputs (n, ...) float32 and targets (n, C)."""
        epoch, positions = key
        at = torch.as_tensor(positions)
        count = len(self._indices)
        if self._all:
            views, at = at // count, at % count
        elif self._seed is None:
            views = torch.zeros(len(at), dtype=torch.long)
        else:
            draw = torch.Generator().manual_seed(seed_of(self._seed, epoch, positions[0]))
            views = torch.randint(0, len(self._rows), (len(at),), generator=draw)
        return self._rows[views, self._indices[at]].float(), self._targets[at]


class PictureViews(Dataset[Any]):
    """Batches of pictures read anew each epoch, for networks or folders too large to cache."""

    def __init__(self, paths: Sequence[Path], targets: Tensor, backbone: Backbone, view: View, seed: int) -> None:
        """`view` is called with a seed of run, epoch and picture; `edge_app.inference.geometry.prepare` in disguise
        for judging."""
        self._paths, self._targets, self._view, self._seed = list(paths), targets, view, seed
        self._spec = backbone.input

    def __len__(self) -> int:
        """Pictures."""
        return len(self._paths)

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        """Normalized inputs (n, 3, H, W) and targets (n, C)."""
        epoch, positions = key
        seen = [self._view(read_picture(self._paths[p]), seed_of(self._seed, epoch, p)) for p in positions]
        images = torch.stack([torch.from_numpy(pixels.copy()) for pixels in seen]).permute(0, 3, 1, 2)
        return normalize(images, self._spec), self._targets[torch.as_tensor(positions)]


def predict(
    model: TransferClassifier, paths: Sequence[Path], device: str = "cpu", batch: int = 16
) -> NDArray[np.float64]:
    """(N, C) logits of pictures, read and prepared as serving does."""
    model = model.to(device).eval()
    rows: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(paths), batch):
            seen = [
                prepare(read_picture(p), model.backbone.input, model.backbone.crop)
                for p in paths[start : start + batch]
            ]
            images = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2).to(device)
            rows.append(model(normalize(images, model.backbone.input)).float().cpu())
    model.to("cpu")
    return torch.cat(rows).double().numpy()


def feature_scale(features: Tensor) -> float:
    """Root mean square of features (N, D): dividing by it makes one penalty fit every backbone."""
    return max(float(features.square().mean().sqrt()), 1e-6)


def load_classifier(path: Path, device: Literal["cpu", "cuda", "mps"] = "cpu") -> tuple[TransferClassifier, Checkpoint]:
    """Read a classifier back, in evaluation mode.

    Raises ModelError when the file is damaged, of another version, not a classifier, or does not fit its own header.
    """
    checkpoint = load(path)
    if checkpoint.kind != "classifier":
        raise ModelError(f"{path} holds an {checkpoint.kind}", expected="a classifier")
    model = build_classifier(checkpoint.base.name, len(checkpoint.classes), checkpoint.head, checkpoint.input.width_px)
    model.backbone.input, model.backbone.crop = checkpoint.input, checkpoint.crop
    try:
        model.load_state_dict(dict(checkpoint.tensors))
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit its own header ({str(error).splitlines()[0]})") from error
    return model.to(device).eval(), checkpoint


def build_classifier(name: str, classes: int, head: Mapping[str, Any], size: int | None = None) -> TransferClassifier:
    """A classifier with random weights: what a checkpoint is loaded into."""
    backbone = create_backbone(name, pretrained=False, size=size)
    return TransferClassifier(backbone, Head(backbone.features, classes, **head))
