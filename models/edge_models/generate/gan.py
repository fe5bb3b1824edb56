"""`edge-app generate train`: a class-conditional generator of pictures of 16 to 128 px.

Hinge loss, a projection discriminator (Miyato and Koyama 2018, arXiv 1802.05637) with spectral norm, differentiable
augmentation (Zhao et al. 2020, arXiv 2006.10738), and a generator averaged over the steps.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.inference.geometry import resize
from edge_app.media.pictures import read_picture
from edge_models.data.checks import scan
from edge_models.data.folder import split_pictures
from edge_models.fitting.fit import Machine, open_run, refuse_folder
from edge_models.fitting.options import absolute, own_name
from edge_models.fitting.progress import Progress
from edge_models.fitting.run_folder import Hold
from edge_models.generate.adversarial import (
    COLLAPSED,
    GRID,
    DownBlock,
    as_tensor,
    bounded,
    close_run,
    diff_augment,
    finished_before,
    follow,
    hinge,
    learn,
    load_parts,
    optimizers_state,
    read_network,
    read_report,
    spread,
    to_range,
)
from edge_models.generate.options import GanOptions
from edge_models.networks.feature_cache import default_threads

FILE: Final = "generator.safetensors"
REPORT: Final = "generate.json"
_KIND: Final = "generator"
LEAST: Final = 5
"""Pictures of each class that are learned from."""
NOISE: Final = 64
_STYLE: Final = 2 * NOISE
"""The noise, and the class."""
_WIDTHS: Final = {4: 96, 8: 96, 16: 64, 32: 32, 64: 24, 128: 16}
_SMALL_PX: Final = 44
_WATCHED: Final = 16
"""Pictures of each class by which variety is told."""


class Generator(nn.Module):
    """Noise (N, NOISE) and labels (N,) to pictures (N, 3, S, S) in [-1, 1]."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.sides = _sides(size)
        self.embed = nn.Embedding(classes, NOISE)
        self.start = nn.Linear(_STYLE, _WIDTHS[4] * self.sides[0] ** 2)
        widths = [_WIDTHS[4], *(_width(side) for side in self.sides[1:])]
        self.blocks = nn.ModuleList(
            _UpBlock(before, width, side < 64)
            for (before, width), side in zip(itertools.pairwise(widths), self.sides[1:], strict=True)
        )
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(module.weight)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        style = torch.cat([noise, functional.normalize(self.embed(labels), dim=1) * NOISE**0.5], dim=1)
        maps = self.start(style).view(len(noise), -1, self.sides[0], self.sides[0])
        for block in self.blocks:
            maps = block(maps, style)
        return torch.tanh(self.last(functional.leaky_relu(_unit(maps), 0.2)))


class _UpBlock(nn.Module):
    """Doubles the side. The style scales and shifts channels of unit length, so that no batch decides a picture."""

    def __init__(self, before: int, width: int, fine: bool) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, width, 3, padding=1)
        # At sides from 64 px on a second convolution costs more than all that went before.
        self.two = nn.Conv2d(width, width, 3, padding=1) if fine else nn.Identity()
        self.short = nn.Conv2d(before, width, 1)
        self.styles = nn.ModuleList([nn.Linear(_STYLE, 2 * before), nn.Linear(_STYLE, 2 * width)])

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        inner = functional.interpolate(self.one(self._styled(maps, style, 0)), scale_factor=2)
        short = functional.interpolate(self.short(maps), scale_factor=2)
        made: Tensor = short + self.two(self._styled(inner, style, 1))
        return made

    def _styled(self, maps: Tensor, style: Tensor, number: int) -> Tensor:
        scale, shift = self.styles[number](style)[:, :, None, None].chunk(2, dim=1)
        return functional.leaky_relu(_unit(maps) * (1 + scale) + shift, 0.2)


def _unit(maps: Tensor) -> Tensor:
    return maps * torch.rsqrt(maps.square().mean(1, keepdim=True) + 1e-6)


