"""Guided capture, with looks made by hand; and the inbox between worker and screen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_app.core.model_card import OperatingPoint
from edge_app.core.types import Embedding, Face, Frame, Quality, Seen, Template
from edge_app.gallery.enrollment import Collection, EnrollOptions, Refusal, Shot
from edge_app.gallery.matching import MatchRule
from edge_app.live.events import LiveEvent
from edge_app.live.worker import Update
from edge_app.media.live_camera import CameraState, CameraStatus
from edge_app.tui.capture_guide import Guide, GuideOptions, missing_views, view_of
from edge_app.tui.gallery_queries import Profile, worst_facts
from edge_app.tui.inbox import MOST_EVENTS, Inbox, News
from edge_app.tui.picture.operating_plot import operating_plot

GOOD = Quality(120.0, 0.4, 120.0, 0.0, 0.0, 0.5, 0.0, 0.9)
LANDMARKS = np.array([(30, 40), (70, 40), (50, 60), (35, 80), (65, 80)], np.float32)


def look(angle_deg: float = 0.0, *, x: float = 0.0, **quality: float) -> Shot:
    """A look whose embedding is turned by `angle_deg` from the first person's."""
    face = Face(np.array([x, 0, x + 100, 110], np.float32), LANDMARKS + np.array([x, 0], np.float32), 0.9)
    turned = math.radians(angle_deg)
    embedding = Embedding(np.array([math.cos(turned), math.sin(turned)], np.float32), "flat")
    return Shot("reel", face, np.zeros((112, 112, 3), np.uint8), replace(GOOD, **quality), embedding)


def guide(own: tuple[Embedding, ...] = (), **more) -> Guide:
    enroll = EnrollOptions(same_person_floor=0.5)
    collection = Collection("Ada", enroll, own)
    collection.choose("camera")
    return Guide(collection, enroll, **more)


def shown(one: Guide, what: Shot | Refusal | None, start_s: float, count: int = 2) -> str:
    """Show the same look a few times, 0.1 s apart; the last advice."""
    for step in range(count):
        advice = one.consider(what, start_s + step / 10)
    return advice.text


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (Refusal("no-face", "x"), "Step into the picture"),
        (Refusal("several-faces", "x"), "Two people in view"),
        (look(face_px=30), "Come closer"),
        (look(brightness=20), "More light"),
        (look(brightness=240), "Less light"),
        (look(clipped=0.6), "Softer light"),
        (look(sharpness=0.05), "Hold still"),
        (look(yaw=1.4), "towards the camera"),
        (look(roll_deg=60), "straight"),
        (None, "Waiting"),
    ],
)
def test_it_says_what_it_needs(what: Shot | Refusal | None, words: str) -> None:
    one = guide()
    assert words in shown(one, what, 0.0)
    assert one.shots == ()


def test_a_moving_face_is_told_to_hold_still() -> None:
    one = guide()
    for step in range(10):
        advice = one.consider(look(x=40.0 * step), step / 10)
        assert advice.text == "Hold still"
    assert one.shots == ()


def test_shots_are_taken_by_themselves_one_for_each_side() -> None:
    one = guide()
    assert "turn" in shown(one, look(), 0.0).lower() and len(one.shots) == 1
    assert "to your left" in shown(one, look(), 1.0) and len(one.shots) == 1
    assert "to your right" in shown(one, look(yaw=0.4), 2.0) and len(one.shots) == 2
    assert "enough" in shown(one, look(yaw=-0.4), 3.0) and len(one.shots) == 3
    assert one.enough and one.missing == ()
    shown(one, look(yaw=-0.4), 9.0, 50)
    assert len(one.shots) == 3


def test_two_shots_are_not_taken_in_one_breath() -> None:
    one = guide()
    shown(one, look(), 0.0)
    one.consider(look(yaw=0.4), 0.3)
    one.consider(look(yaw=0.4), 0.4)
    assert len(one.shots) == 1


def test_who_cannot_turn_gets_a_second_shot_after_a_while_and_no_third() -> None:
    one = guide()
    shown(one, look(), 0.0)
    shown(one, look(), 1.0, 20)
    assert len(one.shots) == 1
    shown(one, look(), 3.0, 120)
    assert len(one.shots) == 2


def test_somebody_else_who_steps_in_is_not_taken() -> None:
    one = guide()
    shown(one, look(0), 0.0)
    assert "somebody else" in shown(one, look(80, yaw=0.4), 2.0)
    assert len(one.shots) == 1
    shown(one, look(20, yaw=0.4), 4.0)
    assert len(one.shots) == 2


def test_a_change_of_person_discards_all_shots_and_says_so() -> None:
    one = guide()
    shown(one, look(0), 0.0)
    shown(one, look(10, yaw=0.4), 2.0)
    assert len(one.shots) == 2
    advices = [one.consider(look(80, yaw=0.4), 4.0 + step / 10) for step in range(4)]
    [told] = [advice for advice in advices if advice.discarded]
    assert told.discarded == 2 and "Somebody else came: the 2 shots of Ada were discarded" in told.text
    assert all(shot.embedding.similarity(look(80).embedding) > 0.9 for shot in one.shots)


