"""The command `evaluate`: how good the recognizer is on a folder of people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_app.cli import options, results
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.errors import UsageError
from edge_app.system.files import json_bytes, json_ready

if TYPE_CHECKING:
    from edge_app.accuracy.lfw_pairs import LfwPairs
    from edge_app.accuracy.people_folder import Figures, Looks
    from edge_app.inference.embedder import Embedder

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
            Option("--no-spoil", kind=bool, help="leave out the pictures spoiled on purpose"),
            Option("--write-cards", kind=bool,
                help="measure every shipped build and write the figures into its card"),
            Option("--model", metavar="ID", help="installed embedder to judge (default: the one in use)"),
            Option("--detectors", kind=bool, help="hold YuNet against the MTCNN cascade instead"),
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
    import cv2

    cv2.setNumThreads(1)  # one picture per core, one thread per picture
    if args.detectors:
        from edge_app.cli import evaluate_detectors

        return evaluate_detectors.run(args)
    results.make_folder(args.output)
    plots: dict[str, results.Content] = {}
    if args.encodings:
        report = _encodings(args)
    else:
        report = _written_cards(args) if args.write_cards else _ours(args, plots)
    results.write_results(args.output, {"report.json": json_bytes(report)} | plots)
    if args.json:
        options.print_json(report)
    else:
        _tell(report)
    return 0


def pairs_of(args: Arguments) -> LfwPairs | None:
    """The list of pairs that was given."""
    from edge_app.accuracy.lfw_pairs import lfw_pairs

    return None if args.pairs is None else lfw_pairs(args.pairs, args.folder)


def settings_of(args: Arguments) -> tuple[Any, Any]:
    """The data folder and its settings, with the embedder that --model names."""
    from dataclasses import replace

    home, chosen = options.settings(args)
    return home, chosen if args.model is None else replace(chosen, embedder=args.model)


def _ours(args: Arguments, plots: dict[str, results.Content]) -> dict[str, Any]:
    """The runtime's own parts on the folder; `plots` gets what draws the curves."""
    from edge_app.accuracy import people_folder

    home, chosen = settings_of(args)
    embedder, why = open_embedder(home, chosen)
    people, pairs = people_folder.people_in(args.folder), pairs_of(args)
    detector = _detector(args, home, chosen.detector)
    with options.progress() as bar:
        task = bar.add_task("finding faces", total=len(people))
        looks = people_folder.look_at(people, detector, embedder.crop, lambda: bar.advance(task))
        task = bar.add_task("embedding", total=len(looks.crops))
        vectors = people_folder.embed_crops(embedder, looks.crops, lambda: bar.advance(task))
        points = embedder.card.operating_points
        figures = people_folder.figures_of(looks, vectors, pairs, points, fpir=chosen.fpir, margin=chosen.margin)
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
        "why": why,
        "detector": chosen.detector,
        "threshold source": "the model's card" if points else "measured here",
    }
    if not figures.galleries:
        report["no galleries"] = _why_no_galleries(looks.labels)
    if args.output is not None:
        plots |= _plots(vectors, looks)
    return report


def _why_no_galleries(labels: Sequence[str]) -> str:
    """What a folder lacks for the table of galleries, in words."""
    pictures = Counter(labels).values()
    enough, single = sum(count > 2 for count in pictures), sum(count == 1 for count in pictures)
    return (
        "no table of galleries: it wants people with three pictures or more in which a face was found, two to enroll "
        f"and one to recognize (here {enough}), and people with a single one, who are the strangers (here {single})"
    )


def open_embedder(home: Any, chosen: Any) -> tuple[Embedder, str]:
    """The embedder of the settings with one thread, and why that build."""
    from edge_app.inference import onnx_model
    from edge_app.inference.embedder import Embedder
    from edge_app.model_store.choose_build import choose

    choice = choose(chosen.embedder, chosen.precision, home, 1)
    return Embedder(onnx_model.load(choice.entry.path, threads=1, sha256=choice.entry.sha256)), choice.why


def _detector(args: Arguments, home: Any, name: str) -> Any:
    from edge_app.model_store.open_detector import open_detector

    return open_detector(name, options.detector_options(args), threads=1, home=home)


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


