"""Groups: a short cut that is built in is found and taken away; corrections by hand; what makes no sense is refused."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from edge_app.core.errors import UsageError
from edge_models.classifier.bias import (
    balance,
    column_to_balance,
    group_report,
    holm,
    right_out_of_fold,
    sentences,
    weights_by_cells,
    weights_by_dro,
)
from edge_models.classifier.losses import one_hot
from edge_models.classifier.options import ClassifierOptions
from edge_models.data.folder import Picture, PictureFolder, folds
from edge_models.data.groups import GroupTable

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = ClassifierOptions(Path("in"), Path("out"), head="logistic")


def folder_of(labels: np.ndarray) -> PictureFolder:
    thumb = np.zeros((16, 17), np.uint8)
    pictures = tuple(
        Picture(Path(f"{i}.png"), f"c{label}/{i}.png", int(label), str(i), (9, 9), thumb, 0.0)
        for i, label in enumerate(labels)
    )
    return PictureFolder(Path(), ("c0", "c1"), pictures, np.arange(len(labels)), ())


@pytest.fixture(scope="module")
def short_cut() -> tuple[PictureFolder, list[str], torch.Tensor]:
    """Class 0 is mostly of group a, class 1 of b; a strong feature tells the group, a weak one the class."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 300)
    groups = np.where(rng.random(600) < 0.92, labels, 1 - labels)
    features = rng.normal(0, 1, (600, 12))
    features[:, 0] += 3.0 * (2 * groups - 1)
    features[:, 1] += 0.9 * (2 * labels - 1)
    return folder_of(labels), ["ab"[group] for group in groups], torch.from_numpy(features).float()


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_weights_give_each_group_its_share_of_each_class_and_leave_the_classes_their_own() -> None:
    groups, labels = ["a"] * 6 + ["b"] * 2 + ["a"] * 2, np.array([0] * 8 + [1] * 2)
    weights = weights_by_cells(groups, labels)
    assert weights[:6].sum() == pytest.approx(weights[6:8].sum()) and weights.mean() == pytest.approx(1)
    assert weights[:8].sum() == pytest.approx(8) and weights[8:].sum() == pytest.approx(2)


@pytest.mark.parametrize("how", ["groups", "dro"])
def test_a_short_cut_is_told_and_balancing_takes_it_away_at_a_price_that_is_told(
    short_cut: tuple[PictureFolder, list[str], torch.Tensor], how: str
) -> None:
    folder, groups, features = short_cut
    targets = one_hot(torch.from_numpy(folder.labels.astype(np.int64)), 2)
    # For group-DRO the groups are the cells, as in the paper: here each class's rare ones.
    cells = [g if how == "groups" else f"{g} in {label}" for g, label in zip(groups, folder.labels, strict=True)]
    table = GroupTable({"site": tuple(groups), "cell": tuple(cells)}, (), 0)
    options = ClassifierOptions(Path("in"), Path("out"), head="logistic", balance=how)
    weights = balance(options, folder, cells, features, targets)
    before = right_out_of_fold(folder, features, targets, PLAIN, None)
    after = right_out_of_fold(folder, features, targets, PLAIN, weights)
    assert before is not None and after is not None
    rare = np.array([(g == "b") == (label == 0) for g, label in zip(groups, folder.labels, strict=True)])
    assert after[rare].mean() > before[rare].mean() + 0.15
    report = group_report(table, folder, before, after)
    told = " ".join(sentences(report))
    assert "site tells the class in 9" in told and "short cut" in told
    row = report["site"]["groups"]["a"]
    inside = np.array(groups) == "a"
    assert row["pictures"] == inside.sum() == sum(row["classes"].values())
    assert row["gain"]["value"] == pytest.approx(after[inside].mean() - before[inside].mean())
    assert row["before"]["value"] == pytest.approx(before[inside].mean())
    assert row["gain"]["value"] < 0  # what it cost the common ones


def test_a_gap_is_tested_and_corrected_for_all_groups() -> None:
    folder = folder_of(np.tile([0, 1], 200))
    right = np.ones(400, np.bool_)
    right[:40] = False  # 40 of the 80 pictures of one group
    table = GroupTable({"camera": tuple("abcde"[i // 80] for i in range(400)), "one": ("x",) * 400}, (), 0)
    report = group_report(table, folder, right, None)
    groups = report["camera"]["groups"]
    assert groups["a"]["p"] < 1e-6 and groups["a"]["gap"] == pytest.approx(-0.5)
    assert groups["a"]["gain"] is None and report["one"]["groups"]["x"]["p"] is None
    (told, *_) = sentences(report)
    assert told.startswith("camera: served worse than the rest: a (-50.0 points") and "b (" not in told
    even = np.arange(400) % 10 > 0
    assert sentences(group_report(table, folder, even, None)) == [
        "camera: no gap between its groups is shown (corrected for all groups of all columns)."
    ]


def test_group_dro_raises_the_group_that_is_served_worst(
    short_cut: tuple[PictureFolder, list[str], torch.Tensor],
) -> None:
    folder, groups, features = short_cut
    targets = one_hot(torch.from_numpy(folder.labels.astype(np.int64)), 2)
    cells = [f"{g}{label}" for g, label in zip(groups, folder.labels, strict=True)]
    weights = weights_by_dro(cells, features, targets, folds(folder, range(600), 3, 0), "logistic", 3.0)
    mean = {cell: weights[np.array(cells) == cell].mean() for cell in set(cells)}
    assert min(mean["b0"], mean["a1"]) > 4 * max(mean["a0"], mean["b1"])


def test_what_cannot_be_balanced_is_refused() -> None:
    def asked(**changes: str) -> ClassifierOptions:
        return ClassifierOptions(Path("in"), Path("out"), **changes)  # type: ignore[arg-type]

    table = GroupTable({"sex": ("f", "m"), "one": ("x", "x")}, (), 0)
    assert column_to_balance(asked(balance="classes"), None) is None
    assert column_to_balance(asked(balance="dro", balance_by="sex"), table) == ("f", "m")
    assert column_to_balance(asked(balance="groups", split_by="one"), table) == ("f", "m")
    with pytest.raises(UsageError, match="without --groups"):
        column_to_balance(asked(balance="groups"), None)
    with pytest.raises(UsageError, match="has the columns sex, one"):
        column_to_balance(asked(balance="groups"), table)
    with pytest.raises(UsageError, match="column one has one group only"):
        column_to_balance(asked(balance="groups", balance_by="one"), table)
    with pytest.raises(UsageError, match="no column 'age'"):
        column_to_balance(asked(balance="dro", balance_by="age"), table)
    with pytest.raises(UsageError, match="--balanced beside --balance groups"):
        ClassifierOptions(Path("in"), Path("out"), balanced=True, balance="groups")
