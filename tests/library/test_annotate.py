"""Labelling: the head recovers what it was given, questions cover groups, answers survive kills, the app asks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import select
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_app.core.errors import EdgeError, UsageError
from edge_app.library.annotation import Annotation
from edge_app.library.ask import Steadiness, accuracy, fit_answers, kappa, lots_of, next_questions, suspects
from edge_app.library.features import plain_vector
from edge_app.library.head import MOST, centred, fit
from edge_app.library.labels import Answer, LabelFile, export, valid_class
from edge_app.library.simulate import simulate
from edge_app.media.pictures import write_picture
from edge_app.tui.annotate import KEYS, AnnotateApp
from edge_app.tui.picture.curve import learning_curve
from edge_app.tui.picture.terminal import Terminal


def clouds(per_class, classes=3, size=20, spread=0.25, seed=0):
    """Unit vectors about one centre per class, and their classes, mixed."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(size, classes)))[0].T
    truth = rng.permutation(np.repeat(np.arange(classes), per_class))
    return centred((centres[truth] + rng.normal(0, spread, (len(truth), size))).astype(np.float32)), truth


def test_the_head_s_left_out_answers_are_those_of_heads_fitted_without():
    features, truth = clouds(8, spread=0.6)
    head = fit(features, truth, 3)
    for left in (0, 5, 11):
        rest = np.delete(np.arange(24), left)
        # The same ridge, no class weights: by hand.
        counts = np.bincount(truth, minlength=3)
        root = np.sqrt(24 / (3 * counts))[truth]
        x = np.concatenate([features, np.ones((24, 1))], axis=1) * root[:, None]
        y = (np.eye(3)[truth] - 1 / 3) * root[:, None]
        scores = {}
        for ridge in np.logspace(-3, 1, 9):
            weights = np.linalg.solve(x[rest].T @ x[rest] + ridge * np.eye(21), x[rest].T @ y[rest])
            scores[ridge] = np.append(features[left], 1) @ weights
        shown = head.left_out[left]
        made = [np.exp(head.sharpness * s - (head.sharpness * s).max()) for s in scores.values()]
        assert min(np.abs(m / m.sum() - shown).max() for m in made) < 1e-6


def test_a_rare_class_is_not_drowned():
    features, truth = clouds(60, classes=2, spread=0.35)
    keep = np.concatenate([np.flatnonzero(truth == 0), np.flatnonzero(truth == 1)[:3]])
    found = fit(features[keep], truth[keep], 2).probabilities(features).argmax(axis=1)
    assert np.mean(found[truth == 1] == 1) > 0.7


def test_a_fit_of_very_many_uses_a_part():
    features, truth = clouds(MOST, classes=2, size=4)
    assert len(fit(features, truth, 2).fitted_on) == MOST


def questions_for(features, answers, passed_over=(), fitted=None, size=10, seed=0, lots=()):
    return next_questions(features, answers, passed_over, fitted, size, np.random.default_rng(seed), lots)


def test_the_first_questions_are_one_for_each_group():
    features, truth = clouds(40, classes=5, spread=0.1)
    asked = [one.picture for one in questions_for(features, {}, size=5)]
    assert set(truth[asked].tolist()) == set(range(5))


def test_a_group_in_which_something_was_asked_waits_however_large_it_is():
    rng = np.random.default_rng(0)
    features = np.repeat(np.eye(2, 8, dtype=np.float32), (30, 5), axis=0)
    features = centred(features + rng.normal(0, 0.02, features.shape).astype(np.float32))
    picked = [questions_for(features, {0: 0}, size=1, seed=seed)[0] for seed in range(12)]
    assert min(one.picture for one in picked) >= 30


