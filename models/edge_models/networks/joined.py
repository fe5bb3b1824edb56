"""Several networks side by side on one input, their features one behind the other.

One linear head over them is the mean of a head over each (times their number), so an ensemble is trained, kept and
exported as one network: one graph, one card, and class activation maps that are the members' mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_app.core.errors import UsageError
from edge_models.networks.backbone import Backbone, Source

JOIN = "+"
"""Between the names of members: `efficientnet-lite0+efficientnet-lite2`."""


class JoinedBackbone(Backbone):
    """Members see the picture at the size of the largest; layers are unfrozen from the output of all at once.

    Raises UsageError for members that want other pixel values, or whose last maps have another grid: their places
    could not be laid one on the other.
    """

    sequential = False

    def __init__(self, name: str, members: Sequence[Backbone]) -> None:
        largest = max(members, key=lambda member: member.input.height_px or 0)
        licences = dict.fromkeys(member.source.licence for member in members)
        source = Source(
            ", ".join(licences),
            all(member.source.commercial_use for member in members),
            " and ".join(dict.fromkeys(member.source.origin for member in members)),
            hashlib.sha256("".join(member.source.origin_sha256 for member in members).encode()).hexdigest(),
        )
        super().__init__(name, nn.Identity(), largest.input, largest.crop, source)
        self.members = nn.ModuleList(members)
        for member in members:
            if (member.input.channels, member.input.mean, member.input.std) != (
                largest.input.channels,
                largest.input.mean,
                largest.input.std,
            ):
                raise UsageError(
                    f"{member.name} and {largest.name} want different pixel values", expected="networks of one family"
                )
        probe = torch.zeros(1, 3, largest.input.height_px or 0, largest.input.width_px or 0)
        with torch.inference_mode():
            shapes = [tuple(member.eval().maps(probe).shape[1:]) for member in members]
        if {(len(shape), *shape[1:]) for shape in shapes} != {(3, *shapes[0][1:])}:
            raise UsageError(
                f"the last maps of {name} have the sizes {', '.join(map(str, shapes))}", expected="one grid for all"
            )
        self._channels = [shape[0] for shape in shapes]
        self.features = sum(member.features for member in members)

    @property
    def parts(self) -> tuple[Backbone, ...]:
        """The members."""
        return tuple(part for part in self.members if isinstance(part, Backbone))

    def layers(self) -> tuple[nn.Module, ...]:
        """All members' layers; they are no chain."""
        return tuple(layer for part in self.parts for layer in part.layers())

    @property
    def groups(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The last group holds every member's last one, and so on towards the input."""
        own = [part.groups for part in self.parts]
        depth = max(map(len, own))
        return tuple(
            tuple(layer for groups in own if len(groups) >= back for layer in groups[-back])
            for back in range(depth, 0, -1)
        )

    def maps(self, images: Tensor) -> Tensor:
        """(N, sum of C, h, w)."""
        return torch.cat([part.maps(images) for part in self.parts], dim=1)

    def pool(self, maps: Tensor) -> Tensor:
        """Features (N, D), each member's by its own pooling."""
        pieces = torch.split(maps, self._channels, dim=1)
        return torch.cat([part.pool(piece) for part, piece in zip(self.parts, pieces, strict=True)], dim=1)


def joined_heads(
    weights: Sequence[Tensor], biases: Sequence[Tensor], scales: Sequence[float]
) -> tuple[Tensor, Tensor, float]:
    """One matrix (C, sum of D), bias (C,) and scale whose logits are the mean of the members' logits.

    A member's logits are `weight` (C, D) times features over its scale, plus its bias.
    """
    scale = math.exp(sum(map(math.log, scales)) / len(scales))
    count = len(weights)
    matrix = torch.cat([weight * (scale / own / count) for weight, own in zip(weights, scales, strict=True)], dim=1)
    return matrix, torch.stack(list(biases)).mean(0), scale
