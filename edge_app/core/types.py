"""The nouns of recognition: frames, faces, embeddings, identities, matches and classes.

Every value is checked when it is made, immutable, and holds read-only arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.attributes import Attribute
from edge_app.core.errors import GalleryError
from edge_app.core.hierarchy import Hierarchy
from edge_app.core.names import valid_name

Pixels = NDArray[np.uint8]
Float32s = NDArray[np.float32]

LANDMARK_NAMES: Final = ("left eye", "right eye", "nose", "left mouth", "right mouth")
"""Order of the five landmarks; left and right as seen in the picture."""


def frozen_array(values: Any, dtype: type[np.generic], shape: tuple[int | None, ...], what: str) -> Any:
    """Return `values` as a read-only, contiguous array of `dtype`.

    `shape` gives the expected extent of every axis, None for any. Raises ValueError when it differs.
    """
    array = np.ascontiguousarray(values, dtype=dtype)
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{what}: found shape {array.shape}, expected {shape}")
    if array.flags.writeable:
        if array is values or array.base is not None:
            array = array.copy()
        array.setflags(write=False)
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture in time."""

    pixels: Pixels
    """(H, W, 3) uint8, RGB."""
    index: int = 0
    """Position in its source, from 0."""
    time_s: float = 0.0
    """Seconds on the source's own monotonic clock."""

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8:
            raise ValueError(f"frame: found dtype {self.pixels.dtype}, expected uint8")
        object.__setattr__(self, "pixels", _read_only_view(self.pixels))

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


def _read_only_view(pixels: Pixels) -> Pixels:
    """A view, not a copy: a 12-megapixel frame is 36 MB and its source gives it away anyway."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"frame: found shape {pixels.shape}, expected (H, W, 3) with H, W >= 1")
    view = pixels.view()
    view.setflags(write=False)
    return view


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One detected face, in the pixels of its frame."""

    box: Float32s
    """(4,) x1, y1, x2, y2; may reach past the frame's edge."""
    landmarks: Float32s
    """(5, 2) x, y in the order of LANDMARK_NAMES."""
    score: float
    """Detector's confidence in [0, 1]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", frozen_array(self.box, np.float32, (4,), "box"))
        object.__setattr__(self, "landmarks", frozen_array(self.landmarks, np.float32, (5, 2), "landmarks"))
        if not (self.box[2] > self.box[0] and self.box[3] > self.box[1]):
            raise ValueError(f"box: found {self.box.tolist()}, expected x1 < x2 and y1 < y2")
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score: found {self.score}, expected [0, 1]")

    @property
    def width_px(self) -> float:
        return float(self.box[2] - self.box[0])

    @property
    def height_px(self) -> float:
        return float(self.box[3] - self.box[1])

    @property
    def size_px(self) -> float:
        """Shorter side of the box."""
        return min(self.width_px, self.height_px)

    @property
    def area_px2(self) -> float:
        return self.width_px * self.height_px


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """The unit vector of one face or thing, in one model's space."""

    vector: Float32s
    """(D,) float32, unit length by construction."""
    model_id: str
    """Id of the model whose space this is; builds of one model in other precisions share it."""

    def __post_init__(self) -> None:
        raw = np.asarray(self.vector, dtype=np.float64)
        if raw.ndim != 1 or raw.size == 0:
            raise ValueError(f"embedding: found shape {raw.shape}, expected (D,)")
        length = float(np.linalg.norm(raw))
        if not math.isfinite(length) or length < 1e-12:
            raise ValueError(f"embedding: found length {length}, expected a finite vector that is not zero")
        unit = (raw / length).astype(np.float32)
        unit.setflags(write=False)
        object.__setattr__(self, "vector", unit)

    def similarity(self, other: Embedding) -> float:
        """Cosine in [-1, 1]. Raises GalleryError when the two come from different models."""
        if self.model_id != other.model_id:
            raise GalleryError(
                f"an embedding of {other.model_id} was compared with one of {self.model_id}",
                expected="one model on both sides",
                remedy="enroll again with the model in use",
            )
        return float(self.vector @ other.vector)


