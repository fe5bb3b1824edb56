"""Learning without labels: losses by hand, collapse told, what judges left out of pools, whole runs."""

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_app.system.files import sha256_of_file
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.run import train_classifier
from edge_models.classifier.start import refuse_seen
from edge_models.data.batch_views import BatchViews
from edge_models.data.checks import scan
from edge_models.data.folder import split_pictures
from edge_models.data.judging import Seen
from edge_models.fitting.progress import Silence
from edge_models.networks.pretrained_run import load_pretrained, pool_of, pretrained_backbone
from edge_models.selfsup import learner
from edge_models.selfsup import pretrain as pretraining
from edge_models.selfsup.losses import byol, nt_xent, spread_of, vicreg, where_hidden
from edge_models.selfsup.options import METHODS, PretrainOptions
from edge_models.selfsup.pretrain import pretrain


class Notes(Silence):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def paint(path, bar, seed, side=28):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (side, side), dtype=np.uint8)
    at = int(rng.integers(4, side - 9))
    pixels[(slice(3, 25), slice(at, at + 5)) if bar == "upright" else (slice(at, at + 5), slice(3, 25))] = 220
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    root = tmp_path_factory.mktemp("bars")
    for number in range(16):
        for shift, name in enumerate(("lying", "upright")):
            paint(root / "labelled" / name / f"{number}.png", name, 1000 * shift + number)
            paint(root / "pool" / f"{name}{number}.png", name, 5000 + 1000 * shift + number)
    return root


def test_nt_xent_by_hand():
    # Two pictures whose views agree and are at right angles: each view has one at cosine 1 and two at cosine 0.
    unit = torch.eye(2)
    expected = -math.log(math.e**5 / (math.e**5 + 2))
    assert float(nt_xent(unit, unit)) == pytest.approx(expected, abs=1e-6)
    assert float(nt_xent(unit, unit.flip(0))) > 4


def test_byol_by_hand_and_no_gradient_reaches_the_target():
    first, second = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 2.0]], requires_grad=True)
    loss = byol(first, second)
    assert float(loss) == pytest.approx(2)
    loss.backward()
    assert second.grad is None and first.grad is not None


def test_vicreg_by_hand():
    seen = torch.tensor([[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]])
    assert float(vicreg(seen, seen)) == pytest.approx(0, abs=1e-5)  # alike, spread by 2.3, uncorrelated
    same = seen[:, :1].repeat(1, 2)
    assert float(vicreg(same, same)) == pytest.approx(2 * 2 * (16 / 3) ** 2 / 2, rel=1e-5)  # told twice
    assert float(vicreg(torch.zeros(4, 2), torch.zeros(4, 2))) == pytest.approx(25 * (1 - 0.01), rel=1e-4)


def test_only_hidden_pixels_count():
    truth, made = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    made[:, :, 0, 0] = 9
    hidden = torch.ones(1, 1, 2, 2)
    hidden[:, :, 0, 0] = 0
    assert float(where_hidden(made, truth, hidden)) == pytest.approx(1)


def test_turned_colours_are_as_light_as_before_and_grey_stays_grey():
    images = 60 + 120 * torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    still = BatchViews(1.0, 0.0, mirror=False)
    turned = replace(still, hue=0.1)(images, torch.Generator().manual_seed(1))
    same = still(images, torch.Generator().manual_seed(1))
    assert float((turned - same).abs().max()) > 10
    lightness = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    assert torch.allclose((turned * lightness).sum(1), (same * lightness).sum(1), atol=0.5)
    grey = images[:, :1].expand(-1, 3, -1, -1)
    seen = replace(still, hue=0.5)(grey, torch.Generator().manual_seed(1))
    assert float((seen - seen.mean(1, keepdim=True)).abs().max()) < 1


