"""Generated pictures: near-copies refused, KID by hand, a stopped run goes on to the same bits, a collapse is told."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_models.data.checks import scan
from edge_models.data.made import mark_of, sources_of
from edge_models.fitting.checkpoint import load, load_state, save_state
from edge_models.fitting.progress import Silence
from edge_models.generate import adversarial, gan, sample
from edge_models.generate.adversarial import to_range
from edge_models.generate.gan import NOISE, Discriminator, Generator, load_generator, train
from edge_models.generate.options import GanOptions, SampleOptions
from edge_models.generate.sample import Near, distances, head_right, kid, look
from edge_models.networks.backbones import create_backbone
from tests.models.kills import finished_is_left_alone, making_survives, training_survives

CLASSES = {"red": (220, 40, 40), "blue": (40, 60, 220)}


def paint(path, seed, colour, side=20):
    """A square of one colour somewhere on dark noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    x, y = rng.integers(0, side - 8, 2)
    pixels[y : y + 8, x : x + 8] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    for shift, (name, colour) in enumerate(CLASSES.items()):
        for number in range(16):
            paint(root / name / f"{number}.png", 100 * shift + number, colour)
    return root


def options(squares, run, **changes):
    return GanOptions(squares, run, **({"size": 16, "steps": 6, "batch_size": 4, "device": "cpu"} | changes))


@pytest.fixture(scope="module")
def run_folder(squares, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(options(squares, run), Silence())
    return run


@pytest.fixture(autouse=True)
def small_judge(monkeypatch):
    """Features of a small network of random weights: the tests need none that was pretrained."""

    def create(name):
        torch.manual_seed(7)
        return create_backbone("small-resnet-8")

    monkeypatch.setattr(sample, "create_backbone", create)


@pytest.mark.parametrize("size", [16, 32, 48, 64, 96, 128])
def test_both_networks_take_every_size(size):
    labels = torch.tensor([0, 2])
    made = Generator(3, size)(torch.randn(2, NOISE), labels)
    assert made.shape == (2, 3, size, size) and float(made.detach().abs().max()) <= 1
    assert Discriminator(3, size)(made, labels).shape == (2,)


def test_the_label_decides_what_is_made_and_what_is_believed():
    torch.manual_seed(0)
    net, critic, noise = Generator(2, 16), Discriminator(2, 16), torch.randn(1, NOISE)
    one, two = net(noise, torch.tensor([0])), net(noise, torch.tensor([1]))
    assert float((one - two).detach().abs().mean()) > 0.01
    told = critic(one.detach().expand(2, -1, -1, -1), torch.tensor([0, 1])).detach()
    assert float((told[0] - told[1]).abs()) > 1e-4


def test_kid_is_near_nothing_between_one_kind_and_large_between_two():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (120, 8)).astype(np.float32)
    same, error = kid(rows[:60], rows[60:])
    other, _ = kid(rows[:60] + 1, rows[60:])
    assert abs(same) < 3 * error and other > 10 * error
    # In the mean over draws it is 0, and its spread is what the standard error says.
    draws = [kid(*np.split(rng.normal(0, 1, (80, 8)).astype(np.float32), 2)) for _ in range(150)]
    values, errors = (np.array([draw[k] for draw in draws]) for k in (0, 1))
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert 0.6 < errors.mean() / values.std() < 1.7


def test_kid_by_hand():
    one = np.array([[1.0], [1.0], [1.0]], np.float32)
    two = np.array([[0.0], [0.0], [0.0]], np.float32)
    assert kid(one, two)[0] == pytest.approx(8 + 1 - 2)
    assert np.isnan(kid(one[:2], two)[0])


def test_a_copy_is_told_whatever_its_light_and_side_and_a_distinct_picture_is_not():
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 200, (32, 32, 3), dtype=np.uint8) for _ in range(20)]
    mirrored = [np.ascontiguousarray(one[:, ::-1]) for one in pictures]
    near = Near.of(look(pictures), np.arange(20), look(mirrored))
    noisy = np.clip(pictures[3] * 0.7 + rng.normal(40, 6, (32, 32, 3)), 0, 255).astype(np.uint8)
    other = rng.integers(0, 200, (32, 32, 3), dtype=np.uint8)
    assert near.copies(look([noisy, mirrored[5], other])).tolist() == [True, True, False]


