"""Clips composed from a folder of people: halves that share nobody, the same pixels again, a truth that holds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_app.bench.clips import SIZE_PX, Clip, Person, Portrait, Role, Take, turned
from edge_app.bench.people_clips import Cast, Portraits, cast_people, identity_clips, visit_clips
from edge_app.core.errors import MediaError
from edge_app.core.types import Face, Pixels
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.media.sample import Pose, cut_out
from edge_app.media.sample.outlines import FACES

PICTURE = next(iter(sample.people().values()))[0]
BOX = np.array(FACES[PICTURE.name], np.float32)


def face() -> Face:
    x1, y1, x2, y2 = BOX
    shares = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    return Face(BOX, shares * (x2 - x1, y2 - y1) + (x1, y1), 0.9)


def find(pixels: Pixels) -> Sequence[Face]:
    return [face()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four people with three pictures each, and one with a single picture."""
    path = tmp_path_factory.mktemp("people")
    for number in range(24):
        (path / f"p{number:02d}").mkdir()
        for picture in range(3):
            shutil.copy(PICTURE, path / f"p{number:02d}" / f"{picture}.jpg")
    (path / "alone").mkdir()
    shutil.copy(PICTURE, path / "alone" / "0.jpg")
    return path


def keys(cast: Cast) -> set[str]:
    return {person.key for person in (*cast.known, *cast.strangers)}


def test_the_halves_share_nobody_and_leave_nobody_out(folder):
    develop, aside = cast_people(folder, "develop"), cast_people(folder, "kept-aside")
    assert keys(develop).isdisjoint(keys(aside))
    assert keys(develop) | keys(aside) == {f"p{number:02d}" for number in range(24)}
    assert cast_people(folder, "develop") == develop
    assert keys(cast_people(folder, "develop", seed=1)) != keys(develop)


def test_what_is_shown_of_the_enrolled_was_not_enrolled(folder):
    cast = cast_people(folder, "develop", most_known=4)
    assert len(cast.known) == 4
    for person in cast.known:
        assert len(person.enroll) == 2
        assert not set(person.enroll) & set(person.show)
    assert all(not person.enroll and len(person.show) == 3 for person in cast.strangers)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(MediaError, match="no sub-folder"):
        cast_people(tmp_path, "develop")
    with pytest.raises(MediaError, match="not a folder"):
        cast_people(tmp_path / "none", "develop")


def test_the_same_seed_gives_the_same_clips(folder):
    cast = cast_people(folder, "develop")
    first, again = (identity_clips(cast, Portraits(find), seed=3) for _ in range(2))
    other = identity_clips(cast, Portraits(find), seed=4)
    titles = [clip.title for clip in first]
    assert titles == [clip.title for clip in again]
    assert {clip.kind for clip in first} == {"cuts", "crossing", "returns", "succession", "profiles", "groups"}
    assert {clip.fps for clip in first} == {10.0, 30.0}

    def start(clips: list[Clip]) -> list[np.ndarray]:
        picked = (next(clip for clip in clips if clip.kind == kind) for kind in ("cuts", "groups"))
        return [next(clip.frames())[0].pixels for clip in picked]

    assert all(np.array_equal(a, b) for a, b in zip(start(first), start(again), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(start(first), start(other), strict=True))


def role(key: str, poses: tuple[Pose, ...], known: bool = True) -> Role:
    person = Person(key, known, (), (PICTURE,))
    return Role(person, (Portrait(read_picture(PICTURE), face()),), poses)


def test_the_truth_of_a_cut():
    here = (Pose(0, 0.5, 0.5, 0.3), Pose(1, 0.5, 0.5, 0.3))
    takes = (Take((role("Ada", here),), 1.0, 0), Take((role("Ann", here, known=False),), 1.0, 1))
    clip = Clip("cuts", "two", 10.0, takes)
    frames = list(clip.frames())
    assert (len(frames), clip.cuts_s, clip.duration_s) == (20, (1.0,), 2.0)
    told = [[(one.person, one.name, one.visit) for one in present] for _, present in frames]
    assert told == [[("Ada", "Ada", 1)]] * 10 + [[("Ann", None, 2)]] * 10
    frame, (present,) = frames[0]
    x1, y1, x2, y2 = present.box
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((SIZE_PX[0] / 2, SIZE_PX[1] / 2), abs=1)
    assert y2 - y1 == pytest.approx(0.3 * SIZE_PX[1], abs=1)
    assert present.visible == pytest.approx(1.0, abs=0.02)
    assert [frame.index for frame, _ in frames] == list(range(20))
    assert not np.array_equal(frame.pixels, frames[10][0].pixels)


@pytest.mark.parametrize(("away_s", "visits"), [(1.0, {1}), (3.0, {1, 2})])
def test_somebody_who_is_away_for_long_comes_back_as_another_visit(away_s, visits):
    poses = tuple(
        Pose(time_s, x, 0.5, 0.3)
        for time_s, x in ((0, 0.5), (1, 0.5), (1.2, 1.5), (1.0 + away_s, 1.5), (1.2 + away_s, 0.5), (3 + away_s, 0.5))
    )
    clip = Clip("returns", "away", 10.0, (Take((role("Ada", poses),), 3 + away_s, 0),))
    assert {one.visit for _, present in clip.frames() for one in present if one.visible > 0.9} == visits


def test_strangers_who_stay_are_four_at_a_time_and_show_all_their_pictures(folder):
    cast = cast_people(folder, "develop")
    clips = visit_clips(cast, Portraits(find), most=6)
    assert [len(clip.takes[0].roles) for clip in clips] == [4, 2]
    assert all(clip.duration_s == 60.0 for clip in clips)
    assert {role.person.key for clip in clips for role in clip.takes[0].roles} <= {p.key for p in cast.strangers}
    assert all(len(role.portraits) == 3 for clip in clips for role in clip.takes[0].roles)


def test_a_turned_head_turns_and_its_surroundings_stay():
    cutout = cut_out(read_picture(PICTURE), BOX)
    assert turned(cutout, 0.0) is cutout
    left, right = (turned(cutout, degrees).levels[0].astype(int) for degrees in (-40, 40))
    plain = cutout.levels[0].astype(int)
    x1, y1, x2, y2 = BOX.astype(int)
    inside = np.s_[y1:y2, x1:x2, :3]
    assert np.abs(left[inside] - plain[inside]).mean() > 10
    assert np.abs(left[inside] - right[inside]).mean() > 10
    assert np.array_equal(left[:, : max(1, int(x1 - (x2 - x1)))], plain[:, : max(1, int(x1 - (x2 - x1)))])


def test_a_picture_with_two_faces_is_left_out(folder):
    cast = cast_people(folder, "develop")
    person = cast.strangers[0]
    assert len(Portraits(find).of(person)) == 3
    assert Portraits(lambda pixels: [face(), face()]).of(person) == ()
    assert Portraits(lambda pixels: []).playing(cast.strangers) == ()
