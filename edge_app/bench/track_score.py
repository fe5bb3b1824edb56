"""Scores how well people were followed in a composed clip, whose truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from edge_app.core.types import Finding
from edge_app.inference.geometry import box_iou
from edge_app.media.sample.scene import Truth

_SAME_IOU: Final = 0.3
_HIDDEN: Final = 0.3
"""A face of which less is visible may be found or not: nothing is counted for it."""


@dataclass(slots=True)
class TrackScore:
    """What went right and wrong in one clip."""

    appear_visible: float = 0.75
    """Share of the face box that must be visible for a person to have appeared."""
    away_frames: int = 20
    """A person out of sight for longer comes back as a new appearance."""
    faces: int = 0
    """Faces that were to be seen, over all frames."""
    found: int = 0
    """Of those, found."""
    identity_switches: int = 0
    """Times a person's track number changed while they were there, or a track went over to another person."""
    wrong_names: int = 0
    """Findings under somebody else's name."""
    flickers: int = 0
    """Times a name that had been given was lost or changed while the person was there."""
    frames_to_name: list[int] = field(default_factory=list)
    """For each appearance of somebody known: frames until the right name, both counted."""
    never_named: int = 0
    """Appearances of somebody known that ended without the name."""
    false_faces: int = 0
    """Findings where nobody is."""


@dataclass(slots=True)
class _Person:
    since: int
    until: int
    known: bool
    track: int | None = None
    name: str | None = None
    named_after: int | None = None


def score(
    frames: Iterable[tuple[Sequence[Finding], Sequence[Truth]]], *, appear_visible: float = 0.75, away_frames: int = 20
) -> TrackScore:
    """Compare each frame's findings with its truths."""
    result = TrackScore(appear_visible, away_frames)
    here: dict[int, _Person] = {}
    owner: dict[int, int] = {}
    for index, (findings, truths) in enumerate(frames):
        seen = _assign(findings, truths)
        result.false_faces += sum(
            truth is None and not _touches(finding, truths) for finding, truth in zip(findings, seen, strict=True)
        )
        by_actor = {truth.actor: s for s, truth in zip(findings, seen, strict=True) if truth is not None}
        for truth in truths:
            _follow(result, here, truth, by_actor.get(truth.actor), index)
        for actor, finding in by_actor.items():
            if finding.track is not None:
                result.identity_switches += owner.setdefault(finding.track, actor) != actor
                owner[finding.track] = actor
    for person in here.values():
        _leave(result, person)
    return result


def _follow(result: TrackScore, here: dict[int, _Person], truth: Truth, finding: Finding | None, index: int) -> None:
    person = here.get(truth.actor)
    if truth.visible < _HIDDEN:
        return
    if person is not None and index - person.until > result.away_frames:
        _leave(result, here.pop(truth.actor))
        person = None
    if person is None:
        if truth.visible < result.appear_visible and finding is None:
            return
        person = here[truth.actor] = _Person(index, index, truth.name is not None)
    person.until = index
    result.faces += 1
    if finding is None:
        return
    result.found += 1
    name = finding.name
    result.wrong_names += name is not None and name != truth.name
    result.flickers += person.name is not None and name != person.name
    result.identity_switches += person.track is not None and finding.track != person.track
    person.track, person.name = finding.track, name
    if person.named_after is None and name is not None and name == truth.name:
        person.named_after = index - person.since + 1


def _leave(result: TrackScore, person: _Person) -> None:
    if person.named_after is not None:
        result.frames_to_name.append(person.named_after)
    elif person.known:
        result.never_named += 1


def _assign(findings: Sequence[Finding], truths: Sequence[Truth]) -> list[Truth | None]:
    """The truth of each finding: best overlap first, each truth once; those that are hidden come last."""
    assigned: list[Truth | None] = [None] * len(findings)
    if not findings or not truths:
        return assigned
    overlap = box_iou(np.stack([s.box for s in findings]), np.stack([t.box for t in truths]))
    overlap *= np.array([0.5 if t.visible < 0.5 else 1.0 for t in truths], np.float32)
    for flat in np.argsort(-overlap, axis=None):
        s, t = divmod(int(flat), len(truths))
        if overlap[s, t] >= _SAME_IOU / 2 and assigned[s] is None and truths[t] not in assigned:
            assigned[s] = truths[t]
    return assigned


def _touches(finding: Finding, truths: Sequence[Truth]) -> bool:
    return bool(truths) and float(box_iou(finding.box[None], np.stack([t.box for t in truths])).max()) > 0.1
