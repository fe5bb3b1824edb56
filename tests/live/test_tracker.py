"""Faces across frames: made-up eyes and embeddings at known angles."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from edge_app.core.types import Embedding, Face, Finding
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.live.events import Events, LiveEvent, SourceEvents, in_order
from edge_app.live.face_mode import steady_answers
from edge_app.live.identity_vote import Look
from edge_app.live.tracker import Tracker, TrackerOptions, one_box_a_face

MODEL = "made-up"
RULE = MatchRule(threshold=0.5, margin=0.05, fpir=0.01, fmr=0.01, words="")
FPS = 30


def direction(angle_deg: float, axis: int = 1) -> np.ndarray:
    vector = np.zeros(16, np.float32)
    vector[0], vector[axis] = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    return vector


PEOPLE = {"Ada": direction(0), "Bob": direction(90, 1), "Cyd": direction(90, 2)}
STRANGER = direction(90, 5)
GALLERY = Gallery(MODEL, list(PEOPLE), np.stack(list(PEOPLE.values())), np.arange(3))


def look(vector: np.ndarray, weight: float = 0.8) -> Look:
    return Look(Embedding(vector, MODEL), weight)


def face_at(x: float, y: float, size: float = 100.0, *, score: float = 0.9) -> Face:
    points = np.array([[-0.2, -0.2], [0.2, -0.2], [0, 0], [-0.15, 0.2], [0.15, 0.2]]) * size + (x, y)
    return Face(np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2]), points, score)


@dataclass(eq=False)
class Person:
    """Somebody made up: where they are at each moment (None: out of sight), and how they look."""

    vector: np.ndarray
    path: object
    weight: float = 0.8
    score: float = 0.9
    patch: int | None = None
    """Seed of what the picture under the face looks like; None: of the vector."""
    is_face: bool = True


@dataclass
class World:
    """Made-up eyes over made-up people; counts what it is asked."""

    people: list[Person]
    time_s: float = 0.0
    stir: bool = False
    is_cut: bool = False
    noise: float = 0.05
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
                faces.append(face_at(*place, score=person.score))
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
            noisy = person.vector + self.noise * np.random.default_rng(self.looks + number).normal(size=16)
            found.append(Look(Embedding(noisy, MODEL), person.weight, person.is_face))
        return found

    def cut(self):
        return self.is_cut

    def patches(self, faces):
        made = []
        for face in faces:
            person = self._of.get(id(face)) or self._nearest(face)
            seed = int(1e6 * abs(person.vector[1:].sum()) + person.vector[0]) if person.patch is None else person.patch
            made.append(np.random.default_rng(seed).normal(100, 30, (16, 16)).astype(np.float32))
        return made

    def _nearest(self, face):
        there = [one for one in self.people if one.path(self.time_s) is not None]
        return min(there, key=lambda one: math.dist(one.path(self.time_s)[:2], face.landmarks[2]))

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
    assert len(shown) == 300
    assert all(frame == {1: "Ada"} for frame in shown)
    assert world.scans <= 11
    assert world.looks <= 1 + 10 / 3
    (info,) = tracker.tracks
    assert (info.frames_to_decision, info.frames, info.state) == (1, 300, "known")
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
    told = [(time_s, set(names(findings).values())) for time_s, findings, _ in World(people).run(Tracker(), 3.0)]
    assert {"Ada"} in [shown for time_s, shown in told if time_s < 1.0]
    after = [shown for time_s, shown in told if time_s >= 1.3]
    assert len(after) > 20 and after[-1] == {None} and "Ada" not in set().union(*after)


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
    told = {"Ada": set(), "Bob": set()}
    for _, findings, _ in world.run(Tracker(), 2.0):
        for finding in findings:
            told["Ada" if world._of[id(finding.face)] is world.people[0] else "Bob"].add(finding.name)
    assert told == {"Ada": {"Ada"}, "Bob": {"Bob"}}


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


def test_another_person_at_the_same_place_takes_the_name_away_in_that_very_frame():
    """The face changes without a gap; the picture under the track tells."""
    person = Person(PEOPLE["Ada"], at(300))
    world = World([person])
    tracker = Tracker()
    assert [names(s) for _, s, _ in world.run(tracker, 1.0)][-1] == {1: "Ada"}
    person.vector = STRANGER
    shown = [names(findings) for _, findings, _ in world.run(tracker, 6.0)]
    assert len(shown) == 180
    assert all(frame == {2: None} for frame in shown)


def test_another_person_who_looks_the_same_from_afar_loses_the_name_at_the_next_look():
    """Nothing in the picture tells: the embedding does, when the face is looked at again after three seconds."""
    person = Person(PEOPLE["Ada"], at(300), patch=1)
    world = World([person])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    person.vector = STRANGER
    shown = [(t, names(findings)) for t, findings, _ in world.run(tracker, 6.0)]
    kept = [t for t, frame in shown if "Ada" in frame.values()]
    assert max(kept) < TrackerOptions().recheck_s + 0.05
    assert shown[-1][1] == {2: None}


def test_a_look_that_leaves_it_open_is_repeated_before_it_takes_the_name():
    """A head turns away, the picture under it slowly: one odd look does not cost the name, several do."""
    person = Person(PEOPLE["Ada"], at(300), patch=1)
    world = World([person], noise=0.0)
    tracker = Tracker()
    list(world.run(tracker, 3.5))
    person.vector = direction(60, 7)  # neither like nor unlike
    shown = [names(s) for _, s, _ in world.run(tracker, 4.0)]
    assert shown[80] == {1: "Ada"}
    assert shown[-1] == {1: None}
    person.vector = PEOPLE["Ada"]
    assert [names(s) for _, s, _ in world.run(tracker, 1.0)][-1] == {1: "Ada"}


def test_a_hand_before_a_face_takes_the_name_and_gives_it_back():
    """Poor looks that resemble nobody are not somebody else."""
    person = Person(PEOPLE["Ada"], at(300))
    world = World([person])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    person.vector, person.weight = STRANGER, 0.05
    covered = [names(s) for _, s, _ in world.run(tracker, 1.0)]
    person.vector, person.weight = PEOPLE["Ada"], 0.8
    free = [names(s) for _, s, _ in world.run(tracker, 1.0)]
    assert covered == [{1: None}] * 30
    assert free == [{1: "Ada"}] * 30


def test_a_head_that_turns_is_asked_now_and_then_and_not_in_every_frame():
    """Its picture changes with every frame, by less than another person's would."""
    person = Person(PEOPLE["Ada"], at(300))
    world, tracker = World([person]), Tracker()
    base, other = (np.random.default_rng(seed).normal(0, 30, (16, 16)) for seed in (1, 2))

    def patches(faces):
        angle = 0.8 * (round(world.time_s * FPS) % 2)  # two pictures in turn that correlate 0.7
        return [(base * np.cos(angle) + other * np.sin(angle)).astype(np.float32) for _ in faces]

    world.patches = patches
    shown = [names(s) for _, s, _ in world.run(tracker, 3.0)]
    assert shown == [{1: "Ada"}] * 90
    assert 3 <= world.looks <= 3.0 / TrackerOptions().agreed_s + 3


