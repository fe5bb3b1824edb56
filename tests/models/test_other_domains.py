"""Adaptation to another domain and noisy students: known shifts undone, caps kept, nothing that judges, served."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_app.core.errors import UsageError
from edge_app.core.model_card import InputSpec
from edge_models.classifier import adapt, scratch
from edge_models.classifier.adapt import adopt_statistics, aligned, coral, told_apart, unsure_or_uneven
from edge_models.classifier.network import Head, TransferClassifier
from edge_models.classifier.noisy_student import calibrated, take, taught
from edge_models.classifier.options import ADAPTATIONS, ClassifierOptions
from edge_models.classifier.run import train_classifier
from edge_models.classifier.stages import Workshop, hard_targets
from edge_models.data.checks import scan
from edge_models.data.folder import Picture, PictureFolder, split_pictures
from edge_models.data.judging import Seen
from edge_models.fitting.checkpoint import load
from edge_models.fitting.progress import Silence
from edge_models.networks.backbone import normalize
from edge_models.networks.backbones import create_backbone
from edge_models.networks.feature_cache import FeatureBank


class Notes(Silence):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def paint(path, bar, seed, noise=8, side=28):
    """A bar lighter than its ground, both of any colour and light: who learns this is calm when the light changes."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 130, 3)
    pixels = ground + rng.normal(0, noise, (side, side, 3))
    at = int(rng.integers(4, side - 9))
    pixels[(slice(3, 25), slice(at, at + 5)) if bar == "upright" else (slice(at, at + 5), slice(3, 25))] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """Bars to learn from; noisier ones without labels."""
    root = tmp_path_factory.mktemp("bars")
    for number in range(20):
        for shift, name in enumerate(("lying", "upright")):
            paint(root / "light" / name / f"{number}.png", name, 1000 * shift + number)
            paint(root / "dark" / name / f"d{number}.png", name, 3000 + 1000 * shift + number, noise=30)
    return root


def test_coral_gives_the_source_the_target_s_mean_and_covariance():
    draw = torch.Generator().manual_seed(0)
    source = torch.randn(4000, 3, generator=draw) @ torch.tensor([[2.0, 0.5, 0], [0, 1, 0], [0.3, 0, 3]])
    target = torch.randn(4000, 3, generator=draw) @ torch.tensor([[1.0, 0, 0], [0.8, 1, 0], [0, 0, 0.5]]) + 7
    found = coral(source, target)
    assert torch.allclose(found.mean(0), target.mean(0), atol=1e-3)
    before = (torch.cov(source.T) - torch.cov(target.T)).norm()
    assert (torch.cov(found.T) - torch.cov(target.T)).norm() < 0.1 * before


def test_adaptive_batch_norm_takes_the_target_s_statistics_and_nothing_else():
    net = create_backbone("small-resnet-8")
    images = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items() if "running" not in name}
    adopt_statistics(net, images)
    stem = net.body[0]
    seen = stem[1](stem[0](normalize(images, net.input)))
    assert torch.allclose(stem[2].running_mean, seen.mean((0, 2, 3)), atol=2e-2)
    after = net.state_dict()
    assert all(torch.equal(after[name], kept) for name, kept in weights.items() if "num_batches" not in name)
    assert not net.training and stem[2].momentum == 0.1


def test_guesses_are_brought_to_the_shares_of_the_labelled_classes():
    chances = torch.tensor([[0.8, 0.2], [0.6, 0.4]])
    same = aligned(chances, torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
    assert torch.allclose(same, chances)
    # The first is named four times as often as the other, wanted is as often: 0.8 / 4 to 0.2, 0.6 / 4 to 0.4.
    found = aligned(chances, torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]))
    assert torch.allclose(found, torch.tensor([[0.5, 0.5], [3 / 11, 8 / 11]]))


def test_sure_and_even_guesses_cost_nothing_and_one_class_for_all_costs_what_it_lacks():
    even, wanted = torch.tensor([[30.0, 0.0], [0.0, 30.0]]), torch.tensor([0.5, 0.5])
    assert float(unsure_or_uneven(even, wanted)) == pytest.approx(0, abs=1e-6)
    assert float(unsure_or_uneven(torch.zeros(2, 2), wanted)) == pytest.approx(np.log(2))
    one = torch.tensor([[30.0, 0.0], [30.0, 0.0]])
    assert float(unsure_or_uneven(one, wanted)) == pytest.approx(np.log(2))
    assert float(unsure_or_uneven(one, torch.tensor([1.0, 0.0]))) == pytest.approx(0, abs=1e-6)


def test_what_guesses_tell_is_all_where_they_are_sure_and_even():
    assert told_apart(np.eye(3)) == pytest.approx(1)
    assert told_apart(np.full((4, 3), 1 / 3)) == pytest.approx(0) == told_apart(np.eye(3)[[0, 0, 0]])


