"""Faces across frames: hides when the whole picture is searched, which face is which track, and who is looked at.

Flows in: an `Eyes` for each frame, which can search the picture and embed faces, and is asked as little as will do.
Flows out: `Finding`s with track numbers and the match of the track's averaged embedding, and a `TrackInfo` each.
No inference here: made-up eyes test every decision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import numpy as np

from edge_app.core.types import Face, Finding, Float32s, frozen_array
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.live.identity_vote import Decision, DecisionOptions, Look

TrackState = Literal["new", "known", "unknown", "lost"]

_GATE: Final = 1.2
"""Farthest that a face may be from where its track was expected, in face sizes."""
_MINGLE: Final = 0.9
"""Two faces whose centres are nearer than this many face sizes may be taken for one another."""
_SWAP_LEAD: Final = 0.08
"""How much more alike two faces must be to each other's tracks than to their own to change places, in SFace's space."""


class Eyes(Protocol):
    """What can be seen in one frame, at a price."""

    def scan(self) -> Sequence[Face]:
        """Search the whole picture."""

    def search(self, regions: Sequence[Float32s]) -> Sequence[Face]:
        """Search around boxes (4,) x1 y1 x2 y2 where faces are expected; each face once."""

    def look(self, faces: Sequence[Face]) -> Sequence[Look]:
        """Embed faces, one `Look` each, in order."""

    def stirred(self, boxes: Sequence[Float32s]) -> bool:
        """Whether the picture has changed since the last scan, people at `boxes` apart."""


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """When work is worth its price."""

    scan_every_s: float = 0.5
    """The whole picture is searched at least this often while nobody is there."""
    followed_scan_every_s: float = 1.0
    """The same while everybody who is there is being followed and the picture does not change around them."""
    stirred_every_s: float = 0.1
    """Shortest time between two searches because the picture changed or a face was lost."""
    idle_stirred_every_s: float = 0.2
    """The same, once such searches have found nothing new several times."""
    lost_s: float = 1.5
    """A face unseen this long has left."""
    new_lost_s: float = 0.4
    """The same for one that was not decided yet."""
    recheck_s: float = 3.0
    """A decided track is looked at again this often."""
    unknown_recheck_s: float = 1.0
    """An unknown one, who may come nearer and turn out to be known."""
    looks_per_frame: int = 2
    """Undecided faces that are embedded in one frame; those after a crossing are always looked at."""
    least_new_score: float = 0.6
    """A face less sure than this may go on as a track, but not begin one."""
    held_frames: int = 5
    """A half-hidden new face is kept back this long while somebody is out of sight: it may be that person."""
    least_strike: float = 0.1
    """A look must be worth this much to speak against a track: half a face looks like nobody."""
    decision: DecisionOptions = field(default_factory=DecisionOptions)


@dataclass(frozen=True, slots=True, eq=False)
class TrackInfo:
    """One living track."""

    number: int
    """From 1, never used twice."""
    state: TrackState
    """new: not decided yet; lost: not seen in this frame."""
    box: Float32s
    """(4,) x1 y1 x2 y2 in frame pixels: the newest, or where a lost one is expected."""
    name: str | None
    """Kept while lost; None for new and unknown."""
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
        """It may be somebody else by now: looked at in every frame until a look agrees."""
        self.returned = False
        """It was out of sight in the frame before."""
        self.strikes = 0
        self.shown = False
        """It need not be held back."""
        self.seen = True
        self._velocity = np.zeros(2)

    @property
    def size_px(self) -> float:
        return math.sqrt(self.face.area_px2)

    def expected(self, time_s: float) -> Float32s:
        """Where the box should be now: straight on, but no farther than half a second's way."""
        shift = self._velocity * min(0.5, time_s - self.last_seen_s)
        return np.asarray(self.face.box + np.tile(shift, 2), np.float32)

    def move(self, face: Face, time_s: float) -> None:
        # A face that was out of sight may come back as somebody else: it is looked at before it is named.
        self.doubtful |= not self.seen
        self.returned = not self.seen
        step_s = time_s - self.last_seen_s
        if step_s > 0:
            velocity = (_centre(face.box) - _centre(self.face.box)) / step_s
            self._velocity += 0.5 * (velocity - self._velocity)
        self.face, self.last_seen_s = face, time_s
        self.frames += 1
        self.seen = True

    def info(self, time_s: float) -> TrackInfo:
        match, state = self.decision.match, self.decision.state
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

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        """All living tracks by number."""
        return tuple(track.info(self._now_s) for track in self._tracks if not self._held(track))

    def reset(self) -> None:
        """End all tracks: the next frame has nothing to do with the last one. Numbers go on."""
        self._tracks.clear()
        self._now_s = self._scanned_s = -math.inf
        self._vain_scans = 0

    def again(self, gallery: Gallery, rule: MatchRule) -> None:
        """Decide every track afresh from its kept looks: the gallery or its rule has changed."""
        for track in self._tracks:
            track.decision.again(gallery, rule)

    def step(self, time_s: float, eyes: Eyes, gallery: Gallery, rule: MatchRule) -> tuple[Finding, ...]:
        """Take in the next frame, of `time_s`; returns who is seen in it, largest face first.

        A time before the last frame's ends all tracks. Raises GalleryError when the gallery is of another model.
        """
        if time_s < self._now_s:
            self.reset()
        self._now_s = time_s
        for track in self._tracks:
            track.age_frames += 1
        faces = self._find(time_s, eyes)
        self._associate(faces, time_s)
        self._look(time_s, eyes, gallery, rule)
        self._end_the_gone(time_s)
        seen = [track for track in self._tracks if track.seen and not self._held(track)]
        seen.sort(key=lambda track: -track.face.area_px2)
        return tuple(Finding(track.face.box, track.decision.match, track.number, track.face) for track in seen)

    def _held(self, track: _Track) -> bool:
        """Whether a new face is not shown yet: half hidden, it may be somebody who went out of sight just now."""
        if track.shown or track.decision.state != "new" or track.age_frames > self.options.held_frames:
            return False
        somebody_lost = any(not one.seen and one.decision.average is not None for one in self._tracks)
        return somebody_lost and track.decision.weight < 2 * self.options.decision.least_weight

    # Finding faces

    def _find(self, time_s: float, eyes: Eyes) -> list[Face]:
        """Search the whole picture when that pays, else only where faces are expected."""
        boxes = [track.expected(time_s) for track in self._tracks]
        waited_s = time_s - self._scanned_s
        pause_s = self.options.stirred_every_s if self._vain_scans < 4 else self.options.idle_stirred_every_s
        soon = waited_s >= pause_s - 1e-6
        due = waited_s >= (self.options.followed_scan_every_s if boxes else self.options.scan_every_s) - 1e-6
        if due or (soon and (any(not track.seen for track in self._tracks) or eyes.stirred(boxes))):
            return self._scan(time_s, eyes, boxes)
        active = [box for track, box in zip(self._tracks, boxes, strict=True) if track.seen]
        faces = list(eyes.search(active)) if active else []
        if len(faces) < len(active) and soon:
            return self._scan(time_s, eyes, boxes)
        return faces

    def _scan(self, time_s: float, eyes: Eyes, boxes: Sequence[Float32s]) -> list[Face]:
        self._scanned_s = time_s
        faces = list(eyes.scan())
        news = any(all(_distance(face.box, box) > _GATE for box in boxes) for face in faces)
        self._vain_scans = 0 if news else self._vain_scans + 1
        return faces

    # Which face is which track

    def _associate(self, faces: Sequence[Face], time_s: float) -> None:
        """Give every face to the nearest expected track; those left over begin new ones."""
        expected = [track.expected(time_s) for track in self._tracks]
        self._mark_mingled(expected)
        pairs = sorted(
            (_distance(face.box, box), t, f)
            for t, box in enumerate(expected)
            for f, face in enumerate(faces)
            if _distance(face.box, box) <= _GATE
        )
        taken_tracks: set[int] = set()
        taken_faces: set[int] = set()
        for _, t, f in pairs:
            if t not in taken_tracks and f not in taken_faces:
                taken_tracks.add(t)
                taken_faces.add(f)
                self._tracks[t].move(faces[f], time_s)
        for t, track in enumerate(self._tracks):
            track.seen = t in taken_tracks
        for f, face in enumerate(faces):
            if f not in taken_faces and face.score >= self.options.least_new_score:
                self._begin(face, time_s)

    def _mark_mingled(self, expected: Sequence[Float32s]) -> None:
        for i, one in enumerate(expected):
            for j in range(i):
                if _distance(one, expected[j]) < _MINGLE:
                    self._tracks[i].doubtful = self._tracks[j].doubtful = True

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
        self._put_right(looks, rule, time_s)
        self._bring_back(looks, rule.threshold, time_s)
        for track in list(self._tracks):
            if track.number in looks:
                self._take_in(track, looks[track.number], time_s, gallery, rule)

    def _worth_a_look(self, time_s: float) -> list[_Track]:
        seen = [track for track in self._tracks if track.seen]
        doubtful = [track for track in seen if track.doubtful]
        undecided = [track for track in seen if track.decision.state == "new" and not track.doubtful]
        undecided.sort(key=lambda track: (len(track.decision.looks), track.number))
        settled = [track for track in seen if not track.doubtful and track.decision.state != "new"]
        stale = [track for track in settled if time_s - track.looked_s >= self._patience_s(track)]
        stale.sort(key=lambda track: track.looked_s)
        return doubtful + undecided[: self.options.looks_per_frame] + stale[:1]

    def _patience_s(self, track: _Track) -> float:
        known = track.decision.state == "known"
        return self.options.recheck_s if known else self.options.unknown_recheck_s

    def _put_right(self, looks: dict[int, Look], rule: MatchRule, time_s: float) -> None:
        """Exchange faces between doubtful tracks that look more like one another's past than like their own."""
        doubtful = [track for track in self._tracks if track.doubtful and track.decision.average is not None]
        for i, one in enumerate(doubtful):
            for other in doubtful[:i]:
                if one.number not in looks and other.number not in looks:
                    continue
                here, there = looks.get(one.number), looks.get(other.number)
                stay = _alike(one, here) + _alike(other, there)
                swap = _alike(one, there) + _alike(other, here)
                nearly = rule.threshold - 0.1 * rule.scale
                if swap > stay + _SWAP_LEAD * rule.scale and max(_alike(one, there), _alike(other, here)) >= nearly:
                    _exchange(one, other, looks)

    def _bring_back(self, looks: dict[int, Look], floor: float, time_s: float) -> None:
        """A nameless face that looks like somebody who went out of sight just now goes on as that track."""
        for track in [one for one in self._tracks if one.decision.match.name is None and one.number in looks]:
            look = looks[track.number]
            lost = [
                o for o in self._tracks if not o.seen and o.decision.average is not None and o.number < track.number
            ]
            if not lost:
                continue
            best = max(lost, key=lambda one: _alike(one, look))
            if _alike(best, look) >= floor:
                best.move(track.face, time_s)
                best.frames += track.frames - 1
                looks[best.number] = looks.pop(track.number)
                self._tracks.remove(track)

    def _take_in(self, track: _Track, look: Look, time_s: float, gallery: Gallery, rule: MatchRule) -> None:
        agreement = track.decision.agreement(look, rule)
        track.looked_s = time_s
        if agreement in ("agrees", "first"):
            track.doubtful, track.strikes = False, 0
        elif track.decision.state != "new" or track.doubtful:
            track.doubtful = True
            track.strikes += agreement == "contradicts" and look.weight >= self.options.least_strike
            # Somebody who was in sight all the time is covered by a hand more likely than exchanged.
            if track.strikes >= (1 if track.returned else self.options.decision.strikes):
                self._replace(track, look, time_s, gallery, rule)
            return  # a look that may be of somebody else does not enter the average
        self._decide(track, look, time_s, gallery, rule)

    def _replace(self, track: _Track, look: Look, time_s: float, gallery: Gallery, rule: MatchRule) -> None:
        """The face is not who it was: the old track is lost, and the face begins a new one."""
        track.seen, track.strikes = False, 0
        fresh = self._begin(track.face, time_s)
        fresh.shown = True
        self._decide(fresh, look, time_s, gallery, rule)

    def _decide(self, track: _Track, look: Look, time_s: float, gallery: Gallery, rule: MatchRule) -> None:
        track.decision.add(look, gallery, rule)
        track.looked_s = time_s
        if track.decided_s is None and track.decision.state != "new":
            track.decided_s, track.frames_to_decision = time_s, track.age_frames

    def _end_the_gone(self, time_s: float) -> None:
        def patience_s(track: _Track) -> float:
            return self.options.new_lost_s if track.decision.state == "new" else self.options.lost_s

        self._tracks = [t for t in self._tracks if t.seen or time_s - t.last_seen_s <= patience_s(t)]


