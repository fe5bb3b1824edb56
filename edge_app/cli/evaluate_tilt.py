"""What `evaluate --tilt` measures and prints: people named under tilt, far away, half hidden and in the dark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edge_app.cli import options, results
from edge_app.cli.evaluate_parts import open_detector_of, open_embedder, settings_of, share_of
from edge_app.cli.parameters import Arguments
from edge_app.core.errors import UsageError
from edge_app.system.files import json_ready


def run(args: Arguments) -> int:
    """Run the study, print it, write tilt.json."""
    if args.pairs is not None:
        raise UsageError("--pairs was given with --tilt", expected="one of them")
    results.make_folder(args.output)
    report = json_ready(_measure(args))
    return results.deliver(args, "tilt.json", report, lambda: _tell(report))


def _measure(args: Arguments) -> dict[str, Any]:
    from edge_app.accuracy import people_folder, tilt
    from edge_app.gallery.calibration import thresholds_of

    home, chosen = settings_of(args)
    embedder, choice = open_embedder(home, chosen)
    thresholds = thresholds_of(home, embedder.card, choice.entry.sha256)
    detector = open_detector_of(args, home, chosen.detector)
    people = people_folder.people_in(args.folder)
    if args.part != "all":
        people = tilt.part_of(people, tuned=args.part == "tuned")
    asked = tilt.TiltOptions(fpir=chosen.fpir, margin=chosen.margin)
    with options.progress() as bar:
        task = bar.add_task("recognizing", total=tilt.steps(people, asked))
        made = tilt.study(people, detector, embedder, thresholds, asked, lambda: bar.advance(task))
    about = {"part": args.part, "fpir asked": asked.fpir, "detector": chosen.detector, "why": choice.why}
    return asdict(made) | about | {"model": embedder.model_id, "precision": embedder.card.precision}


def _tell(report: Mapping[str, Any]) -> None:
    options.say(
        f"{report['model']} {report['precision']}: {report['enrolled']} people with two pictures each, "
        f"{report['probes']} other pictures of theirs, {report['strangers']} strangers; strangers asked for "
        f"{report['fpir asked']:.1%}, similarity {report['threshold']:.3f}"
    )
    rows = [
        (
            name,
            share_of(each["named"], 1),
            f"{each['live']['value']:.1%}",
            f"{each['found']['value']:.1%}",
            f"{each['misnamed']}",
            "" if each["strangers_named"]["value"] is None else f"{each['strangers_named']['value']:.1%}",
            "" if each["landmarks_median"] is None else f"{each['landmarks_median']:.3f}",
        )
        for name, each in report["outcomes"].items()
    ]
    columns = ("pictures", "named", "as a live frame", "found", "wrong", "strangers named", "landmarks off")
    options.show(options.table("named by the app's rule; landmarks in eye distances, median", columns, rows))
