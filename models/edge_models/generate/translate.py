"""`edge-app translate`: pictures of one folder get the look of another's, and go on showing what they show.

Contrastive unpaired translation (Park et al. 2020, arXiv 2007.15651): one generator, one discriminator of patches, and
PatchNCE, by which each patch must be found again among others of its picture. CycleGAN needs twice the networks.
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
from torch.nn.utils.parametrizations import spectral_norm

from edge_app.core.errors import UsageError
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of
from edge_models.data.folder import find_unlabelled
from edge_models.fitting.fit import Machine, open_run, refuse_folder
from edge_models.fitting.options import absolute, own_name
from edge_models.fitting.progress import Progress
from edge_models.fitting.run_folder import Hold
from edge_models.generate.adversarial import (
    GRID,
    close_run,
    diff_augment,
    finished_before,
    follow,
    hinge,
    learn,
    load_parts,
    optimizers_state,
    read_network,
    read_pool,
    read_report,
    spread,
    to_range,
)
from edge_models.generate.options import TranslateOptions
from edge_models.networks.feature_cache import default_threads

FILE: Final = "translator.safetensors"
REPORT: Final = "translate.json"
_KIND: Final = "translator"
LEAST: Final = 8
"""Pictures of either folder."""
_SMALL_PX: Final = 44
_WIDTH: Final = 32
_WIDEST: Final = 96
_BLOCKS: Final = 3
_PATCHES: Final = 64
"""Of each picture and layer, among which a patch must find itself."""
_PROJECTED: Final = 64
_SHARP: Final = 0.07
"""Temperature of PatchNCE, the paper's."""
_WATCHED: Final = 64
_WATCHED_AT_END: Final = 256
LITTLE_KEPT: Final = 0.1
"""Correlation of a picture's edges with those of its translation, over that with others' translations. Digits of fonts
that became handwriting have 0.37, plain colours that became noise 0.00."""
LITTLE_CLOSED: Final = 0.5
"""Share of the distance from A to B that translation closes: 0.96 of the digits, 0.15 of noise made plain colours."""


class Translator(nn.Module):
    """(N, 3, S, S) in [-1, 1] to the same in the other look; sides are multiples of 4."""

    def __init__(self, halvings: int) -> None:
        super().__init__()
        widths = [min(_WIDEST, _WIDTH * 2**i) for i in range(halvings + 1)]
        stages: list[nn.Module] = [_convolution(3, widths[0], 5)]
        for before, width in itertools.pairwise(widths):
            stages.append(_convolution(before, width, 3, stride=2))
        stages += [_Residual(widths[-1]) for _ in range(_BLOCKS)]
        self.encoder = nn.ModuleList(stages)
        self.widths = [3, *widths, *[widths[-1]] * _BLOCKS]
        """Channels of the maps that `maps` gives."""
        up: list[nn.Module] = []
        for before, width in itertools.pairwise(reversed(widths)):
            # Enlarged last: the same at a quarter of the work, and the layer after it smooths.
            up += [*_convolution(before, width, 3), nn.Upsample(scale_factor=2)]
        self.decoder = nn.Sequential(*up, nn.Conv2d(widths[0], 3, 5, padding=2), nn.Tanh())

    def maps(self, images: Tensor) -> list[Tensor]:
        """What PatchNCE compares: the pictures themselves, and what each stage makes of them."""
        seen = [images]
        for stage in self.encoder:
            seen.append(stage(seen[-1]))
        return seen

    def forward(self, images: Tensor) -> Tensor:
        """Translated, (N, 3, S, S) in [-1, 1]."""
        made: Tensor = self.decoder(self.maps(images)[-1])
        return made


def _convolution(before: int, width: int, side: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, side, stride, side // 2), nn.InstanceNorm2d(width), nn.ReLU(),
    )  # fmt: skip


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *_convolution(width, width, 3), nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width)
        )

    def forward(self, maps: Tensor) -> Tensor:
        made: Tensor = maps + self.inner(maps)
        return made


class PatchNce(nn.Module):
    """Each patch of what was made must find the patch of the source that lay at its place, among others of it."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(width, _PROJECTED), nn.ReLU(), nn.Linear(_PROJECTED, _PROJECTED))
            for width in widths
        )

    def forward(self, made: Sequence[Tensor], source: Sequence[Tensor], draw: torch.Generator) -> tuple[Tensor, float]:
        """The loss, mean over layers, and the share of patches that find themselves. Maps (N, C, h, w) of each layer;
        no gradient reaches the source's."""
        losses, found = [], []
        for project, one, two in zip(self.projections, made, source, strict=True):
            places = one.shape[2] * one.shape[3]
            at = torch.randperm(places, generator=draw)[: min(_PATCHES, places)].to(one.device)
            query, key = (
                functional.normalize(project(maps.flatten(2)[:, :, at].transpose(1, 2)), dim=2)
                for maps in (one, two.detach())
            )
            alike = query @ key.detach().transpose(1, 2) / _SHARP
            own = torch.arange(len(at), device=one.device).expand(len(one), -1)
            losses.append(functional.cross_entropy(alike.flatten(0, 1), own.flatten()))
            found.append(float((alike.argmax(2) == own).float().mean()))
        return torch.stack(losses).mean(), float(np.mean(found))


