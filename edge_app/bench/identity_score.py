"""Identity over time against a known truth: IDF1, switches, wrong names, and how fast names come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from edge_app.bench.clips import Clip, Present
from edge_app.core.errors import EdgeError
from edge_app.inference.geometry import box_iou

SAME_IOU: Final = 0.3
_HIDDEN: Final = 0.3
"""A face of which less is visible may be found or not: nothing is counted for it."""
_APPEARED: Final = 0.75
"""Share of a face that must be visible for its visit to have begun."""
SOON_S: Final = 0.4
SOON_FRAMES: Final = 2


@dataclass(frozen=True, slots=True)
class Said:
    """What a contestant says of one face."""

    box: tuple[float, float, float, float]
    name: str | None
    track: int


@dataclass(slots=True)
class IdentityScore:
    """What went right and wrong over some clips."""

    seconds: float = 0.0
    faces: int = 0
    """Faces to be seen, over all frames."""
    found: int = 0
    false_boxes: int = 0
    """Boxes where nobody is, or a second one on somebody."""
    wrong_name_s: float = 0.0
    """Seconds that a face bore another's name; several in one frame count each."""
    wrong_stranger_s: float = 0.0
    """The part of it on strangers."""
    twice_s: float = 0.0
    """Seconds that one name stood on two boxes."""
    name_after_s: list[float] = field(default_factory=list)
    """Of each visit of somebody enrolled: seconds from its first frame to the right name."""
    never_named: int = 0
    """Visits of somebody enrolled that ended without the name."""
    old_name_frames: list[int] = field(default_factory=list)
    """After each cut: frames until no name of before is left on somebody else."""
    name_after_cut_s: list[float] = field(default_factory=list)
    """As `name_after_s`, of those who are there right after a cut; inf where never."""
    stranger_visits: int = 0
    strangers_named: int = 0
    events: list[Any] = field(default_factory=list)
    """motmetrics' accumulators: tracks, identities."""

    def as_dict(self) -> dict[str, Any]:
        """The figures, rounded."""
        minutes = max(self.seconds, 1e-9) / 60
        named = len(self.name_after_s)
        soon = [s for s in self.name_after_cut_s if s <= SOON_S + 1e-6]
        return {
            "minutes": round(minutes, 2),
            "wrong_name_s_per_min": round(self.wrong_name_s / minutes, 3),
            "of_that_on_strangers": round(self.wrong_stranger_s / minutes, 3),
            "one_name_twice_s_per_min": round(self.twice_s / minutes, 3),
            "faces": self.faces,
            "found_share": round(self.found / max(1, self.faces), 4),
            "false_boxes": self.false_boxes,
            "visits_of_known": named + self.never_named,
            "never_named": self.never_named,
            "name_after_s": _quantiles(self.name_after_s),
            "cuts": len(self.old_name_frames),
            "old_name_gone_within_2_frames": _share(
                sum(n <= SOON_FRAMES for n in self.old_name_frames), self.old_name_frames
            ),
            "old_name_frames_worst": max(self.old_name_frames, default=0),
            "known_after_cuts": len(self.name_after_cut_s),
            "new_name_within_0.4_s": _share(len(soon), self.name_after_cut_s),
            "new_name_after_cut_s": _quantiles([s for s in self.name_after_cut_s if np.isfinite(s)]),
            "stranger_visits": self.stranger_visits,
            "strangers_named": self.strangers_named,
        } | _mot(self.events)


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"{q}%": round(float(np.percentile(values, q)), 3) for q in (50, 90, 95)}


def _share(part: int, whole: Sequence[object]) -> float | None:
    return round(part / len(whole), 4) if whole else None


def add_clip(
    score: IdentityScore, clip: Clip, truth: Sequence[Sequence[Present]], said: Sequence[Sequence[Said]]
) -> None:
    """Add a contestant's answers, frame by frame, to its score."""
    step_s = 1 / clip.fps
    starts = [round(cut_s * clip.fps) for cut_s in clip.cuts_s]
    score.seconds += len(truth) * step_s
    tracks, identities = _accumulator(), _accumulator()
    begun: dict[int, int] = {}
    right: dict[int, int] = {}
    wronged: set[int] = set()
    visits: dict[int, Present] = {}
    numbers: dict[object, int] = {}
    stale = dict.fromkeys(starts, 0)
    names_before: set[str] = set()
    last_start = 0
    for index, (present, answers) in enumerate(zip(truth, said, strict=True)):
        if index in stale:
            names_before = {one.name for one in said[index - 1] if one.name is not None}
            last_start = index
        for one in present:
            visits[one.visit] = one
            if one.visible >= _APPEARED:
                begun.setdefault(one.visit, index)
        of = _assign(present, answers)
        visible = [one for one in present if one.visible >= _HIDDEN]
        score.faces += len(visible)
        names = [one.name for one in answers if one.name is not None]
        score.twice_s += step_s * (len(names) - len(set(names)))
        taken = set()
        for number, answer in enumerate(answers):
            owner = of.get(number)
            if owner is None:
                score.false_boxes += not _near(answer, present)
                wrong = answer.name is not None and not any(
                    one.name == answer.name and _overlap(one, answer) > 0.05 for one in present
                )
                score.wrong_name_s += step_s * wrong
                continue
            taken.add(owner.visit)
            if answer.name is not None and answer.name != owner.name:
                score.wrong_name_s += step_s
                score.wrong_stranger_s += step_s * (owner.name is None)
                wronged.add(owner.visit)
            elif answer.name is not None and owner.visit in begun:
                right.setdefault(owner.visit, index)
        score.found += sum(one.visit in taken for one in visible)
        if last_start and (last_start == index or stale[last_start] == index - last_start):
            here = {one.name for one in present}
            stale[last_start] += any(name in names_before and name not in here for name in names)
        _frame(tracks, identities, visible, present, answers, numbers)
    score.events += [tracks, identities]
    for visit, one in visits.items():
        if visit not in begun:
            continue
        if one.name is None:
            score.stranger_visits += 1
            score.strangers_named += visit in wronged
            continue
        took_s = (right[visit] - begun[visit]) * step_s if visit in right else float("inf")
        if visit in right:
            score.name_after_s.append(took_s)
        else:
            score.never_named += 1
        if begun[visit] in stale:
            score.name_after_cut_s.append(took_s)
    score.old_name_frames += [stale[start] for start in starts]