def test_the_spread_tells_collapse():
    rng = torch.Generator().manual_seed(0)
    everywhere = torch.randn(400, 32, generator=rng)
    deviation, rank = spread_of(everywhere)
    assert deviation == pytest.approx(1, abs=0.05) and rank > 25
    one = torch.ones(400, 32) + 1e-3 * everywhere
    assert pretraining.collapsed(spread_of(one), spread_of(everywhere))
    assert spread_of(torch.zeros(4, 3)) == (0.0, 0.0)
    line = torch.linspace(-1, 1, 50)[:, None] * torch.ones(1, 8)
    assert spread_of(line)[1] == pytest.approx(1, abs=1e-6)


WAYS = {
    "bytes": lambda judge, path: path.write_bytes(judge.read_bytes()),
    "pixels": lambda judge, path: Image.open(judge).convert("RGB").save(path, compress_level=1),
    "nearly": lambda judge, path: Image.open(judge).resize((40, 40), Image.Resampling.BICUBIC).save(path),
}


def pool_with(bars, pool, how, part):
    """The pool with a copy of the first picture of a part of the labelled folder, under another name."""
    folder = scan(bars / "labelled")
    shutil.copytree(bars / "pool", pool)
    WAYS[how](folder.pictures[getattr(split_pictures(folder, seed=0), part)[0]].path, pool / "innocent.png")
    return pool


@pytest.mark.parametrize("part", ["validation", "selection"])
@pytest.mark.parametrize("how", WAYS)
def test_pictures_of_a_pool_that_judge_are_left_out_by_content_whatever_their_names(bars, tmp_path, how, part):
    pool, told = pool_with(bars, tmp_path / "pool", how, part), Notes()
    options = PretrainOptions(pool, tmp_path / "run", labelled=bars / "labelled", epochs=1, batch_size=8, device="cpu")
    assert pretrain(options, told).pictures == 32
    assert f"{pool}: left out 1 picture that judges, or looks like one that does (innocent.png)" in told.notes
    run = pool_of(load_pretrained(tmp_path / "run"))
    assert len(run.hashes) == len(run.thumbnails) == 32 and sha256_of_file(pool / "innocent.png") not in run.hashes


def test_a_pool_of_little_else_than_what_judges_is_refused(bars, tmp_path):
    folder = scan(bars / "labelled")
    everything = Seen.of(folder, range(len(folder.pictures)))
    with pytest.raises(UsageError, match="holds 0 pictures to learn from; expected at least 16"):
        pretrain(PretrainOptions(bars / "labelled", tmp_path / "run"), Silence(), everything)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", WAYS)
def test_a_network_that_has_learned_from_what_judges_is_refused(bars, tmp_path, how):
    pool = pool_with(bars, tmp_path / "pool", how, "validation")
    pretrain(PretrainOptions(pool, tmp_path / "run", epochs=1, batch_size=8, device="cpu"), Silence())
    folder = scan(bars / "labelled")
    options = ClassifierOptions(bars / "labelled", tmp_path / "again", from_run=tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"run has learned from 1 picture that judges.*--labelled DIR` leaves them out"
    ):
        refuse_seen(options, folder, split_pictures(folder, seed=0))
    kept = load_pretrained(tmp_path / "run")
    for pool_told in (None, kept.pool[1:], kept.pool.float()):
        with pytest.raises(ModelError, match="does not tell which pictures"):
            pool_of(replace(kept, pool=pool_told))


def test_a_pool_of_one_picture_is_refused(bars, tmp_path):
    paint(tmp_path / "one" / "a.png", "lying", 1)
    (tmp_path / "one" / "b.png").write_bytes((tmp_path / "one" / "a.png").read_bytes())
    with pytest.raises(UsageError, match="holds 1 distinct picture;"):
        pretrain(PretrainOptions(tmp_path / "one", tmp_path / "run"), Silence())


@pytest.mark.parametrize("then", [(0.05, 40.0), (0.6, 11.0), (math.nan, 40.0)])
def test_features_that_lose_spread_or_rank_are_told_and_no_network_is_written(bars, tmp_path, monkeypatch, then):
    seen = iter([(0.2, 40.0), then])
    monkeypatch.setattr(learner, "spread_of", lambda features: next(seen))
    with pytest.raises(EdgeError, match="simclr collapsed in epoch 1"):
        pretrain(PretrainOptions(bars / "pool", tmp_path / "run", epochs=1, batch_size=8, device="cpu"), Silence())
    assert not list((tmp_path / "run").glob("pretrained*"))


