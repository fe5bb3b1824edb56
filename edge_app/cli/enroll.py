"""The command `enroll`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options
from edge_app.domain import MediaError, UsageError, valid_name

if TYPE_CHECKING:
    from edge_app.assembly import Workbench
    from edge_app.enroll import EnrollOptions, Refusal, Shot, Verdict


def add_parser(commands: options.Commands) -> None:
    """Add `enroll`."""
    parser = options.command(
        commands,
        "enroll",
        "learn a person from a couple of pictures, or a folder of people",
        "edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg\n         edge-app enroll --folder people/",
        run,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="who it is")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="pictures of that person; two are enough")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a sub-folder of pictures per person")
    parser.add_argument("--largest", action="store_true", help="take the largest face of pictures with several")
    parser.add_argument("--allow-lookalike", action="store_true", help="accept somebody who looks like another: a twin")
    options.recognition(parser)
    options.json_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Enroll and report; 1 when anybody could not be enrolled, or a picture was refused or unreadable."""
    batches = list(_batches(args))
    for name, _ in batches:
        valid_name(name)
    from edge_app.enroll import EnrollOptions

    bench = options.workbench(args)
    chosen = EnrollOptions(largest=args.largest, allow_lookalike=args.allow_lookalike)
    reports, whole = [], True
    with options.progress() as bar:
        task = bar.add_task("enrolling", total=sum(len(images) for _, images in batches))
        for name, images in batches:
            looks = []
            for image in images:
                looks.append((str(image), _look(bench, image, largest=args.largest)))
                bar.advance(task)
            report, complete = _enroll_one(bench, valid_name(name), looks, chosen)
            reports.append(report)
            whole = whole and complete
            bench = bench.refreshed()
            if not args.json:
                bar.console.file.flush()
                _tell(report)
    if args.json:
        options.print_json({"enrolled": reports})
    return 0 if whole else 1


def _batches(args: argparse.Namespace) -> Iterator[tuple[str, Sequence[Path]]]:
    """Names with their pictures, from the arguments or the folder."""
    if args.folder is not None:
        if args.name is not None:
            raise UsageError("both a name and --folder were given", expected="one of them")
        yield from people_in(args.folder)
        return
    if args.name is None or not args.images:
        raise UsageError(
            "no pictures were given" if args.name else "no name was given",
            expected="a name and pictures, or --folder",
            remedy="try: edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg",
        )
    yield args.name, args.images


def people_in(folder: Path) -> Iterator[tuple[str, Sequence[Path]]]:
    """Every sub-folder of `folder` as a name with its pictures. Raises MediaError when there is none."""
    from edge_app.pictures import find_pictures

    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder", expected="a folder with a sub-folder per person")
    people = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not people:
        raise MediaError(f"{folder} has no sub-folder", expected="a sub-folder of pictures per person")
    for person in people:
        try:
            yield person.name, find_pictures(person)
        except MediaError as error:
            options.warn(str(error))
            yield person.name, []


def _look(bench: Workbench, image: Path, *, largest: bool) -> Shot | Refusal:
    from edge_app.enroll import Refusal
    from edge_app.pictures import read_picture

    try:
        return bench.recognizer.shot(read_picture(image), str(image.name), largest=largest)
    except MediaError as error:
        return Refusal("unreadable", str(error))


def _enroll_one(
    bench: Workbench, name: str, looks: Sequence[tuple[str, Shot | Refusal]], chosen: EnrollOptions
) -> tuple[dict[str, Any], bool]:
    """Judge and store one person; the report, and whether every picture was taken."""
    verdicts = bench.enroll(name, looks, chosen)
    accepted = sum(verdict.accepted for verdict in verdicts)
    total = len(bench.vault.identity(name, bench.recognizer.embedder.model_id).templates) if accepted else 0
    report = {
        "name": name,
        "accepted": accepted,
        "templates": total,
        "warning": _warning(name, accepted, total),
        "shots": [_shot_report(verdict) for verdict in verdicts],
    }
    return report, bool(verdicts) and accepted == len(verdicts)


def _warning(name: str, accepted: int, total: int) -> str | None:
    if accepted == 0:
        return f"{name} was not enrolled: no picture was accepted"
    if total == 1:
        return "one picture works, two are clearly better: add another in different light or a little turned"
    return None


def _shot_report(verdict: Verdict) -> dict[str, Any]:
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
            print(f"  {shot['source']}: accepted (face {q['face_px']:.0f} px, detail {q['sharpness']:.2f})")
        else:
            print(f"  {shot['source']}: refused, {shot['reason']}: {shot['message']}")
    if report["accepted"]:
        count = report["templates"]
        print(f"{report['name']}: enrolled with {count} picture{'s' if count != 1 else ''}")
    if report["warning"]:
        options.warn(report["warning"])
