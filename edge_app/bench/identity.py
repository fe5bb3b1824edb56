"""Who is who over time: the live loop, and others beside it, on clips composed from a folder of people.

The others are every frame recognized afresh, ByteTrack (Zhang et al. 2022, arXiv 2110.06864, as in `supervision`) with
a majority vote over each track's frames, and where it is given another checkout of edge-app.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from edge_app.accuracy.intervals import wilson
from edge_app.bench.clips import SIZE_PX, Clip, Person, Present
from edge_app.bench.identity_score import IdentityScore, Said, add_clip, named_by
from edge_app.bench.people_clips import Cast, Half, Portraits, cast_people, identity_clips, visit_clips
from edge_app.core.errors import EdgeError
from edge_app.core.types import Float32s, Frame, Seen
from edge_app.gallery.calibration import Thresholds
from edge_app.gallery.enrollment import Shot
from edge_app.gallery.matching import Gallery
from edge_app.live.video_recognizer import LiveRecognizer
from edge_app.media.pictures import read_picture
from edge_app.recognition.faces import FaceRecognizer
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.files import make_private_folder, readable_os_errors, write_private
from edge_app.system.settings import Settings

OURS: Final = "edge-app, live"
AFRESH: Final = "every frame afresh"
VOTED: Final = "ByteTrack with a vote"
OTHER: Final = "other checkout"
VISITS_S: Final = (1.0, 10.0, 60.0)
_SCRIPT: Final = Path(__file__).resolve().parent / "other_checkout.py"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class IdentityOptions:
    people: Path
    """A folder with a sub-folder of pictures per person."""
    half: Half = "develop"
    """The people, half of them, that the clips are of; "kept-aside" is for the end."""
    settings: Settings = field(default_factory=Settings)
    rounds: int = 1
    """Times that every kind of clip is composed, with other people and pictures each time."""
    others: bool = True
    """Run the other contestants as well."""
    beside: Path | None = None
    """Another checkout of edge-app, such as that of an older version, to run on the same frames."""
    visits: int = 0
    """Strangers who stay for a minute, to count how many get a name; 0: none."""
    kinds: tuple[str, ...] = ()
    """Kinds of clips; empty: all."""
    seed: int = 0
    keep: Path | None = None
    """A folder for what was said of each clip, from which a later run with the same setup and code goes on."""


class Contestant(Protocol):
    """Something that says who is where."""

    cpu_ms: list[float]

    def begin(self, clip: Clip) -> None:
        """A new clip: what was before is forgotten."""

    def observe(self, frame: Frame) -> list[Said]:
        """Take in the next frame."""


def run(options: IdentityOptions, progress: Progress) -> dict[str, Any]:
    """Measure; `progress` gets a line before each clip.

    Returns {"people", "threshold", "contestants": {who: {"all": figures, "by_kind": {..}, "cpu_ms": mean}}, "visits"}.
    Raises EdgeError when the folder is not one of people, or an extra is missing.
    """
    cast = cast_people(options.people, options.half, seed=options.seed)
    with tempfile.TemporaryDirectory(prefix="edge-app-bench-") as folder:
        bench = open_people(Home(Path(folder) / "home"), options.settings)
        parts, cast = enroll(bench.recognizer, cast, options.settings, bench.thresholds)
        portraits = Portraits(parts.detector.detect)
        clips = identity_clips(cast, portraits, rounds=options.rounds, seed=options.seed)
        clips = [clip for clip in clips if not options.kinds or clip.kind in options.kinds]
        result: dict[str, Any] = {
            "half": options.half,
            "seed": options.seed,
            "enrolled": len(cast.known),
            "strangers": len(cast.strangers),
            "precision": bench.choice.entry.precision,
            "threshold": round(parts.rule.threshold, 4),
            "clips": len(clips),
        }
        contestants: dict[str, Contestant] = {OURS: _Live(parts)}
        other = None
        try:
            if options.others:
                contestants[AFRESH] = afresh = _Afresh(parts)
                contestants[VOTED] = _Voted(afresh)
            if options.beside is not None:
                contestants[OTHER] = other = _Other(options, cast)
            kept = None if options.keep is None else KeptClips(options.keep, _setup(options, cast, parts))
            result["contestants"] = _contest(clips, contestants, progress, kept)
            if options.visits:
                visited = visit_clips(cast, portraits, most=options.visits)
                result["visits"] = _visits(visited, contestants, progress, kept)
        finally:
            if other is not None:
                other.close()
            bench.close()
    return result


def enroll(
    parts: FaceRecognizer, cast: Cast, settings: Settings, thresholds: Thresholds
) -> tuple[FaceRecognizer, Cast]:
    """The recognizer over the cast's known people; those whose pictures show no single face leave the cast."""
    names: list[str] = []
    vectors: list[Float32s] = []
    owner: list[int] = []
    known: list[Person] = []
    for person in cast.known:
        shots = [parts.shot(read_picture(path), path.name) for path in person.enroll]
        found = [shot.embedding.vector for shot in shots if isinstance(shot, Shot)]
        if found:
            vectors += found
            owner += [len(names)] * len(found)
            names.append(person.key)
            known.append(person)
    gallery = Gallery(parts.embedder.model_id, names, np.stack(vectors), np.array(owner))
    rule = gallery.rule(thresholds.points, settings.fpir, settings.margin, thresholds.cohort)
    return parts.with_gallery(gallery, rule), replace(cast, known=tuple(known))


