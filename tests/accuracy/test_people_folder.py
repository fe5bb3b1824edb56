"""The whole recognizer judged: a folder of people becomes looks, looks become figures, figures go into cards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_app.accuracy import face_recognition_encode, face_recognition_judge
from edge_app.accuracy.lfw_pairs import LfwPairs
from edge_app.accuracy.pair_scores import Histograms, unit_rows
from edge_app.accuracy.people_folder import Looks, figures_of, glance, look_at, metrics_of, people_in, points_of
from edge_app.accuracy.plots import rates
from edge_app.accuracy.spoil import SPOILERS, TINY_FACE_PX, turned
from edge_app.cli import main
from edge_app.core.errors import MediaError, ModelError
from edge_app.gallery.calibration import Thresholds
from edge_app.gallery.matching import rule_for
from edge_app.inference.detector import Detector
from edge_app.inference.face_quality import QualityLimits, measure
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.model_store import catalogue, shipped
from edge_app.model_store.open_detector import open_detector
from edge_app.system.files import sha256_of_file as sha256_of


@pytest.fixture(scope="module")
def detector() -> Detector:
    return open_detector(threads=1)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three sub-folders: two pictures of one man, one of another, and one in which there is no face."""
    folder = tmp_path / "people"
    for name, paths in sample.people().items():
        (folder / name).mkdir(parents=True)
        for path in paths:
            shutil.copy(path, folder / name)
    (folder / "Nobody").mkdir()
    cv2.imwrite(str(folder / "Nobody" / "wall.jpg"), np.full((200, 200, 3), 127, np.uint8))
    return folder


def synthetic(people: int = 60, strangers: int = 400, noise: float = 0.35, seed: int = 0) -> tuple[Looks, np.ndarray]:
    """Clusters on a sphere: `people` with four pictures each, `strangers` with one; every face found."""
    rng = np.random.default_rng(seed)
    centres = unit_rows(rng.standard_normal((people + strangers, 64)))
    owner = np.concatenate([np.repeat(np.arange(people), 4), np.arange(people, people + strangers)])
    vectors = unit_rows(centres[owner] + noise * rng.standard_normal((len(owner), 64)) / 8)
    paths = tuple(Path(f"{o:04}/{i}.jpg") for i, o in enumerate(owner))
    looks = Looks(
        paths,
        tuple(f"{o:04}" for o in owner),
        np.ones(len(owner), np.bool_),
        np.zeros((len(owner), 1, 1, 3), np.uint8),
        (None,) * len(owner),
    )
    return looks, vectors


def test_a_folder_is_looked_at_in_order_and_a_picture_without_a_face_is_counted(
    people: Path, detector: Detector
) -> None:
    ticks: list[int] = []
    looks = look_at(people_in(people), detector, "arcface-112", lambda: ticks.append(1))
    assert looks.identities == ("Barack Obama", "Barack Obama", "Joe Biden", "Nobody")
    assert looks.found.tolist() == [True, True, True, False]
    assert looks.labels == ["Barack Obama", "Barack Obama", "Joe Biden"]
    assert looks.crops.shape == (3, 112, 112, 3)
    assert looks.refused == {"no-face": 1}
    assert len(ticks) == 4


def test_an_unreadable_picture_counts_as_no_face(people: Path, detector: Detector) -> None:
    (people / "Nobody" / "wall.jpg").write_bytes(b"\xff\xd8 torn")
    assert look_at(people_in(people), detector, "arcface-112").refused == {"unreadable": 1}


def test_a_folder_without_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no sub-folder"):
        people_in(tmp_path)
    with pytest.raises(MediaError, match="not a folder"):
        people_in(tmp_path / "absent")


def test_pairs_are_told_right_and_a_face_not_found_is_told_different() -> None:
    looks, vectors = synthetic(people=40, strangers=0)
    pairs = LfwPairs(
        looks.paths,
        np.array([[4 * i, 4 * i + 1] for i in range(40)] + [[4 * i, (4 * i + 4) % 160] for i in range(40)]),
        np.array([True] * 40 + [False] * 40),
        np.arange(80) % 10,
    )
    figures = figures_of(looks, vectors, pairs)
    assert figures.pairs is not None
    assert figures.pairs.accuracy.value == 1.0
    # The first picture of three people is lost: three same pairs become different, and no different one same.
    found = looks.found.copy()
    found[[0, 4, 8]] = False
    partial = Looks(looks.paths, looks.identities, found, looks.crops[found], looks.reasons)
    figures = figures_of(partial, vectors[found], pairs)
    assert figures.pairs is not None
    assert figures.pairs.accuracy.value == pytest.approx(77 / 80)
    assert figures.pairs_not_found == 3 + 4
    assert figures.not_found == 3


