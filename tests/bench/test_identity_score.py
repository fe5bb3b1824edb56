"""Counting names and tracks against a truth that is written down here."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edge_app.bench import identity
from edge_app.bench.clips import Clip, Present, Take
from edge_app.bench.identity_score import IdentityScore, Said, add_clip, named_by
from edge_app.core.errors import EdgeError
from edge_app.core.types import Frame

pytest.importorskip("motmetrics")

FPS = 10.0
LEFT, RIGHT = (100.0, 100.0, 200.0, 200.0), (400.0, 100.0, 500.0, 200.0)


def clip(*seconds: float) -> Clip:
    return Clip("cuts", "made up", FPS, tuple(Take((), duration, 0) for duration in seconds))


def here(person: str, visit: int, box=LEFT, known: bool = True, visible: float = 1.0) -> Present:
    return Present(person, visit, person if known else None, box, visible)


def said(name: str | None, track: int, box=LEFT) -> Said:
    return Said(box, name, track)


def scored(made: Clip, truth, answers) -> dict:
    score = IdentityScore()
    add_clip(score, made, truth, answers)
    return score.as_dict()


def test_a_perfect_answer():
    truth = [[here("Ada", 1)]] * 10 + [[here("Bob", 2)]] * 10
    answers = [[said("Ada", 1)]] * 10 + [[said("Bob", 2)]] * 10
    found = scored(clip(1, 1), truth, answers)
    assert found["wrong_name_s_per_min"] == found["never_named"] == found["false_boxes"] == 0
    assert (found["idf1_tracks"], found["idf1_identities"]) == (1.0, 1.0)
    assert (found["switches_tracks"], found["switches_identities"]) == (0, 0)
    assert (found["old_name_frames_worst"], found["new_name_within_0.4_s"]) == (0, 1.0)
    assert (found["visits_of_known"], found["found_share"], found["cuts"]) == (2, 1.0, 1)


def test_a_name_that_stays_after_a_cut():
    """Three frames of Ada's name on Bob's face; his own comes five frames after the cut."""
    truth = [[here("Ada", 1)]] * 10 + [[here("Bob", 2)]] * 10
    answers = [[said("Ada", 1)]] * 13 + [[said(None, 1)]] * 2 + [[said("Bob", 1)]] * 5
    score = IdentityScore()
    add_clip(score, clip(1, 1), truth, answers)
    found = score.as_dict()
    assert found["wrong_name_s_per_min"] == pytest.approx(0.3 / (2 / 60), abs=1e-3)
    assert found["of_that_on_strangers"] == 0
    assert score.old_name_frames == [3]
    assert found["old_name_gone_within_2_frames"] == 0.0
    assert score.name_after_cut_s == pytest.approx([0.5])
    assert found["new_name_within_0.4_s"] == 0.0
    # One track over two visits: ten of twenty frames are right.
    assert found["idf1_tracks"] == 0.5
    assert found["switches_tracks"] == 0


def test_a_name_of_before_that_belongs_here_is_no_old_name():
    truth = [[here("Ada", 1)]] * 5 + [[here("Ada", 2), here("Bob", 3, RIGHT)]] * 5
    answers = [[said("Ada", 1)]] * 5 + [[said("Ada", 2), said("Bob", 3, RIGHT)]] * 5
    score = IdentityScore()
    add_clip(score, clip(0.5, 0.5), truth, answers)
    assert score.old_name_frames == [0]


def test_a_stranger_who_is_named_and_somebody_who_never_is():
    truth = [[here("Ann", 1, known=False), here("Bob", 2, RIGHT)]] * 10
    answers = [[said("Ada", 1), said(None, 2, RIGHT)]] * 10
    found = scored(clip(1), truth, answers)
    assert (found["stranger_visits"], found["strangers_named"]) == (1, 1)
    assert (found["visits_of_known"], found["never_named"]) == (1, 1)
    assert found["of_that_on_strangers"] == found["wrong_name_s_per_min"] == pytest.approx(60.0)


def test_one_name_on_two_boxes_and_a_box_on_the_wall():
    truth = [[here("Ada", 1)]] * 10
    answers = [[said("Ada", 1), said("Ada", 2, RIGHT)]] * 10
    found = scored(clip(1), truth, answers)
    assert found["one_name_twice_s_per_min"] == pytest.approx(60.0)
    assert found["false_boxes"] == 10
    assert found["wrong_name_s_per_min"] == pytest.approx(60.0)


def test_somebody_who_is_nearly_hidden_counts_neither_way():
    truth = [[here("Ada", 1, visible=0.2)]] * 10
    found = scored(clip(1), truth, [[said(None, 1)]] * 5 + [[]] * 5)
    assert (found["faces"], found["false_boxes"], found["visits_of_known"]) == (0, 0, 0)


def test_a_switch_is_counted_and_names_hold_identities_together():
    """The track changes its number after a gap; the name does not."""
    truth = [[here("Ada", 1)]] * 20
    answers = [[said("Ada", 1)]] * 10 + [[said("Ada", 2)]] * 10
    found = scored(clip(2), truth, answers)
    assert (found["switches_tracks"], found["idf1_tracks"]) == (1, 0.5)
    assert (found["switches_identities"], found["idf1_identities"]) == (0, 1.0)


def test_visits_count_with_their_first_part():
    """Named after 3 s of 12: not within 1 s, within 10 s; no visit lasts 60 s."""
    truth = [[here("Ann", 1, known=False), here("Eve", 2, RIGHT, known=False)]] * 120
    answers = [[said(None, 1), said(None, 2, RIGHT)]] * 30 + [[said("Ada", 1), said(None, 2, RIGHT)]] * 90
    assert named_by(clip(12), truth, answers, (1.0, 10.0, 60.0)) == [(2, 0), (2, 1), (0, 0)]


def test_what_the_table_tells_is_measured():
    from edge_app.cli.bench import identity_tables

    score = IdentityScore()
    add_clip(score, clip(1), [[here("Ada", 1)]] * 10, [[said("Ada", 1)]] * 10)
    figures = score.as_dict() | {"cpu_ms_a_frame": 1.5}
    result = {
        "contestants": {"edge-app, live": {"all": figures}},
        "clips": 1,
        "enrolled": 3,
        "half": "develop",
        "threshold": 0.4,
        "visits": {"edge-app, live": {"1 s": {"visits": 7, "named": 1, "interval": [0.0257, 0.5131]}}},
    }
    (_, columns, rows), (_, lengths, visits) = identity_tables(result)
    told = {row[0]: row[1] for row in rows}
    assert columns == ("", "edge-app, live")
    assert told["IDF1 of the tracks"] == "1"
    assert told["seconds to the name, 50 / 90 / 95 %"] == "0 / 0 / 0"
    assert told["processor time a frame, ms"] == "1.5"
    assert (lengths, visits) == (("", "1 s"), [("edge-app, live", "1 of 7 (2.57% to 51.31%)")])


def test_without_the_other_library_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(EdgeError, match="supervision is not installed; expected the extra `bench`"):
        identity._Voted(identity._Afresh.__new__(identity._Afresh))


class Echo:
    """Says what it is told to, and counts the frames it was asked about."""

    def __init__(self) -> None:
        self.cpu_ms: list[float] = []
        self.asked = 0

    def begin(self, clip):
        self.cpu_ms = []

    def observe(self, frame):
        self.asked += 1
        self.cpu_ms.append(frame.index + 0.5)
        return [said("Ada" if frame.index else None, frame.index + 1)]


class Reel(SimpleNamespace):
    """A clip of three frames in which Ada is."""

    def frames(self):
        pixels = np.zeros((48, 64, 3), np.uint8)
        for index in range(3):
            yield Frame(pixels, index, index / 10), (here("Ada", 1),)


def reel(title="one"):
    role = SimpleNamespace(
        person=SimpleNamespace(key="Ada"), poses=(), yaw=(), whole=False, change_every_s=5.0, portraits=()
    )
    take = SimpleNamespace(duration_s=0.3, seed=1, roles=(role,))
    return Reel(kind="cuts", title=title, fps=10.0, takes=(take,))


def test_a_run_that_was_interrupted_goes_on_with_what_it_kept(tmp_path):
    told: list[str] = []
    first, second = Echo(), Echo()
    folder = tmp_path / "clips"
    fresh = identity._play(reel(), {"x": first}, identity.KeptClips(folder, {"code": 1}), told.append, "1 of 1")
    again = identity._play(reel(), {"x": second}, identity.KeptClips(folder, {"code": 1}), told.append, "1 of 1")
    assert (first.asked, second.asked) == (3, 0)
    assert again == fresh
    assert again.cpu_ms == {"x": [0.5, 1.5, 2.5]}
    assert told == ["1 of 1", "1 of 1, kept from before"]
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


@pytest.mark.parametrize("change", ["code", "clip", "contestants"])
def test_what_was_kept_of_another_setup_is_not_taken(tmp_path, change):
    identity._play(reel(), {"x": Echo()}, identity.KeptClips(tmp_path, {"code": 1}), print, "")
    asked = Echo()
    kept = identity.KeptClips(tmp_path, {"code": 2 if change == "code" else 1})
    who = "y" if change == "contestants" else "x"
    identity._play(reel("another" if change == "clip" else "one"), {who: asked}, kept, print, "")
    assert asked.asked == 3


def test_a_damaged_clip_is_named(tmp_path):
    kept = identity.KeptClips(tmp_path, {})
    identity._play(reel(), {"x": Echo()}, kept, print, "")
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:50])
    with pytest.raises(EdgeError, match="is damaged; remove it: the clip is played again"):
        identity._play(reel(), {"x": Echo()}, kept, print, "")
