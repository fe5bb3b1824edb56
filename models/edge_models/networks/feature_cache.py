"""Runs the layers of a network that do not learn over every picture once and keeps what they make on disk.

One cache serves classifiers, which need pooled features and perhaps lower-layer maps in half precision, and embedders,
which need the maps alone, those of the plain view in full precision.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
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
from edge_models.fitting.progress import Progress
from edge_models.fitting.seeds import seed_of
from edge_models.networks.backbone import Backbone, normalize
from edge_models.networks.folded import folded
from edge_models.networks.known_classes import KnowingBackbone
from edge_models.networks.style import Styles, styled

BATCH: Final = 16
"""Views through the network at a time on a CPU: larger batches leave its cache, measured 20 % slower at 64."""
GPU_BATCH: Final = 256

CUT_LIMIT_BYTES: Final = 2 * 1024**3
"""More than this of lower-layer maps is not kept beside pooled features: unfrozen layers then train on pictures."""

_AHEAD: Final = 2
"""Batches that are decoded while the network works on one."""

Pictures = Sequence[tuple[Path | Pixels, str]]
"""Picture files, or (H, W, 3) uint8 RGB pixels, and the SHA-256 of their content."""


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """Which views of a picture are computed, and what of them is kept."""

    random: int
    """Random views beside the plain one and its mirror image."""
    mirror: bool = True
    """Off for pictures whose left and right mean something."""
    top: int = 0
    """Groups of layers that will be unfrozen; 0 keeps pooled features only."""
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    """What the random views look like."""
    maps_only: bool = False
    """Keep what lies below the top groups alone, however large, the plain view's in full precision too."""
    crop: str | None = None
    """How a picture becomes the input; None: as the network says."""

    @property
    def count(self) -> int:
        """Views per picture, the plain one first."""
        return 1 + int(self.mirror) + self.random


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBank:
    """Views by pictures."""

    features: Tensor
    """(V, N, D) float32; view 0 is the plain one, the one that serving computes. D is 0 where only maps are kept."""
    cuts: Tensor | None
    """(V, N, c, h, w) float16: the input of the layers that are unfrozen; None where there is none."""
    exact: Tensor | None = None
    """(N, c, h, w) float32: the plain view's maps in full precision, where the plan wants maps only."""

    @property
    def plain(self) -> Tensor:
        """(N, D) features of the plain views."""
        return self.features[0]


@dataclass(frozen=True, slots=True)
class FeatureCache:
    """A folder of feature files, each named by the hash of all that it depends on."""

    folder: Path
    progress: Progress
    device: str = "cpu"

    def bank(self, backbone: Backbone, pictures: Pictures, plan: ViewPlan, styles: Styles | None = None) -> FeatureBank:
        """Compute the features, or take them from the folder. `styles` change random views alone.

        Pictures, weights and plan name the file, so that another picture or network never meets old features. Random
        views depend on the picture's content alone, so runs of different seeds share a file. Raises MediaError when a
        picture has become unreadable meanwhile.
        """
        if isinstance(backbone, KnowingBackbone):
            bank = self.bank(backbone.plain, pictures, plan, styles)
            return bank if plan.maps_only else replace(bank, features=backbone.beside(bank.features))
        # Also where the cache spares the work: the layout decides the last bits of whatever is trained afterwards.
        backbone.to(memory_format=torch.channels_last)
        top = plan.top if backbone.sequential else 0
        path = self.folder / f"features-{_key(backbone, pictures, plan, top, styles)}.safetensors"
        if path.is_file():
            try:
                state = load_state(path)
                return FeatureBank(state["features"], state.get("cuts"), state.get("exact"))
            except (EdgeError, KeyError) as error:
                self.progress.note(f"{error}; computing the features again")
        bank = self._compute(backbone, pictures, plan, top, styles)
        make_folder(self.folder)
        kept = {"features": bank.features, "cuts": bank.cuts, "exact": bank.exact}
        save_state(path, {name: tensor for name, tensor in kept.items() if tensor is not None})
        return bank

    def _compute(
        self, backbone: Backbone, pictures: Pictures, plan: ViewPlan, top: int, styles: Styles | None
    ) -> FeatureBank:
        device, views = self.device, plan.count
        backbone = backbone.to(device).eval()
        if top and not plan.maps_only and _cut_bytes(backbone, top) * len(pictures) * views > CUT_LIMIT_BYTES:
            top = 0
        features: list[Tensor] = []
        cuts: list[Tensor] = []
        exact: list[Tensor] = []
        self.progress.stage(f"features of {backbone.name}", len(pictures))
        seeing = folded(backbone)
        with torch.inference_mode():
            for done, batch in _batches(backbone, pictures, plan, BATCH if device == "cpu" else GPU_BATCH):
                images = normalize(batch.to(device), backbone.input).contiguous(memory_format=torch.channels_last)
                with _in_style(seeing, pictures, plan, styles, done, len(images)):
                    cut = seeing.lower(images, top) if top else images
                    maps = None if plan.maps_only else seeing.upper(cut, top) if top else seeing.maps(images)
                if maps is None:
                    exact.append(cut[::views].float().cpu().contiguous())
                else:
                    features.append(seeing.pool(maps).float())
                if top:
                    cuts.append(cut.half().cpu().contiguous())
                self.progress.advance(done)
        backbone.to("cpu")
        count = len(pictures)
        return FeatureBank(
            _by_view(features, views).cpu() if features else torch.zeros(views, count, 0),
            _by_view(cuts, views) if cuts else None,
            # inference_mode's tensors cannot be trained on; a copy can.
            torch.cat(exact).clone() if exact else None,
        )


