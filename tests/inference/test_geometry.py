"""Geometry: the answer is built first and then recovered."""

import cv2
import numpy as np
import pytest

from edge_app.core.errors import UsageError
from edge_app.core.model_card import InputSpec
from edge_app.inference.geometry import CROPS, align, box_iou, nms, similarity_transform, to_input


def turned(points, degrees, scale, shift):
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ rotation.T * scale + shift


@pytest.mark.parametrize("degrees", [-170, -35, 0, 12, 90])
@pytest.mark.parametrize("scale", [0.1, 1.0, 7.5])
def test_a_known_similarity_is_recovered(degrees, scale):
    source = np.array(CROPS["arcface-112"].landmarks)
    target = turned(source, degrees, scale, (31.0, -8.0))
    matrix = similarity_transform(source, target)
    assert np.allclose(source @ matrix[:, :2].T + matrix[:, 2], target, atol=1e-9)


def test_the_transform_never_mirrors():
    source = np.array(CROPS["arcface-112"].landmarks)
    matrix = similarity_transform(source, source * (-1, 1))
    assert np.linalg.det(matrix[:, :2]) > 0


def test_points_without_extent_are_refused():
    with pytest.raises(ValueError, match="all source points equal"):
        similarity_transform(np.ones((5, 2)), np.array(CROPS["arcface-112"].landmarks))


def smooth_picture(height, width):
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(columns / width * 9 + k) + np.cos(rows / height * 7 - k) for k in range(3)]
    return (np.stack(waves, axis=2) * 60 + 128).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("scale", [0.9, 2.0, 3.7, 6.0, 11.0])
def test_a_planted_crop_is_cut_out_again(scale):
    """A crop is pasted into a larger picture by a known transform; alignment brings it back, at every size."""
    crop = smooth_picture(112, 112)
    template = np.array(CROPS["arcface-112"].landmarks)
    shift = np.array([37.0, 21.0])
    landmarks = turned(template, 15, scale, shift + 40 * scale)
    matrix = similarity_transform(template, landmarks)
    side = int(240 * scale) + 120
    picture = cv2.warpAffine(crop, matrix, (side, side), flags=cv2.INTER_CUBIC)
    back = align(picture, landmarks.astype(np.float32), "arcface-112")
    inner = (slice(8, 104), slice(8, 104))
    assert np.abs(back[inner].astype(int) - crop[inner].astype(int)).mean() < 2.0


def test_a_large_face_is_averaged_not_sampled():
    """One-pixel stripes must become grey: sampling them would keep black and white."""
    stripes = np.zeros((1120, 1120, 3), np.uint8)
    stripes[:, ::2] = 255
    landmarks = np.array(CROPS["arcface-112"].landmarks, np.float32) * 10
    crop = align(stripes, landmarks, "arcface-112")[10:100, 10:100]
    assert crop.min() > 110 and crop.max() < 145


def test_a_face_at_the_edge_leaves_black_outside():
    picture = np.full((200, 200, 3), 200, np.uint8)
    landmarks = np.array(CROPS["arcface-112"].landmarks, np.float32) - (60, 0)
    crop = align(picture, landmarks, "arcface-112")
    assert (crop[:, :50] == 0).all() and (crop[:, 70:] == 200).all()


def test_an_unknown_crop_is_named():
    with pytest.raises(UsageError, match="arcface-112"):
        align(np.zeros((9, 9, 3), np.uint8), np.zeros((5, 2), np.float32), "vgg")


def test_input_follows_the_card():
    image = np.arange(2 * 1 * 2 * 3, dtype=np.uint8).reshape(2, 1, 2, 3)
    spec = InputSpec("data", None, None, "BGR", (1.0, 2.0, 3.0), (2.0, 4.0, 8.0))
    batch = to_input(image, spec)
    assert batch.shape == (2, 3, 1, 2) and batch.dtype == np.float32
    blue, green, red = (float(v) for v in batch[0, :, 0, 1])
    assert (blue, green, red) == ((5 - 1) / 2, (4 - 2) / 4, (3 - 3) / 8)


def test_no_boxes_are_no_boxes():
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).size == 0
    assert box_iou(np.zeros((0, 4), np.float32), np.zeros((3, 4), np.float32)).shape == (0, 3)


BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30], [2, 2, 4, 4]], np.float32)


def test_overlap_by_hand():
    assert box_iou(BOXES[:1], BOXES)[0] == pytest.approx([1.0, 0.5, 0.0, 0.04])


def test_the_better_box_survives_and_order_is_by_score():
    scores = np.array([0.5, 0.9, 0.7, 0.6], np.float32)
    assert nms(BOXES, scores, 0.4).tolist() == [1, 2, 3]
    assert nms(BOXES, scores, 0.6).tolist() == [1, 2, 3, 0]


def test_overlap_over_the_smaller_drops_what_is_inside():
    scores = np.array([0.9, 0.5, 0.7, 0.6], np.float32)
    assert nms(BOXES, scores, 0.7, over_smaller=True).tolist() == [0, 2]
