"""The sample people: public-domain portraits to enroll and to recognize, and a clip of them whose truth is known.

README.md tells where the pictures come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edge_app.core.types import Frame, Pixels
from edge_app.media.pictures import read_picture
from edge_app.media.sample.outlines import FACES, OUTLINES
from edge_app.media.sample.scene import Actor, Cutout, Pose, Scene, Truth, compose, cut_out, mirrored, render

__all__ = [
    "Actor",
    "Cutout",
    "Pose",
    "Scene",
    "Truth",
    "clip",
    "clip_scene",
    "compose",
    "cut_out",
    "people",
    "probes",
    "render",
    "stranger",
]

OBAMA: Final = "Barack Obama"
BIDEN: Final = "Joe Biden"

_FOLDER: Final = Path(__file__).parent


def people() -> dict[str, tuple[Path, ...]]:
    """Pictures to enroll, by name: two of Barack Obama, one of Joe Biden (no second free one is at hand)."""
    return {
        OBAMA: (_FOLDER / "obama_1.jpg", _FOLDER / "obama_2.jpg"),
        BIDEN: (_FOLDER / "biden_1.jpg",),
    }


def probes() -> dict[str, tuple[Path, ...]]:
    """Pictures that are not enrolled, of people who are, by name."""
    return {OBAMA: (_FOLDER / "obama_3.jpg",)}


def stranger() -> Path:
    """Picture of somebody who is not among `people`: the astronaut Eileen Collins."""
    return _FOLDER / "astronaut.jpg"


def clip(
    size_px: tuple[int, int] = (640, 480), fps: float = 15.0, *, seed: int = 0
) -> Iterator[tuple[Frame, tuple[Truth, ...]]]:
    """Yield the sample clip, 18 s, frame by frame with the truth; see `clip_scene` for what happens in it."""
    return compose(clip_scene(size_px, fps, seed=seed))


def clip_scene(size_px: tuple[int, int] = (640, 480), fps: float = 15.0, *, seed: int = 0) -> Scene:
    """Describe the sample clip: 18 s in which people come, cross, dim, leave and come back.

    `size_px` is (width, height). Barack Obama is played by a picture that is not among those to enroll. Joe Biden is
    played by the very picture that is enrolled, mirrored, re-scaled, dimmed and re-compressed, since no other free
    one is at hand: recognizing him here shows that the pipeline works, not how accurate it is. The astronaut is a
    stranger, whose name is None.

    0 s nobody; 1 s Obama comes from the left; 4 s Biden from the right; 6-8 s they cross, Biden in front; 9 s Obama
    leaves to the right; 10 s the stranger comes from the left, the light goes down on Biden; 12 s Obama is back,
    farther away; 14 s Biden leaves to the left, in front of the stranger; 16 s they go; 17.5 s nobody.
    """
    obama = Actor(
        OBAMA,
        _cutout("obama_3.jpg"),
        (
            Pose(1.0, -0.25, 0.45, 0.22),
            Pose(3.0, 0.30, 0.38, 0.27),
            Pose(4.5, 0.32, 0.37, 0.31, tilt_deg=6),
            Pose(5.5, 0.30, 0.38, 0.30, tilt_deg=-5),
            Pose(8.0, 0.72, 0.38, 0.28),
            Pose(9.5, 1.35, 0.40, 0.28),
            Pose(12.0, 1.30, 0.54, 0.18, light=0.85),
            Pose(13.5, 0.78, 0.52, 0.19, light=0.85),
            Pose(15.8, 0.72, 0.50, 0.20, light=1.1),
            Pose(17.5, 1.30, 0.50, 0.20, light=1.1),
        ),
    )
    stranger_ = Actor(
        None,
        _cutout("astronaut.jpg"),
        (
            Pose(10.0, -0.30, 0.40, 0.20),
            Pose(11.8, 0.22, 0.38, 0.24),
            Pose(13.5, 0.27, 0.38, 0.25, light=1.2, tilt_deg=4),
            Pose(15.8, 0.26, 0.38, 0.24, light=1.2),
            Pose(17.5, -0.35, 0.40, 0.22),
        ),
    )
    biden = Actor(
        BIDEN,
        mirrored(_cutout("biden_1.jpg")),
        (
            Pose(4.0, 1.35, 0.40, 0.28),
            Pose(5.8, 0.75, 0.40, 0.30),
            Pose(8.2, 0.36, 0.41, 0.33, light=0.9),
            Pose(9.8, 0.48, 0.40, 0.32, light=0.9, tilt_deg=-4),
            Pose(11.0, 0.54, 0.40, 0.31, light=0.6),
            Pose(13.2, 0.52, 0.40, 0.31, light=0.7),
            Pose(15.2, -0.40, 0.42, 0.33, light=0.9),
        ),
    )
    return Scene((stranger_, obama, biden), 18.0, size_px, fps, seed=seed)


@lru_cache(maxsize=8)
def _cutout(file: str) -> Cutout:
    return cut_out(_recompressed(read_picture(_FOLDER / file)), FACES[file], OUTLINES[file])


def _recompressed(pixels: Pixels, quality: int = 70) -> Pixels:
    """The pixels after one more JPEG, so that no played face is the enrolled one bit for bit."""
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1], dtype=np.uint8)