def _centre(box: Float32s) -> Float32s:
    return np.asarray((box[:2] + box[2:]) / 2)


def _distance(one: Float32s, other: Float32s) -> float:
    """How far apart two boxes are in face sizes; a different size counts as distance."""
    size_one, size_other = (math.sqrt(float((b[2] - b[0]) * (b[3] - b[1]))) for b in (one, other))
    apart = float(np.linalg.norm(_centre(one) - _centre(other)))
    return apart / ((size_one + size_other) / 2) + abs(math.log(size_one / size_other))


def _alike(track: _Track, look: Look | None) -> float:
    """Cosine of a look to the track's past; 0, a stranger's, when there is no look."""
    average = track.decision.average
    return 0.0 if look is None or average is None else average.similarity(look.embedding)


def _exchange(one: _Track, other: _Track, looks: dict[int, Look]) -> None:
    """Exchange the faces of two tracks; one of them may be out of sight, and then the other is."""
    one.face, other.face = other.face, one.face
    one.seen, other.seen = other.seen, one.seen
    one.last_seen_s, other.last_seen_s = other.last_seen_s, one.last_seen_s
    one._velocity, other._velocity = other._velocity, one._velocity
    here, there = looks.pop(one.number, None), looks.pop(other.number, None)
    if there is not None:
        looks[one.number] = there
    if here is not None:
        looks[other.number] = here
