"""The command `recognize`: pictures, folders and video files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options, output
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.core.types import Frame, Pixels

if TYPE_CHECKING:
    from edge_app.core.types import Seen
    from edge_app.media.folders import Unused
    from edge_app.media.sources import SourceSpec
    from edge_app.media.video_writer import VideoWriter
    from edge_app.recognition.session import Session

_NOT_SEEN = """\
Pictures and clips may be old: who or what is named here does not count as
seen. "Last seen" in `edge-app gallery list` is noted by the live picture and
by `edge-app watch`."""


_EXPECTED = "a picture, a folder or a video file"


def command() -> Command:
    return Command(
        "recognize",
        run,
        example="edge-app recognize party.jpg holiday/ clip.mp4 --save marked/",
        more=_NOT_SEEN,
        params=[
            Argument("sources", "SOURCE", "picture, folder or video file", many=True),
            Option("--save", kind=Path, metavar="DIR", help="write annotated copies there"),
            Option("--recursive", kind=bool, help="look into the sub-folders of folders too"),
            Option("--explain", kind=bool, help="with --save: show where a classifier saw its answer"),
            Option("--top", kind=int, metavar="N", help="tell the N best labels (default: 3, in JSON all)"),
            options.json_flag(),
            *output.model_options(),
            *options.recognition(),
        ],
    )


def run(args: Arguments) -> int:
    """Recognize every source; 1 when one of them could not be read, the rest is done all the same."""
    from edge_app.media.folders import unused_line

    failures: list[str] = []

    def failed(error: EdgeError) -> None:
        failures.append(str(error))
        options.warn(str(error))

    if args.explain and args.save is None:
        raise UsageError("--explain has nowhere to draw", expected="--save DIR")
    if args.save is not None:
        _make_folder(args.save)
    unused: list[Unused] = []
    jobs = list(_jobs(args, failed, unused))
    if not jobs:
        return 1
    if args.threads is None and (len(jobs) > 1 or jobs[0].spec.kind == "video"):
        import cv2

        cv2.setNumThreads(1)
        args = args.replaced(threads=1)
    session = _open(args)
    namer = _Namer(args.save)
    pictures = [job for job in jobs if job.spec.kind == "picture"]
    _pictures(session, pictures, args, namer, failed)
    for job in jobs:
        if job.spec.kind == "video":
            _video(session, job, args, namer, failed)
    if args.save is not None and not args.json:
        copies = "1 annotated copy" if namer.written == 1 else f"{namer.written} annotated copies"
        options.warn(f"{copies} in {args.save}")
    if line := unused_line(unused):
        options.warn(line)
    return 1 if failures else 0


@dataclass(frozen=True, slots=True)
class _Job:
    spec: SourceSpec
    path: Path


def _jobs(args: Arguments, failed: Any, unused: list[Unused]) -> Iterator[_Job]:
    """Every picture and video that the sources name; what else their folders hold is added to `unused`."""
    from edge_app.media.folders import find_pictures
    from edge_app.media.sources import SourceSpec

    for text in args.sources:
        try:
            spec = _parsed(text)
            if spec.kind not in ("picture", "video", "folder"):
                raise UsageError(
                    f"{spec.name} is a {spec.kind}",
                    expected=_EXPECTED,
                    remedy="cameras and streams are for `edge-app watch`",
                )
            if spec.kind == "folder":
                for path in find_pictures(Path(spec.target), recursive=args.recursive, unused=unused):
                    yield _Job(SourceSpec("picture", str(path), str(path)), path)
            else:
                yield _Job(spec, Path(spec.target))
        except UsageError:
            raise
        except EdgeError as error:
            failed(error)


def _parsed(text: str) -> SourceSpec:
    """What a text names. Raises MediaError that offers what this command takes, which is less than others do."""
    from edge_app.media.sources import parse_source

    try:
        return parse_source(text)
    except MediaError as error:
        raise MediaError(error.found, expected=_EXPECTED, remedy="check the path") from error


def _open(args: Arguments) -> Session:
    """What is looked for; tells what the user should know of it.

    With many pictures each gets one thread: all cores stay busy on different pictures, and batches save nothing more.
    `edge-app bench --batches` on two cores, ms for one picture, alone / in the best batch / on both threads in the best
    batch: EfficientNet-Lite0 8.8 / 8.4 / 10.1, as INT8 6.3 / 6.1 / 7.4; SFace 11.2 / 11.1 / 12.9, as INT8 8.0 / 6.3 /
    7.2. Larger batches than the best lose, and the last gain, of a fifth, would have faces of several pictures wait.
    """
    session = output.open_chosen(args)
    output.check_view(session, explain=args.explain, top=args.top)
    output.tell_of(session, rule=not args.json)
    return session


def _pictures(session: Session, jobs: list[_Job], args: Arguments, namer: _Namer, failed: Any) -> None:
    from edge_app.media.drawing import annotate
    from edge_app.media.pictures import read_picture, write_picture
    from edge_app.system.parallel import cores, ordered_map

    def look(job: _Job) -> Seen | EdgeError:
        try:
            seen = session.recognizer.observe(Frame(read_picture(job.path)), explain=args.explain, any_way_up=True)
            if args.save is not None:
                write_picture(namer.name(job.path, ".jpg"), annotate(seen))
        except EdgeError as error:
            return error
        # The pixels of a thousand pictures must not wait for their turn to be printed.
        return replace(seen, frame=Frame(seen.frame.pixels[:1, :1].copy()))

    namer.reserve([job.path for job in jobs], ".jpg")
    workers = min(cores(), max(1, len(jobs))) if args.threads == 1 else 1
    with options.progress(shown=len(jobs) > 1) as bar:
        task = bar.add_task("recognizing", total=len(jobs))
        for job, seen in zip(jobs, ordered_map(look, jobs, workers), strict=True):
            bar.advance(task)
            if isinstance(seen, EdgeError):
                failed(seen)
            else:
                namer.written += args.save is not None
                _report(session, str(job.path), seen, args)


def _video(session: Session, job: _Job, args: Arguments, namer: _Namer, failed: Any) -> None:
    from edge_app.media.drawing import annotate
    from edge_app.media.sources import open_source
    from edge_app.recognition.smoothing import Smoothing
    from edge_app.recognition.timeline import Timeline
    from edge_app.system.parallel import cores, ordered_map

    def look(frame: Frame) -> Seen:
        return session.recognizer.observe(frame, explain=args.explain)

    recognizer = session.recognizer
    timeline = Timeline(recognizer.words)
    # Answers of a classifier, or of things, are averaged over the last frames, as in the live loop.
    smoothing = None if session.look_for.is_people else Smoothing(follows_faces=recognizer.finds_faces)
    try:
        with open_source(str(job.path)) as source, options.progress() as bar:
            task = bar.add_task(job.path.name, total=source.frame_count)
            frames = _frames(source, failed)
            writer = _Marked(namer.name(job.path, ".mp4"), source.fps, job.path) if args.save is not None else None
            try:
                for found in ordered_map(look, frames, cores() if args.threads == 1 else 1):
                    seen = smoothing.smooth(found) if smoothing else found
                    bar.advance(task)
                    timeline.add(seen)
                    if writer is not None:
                        writer.write(annotate(seen), seen.frame.time_s)
                    if args.json:
                        _report(session, str(job.path), seen, args)
            except BaseException:
                if writer is not None:
                    writer.abandon()
                raise
            if writer is not None:
                namer.written += writer.close()
    except EdgeError as error:
        failed(error)
    if not args.json and timeline.frames:
        options.say(f"{job.path}:")
        for line in timeline.lines():
            options.say(f"  {line}")


def _frames(source: Any, failed: Any) -> Iterator[Frame]:
    """Frames to the end; a video that ends early is reported, what was there counts."""
    while True:
        try:
            frame = source.read()
        except MediaError as error:
            failed(error)
            return
        if frame is None:
            return
        yield frame


def _report(session: Session, source: str, seen: Seen, args: Arguments) -> None:
    if args.json:
        options.print_json(output.as_json(session, source, seen, args.top))
    else:
        options.say(f"{source}: {output.line(session, seen, args.top)}")


class _Namer:
    """Names for annotated copies: no two alike, none over its own source."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._names: dict[Path, Path] = {}
        self.written = 0
        """Copies that lie there by now."""

    def reserve(self, sources: list[Path], suffix: str) -> None:
        """Fix the names in the sources' order, before threads ask for them."""
        if self._folder is not None:
            for source in sources:
                self.name(source, suffix)

    def name(self, source: Path, suffix: str) -> Path:
        """The copy's path."""
        if source not in self._names:
            taken = set(self._names.values()) | {source.absolute()}
            folder = (self._folder or Path()).absolute()
            candidates = (folder / f"{source.stem}{extra}{suffix}" for extra in _extras())
            self._names[source] = next(path for path in candidates if path not in taken)
        return self._names[source]


def _extras() -> Iterator[str]:
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


class _Marked:
    """An annotated video, opened at its first frame."""

    def __init__(self, path: Path, fps: float | None, source: Path) -> None:
        self._path, self._fps, self._source = path, fps or 25.0, source
        self._writer: VideoWriter | None = None

    def write(self, pixels: Pixels, time_s: float) -> None:
        """Append one annotated frame, which is shown at `time_s`."""
        from edge_app.media.video_writer import VideoWriter

        if self._writer is None:
            size_px = pixels.shape[1], pixels.shape[0]
            self._writer = VideoWriter(self._path, size_px, self._fps, sound_of=self._source)
        self._writer.write(pixels, time_s)

    def close(self) -> bool:
        """Give the video its name; False when there was no frame, and so no video."""
        if self._writer is None:
            return False
        self._writer.close()
        if self._writer.note:
            options.warn(self._writer.note)
        return True

    def abandon(self) -> None:
        """Leave nothing."""
        if self._writer is not None:
            self._writer.abandon()


def _make_folder(folder: Path) -> None:
    from edge_app.system.files import make_private_folder, readable_os_errors

    with readable_os_errors(folder):
        make_private_folder(folder)
