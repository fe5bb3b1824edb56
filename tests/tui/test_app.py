"""The terminal app under Textual's Pilot: recorded frames, the real worker and models, a fixed clock."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import DataTable, Input, Label, OptionList, RichLog, Static

from edge_app.core.errors import GalleryError
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from edge_app.media.live_camera import CameraState
from edge_app.media.pictures import read_picture
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from edge_app.tui.app import EdgeApp
from edge_app.tui.picture.terminal import Terminal
from edge_app.tui.picture.widget import Picture, Thumbnail
from edge_app.tui.screens.base import KeyBar
from edge_app.tui.screens.dialogs import Choose
from edge_app.tui.screens.enroll_person import EnrollScreen
from edge_app.tui.screens.help import HelpScreen
from edge_app.tui.screens.live import LiveScreen
from edge_app.tui.screens.models import ModelsScreen
from edge_app.tui.screens.people import PeopleScreen
from edge_app.tui.screens.settings import SettingsScreen
from tests.tui.stage import NOW_S, OBAMA_ALONE, PATIENCE_S, Reel, Stage, clip_frame, until
from tests.tui.test_faults import plant

SIZE = (100, 30)


@pytest.fixture
def stage(home: Home) -> Stage:
    return Stage(home)


def enroll_sample_people(home: Home, *names: str) -> None:
    bench = open_people(home, Settings(precision="fp32"))
    for name, paths in sample.people().items():
        if name in names:
            looks = [(path.name, bench.recognizer.shot(read_picture(path), path.name)) for path in paths]
            assert all(verdict.accepted for verdict in bench.enroll(name, looks, EnrollOptions()))
    bench.vault.close()


def words(app: EdgeApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


def seen(app: EdgeApp) -> str:
    """The screen as text."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def missing(app: EdgeApp) -> list[str]:
    """Keys of the screen that its bar does not show."""
    shown = str(app.screen.query_one(KeyBar).render()).replace("\u00a0", " ")
    bindings = [active.binding for active in app.screen.active_bindings.values()]
    return [one.description for one in bindings if one.show and one.description and one.description not in shown]


def outside(app: EdgeApp) -> list[Widget]:
    parts = app.screen.query("#title, #picture, #side, #detail, #shots, DataTable, #advice, #form")
    return [widget for widget in parts if not app.screen.region.contains_region(widget.region)]


async def capturing(app: EdgeApp, pilot: Pilot[None], name: str) -> None:
    """Come to the camera's shots of somebody."""
    await pilot.press("e", *name, "enter")
    await until(lambda: isinstance(app.screen, EnrollScreen) and app.screen.stage == "source", "the choice of a source")
    await pilot.press("c")
    await until(lambda: app.screen.stage == "camera", "the camera is used")


async def started(stage: Stage) -> None:
    await until(lambda: stage.reels, "the camera is opened")


async def test_a_known_person_is_greeted_and_named_on_the_picture(stage: Stage) -> None:
    enroll_sample_people(stage.home, sample.OBAMA)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True):
        await started(stage)
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "Hello, Barack Obama!" in words(app, "#title"), "the greeting")
        await until(lambda: "● Barack Obama" in words(app, "#here"), "who is here")
        log = [line.text for line in app.screen.query_one("#log", RichLog).lines]
        assert any("● Barack Obama 0." in line for line in log)
        await until(lambda: " Barack Obama 0." in seen(app), "the name over the picture")
        assert app.latest.people == 1
        await until(lambda: "fps" in words(app, "#figures"), "the figures")


async def test_a_stranger_is_marked_without_colour_too(stage: Stage) -> None:
    stage.terminal = Terminal("mono", unicode=False)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True):
        await started(stage)
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: any("? unknown" in line.text for line in app.screen.query_one("#log", RichLog).lines), "")
        await until(lambda: " ? unknown " in seen(app), "the label")
        picture = app.screen.query_one(Picture)
        drawn = "".join(strip.text for strip in picture._mosaic.strips)
        assert drawn.isascii()
        # Dashes around a stranger; a whole line is for friends. No shade is drawn with these.
        assert drawn.count(".") > 4 and drawn.count(":") > 4 and "-" not in drawn and "|" not in drawn