def test_another_person_takes_the_name_away_though_a_look_agreed_just_now():
    person = Person(PEOPLE["Ada"], at(300))
    world, tracker = World([person]), Tracker()
    list(world.run(tracker, TrackerOptions().recheck_s + 0.1))
    assert world.looks == 2
    person.vector = STRANGER
    assert [names(s) for _, s, _ in world.run(tracker, 0.5)] == [{2: None}] * 15


def test_a_face_that_jumps_is_looked_at_before_it_keeps_its_name():
    person = Person(PEOPLE["Ada"], lambda t: (300 if t < 1.0 else 370, 200, 100), patch=1)
    world = World([person])
    tracker = Tracker()
    list(world.run(tracker, 0.99))
    before = world.looks
    list(world.run(tracker, 0.05))
    assert world.looks == before + 1
    person.path, person.vector = at(440), STRANGER
    assert "Ada" not in [name for _, s, _ in world.run(tracker, 0.5) for name in names(s).values()]


def test_a_cut_ends_every_track():
    people = [Person(PEOPLE["Ada"], at(200)), Person(PEOPLE["Bob"], at(500))]
    world = World(people)
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    world.is_cut = True
    people[0].vector = PEOPLE["Cyd"]  # a new face at the old place; the other shows the same person
    (_, findings, tracks) = next(world.run(tracker, 1 / FPS))
    assert names(findings) == {3: "Cyd", 4: "Bob"}
    assert [info.number for info in tracks] == [3, 4]


def test_frames_that_are_missing_make_every_face_doubtful():
    """Half a second without a frame, and somebody else sits there who looks the same from afar."""
    person = Person(PEOPLE["Ada"], at(300), patch=1)
    world = World([person])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    person.vector = STRANGER
    findings = tracker.step(1.5, world, GALLERY, RULE)
    assert names(findings) == {2: None}


