"""Pictures to look at before training: what looks least like any other, what may be a placeholder, near-duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edge_app.media.pictures import read_picture, write_picture
from edge_models.data.folder import PictureFolder

NAME: Final = "look-first.jpg"
"""In the run's folder."""
LEAST_ALIKE: Final = 3
_NEIGHBOURS: Final = 5
_ENOUGH: Final = 20
"""In smaller folders every picture is unlike the others."""
_MOST: Final = 12
_SIDE_PX: Final = 200
_CAPTION_PX: Final = 20


def least_alike(features: Tensor, count: int = LEAST_ALIKE) -> list[int]:
    """The pictures whose nearest neighbours are farthest (cosine of centred features (N, D)), the oddest first.

    The placeholder among ants_bees is the first of 245 by Lite0's features and by Lite2's.
    """
    rows = features.double().numpy()
    if len(rows) < _ENOUGH:
        return []
    rows = rows - rows.mean(axis=0)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    nearness = np.empty(len(rows))
    for start in range(0, len(rows), 512):
        cosines = rows[start : start + 512] @ rows.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        nearness[start : start + 512] = np.partition(cosines, -_NEIGHBOURS, axis=1)[:, -_NEIGHBOURS:].mean(axis=1)
    return [int(i) for i in np.argsort(nearness, kind="stable")[:count]]


def show(folder: PictureFolder, features: Tensor, output: Path) -> str:
    """Write a sheet of the odd pictures into a run's folder; returns a sentence that names them, or nothing."""
    at = {picture.name: index for index, picture in enumerate(folder.pictures)}
    odd = least_alike(features)
    named = [(i, "least alike") for i in odd]
    for finding in folder.findings:
        if finding.kind in ("placeholder", "dark", "light", "blurred", "near-duplicate", "label conflict"):
            named += [(at[file], finding.kind) for file in finding.files[:2] if file in at]
    if not named:
        return ""
    columns = min(4, len(named))
    tiles = [_tile(folder.pictures[i].path, f"{why}: {folder.pictures[i].name}") for i, why in named[:_MOST]]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    write_picture(output / NAME, np.concatenate(rows))
    oddest = ", ".join(folder.pictures[i].name for i in odd)
    told = f"least like any other picture: {oddest}; " if odd else ""
    return f"{told}the pictures to look at first are in {NAME} of the run"


def _tile(path: Path, caption: str) -> NDArray[np.uint8]:
    tile = np.full((_SIDE_PX + _CAPTION_PX, _SIDE_PX, 3), 255, np.uint8)
    picture = read_picture(path, max_px=_SIDE_PX)
    height, width = (min(side, _SIDE_PX) for side in picture.shape[:2])
    tile[:height, :width] = picture[:height, :width]
    text = caption.encode("ascii", "replace").decode()[:34]
    cv2.putText(tile, text, (2, _SIDE_PX + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return tile
