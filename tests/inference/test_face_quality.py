"""What is measured on a face: detail of noise whose answer is known, turns and tilts that were planted."""

import math

import cv2
import numpy as np
import pytest

from edge_app.core.types import Face
from edge_app.inference.face_quality import detail, detail_along, measure

FRONTAL = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
BOX = np.array([10, 10, 90, 100], np.float32)


@pytest.mark.parametrize("direction", [(0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1)])
def test_the_blur_that_detail_is_held_against_is_two_pixels_wide(direction):
    """In white noise the differences shrink to sqrt(sum of the kernel's squared differences / 2), a known number."""
    noise = np.random.default_rng(0).normal(128, 20, (400, 400)).astype(np.float32)
    steps = max(abs(d) for d in direction)
    along = np.arange(-4 // steps, 4 // steps + 1)
    kernel = np.exp(-(along**2) / (2 * (2 / steps) ** 2))
    kernel = np.pad(kernel / kernel.sum(), 1)
    kept = math.sqrt(float((np.diff(kernel) ** 2).sum()) / 2)
    assert detail_along(noise, *direction) == pytest.approx(1 - kept, abs=0.004)


@pytest.mark.parametrize("degrees", [0, 27, 45, 63, 90, 117, 135, 153])
def test_motion_in_any_direction_takes_detail(degrees):
    """One direction in eight is nearly along the motion, whichever it is."""
    noise = np.random.default_rng(1).normal(128, 40, (120, 120)).astype(np.float32)
    sharp = cv2.GaussianBlur(noise, (0, 0), 0.8)
    kernel = np.zeros((15, 15), np.float32)
    dx, dy = 7 * math.cos(math.radians(degrees)), 7 * math.sin(math.radians(degrees))
    cv2.line(kernel, (round(7 - dx), round(7 - dy)), (round(7 + dx), round(7 + dy)), 1.0)
    moved = cv2.filter2D(sharp, -1, kernel / kernel.sum())
    assert detail(moved) < 0.6 * detail(sharp)


def test_a_flat_picture_has_no_detail():
    assert detail(np.full((50, 50), 90, np.uint8)) == 0.0


@pytest.mark.parametrize("roll_deg", [-40.0, 0.0, 25.0])
def test_roll_is_told_and_changes_neither_yaw_nor_pitch(roll_deg):
    angle = np.radians(roll_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (FRONTAL - 50) @ turn.T + 50
    measured = measure(Face(BOX, landmarks.astype(np.float32), 0.9), np.full((112, 112, 3), 100, np.uint8))
    assert measured.roll_deg == pytest.approx(roll_deg, abs=1e-3)
    assert measured.yaw == pytest.approx(0.0, abs=1e-5) and measured.pitch == pytest.approx(0.5, abs=1e-5)


def test_a_nose_halfway_to_the_cheek_is_a_yaw_of_half():
    landmarks = FRONTAL + np.array([[0, 0], [0, 0], [10, 0], [0, 0], [0, 0]], np.float32)
    measured = measure(Face(BOX, landmarks, 0.9), np.full((112, 112, 3), 100, np.uint8))
    assert measured.yaw == pytest.approx(0.5)
