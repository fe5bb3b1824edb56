"""Batch-norms that no longer learn statistics, folded into the convolutions before them.

A network in evaluation mode computes the same with a third less time: Lite0 at 128 px takes 7.0 instead of 10.0 ms of
processor time a picture, a training step 20.8 instead of 27.2.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from torch import nn

from edge_models.networks.backbone import Backbone

_SAME: Final = 1e-3
"""Of the largest value: how far folded maps may be from the network's own."""


def folded(backbone: Backbone) -> Backbone:
    """A copy without those batch-norms; the network itself where it has none or cannot do without them."""
    if not any(True for _ in _pairs(backbone)):
        return backbone
    found = copy.deepcopy(backbone).eval()
    for parent, name, convolution, norm in list(_pairs(found)):
        with torch.no_grad():
            slope = _of(norm.weight) * (_of(norm.running_var) + norm.eps).rsqrt()
            start = _of(norm.bias) - _of(norm.running_mean) * slope
            if convolution.bias is not None:
                start += slope * convolution.bias
            convolution.weight.mul_(slope.view(-1, *[1] * (convolution.weight.ndim - 1)))
            convolution.bias = nn.Parameter(start)
        setattr(parent, name, _behind(norm))
    # Tried, not looked up: a network's parts need not run in the order in which it lists them.
    device = next(backbone.parameters()).device
    probe = torch.linspace(-1, 1, 3 * 64 * 64, device=device).view(1, 3, 64, 64)
    with torch.inference_mode():
        try:
            theirs, ours = backbone.eval().maps(probe), found.maps(probe)
        except (RuntimeError, AssertionError):  # a network that takes its own size alone
            return backbone
    same = theirs.shape == ours.shape and float((theirs - ours).abs().max()) <= _SAME * float(theirs.abs().max())
    return found if same else backbone


def unfolded(found: Backbone, backbone: Backbone) -> None:
    """Give `backbone` what its folded copy has learned: its batch-norms add what was added, and scale nothing."""
    if found is backbone:
        return
    folded_parts = dict(found.named_modules())
    with torch.no_grad():
        ours = dict(backbone.named_parameters())
        for name, parameter in found.named_parameters():
            if name in ours:
                ours[name].copy_(parameter)
        names = {module: name for name, module in backbone.named_modules()}
        for _, _, convolution, norm in _pairs(backbone):
            learned = cast(nn.Conv2d, folded_parts[names[convolution]])
            norm.weight.copy_((_of(norm.running_var) + norm.eps).sqrt())
            norm.bias.copy_(_of(norm.running_mean) + _of(learned.bias))
            if convolution.bias is not None:
                convolution.bias.zero_()


def _pairs(backbone: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d, nn.BatchNorm2d]]:
    """Batch-norms that stand behind a convolution: their parent, their name in it, the convolution, they themselves."""
    for parent in backbone.modules():
        last: nn.Module | None = None
        for name, child in parent.named_children():
            if isinstance(child, nn.Identity):
                continue
            if isinstance(child, nn.BatchNorm2d) and child.affine and isinstance(last, nn.Conv2d):
                yield parent, name, last, child
            last = child


def _behind(norm: nn.BatchNorm2d) -> nn.Module:
    """What timm's norms do after norming."""
    parts: list[Any] = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    kept = [part for part in parts if not isinstance(part, nn.Identity)]
    return kept[0] if len(kept) == 1 else nn.Sequential(*kept) if kept else nn.Identity()


def _of(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor
