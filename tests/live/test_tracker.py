"""Faces across frames: made-up eyes and embeddings at known angles, then real networks on a composed clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from edge_app.bench.track_score import score
from edge_app.core.errors import GalleryError
from edge_app.core.types import Embedding, Face, Finding, Quality
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.live.events import Events, SourceEvents
from edge_app.live.identity_vote import Decision, DecisionOptions, Look, weight_of
from edge_app.live.tracker import Tracker, TrackerOptions
from edge_app.media import sample
from edge_app.media.sample import Actor, Pose, Scene

MODEL = "made-up"
RULE = MatchRule(threshold=0.5, margin=0.05, fpir=0.01, fmr=0.01, words="")
FPS = 30


def direction(angle_deg: float, axis: int = 1, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    vector = np.zeros(16, np.float32)
    vector[0], vector[axis] = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return vector + noise * np.random.default_rng(seed).normal(size=16).astype(np.float32)


PEOPLE = {"Ada": direction(0), "Bob": direction(90, 1), "Cyd": direction(90, 2)}
STRANGER = direction(90, 5)
GALLERY = Gallery(MODEL, list(PEOPLE), np.stack(list(PEOPLE.values())), np.arange(3))


def look(vector: np.ndarray, weight: float = 0.8) -> Look:
    return Look(Embedding(vector, MODEL), weight)


def face_at(x: float, y: float, size: float = 100.0, score: float = 0.9) -> Face:
    points = np.array([[-0.2, -0.2], [0.2, -0.2], [0, 0], [-0.15, 0.2], [0.15, 0.2]]) * size + (x, y)
    return Face(np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2]), points, score)


@dataclass(eq=False)
class Person:
    """Somebody made up: where they are at each moment (None: out of sight), and how they look."""

    vector: np.ndarray
    path: object
    weight: float = 0.8


@dataclass
class World:
    """Made-up eyes over made-up people; counts what it is asked."""

    people: list[Person]
    time_s: float = 0.0
    stir: bool = False
    scans: int = 0
    searches: int = 0
    looks: int = 0
    _of: dict[int, Person] = field(default_factory=dict)

    def _faces(self) -> list[Face]:
        faces = []
        self._of = {}
        for person in self.people:
            place = person.path(self.time_s)
            if place is not None:
                faces.append(face_at(*place))
                self._of[id(faces[-1])] = person
        return faces

    def scan(self):
        self.scans += 1
        return self._faces()

    def search(self, regions):
        self.searches += 1
        middles = [((r[0] + r[2]) / 2, (r[1] + r[3]) / 2, r[2] - r[0]) for r in regions]
        return [
            face
            for face in self._faces()
            if any(np.abs(face.landmarks[2] - (x, y)).max() < wide / 2 for x, y, wide in middles)
        ]

    def look(self, faces):
        self.looks += len(faces)
        found = []
        for number, face in enumerate(faces):
            person = self._of[id(face)]
            noisy = person.vector + 0.05 * np.random.default_rng(self.looks + number).normal(size=16)
            found.append(look(noisy, person.weight))
        return found

    def stirred(self, boxes):
        return self.stir

    def run(self, tracker: Tracker, seconds: float, fps: float = FPS, gallery: Gallery = GALLERY):
        """Frames of this world: (time, findings, tracks)."""
        for _ in range(round(seconds * fps)):
            yield self.time_s, tracker.step(self.time_s, self, gallery, RULE), tracker.tracks
            self.time_s = round(self.time_s * fps + 1) / fps


def at(x: float, y: float = 200.0, size: float = 100.0):
    return lambda time_s: (x, y, size)


def names(findings: tuple[Finding, ...]) -> dict[int, str | None]:
    return {finding.track: finding.name for finding in findings}


# Deciding


def test_nobody_is_named_before_two_looks_agree():
    decision = Decision()
    decision.add(look(PEOPLE["Ada"]), GALLERY, RULE)
    assert (decision.state, decision.match.name) == ("new", None)
    assert decision.match.similarity == pytest.approx(1.0)
    decision.add(look(direction(20)), GALLERY, RULE)
    assert (decision.state, decision.match.name) == ("known", "Ada")
    assert decision.match.similarity == pytest.approx(math.cos(math.radians(10)), abs=1e-4)


def test_a_face_near_the_threshold_takes_a_third_look():
    near = direction(57, 7)  # cosine 0.545 to Ada: above 0.5, by less than the sure lead
    decision = Decision()
    for _ in range(2):
        decision.add(look(near), GALLERY, RULE)
        assert decision.state == "new"
    decision.add(look(near), GALLERY, RULE)
    assert (decision.state, decision.match.name) == ("known", "Ada")


def test_poor_looks_take_more_of_them():
    decision = Decision()
    for count in range(1, 8):
        decision.add(look(PEOPLE["Ada"], 0.02), GALLERY, RULE)
        assert decision.state == ("known" if count >= 7 else "new")


def test_a_stranger_is_unknown_after_four_looks_and_stays_so():
    decision = Decision()
    states = []
    for _ in range(10):
        decision.add(look(STRANGER), GALLERY, RULE)
        states.append(decision.state)
    assert states == ["new"] * 3 + ["unknown"] * 7
    assert decision.match.name is None


def test_the_average_is_weighted_by_quality():
    decision = Decision()
    decision.add(look(direction(0), 0.9), GALLERY, RULE)
    decision.add(look(direction(90), 0.1), GALLERY, RULE)
    angle = math.degrees(math.atan2(decision.average.vector[1], decision.average.vector[0]))
    assert angle == pytest.approx(math.degrees(math.atan2(0.1, 0.9)), abs=1e-3)


def test_a_name_is_kept_by_hysteresis_and_lost_after_three_strikes():
    options = DecisionOptions(looks_kept=1)  # the average is the newest look
    decision = Decision(options)
    for _ in range(7):
        decision.add(look(PEOPLE["Ada"]), GALLERY, RULE)
    assert decision.state == "new"  # one look never suffices
    options = DecisionOptions(looks_kept=2)
    decision = Decision(options)
    for _ in range(2):
        decision.add(look(PEOPLE["Ada"]), GALLERY, RULE)
    for _ in range(9):  # below the threshold, but within the band
        decision.add(look(direction(63, 7)), GALLERY, RULE)
        assert (decision.state, decision.match.name) == ("known", "Ada")
    shown = []
    for _ in range(6):
        decision.add(look(PEOPLE["Bob"]), GALLERY, RULE)
        shown.append(decision.match.name)
    assert shown[0] == "Ada"
    assert shown[-1] == "Bob"
    assert shown == sorted(shown, key=lambda name: ["Ada", None, "Bob"].index(name))  # one change, no flicker


def test_one_bad_look_changes_nothing():
    decision = Decision()
    for _ in range(4):
        decision.add(look(PEOPLE["Ada"]), GALLERY, RULE)
    decision.add(look(PEOPLE["Bob"]), GALLERY, RULE)
    assert decision.match.name == "Ada"


def test_votes_must_agree_with_the_average():
    """One good look outweighs two poor ones in the average, yet most looks say otherwise: nobody is named."""
    decision = Decision()
    for name, weight in (("Ada", 0.9), ("Bob", 0.3), ("Bob", 0.3)):
        decision.add(look(PEOPLE[name], weight), GALLERY, RULE)
    assert GALLERY.match([decision.average], RULE)[0].name == "Ada"
    assert decision.match.name is None
    decision.add(look(PEOPLE["Ada"], 0.9), GALLERY, RULE)
    decision.add(look(PEOPLE["Ada"], 0.9), GALLERY, RULE)
    assert decision.match.name == "Ada"


def test_an_embedding_of_another_model_is_refused():
    with pytest.raises(GalleryError, match="other-model"):
        Decision().add(Look(Embedding(STRANGER, "other-model"), 1.0), GALLERY, RULE)


def test_a_changed_gallery_decides_anew_from_the_kept_looks():
    decision = Decision()
    for _ in range(5):
        decision.add(look(STRANGER), GALLERY, RULE)
    assert decision.state == "unknown"
    larger = Gallery(MODEL, ["Eve"], STRANGER[None], np.arange(1))
    decision.again(larger, RULE)
    assert (decision.state, decision.match.name) == ("known", "Eve")
    decision.again(GALLERY, RULE)
    assert (decision.state, decision.match.name) == ("unknown", None)
    decision.again(Gallery.empty(MODEL), RULE)
    assert decision.match.name is None


def test_a_good_look_is_worth_more():
    good = Quality(100, 0.3, 120, 0.0, 0.0, 0.5, 0.0, 0.95)
    assert weight_of(good) == 1.0
    worse = [{"face_px": 30}, {"sharpness": 0.1}, {"yaw": 0.8}, {"brightness": 20}, {"clipped": 0.5}, {"score": 0.6}]
    for change in worse:
        poor = Quality(**{name: getattr(good, name) for name in Quality.__dataclass_fields__} | change)
        assert 0 < weight_of(poor) < 0.7


# Following


def test_nothing_to_see():
    world = World([])
    for _, findings, tracks in world.run(Tracker(), 2.0):
        assert findings == ()
        assert tracks == ()
    assert world.scans == 4  # every half second
    assert world.searches == world.looks == 0


def test_somebody_who_stays_is_scanned_for_and_embedded_seldom():
    world = World([Person(PEOPLE["Ada"], at(300))])
    tracker = Tracker()
    shown = [names(findings) for _, findings, _ in world.run(tracker, 10.0)]
    assert shown[0] == {1: None}
    assert all(frame == {1: "Ada"} for frame in shown[1:])
    assert world.scans <= 11
    assert world.looks <= 2 + 10 / 3
    (info,) = tracker.tracks
    assert (info.frames_to_decision, info.frames, info.state) == (2, 300, "known")
    assert info.duration_s == pytest.approx(299 / 30, abs=1e-3)


def test_a_picture_that_changes_is_searched_at_once_but_not_without_end():
    world = World([Person(PEOPLE["Ada"], at(300))])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    before = world.scans
    world.stir = True
    list(world.run(tracker, 0.2))
    assert world.scans > before
    before = world.scans
    list(world.run(tracker, 4.0))
    assert world.scans - before <= 4.0 / TrackerOptions().idle_stirred_every_s + 4


def test_a_newcomer_is_named_within_ten_frames():
    for start in np.linspace(0.5, 1.0, 16):
        world = World([Person(PEOPLE["Bob"], lambda t, start=start: (300, 200, 100) if t >= start else None)])
        seen = []
        tracker = Tracker()
        for time_s, findings, _ in world.run(tracker, 2.0):
            world.stir = time_s + 1 / FPS >= start
            seen.append((time_s >= start, names(findings)))
        frames = [shown for there, shown in seen if there]
        named = next(i for i, shown in enumerate(frames) if "Bob" in shown.values())
        assert named + 1 <= 10


def test_a_face_that_leaves_is_lost_then_gone_and_returns_under_another_number():
    world = World([Person(PEOPLE["Ada"], lambda t: None if 1.0 <= t < 4.0 else (300, 200, 100))])
    tracker = Tracker()
    story = [(t, {i.number: i.state for i in tracks}) for t, _, tracks in world.run(tracker, 6.0)]
    assert story[29][1] == {1: "known"}
    assert story[31][1] == {1: "lost"}
    assert all(tracks == {} for t, tracks in story if 2.6 < t < 3.9)
    assert story[-1][1] == {2: "known"}


def test_a_name_is_kept_through_a_short_gap():
    world = World([Person(PEOPLE["Ada"], lambda t: None if 1.0 <= t < 1.5 else (300, 200, 100))])
    shown = [names(findings) for _, findings, _ in world.run(Tracker(), 3.0)]
    assert {tuple(frame.items()) for frame in shown[1:] if frame} == {((1, "Ada"),)}


def test_somebody_else_at_the_same_place_never_inherits_the_name():
    people = [
        Person(PEOPLE["Ada"], lambda t: (300, 200, 100) if t < 1.0 else None),
        Person(STRANGER, lambda t: (300, 200, 100) if t >= 1.3 else None),
    ]
    world = World(people)
    for time_s, findings, _ in world.run(Tracker(), 3.0):
        if time_s >= 1.3:
            assert "Ada" not in names(findings).values()


def crossing(first: np.ndarray, second: np.ndarray, seconds: float, hidden_px: float = 60.0) -> World:
    """Two people walk through one another; the first is hidden while the second is before them."""

    def right(t):
        x = 100 + 400 * t / seconds
        return None if abs(x - (500 - 400 * t / seconds)) < hidden_px else (x, 200, 100)

    return World([Person(first, right), Person(second, lambda t: (500 - 400 * t / seconds, 205, 104))])


@pytest.mark.parametrize("seconds", [0.8, 1.5, 3.0, 6.0])
@pytest.mark.parametrize("pair", [("Ada", "Bob"), ("Bob", None), (None, "Cyd"), (None, None)])
def test_a_crossing_changes_nobodys_name(pair, seconds):
    vectors = [PEOPLE[name] if name else direction(90, 5 + i) for i, name in enumerate(pair)]
    world = crossing(*vectors, seconds)
    history: dict[int, set] = {0: set(), 1: set()}
    for time_s, findings, _ in world.run(Tracker(), seconds):
        for finding in findings:
            person = world.people.index(world._of[id(finding.face)])
            if time_s > 0.2:
                history[person].add((finding.track, finding.name))
    assert [len(shown) for shown in history.values()] == [1, 1], history
    assert [next(iter(history[i]))[1] for i in (0, 1)] == list(pair)


def test_people_who_turn_back_when_they_meet_keep_their_names():
    """Straight prediction would exchange them: only their looks tell."""

    def left(t):
        x = 100 + 190 * min(t, 2.0 - t)
        return None if 0.85 < t < 1.15 else (x, 200, 100)

    world = World([Person(PEOPLE["Ada"], left), Person(PEOPLE["Bob"], lambda t: (500 - 190 * min(t, 2 - t), 200, 100))])
    for time_s, findings, _ in world.run(Tracker(), 2.0):
        for finding in findings:
            truth = "Ada" if world._of[id(finding.face)] is world.people[0] else "Bob"
            assert finding.name == (truth if time_s > 0.02 else None)


def test_people_who_change_places_out_of_sight_keep_their_names_and_numbers():
    """Each comes back where the other is expected: the places say the opposite of the looks."""
    for gap_s in (0.1, 0.4):

        def place(t, before, after, gap_s=gap_s):
            return (before, 200, 100) if t < 1.0 else None if t < 1.0 + gap_s else (after, 200, 100)

        people = [
            Person(PEOPLE["Ada"], lambda t, p=place: p(t, 260, 340)),
            Person(PEOPLE["Bob"], lambda t, p=place: p(t, 340, 260)),
        ]
        world = World(people)
        shown = [set(), set()]
        for time_s, findings, _ in world.run(Tracker(), 3.0):
            for finding in findings if time_s > 0.1 else ():
                person = people.index(world._of[id(finding.face)])
                shown[person].add((finding.track, finding.name))
        assert [len(kept) for kept in shown] == [1, 1], shown
        assert [next(iter(kept))[1] for kept in shown] == ["Ada", "Bob"]


def test_somebody_who_comes_back_elsewhere_goes_on_as_the_same_track():
    def path(t):
        return (150, 200, 100) if t < 1.0 else None if t < 1.4 else (450, 250, 80)

    shown = [names(s) for _, s, _ in World([Person(PEOPLE["Ada"], path)]).run(Tracker(), 3.0)]
    assert {tuple(frame.items()) for frame in shown[1:] if frame} == {((1, "Ada"),)}


def test_a_track_that_became_another_person_is_decided_afresh():
    """The face jumps to another person without a gap, as a cut in a film does."""
    person = Person(PEOPLE["Ada"], at(300))
    world = World([person])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    person.vector = STRANGER
    shown = [names(findings) for _, findings, _ in world.run(tracker, 6.0)]
    assert shown[-1] == {2: None}
    changes = [frame for frame, before in zip(shown[1:], shown, strict=False) if frame != before]
    assert changes == [{2: None}]


def test_an_uncertain_face_begins_no_track_but_goes_on_as_one():
    world = World([])
    world._faces = lambda: [face_at(300, 200, score=0.55)]
    assert list(world.run(Tracker(), 0.5))[-1][1] == ()
    world = World([Person(PEOPLE["Ada"], at(300))])
    tracker = Tracker()
    list(world.run(tracker, 0.5))
    world._faces = lambda: [face_at(300, 200, score=0.55)]
    assert list(world.run(tracker, 0.2))[-1][1] != ()


def test_a_clock_that_goes_back_ends_all_tracks():
    world = World([Person(PEOPLE["Ada"], at(300))])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    world.time_s = 0.0
    findings = tracker.step(0.0, world, GALLERY, RULE)
    assert names(findings) == {2: None}


def test_many_undecided_faces_share_the_looks():
    world = World([Person(STRANGER, at(100 + 150 * i)) for i in range(8)])
    tracker = Tracker()
    before = 0
    for _, _, _ in world.run(tracker, 0.5):
        assert world.looks - before <= TrackerOptions().looks_per_frame
        before = world.looks
    assert {info.state for info in list(world.run(tracker, 1.0))[-1][2]} == {"unknown"}


# Events


def test_the_events_of_a_visit_in_order():
    world = World([Person(PEOPLE["Ada"], lambda t: (300, 200, 100) if 0.5 <= t < 2.0 else None)])
    events = Events()
    told = [event for t, _, tracks in world.run(Tracker(), 5.0) for event in events.update(t, tracks)]
    assert [(event.event, event.track, event.name) for event in told] == [
        ("appeared", 1, None),
        ("recognized", 1, "Ada"),
        ("left", 1, "Ada"),
    ]
    assert told[0].time_s == pytest.approx(0.5)
    assert told[1].duration_s <= 0.2
    assert told[2].duration_s == pytest.approx(1.5, abs=0.1)
    assert list(told[1].as_dict()) == ["event", "time_s", "track", "name", "similarity", "duration_s"]


def test_a_stranger_is_told_as_unknown_and_everybody_leaves_at_the_end():
    world = World([Person(STRANGER, at(300)), Person(PEOPLE["Cyd"], at(600))])
    events = Events()
    told = [event for t, _, tracks in world.run(Tracker(), 1.0) for event in events.update(t, tracks)]
    told += events.finish(1.0)
    assert sorted((e.event, e.name or "") for e in told) == [
        ("appeared", ""),
        ("appeared", ""),
        ("left", ""),
        ("left", "Cyd"),
        ("recognized", "Cyd"),
        ("unknown", ""),
    ]
    assert events.finish(2.0) == ()


def test_a_flash_in_one_frame_is_no_event():
    world = World([Person(STRANGER, lambda t: (300, 200, 100) if t < 0.01 else None)])
    events = Events()
    assert [e for t, _, tracks in world.run(Tracker(), 2.0) for e in events.update(t, tracks)] == []


def test_the_source_is_told_once_each_way():
    events = SourceEvents()
    assert events.update(0.0, True) == ()
    (lost,) = events.update(1.0, False)
    assert events.update(2.0, False) == ()
    (back,) = events.update(4.5, True)
    assert (lost.event, lost.duration_s, back.event, back.duration_s) == ("source_lost", None, "source_back", 3.5)


# Real networks


@pytest.fixture(scope="module")
def recognizer():
    from edge_app.inference.embedder import Embedder
    from edge_app.media.pictures import read_picture
    from edge_app.model_store import shipped
    from edge_app.model_store.open_detector import open_detector
    from edge_app.recognition.faces import FaceRecognizer

    embedder = Embedder(shipped.load("sface", threads=2))
    detector = open_detector("yunet", threads=2)
    empty = Gallery.empty(embedder.model_id)
    parts = FaceRecognizer(detector, embedder, empty, RULE)
    names_, vectors = [], []
    for name, paths in sample.people().items():
        names_.append(name)
        vectors.append(parts.shot(read_picture(paths[0]), "test").embedding.vector)
    gallery = Gallery(embedder.model_id, names_, np.stack(vectors), np.arange(len(names_)))
    return parts.with_gallery(gallery, MatchRule(0.34, 0.05, 0.01, 0.01, ""))


def test_a_short_clip_with_real_networks(recognizer):
    """Obama comes, Biden crosses before him: nobody is misnamed, and both are named at once."""
    from edge_app.live.video_recognizer import LiveRecognizer

    man, other = (actor.cutout for actor in sample.clip_scene().actors[1:])
    scene = Scene(
        (
            Actor(
                "Barack Obama", man, (Pose(0.0, -0.3, 0.42, 0.3), Pose(0.8, 0.3, 0.42, 0.3), Pose(3, 0.8, 0.42, 0.3))
            ),
            Actor("Joe Biden", other, (Pose(0.6, 1.3, 0.45, 0.3), Pose(1.2, 0.8, 0.45, 0.3), Pose(3, 0.2, 0.45, 0.3))),
        ),
        3.0,
        (480, 360),
        15.0,
    )
    live = LiveRecognizer(recognizer)
    stages = []

    def observed():
        for frame, truths in sample.compose(scene):
            observation = live.observe(frame)
            stages.append(observation.timings_ms)
            yield observation.findings, truths

    result = score(observed())
    assert result.identity_switches == result.wrong_names == result.flickers == result.never_named == 0
    assert len(result.frames_to_name) == 2
    assert max(result.frames_to_name) <= 10
    assert result.found >= 0.9 * result.faces
    assert result.false_faces == 0
    assert sum(lap["detect"] == 0 for lap in stages) > len(stages) / 3  # detection ran only when it paid
    assert all(lap["total"] >= max(lap["detect"], lap["embed"], lap["follow"]) for lap in stages)