async def test_the_person_in_view_is_asked_for_a_challenge_at_a_key(stage: Stage) -> None:
    enroll_sample_people(stage.home, sample.OBAMA)
    stage.settings = replace(stage.settings, liveness="challenge")
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("v")
        await until(lambda: "nobody with a name is in view" in " ".join(seen(app).split()), "there is nobody to ask")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "● Barack Obama" in words(app, "#here"), "somebody is there")
        await pilot.press("v")
        await until(lambda: app.latest.challenge is not None, "he is asked")
        still = [clip_frame(OBAMA_ALONE[-1])] * 30
        stage.reel.feed(still)
        await until(lambda: "Barack Obama: " in words(app, "#notice"), "the prompt stands under the picture")
        await until(lambda: "v ends it" in words(app, "#notice"), "how to end it")
        await pilot.press("v")
        await until(lambda: app.latest.challenge is None, "he is asked no more")
        await pilot.press("v")
        stage.reel.feed(still * 4)
        await until(lambda: app.latest.challenge and app.latest.challenge.outcome == "no answer", "he stood still")
        told = "? Barack Obama: no answer to"
        await until(lambda: told in words(app, "#notice"), "how it ended")
        log = [line.text for line in app.screen.query_one("#log", RichLog).lines]
        assert sum("? Barack Obama: no" in line for line in log) == 1


async def test_without_the_setting_nobody_is_asked(stage: Stage) -> None:
    enroll_sample_people(stage.home, sample.OBAMA)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "● Barack Obama" in words(app, "#here"), "somebody is there")
        await pilot.press("v")
        stage.reel.feed([clip_frame(OBAMA_ALONE[-1])])
        await until(lambda: stage.reel._frames.empty(), "the frame is taken")
        assert app.latest.challenge is None and "Challenge" not in seen(app)


