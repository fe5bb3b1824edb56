"""The enrollment gate: every reason, with the picture or the angle that brings it about."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.core.types import Embedding, Face, Frame, Quality
from edge_app.gallery.enrollment import (
    Collection,
    EnrollOptions,
    Refusal,
    SeveralFaces,
    Shot,
    choose_face,
    judge_quality,
    judge_shots,
    settle_rivals,
)
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference.face_quality import QualityLimits, measure
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.recognition.open_session import open_people
from edge_app.system.settings import Settings

GOOD = Quality(face_px=100, sharpness=0.35, brightness=130, clipped=0.0, yaw=0.0, pitch=0.57, roll_deg=0, score=0.93)
RULE = MatchRule(0.9, 0.0, 0.01, 0.01, "")
OPTIONS = EnrollOptions(same_person_floor=0.5)


def face(x, y, size, landmarks=None):
    box = np.array([x, y, x + size, y + size], np.float32)
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) * size + (x, y)
    return Face(box, points if landmarks is None else landmarks, 0.9)


def shot(degrees, source="x", quality=GOOD):
    angle = math.radians(degrees)
    crop = np.zeros((112, 112, 3), np.uint8)
    return Shot(source, face(0, 0, 100), crop, quality, Embedding(np.array([math.cos(angle), math.sin(angle)]), "m"))


def reasons(shots, own=(), gallery=None, name="Ada", options=OPTIONS):
    verdicts = judge_shots(name, shots, [s.embedding for s in own], gallery or Gallery.empty("m"), RULE, options)
    return [v.refusal.reason if v.refusal else None for v in verdicts]


def test_no_shots_no_verdicts():
    assert reasons([]) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"face_px": 30}, "too-small"),
        ({"brightness": 20}, "too-dark"),
        ({"brightness": 240}, "too-bright"),
        ({"clipped": 0.5}, "blown-out"),
        ({"sharpness": 0.1}, "blurred"),
        ({"yaw": -1.4}, "turned-away"),
        ({"score": 0.8}, "turned-away"),
        ({"roll_deg": 70}, "tilted"),
    ],
)
def test_every_limit_has_its_reason_and_its_number(change, reason):
    refusal = judge_quality(replace(GOOD, **change), QualityLimits())
    assert (refusal.reason if refusal else None) == reason
    if refusal and "clipped" not in change:
        assert any(f"{abs(value):.{digits}f}" in refusal.message for value in change.values() for digits in (0, 2))


def test_no_face_is_a_reason():
    assert choose_face([], (640, 480), largest=False).reason == "no-face"


def test_a_bystander_does_not_spoil_a_picture_and_a_rival_does():
    subject, bystander, rival = face(270, 190, 100), face(0, 0, 90), face(375, 190, 90)
    assert choose_face([subject, bystander], (640, 480), largest=False) is subject
    refused = choose_face([subject, rival], (640, 480), largest=False)
    assert isinstance(refused, Refusal) and refused.reason == "several-faces" and "2 faces" in refused.message
    assert choose_face([rival, subject], (640, 480), largest=True) is subject


def test_two_shots_of_one_person_are_accepted():
    assert reasons([shot(0), shot(20)]) == [None, None]


def test_the_odd_one_out_is_refused_wherever_it_stands():
    assert reasons([shot(0), shot(10), shot(100)]) == [None, None, "unlike-the-others"]
    assert reasons([shot(100), shot(0), shot(10)]) == ["unlike-the-others", None, None]


def test_of_two_that_differ_the_first_stays():
    assert reasons([shot(0), shot(100)]) == [None, "unlike-the-others"]


def test_what_is_enrolled_outvotes_new_shots():
    assert reasons([shot(100), shot(105)], own=[shot(0), shot(10)]) == ["unlike-the-others"] * 2


def test_a_picture_counts_once_within_a_call_and_against_what_is_enrolled():
    assert reasons([shot(0), shot(0.5), shot(20)]) == [None, "enrolled-already", None]
    assert reasons([shot(0), shot(20)], own=[shot(0)]) == ["enrolled-already", None]
    assert reasons([shot(0), shot(2)], own=[shot(4)]) == [None, None]


def test_a_refused_picture_may_come_again_in_a_better_shot():
    assert reasons([shot(0, quality=replace(GOOD, sharpness=0.01)), shot(0)]) == ["blurred", None]


def test_a_bad_shot_does_not_vote():
    blurred = replace(GOOD, sharpness=0.01)
    assert reasons([shot(100, quality=blurred), shot(100, quality=blurred), shot(0)]) == ["blurred", "blurred", None]


def test_somebody_enrolled_already_is_not_enrolled_again_under_another_name():
    known = Gallery("m", ("Bob",), shot(5).embedding.vector[None], np.zeros(1, np.int64))
    assert reasons([shot(0)], gallery=known) == ["looks-like-somebody-else"]
    assert reasons([shot(0)], gallery=known, name="Bob") == [None]
    assert reasons([shot(0)], gallery=known, options=replace(OPTIONS, allow_lookalike=True)) == [None]
    assert reasons([shot(60)], gallery=known) == [None]


SOFT = replace(GOOD, sharpness=0.17)


def verdicts(shots, own=(), gallery=None, options=OPTIONS):
    return judge_shots("Ada", shots, [s.embedding for s in own], gallery or Gallery.empty("m"), RULE, options)


def test_a_weak_shot_is_kept_with_a_warning_when_a_better_one_vouches_for_it():
    good, soft = verdicts([shot(0), shot(20, quality=SOFT)])
    assert good.accepted and good.warning is None
    assert soft.accepted and "blurred (detail 0.17" in soft.warning
    assert reasons([shot(20, quality=SOFT)], own=[shot(0)]) == [None]
    assert reasons([shot(0), shot(100, quality=SOFT)]) == [None, "blurred"]


def test_two_weak_shots_vouch_for_each_other_and_one_does_not():
    assert reasons([shot(0, quality=SOFT)]) == ["blurred"]
    both = verdicts([shot(0, quality=SOFT), shot(20, quality=replace(GOOD, score=0.87))])
    assert [v.accepted for v in both] == [True, True] and all(v.warning for v in both)
    assert reasons([shot(0, quality=SOFT), shot(100, quality=SOFT)]) == [None, "unlike-the-others"]
    assert reasons([shot(0, quality=SOFT), shot(0.1, quality=SOFT)]) == [None, "enrolled-already"]


def test_what_is_of_no_use_is_refused_whatever_vouches_for_it():
    spoiled = replace(GOOD, sharpness=0.1)
    assert reasons([shot(0), shot(10, quality=spoiled), shot(20, quality=spoiled)]) == [None, "blurred", "blurred"]


def test_a_resemblance_is_a_question_with_both_names_and_the_similarity():
    known = Gallery("m", ("Bob",), shot(5).embedding.vector[None], np.zeros(1, np.int64))
    [asked] = verdicts([shot(0)], gallery=known)
    assert not asked.accepted and all(word in asked.refusal.message for word in ("Ada", "Bob", "1.00", "0.90"))
    [listed] = verdicts([shot(0)], gallery=known, options=replace(OPTIONS, allow_lookalike=True))
    assert listed.accepted and (listed.resembles.name, listed.resembles.threshold) == ("Bob", 0.9)
    assert listed.resembles.similarity == pytest.approx(math.cos(math.radians(5)))
    [weak] = verdicts([shot(0, quality=SOFT)], own=[shot(10)], gallery=known)
    assert weak.refusal.reason == "looks-like-somebody-else" and weak.warning is None


def several(*degrees):
    return SeveralFaces("several-faces", "2 faces", tuple(shot(one) for one in degrees))


def settled(looks, own=()):
    done = settle_rivals([("x", look) for look in looks], [s.embedding for s in own], OPTIONS)
    return [
        round(math.degrees(math.acos(min(1.0, float(look.embedding.vector[0]))))) if isinstance(look, Shot) else None
        for _, look in done
    ]


def test_the_other_shots_of_a_name_tell_which_of_several_faces_is_meant():
    assert settled([shot(0), several(100, 10)]) == [0, 10]
    assert settled([several(100, 10)], own=[shot(0)]) == [10]
    assert settled([several(100, 10), several(170, 20)]) == [10, 20]
    assert settled([several(100, 10)]) == [None]
    assert settled([shot(0), several(100, 170)]) == [0, None]
    assert settled([shot(0), several(20, 10)]) == [0, None], "a twin beside her"
    assert settled([several(100, 10), several(110, 20)]) == [None, None], "both are in both"


def collection(source=None, own=()):
    made = Collection("Ada", OPTIONS, [s.embedding for s in own])
    if source:
        made.choose(source)
    return made


def test_nothing_is_taken_before_a_source_was_chosen():
    with pytest.raises(ValueError, match="before its source"):
        collection().add("x", shot(0))


def test_sources_are_mixed_only_when_the_user_says_so():
    made = collection("camera")
    made.choose("files")
    made.add("a.jpg", shot(0))
    with pytest.raises(UsageError, match="1 shots of Ada come from the files"):
        made.choose("camera")
    assert made.source == "files"
    made.choose("camera", mix=True)
    assert made.source == "camera" and len(made.shots) == 1
    assert made.discard() == 1
    made.choose("files")


def test_another_person_before_the_camera_discards_what_was_taken_and_says_so():
    made = collection("camera")
    assert made.add("camera", shot(0)).taken and made.add("camera", shot(20)).taken
    assert not made.add("camera", Refusal("no-face", "no face")).taken
    changed = made.add("camera", shot(120))
    assert (changed.taken, changed.discarded, made.looks) == (False, 2, ())
    assert made.add("camera", shot(120)).taken
    assert collection("camera", own=[shot(0)]).add("camera", shot(120)).taken is False


def test_files_are_judged_together_at_the_end_and_nothing_before():
    made = collection("files")
    for degrees in (0, 100, 10):
        assert made.add(f"{degrees}.jpg", shot(degrees)).taken
    made.add("two.jpg", several(100, 15))
    made.add("none.jpg", Refusal("no-face", "no face"))
    told = [v.refusal.reason if v.refusal else None for v in made.judge(Gallery.empty("m"), RULE)]
    assert told == [None, "unlike-the-others", None, "several-faces", "no-face"]
    made.drop(1)
    told = [v.refusal.reason if v.refusal else None for v in made.judge(Gallery.empty("m"), RULE)]
    assert told == [None, None, None, "no-face"]


@pytest.fixture(scope="module")
def obama():
    return read_picture(sample.people()["Barack Obama"][0])


@pytest.fixture
def bench(home):
    with (made := open_people(home)).vault:
        yield made


def motion(pixels, length):
    return cv2.filter2D(pixels, -1, np.full((1, length), 1 / length, np.float32))


def turn(pixels, found, degrees):
    """The head as an ellipsoid with a nose, turned about the vertical; hidden sides are hidden, the rest is grey."""
    half = found.width_px * 0.55
    middle = found.landmarks[:2, 0].mean()
    top, bottom = float(found.box[1]) - 0.25 * half, float(found.box[3])
    u = np.linspace(-1, 1, 801)
    out = np.full_like(pixels, 128)
    angle = np.radians(degrees)
    for row in range(max(0, int(top)), min(pixels.shape[0], int(bottom))):
        v = (row - (top + bottom) / 2) / ((bottom - top) / 2)
        bridge, tip = found.landmarks[:2, 1].mean(), found.landmarks[2, 1]
        along = np.clip((row - bridge) / (tip - bridge), 0, 1) * (row < tip + 0.12 * half)
        depth = np.sqrt(np.maximum(0, 1.15 - u**2 - 0.6 * v**2)) + 0.5 * along * np.exp(-((u / 0.13) ** 2))
        across = u * np.cos(angle) + depth * np.sin(angle)
        seen = np.maximum.accumulate(across)
        columns = np.arange(pixels.shape[1])
        place = (columns - middle) / half
        inside = (place >= seen[0]) & (place <= seen[-1])
        source = np.clip(np.rint(middle + half * np.interp(place, seen, u)), 0, pixels.shape[1] - 1).astype(int)
        out[row, inside] = pixels[row, source[inside]]
    return out


SPOILED = {
    "blurred": lambda p, _: cv2.GaussianBlur(p, (0, 0), 5),
    "blurred by motion": lambda p, _: motion(p, 25),
    "dark": lambda p, _: (p * 0.12).astype(np.uint8),
    "overexposed": lambda p, _: np.clip(p.astype(np.int32) * 2 + 120, 0, 255).astype(np.uint8),
    "tiny": lambda p, found: cv2.resize(p, None, fx=30 / found.width_px, fy=30 / found.width_px, interpolation=3),
    "turned": lambda p, found: turn(p, found, 70),
    "lying": lambda p, _: cv2.rotate(p, cv2.ROTATE_90_CLOCKWISE),
}


@pytest.mark.parametrize("how", SPOILED)
def test_spoiled_pictures_are_refused_and_nothing_is_stored(bench, obama, how):
    face_found = bench.recognizer.detector.detect(obama)[0]
    spoiled = SPOILED[how](obama, face_found)
    look = bench.recognizer.shot(spoiled, how)
    [verdict] = bench.enroll("Barack Obama", [(how, look)], EnrollOptions())
    assert not verdict.accepted
    assert bench.vault.names() == () and not bench.home.gallery_path.exists()


def test_two_pictures_in_a_name_out(bench):
    for name, paths in sample.people().items():
        looks = [(p.name, bench.recognizer.shot(read_picture(p), p.name)) for p in paths]
        assert all(v.accepted for v in bench.enroll(name, looks, EnrollOptions()))
    ready = bench.refreshed()
    [probe] = sample.probes()["Barack Obama"]
    seen = ready.recognizer.observe(Frame(read_picture(probe)))
    stranger = ready.recognizer.observe(Frame(read_picture(sample.stranger())))
    assert [one.name for one in seen.findings] == ["Barack Obama"]
    assert [one.name for one in stranger.findings] == [None]
    assert set(seen.timings_ms) == {"detect", "align", "embed", "match", "total"}
    stored = ready.vault.identity("Barack Obama").templates
    assert [t.source for t in stored] == ["obama_1.jpg", "obama_2.jpg"]
    assert all(t.embedding.model_id == "sface" and t.quality.face_px > 40 for t in stored)


def test_enrolling_a_picture_again_says_so_and_adds_nothing(home, capsys):
    first, second = (str(path) for path in sample.people()["Barack Obama"])
    end = ["--home", str(home.path), "--json"]
    assert main(["enroll", "Barack Obama", first, *end]) == 0
    capsys.readouterr()
    assert main(["enroll", "Barack Obama", first, *end]) == 1
    [told] = json.loads(capsys.readouterr().out)["enrolled"]
    assert told["shots"][0]["reason"] == "enrolled-already" and "enrolled already" in told["shots"][0]["message"]
    assert told["templates"] == 1 and told["warning"] == "nothing new: Barack Obama stays enrolled with 1 picture"
    assert main(["enroll", "Barack Obama", first, second, *end]) == 1
    assert json.loads(capsys.readouterr().out)["enrolled"][0]["templates"] == 2


@pytest.mark.parametrize("keep", [False, True])
def test_pictures_are_kept_only_when_the_user_says_so(home, keep):
    [picture] = sample.people()["Joe Biden"]
    with (made := open_people(home, Settings(keep_pictures=keep))).vault:
        made.enroll("Joe Biden", [("x", made.recognizer.shot(read_picture(picture), "x"))], EnrollOptions())
        [kept] = made.vault.pictures("Joe Biden")
    assert (kept is not None) == keep and (not keep or kept.startswith(b"\xff\xd8"))


def test_a_gallery_of_another_model_is_not_matched(bench):
    foreign = shot(0)
    bench.vault.add("Ada", [_template(foreign)])
    with (made := open_people(bench.home)).vault:
        assert made.missing == ("Ada",) and len(made.recognizer.gallery) == 0


def _template(one):
    from edge_app.gallery.enrollment import template_of

    return template_of(one, 0.0)


def test_quality_of_a_plain_grey_crop_is_no_detail():
    measured = measure(face(0, 0, 100), np.full((112, 112, 3), 128, np.uint8))
    assert measured.sharpness == 0.0 and measured.brightness == 128 and measured.clipped == 0


@pytest.mark.parametrize(("shift", "sign"), [(-0.15, -1), (0.15, 1), (0.0, 0)])
def test_yaw_follows_the_nose_and_not_the_tilt(shift, sign):
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5 + shift, 0.6], [0.35, 0.8], [0.65, 0.8]]) * 100
    angle = np.radians(20)
    tilted = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    one = measure(face(0, 0, 100, points.astype(np.float32)), np.zeros((112, 112, 3), np.uint8))
    other = measure(face(0, 0, 100, tilted.astype(np.float32)), np.zeros((112, 112, 3), np.uint8))
    assert one.yaw == pytest.approx(sign * 0.75, abs=1e-3) and other.yaw == pytest.approx(one.yaw, abs=1e-3)
    assert other.roll_deg == pytest.approx(20, abs=0.1)
