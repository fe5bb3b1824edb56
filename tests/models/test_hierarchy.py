"""A hierarchy from a user's YAML: every field checked, learned with, exported, served, and never worse to read."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.core.hierarchy import Family, Hierarchy
from edge_app.media.pictures import write_picture
from edge_app.model_store.onnx_inspect import inspect
from edge_export.check.not_sure_bar import at_bar, families_told, family_answers, family_bar
from edge_models.classifier.hierarchy import distances, judged, read_hierarchy, severity, soft_targets
from edge_models.fitting.checkpoint import load

CLASSES = ("ant", "bee", "eagle", "hawk", "robin", "1")
GOOD = """
insect: [ant, bee]      # a comment
bird:
  raptor: [eagle, hawk]
  robin:
1:
"""


def read(tmp_path, text, classes=CLASSES):
    path = tmp_path / "tree.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_hierarchy(path, classes)


def test_nested_listed_and_named_families_are_the_same_tree(tmp_path):
    tree = read(tmp_path, GOOD)
    assert {name: set(leaves) for name, leaves in tree.leaves.items()} == {
        "insect": {"ant", "bee"}, "raptor": {"eagle", "hawk"}, "bird": {"eagle", "hawk", "robin"},
    }  # fmt: skip
    for other in (
        "insect: [ant, bee]\nbird:\n- raptor:\n  - eagle\n  - hawk\n- robin\n1: null\n",
        "bird: [raptor, robin]\nraptor: [eagle, hawk]\ninsect: [ant, bee]\n1: ~\n",
        json.dumps({"insect": ["ant", "bee"], "bird": {"raptor": ["eagle", "hawk"], "robin": ""}, "1": ""}),
        "\ufeff" + GOOD,
    ):
        assert {f.name: set(f.members) for f in read(tmp_path, other).families} == {
            f.name: set(f.members) for f in tree.families
        }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no families"),
        ("just words", "holds no families"),
        ("- ant\n- bee", "holds no families"),
        (GOOD + "cat: [dog, wolf]", "neither a class nor a family"),
        (GOOD + "cat:", "'cat' is neither a class nor a family"),
        ("insect: [ant, bee]\nbird: [eagle, hawk, robin]", "leaves out 1"),
        ("insect: [ant, bee, 1]\nbird: [eagle, hawk, robin, ant]", "'ant' in two places"),
        ("insect: [ant, bee]\nbird: [eagle, hawk, robin]\n1:\nrobin:", "'robin' in two places"),
        ("insect: [ant, bee]\ninsect: [eagle, hawk, robin]\n1:", "line 2: 'insect' stands there twice"),
        ("a: [b, ant]\nb: [a, bee]\nc: [eagle, hawk, robin, 1]", "is inside itself"),
        ("a: &x [ant, *x]", "an anchor or alias"),
        ("a: !!python/object/apply:os.system [ls]", "a tag"),
        ("--- {a: [ant]}\n--- {b: [bee]}", "a second document"),
        ("a: [ant, bee", "is no YAML (line 1"),
        ("a:\n\t- ant", "is no YAML (line 2"),
        (b"a: [\xff]", "is no UTF-8 text"),
        (b"a: [ant, \x00]", "is no YAML"),
        ("a: ant", "'a' is 'ant'"),
        ("a: [[ant, bee], eagle]", "a list stands in a list"),
        ("{[a]: b}", "a name is no plain text"),
        ("insect: [ant]\nbird: [eagle, hawk, robin, bee, 1]", "'insect' has 1 member"),
        ("ant: [bee, eagle]\nx: [hawk, robin, 1]", "both a family and a class"),
        ("all: [ant, bee, eagle, hawk, robin, 1]", "holds every class"),
        ('"in/sect": [ant, bee]\nbird: [eagle, hawk, robin, 1]', "holds '/'"),
        ('"": [ant, bee]\nbird: [eagle, hawk, robin, 1]', "the name is empty"),
        ('"a\\u202eb": [ant, bee]\nbird: [eagle, hawk, robin, 1]', "no control or invisible"),
        ("".join(f"{' ' * n}f{n}:\n" for n in range(40)) + " " * 41 + "[ant, bee]", "levels"),
        ("[" * 5000, "levels"),
        ("a: [" + "ant, " * 300_000 + "bee]", "more than 1,048,576 bytes"),
        ("a: [" + "x, " * 150_000 + "bee]", "more than 100,000 values"),
    ],
)  # fmt: skip
def test_what_is_no_tree_of_the_folder_s_classes_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    told = str(caught.value)
    assert words in told and "tree.yaml" in told and len(told) < 600


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match="there is no file"):
            read_hierarchy(path, CLASSES)


def test_a_mistake_is_as_bad_as_the_family_is_wide(tmp_path):
    table = distances(read(tmp_path, GOOD), CLASSES)
    at = {name: number for number, name in enumerate(CLASSES)}
    assert np.array_equal(table, table.T) and not table.diagonal().any()
    # insect and raptor are 1 high, bird 2, the root 3.
    assert table[at["ant"], at["bee"]] == table[at["eagle"], at["hawk"]] == pytest.approx(1 / 3)
    assert table[at["eagle"], at["robin"]] == pytest.approx(2 / 3)
    assert table[at["ant"], at["robin"]] == table[at["1"], at["ant"]] == 1


def test_soft_targets_give_kin_most_and_keep_the_likeliest(tmp_path):
    table = distances(read(tmp_path, GOOD), CLASSES)
    [soft] = soft_targets(torch.tensor([[0.0, 0, 1, 0, 0, 0]]), table, 6.0).numpy()
    assert soft.sum() == pytest.approx(1) and soft.argmax() == 2
    assert soft[3] / soft[2] == pytest.approx(np.exp(-2)) and soft[4] / soft[2] == pytest.approx(np.exp(-4))
    assert soft[0] / soft[2] == pytest.approx(np.exp(-6), rel=1e-4)


def test_severity_counts_mistakes_alone_and_the_gain_is_paired():
    table = np.array([[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]])
    labels = np.array([0, 0, 1, 2] * 30)
    near, far = np.array([0, 1, 1, 2] * 30), np.array([0, 2, 1, 2] * 30)
    assert severity(table, near, labels).value == 0.5 and severity(table, far, labels).value == 1
    assert severity(table, labels, labels).trials == 0
    told = judged(table, near, far, labels)
    assert told["with"]["mistakes"] == told["without"]["mistakes"] == 30
    assert told["gain"]["value"] == pytest.approx(0.125) and told["gain"]["low"] > 0
    assert judged(table, near, near, labels)["gain"]["low"] < 0


def test_the_bar_of_families_comes_from_pictures_without_a_sure_label():
    tree, names = Hierarchy((Family("ab", ("a", "b")), Family("cd", ("c", "d")))), ("a", "b", "c", "d", "e")
    rng = np.random.default_rng(0)
    rows, truth = [], []
    for number in range(200):
        total = rng.uniform(0.5, 1.0)
        rows.append([total / 2, total / 2, 0, 0, 1 - total])
        truth.append(number % 2 if total > 0.8 else 4)  # a family said at 0.8 or less is wrong here
    chances, labels = np.array(rows), np.array(truth)
    bar = family_bar(chances, labels, names, tree, 0.9)
    assert 0.78 < bar < 0.83
    told = family_answers(chances, labels, names, tree, 0.9)
    assert told.pictures == 200 and 60 < told.answered < 100 and told.right >= told.answered - 3
    sure = np.eye(5)[labels]
    assert family_bar(sure, labels, names, tree, 0.9) == 0.95  # nothing to learn from


def test_what_is_counted_at_a_bar_is_what_is_served(tmp_path):
    tree, rng = read(tmp_path, GOOD), np.random.default_rng(1)
    chances = rng.dirichlet(np.full(6, 0.3), 300)
    labels = rng.integers(0, 6, 300)
    told, right = families_told(chances, labels, CLASSES, tree, 0.7)
    served = [at_bar(tree, 0.7).told(dict(zip(CLASSES, row.tolist(), strict=True))) for row in chances]
    assert told.tolist() == [one is not None for one in served] and 50 < told.sum() < 290
    assert right.tolist() == [
        one is not None and CLASSES[label] in tree.leaves[one[0]] for one, label in zip(served, labels, strict=True)
    ]


def paint(path, kind, seed):
    """Stripes that lie or stand, wide or narrow; the families differ by direction, the classes by a faint hue."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (72, 72, 3))
    wave = np.where((np.arange(72) + rng.integers(24)) // rng.integers(5, 12) % 2, 60, -60) * rng.uniform(0.5, 1.2)
    pixels = pixels + rng.integers(-40, 40)
    pixels = pixels + (wave[:, None, None] if kind.startswith("lying") else wave[None, :, None])
    pixels[..., 0 if kind.endswith("red") else 2] += rng.integers(-14, 22)
    write_picture(path, np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.slow
def test_a_tree_is_learned_with_exported_checked_installed_and_served(tmp_path, capsys):
    names = ("lying-red", "lying-blue", "standing-red", "standing-blue")
    for number, name in enumerate(names):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(20):
            paint(tmp_path / "pictures" / name / f"{index}.png", name, 100 * number + index)
    tree, run, home = tmp_path / "tree.yaml", tmp_path / "run", tmp_path / "home"
    tree.write_text("lying: [lying-red, lying-blue]\nstanding: [standing-red, standing-blue]\n")

    def say(*argv):
        code = main([*map(str, argv)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    train = ("train", "classifier", tmp_path / "pictures", "--output", run, "--hierarchy", tree, "--search", 0,
             "--unfreeze", 0, "--device", "cpu", "--json")  # fmt: skip
    code, out, err = say(*train)
    assert code == 0, err
    told = json.loads(out)["hierarchy"]
    assert told["pictures"] >= 8 and told["families"] == {"lying": [*names[:2]], "standing": [*names[2:]]}
    [best] = run.glob("best-*.safetensors")
    kept = load(best).hierarchy
    assert {family.name for family in kept.families} == {"lying", "standing"}
    tree.write_text("x: [lying-red, standing-blue]\ny: [standing-red, lying-blue]\n")
    code, _, err = say(*train, "--resume")
    assert code == 2 and "families" in err
    code, out, err = say("export", best, "-o", tmp_path / "stripes.onnx", "--licence", "own")
    assert code == 0, err
    card = inspect(tmp_path / "stripes.onnx").card
    assert {family.name: set(family.members) for family in card.hierarchy.families} == {
        "lying": set(names[:2]), "standing": set(names[2:]),
    }  # fmt: skip
    assert "families" in card.provenance
    code, _, err = say("models", "add", tmp_path / "stripes.onnx", "--home", home)
    assert code == 0, err
    fresh = tmp_path / "fresh.png"
    paint(fresh, "lying-red", 999)
    # No label is sure at 1: what is left is the family.
    code, out, err = say("recognize", fresh, "--model", card.id, "--unsure-below", 0.999999, "--json", "--home", home)
    assert code == 0, err
    answer = json.loads(out)
    assert answer["label"] == "lying" and answer["family"]["probability"] > 0.5
    code, out, _ = say("recognize", fresh, "--model", card.id, "--unsure-below", 0.999999, "--home", home)
    assert ": some lying 0." in out or ": some lying 1." in out
