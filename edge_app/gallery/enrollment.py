"""The enrollment gate: which shots of a name become templates, and why the others do not.

A weak shot (a little soft, dark or turned) is kept with a warning when it looks like a better one of the same name, or
when there are only weak ones, and more than one. Resemblance to somebody enrolled is no fault of a picture: it is a
question to the user. On the half of lfw_dev's people that nothing was chosen on, 252 people with two pictures each
imported as folders of 100 and 152 (`edge-app enroll --folder`), 4 of 504 pictures are refused (0.8 %; 95 %: 0.3 to
2.0 %; INT8 3), all as unlike; nobody is left out, 7 weak ones are kept, and 3 people are asked about (INT8 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from edge_app.core.errors import UsageError
from edge_app.core.types import Embedding, Face, Float32s, Pixels, Quality, Template
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

LEAST: Final = QualityLimits(
    min_face_px=40.0,
    min_sharpness=0.145,
    min_brightness=30.0,
    max_brightness=235.0,
    max_clipped=0.45,
    max_yaw=1.6,
    min_score=0.855,
    max_roll_deg=45.0,
)
"""Below it, or above, a shot is refused whatever else there is."""

SAME_PICTURE: Final = 0.9999
"""Least cosine of two embeddings of one picture: it tells nothing new, and must not count twice."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture's chosen face, or an area of it that shows a thing, measured and embedded, not yet judged."""

    source: str
    """Where it came from."""
    face: Face | None
    """None for a thing."""
    crop: Pixels
    """(H, W, 3) uint8 RGB: what the network sees; a face's is upright."""
    quality: Quality
    """Of a thing yaw, pitch and roll are 0 and the score is 1, for they mean nothing there."""
    embedding: Embedding
    kept: bytes | None = None
    """The face or the area as the gallery may keep it; see `edge_app.gallery.kept_pictures`."""
    box: Float32s | None = None
    """(4,) x1, y1, x2, y2: where a thing lies in the picture."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a shot was not taken."""

    reason: Reason
    message: str
    """One line with the numbers and what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class SeveralFaces(Refusal):
    """A picture of which nobody knows whose it is, unless the name's other shots tell; see `settle_rivals`."""

    candidates: tuple[Shot, ...] = ()


@dataclass(frozen=True, slots=True)
class Resemblance:
    """Somebody enrolled whom a shot looks like; the user is asked whether it is the same person."""

    name: str
    similarity: float
    """Cosine to that identity."""
    threshold: float
    """What strangers stay under, at the rate asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What became of one picture."""

    source: str
    shot: Shot | None
    """The accepted or refused shot; None when no face was chosen."""
    refusal: Refusal | None
    """None: accepted."""
    warning: str | None = None
    """Why an accepted shot is a weak one."""
    resembles: Resemblance | None = None
    """Whom the shot looks like besides, accepted or not."""

    @property
    def accepted(self) -> bool:
        """Whether it became a template."""
        return self.refusal is None


Origin = Literal["camera", "files"]


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a look that was given to a `Collection`."""

    taken: bool
    discarded: int
    """How many shots were discarded because somebody else came before the camera."""


@dataclass(frozen=True, slots=True)
class EnrollOptions:
    """How strict the gate is."""

    limits: QualityLimits = field(default_factory=QualityLimits)
    """What a good shot meets."""
    least: QualityLimits = LEAST
    """What a weak one meets; less is of no use to anybody."""
    largest: bool = False
    """Take the largest face of a picture with several."""
    allow_lookalike: bool = False
    """The question about a resemblance is answered, or is to be listed and not asked: such shots are accepted."""
    same_person_floor: float = 0.3
    """Least cosine to the other shots of the name, for a model without operating points; with them, the threshold
    at FMR 1e-2."""
    ignored: bool = False
    """The name is a known stranger's: not to be told of, and not to be mistaken for somebody enrolled."""
    consent: str | None = None
    """The words of a consent, to be noted with the time."""


