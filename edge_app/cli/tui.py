"""The command `tui`, which `edge-app` alone runs too: the terminal app with its files, cameras and models."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options, results
from edge_app.cli.parameters import Arguments, Command, Option
from edge_app.cli.terminal_app import require_terminal, run_app
from edge_app.core.errors import EdgeError, MediaError, ModelError, UsageError
from edge_app.core.task import Task
from edge_app.system.files import readable_os_errors
from edge_app.system.new_file import write_new

if TYPE_CHECKING:
    from edge_app.core.types import Pixels, Seen
    from edge_app.media.cameras import CameraInfo
    from edge_app.model_store.shipped import Entry
    from edge_app.recognition.faces import PeopleSession
    from edge_app.system.data_folder import Home
    from edge_app.system.settings import Settings
    from edge_app.tui.app import EdgeApp
    from edge_app.tui.services import Desk, LiveWorker, ModelLine, Sink

_THUMBNAIL_PX = 160
_MEASURE_ROUNDS = 15
_REMEMBERED = "terminal"


def command() -> Command:
    return Command(
        "tui",
        run,
        example="edge-app tui --source 0",
        params=[
            Option("--source", metavar="SOURCE",
                help="camera number, file, folder, address or 'sample' (default: the last, or any)"),
            Option("--seconds", kind=float, metavar="S", help="close by itself after so long"),
            Option("--stats", kind=bool, help="when it closes, print how fast the pictures were drawn"),
            options.candidates(),
            *options.recognition(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Open the app and stay until it is closed."""
    require_terminal("for scripts there is `edge-app watch`")
    if args.seconds is not None and args.seconds <= 0:
        raise UsageError(f"--seconds is {args.seconds}", expected="a positive number")
    # 0.4 s of imports, so that no other command pays for them.
    from edge_app.fleet.follower import Follower
    from edge_app.system.data_folder import Home
    from edge_app.tui.app import compose_app

    home = Home.locate(args.home)
    options.exchange(home)
    app = compose_app(desk_of(args))
    if args.seconds is not None:
        app.call_later(app.set_timer, args.seconds, app.action_quit)
    started_s, cpu_s = time.monotonic(), time.process_time()
    with Follower(home.gallery_path, lambda _: None):  # the screen belongs to the app
        run_app(app)
    if args.stats:
        _print_stats(app, time.monotonic() - started_s, time.process_time() - cpu_s)
    return app.return_code or 0


def desk_of(args: Arguments) -> Desk:
    """Everything outside the app, for these arguments. Raises EdgeError for a broken settings file."""
    from edge_app.model_store import catalogue
    from edge_app.tui.picture.terminal import Terminal
    from edge_app.tui.services import Desk

    home, settings = options.settings(args)
    smallest = getattr(args, "min_face", None)
    source, notice = _source(getattr(args, "source", None), settings)
    notices = [notice] if notice else []
    candidates = options.chosen_candidates(args)
    if candidates is not None:
        who = "1 candidate is" if len(candidates) == 1 else f"{len(candidates):,} candidates are"
        notices.append(f"{who} named, and nobody else who is enrolled.")
    if settings.liveness == "passive" and not any(one.task is Task.LIVENESS for one in catalogue.installed(home)):
        settings = replace(settings, liveness="off")
        notices.append("No liveness network is installed any more: liveness is off.")
    return Desk(
        settings=settings,
        source=source,
        terminal=Terminal.detect(os.environ, (sys.__stderr__ or sys.stdout).encoding or ""),
        open_worker=lambda chosen, spec, sink: _open_worker(home, chosen, spec, sink, smallest, candidates),
        save_settings=home.change_settings,
        cameras=_cameras,
        snapshot=lambda shown: _snapshot(home, shown),
        pictures_named=pictures_named,
        decode=_decode,
        catalogue=_catalogue,
        add_model=lambda path: _add_model(home, path),
        remove_model=lambda model_id: _remove_model(home, model_id),
        changes_to_use=lambda model_id: _changes_to_use(home, model_id),
        measure=_measure,
        recall=lambda: home.recall(_REMEMBERED) or {},
        remember=lambda looks: home.remember(_REMEMBERED, dict(looks)),
        now_s=time.time,
        notices=tuple(notices),
    )


