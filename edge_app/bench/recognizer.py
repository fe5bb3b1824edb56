"""Times the recognizer on this machine: each stage, the whole, and other libraries in the same run.

All figures are medians. Contestants take turns call by call, so that a busy moment of the machine slows all of them,
and ratios mean more than milliseconds. The user's gallery is not touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_app.core.errors import EdgeError
from edge_app.core.types import Embedding, Face, Frame, Pixels, Quality, Template
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.inference import onnx_model
from edge_app.inference.embedder import Embedder
from edge_app.inference.geometry import to_input
from edge_app.system.parallel import cores, ordered_map
from edge_app.system.settings import Settings
from edge_app.system.timing import WARM_UP_ROUNDS, Stopwatch, median_ms, median_ratio, medians, timed, times_in_turns

if TYPE_CHECKING:
    from edge_app.recognition.faces import PeopleSession

Progress = Callable[[str], None]
Contestant = Callable[[], float]
"""One turn; returns its milliseconds."""

FRAME_PX: Final = (640, 480)
_PEER_SCRIPT: Final = Path(__file__).resolve().parent / "peer_speed.py"
_FACENET: Final = "facenet-pytorch"
_FACE_RECOGNITION: Final = "face_recognition"
_OURS: Final = "edge-app"
_ORIGINAL: Final = "ONNX Runtime on the original file"
PEERS: Final = (_FACENET, _FACE_RECOGNITION, f"{_FACE_RECOGNITION}, upsample 0")
TEMPLATES: Final = 100_000
# On Linux a child's peak memory counts what its parent held when it was forked: a small parent tells the truth.
_LAUNCHER: Final = """
import subprocess, sys, time
begun = time.perf_counter()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
took = time.perf_counter() - begun
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
except ImportError:
    peak = 0
print(took, peak)
sys.exit(code)
"""
TARGETS: Final[Mapping[tuple[str, str], float]] = {
    ("one embedding", _FACE_RECOGNITION): 5.0,
    ("one embedding", _ORIGINAL): 2.0,
    ("one embedding, dlib-face", _FACE_RECOGNITION): 10.0,
    ("640x480 frame", _FACENET): 5.0,
    ("640x480 frame", _FACE_RECOGNITION): 7.0,
}
"""How many times as fast as each contestant we mean to be."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    settings: Settings = field(default_factory=Settings)
    """Precision, detector and threads to measure with; None threads: one per core."""
    rounds: int = 30
    """Turns of each contestant, after the warm-up."""
    pictures: int = 1000
    """Pictures of the folder that is recognized with one worker and with all; 0: leave that out."""
    original: Path | None = None
    """The embedder's file as its makers published it, to run beside ours."""
    peers: bool = False
    """Run other libraries beside ours, where they are installed."""
    peer_python: Path | None = None
    """Interpreter that has face_recognition; None: this one."""
    beside: Path | None = None
    """Another embedder's file, whose embedding is timed against the peers' in a contest of its own."""


