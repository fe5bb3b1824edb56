"""Findings drawn on pictures: boxes, labels, and where a classifier looked.

Known and unknown differ without colour too: a known finding has a whole frame and a name, an unknown one a dashed
frame and a question mark.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final, cast

import cv2
import numpy as np

from edge_app.core.types import Answer, Classification, Finding, Float32s, Heatmap, Match, Pixels, Seen

Colour = tuple[int, int, int]
"""Red, green, blue, 0-255."""

KNOWN: Final[Colour] = (0, 158, 115)
UNKNOWN: Final[Colour] = (230, 159, 0)
"""Bluish green and orange of the Okabe-Ito palette, which colour-blind people tell apart."""

_INK: Final[dict[Colour, Colour]] = {KNOWN: (255, 255, 255), UNKNOWN: (0, 0, 0)}
_SMALLEST_TEXT_PX: Final = 10
_VEIL: Final = 0.65
"""How far the strongest evidence covers the picture, [0, 1]; the weakest covers nothing."""
_LEAST_SPAN: Final = 1.0
"""Logits between weak and strong evidence under which a map counts as flat: else noise would glow."""
_FINER: Final = 8
"""How much finer a map is made before it is stretched over its area."""
_WEAK, _STRONG = 5.0, 98.0
"""Percentiles of a map that get no colour and all of it: one odd place must not pale the rest."""


def words_of(answer: Answer) -> str:
    """The name and the similarity, the label and its probability, or that it is unknown or not sure."""
    if isinstance(answer, Match):
        return "? unknown" if answer.name is None else f"{answer.name} {answer.similarity:.2f}"
    best = f"{answer.scores[0].label} {answer.scores[0].probability:.2f}"
    if answer.name is not None:
        return best if answer.sure else f"{answer.words} {answer.value:.2f}"
    return f"? not sure ({best})"


def annotate(seen: Seen) -> Pixels:
    """Return a copy of the frame, (H, W, 3) uint8 RGB, with boxes, answers and heatmaps drawn on it.

    Names may be in any script: OpenCV 5 brings fonts for Latin, Greek, Cyrillic, Arabic, Chinese, Japanese and
    Korean, and writes "?" for what they lack (emoji, for one). Labels that find no room are shortened with "…".
    A heatmap goes from black over violet and orange to yellow, ever more opaque, from weak to strong evidence in its
    own area; a legend at the bottom says for which label.
    """
    explained = [one for one in seen.findings if one.heatmap is not None]
    canvas = warmed(seen.frame.pixels, explained)
    # The largest last, so that its label is whole.
    for finding in sorted(seen.findings, key=lambda one: float(np.prod(one.box[2:] - one.box[:2]))):
        _mark(canvas, finding.box, words_of(finding.answer), finding.name is not None)
    if explained:
        _legend(canvas, explained)
    return canvas


def warmed(pixels: Pixels, areas: Iterable[Finding]) -> Pixels:
    """A copy of (H, W, 3) uint8 RGB pixels with each area's map over it; areas without a map stay as they are."""
    canvas = np.array(pixels, dtype=np.uint8, order="C")
    for area in areas:
        if area.heatmap is not None:
            _overlay(canvas, area.box, area.heatmap)
    return canvas


def strength(heatmap: Heatmap) -> Float32s:
    """The map's evidence from weak, 0, to strong, 1; float32 of the map's shape, all 0 where it is the same."""
    low, high = np.percentile(heatmap.values, [_WEAK, _STRONG])
    shares: Float32s = np.clip((heatmap.values - low) / max(high - low, _LEAST_SPAN), 0.0, 1.0).astype(np.float32)
    return shares