async def test_pausing_looks_at_nothing_and_says_so(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        stage.reel.feed([clip_frame(50)])
        await until(lambda: app.latest and app.latest.seen, "a picture")
        await pilot.press("space")
        await until(lambda: "paused" in words(app, "#title"), "the title says paused")
        notice, bar = app.screen.query_one("#notice"), app.screen.query_one(KeyBar)
        await until(lambda: 0 < notice.region.bottom <= bar.region.y, "the line stands over the keys, not under them")
        drawn = app.screen.query_one(Picture).drawn
        stage.reel.feed([clip_frame(51)])
        await until(lambda: stage.reel._frames.empty(), "the frame is taken")
        await asyncio.sleep(0.2)
        assert app.screen.query_one(Picture).drawn == drawn
        await pilot.press("space")
        await until(lambda: "live" in words(app, "#title"), "it goes on")


async def test_mirror_flips_the_picture_and_is_remembered(stage: Stage) -> None:
    app = stage.app()
    half = np.zeros((48, 64, 3), np.uint8)
    half[:, :32] = 255
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        stage.reel.feed([half])
        picture = app.screen.query_one(Picture)
        await until(lambda: picture._mosaic._shown.any(), "a picture")
        middle = picture._mosaic._shown.shape[1] // 2
        assert picture._mosaic._shown[:, middle + 2 :].max() == 0
        await pilot.press("m")
        assert picture._mosaic._shown[:, : middle - 2].max() == 0
        assert picture._mosaic._shown[:, middle + 2 :].max() == 255
        assert stage.looks["mirror"] is True


async def test_a_snapshot_is_asked_for_with_what_was_seen(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("s")
        assert not stage.snapshots
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "unknown" in words(app, "#here"), "a face")
        await pilot.press("s")
        await until(lambda: stage.snapshots, "the snapshot")
        assert len(stage.snapshots[0].findings) == 1


@pytest.mark.slow
async def test_the_threshold_is_chosen_by_its_meaning_and_saved(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await until(lambda: app.latest, "an update")
        before = app.latest.rule.threshold
        await pilot.press("t")
        await pilot.pause()
        await until(lambda: "1 in 100 strangers" in words(app, "#meaning"), "what it means")
        await pilot.press("down", "down")
        await pilot.pause()
        await until(lambda: "1 in 1,000 strangers" in words(app, "#meaning"), "what the other means")
        await pilot.press("enter")
        await until(lambda: stage.saved, "the choice is saved")
        await until(lambda: app.latest.rule.threshold > before, "the rule is used")
        assert stage.saved[-1].fpir == 0.001


async def test_the_threshold_says_where_the_promise_ends(stage: Stage) -> None:
    plant(stage.home, *(f"p{number:03d}" for number in range(60)))
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("t")
        await pilot.pause()
        assert "cannot be promised for" not in words(app, "#meaning")
        await pilot.press("end")
        await pilot.pause()
        await until(
            lambda: (
                "cannot be promised for 60 people" in words(app, "#meaning")
                and "--candidates" in words(app, "#meaning")
            ),
            "the end of the promise",
        )


@pytest.mark.slow
async def test_another_source_is_chosen_typed_or_refused_with_words(stage: Stage, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("c")
        await until(lambda: app.screen.query_one(OptionList).option_count == 2, "the cameras are listed")
        await until(lambda: "camera 7: Test camera, 640x480" in seen(app), "the camera")
        await pilot.press("down", "enter")
        await until(lambda: stage.opened == ["sample", "7"], "the camera is opened")
        assert stage.reels[0].closed
        await until(lambda: stage.saved and stage.saved[-1].source == "7", "the choice is remembered")
        await pilot.press("c", "tab", *"/absent", "enter")
        await until(lambda: "does not exist" in words(app, ".problem"), "the reason")
        # The dialog is still there, with what was typed, to be corrected.
        assert stage.opened[-1] == "7" and app.screen.query_one(Input).value == "/absent"
        app.screen.query_one(Input).value = str(clip)
        await pilot.press("enter")
        await until(lambda: stage.opened[-1] == str(clip), "the file is opened")


async def test_somebody_is_enrolled_from_the_live_picture_and_then_greeted(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, EnrollScreen), "the screen")
        await pilot.press(*"Ada", "enter")
        screen = app.screen
        await until(lambda: screen.stage == "source", "the choice of a source")
        await pilot.press("c")
        await until(lambda: screen.stage == "camera", "the camera is used")
        stage.reel.feed([np.full((480, 640, 3), 90, np.uint8)])
        await until(lambda: "Step into the picture" in words(app, "#advice"), "it asks for a face")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: screen.taken, "a shot is taken by itself")
        await until(lambda: len(screen.query(Thumbnail)) == 1, "its thumbnail")
        # A busy machine skips pictures: the first that is taken may be from the front, or turned a little.
        asked = ("Turn your head", "Look at the camera")
        await until(lambda: any(one in words(app, "#advice") for one in asked), "it asks for another angle")
        await pilot.press("enter")
        await until(lambda: "1 of 1 shot would be kept" in words(app, "#advice"), "what is kept")
        await until(lambda: screen.query(".verdict") and len(screen.query("#review Thumbnail")) == 1, "the verdict")
        await until(lambda: "kept" in str(screen.query_one(".verdict", Static).render()), "its words")
        assert not stage.home.gallery_path.exists()
        await pilot.press("enter")
        await until(lambda: "Ada is enrolled with 1 shot" in words(app, "#facts"), "the facts")
        assert "No other person is enrolled" in words(app, "#facts")
        assert "Missing: no shot" in words(app, "#facts")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, LiveScreen), "the live picture")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "● Ada" in words(app, "#here"), "she is named")
    with Vault(stage.home.gallery_path) as vault:
        assert vault.names() == ("Ada",)
        assert vault.pictures("Ada") == (None,)


async def test_quitting_in_mid_capture_leaves_nothing_behind(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await capturing(app, pilot, "Ada")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: app.screen.taken, "a shot")
        await pilot.press("ctrl+q")
    assert not stage.home.gallery_path.exists()
    assert stage.reel.closed
    assert stage.workers[-1].join(PATIENCE_S)


