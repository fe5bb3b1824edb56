"""Runs an embedder: aligned crops in, unit vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from edge_app.core.errors import ModelError
from edge_app.core.types import Embedding, Face, Float32s, Pixels
from edge_app.inference.geometry import align, crop_named, to_input
from edge_app.inference.light import clear_crop
from edge_app.inference.onnx_model import Model

_BATCH: Final = 16
"""Crops in one run: bounds memory; larger batches are no faster on a CPU."""


class Embedder:
    """Computes embeddings of aligned crops with one model."""

    def __init__(self, model: Model) -> None:
        if not model.card.task.embeds:
            raise ModelError(f"{model.card.id} is a model for {model.card.task}", expected="an embedder")
        self.card = model.card
        self._model = model

    @property
    def model_id(self) -> str:
        """Id of the model, which is also the name of its embedding space."""
        return self.card.id

    @property
    def crop(self) -> str:
        """Name of the alignment template that its crops follow."""
        return self.card.crop

    def crops(self, pixels: Pixels, faces: Sequence[Face]) -> Pixels:
        """Cut out every face upright. Returns (N, S, S, 3) uint8 RGB."""
        size = crop_named(self.crop).size_px
        if not faces:
            return np.zeros((0, size, size, 3), np.uint8)
        return np.stack([align(pixels, face.landmarks, self.crop) for face in faces])

    def embed(self, crops: Pixels) -> list[Embedding]:
        """Embed (N, S, S, 3) uint8 RGB crops; N may be 0."""
        return [Embedding(vector, self.model_id) for vector in self.vectors(crops)]

    def vectors(self, crops: Pixels) -> Float32s:
        """Embed (N, S, S, 3) uint8 RGB crops to raw (N, D) float32, not normalized: the evaluator's view.

        Faces that are dark or noisy are lifted and smoothed first.
        """
        if self.card.task == "face-embedding" and len(crops):
            crops = np.stack([clear_crop(crop) for crop in crops])
        parts = [
            self._model.run(to_input(crops[start : start + _BATCH], self.card.input))[0]
            for start in range(0, len(crops), _BATCH)
        ]
        size = self.card.embedding_size or 0
        return np.concatenate(parts) if parts else np.zeros((0, size), np.float32)
