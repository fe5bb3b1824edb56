"""What an export needs: the network, its card, and real pictures that it is compared and measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.core.model_card import ModelCard
from edge_app.core.types import Float32s, Pixels
from edge_export.graph.torch_export import Signature


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """One model before it is written."""

    card: ModelCard
    """Of the fp32 build, without parity figures."""
    module: torch.nn.Module
    """In evaluation mode: input (N, 3, H, W) normalized, outputs as the card names them."""
    signature: Signature
    gate_inputs: Float32s
    """(>= 32, 3, H, W) real pictures, normalized."""
    calibration: Float32s
    """(N >= 32, 3, H, W) training pictures only, of training identities only."""
    held_out: Float32s
    """(M, 3, H, W) pictures of the validation split or of held-out identities."""
    held_out_labels: NDArray[np.intp]
    """(M,) class or identity number of each."""
    held_out_names: tuple[str, ...]
    """File of each, relative to the data folder."""
    pictures: Callable[[int], Pixels]
    """The i-th held-out picture, (H, W, 3) uint8, read again when asked."""
    notes: tuple[str, ...] = ()
    """What the user should read: that the folder has changed since training, say."""