async def test_leaving_the_capture_stops_looking_for_shots(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await capturing(app, pilot, "Ada")
        await until(lambda: stage.workers[-1].capturing, "it captures")
        await pilot.press("escape")
        await until(lambda: not stage.workers[-1].capturing, "it stops")
        await until(lambda: isinstance(app.screen, LiveScreen), "the live picture")


async def naming_files(app: EdgeApp, pilot: Pilot[None], *paths: Path) -> None:
    await pilot.press("f")
    await until(lambda: app.screen.query("Ask Input"), "the question")
    app.screen.query_one(Input).value = " ".join(str(path) for path in paths)
    await pilot.press("enter")


@pytest.mark.slow
async def test_a_dropped_shot_is_not_stored(stage: Stage) -> None:
    app = stage.app()
    obama, astronaut = sample.people()[sample.OBAMA][0], sample.stranger()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("e", *"Ada", "enter")
        await until(lambda: isinstance(app.screen, EnrollScreen) and app.screen.stage == "source", "the choice")
        await naming_files(app, pilot, astronaut, obama, Path("/absent.jpg"))
        await until(lambda: len(app.screen_stack[-1].query("#shots Thumbnail")) == 2, "two thumbnails")
        await until(lambda: "3 unreadable" in seen(app), "the third")
        await pilot.press("1")
        await until(lambda: len(app.screen.query("#shots Thumbnail")) == 1, "one thumbnail")
        await pilot.press("enter")
        await until(lambda: "1 of 2 shots would be kept" in words(app, "#advice"), "what is kept")
        await until(lambda: "absent.jpg" in seen(app), "its verdict")
        await pilot.press("enter")
        await until(lambda: "Ada is enrolled with 1 shot" in words(app, "#facts"), "the facts")
    with Vault(stage.home.gallery_path) as vault:
        assert [t.source for t in vault.identity("Ada").templates] == [obama.name]


@pytest.mark.slow
async def test_nothing_is_taken_before_a_source_was_chosen_nor_while_files_are_named(stage: Stage) -> None:
    """Whoever sits before the camera must not become Ben, whose pictures are in a file."""
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, EnrollScreen), "the screen")
        # Both ways are on the screen from the start.
        await until(
            lambda: "c the camera" in words(app, "#advice") and "f picture files" in words(app, "#advice"), "both ways"
        )
        await pilot.press(*"Ben", "enter")
        screen = app.screen
        await until(lambda: screen.stage == "source", "the choice")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: stage.reel._frames.empty(), "he was seen")
        await pilot.press("f")
        await until(lambda: app.screen.query("Ask Input"), "the question")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: stage.reel._frames.empty(), "he was seen")
        app.screen.query_one(Input).value = "/absent.jpg"
        await pilot.press("enter")
        await until(lambda: "/absent.jpg" in words(app, ".problem"), "the reason, and the line is still there")
        assert app.screen.query_one(Input).value == "/absent.jpg"
        await pilot.press("escape")
        await until(lambda: app.screen is screen and screen.stage == "source", "the choice again")
        assert screen.looks == () and not stage.workers[-1].capturing
        await pilot.press("enter")
        await until(lambda: "no shot to save" in words(app, "#caution"), "nothing can be saved")
    assert not stage.home.gallery_path.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "kept"), [("mix", 2), ("discard", 1), ("leave", 1)])
async def test_sources_are_not_mixed_without_a_question(stage: Stage, answer: str, kept: int) -> None:
    app = stage.app()
    other = sample.people()[sample.OBAMA][0]
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await capturing(app, pilot, "Ada")
        screen = app.screen
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: len(screen.taken) == 1, "a shot")
        await pilot.press("f")
        await until(lambda: isinstance(app.screen, Choose), "the question")
        await until(lambda: "Ada has 1 shot from the camera" in seen(app), "what there is")
        if answer == "leave":
            await pilot.press("escape")
            await until(lambda: app.screen is screen and screen.stage == "camera", "as before")
        else:
            await pilot.press(*(["down"] if answer == "discard" else []), "enter")
            await until(lambda: app.screen.query("Ask Input"), "the question for files")
            app.screen.query_one(Input).value = str(other)
            await pilot.press("enter")
            await until(lambda: app.screen is screen and screen.stage == "files", "the files are read")
        sources = [source for source, _ in screen.looks]
        assert len(sources) == kept and (other.name in sources) == (answer != "leave")


