"""Small-data methods and what is said of them: intervals by hand, a teacher caught out, trials that are kept."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Before torch is imported, as the command does: spinning threads starve the tests beside this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_app.accuracy.intervals import over_repeats, paired, wider
from edge_app.core.errors import UsageError
from edge_models.classifier import compare as comparison
from edge_models.classifier.compare import Plan, compare, keep_few
from edge_models.classifier.gains import Trial, summary
from edge_models.classifier.losses import cosine_loss
from edge_models.classifier.network import CachedViews, Head
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.recipe import Workshop, _weights, fit_head, hard_targets, logits_of
from edge_models.classifier.small_data import add_pseudo_labels, taught_by
from edge_models.data.augment import mix
from edge_models.data.folder import Picture, PictureFolder, Split, split_pictures
from edge_models.fitting.progress import Silence
from edge_models.networks.feature_cache import FeatureBank


def folder_of(labels, groups=None):
    pictures = tuple(
        Picture(f"{i}.png", f"{i}.png", label, f"{i:064d}", (96, 96), None, 0.1) for i, label in enumerate(labels)
    )
    groups = np.arange(len(labels)) if groups is None else np.array(groups)
    return PictureFolder("nowhere", ("ant", "bee"), pictures, groups, ())


def workshop(tmp_path, labels, features, **changes):
    options = ClassifierOptions(tmp_path, tmp_path / "run", device="cpu", log="none", unfreeze=0, **changes)
    folder = folder_of(labels)
    bank = FeatureBank(features[None], None)
    return Workshop(options, folder, split_pictures(folder, seed=0), None, bank, hard_targets(folder), Silence())


def test_a_teacher_sees_through_a_wrong_label_and_knows_no_label_that_judges(tmp_path):
    torch.manual_seed(0)
    truth = [0, 1] * 40
    labels = list(truth)
    split = workshop(tmp_path, labels, torch.randn(80, 4)).split
    wrong, aside = split.train[3], list(split.validation)
    labels[wrong] = 1 - labels[wrong]
    teacher = 3 * torch.eye(2)[torch.tensor(truth)] + 0.3 * torch.randn(80, 2)
    work = taught_by(replace(workshop(tmp_path, labels, torch.randn(80, 4)), split=split), teacher)
    # Half of what it was told, half of what the teacher says: a wrong label and the teacher's right one cancel out.
    assert work.targets[wrong, truth[wrong]] == pytest.approx(0.5, abs=0.1)
    right = [i for i in split.fit if i != wrong]
    assert work.targets[right, torch.tensor(truth)[right]].min() > 0.85
    assert torch.allclose(work.targets.sum(1), torch.ones(80), atol=1e-5)
    # Other labels of what judges: what is learned from, and the opinion, stay as they were.
    for i in aside:
        labels[i] = 1 - labels[i]
    other = taught_by(replace(workshop(tmp_path, labels, torch.randn(80, 4)), split=split), teacher)
    fit = list(split.fit)
    assert torch.allclose(other.targets[fit], work.targets[fit])
    assert torch.allclose(other.targets[aside] - work.targets[aside], 0.5 * (1 - 2 * hard_targets(work.folder)[aside]))


def trials_of(rights, withouts):
    counts = {"learned": 10}
    made = {}
    for seed, (right, without) in enumerate(zip(rights, withouts, strict=True)):
        right, without = np.array(right, bool), np.array(without, bool)
        made["plain", seed] = Trial(without, without, counts)
        made["cosine", seed] = Trial(right, without, counts)
    return made


def splits_of(*validations):
    return {seed: Split((), (), tuple(part)) for seed, part in enumerate(validations)}


def test_the_paired_interval_is_bonett_and_price_s_by_hand():
    # 6 pictures only the method got right, 2 only the other, 92 alike: Bonett and Price 2012, formula 6.
    found = paired(np.array([1.0] * 6 + [-1.0] * 2 + [0.0] * 92))
    first, second = 7 / 102, 3 / 102
    half = 1.959964 * math.sqrt((first + second - (first - second) ** 2) / 102)
    assert found.value == pytest.approx(0.04)
    assert found.low == pytest.approx(first - second - half) and found.high == pytest.approx(first - second + half)


def test_pictures_that_all_agree_do_not_prove_that_others_would():
    agreeing = paired(np.zeros(50))
    assert agreeing.low < -0.02 and agreeing.high > 0.02
    assert over_repeats(np.zeros(5)).high == 0
    assert wider(over_repeats(np.zeros(5)), agreeing).high == agreeing.high
    assert paired(np.ones(3)).high >= 1 and math.isnan(paired(np.zeros(0)).value)
    with pytest.raises(ValueError, match="1 repetitions"):
        over_repeats(np.zeros(1))


def test_student_s_interval_over_seeds_by_hand():
    found = over_repeats(np.array([0.02, 0.0, 0.04, 0.02, 0.02]))
    half = 2.776445 * np.std([2, 0, 4, 2, 2], ddof=1) / 100 / math.sqrt(5)
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.02 - half, 0.02 + half))


def test_a_gain_counts_only_where_pictures_and_seeds_both_show_it():
    folder = folder_of([0, 1] * 50)
    splits = splits_of(range(50), range(50, 100))
    none, everything = [False] * 50, [True] * 50
    found = summary(["cosine"], folder, splits, trials_of([everything, everything], [none, none]))
    assert found["rows"][1]["accuracy"]["verdict"] == "better" and found["rows"][1]["only_with"] == 100
    assert found["sentences"][0].startswith("Shown to be better than doing without: cosine (+100.0 points)")
    # One seed gains all, the other nothing: the pictures alone would call it proof.
    found = summary(["cosine"], folder, splits, trials_of([everything, none], [none, none]))
    assert found["rows"][1]["accuracy"]["verdict"] == "not shown"
    assert found["rows"][1]["accuracy"]["gain"] == pytest.approx(0.5)
    assert [found["rows"][1]["accuracy"][end] for end in ("low", "high")] == [-1, 1]
    assert "None of these is shown to be better" in found["sentences"][0]


def test_near_duplicates_are_one_witness_and_recall_counts_classes_alike():
    labels = [0] * 90 + [1] * 10
    right = [True] * 90 + [False] * 10
    trials = trials_of([right, right], [[True] * 100, [True] * 100])
    splits = splits_of(range(100), range(100))
    row = summary(["cosine"], folder_of(labels), splits, trials)["rows"][1]
    assert row["accuracy"]["gain"] == pytest.approx(-0.1) and row["recall"]["gain"] == pytest.approx(-0.5)
    alone, bunch = folder_of(labels), folder_of(labels, [*range(90), *[90] * 10])
    wide = summary(["cosine"], bunch, splits, trials)["rows"][1]["accuracy"]
    narrow = summary(["cosine"], alone, splits, trials)["rows"][1]["accuracy"]
    assert wide["low"] < 2 * narrow["low"] < 0 and narrow["verdict"] == "worse" and wide["verdict"] == "not shown"


def test_few_pictures_keep_their_shares_and_the_rest_hides_its_labels(tmp_path):
    work = workshop(tmp_path, [0, 1] * 50, torch.randn(100, 4))
    few, hidden = keep_few(work, 10)
    labels = work.folder.labels
    assert [len(few.split.train), len(few.split.selection)] == [16, 4]
    assert np.bincount(labels[list(few.split.fit)]).tolist() == [10, 10]
    assert set(few.split.train) <= set(work.split.train) and set(few.split.selection) <= set(work.split.selection)
    assert set(hidden) == set(work.split.fit) - set(few.split.fit) and few.split.validation == work.split.validation


def test_a_teacher_s_errors_are_counted_and_true_labels_do_not_leak(tmp_path):
    labels = np.array([0, 1] * 40)
    features = torch.from_numpy(np.where(labels, 1.0, -1.0)[:, None] + np.zeros((80, 3))).float()
    work, hidden = keep_few(workshop(tmp_path, [int(label) for label in labels], features, epochs=2, ridge=0.01), 8)
    # Its features say bee, its label says ant: the teacher must follow the features.
    liar = next(row for row in hidden if labels[row] == 0)
    features[liar] = 1.0
    student, teaching = add_pseudo_labels(work, hidden)
    assert teaching.offered == len(hidden) == len(teaching.rows) and liar in teaching.rows
    assert student.targets[liar].argmax() == 1 and student.options.dropout > 0
    assert student.split.train[-len(hidden) :] == hidden
    counts = comparison._pseudo_trial(work, hidden, np.zeros(0, bool)).counts
    assert counts == {"learned": 16, "offered": len(hidden), "taken": len(hidden), "wrong": 1}


@pytest.mark.parametrize("loss", ["cosine", "cosine+cross-entropy"])
def test_a_cosine_head_finds_its_direction_in_few_steps(tmp_path, loss):
    rng = np.random.default_rng(0)
    labels = [0, 1] * 20
    features = torch.from_numpy(rng.normal(0, 1, (40, 200)) + 0.4 * np.array(labels)[:, None]).float()
    for seed in range(3):
        work = workshop(tmp_path, labels, features, epochs=8, loss=loss, seed=seed, batch_size=64)
        head, _ = fit_head(work, work.split.fit, None, f"head-{seed}")
        fit = list(work.split.fit)
        assert (logits_of(head, features[fit]).argmax(1) == work.folder.labels[fit]).mean() > 0.95


def test_the_cosine_s_second_matrix_begins_as_the_cosine_head():
    torch.manual_seed(0)
    both, alone = Head(6, 3, "cosine+cross-entropy"), Head(6, 3, "cosine")
    alone.linear.load_state_dict(both.linear.state_dict())
    features = torch.randn(5, 6)
    assert torch.allclose(both(features), alone(features), atol=1e-6)
    assert cosine_loss(both._outputs(features), torch.eye(3)[[0, 1, 2, 0, 1]]).item() > 0


def test_balanced_drawing_gives_every_class_the_same_chance_in_every_view(tmp_path):
    work = workshop(tmp_path, [0] * 30 + [1] * 10, torch.randn(40, 4), balanced=True)
    at = list(range(40))
    weights = _weights(work, at, 2)
    views = CachedViews(torch.zeros(2, 40, 4), at, work.targets, seed=0, all_views=True)
    drawn = views[(0, list(range(80)))][1].argmax(1).numpy()
    assert weights[drawn == 0].sum() == pytest.approx(weights[drawn == 1].sum())


# --- whole comparisons, on painted pictures ---------------------------------------------------------------------------


def paint(path, shape, seed):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(60, 200, (96, 96, 3), dtype=np.uint8))
    x, y = (int(v) for v in rng.integers(15, 40, 2))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "disc" else draw.rectangle)((x, y, x + 42, y + 42), fill=(seed * 7 % 256, 90, 200))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for number in range(12):
        paint(root / "disc" / f"{number}.png", "disc", number)
        paint(root / "square" / f"{number}.png", "square", 100 + number)
    return ClassifierOptions(
        root, root / "unused", epochs=2, views=0, device="cpu", cache=tmp_path_factory.mktemp("cache")
    )


class Teller(Silence):
    def __init__(self):
        self.notes, self.details = [], []

    def note(self, text):
        self.notes.append(text)

    def advance(self, done, detail=""):
        self.details.append(detail)


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_ends_as_if_it_had_not_been_stopped(options, tmp_path, monkeypatch):
    plan = Plan(("cosine", "pseudo-labels", "distillation", "augmented"), (0, 1))
    whole = compare(options, plan, Silence())
    assert [row["method"] for row in whole["rows"]] == ["plain", *plan.methods]
    for row in whole["rows"][1:]:
        figures = row["accuracy"]
        assert figures["low"] <= figures["gain"] <= figures["high"]
        assert figures["gain"] == pytest.approx(figures["with"] - figures["without"])

    trial, begun = comparison._trial, []

    def interrupted(work, method, *rest):
        begun.append((method, work.options.seed))
        if len(begun) == 4:
            raise KeyboardInterrupt
        return trial(work, method, *rest)

    monkeypatch.setattr(comparison, "_trial", interrupted)
    told, keep = Teller(), tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        compare(options, plan, told, keep)
    assert "stopped after 3 of 10 trials; go on with --resume" in told.notes
    assert not (keep / "comparison.json").exists()
    with pytest.raises(UsageError, match="not empty"):
        compare(options, plan, Silence(), keep)
    with pytest.raises(UsageError, match="begun with other epochs"):
        compare(replace(options, resume=True, epochs=3), plan, Silence(), keep)
    assert compare(replace(options, resume=True), plan, told, keep) == whole
    assert begun[4:] == [(m, s) for s in (0, 1) for m in ("plain", *plan.methods)][3:]
    assert json.loads((keep / "comparison.json").read_text()) == json.loads(json.dumps(whole))
    assert not (keep / "state").exists() and (keep / "trials.json").stat().st_mode & 0o077 == 0

    # Finished: another method and another seed cost their own trials only.
    begun.clear()
    more = compare(replace(options, resume=True), Plan((*plan.methods, "smoothing"), (0, 1)), told, keep)
    assert begun == [("smoothing", 0), ("smoothing", 1)]
    assert more["rows"][:-1] == whole["rows"]


@pytest.mark.slow
def test_what_is_named_twice_is_measured_once_and_trials_that_cannot_be_read_are_one_line(options, tmp_path):
    keep = tmp_path / "kept"
    twice = compare(options, Plan(("smoothing", "smoothing"), (0, 1, 0)), Silence(), keep)
    assert [row["method"] for row in twice["rows"]] == ["plain", "smoothing"] and twice["seeds"] == [0, 1]
    (keep / "trials.json").write_text('{"plain/0": {"right": "11')
    with pytest.raises(UsageError, match="holds no trials"):
        compare(replace(options, resume=True), Plan(("smoothing",), (0, 1)), Silence(), keep)


@pytest.mark.slow
def test_an_unlabelled_folder_is_offered_and_told_in_a_sentence(options, tmp_path):
    for number in range(3):
        paint(tmp_path / "more" / f"{number}.png", "disc", 900 + number)
    wanted = replace(options, unlabelled=tmp_path / "more", confidence=0.5)
    found = compare(wanted, Plan(("pseudo-labels",), (0, 1), per_class=6), Silence())
    assert found["rows"][1]["counts"]["offered"] == [3, 3] and "wrong" not in found["rows"][1]["counts"]
    assert any("learned from 12 pictures each and took 6 of 6 without label" in s for s in found["sentences"])


@pytest.mark.parametrize(
    ("methods", "seeds", "per_class", "told"),
    [(("cosine",), (0,), None, "at least 2"), (("magic",), (0, 1), None, "no method called"),
     (("cosine",), (0, 1), 1, "1 pictures per class")],
)  # fmt: skip
def test_plans_that_make_no_sense_are_refused(methods, seeds, per_class, told):
    with pytest.raises(UsageError, match=told):
        Plan(methods, seeds, per_class)


@pytest.mark.parametrize(("mixing", "even"), [("mixup", 0.2), ("cutmix", 0.6)])
def test_mixing_draws_its_share_as_its_paper_does(mixing, even):
    """Beta(0.2, 0.2) seldom mixes evenly, Beta(1, 1) draws every share alike."""
    torch.manual_seed(0)
    inputs, targets = torch.zeros(2, 1, 32, 32), torch.eye(2)
    shares = np.array([float(mix(inputs, targets, mixing)[1][0, 0]) for _ in range(400)])
    assert ((shares > 0.2) & (shares < 0.8)).mean() == pytest.approx(even, abs=0.08)


def test_train_compare_measures_every_method_unless_some_are_named(monkeypatch, tmp_path, capsys):
    from edge_app.cli import main
    from edge_models.classifier.options import METHODS

    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (40, 40), (number, 9, 9)).save(tmp_path / name / f"{number}.png")
    plans = []

    def measured(options, plan, progress, keep):
        plans.append((plan, keep))
        return {"rows": []}

    monkeypatch.setattr(comparison, "compare", measured)
    assert main(["train", "compare", str(tmp_path), "--seeds", "3", "--json"]) == 0
    words = ["--methods", "cosine", "smoothing", "--per-class", "2", "--output", str(tmp_path / "out"), "--json"]
    assert main(["train", "compare", str(tmp_path), *words]) == 0
    assert main(["train", "classifier", str(tmp_path), "--compare", "cosine", "--json"]) == 0
    first, second, alias = (plan for plan, _ in plans)
    assert set(first.methods) == set(METHODS) and first.seeds == (0, 1, 2)
    assert second.methods == ("cosine", "smoothing") and second.per_class == 2 and plans[1][1] == tmp_path / "out"
    assert alias.methods == ("cosine",)
