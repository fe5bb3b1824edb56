"""A challenge: movements asked for in random order, which a head can answer and a flat picture cannot.

What is checked: the movement happened after it was asked for and in time, in the right direction; the face moved as a
head and not as a plane; the same track carried the name; nobody else was there. No networks here: made-up sights test
every decision.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal, Self

import numpy as np

from edge_app.core.types import Float32s
from edge_app.inference.face_mesh import Points, Turn, breadth_and_height, turn_between, unlike_a_plane


class Movement(StrEnum):
    """What may be asked for; left and right are the person's own."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    CLOSER = "closer"

    @property
    def words(self) -> str:
        """The prompt."""
        return {
            Movement.LEFT: "turn your head to your left",
            Movement.RIGHT: "turn your head to your right",
            Movement.UP: "look up",
            Movement.DOWN: "look down",
            Movement.CLOSER: "come closer",
        }[self]


TURNS: Final = (Movement.LEFT, Movement.RIGHT, Movement.UP, Movement.DOWN)

Outcome = Literal["waiting", "passed", "not live", "no answer"]


@dataclass(frozen=True, slots=True)
class ChallengeOptions:
    """How much is asked, and what counts as an answer."""

    turns: int = 2
    """Turns of the head, each of which a flat picture must fail."""
    closer_share: float = 0.25
    """In how many of the challenges the person is asked to come closer as well: that shows no depth, but no recording
    knows whether it will be asked."""
    settle_s: float = 0.4
    """The head must have been still for so long before the first prompt."""
    pause_s: tuple[float, float] = (0.25, 1.25)
    """A time drawn at random between being still and the next prompt: the longer it may be, the fewer recordings move
    at a moment that fits."""
    calm_s: float = 0.3
    """No prompt comes while the head moved in the time just before it: a recording is often under way by then."""
    calm_deg: float = 4.0
    """Less than this within that time is calm: heads that were asked for nothing stay below it in 95 of 100."""
    answer_s: float = 3.5
    """A prompt must be answered within this time."""
    return_s: float = 3.0
    """The head must be back within this time."""
    reaction_s: float = 0.4
    """Nobody has understood a prompt and is `still_deg` under way sooner: what moved earlier was not an answer."""
    yaw_deg: float = 18.0
    pitch_deg: float = 13.0
    closer: float = 1.2
    """What an answer must reach: degrees to the side, up or down, and times the size."""
    still_deg: float = 6.0
    """Less than this is standing still."""
    still_scale: float = 1.08
    depth_yaw: float = 0.055
    depth_pitch: float = 0.04
    """How unlike a plane a turned face must be, RMS in eye distances (`unlike_a_plane`). Of pairs of photographs of one
    person (half of lfw_dev's people) 99 in 100 have more: 0.061 at 15 to 20 degrees to the side, 0.052 up or down. Of
    prints turned as far as they could be read 95 in 100 have less: 0.027 flat, 0.035 bent over up to 100 degrees."""
    least_breadth: float = 0.94
    """What a face turned to the side must keep of its breadth against its height (`breadth_and_height`): a folded print
    must be turned so far that it gets narrow. 1 of 227 turned heads has less, and 15 of the 38 folded prints that have
    depth enough (40 of lfw_dev's people, rendered); of pairs of photographs of one person 16 of 362."""
    least_height: float = 0.92
    """What a face turned up or down must keep of its height: 5 of 215 heads have less, 101 of 146 folded prints."""
    unnamed_s: float = 1.5
    """How long the name may be off the face while it moves."""
    gap_s: float = 0.6
    """Without the face for longer than this, anything may have been exchanged."""
    company_s: float = 0.3
    """Somebody else must be seen for so long to end a challenge; no prompt is given and no answer counts meanwhile."""
    mirrored: bool = False
    """Whether the camera delivers mirrored pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What one frame shows of the person who is to be verified."""

    time_s: float
    track: int | None
    """Number of the person's track; None where nobody is named yet, or the person is not in the frame."""
    named: bool = False
    """Whether the track carries the name now."""
    points: Float32s | None = None
    """(468, 3) surface of the face."""
    eye_distance_px: float = 1.0
    others: int = 0
    """Other faces at least half as large."""
    similarity: Callable[[], float] | None = None
    """Measures how near this very frame's face is to the person enrolled; asked for turned faces only."""


