"""Faces across frames: when the whole picture is searched, which face is which track, and who is looked at.

A name stands on a track only while nothing speaks against it. What does speak against it (the picture under the track
changes, the face jumps or was out of sight, frames are missing, a look is unlike the others) takes the name away in
that very frame, until a look agrees again. No inference here: made-up eyes test every decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_app.core.types import Face, Finding, Float32s, Match, frozen_array
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.live.identity_vote import Agreement, Decision, DecisionOptions, Look, same_person
from edge_app.live.scene_change import likeness

TrackState = Literal["new", "known", "unknown", "lost"]

_GATE: Final = 1.2
"""Farthest that a face may be from where its track was expected, in face sizes."""
_MINGLE: Final = 0.9
"""Two faces whose centres are nearer than this many face sizes may be taken for one another."""
_SWAP_LEAD: Final = 0.11
"""How much more alike two faces must be to each other's tracks than to their own to change places, as a share of the
room between strangers and oneself."""
_INSIDE: Final = 0.6
"""Share of the smaller of two boxes that lies in the other when both are on one face."""
_EPSILON_S: Final = 1e-6


class Eyes(Protocol):
    """Detection and embedding for one frame, run only when the tracker asks."""

    def cut(self) -> bool:
        """Whether the picture shows another scene than the frame before."""

    def scan(self) -> Sequence[Face]:
        """Search the whole picture."""

    def search(self, regions: Sequence[Float32s]) -> Sequence[Face]:
        """Search around boxes (4,) x1 y1 x2 y2 where faces are expected; each face once."""

    def patches(self, faces: Sequence[Face]) -> Sequence[NDArray[np.float32]]:
        """A small picture of each face and its hair, all of one shape."""

    def look(self, faces: Sequence[Face]) -> Sequence[Look]:
        """Embed faces, one `Look` each, in order."""

    def stirred(self, boxes: Sequence[Float32s]) -> bool:
        """Whether the picture has changed since the last scan, people at `boxes` apart."""


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """How often the tracker searches, follows and embeds, and what makes it doubt a track."""

    scan_every_s: float = 0.5
    """The whole picture is searched at least this often while nobody is there."""
    followed_scan_every_s: float = 1.0
    """The same while everybody who is there is being followed and the picture does not change around them."""
    stirred_every_s: float = 0.1
    """Shortest time between two searches because the picture changed or a face was lost."""
    idle_stirred_every_s: float = 0.2
    """The same, once such searches have found nothing new several times."""
    follow_most: int = 8
    """More faces than this are searched for in the whole picture: that many small searches cost as much."""
    lost_s: float = 1.5
    """A face unseen this long has left. Frames farther apart have nothing to do with one another."""
    new_lost_s: float = 0.4
    """The same for one that was not decided yet."""
    recheck_s: float = 3.0
    """A decided track is looked at again this often."""
    unknown_recheck_s: float = 1.0
    """An unknown one, who may come nearer and turn out to be known."""
    looks_per_frame: int = 2
    """Undecided faces that are embedded in one frame."""
    doubts_per_frame: int = 6
    """Doubtful ones; the others go on without a name until their turn comes."""
    doubt_again_s: float = 0.25
    """A face that stays doubtful after several looks is looked at this often."""
    least_new_score: float = 0.6
    """A face less sure than this may go on as a track, but not begin one."""
    sure_score: float = 0.75
    """A new face less sure than this is shown when it was found again."""
    held_frames: int = 5
    """A half-hidden new face is kept back this long while somebody is out of sight: it may be that person."""
    least_strike: float = 0.1
    """A look must be worth this much to speak against a track: half a face looks like nobody."""
    least_unsure: float = 0.3
    """A look that leaves it open must be worth this much to count as a quarter of one that does speak against it."""
    jump: float = 0.5
    """A face this many face sizes from where it was expected may be another."""
    patch_likeness: float = 0.8
    """A face whose small picture correlates less with the one of the frame before may be another: at 10 fps 1.5 % of
    the steps of one face do, and all but 0.5 % of the changes from one person to another."""
    patch_unlike: float = 0.5
    """The same while a look agreed just now: a head that turns changes its picture in every frame. All but 5 % of the
    changes from one person to another leave less."""
    patch_same: float = 0.9
    """The same face is there when the picture in the box of the frame before is as alike as this."""
    agreed_s: float = 0.25
    """How long a look that agreed counts as just now."""
    gap_s: float = 0.4
    """After a longer time without a frame every face may be another."""
    decision: DecisionOptions = field(default_factory=DecisionOptions)


@dataclass(frozen=True, slots=True, eq=False)
class TrackInfo:
    """One living track."""

    number: int
    """From 1, never used twice."""
    state: TrackState
    """new: not decided yet, or doubted; lost: not seen in this frame."""
    box: Float32s
    """(4,) x1 y1 x2 y2 in frame pixels: the newest, or where a lost one is expected."""
    name: str | None
    """Kept while lost; None for new, unknown and doubted."""
    similarity: float
    """Of the averaged embedding to the nearest identity; -1 before the first look."""
    decided: bool
    """Whether it is known or unknown, lost or not."""
    first_seen_s: float
    """Frame's clock."""
    last_seen_s: float
    """Frame's clock."""
    decided_s: float | None
    """When it was first decided."""
    frames_to_decision: int | None
    """Frames from its first to that one, both counted."""
    frames: int
    """Frames in which it was seen."""
    ignored: str | None = None
    """The known stranger that it is; `name` is then None."""

    @property
    def duration_s(self) -> float:
        """How long it has been seen."""
        return self.last_seen_s - self.first_seen_s