@pytest.mark.slow
async def test_a_change_of_person_in_mid_capture_discards_and_says_so(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await capturing(app, pilot, "Ada")
        screen = app.screen
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: screen.taken, "a shot")
        await until(lambda: stage.reel._frames.empty(), "all of him")
        somebody = read_picture(sample.stranger())
        stage.reel.feed([somebody] * 12)
        await until(lambda: screen.stage == "source", "it stops")
        assert screen.looks == ()
        said = r"Somebody else came: the (shot|\d shots) of Ada (was|were) discarded"
        await until(lambda: re.search(said, words(app, "#caution")), "why")
        stage.reel.feed([somebody] * 12)
        await until(lambda: stage.reel._frames.empty(), "she was seen")
        assert screen.looks == () and "Nothing more is taken" in words(app, "#caution")


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["other", "same", "leave"])
async def test_a_resemblance_is_a_question_with_both_names_and_the_similarity(stage: Stage, answer: str) -> None:
    enroll_sample_people(stage.home, sample.OBAMA)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await capturing(app, pilot, "Eve")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "looks like Barack Obama" in words(app, "#caution"), "the warning")
        await until(lambda: app.screen.taken, "a shot")
        await pilot.press("enter")
        await until(lambda: "would be kept" in words(app, "#advice"), "what is kept")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, Choose), "the question")
        told = str(app.screen.query_one(Label).render())
        assert "Eve looks like Barack Obama" in told and re.search(r"similarity 0\.\d\d, strangers", told)
        if answer == "leave":
            await pilot.press("escape")
            await until(lambda: isinstance(app.screen, EnrollScreen), "the review again")
        else:
            await pilot.press(*(["down"] if answer == "same" else []), "enter")
            await until(lambda: "is enrolled with" in words(app, "#facts"), "the facts")
            assert ("SO NEAR" in words(app, "#facts")) == (answer == "other")
    with Vault(stage.home.gallery_path) as vault:
        counted = {name: len(vault.identity(name).templates) for name in vault.names()}
    before = {sample.OBAMA: 2}
    assert counted == before | {"other": {"Eve": 1}, "same": {sample.OBAMA: 3}, "leave": {}}[answer]