def test_near_duplicates_of_the_folder_do_not_make_the_limit():
    rows = np.eye(6, dtype=np.float32)
    twice = np.concatenate([rows, rows])
    assert Near.of(twice, np.tile(np.arange(6), 2), None).limit == pytest.approx(2**0.5)
    assert distances(rows, rows)[0].tolist() == pytest.approx([0] + [2**0.5] * 5)


def test_made_rows_weigh_no_more_than_the_real_ones():
    real = np.array([[1, 0.1], [1, 0.2], [0.1, 1], [0.2, 1]], np.float32)
    labels = np.array([0, 0, 1, 1])
    wrong = np.tile(np.array([[1, 0.15], [0.15, 1]], np.float32), (50, 1))
    rows, told = np.concatenate([real, wrong]), np.concatenate([labels, np.tile([1, 0], 50)])
    judged = np.array([[1, 0.12], [0.12, 1]], np.float32)
    assert head_right(real, labels, judged, np.array([0, 1])).all()
    assert not head_right(rows, told, judged, np.array([0, 1])).any()
    half = np.concatenate([real, wrong[:2] * 1]), np.concatenate([labels, [1, 0]])
    assert head_right(*half, judged, np.array([0, 1]), made=2).all()


def test_only_the_learning_part_is_learned_and_the_run_remembers_both(squares, run_folder):
    drawer, folder = load_generator(run_folder), scan(squares)
    every = {picture.sha256 for picture in folder.pictures}
    assert set(drawer.learned) | set(drawer.kept_out) == every and not set(drawer.learned) & set(drawer.kept_out)
    assert len(drawer.kept_out) == 6 and drawer.classes == ("blue", "red")
    assert not (run_folder / "state").exists() and (run_folder / gan.FILE).stat().st_mode & 0o077 == 0


def test_samples_are_marked_and_judged_by_what_was_kept_out(squares, run_folder, tmp_path):
    made = sample.sample(SampleOptions(run_folder, tmp_path / "made", count=9), Silence())
    files = sorted((tmp_path / "made" / "pictures").rglob("*.png"))
    assert made.pictures == len(files) == 18 and {f.parent.name for f in files} == {"red", "blue"}
    assert made.judged == 6 and np.isfinite(made.kid).all() and 0 <= made.accuracy <= 1
    drawer = load_generator(run_folder)
    marks = [mark_of(file) for file in files]
    assert {mark["by"] for mark in marks} == {"edge-app generate"}
    assert frozenset().union(*map(sources_of, marks)) == set(drawer.learned)
    again = sample.sample(SampleOptions(run_folder, tmp_path / "again", count=9), Silence())
    assert again.kid == made.kid
    assert [f.read_bytes() for f in files] == [
        (tmp_path / "again" / f.relative_to(tmp_path / "made")).read_bytes() for f in files
    ]
    told = json.loads((tmp_path / "made" / "made.json").read_text())
    assert len(told["kept_out"]) == 6 and told["refused"] == made.refused


def test_a_generator_that_copies_is_refused_and_nothing_is_written(squares, run_folder, tmp_path, monkeypatch):
    drawer, folder = load_generator(run_folder), scan(squares)
    own = {name: [p for p in folder.pictures if p.sha256 in drawer.learned and folder.classes[p.label] == name]
           for name in folder.classes}  # fmt: skip

    def copied(net, noise, label, device="cpu"):
        seen = [np.array(Image.open(p.path).resize((16, 16), Image.Resampling.BOX))
                for p in own[folder.classes[label]]]  # fmt: skip
        at = [number % len(seen) for number in range(len(noise))]
        return to_range(torch.from_numpy(np.stack([seen[i] for i in at])).permute(0, 3, 1, 2))

    monkeypatch.setattr(sample, "draw_pictures", copied)
    with pytest.raises(EdgeError, match=r"of (\d+) pictures drawn of blue \1 are near-copies"):
        sample.sample(SampleOptions(run_folder, tmp_path / "made", count=4), Silence())
    assert not list(tmp_path.iterdir())


