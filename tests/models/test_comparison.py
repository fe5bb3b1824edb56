"""Methods held against doing without: answers that were built first, intervals by hand, trials that are kept."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Before torch is imported, as the command does: spinning threads starve the tests beside this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_app.accuracy.intervals import over_repeats, paired, wider
from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_models.classifier import adapt, noisy_student, scratch
from edge_models.classifier.network import Head, TransferClassifier
from edge_models.classifier.options import METHODS, ClassifierOptions
from edge_models.comparison import attempts, methods, shared
from edge_models.comparison import compare as comparison
from edge_models.comparison.compare import Plan, compare, keep_few
from edge_models.comparison.gains import Trial, chance_of, curve_sentence, holm, recommend, sentences, table_of
from edge_models.comparison.page import chart, page
from edge_models.comparison.shared import Shared
from edge_models.data.batch_views import plain_views
from edge_models.data.folder import Split, split_pictures
from edge_models.fitting.progress import Silence
from tests.models.test_other_domains import Halves
from tests.models.workshops import folder_of, workshop


def trials_of(rights, withouts, method="cosine"):
    made = {}
    for seed, (right, without) in enumerate(zip(rights, withouts, strict=True)):
        made["plain", seed] = Trial(np.array(without, bool), {"learned": 10}, 2.0)
        made[method, seed] = Trial(np.array(right, bool), {"learned": 10}, 5.0)
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


def row_of(table, method="cosine"):
    return next(row for row in table["rows"] if row["method"] == method)


def test_a_gain_counts_only_where_pictures_and_seeds_both_show_it():
    folder = folder_of([0, 1] * 50)
    splits = splits_of(range(50), range(50, 100))
    none, everything = [False] * 50, [True] * 50
    table = table_of(["cosine"], folder, splits, trials_of([everything, everything], [none, none]), {})
    assert row_of(table)["accuracy"]["verdict"] == "better" and row_of(table)["only_with"] == 100
    # One seed gains all, the other nothing: the pictures alone would call it proof.
    table = table_of(["cosine"], folder, splits, trials_of([everything, none], [none, none]), {})
    found = row_of(table)["accuracy"]
    assert found["verdict"] == "not shown" and found["gain"] == pytest.approx(0.5)
    assert [found[end] for end in ("low", "high")] == [-1, 1]
    [told] = recommend(table, {}, None, "processor")
    assert told["method"] is None and "nothing, keep the default" in told["reason"]


def test_near_duplicates_are_one_witness_and_recall_counts_classes_alike():
    labels = [0] * 90 + [1] * 10
    right = [True] * 90 + [False] * 10
    trials = trials_of([right, right], [[True] * 100, [True] * 100])
    splits = splits_of(range(100), range(100))
    row = row_of(table_of(["cosine"], folder_of(labels), splits, trials, {}))
    assert row["accuracy"]["gain"] == pytest.approx(-0.1) and row["recall"]["gain"] == pytest.approx(-0.5)
    alone, bunch = folder_of(labels), folder_of(labels, [*range(90), *[90] * 10])
    wide = row_of(table_of(["cosine"], bunch, splits, trials, {}))["accuracy"]
    narrow = row_of(table_of(["cosine"], alone, splits, trials, {}))["accuracy"]
    assert wide["low"] < 2 * narrow["low"] < 0 and narrow["verdict"] == "worse" and wide["verdict"] == "not shown"


def test_holm_s_correction_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == [] and holm([0.7]) == [0.7] and holm([0.9, 0.8]) == [1, 1]


def test_the_p_value_is_where_the_interval_meets_zero():
    from scipy.stats import ttest_1samp

    differences = np.array([0.03, 0.01, 0.04, 0.02, 0.02])
    assert chance_of(lambda c: over_repeats(differences, c)) == pytest.approx(
        ttest_1samp(differences, 0).pvalue, rel=1e-3
    )
    assert chance_of(lambda c: over_repeats(-differences, c)) == chance_of(lambda c: over_repeats(differences, c))
    assert chance_of(lambda c: over_repeats(np.array([0.1, -0.1]), c)) == 1


def test_what_one_method_shows_is_perhaps_among_many_that_do_nothing():
    folder, splits = folder_of([0, 1] * 100), splits_of(*(range(40 * n, 40 * n + 40) for n in range(5)))
    without = [[n % 2 == 0 for n in range(40)]] * 5
    # 3, 4, 5, 4 and 3 more of 40 in a seed.
    right = [[n % 2 == 0 or n < 2 * more for n in range(40)] for more in (3, 4, 5, 4, 3)]
    trials = trials_of(right, without)
    alone = row_of(table_of(["cosine"], folder, splits, trials, {}))["accuracy"]
    assert alone["verdict"] == "better" and alone["p"] == alone["p_holm"]
    others = [f"idle{n}" for n in range(300)]
    trials |= {(name, seed): trials["plain", seed] for name in others for seed in range(5)}
    table = table_of(["cosine", *others], folder, splits, trials, {})
    among = row_of(table)["accuracy"]
    assert among["verdict"] == "perhaps better" and among["p_holm"] == pytest.approx(min(1, 301 * among["p"]))
    assert (among["low"], among["high"]) == (alone["low"], alone["high"])
    [told] = recommend(table, {}, 10, "processor")
    assert told["method"] is None and "301 methods were tried" in told["reason"]
    assert any(text.startswith("Perhaps better") and "cosine (+9.5 points)" in text for text in sentences(table, 200))


def test_a_recommendation_says_how_and_at_what_price():
    folder, splits = folder_of([0, 1] * 100), splits_of(*(range(40 * n, 40 * n + 40) for n in range(5)))
    none, all_right = [[False] * 40] * 5, [[True] * 40] * 5
    half = [[n < 20 for n in range(40)]] * 5
    trials = trials_of(all_right, none) | trials_of(half, none, "mixup")
    table = table_of(["mixup", "cosine"], folder, splits, trials, {"plain": 1.0, "cosine": 61.0, "mixup": 1.0})
    assert [row["seconds"] for row in table["rows"]] == [3, 6, 66]
    [told] = recommend(table, {"cosine": "--loss cosine"}, 5, "processor")
    assert told["method"] == "cosine" and told["flags"] == "--loss cosine"
    assert told["reason"].startswith(
        "With 5 labels per class, by accuracy: use cosine (--loss cosine). It gained +100.0"
    )
    assert "for 1.1 min of processor time more; shown to help too: mixup." in told["reason"]


def test_classes_of_unequal_size_get_a_recommendation_of_their_own():
    labels = [0] * 90 + [1] * 10
    folder, splits = folder_of(labels), splits_of(range(100), range(100))
    common, rare = [True] * 90 + [False] * 10, [True] * 85 + [False] * 5 + [True] * 10
    table = table_of(["balanced"], folder, splits, trials_of([rare, rare], [common, common], "balanced"), {})
    by_accuracy, by_recall = recommend(table, {}, None, "processor")
    assert by_accuracy["method"] is None and by_recall["method"] == "balanced"


def test_the_curve_says_where_self_distillation_stops_helping():
    folder, splits = folder_of([0, 1] * 100), splits_of(*(range(40 * n, 40 * n + 40) for n in range(5)))

    def first(count):
        return np.arange(40) < count

    trials = {("plain", seed): Trial(first(10), {"learned": 10}) for seed in range(5)}
    for seed in range(5):
        curve = (first(20), first(32), first(32), first(8))
        trials["distillation", seed] = Trial(curve[0], {"learned": 10}, 1.0, curve)
    curve = table_of(["distillation"], folder, splits, trials, {})["generations"]
    assert [line["over_plain"]["gain"] for line in curve] == pytest.approx([0.25, 0.55, 0.55, -0.05])
    assert [line["over_last"]["gain"] for line in curve] == pytest.approx([0.25, 0.3, 0, -0.6])
    assert "stops helping after generation 2" in curve_sentence(curve)
    assert "each is shown to be better" in curve_sentence(curve[:2])
    assert "no generation is shown" in curve_sentence(curve[2:])
    # What gained a little, but not surely, is where it stops.
    unsure = {"generation": 2, "over_plain": {"gain": 0.3}, "over_last": {"gain": 0.05, "low": -0.01}}
    assert "stops helping after generation 1" in curve_sentence([curve[0], unsure, curve[1]])
    assert curve_sentence(curve[:1]) == ""


def test_the_page_tells_what_is_in_the_table_and_is_whole_in_itself():
    folder, splits = folder_of([0, 1] * 100), splits_of(*(range(40 * n, 40 * n + 40) for n in range(5)))
    trials = trials_of([[True] * 40] * 5, [[n < 20 for n in range(40)]] * 5)
    table = table_of(["cosine"], folder, splits, trials, {})
    more = {"per_class": 5, "absent": {"mixup": "<b>why</b>"}, "sentences": ["said"]}
    tables = [table | more | {"recommended": recommend(table, {}, 5, "processor")}]
    written = page({
        "folder": "a&b", "judged": 200, "seeds": [0, 1, 2, 3, 4], "classes": {"ant": 100, "bee": 100},
        "tables": tables, "time_of": "processor", "shared_seconds": {}, "data_sha256": "0" * 64,
    })  # fmt: skip
    assert "a&amp;b" in written and "&lt;b&gt;why" in written and "prefers-color-scheme: dark" in written
    assert '<text x="0" y="18">cosine</text>' in written and "+50.0 points" in written
    assert "http" not in written.replace("http-equiv", "")


def test_a_chart_holds_its_intervals_and_zero():
    rows = [("a", {"gain": 0.02, "low": -0.01, "high": 0.05, "verdict": "not shown"}),
            ("b", {"gain": 0.3, "low": 0.2, "high": 0.4, "verdict": "better"})]  # fmt: skip
    made = chart(rows)
    first, second = made["rows"]
    assert 150 <= first["low"] < made["zero"] < first["x"] < first["high"] < second["low"] < second["high"] <= 640
    assert [row["kind"] for row in made["rows"]] == ["soft", "right"] and second[
        "told"
    ] == "+30.0 points (+20.0 to +40.0)"
    assert ("0" in [told for _, told in made["marks"]]) and len(made["marks"]) <= 11


def test_few_pictures_keep_their_shares_and_the_rest_hides_its_labels(tmp_path):
    work = workshop(tmp_path, [0, 1] * 50, torch.randn(100, 4))
    few, hidden = keep_few(work, 10)
    labels = work.folder.labels
    assert [len(few.split.train), len(few.split.selection)] == [16, 4]
    assert np.bincount(labels[list(few.split.fit)]).tolist() == [10, 10]
    assert set(few.split.train) <= set(work.split.train) and set(few.split.selection) <= set(work.split.selection)
    assert set(hidden) == set(work.split.fit) - set(few.split.fit) and few.split.validation == work.split.validation


# --- which methods apply ----------------------------------------------------------------------------------------------


def draw(path, shape, seed, ground=None):
    rng = np.random.default_rng(seed)
    noise = rng.integers(60, 200, (96, 96, 3), dtype=np.uint8)
    image = Image.fromarray(noise if ground is None else np.full_like(noise, ground))
    x, y = (int(v) for v in rng.integers(15, 40, 2))
    drawn = ImageDraw.Draw(image)
    (drawn.ellipse if shape == "disc" else drawn.rectangle)((x, y, x + 42, y + 42), fill=(seed * 7 % 256, 90, 200))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def shapes(root, count, ground=None, start=0):
    for number in range(start, start + count):
        draw(root / "disc" / f"{number}.png", "disc", number, ground)
        draw(root / "square" / f"{number}.png", "square", 100 + number, ground)
    return root


def reason(method, folder, few=None, **changes):
    found = methods.lack(method, replace(ClassifierOptions(folder.root, folder.root), **changes), folder, few)
    return None if found is None else found.reason


def test_a_method_that_does_not_apply_is_named_with_its_reason(tmp_path):
    even, uneven = folder_of([0, 1] * 20), folder_of([0] * 30 + [1] * 10)
    assert "equal size" in reason("balanced", even) and reason("balanced", uneven) is None
    # Five of each class are alike, however many the others hide.
    assert "equal size" in reason("balanced", uneven, 5)
    assert "already" in reason("cosine", even, loss="cosine") and reason("cosine", even) is None
    assert "step by step" in reason("prototypes", even, epochs=3)
    assert "--unlabelled" in reason("pseudo-labels", even) and reason("pseudo-labels", even, 5) is None
    for method in methods.ADAPTING:
        assert "--adapt" in reason(method, even) and "test/" in reason(method, even, adapt=tmp_path)
        # Not even where it is named.
        assert methods.lack(method, ClassifierOptions(tmp_path, tmp_path), even, 5).final
    elsewhere = replace(even, pictures=(*even.pictures[:-1], replace(even.pictures[-1], part="test")))
    assert reason("coral", elsewhere, adapt=tmp_path) is None
    for method in methods.EVERY_LAYER:
        assert "minutes" in reason(method, elsewhere, adapt=tmp_path)
    assert "minutes" in reason("noisy-student", even, 5) and "--unlabelled" in reason("noisy-student", even)
    assert "no pool" in reason("pretrained", even)
    assert "hours" in reason("pretrained", even, unlabelled=tmp_path)
    assert "minutes" in reason("generated", even, 5) and "5 pictures" in reason("generated", even, 4)
    assert "no other views" in reason("augmented", even, views=0, mirror=False)


def test_objects_are_composed_where_every_class_can_be_cut_out(tmp_path):
    from edge_models.data.checks import scan

    plain, noisy = (scan(shapes(tmp_path / name, 4, ground)) for name, ground in (("plain", 250), ("noisy", None)))
    assert reason("composed", plain) is None
    assert "0 of 4 tried" in reason("composed", noisy)


def test_what_all_trials_learn_from_leaves_out_every_picture_of_the_folder_for_each_judges_in_some(
    tmp_path, monkeypatch
):
    from edge_models.data.checks import scan

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for n in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "labelled" / name / f"{n}.png")
    (tmp_path / "pool").mkdir()
    folder = scan(tmp_path / "labelled")
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "pool" / "new.png")
    # The same pixels in other bytes.
    Image.open(folder.pictures[0].path).save(tmp_path / "pool" / "same.bmp")
    assert reason("pretrained", folder, unlabelled=tmp_path / "pool") is None
    options = ClassifierOptions(tmp_path / "labelled", tmp_path / "run", unlabelled=tmp_path / "pool",
                                adapt=tmp_path / "pool")  # fmt: skip
    given = []
    monkeypatch.setattr(shared, "pretrain", lambda options, progress, judges: given.append(judges) or 1 / 0)
    parts = shared.Shared(options, folder, None, Silence(), None, time.monotonic, {})
    with pytest.raises(ZeroDivisionError):
        parts.pretrained()
    assert set(given[0].hashes) == {picture.sha256 for picture in folder.pictures}
    assert [path.name for path, _ in parts.target()] == ["new.png"]


# --- answers that were built first ------------------------------------------------------------------------------------


def test_balancing_wins_where_a_rare_class_is_overlapped_and_does_nothing_where_classes_are_alike(tmp_path):
    rng = np.random.default_rng(1)
    verdicts = []
    for rare in (60, 300):
        labels = [0] * (600 - rare) + [1] * rare
        features = torch.from_numpy(rng.normal(0, 1, (600, 4)) + np.array(labels)[:, None] * [1.5, 0, 0, 0]).float()
        folder = folder_of(labels)
        splits, trials = {seed: split_pictures(folder, seed=seed) for seed in range(5)}, {}
        for seed, split in splits.items():
            work = replace(workshop(tmp_path, labels, features, head="logistic", seed=seed), split=split)
            shared = Shared(work.options, folder, None, Silence(), None, lambda: 0.0, {})
            for method in ("plain", "balanced"):
                found = attempts.attempt(method, attempts.Desk(shared, work, (), f"all-{seed}"))
                trials[method, seed] = Trial(found.right, found.counts)
        row = row_of(table_of(["balanced"], folder, splits, trials, {}), "balanced")
        verdicts.append((row["accuracy"]["verdict"], row["recall"]["verdict"]))
    assert verdicts == [("worse", "better"), ("not shown", "not shown")]


def test_coral_brings_a_shifted_domain_back(tmp_path):
    """The target's features are the source's, turned and moved: without moving the source to them nothing is right."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 100)
    source = rng.normal(0, 1, (200, 4)) * [1, 3, 1, 1] + 3 * labels[:, None] * [1, 0, 0, 0]
    target = source * [1, 1, 1, 1] + [6, 0, 0, 0]
    split = split_pictures(folder_of(labels), seed=0)
    features = source.copy()
    features[list(split.validation)] = target[list(split.validation)]
    work = workshop(tmp_path, [int(one) for one in labels], torch.from_numpy(features).float(), head="logistic")
    shared = Shared(work.options, work.folder, None, Silence(), None, lambda: 0.0, {})
    shared.parts["target"] = torch.from_numpy(target).float()
    desk = attempts.Desk(shared, work, (), "all-0")
    assert attempts.attempt("plain", desk).right.mean() < 0.6 and attempts.attempt("coral", desk).right.mean() > 0.9


