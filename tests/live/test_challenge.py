"""What a challenge takes for an answer, by made-up heads and pictures: no network here."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from edge_app.live.challenge import Challenge, ChallengeOptions, Movement, Progress, Sight
from tests.liveness.heads import Pose, rotation

FPS = 10.0
_rng = np.random.default_rng(3)
HEAD = _rng.normal(size=(468, 3)) * [40, 60, 30]
"""Points in space; how they lie does not matter to what is tested."""
EYES_PX = 60.0

Answer = Callable[[float, Progress], Pose]
"""The pose at a time, after what was asked."""


def sight(time_s: float, pose: Pose, *, flat: bool = False, **more: object) -> Sight:
    """A head in a pose, or a picture of it that is turned as the head would be."""
    points = HEAD * [1, 1, 0] if flat else HEAD
    turned = points @ rotation(pose).T * pose.scale
    if flat:  # the network that finds the surface gives a flat picture the depth of a face, turned by a tenth
        turned[:, 2] = (HEAD @ rotation(replace(pose, yaw_deg=pose.yaw_deg / 10, pitch_deg=pose.pitch_deg / 10)).T)[
            :, 2
        ]
    found = Sight(time_s, 1, True, turned.astype(np.float32) + np.float32(100), EYES_PX)
    return replace(found, **more)  # type: ignore[arg-type]


def towards(movement: Movement, share: float = 1.0) -> Pose:
    """A movement's end."""
    return {
        Movement.LEFT: Pose(yaw_deg=25 * share),
        Movement.RIGHT: Pose(yaw_deg=-25 * share),
        Movement.UP: Pose(pitch_deg=-20 * share),
        Movement.DOWN: Pose(pitch_deg=20 * share),
        Movement.CLOSER: Pose(scale=1 + 0.4 * share),
    }[movement]


class Obeys:
    """Does what is asked, some time after it was asked, and looks ahead again when it is answered."""

    def __init__(self, after_s: float = 0.5, instead: dict[Movement, Movement] | None = None) -> None:
        self.after_s, self.instead = after_s, instead or {}

    def __call__(self, time_s: float, progress: Progress) -> Pose:
        if progress.asked is None:
            return Pose()
        share = min(1.0, max(0.0, (time_s - progress.steps[-1].asked_s - self.after_s) / 0.4))
        return towards(self.instead.get(progress.asked, progress.asked), share)


Change = Callable[[Sight, Progress], Sight]


def run(
    answer: Answer,
    *,
    seed: int = 0,
    fps: float = FPS,
    change: Change = lambda seen, _: seen,
    options: ChallengeOptions | None = None,
    flat: bool = False,
    **more: object,
) -> tuple[Challenge, Progress]:
    """Play a challenge to its end."""
    challenge = Challenge(options or ChallengeOptions(), random.Random(seed), **more)  # type: ignore[arg-type]
    for index in range(int(20 * fps)):
        time_s = index / fps
        seen = sight(time_s, answer(time_s, challenge.progress), flat=flat)
        progress = challenge.see(change(seen, challenge.progress))
        if progress.outcome != "waiting":
            return challenge, progress
    return challenge, challenge.progress


@pytest.mark.parametrize("fps", [3.0, 10.0, 30.0])
@pytest.mark.parametrize("seed", range(8))
def test_a_head_that_does_what_is_asked_passes(seed, fps):
    _, progress = run(Obeys(), seed=seed, fps=fps)
    assert progress.outcome == "passed", progress.reason
    assert progress.ended_s - progress.began_s < 10
    assert all(step.answered_s > step.asked_s + 0.15 for step in progress.steps)


def test_what_is_asked_is_drawn_anew_and_left_is_the_persons_own():
    asked = {tuple(step.movement for step in run(Obeys(), seed=seed)[1].steps) for seed in range(40)}
    assert len(asked) > 15
    assert {Movement.CLOSER} < set().union(*asked)
    assert all(len(set(steps) - {Movement.CLOSER}) == 2 for steps in asked)
    nose = np.array([0.0, 0.0, -1.0])
    assert (rotation(towards(Movement.LEFT)) @ nose)[0] > 0  # to the right of a picture that is not mirrored


