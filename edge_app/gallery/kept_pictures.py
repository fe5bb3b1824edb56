"""The pictures that the gallery keeps when the user wants it: enough of each to enroll it again with another model.

A kept picture is a JPEG whose comment says where the face lies. Galleries made before hold upright crops as PNG: they
come back too, and serve the models that take that very crop.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from edge_app.core.errors import MediaError
from edge_app.core.types import Face, Float32s, Pixels
from edge_app.gallery.records import SPOILED
from edge_app.inference.geometry import resize

GROWN: Final = 2.0
"""Times the face box: every alignment template at hand lies within 1.6 times."""
LONGEST_PX: Final = 400
"""Longest side of what is kept: a face of 200 px, more than any embedder takes."""
_JPEG_QUALITY: Final = 95
_MOST_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    pixels: Pixels
    """(H, W, 3) uint8 RGB."""
    face: Face | None
    """The face in `pixels`; None for a thing, which fills them, and for an upright crop."""
    scale: float
    """Length of a line in `pixels` over its length in the frame, (0, 1]."""
    upright_crop: bool
    """An aligned crop of a gallery made before, which another alignment cannot be cut from."""


def keep(pixels: Pixels, face: Face | None) -> bytes:
    """Encode the surroundings of a face of (H, W, 3) uint8 RGB pixels; None: all of them, the area of a thing."""
    if face is None:
        shrunk, scale = _fitted(pixels)
        return _encoded(shrunk, {"scale": scale})
    height, width = pixels.shape[:2]
    centre = (face.box[:2] + face.box[2:]) / 2
    half = (face.box[2:] - face.box[:2]) / 2 * GROWN
    x1, y1 = (max(0, int(v)) for v in np.floor(centre - half))
    x2, y2 = (min(limit, int(v)) for limit, v in zip((width, height), np.ceil(centre + half), strict=True))
    region, scale = _fitted(pixels[y1 : max(y1 + 1, y2), x1 : max(x1 + 1, x2)])
    corner = np.array([x1, y1], np.float32)
    # Centres of pixels: one at p of the region covers (p + 0.5) * scale - 0.5 of the smaller picture.
    box = (face.box.reshape(2, 2) - corner) * scale
    landmarks = (face.landmarks - corner + 0.5) * scale - 0.5
    facts = {
        "box": box.reshape(-1).tolist(),
        "landmarks": landmarks.tolist(),
        "score": face.score,
        "scale": scale,
    }
    return _encoded(region, facts)


def kept_picture(data: bytes) -> Kept:
    """Decode what the gallery holds. Raises MediaError when it is damaged."""
    if len(data) > _MOST_BYTES:
        raise MediaError(f"a kept picture has {len(data):,} bytes", expected=f"at most {_MOST_BYTES:,}")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            pixels = np.asarray(image.convert("RGB"), np.uint8)
            comment = image.info.get("comment")
        if not comment:
            return Kept(pixels, None, 1.0, upright_crop=True)
        facts = json.loads(comment)
        scale = float(facts["scale"])
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"a scale of {scale}")
        face = None
        if "landmarks" in facts:
            face = Face(_floats(facts["box"]), _floats(facts["landmarks"]), float(facts["score"]))
    except (OSError, SyntaxError, *SPOILED, Image.DecompressionBombError) as error:
        raise MediaError(f"a kept picture is damaged: {error}", remedy="enroll from another picture") from error
    return Kept(pixels, face, scale, upright_crop=False)


def _floats(values: object) -> Float32s:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which `Face` refuses
        return np.asarray(values, np.float32)


def _fitted(pixels: Pixels) -> tuple[Pixels, float]:
    height, width = pixels.shape[:2]
    scale = min(1.0, LONGEST_PX / max(height, width))
    return resize(pixels, max(1, round(width * scale)), max(1, round(height * scale))), scale


def _encoded(pixels: Pixels, facts: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels), "RGB")
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0, comment=json.dumps(facts).encode())
    return buffer.getvalue()
