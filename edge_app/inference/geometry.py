"""Alignment of faces, input of networks, boxes: functions of arrays.

Training imports them too, so that what a network is trained on and what it is served cannot drift apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec
from edge_app.core.types import Float32s, Pixels

Matrix = NDArray[np.float64]
_LEAST_REGION: Final = 0.02


@dataclass(frozen=True, slots=True)
class Crop:
    """Where the five landmarks of a face belong in an upright square."""

    size_px: int
    """Side of the square."""
    landmarks: tuple[tuple[float, float], ...]
    """x, y of left eye, right eye, nose, left mouth, right mouth (left as seen in the picture)."""


WHOLE: Final = "whole"
"""The crop that leaves nothing of a picture out."""
CROPS: Final[dict[str, Crop]] = {
    # Deng et al. 2019, ArcFace (arXiv 1801.07698): what SFace and most published embedders are trained on.
    "arcface-112": Crop(
        112,
        ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)),
    ),
    # Median place of MTCNN's landmarks in dlib's 150 px chip (padding 0.25) over 7,660 LFW faces.
    "dlib-150": Crop(
        150,
        ((48.18, 46.36), (102.90, 46.36), (75.35, 79.03), (51.38, 106.27), (99.32, 106.35)),
    ),
    # The ArcFace template scaled to the 160 px that facenet-pytorch's InceptionResnetV1 takes.
    "arcface-160": Crop(
        160,
        ((54.71, 73.85), (105.05, 73.57), (80.04, 102.48), (59.36, 131.95), (101.04, 131.72)),
    ),
}


def crop_named(name: str) -> Crop:
    """Look up an alignment template. Raises UsageError for an unknown name."""
    if name not in CROPS:
        raise UsageError(f"there is no crop called {name!r}", expected=f"one of {', '.join(CROPS)}")
    return CROPS[name]


def similarity_transform(source: NDArray[np.floating], target: NDArray[np.floating]) -> Matrix:
    """The rotation, uniform scale and shift that bring `source` nearest to `target` in least squares.

    Both are (N, 2) with N >= 2 and not all equal. Returns a (2, 3) float64 matrix for x, y column vectors.
    Umeyama 1991, Least-squares estimation of transformation parameters between two point patterns.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    from_centre, to_centre = source - source_mean, target - target_mean
    # In two dimensions the rotation that maximizes the correlation has a closed form: no SVD needed,
    # and a reflection cannot come out.
    along = float((from_centre * to_centre).sum())
    across = float((from_centre[:, 0] * to_centre[:, 1] - from_centre[:, 1] * to_centre[:, 0]).sum())
    spread = float((from_centre**2).sum())
    if spread < 1e-12:
        raise ValueError("similarity transform: found all source points equal, expected a shape")
    a, b = along / spread, across / spread
    linear = np.array([[a, -b], [b, a]], dtype=np.float64)
    shift = target_mean - linear @ source_mean
    return np.column_stack([linear, shift])


def align(pixels: Pixels, landmarks: Float32s, crop: str) -> Pixels:
    """Cut a face out upright, so that its landmarks fall onto the template.

    `pixels` (H, W, 3) uint8, `landmarks` (5, 2) in its pixels. Returns (S, S, 3) uint8, black outside
    the picture. A face much larger than the crop is averaged down first: sampling every tenth pixel of a
    close selfie would alias.
    """
    template = crop_named(crop)
    matrix = similarity_transform(np.asarray(landmarks, np.float64), np.asarray(template.landmarks, np.float64))
    size = template.size_px
    return _warped(pixels, matrix, size, float(np.hypot(matrix[0, 0], matrix[1, 0])))


def cut_square(pixels: Pixels, centre: Matrix, side_px: float, roll_deg: float, size: int) -> tuple[Pixels, Matrix]:
    """Cut a turned square out of a picture: (size, size, 3) uint8, black outside, and the way back.

    `centre` (2,) and `side_px` in the picture's pixels; `roll_deg` turns the square clockwise as seen. The returned
    (2, 3) matrix brings x, y of the cut-out to the picture.
    """
    scale, angle = size / side_px, math.radians(roll_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]]) * scale
    matrix = np.column_stack([linear, (size - 1) / 2 - linear @ centre])
    back = linear.T / scale**2
    return _warped(pixels, matrix, size, scale), np.column_stack([back, centre - back @ np.full(2, (size - 1) / 2)])


