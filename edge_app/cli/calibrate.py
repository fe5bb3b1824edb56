"""The command `calibrate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import MediaError, UsageError
from edge_app.core.task import Task

if TYPE_CHECKING:
    from edge_app.accuracy.calibrate import Calibrated
    from edge_app.accuracy.intervals import Estimate
    from edge_app.core.types import Float32s, Pixels
    from edge_app.inference.embedder import Embedder
    from edge_app.media.folders import Unused
    from edge_app.model_store.shipped import Entry
    from edge_app.system.data_folder import Home
    from edge_app.system.settings import Settings

_WANTED = """\
DIR wants at least 10 sub-folders, one per thing or person, with 3 or more
pictures each. They need not be those that you will enroll, only of the same
kind. A general image embedder that has no thresholds wants this once before
the first `enroll`; with another file of it, or on other kinds of pictures, do
it again.

Of a classifier: --cost says what missing each label costs. From then on
`recognize`, `watch` and the app tell the label with the least expected cost.
DIR, a sub-folder per label of pictures it did not learn from, shows what that
finds and how often it cries wolf."""

_Embed = Callable[["Pixels"], "list[Float32s] | str"]
"""A picture in, its unit vector by every build out, or why there is none."""


def command() -> Command:
    return Command(
        "calibrate",
        run,
        example="edge-app calibrate things/ --model ID\n"
        "         edge-app calibrate kept-aside/ --model tiles --cost free=1,others=20",
        more=_WANTED,
        params=[
            Argument("folder", "DIR", "a sub-folder per thing or person", kind=Path, required=False),
            Option("--model", metavar="ID", help="embedder to calibrate (default: the one in use)"),
            Option("--reset", kind=bool, help="go back to the thresholds that the model brought, or to no costs"),
            Option(
                "--cost",
                metavar="LABEL=N,...",
                help="of a classifier: what missing a label costs ('others': all that are not named); kept in its card",
            ),
            Option(
                "--normal", metavar="LABEL", help="with --cost: the label whose loss is a false alarm (the cheapest)"
            ),
            options.json_flag(),
            *options.recognition(),
        ],
    )


def run(args: Arguments) -> int:
    """Measure every build of the model, and keep the thresholds; or let them go."""
    import time

    from edge_app.accuracy.calibrate import calibrate
    from edge_app.gallery import calibration
    from edge_app.inference.embedder import Embedder
    from edge_app.media.folders import unused_line
    from edge_app.model_store.catalogue import open_entry

    home, settings = options.settings(args)
    if args.cost is not None or args.normal is not None or _is_classifier(home, args.model):
        from edge_app.cli.calibrate_costs import run as run_costs

        return run_costs(args)
    model_id, entries = _entries(home, settings, args.model, args.precision)
    if args.reset:
        return _reset(args, home, model_id)
    if args.folder is None:
        raise UsageError("no folder was given", expected="a folder with a sub-folder per thing or person")
    unused: list[Unused] = []
    embedders = [Embedder(open_entry(entry, settings.threads)) for entry in entries]
    embed = _embedder(args, home, settings, embedders)
    vectors, names, left_out = _vectors(args.folder, embed, len(entries), unused)
    vectors, names = _without_the_few(args.folder, vectors, names, left_out)
    if not args.json:  # before they turn out to be too few: then this is why
        for source, why in left_out:
            options.warn(f"left out {source}: {why}")
        if line := unused_line(unused):
            options.warn(line)
    made = [
        calibrate(
            rows,
            names,
            model_id=model_id,
            sha256=entry.sha256,
            fpir=settings.fpir,
            margin=settings.margin,
            cohort=calibration.calibrated_with(embedder.card),
        )
        for entry, embedder, rows in zip(entries, embedders, vectors, strict=True)
    ]
    calibration.save(home, [one.calibration for one in made], time.time())
    reports = [_report(one, entry, settings) for one, entry in zip(made, entries, strict=True)]
    if args.json:
        options.print_json({"model": model_id, "builds": reports, "left_out": left_out})
        return 0
    for one, entry in zip(made, entries, strict=True):
        _tell(one, entry, settings.fpir)
        if kinds := _kinds(one):
            options.say(f"The folder falls into {kinds} kinds; a face needs more the more of its kind are enrolled.")
        if warning := _warning(one, entry):
            options.warn(warning)
    options.say(f"kept in {calibration.path_of(home)}; `edge-app calibrate --reset --model {model_id}` goes back")
    return 0


def _is_classifier(home: Home, model_id: str | None) -> bool:
    from edge_app.model_store.catalogue import catalogue

    return any(entry.id == model_id and Task(entry.task).classifies for entry in catalogue(home))


def _reset(args: Arguments, home: Home, model_id: str) -> int:
    from edge_app.gallery import calibration

    if args.folder is not None:
        raise UsageError("both a folder and --reset were given", expected="one of them")
    count = calibration.reset(home, model_id)
    if args.json:
        options.print_json({"model": model_id, "deleted": count})
    else:
        options.say(f"{model_id} uses the thresholds it brought" + ("" if count else "; it did so before"))
    return 0


def _entries(home: Home, settings: Settings, given: str | None, precision: str | None) -> tuple[str, list[Entry]]:
    """The builds that are calibrated: all of the model, or the one of --precision."""
    from edge_app.model_store.catalogue import builds

    model_id = given or _in_use(home, settings)
    found = [entry for entry in builds(home, model_id) if precision in (None, "auto", entry.precision)]
    if not found:
        raise UsageError(f"there is no {precision} build of {model_id}", expected="another --precision")
    if not found[0].task.embeds:
        raise UsageError(f"{model_id} is a model for {found[0].task}", expected="an embedder")
    return model_id, found


def _in_use(home: Home, settings: Settings) -> str:
    """The embedder that recognize and watch use: of things where those are looked for, else of faces."""
    from edge_app.model_store.catalogue import catalogue

    things = {entry.id for entry in catalogue(home) if entry.task is Task.IMAGE_EMBEDDING}
    return settings.model if settings.model in things else settings.embedder


def _embedder(args: Arguments, home: Home, settings: Settings, embedders: Sequence[Embedder]) -> _Embed:
    if embedders[0].card.task is Task.IMAGE_EMBEDDING:
        from edge_app.gallery.matching import NAMES_NOBODY, Gallery
        from edge_app.recognition.things import ThingRecognizer

        readers = [ThingRecognizer(one, Gallery.empty(one.model_id), NAMES_NOBODY) for one in embedders]
        return lambda pixels: [reader.vector(pixels) for reader in readers]
    from edge_app.gallery.enrollment import Refusal, choose_face
    from edge_app.model_store.open_detector import open_detector

    detector = open_detector(settings.detector, options.detector_options(args), settings.threads, home)

    def face_vectors(pixels: Pixels) -> list[Float32s] | str:
        face = choose_face(detector.detect(pixels), (pixels.shape[1], pixels.shape[0]), largest=False)
        if isinstance(face, Refusal):
            return face.message
        return [one.embed(one.crops(pixels, [face]))[0].vector for one in embedders]

    return face_vectors


def _without_the_few(
    folder: Path, vectors: list[Float32s], names: list[str], left_out: list[tuple[str, str]]
) -> tuple[list[Float32s], list[str]]:
    """All but the sub-folders with too few usable pictures, which are added to `left_out`.

    Where hardly anything would be left all stay: then that is what is told.
    """
    from collections import Counter

    from edge_app.accuracy.calibrate import LEAST_IDENTITIES, LEAST_PICTURES

    counts = Counter(names)
    few = {name: count for name, count in counts.items() if count < LEAST_PICTURES}
    if len(counts) - len(few) < LEAST_IDENTITIES:
        return vectors, names
    for name, count in sorted(few.items()):
        left_out.append((str(folder / name), f"{counted(count, 'usable picture')}, {LEAST_PICTURES} are needed"))
    kept = [row for row, name in enumerate(names) if name not in few]
    return [rows[kept] for rows in vectors], [names[row] for row in kept]


def _vectors(
    folder: Path, embed: _Embed, builds: int, unused: list[Unused]
) -> tuple[list[Float32s], list[str], list[tuple[str, str]]]:
    """The vectors of every build, a name for each row, and the pictures that gave none with the reason.

    What else the folder holds is added to `unused`.
    """
    import numpy as np

    from edge_app.accuracy.calibrate import MOST_PICTURES
    from edge_app.media.folders import named_folders
    from edge_app.media.pictures import read_picture

    people = named_folders(folder, of="person or thing", unused=unused, problem=options.warn)
    total = sum(len(images) for _, images in people)
    if total > MOST_PICTURES:
        raise UsageError(f"the folder holds {total:,} pictures", expected=f"at most {MOST_PICTURES:,}")
    rows: list[list[Float32s]] = [[] for _ in range(builds)]
    names: list[str] = []
    left_out: list[tuple[str, str]] = []
    with options.progress() as bar:
        task = bar.add_task("embedding", total=total)
        for name, images in people:
            for image in images:
                bar.advance(task)
                try:
                    pixels = read_picture(image)
                except MediaError as error:
                    left_out.append((str(image), str(error)))
                    continue
                vectors = embed(pixels)
                if isinstance(vectors, str):
                    left_out.append((str(image), vectors))
                    continue
                names.append(name)
                for kept, vector in zip(rows, vectors, strict=True):
                    kept.append(vector)
    return [np.stack(kept) if kept else np.zeros((0, 1), np.float32) for kept in rows], names, left_out


def _kinds(made: Calibrated) -> int:
    """How many kinds were fitted to the folder and kept; 0: its thresholds are the same for every face."""
    cohort = made.calibration.cohort
    return len(cohort.kinds.offsets) if cohort and cohort.kinds else 0


def _report(made: Calibrated, entry: Entry, settings: Settings) -> dict[str, Any]:
    trial = made.trial and {
        "asked_fpir": settings.fpir,
        "enrolled": made.trial.enrolled,
        "fpir": _interval(made.trial.fpir),
        "fnir": _interval(made.trial.fnir),
    }
    return {
        "precision": entry.precision,
        "sha256": made.calibration.sha256,
        "identities": made.calibration.identities,
        "pictures": made.calibration.pictures,
        "genuine_median": round(made.genuine_median, 4),
        "points": [asdict(point) for point in made.calibration.points],
        "kinds": _kinds(made),
        "tar": {f"{fmr:g}": round(share, 4) for fmr, share in made.tar.items()},
        "trial": trial,
        "warning": _warning(made, entry),
    }


def _interval(share: Estimate) -> dict[str, float]:
    return {"value": share.value, "low": share.low, "high": share.high, "identities": share.trials}


def _warning(made: Calibrated, entry: Entry) -> str | None:
    """What to do when the thresholds are as good as can be, and that is not good; None when all is well."""
    if made.trial is None or not made.hopeless:
        return None
    what = "things" if entry.task is Task.IMAGE_EMBEDDING else "people"
    share = f"{made.trial.fnir.value:.0%} were missed or misnamed"
    return (
        f"{made.calibration.model_id} ({entry.precision}) can hardly tell these {what} apart: {share}. Try another "
        "embedder, train "
        "one on such pictures (edge-app train siamese DIR), or use more and clearer pictures"
    )


def _tell(made: Calibrated, entry: Entry, fpir: float) -> None:
    from edge_app.gallery.matching import share_words

    rows = []
    for point in (p for p in made.calibration.points if p.templates == 1):
        two = next((p for p in made.calibration.points if p.templates == 2 and p.fmr == point.fmr), None)
        rows.append(
            (
                share_words(point.fmr),
                f"{point.threshold:.3f}",
                f"{two.threshold:.3f}" if two else "-",
                f"{made.tar[point.fmr]:.1%}",
                f"{point.impostor_pairs:,}",
            )
        )
    kept = made.calibration
    title = f"{kept.model_id} {entry.precision}: {kept.identities} identities, {kept.pictures} pictures"
    columns = ("strangers alike", "one picture", "mean of two", "same one found", "pairs of strangers")
    options.show(options.table(title, columns, rows))
    if made.trial is None:
        options.say("Half of these pictures is too little for a trial: add things or people to learn what to expect.")
        return
    trial = made.trial
    options.say(
        f"Thresholds from one half, tried on the other ({trial.enrolled} enrolled with two pictures, "
        f"{fpir:.1%} of strangers allowed):"
    )
    options.say(f"  strangers called somebody  {_share(trial.fpir)}")
    options.say(f"  missed or misnamed         {_share(trial.fnir)}")


def _share(share: Estimate) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}, {share.trials} identities)"
