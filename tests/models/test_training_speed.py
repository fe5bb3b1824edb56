"""The training contest: what is compared with what, and that both sides do the same work."""

import copy
from functools import partial

import pytest

pytest.importorskip("torch")

from edge_app.core.errors import UsageError
from edge_models.classifier import training_speed
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.training_speed import _LEARNING, TARGETS, Cost, _hand_network, measure, rows
from edge_models.fitting.progress import Silence
from edge_models.networks import feature_cache
from edge_models.networks.backbones import create_backbone
from tests.models.test_train_data import paint

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_epoch_by_hand_counts_as_often_as_there_are_epochs_and_ratios_are_of_one_round():
    taken = {
        "hand_extract": [Cost(2, 4), Cost(8, 4)],
        "ours_extract": [Cost(1, 1), Cost(2, 1)],
        "hand_epoch": [Cost(3, 3), Cost(3, 3)],
        "ours_cached": [Cost(6, 6), Cost(6, 6)],
        "hand_tune": [Cost(5, 5), Cost(5, 5)],
        "ours_tune": [Cost(10, 5), Cost(10, 5)],
        "ours_whole": [Cost(10, 10), Cost(10, 10)],
    }
    extract, cached, tune, whole = rows(taken, 7, 20)
    assert extract["times_faster"] == 3 and (extract["least"], extract["most"]) == (2, 4)
    assert extract["times_less_cpu"] == 4 and extract["what"] == "features of 7 pictures"
    assert cached["hand_s"] == 60 and cached["times_faster"] == 10 and cached["met"]
    assert tune["times_faster"] == 0.5 and not tune["met"] and tune["times_less_cpu"] == 1
    assert whole["hand_s"] == 20 * 3 + 8 * 5 and whole["times_faster"] == 10


def test_the_layers_that_learn_by_hand_are_those_that_the_default_unfreezes():
    backbone = create_backbone()
    ours = {id(p) for group in backbone.unfreeze(2) for p in group}
    names = {name for name, p in backbone.body.named_parameters() if id(p) in ours}
    assert names and names == {name for name, _ in _hand_network().named_parameters() if name.startswith(_LEARNING)}


@pytest.mark.slow
def test_the_contest_runs_to_its_end_on_files(tmp_path, monkeypatch):
    # Not the figures count here, so one thread, few epochs, and networks that are copied and not built each time.
    monkeypatch.setattr(training_speed, "ClassifierOptions", partial(ClassifierOptions, tune_epochs=1))
    monkeypatch.setattr(training_speed, "default_threads", lambda: 1)
    for build in ("create_backbone", "_hand_network"):
        monkeypatch.setattr(training_speed, build, partial(copy.deepcopy, getattr(training_speed, build)()))
    for label, name in enumerate(("cat", "dog")):
        for number in range(3):
            paint(tmp_path / name / f"{number}.png", 100 * label + number)
    found = measure(tmp_path, 2, 1, Silence())
    assert found["pictures"] == 6 and [row["target"] for row in found["rows"]] == list(TARGETS.values())
    assert all(row["hand_s"] > 0 and row["ours_s"] > 0 and row["times_less_cpu"] > 0 for row in found["rows"])


@pytest.mark.parametrize(("epochs", "rounds"), [(0, 1), (1, 0)])
def test_counts_below_one_are_refused(tmp_path, epochs, rounds):
    with pytest.raises(UsageError, match="expected 1 or more"):
        measure(tmp_path, epochs, rounds, Silence())


def test_threads_are_no_more_than_the_environment_allows(monkeypatch):
    monkeypatch.setattr(feature_cache.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    found = []
    for told in ("1", "3", "9", "", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        found.append(feature_cache.default_threads())
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [*found, feature_cache.default_threads()] == [1, 3, 4, 4, 4, 4, 4]
