"""Measures what the live loop costs and how well it follows, on composed clips of the sample people.

It works in a data folder of its own: the user's gallery is neither read nor written. CPU milliseconds count every
thread of the process; they are averages, not medians, because the loop's cost is uneven by design.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_app.core.errors import EdgeError
from edge_app.core.types import Frame, Seen
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from edge_app.system.timing import Stopwatch

if TYPE_CHECKING:
    from edge_app.media.sample import Scene
    from edge_app.recognition.faces import FaceRecognizer, PeopleSession

Progress = Callable[[str], None]

SIZES: Final = ((640, 480), (1280, 720))
FACES: Final = (1, 4)
FPS: Final = 30.0
_WARM_FRAMES: Final = 45
_PEER_FRAMES: Final = 6
_PEER_TIMEOUT_S: Final = 600.0
_PEER_SCRIPT: Final = Path(__file__).resolve().parent / "peer_live.py"
_NAIVE: Final = "edge-app, every frame"
_LIVE: Final = "edge-app, live"
TARGETS: Final = {_NAIVE: 5.0, "facenet-pytorch": 25.0, "face_recognition": 35.0}
"""How many times cheaper the live loop should be at 640 x 480 with one face."""
MAX_FRAMES_TO_NAME: Final = 10


@dataclass(frozen=True, slots=True)
class LiveBenchOptions:
    settings: Settings = field(default_factory=Settings)
    """Precision, detector and threads to measure with."""
    frames: int = 180
    """Frames measured of each clip, after the warm-up; 90 are one period of the re-checks at 30 fps."""
    peers: bool = True
    """Measure other libraries where they are installed."""
    peer_python: Path | None = None
    """Interpreter that has face_recognition (and perhaps facenet-pytorch)."""
    soak_minutes: float = 0.0
    """Run the loop on the looped sample clip this long, and watch memory, threads and handles; 0: not."""


def run(options: LiveBenchOptions, progress: Progress) -> dict[str, Any]:
    """Measure cost and tracking. `progress` gets a line before each part.

    Returns {"cost": one row per clip, "ratios": how many times cheaper the live loop is at 640 x 480 with one face,
    "one_core": 30 fps with three faces, "tracking": a row per clip, "absent": why a peer was left out, "soak"}.
    """
    with tempfile.TemporaryDirectory(prefix="edge-app-bench-") as folder:
        bench = sample_session(Path(folder), options.settings)
        cost, absent = _costs(bench.recognizer, options, Path(folder), progress)
        result: dict[str, Any] = {
            "precision": bench.choice.entry.precision,
            "cost": cost,
            "ratios": _ratios(cost[0]),
            "one_core": _one_core(bench.recognizer, options, progress),
            "tracking": _tracking(bench.recognizer, progress),
            "absent": absent,
        }
        bench.vault.close()
    if options.soak_minutes:
        result["soak"] = soak(options.soak_minutes, options.settings, progress)
    return result


def sample_session(folder: Path, settings: Settings) -> PeopleSession:
    """A workbench over an empty data folder, with the sample people enrolled."""
    from edge_app.gallery.enrollment import EnrollOptions
    from edge_app.media import sample
    from edge_app.media.pictures import read_picture
    from edge_app.recognition.open_session import open_people

    bench = open_people(Home(folder / "home"), settings)
    for name, paths in sample.people().items():
        looks = [(path.name, bench.recognizer.shot(read_picture(path), path.name)) for path in paths]
        bench.enroll(name, looks, EnrollOptions())
    return bench.refreshed()


# Cost


def steady_scene(size_px: tuple[int, int], faces: int, frames: int) -> Scene:
    """Up to four people who stay and move a little, as before a webcam; `size_px` is (width, height)."""
    from edge_app.media import sample

    cast = [actor.cutout for actor in sample.clip_scene().actors]
    seconds = frames / FPS
    height = 0.3 if faces == 1 else 0.2
    actors = []
    for i in range(faces):
        x = 0.5 if faces == 1 else 0.14 + 0.72 * i / (faces - 1)
        # Every 0.5 s another place within 2 % of the picture, out of step with the neighbours.
        poses = tuple(
            sample.Pose(0.5 * step, x + 0.02 * ((step + i) % 2), 0.4 + 0.015 * ((step + i) // 2 % 2), height)
            for step in range(int(2 * seconds) + 2)
        )
        actors.append(sample.Actor(None, cast[(i + 1) % len(cast)], poses))
    return sample.Scene(tuple(actors), seconds, size_px, FPS)


def _frames(scene: Scene) -> list[Frame]:
    from edge_app.media import sample

    return [frame for frame, _ in sample.compose(scene)]


def _costs(
    recognizer: FaceRecognizer, options: LiveBenchOptions, folder: Path, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    rows: list[dict[str, Any]] = []
    files: list[Path] = []
    for size in SIZES:
        for faces in FACES:
            progress(f"live loop at {size[0]}x{size[1]}, {faces} face{'s' * (faces > 1)}")
            frames = _frames(steady_scene(size, faces, _WARM_FRAMES + options.frames))
            rows.append({"size_px": list(size), "faces": faces, "contestants": _ours(recognizer, frames)})
            files.append(_save(folder / f"{size[0]}-{faces}.npy", frames[_WARM_FRAMES:]))
    absent: dict[str, str] = {}
    for peer, python in _peers(options):
        progress(f"{peer} on the same frames")
        answer = _ask_peer(peer, python, files)
        if isinstance(answer, str):
            absent[peer] = answer
            continue
        for row, measured in zip(rows, answer, strict=True):
            row["contestants"][peer] = _figures(measured["cpu_ms"], measured["wall_ms"], measured["faces"])
    return rows, absent


def _ours(recognizer: FaceRecognizer, frames: Sequence[Frame]) -> dict[str, dict[str, float]]:
    """The live loop and the naive one in turns of 30 frames, so that a busy moment hits both."""
    from edge_app.live.video_recognizer import LiveRecognizer

    live = LiveRecognizer(recognizer)
    for frame in frames[:_WARM_FRAMES]:
        live.observe(frame)
    recognizer.observe(frames[0])
    laps: dict[str, list[tuple[float, float, int]]] = {_LIVE: [], _NAIVE: []}
    for start in range(_WARM_FRAMES, len(frames), 30):
        block = frames[start : start + 30]
        laps[_LIVE] += [_timed(live.observe, frame) for frame in block]
        laps[_NAIVE] += [_timed(recognizer.observe, frame) for frame in block[::5]]
    return {name: _figures(*(list(column) for column in zip(*rows, strict=True))) for name, rows in laps.items()}


def _timed(observe: Callable[[Frame], Seen], frame: Frame) -> tuple[float, float, int]:
    watch = Stopwatch()
    seen = observe(frame)
    return watch.cpu_seconds * 1e3, watch.seconds * 1e3, len(seen.findings)


def _figures(cpu_ms: Sequence[float], wall_ms: Sequence[float], faces: Sequence[float]) -> dict[str, float]:
    count = len(cpu_ms)
    return {
        "cpu_ms": round(sum(cpu_ms) / count, 3),
        "wall_ms": round(sum(wall_ms) / count, 3),
        "worst_wall_ms": round(max(wall_ms), 3),
        "faces_found": round(sum(faces) / count, 3),
        "frames": count,
    }


def _ratios(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How many times more CPU the others take at 640 x 480 with one face, and what was aimed at."""
    contestants: Mapping[str, Mapping[str, float]] = row["contestants"]
    ours = contestants[_LIVE]["cpu_ms"]
    ratios = {name: round(found["cpu_ms"] / ours, 1) for name, found in contestants.items() if name != _LIVE}
    return {
        name: {"times": times, "target": TARGETS.get(name), "reached": name not in TARGETS or times >= TARGETS[name]}
        for name, times in ratios.items()
    }


