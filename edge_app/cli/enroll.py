"""The command `enroll`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.errors import MediaError, UsageError
from edge_app.core.names import same_but_for_case, valid_name

if TYPE_CHECKING:
    from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict
    from edge_app.media.folders import Unused
    from edge_app.recognition.face_session import Workbench
    from edge_app.recognition.things import ThingBench, ThingShot, ThingVerdict

_THINGS = """\
Things are enrolled with --model and a general image embedder. One that has no
thresholds wants `edge-app calibrate DIR --model ID` once before the first
enrollment: at least 10 sub-folders of things, with 3 or more pictures each."""


def command() -> Command:
    return Command(
        "enroll",
        run,
        example="edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg\n         edge-app enroll --folder people/\n"
        "         edge-app enroll 'blue mug' mug1.jpg mug2.jpg --model ID --box 40,60,300,320",
        more=_THINGS,
        params=[
            Argument("name", "NAME", "who it is", required=False),
            Argument(
                "images", "IMAGE", "pictures of that person; two are enough", kind=Path, required=False, many=True
            ),
            Option("--folder", kind=Path, metavar="DIR", help="a sub-folder of pictures per person"),
            Option("--largest", kind=bool, help="take the largest face of pictures with several"),
            Option("--allow-lookalike", kind=bool, help="accept somebody who looks like another: a twin"),
            Option("--new-person", kind=bool, help="enroll a name that differs from an enrolled one by case only"),
            Option("--model", metavar="ID", help="enroll a thing with this general image embedder"),
            Option("--box", kind=_box, metavar="X1,Y1,X2,Y2", help="where the thing is, in pixels (with --model)"),
            options.json_flag(),
            *options.recognition(),
        ],
    )


def run(args: Arguments) -> int:
    """Enroll and report; 1 when anybody could not be enrolled, or a picture was refused or unreadable."""
    from edge_app.gallery.enrollment import EnrollOptions
    from edge_app.media.folders import unused_line

    unused: list[Unused] = []
    batches = _batches(args, unused)
    chosen = EnrollOptions(largest=args.largest, allow_lookalike=args.allow_lookalike)
    desk = _desk(args)
    reports, whole = [], True
    known = set(desk.names())
    with options.progress() as bar:
        task = bar.add_task("enrolling", total=sum(len(images) for _, images in batches))
        for given, images in batches:
            try:
                name = _settled(valid_name(given), known, args)
            except UsageError as error:
                if args.folder is None:
                    raise
                options.warn(f"{error}; the other sub-folders are enrolled")  # one odd name stops one person
                whole = False
                continue
            known.add(name)
            looks = []
            for image in images:
                looks.append((str(image), desk.look(image)))
                bar.advance(task)
            report, complete = desk.enroll(name, looks, chosen)
            reports.append(report)
            whole = whole and complete
            if not args.json:
                _tell(report)
    if args.json:
        options.print_json({"enrolled": reports})
    if line := unused_line(unused):
        options.warn(line)
    return 0 if whole else 1


def _settled(name: str, known: Iterable[str], args: Arguments) -> str:
    """The name to enroll under: asks when another differs by case only, which on most screens is the same person.

    Raises UsageError where nobody can be asked.
    """
    twin = same_but_for_case(name, known)
    if twin is None or name in known or args.new_person:
        return name
    if args.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{name!r} differs from {twin!r}, who is enrolled, by capital letters only",
            remedy=f"write {twin!r} if it is the same person, or add --new-person",
        )
    options.warn(f"{twin!r} is enrolled already, and differs from {name!r} by capital letters only")
    return twin if click.confirm("Is it the same person?", default=True, err=True) else name


def _desk(args: Arguments) -> _Faces | _Things:
    """What enrolls: people, or things when --model names a general image embedder."""
    model = args.model
    if model is not None:
        from edge_app.model_store.catalogue import builds

        home, settings = options.settings(args)
        task = builds(home, model)[0].task
        if task == "image-embedding":
            if args.largest:
                raise UsageError("--largest is for faces", expected="--box to say where the thing is")
            from edge_app.recognition.things import open_thing_bench

            return _Things(open_thing_bench(home, settings, model), args.box)
        if task != "face-embedding":
            raise UsageError(f"{model} is a model for {task}", expected="an embedder; `edge-app models list`")
    if args.box is not None:
        raise UsageError("--box is for things: faces are found", expected="--model with a general image embedder")
    return _Faces(options.workbench(args), largest=args.largest)


def _box(text: str) -> tuple[float, ...]:
    """Four finite numbers with x1 < x2 and y1 < y2."""
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(abs(v) < 1e6 for v in box) or box[0] >= box[2] or box[1] >= box[3]:
        raise click.BadParameter(f"{text!r} is no box; expected X1,Y1,X2,Y2 with X1 < X2 and Y1 < Y2")
    return box


class _Faces:
    """Enrolls people."""

    def __init__(self, bench: Workbench, *, largest: bool) -> None:
        self._bench = bench
        self._largest = largest

    def names(self) -> list[str]:
        """Who is enrolled."""
        return list(self._bench.vault.names())

    def look(self, image: Path) -> Shot | Refusal:
        """The face that a picture is about."""
        from edge_app.gallery.enrollment import Refusal
        from edge_app.media.pictures import read_picture

        try:
            return self._bench.recognizer.shot(read_picture(image), str(image.name), largest=self._largest)
        except MediaError as error:
            return Refusal("unreadable", str(error))

    def enroll(self, name: str, looks: Sequence[tuple[str, Any]], chosen: EnrollOptions) -> tuple[dict[str, Any], bool]:
        """Judge and store one person; the report, and whether every picture was taken."""
        verdicts = self._bench.enroll(name, looks, chosen)
        self._bench = self._bench.refreshed()
        model_id = self._bench.recognizer.embedder.model_id
        return _report(name, verdicts, self._bench, model_id)


class _Things:
    """Enrolls things."""

    def __init__(self, bench: ThingBench, box: tuple[float, ...] | None) -> None:
        self._bench = bench
        self._box = box

    def names(self) -> list[str]:
        """What is enrolled."""
        return list(self._bench.vault.names())

    def look(self, image: Path) -> ThingShot | Refusal:
        """The area that a picture is about."""
        import numpy as np

        from edge_app.gallery.enrollment import Refusal
        from edge_app.media.pictures import open_picture
        from edge_app.recognition.things import judge_box

        try:
            picture = open_picture(image)
        except MediaError as error:
            return Refusal("unreadable", str(error))
        # A huge picture was shrunk while it was read; the box is in the pixels of the file, and judged there.
        box = None if self._box is None else np.asarray(self._box, np.float32)
        if box is not None:
            if refusal := judge_box(picture.original_size_px, box):
                return refusal
            box = box * picture.scale
        return self._bench.reader.shot(picture.pixels, str(image.name), box)

    def enroll(self, name: str, looks: Sequence[tuple[str, Any]], chosen: EnrollOptions) -> tuple[dict[str, Any], bool]:
        """Judge and store one thing; the report, and whether every picture was taken."""
        from edge_app.recognition.things import enroll_things

        verdicts = enroll_things(self._bench, name, looks, chosen)
        self._bench = self._bench.refreshed()
        return _report(name, verdicts, self._bench, self._bench.reader.card.id)


def _batches(args: Arguments, unused: list[Unused]) -> list[tuple[str, list[Path]]]:
    """Names with their pictures, from the arguments or the folder; what else that holds is added to `unused`."""
    if args.folder is not None:
        if args.name is not None:
            raise UsageError("both a name and --folder were given", expected="one of them")
        from edge_app.media.folders import named_folders

        return named_folders(args.folder, of="person", unused=unused, problem=options.warn)
    if args.name is None or not args.images:
        raise UsageError(
            "no pictures were given" if args.name else "no name was given",
            expected="a name and pictures, or --folder",
            remedy="try: edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg",
        )
    return [(valid_name(args.name), list(args.images))]


def _report(
    name: str, verdicts: Sequence[Verdict | ThingVerdict], bench: Workbench | ThingBench, model_id: str
) -> tuple[dict[str, Any], bool]:
    from edge_app.recognition.face_session import own_embeddings

    accepted = sum(verdict.accepted for verdict in verdicts)
    total = len(own_embeddings(bench.vault, name, model_id))
    warning = _warning(name, accepted, total)
    report = {
        "name": name,
        "model": model_id,
        "accepted": accepted,
        "templates": total,
        "warning": warning,
        "shots": [_shot_report(verdict) for verdict in verdicts],
    }
    return report, bool(verdicts) and accepted == len(verdicts)


def _warning(name: str, accepted: int, total: int) -> str | None:
    if accepted == 0 and total:
        return f"nothing new: {name} stays enrolled with {total} picture{'s' if total != 1 else ''}"
    if accepted == 0:
        return f"{name} was not enrolled: no picture was accepted"
    if total == 1:
        return "one picture works, two are clearly better: add another in different light or a little turned"
    return None


def _shot_report(verdict: Verdict | ThingVerdict) -> dict[str, Any]:
    from dataclasses import asdict

    quality = {k: round(v, 3) for k, v in asdict(verdict.shot.quality).items()} if verdict.shot else None
    return {
        "source": verdict.source,
        "accepted": verdict.accepted,
        "reason": verdict.refusal.reason if verdict.refusal else None,
        "message": verdict.refusal.message if verdict.refusal else None,
        "quality": quality,
    }


def _tell(report: dict[str, Any]) -> None:
    for shot in report["shots"]:
        if shot["accepted"]:
            q = shot["quality"]
            print(f"  {shot['source']}: accepted ({q['face_px']:.0f} px, detail {q['sharpness']:.2f})")
        else:
            print(f"  {shot['source']}: refused, {shot['reason']}: {shot['message']}")
    if report["accepted"]:
        count = report["templates"]
        print(f"{report['name']}: enrolled with {count} picture{'s' if count != 1 else ''}")
    if report["warning"]:
        options.warn(report["warning"])
