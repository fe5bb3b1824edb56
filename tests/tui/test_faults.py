"""What once was wrong on the app's screens, each with a test of what is right."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.css.query import NoMatches
from textual.widget import Widget
from textual.widgets import DataTable, RichLog, Static
from textual.widgets._toast import Toast

from edge_app.cli.tui import desk_of
from edge_app.core.cohort import Cohort
from edge_app.core.errors import UsageError
from edge_app.core.types import Embedding, Quality, Template
from edge_app.gallery import keys
from edge_app.gallery.storage import Vault
from edge_app.live.events import LiveEvent
from edge_app.live.update import WorkerOptions
from edge_app.live.worker import Worker
from edge_app.media import sample
from edge_app.media.live_camera import LiveOptions
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from edge_app.tui.app import EdgeApp, compose_app
from edge_app.tui.face_text import event_line, event_words
from edge_app.tui.picture.widget import Picture
from edge_app.tui.screens.base import KeyBar
from edge_app.tui.screens.enroll_person import EnrollScreen
from edge_app.tui.screens.help import HelpScreen
from edge_app.tui.screens.live import LiveScreen
from edge_app.tui.screens.models import ModelsScreen
from edge_app.tui.screens.people import PeopleScreen
from tests.tui.stage import OBAMA_ALONE, PATIENCE_S, Stage, clip_frame, until
from tests.tui.test_tmux import arguments


@pytest.fixture
def stage(home: Home) -> Stage:
    return Stage(home)


def seen(app: EdgeApp) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def plant(home: Home, *names: str) -> None:
    """Enroll people whose embeddings are made up."""
    quality = Quality(120.0, 0.4, 120.0, 0.0, 0.0, 0.0, 0.0, 0.9)
    with Vault(home.gallery_path) as vault:
        for number, name in enumerate(names):
            vector = np.random.default_rng(number).normal(size=128).astype(np.float32)
            vault.add(name, [Template(Embedding(vector, "sface"), quality, "made.jpg", 1.0)])


@pytest.mark.parametrize("width", [26, 28, 34, 44])
def test_events_are_one_line_each_at_any_width(width: int) -> None:
    """Usual names stand whole with the time; nothing wraps, and what is cut says so."""
    for name in ("Ada", "Barack Obama", "Joe Biden", "Alejandra Fernandez de la Vega"):
        for event in (
            LiveEvent("recognized", 1.0, 1, name, 0.81, 0.2),
            LiveEvent("left", 9.0, 1, name, 0.81, 7.0),
            LiveEvent("left", 9.0, 1, None, None, 700.0),
            LiveEvent("unknown", 9.0, 1, None, 0.1, 1.0),
            LiveEvent("appeared", 9.0, 1),
            LiveEvent("source_lost", 9.0),
            LiveEvent("source_back", 9.0, duration_s=12.0),
        ):
            line = event_line("08:00:00", event_words(event), width)
            assert line.cell_len <= width and "\n" not in line.plain
            assert line.plain.startswith("08:00:00 ")
            if event.name is not None and len(name) < 13:
                assert name in line.plain
            elif event.name is not None and name not in line.plain:
                assert line.plain.endswith("…")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (170, 45)])
async def test_the_list_of_events_is_never_wider_than_its_panel(stage: Stage, size: tuple[int, int]) -> None:
    plant(stage.home, "Alejandra Fernandez de la Vega")
    app = stage.app()
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        log = app.screen.query_one("#log", RichLog)
        await until(lambda: len(log.lines) >= 2, "the events")
        for narrower in (size, (80, 24)):
            await pilot.resize_terminal(*narrower)
            await pilot.pause()
            await until(lambda: app.screen.size.width == narrower[0], "the size")  # noqa: B023

            def fits() -> bool:
                lines = [line.text.rstrip() for line in log.lines]
                width = log.scrollable_content_region.width
                return len(lines) >= 2 and all(line[2] == ":" and len(line) <= width for line in lines)

            await until(fits, "one line each, within the panel")


def test_the_app_names_the_candidates_alone_and_says_so(home: Home, tmp_path: Path) -> None:
    plant(home, "Ada", "Bob")
    today = tmp_path / "today.txt"
    today.write_text("Ada\n")
    desk = desk_of(arguments(home=home.path, source="sample", candidates=today))
    assert desk.notices == ("1 candidate is named, and nobody else who is enrolled.",)
    worker = desk.open_worker(desk.settings, "sample", lambda _: None)
    people = worker.people
    probes = [people.vault.identity(name).templates[0].embedding for name in ("Ada", "Bob")]
    ada, bob = people.recognizer.gallery.match(probes, people.recognizer.rule)
    assert (ada.name, bob.name, bob.left_out) == ("Ada", None, "Bob")
    today.write_text("Adam\n")
    mistyped = desk_of(arguments(home=home.path, source="sample", candidates=today))
    with pytest.raises(UsageError, match="did you mean 'Ada'"):
        compose_app(mistyped)


SHOWN = (" Alejandra ", " Andrew ", "Bartholomew F")


def fits(table: DataTable[Any]) -> bool:
    """Whether no cell is wider than its column, nor all columns wider than the table."""
    widths = {label: column.width for label, column in table.columns.items()}
    cells = [cell for row in range(3) for cell in zip(table.columns, table.get_row_at(row), strict=True)]
    drawn = sum(column.get_render_width(table) for column in table.columns.values())
    return drawn <= table.size.width and all(cell.cell_len <= widths[label] for label, cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (100, 30), (120, 40), (200, 50)])
async def test_columns_of_people_are_whole_or_cut_with_a_sign(stage: Stage, size: tuple[int, int]) -> None:
    """Again and again: the widths must not hang on which rows the table happened to have drawn."""
    plant(stage.home, "Alejandra", "Andrew", "Bartholomew Featherstonehaugh-Cholmondeley")
    app = stage.app()
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        for _ in range(3):
            await pilot.press("p")
            await until(lambda: isinstance(app.screen, PeopleScreen) and app.screen.table.row_count == 3, "the rows")
            await until(lambda: len(app.screen.table.columns) >= 3, "the columns")
            await pilot.pause()
            await until(lambda: fits(app.screen.table), "columns as wide as what is in them, all within the table")
            await until(lambda: all(name in seen(app) for name in SHOWN), "the names")
            await pilot.press("escape")
            await until(lambda: isinstance(app.screen, LiveScreen), "back")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@pytest.mark.parametrize("key", ["", "e", "p", "o"])
async def test_messages_cover_neither_the_keys_nor_the_instructions(
    stage: Stage, size: tuple[int, int], key: str
) -> None:
    app = stage.app()
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        if key:
            await pilot.press(key)
            await until(lambda: not isinstance(app.screen, LiveScreen), "the screen")
        for number in range(6):
            app.tell(f"message {number}: " + "a long sentence that goes on " * 5, timeout_s=PATIENCE_S)
        await until(lambda: len(app.screen.query(Toast)) >= 6, "the messages")
        await pilot.pause()
        kept = [app.screen.query_one(KeyBar), *app.screen.query("#advice, #notice, #title, #who")]

        def covered() -> list[Widget]:
            lines = seen(app).splitlines()
            places = [(widget, widget.region) for widget in kept if widget.display]
            shown = [(widget, lines[y][at.x : at.right]) for widget, at in places for y in range(at.y, at.bottom)]
            return [widget for widget, text in shown if "sentence" in text]

        await until(
            lambda: "a long sentence" in seen(app) and not covered(), "the messages, and nothing that they cover"
        )


async def test_help_keeps_keys_and_words_apart_and_explains_every_figure(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=(100, 80), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await pilot.press("question_mark")
        await until(lambda: isinstance(app.screen, HelpScreen), "the help")
        text = str(app.screen.query_one("#help Static", Static).render())
        assert "shift+arrows  Stretch the box" in text
        assert "Skipped:" in text and "last 60 pictures" in text


async def test_what_was_skipped_and_what_the_graph_shows_is_said_beside_it(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=(100, 30), notifications=True):
        await until(lambda: stage.reels, "the camera is opened")
        stage.reel.status = replace(stage.reel.status, dropped=7)
        stage.reel.feed([clip_frame(50)])
        await until(lambda: "7 skipped for newer ones" in seen(app), "the words")
        await until(lambda: "last 60:" in seen(app) and "lost" not in seen(app), "what the graph shows")


async def test_a_terminal_that_is_too_small_says_so_and_shows_what_matters(stage: Stage) -> None:
    plant(stage.home, "Ada", "Bo")
    app = stage.app()
    async with app.run_test(size=(40, 12), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        stage.reel.feed([clip_frame(50)])
        assert isinstance(app.screen, LiveScreen)
        for key, shown in (("", Picture), ("p", DataTable), ("o", DataTable), ("e", Picture)):
            if key:
                await pilot.press(key)
                await until(lambda: not isinstance(app.screen, LiveScreen), "the screen")
            await until(lambda: "40x12 is small: 80x24 shows all" in seen(app), "it is said")
            widget = app.screen.query(shown).first()
            await until(lambda widget=widget: widget.region.width >= 38, "all the width is its own")
            assert widget.region.height >= 3
            await until(lambda: app.screen.query_one(KeyBar).region.height == 2, "two lines of keys")
            if key:
                await pilot.press("escape")
                await until(lambda: isinstance(app.screen, LiveScreen), "back")
        await pilot.resize_terminal(100, 30)
        await until(lambda: "Here now" in seen(app) and "is small" not in seen(app), "all is there in a larger one")


@pytest.mark.slow
async def test_the_key_for_the_next_precision_goes_round_the_builds_that_there_are(stage: Stage) -> None:
    """SFace has no fp16: asking for it was an error each time, and the key was stuck."""
    app = stage.app()
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await pilot.press("o")
        await until(lambda: isinstance(app.screen, ModelsScreen) and app.screen.query_one(DataTable).row_count, "rows")
        gone = []
        for number in range(4):
            await pilot.press("v")
            await until(lambda number=number: len(stage.saved) == number + 1, "it is saved")
            gone.append(stage.saved[-1].precision)
        assert gone == ["int8", "auto", "fp32", "int8"]


def of_real_settings(stage: Stage, **given: Any) -> EdgeApp:
    """The app as the command line composes it, over the stage's camera and real settings."""
    desk = desk_of(arguments(home=stage.home.path, source="sample", **given))
    return compose_app(replace(desk, open_worker=stage._open, cameras=stage.desk().cameras))


