"""People told together with what liveness networks make of them; the network here takes reddish faces for live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.types import Frame, Pixels
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.live.passive_mode import PassiveMode
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.notify.login import LoginOptions, Outcome, login
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.liveness import PassiveLiveness, open_liveness
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.model_store.planted import colour_card, install

OBAMA = "Barack Obama"


@pytest.fixture
def session(tmp_path: Path) -> PeopleSession:
    home = Home(tmp_path / "home")
    session = open_people(home, Settings(precision="fp32", threads=1))
    looks = [(path.name, session.recognizer.shot(read_picture(path), path.name)) for path in sample.people()[OBAMA]]
    session.enroll(OBAMA, looks, EnrollOptions())
    install(home, colour_card(id="reddish", task="liveness", labels=("live", "fake (g)", "fake (b)"), crop="face-1.2",
                              outputs=("logits",), temperature=0.2))  # fmt: skip
    return session.refreshed()


@pytest.fixture
def portrait() -> Pixels:
    return read_picture(sample.probes()[OBAMA][0], max_px=480)


def tinted(pixels: Pixels, red: float, blue: float) -> Pixels:
    return np.clip(pixels * np.array([red, 1.0, blue]), 0, 255).astype(np.uint8)


def played(session: PeopleSession, pixels: Pixels, frames: int = 30) -> list[tuple[str, str | None, float]]:
    mode = PassiveMode(session, open_liveness(session.home, 1))
    told = []
    for index in range(frames):
        mode.observe(Frame(pixels, index, index / 10))
        told += mode.events()
    mode.finish(frames / 10)
    told += mode.events()
    assert [event.time_s for event in told] == sorted(event.time_s for event in told)
    return [(event.event, event.live, event.time_s) for event in told]


@pytest.mark.parametrize(("red", "blue", "word"), [(1.2, 0.7, "yes"), (0.8, 1.5, "no")])
def test_who_is_recognized_is_told_once_with_the_networks_verdict(session, portrait, red, blue, word):
    told = played(session, tinted(portrait, red, blue))
    assert [(event, live) for event, live, _ in told] == [("appeared", None), ("recognized", word), ("left", None)]


def test_a_face_without_its_surroundings_is_told_as_unchecked_after_a_while(session, portrait):
    [face] = session.recognizer.detector.detect(portrait)[:1]
    x1, y1, x2, y2 = (int(value) for value in face.box)
    tight = np.ascontiguousarray(portrait[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4])
    told = played(session, tinted(tight, 1.2, 0.7))
    recognized = [(live, time_s) for event, live, time_s in told if event == "recognized"]
    assert [live for live, _ in recognized] == ["unchecked"] and recognized[0][1] >= 1.5


def test_somebody_who_leaves_before_that_is_told_first(session, portrait):
    told = played(session, tinted(portrait, 1.2, 0.7), frames=4)
    names = [event for event, _, _ in told]
    assert names == ["appeared", "recognized", "left"] and told[1][1] == "unchecked"


def test_the_median_decides_and_few_frames_say_nothing(session, portrait):
    liveness = PassiveLiveness(open_liveness(session.home, 1))
    [face] = session.recognizer.detector.detect(portrait)[:1]
    for _ in range(9):
        liveness.see(tinted(portrait, 1.2, 0.7), face)
    assert liveness.verdict is None and liveness.share is None
    liveness.see(tinted(portrait, 0.8, 1.5), face)
    assert liveness.verdict is True  # nine of ten
    for _ in range(9):
        liveness.see(tinted(portrait, 0.8, 1.5), face)
    assert liveness.verdict is False


@pytest.mark.slow
def test_watch_and_verify_say_it(session, tmp_path, capsys, monkeypatch):
    at = ["--home", str(session.home.path)]
    assert main(["watch", "sample", "--liveness", "passive", "--json", *at]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if '"recognized"' in line]
    assert lines and all('"live": "' in line for line in lines)
    session.home.change_settings(liveness="passive")
    for chosen, said in (([], True), (["--liveness", "off"], False)):
        assert main(["watch", "sample", "--json", *chosen, *at]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if '"recognized"' in line]
        assert lines and all(('"live": "' in line) is said for line in lines)
    assert main(["watch", "sample", "--model", "reddish", "--liveness", "passive", *at]) == 2
    assert "expected people to look for" in capsys.readouterr().err
    found = login(session, OBAMA, "sample", lambda text: None, options=LoginOptions("passive", 120.0))
    assert found.outcome in (Outcome.VERIFIED, Outcome.NOT_LIVE)
    assert found.outcome is Outcome.VERIFIED or "0.50 is needed" in found.reason
