"""Sightings drawn on pictures: hides fonts, line widths, and where a label finds room.

In: RGB pixels and sightings. Out: new pixels with a box and a label for each face. Known and unknown differ without
colour too: a known face has a whole frame and a name, an unknown one a dashed frame and a question mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import cv2
import numpy as np

from edge_app.domain import Pixels, Sighting

Colour = tuple[int, int, int]
"""Red, green, blue, 0-255."""

KNOWN: Final[Colour] = (0, 158, 115)
UNKNOWN: Final[Colour] = (230, 159, 0)
"""Bluish green and orange of the Okabe-Ito palette, which colour-blind people tell apart."""

_INK: Final[dict[Colour, Colour]] = {KNOWN: (255, 255, 255), UNKNOWN: (0, 0, 0)}
_SMALLEST_TEXT_PX: Final = 10


def label_of(sighting: Sighting) -> str:
    """What is written at a face: the name and the similarity, or that it is unknown."""
    match = sighting.match
    return "? unknown" if match.name is None else f"{match.name} {match.similarity:.2f}"


def annotate(pixels: Pixels, sightings: Iterable[Sighting]) -> Pixels:
    """Return a copy of (H, W, 3) uint8 RGB pixels with the sightings drawn on it.

    Names may be in any script: OpenCV 5 brings fonts for Latin, Greek, Cyrillic, Arabic, Chinese, Japanese and
    Korean, and writes "?" for what they lack (emoji, for one). Labels that find no room are shortened with "…".
    """
    canvas = np.array(pixels, dtype=np.uint8, order="C")
    shorter_px = min(canvas.shape[:2])
    line_px = max(1, round(shorter_px / 240))
    text_px = max(_SMALLEST_TEXT_PX + 2, round(shorter_px / 26))
    font = cv2.FontFace("sans")  # one for each call: it is not said to be safe across threads, and costs 5 us
    # The largest face last, so that its label is whole.
    for sighting in sorted(sightings, key=lambda one: one.face.area_px2):
        colour = UNKNOWN if sighting.match.name is None else KNOWN
        corners = np.rint(sighting.face.box).astype(int).tolist()
        _frame(canvas, corners, colour, line_px, dashed=sighting.match.name is None)
        _label(canvas, label_of(sighting), corners, colour, text_px, font)
    return canvas


def _frame(canvas: Pixels, corners: list[int], colour: Colour, line_px: int, *, dashed: bool) -> None:
    x1, y1, x2, y2 = corners
    if not dashed:
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line_px)
        return
    dash_px = max(4, 4 * line_px)
    for x in range(x1, x2, 2 * dash_px):
        for y in (y1, y2):
            cv2.line(canvas, (x, y), (min(x + dash_px, x2), y), colour, line_px)
    for y in range(y1, y2, 2 * dash_px):
        for x in (x1, x2):
            cv2.line(canvas, (x, y), (x, min(y + dash_px, y2)), colour, line_px)


def _label(canvas: Pixels, text: str, corners: list[int], colour: Colour, text_px: int, font: cv2.FontFace) -> None:
    """Write on a filled strip above the box, below it where there is no room, and always inside the picture."""
    height, width = canvas.shape[:2]
    pad_px = max(2, text_px // 5)
    text, text_px = _fitting(text, text_px, width - 2 * pad_px, font)
    strip_width = _width_px(text, text_px, font) + 2 * pad_px
    strip_height = text_px + 2 * pad_px
    left = max(0, min(corners[0], width - strip_width))
    top = corners[1] - strip_height if corners[1] >= strip_height else corners[3]
    top = max(0, min(top, height - strip_height))
    cv2.rectangle(canvas, (left, top), (left + strip_width, top + strip_height), colour, cv2.FILLED)
    baseline = top + pad_px + round(0.82 * text_px)
    cv2.putText(canvas, text, (left + pad_px, baseline), _INK[colour], font, text_px, 500)


def _fitting(text: str, text_px: int, room_px: int, font: cv2.FontFace) -> tuple[str, int]:
    """The text and its size, made smaller and then shorter until it is no wider than the room."""
    while text_px > _SMALLEST_TEXT_PX and _width_px(text, text_px, font) > room_px:
        text_px -= 1
    whole = text
    while len(text) > 1 and _width_px(text, text_px, font) > room_px:
        whole = whole[:-1]
        text = whole.rstrip() + "…"
        if not whole:
            break
    return text, text_px


def _width_px(text: str, text_px: int, font: cv2.FontFace) -> int:
    _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, text_px, 500)
    return int(width)
