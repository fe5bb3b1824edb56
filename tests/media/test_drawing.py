"""Boxes and labels on pictures: known and unknown tell apart with and without colour, in any script, at any edge."""

from __future__ import annotations

import numpy as np
import pytest

from edge_app.core.types import Classification, ClassScore, Finding, Frame, Heatmap, Match, Seen
from edge_app.media.drawing import KNOWN, UNKNOWN, strength, warmed, words_of
from edge_app.media.drawing import annotate as annotate_seen

GREY = np.full((240, 320, 3), 90, np.uint8)


def annotate(pixels, findings):
    return annotate_seen(Seen(Frame(pixels), tuple(findings), {}))


def finding(name: str | None, box=(100, 100, 180, 200)) -> Finding:
    return Finding(np.array(box), Match(name, 0.734, 0.3))


def edge(pixels: np.ndarray) -> np.ndarray:
    """Colour along the left edge of the default box."""
    return pixels[105:195, 100]


def test_a_known_face_has_a_whole_frame_in_its_colour():
    assert (edge(annotate(GREY, [finding("Ann")])) == KNOWN).all()


def test_an_unknown_face_has_a_dashed_frame_in_another_colour():
    along = edge(annotate(GREY, [finding(None)]))
    drawn = (along == UNKNOWN).all(axis=1)
    assert 0.3 < drawn.mean() < 0.7
    assert (along[~drawn] == 90).all()


def test_the_label_names_the_known_and_marks_the_unknown():
    assert words_of(finding("Ann").answer) == "Ann 0.73"
    assert words_of(finding(None).answer) == "? unknown"


def test_the_original_is_untouched_and_read_only_pixels_are_fine():
    frozen = GREY.copy()
    frozen.setflags(write=False)
    drawn = annotate(frozen, [finding("Ann")])
    assert (frozen == 90).all()
    assert drawn.flags.writeable
    assert (drawn != frozen).any()


def test_nobody_is_no_change():
    np.testing.assert_array_equal(annotate(GREY, []), GREY)


def ink(name: str) -> np.ndarray:
    return annotate(GREY, [finding(name)])[60:100]


@pytest.mark.parametrize("name", ["José", "Łukasz", "Жанна", "Αλέξης", "李山", "田中あき", "한국", "أحمد"])
def test_names_in_other_scripts_are_written_and_not_replaced_by_question_marks(name):
    assert (ink(name) != ink("?" * len(name))).any()
    assert (ink(name) != ink(name[:-1])).any()


def test_what_no_font_has_is_a_visible_question_mark():
    np.testing.assert_array_equal(ink("Ann \N{SLIGHTLY SMILING FACE}"), ink("Ann ?"))


@pytest.mark.parametrize("box", [(-50, -60, 30, 40), (300, 220, 400, 300), (100, 0, 180, 240), (-500, -500, 900, 900)])
def test_a_label_stays_inside_the_picture(box):
    drawn = annotate(GREY, [finding("Ann", box)])
    strip = (drawn == KNOWN).all(axis=2)
    assert strip.sum() > 300  # the strip, not only a corner of the frame


def test_a_long_name_is_made_to_fit():
    drawn = annotate(GREY, [finding("Wolfeschlegelsteinhausen " * 3)])
    written = (drawn > 200).all(axis=2).any(axis=0)
    assert written[5:-20].any()
    assert not written[-2:].any()  # nothing runs out of the picture
    assert (drawn[..., -8:, :] == KNOWN).all(axis=2).any()  # the strip fills the width


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (500, 3, 3)])
def test_a_tiny_picture_is_drawn_on_all_the_same(shape):
    assert annotate(np.zeros(shape, np.uint8), [finding("Ann")]).shape == shape


def explained(values, box=(0, 0, 320, 240)) -> Finding:
    answer = Classification((ClassScore("left", 0.9), ClassScore("right", 0.1)), True)
    return Finding(np.array(box), answer, heatmap=Heatmap("left", np.array(values, np.float32)))


def test_one_odd_place_does_not_pale_the_rest_of_a_map():
    values = np.zeros((20, 20), np.float32)
    values[:, :8] = 1.0
    values[0, 19] = 1e6
    found = strength(Heatmap("left", values))
    assert found[5, 3] > 0.9 and found[5, 15] == 0.0


def test_a_map_that_is_the_same_everywhere_or_only_noise_has_no_colours():
    assert not strength(Heatmap("left", np.full((7, 7), 3.0))).any()
    noise = np.random.default_rng(0).normal(5, 0.02, (7, 7))
    assert strength(Heatmap("left", noise)).max() < 0.15


def test_weak_evidence_leaves_the_picture_as_it_is_and_strong_covers_most_of_it():
    drawn = warmed(GREY, [explained([[9.0, 0.0]] * 2)])
    assert (drawn[:, 300:] == 90).all()
    # The brightest colour of inferno over grey 90, 65 % of it.
    assert drawn[120, 5].tolist() == pytest.approx([0.35 * 90 + 0.65 * c for c in (252, 255, 164)], abs=3)
    assert (GREY == 90).all()


def test_a_map_that_reaches_out_of_the_picture_is_cut_not_squeezed():
    # Strong on the left half of a box of which only the right half lies in the picture.
    assert (warmed(GREY, [explained([[9.0, 9.0, 0.0, 0.0]], (-320, -50, 320, 500))])[:, 100:] == 90).all()
    assert (warmed(GREY, [explained([[9.0]], (500, 500, 600, 600))]) == 90).all()


def test_a_saved_reading_shows_the_same_colours_as_live_and_says_for_what():
    one = explained([[9.0, 0.0]] * 2)
    drawn = annotate(GREY, [one])
    np.testing.assert_array_equal(drawn[60:200, 10:300], warmed(GREY, [one])[60:200, 10:300])
    assert (drawn[-8:, 200:] != GREY[-8:, 200:]).any()  # the legend
