"""Logins: outcomes as exit codes, failures that are counted, names that rest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.core.types import Frame
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.gallery.storage import Vault
from edge_app.inference.face_mesh import FaceMesh
from edge_app.media import sample
from edge_app.media.live_camera import CameraState, CameraStatus
from edge_app.media.pictures import read_picture
from edge_app.model_store.catalogue import open_shipped
from edge_app.notify.hooks import Hooks
from edge_app.notify.login import Login, LoginOptions, Outcome, login, rest_s
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.liveness.actors import Actor
from tests.liveness.heads import Head
from tests.liveness.study import Person, actor_of

OBAMA, BIDEN = "Barack Obama", "Joe Biden"


@pytest.fixture
def session(tmp_path: Path) -> PeopleSession:
    home = Home(tmp_path / "home")
    home.change_settings(precision="fp32")
    session = open_people(home, Settings(precision="fp32", threads=1))
    for name, paths in sample.people().items():
        looks = [(path.name, session.recognizer.shot(read_picture(path), path.name)) for path in paths]
        session.enroll(name, looks, EnrollOptions())
    return session.refreshed()


@pytest.fixture(autouse=True)
def young_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_app.system.timing.process_began_s", time.monotonic)


def stage(monkeypatch: pytest.MonkeyPatch, species: str) -> None:
    """Put an actor before the camera, who sees what is asked; time passes by frames, 10 a second."""

    class Loop:
        def __init__(self, session: PeopleSession, _: str, sink: Callable[[object], None], *__: object, mode) -> None:
            detector = session.recognizer.detector
            mesh = FaceMesh(open_shipped("face-mesh", threads=1))
            people = []
            for name, path in ((OBAMA, sample.probes()[OBAMA][0]), (BIDEN, sample.people()[BIDEN][0])):
                pixels = read_picture(path)
                face = detector.detect(pixels)[0]
                people.append(Person(name, pixels, face, Head(pixels, face, mesh)))
            challenge = mode.examiner._challenge
            self.actor: Actor = actor_of(species, people[0], people[1], challenge, challenge.draw)
            self.mode, self.sink, self.index = mode, sink, 0

        def __enter__(self) -> Loop:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def join(self, _: float) -> bool:
            time_s = self.index / 10
            self.mode.observe(Frame(self.actor.frame(time_s, self.mode.progress), self.index, time_s))
            self.index += 1
            status = CameraStatus(CameraState.LIVE, "")
            self.sink(SimpleNamespace(events=self.mode.events(), status=status, trouble=""))
            return False

    monkeypatch.setattr("edge_app.notify.watcher.Worker", Loop)


def test_a_living_person_is_verified_and_told_what_to_do(session, monkeypatch, tmp_path, capsys):
    stage(monkeypatch, "live 10 fps")
    fire = Hooks.fire

    def fire_and_wait(hooks: Hooks, *given: object) -> bool:
        began = fire(hooks, *given)  # type: ignore[arg-type]
        hooks._join(60)  # the actor moves as fast as he can be drawn: on a busy machine the programs would fall behind
        return began

    monkeypatch.setattr(Hooks, "fire", fire_and_wait)
    told = tmp_path / "told"
    command = f"sh -c 'printenv EDGE_APP_PROMPT >> {told}'"
    at = ["--source", "0", "--timeout", "300", "--home", str(session.home.path)]
    assert main(["verify", OBAMA, *at, "--json", "--on-prompt", command, "--record", str(tmp_path / "kept")]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["outcome"], found["reason"]) == ("verified", "")
    assert len(found["steps"]) >= 2 and all(step["answered_s"] > step["asked_s"] for step in found["steps"])
    asked = [
        line for line in err.splitlines() if "turn" in line or "look up" in line or "down" in line or "closer" in line
    ]
    assert len(asked) == len(found["steps"])
    assert len(told.read_text().splitlines()) >= len(asked)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert session.vault is not None
    assert [e.name for e in session.vault.events() if e.happening == "login"] == [OBAMA]


def test_a_print_is_recognized_and_not_live(session, monkeypatch, capsys):
    stage(monkeypatch, "flat print")
    at = ["--source", "0", "--timeout", "300", "--home", str(session.home.path)]
    assert main(["verify", OBAMA, *at]) in (Outcome.NOT_LIVE, Outcome.NO_ANSWER)
    assert session.vault is not None
    assert session.vault.person(OBAMA).facts.failures == 1
    assert not [e for e in session.vault.events() if e.happening == "login"]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "code", "said"), [
    ("black", Outcome.NOT_RECOGNIZED, "the picture is black"),
    ("frozen", Outcome.NO_ANSWER, "the picture stands still"),
])  # fmt: skip
def test_a_black_camera_and_one_that_stands_still_let_nobody_in(session, tmp_path, capsys, what, code, said):
    portrait = read_picture(sample.probes()[OBAMA][0], max_px=320)
    frame = np.zeros((240, 320, 3), np.uint8) if what == "black" else portrait[:240, :320, ::-1]
    height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
    video = cv2.VideoWriter(str(tmp_path / "it.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for _ in range(80):
        video.write(np.ascontiguousarray(frame[:height, :width]))
    video.release()
    at = ["--source", str(tmp_path / "it.avi"), "--timeout", "120", "--home", str(session.home.path)]
    assert main(["verify", OBAMA, *at]) == code
    assert said in capsys.readouterr().err


def test_a_single_picture_answers_no_challenge(session):
    [probe] = sample.probes()[OBAMA]
    found = login(session, OBAMA, str(probe), pytest.fail)
    assert found.outcome is Outcome.NO_ANSWER and "single picture" in found.reason


def test_passive_liveness_wants_a_network(session, capsys):
    at = ["--source", "sample", "--home", str(session.home.path)]
    assert main(["verify", OBAMA, *at, "--liveness", "passive"]) == 2
    assert "no liveness network is installed" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "timeout_s"), [("Nobody", 5.0), (OBAMA, 0.0), (OBAMA, float("nan"))])
def test_misuse(session, name, timeout_s):
    with pytest.raises(UsageError):
        login(session, name, "sample", pytest.fail, options=LoginOptions("off", timeout_s))


def test_rests_grow_and_end():
    assert [rest_s(n, 1000.0, 1000.0) for n in (0, 4, 5, 6, 7, 50)] == [0, 0, 30, 60, 120, 3600]
    assert rest_s(5, 1000.0, 1029.0) == pytest.approx(1.0) and rest_s(5, 1000.0, 1031.0) == 0
    assert rest_s(5, 1000.0, 0.0) == 30  # a clock that was set back


def test_after_five_failures_the_name_rests_until_they_are_reset(session, capsys):
    assert session.vault is not None
    for _ in range(5):
        session.vault.note_attempt(OBAMA, passed=False)
    at = ["--source", str(sample.probes()[OBAMA][0]), "--liveness", "off", "--home", str(session.home.path)]
    assert main(["verify", OBAMA, *at]) == 1
    assert "rests for" in capsys.readouterr().err
    assert main(["verify", BIDEN, *at[2:], "--source", str(sample.people()[BIDEN][0])]) == 0
    assert main(["verify", OBAMA, *at, "--reset-failures"]) == 0
    assert main(["verify", OBAMA, *at]) == 0


def test_failures_are_kept_with_the_person_and_forgotten_by_a_success(tmp_path, session):
    vault = session.vault
    assert vault is not None
    vault.note_attempt(OBAMA, passed=False)
    vault.note_attempt(OBAMA, passed=False)
    with Vault(vault.path) as again:
        assert again.person(OBAMA).facts.failures == 2 and again.person(BIDEN).facts.failures == 0
        again.touch(OBAMA, time.time())
        again.rename(OBAMA, "Obama")
        assert again.person("Obama").facts.failures == 2
        again.note_attempt("Obama", passed=True)
        assert again.person("Obama").facts.failures == 0


def test_somebody_else_counts_as_a_failure_and_nobody_does_not(session):
    vault = session.vault
    assert vault is not None
    found = login(session, OBAMA, str(sample.stranger()), lambda text: None, options=LoginOptions("off", 60.0))
    assert found == Login(Outcome.NOT_RECOGNIZED, f"{OBAMA} was not recognized in time", (), found.seconds)
    assert vault.person(OBAMA).facts.failures == 1
