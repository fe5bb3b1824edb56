"""Small-data methods: a teacher caught out, heads that find their direction, classes that count alike."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

# Before torch is imported, as the command does: spinning threads starve the tests beside this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_models.classifier import noisy_student
from edge_models.classifier.heads import logits_of
from edge_models.classifier.losses import cosine_loss
from edge_models.classifier.module import ClassifierModule, Learning
from edge_models.classifier.network import CachedViews, Head
from edge_models.classifier.recipe import train
from edge_models.classifier.small_data import add_pseudo_labels, taught_by
from edge_models.classifier.stages import _weights, fit_head, hard_targets
from edge_models.comparison.attempts import Desk, attempt
from edge_models.comparison.compare import keep_few
from edge_models.comparison.shared import Shared
from edge_models.data.augment import mix
from edge_models.fitting.fit import FitResult
from edge_models.fitting.progress import Silence
from edge_models.networks.backbones import create_backbone
from edge_models.networks.feature_cache import FeatureBank
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


def students(tmp_path, monkeypatch, sure, rounds=2, unfreeze=0):
    """Rounds over made-up students: so sure of what is true in each round. Returns what came of it, notes, lessons."""
    labels = [0, 1] * 20
    features = torch.randn(52, 4, generator=torch.Generator().manual_seed(0))
    work = workshop(tmp_path, labels, features[:40], rounds=rounds, unlabelled=tmp_path, confidence=0.0, search=0)
    work = replace(work, options=replace(work.options, unfreeze=unfreeze))
    notes, lessons = [], []
    progress = Silence()
    monkeypatch.setattr(progress, "note", notes.append, raising=False)
    work = replace(work, backbone=create_backbone("small-resnet-8"), progress=progress)
    pooled = replace(
        work, bank=FeatureBank(features[None], None), targets=torch.cat([work.targets, torch.full((12, 2), 0.5)]),
        extra=tuple(tmp_path / f"{i}.png" for i in range(12)),
    )  # fmt: skip
    truth = np.array(labels + [0] * 12)

    def learned(lesson, given, watch, stage, until):
        lessons.append((stage, lesson.split.train[:given], lesson.split.train[given:], until))
        chance = np.stack([1 - truth, truth], 1) * (2 * sure[stage[-1]] - 1) + 1 - sure[stage[-1]]
        head = fit_head(lesson, lesson.split.fit, None, "x")[0]
        monkeypatch.setattr(head, "forward", lambda rows: torch.from_numpy(np.log(chance[find(rows)])))
        return noisy_student._Speaker(lesson, head, FitResult({}, 0.0, 4, ({"epoch": 0.0},), 1), deep=False)

    def find(rows):
        return [int((features == row).all(1).nonzero()[0]) for row in rows]

    monkeypatch.setattr(noisy_student, "with_unlabelled", lambda *_: (pooled, tuple(range(40, 52))))
    monkeypatch.setattr(noisy_student, "student_of", lambda work: replace(work, options=replace(work.options, views=1)))
    monkeypatch.setattr(noisy_student, "_learned", learned)
    return work, noisy_student.train_students(work), notes, lessons


def test_students_whose_layers_learn_tell_how_long_it_may_take(tmp_path, monkeypatch):
    _, _, notes, lessons = students(tmp_path, monkeypatch, {"1": 0.95, "2": 0.6, "t": 0.95}, unfreeze=2)
    told = [note for note in notes if "up to 5 students learn, each from about" in note]
    assert len(told) == 1 and told[0].endswith(" min") and len(lessons) == 4


def test_the_student_that_is_best_on_the_selection_part_ships_and_no_later_one(tmp_path, monkeypatch):
    work, trained, notes, lessons = students(tmp_path, monkeypatch, {"1": 0.95, "2": 0.6, "t": 0.95})
    split = work.split
    assert trained.chosen == "student" and "keeping student 1" in notes[-1]
    assert not any("min" in note for note in notes)  # heads alone are quick
    assert [stage for stage, *_ in lessons] == ["student-1", "student-2", "refit-student-1", "final-student"]
    for (_, given, believed, until), rows, epochs in zip(
        lessons, (split.train, split.train, split.fit, sorted(range(40))), (None, None, 5, 5), strict=True
    ):
        assert sorted(given) == sorted(rows) and until == epochs
        assert believed and set(believed) <= set(range(40, 52))
    # The figures are of what never saw the validation part, and are set against the teacher's.
    assert (trained.logits.argmax(1) == work.folder.labels[list(split.validation)]).all()
    assert trained.learned_all and (trained.head_logits != trained.logits).any()


def test_where_no_student_is_better_than_its_teacher_the_pool_is_left_out(tmp_path, monkeypatch):
    work, trained, notes, lessons = students(tmp_path, monkeypatch, {"1": 0.501, "2": 0.001})
    plain = train(work)
    assert trained.chosen == "head" and [note for note in notes if "no student is better than its teacher" in note]
    assert np.allclose(trained.logits, plain.logits) and [stage for stage, *_ in lessons] == ["student-1", "student-2"]


def test_given_labels_are_a_quarter_of_what_a_student_sees(tmp_path, monkeypatch):
    labels, seen = [0, 1] * 20, {}
    work = workshop(tmp_path, labels, torch.randn(40, 4))
    rows = (*work.split.train, *range(40, 1240))
    work = replace(
        work, options=replace(work.options, unfreeze=2, dropout=0.3), split=replace(work.split, train=rows),
        targets=torch.cat([work.targets, torch.full((1200, 2), 0.5)]),
    )  # fmt: skip

    def tune(lesson, head, train, watch, stage, until, by_batch):
        seen.update(weights=_weights(lesson, train, 1), dropout=head.dropout.p, epochs=lesson.options.tune_epochs)
        return head, None

    monkeypatch.setattr(noisy_student, "fit_tune", tune)
    given = len(rows) - 1200
    noisy_student._learned(work, given, None, "x", None)
    assert seen["weights"][:given].sum() / seen["weights"].sum() == pytest.approx(noisy_student.GIVEN_SHARE)
    assert len(set(seen["weights"][given:])) == 1 and seen["dropout"] == 0.3
    assert seen["epochs"] == round(noisy_student.SEEN * 8 / len(rows)) > 2


def test_a_student_s_rate_has_fallen_by_its_last_batch_and_a_refit_follows_the_same_schedule(monkeypatch):
    def rates(batches, epochs):
        place = SimpleNamespace(estimated_stepping_batches=batches, max_epochs=epochs)
        monkeypatch.setattr(ClassifierModule, "trainer", place)
        module = ClassifierModule(torch.nn.Identity(), Head(3, 2), [], Learning(1e-3, 2, by_batch=True))
        told = module.configure_optimizers()
        assert told["lr_scheduler"]["interval"] == "step"
        found = []
        for _ in range(batches):
            found.append(told["optimizer"].param_groups[0]["lr"])
            told["optimizer"].step()
            told["lr_scheduler"]["scheduler"].step()
        return found

    whole = rates(20, 2)
    assert max(whole) == pytest.approx(1e-3) and whole[-1] < 4e-5 and whole[0] < 5e-4
    assert rates(10, 1) == pytest.approx(whole[:10])
