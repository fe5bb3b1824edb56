"""The command `evaluate`: how good the recognizer is on a folder of people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_app.cli import options, results
from edge_app.cli.evaluate_parts import open_detector_of, open_embedder, pairs_of, settings_of
from edge_app.cli.evaluate_words import tell
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.errors import UsageError
from edge_app.system.files import json_ready

if TYPE_CHECKING:
    from edge_app.accuracy.people_folder import Figures, Looks
    from edge_app.core.model_card import OperatingPoint
    from edge_app.gallery.calibration import Thresholds

_SPOILED_PICTURES = 300


def command() -> Command:
    return Command(
        "evaluate",
        run,
        example="edge-app evaluate lfw/ --pairs pairsDevTest.txt --output report/",
        params=[
            Argument("folder", "DIR", "a sub-folder of pictures per person", kind=Path),
            Option("--pairs", kind=Path, metavar="FILE", help="LFW's list of pairs over the same folder"),
            Option("--encodings", kind=Path, metavar="FILE", help="judge face_recognition's encodings instead"),
            Option("--groups", kind=Path, metavar="CSV",
                help="also the rates of false matches by group: lines of person,group or picture,group"),
            Option("--no-spoil", kind=bool, help="leave out the pictures spoiled on purpose"),
            Option("--write-cards", kind=bool,
                help="measure every shipped build and write the figures into its card"),
            Option("--strangers", kind=Path, metavar="DIR",
                help="pictures of one person each, named in --groups, for the cohort of --write-cards"),
            Option("--model", metavar="ID", help="installed embedder to judge (default: the one in use)"),
            Option("--detectors", kind=bool, help="hold YuNet against the MTCNN cascade instead"),
            Option("--tilt", kind=bool,
                help="count who is still named when heads are tilted, faces small, half hidden, or in the dark"),
            Option("--liveness", kind=bool,
                help="of a folder with live/ and one for each kind of attack: what passes, with exact intervals"),
            Option("--part", kind=("all", "tuned", "kept"), default="all",
                help="with --tilt on lfw_dev: half of the people, that limits were tuned on or that were kept aside"),
            Option("--every", kind=int, default=1, metavar="N", help="look at every Nth picture (--detectors)"),
            Option("--crowds", kind=int, default=200, metavar="N", help="crowds to compose (--detectors)"),
            Option("--grounds", kind=Path, metavar="DIR", help="pictures without faces to compose them on"),
            Option("--output", kind=Path, metavar="DIR", help="write report.json and plots there"),
            options.json_flag(),
            *options.recognition(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Measure and print."""
    if args.encodings is not None and args.write_cards:
        raise UsageError("both --encodings and --write-cards were given", expected="one of them")
    if args.detectors and (args.encodings is not None or args.write_cards):
        raise UsageError("--detectors was given with --encodings or --write-cards", expected="one of them")
    if args.strangers is not None and not args.write_cards:
        raise UsageError("--strangers was given without --write-cards", expected="both")
    if args.tilt and (args.detectors or args.encodings is not None or args.write_cards):
        raise UsageError("--tilt was given with --detectors, --encodings or --write-cards", expected="one of them")
    if args.liveness and (args.tilt or args.detectors or args.encodings is not None or args.write_cards):
        raise UsageError("--liveness was given with another kind of study", expected="one of them")
    import cv2

    cv2.setNumThreads(1)  # one picture per core, one thread per picture
    if args.detectors:
        from edge_app.cli import evaluate_detectors

        return evaluate_detectors.run(args)
    if args.liveness:
        from edge_app.cli import evaluate_liveness

        return evaluate_liveness.run(args)
    if args.tilt:
        from edge_app.cli import evaluate_tilt

        return evaluate_tilt.run(args)
    results.make_folder(args.output)
    plots: dict[str, results.Content] = {}
    if args.encodings:
        report = _encodings(args)
    else:
        report = _written_cards(args) if args.write_cards else _ours(args, plots)
    return results.deliver(args, "report.json", report, lambda: tell(report), plots)


