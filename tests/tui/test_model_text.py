"""Live with a classifier or with things, under Textual's Pilot: the real worker over readers without networks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.widgets import DataTable, Input, OptionList

from edge_app.core.errors import ModelError
from edge_app.core.task import LookFor, Task
from edge_app.core.types import Classification, ClassScore, Embedding, Finding, Frame, Heatmap, Seen
from edge_app.gallery.enrollment import EnrollOptions, Shot
from edge_app.gallery.storage import Vault
from edge_app.live import worker
from edge_app.live.events import LiveEvent
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.model_store.choose_build import Choice
from edge_app.model_store.shipped import Entry
from edge_app.recognition.classes import ClassRecognizer
from edge_app.recognition.open_session import open_people
from edge_app.recognition.session import Session
from edge_app.recognition.things import ThingSession
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from edge_app.tui.app import EdgeApp
from edge_app.tui.model_text import answer_event_words, bar, heat_words, marks_of_findings, seen_words
from edge_app.tui.picture.area import Area
from edge_app.tui.picture.widget import Picture, Thumbnail
from edge_app.tui.screens.enroll_person import EnrollScreen
from edge_app.tui.screens.enroll_thing import ThingScreen
from edge_app.tui.screens.live import LiveScreen
from edge_app.tui.screens.models import ModelsScreen
from tests.fakes import points
from tests.tui.stage import OBAMA_ALONE, HalfClassifier, Stage, ThingDouble, classifier_card, clip_frame, until

SIZE = (100, 30)
HALVES = classifier_card("halves", licence="research only", commercial_use=False)
POINTS = points((1e-1, 0.5), (1e-3, 0.7))
THINGS = replace(
    classifier_card("objects", outputs=("embedding",), embedding_size=4, operating_points=POINTS),
    task="image-embedding",
    family="embedding",
    labels=(),
)


def half(left: int, right: int) -> np.ndarray:
    pixels = np.full((60, 80, 3), right, np.uint8)
    pixels[:, :40] = left
    return pixels


@pytest.fixture
def stage(home: Home, monkeypatch: pytest.MonkeyPatch) -> Stage:
    def opened(home: Home, settings: Settings, look_for: LookFor, options: Any) -> Session:
        if look_for.word == "gone":
            raise ModelError("there is no model called 'gone'")
        if look_for.word != THINGS.id:
            return Session(home, settings, ClassRecognizer(HalfClassifier(replace(HALVES, id=look_for.word))))
        choice = Choice(Entry(THINGS.id, "fp32", THINGS.task, Path("objects.onnx"), "0" * 64, 0), "made up", {})
        return ThingSession(home, settings, ThingDouble(THINGS), Vault(home.gallery_path), choice)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "open_session", opened)
    monkeypatch.setattr(ThingDouble, "refused", ())
    return Stage(home, cards=[HALVES, THINGS])


def words(app: EdgeApp, selector: str) -> str:
    return str(app.screen.query_one(selector).render())


def seen(app: EdgeApp) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def told(app: EdgeApp) -> str:
    """The messages that are shown."""
    return " ".join(notification.message for notification in app._notifications)


def area_of(stage: Stage) -> Any:
    """The box that the worker looks at."""
    return stage.workers[-1].mode.session.recognizer.area


def shown(app: EdgeApp) -> np.ndarray:
    return app.screen.query_one(Picture)._mosaic._shown


async def looking_for(stage: Stage, app: EdgeApp, pilot: Any, model_id: str) -> None:
    """Start, and choose a model in the list."""
    await until(lambda: stage.reels, "the camera is opened")
    await pilot.press("l")
    await until(lambda: app.screen.query("ChooseModel OptionList"), "the list")
    options = app.screen.query_one(OptionList)
    texts = [str(options.get_option_at_index(index).prompt) for index in range(options.option_count)]
    options.highlighted = next(index for index, text in enumerate(texts) if text.startswith(model_id))
    await pilot.press("enter")
    await until(lambda: app.latest and app.latest.look_for == LookFor(model_id), "the model is in use")
    await until(lambda: isinstance(app.screen, LiveScreen) and app.screen.looks_for(*_TASKS), "its card is known")


_TASKS = (Task.CLASSIFICATION, Task.IMAGE_EMBEDDING)


async def test_a_classifier_shows_its_classes_its_licence_and_what_it_sees(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "halves")
        assert stage.saved[-1].model == "halves"
        stage.reel.feed([half(250, 20)])
        await until(lambda: "● left" in words(app, "#here"), "the answer")
        lines = words(app, "#here").splitlines()
        assert lines[1].startswith("left") and "93%" in lines[1] and lines[2].startswith("right")
        assert lines[1].count("█") == 7 and "█" not in lines[2]
        here = app.screen.query_one("#here")
        assert (here.border_title, here.border_subtitle) == ("halves", "NO COMMERCIAL USE")
        await until(lambda: " left 93% " in seen(app), "the label over the picture")
        await until(lambda: "Threshold" not in (keys := words(app, "KeyBar")) and "Explain" in keys, "its keys")


async def test_below_the_bar_it_is_not_sure(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "halves")
        stage.reel.feed([half(120, 100)])
        await until(lambda: "? not sure" in words(app, "#here"), "the answer")
        await until(lambda: " ? not sure " in seen(app), "the label")
        await until(lambda: "left" in words(app, "#here"), "its words")


async def test_explain_warms_the_picture_where_the_evidence_lies_and_says_so(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "halves")
        stage.reel.feed([half(200, 40)])
        await until(lambda: "● left" in words(app, "#here"), "the answer")
        plain = shown(app).astype(int)
        assert not np.ptp(plain[20:40, 20:60], axis=2).any()
        await pilot.press("x")
        await until(lambda: stage.workers[-1].mode.explaining, "it explains")
        stage.reel.feed([half(200, 40)] * 2)
        await until(lambda: "where the network sees 'left'" in words(app, "#notice"), "what is shown")
        warm = np.ptp(shown(app).astype(int), axis=2)
        middle = warm.shape[1] // 2
        assert warm[:, : middle - 8].max() > 60
        assert warm[:, middle + 12 :].max() < 10
        await pilot.press("x")
        # At once: no new picture may come for a while, and none of the faintest colours stays.
        await until(lambda: not np.ptp(shown(app).astype(int), axis=2).any(), "plain again")
        await until(lambda: not stage.workers[-1].mode.explaining, "no more")
        await until(lambda: not app.screen.query_one("#notice").display, "the line is gone")
        stage.reel.feed([half(200, 40)])
        await until(lambda: app.screen._shown.frame.index == 3, "the next one")
        await until(lambda: not np.ptp(shown(app).astype(int), axis=2).any(), "plain too")


async def test_explain_ends_without_a_trace_while_nothing_new_is_looked_at(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "halves")
        stage.reel.feed([half(200, 40)])
        await until(lambda: app.screen._shown is not None, "a picture")
        await pilot.press("x")
        await until(lambda: stage.workers[-1].mode.explaining, "it explains")
        stage.reel.feed([half(200, 40)])
        await until(lambda: "where the network sees" in words(app, "#notice"), "what is shown")
        await until(lambda: np.ptp(shown(app).astype(int), axis=2).max() > 60, "colours")
        await pilot.press("space")
        await until(lambda: "paused" in words(app, "#notice"), "the notice stays where it is")
        await pilot.press("x")
        await until(lambda: not np.ptp(shown(app).astype(int), axis=2).any(), "plain, to the faintest colour")


async def test_a_chosen_model_is_used_again_at_the_next_start_and_faces_when_it_is_gone(stage: Stage) -> None:
    stage.settings = replace(stage.settings, model="halves")
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True):
        await until(lambda: app.latest and app.latest.look_for == LookFor("halves"), "the kept choice")
    stage.settings = replace(stage.settings, model="gone")
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True):
        await until(lambda: "faces are looked for instead" in told(app), "the reason")
        stage.reel.feed([clip_frame(50)])
        await until(lambda: app.screen._shown is not None and app.latest.look_for == LookFor("faces"), "faces")


async def test_a_model_that_cannot_be_used_leaves_the_choice_as_it_was(stage: Stage) -> None:
    stage.cards.append(classifier_card("gone"))
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await pilot.press("o")
        await until(lambda: isinstance(app.screen, ModelsScreen) and app.screen.query_one(DataTable).row_count == 5, "")
        app.screen.query_one(DataTable).move_cursor(row=4)
        await pilot.press("u")
        await until(lambda: "there is no model called" in told(app), "the reason")
        assert not stage.saved and app.settings.model == "faces"


@pytest.mark.slow
async def test_a_box_is_drawn_with_the_mouse_and_left_with_escape(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "objects")
        stage.reel.feed([half(250, 0)])
        await until(lambda: "? unknown" in words(app, "#here"), "the whole picture is unknown")
        live = app.screen
        picture = live.picture
        scale, left, top = picture._mosaic._place
        start = (round(left + 10 * scale), round((top + 10 * scale) / 2))
        end = (round(left + 30 * scale), round((top + 40 * scale) / 2))
        await pilot.mouse_down("#picture", offset=start)
        await pilot.hover("#picture", offset=end)
        await pilot.mouse_up("#picture", offset=end)
        await until(lambda: area_of(stage) is not None, "the area")
        area = area_of(stage).tolist()
        assert area == pytest.approx([10, 10, 30, 40], abs=4)
        stage.reel.feed([half(250, 0)])
        await until(lambda: "● lamp" in words(app, "#here"), "the thing in the box")
        await until(lambda: " lamp 0.90 " in seen(app), "its name over the picture")
        await until(
            lambda: "Whole picture" in words(app, "KeyBar").replace("\u00a0", " "), "the key for the whole picture"
        )
        await pilot.press("escape")
        await until(lambda: area_of(stage) is None, "the whole picture")
        assert live.area is None


@pytest.mark.slow
async def test_a_classifier_looks_at_the_box_that_the_mouse_drew_and_the_shares_for_roi_are_told(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "halves")
        stage.reel.feed([half(20, 250)])
        await until(lambda: "● right" in words(app, "#here"), "the answer for the whole picture")
        scale, left, top = app.screen.picture._mosaic._place
        start = (round(left + 10 * scale), round((top + 10 * scale) / 2))
        end = (round(left + 30 * scale), round((top + 40 * scale) / 2))
        await pilot.mouse_down("#picture", offset=start)
        await pilot.hover("#picture", offset=end)
        assert "--roi" not in told(app), "the box is still being drawn"
        await pilot.mouse_up("#picture", offset=end)
        await until(lambda: area_of(stage) is not None, "the area")
        assert area_of(stage).tolist() == pytest.approx([10, 10, 30, 40], abs=4)
        [shares] = re.findall(r"--roi ([\d.,]+)", told(app))
        x1, y1, x2, y2 = (float(share) for share in shares.split(","))
        assert [x1 * 80, y1 * 60, x2 * 80, y2 * 60] == pytest.approx(area_of(stage).tolist(), abs=0.1)
        stage.reel.feed([half(20, 250)])
        await until(lambda: "? not sure" in words(app, "#here"), "one half lies in the box, of one light")
        await pilot.press("escape")
        await until(lambda: area_of(stage) is None, "the whole picture")
        stage.reel.feed([half(20, 250)])
        await until(lambda: "● right" in words(app, "#here"), "the answer for the whole picture again")


async def test_a_box_is_moved_and_resized_with_keys(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "objects")
        stage.reel.feed([half(250, 0)])
        await until(lambda: app.screen._shown is not None, "a picture")
        await pilot.press("b")
        assert app.screen.area.box == (25, 15, 55, 45)
        await pilot.press("left", "up", "plus")
        x1, y1, x2, y2 = app.screen.area.box
        assert (x1, y1, x2, y2) == pytest.approx((21.4, 11.4, 53.8, 43.8))
        await until(
            lambda: area_of(stage) is not None and area_of(stage).tolist() == pytest.approx([x1, y1, x2, y2]),
            "the newest box",
        )


async def test_a_mirrored_picture_gives_boxes_of_the_true_one(stage: Stage) -> None:
    stage.looks["mirror"] = True
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "objects")
        stage.reel.feed([half(250, 0)])
        await until(lambda: app.screen._shown is not None, "a picture")
        scale, left, top = app.screen.picture._mosaic._place
        start = (round(left + 50 * scale), round((top + 10 * scale) / 2))
        end = (round(left + 70 * scale), round((top + 40 * scale) / 2))
        await pilot.mouse_down("#picture", offset=start)
        await pilot.hover("#picture", offset=end)
        await pilot.mouse_up("#picture", offset=end)
        await until(lambda: app.screen.area is not None, "the area")
        assert app.screen.area.box == pytest.approx((10, 10, 30, 40), abs=4)


@pytest.mark.slow
async def test_a_thing_is_enrolled_from_two_captures(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "objects")
        stage.reel.feed([half(250, 0)])
        await until(lambda: app.screen._shown is not None, "a picture")
        await pilot.press("b")
        await until(lambda: area_of(stage) is not None, "the box")
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, ThingScreen), "the screen of things")
        await pilot.press(*"lamp", "enter")
        await until(lambda: stage.workers[-1].capturing, "it captures")
        stage.reel.feed([half(0, 0)])
        await until(lambda: app.screen._look is not None, "a look")
        await pilot.press("space")
        await until(lambda: "more light" in words(app, "#caution"), "the refusal")
        stage.reel.feed([half(250, 0)])
        await until(lambda: isinstance(app.screen._look, Shot), "a look")
        await pilot.press("space", "enter")
        await until(lambda: "one more side is needed" in words(app, "#caution"), "one is too few")
        await pilot.press("space")
        await until(lambda: len(app.screen.query(Thumbnail)) == 2, "two thumbnails")
        assert [shot.box.tolist() for shot in app.screen.taken] == [[25, 15, 55, 45]] * 2
        assert "lamp" not in app.worker.people.vault.names("objects")
        await pilot.press("enter")
        await until(lambda: "lamp is enrolled" in words(app, "#facts"), "the facts")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, LiveScreen), "the live picture")
    with Vault(stage.home.gallery_path) as vault:
        assert len(vault.identity("lamp", "objects").templates) == 2


@pytest.mark.slow
async def test_the_box_is_put_around_a_thing_with_keys_while_it_is_enrolled(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "objects")
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, ThingScreen), "the screen of things")
        # A name may have a b in it.
        await pilot.press(*"bulb", "enter")
        await until(lambda: stage.workers[-1].capturing, "it captures")
        stage.reel.feed([half(250, 0)])
        await until(lambda: app.screen._look is not None, "a look")
        await until(lambda: "b and the arrows" in words(app, "#advice"), "how the box is moved")
        assert "arrows" not in words(app, "KeyBar")
        await pilot.press("b", "left", "up", "plus", "shift+down")
        assert app.area is not None
        box = app.area.box
        assert box == pytest.approx((21.4, 10.2, 53.8, 45.0))
        await until(lambda: "arrows\u00a0Move\u00a0the\u00a0box" in words(app, "KeyBar"), "the keys of the box")
        await pilot.press("space")
        await until(lambda: "has just moved" in words(app, "#caution"), "that this answer is for another box")
        assert len(app.screen.taken) == 0
        await until(lambda: area_of(stage) is not None and area_of(stage).tolist() == pytest.approx(box), "the box")
        stage.reel.feed([half(250, 0)])
        await until(lambda: not app.screen.is_behind(app.screen._seen), "its answer")
        await pilot.press("space")
        await until(lambda: len(app.screen.taken) == 1, "a capture")
        assert app.screen.taken[0].box == pytest.approx(box, abs=1e-3)
        await pilot.press("w")
        assert app.area is None


@pytest.mark.slow
async def test_the_bar_and_the_facts_of_a_thing_agree_on_enter(stage: Stage) -> None:
    ThingDouble.refused = ("it looks like mug",)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "objects")
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, ThingScreen), "the screen of things")
        await pilot.press(*"lamp", "enter")
        await until(lambda: stage.workers[-1].capturing, "it captures")
        stage.reel.feed([half(250, 0)])
        await until(lambda: app.screen._look is not None, "a look")
        await pilot.press("space", "space")
        await until(lambda: "enter\u00a0Save" in words(app, "KeyBar"), "enter saves")
        await pilot.press("enter")
        await until(lambda: "lamp is enrolled with 1 capture\n" in words(app, "#facts"), "the facts")
        assert "Press enter for the live picture" in words(app, "#facts")
        await until(lambda: "enter\u00a0Live\u00a0picture" in words(app, "KeyBar"), "the bar says the same")
        assert "Save" not in words(app, "KeyBar") and "arrows" not in words(app, "KeyBar")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, LiveScreen), "the live picture")


@pytest.mark.parametrize(
    ("classes", "told"), [(None, "? unknown"), ((ClassScore("cat", 0.4), ClassScore("dog", 0.3)), "? not sure")]
)
def test_no_name_is_told_as_over_the_picture(classes: tuple[ClassScore, ...] | None, told: str) -> None:
    assert answer_event_words(LiveEvent("unknown", 1.0, classes=classes)).words == told


@pytest.mark.slow
async def test_captures_that_are_refused_are_told(stage: Stage) -> None:
    ThingDouble.refused = ("it looks like mug", "it looks like mug")
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "objects")
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, ThingScreen), "the screen of things")
        await pilot.press(*"lamp", "enter")
        await until(lambda: stage.workers[-1].capturing, "it captures")
        stage.reel.feed([half(250, 0)])
        await until(lambda: app.screen._look is not None, "a look")
        await pilot.press("space", "space", "enter")
        await until(lambda: "Nothing was stored: it looks like mug" in words(app, "#caution"), "the reason")
        await pilot.press("escape")
        await until(lambda: isinstance(app.screen, LiveScreen), "the live picture")
        await until(lambda: not stage.workers[-1].capturing, "it captures no more")


async def test_people_are_enrolled_while_faces_are_looked_for(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, EnrollScreen), "the screen of people")


@pytest.mark.slow
async def test_a_classifier_gives_way_while_a_person_is_enrolled(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await looking_for(stage, app, pilot, "halves")
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, EnrollScreen), "the screen of people")
        await pilot.press(*"Ada", "enter")
        await until(lambda: app.screen.stage == "source", "the choice")
        await pilot.press("c")
        await until(lambda: app.screen.stage == "camera" and app.latest.look_for == LookFor("faces"), "faces")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: app.screen.taken, "a shot")
        await pilot.press("escape")
        await until(lambda: app.latest.look_for == LookFor("halves"), "the classifier is back")


@pytest.mark.slow
async def test_models_are_added_used_shown_and_removed(stage: Stage, tmp_path: Path) -> None:
    app = stage.app()
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await pilot.press("o")
        await until(lambda: isinstance(app.screen, ModelsScreen) and app.screen.query_one(DataTable).row_count == 4, "")
        await pilot.press("a")
        await until(lambda: app.screen.query("Ask Input"), "the question")
        app.screen.query_one(Input).value = str(tmp_path / "notes.txt")
        await pilot.press("enter")
        await until(lambda: "notes.txt is no ONNX file" in words(app, ".problem"), "the reason")
        # What was typed is still there to be corrected.
        assert app.screen.query_one(Input).value == str(tmp_path / "notes.txt")
        app.screen.query_one(Input).value = str(tmp_path / "mugs.onnx")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, ModelsScreen) and app.screen.query_one(DataTable).row_count == 5, "")
        await until(lambda: "left, right" in words(app, "#card"), "the card of the new one")
        await until(lambda: "below 0.80" in words(app, "#card"), "its bar")
        await pilot.press("enter")
        await until(lambda: app.latest and app.latest.look_for == LookFor("mugs"), "it is in use")
        await pilot.press("delete")
        await until(lambda: app.screen.query("Confirm Label"), "the question")
        await pilot.press("escape")
        assert any(card.id == "mugs" for card in stage.cards)
        await pilot.press("delete")
        await until(lambda: app.screen.query("Confirm Label"), "the question")
        await pilot.press("y")
        await until(lambda: not any(card.id == "mugs" for card in stage.cards), "it is removed")
        await until(lambda: app.latest.look_for == LookFor("faces"), "faces again")
        assert stage.saved[-1].model == "faces"


def reading(*findings: Finding) -> Seen:
    return Seen(Frame(half(0, 0)), findings, {})


def classified(label: str, share: float, sure: bool, heat: Heatmap | None = None) -> Finding:
    scores = (ClassScore(label, share), ClassScore("other", 1 - share))
    return Finding(np.array((10, 10, 30, 30), np.float32), Classification(scores, sure), heatmap=heat)


def test_each_face_gets_its_own_answer() -> None:
    found = reading(classified("real", 0.98, True), classified("print", 0.55, False))
    text = seen_words(found, unicode=True).plain
    assert text.splitlines() == ["● real 98%", "? not sure 55%"]
    assert [(mark.text, mark.kind) for mark in marks_of_findings(found)] == [
        ("real 98%", "known"),
        ("? not sure", "unknown"),
    ]
    assert "no face" in seen_words(reading(), unicode=True).plain


def test_bars_are_of_one_length_and_grow_with_the_share() -> None:
    assert [bar(share, unicode=False) for share in (0, 0.5, 1)] == ["........", "####....", "########"]
    assert {len(bar(share / 50, unicode=True)) for share in range(51)} == {8}


def test_many_classes_are_cut_and_counted() -> None:
    scores = tuple(ClassScore(f"class number {index}", 0.1) for index in range(10))
    found = reading(Finding(np.array((0, 0, 9, 9), np.float32), Classification(scores, False)))
    lines = seen_words(found, unicode=True).plain.splitlines()
    assert len(lines) == 7 and lines[-1] == "and 5 less likely"
    assert all(len(line) <= 26 for line in lines)


def test_what_the_colours_mean_is_said() -> None:
    heat = Heatmap("left", np.zeros((2, 2), np.float32))
    assert "'left'" in heat_words(reading(classified("left", 0.9, True, heat)))
    assert heat_words(reading(classified("left", 0.9, True))) == ""
    assert heat_words(None) == ""


def test_a_box_stays_in_the_picture_and_visible() -> None:
    area = Area.middle(80, 60)
    for _ in range(100):
        area = area.moved(1, 1)
    assert area.box == pytest.approx((50, 30, 80, 60))
    for _ in range(100):
        area = area.grown(-1, -1)
    x1, y1, x2, y2 = area.box
    assert x2 - x1 == pytest.approx(4.8) and y2 - y1 == pytest.approx(4.8)
    for _ in range(300):
        area = area.grown(1, 1)
    assert area.box == (0, 0, 80, 60)


async def test_who_must_be_enrolled_again_is_listed_and_done_from_kept_pictures(stage: Stage) -> None:
    bench = open_people(stage.home, Settings(precision="fp32", keep_pictures=True))
    for name, paths in sample.people().items():
        looks = [(path.name, bench.recognizer.shot(read_picture(path), path.name)) for path in paths]
        bench.enroll(name, looks, EnrollOptions())
        own = bench.vault.identity(name)
        kept = bench.vault.pictures(name)
        others = [replace(t, embedding=Embedding(t.embedding.vector, "older")) for t in own.templates]
        bench.vault.forget(name)
        bench.vault.add(name, others, kept)
    bench.vault.close()
    app = stage.app()
    async with app.run_test(size=(120, 30), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await until(lambda: "2 people must be enrolled again for sface" in told(app), "it is told at the start")
        await pilot.press("p")
        await until(lambda: "must be enrolled again for sface" in words(app, "#title"), "the line")
        await until(lambda: "Known to older only: a stranger to sface" in words(app, "#about"), "why, and what helps")
        await until(lambda: app.screen.query(Thumbnail) and "no template of" not in seen(app), "the shots")
        await until(lambda: "older" in seen(app) and "enroll again" in seen(app), "what is known")
        await pilot.press("n")
        await until(lambda: "enrolled again from kept pictures" in told(app), "what was done")
        await until(lambda: "must be enrolled" not in words(app, "#title"), "nobody is left")
        await until(lambda: "older, sface" in seen(app), "both models")
