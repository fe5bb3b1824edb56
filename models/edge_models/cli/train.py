"""The command `train`: turns a folder of labelled pictures into a model, and says how good it is.

Torch and its kin are imported only when training begins; the laptop side does without them.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Group, Option
from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.system.new_file import NewFiles
from edge_models.classifier.contestants import CONTESTANTS
from edge_models.classifier.options import ClassifierOptions
from edge_models.cli import compare
from edge_models.cli.fields import parameters
from edge_models.cli.progress import TrainingProgress
from edge_models.cli.torch_side import LOADING, require, stopped
from edge_models.data.class_folders import CheckOptions, look
from edge_models.fitting.options import chosen
from edge_models.selfsup.options import PretrainOptions
from edge_models.siamese.options import SiameseOptions


def command() -> Group:
    return Group(
        "train",
        example="edge-app train classifier flowers/ --output runs/flowers",
        commands=[
            Command("classifier", run_classifier,
                help="learn to tell classes apart from a sub-folder of pictures each",
                example="edge-app train classifier flowers/ --output runs/flowers --seed 0",
                params=[
                    *parameters(ClassifierOptions, may_lack=("output",)),
                    Option("--show-augmentation", kind=Path, metavar="PNG", section="Pictures",
                        help="write what the network sees, and stop"),
                    *compare.comparing("--compare", "the same as `train compare --methods`, and stop"),
                    options.json_flag(),
                ]),
            Command("compare", compare.run,
                help="measure every small-data method that applies to a folder against doing without, in one table",
                example="edge-app train compare flowers/ --per-class 5 20 all --output runs/compared",
                more=compare.MORE,
                params=[
                    *parameters(ClassifierOptions, may_lack=("output",)),
                    *compare.comparing("--methods", "these alone"),
                    options.json_flag(),
                ]),
            Command("pretrain", run_pretrain,
                help="learn what pictures look like from a folder without labels; go on with `train classifier --from`",
                example="edge-app train pretrain photos/ --method vicreg --labelled flowers/ --output runs/pool",
                params=[*parameters(PretrainOptions), options.json_flag()]),
            Command("siamese", run_siamese,
                help="fine-tune an embedder so that a few pictures suffice in a new domain",
                example="edge-app train siamese people/ --output runs/people --aligned",
                params=[*parameters(SiameseOptions), options.json_flag()]),
            Command("contest", run_contest,
                help="accuracy and processor time beside fastai, timm with scikit-learn, and AutoGluon",
                example="edge-app train contest flowers/ --per-class 20 --seeds 5 --python others/bin/python",
                params=[
                    Argument("directory", "DIR", "a sub-folder of pictures per class; three tenths are kept aside",
                        kind=Path),
                    Option("--per-class", kind=int, metavar="N",
                        help="learn from N pictures of each class (default: all that are not kept aside)"),
                    Option("--seeds", kind=int, default=5, metavar="N", help="how many draws (default 5)"),
                    Option("--who", many=True, metavar="NAME",
                        help="only these of: " + ", ".join(CONTESTANTS)),
                    Option("--search", kind=float, default=1.0, metavar="MINUTES",
                        help="of our own search (default 1)"),
                    Option("--python", metavar="FILE",
                        help="interpreter of the environment in which the others are installed"),
                    Option("--output", kind=Path, metavar="DIR", help="keep finished turns there, and go on from them"),
                    options.json_flag(),
                ]),
            Command("bench", run_bench,
                help="training speed against a plain PyTorch loop on the same pictures",
                example="edge-app train bench flowers/ --epochs 20",
                params=[
                    Argument("directory", "DIR", "a sub-folder of pictures per class", kind=Path),
                    Option("--epochs", kind=int, default=20, metavar="N", help="of the head (default 20)"),
                    Option("--rounds", kind=int, default=3, metavar="N", help="interleaved repetitions (default 3)"),
                    options.json_flag(),
                ]),
        ],
    )  # fmt: skip


def _classifier_options(args: Arguments) -> ClassifierOptions:
    if args.output is None and not (args.compare or args.show_augmentation):
        raise UsageError("--output is missing", expected="a new folder for the run")
    return chosen(ClassifierOptions, args.values())


def run_classifier(args: Arguments) -> int:
    """Train, or show the augmentation, or compare methods."""
    require()
    look(args.directory)  # before torch: loading that takes 4.5 s and 970 MB
    if args.show_augmentation:
        from edge_models.classifier.run import show_augmentation

        [sheet] = NewFiles().free(args.show_augmentation)
        options.say(str(show_augmentation(_classifier_options(args), sheet)))
        return 0
    if args.compare:
        return compare.measure(args)
    with TrainingProgress(quiet=args.json) as told, stopped(args, told):
        told.stage(LOADING, 1)
        from edge_models.classifier.run import train_classifier

        told.advance(1)
        result = train_classifier(_classifier_options(args), told)
    if args.json:
        options.print_json(result.report | {"checkpoint_path": str(result.checkpoint), "html": str(result.html)})
    else:
        _show(result.report)
        for line in (f"checkpoint: {result.checkpoint}", f"report: {result.html}", _next(result.checkpoint)):
            options.say(line)
    return 0


def run_pretrain(args: Arguments) -> int:
    """Learn without labels and tell whether it got anywhere."""
    require()
    with TrainingProgress(quiet=args.json) as told, stopped(args, told):
        told.stage(LOADING, 1)
        from edge_models.selfsup.pretrain import pretrain

        told.advance(1)
        result = pretrain(chosen(PretrainOptions, args.values()), told)
    if args.json:
        options.print_json(json.loads(result.report.read_text(encoding="utf-8")))
        return 0
    last, probes = result.epochs[-1], [line["probe"] for line in result.epochs if "probe" in line]
    options.say(
        f"{result.pictures} pictures, {counted(len(result.epochs), 'epoch')}: loss {last['loss']:.3f}, spread of "
        f"features {last['spread']:.2f} (0: collapsed), effective rank {last['rank']:.0f}"
    )
    if probes:
        options.say(f"linear probe on the labelled pictures: {probes[0]:.1%} at first, {probes[-1]:.1%} in the end")
    options.say(shlex.join(["next:", "edge-app", "train", "classifier", "DIR", "--from", str(args.output)]) + " ...")
    return 0


def run_siamese(args: Arguments) -> int:
    """Fine-tune an embedder and tell what it was worth."""
    require()
    look(args.directory, CheckOptions(noun="identity"))
    with TrainingProgress(quiet=args.json) as told, stopped(args, told):
        told.stage(LOADING, 1)
        from edge_models.siamese.run import train

        told.advance(1)
        result = train(chosen(SiameseOptions, args.values()), told)
    if args.json:
        options.print_json(json.loads(result.report.read_text(encoding="utf-8")))
    else:
        for line in (*result.summary(), _next(result.checkpoint)):
            options.say(line)
    return 0


def _next(checkpoint: Path) -> str:
    """The line that makes a model of it; the run's folder names the model."""
    return shlex.join(["next:", "edge-app", "export", str(checkpoint), "-o", f"{checkpoint.parent.name}.onnx"])


