"""Challenges with living heads and with attacks: `python -m tests.liveness.study --people DIR --part kept`.

The people of a folder (a sub-folder each, two pictures or more) are split by their names' hash: limits were chosen on
the "tuning" part. The first picture enrolls, the second is what heads and prints are made of. All people of the part
are in one gallery.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_app.accuracy.intervals import clopper_pearson
from edge_app.core.types import Face, Frame, Pixels
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.inference.face_mesh import FaceMesh
from edge_app.live.challenge import Challenge, ChallengeOptions, Progress
from edge_app.live.challenge_mode import ChallengeMode
from edge_app.live.challenge_record import Recorder
from edge_app.media.pictures import read_picture
from edge_app.model_store.catalogue import open_shipped
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.liveness import actors
from tests.liveness.actors import Actor, Behind, Body, Camera, Cut, Living, Print, Recording, Together
from tests.liveness.heads import Head, Pose, Sheet

SPECIES = (
    "live 10 fps", "live 30 fps", "flat print", "bent print", "folded print", "phone", "print with holes",
    "recording, other order", "recording, wrong answers", "recording, early", "recording, late",
    "recording, right order, own time", "cut to a print", "cut from a print", "two people",
)  # fmt: skip


@dataclass
class Person:
    """One of the people: how they are enrolled, and what heads and prints are made of."""

    name: str
    pixels: Pixels
    face: Face
    head: Head


def people_of(
    folder: Path, part: str, most: int, session: PeopleSession, mesh: FaceMesh, after: str = ""
) -> list[Person]:
    """Enroll the people of one part, and make their heads; those whose names come after `after`."""
    found: list[Person] = []
    for place in sorted(folder.iterdir()):
        half = int(hashlib.sha256(place.name.encode()).hexdigest(), 16) % 2
        pictures = sorted(place.iterdir())
        if half != (part == "kept") or len(pictures) < 2 or len(found) >= most or place.name <= after:
            continue
        pixels = [read_picture(path) for path in pictures[:2]]
        faces = [session.recognizer.detector.detect(one) for one in pixels]
        if not all(faces) or faces[1][0].width_px < 60:
            continue
        head = Head(pixels[1], faces[1][0], mesh)
        scenes = [session.recognizer.detector.detect(head.seen(Pose(yaw_deg=turn))) for turn in (-25, 0, 25)]
        if any(
            not there or len([one for one in there if one.size_px > 0.4 * there[0].size_px]) > 1 for there in scenes
        ):
            continue  # somebody else is in the scene: the attack "two people" is measured apart
        shots = [session.recognizer.shot_of(pixels[0], faces[0][0], "first")]
        session.enroll(place.name, [("first", shot) for shot in shots], EnrollOptions())
        found.append(Person(place.name, pixels[1], faces[1][0], head))
    return found


def _is_named(session: PeopleSession, person: Person) -> bool:
    """Whether the living head is recognized at all: what a challenge stops is measured of those."""
    found = session.recognizer.observe(Frame(person.head.seen(Pose()), 0, 0.0)).findings
    return any(one.name == person.name for one in found)


def actor_of(species: str, person: Person, other: Person, challenge: Challenge, draw: random.Random) -> Actor:
    """What stands before the camera."""
    camera = Camera(np.random.default_rng(draw.randrange(2**31)), draw.uniform(0.6, 1.2), draw.uniform(1, 5))
    body, sheet = Body(draw), Sheet(person.pixels, person.face.width_px)
    wall = cv2.GaussianBlur(other.head.wall, (0, 0), 3)
    living = Living(person.head, body, camera)
    print_ = Print(sheet, wall, Body(draw), camera, draw.uniform(1.0, 2.0))
    if species.startswith("live"):
        return living
    if species == "flat print":
        return print_
    if species == "bent print":
        return Print(
            Sheet(person.pixels, person.face.width_px, bent_deg=draw.uniform(30, 110)), wall, body, camera,
            draw.uniform(1.0, 1.6),
        )  # fmt: skip
    if species == "folded print":
        folded = Sheet(person.pixels, person.face.width_px, folded_deg=draw.uniform(10, 35))
        return Print(folded, wall, body, camera, draw.uniform(1.0, 1.6))
    if species == "phone":
        return Print(Sheet(person.pixels, person.face.width_px, phone=True), wall, body, camera, draw.uniform(1.0, 1.6))
    if species == "print with holes":
        return Behind(actors.with_holes(sheet, person.face.landmarks), other.head, body, camera)
    if species == "cut to a print":
        return Cut(living, print_, lambda progress: any(one.answered_s is not None for one in progress.steps))
    if species == "cut from a print":
        stranger = Living(other.head, body, camera)
        return Cut(print_, stranger, lambda progress: bool(progress.steps))
    if species == "two people":
        return Together(print_, Living(other.head, body, camera))
    movements = challenge._movements
    order = {
        "recording, other order": lambda: actors.other_order(draw),
        "recording, wrong answers": lambda: actors.wrong_answers(draw),
        "recording, early": lambda: actors.early(movements, draw.uniform(-0.1, 0.15)),
        "recording, right order, own time": lambda: actors.right_order(movements, draw),
        "recording, late": lambda: actors.late(draw.uniform(3.2, 5.0)),
    }[species]()
    return Recording(person.head, Body(draw, at_once=True), camera, order)


def run(
    session: PeopleSession,
    mesh: FaceMesh,
    person: Person,
    actor: Actor,
    challenge: Challenge,
    fps: float,
    record: Callable[[Frame, Progress], None] | None = None,
) -> Progress:
    """One challenge, up to 20 s long."""
    mode = ChallengeMode(session, person.name, mesh, challenge, record)
    for index in range(int(20 * fps)):
        time_s = index / fps
        mode.observe(Frame(actor.frame(time_s, mode.progress), index, time_s))
        if mode.progress.outcome != "waiting":
            break
    return mode.progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=Path, required=True)
    parser.add_argument("--part", choices=("tuning", "kept"), default="tuning")
    parser.add_argument("--most", type=int, default=10)
    parser.add_argument("--after", default="", help="only people whose names come after this one")
    parser.add_argument("--species", nargs="*", default=SPECIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--record", type=Path, help="keep the challenges, as `evaluate --liveness` reads them")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        session = open_people(Home(Path(folder)), Settings(precision="fp32", threads=1))
        mesh = FaceMesh(open_shipped("face-mesh", threads=1))
        people = people_of(given.people, given.part, given.most, session, mesh, given.after)
        session = session.refreshed()
        enrolled, people = len(people), [one for one in people if _is_named(session, one)]
        print(f"{enrolled} people are enrolled; {len(people)} are recognized in front of the camera", flush=True)
        rows = []
        for species in given.species:
            began, outcomes, lengths, reasons = time.time(), collections.Counter(), [], collections.Counter()
            for number, person in enumerate(people):
                draw = random.Random(f"{given.seed} {species} {person.name}")
                challenge = Challenge(
                    ChallengeOptions(), draw, similar_from=session.recognizer.rule.same_person or -1.0
                )
                actor = actor_of(species, person, people[(number + 1) % len(people)], challenge, draw)
                fps = 30.0 if "30" in species else 10.0
                with ExitStack() as stack:
                    kept = None
                    if given.record:
                        place = given.record / ("live" if species.startswith("live") else species)
                        kept = stack.enter_context(Recorder(place))
                    found = run(session, mesh, person, actor, challenge, fps, kept)
                outcomes[found.outcome] += 1
                reasons["never recognized" if found.began_s is None else found.reason or found.prompt] += 1
                if found.outcome == "passed":
                    lengths.append(found.ended_s - found.began_s)
                rows.append({"species": species, "name": person.name, "outcome": found.outcome, "reason": found.reason,
                             "steps": [[s.movement, s.reached, s.depth] for s in found.steps]})  # fmt: skip
            passed = outcomes["passed"]
            share = clopper_pearson(passed, len(people))
            took = f", median {np.median(lengths):.1f} s, 95 % {np.percentile(lengths, 95):.1f} s" if lengths else ""
            print(f"{species:26} passed {passed} of {len(people)}: {share}{took}  "
                  f"{dict(outcomes)} {time.time() - began:.0f} s", flush=True)  # fmt: skip
            for reason, count in reasons.most_common(5):
                print(f"      {count:4} {reason}", flush=True)
        if given.output:
            given.output.write_text(json.dumps(rows))


if __name__ == "__main__":
    sys.exit(main())