def choose_face(faces: Sequence[Face], size_px: tuple[int, int], *, largest: bool) -> Face | Refusal:
    """Pick the face that a picture is about.

    `size_px` is (width, height) of the picture. The most prominent face is meant; a rival nearly as prominent
    makes the picture ambiguous unless `largest`.
    """
    if not faces:
        return Refusal("no-face", "no face was found: use a picture in which the face is upright and at least 24 px")
    if largest:
        return max(faces, key=lambda face: face.area_px2)
    meant = rivals(faces, size_px)
    if len(meant) > 1:
        return Refusal(
            "several-faces",
            f"{len(meant)} faces of similar size: crop the picture, add one with this face alone, or take the largest "
            "with --largest",
        )
    return meant[0]


def rivals(faces: Sequence[Face], size_px: tuple[int, int]) -> list[Face]:
    """The faces of an ambiguous picture of (width, height), the most prominent first."""
    ranked = sorted(faces, key=lambda face: -prominence(face, size_px))
    return [face for face in ranked if prominence(face, size_px) > RIVAL_SHARE * prominence(ranked[0], size_px)]


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


def settle_rivals(
    looks: Sequence[tuple[str, Shot | Refusal]], own: Sequence[Embedding], options: EnrollOptions
) -> list[tuple[str, Shot | Refusal]]:
    """Choose among the faces of ambiguous pictures by the name's other shots.

    `own` are the embeddings already enrolled under the name. A face is meant when it looks like one of the others'
    (those enrolled, those of pictures with one face, and where there are none those of the other ambiguous pictures)
    and no rival in its picture does. Looks that stay ambiguous come back as they were.
    """
    certain = [*own, *(look.embedding for _, look in looks if isinstance(look, Shot))]
    settled: list[tuple[str, Shot | Refusal]] = []
    for source, look in looks:
        chosen: Shot | Refusal = look
        if isinstance(look, SeveralFaces):
            others = certain or [
                one.embedding
                for _, other in looks
                if isinstance(other, SeveralFaces) and other is not look
                for one in other.candidates
            ]
            alike = [
                one
                for one in look.candidates
                if any(one.embedding.similarity(other) >= options.same_person_floor for other in others)
            ]
            chosen = alike[0] if len(alike) == 1 else look
        settled.append((source, chosen))
    return settled


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
    unusable = [judge_quality(shot.quality, options.least) for shot in shots]
    weak = [judge_quality(shot.quality, options.limits) for shot in shots]
    embeddings = [shot.embedding for shot in shots]
    good = [index for index in range(len(shots)) if weak[index] is None]
    measured = [None if index in good else weak[index] for index in range(len(shots))]
    refusals = judge_embeddings(name, embeddings, measured, own, gallery, rule, options)
    resembled = [_resemblance(name, embedding, gallery, rule) for embedding in embeddings]
    warnings: list[str | None] = [None] * len(shots)
    # Whatever a better shot of the name vouches for is the same person; without a better one, two weak ones do for each
    # other. A single weak picture is refused: another one is easily taken.
    better = [*own, *(embeddings[index] for index in good if refusals[index] is None)]
    spare = [index for index in range(len(shots)) if weak[index] is not None and unusable[index] is None]
    if better:
        spare = [
            index
            for index in spare
            if any(embeddings[index].similarity(other) >= options.same_person_floor for other in better)
        ]
    elif len(spare) < 2:
        spare = []
    taken = judge_embeddings(name, [embeddings[i] for i in spare], [None] * len(spare), better, gallery, rule, options)
    for index, refusal in zip(spare, taken, strict=True):
        refusals[index] = refusal
        fault = weak[index]
        warnings[index] = None if refusal or fault is None else f"a weak shot was kept: {fault.message}"
    return [
        Verdict(shot.source, shot, refusals[index], warnings[index], resembled[index])
        for index, shot in enumerate(shots)
    ]


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
            found = _resemblance(name, embeddings[index], gallery, rule)
            refusals[index] = None if found is None else _lookalike(name, found)
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


