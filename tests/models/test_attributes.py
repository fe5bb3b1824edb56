"""Attributes that a user states: read, learned, and a class without pictures recognized, exported and served."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edge_app.cli import main
from edge_app.core.attributes import Attribute
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Classification, ClassScore
from edge_app.media.pictures import write_picture
from edge_app.model_store.onnx_inspect import inspect
from edge_export.check.not_sure_bar import attributes_with_bar
from edge_models.classifier.attributes import belief_of, left_out_report, read_attributes, with_unseen
from edge_models.classifier.heads import logits_of, solve_head
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.stages import Workshop, hard_targets
from edge_models.data.folder import Picture, PictureFolder, Split
from edge_models.fitting.progress import Silence
from edge_models.networks.feature_cache import FeatureBank
from tests.model_store.planted import colour_card

CLASSES = ("horse", "tiger", "wolf")
GOOD = "horse: [hooves]\ntiger: [stripes, fur]\nwolf: [fur]\nzebra: [stripes, hooves]\n"


def read(tmp_path, text, classes=CLASSES):
    path = tmp_path / "attributes.yaml"
    path.write_text(text)
    return read_attributes(path, classes)


def test_classes_of_the_folder_come_first_and_those_without_pictures_behind(tmp_path):
    stated = read(tmp_path, GOOD)
    assert stated.classes == (*CLASSES, "zebra") and stated.unseen == ("zebra",)
    table = {(c, n): bool(stated.table[i, j]) for i, c in enumerate(stated.classes) for j, n in enumerate(stated.names)}
    assert {pair for pair, has in table.items() if has} == {
        ("horse", "hooves"), ("tiger", "stripes"), ("tiger", "fur"), ("wolf", "fur"), ("zebra", "stripes"),
        ("zebra", "hooves"),
    }  # fmt: skip
    assert {one.name: one.labels for one in stated.told}["stripes"] == ("tiger", "zebra")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no classes"),
        ("- horse", "no classes"),
        ("horse: [hooves]\ntiger: [stripes]", "leaves out wolf"),
        (GOOD + "horse: [fur]", "stands there twice"),
        (GOOD.replace("[fur]", "[fur, fur]"), "has an attribute twice"),
        (GOOD.replace("[fur]", "[[fur]]"), "no list of words"),
        (GOOD.replace("[fur]", "{fur: yes}"), "no list of words"),
        (GOOD + "okapi: [stripes, hooves]", "has the very attributes of 'okapi'"),
        (GOOD + "cat: [stripes, fur]", "has the very attributes of 'tiger'"),
        (GOOD + "whale: [fins]", "no class of the folder has 'fins'"),
        (GOOD.replace("[hooves]", "[hooves, fur]"), "every class of the folder has 'fur'"),
        ("horse: []\ntiger: []\nwolf: []", "names 0 attributes"),
        (GOOD.replace("hooves", '"hoo/ves"'), "holds '/'"),
        ('"": [fur]\n' + GOOD, "the name is empty"),
        ("horse: &x [hooves]\ntiger: *x\nwolf: [fur]", "an anchor or alias"),
    ],
)
def test_what_states_nothing_of_the_folder_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value) and "attributes.yaml" in str(caught.value)


def test_two_classes_are_too_few_to_believe_attributes_by(tmp_path):
    with pytest.raises(UsageError, match="2 classes have pictures"):
        read(tmp_path, "a: [x]\nb: [y]\nc: [x, y]", ("a", "b"))


def made(tmp_path, stated, kinds):
    """A workshop whose features show the attributes, one direction each, with noise."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(kinds)), 24)
    directions = rng.normal(size=(len(stated.names), 40))
    features = stated.table[labels] @ directions + 0.4 * rng.normal(size=(len(labels), 40))
    shown = [int(label) for label in labels if label < stated.pictured]
    pictures = tuple(
        Picture(tmp_path / f"{n}.png", f"{n}.png", label, f"{n:064d}", (64, 64), None, 0.1)
        for n, label in enumerate(shown)
    )
    folder = PictureFolder(tmp_path, stated.classes[: stated.pictured], pictures, np.arange(len(shown)), ())
    every = np.arange(len(shown))
    split = Split(*(tuple(int(i) for i in every[every % 4 == k]) for k in (0, 1)), tuple(every[every % 4 > 1].tolist()))
    bank = FeatureBank(torch.from_numpy(features[: len(shown)]).float()[None], None)
    options = ClassifierOptions(tmp_path, tmp_path / "run")
    work = Workshop(options, folder, split, None, bank, hard_targets(folder), Silence())
    return work, torch.from_numpy(features[len(shown) :]).float()


def test_a_class_without_pictures_is_recognized_by_its_attributes(tmp_path):
    classes = ("ab", "ac", "bd", "cd", "ad")
    text = "".join(f"{name}: [{', '.join(name)}]\n" for name in (*classes, "bc"))
    stated = read(tmp_path, text, classes)
    work, unseen = made(tmp_path, stated, stated.classes)
    belief = belief_of(work, stated)
    fit = list(work.split.fit)
    head = solve_head(work.bank.plain[fit], work.targets[fit], work.options.ridge)
    wide = with_unseen(work, head, stated, belief, work.split.fit)
    said = logits_of(wide, unseen).argmax(1)
    assert (said == 5).mean() >= 0.75, np.bincount(said, minlength=6)
    at = list(work.split.validation)
    seen, alone = (logits_of(h, work.bank.plain[at]).argmax(1) == work.folder.labels[at] for h in (wide, head))
    assert alone.mean() >= 0.95 and seen.mean() >= 0.85
    # The rows of classes with pictures are untouched.
    assert torch.equal(wide.linear.weight[:5], head.linear.weight)
    told = left_out_report(work, stated, belief)
    assert told["trials"] == len(at) and told["found"]["value"] >= 0.6


