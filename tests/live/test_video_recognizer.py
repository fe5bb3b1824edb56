"""The live recognizer with real networks, on composed clips of the sample people and on bad input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pytest

from edge_app.bench.track_score import score
from edge_app.core.types import Finding, Frame, Pixels
from edge_app.gallery.matching import NAMES_NOBODY, Gallery
from edge_app.inference.embedder import Embedder
from edge_app.live.video_recognizer import LiveRecognizer
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.media.sample import Actor, Pose, Scene, mirrored
from edge_app.model_store import catalogue
from edge_app.model_store.open_detector import open_detector
from edge_app.recognition.faces import FaceRecognizer

OBAMA, BIDEN = sample.people()


@pytest.fixture(scope="module")
def recognizer() -> FaceRecognizer:
    embedder = Embedder(catalogue.open_shipped("sface", threads=1))
    detector = open_detector("yunet", threads=1)
    parts = FaceRecognizer(detector, embedder, Gallery.empty(embedder.model_id), NAMES_NOBODY)
    names, vectors = [], []
    for name, paths in sample.people().items():
        names.append(name)
        vectors.append(parts.shot(read_picture(paths[0]), "test").embedding.vector)
    gallery = Gallery(embedder.model_id, names, np.stack(vectors), np.arange(len(names)))
    cohort = getattr(embedder.card, "cohort", None)
    return parts.with_gallery(gallery, gallery.rule(embedder.card.operating_points, 0.01, 0.05, cohort))


def still(who: int, seconds: float = 1.0, *, x: float = 0.5, y: float = 0.45, height: float = 0.4) -> Scene:
    """One of the sample clip's people (0 the stranger, 1 Obama, 2 Biden) who stays where they are."""
    actor = sample.clip_scene().actors[who]
    poses = (Pose(0.0, x, y, height), Pose(seconds, x, y, height))
    return Scene((Actor(actor.name, actor.cutout, poses),), seconds, (640, 480), 10.0, seed=who)


def pixels_of(scene: Scene) -> list[Pixels]:
    return [frame.pixels for frame, _ in sample.compose(scene)]


def watched(live: LiveRecognizer, pictures: Sequence[Pixels], fps: float = 10.0) -> Iterator[tuple[Finding, ...]]:
    for index, pixels in enumerate(pictures):
        yield live.observe(Frame(pixels, index, index / fps)).findings


def names(findings: Sequence[Finding]) -> list[str | None]:
    return [finding.name for finding in findings]


def test_a_short_clip_with_real_networks(recognizer):
    """Obama comes, Biden crosses before him: nobody is misnamed, and both are named at once."""
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
    assert result.identity_switches == result.wrong_names == result.never_named == 0
    assert result.flickers <= 1  # half hidden at the crossing, a name may be taken back until it is sure again
    assert len(result.frames_to_name) == 2
    assert max(result.frames_to_name) <= 10
    assert result.found >= 0.9 * result.faces
    assert result.false_faces == 0
    assert sum(lap["detect"] == 0 for lap in stages) > len(stages) / 3  # detection ran only when it paid
    assert all(lap["total"] >= max(lap["detect"], lap["embed"], lap["follow"]) for lap in stages)


def test_hard_cuts_leave_no_name_behind(recognizer):
    """A cut every half second between three people at one place, all in one room: 24 cuts."""
    order = [1, 0, 2, 1, 2, 0] * 4
    pictures = {who: pixels_of(still(who, 0.5)) for who in (0, 1, 2)}
    told = list(watched(LiveRecognizer(recognizer), [one for who in order for one in pictures[who]]))
    truth = [{0: None, 1: OBAMA, 2: BIDEN}[who] for who in order for _ in pictures[who]]
    assert len(told) == len(truth) == 120
    assert all(name in (None, right) for seen, right in zip(told, truth, strict=True) for name in names(seen))
    third = [(names(seen), right) for i, (seen, right) in enumerate(zip(told, truth, strict=True)) if i % 5 == 3]
    assert third == [([right], right) for _, right in third]