@pytest.mark.slow
async def test_what_was_stored_is_not_told_as_failed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shots are on disk; that the figures about them cannot be read is another matter."""

    def broken(*_: object) -> None:
        raise GalleryError("the disk is gone")

    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("e", *"Ada", "enter")
        await until(lambda: isinstance(app.screen, EnrollScreen) and app.screen.stage == "source", "the choice")
        await naming_files(app, pilot, *sample.people()[sample.OBAMA])
        await until(lambda: len(app.screen.query("#shots Thumbnail")) == 2, "two thumbnails")
        await pilot.press("enter")
        await until(lambda: "2 of 2 shots would be kept" in words(app, "#advice"), "what is kept")
        monkeypatch.setattr("edge_app.tui.gallery_queries.profile", broken)
        await pilot.press("enter")
        await until(lambda: "Ada is enrolled with 2 shots" in words(app, "#facts"), "it is told as stored")
        assert "the disk is gone" in words(app, "#facts")
    with Vault(stage.home.gallery_path) as vault:
        assert len(vault.identity("Ada").templates) == 2


@pytest.mark.slow
async def test_a_name_that_differs_by_capital_letters_is_asked_about(stage: Stage) -> None:
    enroll_sample_people(stage.home, sample.BIDEN)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("e", *"joe biden", "enter")
        await until(lambda: isinstance(app.screen, Choose), "the question")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, EnrollScreen) and app.screen.stage == "source", "the choice")
        await until(lambda: app.screen.query_one("#name", Input).value == sample.BIDEN, "the name as enrolled")


async def test_people_are_listed_renamed_forgotten_and_brought_back(stage: Stage) -> None:
    enroll_sample_people(stage.home, sample.OBAMA, sample.BIDEN)
    with Vault(stage.home.gallery_path) as vault:
        vault.touch(sample.OBAMA, NOW_S - 7200)
        before = vault.identity(sample.OBAMA)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, PeopleScreen) and app.screen.table.row_count == 2, "the rows")
        await until(lambda: "2 h ago" in seen(app).replace("120 min", "2 h"), "when he was seen")
        await until(lambda: "obama_1.jpg" in seen(app), "the shots of the first")
        await pilot.press("r")
        await until(lambda: app.screen.query("Ask Input"), "the question")
        app.screen.query_one(Input).value = "Barack"
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, PeopleScreen) and app.screen.chosen == "Barack", "the new name")
        await pilot.press("x")
        await until(lambda: app.screen.table.row_count == 1, "one row less")
        with Vault(stage.home.gallery_path) as vault:
            assert vault.names() == (sample.BIDEN,)
        await pilot.press("u")
        await until(lambda: app.screen.table.row_count == 2, "the row is back")
        assert app.screen.chosen == "Barack"
    with Vault(stage.home.gallery_path) as vault:
        after = vault.identity("Barack")
        assert vault.last_seen("Barack") == NOW_S - 7200
    assert [t.source for t in after.templates] == [t.source for t in before.templates]
    assert all(
        np.array_equal(a.embedding.vector, b.embedding.vector)
        for a, b in zip(after.templates, before.templates, strict=True)
    )


async def test_a_long_list_of_people_comes_in_pages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not shown is not read: the next page when the cursor comes near, any name by its beginning."""
    monkeypatch.setattr("edge_app.tui.gallery_queries.MOST_COMPARED", 10)
    monkeypatch.setattr(PeopleScreen._page, "__kwdefaults__", {"start": "", "after": "", "most": 20})
    monkeypatch.setattr("edge_app.tui.gallery_queries.PAGE", 20)
    monkeypatch.setattr("edge_app.tui.screens.people._LEFT_TO_READ_ON", 5)
    names = [f"p{number:03d}" for number in range(60)]
    plant(stage.home, *names)

    def refused(*_: object) -> None:
        raise AssertionError("everybody was read")

    monkeypatch.setattr(Vault, "roster", refused)
    monkeypatch.setattr(Vault, "names", refused)
    app = stage.app()
    async with app.run_test(size=(140, 40), notifications=True) as pilot:
        await started(stage)
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, PeopleScreen) and app.screen.table.row_count == 20, "one page")
        screen = app.screen
        assert isinstance(screen, PeopleScreen)
        await until(lambda: "60 people" in seen(app), "how many")
        await pilot.press("ctrl+end")
        await until(lambda: screen.table.row_count == 40, "two pages")
        await pilot.press("ctrl+end")
        await until(lambda: screen.table.row_count == 60, "all of them")
        await pilot.press("ctrl+end")
        await until(lambda: screen.chosen == "p059", "the last")
        rows = [str(screen.table.get_row_at(at)[0]) for at in range(screen.table.row_count)]
        assert rows == names


async def test_a_long_list_is_shown_from_another_name_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_app.tui.gallery_queries.MOST_COMPARED", 10)
    monkeypatch.setattr(PeopleScreen._page, "__kwdefaults__", {"start": "", "after": "", "most": 20})
    monkeypatch.setattr("edge_app.tui.gallery_queries.PAGE", 20)
    monkeypatch.setattr("edge_app.tui.screens.people._LEFT_TO_READ_ON", 5)
    plant(stage.home, *(f"p{number:03d}" for number in range(60)))
    app = stage.app()
    async with app.run_test(size=(140, 40), notifications=True) as pilot:
        await started(stage)
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, PeopleScreen) and app.screen.table.row_count == 20, "one page")
        screen = app.screen
        assert isinstance(screen, PeopleScreen)
        await pilot.press("slash")
        await until(lambda: app.screen.query("Ask Input"), "the question")
        await pilot.press(*"p030", "enter")
        await until(lambda: app.screen is screen and screen.chosen == "p030", "the name")
        await until(lambda: "from p030 on" in seen(app), "that it begins there")
        await pilot.press("r")
        await until(lambda: app.screen.query("Ask Input"), "the question")
        app.screen.query_one(Input).value = "Ada"
        await pilot.press("enter")
        await until(lambda: app.screen is screen and screen.chosen == "Ada", "the new name, before all others")
        await pilot.press("asterisk")
        await until(lambda: " on " not in str(screen.query_one("#title", Static).content), "the whole list")
        assert screen.chosen == "Ada"