def _plots(vectors: Any, looks: Looks) -> dict[str, results.Content]:
    from edge_app.accuracy.pair_scores import histograms
    from edge_app.accuracy.plots import det_curve, score_histogram

    counted = histograms(vectors, looks.labels, bins=4000)
    return {
        "det.png": lambda path: det_curve(counted, path),
        "similarities.png": lambda path: score_histogram(counted, path),
    }


# --- for people --------------------------------------------------------------------------------------


def _tell(report: Mapping[str, Any]) -> None:
    if "peer" in report:
        _tell_peer(report["made"], report["peer"])
        return
    for each in report.get("written", [report]):
        title = f"{each['file']}: card written" if "file" in each else f"{each['model']} {each['precision']}"
        options.say(f"{title}: {each['pictures']:,} pictures of {each['identities']:,} people")
        options.say(f"  faces not found: {each['faces not found']}")
        if each["pairs"]:
            options.say(f"  10-fold accuracy on the pairs: {share_of(each['pairs']['accuracy'])}")
        _tell_galleries(each)
    if "refused" in report:
        _tell_gate(report)


def _tell_galleries(report: Mapping[str, Any]) -> None:
    asked = f"{report['fpir asked']:.1%}"
    rows = []
    for each in report["galleries"]:
        realized, apart = each["open_set"]["realized"], each["held_out"]
        rows.append(
            (
                f"{each['people']}",
                share_of(each["open_set"]["fnir_at_fpir"]),
                f"{each['threshold']:.3f}",
                share_of(realized["fpir"]),
                share_of(realized["fnir"]),
                f"{apart['fpir']:.2%} / {apart['fnir']:.2%} ({apart['people']} people)" if apart else "",
            )
        )
    columns = ("people", f"FNIR at FPIR {asked}", "threshold", "FPIR that happens", "FNIR", "held-out FPIR / FNIR")
    if rows:
        options.show(options.table(f"two pictures each, strangers asked for: {asked}", columns, rows))
    elif why := report.get("no galleries"):
        options.say(f"  {why}")
    points = [
        (f"{p['fmr']:.0e}", f"{p['templates']}", f"{p['threshold']:.4f}", f"{p['impostor_pairs']:,}")
        for p in report["operating points"]
    ]
    if points:
        options.show(options.table("operating points", ("FMR", "templates", "similarity", "impostor pairs"), points))
    else:
        options.say("  no operating points: they want pictures of two people at least")


def _tell_gate(report: Mapping[str, Any]) -> None:
    refused = report["refused"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in refused["reasons"].items())
    share = f"{refused['share']:.2%}"
    options.say(f"  the enrollment gate refuses {share} of the pictures as they are ({reasons or 'none'})")
    rows = [
        (name, f"{each['share']:.1%}", f"{each['pictures']}", ", ".join(f"{k} {v}" for k, v in each["reasons"].items()))
        for name, each in report.get("spoiled", {}).items()
    ]
    if rows:
        options.show(options.table("spoiled on purpose", ("pictures", "refused", "of", "why"), rows))


def _tell_peer(made: Mapping[str, Any], peer: Mapping[str, Any]) -> None:
    options.say(
        f"{made['library']}, upsample {made['upsample']}: {peer['pictures']:,} pictures, {made['seconds']:.0f} s"
    )
    options.say(f"  faces not found: {peer['not_found']} (left out of the galleries; their pairs are told different)")
    if peer["pairs"]:
        options.say(f"  10-fold accuracy on the pairs: {share_of(peer['pairs']['accuracy'])}")
    rows = [
        (
            f"{each['people']}",
            f"{each['named_at_tolerance']:.2%}",
            f"{each['missed_at_tolerance']:.2%}",
            f"{each['fnir_at_fpir']:.2%}",
            f"{each['tolerance_at_fpir']:.3f}",
        )
        for each in peer["galleries"]
    ]
    tolerance = f"{peer['tolerance']:g}"
    columns = (
        "people",
        f"strangers named at {tolerance}",
        f"FNIR at {tolerance}",
        "FNIR at FPIR 1 %",
        "tolerance for that",
    )
    options.show(options.table("two pictures each, the nearer counts", columns, rows))


def share_of(estimate: Mapping[str, Any]) -> str:
    """An estimate with its interval, in words."""
    if estimate["value"] is None:
        return "not measured"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.2%}"
    return f"{estimate['value']:.2%} ({estimate['low']:.2%} to {estimate['high']:.2%})"