@dataclass(frozen=True, slots=True)
class Step:
    """One movement and what became of it."""

    movement: Movement
    asked_s: float
    answered_s: float | None = None
    reached: float = 0.0
    """How much of the movement was made at most before it was answered; 1 is enough."""
    depth: float = 0.0
    """How unlike a plane the face was then, in eye distances."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a challenge stands; a value that other threads may read."""

    outcome: Outcome = "waiting"
    prompt: str = "look at the camera"
    """What to tell the person now."""
    asked: Movement | None = None
    reason: str = ""
    """Why it was not passed, or cannot go on."""
    steps: tuple[Step, ...] = ()
    began_s: float | None = None
    """Time of the first frame with the person's name."""
    ended_s: float | None = None


@dataclass(slots=True)
class _Baseline:
    """The face looking ahead."""

    points: Points
    eye_distance_px: float

    @classmethod
    def of(cls, sights: Sequence[Sight]) -> Self:
        """The mean of several looks, wherever in the picture the face was."""
        looks = [np.asarray(one.points, np.float64) for one in sights]
        centred = np.mean([look - look.mean(axis=0) for look in looks], axis=0)
        return cls(centred, float(np.mean([one.eye_distance_px for one in sights])))


@dataclass(slots=True, eq=False)
class Challenge:
    """Takes sights in order of time, and asks. Ends with an outcome that does not change any more."""

    options: ChallengeOptions = field(default_factory=ChallengeOptions)
    draw: random.Random = field(default_factory=random.SystemRandom)
    script: Sequence[tuple[float, Movement]] | None = None
    """Prompts and the times when they were given, of a recorded challenge; None: drawn at random."""
    similar_from: float = -1.0
    """The least similarity to the person enrolled at which a turned face still counts as theirs."""
    progress: Progress = field(default_factory=Progress, init=False)
    _movements: list[Movement] = field(default_factory=list, init=False)
    _stage: Literal["settle", "pause", "answer", "return"] = field(default="settle", init=False)
    _since_s: float = field(default=0.0, init=False)
    _pause_s: float = field(default=0.0, init=False)
    _track: int | None = field(default=None, init=False)
    _seen_s: float = field(default=0.0, init=False)
    _named_s: float = field(default=0.0, init=False)
    _company_s: float | None = field(default=None, init=False)
    _still: list[Sight] = field(default_factory=list, init=False)
    _ahead: _Baseline | None = field(default=None, init=False)
    _moved_s: float | None = field(default=None, init=False)
    _flat: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.script is not None:
            self._movements = [movement for _, movement in self.script]
            return
        self._movements = self.draw.sample(TURNS, self.options.turns)
        if self.draw.random() < self.options.closer_share:
            self._movements.insert(self.draw.randrange(len(self._movements) + 1), Movement.CLOSER)

    def see(self, sight: Sight) -> Progress:
        """Take in the next frame."""
        if self.progress.outcome != "waiting":
            return self.progress
        if self._track is None:
            self._wait_for(sight)
        elif fault := self._fault(sight):
            self._end("not live", fault, sight.time_s)
        elif sight.track == self._track:
            self._seen_s = sight.time_s
            self._named_s = sight.time_s if sight.named else self._named_s
            if sight.points is not None:
                self._go_on(sight, np.asarray(sight.points, np.float64))
        if self.progress.outcome == "waiting":
            self._check_time(sight.time_s)
        return self.progress

    def _wait_for(self, sight: Sight) -> None:
        if sight.track is None or not sight.named or sight.points is None:
            return
        self._track = sight.track
        self._seen_s = self._named_s = self._since_s = sight.time_s
        self._still = [sight]
        self.progress = Progress(prompt="look at the camera, and hold still", began_s=sight.time_s)

    def _fault(self, sight: Sight) -> str:
        """What no live person's challenge shows."""
        self._company_s = None if not sight.others else sight.time_s if self._company_s is None else self._company_s
        if self._company_s is not None and sight.time_s - self._company_s >= self.options.company_s and self._ahead:
            return "somebody else was in the picture"
        if sight.track is not None and sight.track != self._track:
            return "the picture changed: another face was there all at once"
        if sight.time_s - self._seen_s > self.options.gap_s and sight.track is None:
            return f"the face was gone for {sight.time_s - self._seen_s:.1f} s"
        if sight.time_s - self._named_s > self.options.unnamed_s:
            return "the face stopped looking like the person"
        return ""

    def _go_on(self, sight: Sight, points: Points) -> None:
        if self._ahead is None:
            self._settle(sight, points)
            return
        turn = turn_between(self._ahead.points, points)
        done = len(self.progress.steps)
        if self._stage == "pause":
            self._await_prompt(sight, points, turn, done)
        elif self._stage == "answer":
            self._judge(sight, points, turn)
        elif self._is_still(turn):
            self._stage, self._since_s, self._still = "pause", sight.time_s, []
            self._pause_s = self.draw.uniform(*self.options.pause_s)
            self._tell("look at the camera, and hold still")

    def _settle(self, sight: Sight, points: Points) -> None:
        """Wait until the face has looked the same way for a while, and remember that as ahead."""
        if sight.others:  # nothing was asked yet, so nothing is lost by waiting
            self._still, self._since_s = [], sight.time_s
            self._tell("be alone in the picture: somebody else is near", reason="somebody else was in the picture")
            return
        if not self._still:
            self._tell("look at the camera, and hold still")
        newest = self._still[-12:]
        still = [
            one for one in newest
            if one.points is not None and self._is_still(turn_between(np.asarray(one.points, np.float64), points))
        ]  # fmt: skip
        if len(still) < len(newest):
            newest, self._since_s = [], sight.time_s
        self._still = [*newest, sight]
        if sight.time_s - self._since_s < self.options.settle_s or len(self._still) < 3:
            return
        self._ahead = _Baseline.of(self._still)
        self._stage, self._since_s = "pause", sight.time_s
        self._pause_s = self.draw.uniform(*self.options.pause_s)

    def _await_prompt(self, sight: Sight, points: Points, turn: Turn, done: int) -> None:
        if not self._is_still(turn, 1.5):
            # Slow drift is a person who shifts; a movement that is large before it was asked for is a recording.
            if self._answers(turn) is not None:
                self._end("not live", "moved before it was asked to, as a recording does", sight.time_s)
            self._still = []
            self._since_s = sight.time_s if self.script is None else self._since_s
            return
        just = [one for one in self._still if sight.time_s - one.time_s <= self.options.calm_s] or self._still[-1:]
        self._still = [*just, sight]
        if self.script is not None:
            due = sight.time_s >= self.script[done][0]
        else:
            waited_s = sight.time_s - self._since_s
            due = waited_s >= self._pause_s and not sight.others and self._is_calm(just, points)
        if due:
            self._ahead = _Baseline.of(self._still) if self._is_still(turn) else self._ahead
            self._stage, self._since_s, self._moved_s, self._flat = "answer", sight.time_s, None, 0
            movement = self._movements[done]
            step = Step(movement, sight.time_s)
            self._tell(movement.words, movement, (*self.progress.steps, step))

    def _judge(self, sight: Sight, points: Points, turn: Turn) -> None:
        """Whether the prompt is being answered, wrongly answered, or answered by something flat."""
        options, step, ahead = self.options, self.progress.steps[-1], self._ahead
        assert ahead is not None
        if self._moved_s is None and not self._is_still(turn):
            self._moved_s = sight.time_s
            if sight.time_s - step.asked_s < options.reaction_s:
                self._end("not live", "moved before anybody could have answered, as a recording does", sight.time_s)
                return
        depth = unlike_a_plane(ahead.points, points, ahead.eye_distance_px * turn.scale)
        if self._looks_flat(ahead.points, points, turn, depth):
            self._flat += 1
            if self._flat >= 3:
                self._end("not live", "moved as a flat picture does", sight.time_s)
                return
        step = self._note_farthest(step, self._shares(turn)[step.movement], depth)
        answer = self._answers(turn)
        if answer is None:
            return
        if answer is not step.movement:
            hint = "; does the camera mirror?" if {answer, step.movement} == {Movement.LEFT, Movement.RIGHT} else ""
            self._end("not live", f"{step.movement.value} was asked for, {answer.value} was done{hint}", sight.time_s)
            return
        if not self._is_solid(answer, ahead.points, points, depth) or sight.others:
            return  # it may still turn farther; a flat picture never gets there
        if sight.similarity is not None and sight.similarity() < self.similar_from:
            return
        steps = (*self.progress.steps[:-1], replace(step, answered_s=sight.time_s, depth=depth))
        if len(steps) == len(self._movements):
            self.progress = Progress("passed", "thank you", None, "", steps, self.progress.began_s, sight.time_s)
            return
        self._stage, self._since_s = "return", sight.time_s
        self._tell("look at the camera again", None, steps)

    def _check_time(self, time_s: float) -> None:
        waited_s = time_s - self._since_s
        if self._stage == "answer" and waited_s > self.options.answer_s:
            asked = self.progress.steps[-1].movement.words
            self._end("no answer", f"no answer to {asked!r} in {waited_s:.1f} s", time_s)
        elif self._stage == "return" and waited_s > self.options.return_s:
            self._end("no answer", f"the head did not come back in {waited_s:.1f} s", time_s)

    def _is_still(self, turn: Turn, factor: float = 1.0) -> bool:
        limit = self.options.still_deg * factor
        grown = max(turn.scale, 1 / max(turn.scale, 1e-6)) - 1
        return max(abs(turn.yaw_deg), abs(turn.pitch_deg)) < limit and grown < (self.options.still_scale - 1) * factor

    def _is_calm(self, before: Sequence[Sight], points: Points) -> bool:
        """Whether the head did not move in the looks just before this one, of which there is one at least."""
        turns = [turn_between(np.asarray(one.points, np.float64), points) for one in before]
        least = self.options.calm_deg
        return bool(turns) and all(max(abs(turn.yaw_deg), abs(turn.pitch_deg)) < least for turn in turns)

    def _is_solid(self, answer: Movement, before: Points, after: Points, depth: float) -> bool:
        """Whether a face that has moved looks as a head does then. Nothing flat can be told by coming closer."""
        broad, tall = breadth_and_height(before, after)
        match answer:
            case Movement.CLOSER:
                return True
            case Movement.LEFT | Movement.RIGHT:
                return depth >= self.options.depth_yaw and broad / tall >= self.options.least_breadth
            case Movement.UP | Movement.DOWN:
                return depth >= self.options.depth_pitch and tall >= self.options.least_height

    def _shares(self, turn: Turn) -> dict[Movement, float]:
        """How much of each movement a turn is: from 1 on it is an answer."""
        options = self.options
        left = -turn.yaw_deg if options.mirrored else turn.yaw_deg
        return {
            Movement.LEFT: left / options.yaw_deg,
            Movement.RIGHT: -left / options.yaw_deg,
            Movement.UP: -turn.pitch_deg / options.pitch_deg,
            Movement.DOWN: turn.pitch_deg / options.pitch_deg,
            Movement.CLOSER: (turn.scale - 1) / (options.closer - 1),
        }

    def _answers(self, turn: Turn) -> Movement | None:
        """The movement that a turn amounts to, the one that goes farthest beyond what it needs."""
        shares = self._shares(turn)
        farthest = max(shares, key=lambda movement: shares[movement])
        return farthest if shares[farthest] >= 1 else None

    def _note_farthest(self, step: Step, share: float, depth: float) -> Step:
        """Keep how far the answer has come, for whoever asks why it was none."""
        if share <= step.reached:
            return step
        step = replace(step, reached=share, depth=depth)
        self.progress = replace(self.progress, steps=(*self.progress.steps[:-1], step))
        return step

    def _looks_flat(self, before: Points, after: Points, turn: Turn, depth: float) -> bool:
        """Whether the face was foreshortened much, and turned little: a picture that was tilted."""
        a, b = (points[:, :2] - points[:, :2].mean(axis=0) for points in (before, after))
        affine = np.linalg.lstsq(a, b, rcond=None)[0]
        wide, narrow = np.linalg.svd(affine)[1]
        turned = max(abs(turn.yaw_deg) / self.options.yaw_deg, abs(turn.pitch_deg) / self.options.pitch_deg)
        return bool(narrow / max(wide, 1e-9) < 0.87 and depth < 0.035 and turned < 0.7)

    def _tell(
        self, prompt: str, asked: Movement | None = None, steps: tuple[Step, ...] | None = None, reason: str = ""
    ) -> None:
        kept = self.progress.steps if steps is None else steps
        self.progress = Progress("waiting", prompt, asked, reason, kept, self.progress.began_s)

    def _end(self, outcome: Outcome, reason: str, time_s: float) -> None:
        self.progress = Progress(outcome, "", None, reason, self.progress.steps, self.progress.began_s, time_s)