async def test_a_name_that_is_taken_is_a_message(stage: Stage) -> None:
    enroll_sample_people(stage.home, sample.OBAMA, sample.BIDEN)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, PeopleScreen) and app.screen.table.row_count == 2, "the rows")
        await pilot.press("r")
        await until(lambda: app.screen.query("Ask Input"), "the question")
        app.screen.query_one(Input).value = sample.BIDEN
        await pilot.press("enter")
        await until(lambda: "is in the gallery already" in " ".join(seen(app).split()), "the reason")


@pytest.mark.slow
async def test_models_are_listed_measured_and_swapped_while_it_runs(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await started(stage)
        await pilot.press("o")
        await until(
            lambda: isinstance(app.screen, ModelsScreen) and app.screen.query_one(DataTable).row_count == 2, "the rows"
        )
        await until(lambda: "strangers that pass" in seen(app), "the plot")
        await until(lambda: "research only (NO COMMERCIAL USE)" in seen(app), "the licence")
        await pilot.press("down", "b")
        await until(lambda: "12.5 ms" in seen(app), "the measurement")
        await pilot.press("d")
        await until(lambda: len(stage.workers) == 2 and stage.saved, "another worker")
        assert stage.saved[-1].detector == "mtcnn"
        assert stage.workers[0].join(PATIENCE_S)
        await until(lambda: len(stage.reels) == 2, "the source is opened again")
        await pilot.press("escape")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "unknown" in words(app, "#here"), "it goes on")


async def test_settings_are_applied_and_saved_or_refused_with_words(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("comma")
        await until(lambda: isinstance(app.screen, SettingsScreen), "the screen")
        app.screen.query_one("#threads", Input).value = "many"
        await pilot.press("ctrl+s")
        await until(lambda: "the number of threads is 'many'" in " ".join(seen(app).split()), "the reason")
        assert not stage.saved
        app.screen.query_one("#threads", Input).value = ""
        app.screen.query_one("#margin", Input).value = "0.2"
        app.screen.query_one("#theme").value = "nord"
        app.screen.query_one("#liveness").value = "challenge"
        await pilot.press("ctrl+s")
        await until(lambda: stage.saved, "they are saved")
        assert stage.saved[-1].margin == 0.2 and stage.saved[-1].liveness == "challenge"
        await until(lambda: app.latest.rule.margin == pytest.approx(0.2 * app.latest.rule.scale), "they are used")
        await until(lambda: stage.looks.get("theme") == "nord", "the theme is remembered")
        assert len(stage.workers) == 1


async def test_help_lists_every_key_and_what_the_terminal_lacks(stage: Stage) -> None:
    stage.terminal = Terminal.detect({"TERM": "xterm-256color"}, "utf-8")
    app = stage.app()
    async with app.run_test(size=(100, 60), notifications=True) as pilot:
        await started(stage)
        await pilot.press("question_mark")
        await until(lambda: isinstance(app.screen, HelpScreen), "the help")
        keys = [binding.description for binding in LiveScreen.BINDINGS]
        await until(lambda: all(key in seen(app) for key in keys), "every key")
        await until(lambda: "announces 256 colours" in seen(app) and "dithered" in seen(app), "what is lacking")


async def test_a_fault_in_the_worker_is_a_line_on_the_screen_and_the_app_goes_on(stage: Stage) -> None:
    class Broken:
        def __init__(self, bench) -> None:
            self.recognizer = bench.recognizer
            self.tracks = ()

        def observe(self, frame):
            raise RuntimeError("Ada Lovelace")

        def reset(self) -> None: ...
        def with_gallery(self, gallery, rule) -> None: ...

    stage.recognizer = Broken(open_people(stage.home, stage.settings))
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        stage.reel.feed([clip_frame(50)])
        await until(lambda: "internal fault (RuntimeError)" in words(app, "#notice"), "the line")
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, PeopleScreen), "the app answers")
    assert "Ada" not in stage.home.log_path.read_text()


