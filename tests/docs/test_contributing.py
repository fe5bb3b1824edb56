"""One more thing to look for is one file and one entry: CONTRIBUTING's example, added the way it says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.task import LookFor
from edge_app.live.update import WorkerOptions
from edge_app.live.worker import Worker
from edge_app.media.live_camera import LiveOptions
from edge_app.media.pictures import write_picture
from edge_app.recognition import open_session as opening
from edge_app.system.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
[EXAMPLE] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def colours(monkeypatch):
    """The example's file, with its entry."""
    file: dict = {"__name__": "colours"}
    exec(compile(EXAMPLE, "colours.py", "exec"), file)
    monkeypatch.setitem(opening.OPENERS, "colours", file["open_colours"])


def plain(colour):
    return np.full((60, 80, 3), colour, np.uint8)


def test_the_example_is_under_sixty_lines():
    assert 20 < len(EXAMPLE.splitlines()) < 60


def test_a_picture_is_recognized_by_the_command(colours, home, tmp_path, capsys):
    write_picture(tmp_path / "a.png", plain((200, 20, 20)))
    write_picture(tmp_path / "b.png", plain((90, 91, 90)))
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert main(["recognize", *files, "--model", "colours", "--json", "--home", str(home.path)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["label"] for one in found] == ["red", None]
    assert found[0]["model"] == "colours" and found[0]["classes"][0]["label"] == "red"
    assert main(["recognize", files[0], "--model", "colours", "--home", str(home.path)]) == 0
    assert "red 0.83" in capsys.readouterr().out


def test_the_live_loop_tells_its_changes_as_events(colours, home, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(60):
        write_picture(folder / f"{index:03}.png", plain((220, 10, 10) if index < 30 else (10, 10, 220)))
    session = opening.open_session(home, Settings(), LookFor("colours"))
    updates = []
    with Worker(
        session, str(folder), updates.append, WorkerOptions(camera=LiveOptions(realtime=False), until_end=True)
    ) as worker:
        assert worker.join(30)
    events = [(event.event, event.name) for update in updates for event in update.events]
    assert events[0] == ("recognized", "red") and ("recognized", "blue") in events
    assert all(update.look_for == LookFor("colours") for update in updates)
