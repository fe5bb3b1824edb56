"""What each enrolled shot does for its person and against it, by leaving it out; which views and lights are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_app.core.types import Float32s, Identity, Template

HARM: Final = 0.02
"""A shot does harm when with it somebody else comes as near as two pictures of one person, and without it stays this
much farther away, in cosine, while the others agree better.
A choice, not a measurement: less is no reason to take a picture again."""
TURNED: Final = 0.25
"""Yaw from which a shot shows a side; half of lfw_dev's pictures have less than 0.18."""
DARK: Final = 80.0
BRIGHT: Final = 180.0
"""Median luminance of a crop: 2 % of lfw_dev's pictures lie below the one and 4 % above the other."""


@dataclass(frozen=True, slots=True)
class ShotReview:
    """One shot, with it and without it."""

    source: str
    agrees: float | None
    """Cosine to the mean of the person's other shots; None for the only one."""
    nearest_other: str | None
    """Who of the others comes nearest with it; None where nobody else is enrolled."""
    other_with: float | None
    """Cosine of that one to the person's mean."""
    other_without: float | None
    """The highest cosine of anybody else when the shot is left out; None for the only shot."""
    strangers_with: float | None
    """The highest cosine of a stranger, or a mean of strangers, to the person's mean; None where none are at hand."""
    strangers_without: float | None
    """The same when the shot is left out; None for the only shot."""
    harm: str
    """Why the shot does harm; empty when it does not."""


@dataclass(frozen=True, slots=True)
class Review:
    """One person's enrollment."""

    name: str
    shots: tuple[ShotReview, ...]
    light: tuple[float, float] | None
    """Least and greatest median luminance of the shots, 0-255; None for imported encodings."""
    missing: tuple[str, ...]
    """Views and lights that nobody has shown, in words."""


def review(
    identity: Identity, others: Sequence[tuple[str, Float32s]], strangers: Float32s, same_person_floor: float
) -> Review:
    """Review one identity.

    `others` are the means (D,) of everybody else by name, `strangers` (N, D) unit vectors of people who are nobody
    here, such as the centres of a model's cohort, N may be 0; `same_person_floor` is the least cosine between two shots
    of one person.
    """
    vectors = np.stack([template.embedding.vector for template in identity.templates])
    mean = _mean(vectors)
    found = []
    for index, template in enumerate(identity.templates):
        rest = np.delete(vectors, index, axis=0)
        without = _mean(rest) if len(rest) else None
        nearest, other_with = _nearest(mean, others)
        agrees = None if without is None else float(without @ vectors[index])
        other_without = None if without is None else _nearest(without, others)[1]
        harm = ""
        if agrees is not None and agrees < same_person_floor:
            harm = f"it does not look like the other shots ({agrees:.2f}, expected {same_person_floor:.2f})"
        elif (
            without is not None
            and other_with is not None
            and other_without is not None
            and other_with >= same_person_floor
            and other_with - other_without >= HARM
            and float((rest @ without).mean()) >= float((vectors @ mean).mean())
        ):
            harm = f"it brings {nearest} nearer ({other_without:.2f} without it, {other_with:.2f} with it)"
        found.append(
            ShotReview(
                template.source,
                agrees,
                nearest,
                other_with,
                other_without,
                float((strangers @ mean).max()) if len(strangers) else None,
                float((strangers @ without).max()) if len(strangers) and without is not None else None,
                harm,
            )
        )
    measured = [template for template in identity.templates if template.quality.face_px > 0]
    lights = [template.quality.brightness for template in measured]
    light = (min(lights), max(lights)) if lights else None
    return Review(identity.name, tuple(found), light, _missing(measured))


def _missing(measured: Sequence[Template]) -> tuple[str, ...]:
    if not measured:
        return ()
    yaws = [template.quality.yaw for template in measured]
    lights = [template.quality.brightness for template in measured]
    words = []
    if not any(abs(yaw) < TURNED for yaw in yaws):
        words.append("no shot looks straight at the camera")
    if not any(yaw <= -TURNED for yaw in yaws):
        words.append("no shot is turned to the left of the picture")
    if not any(yaw >= TURNED for yaw in yaws):
        words.append("no shot is turned to the right of the picture")
    if min(lights) > DARK:
        words.append(f"no shot is dark (the darkest has {min(lights):.0f} of 255): at night it may fail")
    if max(lights) < BRIGHT and max(lights) - min(lights) < 30:
        words.append(f"all shots have one light ({min(lights):.0f} to {max(lights):.0f} of 255)")
    return tuple(words)


def _mean(vectors: Float32s) -> Float32s:
    mean: Float32s = vectors.mean(axis=0)
    return np.asarray(mean / max(1e-6, float(np.linalg.norm(mean))), np.float32)


def _nearest(mean: Float32s, others: Sequence[tuple[str, Float32s]]) -> tuple[str | None, float | None]:
    if not others:
        return None, None
    name, vector = max(others, key=lambda one: float(one[1] @ mean))
    return name, float(vector @ mean)
