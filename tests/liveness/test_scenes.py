"""Challenges before the camera, with the real networks: heads, prints and recordings made of the sample people."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_app.core.errors import EdgeError
from edge_app.core.types import Frame
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.inference.face_mesh import LEFT_EYE, RIGHT_EYE, FaceMesh
from edge_app.live.challenge import Challenge, ChallengeOptions, Progress
from edge_app.live.challenge_mode import ChallengeMode
from edge_app.live.challenge_record import FILE, Recorder, read_recording, replay
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.model_store.catalogue import open_shipped
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.liveness.actors import Body, Camera, Cut, Living
from tests.liveness.heads import Head, Pose
from tests.liveness.study import Person, actor_of, run

OBAMA, BIDEN = "Barack Obama", "Joe Biden"


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh(open_shipped("face-mesh", threads=1))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> PeopleSession:
    session = open_people(Home(tmp_path_factory.mktemp("door") / "home"), Settings(precision="fp32", threads=1))
    for name, paths in sample.people().items():
        looks = [(path.name, session.recognizer.shot(read_picture(path), path.name)) for path in paths]
        session.enroll(name, looks, EnrollOptions())
    return session.refreshed()


@pytest.fixture(scope="module")
def people(session: PeopleSession, mesh: FaceMesh) -> tuple[Person, Person]:
    made = []
    for name, path in ((OBAMA, sample.probes()[OBAMA][0]), (BIDEN, sample.people()[BIDEN][0])):
        pixels = read_picture(path)
        face = session.recognizer.detector.detect(pixels)[0]
        made.append(Person(name, pixels, face, Head(pixels, face, mesh)))
    return made[0], made[1]


def challenge_of(session: PeopleSession, species: str) -> tuple[Challenge, random.Random]:
    draw = random.Random(f"7 {species}")
    return Challenge(ChallengeOptions(), draw, similar_from=session.recognizer.rule.same_person or -1.0), draw


@pytest.mark.parametrize("species", ["live 10 fps", pytest.param("live 30 fps", marks=pytest.mark.slow)])
def test_a_living_head_passes(session, mesh, people, species):
    challenge, draw = challenge_of(session, species)
    actor = actor_of(species, *people, challenge, draw)
    progress = run(session, mesh, people[0], actor, challenge, 30.0 if "30" in species else 10.0)
    assert progress.outcome == "passed", progress.reason


@pytest.mark.slow
@pytest.mark.parametrize("species", [
    "flat print", "bent print", "folded print", "phone", "print with holes", "cut to a print", "cut from a print",
    "recording, other order", "recording, wrong answers", "recording, early", "recording, late", "two people",
])  # fmt: skip
def test_what_is_no_living_person_does_not(session, mesh, people, species):
    challenge, draw = challenge_of(session, species)
    progress = run(session, mesh, people[0], actor_of(species, *people, challenge, draw), challenge, 10.0)
    if species == "two people":  # nothing is asked until one is alone
        assert progress.outcome == "waiting" and not progress.steps and "somebody else" in progress.reason
        return
    assert progress.outcome in ("not live", "no answer")
    assert progress.began_s is not None, "the print was not even recognized: nothing was tested"


def test_a_flat_print_does_not(session, mesh, people):
    challenge, draw = challenge_of(session, "flat print")
    progress = run(session, mesh, people[0], actor_of("flat print", *people, challenge, draw), challenge, 10.0)
    assert progress.began_s is not None and progress.outcome in ("not live", "no answer")


@pytest.mark.slow
def test_glasses_put_on_midway_are_no_other_person_and_a_mask_put_on_is(session, mesh, people):
    def changed(cover: Callable[[Head], None]) -> Progress:
        challenge, draw = challenge_of(session, "live 10 fps")
        camera = Camera(np.random.default_rng(1))
        body, other = Body(draw), copy.copy(people[0].head)
        other.picture = other.picture.copy()
        cover(other)
        answered = lambda progress: any(step.answered_s for step in progress.steps)  # noqa: E731
        actor = Cut(Living(people[0].head, body, camera), Living(other, body, camera), answered)
        return run(session, mesh, people[0], actor, challenge, 10.0)

    def glasses(head: Head) -> None:
        for eye in (RIGHT_EYE, LEFT_EYE):
            x, y = (int(value) for value in head.mesh.points[list(eye), :2].mean(axis=0))
            cv2.ellipse(head.picture, (x, y), (9, 7), 0, 0, 360, (15, 15, 15), 1)

    def mask(head: Head) -> None:
        head.picture[:] = people[1].head.picture

    assert changed(glasses).outcome == "passed"
    masked = changed(mask)
    assert masked.outcome in ("not live", "no answer") and masked.reason


def test_the_head_of_somebody_else_is_asked_nothing(session, mesh, people):
    challenge, draw = challenge_of(session, "live 10 fps")
    obama, biden = people
    actor = actor_of("live 10 fps", biden, obama, challenge, draw)
    mode = ChallengeMode(session, OBAMA, mesh, challenge)
    for index in range(20):
        seen = mode.observe(Frame(actor.frame(index / 10, mode.progress), index, index / 10))
    assert seen.findings and mode.progress.began_s is None


def test_a_rendered_head_turns_as_it_is_told(session, mesh, people):
    from edge_app.inference.face_mesh import turn_between

    head = people[0].head
    detector = session.recognizer.detector
    found = {}
    for pose in (Pose(), Pose(yaw_deg=20), Pose(pitch_deg=-15), Pose(scale=1.3)):
        picture = head.seen(pose)
        found[pose] = mesh.find(picture, detector.detect(picture)[0]).points.astype(np.float64)
    turns = {pose: turn_between(found[Pose()], points) for pose, points in found.items()}
    assert turns[Pose(yaw_deg=20)].yaw_deg == pytest.approx(20, abs=6)
    assert turns[Pose(pitch_deg=-15)].pitch_deg == pytest.approx(-15, abs=5)
    assert turns[Pose(scale=1.3)].scale == pytest.approx(1.3, abs=0.08)


@pytest.mark.slow
def test_a_recorded_challenge_ends_as_it_did(session, mesh, people, tmp_path):
    challenge, draw = challenge_of(session, "live 10 fps")
    actor = actor_of("live 10 fps", *people, challenge, draw)
    with Recorder(tmp_path) as recorder:
        mode = ChallengeMode(session, OBAMA, mesh, challenge, recorder)
        for index in range(200):
            mode.observe(Frame(actor.frame(index / 10, mode.progress), index, index / 10))
            if mode.progress.outcome != "waiting":
                break
    assert mode.progress.outcome == "passed"
    [folder] = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    again = replay(folder, session, mesh)
    assert again.outcome == "passed"
    assert [step.movement for step in again.steps] == [step.movement for step in mode.progress.steps]
    swapped = json.loads((folder / FILE).read_text())
    for prompt in swapped["prompts"]:
        prompt["movement"] = {"left": "right", "right": "left", "up": "down", "down": "up"}.get(
            prompt["movement"], "left"
        )
    (folder / FILE).write_text(json.dumps(swapped))
    assert replay(folder, session, mesh).outcome != "passed"


@pytest.mark.parametrize("spoil", [
    lambda told: told | {"prompts": [{"at_s": 1.0, "movement": "jump"}]},
    lambda told: told | {"times_s": [3.0, 1.0]},
    lambda told: told | {"times_s": []},
    lambda told: told | {"times_s": "soon"},
    lambda told: {"prompts": []},
    lambda told: [told],
])  # fmt: skip
def test_a_recording_that_says_nonsense_is_refused(tmp_path: Path, spoil: Callable[[dict], object]):
    told = {"times_s": [0.0, 0.1], "prompts": [{"at_s": 0.1, "movement": "left"}], "mirrored": False, "outcome": ""}
    (tmp_path / FILE).write_text(json.dumps(told))
    assert read_recording(tmp_path).prompts[0].movement == "left"
    (tmp_path / FILE).write_text(json.dumps(spoil(told)))
    with pytest.raises(EdgeError, match="expected a challenge"):
        read_recording(tmp_path)