@pytest.mark.slow
def test_galleries_of_every_size_are_judged_with_the_apps_own_rule() -> None:
    looks, vectors = synthetic(people=60)
    figures = figures_of(looks, vectors)
    assert [each.people for each in figures.galleries] == [10, 60]
    for each in figures.galleries:
        assert each.threshold == rule_for(figures.points, 0, each.people, 0.01, 0.05).threshold
        assert each.open_set.realized is not None
        assert each.open_set.realized.fpir.value == pytest.approx(0.01, abs=0.02)
        assert each.held_out is not None
        assert 0.0 <= each.held_out.fpir < 0.05
    assert figures.galleries[1].threshold > figures.galleries[0].threshold


@pytest.mark.slow
def test_thresholds_of_the_card_are_used_where_there_are_any() -> None:
    looks, vectors = synthetic()
    points = points_of(vectors, looks.labels)
    strict = [type(p)(p.fmr, p.threshold + 0.2, p.impostor_pairs, p.templates) for p in points]
    own, carded = figures_of(looks, vectors), figures_of(looks, vectors, None, Thresholds(tuple(strict), None))
    assert carded.galleries[0].threshold == pytest.approx(own.galleries[0].threshold + 0.2, abs=1e-6)
    assert carded.points == own.points


def test_without_strangers_there_are_no_galleries() -> None:
    looks, vectors = synthetic(strangers=0)
    assert figures_of(looks, vectors).galleries == ()


