"""What the screens say of living people, pictures of them, and challenges."""

from __future__ import annotations

import pytest

from edge_app.live.challenge import Progress
from edge_app.live.events import LiveEvent
from edge_app.tui.face_text import challenge_words, event_words


@pytest.mark.parametrize(("live", "words", "detail"), [
    (None, "● Ada", " 0.80"),
    ("yes", "● Ada", " 0.80, live"),
    ("unchecked", "● Ada", " 0.80, not checked"),
    ("no", "! Ada: not live", " 0.80"),
])  # fmt: skip
def test_a_recognition_says_what_liveness_networks_make_of_it(live, words, detail):
    said = event_words(LiveEvent("recognized", 1.0, 1, "Ada", 0.8, 0.1, live=live))
    assert (said.words, said.detail) == (words, detail)


@pytest.mark.parametrize(("progress", "words"), [
    (Progress(prompt="look up"), "Ada: look up"),
    (Progress("passed", began_s=1.0, ended_s=6.5), "✓ Ada: live answered in 5.5 s"),
    (Progress("no answer", reason="no answer to 'look up' in 3.5 s"), "? Ada: no answer to 'look up' in 3.5 s"),
    (Progress("not live", reason="moved as a flat picture does"), "! Ada: not live: moved as a flat picture does"),
])  # fmt: skip
def test_a_challenge_is_told_as_it_goes_and_ends(progress, words):
    said = challenge_words("Ada", progress)
    assert said.words + said.detail == words