def test_later_questions_are_doubted_ones_and_every_fifth_is_the_next_that_was_drawn():
    features, truth = clouds(60, spread=0.7)
    answers = {i: int(truth[i]) for i in range(40)}
    fitted = fit_answers(features, answers, 3)
    questions = questions_for(features, answers, (), fitted, lots=[7, 100, 90, 80])
    assert [(n, one.picture) for n, one in enumerate(questions) if one.why == "random"] == [(4, 100), (9, 90)]
    doubted = [one.picture for one in questions if one.why == "doubt"]
    left = np.setdiff1d(np.arange(180), list(answers))
    assert fitted.doubt[doubted].mean() > np.median(fitted.doubt[left]) + 0.05
    assert len({one.picture for one in questions} | set(answers)) == 50


def test_only_the_draw_asks_about_what_it_holds_until_nothing_else_is_left():
    features, truth = clouds(20)
    lots = [3, 30, 31, 32, 33]
    first = questions_for(features, {}, lots=lots, size=40)
    assert [one.picture for one in first if one.why == "random"] == lots[:5]
    assert not {one.picture for one in first if one.why != "random"} & set(lots)
    answers = {i: int(truth[i]) for i in range(60) if i not in lots}
    assert [(q.picture, q.why) for q in questions_for(features, answers, [3], lots=lots)] == [
        (one, "random") for one in lots[1:]
    ]


def test_every_fifth_picture_is_for_the_draw_and_none_added_later_changes_that():
    names = [f"{i}.jpg" for i in range(2000)]
    lots = lots_of(names)
    assert 350 < len(lots) < 450 and lots != sorted(lots)
    more = [*[f"new{i}.jpg" for i in range(500)], *names]
    assert [i - 500 for i in lots_of(more) if i >= 500] == lots


def test_the_last_pictures_are_asked_about_and_then_none():
    features, truth = clouds(4)
    answers = {i: int(truth[i]) for i in range(10)}
    fitted = fit_answers(features, answers, 3)
    assert [one.picture for one in questions_for(features, answers, [10], fitted)] == [11]
    assert questions_for(features, answers, [10, 11]) == []


def test_the_accuracy_is_that_of_pictures_drawn_at_random_alone():
    features, truth = clouds(30)
    wrong = dict(enumerate(truth[:80].tolist()))
    for i in range(10):
        wrong[i] = (wrong[i] + 1) % 3
    fitted = fit_answers(features, wrong, 3)

    def told(drawn):
        return accuracy(fitted, fit_answers(features, {i: wrong[i] for i in wrong if i not in drawn}, 3), wrong, drawn)

    assert told(range(10)).value < 0.2 and told(range(10)).trials == 10
    assert told(range(20, 40)).value > 0.9
    assert told([]).trials == 0
    assert told(range(79)).trials == 0 and (told(range(79)).low, told(range(79)).high) == (0, 1)


def test_the_interval_holds_the_truth_where_leaving_one_out_leaves_a_hole():
    # Two labels for each class: a head without one of them lacks half of its class, just where it is tried. The exact
    # interval of leave-one-out alone holds the truth in 5 and 10 of these 20 sessions.
    features, truth = clouds(20, classes=20, size=40, spread=0.2)
    runs = [run for run in simulate(features, truth, range(20), most=30) if run.order == "asked"]
    for labels in (25, 30):
        steps = [step for run in runs for step in run.steps if step.labels == labels]
        assert sum(one.promised[0] <= one.right <= one.promised[1] for one in steps) >= 18, labels
        assert np.mean([one.promised[1] - one.promised[0] for one in steps]) < 0.96


@pytest.mark.slow
def test_the_interval_narrows_and_holds_the_truth_with_many_labels():
    features, truth = clouds(150, spread=0.5, size=12)
    runs = [run for run in simulate(features, truth, range(30), most=150) if run.order == "asked"]
    last = [run.steps[-1] for run in runs]
    assert sum(one.promised[0] <= one.right <= one.promised[1] for one in last) >= 27
    assert np.mean([one.promised[1] - one.promised[0] for one in last]) < 0.4
    assert 0.4 < np.mean([one.right for one in last]) < 0.95


def test_wrong_labels_are_found_first():
    features, truth = clouds(40)
    spoiled = truth.copy()
    spoiled[[3, 50, 77]] = (spoiled[[3, 50, 77]] + 1) % 3
    head = fit(features, spoiled, 3)
    assert set(suspects(head, spoiled)[:3]) == {3, 50, 77}


