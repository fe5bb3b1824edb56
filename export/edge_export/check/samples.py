"""Real pictures for the gate and for calibration: spread out of many, or varied out of few, at least `ENOUGH`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec
from edge_app.core.types import Float32s, Pixels
from edge_app.inference.geometry import CROPS, align, prepare
from edge_app.media import sample
from edge_app.media.folders import find_pictures
from edge_app.media.pictures import read_picture
from edge_app.model_store.open_detector import open_detector

ENOUGH: Final = 32
"""Pictures that the gate and a calibration ask for."""
GATE: Final = 40
CALIBRATION: Final = 128
_GAINS: Final = (1.0, 0.8, 1.2, 0.6)
_MOST_BYTES: Final = 600_000_000


def sample_crops(spec: InputSpec, crop: str) -> Pixels:
    """The app's sample pictures as a network takes them, each also mirrored, darker and brighter.

    Returns (N >= 32, H, W, 3) uint8. `crop` as in a card: an alignment template or "centre-S".
    """
    folder = Path(sample.__file__).parent
    pictures = [read_picture(path) for path in find_pictures(folder, recursive=False)]
    if crop in CROPS:
        detector = open_detector()
        seen = [(pixels, detector.detect(pixels)) for pixels in pictures]
        cut = [align(pixels, faces[0].landmarks, crop) for pixels, faces in seen if faces]
    else:
        cut = [prepare(pixels, spec, crop) for pixels in pictures]
    if not cut:
        raise ModelError(f"no face was found in {folder}", remedy="reinstall edge-app")
    return enough(np.stack(cut))


def enough(crops: Pixels, count: int = ENOUGH) -> Pixels:
    """(N, H, W, 3) pictures, with mirrored, darker and brighter ones behind them where they are fewer than `count`."""
    made = [crops]
    for gain in _GAINS:
        for step in (1, -1):
            if sum(map(len, made)) >= count:
                return np.concatenate(made)
            if (gain, step) != (1.0, 1):
                varied = np.clip(crops[:, :, ::step].astype(np.float32) * gain, 0, 255)
                made.append(varied.round().astype(np.uint8))
    # Still too few: the same again, turned over.
    everything = np.concatenate(made)
    doubled = np.concatenate([everything, everything[:, ::-1]])
    return np.resize(doubled, (max(count, len(doubled)), *doubled.shape[1:]))


def spread(indices: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """At most `count` of the indices, evenly over their order."""
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).round().astype(np.intp)]


def most_rows(spec: InputSpec) -> int:
    """How many inputs are held in memory at once: 600 MB of them."""
    return max(ENOUGH, _MOST_BYTES // (12 * (spec.width_px or 1) * (spec.height_px or 1)))


def no_inputs(spec: InputSpec) -> Float32s:
    """(0, 3, H, W)."""
    return np.zeros((0, 3, spec.height_px or 0, spec.width_px or 0), np.float32)
