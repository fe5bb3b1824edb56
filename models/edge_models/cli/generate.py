"""The command `generate`: a network learns to make labelled pictures, and makes them."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict

from edge_app.cli import options
from edge_app.cli.parameters import Arguments, Command, Group
from edge_app.core.counts import counted
from edge_models.cli.fields import parameters
from edge_models.cli.progress import TrainingProgress
from edge_models.cli.torch_side import LOADING, require, stopped
from edge_models.cli.words import next_training
from edge_models.data.class_folders import look
from edge_models.fitting.options import chosen
from edge_models.generate.options import GanOptions, SampleOptions

_MORE = """\
DIR gets pictures/, a sub-folder per class, and made.json. Near-copies of pictures that were learned from are thrown
away. Every picture carries a mark that it was made: `train classifier` learns from it and never judges by it, nor by
the pictures that the generator learned from."""


def command() -> Group:
    return Group(
        "generate",
        example="edge-app generate train flowers/ --output runs/flowers-made",
        commands=[
            Command("train", run_train,
                help="learn to make pictures like those of each class",
                example="edge-app generate train flowers/ --output runs/maker --size 64",
                params=[*parameters(GanOptions), options.json_flag()]),
            Command("sample", run_sample,
                help="make pictures, and tell by the ones it never saw what they are worth",
                example="edge-app generate sample runs/maker --output made --count 50",
                more=_MORE,
                params=[*parameters(SampleOptions), options.json_flag()]),
        ],
    )  # fmt: skip


def run_train(args: Arguments) -> int:
    """Train, and tell how it went."""
    require()
    look(args.directory)
    with TrainingProgress(quiet=args.json) as told, stopped(args, told):
        told.stage(LOADING, 1)
        from edge_models.generate.gan import train

        told.advance(1)
        result = train(chosen(GanOptions, args.values()), told)
    if args.json:
        options.print_json(json.loads(result.report.read_text(encoding="utf-8")))
        return 0
    last = result.looks[-1]
    for line in (
        *result.notes,
        f"{counted(int(last['step']), 'step')} on {result.pictures} pictures of {len(result.classes)} classes: what is "
        f"made differs {last['variety']:.2f} times as much as they do",
        shlex.join(["next:", "edge-app", "generate", "sample", str(args.output), "--output", "DIR"]),
    ):
        options.say(line)
    return 0


def run_sample(args: Arguments) -> int:
    """Make pictures and tell what they are worth."""
    require()
    with TrainingProgress(quiet=args.json) as told:
        told.stage(LOADING, 1)
        from edge_models.generate.sample import sample

        told.advance(1)
        made = sample(chosen(SampleOptions, args.values()), told)
    if args.json:
        options.print_json(asdict(made) | {"folder": str(made.folder)})
        return 0
    gain = made.gain
    for line in (
        *made.notes,
        f"{counted(made.pictures, 'picture')} in {made.folder}",
        f"KID {made.kid[0]:.3f} (standard error {made.kid[1]:.3f}) to {made.judged} pictures that it never saw; real "
        f"ones have {made.kid_of_real[0]:.3f} ({made.kid_of_real[1]:.3f})",
        f"a linear head names {made.accuracy:.1%} of them, and {made.accuracy_with_made:.1%} where it learns from made "
        f"ones too: {100 * gain.value:+.1f} points, 95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}",
        next_training(made.folder / "pictures"),
    ):
        options.say(line)
    return 0