class Halves(torch.nn.Module):
    """How light the left and the right half are, mixed by what learns."""

    name, features, input = "halves", 2, InputSpec("input", 32, 32, "RGB", (127.5,) * 3, (127.5,) * 3)

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(2, 2)
        self.mix.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})

    def forward(self, images):
        return self.mix(torch.stack([images[..., :16].mean((1, 2, 3)), images[..., 16:].mean((1, 2, 3))], dim=1))


def test_self_training_finds_a_class_again_that_another_light_hides(tmp_path, monkeypatch):
    """The right half is lighter or the left. In the target light comes from the left, and all are taken for left."""
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    pictures = np.full((80, 3, 32, 32), 110.0)
    pictures[labels == 0, :, :, :16] += 20
    pictures[labels == 1, :, :, 16:] += 20
    here = torch.from_numpy(pictures + draw.normal(0, 10, pictures.shape)).clamp(0, 255).byte()
    pictures[..., :16] += 25
    there = torch.from_numpy(pictures + draw.normal(0, 10, pictures.shape)).clamp(0, 255).byte()
    network = TransferClassifier(Halves(), Head(2, 2))
    network.head.linear.weight.data = torch.tensor([[6.0, -6.0], [-6.0, 6.0]])
    assert adapt._chances(network, there).argmax(1).max() == 0
    monkeypatch.setattr(adapt, "_STEPS", 150)
    work = replace(workshop(tmp_path, adapt=tmp_path, augmentation=0.0, mirror=False), folder=None)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), 2).float()
    adapt._learn_both(network, (here, targets), there, work)
    assert (adapt._chances(network, there).argmax(1) == labels).mean() > 0.95
    assert (adapt._chances(network, here).argmax(1) == labels).mean() > 0.95


def test_a_reversed_gradient_points_the_other_way():
    x = torch.ones(2, requires_grad=True)
    adapt._Reversed.apply(x, 0.5).sum().backward()
    assert x.grad.tolist() == [-0.5, -0.5]


def workshop(tmp_path, **changes):
    pictures = tuple(Picture(f"{i}.png", f"{i}.png", i % 2, f"{i:064d}", (96, 96), None, 0.1) for i in range(20))
    folder = PictureFolder(tmp_path, ("ant", "bee"), pictures, np.arange(20), ())
    options = ClassifierOptions(tmp_path, tmp_path / "run", device="cpu", log="none", **changes)
    bank = FeatureBank(torch.zeros(1, 26, 4), None)
    targets = torch.cat([hard_targets(folder), torch.full((6, 2), 0.5)])
    extra = tuple(tmp_path / name / "x.png" for name in ("ant", "ant", "bee", "bee", "bee", "ant"))
    return Workshop(options, folder, split_pictures(folder, seed=0), None, bank, targets, Silence(), extra=extra)


def test_the_cap_keeps_a_class_from_drowning_the_other_and_the_surest_stay(tmp_path):
    chances = np.array([[0.99, 0.01], [0.98, 0.02], [0.97, 0.03], [0.96, 0.04], [0.03, 0.97], [0.6, 0.4]])
    unlabelled = tuple(range(20, 26))
    assert take(workshop(tmp_path), unlabelled, chances).rows.tolist() == [0, 1, 2, 4]  # even share: 3 each
    found = take(workshop(tmp_path, cap=2), unlabelled, chances)
    assert found.rows.tolist() == [0, 1, 4] and found.labels.tolist() == [0, 0, 1]
    assert found.offered == 6 and found.right == 3
    assert take(workshop(tmp_path, confidence=0.975), unlabelled, chances).rows.tolist() == [0, 1]
    assert "ant 2, bee 1" in found.sentence(1, ("ant", "bee")) and "3 of them rightly" in found.sentence(1, ("a", "b"))


def test_students_learn_soft_or_hard_labels_of_what_was_taken_alone(tmp_path):
    chances = np.array([[0.99, 0.01], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.04, 0.96], [0.5, 0.5]])
    unlabelled = tuple(range(20, 26))
    for hard, first in ((False, 0.99), (True, 1.0)):
        work = workshop(tmp_path, hard_labels=hard, confidence=0.95)
        made = taught(work, work, take(work, unlabelled, chances), chances, unlabelled)
        assert made.split.train == (*work.split.train, 20, 24)
        assert made.targets[20, 0] == pytest.approx(first) and made.targets[21].tolist() == [0.5, 0.5]
        assert torch.equal(made.targets[:20], work.targets[:20])


def test_an_overconfident_teacher_is_calibrated_before_it_is_believed(tmp_path):
    work = workshop(tmp_path)
    labels = work.folder.labels[list(work.split.selection)]
    wrong_half = np.where(np.arange(len(labels)) % 2 == 0, labels, 1 - labels)
    selection = 6.0 * np.eye(2)[wrong_half]
    assert calibrated(work, selection, np.array([[6.0, 0.0]])).max() < 0.95 < 1 / (1 + np.exp(-6))