class _Track:
    """One face on its way."""

    def __init__(self, number: int, face: Face, time_s: float, options: TrackerOptions) -> None:
        self.number = number
        self.face = face
        self.first_seen_s = self.last_seen_s = time_s
        self.frames = self.age_frames = 1
        self.decision = Decision(options.decision)
        self.decided_s: float | None = None
        self.frames_to_decision: int | None = None
        self.looked_s = -math.inf
        self.doubtful = False
        """It may be somebody else by now: nameless, and looked at until a look agrees."""
        self.changed = False
        """The reason was in the picture, not in the looks: one look that contradicts is enough."""
        self.strikes = 0.0
        self.vain_looks = 0
        """Looks since the last one that agreed."""
        self.agreed_s = -math.inf
        self.no_face = 0
        """Looks in a row at which the detector would find no face."""
        self.shown = False
        """It has been told to the outside: it stays told until it is gone."""
        self.seen = True
        self.patch: NDArray[np.float32] | None = None
        self.before = (face, time_s, 1)
        """Face, time and count of frames before the newest: where it was if that turns out to be somebody else."""
        self._velocity = np.zeros(2)

    def expected(self, time_s: float) -> Float32s:
        """Where the box should be now: straight on, but no farther than half a second's way."""
        shift = self._velocity * min(0.5, time_s - self.last_seen_s)
        return np.asarray(self.face.box + np.tile(shift, 2), np.float32)

    def move(self, face: Face, time_s: float) -> None:
        self.before = (self.face, self.last_seen_s, self.frames)
        step_s = time_s - self.last_seen_s
        if step_s > 0:
            velocity = (_centre(face.box) - _centre(self.face.box)) / step_s
            self._velocity += 0.5 * (velocity - self._velocity)
        self.face, self.last_seen_s = face, time_s
        self.frames += 1
        self.seen = True

    def doubt(self, *, changed: bool) -> None:
        """Take the name away until a look agrees; there must have been a look before."""
        if self.decision.average is not None:
            self.doubtful = True
            if changed:
                self.changed, self.vain_looks = True, 0

    def trust(self) -> None:
        self.doubtful = self.changed = False
        self.strikes, self.vain_looks = 0.0, 0

    @property
    def match(self) -> Match:
        """What is told of it."""
        match = self.decision.match
        return Match(None, match.similarity, match.margin) if self.doubtful and self.seen else match

    def info(self, time_s: float) -> TrackInfo:
        match, state = self.match, self.decision.state
        if self.doubtful and state == "known" and self.seen:
            state = "new"
        box = self.face.box if self.seen else frozen_array(self.expected(time_s), np.float32, (4,), "box")
        return TrackInfo(
            number=self.number,
            state=state if self.seen else "lost",
            box=box,
            name=match.name,
            similarity=match.similarity,
            decided=state != "new",
            first_seen_s=self.first_seen_s,
            last_seen_s=self.last_seen_s,
            decided_s=self.decided_s,
            frames_to_decision=self.frames_to_decision,
            frames=self.frames,
            ignored=match.ignored,
        )


