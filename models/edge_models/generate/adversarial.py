"""What the generator and the translator share: pools of pictures, blocks, losses, and a loop that can be gone on with.

Pictures are (N, 3, S, S) float32 in [-1, 1] here, on any device; whatever is random is drawn on the CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.types import Pixels
from edge_app.inference.geometry import resize
from edge_app.system.files import json_bytes, sha256_of_file
from edge_models.data.pool import distinct_pictures
from edge_models.fitting.checkpoint import load_state, make_folder, save_state, write_atomic
from edge_models.fitting.progress import Progress, TrainingError
from edge_models.fitting.run_folder import STATE_FOLDER, finish_run
from edge_models.fitting.seeds import seed_of

Made = TypeVar("Made")

LOOKS: Final = 40
"""How often a run looks at what it makes, tells it, and saves its state."""
SLOW: Final = 0.995
"""Share of itself that the averaged generator keeps at each step; less of it in the first steps."""
_PATIENT: Final = 0.4
"""Share of the steps before a lack of differences is called collapse: random weights begin with one."""
YOUNG: Final = 200
"""So many steps are given to it at the least."""
COLLAPSED: Final = 0.12
"""Spread of what is made over the spread of what was taken, under which a generator has collapsed. A guess: runs that
went well on signs and digits had 0.5 and more, a planted generator that draws one picture has 0."""
GRID: Final = 8
"""Side of the pictures whose differences are the spread: detail and noise are not variety."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Pictures that differ, all scaled to one size."""

    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    """Of the files' bytes."""
    images: Tensor
    """(N, 3, S, S) uint8 RGB."""


def read_pool(root: Path, size: int, least: int, progress: Progress) -> Pool:
    """Every picture below a folder; see `edge_models.data.pool.distinct_pictures`."""
    files: list[Path] = []
    seen: list[Pixels] = []
    for path, pixels in distinct_pictures(root, least, progress):
        files.append(path)
        seen.append(resize(pixels, size, size))
    return Pool(tuple(files), tuple(map(sha256_of_file, files)), as_tensor(seen))


def as_tensor(pictures: Sequence[Pixels]) -> Tensor:
    """(N, 3, H, W) uint8 of pictures of one size."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def to_range(images: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return images.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """[-1, 1] to (N, H, W, 3) uint8, on the CPU."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().cpu()


# --- blocks and losses -----------------------------------------------------------------------------------------------


def bounded(layer: nn.Module) -> nn.Module:
    """A layer whose weights are spectrally normalized (Miyato et al. 2018, arXiv 1802.05957).

    They begin orthogonal, for then all singular values are the one that is held at 1: from the usual random weights a
    discriminator of eight layers passes a twentieth of what it sees, and learned nothing in 300 steps.
    """
    nn.init.orthogonal_(cast(Tensor, layer.weight))
    return spectral_norm(layer)


