"""Times training beside the loop that one would write by hand with PyTorch, torchvision and timm.

Both sides begin at the files and use the same pictures, network, weights, input size, learning layers, batch size and
threads. The hand-written loop reads pictures with as many worker processes as make it fastest, and has the settings of
this process (threads that sleep while they wait, large memory pages), which it would lack on its own.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2  # type: ignore[import-untyped]

from edge_app.core.errors import UsageError
from edge_models.classifier.material import compute_bank
from edge_models.classifier.network import Head
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.stages import Workshop, fit_head, fit_tune, hard_targets
from edge_models.data.checks import scan
from edge_models.data.folder import PictureFolder, split_pictures
from edge_models.fitting.fit import Progress, Silence, make_scratch
from edge_models.networks.backbone import Backbone
from edge_models.networks.backbones import DEFAULT, create_backbone
from edge_models.networks.feature_cache import FeatureBank, default_threads

TARGETS: Final = {"extract": 1.0, "cached": 5.0, "tune": 1.0, "whole": 5.0}
"""How many times faster than the hand-written loop each contest is wanted."""

_BATCH: Final = 32
_LEARNING: Final = ("conv_head", "bn2", "blocks.6")
"""What the last two groups of the network are called in timm: those that the default unfreezes."""
_MOST_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """What one turn took."""

    wall_s: float
    cpu_s: float
    """Of all threads and worker processes: other work on the machine hardly lengthens it."""

    def times(self, count: int) -> Cost:
        """The cost of as many turns."""
        return Cost(count * self.wall_s, count * self.cpu_s)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)


Turn = Callable[[], Cost]


def measure(directory: Path, epochs: int, rounds: int, progress: Progress) -> dict[str, Any]:
    """A report with `rows`, one per contest: medians of both sides and the median of the rounds' ratios.

    An epoch of the hand-written loop is measured once a round and counted as often as there are epochs: it does the
    same work in each. Raises UsageError for a folder without two classes, or counts below 1.
    """
    for name, count in (("epochs", epochs), ("rounds", rounds)):
        if count < 1:
            raise UsageError(f"found {count} {name}", expected="1 or more")
    torch.set_num_threads(default_threads())
    folder = scan(directory)
    workers, warm = _fastest_workers(folder)
    progress.note(f"hand-written loop: {workers} worker processes ({warm})")
    turns = _turns(folder, epochs, workers)
    taken: dict[str, list[Cost]] = {name: [] for name in turns}
    progress.stage("measuring", rounds * len(turns))
    for number in range(rounds):
        for position, (name, turn) in enumerate(turns.items(), 1):
            taken[name].append(turn())
            progress.advance(number * len(turns) + position, name.replace("_", " "))
    return {
        "pictures": len(folder.pictures),
        "epochs": epochs,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "workers": workers,
        "rows": rows(taken, len(folder.pictures), epochs),
    }


def rows(taken: Mapping[str, Sequence[Cost]], pictures: int, epochs: int) -> list[dict[str, Any]]:
    """The contests out of what each turn took, in rounds; `taken` as `measure` collects it."""
    tuning = ClassifierOptions(Path(), Path()).tune_epochs
    hand = [
        {
            "extract": extract,
            "cached": epoch.times(epochs),
            "tune": tune,
            "whole": epoch.times(epochs) + tune.times(tuning),
        }
        for extract, epoch, tune in zip(taken["hand_extract"], taken["hand_epoch"], taken["hand_tune"], strict=True)
    ]
    told = {
        "extract": f"features of {pictures} pictures",
        "cached": f"{epochs} epochs, base frozen; ours: features computed once",
        "tune": "an epoch with two groups of layers unfrozen, both from the files",
        "whole": f"{epochs} epochs frozen and {tuning} unfrozen; ours: three views of each picture, computed once",
    }
    return [_row(told[name], name, [one[name] for one in hand], taken[f"ours_{name}"]) for name in told]


def _row(what: str, name: str, hand: Sequence[Cost], ours: Sequence[Cost]) -> dict[str, Any]:
    ratios = [theirs.wall_s / own.wall_s for theirs, own in zip(hand, ours, strict=True)]
    return {
        "what": what,
        "hand_s": round(median(cost.wall_s for cost in hand), 2),
        "ours_s": round(median(cost.wall_s for cost in ours), 2),
        "times_faster": round(median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
        "times_less_cpu": round(median(a.cpu_s / b.cpu_s for a, b in zip(hand, ours, strict=True)), 2),
        "target": TARGETS[name],
        "met": median(ratios) >= TARGETS[name],
    }


def _turns(folder: PictureFolder, epochs: int, workers: int) -> dict[str, Turn]:
    """Both sides of each contest one after the other."""
    return {
        "hand_extract": lambda: _hand_extract(folder, workers),
        "ours_extract": lambda: _ours_cached(folder, 0),
        "hand_epoch": lambda: _hand_epoch(folder, workers, tune=False),
        "ours_cached": lambda: _ours_cached(folder, epochs),
        "hand_tune": lambda: _hand_epoch(folder, workers, tune=True),
        "ours_tune": lambda: _ours_tune(folder, workers),
        "ours_whole": lambda: _ours_whole(folder, epochs),
    }


def _timed(work: Callable[[], object]) -> Cost:
    begun, before = time.perf_counter(), _cpu_s()
    work()
    return Cost(time.perf_counter() - begun, _cpu_s() - before)


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


# --- by hand ---------------------------------------------------------------------------------------------------------


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


def _fastest_workers(folder: PictureFolder) -> tuple[int, str]:
    """How many worker processes serve the hand-written loop best; also warms up what is slow the first time."""
    _hand_extract(folder, 0)
    choices = {count: _hand_extract(folder, count).wall_s for count in (0, min(default_threads(), _MOST_WORKERS))}
    told = ", ".join(f"{count}: {took:.1f} s" for count, took in choices.items())
    return min(choices, key=lambda count: choices[count]), told


def _hand_network() -> nn.Module:
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    network.load_state_dict(create_backbone().body.state_dict())
    return network.eval()


def _hand_extract(folder: PictureFolder, workers: int) -> Cost:
    network = _hand_network()

    def work() -> None:
        with torch.inference_mode():
            for images, _ in DataLoader(_Plain(folder, augment=False), _BATCH, num_workers=workers):
                network(images)

    return _timed(work)


def _hand_epoch(folder: PictureFolder, workers: int, *, tune: bool) -> Cost:
    """One epoch of a head on the base; with `tune` the last layers learn as well, on random views."""
    network = _hand_network()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(tune and name.startswith(_LEARNING))
    head = nn.Linear(1280, len(folder.classes))
    learning = [p for p in network.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(learning, lr=1e-3)

    def work() -> None:
        for images, labels in DataLoader(_Plain(folder, augment=tune), _BATCH, shuffle=True, num_workers=workers):
            loss = nn.functional.cross_entropy(head(network(images)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return _timed(work)


# --- ours ------------------------------------------------------------------------------------------------------------


def _ours_cached(folder: PictureFolder, epochs: int) -> Cost:
    """Features of the plain views, then all epochs on them, by the same driver as `edge-app train classifier`."""
    backbone = create_backbone()
    with make_scratch() as scratch:
        options = ClassifierOptions(
            folder.root,
            scratch,
            epochs=max(1, epochs),
            patience=None,
            unfreeze=0,
            views=0,
            mirror=False,
            log="none",
            backbone=DEFAULT,
        )

        def work() -> None:
            bank = compute_bank(options, backbone, folder, Silence())
            if epochs:
                fit_head(_workshop(options, folder, backbone, bank), range(len(folder.pictures)), None, "head")

        return _timed(work)


def _ours_tune(folder: PictureFolder, workers: int) -> Cost:
    """One epoch of the unfrozen layers on random views read from the files, as where a cache would be too large."""
    backbone = create_backbone()
    with make_scratch() as scratch:
        options = ClassifierOptions(
            folder.root, scratch, backbone=DEFAULT, tune_epochs=1, batch_size=_BATCH, workers=workers, log="none"
        )
        nothing = FeatureBank(torch.zeros(1, len(folder.pictures), backbone.features), None)
        work = _workshop(options, folder, backbone, nothing)
        head = Head(backbone.features, len(folder.classes))
        return _timed(lambda: fit_tune(work, head, range(len(folder.pictures)), None, "tune"))


def _ours_whole(folder: PictureFolder, epochs: int) -> Cost:
    """Both stages with everything that is default: plain, mirrored and random views, lower layers computed once."""
    backbone = create_backbone()
    with make_scratch() as scratch:
        options = ClassifierOptions(folder.root, scratch, backbone=DEFAULT, epochs=epochs, patience=None, log="none")

        def work() -> None:
            everything = range(len(folder.pictures))
            work = _workshop(options, folder, backbone, compute_bank(options, backbone, folder, Silence()))
            head, _ = fit_head(work, everything, None, "head")
            fit_tune(work, head, everything, None, "tune")

        return _timed(work)


def _workshop(options: ClassifierOptions, folder: PictureFolder, backbone: Backbone, bank: FeatureBank) -> Workshop:
    split = split_pictures(folder, seed=options.seed)
    return Workshop(options, folder, split, backbone, bank, hard_targets(folder), Silence())