def test_one_odd_look_is_no_change_of_person() -> None:
    one = guide()
    shown(one, look(0), 0.0)
    for start_s in (2.0, 3.0, 4.0):
        advice = [one.consider(what, start_s + step / 10) for step, what in enumerate((look(0), look(80), look(0)))]
        assert not any(each.discarded for each in advice)
    assert len(one.shots) >= 1


def test_whoever_is_not_the_one_enrolled_is_not_taken_for_more_shots() -> None:
    one = guide(own=(look(0).embedding,))
    assert "does not look like Ada" in shown(one, look(80), 0.0, 5)
    assert one.shots == ()
    shown(one, look(20), 2.0)
    assert len(one.shots) == 1


def test_a_lookalike_is_told_with_every_good_look() -> None:
    one = guide(resembles=lambda embedding: "like Eve" if embedding.vector[0] > 0.9 else "")
    one.consider(look(), 0.0)
    assert one.consider(look(), 0.1).warning == "like Eve"
    assert one.consider(look(), 0.2).warning == "like Eve"


def test_a_dropped_view_is_asked_for_again() -> None:
    one = guide()
    shown(one, look(), 0.0)
    shown(one, look(yaw=0.4), 2.0)
    one._collection.drop(0)
    assert one.missing == ("front", "right")
    shown(one, look(), 4.0)
    assert len(one.shots) == 2


def test_views_that_are_enrolled_already_are_not_asked_for() -> None:
    one = guide(earlier=[GOOD, replace(GOOD, yaw=0.3)])
    assert one.missing == ("right",)
    shown(one, look(yaw=-0.4), 0.0)
    assert one.enough


def test_it_never_takes_more_than_it_may() -> None:
    one = guide(options=GuideOptions(most_shots=2))
    shown(one, look(), 0.0)
    shown(one, look(yaw=0.4), 2.0)
    shown(one, look(yaw=-0.4), 4.0)
    assert len(one.shots) == 2 and one.enough


def test_left_is_the_persons_own_left() -> None:
    # Turning to your left moves your nose to the right of the picture, which is a positive yaw.
    assert [view_of(replace(GOOD, yaw=yaw)) for yaw in (0.0, 0.3, -0.3)] == ["front", "left", "right"]
    assert missing_views([]) == ("front", "left", "right")


def template(yaw: float) -> Template:
    return Template(look().embedding, replace(GOOD, yaw=yaw), "reel", 0.0)


def test_the_two_worst_facts() -> None:
    alone = Profile("Ada", (template(0.0),), (None,), None, 0.4)
    near, missing = worst_facts(alone)
    assert "No other person" in near
    assert "turned to their left, and no shot is turned to their right" in missing
    full = Profile("Ada", (template(0), template(0.3), template(-0.3)), (None,) * 3, ("Eve", 0.41), 0.4)
    near, missing = worst_facts(full)
    assert "Eve" in near and "SO NEAR" in near and "All three" in missing
    assert "watch for mix-ups" in worst_facts(replace(full, nearest=("Eve", 0.35)))[0]
    assert "far enough" in worst_facts(replace(full, nearest=("Eve", 0.1)))[0]


def update(number: int, picture: bool = True, source: str = "reel") -> Update:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), number, number / 10)
    return Update(
        seen=Seen(frame, (), {}) if picture else None,
        tracks=(),
        events=(LiveEvent("appeared", float(number), number),),
        status=CameraStatus(CameraState.LIVE, ""),
        source=source,
        fps=0.0,
        people=number,
        rule=MatchRule(0.4, 0.05, 0.01, 0.01, ""),
        paused=False,
        shot=None,
        trouble="",
    )


def test_stale_pictures_are_replaced_and_events_are_kept() -> None:
    told: list[News] = []
    inbox = Inbox(told.append)
    for number in range(5):
        inbox.put(update(number))
    assert len(told) == 1
    taken = inbox.take()
    assert taken.seen.frame.index == 4
    assert [event.track for event in taken.events] == [0, 1, 2, 3, 4]
    assert inbox.replaced == 4
    assert inbox.take() is None
    inbox.put(update(5))
    assert len(told) == 2


def test_news_without_a_picture_does_not_lose_the_picture_before() -> None:
    inbox = Inbox(lambda _: None)
    inbox.put(update(1))
    inbox.put(update(2, picture=False))
    taken = inbox.take()
    assert taken.seen.frame.index == 1 and taken.people == 2
    inbox.put(update(3))
    inbox.put(update(4, picture=False, source="another"))
    assert inbox.take().seen is None


def test_the_inbox_is_bounded_and_takes_nothing_once_closed() -> None:
    inbox = Inbox(lambda _: None)
    for number in range(2 * MOST_EVENTS):
        inbox.put(update(number))
    assert len(inbox.take().events) == MOST_EVENTS
    inbox.close()
    inbox.put(update(1))
    assert inbox.take() is None


def test_any_number_of_news_is_one() -> None:
    assert News().can_replace(News())


def test_operating_points_fall_to_the_right() -> None:
    points = [OperatingPoint(10.0**-power, 0.2 + power / 10, 1000) for power in (1, 2, 3)]
    drawn = operating_plot(points, 0.4, width=21, height=5).plain.splitlines()
    columns = [line.index("○") for line in drawn if "○" in line and "template" not in line]
    assert len(columns) == 3 and columns == sorted(set(columns))
    assert "1 in 10 " in drawn[1] and "1 in 1,000" in drawn[5]
    assert "no operating points" in operating_plot([], None).plain