def test_features_of_a_healthy_run_have_not_collapsed():
    assert not pretraining.collapsed((0.42, 26.0), (0.226, 42.0))  # byol, the lowest that was measured
    assert pretraining.collapsed((0.192, 3.0), (0.226, 42.0)) and pretraining.collapsed((0.057, 6.0), (0.226, 42.0))


@pytest.mark.slow
def test_a_run_at_far_too_high_a_rate_is_told_to_have_collapsed(bars, tmp_path):
    options = PretrainOptions(bars / "pool", tmp_path / "run", learning_rate=1.0, epochs=8, batch_size=8, device="cpu")
    with pytest.raises(EdgeError, match="simclr collapsed in epoch"):
        pretrain(options, Silence())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_its_loss_and_keeps_pictures_apart(bars, tmp_path, method):
    options = PretrainOptions(bars / "pool", tmp_path / "run", method=method, labelled=bars / "labelled", epochs=6,
                              batch_size=16, device="cpu")  # fmt: skip
    made = pretrain(options, Silence())
    losses = [line["loss"] for line in made.epochs]
    assert len(losses) == 6 and min(losses[3:]) < losses[0]
    assert 0 <= made.epochs[-1]["probe"] <= 1 and not (tmp_path / "run" / "state").exists()
    checkpoint = load_pretrained(tmp_path / "run")
    assert len(checkpoint.split["pool"]) == 32 and f"{method} on 32 pictures" in checkpoint.base.origin
    assert pretrained_backbone(checkpoint)(torch.zeros(1, 3, 32, 32)).shape == (1, 128)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_network(bars, tmp_path, monkeypatch):
    def options(name, **more):
        return PretrainOptions(bars / "pool", tmp_path / name, epochs=4, batch_size=16, device="cpu", **more)

    pretrain(options("whole"), Silence())
    calls, told = [], learner.spread_of

    def stop_in_the_third(features):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return told(features)

    with monkeypatch.context() as patched:
        patched.setattr(learner, "spread_of", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            pretrain(options("halved"), Silence())
    pretrain(options("halved", resume=True), Silence())
    whole, halved = (load_pretrained(tmp_path / name).tensors for name in ("whole", "halved"))
    assert whole.keys() == halved.keys() and all(torch.equal(whole[name], halved[name]) for name in whole)


@pytest.mark.slow
def test_a_classifier_starts_from_the_run_and_refuses_to_be_judged_by_its_pool(bars, tmp_path, capsys):
    from edge_app.cli import main

    pretrain(PretrainOptions(bars / "pool", tmp_path / "pool", epochs=3, batch_size=16, device="cpu"), Silence())
    options = ClassifierOptions(
        bars / "labelled", tmp_path / "run", from_run=tmp_path / "pool", search=0, unfreeze=1, tune_epochs=3, views=1,
        device="cpu", log="none", keep_out=True,
    )  # fmt: skip
    result = train_classifier(options, Silence())
    assert json.loads(result.json.read_text())["base"]["name"] == "small-resnet-8"
    assert main(["export", str(result.checkpoint), "-o", str(tmp_path / "bars.onnx")]) == 0
    home = ["--home", str(tmp_path / "home")]
    assert main(["models", "add", str(tmp_path / "bars.onnx"), *home]) == 0
    picture = str(bars / "labelled" / "upright" / "3.png")
    assert main(["recognize", picture, "--model", "bars", *home]) == 0
    pretrain(PretrainOptions(bars / "labelled", tmp_path / "same", epochs=1, batch_size=16, device="cpu"), Silence())
    with pytest.raises(UsageError, match=r"has learned from \d+ pictures that judge"):
        train_classifier(
            ClassifierOptions(bars / "labelled", tmp_path / "again", from_run=tmp_path / "same"), Silence()
        )