@pytest.mark.parametrize(("cosine", "name"), [(0.52, "Ada"), (0.48, None)])
def test_a_picture_a_minute_is_decided_like_photographs(cosine, name):
    """Nothing goes over from one to the next: each has its own track, and one look must do."""
    person = Person(direction(math.degrees(math.acos(cosine)), 7), at(300))
    world = World([person], noise=0.0)
    tracker = Tracker()
    told = []
    for minute in range(5):
        told.append(names(tracker.step(60.0 * minute, world, GALLERY, RULE)))
        assert [info.duration_s for info in tracker.tracks] == [0.0]
    assert told[1:] == [{number: name} for number in (2, 3, 4, 5)]


def test_a_clock_that_jumps_forward_leaves_no_name_behind():
    person = Person(PEOPLE["Ada"], at(300), patch=1)
    world = World([person])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    person.vector = STRANGER
    world.time_s = 3600.0
    shown = [names(s) for _, s, _ in world.run(tracker, 1.0)]
    assert shown == [{2: None}] * 30


def test_sixty_faces_at_once():
    """Each frame embeds a few, everybody is decided in the end, and the whole picture is searched instead of sixty."""
    vectors = np.random.default_rng(3).normal(size=(60, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    everybody = Gallery(MODEL, [f"p{i}" for i in range(60)], vectors, np.arange(60))
    strict = MatchRule(threshold=0.8, margin=0.0, fpir=0.01, fmr=0.01, words="")
    world = World([Person(v, at(60 + 110 * (i % 10), 60 + 110 * (i // 10))) for i, v in enumerate(vectors)])
    tracker, options = Tracker(), TrackerOptions()
    searches, before = 0, 0
    for step in range(90):
        findings = tracker.step(step / FPS, world, everybody, strict)
        assert len(findings) == 60
        assert world.looks - before <= options.looks_per_frame + options.doubts_per_frame + 1
        before = world.looks
        right = {f"p{world.people.index(world._of[id(s.face)])}": s.name for s in findings}
        assert all(name in (None, who) for who, name in right.items())
        searches += world.searches
    assert searches == 0
    assert all(right.values())
    # Half a second without a frame: everybody is doubtful, and is asked again a few at a time, nameless until then.
    named = len(tracker.step(3.5, world, everybody, strict)) and sum(info.name is not None for info in tracker.tracks)
    assert world.looks - before == named == options.doubts_per_frame


def test_one_name_stands_once_and_the_better_claimant_keeps_it():
    """A poster of Ada, or her twin, beside Ada: first alone, then both, then alone again."""
    twin = Person(direction(25, 7), at(200))
    ada = Person(PEOPLE["Ada"], lambda t: (500, 200, 100) if 1.0 <= t < 3.0 else None)
    world = World([twin, ada], noise=0.0)
    tracker = Tracker()
    story = [(t, names(s)) for t, s, _ in world.run(tracker, 6.0)]
    assert len(story) == 180
    assert all(list(frame.values()).count("Ada") <= 1 for _, frame in story)
    assert {tuple(frame.items()) for t, frame in story if t < 0.9} == {((1, "Ada"),)}
    both = [frame for t, frame in story if 1.2 < t < 2.9]
    assert all(frame == {1: None, 2: "Ada"} for frame in both)
    assert len(both) > 40
    assert story[-1][1] == {1: "Ada"}


def test_two_boxes_on_one_face_are_one_track():
    """A detector finds a turned face twice, narrow and wide; of the two the surer one counts."""
    wide, narrow = face_at(300, 200, 120, score=0.8), face_at(310, 200, 60, score=0.9)
    assert one_box_a_face([wide, narrow]) == [narrow]
    beside = face_at(420, 200, 120)
    assert one_box_a_face([wide, beside]) == [beside, wide]
    assert one_box_a_face([]) == []
    world = World([Person(PEOPLE["Ada"], at(300))])
    person = world.people[0]

    def both():
        found = [face_at(300, 200, 120, score=0.9), face_at(310, 200, 60, score=0.8)]
        world._of = {id(face): person for face in found}
        return found

    world._faces = both
    assert [names(s) for _, s, _ in world.run(Tracker(), 1.0)] == [{1: "Ada"}] * 30


def test_what_is_not_found_again_is_not_shown():
    """A wall that looks like a face in one frame; a face that is as faint but stays is shown from its second frame."""
    flash = Person(STRANGER, lambda t: (300, 200, 100) if t < 0.01 else None, score=0.65)
    assert all(s == () and tracks == () for _, s, tracks in World([flash]).run(Tracker(), 1.0))
    faint = Person(PEOPLE["Ada"], at(300), score=0.65)
    shown = [names(s) for _, s, _ in World([faint]).run(Tracker(), 1.0)]
    assert shown == [{}] + [{1: "Ada"}] * 29


def test_a_wall_that_is_looked_at_and_is_no_face_carries_no_box():
    wall = World([Person(STRANGER, at(300), is_face=False)])
    assert all(s == () and tracks == () for _, s, tracks in wall.run(Tracker(), 3.0))
    assert wall.looks > 0


def test_a_box_that_stays_where_a_face_was_loses_its_name_and_goes():
    """Ada leaves, and the picture behind her is followed in her place."""
    person = Person(PEOPLE["Ada"], at(300))
    world, tracker = World([person]), Tracker()
    list(world.run(tracker, 1.0))
    person.is_face, person.patch = False, 99
    shown = [names(s) for _, s, _ in world.run(tracker, 1.0)]
    assert shown[:2] == [{1: None}] * 2
    assert shown[2:] == [{}] * 28


def test_twins_who_meet_keep_their_numbers():
    """At the meeting each looks a little more like the other's past: too little to be exchanged for it."""
    twins = [Person(direction(0, 7), at(200), patch=1), Person(direction(20, 7), at(500), patch=1)]
    world = World(twins, noise=0.0)
    tracker = Tracker()
    list(world.run(tracker, 0.9))
    twins[0].path, twins[1].path = at(310), at(390)
    twins[0].vector, twins[1].vector = direction(11, 7), direction(9, 7)
    world.stir = True
    owners = [{s.track: world.people.index(world._of[id(s.face)]) for s in s_} for _, s_, _ in world.run(tracker, 1.0)]
    assert owners[-1] == {1: 0, 2: 1}


def test_an_uncertain_face_begins_no_track_but_goes_on_as_one():
    faint = Person(PEOPLE["Ada"], at(300), score=0.55)
    assert all(s == () for _, s, _ in World([faint]).run(Tracker(), 0.5))
    faint.score = 0.9
    world, tracker = World([faint]), Tracker()
    list(world.run(tracker, 0.5))
    faint.score = 0.55
    assert [names(s) for _, s, _ in world.run(tracker, 0.2)] == [{1: "Ada"}] * 6


def test_a_clock_that_goes_back_ends_all_tracks():
    world = World([Person(PEOPLE["Ada"], at(300))])
    tracker = Tracker()
    list(world.run(tracker, 1.0))
    findings = tracker.step(0.0, world, GALLERY, RULE)
    assert names(findings) == {2: "Ada"}


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
    told = [event for t, _, tracks in world.run(Tracker(), 5.0) for event in events.update(t, steady_answers(tracks))]
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
    told = [event for t, _, tracks in world.run(Tracker(), 1.0) for event in events.update(t, steady_answers(tracks))]
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
    assert [e for t, _, tracks in world.run(Tracker(), 2.0) for e in events.update(t, steady_answers(tracks))] == []


@pytest.mark.parametrize("seed", range(8))
def test_events_are_in_time_order_and_each_number_is_one_visit(seed):
    """People come, cross, hide, change places and go at random: whatever happens, the story holds together."""
    random = np.random.default_rng(seed)
    people = []
    for vector in (*PEOPLE.values(), STRANGER, direction(90, 6)):
        starts = np.sort(random.uniform(0, 14, 4))
        way = random.uniform(60, 580, 2)

        def path(t, starts=starts, way=way):
            there = starts[0] <= t < starts[1] or starts[2] <= t < starts[3]
            return (way[0] + (way[1] - way[0]) * t / 15, 200, 100) if there else None

        people.append(Person(vector, path))
    world, tracker, events = World(people, stir=True), Tracker(), Events()
    told, truth = [], {}
    for time_s, findings, tracks in world.run(tracker, 15.0, fps=15):
        world.is_cut = bool(random.random() < 0.01)
        told += events.update(time_s, steady_answers(tracks))
        for finding in findings:
            first, _ = truth.get(finding.track, (time_s, time_s))
            truth[finding.track] = (first, time_s)
    told += events.finish(15.0)
    assert len(told) > 10
    times = [event.time_s for event in told]
    assert times == sorted(times)
    appeared = [event.track for event in told if event.event == "appeared"]
    left = [event for event in told if event.event == "left"]
    assert len(appeared) == len(set(appeared))
    assert sorted(appeared) == sorted(event.track for event in left)
    for event in left:
        first, last = truth[event.track]
        assert event.duration_s == pytest.approx(last - first, abs=0.5)
        story = [one.event for one in told if one.track == event.track]
        assert (story[0], story[-1]) == ("appeared", "left")


def test_a_picture_a_minute_tells_who_is_in_each():
    world, tracker, events = World([Person(PEOPLE["Ada"], at(300))]), Tracker(), Events()
    told = []
    for minute in range(3):
        tracker.step(60.0 * minute, world, GALLERY, RULE)
        told += [
            (e.time_s, e.event, e.track, e.name) for e in events.update(60.0 * minute, steady_answers(tracker.tracks))
        ]
    assert told[-3:] == [
        (120.0, "left", 2, "Ada"),
        (120.0, "appeared", 3, None),
        (120.0, "recognized", 3, "Ada"),
    ]


def test_a_clock_that_goes_back_tells_first_who_left_when():
    world, tracker, events = World([Person(PEOPLE["Ada"], at(300))]), Tracker(), Events()
    told = [event for t, _, tracks in world.run(tracker, 1.0) for event in events.update(t, steady_answers(tracks))]
    tracker.step(0.2, world, GALLERY, RULE)
    told += events.update(0.2, steady_answers(tracker.tracks))
    assert [(e.event, e.track, e.time_s) for e in told[2:]] == [
        ("left", 1, pytest.approx(29 / 30, abs=1e-3)),
        ("appeared", 2, 0.2),
        ("recognized", 2, 0.2),
    ]


def test_nothing_is_told_of_a_known_stranger():
    """Cyd is on the gallery's list of people who are not to be told of."""
    listed = Gallery(MODEL, list(PEOPLE), np.stack(list(PEOPLE.values())), np.arange(3), ignored=["Cyd"])
    world = World([Person(PEOPLE["Cyd"], at(300)), Person(PEOPLE["Ada"], at(600))])
    tracker, events, told = Tracker(), Events(), []
    seen = list(world.run(tracker, 3.0, gallery=listed))
    for time_s, _, tracks in seen:
        told += events.update(time_s, steady_answers(tracks))
    told += events.finish(3.0)
    _, findings, tracks = seen[-1]
    assert [(event.event, event.name) for event in told] == [
        ("appeared", None),
        ("recognized", "Ada"),
        ("left", "Ada"),
    ]
    assert {finding.answer.ignored for finding in findings} == {"Cyd", None}
    assert {info.ignored for info in tracks} == {"Cyd", None}


def test_an_enrolled_and_an_ignored_person_who_are_alike_are_not_taken_for_one_another():
    """Ada, then her ignored double at the very same place, somebody halfway between them, and Ada again."""
    double, between = direction(30, 7), direction(15, 7)
    vectors = np.stack([*PEOPLE.values(), double])
    listed = Gallery(MODEL, [*PEOPLE, "Ann"], vectors, np.arange(4), ignored=["Ann"])
    person = Person(PEOPLE["Ada"], at(300), patch=1)
    world, tracker = World([person], noise=0.02), Tracker()
    told = []
    for vector in (PEOPLE["Ada"], double, between, PEOPLE["Ada"]):
        person.vector, world.is_cut = vector, vector is between
        told.append([])
        for _, findings, _ in world.run(tracker, 30.0, fps=10, gallery=listed):
            world.is_cut = False
            told[-1] += [(one.name, one.answer.ignored) for one in findings]
    ada, ann, neither, again = told
    assert set(ada[1:]) == {("Ada", None)}
    assert set(ann[40:]) == {(None, "Ann")}
    assert set(neither) == {(None, None)}
    assert again[-1] == ("Ada", None)


def test_events_of_frames_and_of_their_source_are_told_in_order():
    """A loss is noticed a little later than the frame before it was taken."""
    lost, left = LiveEvent("source_lost", 10.05), LiveEvent("left", 10.0, 1)
    assert [event.time_s for event in in_order([lost, left], 9.0)] == [10.05, 10.05]
    assert [event.time_s for event in in_order([left], 10.05)] == [10.05]
    assert [event.time_s for event in in_order([left, LiveEvent("appeared", 3.0, 2)], 9.0)] == [10.0, 3.0]
    assert in_order([], 3.0) == ()


def test_the_source_is_told_once_each_way():
    events = SourceEvents()
    assert events.update(0.0, True) == ()
    (lost,) = events.update(1.0, False)
    assert events.update(2.0, False) == ()
    (back,) = events.update(4.5, True)
    assert (lost.event, lost.duration_s, back.event, back.duration_s) == ("source_lost", None, "source_back", 3.5)
