"""Cuts and movement, in pictures that are made so that the answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_app.live import scene_change
from edge_app.live.scene_change import SceneChange, likeness

CELL_PX = scene_change.STEP_PX * scene_change.BLOCK
NOBODY = np.zeros((0, 4), np.float32)


def room(seed: int, size: tuple[int, int] = (640, 480)) -> np.ndarray:
    """A picture with soft patches of light."""
    small = np.random.default_rng(seed).integers(40, 200, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def with_cells(pixels: np.ndarray, count: int, change: int = 40) -> np.ndarray:
    """The picture with `count` whole cells of it brighter."""
    changed = pixels.copy()
    for number in range(count):
        x, y = CELL_PX * (3 + 2 * number), CELL_PX * 12
        part = changed[y : y + CELL_PX, x : x + CELL_PX]
        part[:] = np.clip(part.astype(int) + change, 0, 255).astype(np.uint8)
    return changed


def stirred(before: np.ndarray, after: np.ndarray, boxes: np.ndarray = NOBODY) -> bool:
    scene = SceneChange()
    scene.see(before)
    scene.remember()
    scene.see(after)
    return scene.stirred(list(boxes), (after.shape[1], after.shape[0]))


def test_six_cells_are_movement_and_five_are_not():
    plain = np.full((480, 640, 3), 100, np.uint8)
    assert not stirred(plain, with_cells(plain, 5))
    assert stirred(plain, with_cells(plain, 6))


def test_a_small_change_of_light_in_a_cell_is_noise():
    plain = np.full((480, 640, 3), 100, np.uint8)
    assert not stirred(plain, with_cells(plain, 20, change=10))
    assert stirred(plain, with_cells(plain, 20, change=14))


def test_exposure_is_neither_movement_nor_a_cut():
    """The whole picture becomes brighter by 30 levels: what all cells have in common is taken off first."""
    before = np.clip(room(1), 0, 200).astype(np.uint8)
    after = (before + 30).astype(np.uint8)
    assert not stirred(before, after)
    scene = SceneChange()
    scene.see(before)
    assert not scene.see(after)


def test_exposure_does_not_hide_movement():
    before = np.clip(room(1), 0, 150).astype(np.uint8)
    assert stirred(before, with_cells((before + 30).astype(np.uint8), 8))


def test_who_moves_inside_a_followed_box_is_no_movement():
    plain = np.full((480, 640, 3), 100, np.uint8)
    moved = plain.copy()
    moved[200:300, 200:300] = 180
    assert stirred(plain, moved)
    assert not stirred(plain, moved, np.array([[210, 190, 290, 290]], np.float32))


def test_a_picture_of_something_else_is_a_cut():
    scene = SceneChange()
    cuts = [scene.see(room(seed)) for seed in (1, 1, 2, 2, 3, 1)]
    assert cuts == [False, False, True, False, True, True]


def test_a_light_that_goes_on_is_no_cut():
    scene = SceneChange()
    scene.see((room(4) * 0.45).astype(np.uint8))
    assert not scene.see(room(4))


def test_somebody_who_walks_through_a_third_of_the_picture_is_no_cut():
    before = room(5)
    after = before.copy()
    after[:, :210] = 30
    scene = SceneChange()
    scene.see(before)
    assert not scene.see(after)


def test_exposure_while_somebody_walks_by_is_no_cut():
    before = np.clip(room(5), 0, 200).astype(np.uint8)
    after = (before + 30).astype(np.uint8)
    after[:, :210] = 30
    scene = SceneChange()
    scene.see(before)
    assert not scene.see(after)


def test_another_size_is_a_cut_and_moves_nothing_over():
    scene = SceneChange()
    scene.see(room(1))
    scene.remember()
    assert scene.see(room(1, (320, 240)))
    assert scene.stirred([], (320, 240))
    assert not scene.see(room(1, (320, 240)))


@pytest.mark.parametrize("after", [6, 7])
def test_a_covered_lens_is_no_cut_and_the_next_picture_is_compared_with_the_one_before(after):
    scene = SceneChange()
    scene.see(room(6))
    assert not scene.see(np.zeros((480, 640, 3), np.uint8))
    assert scene.see(room(after)) == (after != 6)


def test_forgotten_pictures_are_compared_with_nothing():
    scene = SceneChange()
    scene.see(room(1))
    scene.forget()
    assert not scene.see(room(2))
    assert scene.stirred([], (640, 480))


def test_likeness_is_the_correlation():
    one = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)
    assert likeness(one, 2 * one + 5) == pytest.approx(1.0)
    assert likeness(one, -one) == pytest.approx(-1.0)
    assert likeness(one, np.full((2, 2), 7.0, np.float32)) == 1.0