@dataclass(frozen=True, slots=True)
class Played:
    """A clip's truth, and what each contestant said of it, frame by frame."""

    truth: list[tuple[Present, ...]]
    said: dict[str, list[list[Said]]]
    cpu_ms: dict[str, list[float]]


class KeptClips:
    """A file for each clip that was played, so that a run of hours can be interrupted.

    A file counts only for the `setup` it was made with: the options, the cast, the threshold and the code.
    """

    def __init__(self, folder: Path, setup: Mapping[str, object]) -> None:
        self._folder = folder
        self._setup = setup

    def read(self, clip: Clip, contestants: Sequence[str]) -> Played | None:
        """What was kept of the clip; None where there is nothing, or of another setup."""
        path = self._path(clip, contestants)
        if not path.exists():
            return None
        with readable_os_errors(path):
            try:
                kept = json.loads(path.read_bytes())
                return Played(
                    [tuple(Present(p, v, n, _box(b), s) for p, v, n, b, s in frame) for frame in kept["truth"]],
                    {
                        who: [
                            [Said(_box(box), name, track) for box, name, track in frame] for frame in kept["said"][who]
                        ]
                        for who in contestants
                    },
                    {who: [float(ms) for ms in kept["cpu_ms"][who]] for who in contestants},
                )
            except (ValueError, KeyError, TypeError) as error:
                raise EdgeError(f"{path} is damaged", remedy="remove it: the clip is played again") from error

    def write(self, clip: Clip, contestants: Sequence[str], played: Played) -> None:
        """Keep a clip. Raises EdgeError where it cannot be written."""
        path = self._path(clip, contestants)
        content = {
            "setup": self._setup,
            "clip": clip.title,
            "truth": [[[o.person, o.visit, o.name, o.box, o.visible] for o in frame] for frame in played.truth],
            "said": {
                who: [[[one.box, one.name, one.track] for one in frame] for frame in frames]
                for who, frames in played.said.items()
            },
            "cpu_ms": played.cpu_ms,
        }
        with readable_os_errors(path):
            make_private_folder(self._folder)
            write_private(path, json.dumps(content).encode())

    def _path(self, clip: Clip, contestants: Sequence[str]) -> Path:
        roles = [
            (take.duration_s, take.seed, role.person.key, role.poses, role.yaw, role.whole, role.change_every_s)
            for take in clip.takes
            for role in take.roles
        ]
        faces = [shown.face.box.tolist() for take in clip.takes for role in take.roles for shown in role.portraits]
        what = repr((sorted(self._setup.items()), clip.kind, clip.title, clip.fps, roles, faces, tuple(contestants)))
        return self._folder / f"{clip.kind}-{hashlib.sha256(what.encode()).hexdigest()[:20]}.json"


