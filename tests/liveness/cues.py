"""Passive cues, each alone: `python -m tests.liveness.cues --people DIR`, and `--home H` with liveness networks in it.

People stand in a room for 1.2 s and are asked nothing: rendered heads, and prints, bent prints and phones in a hand,
at 640×480 with room around. Counts how many of each kind every cue would deny.
"""

from __future__ import annotations

import argparse
import collections
import math
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_app.core.types import Face, Pixels
from edge_app.inference.face_mesh import FaceMesh
from edge_app.model_store.catalogue import open_shipped
from edge_app.recognition.liveness import PassiveLiveness, open_liveness
from edge_app.recognition.open_session import open_people
from edge_app.recognition.sheet_motion import SheetMotion
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.liveness.actors import Body, Camera
from tests.liveness.heads import Head, Sheet, sheet_seen
from tests.liveness.study import people_of

KINDS = ("live", "flat print", "bent print", "phone")
SIZE, SHARE, FRAMES = (640, 480), 0.115, 12


def rectangle(pixels: Pixels, face: Face) -> bool:
    """Whether long straight edges lie on three sides of a face or four, within 2.2 face widths."""
    edges = cv2.Canny(cv2.GaussianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (0, 0), 1.2), 40, 100)
    width = face.width_px
    x, y = float(face.box[0] + face.box[2]) / 2, float(face.box[1] + face.box[3]) / 2
    lines = cv2.HoughLinesP(edges, 1, np.pi / 180, 60, minLineLength=int(0.9 * width), maxLineGap=8)
    sides = set()
    for x1, y1, x2, y2 in np.asarray(lines if lines is not None else [], float).reshape(-1, 4):
        lean = abs(math.degrees(math.atan2(y2 - y1, x2 - x1))) % 180
        across, down = (x1 + x2) / 2 - x, (y1 + y2) / 2 - y
        if 75 < lean < 105 and 0.7 * width < abs(across) < 2.2 * width and min(y1, y2) < y < max(y1, y2):
            sides.add("left" if across < 0 else "right")
        if not 15 < lean < 165 and 0.8 * width < abs(down) < 2.2 * width and min(x1, x2) < x < max(x1, x2):
            sides.add("top" if down < 0 else "bottom")
    return len(sides) >= 3


def glare(pixels: Pixels, face: Face) -> bool:
    """Whether more than a hundredth of a face is nearly white."""
    x1, y1, x2, y2 = (int(value) for value in face.box)
    return float((pixels[max(0, y1) : y2, max(0, x1) : x2].min(axis=2) > 235).mean()) > 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=Path, required=True)
    parser.add_argument("--home", type=Path, help="a data folder with liveness networks")
    parser.add_argument("--most", type=int, default=40)
    parser.add_argument("--after", default="", help="only people whose names come after this one")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    denied: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        session = open_people(Home(Path(folder)), Settings(precision="fp32", threads=1))
        mesh = FaceMesh(open_shipped("face-mesh", threads=1))
        people = people_of(given.people, "tuning", given.most, session, mesh, given.after)
    networks = [] if given.home is None else open_liveness(Home(given.home), 1)
    detector = session.recognizer.detector
    for number, person in enumerate(people):
        draw = random.Random(person.name)
        room = cv2.resize(room_of(people[(number + 1) % len(people)].pixels), SIZE)
        head = Head(person.pixels, person.face, mesh, SIZE, SHARE)
        for kind in KINDS:
            camera = Camera(np.random.default_rng(draw.randrange(2**31)), draw.uniform(0.7, 1.2), draw.uniform(1, 4))
            body, bent = Body(draw), draw.uniform(30, 110) if kind == "bent print" else 0.0
            sheet = Sheet(person.pixels, person.face.width_px, bent_deg=bent, phone=kind == "phone")
            motion, passive, found = SheetMotion(), PassiveLiveness(networks, least_looks=3), collections.Counter()
            for index in range(FRAMES):
                time_s = index / 10
                pose = body.pose(time_s, None)
                if kind == "live":
                    pixels = camera.take(head.seen(pose))
                else:
                    x, y = 0.02 * math.sin(9 * time_s), 0.02 * math.sin(7.3 * time_s + 1)
                    moved = replace(pose, x=pose.x + x, y=pose.y + y)
                    pixels = camera.take(sheet_seen(sheet, moved, room, SHARE))
                middle = np.array([SIZE[0], SIZE[1]]) / 2
                faces = detector.detect(pixels)
                if not faces:
                    continue
                face = min(faces, key=lambda one: float(np.linalg.norm(one.landmarks.mean(axis=0) - middle)))
                motion.see(pixels, face)
                found["frames"] += 1
                found["rectangle"] += rectangle(pixels, face)
                found["glare"] += glare(pixels, face)
                if networks and index % 4 == 0:
                    passive.see(pixels, face)
            count = denied[kind]
            count["cases"] += 1
            count["motion"] += motion.together is True
            count["motion cannot tell"] += motion.together is None
            for cue in ("rectangle", "glare"):
                count[cue] += 2 * found[cue] > found["frames"]
            if networks:
                count["networks"] += passive.share is not None and passive.share < 0.5
                count["networks cannot tell"] += passive.share is None
    for kind, count in denied.items():
        print(f"{kind:12}", ", ".join(f"{what} {number}" for what, number in count.items()), flush=True)


def room_of(pixels: Pixels) -> Pixels:
    """A room: somebody else's photograph, out of focus, turned upside down so that no face is found in it."""
    return np.ascontiguousarray(cv2.GaussianBlur(pixels, (0, 0), 2)[::-1])


if __name__ == "__main__":
    sys.exit(main())