def _in_style(
    backbone: Backbone, pictures: Pictures, plan: ViewPlan, styles: Styles | None, done: int, rows: int
) -> AbstractContextManager[None]:
    """The random views of the last batch, which ends with picture `done`, in the styles that each one's seed draws."""
    if styles is None or not plan.random:
        return nullcontext()
    first, drawn = done - rows // plan.count, []
    for row in range(rows):
        index, number = first + row // plan.count, row % plan.count - (plan.count - plan.random)
        if number >= 0:
            content = pictures[index][1]
            drawn.append((row, *styles.drawn(seed_of(int(content[:12], 16), number), content)))
    return styled(backbone, styles, *zip(*drawn, strict=True))


def _key(backbone: Backbone, pictures: Pictures, plan: ViewPlan, top: int, styles: Styles | None) -> str:
    digest = hashlib.sha256()
    weights = hashlib.sha256()
    for name, tensor in backbone.state_dict().items():
        weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    for part in (backbone.name, weights.hexdigest(), repr(backbone.input), backbone.crop, repr(plan), str(top)):
        digest.update(part.encode() + b"\0")
    digest.update("".join(content for _, content in pictures).encode())
    if styles is not None:
        digest.update(b"styles" + styles.digest)
    return digest.hexdigest()[:24]


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


def _batches(backbone: Backbone, pictures: Pictures, plan: ViewPlan, size: int) -> Iterator[tuple[int, Tensor]]:
    """(pictures done, uint8 (n * V, 3, H, W)); pictures are decoded ahead, in threads, while the network works."""
    crop = plan.crop or backbone.crop
    view = view_maker(plan.augment, backbone.input, crop)

    def decoded(index: int) -> Pixels:
        picture = pictures[index][0]
        return read_picture(picture) if isinstance(picture, Path) else picture

    def views_of(index: int, pixels: Pixels) -> list[Pixels]:
        plain = prepare(pixels, backbone.input, crop)
        mirrored = [np.ascontiguousarray(plain[:, ::-1])] if plan.mirror else []
        seed = int(pictures[index][1][:12], 16)
        return [plain, *mirrored, *(view(pixels, seed_of(seed, number)) for number in range(plan.random))]

    step = max(1, size // plan.count)
    # On a CPU the network needs the cores. Views are made in one thread: torchvision's draw from the global generator,
    # so two at a time would disturb each other.
    with ThreadPoolExecutor(1 if size == BATCH else default_threads()) as readers, ThreadPoolExecutor(1) as maker:

        def batch_of(start: int) -> Tensor:
            at = range(start, min(start + step, len(pictures)))
            pixels = dict(zip(at, readers.map(decoded, at), strict=True))
            ready = [seen for index in at for seen in views_of(index, pixels[index])]
            return torch.from_numpy(np.stack(ready)).permute(0, 3, 1, 2)

        starts = deque(range(0, len(pictures), step))
        ahead: deque[tuple[int, Future[Tensor]]] = deque()
        while starts or ahead:
            while starts and len(ahead) <= _AHEAD:
                start = starts.popleft()
                ahead.append((start, maker.submit(batch_of, start)))
            start, batch = ahead.popleft()
            yield min(start + step, len(pictures)), batch.result()


def default_threads() -> int:
    """Threads for torch: the cores that this process may use, or OMP_NUM_THREADS where that is fewer.

    On cores that others use as well, more of them wait for each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(told)) if told.isdecimal() and int(told) else cores