async def test_options_change_no_settings(stage: Stage) -> None:
    app = of_real_settings(stage, detector="mtcnn", fpir=0.2)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        assert app.settings.fpir == 0.2 and app.settings.detector == "mtcnn"
        await pilot.press("c", "down", "enter")
        await until(lambda: stage.opened == ["sample", "7"], "another source is chosen")
        await until(lambda: stage.home.settings_path.exists(), "that is saved")
    assert json.loads(stage.home.settings_path.read_text()) == {"source": "7"}


@pytest.mark.slow
async def test_choosing_a_source_keeps_what_another_process_wrote_meanwhile(stage: Stage) -> None:
    app = of_real_settings(stage)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        Home.locate(stage.home.path).change_settings(margin=0.11, keep_pictures=True)
        await pilot.press("c")
        await pilot.pause()
        Home.locate(stage.home.path).change_settings(fpir=0.003)
        await pilot.press("down", "enter")
        await until(lambda: stage.opened == ["sample", "7"], "another source is chosen")
        await until(lambda: stage.home.settings().source == "7", "that is saved")
    kept = stage.home.settings()
    assert (kept.margin, kept.keep_pictures, kept.fpir) == (0.11, True, 0.003)


def test_live_tells_who_is_on_a_photo(home: Home) -> None:
    """A photo is a source too: it is looked at again and again, and whoever is on it is told once."""
    happened: list[LiveEvent] = []
    worker = Worker(
        open_people(home, Settings(precision="fp32")),
        str(sample.people()[sample.OBAMA][0]),
        lambda update: happened.extend(update.events),
        WorkerOptions(camera=LiveOptions(loop=True)),
    )
    with worker:
        end_s = time.monotonic() + PATIENCE_S
        while not any(event.event == "unknown" for event in happened) and time.monotonic() < end_s:
            worker.join(0.1)
    assert [event.event for event in happened][:2] == ["appeared", "unknown"]


