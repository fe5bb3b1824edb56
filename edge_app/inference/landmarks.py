"""Finds the five landmarks of detected faces anew, whichever way the heads are tilted.

YuNet's own landmarks lie under tilt (a face turned by 45 degrees is told as 28), and an embedder that is given them
sees a crooked face. MTCNN's last network, O-Net, looks at a square of 48 px about each face, turned upright by the roll
that was found so far; where the roll changes much it looks again. All faces of a picture go through it together. Of a
head that is upright the landmarks are the mean of both networks'.
Zhang et al. 2016, Joint face detection and alignment using multitask cascaded networks (arXiv 1604.02878).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import ModelError
from edge_app.core.types import Face, Float32s, Pixels
from edge_app.inference.geometry import cut_square, similarity_transform, to_input
from edge_app.inference.onnx_model import Model

_SIDE_PX: Final = 48
_SHAPE: Final = np.array([[0.308, 0.3], [0.692, 0.3], [0.5, 0.518], [0.331, 0.712], [0.669, 0.712]])
"""Where O-Net sees the landmarks of an upright face, as shares of its square: median over lfw_dev, made symmetric."""
_BOX_SIDE: Final = 0.9
"""Side of the first square in longer sides of YuNet's box; 0.8 to 1.1 give the same landmarks."""
_BOX_DROP: Final = 0.05
"""How far down the face its middle lies from the box's, in the same measure."""
_AGAIN_DEG: Final = 8.0
_AGAIN_SHARE: Final = 0.12
"""A square that turns out to lie crooked by so many degrees, or shifted or scaled by this share of its side, is cut
anew."""
_DOUBT: Final = 1e-3
"""O-Net's probability of no face from which a face may lie another way up than it seems."""
_USUAL_SCORE: Final = 0.85
_USUAL_ROLL_DEG: Final = 40.0
"""The same holds for a face of which YuNet is less sure, or that seems tilted more. YuNet gives 99 of 100 upright
faces of lfw_dev from 24 px on at least 0.86, and 9 of 10 upside-down ones less than 0.85."""
_TURN_PAYS: Final = 0.1
"""Another way up counts when O-Net doubts it so many times less: of heads turned to the side by 60 degrees, which it
doubts whichever way up, 16 of 204 were set on their side by the least doubt alone, 5 by a tenth."""
_HOPELESS: Final = 0.8
_HOPELESS_UNLIKELY: Final = 0.7
"""What O-Net doubts more than this on all four sides is no face and is not looked at again; the second figure is for
faces below the score that was asked for. Of 7,318 faces of half of lfw_dev's people, tilted, hidden, small and dark, 9
are lost in the picture as it stands, 8 of them lying at 45 degrees or more; of 43 pictures without a face in which
there was something to look at, 28 cost no second look."""
_QUARTER_BACK: Final = np.array([[0.0, -1.0, _SIDE_PX - 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""Brings x, y, 1 of a crop that np.rot90 turned to where they were before."""
_LEVEL_DEG: Final = 5.0
_TILTED_DEG: Final = 9.0
"""Up to this roll the detector's own landmarks count as much as O-Net's, from that one on nothing, for YuNet's roll is
short. On half of lfw_dev's people (17,278 pairs of one person, each person weighed alike; 1.8 million of strangers) the
mean misses 0.8 % where 0.1 % of strangers match and 2.0 % where 0.001 % do; O-Net alone 0.9 and 2.8, YuNet 0.7 and 2.9,
YuNet at the full size 0.9 and 3.4."""
_ASTRAY: Final = 0.2
"""Mean distance in eye distances from which the two do not mean the same face; 99 % of upright faces stay below."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """A face with its landmarks found anew."""

    face: Face
    doubt: float
    """O-Net's probability that there is no face, [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class _Square:
    centre: Matrix
    side_px: float
    roll_deg: float

    def turned(self, degrees: float) -> _Square:
        return replace(self, roll_deg=self.roll_deg + degrees)


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What O-Net sees in a square."""

    landmarks: Float32s
    doubt: float
    fitting: _Square
    """The square in which these landmarks would lie where O-Net expects them."""
    missed: bool
    """Whether the square lay so far from the fitting one that another look pays."""


class LandmarkFinder:
    """Finds landmarks of detected faces with O-Net."""

    def __init__(self, onet: Model) -> None:
        if onet.card.family != "mtcnn-onet":
            raise ModelError(f"{onet.card.id} is of the family {onet.card.family}", expected="mtcnn-onet")
        self._onet = onet

    def refine(self, pixels: Pixels, faces: Sequence[Face], likely: float = 0.0) -> list[Checked]:
        """Find the landmarks of each face of (H, W, 3) uint8 RGB pixels; boxes and scores stay, in the same order.

        One face costs one run of O-Net (0.35 ms), a tilted one two or three, one that may lie on its side or upside
        down up to nine. Of faces that score less than `likely` only the best of a picture is given more than one run,
        and only where no face scores more: a picture without faces must stay cheap.
        """
        worth = [k for k, face in enumerate(faces) if face.score >= likely]
        if not worth and faces:
            worth = [max(range(len(faces)), key=lambda k: faces[k].score)]
        squares = [_first_square(face) for face in faces]
        # A face that will be looked at from all sides whatever is seen first goes through with all of them at once.
        unsure = [k for k in worth if faces[k].score < _USUAL_SCORE]
        seen = self._look(pixels, squares, unsure)
        looks, turned = seen[: len(faces)], seen[len(faces) :]
        hopeless = {
            k
            for i, k in enumerate(unsure)
            if min(look.doubt for look in (looks[k], *turned[3 * i : 3 * i + 3]))
            > (_HOPELESS if faces[k].score >= likely else _HOPELESS_UNLIKELY)
        }
        upright = [k for k in worth if k not in hopeless]
        clear = [
            i
            for i, look in enumerate(turned)
            if (k := unsure[i // 3]) not in hopeless and (faces[k].score >= likely or look.doubt < _HOPELESS)
        ]
        closer = self._closer(pixels, [looks[k] for k in upright] + [turned[i] for i in clear])
        for k, look in zip(upright, closer, strict=False):
            looks[k] = look
        for i, look in zip(clear, closer[len(upright) :], strict=True):
            turned[i] = look
        doubtful = [k for k in worth if k not in unsure and _may_lie_otherwise(faces[k], looks[k])]
        around = self._look(pixels, [squares[k] for k in doubtful], range(len(doubtful)))
        turned += self._closer(pixels, around[len(doubtful) :])
        for number, k in enumerate(unsure + doubtful):
            best = min(turned[3 * number : 3 * number + 3], key=lambda look: look.doubt)
            if best.doubt < _TURN_PAYS * looks[k].doubt:
                looks[k] = best
        return [
            Checked(replace(face, landmarks=_mean_of_both(face.landmarks, look)), look.doubt)
            for face, look in zip(faces, looks, strict=True)
        ]

    def _closer(self, pixels: Pixels, looks: list[_Look]) -> list[_Look]:
        """Look again, at most twice, where the square lay crooked or off."""
        for _ in range(2):
            again = [k for k, look in enumerate(looks) if look.missed]
            for k, look in zip(again, self._look(pixels, [looks[k].fitting for k in again]), strict=True):
                looks[k] = look
        return looks

    def _look(self, pixels: Pixels, squares: Sequence[_Square], around: Sequence[int] = ()) -> list[_Look]:
        """One look a square; then three for each number in `around`: that square turned by 90, 180 and 270 degrees."""
        if not squares:
            return []
        cuts = [cut_square(pixels, s.centre, s.side_px, s.roll_deg, _SIDE_PX) for s in squares]
        looked = list(squares)
        for i in around:
            crop, back = cuts[i]
            for quarters in (1, 2, 3):
                crop, back = np.rot90(crop), back @ _QUARTER_BACK
                cuts.append((crop, back))
                looked.append(squares[i].turned(90.0 * quarters))
        crops = np.stack([crop for crop, _ in cuts])
        points, scores = self._onet.run(to_input(crops, self._onet.card.input), ("landmarks", "scores"))
        # Ten numbers: five x, then five y, as shares of the square.
        shares = points.reshape(-1, 2, 5).transpose(0, 2, 1) * _SIDE_PX - 0.5
        looks = []
        for square, (_, back), inside, score in zip(looked, cuts, shares, scores, strict=True):
            landmarks = inside @ back[:, :2].T + back[:, 2]
            fitting = _square_of(landmarks)
            turn = (fitting.roll_deg - square.roll_deg + 180) % 360 - 180
            shift = math.hypot(*(fitting.centre - square.centre)) / square.side_px
            missed = abs(turn) > _AGAIN_DEG or max(shift, abs(fitting.side_px / square.side_px - 1)) > _AGAIN_SHARE
            looks.append(_Look(landmarks.astype(np.float32), float(score[0]), fitting, missed))
        return looks


def _mean_of_both(own: Float32s, look: _Look) -> Float32s:
    """The detector's landmarks and O-Net's, half and half, where the head is upright and they agree; else O-Net's."""
    found = look.landmarks
    eyes = max(float(np.linalg.norm(found[1] - found[0])), 1e-6)
    if float(np.linalg.norm(own - found, axis=1).mean()) >= _ASTRAY * eyes:
        return found
    level = (_TILTED_DEG - abs(look.fitting.roll_deg)) / (_TILTED_DEG - _LEVEL_DEG)
    share = 0.5 * min(1.0, max(0.0, level))
    return np.asarray(share * own + (1 - share) * found, np.float32)


def roll_of(landmarks: Float32s) -> float:
    """How far a face is turned clockwise as seen, degrees in (-180, 180], by all its five landmarks."""
    return _square_of(landmarks.astype(np.float64)).roll_deg


def _square_of(landmarks: Matrix) -> _Square:
    # Landmarks that all fall on one point have no roll: O-Net's never do, those of a detector that was brought may.
    if float(np.ptp(landmarks)) < 1e-3:
        return _Square(landmarks.mean(axis=0), 1.0, 0.0)
    fit = similarity_transform(_SHAPE, landmarks)
    a, b = float(fit[0, 0]), float(fit[1, 0])
    return _Square(fit[:, :2].sum(axis=1) / 2 + fit[:, 2], max(math.hypot(a, b), 1.0), math.degrees(math.atan2(b, a)))


def _first_square(face: Face) -> _Square:
    """The square about a detected face, turned by the roll of its own landmarks."""
    roll_deg = roll_of(face.landmarks)
    roll = math.radians(roll_deg)
    side = max(face.width_px, face.height_px)
    x, y = float(face.box[0] + face.box[2]) / 2, float(face.box[1] + face.box[3]) / 2
    drop = _BOX_DROP * side
    centre = np.array([x - math.sin(roll) * drop, y + math.cos(roll) * drop])
    return _Square(centre, _BOX_SIDE * side, roll_deg)


def _may_lie_otherwise(face: Face, look: _Look) -> bool:
    return look.doubt > _DOUBT or face.score < _USUAL_SCORE or abs(look.fitting.roll_deg) > _USUAL_ROLL_DEG
