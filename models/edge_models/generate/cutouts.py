"""Objects cut out of their pictures: by their own transparency, by a mask beside them, or off a plain background."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edge_app.core.errors import MediaError
from edge_app.core.types import Pixels
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of_file

MASK_ENDING: Final = ".mask.png"
"""car.jpg has its mask in car.mask.png: white where the object is."""
_PLAIN_SPREAD: Final = 14.0
"""Most that the border of a plain background differs from its middle colour, in Lab, at so many of its pixels:"""
_PLAIN_SHARE: Final = 70
"""of a hundred. An arm or a stand that comes in from one side crosses up to a quarter of the border."""
_PLAIN_STEP: Final = 18.0
"""Least distance from the background's colour, in Lab, at which a pixel is the object's."""
_LEAST_SHARE, _MOST_SHARE = 0.005, 0.98
"""Of its picture, that a cut-out must cover."""


@dataclass(frozen=True, slots=True, eq=False)
class CutOut:
    """An object without what was around it, cropped to its bounds."""

    label: str
    colour: Pixels
    """(H, W, 3) uint8 RGB."""
    alpha: NDArray[np.float32]
    """(H, W), 0 to 1."""
    sha256: str
    """Of the file that it came from."""
    text: str = ""
    """What is written on it."""


def read_cutout(path: Path, label: str) -> CutOut:
    """Cut the object of a picture out. Raises MediaError for a picture that cannot be read, whose background is not
    plain and that has neither transparency nor a mask, or where nothing or everything would be the object."""
    pixels = read_picture(path)
    mask = path.with_name(path.stem + MASK_ENDING)
    alpha = transparency_of(path, pixels)
    if mask.is_file():
        alpha = _fitted(read_picture(mask)[..., 0], pixels)
    elif alpha is None or alpha.min() > 0.5:
        alpha = _off_plain(path, pixels)
    share = float((alpha > 0.5).mean())
    if not _LEAST_SHARE <= share <= _MOST_SHARE:
        raise MediaError(f"{path}: the object would be {share:.1%} of its picture", expected="a part of it")
    ys, xs = np.nonzero(alpha > 0.02)
    area = (slice(int(ys.min()), int(ys.max()) + 1), slice(int(xs.min()), int(xs.max()) + 1))
    return CutOut(label, np.ascontiguousarray(pixels[area]), alpha[area].copy(), sha256_of_file(path))


def transparency_of(path: Path, pixels: Pixels) -> NDArray[np.float32] | None:
    """A picture's alpha (H, W), 0 to 1, where any of it lets through; `pixels` were read before, so it is sound."""
    with Image.open(path) as image:
        if not ("A" in image.getbands() or "transparency" in image.info):
            return None
        alpha = np.asarray(ImageOps.exif_transpose(image.convert("RGBA")).getchannel("A"))
    return _fitted(alpha, pixels) if alpha.min() < 255 else None


def _fitted(alpha: NDArray[np.uint8], pixels: Pixels) -> NDArray[np.float32]:
    height, width = pixels.shape[:2]
    scaled = cv2.resize(np.ascontiguousarray(alpha), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, np.float32) / np.float32(255)


def _off_plain(path: Path, pixels: Pixels) -> NDArray[np.float32]:
    """What differs from the colour of the border and hangs together; holes are filled, edges are soft."""
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    rim = max(1, min(pixels.shape[:2]) // 30)
    border = np.concatenate([part.reshape(-1, 3) for part in (lab[:rim], lab[-rim:], lab[:, :rim], lab[:, -rim:])])
    ground = np.median(border, axis=0)
    spread = float(np.percentile(np.linalg.norm(border - ground, axis=1), _PLAIN_SHARE))
    if spread > _PLAIN_SPREAD:
        raise MediaError(
            f"{path} has no plain background (its border varies by {spread:.0f})",
            expected=f"transparency, a mask {path.stem}{MASK_ENDING} beside it, or a border of one colour",
        )
    distance = cv2.GaussianBlur(np.linalg.norm(lab - ground, axis=2).astype(np.float32), (0, 0), 1)
    found = (distance > max(_PLAIN_STEP, 2 * spread)).astype(np.uint8)
    outlines, _ = cv2.findContours(found, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        raise MediaError(f"{path}: nothing stands out from its background")
    largest = max(map(cv2.contourArea, outlines))
    kept = [outline for outline in outlines if cv2.contourArea(outline) >= 0.1 * largest]
    filled = np.zeros(found.shape, np.uint8)
    cv2.drawContours(filled, kept, -1, 255, cv2.FILLED)
    # One pixel in: the rim of the object carries the colour of its old background.
    inner = cv2.erode(filled, np.ones((3, 3), np.uint8))
    return np.asarray(cv2.GaussianBlur(inner, (0, 0), 0.7), np.float32) / np.float32(255)
