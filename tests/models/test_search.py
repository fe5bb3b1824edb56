"""Choosing backbone and penalty by cross-validation, on features whose answer is known; one tiny run of it all."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_export.build.publish import Request
from edge_export.makers.classifier import classifier_material
from edge_models.classifier import recipe, tuning_budget
from edge_models.classifier import search as searching
from edge_models.classifier.analysis import balanced_accuracy, warnings_of
from edge_models.classifier.heads import cosine_head, discriminant_head, logits_of, solve_head
from edge_models.classifier.losses import one_hot
from edge_models.classifier.network import load_classifier, predict
from edge_models.classifier.odd_pictures import least_alike
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.recipe import DEEP, KINDS, deep_epochs
from edge_models.classifier.run import train_classifier
from edge_models.classifier.search import Trial, corrected_accuracy, preferred
from edge_models.classifier.tuning_budget import is_much, ways_affordable
from edge_models.data.checks import scan
from edge_models.data.folder import Split, split_pictures
from edge_models.fitting.fit import Silence
from edge_models.networks.backbones import lite_of

pytestmark = pytest.mark.usefixtures("one_thread")
MADE = Path(__file__).parents[1] / "data" / "made_by_0_1_0"


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def trial(name: str, losses: tuple[float, ...], right: tuple[int, ...]) -> Trial:
    sizes = (10,) * len(losses)
    return Trial(name, 1.0, sum(right) / sum(sizes), sum(losses) / sum(sizes), losses, right, sizes)


def test_the_winner_is_judged_in_each_fold_by_the_choice_of_the_others() -> None:
    # Without fold 0 the second is best (2 < 3) and has 6 right there; without fold 1 the first is (1 < 4), 7 right.
    trials = (trial("a", (1.0, 3.0), (9, 7)), trial("b", (4.0, 2.0), (6, 8)))
    assert corrected_accuracy(trials) == pytest.approx((6 + 7) / 20)
    assert corrected_accuracy(trials[:1]) == pytest.approx(16 / 20)


def test_of_backbones_that_are_told_apart_by_chance_alone_the_one_that_mostly_wins_is_taken() -> None:
    near = trial("efficientnet-lite2", (1.1, 2.9, 2.1), (5, 5, 5))
    best = trial("efficientnet-lite0", (1.4, 2.3, 2.3), (5, 5, 5))
    assert preferred((best, near)) is near
    # Its loss is 0.87 standard errors above the least.
    assert preferred((best, behind := trial("efficientnet-lite2", (1.6, 2.1, 2.9), (5, 5, 5)))) is behind
    far = trial("efficientnet-lite2", (2.4, 3.3, 3.31), (5, 5, 5))
    assert preferred((best, far)) is best
    assert preferred((best, trial("efficientnet-lite1", (1.4, 2.3, 2.31), (5, 5, 5)))) is best


def test_where_classes_are_uneven_each_counts_alike() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 120 + [1] * 12)
    features = torch.from_numpy(rng.normal(0, 1, (132, 6)) + 0.8 * labels[:, None]).float()
    parts = [
        (np.flatnonzero(np.arange(132) % 3 != part), np.flatnonzero(np.arange(132) % 3 == part)) for part in range(3)
    ]
    plain, said = searching.trial_of("a", ("logistic", 3.0, False), features, labels, 2, parts)
    alike, heard = searching.trial_of("a", ("logistic", 3.0, True), features, labels, 2, parts)
    recall = [[right[labels == label].mean() for label in (0, 1)] for right in (said, heard)]
    assert np.mean(recall[1]) > np.mean(recall[0]) + 0.1 and alike.loss < plain.loss and alike.accuracy < plain.accuracy
    options = ClassifierOptions(Path("in"), Path("out"))
    assert [head[2] for head in searching._heads(options, True)].count(True) == 5
    assert not any(head[2] for head in searching._heads(options, False))
    assert all(head[2] for head in searching._heads(replace(options, balance="classes"), True))


def test_a_head_found_in_the_span_of_few_pictures_is_the_same_head() -> None:
    torch.manual_seed(0)
    features = torch.randn(24, 96)
    targets = one_hot(torch.arange(24) % 3, 3)
    wide = solve_head(features, targets, 3.0)
    assert wide.linear.weight.shape == (3, 96)
    # Every picture 5 times, a fifth of the penalty: the same optimum, found the long way, for 120 rows span 96 columns.
    tall = solve_head(features.repeat(5, 1), targets.repeat(5, 1), 15.0)
    probe = torch.randn(50, 96)
    assert np.allclose(logits_of(wide, probe), logits_of(tall, probe), atol=0.02)


def test_a_cosine_head_is_the_one_of_least_loss_and_a_weight_of_two_is_a_picture_twice() -> None:
    torch.manual_seed(0)
    labels = torch.arange(30) % 3
    # Which class it is lies in the direction; lengths differ tenfold.
    features = (torch.eye(8)[labels] + 0.3 * torch.randn(30, 8)) * torch.rand(30, 1).mul(2).exp()
    targets = one_hot(labels, 3)
    head = cosine_head(features, targets, 3.0)
    assert head.loss_name == "cosine" and np.allclose(np.linalg.norm(logits_of(head, features), axis=1), 10, atol=1e-4)
    weight, bias = head.linear.weight.detach().double(), head.linear.bias.detach().double()

    def lost(weight: torch.Tensor, bias: torch.Tensor) -> float:
        outputs = features.double() / head.scale @ weight.T + bias
        cosines = (outputs * targets).sum(1) / (outputs.square().sum(1) + 1).sqrt()
        return float(-cosines.mean() + 0.5 * 3.0 / 30 * weight.square().sum())

    least = lost(weight, bias)
    for _ in range(50):
        step, shift = 0.05 * torch.randn(3, 8).double(), 0.05 * torch.randn(3).double()
        assert lost(weight + step, bias) > least and lost(weight, bias + shift) > least
    twice = cosine_head(torch.cat([features, features[:10]]), torch.cat([targets, targets[:10]]), 4.0)
    alike = cosine_head(features, targets, 3.0, np.repeat([2.0, 1.0], (10, 20)))
    # The scale of features is that of the pictures, whatever they weigh.
    assert np.allclose(logits_of(twice, features), logits_of(alike, features), atol=0.15)
    assert not np.allclose(logits_of(head, features), logits_of(alike, features), atol=0.15)


def test_a_cosine_head_that_loses_less_is_taken_and_a_discriminant_must_lead_by_more_than_chance() -> None:
    logistic = trial("a", (1.1, 2.9, 2.1), (5, 5, 5))
    cosine, means = (replace(trial("a", (1.1, 2.8, 2.1), (5, 5, 5)), head=head) for head in ("cosine", "prototypes"))
    assert preferred((logistic, cosine)) is cosine
    assert preferred((logistic, means)) is logistic
    assert preferred((logistic, leads := replace(means, fold_losses=(0.1, 1.9, 1.1), loss=3.1 / 30))) is leads


def test_a_discriminant_of_pictures_all_alike_stays_within_single_precision() -> None:
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    features = 5 + 20 * torch.randn(3, 96)[labels] + 1e-3 * torch.randn(24, 96)
    for shrinkage in (0.8, 1.0):
        logits = logits_of(discriminant_head(features, one_hot(labels, 3), shrinkage), features)
        assert (logits.argmax(1) == labels.numpy()).all()
        assert 1 < np.abs(logits).max() <= 8 and np.abs(logits.sum(1)).max() < 1e-3


def test_balanced_accuracy_is_the_mean_of_the_classes_and_two_of_two_is_no_certainty() -> None:
    table = np.array([[90, 0], [1, 1]])
    told = balanced_accuracy(table)
    assert told.value == pytest.approx(0.75) and told.low < 0.55 < told.value < told.high
    certain = balanced_accuracy(np.array([[90, 0], [0, 2]]))
    assert certain.value == certain.high == 1.0 and certain.low < 0.9
    assert balanced_accuracy(np.array([[50, 0, 0], [0, 0, 0], [5, 0, 45]])).value == pytest.approx(0.95)


def test_a_class_of_two_and_a_majority_are_said_in_words() -> None:
    told = warnings_of(np.array([[91, 0], [7, 2]]), ("good", "cracked"), np.array([300, 4]))
    assert len(told) == 2 and "91% of the judged pictures are good" in told[0]
    assert "Look at balanced accuracy, 61.1%, where guessing scores 50.0%" in told[0]
    assert told[1].startswith("Learned from fewer than 5 pictures: cracked (4)")
    few = warnings_of(np.array([[3, 0], [0, 2]]), ("a", "b"), np.array([9, 9]))
    assert few == ["These classes are judged by fewer than 5 pictures, too few to say how well they are known: "
                   "a (3), b (2)."]  # fmt: skip
    assert warnings_of(np.array([[9, 1], [0, 10]]), ("a", "b"), np.array([40, 40])) == []


def test_what_lies_alone_is_least_alike() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(3, 40)), 12, axis=0) + 0.3 * rng.normal(size=(36, 40))
    rows[17] = 2 * rng.normal(size=40)
    assert least_alike(torch.from_numpy(rows))[0] == 17
    assert least_alike(torch.from_numpy(rows[:10])) == []


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClassifierOptions:
    """Squares of four colours, the smallest network, coarse random weights."""
    shutil.copytree(MADE / "pictures", tmp_path / "pictures")
    monkeypatch.setattr(searching, "_FEW", 0)  # so that all backbones are tried on them
    return ClassifierOptions(
        tmp_path / "pictures", tmp_path / "run", backbone="timm:test_efficientnet",
        weights=MADE / "weights.safetensors", epochs=6, tune_epochs=2, unfreeze=1, views=0, log="none", device="cpu",
        search=60.0,
    )  # fmt: skip


@pytest.mark.slow
def test_a_search_prefers_the_features_that_tell_apart_keeps_its_trials_and_is_not_run_again(
    options: ClassifierOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scan(options.directory)
    split = split_pictures(folder, seed=0)
    good = 3 * torch.eye(4)[torch.from_numpy(folder.labels)] + torch.randn(32, 4)
    seen: list[str] = []

    def features(options: object, backbone: object, folder: object, cache: object) -> torch.Tensor:
        seen.append(str(backbone))
        return good if backbone == "efficientnet-lite1" else torch.randn(32, 4)

    torch.manual_seed(0)
    monkeypatch.setattr(searching, "starting_backbone", lambda options: options.backbone)
    monkeypatch.setattr(searching, "step_s", lambda *_: 0.01)
    monkeypatch.setattr(searching, "_plain", features)
    auto = replace(options, backbone="auto", weights=None, epochs=0)
    (tmp_path / "kept").mkdir()
    places = {"keep": tmp_path / "kept", "cache": tmp_path / "cache"}
    found = searching.search(auto, folder, split, Silence(), **places)
    assert found.backbone == "efficientnet-lite1" and len(found.trials) == 35 and len(seen) == 5
    assert "efficientnet-lite1 with a " in found.sentence() and found.skipped == ()
    assert searching.search(auto, folder, split, Silence(), **places) == found and len(seen) == 5
    assert searching.chosen(auto, found).backbone == "efficientnet-lite1" and searching.chosen(auto, found).mirror
    assert searching.chosen(auto, None).backbone == "efficientnet-lite0"
    assert {searching.WHOLE, searching.KNOWING} < {*seen}
    small = tmp_path / "small"
    small.mkdir()
    searching.search(replace(auto, size=96), folder, split, Silence(), keep=small, cache=tmp_path / "cache")
    assert len(seen) == 8 and seen.count(searching.WHOLE) == 1  # whoever names a size means it
    assert searching.chosen(replace(auto, ensemble=2, distil=True), found).backbone == "efficientnet-lite1"
    # A kill after the second backbone: only the third is tried again.
    kept = json.loads((tmp_path / "kept" / "search.json").read_text())
    kept = {"trials": [row for row in kept["trials"] if row["backbone"] != "efficientnet-lite1"], "decided": None}
    (tmp_path / "kept" / "search.json").write_text(json.dumps(kept))
    assert searching.search(auto, folder, split, Silence(), **places).backbone == "efficientnet-lite1"
    assert seen[8:] == ["efficientnet-lite1"]
    (tmp_path / "kept" / "search.json").write_text("[]")
    with pytest.raises(UsageError, match="holds no trials"):
        searching.search(auto, folder, split, Silence(), **places)


def test_few_pictures_are_looked_at_by_the_strongest_backbone_alone(
    options: ClassifierOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scan(options.directory)
    split = split_pictures(folder, seed=0)
    monkeypatch.setattr(searching, "_FEW", len(split.fit) + 1)
    monkeypatch.setattr(searching, "starting_backbone", lambda options: options.backbone)
    monkeypatch.setattr(searching, "step_s", lambda *_: 0.01)
    monkeypatch.setattr(searching, "_plain", lambda *_: torch.randn(32, 4))
    auto = replace(options, backbone="auto", weights=None, epochs=0)
    tried = []
    for number, asked in enumerate((auto, replace(auto, size=96), replace(auto, ensemble=2))):
        (keep := tmp_path / f"run-{number}").mkdir()
        found = searching.search(asked, folder, split, Silence(), keep=keep, cache=tmp_path)
        tried.append({trial.backbone for trial in found.trials if "+" not in trial.backbone})
    assert tried[0] == {searching.WHOLE, searching.KNOWING}
    assert tried[1] == {f"efficientnet-lite{n}" for n in range(3)}
    assert tried[2] == {*(f"efficientnet-lite{n}@320-whole" for n in range(3)), searching.KNOWING}
    assert lite_of("efficientnet-lite2@320-whole+efficientnet-lite0@320-whole") is None
    assert lite_of(searching.KNOWING) is lite_of("efficientnet-lite2") is not None


def test_classes_that_the_network_knows_are_taken_where_they_tell_the_pictures_apart_and_only_there() -> None:
    def trial(backbone: str, lost: float, swing: float = 1.0) -> searching.Trial:
        folds = tuple(lost + swing * change for change in (-2.0, 1.0, 0.0, 1.0, 0.0))
        return searching.Trial(backbone, 3.0, 0.9, sum(folds) / 50, folds, (9,) * 5, (10,) * 5)

    plain, lite0 = trial(searching.WHOLE, 4.0), trial("efficientnet-lite0", 3.0, -1.0)
    for lost, taken in ((3.5, searching.KNOWING), (4.5, searching.WHOLE)):
        assert searching.preferred([lite0, plain, trial(searching.KNOWING, lost)]).backbone == taken


def test_a_budget_that_is_spent_leaves_backbones_out_and_says_so(
    options: ClassifierOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scan(options.directory)
    monkeypatch.setattr(searching, "starting_backbone", lambda options: options.backbone)
    monkeypatch.setattr(searching, "step_s", lambda *_: 0.01)
    monkeypatch.setattr(searching, "_plain", lambda *_: torch.randn(32, 4))
    tiny = replace(options, backbone="auto", weights=None, search=1e-6, epochs=0)
    found = searching.search(tiny, folder, split_pictures(folder, seed=0), Silence(), keep=tmp_path, cache=tmp_path)
    assert found.backbone == "efficientnet-lite0" and len(found.trials) == 7 and not found.deep
    assert (
        f"no time for {searching.WHOLE}, {searching.KNOWING}, efficientnet-lite2, efficientnet-lite1: "
        "give --search more minutes" in found.sentence()
    )


def test_on_a_cpu_busy_neighbours_do_not_spend_the_budget(
    options: ClassifierOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, hours = scan(options.directory), itertools.count(0, 3600)
    monkeypatch.setattr(searching, "starting_backbone", lambda options: options.backbone)
    monkeypatch.setattr(searching, "step_s", lambda *_: 0.01)
    monkeypatch.setattr(searching, "_plain", lambda *_: torch.randn(32, 4))
    monkeypatch.setattr("time.monotonic", lambda: float(next(hours)))
    wanted = replace(options, backbone="auto", weights=None, search=1.0, epochs=0)
    found = searching.search(wanted, folder, split_pictures(folder, seed=0), Silence(), keep=tmp_path, cache=tmp_path)
    assert found.skipped == () and len(found.trials) == 35


def test_the_more_is_named_wrongly_the_longer_fine_tuning_may_take() -> None:
    options = ClassifierOptions(Path("in"), Path("out"), tune_epochs=4)  # of every layer: 6
    split = Split(tuple(range(100)), tuple(range(100, 125)), tuple(range(125, 150)))
    whole = 6 * (100 + 125 + 150)  # to choose, to be judged, with everything
    assert ways_affordable(options, split, 61 / whole, 0.0) == 0
    assert ways_affordable(options, split, 59 / whole, 0.0) == 1
    assert ways_affordable(options, split, 61 / whole, 0.02) == 1  # 25 pictures cannot choose among depths
    assert (
        ways_affordable(options, split, 359 / whole, 1.0) == 1
        and ways_affordable(options, split, 361 / whole, 1.0) == 0
    )
    many = Split(tuple(range(60)), tuple(range(60, 120)), tuple(range(120, 150)))
    whole_of_many = 6 * (60 + 120 + 150)
    assert ways_affordable(options, many, 61 / whole_of_many, 0.02) == len(DEEP)
    assert ways_affordable(replace(options, search=2.0), split, 119 / whole, 0.0) == 1
    # Four times the pictures, half as often; never less than what compares the ways.
    assert [deep_epochs(options, count) for count in (150, 240, 960, 10**6)] == [6, 6, 3, 2]


@pytest.mark.slow
def test_what_ships_learned_from_everything_and_the_figures_are_of_what_was_kept_aside(
    options: ClassifierOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    result = train_classifier(options, notes)
    report = json.loads(result.json.read_text())
    assert report["learned_all"] and {"final-head", "deep-tune"} <= set(report["stages"])
    assert [row["ridge"] for row in report["search"]["trials"]] == [0.3, 1.0, 3.0, 10.0]  # epochs: a logistic head
    assert any("the network that ships learned once more, from all 32 pictures" in note for note in notes.notes)
    assert (options.output / "look-first.jpg").is_file()
    model, checkpoint = load_classifier(result.checkpoint)
    assert checkpoint.learned_all and [len(checkpoint.split[p]) for p in ("train", "selection", "validation")] == [
        20,
        4,
        8,
    ]
    judged = checkpoint.judged["logits"].numpy()
    assert (judged.argmax(1) == checkpoint.judged["labels"].numpy()).mean() == pytest.approx(
        report["accuracy"]["value"]
    )
    folder = scan(options.directory)
    at = {picture.sha256: picture.path for picture in folder.pictures}
    ships = predict(model, [at[digest] for digest in checkpoint.split["validation"]])
    assert not np.allclose(ships, judged, atol=1e-3)  # it has learned from them since
    # An export tells the figures of the training, also when the folder has changed meanwhile.
    changed = next(iter(checkpoint.split["train"]))
    at[changed].unlink()
    material = classifier_material(result.checkpoint, Request("squares", ""))
    assert material.card.metrics["accuracy"] == pytest.approx(report["accuracy"]["value"])
    assert material.notes == (f"{options.directory} has changed since training: 1 picture gone",)
    names = {at[digest].relative_to(options.directory).as_posix() for digest in checkpoint.split["validation"]}
    assert set(material.held_out_names) == names


@pytest.mark.slow
@pytest.mark.parametrize(("hopeless", "much", "kept"), [(0.0, 1.0, False), (1e9, 1.0, True), (0.0, -1e-9, True)])
def test_a_hopeless_fine_tuning_is_given_up_after_a_third_unless_much_is_named_wrongly(
    options: ClassifierOptions, monkeypatch: pytest.MonkeyPatch, hopeless: float, much: float, kept: bool
) -> None:
    monkeypatch.setattr(recipe, "_HOPELESS", hopeless)
    monkeypatch.setattr(tuning_budget, "_WORTH", much)
    notes = Notes()
    report = json.loads(train_classifier(options, notes).json.read_text())
    assert any("given up" in note for note in notes.notes) is not kept
    assert any("selection loss: " in note and KINDS["deep-tune"] in note for note in notes.notes) is kept
    assert ("refit-deep-tune" in report["stages"]) <= kept and "deep-tune" in report["stages"]


def test_a_fine_tuning_that_chance_alone_sets_behind_is_taken_where_much_is_named_wrongly() -> None:
    kept = np.tile([0.0, 1.0], 10)
    near, far = kept[::-1] + 0.05, kept + np.tile([0.4, 0.6], 10)
    assert recipe.is_taken(near, kept, unless_worse=True) and not recipe.is_taken(near, kept, unless_worse=False)
    assert not recipe.is_taken(far, kept, unless_worse=True)
    assert recipe.is_taken(kept - 0.01, kept, unless_worse=False) and not recipe.is_taken(
        kept, kept, unless_worse=False
    )


def test_weights_need_their_network(options: ClassifierOptions) -> None:
    with pytest.raises(UsageError, match="--weights without --backbone"):
        train_classifier(replace(options, backbone="auto"), Silence())
    assert not options.output.exists()


@pytest.mark.slow
def test_what_two_backbones_say_together_is_taught_to_the_smallest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = ["train", "classifier", str(MADE / "pictures"), "--output", str(tmp_path / "run"), "--ensemble", "2"]
    more = ["--distil", "--search", "60", "--unfreeze", "0", "--views", "0", "--device", "cpu", "--json"]
    assert main([*learn, *more]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["search"]["teacher"].count("+") == 1 and report["base"]["name"] == "efficientnet-lite0"
    assert report["accuracy"]["value"] == 1.0
    assert load_classifier(Path(report["checkpoint_path"]))[1].base.name == "efficientnet-lite0"


def test_much_is_named_wrongly_only_where_chance_does_not_explain_it() -> None:
    assert not is_much(4, 32) and not is_much(0, 8)  # twelve in a hundred, of so few that it may be five
    assert is_much(32, 160) and is_much(12, 40) and not is_much(5, 160)