class Tracker:
    """Follows everybody in a stream of frames."""

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self.options = options or TrackerOptions()
        self._tracks: list[_Track] = []
        self._next_number = 1
        self._now_s = -math.inf
        self._scanned_s = -math.inf
        self._vain_scans = 0
        self._alone = False
        """The newest frame came long after the one before: it is a picture of its own."""

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        """All living tracks that have been shown, by number."""
        return tuple(track.info(self._now_s) for track in self._tracks if track.shown)

    def reset(self) -> None:
        """End all tracks: the next frame has nothing to do with the last one. Numbers go on."""
        self._tracks.clear()
        self._now_s = self._scanned_s = -math.inf
        self._vain_scans = 0

    def again(self, gallery: Gallery, rule: MatchRule) -> None:
        """Decide every track afresh from its kept looks: the gallery or its rule has changed."""
        for track in self._tracks:
            track.decision.again(gallery, rule)
        self._one_name_once(rule)

    def step(self, time_s: float, eyes: Eyes, gallery: Gallery, rule: MatchRule) -> tuple[Finding, ...]:
        """Take in the next frame, of `time_s`; returns who is seen in it, largest face first.

        All tracks end when the picture is cut, when the time is before the last frame's, and when it is more than
        `lost_s` after it. Raises GalleryError when the gallery is of another model.
        """
        gap_s = time_s - self._now_s
        self._alone = self.options.lost_s < gap_s < math.inf
        if eyes.cut() or gap_s < 0 or self._alone:
            self.reset()
        elif gap_s > self.options.gap_s:
            for track in self._tracks:
                track.doubt(changed=True)
        self._now_s = time_s
        for track in self._tracks:
            track.age_frames += 1
        faces = one_box_a_face(self._find(time_s, eyes))
        self._associate(faces, time_s, eyes)
        self._look(time_s, eyes, gallery, rule)
        self._one_name_once(rule)
        self._end_the_gone(time_s)
        seen = [track for track in self._tracks if track.seen and self._show(track)]
        seen.sort(key=lambda track: -track.face.area_px2)
        return tuple(Finding(track.face.box, track.match, track.number, track.face) for track in seen)

    def _show(self, track: _Track) -> bool:
        """Whether a face is told to the outside; once it was, it stays so.

        A half-hidden new one waits while somebody is out of sight, for it may be that person; a doubtful detection
        waits until it was found again.
        """
        if not track.shown:
            somebody_lost = any(not one.seen and one.decision.average is not None for one in self._tracks)
            slight = track.decision.weight < 2 * self.options.decision.least_weight
            undecided = track.decision.state == "new" and track.age_frames <= self.options.held_frames
            unsure = track.frames == 1 and track.face.score < self.options.sure_score and not self._alone
            track.shown = not (undecided and somebody_lost and slight) and not unsure
        return track.shown

    # Finding faces

    def _find(self, time_s: float, eyes: Eyes) -> Sequence[Face]:
        """Search the whole picture when that pays, else only where faces are expected."""
        boxes = [track.expected(time_s) for track in self._tracks]
        waited_s = time_s - self._scanned_s + _EPSILON_S
        pause_s = self.options.stirred_every_s if self._vain_scans < 4 else self.options.idle_stirred_every_s
        soon = waited_s >= pause_s
        due = waited_s >= (self.options.followed_scan_every_s if boxes else self.options.scan_every_s)
        active = [box for track, box in zip(self._tracks, boxes, strict=True) if track.seen]
        lost = len(active) < len(boxes)
        if not (due or len(active) > self.options.follow_most or (soon and (lost or eyes.stirred(boxes)))):
            faces = eyes.search(active) if active else ()
            if len(faces) >= len(active) or not soon:
                return faces
        self._scanned_s = time_s
        faces = eyes.scan()
        apart = _distances([face.box for face in faces], boxes)
        news = bool((apart > _GATE).all(axis=1).any())
        self._vain_scans = 0 if news else self._vain_scans + 1
        return faces

    # Which face is which track

    def _associate(self, faces: Sequence[Face], time_s: float, eyes: Eyes) -> None:
        """Give every face to the nearest expected track; those left over begin new ones."""
        options = self.options
        expected = [track.expected(time_s) for track in self._tracks]
        if len(expected) > 1:
            near = _distances(expected, expected) < _MINGLE
            np.fill_diagonal(near, False)
            for t in map(int, np.flatnonzero(near.any(axis=1))):
                self._tracks[t].doubt(changed=True)
        apart_by = _distances(expected, [face.box for face in faces])
        pairs = sorted((float(apart_by[t, f]), int(t), int(f)) for t, f in np.argwhere(apart_by <= _GATE))
        patches = eyes.patches(faces) if faces else ()
        taken: dict[int, int] = {}
        for apart, t, f in pairs:
            if t in taken or f in taken.values():
                continue
            taken[t] = f
            track, patch = self._tracks[t], patches[f]
            alike = -1.0 if track.patch is None else likeness(track.patch, patch)
            if track.patch is not None and track.seen and alike < options.patch_likeness:
                # The box of a turned head leaps to and fro while the picture under it stays.
                under = likeness(track.patch, eyes.patches([track.face])[0])
                alike = max(alike, under) if under >= options.patch_same else alike
            just_now = time_s - track.agreed_s < options.agreed_s and alike >= options.patch_unlike
            differs = alike < options.patch_likeness
            # Somebody who was out of sight may come back as somebody else.
            if not track.seen or apart > options.jump or (differs and not just_now):
                track.doubt(changed=True)
            track.move(faces[f], time_s)
            if not (differs and just_now):  # a change that was let pass is asked about soon
                track.patch = patch
        for t, track in enumerate(self._tracks):
            track.seen = t in taken
        for f, face in enumerate(faces):
            if f not in taken.values() and face.score >= options.least_new_score:
                self._begin(face, time_s).patch = patches[f]

    def _begin(self, face: Face, time_s: float) -> _Track:
        track = _Track(self._next_number, face, time_s, self.options)
        self._next_number += 1
        self._tracks.append(track)
        return track

    # Who they are

    def _look(self, time_s: float, eyes: Eyes, gallery: Gallery, rule: MatchRule) -> None:
        """Embed the faces that need it, put right what a crossing mixed up, and decide."""
        chosen = self._worth_a_look(time_s)
        if not chosen:
            return
        looks = dict(zip((track.number for track in chosen), eyes.look([t.face for t in chosen]), strict=True))
        self._put_right(looks, rule)
        self._bring_back(looks, rule, time_s)
        for track in list(self._tracks):
            if track.number in looks:
                self._take_in(track, looks[track.number], time_s, gallery, rule)

    def _worth_a_look(self, time_s: float) -> list[_Track]:
        options = self.options
        seen = [track for track in self._tracks if track.seen]
        if self._alone:
            return seen
        doubtful = [
            track
            for track in seen
            if track.doubtful and (track.vain_looks < 4 or time_s - track.looked_s >= options.doubt_again_s)
        ]
        doubtful.sort(key=lambda track: track.looked_s)
        calm = [track for track in seen if not track.doubtful]
        undecided = [track for track in calm if track.decision.state == "new"]
        undecided.sort(key=lambda track: (len(track.decision.looks), track.number))

        def patience_s(track: _Track) -> float:
            if track.vain_looks or track.decision.contested:
                return options.doubt_again_s
            return options.recheck_s if track.decision.state == "known" else options.unknown_recheck_s

        settled = [track for track in calm if track.decision.state != "new"]
        stale = [track for track in settled if time_s - track.looked_s >= patience_s(track) - _EPSILON_S]
        stale.sort(key=lambda track: track.looked_s)
        return doubtful[: options.doubts_per_frame] + undecided[: options.looks_per_frame] + stale[:1]

    def _put_right(self, looks: dict[int, Look], rule: MatchRule) -> None:
        """Exchange faces between doubtful tracks that look more like one another's past than like their own."""
        floor = same_person(rule)
        room = 1.0 - floor
        doubtful = [track for track in self._tracks if track.doubtful]
        for i, one in enumerate(doubtful):
            for other in doubtful[:i]:
                if one.number not in looks and other.number not in looks:
                    continue
                here, there = looks.get(one.number), looks.get(other.number)
                stay = _alike(one, here) + _alike(other, there)
                swap = _alike(one, there) + _alike(other, here)
                best = max(_alike(one, there), _alike(other, here))
                if swap > stay + _SWAP_LEAD * room and best >= floor:
                    _exchange(one, other, looks)

    def _bring_back(self, looks: dict[int, Look], rule: MatchRule, time_s: float) -> None:
        """A new face that looks like somebody who went out of sight just now goes on as that track.

        Not once it has been told: its number stands for a visit then.
        """
        for track in [one for one in self._tracks if not one.shown and one.number in looks]:
            look = looks[track.number]
            lost = [one for one in self._tracks if not one.seen and one.decision.average is not None]
            best = max(lost, key=lambda one: _alike(one, look), default=None)
            if best is not None and best.decision.agreement(look, rule) == "agrees":
                best.move(track.face, time_s)
                best.frames += track.frames - 1
                best.patch = track.patch
                best.doubt(changed=True)
                looks[best.number] = looks.pop(track.number)
                self._tracks.remove(track)

    def _take_in(self, track: _Track, look: Look, time_s: float, gallery: Gallery, rule: MatchRule) -> None:
        track.looked_s = time_s
        if not look.is_face:
            # What the detector would not find again: gone at once when it never was anybody, else after a few looks.
            track.doubt(changed=False)
            track.vain_looks += 1
            track.no_face += 1
            if track.decision.average is None or track.no_face >= self.options.decision.strikes:
                self._tracks.remove(track)
            return
        track.no_face = 0
        agreement: Agreement = track.decision.agreement(look, rule)
        undecided = agreement == "unsure" and track.decision.state == "new" and not track.doubtful
        if agreement in ("agrees", "first") or undecided:
            track.trust()
            if agreement == "agrees":
                track.agreed_s = time_s
            self._decide(track, look, time_s, gallery, rule)
            return
        # A look that may be of somebody else does not enter the average.
        track.vain_looks += 1
        if agreement == "contradicts":
            track.strikes += look.weight >= self.options.least_strike
        else:
            track.strikes += 0.25 * (look.weight >= self.options.least_unsure)
        if agreement == "contradicts" or track.strikes >= 0.75:
            track.doubt(changed=False)
        # Somebody who was in sight all the time is covered by a hand more likely than exchanged.
        if track.strikes >= (1 if track.changed else self.options.decision.strikes):
            # The face is not who it was: the old track is lost, and the face begins a new one.
            fresh = self._begin(track.face, time_s)
            fresh.patch, fresh.shown = track.patch, track.shown
            track.face, track.last_seen_s, track.frames = track.before
            track.seen = False
            self._decide(fresh, look, time_s, gallery, rule)

    def _decide(self, track: _Track, look: Look, time_s: float, gallery: Gallery, rule: MatchRule) -> None:
        others = [one.decision.match for one in self._tracks if one is not track and one.seen]
        taken = {match.name: match.similarity for match in others if match.name is not None}
        track.decision.add(look, gallery, rule, only=self._alone, taken=taken)
        track.looked_s = time_s
        if track.decided_s is None and track.decision.state != "new":
            track.decided_s, track.frames_to_decision = time_s, track.age_frames

    def _one_name_once(self, rule: MatchRule) -> None:
        """Of several faces in one picture that claim a name the most alike keeps it; the others are asked again."""
        holders: dict[str, _Track] = {}
        for track in sorted(self._tracks, key=lambda one: (one.doubtful, -one.decision.match.similarity)):
            name = track.decision.match.name
            if name is None or not track.seen:
                continue
            if name in holders:
                track.decision.give_up_name()
            else:
                holders[name] = track

    def _end_the_gone(self, time_s: float) -> None:
        def patience_s(track: _Track) -> float:
            return self.options.new_lost_s if track.decision.state == "new" else self.options.lost_s

        self._tracks = [t for t in self._tracks if t.seen or time_s - t.last_seen_s <= patience_s(t)]


