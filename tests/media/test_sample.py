"""The sample people, and clips whose truth is planted before it is measured."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.media.sample import Actor, Pose, Scene
from edge_app.media.sample.outlines import FACES
from edge_app.media.sample.scene import mirrored, pose_at


def test_the_pictures_are_small_bare_and_hold_large_enough_faces():
    pictures = {*sum((*sample.people().values(), *sample.probes().values()), ()), sample.stranger()}
    assert {path.name for path in pictures} == set(FACES)
    assert sum(path.stat().st_size for path in pictures) < 600_000
    for path in pictures:
        with Image.open(path) as image:
            assert max(image.size) <= 800
            assert not image.getexif()
            assert not {"icc_profile", "xmp", "photoshop", "comment"} & set(image.info)
        x1, y1, x2, y2 = FACES[path.name]
        height, width, _ = read_picture(path).shape
        assert min(x2 - x1, y2 - y1) >= 90
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


def test_probes_are_of_people_but_not_among_their_pictures():
    assert set(sample.probes()) <= set(sample.people())
    enrolled = {path for paths in sample.people().values() for path in paths}
    assert not enrolled & {path for paths in sample.probes().values() for path in paths}
    assert sample.stranger() not in enrolled
    assert sorted(len(paths) for paths in sample.people().values()) == [1, 2]


def test_the_readme_names_every_picture_and_its_licence():
    text = (sample.stranger().parent / "README.md").read_text()
    assert all(f"`{name}`" in text for name in FACES)
    assert "public domain" in text
    assert text.count("`") // 2 >= len(FACES)


GREEN = (10, 220, 30)
RED = (220, 20, 10)
BLUE = (10, 30, 200)


def portrait(colour: tuple[int, int, int], size_px: int = 200) -> sample.Cutout:
    """A picture of one colour whose face box is its middle half."""
    pixels = np.full((size_px, size_px, 3), colour, np.uint8)
    corners = [(0, 0), (size_px - 1, 0), (size_px - 1, size_px - 1), (0, size_px - 1)]
    return sample.cut_out(pixels, [size_px / 4, size_px / 4, size_px * 3 / 4, size_px * 3 / 4], corners)


def still(colour, x, y, height, name="x", **options) -> Actor:
    return Actor(name, portrait(colour), (Pose(0, x, y, height, **options), Pose(9, x, y, height, **options)))


def test_the_face_is_where_the_truth_says():
    scene = Scene((still(GREEN, 0.25, 0.5, 0.25),), 1.0, (320, 240))
    frame, (truth,) = sample.render(scene, 3)
    assert frame.index == 3
    assert frame.time_s == pytest.approx(0.2)
    np.testing.assert_allclose(truth.box, [50, 90, 110, 150], atol=0.01)
    assert truth.visible == pytest.approx(1.0, abs=0.01)
    face = frame.pixels[92:148, 52:108].astype(int)
    assert np.abs(face - GREEN).max() <= 4 + 1  # sensor noise and rounding
    assert np.abs(frame.pixels[120, 250].astype(int) - GREEN).max() > 60


def test_a_tilted_face_has_the_box_around_it():
    scene = Scene((still(GREEN, 0.5, 0.5, 0.25, tilt_deg=45),), 1.0, (320, 240))
    (truth,) = sample.render(scene, 0)[1]
    half = 30 * np.sqrt(2)
    np.testing.assert_allclose(truth.box, [160 - half, 120 - half, 160 + half, 120 + half], atol=0.01)


def test_a_tilt_is_clockwise():
    pixels = np.full((200, 200, 3), GREEN, np.uint8)
    pixels[:, 100:] = RED
    pixels[:100, :100] = BLUE
    cutout = sample.cut_out(pixels, [50, 50, 150, 150], [(0, 0), (199, 0), (199, 199), (0, 199)])
    actor = Actor("x", cutout, (Pose(0, 0.5, 0.5, 0.25, tilt_deg=90),))
    frame, _ = sample.render(Scene((actor,), 0.1, (320, 240)), 0)
    for x, y, colour in ((180, 140, RED), (140, 140, RED), (180, 100, BLUE), (140, 100, GREEN)):
        assert np.abs(frame.pixels[y, x].astype(int) - colour).max() <= 5


def test_light_is_a_gain_that_saturates():
    dim = sample.render(Scene((still((200, 100, 50), 0.5, 0.5, 0.3, light=0.5),), 1.0, (160, 120)), 0)[0]
    bright = sample.render(Scene((still((200, 100, 50), 0.5, 0.5, 0.3, light=2.0),), 1.0, (160, 120)), 0)[0]
    assert np.abs(dim.pixels[60, 80].astype(int) - (102, 52, 27)).max() <= 3
    assert np.abs(bright.pixels[60, 80].astype(int) - (255, 202, 102)).max() <= 3


def test_the_nearer_person_hides_the_farther_one():
    far, near = still(RED, 0.5, 0.5, 0.25, "far"), still(GREEN, 0.5, 0.5, 0.25, "near")
    frame, truths = sample.render(Scene((far, near), 1.0, (320, 240)), 0)
    assert [truth.name for truth in truths] == ["near"]
    assert np.abs(frame.pixels[120, 160].astype(int) - GREEN).max() <= 5


def test_half_a_face_hidden_is_half_visible():
    # The nearer cutout is 120 px wide about x = 220, so it reaches left to 160: the middle of the farther face.
    far, near = still(RED, 0.5, 0.5, 0.25, "far"), still(GREEN, 220 / 320, 0.5, 0.25, "near")
    truths = sample.render(Scene((far, near), 1.0, (320, 240)), 0)[1]
    assert [truth.name for truth in truths] == ["far", "near"]
    assert truths[0].visible == pytest.approx(0.5, abs=0.05)
    assert truths[1].visible == pytest.approx(1.0, abs=0.01)


def test_a_face_at_the_edge_is_partly_visible_and_beyond_it_absent():
    assert sample.render(Scene((still(RED, 0, 0.5, 0.25),), 1.0), 0)[1][0].visible == pytest.approx(0.5, abs=0.02)
    assert sample.render(Scene((still(RED, -0.5, 0.5, 0.25),), 1.0), 0)[1] == ()


def test_many_faces_and_none():
    row = tuple(still(RED, 0.1 + 0.2 * i, 0.5, 0.1, f"person {i}") for i in range(5))
    truths = sample.render(Scene(row, 1.0), 0)[1]
    assert [truth.name for truth in truths] == [f"person {i}" for i in range(5)]
    frame, truths = sample.render(Scene((), 1.0, (64, 48)), 0)
    assert truths == ()
    assert frame.size_px == (64, 48)


def test_people_are_there_from_their_first_pose_to_their_last_and_glide_between():
    actor = Actor("x", portrait(RED), (Pose(1, 0.0, 0.5, 0.2), Pose(3, 1.0, 0.5, 0.4)))
    assert pose_at(actor, 0.99) is None
    assert pose_at(actor, 3.01) is None
    assert pose_at(actor, 1).x == 0.0
    middle = pose_at(actor, 2)
    assert (middle.x, middle.height) == (pytest.approx(0.5), pytest.approx(0.3))
    assert pose_at(actor, 1.2).x < 0.05  # starts slowly


@pytest.mark.parametrize("poses", [(), (Pose(2, 0, 0, 0.1), Pose(1, 0, 0, 0.1))])
def test_poses_out_of_order_are_refused(poses):
    with pytest.raises(ValueError, match="in order"):
        Actor("x", portrait(RED), poses)


def test_a_mirrored_cutout_keeps_its_face():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[20:40, 10:30] = GREEN
    cutout = mirrored(sample.cut_out(pixels, [10, 20, 30, 40]))
    assert cutout.face.tolist() == [70, 20, 90, 40]
    assert tuple(cutout.levels[0][30, 80, :3]) == GREEN


def test_an_outline_is_optional():
    cutout = sample.cut_out(read_picture(sample.stranger()), FACES["astronaut.jpg"])
    opacity = cutout.levels[0][..., 3]
    x1, y1, x2, y2 = FACES["astronaut.jpg"]
    assert (opacity[y1:y2, x1:x2] > 250).all()
    assert opacity[5, 5] == opacity[5, -5] == 0


def test_the_same_clip_twice_is_the_same_pixels_in_any_order():
    scene = sample.clip_scene((160, 120), 3.0)
    frames = list(sample.clip((160, 120), 3.0))
    assert len(frames) == scene.frame_count == 54
    for index in (40, 7, 53, 20):
        frame, truths = sample.render(scene, index)
        np.testing.assert_array_equal(frame.pixels, frames[index][0].pixels)
        assert [(t.name, t.box.tolist()) for t in truths] == [(t.name, t.box.tolist()) for t in frames[index][1]]
    assert [frame.index for frame, _ in frames] == list(range(54))
    assert (frames[0][0].pixels != sample.render(sample.clip_scene((160, 120), 3.0, seed=1), 0)[0].pixels).any()


def test_no_two_frames_are_the_same_even_with_nobody_there():
    (first, nobody), (second, _) = (sample.render(sample.clip_scene(), index) for index in (0, 1))
    assert nobody == ()
    assert (first.pixels != second.pixels).any()


def test_the_story_people_come_cross_leave_and_come_back():
    seen = {}
    crossed = False
    for frame, truths in sample.clip((160, 120), 5.0):
        for truth in truths:
            seen.setdefault(truth.name, []).append(frame.time_s)
            assert truth.box[2] - truth.box[0] >= 120 * 0.18 * 0.6
        crossed |= any(truth.visible < 0.7 and truth.box[0] > 0 and truth.box[2] < 160 for truth in truths)
    assert set(seen) == {"Barack Obama", "Joe Biden", None}
    assert crossed
    obama = np.diff(seen["Barack Obama"])
    assert obama.max() > 2.0  # away, and back again
    assert min(seen["Joe Biden"]) > 3.9
    assert min(seen[None]) > 9.9
    assert not [time for times in seen.values() for time in times if time < 1.0 or time > 17.5]
