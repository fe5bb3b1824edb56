"""The surface of faces, and how heads turn."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from edge_app.core.errors import ModelError
from edge_app.core.types import Face
from edge_app.inference.face_mesh import LEFT_EYE, RIGHT_EYE, FaceMesh, breadth_and_height, turn_between, unlike_a_plane
from edge_app.media.pictures import read_picture
from edge_app.model_store import fingerprint
from edge_app.model_store.catalogue import open_shipped
from edge_app.model_store.open_detector import open_detector

NOSE, LIPS = 1, (61, 291)


@pytest.fixture(scope="module")
def portraits() -> list[tuple[np.ndarray, Face]]:
    detector = open_detector("yunet", threads=1)
    pictures = [read_picture(path) for path in fingerprint.files()]
    assert len(pictures) > 4
    return [(picture, detector.detect(picture)[0]) for picture in pictures]


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh(open_shipped("face-mesh", threads=1))


def turned(points: np.ndarray, yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Points turned about axes that are written out once more here: x right, y down, z away."""
    y, p, r = (math.radians(value) for value in (yaw, pitch, roll))
    about_y = np.array([[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return points @ (about_z @ about_x @ about_y).T


@pytest.mark.parametrize("angles", [(20, 0, 0), (0, 15, 0), (0, 0, 30), (-25, 12, 8), (40, -20, -60)])
def test_a_turn_is_recovered_whatever_the_place_and_the_size(angles):
    head = np.random.default_rng(0).normal(size=(468, 3)) * [40, 60, 30]
    turn = turn_between(head, 1.3 * turned(head, *angles) + [5, -9, 40])
    assert (turn.yaw_deg, turn.pitch_deg, turn.roll_deg) == pytest.approx(angles, abs=1e-6)
    assert turn.scale == pytest.approx(1.3)


def test_a_nose_that_goes_to_the_right_of_the_picture_is_a_positive_yaw_and_one_that_goes_down_a_positive_pitch():
    nose = np.array([[0.0, 0.0, -1.0]])
    assert turned(nose, 20, 0, 0)[0, 0] > 0 and turned(nose, 0, 20, 0)[0, 1] > 0


def test_a_plane_stays_a_plane_however_it_is_seen_and_a_turned_head_does_not():
    head = np.random.default_rng(1).normal(size=(468, 3)) * [40, 60, 30]
    homography = np.array([[1.1, 0.1, 5], [-0.05, 0.9, 3], [2e-4, -3e-4, 1]])
    seen = np.column_stack([head[:, :2], np.ones(468)]) @ homography.T
    flat = np.column_stack([seen[:, :2] / seen[:, 2:], head[:, 2]])
    assert unlike_a_plane(head, flat, 60.0) < 1e-6
    assert unlike_a_plane(head, turned(head, 20, 0, 0), 60.0) > 0.05


def test_a_head_that_turns_keeps_its_breadth_and_height_and_a_tilted_picture_does_not():
    head = np.random.default_rng(2).normal(size=(468, 3)) * [40, 60, 30]
    for yaw, pitch in ((20, 0), (-25, 5), (0, 20)):
        np.testing.assert_allclose(breadth_and_height(head, 1.2 * turned(head, yaw, pitch, 0)), 1.2, rtol=1e-6)
    tilted = head * [np.cos(np.radians(30)), 1, 1]
    np.testing.assert_allclose(breadth_and_height(head, tilted), [0.866, 1.0], atol=1e-3)


def test_the_mesh_lies_on_the_landmarks_that_another_network_found(portraits, mesh):
    for picture, face in portraits:
        found = mesh.find(picture, face)
        points = found.points[:, :2]
        eyes = points[list(RIGHT_EYE)].mean(axis=0), points[list(LEFT_EYE)].mean(axis=0)
        ours = np.stack([*eyes, points[NOSE], *points[list(LIPS)]])
        apart = np.linalg.norm(ours - face.landmarks, axis=1) / found.eye_distance_px
        assert apart.max() < 0.25
        assert found.presence > 0.99


def test_a_mirrored_face_turns_the_other_way_and_a_tilted_one_rolls(portraits, mesh):
    picture, face = portraits[1]
    width = picture.shape[1]
    straight = mesh.find(picture, face).points.astype(np.float64)
    box = np.array([width - 1 - face.box[2], face.box[1], width - 1 - face.box[0], face.box[3]])
    landmarks = face.landmarks[[1, 0, 2, 4, 3]] * [-1, 1] + [width - 1, 0]
    mirrored = mesh.find(np.ascontiguousarray(picture[:, ::-1]), Face(box, landmarks, 0.9)).points.astype(np.float64)
    cheeks = [234, 454]
    before, after = (points[cheeks[1], 2] - points[cheeks[0], 2] for points in (straight, mirrored))
    assert abs(before) > 5 and before * after < 0

    middle = face.box.reshape(2, 2).mean(axis=0)
    matrix = cv2.getRotationMatrix2D(tuple(float(x) for x in middle), -30, 1.0)  # clockwise as seen
    tilted = cv2.warpAffine(picture, matrix, picture.shape[1::-1])
    moved = Face(face.box, face.landmarks @ matrix[:, :2].T + matrix[:, 2], 0.9)
    turn = turn_between(straight, mesh.find(tilted, moved).points.astype(np.float64))
    assert turn.roll_deg == pytest.approx(30, abs=3) and abs(turn.yaw_deg) < 5 and abs(turn.pitch_deg) < 5


def test_another_network_is_refused():
    with pytest.raises(ModelError, match="expected face-mesh"):
        FaceMesh(open_shipped("mtcnn-onet", threads=1))