def test_options_that_do_not_go_together_are_refused(bars, tmp_path):
    def run(**more):
        train_classifier(ClassifierOptions(bars / "light", tmp_path / "run", device="cpu", **more), Silence())

    with pytest.raises(UsageError, match="--rounds or --student without --unlabelled"):
        run(rounds=2)
    with pytest.raises(UsageError, match="--student without --rounds"):
        run(student="lite2", unlabelled=bars / "dark")
    with pytest.raises(UsageError, match="--adapt beside --unlabelled"):
        run(adapt=bars / "dark", unlabelled=bars / "dark")
    with pytest.raises(UsageError, match="beside small-resnet-8"):
        run(from_scratch=True, unlabelled=bars / "dark")
    assert not (tmp_path / "run").exists()


def test_a_target_is_adapted_to_without_what_judges_and_what_is_labelled(bars, tmp_path):
    folder, told = scan(bars / "light"), Notes()
    split = split_pictures(folder, seed=0)
    target = tmp_path / "target"
    shutil.copytree(bars / "dark", target)
    alike = Seen.of(folder, split.train).are_among(Seen.of(folder, split.judging))
    unlike = split.train[int(np.flatnonzero(~alike)[0])]
    for name, at in (("train", unlike), ("selection", split.selection[0]), ("validation", split.validation[0])):
        shutil.copy(folder.pictures[at].path, target / f"{name}.png")
    Image.open(folder.pictures[split.validation[1]].path).resize((50, 50)).save(target / "nearly.png")
    options = ClassifierOptions(bars / "light", tmp_path / "run", adapt=target, device="cpu")
    work = Workshop(options, folder, split, None, None, None, told)
    assert {path.parent.parent for path in adapt._target(work, target)} == {target}
    assert told.notes == [
        f"{target}: left out 3 pictures that judge, or look like one that does (nearly.png, selection.png, "
        "validation.png)",
        f"{target}: left out 1 picture of the labelled folder",
    ]
    with pytest.raises(UsageError, match="light holds 0 pictures to adapt to; expected at least 16"):
        adapt._target(work, bars / "light")


@pytest.mark.slow
@pytest.mark.parametrize("how", [*ADAPTATIONS, "students"])
def test_every_method_makes_a_network_that_exports_and_is_served(bars, tmp_path, monkeypatch, how):
    from edge_app.cli import main

    monkeypatch.setattr(scratch, "LEAST_STEPS", 150)
    monkeypatch.setattr(adapt, "_STEPS", 20)
    notes = Notes()
    options = ClassifierOptions(
        bars / "light", tmp_path / "run", device="cpu", search=0, augmentation=0.3, log="none", keep_out=True,
        views=0, unfreeze=0,
    )  # fmt: skip
    if how == "students":
        options = replace(options, size=64, backbone="efficientnet-lite0", unlabelled=bars / "dark", rounds=2,
                          student="lite1", confidence=0.5)  # fmt: skip
    else:
        options = replace(options, from_scratch=True, adapt=bars / "dark", adapt_by=how)
    result = train_classifier(options, notes)
    if how == "students":
        assert [note for note in notes.notes if note.startswith("round 2: took") and "rightly" in note]
        assert result.report["base"]["name"] == "efficientnet-lite1"
    else:
        [note] = [note for note in notes.notes if f"of dark by {how}" in note]
        assert " pictures of the labelled domain, which say little of the other" in note
    assert main(["export", str(result.checkpoint), "-o", str(tmp_path / "bars.onnx")]) == 0
    home = ["--home", str(tmp_path / "home")]
    assert main(["models", "add", str(tmp_path / "bars.onnx"), *home]) == 0
    assert main(["recognize", str(bars / "light" / "upright" / "3.png"), "--model", "bars", *home]) == 0


class Killed(Silence):
    """Ends the run when so many steps of progress were told; counts them."""

    def __init__(self, after=10**9):
        self.after, self.steps = after, 0

    def advance(self, done, detail=""):
        if detail.startswith("batch "):  # told by the clock, hence more often on a busy machine
            return
        self.steps += 1
        if self.steps > self.after:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("how", ["self-training", "students"])
def test_a_killed_run_goes_on_to_the_same_network(bars, tmp_path, monkeypatch, how):
    monkeypatch.setattr(scratch, "LEAST_STEPS", 12)
    monkeypatch.setattr(scratch, "LEAST_EPOCHS", 3)
    monkeypatch.setattr(adapt, "_STEPS", 3)
    options = ClassifierOptions(bars / "light", tmp_path / "whole", device="cpu", search=0, log="none", views=0,
                                unfreeze=1, tune_epochs=3)  # fmt: skip
    if how == "self-training":
        options = replace(options, from_scratch=True, adapt=bars / "dark")
    else:
        options = replace(options, size=64, backbone="efficientnet-lite0", unlabelled=bars / "dark", rounds=2)
    told = Killed()
    whole = load(train_classifier(options, told).checkpoint).tensors
    for share in (0.4, 0.8):
        halved = replace(options, output=tmp_path / f"halved-{share}")
        with pytest.raises(KeyboardInterrupt):
            train_classifier(halved, Killed(round(share * told.steps)))
        again = Killed()
        resumed = load(train_classifier(replace(halved, resume=True), again).checkpoint).tensors
        assert again.steps <= told.steps
        assert whole.keys() == resumed.keys() and whole
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