class DownBlock(nn.Module):
    """A residual block of a discriminator that halves the side."""

    def __init__(self, before: int, width: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.one = bounded(nn.Conv2d(before, width, 3, padding=1))
        self.two = bounded(nn.Conv2d(width, width, 3, padding=1))
        self.short = bounded(nn.Conv2d(before, width, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, S, S) to (N, width, S/2, S/2)."""
        inner = self.one(maps if self.first else functional.leaky_relu(maps, 0.2))
        inner = functional.avg_pool2d(self.two(functional.leaky_relu(inner, 0.2)), 2)
        short: Tensor = self.short(functional.avg_pool2d(maps, 2))
        return inner + short


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss (Lim and Ye 2017, arXiv 1705.02894): real ones above 1, made ones below -1."""
    return functional.relu(1 - real).mean() + functional.relu(1 + made).mean()


def diff_augment(images: Tensor, draw: torch.Generator) -> Tensor:
    """The same random change of what is real and what is made, through which gradients pass (Zhao et al. 2020, arXiv
    2006.10738): colour, a shift by up to an eighth of the side, a hole of half the side. From few pictures a
    discriminator learns them by heart without it."""
    count, _, height, width = images.shape
    device = images.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=draw).to(device)

    images = images + (uniform(1, 1, 1) - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * 2 * uniform(1, 1, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (0.5 + uniform(1, 1, 1))
    reach = max(1, height // 8)
    rows = torch.arange(height, device=device)[None, :] + (uniform(1) * (2 * reach + 1)).long() - reach
    columns = torch.arange(width, device=device)[None, :] + (uniform(1) * (2 * reach + 1)).long() - reach
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    at = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    moved = images.flatten(2).gather(2, at.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)).view_as(images)
    top, left = (uniform(1) * height).long(), (uniform(1) * width).long()
    y, x = torch.arange(height, device=device)[None, :], torch.arange(width, device=device)[None, :]
    hole = ((y - top).abs() < height // 4)[:, :, None] & ((x - left).abs() < width // 4)[:, None, :]
    return moved * (inside & ~hole)[:, None]


def follow(slow: nn.Module, fast: nn.Module, step: int) -> None:
    """Draw the averaged network after the learning one."""
    keep = min(SLOW, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, new in zip(slow.parameters(), fast.parameters(), strict=True):
            kept.lerp_(new, 1 - keep)


def spread(images: Tensor) -> float:
    """How much pictures (N, 3, S, S) in [-1, 1] differ: mean distance of two of them, seen coarsely."""
    seen = functional.adaptive_avg_pool2d(images.float(), GRID).flatten(1)
    return float(functional.pdist(seen.cpu()).mean()) if len(seen) > 1 else 0.0


# --- the loop --------------------------------------------------------------------------------------------------------


class Adversaries(Protocol):
    """Two networks that learn against each other, and their optimizers."""

    def step(self, number: int, draw: torch.Generator) -> Mapping[str, float]:
        """Learn once; the losses."""

    def variety(self) -> float:
        """Spread of what is made over the spread of what was taken."""

    def state(self) -> dict[str, Any]:
        """Everything that going on needs, as nested dictionaries of tensors."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""


def learn(
    adversaries: Adversaries,
    run: Path,
    steps: int,
    seed: int,
    progress: Progress,
    *,
    resume: bool,
    name: str,
    looked: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None,
) -> list[dict[str, float]]:
    """Run all steps, or those that a state in the run's folder leaves; the same bits either way on a CPU.

    Every fortieth of the way figures are told and the state is saved: means of the losses, `variety` and `seconds`.
    Raises TrainingError when a loss is no number, EdgeError when all that is made becomes one picture, ModelError when
    nothing can be saved.
    """
    path, told, first = run / STATE_FOLDER / f"{name}.safetensors", list[dict[str, float]](), 0
    make_folder(path.parent)
    if resume and path.is_file():
        state = load_state(path)
        try:
            adversaries.load(state["adversaries"])
            told, first = list(state["told"]), int(state["step"])
            if not told or not 0 < first <= steps:
                raise ValueError(f"step {first}")
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
            raise UsageError(
                f"{path} cannot be gone on with ({str(error).splitlines()[0][:80]})",
                remedy="train again into a new folder",
            ) from error
    every = max(1, steps // LOOKS)
    progress.stage(name, steps)
    losses, began_s = list[Mapping[str, float]](), time.monotonic()
    for step in range(first, steps):
        losses.append(adversaries.step(step, torch.Generator().manual_seed(seed_of(seed, step))))
        if (step + 1) % every and step + 1 < steps:
            continue
        line = {key: float(np.mean([loss[key] for loss in losses])) for key in losses[0]}
        if not np.isfinite(list(line.values())).all():
            raise TrainingError(f"a loss is not a number at step {step + 1}", remedy="a lower --learning-rate")
        line |= {"step": step + 1, "variety": adversaries.variety(), "seconds": round(time.monotonic() - began_s, 2)}
        told.append(line)
        if line["variety"] < COLLAPSED and step + 1 > max(YOUNG, _PATIENT * steps):
            raise EdgeError(
                f"the generator collapsed by step {step + 1}: what it makes differs {line['variety']:.2f} times as "
                "much as the pictures it learns from",
                expected=f"at least {COLLAPSED} times",
                remedy="a lower --learning-rate, another --seed, or more pictures",
            )
        save_state(path, {"adversaries": adversaries.state(), "told": told, "step": step + 1})
        detail = ", ".join(f"{key} {line[key]:.2f}" for key in line if key not in ("step", "seconds"))
        progress.advance(step + 1, detail)
        looked(step + 1, line)
        losses, began_s = [], time.monotonic()
    return told


def finished_before(network: Path, progress: Progress) -> bool:
    """Whether a run that is gone on with has its network already; what is left of its state is removed then."""
    if not network.is_file():
        return False
    finish_run(network.parent)
    progress.note(f"{network.parent} is finished already; nothing is trained again")
    return True


def close_run(run: Path, report: str, facts: Mapping[str, Any], network: str, state: Mapping[str, Any]) -> None:
    """Write the report, then the network, whose file says that the run is finished; remove what going on needed.

    Raises ModelError when the disk refuses.
    """
    write_atomic(run / report, json_bytes(facts))
    save_state(run / network, state)
    finish_run(run)


def read_report(path: Path, build: Callable[[Any], Made]) -> Made:
    """What `build` makes of the report that `close_run` wrote. Raises UsageError where another file stands there."""
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no report of this run", remedy="train again into a new folder") from error


def read_network(path: Path, kind: str, command: str, build: Callable[[Mapping[str, Any]], Made]) -> Made:
    """What `build` makes of the file that `close_run` wrote.

    Raises UsageError where the run is not finished or of another version, ModelError for a damaged file.
    """
    if not path.is_file():
        raise UsageError(
            f"{path.parent} holds no {kind}",
            expected=f"a finished run of `{command}`",
            remedy="finish it with --resume",
        )
    state = load_state(path)
    try:
        if state["kind"] != kind:
            raise ValueError(state["kind"])
        weights = [one for one in dict(state["weights"]).values() if isinstance(one, Tensor)]
        if not all(bool(torch.isfinite(one).all()) for one in weights):
            raise ValueError("a weight is not a number")
        return build(state)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        why = str(error).splitlines()[0][:80]
        raise UsageError(f"{path} holds no {kind} of this version ({why})", remedy="train again") from error


def optimizers_state(parts: Mapping[str, nn.Module | torch.optim.Optimizer]) -> dict[str, Any]:
    """The state of each by name."""
    return {name: dict(part.state_dict()) for name, part in parts.items()}


def load_parts(parts: Mapping[str, nn.Module | torch.optim.Optimizer], state: Mapping[str, Any]) -> None:
    """The reverse of `optimizers_state`."""
    for name, part in parts.items():
        part.load_state_dict(state[name])


def shared_out(sources: Sequence[str], count: int, number: int, own: Iterable[str] = ()) -> list[str]:
    """The part of `sources` that the mark of picture `number` of `count` names, beside its own.

    Every picture learned from is a source of every picture made, and a mark holds 900 hashes at the most: together the
    pictures of one set name each source twice, as far as that allows.
    """
    step = min(200, -(-len(sources) // max(1, count)))
    return [*own, *(sources[(number * step + k) % len(sources)] for k in range(min(2 * step, len(sources))))]
