"""The classifier: heads and losses by hand, a whole run on painted pictures, and what its checkpoint gives back."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

# Before torch is imported, as the command does: spinning threads starve the tests beside this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_app.core.errors import ModelError, UsageError
from edge_models.classifier.analysis import calibration, class_figures, confusion, probabilities
from edge_models.classifier.growth import _extend, _order, curve_parts, growth
from edge_models.classifier.heads import fit_temperature, solve_head
from edge_models.classifier.losses import LossName, cosine_loss, cross_entropy, smoothed
from edge_models.classifier.network import Head, TransferClassifier, load_classifier, predict
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.report import _mistakes, forecast_sentence
from edge_models.classifier.run import train_classifier
from edge_models.classifier.small_data import distilled
from edge_models.classifier.stages import Workshop, _tuning, hard_targets
from edge_models.data.augment import AugmentOptions, mix, view_maker
from edge_models.data.checks import scan
from edge_models.data.folder import split_pictures
from edge_models.fitting.fit import Silence
from edge_models.networks.backbone import learning_rates, normalize
from edge_models.networks.backbones import create_backbone
from edge_models.networks.feature_cache import FeatureBank


class Notes(Silence):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def paint(path, shape, seed):
    """A disc or a square on noise: what a pretrained network tells apart and colour statistics do not."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(60, 200, (96, 96, 3), dtype=np.uint8))
    x, y = rng.integers(15, 40, 2)
    box = (int(x), int(y), int(x) + 42, int(y) + 42)
    colour = tuple(int(c) for c in rng.integers(0, 256, 3))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for number in range(20):
        paint(root / "disc" / f"{number}.png", "disc", number)
        paint(root / "square" / f"{number}.png", "square", 100 + number)
    (root / "disc" / "broken.jpg").write_bytes(b"not a picture")
    return root