def _ours(args: Arguments, plots: dict[str, results.Content]) -> dict[str, Any]:
    """The runtime's own parts on the folder; `plots` gets what draws the curves."""
    from edge_app.accuracy import people_folder
    from edge_app.accuracy.groups import groups_of
    from edge_app.gallery.calibration import thresholds_of

    home, chosen = settings_of(args)
    embedder, choice = open_embedder(home, chosen)
    thresholds = thresholds_of(home, embedder.card, choice.entry.sha256)
    people, pairs = people_folder.people_in(args.folder, flat=args.groups is not None), pairs_of(args)
    groups = None if args.groups is None else groups_of(args.groups, people, args.folder)
    detector = open_detector_of(args, home, chosen.detector)
    with options.progress() as bar:
        task = bar.add_task("finding faces", total=len(people))
        looks = people_folder.look_at(people, detector, embedder.crop, lambda: bar.advance(task))
        task = bar.add_task("embedding", total=len(looks.crops))
        vectors = people_folder.embed_crops(embedder, looks.crops, lambda: bar.advance(task))
        figures = people_folder.figures_of(looks, vectors, pairs, thresholds, fpir=chosen.fpir, margin=chosen.margin)
        spoiled = None
        if not args.no_spoil:
            step = max(1, len(people) // _SPOILED_PICTURES)
            task = bar.add_task("spoiling", total=len(people[::step]))
            spoiled = people_folder.refused_when_spoiled(
                people[::step], detector, embedder.crop, lambda: bar.advance(task)
            )
    report = figures_report(figures, chosen.fpir) | _gate(looks, spoiled)
    report |= {
        "model": embedder.model_id,
        "precision": embedder.card.precision,
        "why": choice.why,
        "detector": chosen.detector,
        "threshold source": _source(thresholds, embedder.card.operating_points),
    }
    if groups is not None:
        report["groups"] = _by_group(groups[looks.found], looks, vectors, thresholds, chosen)
    if not figures.galleries:
        report["no galleries"] = _why_no_galleries(looks.labels)
    if args.output is not None:
        plots |= _plots(vectors, looks, thresholds, report.get("groups", {}))
    return report


def _why_no_galleries(labels: Sequence[str]) -> str:
    """What a folder lacks for the table of galleries, in words."""
    pictures = Counter(labels).values()
    enough, single = sum(count > 2 for count in pictures), sum(count == 1 for count in pictures)
    return (
        "no table of galleries: it wants people with three pictures or more in which a face was found, two to enroll "
        f"and one to recognize (here {enough}), and people with a single one, who are the strangers (here {single})"
    )


def _source(thresholds: Thresholds, of_card: Sequence[OperatingPoint]) -> str:
    if not thresholds.points:
        return "measured here"
    return "the model's card" if thresholds.points == of_card else "calibrated on your pictures"


def _by_group(groups: Any, looks: Looks, vectors: Any, thresholds: Thresholds, chosen: Any) -> dict[str, Any]:
    """False matches by group, on one picture of everybody, or two where they have a second."""
    import numpy as np

    from edge_app.accuracy import groups as by_group
    from edge_app.accuracy.cohort_fit import Strangers, find_people
    from edge_app.accuracy.pair_scores import label_numbers

    if not thresholds.points:
        raise UsageError("the embedder has no thresholds", remedy="run `edge-app calibrate DIR` first")
    inside = np.flatnonzero(groups != "")
    numbers = label_numbers(np.asarray(looks.labels)[inside], len(inside))
    named = len(np.unique(numbers)) < len(numbers)
    if not named:  # a picture each: who is twice among them nobody has said
        numbers, _ = find_people(vectors[inside], groups[inside])
    faces = Strangers(vectors[inside], numbers, groups[inside])
    order = np.argsort(faces.people, kind="stable")
    _, first, counts = np.unique(faces.people[order], return_index=True, return_counts=True)
    single = by_group.fmr_by_group(faces, thresholds, (1e-2, 1e-3, 1e-4), named=named)
    options_: dict[str, Any] = {"fpirs": (chosen.fpir,), "margin": chosen.margin, "named": named}
    fpirs = by_group.fpir_by_group(faces.at(order[first]), thresholds, **options_)
    if named and (counts > 1).any():
        twice = first[counts > 1]
        second = faces.vectors[order[twice + 1]]
        fpirs += by_group.fpir_by_group(faces.at(order[twice]), thresholds, second=second, **options_)
    return {"fmr": [json_ready(asdict(each)) for each in single], "fpir": [json_ready(asdict(each)) for each in fpirs]}


def _written_cards(args: Arguments) -> dict[str, Any]:
    from edge_app.cli import training_side

    write = training_side.find(training_side.MEASUREMENTS, "evaluate --write-cards", "export")
    return cast(dict[str, Any], write(args))


def _encodings(args: Arguments) -> dict[str, Any]:
    """face_recognition's encodings under the same protocol, by distance as that library does."""
    from edge_app.accuracy import face_recognition_judge
    from edge_app.accuracy.face_recognition_encode import load

    encodings = load(args.encodings)
    judged = face_recognition_judge.judge(encodings, args.folder, pairs_of(args))
    return {"made": encodings.made, "peer": json_ready(asdict(judged))}


def figures_report(figures: Figures, fpir: float) -> dict[str, Any]:
    pairs = figures.pairs
    return {
        "pictures": figures.pictures,
        "identities": figures.identities,
        "faces not found": figures.not_found,
        "pairs": None if pairs is None else json_ready(asdict(pairs)) | {"not found": figures.pairs_not_found},
        "operating points": [asdict(point) for point in figures.points],
        "fpir asked": fpir,
        "galleries": [json_ready(asdict(each)) for each in figures.galleries],
    }


def _gate(looks: Looks, spoiled: Any) -> dict[str, Any]:
    refused = dict(looks.refused)
    share = sum(refused.values()) / max(1, len(looks.paths))
    gate: dict[str, Any] = {"refused": {"share": share, "reasons": refused}}
    if spoiled is not None:
        gate["spoiled"] = {name: asdict(each) | {"share": each.share} for name, each in spoiled.items()}
    return gate


def _plots(vectors: Any, looks: Looks, thresholds: Thresholds, groups: Mapping[str, Any]) -> dict[str, results.Content]:
    from edge_app.accuracy import plots
    from edge_app.accuracy.pair_scores import histograms

    counted = histograms(vectors, looks.labels, bins=4000, cohort=thresholds.cohort)
    made: dict[str, results.Content] = {
        "det.png": lambda path: plots.det_curve(counted, path),
        "similarities.png": lambda path: plots.score_histogram(counted, path),
    }
    for (name, asked), rows in _rates(groups).items():
        words = "how often two strangers of the group match" if name == "FMR" else "how often a stranger is named"
        title = f"{name} by group, {asked:g} asked"
        file = f"{name.lower().replace(' ', '-').replace(',', '')}-{asked:g}.png"
        made[file] = partial(plots.rates_by_group, rows, asked, words, title)
    return made


def _rates(groups: Mapping[str, Any]) -> dict[tuple[str, float], list[tuple[str, float, float, float]]]:
    """(group, rate, low, high) by what was measured and the rate asked for."""
    found: dict[tuple[str, float], list[tuple[str, float, float, float]]] = {}
    for each in [*groups.get("fmr", ()), *groups.get("fpir", ())]:
        name = f"FPIR, {each['people']} people, {each['templates']} each" if "people" in each else "FMR"
        share, asked = each["happened"], each["fpir"] if "people" in each else each["fmr"]
        if share["value"] is not None and share["low"] is not None:
            row = (each["group"], share["value"], share["low"], share["high"])
            found.setdefault((name, asked), []).append(row)
    return found