def test_frames_that_change_size(recognizer):
    """The same person in frames of three sizes, and somebody else after one of the changes."""
    obama, stranger = pixels_of(still(1))[0], pixels_of(still(0))[0]
    sizes = [(640, 480), (320, 240), (480, 640), (1280, 720)]
    pictures, truth = [], []
    for number, size in enumerate(sizes):
        shown = stranger if number == 2 else obama
        pictures += [np.asarray(cv2.resize(shown, size))] * 5
        truth += [None if number == 2 else OBAMA] * 5
    told = list(watched(LiveRecognizer(recognizer), pictures))
    assert all(name in (None, right) for seen, right in zip(told, truth, strict=True) for name in names(seen))
    assert [names(told[i]) for i in (4, 9, 14, 19)] == [[OBAMA], [OBAMA], [None], [OBAMA]]
    for seen, picture in zip(told, pictures, strict=True):
        height, width = picture.shape[:2]
        assert all(0 <= (f.box[0] + f.box[2]) / 2 < width and 0 <= (f.box[1] + f.box[3]) / 2 < height for f in seen)


@pytest.mark.parametrize(("x", "y"), [(0.06, 0.5), (0.94, 0.5), (0.5, 0.08), (0.5, 0.95), (0.06, 0.08), (0.95, 0.95)])
def test_a_face_cut_by_the_border_has_its_own_name_or_none(recognizer, x, y):
    """Obama walks out until half of his face is cut off; the stranger comes back at that place."""
    walk = (Pose(0.0, 0.5, 0.5, 0.35), Pose(2.0, x, y, 0.35), Pose(3.0, x, y, 0.35))
    actor, stranger = sample.clip_scene().actors[1], sample.clip_scene().actors[0]
    out = pixels_of(Scene((Actor(actor.name, actor.cutout, walk),), 3.0, (640, 480), 10.0))
    back = tuple(Pose(3.0 - pose.time_s, pose.x, pose.y, pose.height) for pose in reversed(walk))
    into = pixels_of(Scene((Actor(None, stranger.cutout, back),), 3.0, (640, 480), 10.0))
    told = list(watched(LiveRecognizer(recognizer), out + into))
    assert names(told[3]) == [OBAMA]
    assert all(name in (None, OBAMA) for seen in told[:30] for name in names(seen))
    assert not any(name for seen in told[30:] for name in names(seen))
    assert any(told[-3:])


def test_a_lens_that_is_covered_for_a_moment_costs_no_track(recognizer):
    picture = pixels_of(still(1))[0]
    black = np.zeros_like(picture)
    told = list(watched(LiveRecognizer(recognizer), [picture] * 5 + [black] * 3 + [picture] * 5))
    assert [names(seen) for seen in told[5:8]] == [[], [], []]
    assert {(finding.track, finding.name) for seen in told[8:] for finding in seen} == {(1, OBAMA)}


def test_a_name_is_never_on_two_people_though_both_look_like_it(recognizer):
    """Obama beside his mirror image: one of the two is Obama, in every frame."""
    actor = sample.clip_scene().actors[1]
    ways = ((actor.cutout, 0.27), (mirrored(actor.cutout), 0.73))
    actors = tuple(Actor(OBAMA, cutout, (Pose(0, x, 0.45, 0.3), Pose(3, x, 0.45, 0.3))) for cutout, x in ways)
    told = list(watched(LiveRecognizer(recognizer), pixels_of(Scene(actors, 3.0, (640, 480), 10.0))))
    assert [len(seen) for seen in told[1:]] == [2] * 29
    assert [names(seen).count(OBAMA) for seen in told[1:]] == [1] * 29


def test_walls_and_textures_carry_no_box():
    """Three rooms and a field of noise, two seconds each: nothing is shown where nobody is."""
    embedder = Embedder(catalogue.open_shipped("sface", threads=1))
    parts = FaceRecognizer(open_detector("yunet", threads=1), embedder, Gallery.empty(embedder.model_id), NAMES_NOBODY)
    rough = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    rooms = [pixels_of(Scene((), 2.0, (640, 480), 10.0, seed=seed)) for seed in (1, 2, 3)]
    told = list(watched(LiveRecognizer(parts), [one for room in rooms for one in room] + [rough] * 20))
    assert told == [()] * 80