def one_box_a_face(faces: Sequence[Face]) -> list[Face]:
    """Of boxes that lie in one another the surest; a detector finds some turned faces twice, narrow and wide."""
    ranked = sorted(faces, key=lambda one: -one.score)
    if len(ranked) < 2:
        return ranked
    boxes = np.stack([face.box for face in ranked])
    corner = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    inside = np.maximum(corner, 0).prod(axis=2) / np.minimum(area[:, None], area[None])
    kept: list[int] = []
    for i in range(len(ranked)):
        if not (inside[i, kept] >= _INSIDE).any():
            kept.append(i)
    return [ranked[i] for i in kept]


def _centre(box: Float32s) -> Float32s:
    return np.asarray((box[:2] + box[2:]) / 2)


def _distances(ones: Sequence[Float32s], others: Sequence[Float32s]) -> NDArray[np.float32]:
    """How far apart boxes are in face sizes, (N, M); a different size counts as distance."""
    if not ones or not others:
        return np.full((len(ones), len(others)), np.inf, np.float32)
    a, b = np.stack(ones), np.stack(others)
    size_a, size_b = (np.sqrt((c[:, 2:] - c[:, :2]).prod(axis=1)) for c in (a, b))
    between = np.linalg.norm((a[:, None, :2] + a[:, None, 2:] - b[None, :, :2] - b[None, :, 2:]) / 2, axis=2)
    wide = np.log(size_a[:, None] / size_b[None])
    return np.asarray(between / ((size_a[:, None] + size_b[None]) / 2) + np.abs(wide), np.float32)


def _alike(track: _Track, look: Look | None) -> float:
    """Cosine of a look to the track's past; 0, a stranger's, when there is no look."""
    average = track.decision.average
    return 0.0 if look is None or average is None else average.similarity(look.embedding)


def _exchange(one: _Track, other: _Track, looks: dict[int, Look]) -> None:
    """Exchange the faces of two tracks; one of them may be out of sight, and then the other is."""
    for what in ("face", "seen", "last_seen_s", "patch", "before", "_velocity"):
        here, there = getattr(one, what), getattr(other, what)
        setattr(one, what, there)
        setattr(other, what, here)
    here, there = looks.pop(one.number, None), looks.pop(other.number, None)
    if there is not None:
        looks[one.number] = there
    if here is not None:
        looks[other.number] = here
