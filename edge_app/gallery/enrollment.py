"""Enrollment with judgement: a shot is accepted, or refused with a reason and its numbers.

Hides the order of the checks and which face of a picture is meant. Flows in: faces, qualities, embeddings and the
gallery. Flows out: a `Verdict` for every shot, as pure values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from edge_app.core.types import Embedding, Face, Pixels, Quality, Template
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference.face_quality import QualityLimits

Reason = Literal[
    "no-face",
    "several-faces",
    "too-small",
    "too-dark",
    "too-bright",
    "blown-out",
    "blurred",
    "turned-away",
    "tilted",
    "enrolled-already",
    "unlike-the-others",
    "looks-like-somebody-else",
    "outside",
    "unreadable",
]

RIVAL_SHARE: Final = 0.6
"""A second face this prominent beside the first makes a picture ambiguous. Prominence is size, divided by
1 + distance from the middle: with 0.6 this refuses 0.8 % of the pictures of lfw_dev, size alone 9.8 %."""

SAME_PICTURE: Final = 0.9999
"""Least cosine of two embeddings of one picture: it tells nothing new, and must not count twice."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture's chosen face, measured and embedded, not yet judged."""

    source: str
    """Where it came from."""
    face: Face
    crop: Pixels
    """(S, S, 3) uint8 RGB, upright."""
    quality: Quality
    embedding: Embedding
    kept: bytes | None = None
    """The face and its surroundings as the gallery may keep them; see `edge_app.gallery.kept_pictures`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a shot was not taken."""

    reason: Reason
    message: str
    """One line with the numbers and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What became of one picture."""

    source: str
    shot: Shot | None
    """The accepted or refused shot; None when no face was chosen."""
    refusal: Refusal | None
    """None: accepted."""

    @property
    def accepted(self) -> bool:
        """Whether it became a template."""
        return self.refusal is None


@dataclass(frozen=True, slots=True)
class EnrollOptions:
    """How strict the gate is."""

    limits: QualityLimits = field(default_factory=QualityLimits)
    largest: bool = False
    """Take the largest face of a picture with several."""
    allow_lookalike: bool = False
    """Accept somebody who looks like a person already enrolled: a twin, or a second name."""
    same_person_floor: float = 0.3
    """Least cosine to the other shots of the name, for a model without operating points; with them, the threshold
    at FMR 1e-2."""


def choose_face(faces: Sequence[Face], size_px: tuple[int, int], *, largest: bool) -> Face | Refusal:
    """Pick the face that a picture is about.

    `size_px` is (width, height) of the picture. The most prominent face is meant; a rival nearly as prominent
    makes the picture ambiguous unless `largest`.
    """
    if not faces:
        return Refusal("no-face", "no face was found: use a picture in which the face is upright and at least 24 px")
    if largest:
        return max(faces, key=lambda face: face.area_px2)
    ranked = sorted(faces, key=lambda face: -prominence(face, size_px))
    rivals = sum(prominence(face, size_px) > RIVAL_SHARE * prominence(ranked[0], size_px) for face in ranked[1:])
    if rivals:
        return Refusal(
            "several-faces",
            f"{rivals + 1} faces of similar size: crop the picture, or take the largest with --largest",
        )
    return ranked[0]


def prominence(face: Face, size_px: tuple[int, int]) -> float:
    """Size of a face in pixels, less the farther it is from the middle of the picture."""
    centre = (face.box[:2] + face.box[2:]) / 2
    half = np.asarray(size_px, np.float32) / 2
    away = float(np.linalg.norm((centre - half) / max(1.0, float(half.min()))))
    return face.size_px / (1 + away)


def judge_quality(quality: Quality, limits: QualityLimits) -> Refusal | None:
    """Refuse a face that is too small, badly lit, blurred or turned away; None when all is well."""
    q, m = quality, limits
    checks: tuple[tuple[bool, Reason, str], ...] = (
        (
            q.face_px < m.min_face_px,
            "too-small",
            f"the face is {q.face_px:.0f} px wide, expected at least {m.min_face_px:.0f}: come closer",
        ),
        (
            q.brightness < m.min_brightness,
            "too-dark",
            f"the face's brightness is {q.brightness:.0f} of 255, expected at least {m.min_brightness:.0f}: more light",
        ),
        (
            q.brightness > m.max_brightness,
            "too-bright",
            f"the face's brightness is {q.brightness:.0f} of 255, expected at most {m.max_brightness:.0f}: less light",
        ),
        (
            q.clipped > m.max_clipped,
            "blown-out",
            f"{q.clipped:.0%} of the face is black or blown out, expected at most {m.max_clipped:.0%}: softer light",
        ),
        (
            abs(q.yaw) > m.max_yaw,
            "turned-away",
            f"the face is turned away ({abs(q.yaw):.2f}, expected at most {m.max_yaw:.2f}): look at the camera",
        ),
        (
            q.score < m.min_score,
            "turned-away",
            f"the face is turned away or half hidden (sure to {q.score:.2f}, at least {m.min_score:.2f} needed): "
            "look at the camera",
        ),
        (
            abs(q.roll_deg) > m.max_roll_deg,
            "tilted",
            f"the head is tilted by {abs(q.roll_deg):.0f} degrees, at most {m.max_roll_deg:.0f} will do: straighten",
        ),
        (
            q.sharpness < m.min_sharpness,
            "blurred",
            f"the face is blurred (detail {q.sharpness:.2f}, at least {m.min_sharpness:.2f} needed): hold still",
        ),
    )
    return next((Refusal(reason, message) for failed, reason, message in checks if failed), None)


