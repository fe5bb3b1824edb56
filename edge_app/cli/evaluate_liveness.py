"""What `evaluate --liveness` measures and prints: which attacks pass for living people, and which people do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options, results
from edge_app.cli.evaluate_parts import settings_of, share_of
from edge_app.cli.parameters import Arguments
from edge_app.core.errors import MediaError, UsageError
from edge_app.system.files import json_ready

if TYPE_CHECKING:
    from edge_app.accuracy.attacks import Answer, Case
    from edge_app.recognition.classes import ClassRecognizer
    from edge_app.recognition.faces import PeopleSession


def run(args: Arguments) -> int:
    """Judge every case, print the rates, write liveness.json and a plot."""
    from edge_app.accuracy import plots
    from edge_app.accuracy.attacks import LIVE, rates_of, what_is_proven

    if args.pairs is not None:
        raise UsageError("--pairs was given with --liveness", expected="one of them")
    results.make_folder(args.output)
    cases = list(_judged(args))
    rates = rates_of(cases)
    report = json_ready(
        {
            "rates": [asdict(one) for one in rates],
            "proven": what_is_proven(rates),
            "cases": [asdict(one) for one in cases],
        }
    )
    rows = [
        (one.species, one.error.value, one.error.low, one.error.high)
        for one in rates
        if not one.group and one.species != LIVE
    ]
    draw = partial(plots.rates_by_group, rows, 0.02, "share of attacks that pass (APCER)", "Attacks by species")
    return results.deliver(args, "liveness.json", report, lambda: _tell(report), {"liveness.png": draw})


def _judged(args: Arguments) -> Iterator[Case]:
    """Every case of every sub-folder, judged."""
    from edge_app.accuracy.attacks import Case
    from edge_app.live.challenge_record import FILE
    from edge_app.recognition.liveness import open_liveness

    found = {place.name: _cases_in(place) for place in sorted(args.folder.iterdir()) if place.is_dir()}
    found = {species: cases for species, cases in found.items() if cases}
    if not found:
        raise MediaError(
            f"{args.folder} holds no cases",
            expected="live/ and a folder for each kind of attack, of pictures, clips, or challenges of verify --record",
        )
    groups = {} if args.groups is None else _groups(args.groups, args.folder, found)
    home, _ = settings_of(args)
    session = options.people(args)
    recorded = any((case / FILE).is_file() for cases in found.values() for case in cases)
    files = any(case.is_file() for cases in found.values() for case in cases)
    judge = _Challenges(session) if recorded else None
    networks = open_liveness(home, 1) if files else []
    with options.progress() as bar:
        task = bar.add_task("judging", total=sum(map(len, found.values())))
        for species, cases in found.items():
            for case in cases:
                if case.is_dir() and judge is not None:
                    answer, reason = judge.answer(case)
                else:
                    answer, reason = _shown(case, session, networks)
                bar.advance(task)
                yield Case(species, case.name, answer, reason, groups.get(f"{species}/{case.name}", ""))


def _cases_in(folder: Path) -> list[Path]:
    """Recorded challenges, and files of pictures or clips."""
    from edge_app.live.challenge_record import FILE
    from edge_app.media.kinds import PICTURE_SUFFIXES, VIDEO_SUFFIXES

    return [
        path
        for path in sorted(folder.iterdir())
        if (path / FILE).is_file() or (path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES)
    ]


def _groups(file: Path, folder: Path, found: dict[str, list[Path]]) -> dict[str, str]:
    """The group of each case, by species/case; the file's head is picture,group."""
    from edge_app.accuracy.groups import groups_of

    cases = [(species, case) for species, places in found.items() for case in places]
    named = groups_of(file, cases, folder)
    return {f"{species}/{case.name}": str(group) for (species, case), group in zip(cases, named, strict=True)}


class _Challenges:
    """Judges recorded challenges."""

    def __init__(self, session: PeopleSession) -> None:
        from edge_app.inference.face_mesh import FaceMesh
        from edge_app.model_store.catalogue import open_shipped

        self._session = session
        self._mesh = FaceMesh(open_shipped("face-mesh", threads=1))

    def answer(self, folder: Path) -> tuple[Answer, str]:
        from edge_app.live.challenge_record import replay

        progress = replay(folder, self._session, self._mesh)
        if progress.began_s is None:
            return "not checked", "no face was found"
        if progress.outcome == "passed":
            return "live", ""
        if progress.outcome == "not live":
            return "not live", progress.reason
        return "no answer", progress.reason or "the recording ended before the challenge did"


def _shown(file: Path, session: PeopleSession, networks: Sequence[ClassRecognizer]) -> tuple[Answer, str]:
    """What liveness networks make of a picture or a clip, by the median over its frames."""
    from edge_app.media.sources import frames
    from edge_app.recognition.liveness import PassiveLiveness

    fresh = PassiveLiveness(networks, least_looks=1)
    for frame in frames(str(file)):
        if faces := session.recognizer.detector.detect(frame.pixels):
            fresh.see(frame.pixels, faces[0])
    if fresh.verdict is None:
        return "not checked", "no face with its surroundings in the picture"
    return ("live", f"{fresh.share:.2f}") if fresh.verdict else ("not live", fresh.reason)


def _tell(report: dict[str, Any]) -> None:
    rows = [
        (
            one["group"] or "everybody",
            one["species"],
            str(one["cases"]),
            share_of(one["error"], 1),
            share_of(one["non_response"], 1),
        )
        for one in report["rates"]
    ]
    columns = ("people", "what", "cases", "error", "no response")
    title = "error: attacks taken for live (APCER), the worst first; live ones taken for attacks (BPCER)"
    options.show(options.table(title, columns, rows))
    options.say(report["proven"])
