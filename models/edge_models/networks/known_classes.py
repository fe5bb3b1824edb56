"""A network that tells beside its features which of the classes it was pretrained on it takes a picture for."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.model_card import InputSpec
from edge_models.networks.backbone import Source, TimmBackbone

KNOWING: Final = ":classes"
"""Behind a network's name: its features, and the chances of the classes that it knows."""
_LENGTH: Final = 12.0
"""Of the chances' part: the features of the Lites have a length of 10 to 16 (ants and bees, signs, steel)."""


class KnowingBackbone(TimmBackbone):
    """Features (N, D + K): those of a network, and the square roots of its chances for K classes, which do not learn.

    A head on features alone has to find in a few pictures what tells an ant from a bee; the network has seen a thousand
    of each. Square roots of chances have unit length, and their distance is Hellinger's: logits beside the features
    would add nothing, for they are linear in them. Where the classes are none that ImageNet knows, such as signs of a
    hand, the chances disturb: whether they are wanted is for a search to say.
    """

    matrix: Tensor
    bias: Tensor

    def __init__(
        self, name: str, body: nn.Module, spec: InputSpec, crop: str, source: Source, chain: int, matrix: Tensor,
        bias: Tensor,
    ) -> None:  # fmt: skip
        """`matrix` (K, D) and `bias` (K,) turn features to logits of the classes that the network knows."""
        super().__init__(name, body, spec, crop, source, chain)
        self.register_buffer("matrix", matrix.clone())
        self.register_buffer("bias", bias.clone())
        self.features = chain + len(bias)

    def pool(self, maps: Tensor) -> Tensor:
        """Feature maps to features (N, D + K)."""
        return self.beside(super().pool(maps))

    def beside(self, features: Tensor) -> Tensor:
        """The network's own features (..., D) with its chances beside them: (..., D + K)."""
        logits = functional.linear(features, self.matrix.to(features.device), self.bias.to(features.device))
        # Not softmax's square root, whose slope at no chance is infinite: layers may be fine-tuned below.
        return torch.cat([features, _LENGTH * (0.5 * logits.log_softmax(-1)).exp()], -1)

    @property
    def plain(self) -> TimmBackbone:
        """The same network without the chances: what is computed of pictures once serves both."""
        name = self.name.replace(KNOWING, "")
        return TimmBackbone(name, self.body, self.input, self.crop, self.source, self.matrix.shape[1])
