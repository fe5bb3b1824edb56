"""Landmarks of tilted, small, half hidden and dark faces lie where those of the clean picture lie, moved along."""

import cv2
import numpy as np
import pytest

from edge_app.core.errors import ModelError
from edge_app.core.types import Face
from edge_app.inference.geometry import cut_square
from edge_app.inference.landmarks import LandmarkFinder, roll_of
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.model_store import catalogue
from edge_app.model_store.open_detector import open_detector

POINTS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]], np.float32)
PEOPLE = [*(path for paths in sample.people().values() for path in paths), *sample.probes()["Barack Obama"]]


@pytest.fixture(scope="module")
def detector():
    return open_detector("yunet", threads=1)


def portrait(path, face_px, detector):
    """A sample picture scaled so that its largest face has `face_px`, and that face."""
    pixels = read_picture(path)
    scale = face_px / detector.detect(pixels)[0].size_px
    pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return pixels, detector.detect(pixels)[0]


def turned(pixels, degrees):
    """The picture turned counter-clockwise on a canvas that holds it, and the (2, 3) matrix that did it."""
    height, width = pixels.shape[:2]
    side = int(np.ceil(np.hypot(height, width)))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    matrix[:, 2] += [(side - width) / 2, (side - height) / 2]
    return cv2.warpAffine(pixels, matrix, (side, side)), matrix


def off(face, landmarks):
    """Mean distance of a face's landmarks from the true ones, in eye distances."""
    eyes = np.linalg.norm(landmarks[1] - landmarks[0])
    return float(np.linalg.norm(face.landmarks - landmarks, axis=1).mean() / eyes)


def nearest(faces, landmarks):
    assert faces
    return min(faces, key=lambda face: off(face, landmarks))


@pytest.mark.parametrize("degrees", [-60, -45, -30, -15, 0, 15, 30, 45, 60])
@pytest.mark.parametrize("path", PEOPLE, ids=lambda path: path.stem)
def test_landmarks_of_a_tilted_head_are_those_of_the_upright_one(path, degrees, detector):
    pixels, face = portrait(path, 110, detector)
    tilted, matrix = turned(pixels, degrees)
    truth = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    found = nearest(detector.detect(tilted, any_way_up=abs(degrees) > 45), truth)
    assert off(found, truth) < 0.08
    assert roll_of(found.landmarks) == pytest.approx(roll_of(face.landmarks) - degrees, abs=4)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("path", PEOPLE, ids=lambda path: path.stem)
def test_a_photograph_may_lie_any_way_up(path, quarters, detector):
    pixels, face = portrait(path, 110, detector)
    pixels = pixels[:, : pixels.shape[1] - 7]  # not square, so that a mistaken axis shows
    lying, matrix = turned(pixels, 90 * quarters)
    truth = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    rotated = np.rot90(pixels, quarters)
    x, y = np.argwhere(lying.any(axis=(0, 2))).min(), np.argwhere(lying.any(axis=(1, 2))).min()
    found = nearest(detector.detect(np.ascontiguousarray(rotated), any_way_up=True), truth - (x, y))
    assert off(found, truth - (x, y)) < 0.08
    middle = (found.box[:2] + found.box[2:]) / 2
    assert np.linalg.norm(middle - found.landmarks.mean(axis=0)) < 0.25 * found.size_px


def test_an_upright_photograph_is_searched_once(monkeypatch, detector):
    pixels, _ = portrait(PEOPLE[0], 110, detector)
    searches = []
    monkeypatch.setattr(
        detector, "_find", lambda seen, options, find=detector._find: searches.append(1) or find(seen, options)
    )
    assert detector.detect(pixels, any_way_up=True) and len(searches) == 1
    assert detector.detect(np.rot90(pixels).copy()) is not None and len(searches) == 2
    assert detector.detect(np.full((240, 320, 3), 90, np.uint8), any_way_up=True) == () and len(searches) == 6


