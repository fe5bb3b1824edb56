"""The evaluator against answers worked out by hand: 2-D embeddings at known angles."""

import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from edge_app.accuracy import intervals, lfw_pairs, open_set, pair_scores
from edge_app.accuracy.open_set import OpenSetProtocol, Rule
from edge_app.core.errors import EdgeError, MediaError, ModelError, UsageError


def at_degrees(*angles: float) -> np.ndarray:
    radians = np.deg2rad(np.array(angles, dtype=np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def cos_deg(angle: float) -> float:
    return math.cos(math.radians(angle))


def crowd(people: int = 30, each: int = 4, size: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, size))
    labels = np.repeat(np.arange(people), each)
    return pair_scores.unit_rows(centres[labels] + 0.6 * rng.normal(size=(people * each, size))), labels


def impostors_of(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array(
        [embeddings[i] @ embeddings[j] for i, j in combinations(range(len(labels)), 2) if labels[i] != labels[j]]
    )


# --- empty cases first


def test_nothing_to_judge_gives_no_figures() -> None:
    empty = np.empty((0, 2), np.float32)
    assert pair_scores.operating_points(empty, []) == ()
    assert pair_scores.operating_points(empty, [], templates=2) == ()
    scores = pair_scores.pair_scores(empty, [])
    assert scores.impostor_pairs == 0
    assert math.isnan(scores.tar(0.01))
    assert pair_scores.tar_at_far(scores, [0.01]) == ()
    assert pair_scores.histograms(empty, []).impostor.sum() == 0
    assert pair_scores.in_batches(lambda images: np.ones((len(images), 2)), np.empty((0, 4, 4, 3), np.uint8)).shape == (
        0,
        0,
    )
    assert [one.accuracy.trials for one in open_set.n_shot(empty, [])] == [0, 0, 0]
    assert len(open_set.identify(at_degrees(0), empty).best) == 0
    assert math.isnan(intervals.wilson(0, 0).value)
    assert math.isnan(pair_scores.accuracy(np.empty((0, 3)), []).value)


def test_a_single_identity_has_no_impostors() -> None:
    assert pair_scores.operating_points(at_degrees(0, 10), ["a", "a"]) == ()
    assert pair_scores.pair_scores(at_degrees(0, 10), ["a", "a"]).impostor_pairs == 0


# --- rows


def test_rows_are_scaled_and_bad_ones_are_named() -> None:
    assert np.allclose(pair_scores.unit_rows([[3.0, 4.0]]), [[0.6, 0.8]])
    with pytest.raises(ModelError, match="embedding 1 has length 0"):
        pair_scores.unit_rows([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ModelError, match="embedding 0 has length nan"):
        pair_scores.unit_rows([[math.nan, 0.0]])
    with pytest.raises(ModelError, match="3 labels for 2"):
        pair_scores.pair_scores(at_degrees(0, 1), ["a", "b", "c"])


def test_any_function_is_run_in_batches_and_must_give_one_row_each() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    seen: list[int] = []

    def mean_pixel(batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        return batch.reshape(len(batch), -1).mean(axis=1, keepdims=True)

    assert pair_scores.in_batches(mean_pixel, images, batch=2)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert seen == [2, 2, 1]
    with pytest.raises(ModelError, match="for 5 images"):
        pair_scores.in_batches(lambda batch: np.ones((1, 2)), images)


def test_accuracy_and_confusion_of_logits() -> None:
    logits = [[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]]
    assert pair_scores.accuracy(logits, [0, 1, 1]).value == pytest.approx(2 / 3)
    assert pair_scores.confusion([0, 1, 0], [0, 1, 1], 2).tolist() == [[1, 0], [1, 1]]


# --- intervals


def test_wilson_interval_matches_published_values() -> None:
    # Newcombe 1998, table I: 81/263 and 0/20.
    known = intervals.wilson(81, 263)
    assert (round(known.low, 4), round(known.high, 4)) == (0.2553, 0.3662)
    none = intervals.wilson(0, 20)
    assert none.low == 0.0
    assert round(none.high, 4) == 0.1611
    with pytest.raises(ValueError, match="5 successes in 4"):
        intervals.wilson(5, 4)


def test_bootstrap_of_equal_identities_has_no_width_and_of_unequal_ones_has() -> None:
    equal = intervals.bootstrap(intervals.weighted_share(np.array([1.0, 1.0]), np.array([2.0, 2.0])), 2)
    assert (equal.value, equal.low, equal.high) == (0.5, 0.5, 0.5)
    unequal = intervals.bootstrap(intervals.weighted_share(np.array([0.0, 2.0]), np.array([2.0, 2.0])), 2)
    assert (unequal.value, unequal.low, unequal.high) == (0.5, 0.0, 1.0)


def test_paired_gain_is_certain_where_unpaired_intervals_overlap() -> None:
    trials = np.full(20, 10.0)
    hits = np.arange(20) % 9.0
    before, after = intervals.weighted_share(hits, trials), intervals.weighted_share(hits + 1, trials)
    assert intervals.bootstrap(before, 20).high > intervals.bootstrap(after, 20).low
    gain = intervals.bootstrap_gain(before, after, 20)
    assert gain.value == pytest.approx(0.1)
    assert gain.above_zero
    assert not intervals.bootstrap_gain(before, before, 20).above_zero


# --- given pairs


def test_best_threshold_lies_in_the_middle_of_the_gap_that_separates() -> None:
    similarities = np.array([0.1, 0.2, 0.6, 0.8], np.float32)
    same = np.array([False, False, True, True])
    assert lfw_pairs.best_threshold(similarities, same) == pytest.approx(0.4)
    assert lfw_pairs.best_threshold(similarities, ~same) > 0.8 or lfw_pairs.best_threshold(similarities, ~same) < 0.1


def test_best_threshold_never_splits_ties() -> None:
    # Between the tied 0.5s all four would be right, but no threshold lies there; 0.7 gets three.
    similarities, same = np.array([0.5, 0.5, 0.5, 0.9], np.float32), np.array([False, False, True, True])
    assert lfw_pairs.best_threshold(similarities, same) == pytest.approx(0.7)


def test_cross_validation_uses_thresholds_of_the_other_folds() -> None:
    # Fold 0 wants 0.5, fold 1 wants 0.15: each is judged by the other's choice.
    similarities = np.array([0.4, 0.6, 0.1, 0.2], np.float32)
    same = np.array([False, True, False, True])
    found = lfw_pairs.verification(similarities, same, np.array([0, 0, 1, 1]))
    assert found.accuracy.value == 0.5
    assert found.threshold == pytest.approx((0.5 + 0.15) / 2)
    with pytest.raises(ModelError, match="1 fold"):
        lfw_pairs.verification(similarities, same, np.zeros(4, np.int64))


def test_pair_similarities_are_cosines() -> None:
    found = lfw_pairs.pair_similarities(at_degrees(0, 60, 90), np.array([[0, 1], [0, 2]]))
    assert np.allclose(found, [0.5, 0.0], atol=1e-6)


def lfw_folder(root: Path) -> Path:
    for name, count in (("Ann_A", 3), ("Bob", 1)):
        (root / name).mkdir()
        for number in range(1, count + 1):
            (root / name / f"{name}_{number:04d}.jpg").touch()
    return root


def test_lfw_list_is_read_into_paths_pairs_and_truth(tmp_path: Path) -> None:
    lfw_folder(tmp_path)
    listed = tmp_path / "pairs.txt"
    listed.write_text("1\nAnn_A\t1\t3\nAnn_A\t1\tBob\t1\n")
    found = lfw_pairs.lfw_pairs(listed, tmp_path)
    assert [path.name for path in found.paths] == ["Ann_A_0001.jpg", "Ann_A_0003.jpg", "Bob_0001.jpg"]
    assert found.pairs.tolist() == [[0, 1], [0, 2]]
    assert found.same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "does not begin with a count"),
        ("many\n", "does not begin with a count"),
        ("2\nAnn_A\t1\t3\n", "lists 1 pairs"),
        ("1\nAnn_A\t1\t3\nAnn_A 1\n", "pairs.txt:3 reads 'Ann_A 1'"),
        ("1\nAnn_A\t1\t9\nAnn_A\t1\tBob\t1\n", "Ann_A_0009.jpg is not there"),
    ],
)
def test_a_broken_lfw_list_is_told_in_words(tmp_path: Path, text: str, complaint: str) -> None:
    lfw_folder(tmp_path)
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(MediaError, match=complaint):
        lfw_pairs.lfw_pairs(tmp_path / "pairs.txt", tmp_path)


def test_the_real_lfw_list_names_pictures_that_are_there(shared_data: Path) -> None:
    found = lfw_pairs.lfw_pairs(shared_data / "lfw_dev" / "pairsDevTest.txt", shared_data / "lfw_dev" / "images")
    assert (found.pairs.shape, int(found.same.sum())) == ((1000, 2), 500)
    assert np.bincount(found.folds, weights=found.same).tolist() == [50.0] * 10


# --- all pairs


def test_scores_of_four_pictures_at_known_angles() -> None:
    scores = pair_scores.pair_scores(at_degrees(0, 20, 50, 90), ["a", "a", "b", "b"])
    assert np.allclose(np.sort(scores.genuine), sorted([cos_deg(20), cos_deg(40)]), atol=1e-6)
    assert np.allclose(scores.impostor, [cos_deg(30), cos_deg(50), cos_deg(70), 0.0], atol=1e-6)
    assert scores.impostor_pairs == 4
    # One of four impostors may pass: the threshold lies just above the second, cos 50.
    assert cos_deg(50) < scores.threshold(0.25) < cos_deg(50) + 1e-5
    assert scores.tar(0.25) == 1.0
    # None may pass: just above cos 30, which cos 40 does not reach.
    assert scores.tar(0.0) == 0.5


def test_operating_points_are_exact_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = crowd()
    monkeypatch.setattr(pair_scores, "BLOCK_PAIRS", 500)  # many blocks
    impostors = impostors_of(embeddings, labels)
    points = pair_scores.operating_points(embeddings, labels, (0.1, 0.01, 0.001, 1e-5))
    assert [point.fmr for point in points] == [0.1, 0.01, 0.001]  # 1e-5 of 6,960 pairs cannot be measured
    for point in points:
        allowed = math.floor(point.fmr * len(impostors))
        assert point.impostor_pairs == len(impostors) == 120 * 119 // 2 - 30 * 6
        assert int((impostors >= point.threshold - 1e-6).sum()) >= allowed
        assert int((impostors >= point.threshold + 1e-6).sum()) <= allowed


def test_tied_impostors_are_all_refused() -> None:
    embeddings = at_degrees(0, 60, 60, 60, 90)
    (point,) = pair_scores.operating_points(embeddings, list("abcde"), (0.2,))  # two of ten may pass, three tie at 1
    assert point.threshold > 1.0 - 1e-7
    similarities = np.array([embeddings[1] @ embeddings[2]])
    assert not (similarities >= point.threshold).any()


def test_two_template_points_compare_with_means_of_others() -> None:
    # Means: a at 10, b at 80. Probes of others: b (70, 90) and c (40) on a; a (0, 20) and c (40) on b.
    (point,) = pair_scores.operating_points(at_degrees(0, 20, 70, 90, 40), list("aabbc"), (0.3,), templates=2)
    assert point.impostor_pairs == 6
    assert point.templates == 2
    # Similarities, descending: c-a cos 30, c-b cos 40, then cos 60 twice: one of six may pass.
    assert cos_deg(40) < point.threshold < cos_deg(40) + 1e-5
    with pytest.raises(EdgeError, match="3 templates"):
        pair_scores.operating_points(at_degrees(0, 20), list("ab"), templates=3)


def test_blocks_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = crowd()
    whole = pair_scores.pair_scores(embeddings, labels)
    counts = pair_scores.histograms(embeddings, labels, bins=50)
    monkeypatch.setattr(pair_scores, "BLOCK_PAIRS", 333)
    monkeypatch.setattr(pair_scores, "KEEP_ALL_PAIRS", 100)
    blocked = pair_scores.pair_scores(embeddings, labels)
    assert len(blocked.impostor) == math.ceil(4 * 1e-2 * 6960)
    assert np.allclose(blocked.impostor, whole.impostor[: len(blocked.impostor)], atol=1e-6)
    assert blocked.tar(1e-2) == pytest.approx(whole.tar(1e-2))
    again = pair_scores.histograms(embeddings, labels, bins=50)
    assert (counts.genuine.sum(), counts.impostor.sum()) == (180, 6960)
    assert np.abs(again.impostor - counts.impostor).sum() <= 4  # rounding may move a value over an edge
    # The plain way: the whole matrix.
    plain, _edges = np.histogram(np.clip(impostors_of(embeddings, labels), -1, 1), counts.edges)
    assert np.abs(plain - counts.impostor).sum() <= 4


def test_copies_of_one_identity_are_no_impostors_of_each_other() -> None:
    scores = pair_scores.pair_scores(at_degrees(0, 20, 50, 90), ["a", "a", "b", "b"])
    # Drawn a twice and b never, nobody is left to be an impostor: no rate can be had.
    assert math.isnan(scores.tar(0.25, np.array([2.0, 0.0])))
    # Weights (2, 1): genuine a counts twice; at no impostor allowed only cos 20 passes.
    assert scores.tar(0.0, np.array([2.0, 1.0])) == pytest.approx(2 / 3)


def test_tar_gain_is_nothing_against_oneself_and_certain_after_denoising() -> None:
    noisy, labels = crowd(people=20)
    clean = pair_scores.unit_rows(noisy + 3 * np.repeat(open_set.mean_templates(noisy, labels, 4)[0], 4, axis=0))
    before, after = pair_scores.pair_scores(noisy, labels), pair_scores.pair_scores(clean, labels)
    assert pair_scores.tar_gain(before, before, 0.01).high == 0.0
    gain = pair_scores.tar_gain(before, after, 0.01)
    assert gain.above_zero
    (told,) = pair_scores.tar_at_far(before, [0.01])
    assert told.tar.low < told.tar.value < told.tar.high
    assert gain.value == pytest.approx(after.tar(0.01) - told.tar.value)
    with pytest.raises(ModelError, match="different pictures"):
        pair_scores.tar_gain(before, pair_scores.pair_scores(clean[:-1], labels[:-1]), 0.01)


# --- few shots and strangers


def test_identify_gives_best_similarity_and_margin() -> None:
    found = open_set.identify(at_degrees(0, 90), at_degrees(30, 80))
    assert found.best.tolist() == [0, 1]
    assert np.allclose(found.similarity, [cos_deg(30), cos_deg(10)], atol=1e-6)
    assert np.allclose(found.margin, [cos_deg(30) - cos_deg(60), cos_deg(10) - cos_deg(80)], atol=1e-6)
    assert open_set.identify(at_degrees(0), at_degrees(5)).margin.tolist() == [2.0]


def test_templates_are_normalized_means_of_the_first_rows() -> None:
    means, owners = open_set.mean_templates(at_degrees(0, 50, 20, 90, 70), np.array([0, 2, 0, 1, 2]), 2)
    assert owners.tolist() == [0, 2]
    assert np.allclose(means, at_degrees(10, 60), atol=1e-6)


def test_n_shot_accuracy_of_separated_and_of_mixed_identities() -> None:
    apart = open_set.n_shot(at_degrees(0, 1, 2, 90, 91, 92), list("aaabbb"), shots=(1, 2, 5))
    assert [one.accuracy.value for one in apart][:2] == [1.0, 1.0]
    assert apart[2].accuracy.trials == 0  # nobody has six pictures
    assert apart[0].probes.tolist() == [40.0, 40.0]  # 20 episodes, two probes each
    # b's pictures lie each next to one of a's: whichever is enrolled, some probes go wrong.
    mixed = open_set.n_shot(at_degrees(0, 80, 1, 81), list("aabb"), shots=(1,))[0]
    assert mixed.accuracy.value < 1.0
    gain = open_set.n_shot_gain(mixed, open_set.n_shot(at_degrees(0, 1, 80, 81), list("aabb"), shots=(1,))[0])
    assert gain.value == pytest.approx(1 - mixed.accuracy.value)
    with pytest.raises(ModelError, match="different episodes"):
        open_set.n_shot_gain(mixed, apart[0])
    with pytest.raises(UsageError, match="0 shots"):
        open_set.n_shot(at_degrees(0, 1), list("ab"), shots=(0,))


def test_open_set_counts_misses_and_strangers_by_hand() -> None:
    # a: all at 0. b: 90, 90, 90 and whichever is the mate is right. Strangers at 30 and 45 degrees.
    embeddings = at_degrees(0, 0, 0, 90, 90, 90, 30, 45)
    labels = list("aaabbbcd")
    protocol = OpenSetProtocol(gallery_size=2, templates=2, seeds=(0, 1, 2), fpir=0.5)
    found = open_set.open_set(embeddings, labels, protocol, Rule(threshold=0.8))
    assert (found.mates, found.strangers) == (6, 2)
    assert found.rank_one.value == 1.0
    # One of two strangers may be named: the threshold lies just above the farther one, cos 45.
    assert cos_deg(45) < found.threshold < cos_deg(45) + 1e-5
    assert found.fnir_at_fpir.value == 0.0
    assert found.realized is not None
    assert found.realized.fpir.value == 0.5  # cos 30 = 0.87 is named, cos 45 is not
    assert found.realized.fnir.value == 0.0
    # The margin rule: at 30 degrees the runner-up is only 0.366 behind.
    careful = open_set.open_set(embeddings, labels, protocol, Rule(threshold=0.8, margin=0.4))
    assert careful.realized is not None
    assert careful.realized.fpir.value == 0.0
    strict = open_set.open_set(embeddings, labels, protocol, Rule(threshold=1.5))
    assert strict.realized is not None
    assert (strict.realized.fnir.value, strict.realized.misnamed.value) == (1.0, 0.0)


def test_open_set_misses_mates_that_look_like_others() -> None:
    # Each third picture of a lies at b's place: as a mate it is misnamed, as a template it spoils the mean.
    embeddings = at_degrees(0, 0, 90, 90, 90, 90, 200)
    found = open_set.open_set(
        embeddings, list("aaabbbs"), OpenSetProtocol(gallery_size=2, seeds=tuple(range(30)), fpir=0.0), Rule(-1.0)
    )
    assert found.realized is not None
    assert 0.0 < found.realized.misnamed.value <= 0.5
    assert found.rank_one.value == pytest.approx(1 - found.realized.misnamed.value)


def test_open_set_needs_enough_people_and_a_stranger() -> None:
    with pytest.raises(ModelError, match="2 people have more than 2 pictures and 0 have one"):
        open_set.open_set(at_degrees(0, 0, 0, 9, 9, 9), list("aaabbb"), OpenSetProtocol(gallery_size=2))
    with pytest.raises(ModelError, match="at least 3 to enroll"):
        open_set.open_set(at_degrees(0, 0, 0, 9), list("aaab"), OpenSetProtocol(gallery_size=3))


def test_the_evaluator_needs_no_torch_and_no_sklearn() -> None:
    code = (
        "import sys; import edge_app.accuracy.pair_scores, edge_app.accuracy.open_set, edge_app.accuracy.lfw_pairs, edge_app.accuracy.intervals; "  # noqa: E501
        "bad = {'torch', 'sklearn', 'onnx', 'onnxruntime'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