async def test_a_face_that_the_network_cannot_tell_from_its_kind_is_told_of(stage: Stage) -> None:
    """A face amid strangers who are all alike stands for a toddler's, one far from all strangers for an adult's."""
    quality = Quality(120.0, 0.4, 120.0, 0.0, 0.0, 0.0, 0.0, 0.9)
    crowd = np.random.default_rng(1).normal(size=(64, 128))
    crowd[:32] = crowd[0] + 0.1 * crowd[:32]
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    with Vault(stage.home.gallery_path) as vault:
        for name, vector in (("Tom", crowd[0]), ("Ada", np.random.default_rng(7).normal(size=128))):
            vault.add(name, [Template(Embedding(vector.astype(np.float32), "sface"), quality, "made.jpg", 1.0)])
    centres = base64.b64encode((crowd * 127).round().astype(np.int8).tobytes()).decode()
    cohort = Cohort(centres, 128, 16, 1.0, 0.0, 0.2, 0.3, None, 0.3, 64)
    app = stage.app()
    recognizer = app.worker.people.recognizer
    recognizer.rule = replace(recognizer.rule, cohort=cohort)

    def about() -> str:
        return str(app.screen.query_one("#about", Static).render())

    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, PeopleScreen) and about().startswith("Ada"), "Ada")
        assert "can hardly tell" not in about()
        await pilot.press("down")
        await until(lambda: about().startswith("Tom"), "Tom")
        assert "can hardly tell this face" in about()