def test_a_sample_that_is_one_picture_again_and_again_is_told(squares, run_folder, tmp_path, monkeypatch):
    """A short training ends before a collapse is called one; whoever samples learns of it all the same."""
    draw = sample.draw_pictures
    monkeypatch.setattr(sample, "draw_pictures", lambda net, noise, label: draw(net, noise * (label > 0), label))
    made = sample.sample(SampleOptions(run_folder, tmp_path / "made", count=4), Silence())
    [note] = [one for one in made.notes if "has collapsed to few" in one]
    assert note.startswith("blue: what is made differs 0.00 times as much")


def test_pictures_that_are_gone_are_told(squares, run_folder, tmp_path):
    for file in sorted(squares.rglob("*.png"))[2:]:
        goal = tmp_path / "fewer" / file.relative_to(squares)
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match=r"of the 26 pictures that the generator learned from 2[45] are in"):
        sample.sample(SampleOptions(run_folder, tmp_path / "made", pictures=tmp_path / "fewer"), Silence())
    with pytest.raises(UsageError, match="is there already"):
        sample.sample(SampleOptions(run_folder, tmp_path / "fewer"), Silence())
    with pytest.raises(UsageError, match="holds no generator"):
        sample.sample(SampleOptions(squares, tmp_path / "made"), Silence())
    assert [path.name for path in tmp_path.iterdir()] == ["fewer"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": float("nan")}, "a weight is not a number"),
        ({"weights": float("inf")}, "a weight is not a number"),
        ({"size": float("inf")}, "cannot convert float infinity"),
        ({"size": 64}, "Error.s. in loading"),
        ({"learned": []}, "of the 0 pictures that the generator learned from 0 are in"),
        ({"kept_out": ["x"]}, "of the 1 pictures that the generator never saw none is in"),
        ({"classes": ["blue", "\x1b[31mred"]}, "the sub-folders of .* are blue, red; expected those that"),
    ],
)
def test_a_run_whose_file_was_changed_makes_nothing_and_says_what_is_wrong(run_folder, tmp_path, change, said):
    state = load_state(run_folder / gan.FILE)
    if "weights" in change:
        (name, first), *_ = state["weights"].items()
        state["weights"] |= {
            name: torch.where(torch.arange(first.numel()).view(first.shape) == 3, change["weights"], first)
        }
    else:
        state |= change
    (tmp_path / "run").mkdir()
    save_state(tmp_path / "run" / gan.FILE, state)
    with pytest.raises(UsageError, match=said):
        sample.sample(SampleOptions(tmp_path / "run", tmp_path / "made"), Silence())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_files_of_a_run_that_are_nested_for_ever_or_foreign_are_told(squares, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    file, deep = tmp_path / "run" / gan.FILE, "[" * 100_000 + "]" * 100_000
    save_file({"a": torch.zeros(1)}, file, {"edge_app.state": deep, "edge_app.checkpoint": deep})
    for read in (load_state, load):
        with pytest.raises(ModelError, match=r"cannot be read|is no training state"):
            read(file)
    for report in (deep, "[]", '{"classes": 3}'):
        (tmp_path / "run" / gan.REPORT).write_text(report)
        with pytest.raises(UsageError, match="is no report of this run"):
            train(options(squares, tmp_path / "run", resume=True), Silence())
    (tmp_path / "run" / "run.json").write_text(deep)
    with pytest.raises(UsageError, match="holds no run to go on with"):
        train(options(squares, tmp_path / "run", resume=True), Silence())


def test_a_class_of_few_pictures_is_refused_before_anything_is_begun(tmp_path):
    for name, count in (("red", 12), ("blue", 5)):
        for number in range(count):
            paint(tmp_path / "few" / name / f"{number}.png", number + 40 * count, CLASSES[name])
    with pytest.raises(UsageError, match="blue has 4 pictures to learn from"):
        train(options(tmp_path / "few", tmp_path / "run"), Silence())
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_goes_on_to_the_same_bits(squares, run_folder, tmp_path, monkeypatch):
    kept, taken = gan._Pair.step, []

    def step(self, number, draw):
        if number == 4 and not taken:
            taken.append(number)
            raise KeyboardInterrupt
        return kept(self, number, draw)

    monkeypatch.setattr(gan._Pair, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train(options(squares, tmp_path / "run"), Silence())
    train(options(squares, tmp_path / "run", resume=True), Silence())
    whole, again = (load_state(one / gan.FILE)["weights"] for one in (run_folder, tmp_path / "run"))
    assert whole.keys() == again.keys() and taken
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


def test_a_generator_that_draws_one_picture_has_collapsed(squares, tmp_path, monkeypatch):
    kept = Generator.forward
    monkeypatch.setattr(adversarial, "YOUNG", 0)
    monkeypatch.setattr(Generator, "forward", lambda self, noise, labels: kept(self, 0 * noise, labels))
    with pytest.raises(EdgeError, match=r"collapsed by step \d: what it makes differs 0.00 times"):
        train(options(squares, tmp_path / "run"), Silence())
    assert not (tmp_path / "run" / gan.FILE).exists()


@pytest.mark.slow
def test_squares_are_learned_by_their_colour_and_a_classifier_of_them_is_served(squares, tmp_path, capsys, monkeypatch):
    from edge_app.cli import main
    from edge_models.classifier import scratch
    from edge_models.classifier.options import ClassifierOptions
    from edge_models.classifier.run import train_classifier

    given = options(squares, tmp_path / "run", steps=250, batch_size=16)
    assert train(given, Silence()).looks[-1]["variety"] > 0.5
    made = sample.sample(SampleOptions(tmp_path / "run", tmp_path / "data" / "made", count=20), Silence())
    files = sorted((tmp_path / "data" / "made" / "pictures").rglob("*.png"))
    redder = [np.asarray(Image.open(f), float).reshape(-1, 3).max(0)[[0, 2]] for f in files]
    right = [(red > blue) == (f.parent.name == "red") for (red, blue), f in zip(redder, files, strict=True)]
    assert made.pictures == 40 and np.mean(right) > 0.8
    (tmp_path / "parts").mkdir()
    (tmp_path / "data" / "made" / "pictures").rename(tmp_path / "parts" / "train")
    drawer, folder = load_generator(tmp_path / "run"), scan(squares)
    for picture in folder.pictures:
        if picture.sha256 in drawer.kept_out:
            goal = tmp_path / "parts" / "test" / picture.name
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_bytes(picture.path.read_bytes())
    monkeypatch.setattr(scratch, "LEAST_STEPS", 60)
    result = train_classifier(
        ClassifierOptions(tmp_path / "parts", tmp_path / "out", from_scratch=True, depth=8, device="cpu", log="none"),
        Silence(),
    )
    assert result.report["accuracy"]["value"] >= 0.8
    assert result.report["growth"]["sentence"].startswith("No forecast") and not result.report["suspects_found"]
    assert main(["export", str(result.checkpoint), "-o", str(tmp_path / "squares.onnx")]) == 0
    home = ["--home", str(tmp_path / "home")]
    assert main(["models", "add", str(tmp_path / "squares.onnx"), *home]) == 0
    capsys.readouterr()
    assert main(["recognize", str(squares / "red" / "3.png"), "--model", "squares", *home]) == 0
    assert "red" in capsys.readouterr().out


def test_a_finished_run_is_not_trained_again(squares, run_folder, monkeypatch):
    monkeypatch.setattr(gan._Pair, "step", None)
    finished_is_left_alone(run_folder, lambda: train(options(squares, run_folder, resume=True), Silence()))


@pytest.mark.slow
def test_kills_and_a_full_disk_leave_no_half_made_run_and_no_half_made_set(squares, tmp_path):
    words = ["--size", "16", "--steps", "80", "--batch-size", "4", "--device", "cpu"]
    training_survives(tmp_path, ["generate", "train", str(squares), *words], gan.FILE)
    making_survives(tmp_path, ["generate", "sample", str(tmp_path / "whole"), "--backbone", "small-resnet-8",
                               "--count", "60", "--output"])  # fmt: skip