def run_bench(args: Arguments) -> int:
    """Measure both loops in turn and print the medians."""
    require()
    with TrainingProgress(quiet=args.json) as told:
        told.stage(LOADING, 1)
        from edge_models.classifier.training_speed import measure

        told.advance(1)
        found = measure(args.directory, args.epochs, args.rounds, told)
    if args.json:
        options.print_json(found)
        return 0
    title = f"training speed, medians of {found['rounds']} rounds in turns, {found['threads']} threads"
    columns = ("what", "by hand, s", "ours, s", "times faster", "rounds", "times less CPU", "wanted", "")
    options.show(options.table(title, columns, map(_bench_line, found["rows"])))
    return 0


def run_contest(args: Arguments) -> int:
    """Let everybody learn from the same pictures and print what they named rightly."""
    require()
    look(args.directory)
    with TrainingProgress(quiet=args.json) as told:
        told.stage(LOADING, 1)
        from edge_models.classifier.contest import Contest, hold

        told.advance(1)
        who, seeds = tuple(args.who or CONTESTANTS), tuple(range(args.seeds))
        contest = Contest(args.per_class, seeds, who, args.search, args.python or sys.executable)
        found = hold(args.directory, contest, told, args.output)
    if args.json:
        options.print_json(found)
        return 0
    few = "" if found["per_class"] is None else f", {found['per_class']} of each class to learn from"
    title = f"{counted(found['judged'], 'picture')} kept aside, means of {len(found['seeds'])} seeds{few}"
    columns = ("who", "accuracy", "balanced", "CPU s", "ours is better by", "95 % interval")
    options.show(options.table(title, columns, map(_contest_line, found["rows"])))
    for name, why in found["absent"].items():
        options.say(f"{name} did not enter: {why}")
    return 0


def _contest_line(row: Mapping[str, Any]) -> tuple[str, ...]:
    gain = row.get("ours_gains")
    compared = (
        (f"{100 * gain['value']:+.1f}", f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}") if gain else ("",) * 2
    )
    return (
        row["who"],
        f"{100 * row['accuracy']:.1f} %",
        f"{100 * row['balanced']:.1f} %",
        f"{row['cpu_s']:.0f}",
        *compared,
    )


def _bench_line(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["what"],
        f"{row['hand_s']:.1f}",
        f"{row['ours_s']:.1f}",
        f"{row['times_faster']:.1f}",
        f"{row['least']:.1f} to {row['most']:.1f}",
        f"{row['times_less_cpu']:.1f}",
        f"{row['target']:g}",
        "met" if row["met"] else "missed",
    )


def _show(report: Mapping[str, Any]) -> None:
    def row(name: str, estimate: Mapping[str, float]) -> tuple[str, str, str]:
        interval = f"{100 * estimate['low']:.1f} to {100 * estimate['high']:.1f} %"
        return name, f"{100 * estimate['value']:.1f} %", interval

    names = {
        "the network": "accuracy",
        "the same, every class alike": "balanced_accuracy",
        "head on the frozen base": "frozen_base_accuracy",
        "random forest": "baseline_accuracy",
    }
    rows = [row(name, report[key]) for name, key in names.items()]
    title = f"accuracy on {counted(report['data']['validation'], 'picture')} held out"
    options.show(options.table(title, ("", "accuracy", "95 % interval"), rows))
    tree = report.get("hierarchy", {}).get("sentence", "")
    for sentence in (*report["warnings"], *([tree] if tree else []), report["growth"]["sentence"]):
        options.say(sentence)