def test_it_is_over_when_three_heads_in_a_row_say_the_same():
    one, other = np.array([0, 0, 1, 1] * 50), np.array([0, 1, 1, 1] * 50)
    assert kappa(one, one) == 1 and kappa(one, other) == pytest.approx(0.5) and kappa(one * 0, one * 0) == 1
    features, truth = clouds(30, spread=0.1)
    steady = Steadiness()
    for labels in (12, 15, 16, 17, 22):
        assert not steady.is_over
        steady.add(fit_answers(features, dict(enumerate(truth[:labels].tolist())), 3))
    assert steady.is_over and len(steady.kappas) == 3


def test_asking_reaches_the_target_with_fewer_labels_where_a_class_is_rare():
    features, truth = clouds(150, spread=0.12)
    keep = np.concatenate([np.flatnonzero(truth != 2), np.flatnonzero(truth == 2)[:12]])
    runs = list(simulate(features[keep], truth[keep], range(4), most=60))
    asked = [run.labels_for(0.99) for run in runs if run.order == "asked"]
    random = [run.labels_for(0.99) or 65 for run in runs if run.order == "random"]
    assert None not in asked and np.mean(asked) < np.mean(random)


# --- the file of answers ---------------------------------------------------------------------------------------------


def test_answers_are_read_back_and_the_last_counts(tmp_path):
    path = tmp_path / "labels.csv"
    first = LabelFile(path, clock=lambda: 0.0)
    first.add(Answer("a,1.jpg", "label", ("ant",), "group"))
    first.add(Answer("b.jpg", "both", ("ant", "bee")))
    first.add(Answer("a,1.jpg", "label", ("bee",), "doubt", "ant", 0.5))
    again = LabelFile(path)
    assert again.answers == first.answers
    assert again.answers["a,1.jpg"].classes == ("bee",) and again.twice == {"a,1.jpg": ("ant", "bee")}
    assert again.undo().picture == "a,1.jpg" and LabelFile(path).answers["a,1.jpg"].classes == ("ant",)
    assert again.undo().picture == "b.jpg" and set(LabelFile(path).answers) == {"a,1.jpg"}
    assert again.undo() is not None and again.undo() is None and not LabelFile(path).answers
    assert path.stat().st_mode & 0o077 == 0
    assert path.read_text().splitlines()[1] == '1970-01-01T00:00:00Z,"a,1.jpg",label,ant,group,,'


def three_ants(path):
    """A file of labels with three answers."""
    labels = LabelFile(path, clock=lambda: 0.0)
    for number in range(3):
        labels.add(Answer(f"{number}.jpg", "label", ("ant",)))
    return labels


def test_a_file_cut_off_anywhere_loses_at_most_the_row_that_was_being_written(tmp_path):
    path = tmp_path / "labels.csv"
    three_ants(path)
    content = path.read_bytes()
    rows = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for cut in range(rows[0], len(content)):
        path.write_bytes(content[:cut])
        labels = LabelFile(path, clock=lambda: 0.0)
        complete = sum(end <= cut for end in rows[1:])
        assert len(labels.answers) in (complete, complete + 1)
        labels.add(Answer("9.jpg", "skip"))
        assert LabelFile(path).answers["9.jpg"].kind == "skip" and len(LabelFile(path).answers) >= complete + 1


