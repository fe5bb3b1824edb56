"""Features computed once: what a frozen network makes of every picture, kept for all epochs and for resuming.

Hides: batches, views, the cache file. Flows in: a backbone and picture files. Flows out: a `FeatureBank` with a row per
view and picture, of the pooled features and, where layers will be unfrozen, of what lies below them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from edge_app.core.errors import EdgeError
from edge_app.core.types import Pixels
from edge_app.inference.geometry import prepare
from edge_app.media.pictures import read_picture
from edge_models.data.augment import AugmentOptions, view_maker
from edge_models.fitting.checkpoint import load_state, make_folder, save_state
from edge_models.fitting.fit import Progress
from edge_models.fitting.seeds import seed_of
from edge_models.networks.backbones import Backbone, normalize

BATCH: Final = 16
"""Pictures through the network at a time: larger batches leave the CPU's cache, measured 20 % slower at 64."""

CUT_LIMIT_BYTES: Final = 2 * 1024**3
"""More than this of lower-layer maps is not kept: unfrozen layers then train on the pictures themselves."""


Pictures = Sequence[tuple[Path, str]]
"""Files and the SHA-256 of their bytes."""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """Which views of a picture are computed."""

    random: int
    """Random views beside the plain one and its mirror image."""
    mirror: bool = True
    """Off for pictures whose left and right mean something."""
    top: int = 0
    """Groups of layers that will be unfrozen; 0 keeps pooled features only."""
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    """What the random views look like."""

    @property
    def count(self) -> int:
        """Views per picture, the plain one first."""
        return 1 + int(self.mirror) + self.random


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBank:
    """Views by pictures."""

    features: Tensor
    """(V, N, D) float32; view 0 is the plain one, the one that serving computes."""
    cuts: Tensor | None
    """(V, N, c, h, w) float16: the input of the layers that are unfrozen; None where there is none."""

    @property
    def plain(self) -> Tensor:
        """(N, D) features of the plain views."""
        return self.features[0]


def feature_bank(
    backbone: Backbone, pictures: Pictures, plan: ViewPlan, cache: Path, progress: Progress, device: str = "cpu"
) -> FeatureBank:
    """Compute the bank, or take it from the cache folder.

    The hashes of pictures, weights and plan name the cache file, so that another picture or network never meets old
    features. Random views depend on the picture's content alone, so runs of
    different seeds share a cache. Raises MediaError when a picture has become unreadable meanwhile.
    """
    # Also where the cache spares the work: the layout decides the last bits of whatever is trained afterwards.
    backbone.to(memory_format=torch.channels_last)
    top = plan.top if backbone.sequential else 0
    path = cache / f"features-{_key(backbone, pictures, plan, top)}.safetensors"
    if path.is_file():
        try:
            state = load_state(path)
            return FeatureBank(state["features"], state.get("cuts"))
        except EdgeError as error:
            progress.note(f"{error}; computing the features again")
    bank = _compute(backbone, pictures, plan, top, device, progress)
    make_folder(cache)
    kept: dict[str, Tensor] = {"features": bank.features} | ({} if bank.cuts is None else {"cuts": bank.cuts})
    save_state(path, kept)
    return bank


def _key(backbone: Backbone, pictures: Pictures, plan: ViewPlan, top: int) -> str:
    digest = hashlib.sha256()
    weights = hashlib.sha256()
    for name, tensor in backbone.state_dict().items():
        weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    for part in (backbone.name, weights.hexdigest(), repr(backbone.input), backbone.crop, repr(plan), str(top)):
        digest.update(part.encode() + b"\0")
    digest.update("".join(content for _, content in pictures).encode())
    return digest.hexdigest()[:24]


def _compute(
    backbone: Backbone, pictures: Pictures, plan: ViewPlan, top: int, device: str, progress: Progress
) -> FeatureBank:
    backbone = backbone.to(device).eval()
    top = top if top and _cut_bytes(backbone, top) * len(pictures) * plan.count <= CUT_LIMIT_BYTES else 0
    features: list[Tensor] = []
    cuts: list[Tensor] = []
    progress.stage("features", len(pictures))
    with torch.inference_mode():
        for done, batch in _batches(backbone, pictures, plan):
            images = normalize(batch.to(device), backbone.input).contiguous(memory_format=torch.channels_last)
            cut = backbone.lower(images, top) if top else images
            maps = backbone.upper(cut, top) if top else backbone.maps(images)
            features.append(backbone.pool(maps).float().cpu())
            if top:
                cuts.append(cut.half().cpu().contiguous())
            progress.advance(done)
    backbone.to("cpu")
    # inference_mode's tensors cannot be trained on; a copy can.
    return FeatureBank(_by_view(features, plan.count), _by_view(cuts, plan.count) if top else None)


def _by_view(rows: Sequence[Tensor], views: int) -> Tensor:
    """Rows lie picture by picture, all views of one together: (N * V, ...) to (V, N, ...)."""
    flat = torch.cat(list(rows))
    return flat.view(-1, views, *flat.shape[1:]).transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _cut_bytes(backbone: Backbone, top: int) -> int:
    spec = backbone.input
    device = next(backbone.parameters()).device
    with torch.inference_mode():
        probe = torch.zeros(1, 3, spec.height_px or 0, spec.width_px or 0, device=device)
        return 2 * int(backbone.lower(probe, top).numel())


def _batches(backbone: Backbone, pictures: Pictures, plan: ViewPlan) -> Iterator[tuple[int, Tensor]]:
    """(pictures done, uint8 (n * V, 3, H, W)); pictures are decoded ahead, in threads, while the network works."""

    view = view_maker(plan.augment, backbone.input, backbone.crop)

    def views_of(index: int) -> list[Pixels]:
        path, content = pictures[index]
        pixels = read_picture(path)
        plain = prepare(pixels, backbone.input, backbone.crop)
        mirrored = [np.ascontiguousarray(plain[:, ::-1])] if plan.mirror else []
        seed = int(content[:12], 16)
        return [plain, *mirrored, *(view(pixels, seed_of(seed, number)) for number in range(plan.random))]

    step = max(1, BATCH // plan.count)
    starts = range(0, len(pictures), step)

    def batch_of(start: int) -> list[Pixels]:
        return [seen for index in range(start, min(start + step, len(pictures))) for seen in views_of(index)]

    # One thread: torchvision's random views draw from the global generator, so two at a time would disturb each other.
    with ThreadPoolExecutor(1) as pool:
        ahead = [pool.submit(batch_of, start) for start in starts[:2]]
        for number, start in enumerate(starts):
            ready = ahead.pop(0).result()
            if number + 2 < len(starts):
                ahead.append(pool.submit(batch_of, starts[number + 2]))
            yield min(start + step, len(pictures)), torch.from_numpy(np.stack(ready)).permute(0, 3, 1, 2)


def default_threads() -> int:
    """Threads for torch: the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
