"""The command `annotate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.cli.terminal_app import require_terminal, run_app
from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError, UsageError

if TYPE_CHECKING:
    from edge_app.core.types import Float32s
    from edge_app.library.annotation import Annotation
    from edge_app.library.labels import LabelFile
    from edge_app.library.simulate import Run

_MORE = """\
One picture after the other, one key per class: first what is typical of
large groups, then what teaches most, every fifth drawn at random so that the
accuracy can be told from the answers. LABELS is a CSV that is only appended
to; the same command again goes on. It works on features of a general image
embedder (edge-app export backbone) beside hand-made ones, or on these alone.

--known FOLDER: labels that some pictures have already, by sub-folder; with
--check it asks about those that are probably wrong, and nothing else.
--export FOLDER: a folder per class, for `edge-app train classifier`."""


def command() -> Command:
    return Command(
        "annotate",
        run,
        example="edge-app annotate pile/ --output labels.csv --classes good,scratch\n"
        "         edge-app annotate pile/ --output labels.csv --export parts/ &&\n"
        "         edge-app train classifier parts/ --output runs/parts",
        more=_MORE,
        params=[
            Argument("source", "DIR", "the pictures", kind=Path, required=False),
            Option("--output", kind=Path, metavar="LABELS", help="CSV with the answers; new, or to go on with"),
            Option("--recursive", kind=bool, help="look into the sub-folders of DIR too"),
            Option("--classes", metavar="A,B", help="the classes, where they are known before; key n adds one"),
            Option("--known", kind=Path, metavar="FOLDER", help="labelled pictures: a sub-folder per class, anywhere"),
            Option("--check", kind=bool, help="ask about labels of --known that are probably wrong"),
            Option("--most", kind=int, default=20_000, metavar="N", help="of more pictures a random part (20000)"),
            Option("--embedder", metavar="ID", help="general image embedder (default: the only one; 'plain': none)"),
            Option("--export", kind=Path, metavar="FOLDER", help="no questions: links into a folder per class"),
            Option("--copy", kind=bool, help="with --export: copies instead of links"),
            Option("--suggest", kind=bool, help="no questions: print what the head says of every picture"),
            Option("--simulate", kind=Path, metavar="FOLDER",
                help="no questions: how many labels it takes on a labelled folder, beside random order"),
            Option("--target", kind=float, default=0.9, metavar="P", help="with --simulate: share right (0.9)"),
            Option("--seeds", kind=int, default=10, metavar="N", help="with --simulate: sessions (10)"),
            Option("--threads", kind=int, metavar="N", help="threads for each model (default: 1, all cores busy)"),
            options.json_flag(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Open the app, or do what needs no questions."""
    if args.simulate is not None:
        return _simulate(args)
    if args.source is None or args.output is None:
        raise UsageError("there is no DIR or no --output", expected="edge-app annotate DIR --output LABELS")
    from edge_app.library.labels import LabelFile, alone

    if args.most < 1:
        raise UsageError(f"--most {args.most}", expected="1 or more")
    if args.export is not None:
        return _export(args, LabelFile(args.output))
    if args.check and args.known is None:
        raise UsageError("--check has nothing to check", expected="--known FOLDER")
    if args.suggest:
        labels = LabelFile(args.output)
        session = _session(args, labels)
        _tell_rows(labels)
        return _suggest(args, session)
    require_terminal("--export and --suggest do without")
    if not args.output.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {args.output.parent}", expected="one that the labels can be written into")
    with alone(args.output.resolve()):  # the file that a link leads to
        labels = LabelFile(args.output)
        session = _session(args, labels)
        code = _ask(args, session)
    if code:
        return code
    _tell_rows(labels)
    options.say(
        f"{args.output}: {counted(session.answered.total(), 'answer')}, "
        f"{', '.join(f'{name} {count}' for name, count in session.counts.most_common()) or 'no label yet'}"
    )
    return 0


def _tell_rows(labels: LabelFile) -> None:
    """What a reader of the file should know of its rows."""
    if lines := labels.strange:
        options.warn(
            f"{labels.path}: {len(lines)} {'line is' if len(lines) == 1 else 'lines are'} no answer and passed over, "
            f"such as line {lines[0]}"
        )
    if twice := labels.twice:
        name = list(twice)[-1]
        before, last = twice[name]
        options.note(
            f"labelled twice and differently: {len(twice)}; the last label counts: {name} was {before} and is {last}"
        )