def test_measured_figures_go_into_the_cards_and_the_manifest(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx", reason="needs the extra export")
    from edge_export.graph.card import read_card
    from edge_export.graph.manifest import pinned
    from edge_export.makers.shipped_cards import fill_cards

    home = tmp_path / "zoo"
    home.mkdir()
    entry = catalogue.build(None, "sface", "int8")
    shutil.copy(entry.path, home)
    (home / "manifest.json").write_text(
        json.dumps({"models": [{"id": "sface", "precision": "int8", "file": entry.path.name, "sha256": entry.sha256}]})
    )
    copied = shipped.Entry("sface", "int8", entry.task, home / entry.path.name, entry.sha256, entry.bytes)
    monkeypatch.setattr("edge_export.makers.shipped_cards.builds", lambda _home, _id: (copied,))
    shutil.copy(sample.stranger(), people / "Nobody")
    filled = fill_cards(people)
    card = read_card(copied.path)
    assert len(filled) == 1
    assert card.metrics == {"pictures measured": 5.0, "faces not found": 1.0}
    assert card.operating_points == filled[0].figures.points
    assert pinned(home)[copied.path.name] == sha256_of(copied.path)


def test_the_shipped_embedders_carry_points_and_figures() -> None:
    builds = catalogue.builds(None, "sface")
    assert {entry.precision for entry in builds} == {"fp32", "int8"}
    for entry in builds:
        card = catalogue.open_shipped("sface", entry.precision, threads=1).card
        assert {p.templates for p in card.operating_points} == {1, 2}
        assert min(p.fmr for p in card.operating_points) == 1e-5
        # 1,000 pairs: 8 wrong in fp32, 9 in INT8, whose ranges are made for tight crops.
        assert card.metrics["10-fold accuracy on pairsDevTest"] >= 0.991
        assert card.metrics["false matches beside fp32"] <= 1.2
        assert card.cohort is not None and card.cohort.kinds is not None
        assert card.metrics["FNIR at FPIR 0.01, 100 people"] <= 0.01


def test_figures_are_named_as_in_the_card() -> None:
    looks, vectors = synthetic()
    assert set(metrics_of(figures_of(looks, vectors))) == {
        "pictures measured",
        "faces not found",
        "FNIR at FPIR 0.01, 10 people",
        "FNIR at FPIR 0.01, 60 people",
    }


# Spoiled pictures


@pytest.mark.parametrize("name", sorted(SPOILERS))
def test_the_gate_refuses_what_was_spoiled(name: str, detector: Detector) -> None:
    # One of 20 rendered turns passes, and the first portrait's is one: lfw_dev's share is in docs/benchmarks.md.
    pixels = read_picture(sample.probes()["Barack Obama"][0])
    pixels = cv2.resize(pixels, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    seen = glance(pixels, detector, "arcface-112", QualityLimits())
    assert seen.reason is None
    assert seen.face is not None
    spoiled = glance(SPOILERS[name](pixels, seen.face), detector, "arcface-112", QualityLimits())
    assert spoiled.reason is not None


def test_a_tiny_face_has_the_size_it_should(detector: Detector) -> None:
    pixels = read_picture(sample.stranger())
    face = detector.detect(pixels)[0]
    small = SPOILERS["tiny, face 30 px"](pixels, face)
    assert face.size_px * small.shape[0] / pixels.shape[0] == pytest.approx(TINY_FACE_PX, rel=0.02)


def test_a_turn_goes_the_way_the_head_is_turned_already(detector: Detector) -> None:
    pixels = read_picture(sample.stranger())
    seen = glance(pixels, detector, "arcface-112", QualityLimits())
    assert seen.face is not None and seen.crop is not None
    before = measure(seen.face, seen.crop).yaw
    after = glance(turned(pixels, seen.face), detector, "arcface-112", QualityLimits())
    assert after.face is not None and after.crop is not None
    assert measure(after.face, after.crop).yaw * np.sign(before) > abs(before) + 0.5


# face_recognition's encodings


def encodings(found: np.ndarray | None = None) -> face_recognition_encode.Encodings:
    looks, vectors = synthetic(people=20, strangers=200)
    found = looks.found if found is None else found
    return face_recognition_encode.Encodings(
        tuple(map(str, looks.paths)), vectors, found, {"library": "a stub", "upsample": 1}
    )


def test_encodings_survive_their_file(tmp_path: Path) -> None:
    before = encodings()
    face_recognition_encode.save(tmp_path / "e.npz", before)
    after = face_recognition_encode.load(tmp_path / "e.npz")
    assert after.paths == before.paths
    assert after.made == before.made
    assert np.array_equal(after.vectors, before.vectors)
    assert np.array_equal(after.found, before.found)


def test_other_files_are_no_encodings(tmp_path: Path) -> None:
    (tmp_path / "e.npz").write_bytes(b"not a zip")
    with pytest.raises(ModelError, match="cannot be read"):
        face_recognition_encode.load(tmp_path / "e.npz")


def test_the_nearest_picture_counts_not_the_mean() -> None:
    enrolled = np.array([[[0.0, 0.0], [10.0, 0.0]], [[4.0, 0.0], [4.0, 0.0]]], np.float32)
    best, distance = face_recognition_judge.nearest(enrolled, np.array([[9.0, 0.0], [4.5, 0.0]], np.float32))
    assert best.tolist() == [0, 1]
    assert distance == pytest.approx([1.0, 0.5])


def test_encodings_are_judged_at_the_default_tolerance_and_at_the_share_of_strangers() -> None:
    judged = face_recognition_judge.judge(encodings(), Path(), None)
    assert [each.people for each in judged.galleries] == [10, 20]
    for each in judged.galleries:
        # Unit vectors of strangers are about 1.4 apart, pictures of one person about 0.5.
        assert each.named_at_tolerance == 0.0
        assert each.missed_at_tolerance < 0.1
        assert each.fnir_at_fpir == 0.0
        assert 0.6 < each.tolerance_at_fpir < 1.4


def test_pictures_without_an_encoding_are_left_out_of_galleries() -> None:
    found = np.ones(280, np.bool_)
    found[:2] = False  # the first person has two pictures left: not enough to enroll two and try another
    judged = face_recognition_judge.judge(encodings(found), Path(), None)
    assert judged.not_found == 2
    assert judged.galleries[-1].people == 19
    assert judged.galleries[-1].fnir_at_fpir == 0.0, "encodings and people went out of step"


def test_rates_at_every_bin_are_those_of_the_pairs() -> None:
    counted = Histograms(np.linspace(-1, 1, 5), np.array([0, 1, 1, 2]), np.array([6, 2, 1, 1]))
    accepted, missed = rates(counted)
    assert accepted.tolist() == [1.0, 0.4, 0.2, 0.1]
    assert missed.tolist() == [0.0, 0.0, 0.25, 0.5]


# The command


def test_evaluate_prints_a_report(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (people / "Nobody" / "wall.jpg").unlink()
    shutil.copy(sample.stranger(), people / "Nobody")
    output = tmp_path / "report"
    where = ["--home", str(tmp_path / "home"), "--output", str(output)]
    code = main(["evaluate", str(people), "--json", "--precision", "fp32", "--no-spoil", *where])
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["identities"], report["faces not found"]) == (4, 3, 0)
    assert report["threshold source"] == "the model's card"
    assert report["galleries"] == []
    assert json.loads((output / "report.json").read_text()) == report


def test_evaluate_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "absent")]) == 1
    assert main(["evaluate", str(tmp_path), "--encodings", "x.npz", "--write-cards"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "is not a folder" in lines[0]


def test_lfw_is_told_apart_with_the_default_settings(shared_data: Path, detector: Detector) -> None:
    """A slice of lfw_dev: the whole takes a minute, see docs/benchmarks.md."""
    folder = shared_data / "lfw_dev" / "images"
    chosen = people_in(folder)[:120]
    looks = look_at(chosen, detector, "arcface-112")
    assert looks.found.all()
    assert sum(reason is not None for reason in looks.reasons) <= 6
