"""Our MTCNN finds the boxes that facenet-pytorch's does at the same settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_app.core.types import Face, Pixels
from edge_app.inference.detector import Detector, DetectorOptions
from edge_app.inference.geometry import box_iou
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.model_store.open_detector import open_detector

MIN_FACE_PX = 20
Original = Callable[[Pixels], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def ours() -> Detector:
    return open_detector("mtcnn", DetectorOptions(min_face_px=MIN_FACE_PX))


@pytest.fixture(scope="module")
def original() -> Iterator[Original]:
    """facenet-pytorch's boxes and landmarks whose centre lies inside the picture: ours drop the others."""
    facenet = pytest.importorskip("facenet_pytorch", reason="needs the extra export")
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine torch's threads wait for one another for seconds
    mtcnn: Any = facenet.MTCNN(keep_all=True, min_face_size=MIN_FACE_PX, device="cpu")

    def detect(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
        boxes, _, landmarks = mtcnn.detect(pixels, landmarks=True)
        if boxes is None:
            return np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre >= 0) & (centre < (pixels.shape[1], pixels.shape[0]))).all(axis=1)
        return boxes[inside].astype(np.float32), landmarks[inside].astype(np.float32)

    yield detect
    torch.set_num_threads(before)


def matched(faces: Sequence[Face], boxes: np.ndarray) -> tuple[int, int]:
    """How many of ours have a counterpart among theirs, and the other way round (IoU >= 0.9)."""
    own = np.array([face.box for face in faces], np.float32).reshape(-1, 4)
    near = box_iou(own, boxes) >= 0.9
    return int(near.any(axis=1).sum()), int(near.any(axis=0).sum())


def sample_pictures() -> list[Path]:
    return [*(path for paths in sample.people().values() for path in paths), sample.stranger()]


@pytest.mark.parametrize("path", sample_pictures(), ids=lambda path: path.stem)
def test_the_same_boxes_and_landmarks_on_the_sample_people(path: Path, ours: Detector, original: Original) -> None:
    pixels = read_picture(path)
    faces = ours.detect(pixels)
    boxes, landmarks = original(pixels)
    assert len(faces) == len(boxes) >= 1
    assert matched(faces, boxes) == (len(boxes), len(boxes))
    nearest = box_iou(np.array([face.box for face in faces], np.float32), boxes).argmax(axis=1)
    for face, index in zip(faces, nearest, strict=True):
        assert face.landmarks == pytest.approx(landmarks[index], abs=0.05)


@pytest.mark.slow
def test_the_same_boxes_on_lfw(shared_data: Path, ours: Detector, original: Original) -> None:
    """A slice; on every fourth picture 1,076 of our 1,076 faces had their counterpart (docs/benchmarks.md)."""
    folder = shared_data / "lfw_dev" / "images"
    paths = sorted(folder.glob("*/*.jpg"))[::250]
    found = theirs = hits = their_hits = 0
    for path in paths:
        pixels = read_picture(path)
        faces, (boxes, _) = ours.detect(pixels), original(pixels)
        one, other = matched(faces, boxes)
        found, theirs = found + len(faces), theirs + len(boxes)
        hits, their_hits = hits + one, their_hits + other
    assert found >= len(paths)
    assert hits >= 0.99 * found
    assert their_hits >= 0.99 * theirs


def test_a_picture_without_a_face_gives_nothing(ours: Detector) -> None:
    assert ours.detect(np.full((240, 320, 3), 127, np.uint8)) == ()
    assert ours.detect(np.zeros((10, 10, 3), np.uint8)) == ()