def run(options: BenchOptions, progress: Progress) -> dict[str, Any]:
    """Measure everything. `progress` gets a line before each part.

    Returns {"machine", "stages", "contests": rows of (what, who, ms, ratio, target), "folder", "gallery", "process",
    "absent": why a peer was left out}.
    """
    from edge_app.bench.live_loop import sample_session

    threads = options.settings.threads or cores()
    settings = replace(options.settings, threads=threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="edge-app-bench-") as name:
        folder = Path(name)
        bench = sample_session(folder, settings)
        progress("stages and contestants")
        contests, absent = _contests(bench, options, threads, folder)
        result: dict[str, Any] = {
            "machine": machine() | {"threads": threads, "load before": load},
            "precision": bench.choice.entry.precision,
            "why": bench.choice.why,
            "stages": _stages(bench, options.rounds),
            "contests": contests,
            "absent": absent,
        }
        if options.pictures:
            progress(f"a folder of {options.pictures:,} pictures")
            result["folder"] = _folder(replace(settings, precision=result["precision"]), options.pictures, folder)
        progress(f"a gallery of {TEMPLATES:,} templates")
        result["gallery"] = _gallery(bench, folder)
        progress("the command from start to end")
        result["process"] = _process(folder)
        bench.vault.close()
    return result


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    from edge_app.model_store.choose_build import processor

    return {
        "processor": processor().split("  ")[0].split(" fpu ")[0].strip(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnx_model.version(),
    }


def sample_frame() -> Frame:
    """The 640x480 frame with one face that everything is measured on."""
    from edge_app.bench.live_loop import steady_scene
    from edge_app.media import sample

    return sample.render(steady_scene(FRAME_PX, 1, 1), 0)[0]


# Stages and contestants


def _stages(bench: PeopleSession, rounds: int) -> dict[str, float]:
    """Median milliseconds of each stage of one frame."""
    frame = sample_frame()
    laps = [bench.recognizer.observe(frame).timings_ms for _ in range(rounds + WARM_UP_ROUNDS)][WARM_UP_ROUNDS:]
    return medians({stage: [lap[stage] for lap in laps] for stage in laps[0]}, digits=3)


def _contests(
    bench: PeopleSession, options: BenchOptions, threads: int, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One embedding and one whole frame, by us and by the others; and who could not be had."""
    frame = sample_frame()
    faces = bench.recognizer.detector.detect(frame.pixels)
    if len(faces) != 1:
        raise EdgeError(f"{len(faces)} faces were found in the sample frame", expected="one")
    embedding: dict[str, Contestant] = {
        _OURS: timed(lambda: _embed_with(bench.recognizer.embedder, frame.pixels, faces[0]))
    }
    whole: dict[str, Contestant] = {_OURS: timed(lambda: bench.recognizer.observe(frame))}
    network = dict(_networks(bench, options.original, threads, frame.pixels, faces[0]))
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        file = folder / "frame.npy"
        np.save(file, frame.pixels)
        box = [float(value) for value in faces[0].box]
        for peer in PEERS if options.peers else ():
            ask = stack.enter_context(_peer(peer, _python(options, peer), threads))
            if isinstance(ask, str):
                absent[peer] = ask
                continue
            whole[peer] = lambda ask=ask: ask(file, None)  # type: ignore[misc]
            if not peer.endswith("upsample 0"):  # the same call with a known box
                embedding[peer] = lambda ask=ask: ask(file, box)  # type: ignore[misc]
        rows = _take_turns("one embedding", embedding, options.rounds)
        if options.beside is not None:
            rows += _beside(options, threads, frame.pixels, faces[0], embedding)
        rows += _take_turns("640x480 frame", whole, options.rounds)
    if len(network) > 1:
        rows += [row | {"what": "one embedding", "only": "network"} for row in _take_turns("", network, options.rounds)]
    return [_against_target(row) for row in rows], absent


def _beside(
    options: BenchOptions, threads: int, pixels: Pixels, face: Face, embedding: Mapping[str, Contestant]
) -> list[dict[str, Any]]:
    """The same face by another embedder of ours, cut as it wants it, in turns with the peers."""
    assert options.beside is not None
    embedder = Embedder(onnx_model.load(options.beside, threads=threads))
    contestants = dict(embedding) | {_OURS: timed(lambda: _embed_with(embedder, pixels, face))}
    return _take_turns(f"one embedding, {embedder.model_id}", contestants, options.rounds)


def _embed_with(embedder: Embedder, pixels: Pixels, face: Face) -> None:
    embedder.embed(embedder.crops(pixels, [face]))


def _networks(
    bench: PeopleSession, original: Path | None, threads: int, pixels: Pixels, face: Face
) -> Iterator[tuple[str, Contestant]]:
    """Our graph and the original one on the same crop: the network alone, as a crop is not the original's business."""
    embedder = bench.recognizer.embedder
    crop = embedder.crops(pixels, [face])
    batch = to_input(crop, embedder.card.input)
    yield _OURS, timed(lambda: embedder.vectors(crop))
    if original is not None:
        session = onnx_model.raw_session(original, threads)
        yield _ORIGINAL, timed(lambda: session(batch))


def _take_turns(what: str, contestants: Mapping[str, Contestant], rounds: int) -> list[dict[str, Any]]:
    """Let everybody run once per round; a row per contestant with the median and how many times as long as ours."""
    times = times_in_turns(contestants, rounds)
    return [
        {"what": what, "who": name, "ms": ms, "ratio": round(median_ratio(times[name], times[_OURS]), 2)}
        for name, ms in medians(times, digits=3).items()
    ]


def _against_target(row: dict[str, Any]) -> dict[str, Any]:
    target = TARGETS.get((row["what"], row["who"]))
    return row if target is None else row | {"target": target, "met": row["ratio"] >= target}


def _python(options: BenchOptions, peer: str) -> str:
    other = options.peer_python if peer.startswith(_FACE_RECOGNITION) else None
    return str(other or sys.executable)


@contextmanager
def _peer(name: str, python: str, threads: int) -> Iterator[Callable[[Path, Sequence[float] | None], float] | str]:
    """A peer's process: a function that gives it one task, or why there is none."""
    if not _PEER_SCRIPT.is_file():
        yield f"{_PEER_SCRIPT.name} is not installed"
        return
    command = [python, "-W", "ignore", str(_PEER_SCRIPT), name, "--threads", str(threads)]
    surroundings = os.environ | {"OMP_NUM_THREADS": str(threads)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=surroundings
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        tasks, answers = process.stdin, process.stdout
        hello = _message(answers.readline(), name)
        if "absent" in hello:
            yield str(hello["absent"]).splitlines()[0]
            return

        def ask(file: Path, box: Sequence[float] | None) -> float:
            tasks.write(json.dumps({"frame": str(file), "box": box}) + "\n")
            tasks.flush()
            told = _message(answers.readline(), name)
            if told["faces"] != 1:
                raise EdgeError(f"{name} found {told['faces']} faces in the sample frame", expected="one")
            return float(told["ms"])

        yield ask
        tasks.close()


def _message(line: str, name: str) -> dict[str, Any]:
    if not line:
        raise EdgeError(f"{name} ended without an answer", remedy="run without --peers")
    told: dict[str, Any] = json.loads(line)
    return told


# The folder


def _folder(settings: Settings, count: int, folder: Path) -> dict[str, Any]:
    """Pictures per second with one worker and with one per core, in turns of a tenth of the folder."""
    import cv2

    from edge_app.media.pictures import read_picture
    from edge_app.recognition.open_session import open_people
    from edge_app.system.data_folder import Home

    paths = _many_pictures(folder / "pictures", count)
    bench = open_people(Home(folder / "home"), replace(settings, threads=1))
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    seconds = {1: 0.0, cores(): 0.0}
    ceiling = dict(seconds)
    step = max(1, count // 10)
    for start in range(0, count, step):
        for workers in seconds:
            ceiling[workers] += _yardstick_s(workers)
            watch = Stopwatch()
            for _ in ordered_map(
                lambda path: bench.recognizer.observe(Frame(read_picture(path))), paths[start : start + step], workers
            ):
                pass
            seconds[workers] += watch.seconds
    cv2.setNumThreads(before)
    bench.vault.close()
    rates = {workers: count / took for workers, took in seconds.items()}
    return {
        "pictures": count,
        "workers": cores(),
        "one worker per s": round(rates[1], 1),
        "all workers per s": round(rates[cores()], 1),
        "gain": round(rates[cores()] / rates[1], 2),
        "ceiling": round(ceiling[1] / ceiling[cores()], 2),
    }


def _yardstick_s(workers: int) -> float:
    """Seconds for hashing, which scales with free cores and nothing else: what the machine had to give just then."""
    block = bytes(4 << 20)
    watch = Stopwatch()
    for _ in ordered_map(lambda _: hashlib.sha256(block).digest(), range(16), workers):
        pass
    return watch.seconds


def _many_pictures(folder: Path, count: int) -> list[Path]:
    """Sample pictures at many sizes, mirrored and not, as JPEG files."""
    import cv2

    from edge_app.media import sample
    from edge_app.media.pictures import read_picture

    folder.mkdir()
    originals = [path for paths in sample.people().values() for path in paths] + [sample.stranger()]
    made = []
    for number in range(40):
        pixels = read_picture(originals[number % len(originals)])
        share = 1.0 - 0.012 * number
        size = (round(pixels.shape[1] * share), round(pixels.shape[0] * share))
        small = cv2.resize(pixels[:, :: -1 if number % 2 else 1], size, interpolation=cv2.INTER_AREA)
        made.append(cv2.imencode(".jpg", small[..., ::-1])[1].tobytes())
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(made[number % len(made)])
    return paths


# The gallery and the process


def _gallery(bench: PeopleSession, folder: Path) -> dict[str, Any]:
    """Loading 100,000 people of one template each from disk, and matching one face against them."""
    from edge_app.gallery.matching import Gallery
    from edge_app.gallery.storage import Vault

    model_id = bench.recognizer.embedder.model_id
    size = bench.recognizer.embedder.card.embedding_size or 128
    vectors = np.random.default_rng(0).standard_normal((TEMPLATES, size)).astype(np.float32)
    quality = Quality(100, 0.3, 120, 0, 0, 0.5, 0, 0.9)
    with Vault(folder / "large.sqlite") as vault, vault.transaction():
        for number, vector in enumerate(vectors):
            vault.add(f"person {number}", [Template(Embedding(vector, model_id), quality, "bench", 0.0)])
    loads = []
    for _ in range(3):
        with Vault(folder / "large.sqlite") as vault:
            watch = Stopwatch()
            gallery = Gallery.of_means(vault.read(model_id))
            loads.append(watch.seconds)
    return {"templates": TEMPLATES, "load_s": round(statistics.median(loads), 3), "match_ms": _match_ms(gallery, size)}


def _match_ms(gallery: Gallery, size: int) -> float:
    rng = np.random.default_rng(1)
    rule = MatchRule(0.4, 0.05, 0.01, 1e-7, "")
    face = Embedding(rng.standard_normal(size).astype(np.float32), gallery.model_id)
    return round(median_ms(lambda: gallery.match([face], rule), rounds=20, warm_up=0), 2)


def _process(folder: Path, runs: int = 5) -> dict[str, Any]:
    """`edge-app recognize one.jpg` from process start to end: seconds and the most memory it held."""
    from edge_app.media import sample

    picture = sample.probes()[next(iter(sample.probes()))][0]
    command = [sys.executable, "-m", "edge_app", "recognize", str(picture), "--home", str(folder / "home"), "--json"]
    outcomes = [run_and_weigh(command) for _ in range(runs + 1)]
    help_s = [run_and_weigh([sys.executable, "-m", "edge_app", "--help"])[0] for _ in range(3)]
    return {
        "recognize_s": round(statistics.median(took for took, _ in outcomes[1:]), 3),
        "first_s": round(outcomes[0][0], 3),
        "peak_mb": round(max(peak for _, peak in outcomes) / 1e6, 1),
        "help_s": round(statistics.median(help_s), 3),
    }


def run_and_weigh(command: Sequence[str]) -> tuple[float, float]:
    """Seconds from start to end, and peak resident bytes (0 where the system does not tell)."""
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", _LAUNCHER, *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        told = done.stderr.strip().splitlines()
        raise EdgeError(f"{' '.join(command[1:4])} ended with {done.returncode}: {told[-1] if told else 'no word'}")
    took, peak = done.stdout.split()
    return float(took), float(peak)