def _resemblance(name: str, embedding: Embedding, gallery: Gallery, rule: MatchRule) -> Resemblance | None:
    nearest = gallery.nearest(embedding, other_than=name, rule=rule)
    if nearest is None or nearest[1] < rule.threshold:
        return None
    return Resemblance(nearest[0], nearest[1], rule.threshold)


def _lookalike(name: str, found: Resemblance) -> Refusal:
    return Refusal(
        "looks-like-somebody-else",
        f"{name} looks like {found.name}, who is enrolled already (similarity {found.similarity:.2f}, strangers stay "
        f"under {found.threshold:.2f}): use that name, or insist with --allow-lookalike",
    )


class Collection:
    """The shots of one name from one source, judged together at the end; until then nothing is stored.

    Nothing is taken before a source was chosen. In front of a camera a face that looks like none of the shots so far is
    somebody else: they are discarded, for nobody knows which of the two was meant.
    """

    def __init__(self, name: str, options: EnrollOptions, own: Sequence[Embedding] = ()) -> None:
        """`own` are the embeddings already enrolled under the name."""
        self.name = name
        self.source: Origin | None = None
        self._options = options
        self._own = tuple(own)
        self._looks: list[tuple[str, Shot | Refusal]] = []

    @property
    def looks(self) -> tuple[tuple[str, Shot | Refusal], ...]:
        """What was collected: source names with shots, or with the reason why a picture gave none."""
        return tuple(self._looks)

    @property
    def shots(self) -> tuple[Shot, ...]:
        """The shots among them."""
        return tuple(look for _, look in self._looks if isinstance(look, Shot))

    def choose(self, source: Origin, *, mix: bool = False) -> None:
        """Take shots from `source` from now on.

        Raises UsageError when there are shots of the other source and `mix` is not given: that is a question to the
        user, who answers it by `mix` or by `discard`.
        """
        if self.source not in (None, source) and self._looks and not mix:
            raise UsageError(
                f"{len(self._looks)} shots of {self.name} come from the {self.source}",
                expected="one source for all",
                remedy="keep both, or discard those first",
            )
        self.source = source

    def add(self, source: str, look: Shot | Refusal) -> Added:
        """Collect what one picture gave; says what became of it. Raises ValueError before `choose`."""
        if self.source is None:
            raise ValueError("a shot before its source was chosen")
        if self.source == "camera":
            if isinstance(look, Refusal):
                return Added(taken=False, discarded=0)  # the next frame is a moment away
            if self.is_other(look):
                return Added(taken=False, discarded=self.discard())
        self._looks.append((source, look))
        return Added(taken=True, discarded=0)

    def is_other(self, shot: Shot) -> bool:
        """Whether a face looks like none of the shots of this name, those enrolled among them; False where there are
        none."""
        others = [*self._own, *(one.embedding for one in self.shots)]
        return bool(others) and max(map(shot.embedding.similarity, others)) < self._options.same_person_floor

    def drop(self, index: int) -> None:
        """Take back the look at `index`."""
        del self._looks[index]

    def discard(self) -> int:
        """Take back all; returns how many shots there were."""
        count = len(self.shots)
        self._looks.clear()
        return count

    def judge(self, gallery: Gallery, rule: MatchRule) -> list[Verdict]:
        """What would be kept and what dropped, one verdict per look in order; stores nothing."""
        looks = settle_rivals(self._looks, self._own, self._options)
        shots = [look for _, look in looks if isinstance(look, Shot)]
        judged = iter(judge_shots(self.name, shots, self._own, gallery, rule, self._options))
        return [next(judged) if isinstance(look, Shot) else Verdict(source, None, look) for source, look in looks]


def template_of(shot: Shot, created_s: float) -> Template:
    """The template that an accepted shot becomes."""
    return Template(shot.embedding, shot.quality, shot.source, created_s)