def _session(args: Arguments, labels: LabelFile) -> Annotation:
    """The pile with its features, the answers so far and what was known before."""
    import numpy as np

    from edge_app.library.annotation import Annotation
    from edge_app.library.labels import valid_class
    from edge_app.media.folders import find_pictures, named_folders

    pile: Path = args.source
    classes = [valid_class(one) for one in (args.classes or "").split(",") if one.strip()]
    known: dict[str, str] = {}
    if args.known is not None:
        below = Path(os.path.relpath(args.known.resolve(), pile.resolve()))
        for name, found in named_folders(args.known, of="class", unused=[], problem=options.warn):
            known |= {(below / name / path.name).as_posix(): valid_class(name) for path in found}
        if not known:
            raise UsageError(f"{args.known} holds no labelled picture", expected="pictures in a sub-folder per class")
    loose: list[str] = []
    if not (args.check or (known and not any(path.is_file() for path in pile.iterdir()) and not args.recursive)):
        found = find_pictures(pile, recursive=args.recursive)
        loose = [name for path in found if (name := path.relative_to(pile).as_posix()) not in known]
    if len(loose) > args.most:
        options.note(
            f"{len(loose):,} pictures are more than --most {args.most:,}: a random part of them is asked about"
        )
        chosen = np.random.default_rng(0).permutation(len(loose))[: args.most]
        loose = sorted({loose[i] for i in chosen} | (labels.answers.keys() & set(loose)))
    names, features = _features(args, pile, sorted(known) + loose)
    if gone := len(known) + len(loose) - len(names):
        options.warn(f"left out, for it cannot be read: {counted(gone, 'picture')}")
    if strange := len(labels.answers.keys() - set(names)):
        options.warn(f"{strange} of {len(labels.answers)} answers in {args.output} are of pictures that are not here")
    session = Annotation(names, features, labels, known, checking=args.check, classes=classes)
    session.refit()
    return session


def _features(args: Arguments, pile: Path, pictures: Sequence[str]) -> tuple[list[str], Float32s]:
    import cv2

    from edge_app.core.task import Task
    from edge_app.library.features import features_of
    from edge_app.library.tools import Tools
    from edge_app.system.parallel import cores

    cv2.setNumThreads(1)
    home, settings = options.settings(args)
    tools = Tools(home, replace(settings, threads=args.threads or 1), None, args.embedder)
    eye = None
    if args.embedder != "plain" and (args.embedder is not None or tools.models(Task.IMAGE_EMBEDDING)):
        eye = tools.embedder()
    if eye is None:
        options.note("no image embedder: outlines, texture and colours alone; better: edge-app export backbone")
    with options.progress() as bar:
        task = bar.add_task("looking at the pictures", total=len(pictures))
        return features_of(pile, pictures, eye, home, cores(), lambda: bar.advance(task))


def _ask(args: Arguments, session: Annotation) -> int:
    from edge_app.media.pictures import read_picture
    from edge_app.tui.annotate import AnnotateApp
    from edge_app.tui.picture.terminal import Terminal

    terminal = Terminal.detect(os.environ, (sys.__stderr__ or sys.stdout).encoding or "")
    return run_app(AnnotateApp(session, lambda name: read_picture(args.source / name, max_px=1024), terminal))


def _suggest(args: Arguments, session: Annotation) -> int:
    said = session.predictions()
    if not said:
        raise UsageError("there are too few labels to say anything", expected="pictures of two classes")
    if args.json:
        options.print_json([{"picture": name, "label": one, "probability": round(p, 4)} for name, one, p in said])
    else:
        for name, one, probability in said:
            options.say(f"{name}: {one} {probability:.2f}")
    return 0


def _export(args: Arguments, labels: LabelFile) -> int:
    from edge_app.library.labels import export

    if not labels.answers:
        raise UsageError(f"{args.output} holds no answer", expected="what `edge-app annotate` wrote")
    done = export(labels, args.source, args.export, copy=args.copy)
    left = ", ".join(f"{count} {kind}" for kind, count in sorted(done.left_out.items()))
    if not done.counts:
        raise EdgeError(
            f"of the pictures in {args.output} none can be exported: {left}",
            expected=f"labelled pictures that lie in {args.source}",
        )
    if args.json:
        options.print_json({"classes": done.counts, "left_out": done.left_out, "moved": done.moved,
                            "stale": list(map(str, done.stale))})  # fmt: skip
    else:
        options.say(f"{args.export}: {', '.join(f'{name} {count}' for name, count in sorted(done.counts.items()))}")
    if left:
        options.note(f"left out: {left}")
    if done.moved:
        options.note(f"links of an earlier export taken out of the folder of another class: {done.moved}")
    if done.stale:
        options.warn(
            f"files that stay under another label than their pictures have now: {len(done.stale)}, such as "
            f"{done.stale[0]}; look at them, then delete them"
        )
    _tell_rows(labels)
    return 0


