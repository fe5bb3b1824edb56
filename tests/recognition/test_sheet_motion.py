"""Faces whose surroundings move with them: prints in a hand, living heads in a room, a camera that shakes."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from edge_app.core.types import Face, Pixels
from edge_app.recognition.liveness import PassiveLiveness
from edge_app.recognition.sheet_motion import SheetMotion

WIDTH, HEIGHT, FACE_PX = 480, 360, 90


def textured(seed: int, width: int, height: int) -> Pixels:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


ROOM, SHEET, FACE = textured(1, WIDTH, HEIGHT), textured(2, 260, 260), textured(3, FACE_PX, FACE_PX)


def scene(time_s: float, what: str) -> tuple[Pixels, Face]:
    """One frame: a face that sways, alone ("head"), on a sheet ("print"), or before a camera that shakes ("shaken")."""
    x, y = WIDTH // 2 + 9 * math.sin(9 * time_s), HEIGHT // 2 + 8 * math.sin(7.3 * time_s)
    picture = ROOM.copy()
    if what == "print":
        picture = laid(picture, SHEET, x, y)
    picture = laid(picture, FACE, x, y)
    if what == "shaken":
        still = laid(ROOM.copy(), FACE, WIDTH / 2, HEIGHT / 2)
        shift = np.array([[1, 0, x - WIDTH / 2], [0, 1, y - HEIGHT / 2]])
        picture = cv2.warpAffine(still, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    if what == "still":
        picture, x, y = laid(ROOM.copy(), FACE, WIDTH / 2, HEIGHT / 2), WIDTH / 2, HEIGHT / 2
    half = FACE_PX / 2
    box = np.array([x - half, y - half, x + half, y + half], np.float32)
    eyes = [[x - 18, y - 10], [x + 18, y - 10], [x, y + 8], [x - 14, y + 25], [x + 14, y + 25]]
    return picture, Face(box, np.array(eyes, np.float32), 0.9)


def laid(under: Pixels, over: Pixels, x: float, y: float) -> Pixels:
    height, width = over.shape[:2]
    to = np.array([[1, 0, x - width / 2], [0, 1, y - height / 2]])
    share = cv2.warpAffine(np.ones((height, width), np.float32), to, (WIDTH, HEIGHT))[..., None]
    return (share * cv2.warpAffine(over, to, (WIDTH, HEIGHT)) + (1 - share) * under).astype(np.uint8)


@pytest.mark.parametrize(("what", "together"), [("print", True), ("head", False), ("shaken", False), ("still", None)])
def test_only_a_sheet_moves_with_its_face_in_a_room_that_stands_still(what, together):
    motion = SheetMotion()
    for index in range(14):
        motion.see(*scene(index / 10, what))
    assert motion.together is together


def test_a_few_frames_and_a_picture_without_corners_say_nothing():
    motion = SheetMotion()
    for index in range(4):
        motion.see(*scene(index / 10, "print"))
    assert motion.together is None
    plain = SheetMotion()
    for index in range(14):
        plain.see(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), scene(index / 10, "print")[1])
    assert plain.together is None


def test_it_denies_and_never_grants():
    class Believer:
        """A network that takes everything for live."""

        class card:
            crop = "none"

        def judge(self, pixels, face):
            from types import SimpleNamespace

            return SimpleNamespace(scores=[SimpleNamespace(label="live", probability=1.0)])

    for what, verdict in (("head", True), ("print", False)):
        liveness = PassiveLiveness([Believer()])
        for index in range(14):
            liveness.see(*scene(index / 10, what))
        assert liveness.verdict is verdict
    assert "moves with it" in liveness.reason