@pytest.fixture(scope="module")
def options(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return ClassifierOptions(
        pictures, folder / "run", epochs=8, tune_epochs=2, views=0, unfreeze=1, device="cpu", cache=folder / "cache",
        search=0, keep_out=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(options):
    return train_classifier(options, Notes())


@pytest.mark.slow
def test_the_run_leaves_a_best_checkpoint_a_page_and_its_json(result, options):
    assert "best" in result.checkpoint.name and result.checkpoint.is_file()
    report = json.loads(result.json.read_text())
    assert report["data"]["findings"][0]["files"] == ["disc/broken.jpg"]
    assert report["accuracy"]["trials"] == report["data"]["validation"] == 8
    assert sum(map(sum, report["confusion"])) == 8
    assert not report["learned_all"] and report["search"] is None
    assert len(report["stages"]["head"]) <= 8 and report["stages"]["refit-head"]
    page = result.html.read_text()
    for told in (
        "random forest",
        "Probable label errors",
        "broken.jpg",
        "Calibration",
        options.command(),
        "data:image",
    ):
        assert told in page
    assert f"judged on {report['growth']['judged']} pictures" in page and page.count("<svg") == 4
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    for path in (result.checkpoint, result.html, result.json):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_the_checkpoint_gives_the_reported_answers_and_carries_what_export_needs(result, options, pictures):
    model, checkpoint = load_classifier(result.checkpoint)
    assert checkpoint.classes == ("disc", "square") and checkpoint.crop == "centre-0.875"
    assert checkpoint.input.mean == (127.5,) * 3 and checkpoint.input.width_px == 224
    assert checkpoint.base.licence == "Apache-2.0" and len(checkpoint.base.origin_sha256) == 64
    assert checkpoint.data_sha256 == result.report["data"]["sha256"] and checkpoint.temperature > 0
    worst = result.report["mistakes"][0]
    chances = probabilities(predict(model, [pictures / worst["file"]]), checkpoint.temperature)[0]
    assert chances[checkpoint.classes.index(worst["predicted"])] == pytest.approx(
        worst["predicted_probability"], abs=1e-4
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_a_used_folder_is_refused(result, options, tmp_path):
    again = train_classifier(replace(options, output=tmp_path / "again"), Notes())
    first, second = load_classifier(result.checkpoint)[0], load_classifier(again.checkpoint)[0]
    weights = second.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in first.state_dict().items())
    with pytest.raises(UsageError, match="not empty"):
        train_classifier(options, Notes())
    with pytest.raises(UsageError, match="begun with other epochs"):
        train_classifier(replace(options, resume=True, epochs=9), Notes())
    told = Notes()
    assert train_classifier(replace(options, resume=True), told).report["accuracy"] == result.report["accuracy"]
    assert any("finished already" in note for note in told.notes)
    assert not (options.output / "state").exists()


class PowerCut(BaseException):
    """As sudden as kill -9: nobody is asked to tidy up."""


@pytest.mark.slow
def test_a_run_that_was_cut_off_twice_ends_with_the_same_weights_and_figures(result, options, tmp_path, monkeypatch):
    replace_file, wanted = Path.replace, replace(options, output=tmp_path / "run")
    for name, times in (("refit-head-last.safetensors", 2), ("report.html", 1)):
        seen = []

        def cut(self, target, name=name, times=times, seen=seen):
            seen.append(Path(target).name)
            if seen.count(name) == times:
                raise PowerCut
            return replace_file(self, target)

        with monkeypatch.context() as patched, pytest.raises(PowerCut):
            patched.setattr(Path, "replace", cut)
            patched.setattr("edge_models.fitting.callbacks.SAVE_EVERY_S", 0.0)
            train_classifier(wanted, Notes())
        assert not (wanted.output / "report.html").exists() and (wanted.output / "state").is_dir()
        wanted = replace(wanted, resume=True)
    (wanted.output / "best-head-1.0.safetensors").write_bytes(b"of the run before, by another figure")
    again = train_classifier(wanted, Notes())
    assert [path.name for path in wanted.output.glob("best*")] == [again.checkpoint.name] == [result.checkpoint.name]
    first, second = (load_classifier(one.checkpoint)[0].state_dict() for one in (result, again))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    told = [json.loads(one.json.read_text()) for one in (result, again)]
    for report in told:
        assert report.pop("resumed") is (report is told[1])
        del report["command"], report["seconds"]
        for entry in (entry for history in report["stages"].values() for entry in history):
            del entry["seconds"]
    assert told[0] == told[1]


def test_generations_keep_half_of_the_given_labels(options, pictures):
    folder = scan(pictures)
    features = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))
    work = Workshop(options, folder, split_pictures(folder, seed=0), None, FeatureBank(features, None),
                    hard_targets(folder), Silence())  # fmt: skip
    given = work.targets
    for _ in range(4):
        work = distilled(work, given)
    own = work.targets[list(work.split.train)][given[list(work.split.train)] == 1]
    assert own.min() >= 0.5


def test_pictures_without_labels_are_read_anew_where_nothing_is_cached(options, pictures):
    folder = scan(pictures)
    extra = tuple(picture.path for picture in folder.pictures[:2])
    targets = torch.cat([hard_targets(folder), torch.tensor([[0.1, 0.9], [0.2, 0.8]])])
    work = Workshop(options, folder, split_pictures(folder, seed=0), create_backbone(pretrained=False),
                    FeatureBank(torch.zeros(1, 42, 8), None), targets, Silence(), extra=extra)  # fmt: skip
    _, make = _tuning(work, [0, 40, 41], None)
    ((inputs, soft),) = list(make(8).train)
    assert len(inputs) == 3 and sorted(soft[:, 1].tolist())[1:] == pytest.approx([0.8, 0.9])


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 0.0}, {"learning_rate": math.nan}, {"tune_rate": -1.0}, {"patience": 0}, {"webcam": 2.0},
     {"validation_share": 1.0}, {"selection_share": 0.0}, {"devices": 0}, {"devices": 2}, {"workers": -1},
     {"subject": "face", "upside_down": True}, {"unlabelled": Path("nowhere")}, {"epochs": -1}],
)  # fmt: skip
def test_options_that_make_no_sense_leave_no_folder(options, tmp_path, changes):
    with pytest.raises(UsageError):
        train_classifier(replace(options, output=tmp_path / "run", **changes), Silence())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_range_test_runs_once(options, tmp_path):
    told = Notes()
    train_classifier(replace(options, output=tmp_path / "run", tune_rate=None), told)
    assert sum("range test" in note for note in told.notes) == 1