def _overlay(canvas: Pixels, box: Float32s, heatmap: Heatmap) -> None:
    """Blend a map into its area; what reaches past the picture's edge is left out."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    left, top, right, bottom = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    if left >= right or top >= bottom:
        return
    # Cubic first: 7 x 7 places stretched linearly show as diamonds. Then only the part inside is sampled, for a face's
    # box may reach far out; `place` says where each of its pixels lies in the map.
    fine = cv2.resize(strength(heatmap), None, fx=_FINER, fy=_FINER, interpolation=cv2.INTER_CUBIC)
    rows, columns = fine.shape
    across, down = columns / (x2 - x1), rows / (y2 - y1)
    place = np.array([[across, 0, (left + 0.5 - x1) * across - 0.5], [0, down, (top + 0.5 - y1) * down - 0.5]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = right - left, bottom - top
    share = cv2.warpAffine(fine, place, size, flags=how, borderMode=cv2.BORDER_REPLICATE)
    inside = canvas[top:bottom, left:right]
    inside[...] = _veiled(inside, np.rint(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8))


def _veiled(pixels: Pixels, grey: Pixels) -> Pixels:
    """The colours of evidence (H, W), 0-255, over (H, W, 3) RGB pixels, in whole numbers: Live does it every frame."""
    keep, add = _veils()
    levels = cv2.merge([grey, grey, grey])
    kept = cv2.multiply(np.ascontiguousarray(pixels), cv2.LUT(levels, keep), scale=1 / 255)
    return cast(Pixels, cv2.add(kept, cv2.LUT(levels, add)))


@cache
def _veils() -> tuple[Pixels, Pixels]:
    """For each of 256 levels: how much of a pixel is kept, of 255, and what is added to it, both (1, 256, 3)."""
    levels = np.arange(256, dtype=np.uint8)[None]
    cover = np.float32(_VEIL / 255) * levels[..., None].astype(np.float32)
    keep, add = np.repeat(255 * (1 - cover), 3, axis=2), cover * _colours(levels)
    return np.rint(keep).astype(np.uint8), np.rint(add).astype(np.uint8)


def _colours(grey: Pixels) -> Pixels:
    """Inferno: its lightness rises evenly, so that it reads alike for colour-blind people and in print."""
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)


def _legend(canvas: Pixels, explained: list[Finding]) -> None:
    """A strip at the bottom: what the colours mean, and for which label with which probability."""
    height, width = canvas.shape[:2]
    text_px, font = _text_px(canvas), cv2.FontFace("sans")
    labels = dict.fromkeys(_evidence_words(one) for one in explained)
    pad_px = max(2, text_px // 5)
    bar_px = min(width // 4, 6 * text_px)
    strip_px = text_px + 2 * pad_px
    if strip_px * 3 > height or bar_px < 8:
        return  # too small for words; the label above the area says what was found
    canvas[height - strip_px :] = 0
    bar = np.tile(np.linspace(0, 255, bar_px).astype(np.uint8), (text_px, 1))
    canvas[height - strip_px + pad_px : height - pad_px, pad_px : pad_px + bar_px] = _colours(bar)
    cv2.rectangle(
        canvas, (pad_px, height - strip_px + pad_px), (pad_px + bar_px, height - pad_px - 1), (128, 128, 128), 1
    )
    left = 2 * pad_px + bar_px + text_px // 2
    text, text_px = _fitting(f"evidence for {', '.join(labels)}", text_px, width - left - pad_px, font)
    baseline = height - strip_px + pad_px + round(0.82 * text_px)
    cv2.putText(canvas, text, (left, baseline), (255, 255, 255), font, text_px, 500)


def _evidence_words(finding: Finding) -> str:
    shown = finding.heatmap.label if finding.heatmap else ""
    scores = finding.answer.scores if isinstance(finding.answer, Classification) else ()
    found = (one.probability for one in scores if one.label == shown)
    return f"{shown} ({next(found, 0.0):.2f})"


def _text_px(canvas: Pixels) -> int:
    shorter_px: int = min(canvas.shape[:2])
    return max(_SMALLEST_TEXT_PX + 2, round(shorter_px / 26))


def _mark(canvas: Pixels, box: Float32s, text: str, known: bool) -> None:
    """Draw one box with its label."""
    line_px = max(1, round(min(canvas.shape[:2]) / 240))
    colour = KNOWN if known else UNKNOWN
    corners = np.rint(box).astype(int).tolist()
    _frame(canvas, corners, colour, line_px, dashed=not known)
    font = cv2.FontFace("sans")  # one for each call: it is not said to be safe across threads, and costs 5 us
    _label(canvas, text, corners, colour, _text_px(canvas), font)


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
