"""The network that a classifier's training starts from: by name, from a pretraining's run, at the pictures' size."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from edge_app.core.errors import UsageError
from edge_app.inference.geometry import parse_region, with_region
from edge_models.classifier.options import AUTO, ClassifierOptions
from edge_models.data.folder import PictureFolder, Split
from edge_models.data.judging import Seen, refuse
from edge_models.networks.backbone import Backbone
from edge_models.networks.backbones import create_backbone
from edge_models.networks.known_classes import KNOWING
from edge_models.networks.pretrained_run import load_pretrained, pool_of, pretrained_backbone
from edge_models.networks.small_resnet import PREFIX

_SMALL_PX: Final = 44
"""Folders whose pictures are mostly smaller are trained on at a size of their own."""
_ENLARGED: Final = 5
"""Times the pictures' side. Heads on efficientnet-lite0, 5 folds over 1,000 pictures of cifar10_small (32 px): 32 % at
32 px, 55 % at 64, 65 % at 96, 66 % at 128, 70 % at 160; a picture at 160 px costs a third of one at 224."""
_STEP_PX: Final = 32


def settled(options: ClassifierOptions, folder: PictureFolder) -> ClassifierOptions:
    """The options with the size, and the name of the network where a pretraining or --from-scratch decides it."""
    if options.from_run is not None:
        if options.backbone != AUTO or options.weights is not None or options.from_scratch:
            raise UsageError("--from beside another network", expected="one to start from", remedy="leave one out")
        options = replace(options, backbone=load_pretrained(options.from_run).base.name)
    if options.from_scratch and options.backbone == AUTO:
        options = replace(options, backbone=f"{PREFIX}{options.depth}")
    if options.from_scratch and KNOWING in options.backbone:
        raise UsageError(
            f"--from-scratch beside {options.backbone}",
            expected=f"a network without {KNOWING}: it knows no classes yet",
        )
    # Small students from scratch, 20 of a class of cifar10_small: 18 to 29 %, where doing without had 33 to 36.
    if options.backbone.startswith(PREFIX) and (options.unlabelled is not None or options.generations):
        raise UsageError(
            f"--unlabelled or --generations beside {options.backbone}",
            expected="a pretrained network",
            remedy="`train pretrain` learns from such pictures, and --from goes on",
        )  # fmt: skip
    if options.size is None and options.from_run is None and not options.backbone.startswith(PREFIX):
        options = replace(options, size=suitable_size(folder))
    return options


def suitable_size(folder: PictureFolder) -> int | None:
    """Side of the input for a folder of small pictures; None where the network's own size suits them."""
    side = float(np.median([min(picture.size_px) for picture in folder.pictures]))
    return max(2 * _STEP_PX, round(_ENLARGED * side / _STEP_PX) * _STEP_PX) if side <= _SMALL_PX else None


def starting_backbone(options: ClassifierOptions) -> Backbone:
    """The network that settled options name. Raises UsageError and ModelError as `create_backbone` does."""
    if options.from_run is not None:
        backbone = pretrained_backbone(load_pretrained(options.from_run))
    else:
        own = "@" in options.backbone or "+" in options.backbone  # a search tries sizes of its own
        backbone = create_backbone(
            options.backbone,
            weights=options.weights,
            pretrained=not options.from_scratch,
            size=None if own else options.size,
            seed=options.seed,
        )
    if options.size is not None and options.from_run is not None:
        backbone.resize(options.size)
    if options.roi:
        backbone.crop = with_region(backbone.crop, parse_region(options.roi))
    return backbone


def refuse_seen(options: ClassifierOptions, folder: PictureFolder, split: Split) -> None:
    """Raise UsageError where a picture that judges was in the pool that the network was pretrained on, or nearly."""
    if options.from_run is None:
        return
    judges = Seen.of(folder, split.judging).are_among(pool_of(load_pretrained(options.from_run)))
    refuse(
        f"the network of {options.from_run} has learned from",
        [folder.pictures[at].name for at in np.array(split.judging)[judges]],
        "pretrain again: `train pretrain POOL --labelled DIR` leaves them out",
    )