class Discriminator(nn.Module):
    """Pictures (N, 3, S, S) in [-1, 1] and labels (N,) to (N,) logits: above 1 for real ones of that class."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        sides = list(reversed(_sides(size)))
        stem: list[nn.Module] = []
        before, first = 3, True
        if size >= 64:
            before, first = _width(size), False
            stem = [bounded(nn.Conv2d(3, before, 4, 2, 1))]
            sides = sides[1:]
        blocks = []
        for side in sides[1:]:
            width = _WIDTHS[4] if side == sides[-1] else _width(side)
            blocks.append(DownBlock(before, width, first=first))
            before, first = width, False
        self.maps = nn.Sequential(*stem, *blocks)
        self.real = bounded(nn.Linear(before, 1))
        self.embed = bounded(nn.Embedding(classes, before))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = functional.leaky_relu(self.maps(images), 0.2).sum((2, 3))
        told: Tensor = self.real(features).squeeze(1) + (self.embed(labels) * features).sum(1)
        return told


def _sides(size: int) -> list[int]:
    """Sides from the start to the end, each double the one before: 4 to 64, or 3 to 48 and 96."""
    sides = [size]
    while sides[0] > 5:
        sides.insert(0, sides[0] // 2)
    return sides


def _width(side: int) -> int:
    return _WIDTHS[min(_WIDTHS, key=lambda known: abs(known - side))]


class _Pair:
    """`edge_models.generate.adversarial.Adversaries` for the labelled pictures of a folder."""

    def __init__(self, options: GanOptions, images: Tensor, labels: Tensor, device: str) -> None:
        """`images` (N, 3, S, S) uint8, `labels` (N,)."""
        torch.manual_seed(options.seed)
        self.options, self.images, self.labels, self.device = options, images, labels, device
        self.members = [torch.nonzero(labels == label).flatten() for label in range(int(labels.max()) + 1)]
        size, classes = images.shape[-1], len(self.members)
        self.generator = Generator(classes, size).to(device)
        self.slow = copy.deepcopy(self.generator)
        self.critic = Discriminator(classes, size).to(device)
        rate = options.learning_rate
        self.makes = torch.optim.Adam(self.generator.parameters(), lr=rate, betas=(0.0, 0.99))
        self.tells = torch.optim.Adam(self.critic.parameters(), lr=rate, betas=(0.0, 0.99))
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "generator": self.generator, "slow": self.slow, "critic": self.critic, "makes": self.makes,
            "tells": self.tells,
        }  # fmt: skip
        self.taken = [spread(to_range(images[at[: 4 * _WATCHED]])) for at in self.members]

    def step(self, number: int, draw: torch.Generator) -> Mapping[str, float]:
        size, device = self.options.batch_size, self.device
        # Every class as often as any other, however many pictures it has; picture i and i + half are of one class.
        half = torch.randint(len(self.members), ((size + 1) // 2,), generator=draw)
        labels = half.repeat(2)[:size]
        at = torch.stack([one[torch.randint(len(one), (), generator=draw)] for one in
                          (self.members[int(label)] for label in labels)])  # fmt: skip
        real = to_range(self.images[at])
        if self.options.mirror:
            turned = torch.rand(size, generator=draw) < 0.5
            real = torch.where(turned[:, None, None, None], real.flip(3), real)
        real, labels = real.to(device), labels.to(device)
        made = self.generator(torch.randn(size, NOISE, generator=draw).to(device), labels)
        seen = diff_augment(torch.cat([real, made.detach()]), draw)
        told = self.critic(seen, torch.cat([labels, labels]))
        apart = hinge(told[:size], told[size:])
        self.tells.zero_grad()
        apart.backward()  # type: ignore[no-untyped-call]
        self.tells.step()
        self.critic.requires_grad_(False)
        fooled = -self.critic(diff_augment(made, draw), labels).mean()
        # Two made of one class have to differ as much as two real ones (after Mao et al. 2019, arXiv 1903.05628).
        # Without it a discriminator that sees one picture at a time let all become one within 200 steps.
        differ, wanted = (
            (seen[: size // 2] - seen[-(size // 2) :]).flatten(1).norm(dim=1).mean()
            for seen in (functional.adaptive_avg_pool2d(images, GRID) for images in (made, real))
        )
        loss = fooled + functional.relu(1 - differ / wanted.clamp(min=1e-3))
        self.makes.zero_grad()
        loss.backward()
        self.critic.requires_grad_(True)
        self.makes.step()
        follow(self.slow, self.generator, number)
        return {"told apart": float(apart.detach()), "made": float(-fooled.detach())}

    def varieties(self) -> list[float]:
        """Spread of what is made of each class over that of its pictures."""
        found = []
        for label, taken in enumerate(self.taken):
            noise = torch.randn(_WATCHED, NOISE, generator=torch.Generator().manual_seed(label))
            found.append(spread(draw_pictures(self.slow, noise, label, self.device)) / max(1e-6, taken))
        return found

    def variety(self) -> float:
        return float(np.mean(self.varieties()))

    def state(self) -> dict[str, Any]:
        return optimizers_state(self.parts)

    def load(self, state: Mapping[str, Any]) -> None:
        load_parts(self.parts, state)


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run came to."""

    checkpoint: Path
    report: Path
    classes: tuple[str, ...]
    pictures: int
    """That it learned from."""
    looks: tuple[dict[str, float], ...]
    notes: tuple[str, ...]


def train(options: GanOptions, progress: Progress) -> Trained:
    """Learn to make pictures like those of the folder's learning part.

    Raises UsageError for classes of too few pictures, EdgeError when all that is made becomes one picture.
    """
    torch.set_num_threads(default_threads())
    device = Machine(cast(Literal["auto", "cpu", "cuda", "mps"], options.device)).accelerator
    with Hold(options.output) as hold:
        refuse_folder(options.output, resume=options.resume)
        progress.stage("checking", 1)
        folder = scan(options.directory, tell=lambda done, total: progress.advance(done, f"of {total}"))
        split = split_pictures(folder, seed=options.seed)
        at = list(split.fit)
        counts = np.bincount(folder.labels[at], minlength=len(folder.classes))
        if counts.min() < LEAST:
            name = folder.classes[int(counts.argmin())]
            raise UsageError(
                f"{name} has {counted(int(counts.min()), 'picture')} to learn from",
                expected=f"at least {LEAST} of each class",
                remedy="the part that judges is left alone; add pictures, or leave the class out",
            )  # fmt: skip
        side = float(np.median([min(folder.pictures[i].size_px) for i in at]))
        size = options.size or (32 if side <= _SMALL_PX else 64)
        open_run(options.output, options.configuration(absolute) | {"data_sha256": folder.sha256},
                 resume=options.resume)  # fmt: skip
        hold.take()
        if finished_before(options.output / FILE, progress):
            return _told(options.output)
        images = as_tensor([resize(read_picture(folder.pictures[i].path), size, size) for i in at])
        pair = _Pair(options, images, torch.from_numpy(folder.labels[at].astype(np.int64)), device)
        looks = learn(pair, options.output, options.steps, options.seed, progress, resume=options.resume,
                      name="generating")  # fmt: skip
        notes = tuple(
            f"{name}: what is made differs {ratio:.2f} times as much as its pictures: it has collapsed to few"
            for name, ratio in zip(folder.classes, pair.varieties(), strict=True) if ratio < COLLAPSED
        )  # fmt: skip
        close_run(options.output, REPORT, {
            "command": options.command(), "size": size,
            "classes": dict(zip(folder.classes, counts.tolist(), strict=True)), "looks": looks, "notes": notes,
        }, FILE, {
            "kind": _KIND, "size": size, "classes": list(folder.classes), "command": options.command(own_name),
            "learned": [folder.pictures[i].sha256 for i in at], "mirror": options.mirror,
            "kept_out": [folder.pictures[i].sha256 for i in split.validation],
            "directory": absolute(options.directory), "weights": dict(pair.slow.cpu().state_dict()),
        })  # fmt: skip
    return _told(options.output)


def _told(folder: Path) -> Trained:
    return read_report(folder / REPORT, lambda told: Trained(
        folder / FILE, folder / REPORT, tuple(told["classes"]), sum(told["classes"].values()), tuple(told["looks"]),
        tuple(told["notes"]),
    ))  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Drawer:
    """A trained generator, and what it learned from."""

    net: Generator
    size: int
    classes: tuple[str, ...]
    learned: tuple[str, ...]
    """SHA-256 of the pictures that it learned from."""
    kept_out: tuple[str, ...]
    """Of those that it never saw."""
    directory: Path
    """Where both lay."""
    mirror: bool
    command: str


def load_generator(run: Path) -> Drawer:
    """Read a finished run; raises as `edge_models.generate.adversarial.read_network` does."""

    def built(state: Mapping[str, Any]) -> Drawer:
        classes, learned, kept = (tuple(str(one) for one in state[name]) for name in ("classes", "learned", "kept_out"))
        net = Generator(len(classes), int(state["size"]))
        net.load_state_dict(state["weights"])
        return Drawer(net.eval(), int(state["size"]), classes, learned, kept, Path(state["directory"]),
                      bool(state["mirror"]), str(state["command"]))  # fmt: skip

    return read_network(run / FILE, _KIND, "generate train", built)


def draw_pictures(net: Generator, noise: Tensor, label: int, device: str = "cpu") -> Tensor:
    """(N, 3, S, S) in [-1, 1], on the CPU, of noise (N, NOISE) and one class."""
    labels = torch.full((len(noise),), label)
    with torch.inference_mode():
        parts: Sequence[Tensor] = [
            net(one.to(device), two.to(device)).cpu()
            for one, two in zip(torch.split(noise, 64), torch.split(labels, 64), strict=True)
        ]
    return torch.cat(list(parts)).clone()