@pytest.mark.slow
def test_an_unlabelled_folder_is_counted_and_its_known_pictures_are_not_taken(options, pictures, tmp_path):
    extra = tmp_path / "unlabelled"
    for number in range(4):
        paint(extra / f"{number}.png", "disc", 900 + number)
    (extra / "known.png").write_bytes((pictures / "disc" / "0.png").read_bytes())
    told = Notes()
    wanted = replace(options, output=tmp_path / "run", unlabelled=extra, confidence=0.5, generations=1, unfreeze=0)
    report = train_classifier(wanted, told).report
    assert any("of 4 pictures at 50%" in note for note in told.notes)
    assert any("generation 1" in note for note in told.notes)
    assert report["data"]["pictures"] == 40


def test_the_cosine_loss_is_one_less_the_cosine_of_the_angle():
    outputs = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert cosine_loss(outputs, targets).item() == pytest.approx((0 + 1 - math.sqrt(0.5)) / 2)
    assert cosine_loss(outputs * 7, targets).item() == pytest.approx(cosine_loss(outputs, targets).item())


def test_soft_cross_entropy_and_smoothing_by_hand():
    logits = torch.log(torch.tensor([[0.75, 0.25]]))
    assert cross_entropy(logits, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(-math.log(0.75))
    assert smoothed(torch.tensor([[1.0, 0.0]]), 0.2).tolist() == [[pytest.approx(0.9), pytest.approx(0.1)]]


def test_mixing_keeps_targets_distributions_and_refuses_cutting_features():
    torch.manual_seed(0)
    inputs, targets = torch.zeros(4, 3, 8, 8), torch.eye(4)
    inputs[1] = 1
    for how in ("mixup", "cutmix"):
        mixed, soft = mix(inputs, targets, how, alpha=1.0)
        assert torch.allclose(soft.sum(1), torch.ones(4)) and mixed.shape == inputs.shape
        # Picture 2 took its neighbour 1's ones in the very share that its target says.
        assert mixed[2].mean().item() == pytest.approx(soft[2, 1].item(), abs=1e-6)
    with pytest.raises(UsageError, match="CutMix"):
        mix(torch.zeros(4, 5), targets, "cutmix")


def test_a_solved_head_separates_and_its_penalty_holds_it_back():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    targets = torch.eye(2)[[0, 0, 1, 1]]
    free, held = solve_head(features, targets, 0.01), solve_head(features, targets, 10.0)
    assert free(features).argmax(1).tolist() == [0, 0, 1, 1]
    assert held.linear.weight.norm() < free.linear.weight.norm() / 3


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    chances = probabilities(logits)
    labels = np.array([rng.choice(3, p=row) for row in chances])
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.1)
    assert (
        calibration(probabilities(3 * logits, 3.0), labels)[1] < calibration(probabilities(3 * logits), labels)[1] / 3
    )


def test_confusion_and_class_figures_count_by_row_and_column():
    table = confusion(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), 2)
    assert table.tolist() == [[1, 1], [0, 2]]
    ant, bee = class_figures(table, ("ant", "bee"))
    assert (ant.precision.value, ant.recall.value) == (1.0, 0.5)
    assert bee.precision.value == pytest.approx(2 / 3) and bee.recall.value == 1.0