@pytest.mark.parametrize("path", PEOPLE, ids=lambda path: path.stem)
def test_landmarks_of_a_small_face_are_those_of_the_large_one(path, detector):
    pixels, face = portrait(path, 110, detector)
    scale = 24 / face.size_px
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    truth = (face.landmarks + 0.5) * scale - 0.5
    assert off(nearest(detector.detect(small), truth), truth) < 0.1


@pytest.mark.parametrize("path", PEOPLE, ids=lambda path: path.stem)
def test_landmarks_hold_under_sunglasses(path, detector):
    pixels, face = portrait(path, 110, detector)
    eyes, axes = face.landmarks[:2], np.linalg.norm(face.landmarks[1] - face.landmarks[0]) * np.array([0.45, 0.33])
    worn = pixels.copy()
    for eye in eyes.round().astype(int):
        cv2.ellipse(worn, tuple(map(int, eye)), tuple(map(int, axes)), 0, 0, 360, (15, 15, 18), -1, cv2.LINE_AA)
    assert off(nearest(detector.detect(worn), face.landmarks), face.landmarks) < 0.12


@pytest.mark.parametrize("gain", [0.02, 0.01])
@pytest.mark.parametrize("path", PEOPLE, ids=lambda path: path.stem)
def test_a_face_in_the_dark_is_found_with_its_landmarks(path, gain, detector):
    """A hundredth of the light, amplified with its shot and read noise: YuNet finds nothing in it as it is."""
    pixels, face = portrait(path, 110, detector)
    rng = np.random.default_rng(0)
    light = (pixels / 255.0) ** 2.2 * gain * 1500
    electrons = np.clip(rng.poisson(light) + rng.normal(0, 3, light.shape), 0, None)
    noisy = (np.clip(electrons / (gain * 1500), 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
    assert off(nearest(detector.detect(noisy), face.landmarks), face.landmarks) < 0.15
    dark = np.round(pixels * gain * 2).astype(np.uint8)
    assert off(nearest(detector.detect(dark), face.landmarks), face.landmarks) < 0.15


def test_faces_of_one_picture_are_refined_together_as_each_alone(detector):
    one, _ = portrait(PEOPLE[0], 110, detector)
    other, _ = portrait(PEOPLE[2], 90, detector)
    canvas = np.zeros((max(one.shape[0], other.shape[0]), one.shape[1] + other.shape[1], 3), np.uint8)
    canvas[: one.shape[0], : one.shape[1]] = one
    canvas[: other.shape[0], one.shape[1] :] = other
    finder = LandmarkFinder(catalogue.open_shipped("mtcnn-onet", threads=1))
    faces = open_detector("yunet", threads=1, refine=False).detect(canvas)
    together = finder.refine(canvas, faces)
    assert len(together) == 2
    for face, checked in zip(faces, together, strict=True):
        [alone] = finder.refine(canvas, [face])
        assert checked.face.landmarks == pytest.approx(alone.face.landmarks, abs=0.01)
    assert finder.refine(canvas, []) == []


def test_what_is_no_face_is_doubted(detector):
    pixels, face = portrait(PEOPLE[0], 110, detector)
    finder = LandmarkFinder(catalogue.open_shipped("mtcnn-onet", threads=1))
    wall = np.full_like(pixels, 120)
    assert finder.refine(pixels, [face])[0].doubt < 0.01
    assert finder.refine(wall, [face])[0].doubt > 0.5


class Expected:
    """A made-up O-Net that finds the landmarks where it expects them in every square."""

    def __init__(self):
        self.card = catalogue.open_shipped("mtcnn-onet", threads=1).card

    def run(self, batch, _names):
        shares = (np.array([[14.6, 14.4], [33.4, 14.4], [24, 24.9], [16, 34.1], [32, 34.1]]) + 0.5) / 48
        return np.tile(shares.T.reshape(1, 10), (len(batch), 1)), np.zeros((len(batch), 2))


@pytest.mark.parametrize(
    ("roll_deg", "apart", "share"), [(0, 0.1, 0.5), (4, 0.15, 0.5), (7, 0.1, 0.25), (10, 0.1, 0), (0, 0.25, 0)]
)
def test_an_upright_head_has_the_mean_of_both_networks_landmarks(roll_deg, apart, share):
    """The detector's landmarks lie `apart` eye distances to the right of O-Net's."""
    finder = LandmarkFinder(Expected())
    roll = np.radians(roll_deg)
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    upright = np.array([[-20, -20], [20, -20], [0, 0], [-17, 20], [17, 20]], np.float32) @ turn + 150
    box = np.array([100, 90, 200, 210], np.float32)
    blank = np.zeros((300, 300, 3), np.uint8)
    # Where this O-Net finds them depends on the box and the roll alone, as long as both do not agree.
    alone = finder.refine(blank, [Face(box, (upright + 1000).astype(np.float32), 0.9)])[0].face.landmarks
    eyes = np.linalg.norm(alone[1] - alone[0])
    own = (alone + np.array([apart * eyes, 0])).astype(np.float32)
    [found] = finder.refine(blank, [Face(box, own, 0.9)])
    assert found.face.landmarks - alone == pytest.approx(np.tile([share * apart * eyes, 0], (5, 1)), abs=0.05)


def test_another_network_is_refused():
    with pytest.raises(ModelError, match="mtcnn-onet"):
        LandmarkFinder(catalogue.open_shipped("mtcnn-rnet", threads=1))


@pytest.mark.parametrize("roll_deg", [-150, -35, 0, 20, 90])
@pytest.mark.parametrize("side_px", [30.0, 200.0])
def test_a_square_is_cut_out_turned_and_leads_back(roll_deg, side_px):
    """A picture whose red is x and whose green is y tells where each pixel of the square came from."""
    rows, columns = np.mgrid[0:250, 0:250].astype(np.uint8)
    picture = np.stack([columns, rows, np.zeros_like(rows)], axis=2)
    square, back = cut_square(picture, np.array([125.0, 120.0]), side_px, roll_deg, 48)
    inner = np.array([[x, y] for x in (8, 23, 40) for y in (8, 23, 40)], np.float64)
    places = inner @ back[:, :2].T + back[:, 2]
    seen = np.array([square[int(y), int(x), :2] for x, y in inner], np.float64)
    assert seen == pytest.approx(places, abs=2.0)
    top_edge = back[:, :2] @ np.array([1.0, 0.0])
    assert np.degrees(np.arctan2(top_edge[1], top_edge[0])) == pytest.approx(roll_deg)


def test_what_is_no_face_from_any_side_costs_one_look(monkeypatch):
    """A picture without faces in which the detector sees a faint one must stay cheap."""
    onet = catalogue.open_shipped("mtcnn-onet", threads=1)
    looked: list[int] = []
    run = onet.run
    monkeypatch.setattr(onet, "run", lambda crops, names: (looked.append(len(crops)), run(crops, names))[1])
    texture = np.random.default_rng(1).integers(90, 160, (240, 320, 3), np.uint8)
    faint = Face(np.array([100, 60, 180, 150], np.float32), POINTS * 80 + (100, 60), 0.5)
    [checked] = LandmarkFinder(onet).refine(texture, [faint], likely=0.6)
    assert checked.doubt > 0.7
    assert looked == [4]


def test_a_faint_face_upside_down_is_still_turned(detector):
    pixels, face = portrait(PEOPLE[0], 110, detector)
    finder = LandmarkFinder(catalogue.open_shipped("mtcnn-onet", threads=1))
    over = np.ascontiguousarray(pixels[::-1, ::-1])
    size = np.array([pixels.shape[1], pixels.shape[0]], np.float32) - 1
    box = np.concatenate([size - face.box[2:], size - face.box[:2]])
    upright = POINTS * (box[2:] - box[:2]) + box[:2]
    [checked] = finder.refine(over, [Face(box, upright.astype(np.float32), 0.5)], likely=0.6)
    assert checked.doubt < 0.01
    assert off(checked.face, size - face.landmarks) < 0.08