def test_attributes_that_pictures_do_not_show_find_nothing(tmp_path):
    classes = ("ab", "ac", "bd", "cd", "ad")
    stated = read(tmp_path, "".join(f"{name}: [{', '.join(name)}]\n" for name in (*classes, "bc")), classes)
    work, _ = made(tmp_path, stated, stated.classes)
    noise = torch.randn(work.bank.features.shape, generator=torch.Generator().manual_seed(1))
    blind = Workshop(work.options, work.folder, work.split, None, FeatureBank(noise, None), work.targets, Silence())
    assert left_out_report(blind, stated, belief_of(blind, stated))["found"]["value"] <= 0.45


def test_what_is_told_of_attributes_follows_the_labels(tmp_path):
    stripes, fur = Attribute("stripes", ("tiger", "zebra"), 0.8), Attribute("fur", ("tiger", "wolf"), 0.8)
    scores = tuple(ClassScore(*one) for one in (("tiger", 0.5), ("zebra", 0.4), ("wolf", 0.1)))
    told = Classification(scores, False, 0.9, None, (stripes, fur))
    assert told.name is None and [(one.label, one.probability) for one in told.has] == [("stripes", 0.9)]


def test_the_bar_of_attributes_leaves_one_in_a_hundred_wrong():
    names, rng = ("a", "b", "c"), np.random.default_rng(0)
    total = rng.uniform(0.4, 1.0, 600)
    chances = np.stack([total / 2, total / 2, 1 - total], axis=1)
    labels = np.where(total > 0.7, 0, 2)
    [told] = attributes_with_bar(chances, labels, names, (Attribute("ab", ("a", "b")),))
    assert 0.69 < told.sure_from < 0.73


def test_a_card_keeps_attributes_and_refuses_what_is_none():
    card = colour_card(attributes=(Attribute("warm", ("red", "green"), 0.7),))
    assert ModelCard.from_json(card.to_json()) == card
    assert "attributes" not in json.loads(colour_card().to_json())
    good = json.loads(card.to_json())
    for change, words in (
        ({"labels": ["pink"]}, "has the label 'pink'"), ({"labels": []}, "0 labels"), ({"name": "\x1b"}, "is called"),
        ({"sure_from": 0.2}, "sure from"), ({"labels": "red"}, "labels"), ({"more": 1}, "unknown"),
    ):  # fmt: skip
        plain = good | {"attributes": [good["attributes"][0] | change]}
        with pytest.raises(ModelError, match=words):
            ModelCard.from_json(json.dumps(plain))
    with pytest.raises(ModelError, match="each once"):
        ModelCard.from_json(json.dumps(good | {"attributes": 2 * good["attributes"]}))


def paint(path, kind, seed, side=72):
    """Stripes that lie, stand or make squares, in red or blue."""
    rng = np.random.default_rng(seed)
    wave = np.where((np.arange(side) + rng.integers(24)) // rng.integers(5, 12) % 2, 60, -60)
    lying, standing = wave[:, None, None], wave[None, :, None]
    shape, hue = kind.split("-")
    pixels = rng.integers(90, 150, (side, side, 3)) + {"lying": lying, "standing": standing}.get(shape, 0)
    pixels = pixels + (np.sign(lying * standing) * 60 if shape == "squares" else 0) + rng.integers(-20, 20)
    pixels[..., {"red": 0, "blue": 2}[hue]] += 70
    write_picture(path, np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.slow
def test_a_class_nobody_took_pictures_of_is_exported_installed_and_named(tmp_path, capsys):
    names = [f"{shape}-{hue}" for shape in ("lying", "standing", "squares") for hue in ("red", "blue")]
    unseen = "standing-blue"
    for number, name in enumerate(names):
        if name != unseen:
            (tmp_path / "pictures" / name).mkdir(parents=True)
            for index in range(16):
                paint(tmp_path / "pictures" / name / f"{index}.png", name, 100 * number + index)
    stated, run, home = tmp_path / "attributes.yaml", tmp_path / "run", tmp_path / "home"
    stated.write_text("".join(f"{name}: [{name.replace('-', ', ')}]\n" for name in names))

    def say(*argv):
        code = main([*map(str, argv)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    report = json.loads(say("train", "classifier", tmp_path / "pictures", "--output", run, "--attributes", stated,
        "--search", 0, "--device", "cpu", "--json"))  # fmt: skip
    assert unseen not in report["data"]["classes"]
    assert any(f"{unseen}: recognized by attributes alone" in note for note in report["notes"])
    [best] = run.glob("best-*.safetensors")
    say("export", best, "-o", tmp_path / "stripes.onnx")
    card = inspect(tmp_path / "stripes.onnx").card
    assert card.labels[-1] == unseen and {one.name for one in card.attributes} == {
        "lying", "standing", "squares", "red", "blue",
    }  # fmt: skip
    say("models", "add", tmp_path / "stripes.onnx", "--home", home)
    fresh = [tmp_path / f"fresh{number}.png" for number in range(8)]
    for number, path in enumerate(fresh):
        paint(path, unseen, 9000 + number)
    out = say("recognize", *fresh, "--model", card.id, "--unsure-below", 0, "--json", "--home", home)
    told = [json.loads(line)["label"] for line in out.splitlines()]
    assert len(told) == 8 and sum(one == unseen for one in told) >= 6, told
    blue = json.loads(say("recognize", fresh[0], "--model", card.id, "--json", "--home", home))
    assert "blue" in {one["name"] for one in blue["attributes"]}
