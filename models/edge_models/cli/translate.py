"""The command `translate`: pictures of one folder get the look of another's and keep their labels."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Group, Option
from edge_app.core.counts import counted
from edge_models.cli.fields import parameters
from edge_models.cli.progress import TrainingProgress
from edge_models.cli.torch_side import LOADING, require, stopped
from edge_models.cli.words import next_training
from edge_models.fitting.options import chosen
from edge_models.generate.options import TranslateOptions

_MORE = """\
OUT gets pictures/ with the sub-folders of DIR, and made.json; of a folder that `edge-app compose` made masks/ and
boxes.json too. A picture keeps its size, shape and transparency; what is larger than the translator's side loses
detail. Every picture carries a mark that it was made: it is learned from and never judges, nor do pictures that it was
made of."""


def command() -> Group:
    return Group(
        "translate",
        example="edge-app translate train rendered/pictures photos/ --output runs/look",
        commands=[
            Command("train", run_train,
                help="learn the look of B for the pictures of A, neither of them with labels",
                example="edge-app translate train fonts/pictures handwriting/ --output runs/look",
                params=[*parameters(TranslateOptions), options.json_flag()]),
            Command("apply", run_apply,
                help="translate a folder; class folders, boxes and masks stay as they are",
                example="edge-app translate apply runs/look fonts/ --into translated",
                more=_MORE,
                params=[
                    Argument("run", "RUN", "folder of the translator's training", kind=Path),
                    Argument("directory", "DIR", "pictures, in sub-folders of any names", kind=Path),
                    Option("--into", kind=Path, metavar="OUT", required=True, help="folder to make; must be new"),
                    options.json_flag(),
                ]),
        ],
    )  # fmt: skip


def run_train(args: Arguments) -> int:
    """Train, and tell how well it went."""
    require()
    with TrainingProgress(quiet=args.json) as told, stopped(args, told):
        told.stage(LOADING, 1)
        from edge_models.generate.translate import train

        told.advance(1)
        result = train(chosen(TranslateOptions, args.values()), told)
    if args.json:
        options.print_json(json.loads(result.report.read_text(encoding="utf-8")))
        return 0
    last = result.looks[-1]
    for line in (
        *result.notes,
        f"{counted(int(last['step']), 'step')}: {result.closed:.0%} of the distance from A to B is closed, edges "
        f"stay by {result.kept:.2f} (1: all, 0: none)",
        shlex.join(["next:", "edge-app", "translate", "apply", str(args.output), "DIR", "--into", "OUT"]),
    ):
        options.say(line)
    return 0


def run_apply(args: Arguments) -> int:
    """Translate a folder, and say what was kept."""
    require()
    with TrainingProgress(quiet=args.json) as told:
        told.stage("translating", 1)
        from edge_models.generate.apply import apply

        made = apply(args.run, args.directory, args.into, lambda done, total: told.advance(done, f"of {total}"))
    if args.json:
        options.print_json(asdict(made) | {"folder": str(made.folder)})
        return 0
    kept = f", {counted(made.boxes, 'box', 'boxes')} as they were" if made.boxes else ""
    summary = f"{counted(made.pictures, 'picture')} in {made.folder}{kept}"
    for line in (*made.notes, summary, next_training(made.folder / "pictures")):
        options.say(line)
    return 0