@dataclass(frozen=True, slots=True)
class Quality:
    """Measurements of one picture of a face or thing, by which the enrollment gate judges it."""

    face_px: float
    """Shorter side of the face box, pixels."""
    sharpness: float
    """Share of fine detail in the aligned crop, >= 0; see `edge_app.inference.face_quality`."""
    brightness: float
    """Median luminance of the aligned crop, 0-255."""
    clipped: float
    """Share of the crop's pixels that are black or blown out, [0, 1]."""
    yaw: float
    """Turn to the side in [-1, 1]: 0 frontal, +1 the nose over the right eye as seen in the picture."""
    pitch: float
    """Nose height between eyes (0) and mouth (1)."""
    roll_deg: float
    """In-plane rotation of the eye line, degrees, clockwise in the picture."""
    score: float
    """Detector's confidence in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """One accepted shot of one identity."""

    embedding: Embedding
    """What matching uses."""
    quality: Quality
    """What was measured when it was accepted."""
    source: str
    """Where the shot came from: a file name or a camera; never the picture itself."""
    created_s: float
    """Unix time of enrollment."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A name and its templates, all of one model."""

    name: str
    templates: tuple[Template, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", valid_name(self.name))
        if not self.templates:
            raise ValueError(f"identity {self.name!r}: found no template, expected at least one")
        models = {template.embedding.model_id for template in self.templates}
        if len(models) > 1:
            raise ValueError(f"identity {self.name!r}: found templates of {sorted(models)}, expected one model")

    @property
    def model_id(self) -> str:
        """The model all templates belong to."""
        return self.templates[0].embedding.model_id


@dataclass(frozen=True, slots=True)
class Match:
    """A name, or nobody."""

    name: str | None
    """The identity, or None when nobody is near enough or two are too near to tell."""
    similarity: float
    """Cosine to the nearest identity; -1 against an empty gallery."""
    margin: float
    """Similarity less the runner-up identity's; 2 when there is no runner-up."""
    ignored: str | None = None
    """The known stranger (`edge-app gallery ignore`) that it is; `name` is then None."""
    left_out: str | None = None
    """Who it is of those enrolled who are no candidates; `name` is then None, and this is not told."""

    @property
    def claimed(self) -> str | None:
        """Who it is, told or not."""
        return self.name or self.ignored or self.left_out

    @property
    def value(self) -> float:
        """The similarity."""
        return self.similarity


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One label and how likely it is."""

    label: str
    probability: float
    """Calibrated, [0, 1]."""
    cost: float = 1.0
    """What it costs to miss it, beside the others."""


@dataclass(frozen=True, slots=True)
class Classification:
    """What a classifier says of one area of a picture."""

    scores: tuple[ClassScore, ...]
    """Every label, the best first: the likeliest, or where costs are given the one whose miss would cost most; the
    probabilities sum to 1."""
    sure: bool
    """False: the best is not likely enough to be named."""
    unsure_below: float = 0.0
    """Probability, weighted by the costs, from which the best is named."""
    hierarchy: Hierarchy | None = None
    """Families of the labels, where the classifier knows some."""
    attributes: tuple[Attribute, ...] = ()
    """What the classifier knows that labels have."""

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("classification: found no score, expected one per label")

    @property
    def family(self) -> ClassScore | None:
        """What is told where no label is sure: the smallest family whose labels together are likely enough."""
        if self.sure or self.hierarchy is None:
            return None
        told = self.hierarchy.told({score.label: score.probability for score in self.scores})
        return None if told is None else ClassScore(*told)

    @property
    def has(self) -> tuple[ClassScore, ...]:
        """The attributes that are likely enough to be told, the likeliest first."""
        chances = {score.label: score.probability for score in self.scores}
        found = [(one, one.probability(chances)) for one in self.attributes]
        told = [ClassScore(one.name, chance) for one, chance in found if chance >= one.sure_from]
        return tuple(sorted(told, key=lambda one: -one.probability))

    @property
    def name(self) -> str | None:
        """The best label, where that is not sure a family, and None where neither is."""
        if self.sure:
            return self.scores[0].label
        family = self.family
        return None if family is None else family.label

    @property
    def words(self) -> str | None:
        """The same as people say it: "ant", "some insect"."""
        return f"some {self.name}" if self.name is not None and not self.sure else self.name

    @property
    def value(self) -> float:
        """Probability of the best label, [0, 1], or of the family where one is told."""
        family = self.family
        return self.scores[0].probability if family is None else family.probability


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """Where in an area a classifier sees a label: a class activation map (Zhou et al. 2016, arXiv 1512.04150)."""

    label: str
    values: Float32s
    """(h, w) float32: the logit that each place alone would give this label."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", frozen_array(self.values, np.float32, (None, None), "heatmap"))


def valid_area(box: Any) -> Float32s:
    """Return x1, y1, x2, y2 as a read-only (4,) float32 array. Raises ValueError unless x1 < x2 and y1 < y2."""
    area: Float32s = frozen_array(box, np.float32, (4,), "area")
    if not (np.isfinite(area).all() and area[2] > area[0] and area[3] > area[1]):
        raise ValueError(f"area: found {area.tolist()}, expected x1 < x2 and y1 < y2")
    return area


Answer = Match | Classification
"""What is said of one finding. Both have a `name`, None where nothing is named, and a `value` that says how surely."""


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """One thing that was found in a frame: a face, a thing in a box, the whole picture."""

    box: Float32s
    """(4,) x1, y1, x2, y2 in frame pixels; may reach past the frame's edge."""
    answer: Answer
    track: int | None = None
    """Number of the track it belongs to; None outside video, and for what is not followed."""
    face: Face | None = None
    """With its landmarks, where a detector found one."""
    heatmap: Heatmap | None = None
    """Covers `box`; only where it was asked for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", valid_area(self.box))

    @property
    def name(self) -> str | None:
        """Who, what, or which label; None where nothing is named."""
        return self.answer.name


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """All that was found in one frame, by whatever looked at it."""

    frame: Frame
    findings: tuple[Finding, ...]
    """Largest face first; one for the whole picture, or the box, where no faces are looked for."""
    timings_ms: Mapping[str, float]
    """Milliseconds of each stage by name, and "total"."""