def named_by(
    clip: Clip, truth: Sequence[Sequence[Present]], said: Sequence[Sequence[Said]], seconds: Sequence[float]
) -> list[tuple[int, int]]:
    """Of the strangers' visits in a clip: for each length in `seconds` how many there are, and how many were named.

    A visit that lasts longer counts with its first part.
    """
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    named: dict[int, float] = {}
    for index, (present, answers) in enumerate(zip(truth, said, strict=True)):
        time_s = index / clip.fps
        for one in present:
            if one.name is None:
                first.setdefault(one.visit, time_s)
                last[one.visit] = time_s
        for number, owner in _assign(present, answers).items():
            if owner.name is None and answers[number].name is not None:
                named.setdefault(owner.visit, time_s)
    table = []
    for length_s in seconds:
        long_enough = [v for v in first if last[v] - first[v] >= length_s - 1.5 / clip.fps]
        table.append((len(long_enough), sum(named.get(v, 1e9) - first[v] < length_s for v in long_enough)))
    return table


def _assign(present: Sequence[Present], answers: Sequence[Said]) -> dict[int, Present]:
    """Whom each answer is about: best overlap first, each person once; those that are hidden come last."""
    if not present or not answers:
        return {}
    overlap = box_iou(
        np.array([one.box for one in answers], np.float32), np.array([one.box for one in present], np.float32)
    )
    overlap = overlap * np.array([0.5 if one.visible < 0.5 else 1.0 for one in present], np.float32)
    found: dict[int, Present] = {}
    taken: set[int] = set()
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        a, p = divmod(int(flat), len(present))
        if overlap[a, p] >= SAME_IOU / 2 and a not in found and p not in taken:
            found[a] = present[p]
            taken.add(p)
    return found


def _overlap(one: Present, answer: Said) -> float:
    return float(box_iou(np.array([one.box], np.float32), np.array([answer.box], np.float32))[0, 0])


def _near(answer: Said, present: Sequence[Present]) -> bool:
    """Whether the box is of somebody who is nearly hidden: neither right nor wrong."""
    return any(one.visible < _HIDDEN and _overlap(one, answer) > 0.1 for one in present)


# IDF1 and switches, counted by motmetrics


def _accumulator() -> Any:
    try:
        import motmetrics
    except ImportError as error:
        raise EdgeError(
            "motmetrics is not installed", expected="the extra `bench`", remedy="pip install 'edge-app[bench]'"
        ) from error
    return motmetrics.MOTAccumulator(auto_id=True)


def _frame(
    tracks: Any,
    identities: Any,
    visible: Sequence[Present],
    present: Sequence[Present],
    answers: Sequence[Said],
    numbers: dict[object, int],
) -> None:
    """One frame for both counts: track numbers against visits, names (else track numbers) against people."""
    counted = [a for a in answers if not _near(a, present)]
    distances = np.full((len(visible), len(counted)), np.nan)
    if visible and counted:
        overlap = box_iou(
            np.array([one.box for one in visible], np.float32), np.array([one.box for one in counted], np.float32)
        )
        distances = np.where(overlap >= SAME_IOU, 1 - overlap, np.nan).astype(np.float64)
    tracks.update([one.visit for one in visible], [one.track for one in counted], distances)

    def number(what: object) -> int:
        return numbers.setdefault(what, len(numbers) + 1)

    # A name that stands twice in one frame is one hypothesis too many: the second gets its track's number.
    told: list[int] = []
    for one in counted:
        mine = number(("name", one.name)) if one.name is not None else number(("track", one.track))
        told.append(mine if mine not in told else number(("again", one.track)))
    identities.update([number(("person", one.person)) for one in visible], told, distances)


def _mot(accumulators: Sequence[Any]) -> dict[str, Any]:
    import motmetrics

    found: dict[str, Any] = {}
    for what, mine in (("tracks", accumulators[0::2]), ("identities", accumulators[1::2])):
        host = motmetrics.metrics.create()
        table = host.compute_many(
            list(mine),
            metrics=["idf1", "idtp", "idfp", "idfn", "num_switches"],
            names=[str(i) for i in range(len(mine))],
            generate_overall=True,
        )
        overall: Mapping[str, Any] = table.loc["OVERALL"]
        true = float(overall["idtp"])
        spent = 2 * true + float(overall["idfp"]) + float(overall["idfn"])
        found[f"idf1_{what}"] = round(2 * true / spent, 4) if spent else None
        found[f"switches_{what}"] = int(overall["num_switches"])
    return found
