"""Training speed, held against the loop that one would write by hand with PyTorch, torchvision and timm.

Hides both loops. Flows in: a folder of pictures. Flows out: medians of interleaved repetitions, and their ratios.
Both sides use the same network, weights, pictures, input size, batch size and threads, and start from files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2  # type: ignore[import-untyped]

from models.augment import AugmentOptions
from models.backbones import Backbone, create_backbone
from models.checks import scan
from models.classifier_options import ClassifierOptions
from models.data import PictureFolder, split_pictures
from models.features import ViewPlan, default_threads, feature_bank
from models.recipe import Workshop, fit_head, fit_tune, hard_targets
from models.training import Progress, Silence, make_scratch

_BATCH: Final = 32
_TOP: Final = 2


def measure(directory: Path, epochs: int, rounds: int, progress: Progress) -> dict[str, float]:
    """Medians over `rounds`; seconds and pictures per second.

    `hand_*`: the plain loop. Its epoch with a frozen base is measured once a round and multiplied by `epochs`: every
    epoch of it does the same work. `ours_frozen_s` contains the one pass that fills the cache.
    """
    torch.set_num_threads(default_threads())
    folder = scan(directory)
    backbone = create_backbone()
    steps: dict[str, Callable[[], Any]] = {
        "hand_extract_s": lambda: _hand_extract(folder, backbone),
        "ours_extract_s": lambda: _ours_extract(folder, backbone),
        "hand_epoch_s": lambda: _hand_epoch(folder, backbone, 0),
        "ours_frozen_s": lambda: _ours_frozen(folder, backbone, epochs),
        "hand_tune_epoch_s": lambda: _hand_epoch(folder, create_backbone(), _TOP),
        "ours_tune_epoch_s": lambda: _ours_tune(folder, create_backbone()),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    progress.stage("measuring", rounds * len(steps))
    for number in range(rounds):
        for position, (name, step) in enumerate(steps.items()):
            taken[name].append(float(step()))
            progress.advance(number * len(steps) + position + 1)
    figures = {name: median(times) for name, times in taken.items()}
    figures["hand_frozen_s"] = epochs * figures["hand_epoch_s"]
    count = float(len(folder.pictures))
    return figures | {
        "pictures": count,
        "epochs": float(epochs),
        "ours_extract_per_s": count / figures["ours_extract_s"],
        "hand_extract_per_s": count / figures["hand_extract_s"],
        "extract_times_faster": figures["hand_extract_s"] / figures["ours_extract_s"],
        "frozen_times_faster": figures["hand_frozen_s"] / figures["ours_frozen_s"],
        "tune_epoch_times_faster": figures["hand_tune_epoch_s"] / figures["ours_tune_epoch_s"],
    }


class _Plain(Dataset[Any]):
    """The data set of every tutorial."""

    def __init__(self, folder: PictureFolder, *, augment: bool) -> None:
        self._pictures = folder.pictures
        tail = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
        first = (
            [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()] if augment else [v2.Resize(256), v2.CenterCrop(224)]
        )
        self._transform = v2.Compose([*first, *tail])

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = self._pictures[index]
        return self._transform(Image.open(picture.path).convert("RGB")), picture.label


def _hand_network(backbone: Backbone) -> nn.Module:
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    network.load_state_dict(backbone.body.state_dict())
    return network.eval()


def _hand_extract(folder: PictureFolder, backbone: Backbone) -> float:
    network = _hand_network(backbone)
    begun = time.perf_counter()
    with torch.inference_mode():
        for images, _ in DataLoader(_Plain(folder, augment=False), _BATCH):
            network(images)
    return time.perf_counter() - begun


def _hand_epoch(folder: PictureFolder, backbone: Backbone, top: int) -> float:
    """One epoch of a head on the base; the last `top` groups learn as well."""
    network = _hand_network(backbone).requires_grad_(False)
    names = ("conv_head", "bn2", "blocks.6")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(bool(top) and name.startswith(names))
    head = nn.Linear(backbone.features, len(folder.classes))
    learning = [p for p in network.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(learning, lr=1e-3)
    begun = time.perf_counter()
    for images, labels in DataLoader(_Plain(folder, augment=top > 0), _BATCH, shuffle=True):
        loss = nn.functional.cross_entropy(head(network(images)), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - begun


def _ours_extract(folder: PictureFolder, backbone: Backbone) -> float:
    with make_scratch() as scratch:
        begun = time.perf_counter()
        _bank(folder, backbone, scratch, 0, 0)
        return time.perf_counter() - begun


def _ours_frozen(folder: PictureFolder, backbone: Backbone, epochs: int) -> float:
    """Features once, then all epochs on them, by the same driver as `edge-app train classifier`."""
    with make_scratch() as scratch:
        begun = time.perf_counter()
        work = _workshop(
            folder, backbone, scratch, ClassifierOptions(folder.root, scratch, epochs=epochs, patience=None)
        )
        fit_head(work, range(len(folder.pictures)), None, "head")
        return time.perf_counter() - begun


def _ours_tune(folder: PictureFolder, backbone: Backbone) -> float:
    """One epoch of the unfrozen layers, when what lies below them is cached; the cache is filled beforehand."""
    with make_scratch() as scratch:
        options = ClassifierOptions(folder.root, scratch, tune_epochs=1, epochs=1, unfreeze=_TOP)
        work = _workshop(folder, backbone, scratch, options)
        head, _ = fit_head(work, range(len(folder.pictures)), None, "head")
        begun = time.perf_counter()
        fit_tune(work, head, range(len(folder.pictures)), None, "tune")
        return time.perf_counter() - begun


def _workshop(folder: PictureFolder, backbone: Backbone, scratch: Path, options: ClassifierOptions) -> Workshop:
    options = replace(options, log="none")
    top = _TOP if options.tune_epochs == 1 else 0
    bank = _bank(folder, backbone, scratch, 0, top)
    split = split_pictures(folder, seed=0)
    return Workshop(options, folder, split, backbone, bank, hard_targets(folder), Silence())


def _bank(folder: PictureFolder, backbone: Backbone, scratch: Path, views: int, top: int) -> Any:
    plan = ViewPlan(views, False, top, AugmentOptions())
    pictures = [(picture.path, picture.sha256) for picture in folder.pictures]
    return feature_bank(backbone, pictures, plan, scratch, Silence())