def _warped(pixels: Pixels, matrix: Matrix, size: int, scale: float) -> Pixels:
    if scale < 0.5:
        # The part of the picture that the crop needs, averaged down by an integer factor, and its matrix.
        corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64)
        inverse = np.linalg.inv(matrix[:, :2])
        reach = (corners - matrix[:, 2]) @ inverse.T
        height, width = pixels.shape[:2]
        factor = max(2, int(1.0 / scale))
        x1, y1 = np.clip(np.floor(reach.min(axis=0)).astype(int) - factor, 0, (width - 1, height - 1))
        x2, y2 = np.clip(np.ceil(reach.max(axis=0)).astype(int) + factor, (x1 + 1, y1 + 1), (width, height))
        region = pixels[y1:y2, x1:x2]
        new_width, new_height = max(1, (x2 - x1) // factor), max(1, (y2 - y1) // factor)
        ratio = np.array([(x2 - x1) / new_width, (y2 - y1) / new_height])
        small = cv2.resize(region, (int(new_width), int(new_height)), interpolation=cv2.INTER_AREA)
        # Pixel centres: a small pixel p covers region pixels around (p + 0.5) * ratio - 0.5.
        linear = matrix[:, :2] * ratio
        shift = matrix[:, 2] + matrix[:, :2] @ ((ratio - 1) / 2 + np.array([x1, y1]))
        pixels, matrix = cast(Pixels, small), np.column_stack([linear, shift])
    return cast(Pixels, cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR))


def to_input(images: Pixels, spec: InputSpec) -> Float32s:
    """Turn pictures into a network's input.

    `images` (N, H, W, 3) uint8 RGB. Returns (N, 3, H, W) float32, channels and range as `spec` says.
    """
    ordered = images[..., ::-1] if spec.channels == "BGR" else images
    batch = np.ascontiguousarray(ordered.transpose(0, 3, 1, 2), dtype=np.float32)
    if any(spec.mean) or any(s != 1.0 for s in spec.std):
        batch -= np.asarray(spec.mean, np.float32)[:, None, None]
        batch /= np.asarray(spec.std, np.float32)[:, None, None]
    return batch


def resize(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
    """Resize to exactly (height_px, width_px, 3): area average down, bilinear up."""
    height, width = pixels.shape[:2]
    if (width, height) == (width_px, height_px):
        return pixels
    shrinks = width_px <= width and height_px <= height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast(Pixels, cv2.resize(pixels, (width_px, height_px), interpolation=how))


def prepare(pixels: Pixels, spec: InputSpec, crop: str) -> Pixels:
    """Cut and scale a picture to a network's input, (H, W, 3) uint8.

    `crop` "centre-S" or "whole": the part that `seen_area` gives. Any other name means that the picture is cut already,
    which is only scaled. Raises UsageError for a network of any size.
    """
    if spec.width_px is None or spec.height_px is None:
        raise UsageError("the network takes any size", expected="a fixed input size")
    if cuts_pictures(crop):
        height, width = pixels.shape[:2]
        left, top, right, bottom = seen_area(width, height, spec, crop)
        pixels = pixels[top:bottom, left:right]
    return resize(pixels, spec.width_px, spec.height_px)


def cuts_pictures(crop: str) -> bool:
    """Whether a crop is one of whole pictures, of which `seen_area` gives the part."""
    return crop.startswith("centre-") or is_whole(crop)


def is_whole(crop: str) -> bool:
    """Whether a crop squeezes all of a picture, or of a region of it, into the input."""
    return crop.partition("@")[0] == WHOLE


def seen_area(width_px: int, height_px: int, spec: InputSpec, crop: str) -> tuple[int, int, int, int]:
    """The part of a picture of that size that a network of whole pictures sees: x1, y1, x2, y2 in whole pixels.

    Of "centre-S" it is the central rectangle of the input's shape, as large as fits, times S in (0, 1]; of "whole"
    everything, which is squeezed into the input's shape. Of "centre-S@x1,y1,x2,y2" and "whole@..." it lies in that
    region, which is given as shares of the picture. Raises UsageError for a crop that is no such thing.
    """
    share, region = picture_crop(crop)
    if not spec.width_px or not spec.height_px:
        raise UsageError(f"the crop is {crop!r} of any size", expected="a fixed input size")
    x1, y1, x2, y2 = _in_pixels(width_px, height_px, region)
    if is_whole(crop):
        return x1, y1, x2, y2
    aspect = spec.width_px / spec.height_px
    wide = min(x2 - x1, (y2 - y1) * aspect) * share
    w, h = max(1, round(wide)), max(1, round(wide / aspect))
    left, top = x1 + (x2 - x1 - w) // 2, y1 + (y2 - y1 - h) // 2
    return max(0, left), max(0, top), max(0, left) + w, max(0, top) + h


Region = tuple[float, float, float, float]
"""x1, y1, x2, y2 as shares of a picture, [0, 1]."""


def picture_crop(crop: str) -> tuple[float, Region]:
    """S and the region of a crop of whole pictures. Raises UsageError for one that is no such thing."""
    kind, at, region = crop.partition("@")
    try:
        share = 1.0 if kind == WHOLE else float(kind.removeprefix("centre-"))
    except ValueError:
        share = 0.0
    if not cuts_pictures(crop) or not 0.0 < share <= 1.0:
        raise UsageError(f"the crop is {crop!r}", expected="whole, or centre-S, S in (0, 1]")
    return share, parse_region(region) if at else (0.0, 0.0, 1.0, 1.0)


def parse_region(text: str) -> Region:
    """Read "x1,y1,x2,y2". Raises UsageError unless 0 <= x1 < x2 <= 1, the same for y, and a side is 2 % or more."""
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) == 4:
        x1, y1, x2, y2 = values
        if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and min(x2 - x1, y2 - y1) >= _LEAST_REGION:
            return x1, y1, x2, y2
    raise UsageError(
        f"the region is {text!r}",
        expected="x1,y1,x2,y2 as shares of the picture from 0 to 1, left and top first, such as 0.2,0,0.8,0.5",
    )


