"""Small-data methods: a teacher caught out, heads that find their direction, classes that count alike."""

import os
from dataclasses import replace

import numpy as np
import pytest

# Before torch is imported, as the command does: spinning threads starve the tests beside this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_models.classifier.losses import cosine_loss
from edge_models.classifier.network import CachedViews, Head
from edge_models.classifier.recipe import _weights, fit_head, hard_targets, logits_of
from edge_models.classifier.small_data import add_pseudo_labels, taught_by
from edge_models.comparison.compare import keep_few
from edge_models.comparison.methods import Desk, attempt
from edge_models.comparison.shared import Shared
from edge_models.data.augment import mix
from edge_models.fitting.progress import Silence
from tests.models.workshops import workshop


def test_a_teacher_sees_through_a_wrong_label_and_knows_no_label_that_judges(tmp_path):
    torch.manual_seed(0)
    truth = [0, 1] * 40
    labels = list(truth)
    split = workshop(tmp_path, labels, torch.randn(80, 4)).split
    wrong, aside = split.train[3], list(split.validation)
    labels[wrong] = 1 - labels[wrong]
    teacher = 3 * torch.eye(2)[torch.tensor(truth)] + 0.3 * torch.randn(80, 2)
    work = taught_by(replace(workshop(tmp_path, labels, torch.randn(80, 4)), split=split), teacher)
    # Half of what it was told, half of what the teacher says: a wrong label and the teacher's right one cancel out.
    assert work.targets[wrong, truth[wrong]] == pytest.approx(0.5, abs=0.1)
    right = [i for i in split.fit if i != wrong]
    assert work.targets[right, torch.tensor(truth)[right]].min() > 0.85
    assert torch.allclose(work.targets.sum(1), torch.ones(80), atol=1e-5)
    # Other labels of what judges: what is learned from, and the opinion, stay as they were.
    for i in aside:
        labels[i] = 1 - labels[i]
    other = taught_by(replace(workshop(tmp_path, labels, torch.randn(80, 4)), split=split), teacher)
    fit = list(split.fit)
    assert torch.allclose(other.targets[fit], work.targets[fit])
    assert torch.allclose(other.targets[aside] - work.targets[aside], 0.5 * (1 - 2 * hard_targets(work.folder)[aside]))


def test_a_teacher_s_errors_are_counted_and_true_labels_do_not_leak(tmp_path):
    labels = np.array([0, 1] * 40)
    features = torch.from_numpy(np.where(labels, 1.0, -1.0)[:, None] + np.zeros((80, 3))).float()
    work, hidden = keep_few(workshop(tmp_path, [int(label) for label in labels], features, epochs=2, ridge=0.01), 8)
    # Its features say bee, its label says ant: the teacher must follow the features.
    liar = next(row for row in hidden if labels[row] == 0)
    features[liar] = 1.0
    student, teaching = add_pseudo_labels(work, hidden)
    assert teaching.offered == len(hidden) == len(teaching.rows) and liar in teaching.rows
    assert student.targets[liar].argmax() == 1 and student.options.dropout > 0
    assert student.split.train[-len(hidden) :] == hidden
    desk = Desk(Shared(work.options, work.folder, None, Silence(), None, lambda: 0.0, {}), work, hidden, "8-0")
    counts = attempt("pseudo-labels", desk).counts
    assert counts == {"learned": 16, "offered": len(hidden), "taken": len(hidden), "wrong": 1}


@pytest.mark.parametrize("loss", ["cosine", "cosine+cross-entropy"])
def test_a_cosine_head_finds_its_direction_in_few_steps(tmp_path, loss):
    rng = np.random.default_rng(0)
    labels = [0, 1] * 20
    features = torch.from_numpy(rng.normal(0, 1, (40, 200)) + 0.4 * np.array(labels)[:, None]).float()
    for seed in range(3):
        work = workshop(tmp_path, labels, features, epochs=8, loss=loss, seed=seed, batch_size=64)
        head, _ = fit_head(work, work.split.fit, None, f"head-{seed}")
        fit = list(work.split.fit)
        assert (logits_of(head, features[fit]).argmax(1) == work.folder.labels[fit]).mean() > 0.95


def test_the_cosine_s_second_matrix_begins_as_the_cosine_head():
    torch.manual_seed(0)
    both, alone = Head(6, 3, "cosine+cross-entropy"), Head(6, 3, "cosine")
    alone.linear.load_state_dict(both.linear.state_dict())
    features = torch.randn(5, 6)
    assert torch.allclose(both(features), alone(features), atol=1e-6)
    assert cosine_loss(both._outputs(features), torch.eye(3)[[0, 1, 2, 0, 1]]).item() > 0


def test_balanced_drawing_gives_every_class_the_same_chance_in_every_view(tmp_path):
    work = workshop(tmp_path, [0] * 30 + [1] * 10, torch.randn(40, 4), balanced=True)
    at = list(range(40))
    weights = _weights(work, at, 2)
    views = CachedViews(torch.zeros(2, 40, 4), at, work.targets, seed=0, all_views=True)
    drawn = views[(0, list(range(80)))][1].argmax(1).numpy()
    assert weights[drawn == 0].sum() == pytest.approx(weights[drawn == 1].sum())


@pytest.mark.parametrize(("mixing", "even"), [("mixup", 0.2), ("cutmix", 0.6)])
def test_mixing_draws_its_share_as_its_paper_does(mixing, even):
    """Beta(0.2, 0.2) seldom mixes evenly, Beta(1, 1) draws every share alike."""
    torch.manual_seed(0)
    inputs, targets = torch.zeros(2, 1, 32, 32), torch.eye(2)
    shares = np.array([float(mix(inputs, targets, mixing)[1][0, 0]) for _ in range(400)])
    assert ((shares > 0.2) & (shares < 0.8)).mean() == pytest.approx(even, abs=0.08)
