"""The contest: what is kept aside, who learns what, and what is said of the answers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edge_app.core.errors import UsageError
from edge_models.classifier import contest as contests
from edge_models.classifier.contest import Contest, drawn, hold, kept_aside
from edge_models.data.folder import Picture, PictureFolder
from edge_models.fitting.progress import Silence


def folder_of(count: int) -> PictureFolder:
    thumb = np.zeros((16, 17), np.uint8)
    pictures = tuple(
        Picture(Path(f"{i}.png"), f"c{i % 2}/{i}.png", i % 2, f"{i * 2654435761 % 2**32:08x}", (9, 9), thumb, 0.0)
        for i in range(count)
    )
    groups = np.arange(count) // 3  # three near-duplicates each
    return PictureFolder(Path("pictures"), ("c0", "c1"), pictures, groups, ())


def test_what_is_kept_aside_depends_on_the_pictures_alone_and_tears_no_near_duplicates() -> None:
    folder = folder_of(300)
    aside = kept_aside(folder, 3)
    assert 0.1 < aside.mean() < 0.75
    assert all(len(set(aside[folder.groups == group].tolist())) == 1 for group in range(100))
    order = np.random.default_rng(0).permutation(300)
    turned = PictureFolder(
        folder.root, folder.classes, tuple(folder.pictures[i] for i in order), folder.groups[order], ()
    )
    assert (kept_aside(turned, 3) == aside[order]).all()


def test_each_seed_draws_as_many_of_each_class_and_none_that_judges() -> None:
    folder = folder_of(300)
    aside = kept_aside(folder, 3)
    first, second = (drawn(folder, aside, 10, seed) for seed in (0, 1))
    assert np.bincount(folder.labels[first]).tolist() == [10, 10] and not aside[first].any() and first != second
    assert drawn(folder, aside, 10, 0) == first and len(drawn(folder, aside, None, 0)) == (~aside).sum()
    with pytest.raises(UsageError, match="to learn from"):
        drawn(folder, aside, 200, 0)


def test_answers_are_compared_picture_by_picture_and_finished_turns_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(300)
    turns: list[tuple[str, int]] = []

    def turn(who: str, seed: int, _: object, learn: list[int], judge: np.ndarray, __: object) -> dict[str, object]:
        turns.append((who, seed))
        answers = folder.labels[judge].copy()
        if who != "edge-app":
            answers[: len(answers) // 4] = 1 - answers[: len(answers) // 4]
        return {"answers": answers.tolist(), "cpu_s": 7.0}

    monkeypatch.setattr(contests, "scan", lambda _: folder)
    monkeypatch.setattr(contests, "_turn", turn)
    monkeypatch.setattr(contests, "_absent", lambda who, _: "no module" if who == "AutoGluon" else "")
    them = "timm lite0 + logistic regression"
    wanted = Contest(10, (0, 1), ("edge-app", them, "AutoGluon"), 1.0)
    table = hold(Path("pictures"), wanted, Silence(), tmp_path / "kept")
    ours, theirs = table["rows"]
    assert (ours["accuracy"], ours["cpu_s"], table["absent"]) == (1.0, 7.0, {"AutoGluon": "no module"})
    assert theirs["accuracy"] == pytest.approx(0.75, abs=0.01)
    assert 0.1 < theirs["ours_gains"]["low"] < theirs["ours_gains"]["value"] < theirs["ours_gains"]["high"]
    assert hold(Path("pictures"), wanted, Silence(), tmp_path / "kept") == table and len(turns) == 4
    (tmp_path / "kept" / "contest.json").write_text("[")
    with pytest.raises(UsageError, match="holds no contest"):
        hold(Path("pictures"), wanted, Silence(), tmp_path / "kept")


def test_a_contestant_that_fails_is_named_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nobody is called"):
        Contest(None, (0,), ("Alice",), 1.0)
    with pytest.raises(UsageError, match="cannot be run"):
        contests._absent("AutoGluon", str(tmp_path / "no-python"))
    assert "ModuleNotFoundError" in contests._absent("AutoGluon", sys.executable)
    assert json.dumps(contests._absent("edge-app", sys.executable)) == '""'
