"""What `edge-app train pretrain` leaves in its run, read back: a network without a head, and the hashes of its pool."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch

from edge_app.core.counts import counted
from edge_app.core.errors import ModelError, UsageError
from edge_models.data.judging import Seen
from edge_models.data.likeness import SHAPE
from edge_models.fitting.checkpoint import Checkpoint, load
from edge_models.networks.backbone import Backbone, Source
from edge_models.networks.backbones import create_backbone

FILE: Final = "pretrained.safetensors"


def load_pretrained(run: Path) -> Checkpoint:
    """The checkpoint of a pretraining, by its run's folder or its own path. Raises UsageError and ModelError."""
    path = run / FILE if run.is_dir() else run
    if not path.is_file():
        raise UsageError(f"{run} holds no {FILE}", expected="the folder of a finished `edge-app train pretrain`")
    checkpoint = load(path)
    if checkpoint.kind != "backbone":
        raise ModelError(f"{path} holds a trained {checkpoint.kind}", expected="what `train pretrain` made")
    return checkpoint


def pool_of(checkpoint: Checkpoint) -> Seen:
    """The pictures that a pretraining has learned from. Raises ModelError where the file does not tell them."""
    hashes, thumbnails = checkpoint.split.get("pool", ()), checkpoint.pool
    if thumbnails is None or thumbnails.dtype != torch.uint8 or tuple(thumbnails.shape) != (len(hashes), *SHAPE):
        raise ModelError(
            "the checkpoint of the pretraining does not tell which pictures it has learned from",
            expected=f"a thumbnail of each of its {counted(len(hashes), 'picture')}",
            remedy="pretrain again",
        )
    return Seen(hashes, list(thumbnails.numpy()))


def pretrained_backbone(checkpoint: Checkpoint) -> Backbone:
    """The network with its weights, in evaluation mode, at the size that it was pretrained at."""
    base = checkpoint.base
    backbone = create_backbone(base.name, pretrained=False, size=checkpoint.input.width_px)
    try:
        backbone.load_state_dict(dict(checkpoint.tensors))
    except RuntimeError as error:
        raise ModelError(f"the weights do not fit {base.name} ({str(error).splitlines()[0]})") from error
    backbone.input, backbone.crop = checkpoint.input, checkpoint.crop
    backbone.source = Source(base.licence, base.commercial_use, base.origin, base.origin_sha256)
    return backbone.eval()