def test_the_surest_mistakes_come_first_and_right_answers_last_however_unsure():
    chances = np.array([[0.36, 0.33, 0.31], [0.45, 0.40, 0.15], [0.90, 0.06, 0.04], [0.99, 0.005, 0.005]])
    found = _mistakes(["unsure", "close", "sure", "easy"], np.array([0, 1, 1, 0]), chances, ("a", "b", "c"))
    assert [one["file"] for one in found] == ["sure", "close", "unsure", "easy"]
    assert [one["wrong"] for one in found] == [True, True, False, False]


def test_growth_sees_that_more_pictures_help_where_they_do():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    features = torch.from_numpy(rng.normal(0, 1, (400, 60)) + 0.35 * labels[:, None]).float()
    targets, halves = torch.eye(2)[labels], (np.arange(200), np.arange(200, 400))
    curve = growth(features, targets, [halves] * 4, 200, 3.0, 0)
    assert curve.points[-1].pictures == 200 and curve.points[0].mean < curve.points[-1].mean
    assert curve.forecast.low <= curve.forecast.value <= curve.forecast.high <= 1 and curve.judged == 200
    assert curve.gain.low <= curve.gain.value == pytest.approx(curve.forecast.value - curve.fitted)
    assert curve == growth(features, targets, [halves] * 4, 200, 3.0, 0)
    # On a base of random weights, which --from-scratch begins with, the curve foretells nothing of the network.
    assert forecast_sentence(curve, untaught=False) == curve.sentence
    assert forecast_sentence(curve, untaught=True).startswith("No forecast")