def _source(option: str | None, settings: Settings) -> tuple[str, str]:
    """What to watch, and what to say about it."""
    if option is not None:
        return option, ""
    if settings.source is not None:
        from edge_app.media.source_spec import parse_source

        try:
            parse_source(settings.source)
        except MediaError as error:
            return "sample", f"The last source cannot be used: {error}. This is the built-in sample clip."
        return settings.source, ""
    usable = [camera for camera in _cameras() if not camera.problem]
    if usable:
        return usable[0].spec, ""
    return "sample", "No camera was found: this is the built-in sample clip. Press c for another source."


def _cameras() -> Sequence[CameraInfo]:
    from edge_app.media.cameras import list_cameras

    return list_cameras()


def _open_worker(
    home: Home,
    settings: Settings,
    source: str,
    sink: Sink,
    min_face_px: float | None,
    candidates: tuple[str, ...] | None,
) -> LiveWorker:
    from edge_app.inference.detector import DetectorOptions
    from edge_app.live.passive_mode import PassiveMode
    from edge_app.live.update import WorkerOptions
    from edge_app.live.worker import Worker
    from edge_app.media.live_camera import LiveOptions
    from edge_app.recognition.liveness import open_liveness
    from edge_app.recognition.open_session import OpenOptions, open_people

    detector = DetectorOptions() if min_face_px is None else DetectorOptions(min_face_px=min_face_px)
    bench = open_people(home, settings, OpenOptions(detector=detector, candidates=candidates))
    mode = PassiveMode(bench, open_liveness(home, settings.threads)) if settings.liveness == "passive" else None
    return Worker(bench, source, sink, WorkerOptions(camera=LiveOptions(loop=True)), mode=mode)


def _snapshot(home: Home, shown: Seen) -> Path:
    """Write the picture with what was made of it as a private file in the data folder."""
    import cv2

    from edge_app.media.drawing import annotate

    drawn = annotate(shown)
    done, data = cv2.imencode(".png", drawn[..., ::-1])
    if not done:
        raise MediaError("the picture cannot be written as PNG")
    stamp = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{shown.frame.index:06d}"
    folder = home.path / "snapshots"
    results.make_folder(folder)
    with readable_os_errors(folder):
        return write_new(folder / f"{stamp}.png", lambda scratch: scratch.write_bytes(data.tobytes()))


def pictures_named(text: str) -> tuple[Path, ...]:
    """Picture files by what was typed, quoted as in a shell; folders stand for the pictures in them."""
    from edge_app.media.folders import find_pictures
    from edge_app.media.source_spec import typed_path

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r} cannot be read ({error})", remedy="close the quotes") from error
    found: list[Path] = []
    for word in words:
        path = typed_path(word)
        found += find_pictures(path) if path.is_dir() else [path]
    if not found:
        raise MediaError("no picture was named", expected="paths of pictures or folders")
    return tuple(found)


def _decode(data: bytes) -> Pixels:
    """A kept picture as RGB pixels, small."""
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise MediaError("a kept picture is damaged", remedy="forget the person and enroll again")
    scale = _THUMBNAIL_PX / max(pixels.shape[:2])
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    return np.ascontiguousarray(np.asarray(small, np.uint8)[..., ::-1])


def _catalogue(bench: PeopleSession) -> tuple[ModelLine, ...]:
    from edge_app.model_store.catalogue import catalogue

    looked_for = bench.home.settings().model
    lines = [_model_line(bench, entry, looked_for) for entry in catalogue(bench.home)]
    # What is in use comes first.
    return tuple(sorted(lines, key=lambda line: (not line.in_use, line.task, line.model_id, line.precision)))