class Lit(Halves):
    crop = "stretch"


def test_self_training_brings_back_a_class_that_another_light_hides(tmp_path):
    """As in the tests of adaptation: the right half is lighter or the left, and in the target light comes from left."""
    draw, labels = np.random.default_rng(0), np.array([0, 1] * 60)

    def half(name, label, light):
        pixels = np.full((32, 32, 3), 110.0)
        pixels[:, slice(0, 16) if label == 0 else slice(16, 32)] += 20
        pixels[:, :16] += light
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = np.clip(pixels + draw.normal(0, 10, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    work = workshop(tmp_path, labels.tolist(), torch.zeros(120, 2), adapt=tmp_path, augmentation=0.0, mirror=False)
    judging = set(work.split.validation)
    paths = [half(f"in/{i}.png", label, 25 if i in judging else 0) for i, label in enumerate(labels)]
    pictures = tuple(replace(one, path=path) for one, path in zip(work.folder.pictures, paths, strict=True))
    work = replace(work, folder=replace(work.folder, pictures=pictures))
    network = Lit()
    shared = Shared(work.options, work.folder, None, Silence(), None, lambda: 0.0, {"from-scratch all-0": 9.0})
    shared.parts |= {
        "from-scratch all-0": TransferClassifier(network, Head(2, 2)),
        "small pictures": plain_views(paths, network.input, network.crop),
        "target's files": [(half(f"there/{i}.png", i % 2, 25), f"{i:064d}") for i in range(80)],
    }
    shared.parts["from-scratch all-0"].head.linear.weight.data = torch.tensor([[6.0, -6.0], [-6.0, 6.0]])
    desk = attempts.Desk(shared, work, (), "all-0")
    without, adapted = (attempts.attempt(name, desk) for name in ("from-scratch", "self-training"))
    assert without.right.mean() < 0.6 and adapted.right.mean() > 0.9
    # What both went on from was paid once, and stays as it was.
    assert adapted.parts_s == without.parts_s == 9
    assert attempts.attempt("from-scratch", desk).right.tolist() == without.right.tolist()


@pytest.mark.parametrize("mirror", [True, False])
def test_layers_learn_mirrored_pictures_where_left_and_right_mean_nothing(tmp_path, monkeypatch, mirror):
    """Though what doing without sees are plain views alone."""
    learned = []

    def fit(work, *rest):
        learned.append(work.options.mirror)
        return Head(128, 2), None

    monkeypatch.setattr("edge_models.comparison.shared.fit_all", fit)
    work = workshop(tmp_path, [0, 1] * 10, torch.zeros(20, 2), mirror=mirror)
    shared = Shared(work.options, work.folder, None, Silence(), None, lambda: 0.0, {})
    shared.parts["small pictures"] = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    shared.from_scratch(replace(work, options=replace(shared.bare, seed=0)), "all-0")
    assert learned == [mirror]


# --- whole comparisons, on drawn pictures -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = shapes(tmp_path_factory.mktemp("shapes"), 12)
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


def without_seconds(found):
    for table in found["tables"]:
        for row in table["rows"]:
            del row["seconds"]
        table["recommended"] = [one["method"] for one in table["recommended"]]
    return {name: value for name, value in found.items() if name != "shared_seconds"}


@pytest.mark.slow
def test_a_stopped_comparison_goes_on_and_ends_as_if_it_had_not_been_stopped(options, tmp_path, monkeypatch):
    plan = Plan(("cosine", "pseudo-labels", "distillation", "augmented"), (0, 1), (6, None))
    whole = without_seconds(compare(options, plan, Silence()))
    few, everything = whole["tables"]
    assert [row["method"] for row in few["rows"]] == ["plain", *plan.methods]
    assert [row["method"] for row in everything["rows"]] == ["plain", "cosine", "distillation", "augmented"]
    assert list(everything["absent"]) == ["pseudo-labels"] and not few["absent"]
    for row in few["rows"][1:]:
        figures = row["accuracy"]
        assert figures["low"] <= figures["gain"] <= figures["high"]
        assert figures["gain"] == pytest.approx(figures["with"] - figures["without"])

    attempt, begun, stops = comparison.attempt, [], [4]

    def interrupted(method, desk):
        begun.append((method, desk.name))
        if stops and len(begun) == stops[0]:
            stops.clear()
            raise KeyboardInterrupt
        return attempt(method, desk)

    told, keep = Teller(), tmp_path / "kept"
    monkeypatch.setattr(comparison, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(options, plan, told, keep)
    assert "stopped after 3 of 18 trials; go on with --resume" in told.notes
    assert not (keep / "comparison.json").exists() and not (keep / "comparison.html").exists()
    with pytest.raises(UsageError, match="not empty"):
        compare(options, plan, Silence(), keep)
    with pytest.raises(UsageError, match="begun with other epochs"):
        compare(replace(options, resume=True, epochs=3), plan, Silence(), keep)
    assert without_seconds(compare(replace(options, resume=True), plan, told, keep)) == whole
    assert len(begun) == 19 and len(set(begun)) == 18
    kept = json.loads((keep / "comparison.json").read_text())
    assert without_seconds(kept) == json.loads(json.dumps(whole))
    page = (keep / "comparison.html").read_text()
    assert page.count('class="gains"') == 2 and "pseudo-labels</b>: there are no pictures without labels" in page
    assert not (keep / "state").exists() and (keep / "trials.json").stat().st_mode & 0o077 == 0

    # Finished: another method, another seed and another number cost their own trials only.
    begun.clear()
    more = Plan((*plan.methods, "smoothing"), (0, 1), (6, 4))
    found = compare(replace(options, resume=True), more, told, keep)
    assert begun[-2:] == [("smoothing", "6-0"), ("smoothing", "6-1")] and len(begun) == 14
    assert [row["accuracy"]["with"] for row in found["tables"][1]["rows"][:-1]] == [
        row["accuracy"]["with"] for row in few["rows"]
    ]


@pytest.mark.slow
def test_what_is_named_twice_is_measured_once_and_trials_that_cannot_be_read_are_one_line(options, tmp_path):
    keep = tmp_path / "kept"
    twice = compare(options, Plan(("smoothing", "smoothing"), (0, 1, 0), (None, 6, 6)), Silence(), keep)
    assert [table["per_class"] for table in twice["tables"]] == [6, None] and twice["seeds"] == [0, 1]
    assert [[row["method"] for row in table["rows"]] for table in twice["tables"]] == [["plain", "smoothing"]] * 2
    (keep / "trials.json").write_text('{"trials": {"all/plain/0": {"right": "11')
    with pytest.raises(UsageError, match="holds no trials"):
        compare(replace(options, resume=True), Plan(("smoothing",), (0, 1)), Silence(), keep)


@pytest.fixture
def work_as_seconds(monkeypatch):
    """What networks do in the place of seconds: it is the same on every machine, whatever else that does."""
    done = [0.0]

    def count(*_):
        done[0] += 1

    hook = torch.nn.modules.module.register_module_forward_hook(count)
    monkeypatch.setattr("edge_models.comparison.compare.clock_of", lambda _: lambda: done[0])
    yield
    hook.remove()


@pytest.mark.slow
@pytest.mark.usefixtures("work_as_seconds")
def test_an_unlabelled_folder_is_offered_to_teachers_and_told_in_a_sentence(options, tmp_path):
    for number in range(3):
        draw(tmp_path / "more" / f"{number}.png", "disc", 900 + number)
    wanted = replace(options, unlabelled=tmp_path / "more", confidence=0.5)
    plan = Plan(("pseudo-labels", "noisy-head"), (0, 1), (6,))
    [table] = compare(wanted, plan, Silence())["tables"]
    for row in table["rows"][1:]:
        assert row["counts"]["offered"] == [3, 3] and "wrong" not in row["counts"]
        assert row["seconds"] > table["rows"][0]["seconds"]
    assert any("learned from 12 pictures each and took 6 of 6 without label" in s for s in table["sentences"])


@pytest.mark.slow
@pytest.mark.usefixtures("work_as_seconds")
def test_every_layer_learns_in_methods_that_are_named_and_the_frozen_base_stays(options, tmp_path, monkeypatch):
    """Judged in another domain; a student changes its layers, and what is judged after it is as if it had not."""
    from edge_models.data.checks import scan

    monkeypatch.setattr(scratch, "LEAST_STEPS", 20)
    monkeypatch.setattr(scratch, "LEAST_EPOCHS", 2)
    monkeypatch.setattr(adapt, "_STEPS", 5)
    monkeypatch.setattr(noisy_student, "SEEN", 8)
    root = tmp_path / "two"
    shapes(root / "train", 10)
    shapes(root / "test", 6, start=300)
    target = shapes(tmp_path / "target", 10, start=600)
    wanted = replace(options, directory=root, adapt=target, size=64)
    # Styles and adaptation are not asked for together, but each is measured beside the other.
    names = ("noisy-student", "from-scratch", "self-training", "dann", "styled", "smoothing")
    [table] = compare(wanted, Plan(names, (0, 1), (6,)), Silence())["tables"]
    assert [row["method"] for row in table["rows"]] == ["plain", *names]
    student = row_of(table, "noisy-student")["counts"]
    assert student["learned"] == [12, 12] and student["offered"] == [8, 8] and student["rounds"] == [1, 1]
    base, adapted = (row_of(table, name)["seconds"] for name in ("from-scratch", "self-training"))
    assert adapted > base > table["rows"][0]["seconds"]
    [alone] = compare(wanted, Plan(("smoothing",), (0, 1), (6,)), Silence())["tables"]
    assert row_of(alone, "smoothing")["accuracy"]["by_seed"] == row_of(table, "smoothing")["accuracy"]["by_seed"]
    # Without being named they are left out for their price.
    few, absent = comparison._applying(Plan((), (0, 1), (6,)), wanted, scan(root), Silence())
    assert set(names[:-2]) <= set(absent[6]) and {"coral", "batch-norm", "styled"} <= set(few[6])


@pytest.mark.slow
def test_classes_that_the_base_knows_are_measured_beside_a_lite_alone(options, monkeypatch):
    from edge_models.data.checks import scan

    widths, fit_head = [], attempts.fit_head

    def fitting(work, *rest):
        widths.append(work.bank.features.shape[2])
        return fit_head(work, *rest)

    monkeypatch.setattr(attempts, "fit_head", fitting)
    [table] = compare(options, Plan(("known-classes",), (0, 1), (6,)), Silence())["tables"]
    assert [row["method"] for row in table["rows"]] == ["plain", "known-classes"] and sorted(widths) == [
        1280,
        1280,
        2280,
        2280,
    ]
    for other in ("efficientnet-lite0:classes", "resnet18"):
        found = methods.lack("known-classes", replace(options, backbone=other), scan(options.directory), 6)
        assert found is not None and found.final


def test_trials_of_heads_that_were_called_noisy_students_are_not_taken_for_students(tmp_path):
    told = {"right": "10", "seconds": 1.0, "curve": [], "counts": {"learned": 4, "offered": 3, "taken": 2}}
    layers = told | {"counts": told["counts"] | {"rounds": 1}}
    trials = {"5/noisy-student/0": told, "5/noisy-student/1": layers}
    (tmp_path / "trials.json").write_text(json.dumps({"trials": trials, "shared_seconds": {}}))
    found, _ = comparison._read_trials(tmp_path / "trials.json")
    assert set(found) == {(5, "noisy-head", 0), (5, "noisy-student", 1)}


@pytest.mark.slow
def test_what_is_made_is_made_of_what_is_learned_from_alone(options, tmp_path, monkeypatch):
    from edge_models.data.checks import scan

    root, used = shapes(tmp_path / "plain", 10, 250), []
    compose, styles_asked = attempts.compose, attempts.styles_asked

    def composing(wanted, *rest):
        used.append(("composed", [path.resolve() for path in wanted.objects.rglob("*.png")]))
        return compose(wanted, *rest)

    def styling(wanted, backbone, folder, split, progress):
        used.append(("styled", [folder.pictures[i].path.resolve() for i in split.train + split.selection]))
        return styles_asked(wanted, backbone, folder, split, progress)

    monkeypatch.setattr(attempts, "compose", composing)
    monkeypatch.setattr(attempts, "styles_asked", styling)
    wanted = replace(options, directory=root)
    [table] = compare(wanted, Plan(("composed", "styled"), (0, 1), (4,)), Silence())["tables"]
    assert row_of(table, "composed")["counts"] == {"learned": [8, 8], "made": [16, 16]}
    assert row_of(table, "styled")["counts"] == {"learned": [8, 8]}
    folder = scan(root)
    assert [method for method, _ in used] == ["composed", "styled"] * 2
    for number, (_, files) in enumerate(used):
        split = split_pictures(folder, seed=number // 2)
        assert len(files) == 8 and set(files) <= {folder.pictures[i].path.resolve() for i in split.fit}


@pytest.mark.slow
def test_a_generator_learns_in_each_trial_and_one_that_fails_makes_nothing(options, tmp_path, monkeypatch):
    from edge_app.core.errors import EdgeError

    monkeypatch.setattr(attempts, "GAN_STEPS", 3)
    trained, wanted = attempts.train_generator, replace(options, directory=shapes(tmp_path / "plain", 10, 250))
    seeds = []

    def once(gan, progress):
        if seeds:
            raise EdgeError("everything became one picture")
        seeds.append((gan.seed, sorted(path.name for path in gan.directory.glob("train/*/*"))))
        return trained(gan, progress)

    monkeypatch.setattr(attempts, "train_generator", once)
    told = Teller()
    [table] = compare(wanted, Plan(("generated",), (0, 1), (5,)), told)["tables"]
    assert row_of(table, "generated")["counts"] == {"learned": [10, 10], "made": [20, 0]}
    [(seed, names)] = seeds
    assert seed == 0 and len(names) == 10
    assert any("generated, 5-1: everything became one picture" in note for note in told.notes)
    # Where nothing was made, it is what it is held against.
    assert (
        row_of(table, "generated")["accuracy"]["by_seed"][1][0] == row_of(table, "plain")["accuracy"]["by_seed"][1][0]
    )


@pytest.mark.slow
def test_two_comparisons_in_one_folder_and_a_killed_one(options, tmp_path):
    keep = tmp_path / "kept"
    words = ["-m", "edge_app", "train", "compare", str(options.directory), "--output", str(keep), "--cache",
             str(options.cache), "--methods", "mixup", "cosine", "--seeds", "400", "--epochs", "40"]  # fmt: skip
    words = [sys.executable, *words]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 600
        while not (keep / "trials.json").is_file() and time.monotonic() < until:
            time.sleep(0.1)
        second = subprocess.run([*words, "--resume"], capture_output=True, text=True, timeout=600)
        assert second.returncode == 2 and "another process" in second.stderr and "Traceback" not in second.stderr
    finally:
        first.kill()
        first.wait()
    kept = len(json.loads((keep / "trials.json").read_text())["trials"])
    assert 0 < kept < 1200
    # Fewer seeds go on from what was kept.
    words[words.index("400")] = "2"
    third = subprocess.run([*words, "--resume", "--json"], capture_output=True, text=True, timeout=600)
    assert third.returncode == 0, third.stderr
    assert len(json.loads(third.stdout)["tables"][0]["rows"]) == 3 and (keep / "comparison.html").is_file()


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "told"),
    [({"seeds": (0,)}, "at least 2"), ({"methods": ("magic",)}, "no method called"),
     ({"per_class": (5, 1)}, "1 picture per class"), ({"per_class": ()}, "no number")],
)  # fmt: skip
def test_plans_that_make_no_sense_are_refused(wanted, told):
    with pytest.raises(UsageError, match=told):
        Plan(**wanted)


@pytest.fixture
def small(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(
                np.random.default_rng([number, name == "ant"]).integers(0, 255, (40, 40, 3), np.uint8)
            ).save(tmp_path / "in" / name / f"{number}.png")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--seeds", "1"], "found 1 seed"), (["--methods", "magic"], "magic"), (["--per-class", "5"], "more than 4 to"),
     (["--per-class", "many"], "'many' is no number"), (["--per-class", "0"], "'0' is no number"),
     (["--methods", "coral", "pseudo-labels"], "no method applies: coral: there is no other domain"),
     (["--unlabelled", "nowhere"], "nowhere does not exist"), (["--from-scratch"], "frozen, pretrained base")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_one_line(small, tmp_path, capsys, words, told):
    assert main(["train", "compare", str(small), "--output", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_backgrounds_that_judge_are_refused(small, tmp_path, capsys):
    assert main(["train", "compare", str(small), "--on", str(small / "ant")]) == 2
    assert (
        "ant holds 6 pictures that judge, or look like one that does (0.png, 1.png, 2.png, ...)"
        in capsys.readouterr().err
    )


def test_train_classifier_compare_is_the_same_command(monkeypatch, small, tmp_path, capsys):
    plans = []

    def measured(options, plan, progress, keep):
        plans.append((plan, keep))
        return {"tables": []}

    monkeypatch.setattr(comparison, "compare", measured)
    assert main(["train", "compare", str(small), "--seeds", "3", "--json"]) == 0
    words = ["cosine", "smoothing", "--per-class", "2", "all", "--output", str(tmp_path / "out"), "--json"]
    assert main(["train", "compare", str(small), "--methods", *words]) == 0
    assert main(["train", "classifier", str(small), "--compare", *words]) == 0
    (first, _), second, alias = plans
    assert first == Plan(seeds=(0, 1, 2)) and second == alias
    assert second == (Plan(("cosine", "smoothing"), per_class=(2, None)), tmp_path / "out")
    assert set(methods.FLAGS) == set(METHODS)
