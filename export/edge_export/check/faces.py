"""Real faces to compare and calibrate on: pictures in, aligned crops out, found with the original detector so that
nothing built here judges itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_app.core.errors import MediaError, ModelError
from edge_app.core.types import Pixels
from edge_app.inference.geometry import align, resize
from edge_app.inference.yunet import decode_yunet
from edge_app.media import sample
from edge_app.media.folders import find_pictures
from edge_app.media.pictures import read_picture
from edge_export.graph.session import Float32s, Function

CROP = "arcface-112"
"""Alignment that SFace was trained with."""
_WORKING_PX = 640
_MIN_SCORE = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """What one folder gave."""

    pictures: tuple[Pixels, ...]
    """(H, W, 3) uint8 RGB each, at most 640 px a side, every one with a face."""
    crops: Pixels
    """(N, 112, 112, 3) uint8 RGB, the best face of each picture, aligned."""
    shipped: bool
    """Whether these are the app's own sample pictures."""


def gather(
    folder: Path | None, limit: int, detector: Function, progress: Callable[[int, int], None] = lambda done, total: None
) -> Faces:
    """Up to `limit` faces, spread evenly over the sorted files of a folder tree.

    `detector`: YuNet's raw function, (1, 3, H, W) BGR 0–255 in, twelve outputs. Unreadable pictures and pictures
    without a face are passed over. Raises ModelError when no face is left, MediaError when there is no picture.
    """
    where = folder or Path(sample.__file__).parent
    files = find_pictures(where, recursive=folder is not None)
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int))]
    pictures, crops = [], []
    for done, path in enumerate(chosen, start=1):
        picture = _readable(path)
        crop = None if picture is None else best_crop(picture, detector)
        if picture is not None and crop is not None:
            pictures.append(picture)
            crops.append(crop)
        progress(done, len(chosen))
    if not crops:
        raise ModelError(f"no face was found in the pictures of {where}", expected="a folder of faces")
    return Faces(tuple(pictures), np.stack(crops), shipped=folder is None)


def _readable(path: Path) -> Pixels | None:
    """One damaged file among thousands is no reason to stop: the number of faces used is reported."""
    try:
        picture = read_picture(path, max_px=_WORKING_PX)
    except MediaError:
        return None
    return picture if min(picture.shape[:2]) >= 32 else None


def best_crop(picture: Pixels, detector: Function) -> Pixels | None:
    """The face with the highest score, upright, (112, 112, 3); None where there is none."""
    canvas = padded(picture)
    outputs = tuple(detector(bgr(canvas[None])))
    _, landmarks, scores = decode_yunet(outputs, canvas.shape[1], _MIN_SCORE)
    return align(picture, landmarks[scores.argmax()], CROP) if len(scores) else None


def padded(picture: Pixels, side_px: int | None = None) -> Pixels:
    """The picture with black to its right and below: to multiples of 32, or to a square (shrunk if it must be)."""
    height, width = picture.shape[:2]
    if side_px is not None and max(height, width) > side_px:
        scale = side_px / max(height, width)
        picture = resize(picture, max(1, int(width * scale)), max(1, int(height * scale)))
        height, width = picture.shape[:2]
    canvas = np.zeros((side_px or -(-height // 32) * 32, side_px or -(-width // 32) * 32, 3), np.uint8)
    canvas[:height, :width] = picture
    return canvas


def cut_tight(crops: Pixels, seed: int = 0) -> Pixels:
    """Aligned crops (N, 112, 112, 3) as they come out of pictures that end at the face: black at the top and the sides.

    Margins and tilt are those of 363 of UTKFace's pictures: 20 to 29 px are missing at the top, up to 12 at each side.
    """
    rng = np.random.default_rng(seed)
    cut = []
    for crop in crops:
        left, right, top = rng.uniform(4, 12), 112 - rng.uniform(0, 11), rng.uniform(20, 29)
        turn = np.deg2rad(rng.normal(0, 8))
        corners = np.array([[left, top], [right, top], [right, 140], [left, 140]]) - 56
        turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + 56
        inside = np.zeros(crop.shape[:2], np.uint8)
        cv2.fillConvexPoly(inside, np.rint(turned * 16).astype(np.int32), 1, shift=4)
        cut.append(crop * inside[..., None])
    return np.stack(cut) if cut else crops


def bgr(images: Pixels) -> Float32s:
    """(N, H, W, 3) uint8 RGB → (N, 3, H, W) float32 BGR 0–255."""
    return np.ascontiguousarray(images[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)


def rgb(images: Pixels) -> Float32s:
    """(N, H, W, 3) uint8 RGB → (N, 3, H, W) float32 RGB 0–255."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)


def batches_of(images: Float32s, size: int) -> list[Float32s]:
    """Split along the first axis into batches of at most `size`."""
    return [images[i : i + size] for i in range(0, len(images), size)]