def _setup(options: IdentityOptions, cast: Cast, parts: FaceRecognizer) -> dict[str, object]:
    """All that decides what is said of a clip, beside the clip itself."""
    code = hashlib.sha256()
    for room in ("core", "media", "inference", "gallery", "recognition", "live", "bench"):
        for path in sorted((Path(__file__).parents[1] / room).rglob("*.py")):
            code.update(path.read_bytes())
    return {
        "half": options.half,
        "seed": options.seed,
        "settings": repr(options.settings),
        "embedder": parts.embedder.model_id,
        "threshold": float(parts.rule.threshold),
        "enrolled": [person.key for person in cast.known],
        "beside": str(options.beside),
        "code": code.hexdigest(),
    }


def _contest(
    clips: Sequence[Clip], contestants: dict[str, Contestant], progress: Progress, kept: KeptClips | None
) -> dict[str, Any]:
    scores: dict[str, dict[str, IdentityScore]] = {who: {} for who in contestants}
    cpu: dict[str, dict[str, list[float]]] = {who: {} for who in contestants}
    for number, clip in enumerate(clips):
        played = _play(clip, contestants, kept, progress, f"{number + 1} of {len(clips)}: {clip.title}")
        for who, answers in played.said.items():
            for kind in ("all", clip.kind):
                add_clip(scores[who].setdefault(kind, IdentityScore()), clip, played.truth, answers)
                cpu[who].setdefault(kind, []).extend(played.cpu_ms[who])
    return {
        who: {
            kind: score.as_dict() | {"cpu_ms_a_frame": round(float(np.mean(cpu[who][kind])), 3)}
            for kind, score in kinds.items()
        }
        for who, kinds in scores.items()
    }


def _play(
    clip: Clip, contestants: dict[str, Contestant], kept: KeptClips | None, progress: Progress, title: str
) -> Played:
    """Play a clip to all, or take what was kept of it."""
    before = None if kept is None else kept.read(clip, tuple(contestants))
    if before is not None:
        progress(f"{title}, kept from before")
        return before
    progress(title)
    played = Played([], {who: [] for who in contestants}, {})
    for contestant in contestants.values():
        contestant.begin(clip)
    for frame, present in clip.frames():
        played.truth.append(present)
        for who, contestant in contestants.items():
            played.said[who].append(contestant.observe(frame))
    played.cpu_ms.update({who: contestant.cpu_ms for who, contestant in contestants.items()})
    if kept is not None:
        kept.write(clip, tuple(contestants), played)
    return played


def _visits(
    clips: Sequence[Clip], contestants: dict[str, Contestant], progress: Progress, kept: KeptClips | None
) -> dict[str, Any]:
    """Shares of strangers' visits that the live loop gave a name, by length, with the 95 % interval (Wilson)."""
    asked = {OURS: contestants[OURS]}
    totals = {who: [[0, 0] for _ in VISITS_S] for who in asked}
    for number, clip in enumerate(clips):
        played = _play(clip, asked, kept, progress, f"visits, {number + 1} of {len(clips)}")
        for who, answers in played.said.items():
            for total, (visits, named) in zip(
                totals[who], named_by(clip, played.truth, answers, VISITS_S), strict=True
            ):
                total[0] += visits
                total[1] += named
    return {
        who: {
            f"{s:g} s": {"visits": v, "named": n, "interval": [round(wilson(n, v).low, 5), round(wilson(n, v).high, 5)]}
            for s, (v, n) in zip(VISITS_S, rows, strict=True)
        }
        for who, rows in totals.items()
    }


# The contestants


def _box(values: Any) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2


class _Live:
    """The live loop as it is."""

    def __init__(self, parts: FaceRecognizer) -> None:
        self._parts = parts
        self._live = LiveRecognizer(parts)
        self.cpu_ms: list[float] = []

    def begin(self, clip: Clip) -> None:
        self._live = LiveRecognizer(self._parts)
        self.cpu_ms = []

    def observe(self, frame: Frame) -> list[Said]:
        cpu_s = time.process_time()
        seen = self._live.observe(frame)
        self.cpu_ms.append((time.process_time() - cpu_s) * 1e3)
        return [Said(_box(one.box), one.name, one.track or 0) for one in seen.findings]