@pytest.mark.parametrize("content", [b"hello", b"picture,label\na,b\n", b"\x89PNG\r\n"])
def test_another_file_is_not_written_into(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(EdgeError, match="is no file of answers"):
        LabelFile(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["", "a/b", "a|b", "..", ".x", "bell\a", "x" * 200])
def test_a_class_that_can_be_no_folder_is_refused(name):
    with pytest.raises(UsageError):
        valid_class(name)


def test_a_folder_per_class_is_made_and_nothing_in_it_replaced(tmp_path):
    pile = tmp_path / "pile"
    (pile / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png", "c.png"):
        write_picture(pile / name, np.full((40, 40, 3), 90, np.uint8))
    labels = LabelFile(tmp_path / "labels.csv")
    for name, one in (("a.png", "ant"), ("sub/a.png", "bee"), ("gone.png", "bee")):
        labels.add(Answer(name, "label", (one,)))
    labels.add(Answer("c.png", "both", ("ant", "bee")))
    for copy in (False, True):
        into = tmp_path / f"out{copy}"
        (into / "ant").mkdir(parents=True)
        (into / "ant" / "a.png").write_bytes(b"mine")
        done = export(labels, pile, into, copy=copy)
        assert (done.counts, done.left_out) == ({"ant": 1, "bee": 1}, {"gone": 1, "both": 1})
        assert (into / "ant" / "a.png").read_bytes() == b"mine"
        [beside] = (into / "ant").glob("a-*.png")
        assert beside.read_bytes() == (pile / "a.png").read_bytes()
        (into / "bee" / ".a.png.a1b2c3d_.part").write_bytes(b"half")  # a kill left it
        export(labels, pile, into, copy=copy)
        assert len(list(into.glob("*/*.png"))) == 3
        assert (into / "bee" / ".a.png.a1b2c3d_.part").exists() is not copy
        assert (into / "bee" / "sub__a.png").is_symlink() is not copy
        assert (into / "bee" / "sub__a.png").read_bytes() == (pile / "sub" / "a.png").read_bytes()


def test_a_picture_that_is_labelled_anew_leaves_the_folder_of_its_old_label(tmp_path):
    pile, into = tmp_path / "pile", tmp_path / "out"
    pile.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write_picture(pile / name, np.full((40, 40, 3), 90, np.uint8))
    labels = LabelFile(tmp_path / "labels.csv")
    for name in ("a.png", "b.png", "c.png"):
        labels.add(Answer(name, "label", ("ant",)))
    export(labels, pile, into, copy=False)
    (into / "ant" / "b.png").unlink()
    shutil.copyfile(pile / "b.png", into / "ant" / "b.png")
    (into / "wasp").mkdir()
    (into / "wasp" / "a.png").write_bytes(b"mine")  # a picture of its own, of the same name
    for name in ("a.png", "b.png"):
        labels.add(Answer(name, "label", ("bee",)))
    labels.add(Answer("c.png", "neither"))
    done = export(labels, pile, into, copy=False)
    assert (done.counts, done.moved, done.stale) == ({"bee": 2}, 2, [into / "ant" / "b.png"])
    assert sorted(path.relative_to(into).as_posix() for path in into.rglob("*.png")) == [
        "ant/b.png", "bee/a.png", "bee/b.png", "wasp/a.png",
    ]  # fmt: skip
    assert (into / "wasp" / "a.png").read_bytes() == b"mine" and len(list(pile.iterdir())) == 3


def test_rows_that_somebody_spoiled_are_passed_over_and_named(tmp_path):
    path = tmp_path / "labels.csv"
    good = three_ants(path)
    whole = path.read_bytes()
    spoiled = [
        b"t,9.png,label,../up,group,,", b"t,9.png,label,a\0b,group,,", b"t,9.png,label,\x1b[31m,group,,",
        b"t,9.png,label,f\xfc,group,,", b"t,9.png,lable,ant,group,,", b"t;9.png;label;ant;group;;", b"t,9.png,label",
        b"t,9.png,label,a\rb,group,,", b"t,9.png,label," + b"x" * 200_000 + b",group,,", b"t,,label,ant,group,,",
        b"t,9.png,both,ant,group,,", b"t,9.png,label,ant,group,ant,often", b'"t,9.png,label,ant,group,,',
    ]  # fmt: skip
    path.write_bytes(whole + b"\n\r\n" + b"\n".join(spoiled))
    labels = LabelFile(path)
    assert labels.answers == good.answers and labels.strange == list(range(7, 7 + len(spoiled)))
    for same in (whole.replace(b"\n", b"\r\n"), whole.replace(b"time,picture", b'"time","picture"', 1)):
        path.write_bytes(same)
        assert LabelFile(path).answers == good.answers and LabelFile(path).strange == []


def test_what_was_taken_back_contradicts_nothing_and_a_spreadsheet_s_mark_is_no_stranger(tmp_path):
    path = tmp_path / "labels.csv"
    labels = LabelFile(path, clock=lambda: 0.0)
    for one in ("ant", "bee"):
        labels.add(Answer("a.png", "label", (one,)))
    assert labels.twice == {"a.png": ("ant", "bee")}
    labels.undo()
    assert labels.twice == {} and LabelFile(path).twice == {}
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert LabelFile(path).answers["a.png"].classes == ("ant",)


# --- the session and the app -----------------------------------------------------------------------------------------


def session_over(tmp_path, truth, features, **options):
    names = [f"{i}.png" for i in range(len(truth))]
    return Annotation(names, features, LabelFile(tmp_path / "labels.csv"), classes=("x", "y", "z"), **options)


def test_a_session_learns_says_how_well_and_goes_on_where_it_was(tmp_path):
    features, truth = clouds(60, spread=0.1)
    session = session_over(tmp_path, truth, features)
    for _ in range(60):
        asked = session.asked()
        session.answer("label", "xyz"[truth[int(asked.picture.partition(".")[0])]])
        if session.wants_fit:
            session.refit()
    told = session.curve[-1].accuracy
    lots = set(lots_of(session.pictures))
    assert 5 < told.trials <= len(lots) and told.value == 1
    # What was drawn does not teach what to ask about, or the accuracy told would be of pictures that doubt went around.
    assert len(session._choosing.answered) == session.curve[-1].labels - told.trials
    assert not lots & set(session._choosing.answered.tolist())
    assert session.is_over and session.counts.total() == 60
    again = session_over(tmp_path, truth, features)
    again.refit()
    right = [one == "xyz"[truth[i]] for i, (_, one, _) in enumerate(again.predictions())]
    assert np.mean(right) > 0.98 and again.answered["label"] == 60


def test_pictures_without_a_class_are_said_beside_the_accuracy(tmp_path):
    features, truth = clouds(60, spread=0.1)
    session = session_over(tmp_path, truth, features)
    drawn = 0
    while drawn < 6:
        asked = session.asked()
        drawn += asked.why == "random"
        if asked.why == "random" and drawn % 3 == 0:
            session.answer("neither" if drawn == 3 else "skip")
        else:
            session.answer("label", "xyz"[truth[int(asked.picture.partition(".")[0])]])
        if session.wants_fit:
            session.refit()
        if drawn == 2 and session.curve:
            assert "of the pile" in learning_curve(session.curve, 30, 7).plain
    session.refit()
    assert (session.curve[-1].accuracy.trials, session.curve[-1].classless) == (4, 2)
    said = learning_curve(session.curve, 30, 7).plain
    assert "right on 100 % of what has one class" in said and "4 drawn at random, 2 more have not" in said


def test_undoing_asks_the_same_picture_again(tmp_path):
    features, truth = clouds(20)
    session = session_over(tmp_path, truth, features)
    first = session.asked()
    session.answer("label", "x")
    assert session.asked().picture != first.picture
    assert session.undo() == first.picture and session.asked().picture == first.picture
    assert session.undo() is None


def test_checking_asks_about_the_wrong_labels_alone(tmp_path):
    features, truth = clouds(40, spread=0.1)
    known = {f"{i}.png": "xyz"[one] for i, one in enumerate(truth)}
    known["7.png"] = "xyz"[(truth[7] + 1) % 3]
    session = session_over(tmp_path, truth, features, known=known, checking=True)
    session.refit()
    asked = session.asked()
    assert (asked.picture, asked.why, asked.given) == ("7.png", "check", known["7.png"])
    assert asked.guesses[0][0] == "xyz"[truth[7]]
    session.answer("label", "xyz"[truth[7]])
    session.refit()
    assert session.asked() is None
    assert session.counts["xyz"[truth[7]]] == 40


def test_the_app_asks_and_a_key_answers(tmp_path):
    features, truth = clouds(30, spread=0.1)
    session = session_over(tmp_path, truth, features)
    shown = []

    def read(name):
        shown.append(name)
        return np.full((40, 60, 3), 200, np.uint8)

    async def play():
        app = AnnotateApp(session, read, Terminal("truecolor"))
        async with app.run_test(size=(110, 34)) as pilot:
            await pilot.pause(0.2)
            for _ in range(12):
                number = int(session.asked().picture.partition(".")[0])
                await pilot.press(KEYS[truth[number]])
                await pilot.pause(0.1)
            for keys in ("0", ("space",), ("b", "1", "2", "b")):
                await pilot.press(*keys)
                await pilot.pause(0.2)
            assert dict(session.answered) == {"label": 12, "neither": 1, "skip": 1, "both": 1}
            await pilot.press("u")
            await pilot.pause(0.2)
            assert session.answered["both"] == 0
            await pilot.press("n", *"wasp", "enter")
            await pilot.pause(0.2)
            assert session.classes[-1] == "wasp"
            said = str(app.query_one("#classes").render())
            assert "wasp" in said and "1" in said
            assert "14 answers" in str(app.query_one("#said").render())

    asyncio.run(play())
    assert len(shown) > 12


def play(session, read, keys, size=(110, 34), terminal="truecolor"):
    """Press keys, each after a moment unless they come in a tuple; what the side shows at the end, and the app."""

    async def pressed():
        app = AnnotateApp(session, read, Terminal(terminal))
        async with app.run_test(size=size) as pilot:
            await pilot.pause(0.3)
            for one in keys:
                await pilot.press(*([one] if isinstance(one, str) else one))
                await pilot.pause(0.3)
            side = {name: str(app.query_one(f"#{name}").render()) for name in ("question", "classes", "said")}
            told = [str(one.message) for one in app._notifications]
            return side | {"told": told, "width": app.query_one("#classes").content_size.width}

    return asyncio.run(pressed())


def test_a_key_that_is_pressed_before_the_next_picture_is_there_says_nothing_of_it(tmp_path):
    features, truth = clouds(20)
    session = session_over(tmp_path, truth, features)
    shown = []

    def read(name):
        time.sleep(0.2 if shown else 0)
        shown.append(name)
        return np.full((40, 60, 3), 200, np.uint8)

    play(session, read, [("1", "1", "2"), "2"])
    assert len(session._labels.answers) == 2 and list(session._labels.answers) == shown[:2]
    assert [one.classes for one in session._labels.answers.values()] == [("x",), ("y",)]


def test_an_answer_for_another_picture_than_is_asked_about_is_not_written(tmp_path):
    features, truth = clouds(20)
    session = session_over(tmp_path, truth, features)
    first = session.asked().picture
    session.answer("label", "x", of="other.png")
    assert not session.answered and session.asked().picture == first
    session.answer("label", "x", of=first)
    assert session.answered.total() == 1


def test_a_picture_that_is_gone_is_passed_over_and_not_labelled(tmp_path):
    features, truth = clouds(20)
    session = session_over(tmp_path, truth, features)
    gone = session.asked().picture

    def read(name):
        if name == gone:
            raise EdgeError(f"{name} does not exist")
        return np.full((40, 60, 3), 200, np.uint8)

    told = play(session, read, ["1", "0", "space", "1"])["told"]
    assert [(one.picture == gone, one.kind) for one in session._labels.answers.values()] == [
        (True, "skip"), (False, "label"),
    ]  # fmt: skip
    assert any("space passes over it" in one for one in told)


def test_what_is_taken_back_of_another_folder_is_told(tmp_path):
    features, truth = clouds(20)
    LabelFile(tmp_path / "labels.csv").add(Answer("far.png", "label", ("x",)))
    told = play(session_over(tmp_path, truth, features), lambda name: np.zeros((9, 9, 3), np.uint8), ["u"])["told"]
    assert any("far.png, which is not here" in one for one in told)


@pytest.mark.parametrize("size", [(120, 40), (90, 24), (80, 24), (50, 20), (20, 5)])
def test_every_class_has_a_line_of_its_own_in_every_terminal(tmp_path, size):
    from rich.cells import cell_len

    features, truth = clouds(20)
    session = session_over(tmp_path, truth, features)
    session.add_class("名前が長いクラスの名前です")
    side = play(session, lambda name: np.full((40, 60, 3), 200, np.uint8), ["1"], size)
    lines = side["classes"].splitlines()
    assert len(lines) == 4 and max(map(cell_len, lines)) <= side["width"]
    assert side["said"] == "1 answer"


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stripes(tmp_path):
    """A folder per direction of stripes."""
    rng = np.random.default_rng(0)
    for name, shape in (("across", (64, 1)), ("along", (1, 64))):
        (tmp_path / "parts" / name).mkdir(parents=True)
        for number in range(30):
            wave = np.repeat(rng.choice([40, 210], shape), 64, axis=shape.index(1))
            pixels = np.clip(wave[..., None] + rng.normal(0, 20, (64, 64, 3)), 0, 255).astype(np.uint8)
            write_picture(tmp_path / "parts" / name / f"{number}.png", pixels)
    return tmp_path / "parts"


def test_outlines_tell_stripes_apart_without_a_network(stripes):
    import cv2

    vectors = np.stack([plain_vector(cv2.imread(str(path))) for path in sorted(stripes.glob("*/*.png"))])
    features = centred(vectors)
    truth = np.repeat([0, 1], 30)
    head = fit(features[::6], truth[::6], 2)
    assert np.mean(head.probabilities(features).argmax(axis=1) == truth) > 0.95


def test_simulate_and_suggest_and_export(say, stripes, tmp_path):
    code, out, _ = say("annotate", "--simulate", stripes, "--seeds", 2, "--json")
    told = json.loads(out)
    assert code == 0 and told["asked"]["never"] == 0 and told["pictures"] == 60
    labels = LabelFile(tmp_path / "labels.csv")
    for name in ("across", "along"):
        for number in range(5):
            labels.add(Answer(f"{name}/{number}.png", "label", (name,)))
    code, out, _ = say("annotate", stripes, "--output", tmp_path / "labels.csv", "--recursive", "--suggest", "--json")
    told = json.loads(out)
    assert code == 0 and np.mean([one["picture"].startswith(one["label"]) for one in told]) > 0.9
    code, out, _ = say("annotate", stripes, "--output", tmp_path / "labels.csv", "--export", tmp_path / "made")
    assert (code, out) == (0, f"{tmp_path / 'made'}: across 5, along 5\n")


def test_labels_may_lie_elsewhere_and_in_the_pile(say, stripes, tmp_path):
    pile = tmp_path / "pile"
    pile.mkdir()
    for number in range(20, 30):
        (stripes / "across" / f"{number}.png").rename(pile / f"a{number}.png")
    words = ("annotate", pile, "--output", tmp_path / "labels.csv", "--suggest", "--json")
    code, out, _ = say(*words, "--known", stripes)
    told = {one["picture"]: one["label"] for one in json.loads(out) if not one["picture"].startswith("..")}
    assert code == 0 and list(told) == [f"a{n}.png" for n in range(20, 30)] and set(told.values()) == {"across"}
    stripes.rename(pile / "known")
    assert len(json.loads(say(*words, "--known", pile / "known")[1])) == 60


def test_answers_of_another_pile_are_told(say, stripes, tmp_path):
    labels = LabelFile(tmp_path / "labels.csv")
    for number, one in enumerate(("ant", "bee", "ant")):
        labels.add(Answer(f"far{number}.png", "label", (one,)))
    words = ("annotate", stripes, "--output", labels.path)
    code, _, err = say(*words, "--recursive", "--suggest")
    assert code == 2 and f"3 of 3 answers in {labels.path} are of pictures that are not here" in err
    code, out, err = say(*words, "--export", tmp_path / "made")
    assert (code, out) == (1, "") and "none can be exported: 3 gone" in err and not (tmp_path / "made").exists()


def test_spoiled_rows_are_told_with_their_line(say, stripes, tmp_path):
    labels = LabelFile(tmp_path / "labels.csv")
    labels.add(Answer("across/1.png", "label", ("ant",)))
    with labels.path.open("a") as file:
        file.write("a;b;c\n")
    code, _, err = say("annotate", stripes, "--output", labels.path, "--export", tmp_path / "made")
    assert code == 0 and f"{labels.path}: 1 line is no answer and passed over, such as line 3" in err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_in_a_poor_terminal_a_signal_ends_it_with_its_code_and_nothing_odd_is_drawn(stripes, tmp_path, name, code):
    root = Path(__file__).resolve().parents[2]
    words = ["annotate", str(stripes / "across"), "--output", str(tmp_path / "l.csv"), "--classes", "a,b"]
    pid, terminal = pty.fork()
    if pid == 0:
        # Whoever began the tests may have let them ignore it (nohup), and a program leaves that as it finds it.
        signal.signal(getattr(signal, name), signal.SIG_DFL)
        os.environ |= {"TERM": "xterm-256color", "PYTHONPATH": str(root), "EDGE_APP_HOME": str(tmp_path / "home")}
        os.environ |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        os.execv(sys.executable, [sys.executable, "-m", "edge_app", *words, "--embedder", "plain"])
    said, pressed_s, killed, ended = b"", 0.0, False, 0
    end_s = time.monotonic() + 180
    while not ended and time.monotonic() < end_s:
        if select.select([terminal], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):  # it has ended
                said += os.read(terminal, 1 << 16)
        if not killed and (tmp_path / "l.csv").exists():
            killed = True
            os.kill(pid, getattr(signal, name))
        elif not killed and b"answers" in said and time.monotonic() - pressed_s > 20:
            # A key counts for the picture that is shown, and it may not be yet.
            pressed_s = time.monotonic()
            os.write(terminal, b"1")
        ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(terminal)
    assert ended, said[-500:]
    assert os.waitstatus_to_exitcode(status) == code
    assert b"Traceback" not in said and b"\\u" not in said and LabelFile(tmp_path / "l.csv").answers


def test_a_terminal_that_cannot_draw_is_refused(say, stripes, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    code, _, err = say("annotate", stripes, "--output", tmp_path / "labels.csv")
    assert code == 2 and "cannot move its cursor" in err


def test_misuse_is_one_line(say, stripes, tmp_path):
    labels = tmp_path / "labels.csv"
    LabelFile(tmp_path / "other.csv").add(Answer("across/1.png", "label", ("ant",)))
    for words, line in (
        ((stripes,), "no --output"),
        ((stripes, "--output", labels, "--check"), "--check has nothing to check"),
        ((stripes, "--output", labels), "this is no terminal"),
        ((stripes, "--output", labels, "--export", tmp_path / "made"), "holds no answer"),
        ((stripes, "--output", labels, "--suggest", "--recursive"), "too few labels"),
        ((stripes, "--output", labels, "--suggest", "--recursive", "--embedder", "nix"), "no general image embedder"),
        (("--simulate", stripes, "--target", 2), "a share in (0, 1)"),
        (("--simulate", tmp_path), "40 of 2"),
        ((stripes, "--output", labels, "--suggest", "--most", 0), "--most 0; expected 1 or more"),
        ((tmp_path / "none", "--output", tmp_path / "other.csv", "--export", tmp_path / "made"), "is no folder"),
        ((stripes, "--output", tmp_path / "other.csv", "--export", tmp_path / "other.csv"), "is a file"),
    ):
        code, _, err = say("annotate", *words)
        assert code == 2 and line in err.splitlines()[-1], err
    shutil.rmtree(stripes)
    assert say("annotate", stripes, "--output", labels, "--suggest")[0] == 1