def judge_shots(
    name: str,
    shots: Sequence[Shot],
    own: Sequence[Embedding],
    gallery: Gallery,
    rule: MatchRule,
    options: EnrollOptions,
) -> list[Verdict]:
    """Judge the shots of one name together.

    `own` are the embeddings already enrolled under that name. Quality comes first; then every shot is held against
    the others of the name (those enrolled and those of this call), which it must be like and not equal, and against
    everybody else in the gallery.
    """
    measured = [judge_quality(shot.quality, options.limits) for shot in shots]
    embeddings = [shot.embedding for shot in shots]
    refusals = judge_embeddings(name, embeddings, measured, own, gallery, rule, options)
    return [Verdict(shot.source, shot, refusal) for shot, refusal in zip(shots, refusals, strict=True)]


def judge_embeddings(
    name: str,
    embeddings: Sequence[Embedding],
    measured: Sequence[Refusal | None],
    own: Sequence[Embedding],
    gallery: Gallery,
    rule: MatchRule,
    options: EnrollOptions,
) -> list[Refusal | None]:
    """What becomes of the shots of one name, faces or things, after their quality was `measured`.

    Returns the reason against each, None for those that are taken.
    """
    refusals = list(measured)
    seen = list(own)
    for index, embedding in enumerate(embeddings):
        if refusals[index] is None:
            refusals[index] = _same_picture(embedding, seen, len(own))
            seen.append(embedding)
    good = [index for index, refusal in enumerate(refusals) if refusal is None]
    for index in _outliers([embeddings[i] for i in good], own, options.same_person_floor):
        where = good[index]
        others = [*own, *(embeddings[i] for i in good if i != where)]
        refusals[where] = _unlike(embeddings[where], others, options)
    for index in good:
        if refusals[index] is None and not options.allow_lookalike:
            refusals[index] = _lookalike(name, embeddings[index], gallery, rule)
    return refusals


def _outliers(embeddings: Sequence[Embedding], own: Sequence[Embedding], floor: float) -> list[int]:
    """Indices of the shots outside the largest group that hangs together, counting what is enrolled already.

    Two shots that differ cannot tell which is wrong: the first given stays.
    """
    if not embeddings:
        return []
    vectors = np.stack([e.vector for e in [*own, *embeddings]])
    alike = vectors @ vectors.T >= floor
    # What is enrolled decides; without it the shot that agrees with most, the first of equals.
    votes = alike[:, : len(own)].mean(axis=1) if own else alike.mean(axis=1)
    if own:
        return [i for i in range(len(embeddings)) if votes[len(own) + i] < 0.5]
    centre = int(votes.argmax())
    return [i for i in range(len(embeddings)) if not alike[centre, i]]


def _same_picture(embedding: Embedding, seen: Sequence[Embedding], enrolled: int) -> Refusal | None:
    """Refuse what is among the `seen`, of which the first `enrolled` are in the gallery, the others in this call."""
    where = next((i for i, other in enumerate(seen) if embedding.similarity(other) >= SAME_PICTURE), None)
    if where is None:
        return None
    what = "this picture is enrolled already" if where < enrolled else "this picture was given twice"
    return Refusal("enrolled-already", f"{what}: another one, in other light or from another side, tells more")


def _unlike(embedding: Embedding, others: Sequence[Embedding], options: EnrollOptions) -> Refusal:
    nearest = max((embedding.similarity(other) for other in others), default=-1.0)
    return Refusal(
        "unlike-the-others",
        f"it does not look like the other shots of this name (similarity {nearest:.2f}, expected at least "
        f"{options.same_person_floor:.2f}): check that it is the same one",
    )


def _lookalike(name: str, embedding: Embedding, gallery: Gallery, rule: MatchRule) -> Refusal | None:
    nearest = gallery.nearest(embedding, other_than=name)
    if nearest is None or nearest[1] < rule.threshold:
        return None
    return Refusal(
        "looks-like-somebody-else",
        f"it looks like {nearest[0]}, who is enrolled already (similarity {nearest[1]:.2f}, strangers stay under "
        f"{rule.threshold:.2f}): use that name, or insist with --allow-lookalike",
    )


def template_of(shot: Shot, created_s: float) -> Template:
    """The template that an accepted shot becomes."""
    return Template(shot.embedding, shot.quality, shot.source, created_s)
