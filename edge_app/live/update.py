"""What the live loop tells, and how it is asked to run: values that cross between threads."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_app.core.task import PEOPLE, LookFor
from edge_app.core.types import Seen
from edge_app.gallery.enrollment import Refusal, Shot
from edge_app.gallery.matching import MatchRule
from edge_app.live.challenge import Progress
from edge_app.live.events import LiveEvent
from edge_app.live.tracker import TrackerOptions, TrackInfo
from edge_app.media.live_camera import CameraStatus, LiveOptions


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How the loop runs."""

    camera: LiveOptions = field(default_factory=LiveOptions)
    tracker: TrackerOptions = field(default_factory=TrackerOptions)
    until_end: bool = False
    """The thread ends when a file is over; else it stays for another source."""
    touch: bool = True
    """Note in the vault when somebody was last seen, once per recognition."""
    notice_every_s: float = 0.5
    """Without frames an Update comes this often."""


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What the worker tells after a frame, a command, or a while of silence."""

    seen: Seen | None
    """None: no new frame."""
    tracks: tuple[TrackInfo, ...]
    """Living ones, lost included; empty where nothing is tracked."""
    events: tuple[LiveEvent, ...]
    """Since the Update before."""
    status: CameraStatus
    source: str
    """How the source is called; without passwords."""
    fps: float
    """Frames observed per second over the last two seconds."""
    people: int
    """Identities in the gallery in use."""
    rule: MatchRule
    paused: bool
    shot: Shot | Refusal | None
    """Only while capturing: the prominent face of this frame, or the thing in it."""
    trouble: str
    """What went wrong with the last frame or the gallery, one line; empty when all is well."""
    look_for: LookFor = PEOPLE
    """What the frames are looked at for."""
    asked: str = ""
    """Who was asked for a challenge last, by `Ask`."""
    challenge: Progress | None = None
    """How far that challenge is, or how it ended; None when nobody was asked."""