def _simulate(args: Arguments) -> int:
    import numpy as np

    from edge_app.library.simulate import simulate
    from edge_app.media.folders import named_folders

    if not 0 < args.target < 1 or args.seeds < 1:
        raise UsageError(f"--target {args.target} --seeds {args.seeds}", expected="a share in (0, 1), 1 or more")
    pile: Path = args.simulate
    truth = {
        f"{name}/{path.name}": name
        for name, found in named_folders(pile, of="class", unused=[], problem=options.warn)
        for path in found
    }
    if len(set(truth.values())) < 2 or len(truth) < 40:
        raise UsageError(
            f"{pile} holds {len(truth)} pictures of {len(set(truth.values()))} classes", expected="40 of 2"
        )
    names, features = _features(args, pile, sorted(truth))
    known = sorted(set(truth.values()))
    classes = np.array([known.index(truth[name]) for name in names], np.intp)
    with options.progress() as bar:
        task = bar.add_task("simulating", total=2 * args.seeds * (-(-(len(names) - len(names) // 2) // 5)))
        runs = list(simulate(features, classes, range(args.seeds), advance=lambda: bar.advance(task)))
    report = _report(runs, args.target) | {"folder": str(pile), "pictures": len(names), "classes": len(known)}
    if args.json:
        options.print_json(report)
        return 0
    for how in ("asked", "random"):
        one = report[how]
        needed = [f"{one['median']:.0f} labels (median of {args.seeds}; {one['least']} to {one['most']})"]
        if one["never"]:
            needed = [f"not reached in {one['never']} of {args.seeds} sessions of {report['pile']} labels", *needed]
        options.say(f"{args.target:.0%} with pictures {how}: {'; '.join(needed if one['median'] else needed[:1])}")
    saved = report["saved"]
    if saved is not None:
        options.say(
            f"labels saved: {saved['mean']:.0f} on average ({saved['low']:.0f} to {saved['high']:.0f}), "
            f"over the {saved['sessions']} sessions in which both orders got there"
        )
    options.say(
        f"said that more answers change little after {report['stopped']['median'] or 'no'} labels (median), "
        f"{report['stopped']['lost_points']:.1f} points below all {report['pile']} labels"
        if report["stopped"]["sessions"]
        else "in no session was it said that more answers change little"
    )
    options.say(
        f"the estimate's interval held the truth in {report['covered']:.0%} of {report['estimates']} fits, "
        f"from the first to the last in {report['always_covered']} of {args.seeds} sessions"
    )
    return 0


def _report(runs: Sequence[Run], target: float) -> dict[str, Any]:
    """Labels needed by order, what was saved with its interval over the seeds, and what the estimates were worth."""
    import numpy as np

    from edge_app.accuracy.intervals import over_repeats
    from edge_app.library.ask import RANDOM_EVERY

    asked = {run.seed: run for run in runs if run.order == "asked"}
    random = {run.seed: run for run in runs if run.order == "random"}
    pile = max(step.labels for run in runs for step in run.steps)

    def needed(of: Mapping[int, Run]) -> dict[str, Any]:
        counts = [run.labels_for(target) for run in of.values()]
        reached = sorted(count for count in counts if count is not None)
        middle = median([pile * 10 if count is None else count for count in counts])
        return {
            "median": middle if middle <= pile else None,
            "least": reached[0] if reached else None,
            "most": reached[-1] if reached else None,
            "never": counts.count(None),
        }

    sessions = [
        {"seed": seed, "asked": run.labels_for(target), "random": random[seed].labels_for(target)}
        for seed, run in asked.items()
    ]
    gains = np.array([one["random"] - one["asked"] for one in sessions if one["random"] and one["asked"]], np.float64)
    saved = None
    if len(gains) > 1:
        found = over_repeats(gains)
        saved = {"mean": found.value, "low": found.low, "high": found.high, "sessions": found.trials}
    stops = [
        (next(step for step in run.steps if step.over), run.steps[-1])
        for run in asked.values()
        if any(step.over for step in run.steps)
    ]
    # Fits of one session see the same answers, so they are counted together only beside the sessions, each of them one.
    told = [[step for step in run.steps if step.labels >= 4 * RANDOM_EVERY] for run in asked.values()]
    held = {
        labels: [step.held for of in told for step in of if step.labels == labels]
        for labels in sorted({step.labels for of in told for step in of})
    }
    curve = {
        how: {
            labels: round(float(np.mean([s.right for run in of.values() for s in run.steps if s.labels == labels])), 4)
            for labels in sorted({s.labels for run in of.values() for s in run.steps})
            if labels % 20 == 0
        }
        for how, of in (("asked", asked), ("random", random))
    }
    return {
        "target": target,
        "seeds": len(asked),
        "pile": pile,
        "asked": needed(asked),
        "random": needed(random),
        "saved": saved,
        "sessions": sessions,
        "stopped": {
            "sessions": len(stops),
            "median": median([one.labels for one, _ in stops]) if stops else None,
            "lost_points": float(np.mean([100 * (last.right - one.right) for one, last in stops])) if stops else 0.0,
        },
        "estimates": sum(map(len, told)),
        "covered": float(np.mean(np.concatenate(list(held.values())))) if held else 0.0,
        "covered_at": {labels: [sum(of), len(of)] for labels, of in held.items() if labels % 20 == 0},
        "always_covered": sum(all(step.held for step in of) for of in told),
        "curve": curve,
    }