def _one_core(recognizer: FaceRecognizer, options: LiveBenchOptions, progress: Progress) -> dict[str, Any]:
    """Whether 30 frames a second of three faces fit into one core: CPU time of all threads counts."""
    progress("three faces at 640x480: does one core keep up with 30 fps?")
    found = _ours(recognizer, _frames(steady_scene((640, 480), 3, _WARM_FRAMES + options.frames)))[_LIVE]
    fps = 1e3 / found["cpu_ms"]
    return found | {"fps": round(fps, 1), "core_share_at_30_fps": round(FPS / fps, 3), "reached": fps >= FPS}


# Other libraries


def _peers(options: LiveBenchOptions) -> Iterator[tuple[str, str]]:
    if not options.peers:
        return
    yield "facenet-pytorch", sys.executable
    if options.peer_python is not None:
        yield "face_recognition", str(options.peer_python)
        yield "face_recognition, upsample 0", str(options.peer_python)


def _save(path: Path, frames: Sequence[Frame]) -> Path:
    import numpy as np

    step = max(1, len(frames) // _PEER_FRAMES)
    np.save(path, np.stack([frame.pixels for frame in frames[::step][:_PEER_FRAMES]]))
    return path


def _ask_peer(peer: str, python: str, files: Sequence[Path]) -> list[dict[str, list[float]]] | str:
    """The peer's measurements, one per file; or in words why there are none."""
    if not _PEER_SCRIPT.exists():
        return "models/peers.py is not installed: measure from a source checkout"
    command = [python, "-W", "ignore", str(_PEER_SCRIPT), peer, *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PEER_TIMEOUT_S, check=False)
        answer = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else {}
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return f"it could not be measured ({type(error).__name__})"
    if "results" not in answer:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return str(answer.get("absent") or lines[-1])
    results: list[dict[str, list[float]]] = answer["results"]
    return results


# Tracking


def tracking_scenes() -> dict[str, Scene]:
    """Clips with known truth: the sample clip, and crossings of different speed, either person in front."""
    from edge_app.media import sample

    stranger, obama, biden = sample.clip_scene().actors
    scenes = {"sample clip, 15 fps": sample.clip_scene(), "sample clip, 30 fps": sample.clip_scene(fps=30.0)}
    for seconds in (1.0, 2.0, 4.0):
        for back, front in ((obama, biden), (biden, obama), (obama, stranger), (stranger, obama), (stranger, biden)):
            names = " behind ".join((back.name or "stranger", front.name or "stranger"))
            ways = ((back, 0.2, 0.8), (front, 0.8, 0.2))
            actors = tuple(
                sample.Actor(
                    who.name,
                    who.cutout,
                    tuple(
                        sample.Pose(time_s, x, 0.45, 0.3)
                        for time_s, x in ((0, start), (0.5, start), (0.5 + seconds, end), (1.5 + seconds, end))
                    ),
                )
                for who, start, end in ways
            )
            scenes[f"{names}, crossing in {seconds:g} s"] = sample.Scene(actors, 1.5 + seconds, (640, 480), FPS)
    return scenes


def _tracking(recognizer: FaceRecognizer, progress: Progress) -> dict[str, Any]:
    from edge_app.bench.track_score import score
    from edge_app.live.video_recognizer import LiveRecognizer
    from edge_app.media import sample

    rows: dict[str, dict[str, Any]] = {}
    for name, scene in tracking_scenes().items():
        progress(f"tracking: {name}")
        live = LiveRecognizer(recognizer)
        seen = ((live.observe(frame).findings, truths) for frame, truths in sample.compose(scene))
        found = score(seen, away_frames=round(1.5 * scene.fps))
        rows[name] = {
            "identity_switches": found.identity_switches,
            "wrong_names": found.wrong_names,
            "flickers": found.flickers,
            "frames_to_name": found.frames_to_name,
            "never_named": found.never_named,
            "faces": found.faces,
            "found": found.found,
            "false_faces": found.false_faces,
        }
    slowest = max((frames for row in rows.values() for frames in row["frames_to_name"]), default=0)
    wrong = sum(row[what] for row in rows.values() for what in ("identity_switches", "wrong_names", "flickers"))
    missed = sum(row["never_named"] for row in rows.values())
    return {
        "clips": rows,
        "slowest_frames_to_name": slowest,
        "reached": slowest <= MAX_FRAMES_TO_NAME and wrong == missed == 0,
    }


# The long run


def soak(minutes: float, settings: Settings, progress: Progress, *, every_s: float = 5.0) -> dict[str, Any]:
    """Run the worker on the looped sample clip, and watch memory, threads and open files.

    `every_s`: seconds between two samples. Returns the figures and whether memory stayed flat: its mean over the last
    quarter within 5 % of that over the second one (the first warms up), no thread or handle more than then.
    """
    from edge_app.live.update import Update, WorkerOptions
    from edge_app.live.worker import Worker
    from edge_app.media.live_camera import LiveOptions

    samples: list[dict[str, float]] = []
    newest: list[Update] = []
    troubles: set[str] = set()
    events: dict[str, int] = {}

    def sink(update: Update) -> None:
        newest[:] = [update]
        if update.trouble:
            troubles.add(update.trouble)
        for event in update.events:
            events[event.event] = events.get(event.event, 0) + 1

    before = _resources()
    with tempfile.TemporaryDirectory(prefix="edge-app-soak-") as folder:
        bench = sample_session(Path(folder), settings)
        options = WorkerOptions(camera=LiveOptions(loop=True), touch=False)
        started_s, cpu_s = time.monotonic(), time.process_time()
        with Worker(bench, "sample", sink, options):
            while (gone_s := time.monotonic() - started_s) < minutes * 60:
                time.sleep(min(every_s, max(0.0, minutes * 60 - gone_s)))
                samples.append(_resources() | {"time_s": round(time.monotonic() - started_s, 1)})
                progress(f"soak {samples[-1]['time_s']:.0f} s: {samples[-1].get('rss_mb', 0):.1f} MB")
        cpu_s = time.process_time() - cpu_s
        bench.vault.close()
    if not newest:
        raise EdgeError("the live loop delivered nothing", remedy="run it longer, or look into the log")
    status = newest[0].status
    return _flatness(samples) | {
        "minutes": minutes,
        "frames": status.received,
        "dropped": status.dropped,
        "cpu_share": round(cpu_s / (minutes * 60), 3),
        "troubles": sorted(troubles),
        "events": events,
        "before": before,
        "after": _resources(),
        "samples": samples,
    }


def _resources() -> dict[str, float]:
    """Memory, threads and open files of this process; what the system does not tell is left out."""
    found: dict[str, float] = {"threads": threading.active_count()}
    status = Path("/proc/self/status")
    if status.exists():
        kept = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        found["rss_mb"] = round(int(kept["VmRSS"].split()[0]) / 1024, 2)
        found["system_threads"] = int(kept["Threads"])
        found["handles"] = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return found


def _flatness(samples: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter] or samples, samples[-quarter:]

    def mean(part: Sequence[Mapping[str, float]], what: str) -> float:
        return sum(sample.get(what, 0.0) for sample in part) / len(part)

    growth = mean(late, "rss_mb") / max(1e-9, mean(early, "rss_mb")) - 1 if "rss_mb" in samples[0] else 0.0
    leaked = {
        what: max(s.get(what, 0) for s in late) - max(s.get(what, 0) for s in early)
        for what in ("threads", "system_threads", "handles")
    }
    return {
        "rss_early_mb": round(mean(early, "rss_mb"), 1),
        "rss_late_mb": round(mean(late, "rss_mb"), 1),
        "rss_growth": round(growth, 4),
        "more": leaked,
        "flat": abs(growth) <= 0.05 and all(value <= 0 for value in leaked.values()),
    }