class _Critic(nn.Module):
    """Tells patches of B from those made: (N, 3, S, S) to (N, 1, S/4, S/4) logits."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, _WIDTH, 2 * _WIDTH)
        layers: list[nn.Module] = []
        for before, width in itertools.pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(before, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
        layers += [spectral_norm(nn.Conv2d(widths[-1], 3 * _WIDTH, 3, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(3 * _WIDTH, 1, 3, padding=1)))

    def forward(self, images: Tensor) -> Tensor:
        told: Tensor = self.layers(images)
        return told


class _Cut:
    """`edge_models.generate.adversarial.Adversaries` for two pools of pictures."""

    def __init__(self, options: TranslateOptions, first: Tensor, second: Tensor, device: str) -> None:
        """`first` and `second` (N, 3, S, S) uint8 of A and B."""
        torch.manual_seed(options.seed)
        self.options, self.first, self.second, self.device = options, first, second, device
        self.translator = Translator(halvings_of(first.shape[-1])).to(device)
        self.critic = _Critic().to(device)
        self.nce = PatchNce(self.translator.widths).to(device)
        self.slow = copy.deepcopy(self.translator)
        making = [*self.translator.parameters(), *self.nce.parameters()]
        rate = options.learning_rate
        self.makes = torch.optim.Adam(making, lr=rate, betas=(0.5, 0.99))
        self.tells = torch.optim.Adam(self.critic.parameters(), lr=rate, betas=(0.5, 0.99))
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "translator": self.translator, "critic": self.critic, "nce": self.nce, "slow": self.slow,
            "makes": self.makes, "tells": self.tells,
        }  # fmt: skip

    def step(self, number: int, draw: torch.Generator) -> Mapping[str, float]:
        size = self.options.batch_size
        # From half of the way on the rates fall to nothing, as the paper's.
        rate = self.options.learning_rate * min(1.0, 2 * (1 - number / self.options.steps))
        for optimizer in (self.makes, self.tells):
            optimizer.param_groups[0]["lr"] = rate
        one, two = (
            to_range(pool[torch.randint(len(pool), (size,), generator=draw)].to(self.device))
            for pool in (self.first, self.second)
        )
        seen = self.translator.maps(torch.cat([one, two]))
        made = self.translator.decoder(seen[-1])
        told = self.critic(diff_augment(torch.cat([two, made[:size].detach()]), draw))
        apart = hinge(told[:size], told[size:])
        self.tells.zero_grad()
        apart.backward()  # type: ignore[no-untyped-call]
        self.tells.step()
        self.critic.requires_grad_(False)
        fooled = -self.critic(diff_augment(made[:size], draw)).mean()
        # Both halves: what is of B already has to stay as it is.
        kept, found = self.nce(self.translator.maps(made), seen, draw)
        loss = fooled + self.options.content * 2 * kept
        self.makes.zero_grad()
        loss.backward()
        self.critic.requires_grad_(True)
        self.makes.step()
        follow(self.slow, self.translator, number)
        return {"told apart": float(apart.detach()), "content": float(kept.detach()), "found again": found}

    def variety(self) -> float:
        """Spread of a few translated over that of a few of B."""
        made = run(self.slow, self.first[:_WATCHED], self.device)
        return spread(made) / max(1e-6, spread(to_range(self.second[:_WATCHED])))

    def state(self) -> dict[str, Any]:
        return optimizers_state(self.parts)

    def load(self, state: Mapping[str, Any]) -> None:
        load_parts(self.parts, state)


@dataclass(frozen=True, slots=True)
class Translated:
    """What a run came to."""

    checkpoint: Path
    report: Path
    looks: tuple[dict[str, float], ...]
    kept: float
    """How far edges stay where they are, 0 to 1; see `worth`."""
    closed: float
    """Share of the distance from A to B that translation closes, at most 1."""
    notes: tuple[str, ...]


def train(options: TranslateOptions, progress: Progress) -> Translated:
    """Learn to give the pictures of A the look of B.

    Raises UsageError for pools that are too small or the same, EdgeError when everything becomes one picture.
    """
    torch.set_num_threads(default_threads())
    device = Machine(cast(Literal["auto", "cpu", "cuda", "mps"], options.device)).accelerator
    with Hold(options.output) as hold:
        refuse_folder(options.output, resume=options.resume)
        size = options.size or _suitable(options.target)
        pools = [read_pool(root, size, LEAST, progress) for root in (options.directory, options.target)]
        first, second = pools
        if set(first.sha256) == set(second.sha256):
            raise UsageError(f"{options.target} holds the same pictures as {options.directory}",
                             expected="two looks")  # fmt: skip
        known = {"data_sha256": sha256_of("".join(sorted((*first.sha256, *second.sha256))))}
        open_run(options.output, options.configuration(absolute) | known, resume=options.resume)
        hold.take()
        if finished_before(options.output / FILE, progress):
            return _told(options.output)
        cut = _Cut(options, first.images, second.images, device)
        looks = learn(cut, options.output, options.steps, options.seed, progress, resume=options.resume,
                      name="translating")  # fmt: skip
        notes = []
        names = own_name(options.directory), own_name(options.target)
        some = first.images[:: -(-len(first.images) // _WATCHED_AT_END)]
        kept, closed = worth(to_range(some), run(cut.slow, some, device),
                             to_range(second.images[:: -(-len(second.images) // _WATCHED_AT_END)]))  # fmt: skip
        if kept < LITTLE_KEPT:
            notes.append(f"translated pictures keep next to none of their edges ({kept:.2f} of 1): what is translated "
                         "may show something else than its label says")  # fmt: skip
        if closed < LITTLE_CLOSED:
            notes.append(f"translation closes {max(0.0, closed):.0%} of the distance from {names[0]} to {names[1]}: "
                         "they share little, or it needs more --steps")  # fmt: skip
        close_run(options.output, REPORT, {
            "command": options.command(), "size": size, "pictures": [len(pool.files) for pool in pools],
            "kept": kept, "closed": closed, "looks": looks, "notes": notes,
        }, FILE, {
            "kind": _KIND, "size": size, "command": options.command(own_name), "target": list(second.sha256),
            "weights": dict(cut.slow.cpu().state_dict()),
        })  # fmt: skip
    return _told(options.output)


def _told(folder: Path) -> Translated:
    return read_report(folder / REPORT, lambda told: Translated(
        folder / FILE, folder / REPORT, tuple(told["looks"]), told["kept"], told["closed"], tuple(told["notes"])
    ))  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LearnedLook:
    """A trained translator."""

    net: Translator
    size: int
    target: tuple[str, ...]
    """SHA-256 of the pictures that it learned the look from."""
    command: str


def load_translator(run_folder: Path) -> LearnedLook:
    """Read a finished run; raises as `edge_models.generate.adversarial.read_network` does."""

    def built(state: Mapping[str, Any]) -> LearnedLook:
        net = Translator(halvings_of(int(state["size"])))
        net.load_state_dict(state["weights"])
        target = tuple(str(one) for one in state["target"])
        return LearnedLook(net.eval(), int(state["size"]), target, str(state["command"]))

    return read_network(run_folder / FILE, _KIND, "translate train", built)


def halvings_of(size: int) -> int:
    """How often a translator halves the side."""
    return 1 if size <= 48 else 2


def run(net: nn.Module, images: Tensor, device: str) -> Tensor:
    """Pictures (N, 3, S, S) uint8 through a translator; (N, 3, S, S) in [-1, 1] on the CPU."""
    with torch.inference_mode():
        return torch.cat([net(to_range(part.to(device))).cpu() for part in torch.split(images, 64)]).clone()


def worth(source: Tensor, made: Tensor, target: Tensor) -> tuple[float, float]:
    """What became of pictures (N, 3, S, S) in [-1, 1]: how far their edges stayed, and how near they came to others.

    The first is the correlation of edges with the picture's own translation, less that with other pictures'; the
    second 1 less the energy distance (Szekely and Rizzo 2013) of what was made to `target`, as a share of the source's.
    The network's own PatchNCE tells neither: it finds its patches again in noise too.
    """

    def edges(images: Tensor) -> Tensor:
        grey = images.mean(1, keepdim=True)
        across, down = grey[..., :-1, 1:] - grey[..., :-1, :-1], grey[..., 1:, :-1] - grey[..., :-1, :-1]
        return functional.adaptive_avg_pool2d((across.square() + down.square()).sqrt(), images.shape[-1] // 2).flatten(
            1
        )

    def unit(rows: Tensor) -> Tensor:
        return functional.normalize(rows - rows.mean(1, keepdim=True), dim=1, eps=1e-3)

    alike = unit(edges(source)) @ unit(edges(made)).T
    count = len(source)
    own = float(alike.diagonal().mean())
    others = (float(alike.sum()) - count * own) / (count * (count - 1))

    def energy(one: Tensor, two: Tensor) -> float:
        inner = [float(torch.cdist(rows, rows).sum()) / (len(rows) * (len(rows) - 1)) for rows in (one, two)]
        return 2 * float(torch.cdist(one, two).mean()) - sum(inner)

    source_seen, made_seen, target_seen = (
        torch.cat([functional.adaptive_avg_pool2d(images, GRID).flatten(1), edges(images)], dim=1)
        for images in (source, made, target)
    )
    return own - others, 1 - energy(made_seen, target_seen) / max(1e-6, energy(source_seen, target_seen))


def _suitable(root: Path) -> int:
    sides = [min(read_picture(path).shape[:2]) for path in find_unlabelled(root)[:32]]
    return 32 if float(np.median(sides)) <= _SMALL_PX else 64
