"""What `evaluate --detectors` measures and prints: YuNet against the MTCNN cascade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_app.cli import options, results
from edge_app.cli.evaluate_parts import open_embedder, pairs_of, settings_of, share_of
from edge_app.cli.parameters import Arguments
from edge_app.core.errors import UsageError
from edge_app.system.files import json_ready

_SMALLEST_PX = 16.0
"""Smallest face that both are asked for in crowds, unless --min-face says otherwise."""


def run(args: Arguments) -> int:
    """Run the study, print it, write detectors.json and recall.png."""
    if args.every < 1 or args.crowds < 1:
        raise UsageError(f"--every {args.every}, --crowds {args.crowds}", expected="at least 1 each")
    if args.every > 1 and args.pairs is not None:
        raise UsageError("--pairs was given with --every", expected="every picture that the list names")
    results.make_folder(args.output)
    report = json_ready(_measure(args))
    plot: dict[str, results.Content] = {"recall.png": lambda path: _plot(path, report)}
    return results.deliver(args, "detectors.json", report, lambda: _tell(report), plot)


def _measure(args: Arguments) -> dict[str, Any]:
    from edge_app.accuracy import people_folder
    from edge_app.accuracy.detector_study import StudyOptions, study
    from edge_app.bench import recognizer
    from edge_app.inference.detector import DETECTORS, DetectorOptions
    from edge_app.media.folders import find_pictures
    from edge_app.model_store.open_detector import open_detector
    from edge_app.system.parallel import cores

    home, chosen = settings_of(args)
    embedder, _ = open_embedder(home, chosen)
    smallest = options.detector_options(args) or DetectorOptions(min_face_px=_SMALLEST_PX)
    threads = chosen.threads or cores()
    people = people_folder.people_in(args.folder)[:: args.every]
    with options.progress() as bar:
        task = bar.add_task("looking", total=len(people) + args.crowds)
        made = study(
            people,
            {name: open_detector(name, smallest, threads=1) for name in DETECTORS},
            embedder,
            pairs=pairs_of(args),
            grounds=find_pictures(args.grounds, recursive=True) if args.grounds else (),
            timed={name: open_detector(name, threads=threads) for name in DETECTORS},
            frames={"640x480, one face": recognizer.sample_frame().pixels},
            options=StudyOptions(args.crowds),
            tick=lambda: bar.advance(task),
        )
    asked = {"smallest face px": smallest.min_face_px, "timed with threads": threads, "every": args.every}
    return asdict(made) | asked | {"model": embedder.model_id, "precision": embedder.card.precision}


def _tell(report: Mapping[str, Any]) -> None:
    names = tuple(report["detectors"])
    options.say(
        f"{report['pictures']:,} pictures, both agree on the face of {report['known']:,} (landmarks "
        f"{report['disagreement']:.1%} of the eye distance apart, median); {report['crowds']} crowds with "
        f"{report['crowd_faces']:,} of these faces, {report['smallest face px']:g} px asked for"
    )
    each = [report["detectors"][name] for name in names]
    rows = [
        (
            f"{row['from_px']:g} to {row['to_px']:g}",
            f"{row['recall']['trials']:,}",
            *(_value(one["sizes"][number]["recall"]["value"]) for one in each),
            *(_value(one["sizes"][number]["landmark_median"]) for one in each),
            *(_value(one["sizes"][number]["landmark_p90"]) for one in each),
        )
        for number, row in enumerate(each[0]["sizes"])
    ]
    columns = [f"{what} {name}" for what in ("recall", "landmarks off", "90th percentile") for name in names]
    options.show(options.table("by size of the face", ("px", "faces", *columns), rows))
    options.show(options.table("in all", ("", *names), list(_totals(each))))


def _totals(each: list[Mapping[str, Any]]) -> Any:
    yield "recall in crowds", *(share_of(one["crowd_recall"]) for one in each)
    yield "false alarms per crowd", *(f"{one['false_alarms']:.3f}" for one in each)
    if each[0]["empty_alarms"] is not None:
        yield "the same before faces were pasted", *(f"{one['empty_alarms']:.3f}" for one in each)
    yield "pictures without a face found", *(f"{one['names']['not_found']}" for one in each)
    for key, words in (("pairs", "10-fold accuracy on the pairs"), ("fnir", "FNIR at FPIR 1 %")):
        if each[0]["names"][key] is not None:
            yield words, *(share_of(one["names"][key]) for one in each)
    for what in each[0]["speed_ms"]:
        yield f"ms, {what}", *(f"{one['speed_ms'][what]:.1f}" for one in each)


def _value(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _plot(path: Path, report: Mapping[str, Any]) -> None:
    """Draw recall over the size of the face, with intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for (name, one), colour in zip(report["detectors"].items(), ("#0072b2", "#d55e00"), strict=True):
        rows = [row for row in one["sizes"] if row["recall"]["value"] is not None]
        middle = [(row["from_px"] * row["to_px"]) ** 0.5 for row in rows]
        axes.plot(middle, [row["recall"]["value"] for row in rows], marker="o", color=colour, label=name)
        low, high = ([row["recall"][end] for row in rows] for end in ("low", "high"))
        axes.fill_between(middle, low, high, color=colour, alpha=0.2)
    axes.set_xscale("log")
    ticks = [row["from_px"] for row in rows] + [rows[-1]["to_px"]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("shorter side of the face, pixels")
    axes.set_ylabel("recall")
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
