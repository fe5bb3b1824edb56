"""The detector study: what is known of a composed crowd, and what counts as found."""

import json

import numpy as np
import pytest

from edge_app.accuracy import crowd
from edge_app.accuracy.crowd import Truth
from edge_app.accuracy.detector_study import StudyOptions, consensus, match, study
from edge_app.cli import main
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.types import Face
from edge_app.inference import onnx_model
from edge_app.inference.detector import Detector
from edge_app.inference.embedder import Embedder
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.model_store import shipped as zoo
from edge_app.model_store.open_detector import open_detector
from edge_app.system.data_folder import Home

MARKS = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
BOX = np.array([20, 20, 80, 100], np.float32)


def face(shift=0.0, marks_shift=0.0):
    return Face(BOX + np.float32(shift), MARKS + np.float32(marks_shift), 0.9)


def test_the_truth_is_the_mean_of_two_who_agree():
    truth, apart = consensus([face(), face(2, 2)])
    assert truth is not None
    assert truth.landmarks == pytest.approx(MARKS + 1) and truth.box == pytest.approx(BOX + 1)
    assert apart == pytest.approx(np.hypot(2, 2) / 40)


def test_there_is_no_truth_where_they_do_not_agree():
    assert consensus([face(), None])[0] is None
    assert consensus([face(), face(0, 30)])[0] is None


def test_a_box_is_given_to_one_face_and_the_better_box_wins():
    truth = [Truth(BOX, MARKS), Truth(BOX + np.float32(300), MARKS + np.float32(300))]
    errors = match([face(10, 4), face(0, 0)], truth)
    assert errors[0] == pytest.approx(0) and np.isnan(errors[1])
    assert match([face(0, 4)], truth)[0] == pytest.approx(np.hypot(4, 4) / 40)
    assert np.isfinite(match([face()], [truth[0], truth[0]])).sum() == 1, "one box was given to two faces"
    assert np.isnan(match([face(60)], truth)).all() and np.isnan(match([], truth)).all()


def marked(side=120):
    """A black picture with a white dot on every landmark."""
    pixels = np.zeros((side, side, 3), np.uint8)
    for x, y in MARKS.astype(int):
        pixels[y - 1 : y + 2, x - 1 : x + 2] = 255
    return pixels


def test_landmarks_are_where_the_paste_put_them():
    patch = crowd.cut(marked(), Truth(BOX, MARKS))
    ground = np.zeros((crowd.CROWD_PX[1], crowd.CROWD_PX[0], 3), np.uint8)
    made = crowd.compose(ground, [patch] * 6, np.random.default_rng(1))
    assert len(made.faces) == 6
    for known in made.faces:
        assert 15 < known.size_px < 202
        for x, y in known.landmarks:
            reach = max(2, round(known.size_px / 20))
            near = made.pixels[round(y) - reach : round(y) + reach + 1, round(x) - reach : round(x) + reach + 1]
            assert near.max() > 60


def test_faces_do_not_overlap_and_the_same_seed_makes_the_same_crowd():
    patch = crowd.cut(marked(), Truth(BOX, MARKS))
    ground = np.full((crowd.CROWD_PX[1], crowd.CROWD_PX[0], 3), 90, np.uint8)
    one, two = (crowd.compose(ground, [patch] * 12, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.pixels, two.pixels)
    boxes = np.stack([known.box for known in one.faces])
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.fixture(scope="module")
def people():
    return [(name, path) for name, paths in sample.people().items() for path in paths]


@pytest.mark.slow
def test_the_study_finds_pasted_faces_and_no_more(people):
    detectors = {name: open_detector(name, threads=1) for name in ("yunet", "mtcnn")}
    entry = next(e for e in zoo.entries() if e.task == "face-embedding")
    embedder = Embedder(onnx_model.load(entry.path, threads=1))
    made = study(people, detectors, embedder, options=StudyOptions(crowds=2, rounds=1))
    assert made.pictures == len(people) and 0 < made.known <= len(people)
    for figures in made.detectors.values():
        # The default asks for 24 px and more: from 48 px on every portrait is found.
        large = [row for row in figures.sizes if row.from_px >= 48 and row.recall.trials]
        assert large and all(row.recall.value == 1.0 for row in large)
        assert all(row.landmark_median < 0.25 for row in large)
        assert figures.names.not_found == 0 and figures.empty_alarms is None
        assert sum(row.recall.trials for row in figures.sizes) == made.crowd_faces


def test_detectors_that_agree_on_nothing_are_told(people):
    blind = Detector("blind", lambda pixels, options: (np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0)))
    entry = next(e for e in zoo.entries() if e.task == "face-embedding")
    embedder = Embedder(onnx_model.load(entry.path, threads=1))
    with pytest.raises(ModelError, match="agree on no face"):
        study(people, {"a": blind, "b": blind}, embedder, options=StudyOptions(crowds=1, rounds=1))


@pytest.fixture
def brought(tmp_path):
    """A data folder with the shipped YuNet installed under another id, and the embedder beside it."""
    home = Home(tmp_path / "home")
    home.models_dir.mkdir(parents=True)
    listed = []
    for model_id, task in (("my-yunet", "face-detection"), ("my-embedder", "face-embedding")):
        entry = next(e for e in zoo.entries() if e.task == task and (task != "face-detection" or e.id == "yunet"))
        (home.models_dir / f"{model_id}.onnx").write_bytes(entry.path.read_bytes())
        listed.append(
            {
                "id": model_id,
                "precision": entry.precision,
                "task": task,
                "file": f"{model_id}.onnx",
                "sha256": entry.sha256,
                "bytes": entry.bytes,
            }
        )
    (home.models_dir / "installed.json").write_text(json.dumps({"models": listed}))
    return home


def test_a_yunet_that_the_user_brought_finds_the_same(brought):
    pixels = read_picture(sample.stranger())
    [ours] = open_detector("yunet").detect(pixels)[:1]
    [theirs] = open_detector("my-yunet", home=brought).detect(pixels)[:1]
    assert theirs.box == pytest.approx(ours.box) and theirs.landmarks == pytest.approx(ours.landmarks)


def test_a_model_that_finds_no_faces_is_no_detector(brought):
    with pytest.raises(UsageError, match="face-embedding"):
        open_detector("my-embedder", home=brought)
    with pytest.raises(UsageError, match="yunet or mtcnn or my-yunet"):
        open_detector("haar", home=brought)


def test_the_study_refuses_a_list_of_pairs_over_a_part(tmp_path, capsys):
    code = main(["evaluate", str(tmp_path), "--detectors", "--every", "2", "--pairs", str(tmp_path / "pairs.txt")])
    assert code == 2 and "--every" in capsys.readouterr().err
