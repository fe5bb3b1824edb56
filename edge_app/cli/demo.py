"""The command `demo`: people from two pictures, a clip, a stranger, and what came of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options, results
from edge_app.cli.parameters import Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError
from edge_app.system.new_file import NewFiles

if TYPE_CHECKING:
    from edge_app.core.types import Finding, Seen
    from edge_app.media.sample.scene import Truth
    from edge_app.recognition.faces import PeopleSession


def command() -> Command:
    return Command(
        "demo",
        run,
        example="edge-app demo --output demo/",
        params=[
            Option("--output", kind=Path, default=Path("edge-app-demo"), metavar="DIR",
                help="where the picture and video go"),
            options.json_flag(),
            *options.recognition(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Run the demo in a data folder of its own, which vanishes; 1 when somebody was taken for somebody else."""
    results.make_folder(args.output)
    with tempfile.TemporaryDirectory(prefix="edge-app-demo-") as scratch, contextlib.ExitStack() as stack:
        args = args.replaced(home=Path(scratch), threads=1 if args.threads is None else args.threads)
        bench = options.people(args)
        stack.callback(bench.vault.close)
        enrolled = _enroll(bench, args)
        bench = bench.refreshed()
        result = _walk(bench, args)
    if args.json:
        options.print_json({"enrolled": enrolled, **result.as_json()})
    else:
        _tell(bench, result)
    return 0 if result.well else 1


def _enroll(bench: PeopleSession, args: Arguments) -> list[dict[str, Any]]:
    from edge_app.gallery.enrollment import EnrollOptions
    from edge_app.media import sample
    from edge_app.media.pictures import read_picture

    reports = []
    for name, paths in sample.people().items():
        looks = [(path.name, bench.recognizer.shot(read_picture(path), path.name)) for path in paths]
        verdicts = bench.enroll(name, looks, EnrollOptions())
        accepted = sum(v.accepted for v in verdicts)
        if not accepted:
            raise EdgeError(f"the sample pictures of {name} were refused", remedy="reinstall edge-app")
        reports.append({"name": name, "accepted": accepted, "shots": [v.source for v in verdicts]})
        if not args.json:
            few = "" if accepted > 1 else " (one works with a warning: two are clearly better)"
            options.say(f"enrolled {name} from {counted(accepted, 'picture')}{few}")
    return reports


@dataclass(slots=True)
class _Result:
    picture: Path
    video: Path
    lines: list[str] = field(default_factory=list)
    stretches: list[dict[str, Any]] = field(default_factory=list)
    named: Counter[str] = field(default_factory=Counter)
    """Frames in which somebody was found and rightly named, by name; "" for the stranger left unnamed."""
    unnamed: Counter[str] = field(default_factory=Counter)
    """Frames in which an enrolled person was found and not named."""
    wrong: int = 0
    """Frames in which somebody was given another's name: should be 0."""

    @property
    def well(self) -> bool:
        """Everybody enrolled was recognized, nobody was taken for another."""
        from edge_app.media import sample

        return self.wrong == 0 and all(self.named[name] > 0 for name in sample.people())

    def as_json(self) -> dict[str, Any]:
        return {
            "seen": self.stretches,
            "frames_named": {name: n for name, n in self.named.items() if name},
            "frames_not_named": dict(self.unnamed),
            "stranger_frames_left_unknown": self.named[""],
            "frames_misnamed": self.wrong,
            "picture": str(self.picture),
            "video": str(self.video),
        }


def _walk(bench: PeopleSession, args: Arguments) -> _Result:
    """The sample clip through the pipeline of any video, judged by what is known about it."""
    from dataclasses import asdict

    from edge_app.media import sample
    from edge_app.media.drawing import annotate
    from edge_app.media.pictures import write_picture
    from edge_app.media.video_writer import VideoWriter
    from edge_app.recognition.timeline import Timeline
    from edge_app.system.parallel import cores, ordered_map

    folder = args.output.absolute()
    picture_path, video_path = NewFiles().free(folder / "demo.jpg", folder / "demo.mp4")
    result = _Result(picture_path, video_path)
    timeline, best, poster = Timeline(), (0, 0.0), None
    scene = sample.clip_scene()
    with VideoWriter(result.video, scene.size_px, scene.fps, replace=False) as video, options.progress() as bar:
        task = bar.add_task("watching the clip", total=round(scene.duration_s * scene.fps))
        for seen, truth in ordered_map(
            lambda pair: (bench.recognizer.observe(pair[0]), pair[1]), sample.clip(), cores()
        ):
            bar.advance(task)
            timeline.add(seen)
            _judge(result, seen, truth)
            marked = annotate(seen)
            video.write(marked)
            # The picture shows the frame that tells most people apart, the smallest of them as large as may be.
            rank = (
                len({s.name for s in seen.findings}),
                min((_inside_px(s, scene.size_px) for s in seen.findings), default=0.0),
            )
            if rank > best:
                best, poster = rank, marked
    if poster is not None:
        write_picture(result.picture, poster, replace=False)
    result.lines = timeline.lines()
    result.stretches = [asdict(stretch) for stretch in timeline.stretches()]
    return result


def _inside_px(finding: Finding, size_px: tuple[int, int]) -> float:
    """Width of a face as far as it is inside the picture."""
    left, _, right, _ = (float(v) for v in finding.box)
    return min(right, size_px[0]) - max(left, 0.0)


def _judge(result: _Result, seen: Seen, truth: tuple[Truth, ...]) -> None:
    """Hold what was seen against who was really there."""
    import numpy as np

    from edge_app.inference.geometry import box_iou

    if not truth:
        result.wrong += sum(s.name is not None for s in seen.findings)
        return
    boxes = np.stack([person.box for person in truth]).astype(np.float32)
    for finding in seen.findings:
        overlap = box_iou(finding.box[None], boxes)[0]
        if overlap.max() < 0.3:
            result.wrong += finding.name is not None
            continue
        person, name = truth[int(overlap.argmax())].name, finding.name
        if name == person:
            result.named[name or ""] += 1
        elif name is None and person is not None:
            result.unnamed[person] += 1
        else:
            result.wrong += 1


def _tell(bench: PeopleSession, result: _Result) -> None:
    options.say(bench.recognizer.rule.words)
    options.say("in the clip:")
    for line in result.lines:
        options.say(f"  {line}")
    for name, frames in _names(result):
        missed = result.unnamed[name]
        options.say(f"{name}: named in {frames} of {counted(frames + missed, 'frame')} in which the face was found")
    options.say("(the clip shows Obama in a picture that is not enrolled, and Biden in his enrolled one, altered)")
    if result.wrong == 0:
        options.say(f"the stranger: found in {counted(result.named[''], 'frame')}, left unknown in all of them")
    if result.wrong:
        options.warn(f"in {counted(result.wrong, 'frame')} somebody was taken for somebody else")
    options.say(f"picture: {result.picture}")
    options.say(f"video:   {result.video}")
    options.say("now you: edge-app enroll 'Your Name' you1.jpg you2.jpg && edge-app recognize another.jpg")


def _names(result: _Result) -> Iterator[tuple[str, int]]:
    for name, frames in result.named.items():
        if name:
            yield name, frames
