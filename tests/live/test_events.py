"""Events from answers that are written down here, for tracks and for areas."""

from edge_app.live.events import Events
from edge_app.recognition.smoothing import SteadyAnswer


def answer(name, number=1, first_s=0.0, last_s=0.0, **changes):
    return SteadyAnswer(number, first_s, last_s, name, 0.7, **changes)


def told(events):
    return [(one.event, one.time_s, one.track, one.name, one.similarity, one.duration_s) for one in events]


def of_areas():
    return Events(arrivals=False, hold_s=Events.HOLD_S)


def test_an_area_that_nothing_was_told_of_does_not_leave():
    events = of_areas()
    assert events.update(0.0, [answer("mug")]) == ()
    assert events.update(0.1, []) == ()


def test_the_whole_picture_never_leaves():
    events = of_areas()
    events.update(0.0, [answer("mug", None)])
    assert told(events.update(0.3, [answer("mug", None)])) == [("recognized", 0.3, None, "mug", 0.7, 0.3)]
    assert events.finish(0.4) == ()


def test_a_change_must_stand_between_near_frames_and_stands_at_once_between_far_ones():
    near = of_areas()
    near.update(0.0, [answer("mug")])
    assert near.update(0.15, [answer("cup")]) == ()
    assert near.update(0.3, [answer("cup")]) == ()
    assert told(near.update(0.4, [answer("cup")])) == [("recognized", 0.4, 1, "cup", 0.7, 0.4)]
    far = of_areas()
    far.update(0.0, [answer("mug")])
    assert told(far.update(1.0, [answer("cup")])) == [("recognized", 1.0, 1, "cup", 0.7, 1.0)]


def test_what_was_about_to_be_told_is_told_at_the_end():
    events = of_areas()
    events.update(0.0, [answer("red", last_s=0.0)])
    assert told(events.finish(0.1)) == [("recognized", 0.1, 1, "red", 0.7, 0.1), ("left", 0.1, 1, "red", 0.7, 0.0)]
    assert events.finish(0.2) == ()


def test_a_track_that_turns_out_to_be_a_known_stranger_leaves_without_a_name():
    events = Events()
    assert told(events.update(0.0, [answer(None, decided=False)])) == [("appeared", 0.0, 1, None, None, None)]
    assert told(events.update(0.1, [answer("Ada")])) == [("recognized", 0.1, 1, "Ada", 0.7, 0.1)]
    assert events.update(0.2, [answer(None, last_s=0.2, ignored=True)]) == ()
    assert told(events.update(0.3, [])) == [("left", 0.3, 1, None, 0.7, 0.2)]


def test_nobody_hears_of_a_known_stranger_and_a_doubted_name_is_not_told_again():
    events = Events()
    assert events.update(0.0, [answer(None, ignored=True)]) == ()
    assert len(events.update(0.1, [answer("Ada", 2)])) == 2
    assert events.update(0.2, [answer(None, 2, decided=False)]) == ()
    assert events.update(0.3, [answer("Ada", 2)]) == ()
    assert events.update(0.4, [answer(None, 2, last_s=0.4, decided=False)]) == ()
    assert told(events.finish(0.5)) == [("left", 0.5, 2, None, None, 0.4)]