def with_region(crop: str, region: Region) -> str:
    """The same crop within a region. Raises UsageError for a crop of faces."""
    kind = crop.partition("@")[0]
    kind = "centre-1" if kind == "none" else kind
    if not cuts_pictures(kind):
        raise UsageError(f"the crop is {crop!r}", expected="a model that looks at whole pictures for a region")
    return f"{kind}@{','.join(f'{value:.4g}' for value in region)}"


def in_region(pixels: Pixels, crop: str) -> Pixels:
    """The region of a picture that a crop names, before anything else is cut; all of it where it names none."""
    _, at, region = crop.partition("@")
    if not at:
        return pixels
    x1, y1, x2, y2 = _in_pixels(pixels.shape[1], pixels.shape[0], parse_region(region))
    return pixels[y1:y2, x1:x2]


def _in_pixels(width_px: int, height_px: int, region: Region) -> tuple[int, int, int, int]:
    x1, y1 = min(width_px - 1, round(region[0] * width_px)), min(height_px - 1, round(region[1] * height_px))
    return x1, y1, max(x1 + 1, round(region[2] * width_px)), max(y1 + 1, round(region[3] * height_px))


def face_scale(crop: str) -> float:
    """S of "face-S". Raises ModelError when it is not a number from 0.5 to 10."""
    try:
        scale = float(crop.removeprefix("face-"))
    except ValueError:
        scale = 0.0
    if not 0.5 <= scale <= 10.0:
        raise ModelError(f"the crop is {crop!r}", expected="face-S, S from 0.5 to 10")
    return scale


def face_area(box: Float32s, scale: float, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """A face's box grown `scale` times about its centre, shifted and shrunk to lie in the picture.

    Returns x1, y1, x2, y2 in whole pixels, x2 and y2 exclusive. MiniFASNet (minivision-ai, Silent-Face-Anti-Spoofing)
    was trained on such areas: the scale gives way before the centre does.
    """
    wide, tall = float(box[2] - box[0]), float(box[3] - box[1])
    fitting = min(scale, (width_px - 1) / wide, (height_px - 1) / tall)
    w, h = wide * fitting, tall * fitting
    left = min(max(0.0, float(box[0] + box[2]) / 2 - w / 2), width_px - 1 - w)
    top = min(max(0.0, float(box[1] + box[3]) / 2 - h / 2), height_px - 1 - h)
    x1, y1 = int(left), int(top)
    return x1, y1, min(width_px, int(left + w) + 1), min(height_px, int(top + h) + 1)


def box_iou(boxes: Float32s, others: Float32s) -> Float32s:
    """Intersection over union of every box with every other.

    `boxes` (N, 4) and `others` (M, 4), x1 y1 x2 y2. Returns (N, M) float32 in [0, 1].
    """
    shared, areas, other_areas = _overlap(boxes, others, 0.0)
    union: Matrix = areas[:, None] + other_areas[None, :] - shared
    return (shared / np.maximum(union, 1e-9)).astype(np.float32)


def _overlap(boxes: Float32s, others: Float32s, edge_px: float) -> tuple[Matrix, Matrix, Matrix]:
    """Shared area of every pair, area of each box, area of each other; `edge_px` is added to every side."""
    ours, theirs = boxes.astype(np.float64), others.astype(np.float64)
    top_left = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    bottom_right = np.minimum(ours[:, None, 2:4], theirs[None, :, 2:4])
    sides: Matrix = np.clip(bottom_right - top_left + edge_px, 0, None)
    extents: list[Matrix] = [b[:, 2:4] - b[:, :2] + edge_px for b in (ours, theirs)]
    return sides[..., 0] * sides[..., 1], extents[0].prod(axis=1), extents[1].prod(axis=1)


def nms(
    boxes: Float32s, scores: Float32s, overlap_limit: float, *, over_smaller: bool = False, edge_px: float = 0.0
) -> NDArray[np.intp]:
    """Non-maximum suppression: indices of the boxes that stay, best score first.

    `boxes` (N, 4), `scores` (N,). A box falls when it overlaps a better one by more than `overlap_limit`:
    intersection over union, or over the smaller area. `edge_px` 1 counts the last pixel as inside, the
    convention of the original MTCNN.
    """
    order = np.argsort(-scores, kind="stable")
    if order.size < 2:
        return order
    ranked = boxes[order]
    shared, areas, _ = _overlap(ranked, ranked, edge_px)
    sums = areas[:, None] + areas[None, :]
    total = np.minimum(areas[:, None], areas[None, :]) if over_smaller else sums - shared
    overlap = shared / np.maximum(total, 1e-9)
    alive = np.ones(order.size, dtype=bool)
    for rank in range(order.size):
        if alive[rank]:
            alive[rank + 1 :] &= overlap[rank, rank + 1 :] <= overlap_limit
    return order[alive]