class _Afresh:
    """Every frame as if it were a photograph; a track number is the place in the frame, from left to right."""

    def __init__(self, parts: FaceRecognizer) -> None:
        self._parts = parts
        self.cpu_ms: list[float] = []
        self.last: Seen | None = None

    def begin(self, clip: Clip) -> None:
        self.cpu_ms = []

    def observe(self, frame: Frame) -> list[Said]:
        cpu_s = time.process_time()
        self.last = seen = self._parts.observe(frame)
        self.cpu_ms.append((time.process_time() - cpu_s) * 1e3)
        ordered = sorted(seen.findings, key=lambda one: float(one.box[0]))
        return [Said(_box(one.box), one.name, i + 1) for i, one in enumerate(ordered)]


class _Voted:
    """ByteTrack over the detections of every frame; a track is called what most of its frames say."""

    def __init__(self, afresh: _Afresh) -> None:
        try:
            import supervision
        except ImportError as error:
            raise EdgeError(
                "supervision is not installed", expected="the extra `bench`", remedy="pip install 'edge-app[bench]'"
            ) from error
        self._library = supervision
        self._afresh = afresh
        self._tracker: Any = None
        self._votes: dict[int, Counter[str | None]] = {}
        self.cpu_ms: list[float] = []

    def begin(self, clip: Clip) -> None:
        self._tracker = self._library.ByteTrack(frame_rate=round(clip.fps))
        self._votes = {}
        self.cpu_ms = []

    def observe(self, frame: Frame) -> list[Said]:
        """Uses what the contestant before saw in this very frame, and counts its cost as its own."""
        seen = self._afresh.last
        assert seen is not None
        cpu_s = time.process_time()
        findings = seen.findings
        detections = self._library.Detections(
            xyxy=np.array([one.box for one in findings], np.float32).reshape(-1, 4),
            confidence=np.array([one.face.score if one.face else 1.0 for one in findings], np.float32),
            data={"number": np.arange(len(findings))},
        )
        followed = self._tracker.update_with_detections(detections)
        said = []
        for number, track in zip(followed.data.get("number", ()), followed.tracker_id, strict=True):
            votes = self._votes.setdefault(int(track), Counter())
            votes[findings[int(number)].name] += 1
            said.append(Said(_box(findings[int(number)].box), votes.most_common(1)[0][0], int(track)))
        self.cpu_ms.append((time.process_time() - cpu_s) * 1e3 + self._afresh.cpu_ms[-1])
        return said


class _Other:
    """Another checkout's live loop, in a process of its own."""

    def __init__(self, options: IdentityOptions, cast: Cast) -> None:
        command = [sys.executable, "-W", "ignore", str(_SCRIPT), str(options.beside)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), cwd=tempfile.gettempdir()
        )
        self.cpu_ms: list[float] = []
        settings = options.settings
        self._tell(
            {
                "people": {person.key: [str(path.resolve()) for path in person.enroll] for person in cast.known},
                "fpir": settings.fpir,
                "margin": settings.margin,
                "precision": settings.precision,
                "threads": settings.threads,
                "size_px": list(SIZE_PX),
            }
        )
        self._answer()

    def begin(self, clip: Clip) -> None:
        self.cpu_ms = []
        self._tell({"reset": True})

    def observe(self, frame: Frame) -> list[Said]:
        self._tell({"index": frame.index, "time_s": frame.time_s}, frame.pixels.tobytes())
        answer = self._answer()
        self.cpu_ms.append(float(answer["cpu_ms"]))
        return [Said(_box(box), name, int(track)) for box, name, track in answer["said"]]

    def close(self) -> None:
        """End the process."""
        if self._child.stdin is not None:
            self._child.stdin.close()
        self._child.wait(10)

    def _tell(self, what: dict[str, Any], raw: bytes = b"") -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(what).encode() + b"\n" + raw)
            self._child.stdin.flush()
        except OSError as error:
            raise EdgeError("the other checkout's live loop has stopped", remedy="see its message above") from error

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise EdgeError("the other checkout's live loop has stopped", remedy="see its message above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment() -> dict[str, str]:
    """The environment of this process, without the path that would lead the other checkout back to this one."""
    import os

    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
