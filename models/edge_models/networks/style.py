"""Style as augmentation: early feature maps of a picture get channel statistics that are mixed with another picture's.

MixStyle (Zhou et al. 2021, arXiv 2104.02008) on the statistics of AdaIN (Huang and Belongie 2017, arXiv 1703.06868).
Only random views and batches that are learned from are styled; the network itself stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from edge_app.core.counts import counted
from edge_app.core.errors import MediaError, UsageError
from edge_app.inference.geometry import prepare
from edge_app.media.pictures import read_picture
from edge_models.fitting.progress import Progress
from edge_models.networks.backbone import Backbone, normalize
from edge_models.networks.joined import JoinedBackbone

MOST_PICTURES: Final = 400
"""Styles of a folder; of more pictures so many are taken, evenly spread."""
_ALPHA: Final = 0.1
"""Of Beta(alpha, alpha), from which a picture's own share of its new statistics is drawn; the paper's."""
_CHANCE: Final = 0.5
"""Of a picture to be styled while layers learn; the paper's. Random views that are cached are styled all, for plain
and mirrored ones stand beside them."""
_BATCH: Final = 16
_LEAST: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Styles:
    """Channel statistics of S pictures behind the early layers of one network."""

    means: tuple[Tensor, ...]
    """(S, c) float32 for each of `mixed_layers`."""
    spreads: tuple[Tensor, ...]
    """Standard deviations, likewise."""
    pictures: tuple[str, ...]
    """SHA-256 of each picture's content."""

    @property
    def digest(self) -> bytes:
        """What cached features depend on beside the network."""
        return hashlib.sha256("".join(self.pictures).encode()).digest()

    def drawn(self, seed: int, own: str = "") -> tuple[int, float]:
        """Which style a view gets, another than the picture's `own`, and what share of its statistics stays."""
        rng = np.random.default_rng([seed, 7])
        pick = int(rng.integers(len(self.pictures)))
        if self.pictures[pick] == own:
            pick = (pick + 1) % len(self.pictures)
        return pick, float(rng.beta(_ALPHA, _ALPHA))


def mixed_layers(backbone: Backbone) -> list[nn.Module]:
    """The layers behind which statistics are mixed: the ends of the second group and of the first quarter, as the
    paper's first two stages of a ResNet."""
    if isinstance(backbone, JoinedBackbone):
        return [layer for part in backbone.parts for layer in mixed_layers(part)]
    groups = backbone.groups
    return [groups[i][-1] for i in sorted({min(1, len(groups) - 1), len(groups) // 4})]


def styles_of(backbone: Backbone, pictures: Sequence[tuple[Path, str]], progress: Progress) -> Styles:
    """Measure the styles of picture files, each with the SHA-256 of its content; one that cannot be read is left out.

    Raises UsageError for fewer than two pictures, or a network whose early layers give no maps (N, c, h, w).
    """
    if len(pictures) < 2:
        raise UsageError(f"found {counted(len(pictures), 'picture')} to take styles from", expected="two or more")
    if len(pictures) > MOST_PICTURES:
        at = np.linspace(0, len(pictures) - 1, MOST_PICTURES).astype(int)
        pictures = [pictures[i] for i in at]
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in mixed_layers(backbone)]

    def keep(number: int) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, maps: Tensor) -> None:
            if maps.ndim != 4:
                raise UsageError(f"{backbone.name} has no feature maps to style", expected="a convolutional network")
            spread, mean = torch.std_mean(maps.float(), dim=(2, 3), correction=0)
            seen[number].append((mean.cpu(), spread.cpu()))

        return hook

    handles = [layer.register_forward_hook(keep(n)) for n, layer in enumerate(mixed_layers(backbone))]
    progress.stage("styles", len(pictures))
    used: list[str] = []
    groups = len(backbone.groups)
    try:
        with torch.inference_mode():
            backbone.eval()
            for start in range(0, len(pictures), _BATCH):
                some = []
                for path, digest in pictures[start : start + _BATCH]:
                    try:
                        some.append(read_picture(path))
                        used.append(digest)
                    except MediaError as error:
                        progress.note(f"{error}; left out of the styles")
                if not some:
                    continue
                cut = np.stack([prepare(pixels, backbone.input, backbone.crop) for pixels in some])
                images = normalize(torch.from_numpy(cut).permute(0, 3, 1, 2), backbone.input)
                if backbone.sequential:
                    backbone.lower(images, groups - 1 - max(1, groups // 4))
                else:
                    backbone.maps(images)
                progress.advance(start + len(some))
    finally:
        for handle in handles:
            handle.remove()
    if len(used) < 2:
        raise UsageError(f"{len(used)} of the pictures to take styles from can be read", expected="two or more")
    means, spreads = zip(
        *((torch.cat([m for m, _ in one]).clone(), torch.cat([s for _, s in one]).clone()) for one in seen),
        strict=True,
    )
    return Styles(means, spreads, tuple(used))


@contextmanager
def styled(
    backbone: Backbone, styles: Styles, rows: Sequence[int], picks: Sequence[int], shares: Sequence[float]
) -> Iterator[None]:
    """Within, the pictures at `rows` of a batch leave the early layers with mixed statistics; the others untouched.

    `picks` tells whose style each of them gets, `shares` in [0, 1] what of its own statistics stays.
    """
    at, chosen, own = torch.tensor(rows, dtype=torch.long), torch.tensor(picks, dtype=torch.long), torch.tensor(shares)

    def mix(number: int) -> Any:
        def hook(_layer: nn.Module, _inputs: Any, maps: Tensor) -> Tensor:
            where, share = at.to(maps.device), own.to(maps.device)[:, None]
            some = maps[where].float()
            with torch.no_grad():
                spread, mean = torch.std_mean(some, dim=(2, 3), correction=0)
                new_mean = share * mean + (1 - share) * styles.means[number][chosen].to(maps.device)
                new_spread = share * spread + (1 - share) * styles.spreads[number][chosen].to(maps.device)
                gain = new_spread / spread.clamp_min(_LEAST)
            changed = (some - mean[..., None, None]) * gain[..., None, None] + new_mean[..., None, None]
            result = maps.clone()
            result[where] = changed.to(maps.dtype)
            return result

        return hook

    handles = [layer.register_forward_hook(mix(n)) for n, layer in enumerate(mixed_layers(backbone))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class StyledBackbone(nn.Module):
    """A backbone that styles half of each batch while it learns, and none while it judges.

    Draws from torch's global generator, which a run's seed sets.
    """

    def __init__(self, backbone: Backbone, styles: Styles) -> None:
        super().__init__()
        self.backbone = backbone
        self._styles = styles

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, D)."""
        rows = torch.nonzero(torch.rand(len(images)) < _CHANCE).flatten().tolist() if self.training else []
        if not rows:
            return self.backbone(images)  # type: ignore[no-any-return]
        picks = torch.randint(len(self._styles.pictures), (len(rows),)).tolist()
        shares = torch.distributions.Beta(_ALPHA, _ALPHA).sample((len(rows),)).tolist()
        with styled(self.backbone, self._styles, rows, picks, shares):
            features: Tensor = self.backbone(images)
        return features
