"""Style as augmentation: statistics are exchanged where they should be, and nothing that judges is touched."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.media.pictures import write_picture
from edge_models.classifier.material import split_of, styles_asked
from edge_models.classifier.options import ClassifierOptions
from edge_models.data.checks import scan
from edge_models.fitting.progress import Silence
from edge_models.networks.backbones import create_backbone
from edge_models.networks.feature_cache import FeatureCache, ViewPlan
from edge_models.networks.style import StyledBackbone, mixed_layers, styled, styles_of

pytestmark = pytest.mark.usefixtures("one_thread")


class Notes(Silence):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def paint(path, kind, seed, side=72):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (side, side, 3))
    wave = np.where((np.arange(side) + rng.integers(24)) // rng.integers(5, 12) % 2, 60, -60) * rng.uniform(0.5, 1.2)
    pixels = pixels + (wave[:, None, None] if kind == "lying" else wave[None, :, None]) + rng.integers(-40, 40)
    write_picture(path, np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for kind in ("lying", "standing"):
        (root / kind).mkdir()
        for number in range(12):
            paint(root / kind / f"{number}.png", kind, number + 100 * (kind == "lying"))
    return root


@pytest.fixture(scope="module")
def backbone():
    return create_backbone("efficientnet-lite0", size=64)


@pytest.fixture(scope="module")
def pictures(folder):
    return [(picture.path, picture.sha256) for picture in scan(folder).pictures]


@pytest.fixture(scope="module")
def styles(backbone, pictures):
    return styles_of(backbone, pictures[:8], Silence())


def maps_behind(backbone, images, where):
    seen = []
    handle = mixed_layers(backbone)[where].register_forward_hook(lambda _l, _i, maps: seen.append(maps.clone()))
    with torch.inference_mode():
        features = backbone(images)
    handle.remove()
    return features, seen[0]


def test_a_styled_picture_has_the_other_s_statistics_and_the_rest_of_the_batch_its_own(backbone, styles):
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, before = maps_behind(backbone, images, 0)
    with styled(backbone, styles, [1, 3], [5, 2], [0.0, 0.25]):
        changed, after = maps_behind(backbone, images, 0)
    spread, mean = torch.std_mean(after, dim=(2, 3), correction=0)
    assert torch.allclose(mean[1], styles.means[0][5], atol=1e-4)
    assert torch.allclose(spread[1], styles.spreads[0][5], atol=1e-3)
    own_spread, own_mean = torch.std_mean(before, dim=(2, 3), correction=0)
    assert torch.allclose(mean[3], 0.25 * own_mean[3] + 0.75 * styles.means[0][2], atol=1e-4)
    assert torch.allclose(spread[3], 0.25 * own_spread[3] + 0.75 * styles.spreads[0][2], atol=1e-3)
    for row in (0, 2):
        assert torch.equal(changed[row], plain[row])
    assert not torch.allclose(changed[1], plain[1])
    # Nothing stays behind.
    assert torch.equal(maps_behind(backbone, images, 0)[0], plain)


def test_only_random_views_are_styled_the_same_every_time_and_kept_apart(tmp_path, backbone, pictures, styles):
    plan, cache = ViewPlan(2, True, 0), FeatureCache(tmp_path, Silence())
    plain = cache.bank(backbone, pictures, plan).features
    first = cache.bank(backbone, pictures, plan, styles).features
    assert len(list(tmp_path.glob("features-*"))) == 2
    assert torch.equal(first[:2], plain[:2])
    assert all(not torch.equal(first[view, n], plain[view, n]) for view in (2, 3) for n in range(3))
    again = FeatureCache(tmp_path / "other", Silence()).bank(backbone, pictures, plan, styles).features
    assert torch.equal(again, first)
    others = styles_of(backbone, pictures[8:16], Silence())
    assert not torch.equal(cache.bank(backbone, pictures, plan, others).features[2], first[2])


def test_a_picture_is_given_another_s_style(styles):
    own = styles.pictures[3]
    drawn = [styles.drawn(seed, own) for seed in range(200)]
    assert {pick for pick, _ in drawn} == set(range(8)) - {3}
    assert sum(share < 0.1 for _, share in drawn) > 60 and sum(share > 0.9 for _, share in drawn) > 60
    assert styles.drawn(7, own) == styles.drawn(7, own)


def test_while_layers_learn_batches_are_styled_and_while_they_judge_none_is(backbone, styles):
    net, images = StyledBackbone(backbone, styles), torch.randn(16, 3, 64, 64)
    with torch.inference_mode():
        plain = backbone.eval()(images)
        assert torch.equal(net.eval()(images), plain)
        torch.manual_seed(3)
        learned = net.train()(images)
        torch.manual_seed(3)
        assert torch.equal(net(images), learned)
        untouched = [bool(torch.allclose(one, other, atol=1e-5)) for one, other in zip(learned, plain, strict=True)]
    backbone.eval()
    assert 2 <= sum(untouched) <= 14


def test_styles_come_from_what_is_learned_from_and_never_from_what_judges(folder, backbone, tmp_path):
    found, told = scan(folder), Notes()
    options = ClassifierOptions(folder, tmp_path / "run", style=folder / "lying")
    split = split_of(found, options)
    lying, judging = (
        {found.pictures[i].sha256 for i in part} for part in (np.flatnonzero(found.labels == 0), split.judging)
    )
    asked = styles_asked(options, backbone, found, split, told)
    assert set(asked.pictures) == lying - judging and lying & judging
    [note] = told.notes
    assert note.startswith(f"{folder / 'lying'}: left out {len(lying & judging)} pictures that judge")
    own = styles_asked(replace(options, style=type(folder)("self")), backbone, found, split, Silence())
    assert set(own.pictures) == {found.pictures[i].sha256 for i in split.train}


def test_a_folder_of_styles_that_all_judge_is_refused(folder, backbone, tmp_path):
    found = scan(folder)
    options = ClassifierOptions(folder, tmp_path / "run", style=tmp_path / "styles")
    split = split_of(found, options)
    (tmp_path / "styles").mkdir()
    for number in split.judging:
        shutil.copy(found.pictures[number].path, tmp_path / "styles" / f"{number}.png")
    with pytest.raises(
        UsageError, match="holds 0 pictures to take styles from; expected two or more that do not judge"
    ):
        styles_asked(options, backbone, found, split, Silence())


def test_one_picture_or_none_that_can_be_read_gives_no_styles(tmp_path, backbone, pictures):
    with pytest.raises(UsageError, match="found 1 picture"):
        styles_of(backbone, pictures[:1], Silence())
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="1 of the pictures"):
        styles_of(backbone, [pictures[0], (bad, "0")], Silence())
    assert styles_of(backbone, [*pictures[:2], (bad, "0")], Silence()).pictures == tuple(d for _, d in pictures[:2])


def test_styles_are_refused_where_they_would_do_nothing(tmp_path):
    for changes in ({"views": 0}, {"augmentation": 0.0}, {"from_scratch": True}, {"adapt": tmp_path}, {"rounds": 1}):
        with pytest.raises(UsageError, match="--style"):
            ClassifierOptions(tmp_path, tmp_path / "run", style=tmp_path, **changes)


@pytest.mark.slow
def test_a_styled_network_is_exported_installed_and_served(tmp_path, folder, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(4):
        paint(elsewhere / f"{number}.png", "lying", 5000 + number)
    run, home = tmp_path / "run", tmp_path / "home"

    def say(*argv):
        code = main([*map(str, argv)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    say("train", "classifier", folder, "--output", run, "--style", elsewhere, "--search", 0, "--unfreeze", 2,
        "--tune-epochs", 2, "--device", "cpu", "--json")  # fmt: skip
    [best] = run.glob("best-*.safetensors")
    say("export", best, "-o", tmp_path / "stripes.onnx")
    say("models", "add", tmp_path / "stripes.onnx", "--home", home)
    fresh = tmp_path / "fresh.png"
    paint(fresh, "lying", 999)
    answer = json.loads(say("recognize", fresh, "--model", "stripes", "--json", "--home", home))
    assert answer["classes"][0]["label"] == "lying"