@pytest.mark.parametrize("seed", range(12))
def test_a_flat_picture_that_is_turned_does_not(seed):
    _, progress = run(Obeys(), seed=seed, flat=True)
    assert progress.outcome in ("not live", "no answer")


def test_a_picture_that_is_tilted_far_is_told_as_one():
    def tilted(time_s: float, progress: Progress) -> Pose:
        share = 0.0 if progress.asked is None else min(1.0, (time_s - progress.steps[-1].asked_s) / 0.8)
        return Pose(yaw_deg=45 * share)

    _, progress = run(tilted, seed=1, flat=True)
    assert (progress.outcome, progress.reason) == ("not live", "moved as a flat picture does")


def test_the_other_way_is_a_wrong_answer_and_a_mirrored_camera_is_guessed():
    swapped = {Movement.LEFT: Movement.RIGHT, Movement.RIGHT: Movement.LEFT}
    told = [run(Obeys(instead=swapped), seed=seed)[1] for seed in range(8)]
    wrong = [one for one in told if one.outcome == "not live"]
    assert wrong and all("does the camera mirror?" in one.reason for one in wrong)
    mirrored = ChallengeOptions(mirrored=True)
    assert {run(Obeys(instead=swapped), seed=seed, options=mirrored)[1].outcome for seed in range(8)} == {"passed"}


@pytest.mark.parametrize(("after_s", "outcome", "reason"), [
    (-0.35, "not live", "before anybody could have answered"),
    (4.0, "no answer", "no answer to"),
])  # fmt: skip
def test_an_answer_that_comes_at_once_or_late_is_none(after_s, outcome, reason):
    _, progress = run(Obeys(after_s), fps=30.0)
    assert progress.outcome == outcome and reason in progress.reason


def test_a_movement_that_nobody_asked_for_is_a_recording():
    def early(time_s: float, progress: Progress) -> Pose:
        return Pose(yaw_deg=25) if progress.began_s is not None and time_s - progress.began_s > 0.5 else Pose()

    options = ChallengeOptions(pause_s=(1.0, 1.0))
    _, progress = run(early, options=options)
    assert progress.outcome == "not live" and "before it was asked" in progress.reason


@pytest.mark.parametrize(("change", "reason"), [
    (lambda seen: replace(seen, track=2), "another face was there"),
    (lambda seen: replace(seen, track=None), "was gone"),
    (lambda seen: replace(seen, others=1), "somebody else"),
    (lambda seen: replace(seen, named=False), "stopped looking like"),
])  # fmt: skip
def test_whoever_is_there_must_be_the_same_person_and_alone_throughout(change, reason):
    after_the_first = lambda seen, progress: change(seen) if any(s.answered_s for s in progress.steps) else seen  # noqa: E731
    _, progress = run(Obeys(), change=after_the_first)
    assert progress.outcome == "not live" and reason in progress.reason


def test_somebody_who_passes_by_ends_nothing_and_nothing_is_asked_before_one_is_alone():
    _, passed_by = run(
        Obeys(), fps=30.0, change=lambda seen, _: replace(seen, others=1) if int(seen.time_s * 30) % 40 < 6 else seen
    )
    assert passed_by.outcome == "passed"
    beside = lambda seen, _: replace(seen, others=1) if seen.time_s < 3 else seen  # noqa: E731
    _, later_alone = run(Obeys(), change=beside)
    assert later_alone.outcome == "passed" and later_alone.steps[0].asked_s > 3.3
    _, never = run(Obeys(), change=lambda seen, _: replace(seen, others=1))
    assert never.outcome == "waiting" and not never.steps
    assert "be alone" in never.prompt and "somebody else" in never.reason


def test_no_answer_counts_while_somebody_else_is_there():
    flashes = lambda seen, progress: replace(seen, others=int(seen.time_s * 10) % 2) if progress.asked else seen  # noqa: E731
    _, progress = run(Obeys(), change=flashes)
    assert progress.outcome == "passed"
    assert all(int(step.answered_s * 10) % 2 == 0 for step in progress.steps)