def test_the_interval_of_growth_knows_that_few_pictures_were_judged():
    """Resampling the draws alone gave 1.1 points on 49 pictures, of which each is two."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    features = torch.from_numpy(rng.normal(0, 1, (400, 60)) + 0.2 * labels[:, None]).float()
    learn = np.arange(200)
    for judge in (np.arange(200, 225), np.arange(200, 400)):
        last = growth(features, torch.eye(2)[labels], [(learn, judge)] * 4, 200, 3.0, 0).points[-1]
        binomial = 2 * 1.645 * math.sqrt(last.mean * (1 - last.mean) / len(judge))
        assert 0.8 * binomial < last.high - last.low < 1.25 * binomial


def test_every_beginning_of_a_draw_holds_every_class_in_its_share():
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    order = _order(np.arange(100), labels, np.random.default_rng(0))
    assert sorted(order) == list(range(100)) and set(labels[order[:3]]) == {0, 1, 2}
    assert np.bincount(labels[order[:50]]) == pytest.approx([40, 7.5, 2.5], abs=1.6)


def test_the_curve_is_judged_on_all_pictures_unless_the_folder_came_divided(pictures):
    folder = scan(pictures)
    split = split_pictures(folder, seed=0)
    parts = curve_parts(folder, split, 0)
    assert len(parts) == 10 and all(not set(learn) & set(judge) for learn, judge in parts)
    assert sorted(i for _, judge in parts[:5] for i in judge) == list(range(40))
    divided = replace(folder, pictures=tuple(replace(p, part="train") for p in folder.pictures))
    assert {tuple(judge) for _, judge in curve_parts(divided, split, 0)} == {split.validation}


def test_a_curve_that_falls_by_chance_is_taken_as_level():
    sizes, means = [10, 20, 40, 80], np.array([0.95, 0.93, 0.92, 0.90])
    assert _extend(sizes, means, 180, 50) == pytest.approx(1 - math.exp(np.log(1 - means).mean()))
    assert _extend(sizes, means[::-1], 180, 50) > 0.95


def test_class_maps_average_to_the_logits():
    backbone = create_backbone(pretrained=False)
    torch.manual_seed(0)
    head = Head(backbone.features, 3)
    torch.nn.init.normal_(head.linear.weight)
    model = TransferClassifier(backbone, head).eval()
    with torch.inference_mode():
        images = torch.randn(2, 3, 224, 224)
        logits, maps = model.logits_and_maps(images)
        assert torch.allclose(logits, model(images), atol=1e-5)
        assert maps.shape[:2] == (2, 3) and torch.allclose(maps.mean((2, 3)), logits, atol=1e-4)


def test_two_parts_of_a_backbone_are_the_whole_and_only_the_top_learns():
    backbone = create_backbone("resnet18", pretrained=False)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        whole = backbone(images)
        parts = backbone.pool(backbone.upper(backbone.lower(images, 2), 2))
    assert torch.allclose(whole, parts, atol=1e-5)
    learning = backbone.unfreeze(2)
    names = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert names == {"layer4"} and len(learning) == 2
    assert not any(module.training for module in backbone.train().modules() if "BatchNorm" in type(module).__name__)
    assert learning_rates(1.0, 2, 0.5) == [0.5, 0.25]


def test_normalization_is_the_runtime_s_own():
    from edge_app.inference.geometry import to_input

    backbone = create_backbone(pretrained=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    ours = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), backbone.input).numpy()
    assert np.array_equal(ours, to_input(pixels, backbone.input))


def test_views_repeat_by_seed_and_faces_are_never_turned_over():
    spec = create_backbone(pretrained=False).input
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    view = view_maker(AugmentOptions(webcam=0.5), spec, "centre-0.875")
    assert np.array_equal(view(pixels, 5), view(pixels, 5)) and not np.array_equal(view(pixels, 5), view(pixels, 6))
    # Squeezed as serving squeezes them, a third to all of a wide picture: its two halves are both in most.
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, 200:] = 255
    whole = [view_maker(AugmentOptions(strength=0.5), spec, "whole")(wide, seed).mean() for seed in range(20)]
    assert 80 < np.mean(whole) < 175 and np.mean([60 < mean < 195 for mean in whole]) > 0.7
    # White on the left stays there where left and right mean something.
    turned, kept = (
        [
            seen[:, :40].mean() > seen[:, -40:].mean()
            for seen in (view_maker(how, spec, "whole")(wide, n) for n in range(20))
        ]
        for how in (AugmentOptions(strength=0.5), AugmentOptions(strength=0.5, mirror=False))
    )
    assert 0 < sum(turned) < 20 and sum(kept) == 0
    asked = ClassifierOptions(Path("in"), Path("out"), mirror=False)
    assert not asked.augment.mirror and not asked.mirrored and replace(asked, mirror=True).mirrored
    assert not replace(asked, mirror=True, views=0, unfreeze=0).mirrored
    with pytest.raises(UsageError, match="vertical flips of faces"):
        AugmentOptions("face", upside_down=True)
    half = np.zeros((112, 112, 3), np.uint8)
    half[:56] = 255
    face = view_maker(AugmentOptions("face"), replace(spec, width_px=112, height_px=112), "arcface-112")
    assert all(face(half, seed)[20:40].mean() > face(half, seed)[-40:-20].mean() for seed in range(20))


def test_weights_that_cannot_be_had_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no backbone called 'resnet'"):
        create_backbone("resnet")
    with pytest.raises(ModelError, match="not exist"):
        create_backbone(weights=tmp_path / "none.safetensors")
    torch.save({"conv_stem.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="does not fit"):
        create_backbone(weights=tmp_path / "w.pth")


@pytest.mark.parametrize("loss", ["cross-entropy", "cosine", "cosine+cross-entropy"])
def test_the_mean_over_places_of_what_they_add_is_the_logits_and_an_empty_place_says_little(loss: LossName) -> None:
    torch.manual_seed(0)
    head = Head(6, 3, loss).eval()
    torch.nn.init.normal_(head.linear.weight)
    places = torch.randn(4, 9, 6)
    places[:, 0] *= 1e-5
    with torch.inference_mode():
        added, logits = head.at_places(places, places.mean(1)), head(places.mean(1))
    assert added.shape == (4, 9, 3) and torch.allclose(added.mean(1), logits, atol=1e-4)
    assert added[:, 0].abs().max() < 0.05 < 0.5 < added[:, 1:].abs().amax((1, 2)).min()