def _model_line(bench: PeopleSession, entry: Entry, looked_for: str) -> ModelLine:
    """One build; a file that is gone or damaged is a line that says so, for it must be possible to remove it."""
    from edge_app.gallery.calibration import points_of
    from edge_app.model_store.onnx_inspect import inspect
    from edge_app.tui.services import ModelLine

    detector = bench.settings.detector
    used = entry == bench.choice.entry or entry.id in (detector, looked_for)
    used = used or (detector == "mtcnn" and entry.id.startswith("mtcnn-"))
    ms = bench.choice.medians_ms.get(entry.precision) if entry.id == bench.choice.entry.id else None
    line = ModelLine(entry.id, entry.precision, entry.task, None, entry.bytes, used, ms)
    try:
        card = inspect(entry.path).card
        if card is None:
            raise ModelError(f"{entry.path.name} carries no card", remedy="remove it, and add it again")
        points = points_of(bench.home, card, entry.sha256)
        threshold = _threshold(bench, entry) if used else None
    except EdgeError as error:
        return replace(line, problem=str(error))
    calibrated = points != card.operating_points
    return replace(line, card=card, points=points, calibrated=calibrated, threshold=threshold)


def _threshold(bench: PeopleSession, entry: Entry) -> float | None:
    """The similarity from which somebody, or something, is named; None for what names nobody."""
    from edge_app.tui.gallery_queries import thing_threshold

    if entry == bench.choice.entry:
        return bench.recognizer.rule.threshold
    return thing_threshold(bench, entry.id) if entry.task is Task.IMAGE_EMBEDDING else None


def _add_model(home: Home, path: Path) -> str:
    from edge_app.model_store.install import add

    return add(home, path).id


def _remove_model(home: Home, model_id: str) -> None:
    from edge_app.model_store.install import remove

    remove(home, model_id)


def _changes_to_use(home: Home, model_id: str) -> dict[str, Any]:
    from edge_app.model_store.install import changes_to_use

    return changes_to_use(home, model_id)


def _measure(bench: PeopleSession, model_id: str, precision: str) -> float:
    """Median milliseconds of one run; models of any size of picture get 320 x 240."""
    import numpy as np

    from edge_app.inference import onnx_model
    from edge_app.model_store.catalogue import catalogue
    from edge_app.system.timing import median_ms

    entry = next((one for one in catalogue(bench.home) if (one.id, one.precision) == (model_id, precision)), None)
    if entry is None:
        raise UsageError(f"{model_id} is not installed as {precision}")
    model = onnx_model.load(entry.path, threads=bench.settings.threads, sha256=entry.sha256)
    spec = model.card.input
    shape = (1, 3, spec.height_px or 240, spec.width_px or 320)
    picture = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    return median_ms(lambda: model.run(picture), _MEASURE_ROUNDS, warm_up=0)


def _print_stats(app: EdgeApp, seconds: float, cpu_s: float) -> None:
    """What was drawn on the first screen, and what it cost."""
    drawing = app.drawing
    if drawing is None or not drawing.drawn:
        raise EdgeError("no picture was drawn")
    status = app.latest.status if app.latest else None
    drawn = drawing.drawn
    options.say(f"{drawn} pictures drawn in {drawing.span_s:.1f} s: {drawn / drawing.span_s:.1f} fps; {drawing.size}")
    lines_ms, screen_ms = drawing.drawing_s / drawn * 1e3, drawing.screen_s / drawn * 1e3
    options.say(
        f"a picture: {lines_ms:.2f} ms CPU to make its lines, {screen_ms:.2f} ms CPU of the screen's thread in all"
    )
    options.say(f"a picture: {drawing.bytes_encoded / drawn / 1e3:.1f} kB sent")
    options.say(
        f"process: {cpu_s / seconds:.0%} of a core; {app.inbox.replaced} pictures replaced before they were drawn"
    )
    if status is not None:
        options.say(f"source: {status.received} received, {status.dropped} dropped")
