"""YuNet: a face detector with five landmarks, at the sizes where it finds faces surely.

Wu et al. 2023, YuNet: a tiny millisecond-level face detector.
"""

from __future__ import annotations

from typing import Final, cast

import cv2
import numpy as np

from edge_app.core.errors import ModelError
from edge_app.core.types import Float32s, Pixels
from edge_app.inference.detector import DetectorOptions
from edge_app.inference.geometry import nms, resize, to_input
from edge_app.inference.mtcnn import Found
from edge_app.inference.onnx_model import Model

# Measured on pictures of lfw_dev scaled so that the face box had the given width: at score 0.6 YuNet finds
# 48 % of 12 px faces, 92 % of 16 px, 98 % of 20 px, all from 32 to 500 px, 83 % of 700 px ones; its landmarks are
# as good as they get (2-3 % of the face's width) from 32 px on. At 20 px its coarser landmarks of LFW's 93 px faces
# cost 0.1 points of accuracy. Where O-Net finds the landmarks anew in the full picture, and is asked about less sure
# faces, a search at 0.73 of the size finds 466 of 468 faces of 24 px in 640x480 frames (YuNet alone at full size 467,
# at 0.67 465), 459 of 20 px (463), and takes little more than half the time.
_SURE_FACE_PX: Final = 24
_SURE_FACE_PX_REFINED: Final = 17.6
_LARGEST_SURE_FACE_PX: Final = 512
_CLOSE_FACE_PX: Final = 300
"""Where a face that fills the picture is brought to when the fine level would show it too large."""
_INSIDE_LIMIT: Final = 0.7
"""Share of a box inside a better one from which it is part of that face."""
_INTERPOLATED: Final = 0.7
_STRIDES_PX: Final = (8, 16, 32)


class YuNet:
    """The network and the scales that a picture is searched at."""

    def __init__(self, model: Model, *, refined: bool = False) -> None:
        """`refined`: the landmarks are found anew afterwards, so that a coarser search will do."""
        if len(model.card.outputs) != 3 * 4:
            raise ModelError(f"the YuNet graph has {len(model.card.outputs)} outputs", expected="12")
        self._model = model
        self._sure_face_px = _SURE_FACE_PX_REFINED if refined else _SURE_FACE_PX

    def find(self, pixels: Pixels, options: DetectorOptions) -> Found:
        height, width = pixels.shape[:2]
        levels = [
            self._at(pixels, scale, options.min_score)
            for scale in scales_for(width, height, options, self._sure_face_px)
        ]
        boxes, landmarks, scores = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        kept = nms(boxes, scores, options.overlap_limit)
        # A face that fills the picture shows the fine level a chin or a cheek that looks like a face of its own.
        kept = kept[nms(boxes[kept], scores[kept], _INSIDE_LIMIT, over_smaller=True)]
        return boxes[kept], landmarks[kept], scores[kept]

    def _at(self, pixels: Pixels, scale: float, min_score: float) -> Found:
        height, width = pixels.shape[:2]
        new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
        # Averaging areas takes 1 ms for 640x480, interpolating a fifth of it, and YuNet finds as many from 0.7 up.
        interpolated = _INTERPOLATED <= scale < 1
        size = (new_width, new_height)
        canvas = cast(Pixels, cv2.resize(pixels, size)) if interpolated else resize(pixels, *size)
        if new_width % 32 or new_height % 32:
            small, canvas = canvas, np.zeros((_up_to_32(new_height), _up_to_32(new_width), 3), np.uint8)
            canvas[:new_height, :new_width] = small
        outputs = self._model.run(to_input(canvas[None], self._model.card.input))
        boxes, landmarks, scores = decode_yunet(outputs, canvas.shape[1], min_score)
        ratio = np.array([width / new_width, height / new_height], np.float32)
        return boxes * np.tile(ratio, 2), landmarks * ratio, scores


def scales_for(
    width: int, height: int, options: DetectorOptions, sure_face_px: float = _SURE_FACE_PX
) -> tuple[float, ...]:
    """At which sizes YuNet must see a picture so that no face from `min_face_px` up is missed."""
    fine = min(1.0, sure_face_px / options.min_face_px, options.max_side_px / max(width, height))
    # The network sees whole cells of 32 px: what is scaled down less for the same number of them costs nothing.
    fine = min(1.0, *(_up_to_32(round(side * fine)) / side for side in (width, height)))
    if min(width, height) * fine <= _LARGEST_SURE_FACE_PX:
        return (fine,)
    return fine, _CLOSE_FACE_PX / min(width, height)


def _up_to_32(extent: int) -> int:
    return -(-extent // 32) * 32


def decode_yunet(outputs: tuple[Float32s, ...], width_px: int, min_score: float) -> Found:
    """Turn YuNet's twelve outputs for one picture into boxes, landmarks and scores.

    `outputs`: class, objectness, box and landmark maps, each for strides 8, 16, 32, shaped (1, cells, c);
    `width_px`: width of the input, which orders the cells. No merging of overlapping boxes here.
    """
    found = []
    for level, stride in enumerate(_STRIDES_PX):
        label, objectness, box, points = (outputs[kind * 3 + level][0] for kind in range(4))
        score = np.sqrt(np.clip(label[:, 0], 0, 1) * np.clip(objectness[:, 0], 0, 1))
        cells = np.flatnonzero(score >= min_score)
        corner = np.stack([cells % (width_px // stride), cells // (width_px // stride)], axis=1).astype(np.float32)
        centre = corner + box[cells, :2]
        half = np.exp(box[cells, 2:]) / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1) * stride
        landmarks = (points[cells].reshape(-1, 5, 2) + corner[:, None]) * stride
        found.append((boxes.astype(np.float32), landmarks.astype(np.float32), score[cells]))
    return cast(Found, tuple(np.concatenate(parts) for parts in zip(*found, strict=True)))