def test_a_locked_gallery_is_one_line_where_nobody_can_be_asked(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(home, "Ada")
    with Vault(home.gallery_path) as vault:
        vault.protect("passphrase", lambda: "correct horse")
    monkeypatch.setattr(keys, "_unlocked", {})
    monkeypatch.delenv("EDGE_APP_PASSPHRASE", raising=False)
    with pytest.raises(Exception, match="passphrase of the gallery is needed") as raised:
        compose_app(desk_of(arguments(home=home.path, source="sample")))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
async def test_a_gallery_that_is_locked_while_the_app_runs_is_a_line_and_the_app_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(stage.home, "Ada")
    app = stage.app()
    async with app.run_test(size=(120, 30), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        stage.reel.feed([clip_frame(50)])
        await until(lambda: app.latest and app.latest.seen, "a picture")
        with Vault(stage.home.gallery_path) as vault:
            vault.protect("passphrase", lambda: "correct horse")
        keys._unlocked.clear()
        monkeypatch.delenv("EDGE_APP_PASSPHRASE", raising=False)
        notice = app.screen.query_one("#notice", Static)
        await until(lambda: "passphrase" in str(notice.render()), "it is said")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "unknown" in str(app.screen.query_one("#here", Static).render()), "it goes on")
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, EnrollScreen), "and its keys work")


def test_pictures_of_a_folder_are_all_told(home: Home, tmp_path: Path) -> None:
    from edge_app.notify.watcher import Stop, watch

    for number, path in enumerate((*sample.people()[sample.OBAMA], sample.stranger())):
        (tmp_path / f"{number}.jpg").write_bytes(path.read_bytes())
    with Stop() as stop:
        events = list(watch(open_people(home, Settings(precision="fp32")), str(tmp_path), stop, lambda _: None))
    assert [(event.event, event.time_s, event.track) for event in events] == [
        ("unknown", 0.0, 1),
        ("unknown", 1.0, 2),
        ("unknown", 2.0, 3),
    ]


async def test_a_screen_that_is_left_while_it_waits_for_an_answer_says_nothing_more(stage: Stage) -> None:
    """Its parts are gone by the time that the answer comes; where they are not, what is missing is a fault."""
    app = stage.app()
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(lambda: stage.reels, "the camera is opened")
        await pilot.press("o")
        await until(lambda: isinstance(app.screen, ModelsScreen) and app.screen.query(DataTable), "the models")
        models = app.screen
        assert isinstance(models, ModelsScreen)
        with pytest.raises(NoMatches), models.telling():
            models.query_one("#nothing")
        await pilot.press("escape")
        await until(lambda: isinstance(app.screen, LiveScreen) and not models.query(DataTable), "it is left")
        with models.telling():
            models._fill()