def test_nothing_is_asked_while_the_head_moves():
    def drifting(time_s: float, progress: Progress) -> Pose:
        begun = progress.began_s is not None and "hold still" in progress.prompt and time_s > 0.6
        return Pose(yaw_deg=5 * (int(time_s * 10) % 2)) if begun else Pose()

    _, progress = run(drifting)
    assert progress.outcome == "waiting" and not progress.steps
    _, calm = run(drifting, options=ChallengeOptions(calm_deg=6.0))
    assert calm.steps


@pytest.mark.parametrize(("axis", "turns"), [
    (0, {Movement.LEFT, Movement.RIGHT}), (1, {Movement.UP, Movement.DOWN}),
])  # fmt: skip
def test_a_face_that_gets_narrow_or_short_as_it_turns_answers_nothing(axis, turns):
    def squeezed(seen: Sight, progress: Progress) -> Sight:
        share = np.ones(3, np.float32)
        share[axis] = 0.88 if progress.asked in turns else 1.0
        return replace(seen, points=(seen.points - 100) * share + 100)

    ended = [run(Obeys(), seed=seed, change=squeezed)[1] for seed in range(8)]
    touched = [bool({step.movement for step in one.steps} & turns) for one in ended]
    assert any(touched)
    assert [one.outcome for one in ended] == ["no answer" if each else "passed" for each in touched]
    loose = ChallengeOptions(least_breadth=0.8, least_height=0.8)
    assert {run(Obeys(), seed=seed, change=squeezed, options=loose)[1].outcome for seed in range(8)} == {"passed"}


def test_nothing_is_asked_while_somebody_else_flashes_by():
    def flashes(seen: Sight, progress: Progress) -> Sight:
        later = bool(progress.steps) and "hold still" in progress.prompt
        return replace(seen, others=int(later and int(seen.time_s * 10) % 2))

    _, progress = run(Obeys(), change=flashes)
    assert progress.outcome == "passed"
    assert all(round(step.asked_s * 10) % 2 == 0 for step in progress.steps[1:])


def test_a_head_whose_surface_is_not_found_for_a_while_is_still_the_persons():
    blind = lambda seen, progress: replace(seen, points=None) if progress.asked else seen  # noqa: E731
    _, progress = run(Obeys(), change=blind)
    assert progress.outcome == "no answer"


def test_a_face_that_is_missed_for_a_moment_is_forgiven():
    _, progress = run(
        Obeys(), fps=30.0, change=lambda seen, _: replace(seen, track=None) if int(seen.time_s * 30) % 9 < 3 else seen
    )
    assert progress.outcome == "passed"


def test_a_turned_face_of_somebody_else_answers_nothing():
    strange = lambda seen, _: replace(seen, similarity=lambda: 0.1)  # noqa: E731
    _, progress = run(Obeys(), change=strange, similar_from=0.3)
    assert progress.outcome == "no answer"


def test_nothing_is_asked_of_somebody_without_the_name_or_who_does_not_hold_still():
    _, progress = run(Obeys(), change=lambda seen, _: replace(seen, named=False))
    assert progress.outcome == "waiting" and progress.began_s is None
    shaken: Iterator[float] = iter(np.tile([0.0, 9.0, 0.0, -9.0], 100))
    _, progress = run(lambda time_s, _: Pose(yaw_deg=next(shaken)))
    assert progress.outcome == "waiting" and not progress.steps


def test_somebody_who_does_not_turn_far_enough_gives_no_answer_and_it_says_how_far():
    def shy(time_s: float, progress: Progress) -> Pose:
        late = progress.asked is not None and time_s > progress.steps[-1].asked_s + 0.5
        return towards(progress.asked, 0.5) if late and progress.asked else Pose()

    _, progress = run(shy)
    assert progress.outcome == "no answer" and 0.4 < progress.steps[-1].reached < 1


def test_an_outcome_stays():
    challenge, progress = run(Obeys())
    assert progress.outcome == "passed"
    assert challenge.see(sight(99.0, Pose(), others=3)).outcome == "passed"


def test_a_script_asks_the_same_again_at_the_same_times():
    _, first = run(Obeys(), seed=5)
    script = [(step.asked_s, step.movement) for step in first.steps]
    _, again = run(Obeys(), seed=6, script=script)
    assert [(s.asked_s, s.movement) for s in again.steps] == script and again.outcome == "passed"