async def test_a_lost_camera_is_a_line_that_goes_away(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True):
        await started(stage)
        well = stage.reel.status
        stage.reel.lose("camera 7 is not there; trying again in 1 s")
        await until(lambda: "trying again in 1 s" in words(app, "#notice"), "the line")
        await until(lambda: "lost" in words(app, "#title"), "the title")
        stage.reel.status = well
        await until(lambda: not app.screen.query_one("#notice").display, "the line is gone")
        assert app.latest.status.state is CameraState.LIVE


async def test_what_is_to_be_told_at_the_start_is_told(stage: Stage) -> None:
    stage.notices = ("No camera was found: this is the built-in sample clip.",)
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True):
        await started(stage)
        await until(lambda: "No camera was found" in seen(app), "the notice")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
async def test_every_screen_shows_all_its_keys_and_fits(stage: Stage, size: tuple[int, int]) -> None:
    enroll_sample_people(stage.home, sample.OBAMA)
    app = stage.app()
    async with app.run_test(size=size, notifications=True) as pilot:
        await started(stage)
        for key, kind in (
            ("", LiveScreen),
            ("p", PeopleScreen),
            ("o", ModelsScreen),
            ("comma", SettingsScreen),
            ("e", EnrollScreen),
        ):
            if key:
                await pilot.press(key)
            await until(lambda kind=kind: isinstance(app.screen, kind), f"{kind.__name__}")
            await pilot.pause()
            await until(lambda: missing(app) == [], "every key")
            await until(lambda: app.screen.query_one(KeyBar).region.bottom == size[1], "the keys at the bottom")
            await until(lambda: outside(app) == [], "everything inside")
            if key:
                await pilot.press("escape")
                await until(lambda: isinstance(app.screen, LiveScreen), "back")


async def test_the_command_palette_offers_what_the_keys_do(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True):
        await started(stage)
        offered = {command.title for command in app.get_system_commands(app.screen)}
        assert {"Enroll", "People", "Models", "Settings", "Pause", "Threshold", "Help", "Theme", "Quit"} <= offered


async def test_a_reel_is_only_looked_at_once_and_in_order(stage: Stage) -> None:
    """The stage itself: frames arrive in the order they were fed."""
    reel = Reel()
    reel.feed([clip_frame(50), clip_frame(51)])
    assert [reel.take(0.1).index, reel.take(0.1).index, reel.take(0.01)] == [0, 1, None]


@pytest.mark.slow
async def test_an_unknown_face_is_ignored_by_a_key_and_shown_as_such(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await started(stage)
        await pilot.press("i")
        await until(lambda: "no unknown face" in seen(app), "there is nobody yet")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "unknown" in words(app, "#here"), "somebody unknown")
        await pilot.press("i")
        await until(lambda: app.screen.query("Ask Input"), "the question")
        await until(
            lambda: app.screen.query_one(Input).value == "stranger 1" and len(app.screen.query(Thumbnail)) == 1,
            "what is proposed",
        )
        app.screen.query_one(Input).value = "postman"
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, LiveScreen), "it is done")
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: "postman (ignored)" in words(app, "#here"), "he is shown as ignored")
        lines = len(app.screen.query_one("#log", RichLog).lines)
        stage.reel.feed(clip_frame(index) for index in OBAMA_ALONE)
        await until(lambda: stage.reel._frames.empty(), "more of him")
        assert not any("postman" in line.text for line in app.screen.query_one("#log", RichLog).lines[lines:])
        assert "Hello" not in words(app, "#title")
        await pilot.press("p")
        await until(lambda: "postman (ignored)" in seen(app), "and in the roster")
        await until(lambda: "A known stranger" in words(app, "#about"), "and in the details")
        await pilot.press("x")
        await until(lambda: app.screen.table.row_count == 0, "forgotten")
        await pilot.press("u")
        await until(lambda: "postman (ignored)" in seen(app), "back, as a known stranger still")
    with Vault(stage.home.gallery_path) as vault:
        [one] = vault.roster()
        assert one.name == "postman" and one.ignored
