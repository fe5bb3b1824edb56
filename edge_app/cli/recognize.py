"""The command `recognize`: pictures, folders and video files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_app.cli import options, output, results
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.core.suggest import did_you_mean
from edge_app.core.types import Frame, Pixels
from edge_app.system.new_file import NewFiles

if TYPE_CHECKING:
    from edge_app.core.task import Words
    from edge_app.core.types import Seen
    from edge_app.media.folders import Unused
    from edge_app.media.source_spec import SourceSpec
    from edge_app.media.video_writer import VideoWriter
    from edge_app.recognition.session import Session

_MORE = """\
Pictures and clips may be old: who or what is named here does not count as
seen. "Last seen" in `edge-app gallery list` is noted by the live picture and
by `edge-app watch`.

Annotated copies never replace a file: a name that is taken gets a number. A
folder's pictures that are such copies are left out."""
_EXPECTED: Final = "a picture, a folder or a video file"
_COPY: Final = "annotated copy, by edge-app recognize --save"
"""The comment in an annotated picture, by which a later run knows it."""


def command() -> Command:
    return Command(
        "recognize",
        run,
        example="edge-app recognize party.jpg holiday/ clip.mp4 --save marked/\n"
        "         edge-app recognize holiday/ --recursive --only 'Ada Lovelace' --paths-only",
        more=_MORE,
        params=[
            Argument("sources", "SOURCE", "picture, folder or video file", many=True),
            Option("--save", kind=Path, metavar="DIR", help="write annotated copies there"),
            Option("--recursive", kind=bool, help="look into the sub-folders of folders too"),
            Option("--only", metavar="NAME", complete=options.enrolled_names,
                help="tell only of pictures and videos in which NAME is, a person, a thing, a label, a family"),
            Option("--paths-only", kind=bool,
                help="print the paths of those in which somebody, or NAME, is recognized, and nothing else"),
            Option("-0", "--null", kind=bool, help="end each of these paths with a zero byte, for xargs -0"),
            Option("--explain", kind=bool, help="with --save: show where a classifier saw its answer"),
            Option("--runner-up", kind=bool, help="with --explain: show where it saw the second best label"),
            Option("--top", kind=int, metavar="N", help="tell the N best labels (default: 3, in JSON all)"),
            options.json_flag(),
            *output.model_options(),
            options.candidates(),
            *options.recognition(),
        ],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Job:
    """One picture or video to look at."""

    spec: SourceSpec
    path: Path
    copy: Path | None
    """Where its annotated copy goes."""


@dataclass(slots=True)
class _Sum:
    """What a run has come to."""

    pictures: int = 0
    videos: int = 0
    empty: int = 0
    """Pictures with nothing on them."""
    copies: int = 0
    failed: int = 0
    names: Counter[str] = field(default_factory=Counter)
    """On pictures; "" for nobody that is known."""

    def add(self, seen: Seen) -> None:
        """Count one picture."""
        self.pictures += 1
        self.empty += not seen.findings
        self.names.update(finding.answer.name or "" for finding in seen.findings)

    def words(self, words: Words, *, finds_faces: bool) -> str:
        """The sum in one line, such as "12 pictures, 20 faces: Ada 5, 15 unknown"."""
        counts = [(self.pictures, "picture"), (self.videos, "video"), (self.names.total() * finds_faces, "face")]
        line = ", ".join(counted(number, noun) for number, noun in counts if number) or "nothing was looked at"
        told = [f"{name} {count}" for name, count in self.names.most_common() if name]
        if self.names[""]:
            told.append(f"{self.names['']} {'unknown' if words.unknown.endswith('unknown') else words.unknown}")
        if self.empty:
            told.append(f"{counted(self.empty, 'picture')} with {words.nothing}")
        line += f": {', '.join(told)}" if told else ""
        return line + (f"; {self.failed} could not be read or written" if self.failed else "")


def run(args: Arguments) -> int:
    """Recognize every source; 1 when one of them could not be read, the rest is done all the same."""
    from edge_app.media.folders import unused_line

    total = _Sum()

    def failed(error: EdgeError) -> None:
        total.failed += 1
        options.warn(str(error))

    if args.explain and args.save is None:
        raise UsageError("--explain has nowhere to draw", expected="--save DIR")
    if args.runner_up and not args.explain:
        raise UsageError("--runner-up has no map to draw", expected="--explain --save DIR")
    if args.paths_only and args.json:
        raise UsageError("both --paths-only and --json were given", expected="one of them")
    if args.null and not args.paths_only:
        raise UsageError("--null is for paths", expected="--paths-only")
    results.make_folder(args.save)
    unused: list[Unused] = []
    jobs = list(_jobs(args, failed, unused))
    if not jobs:
        return 1
    if args.threads is None and (len(jobs) > 1 or jobs[0].spec.kind == "video"):
        import cv2

        cv2.setNumThreads(1)
        args = args.replaced(threads=1)
    session = _open(args)
    _pictures(session, [job for job in jobs if job.spec.kind == "picture"], args, total, failed)
    for job in jobs:
        if job.spec.kind == "video":
            total.videos += 1
            _video(session, job, args, total, failed)
    if args.save is not None and not args.json:
        options.note(f"{counted(total.copies, 'annotated copy', 'annotated copies')} in {args.save}")
    if not args.json and (len(jobs) > 1 or total.pictures + total.videos != len(args.sources)):
        recognizer = session.recognizer
        options.note(total.words(recognizer.words, finds_faces=recognizer.finds_faces))
    if line := unused_line(unused):
        options.note(line)
    return 1 if total.failed else 0


def _jobs(args: Arguments, failed: Callable[[EdgeError], None], unused: list[Unused]) -> Iterator[_Job]:
    """Every picture and video that the sources name; what else their folders hold is added to `unused`."""
    from edge_app.media.folders import find_pictures
    from edge_app.media.pictures import comment_of
    from edge_app.media.source_spec import SourceSpec

    new = NewFiles()

    def job(spec: SourceSpec, path: Path) -> _Job:
        if args.save is None:
            return _Job(spec, path, None)
        [copy] = new.free(args.save / f"{path.stem}{'.jpg' if spec.kind == 'picture' else '.mp4'}")
        return _Job(spec, path, copy)

    for text in args.sources:
        try:
            spec = _parsed(text)
            if spec.kind not in ("picture", "video", "folder"):
                raise UsageError(
                    f"{spec.name} is a {spec.kind}",
                    expected=_EXPECTED,
                    remedy="cameras and streams are for `edge-app watch`",
                )
            if spec.kind != "folder":
                yield job(spec, Path(spec.target))
                continue
            found = find_pictures(Path(spec.target), recursive=args.recursive, unused=unused)
            pictures = [path for path in found if comment_of(path) != _COPY]
            if left := len(found) - len(pictures):
                ours = f"{counted(left, 'annotated copy', 'annotated copies')} of an earlier run"
                if not pictures:
                    raise MediaError(f"{spec.target} holds only {ours}", remedy="name one to look at it all the same")
                options.note(f"left out of {spec.target}: {ours}")
            for path in pictures:
                yield job(SourceSpec("picture", str(path), str(path)), path)
        except UsageError:
            raise
        except EdgeError as error:
            failed(error)


def _parsed(text: str) -> SourceSpec:
    """What a text names. Raises MediaError that offers what this command takes, which is less than others do."""
    from edge_app.media.source_spec import parse_source

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
    session = output.open_chosen(args, runner_up=args.runner_up)
    output.check_view(session, explain=args.explain, top=args.top)
    if args.only is not None:
        card, vault = session.recognizer.card, session.vault
        known = card.names if card is not None and card.task.classifies else vault.names() if vault is not None else ()
        if args.only not in known:
            raise UsageError(f"there is no {args.only!r} to look for", remedy=did_you_mean(args.only, known))
    output.tell_of(session, rule=not (args.json or args.paths_only))
    return session


def _pictures(
    session: Session, jobs: list[_Job], args: Arguments, total: _Sum, failed: Callable[[EdgeError], None]
) -> None:
    from edge_app.media.drawing import annotate
    from edge_app.media.pictures import read_picture, write_picture
    from edge_app.system.parallel import cores, ordered_map

    def look(job: _Job) -> Seen | EdgeError:
        try:
            seen = session.recognizer.observe(Frame(read_picture(job.path)), explain=args.explain, any_way_up=True)
            if job.copy is not None:
                write_picture(job.copy, annotate(seen), replace=False, comment=_COPY)
        except EdgeError as error:
            return error
        # The pixels of a thousand pictures must not wait for their turn to be printed.
        return replace(seen, frame=Frame(seen.frame.pixels[:1, :1].copy()))

    workers = min(cores(), max(1, len(jobs))) if args.threads == 1 else 1
    with options.progress(shown=len(jobs) > 1) as bar:
        task = bar.add_task("recognizing", total=len(jobs))
        for job, seen in zip(jobs, ordered_map(look, jobs, workers), strict=True):
            bar.advance(task)
            if isinstance(seen, EdgeError):
                failed(seen)
                continue
            total.add(seen)
            total.copies += job.copy is not None
            _report(session, job, seen, args)


def _video(session: Session, job: _Job, args: Arguments, total: _Sum, failed: Callable[[EdgeError], None]) -> None:
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
    told, written = False, False
    try:
        with open_source(str(job.path)) as source, options.progress() as bar:
            task = bar.add_task(job.path.name, total=source.frame_count)
            frames = _frames(source, failed)
            writer = _Marked(job.copy, source.fps, job.path) if job.copy is not None else None
            try:
                for found in ordered_map(look, frames, cores() if args.threads == 1 else 1):
                    seen = smoothing.smooth(found) if smoothing else found
                    bar.advance(task)
                    timeline.add(seen)
                    told = told or _is_told(seen, args)
                    if writer is not None:
                        writer.write(annotate(seen), seen.frame.time_s)
                    if args.json:
                        _report(session, job, seen, args)
            except BaseException:
                if writer is not None:
                    writer.abandon()
                raise
            written = writer is not None and writer.close()
            total.copies += written
    except EdgeError as error:
        failed(error)
    if args.paths_only and told:
        options.print_exactly(str(job.path), "\0" if args.null else "\n")
    elif not (args.json or args.paths_only) and timeline.frames and (told or args.only is None):
        options.say(f"{job.path}:", _copy_words(job) if written else "")
        for line in timeline.lines():
            options.say(f"  {line}")


def _frames(source: Any, failed: Callable[[EdgeError], None]) -> Iterator[Frame]:
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


def _is_told(seen: Seen, args: Arguments) -> bool:
    """Whether somebody is on a picture, or who --only asks for."""
    names = {finding.answer.name for finding in seen.findings} - {None}
    return bool(names) if args.only is None else args.only in names


def _report(session: Session, job: _Job, seen: Seen, args: Arguments) -> None:
    if (args.only is not None or args.paths_only) and not _is_told(seen, args):
        return
    if args.paths_only:
        options.print_exactly(str(job.path), "\0" if args.null else "\n")
    elif args.json:
        copy = {} if job.copy is None else {"copy": str(job.copy)}
        options.print_json(output.as_json(session, str(job.path), seen, args.top) | copy)
    else:
        options.say(f"{job.path}: ", *output.line(session, seen, args.top), _copy_words(job))


def _copy_words(job: _Job) -> str:
    """What the copy is called where that is not the source's own name."""
    return "" if job.copy is None or job.copy.stem == job.path.stem else f" (copy: {job.copy.name})"


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
            self._writer = VideoWriter(self._path, size_px, self._fps, sound_of=self._source, replace=False)
        self._writer.write(pixels, time_s)

    def close(self) -> bool:
        """Give the video its name; False when there was no frame, and so no video."""
        if self._writer is None:
            return False
        self._writer.close()
        if self._writer.note:
            options.note(self._writer.note)
        return True

    def abandon(self) -> None:
        """Leave nothing."""
        if self._writer is not None:
            self._writer.abandon()
