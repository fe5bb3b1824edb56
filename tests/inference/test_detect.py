"""Detectors: planted outputs decoded by hand, real pictures of real sizes."""

import cv2
import numpy as np
import pytest

from edge_app.core.errors import UsageError
from edge_app.inference.detector import DetectorOptions
from edge_app.inference.geometry import box_iou
from edge_app.inference.yunet import decode_yunet, scales_for
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.model_store.open_detector import open_detector


@pytest.fixture(scope="module", params=["yunet", "mtcnn"])
def detector(request):
    return open_detector(request.param)


@pytest.fixture(scope="module")
def yunet():
    return open_detector("yunet")


def planted(width, height, stride, column, row):
    """YuNet's outputs for an empty picture but for one cell, filled in by hand."""
    outputs = []
    for channels, level_value in ((1, "label"), (1, "object"), (4, "box"), (10, "points")):
        for s in (8, 16, 32):
            maps = np.zeros((1, (width // s) * (height // s), channels), np.float32)
            cell = row * (width // s) + column
            if s == stride:
                maps[0, cell] = {
                    "label": 0.81,
                    "object": 1.0,
                    "box": [0.5, 0.25, np.log(2), np.log(4)],
                    "points": np.arange(10) / 10,
                }[level_value]
            outputs.append(maps)
    return tuple(outputs)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_planted_cell_is_decoded(stride):
    boxes, landmarks, scores = decode_yunet(planted(96, 64, stride, 1, 1), 96, 0.6)
    assert scores == pytest.approx([0.9])
    centre = np.array([1.5, 1.25]) * stride
    assert boxes[0] == pytest.approx(np.hstack([centre, centre]) + np.array([-1, -2, 1, 2]) * stride)
    assert landmarks[0, 2] == pytest.approx([(0.4 + 1) * stride, (0.5 + 1) * stride])


def test_scores_above_one_are_clipped_and_low_ones_dropped():
    outputs = planted(96, 64, 8, 0, 0)
    outputs[0][0, 0] = 4.0
    assert decode_yunet(outputs, 96, 0.6)[2] == pytest.approx([1.0])
    assert decode_yunet(planted(96, 64, 8, 0, 0), 96, 0.95)[2].size == 0


def test_small_pictures_are_seen_once_and_large_ones_twice():
    options = DetectorOptions()
    assert scales_for(640, 480, options) == (1.0,)
    fine, coarse = scales_for(4000, 3000, options)
    assert fine == pytest.approx(0.48) and coarse == pytest.approx(0.1)
    assert scales_for(640, 480, DetectorOptions(min_face_px=96)) == (0.25,)


def face_of(path, face_px):
    """A picture scaled so that its face is `face_px` wide, and the box that this gives."""
    pixels = read_picture(path)
    [face] = open_detector("yunet").detect(pixels)[:1]
    scale = face_px / face.size_px
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=how), face.box * scale


@pytest.mark.parametrize("face_px", [24, 40, 100, 300])
@pytest.mark.parametrize("path", [*sample.people()["Barack Obama"], sample.stranger()], ids=lambda p: p.name)
def test_faces_from_24_px_up_are_found(detector, path, face_px):
    pixels, box = face_of(path, face_px)
    found = detector.detect(pixels)
    # Detectors frame a face differently (MTCNN tighter), so the overlap asked for is between networks.
    assert found and max(box_iou(np.stack([f.box for f in found]), box[None])[:, 0]) > 0.5


def test_a_selfie_that_fills_the_picture_is_found(yunet):
    pixels = read_picture(sample.stranger())
    [face] = yunet.detect(pixels)[:1]
    x1, y1, x2, y2 = face.box.round().astype(int)
    close = cv2.resize(pixels[y1:y2, x1:x2], None, fx=12, fy=12, interpolation=cv2.INTER_CUBIC)
    height, width = close.shape[:2]
    assert min(height, width) > 1000
    [found] = yunet.detect(close)
    assert box_iou(found.box[None], np.array([[0, 0, width, height]], np.float32))[0, 0] > 0.6


def test_landmarks_lie_where_the_face_is(detector):
    pixels, _ = face_of(sample.people()["Barack Obama"][0], 120)
    [face] = detector.detect(pixels)[:1]
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert (face.landmarks >= face.box[:2]).all() and (face.landmarks <= face.box[2:]).all()


def test_the_two_detectors_agree_on_the_landmarks():
    pixels, _ = face_of(sample.people()["Barack Obama"][0], 120)
    one, other = (open_detector(name).detect(pixels)[0] for name in ("yunet", "mtcnn"))
    assert np.abs(one.landmarks - other.landmarks).max() < 0.1 * one.size_px


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (7, 9), (33, 31)])
def test_tiny_and_odd_pictures_hold_no_face(detector, shape):
    assert detector.detect(np.full((*shape, 3), 127, np.uint8)) == ()


def test_an_empty_scene_holds_no_face(detector):
    assert detector.detect(np.zeros((480, 640, 3), np.uint8)) == ()


def test_faces_come_largest_first(yunet):
    small, _ = face_of(sample.stranger(), 40)
    large, _ = face_of(sample.people()["Barack Obama"][0], 90)
    canvas = np.zeros((max(small.shape[0], large.shape[0]), small.shape[1] + large.shape[1], 3), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    canvas[: large.shape[0], small.shape[1] :] = large
    sizes = [face.size_px for face in yunet.detect(canvas)]
    assert len(sizes) == 2 and sizes[0] > sizes[1]


def test_an_unknown_detector_is_named():
    with pytest.raises(UsageError, match="yunet or mtcnn"):
        open_detector("haar")
