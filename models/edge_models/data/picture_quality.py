"""Pictures that show little beside the others of their folder: drawn, dark, light or blurred ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.inference.face_quality import detail
from edge_models.data.folder import Finding, Picture

_FLAT_PX: Final = 128
_FLAT_ODD: Final = 0.93
"""Of ants_bees' 245 pictures only its placeholder (0.96) is above; an insect on a white ground has 0.89."""
_FLAT_USUAL: Final = 0.5
"""Where half of the pictures are flatter than this, being flat is nothing odd: digits, scans, parts on white."""
_ENOUGH: Final = 10
_DETAIL_PX: Final = 160
_BLURRED: Final = 0.12
_SHARP: Final = 0.2
"""Where half of the pictures have less detail than this, being blurred is nothing odd: plain parts, X-rays."""
_DARK: Final = 16.0
"""Mean luminance, 0-255, of a picture in which next to nothing is seen."""
_LIGHT: Final = 40.0
"""Where half of the pictures are darker than this, they are meant to be."""
_BLOWN: Final = 250
_BLOWN_SHARE: Final = 0.25
_NO_SHADE: Final = 160.0
"""Too light: a quarter of the thumbnail's cells is at least `_BLOWN` of 255, and nine tenths at least this.

Set on 849 pictures of seven folders (faces, things, defects), 4 of which it names; of 841 others it names 2 as they
are, 738 with their light x 3 + 120, 492 with x 2.2 + 60, which leaves shade in many.
"""
_SHADED: Final = 140.0
"""Where half of the pictures have no darker tenth than this, they are meant to be light: things on white paper."""


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Fine detail at a shorter side of 160 px."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _DETAIL_PX / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return detail(cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY))


def flatness(pixels: NDArray[np.uint8]) -> float:
    """Share of the pixels that have one of the picture's four commonest colours, of 32,768."""
    small = cv2.resize(pixels, (_FLAT_PX, _FLAT_PX), interpolation=cv2.INTER_NEAREST).astype(np.int32) >> 3
    counts = np.bincount((small[..., 0] << 10 | small[..., 1] << 5 | small[..., 2]).ravel())
    return float(np.sort(counts)[-4:].sum() / _FLAT_PX**2)


def placeholders(pictures: Sequence[Picture]) -> list[Finding]:
    """Pictures that are drawn among photographs: "image not found" and its like. Kept, for they may be meant."""
    if len(pictures) < _ENOUGH or np.median([p.flat for p in pictures]) > _FLAT_USUAL:
        return []
    return [
        Finding("placeholder", (p.name,), f"four colours fill {p.flat:.0%} of it", "kept; please look")
        for p in pictures
        if p.flat >= _FLAT_ODD
    ]


def ill_lit_or_blurred(pictures: Sequence[Picture]) -> list[Finding]:
    """Pictures that show little among others that show more. Kept: they may be what the camera will see too."""
    if len(pictures) < _ENOUGH:
        return []
    light = {p.name: float(p.thumbnail.mean()) for p in pictures}
    findings = []
    if np.median(list(light.values())) > _LIGHT:
        findings += [
            Finding("dark", (p.name,), f"its brightness is {light[p.name]:.0f} of 255", "kept; please look")
            for p in pictures
            if light[p.name] < _DARK
        ]
    shade = {p.name: float(np.percentile(p.thumbnail, 10)) for p in pictures}
    blown = {p.name: float((p.thumbnail >= _BLOWN).mean()) for p in pictures}
    too_light = {name for name, low in shade.items() if low >= _NO_SHADE and blown[name] >= _BLOWN_SHARE}
    if np.median(list(shade.values())) < _SHADED:
        findings += [
            Finding("light", (p.name,), f"{blown[p.name]:.0%} of it is white, nothing is dark", "kept; please look")
            for p in pictures
            if p.name in too_light
        ]
    if np.median([p.sharpness for p in pictures]) > _SHARP:
        findings += [
            Finding("blurred", (p.name,), f"its detail is {p.sharpness:.2f}, under {_BLURRED}", "kept; please look")
            for p in pictures
            if p.sharpness < _BLURRED and light[p.name] >= _DARK and p.name not in too_light
        ]
    return findings
