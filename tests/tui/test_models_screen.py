"""The terminal app over the command line's own desk: real files, the real store and gallery, small stub networks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.widgets import DataTable, Input, Static

from edge_app.cli.parameters import Arguments
from edge_app.cli.tui import desk_of
from edge_app.core.task import LookFor, Task
from edge_app.gallery import calibration
from edge_app.gallery.calibration import Calibration
from edge_app.gallery.storage import Vault
from edge_app.model_store import catalogue
from edge_app.model_store.onnx_inspect import inspect, with_card
from edge_app.system.data_folder import Home
from edge_app.system.files import sha256_of_file as sha256_of
from edge_app.system.files import write_private
from edge_app.system.settings import Settings
from edge_app.tui.app import EdgeApp, compose_app
from edge_app.tui.screens.enroll_thing import ThingScreen
from edge_app.tui.screens.live import LiveScreen
from edge_app.tui.screens.models import ModelsScreen
from edge_app.tui.screens.people import PeopleScreen
from tests.fakes import points
from tests.model_store.planted import colour_card, install, plain, write_colours
from tests.recognition.test_things import blocks, on_desk, thing
from tests.tui.stage import Stage, until

SIZE = (110, 32)
SHIPPED = len(catalogue.catalogue(None))
RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture
def stage(home: Home) -> Stage:
    return Stage(home)


def real_app(stage: Stage) -> EdgeApp:
    """As `edge-app tui` makes it, but for the camera, the terminal and the saved looks."""
    names = ("seconds", "fpir", "margin", "precision", "detector", "threads", "min_face")
    args = Arguments(**dict.fromkeys(names), home=stage.home.path, source="sample", stats=False)
    return compose_app(replace(desk_of(args), open_worker=stage._open, terminal=stage.terminal))


def words(app: EdgeApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


def told(app: EdgeApp) -> str:
    return " ".join(notification.message for notification in app._notifications)


def on_live(app: EdgeApp, text: str) -> Callable[[], bool]:
    return lambda: isinstance(app.screen, LiveScreen) and text in words(app, "#here")


async def shows(stage: Stage, picture: np.ndarray, true: Callable[[], bool], what: str) -> None:
    """Go on showing one picture, as a camera does, until the app gets there."""

    def there() -> bool:
        if true():
            return True
        stage.reel.feed([picture])
        return False

    await until(there, what)


def looked_at(app: EdgeApp, picture: np.ndarray) -> bool:
    """Whether the newest look of the screen of things is at this picture."""
    screen = app.screen
    assert isinstance(screen, ThingScreen)
    return screen._seen is not None and np.array_equal(screen._seen.frame.pixels, picture)


async def models_of(app: EdgeApp, pilot: Any, rows: int) -> ModelsScreen:
    await pilot.press("o")
    await until(lambda: isinstance(app.screen, ModelsScreen) and len(app.screen._lines) == rows, f"{rows} models")
    assert isinstance(app.screen, ModelsScreen)
    return app.screen


async def put_cursor(app: EdgeApp, screen: ModelsScreen, model_id: str) -> None:
    row = [line.model_id for line in screen._lines].index(model_id)
    screen.query_one(DataTable).move_cursor(row=row)
    await until(lambda: model_id in words(app, "#card"), f"the card of {model_id}")


async def add(app: EdgeApp, pilot: Any, path: str) -> None:
    await pilot.press("a")
    await until(lambda: app.screen.query("Ask Input"), "the question")
    app.screen.query_one(Input).value = path
    await pilot.press("enter")


async def confirm(app: EdgeApp, pilot: Any, key: str) -> None:
    await pilot.press(key)
    await until(lambda: app.screen.query("Confirm Label"), "the question")
    await pilot.press("y")


@pytest.mark.slow
async def test_a_thing_is_learned_named_and_forgotten(stage: Stage) -> None:
    blocks(stage.home.models_dir / "blocks-fp32.onnx")
    stage.home.change_settings(model="blocks")

    scenes = {seed: on_desk(thing(seed, 240), (200, 120))[0] for seed in (1, 2)}
    app = real_app(stage)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await until(lambda: app.screen.looks_for("image-embedding"), "things are looked for")
        await shows(stage, scenes[1], on_live(app, "nothing is enrolled yet"), "nobody knows it")
        await pilot.press("b")
        assert app.area is not None and app.area.box == (200, 120, 440, 360)
        await pilot.press("e")
        await until(lambda: isinstance(app.screen, ThingScreen), "the screen of things")
        await pilot.press(*"mug", "enter")
        await until(lambda: app.screen._begun, "it captures")
        # The same picture twice would count once: the second is taken in other light.
        for count, view in ((1, scenes[1]), (2, (scenes[1] * 0.8).astype(np.uint8))):
            await shows(stage, view, lambda view=view: looked_at(app, view), "a look")
            await pilot.press("space")
            await until(lambda count=count: len(app.screen.taken) == count, "a capture")
        await pilot.press("enter")
        await until(lambda: "mug is enrolled with 2 captures" in words(app, "#facts"), "the facts")
        await pilot.press("enter")
        await shows(stage, scenes[1], on_live(app, "● mug"), "it is named without a restart, in the same box")
        assert app.area.box == (200, 120, 440, 360)
        await shows(stage, scenes[2], on_live(app, "? unknown"), "a stranger is not")
        # Models loaded again: the box is still the one that is looked at.
        await app.apply(threads=1)
        await until(lambda: app.latest.look_for == LookFor("blocks"), "the same model on a new worker")
        await shows(stage, scenes[1], on_live(app, "● mug"), "named again")
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, PeopleScreen) and app.screen.chosen == "mug", "the roster of things")
        await until(lambda: "1 thing, known to blocks" in words(app, "#title"), "how many")
        await until(lambda: "No other thing is enrolled" in words(app, "#about"), "what is known of it")
        await pilot.press("x")
        await until(lambda: app.screen.table.row_count == 0, "forgotten")
        await pilot.press("escape")
        await shows(stage, scenes[1], on_live(app, "nothing is enrolled yet"), "it is gone on Live too")
    with Vault(stage.home.gallery_path) as vault:
        assert vault.names() == ()


@pytest.mark.slow
async def test_what_is_no_model_is_refused_in_a_line_and_the_app_goes_on(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("what to buy: milk\n" * 30)
    app = real_app(stage)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await models_of(app, pilot, SHIPPED)
        for path, line in (
            (str(tmp_path / "gone.onnx"), "No such file"),
            (str(tmp_path / "notes.onnx"), "notes.onnx is not an ONNX file"),
            (str(tmp_path), "Is a directory"),
            ("one.onnx two.onnx", "names 2 files"),
            (str(catalogue.build(None, "sface", "int8").path), "sface ships with edge-app"),
        ):
            await add(app, pilot, path)
            await until(lambda line=line: line in words(app, ".problem"), line)
            assert app.screen.query_one(Input).value == path
            await pilot.press("escape")
            await until(lambda: isinstance(app.screen, ModelsScreen), "the screen again")
        await confirm(app, pilot, "delete")
        await until(lambda: "ships with edge-app; expected a model that was added" in told(app), "a shipped one stays")
    assert catalogue.installed(stage.home) == ()


@pytest.mark.slow
async def test_a_classifier_is_added_used_explained_and_removed_while_in_use(stage: Stage, tmp_path: Path) -> None:
    path = write_colours(tmp_path / "colours.onnx", colour_card())
    app = real_app(stage)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        screen = await models_of(app, pilot, SHIPPED)
        await add(app, pilot, str(path))
        await until(lambda: len(screen._lines) == SHIPPED + 1 and "red, green, blue" in words(app, "#card"), "its card")
        await pilot.press("enter")
        await until(lambda: stage.home.settings().model == "colours", "it is in use, and stays so")
        await pilot.press("escape")
        await shows(stage, plain(RED, 480, 640), on_live(app, "● red"), "the top class")
        await until(lambda: re.search(r"\nred.*%", words(app, "#here")), "how sure it is")
        await shows(stage, plain((140, 100, 90), 480, 640), on_live(app, "? not sure"), "below the bar")
        await until(lambda: app.screen.looks_for(Task.CLASSIFICATION), "its card is known")
        # Twice in haste is on and off, not on and on.
        await pilot.press("x", "x")
        await until(lambda: not app.explaining and not stage.workers[-1].mode.explaining, "on and off")
        await pilot.press("x")
        evidence = "where the network sees 'green'"
        await shows(stage, plain(GREEN, 480, 640), lambda: evidence in words(app, "#notice"), "the evidence")
        await app.apply(threads=1)
        await until(lambda: stage.workers[-1].mode.explaining, "a fresh worker explains as well")
        screen = await models_of(app, pilot, SHIPPED + 1)
        await put_cursor(app, screen, "colours")
        await confirm(app, pilot, "delete")
        await until(lambda: "colours is removed" in told(app), "it is removed")
        await until(lambda: app.latest.look_for == LookFor("faces"), "faces again")
    assert catalogue.installed(stage.home) == () and stage.home.settings().model == app.settings.model == "faces"


async def test_a_model_without_maps_says_so_when_it_is_asked_to_explain(stage: Stage) -> None:
    install(stage.home, colour_card(outputs=("logits",)))
    stage.home.change_settings(model="colours")
    app = real_app(stage)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await until(lambda: app.screen.looks_for(Task.CLASSIFICATION), "it is in use")
        await pilot.press("x")
        await until(lambda: "no class activation maps" in told(app), "the reason")
        assert not app.explaining


def copy_of_sface(home: Home, model_id: str) -> catalogue.Entry:
    """The shipped embedder under another name, as if the user had brought it."""
    shipped = catalogue.build(None, "sface", "int8").path
    card = replace(inspect(shipped).card, id=model_id)
    path = home.models_dir / f"{model_id}-int8.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(with_card(shipped.read_bytes(), card))
    entry = {"id": model_id, "precision": "int8", "task": card.task, "file": path.name, "sha256": sha256_of(path)}
    write_private(catalogue.list_path(home), json.dumps({"models": [entry | {"bytes": path.stat().st_size}]}).encode())
    return catalogue.installed(home)[0]


@pytest.mark.slow
async def test_the_user_s_own_embedder_is_used_calibrated_and_removed_while_in_use(stage: Stage) -> None:
    entry = copy_of_sface(stage.home, "mine")
    own = points((1e-2, 0.71), (1e-3, 0.83), templates=(1,), pairs=4321)
    calibration.save(stage.home, [Calibration("mine", entry.sha256, 20, 100, own)], 0.0)
    stage.settings = replace(Settings(), embedder="mine")
    stage.home.change_settings(**asdict(stage.settings))
    stage.precision = "auto"
    app = real_app(stage)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        screen = await models_of(app, pilot, SHIPPED + 1)
        [line] = [line for line in screen._lines if line.model_id == "mine"]
        assert line.in_use and line.points == own and line.calibrated
        assert line.threshold == app.worker.people.recognizer.rule.threshold
        assert [one.model_id for one in screen._lines if one.in_use] == ["yunet", "mine"]
        await put_cursor(app, screen, "mine")
        await until(
            lambda: "4,321 pairs of strangers of yours (calibrated)" in words(app, "#card"), "what it was calibrated on"
        )
        await until(lambda: "0.83" in words(app, "#plot"), "its threshold")
        await confirm(app, pilot, "delete")
        await until(lambda: "mine is removed" in told(app), "it is removed")
        assert app.worker.people.recognizer.embedder.model_id == "sface"
    assert app.settings.embedder == stage.home.settings().embedder == "sface"


async def test_a_damaged_model_is_told_and_can_be_removed(stage: Stage) -> None:
    blocks(stage.home.models_dir / "blocks-fp32.onnx")
    (stage.home.models_dir / "blocks-fp32.onnx").write_bytes(b"\x00" * 100)
    app = real_app(stage)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        screen = await models_of(app, pilot, SHIPPED + 1)
        row = [line.model_id for line in screen._lines].index("blocks")
        screen.query_one(DataTable).move_cursor(row=row)
        await until(lambda: "not an ONNX file" in words(app, "#card"), "what is wrong with it")
        await confirm(app, pilot, "delete")
        await until(lambda: len(screen._lines) == SHIPPED, "it is gone")


async def test_the_title_of_the_models_is_whole_in_a_small_terminal(stage: Stage) -> None:
    app = real_app(stage)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = await models_of(app, pilot, SHIPPED)
        said = words(app, "#title")
        await until(lambda: screen.query_one("#title").size.height * 80 >= len(said), "there is room for it")


async def test_an_embedder_that_nobody_calibrated_is_not_used_and_says_what_to_do(stage: Stage) -> None:
    blocks(stage.home.models_dir / "blocks-fp32.onnx", operating_points=())
    app = real_app(stage)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        screen = await models_of(app, pilot, SHIPPED + 1)
        await put_cursor(app, screen, "blocks")
        await until(lambda: "no operating points" in words(app, "#plot"), "why not")
        await pilot.press("enter")
        await until(lambda: "edge-app calibrate DIR --model blocks" in told(app), "what to do")
    assert app.settings.model == stage.home.settings().model == "faces"
