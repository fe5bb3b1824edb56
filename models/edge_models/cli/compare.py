"""The command `train compare`, which `train classifier --compare` is too: methods against doing without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from edge_app.cli import options
from edge_app.cli.parameters import Arguments, Option
from edge_app.core.counts import counted
from edge_models.classifier.options import METHODS, ClassifierOptions
from edge_models.cli.progress import TrainingProgress
from edge_models.cli.torch_side import LOADING, require
from edge_models.data.class_folders import look
from edge_models.fitting.options import chosen

MORE: Final = """\
Every method that applies is held against doing without, on the same pictures: a head on the frozen base, over seeds
and numbers of labels; what is not measured is named with the reason. RUN gets comparison.json and comparison.html.
Options of `train classifier` hold for both sides, but --search, --unfreeze, --ensemble and --distil: no layer of the
base is learned, no recipe is searched. Methods in which layers learn (noisy-student, from-scratch, self-training, dann,
pretrained) take minutes in each trial: name them, or --costly. Adapting ones need --adapt TARGET and a test/ with
pictures of that domain. --generations N draws the curve of self-distillation."""


def comparing(name: str, told: str) -> list[Option]:
    """What both spellings of a comparison take."""
    section = "Comparison"
    return [
        Option(name, "compare", kind=METHODS, many=True, metavar="METHOD", section=section,
            help=f"{told}: {', '.join(METHODS)}"),
        Option("--seeds", kind=int, default=5, metavar="N", section=section, help="how many, from --seed (default 5)"),
        Option("--per-class", kind=_labels, many=True, metavar="N|all", section=section,
            help="learn from N pictures of each class, and hide the others' labels; several make several tables "
            "(default all)"),
        Option("--costly", kind=bool, section=section, help="methods too that are left out for their price"),
        Option("--on", kind=Path, metavar="DIR", section=section,
            help="backgrounds to compose on; without, plain ones are made"),
    ]  # fmt: skip


def _labels(text: str) -> int:
    """A number of labels per class; 0 is all of them."""
    if text == "all":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is no number of pictures per class: 5, 20 or all")
    return int(text)


def measure(args: Arguments) -> int:
    """Measure methods and print the table, or its JSON."""
    with TrainingProgress(quiet=args.json) as told:
        told.stage(LOADING, 1)
        from edge_models.comparison.compare import PAGE_NAME, Plan, compare

        told.advance(1)
        seeds = tuple(range(args.seed, args.seed + args.seeds))
        per_class = tuple(few or None for few in args.per_class or (0,))
        plan = Plan(tuple(args.compare), seeds, per_class, args.costly, args.on)
        found = compare(chosen(ClassifierOptions, args.values()), plan, told, args.output)
    if args.json:
        options.print_json(found)
        return 0
    _show_comparison(found)
    if args.output is not None:
        options.say(f"page: {args.output / PAGE_NAME}")
    return 0


def run(args: Arguments) -> int:
    """Measure methods, all that apply unless some are named; what `train classifier --compare` does too."""
    require()
    look(args.directory)
    return measure(args)


def _show_comparison(found: Mapping[str, Any]) -> None:
    """Narrow enough for eighty columns."""
    columns = ("method", "right, %", "gain", "95 % interval", "better?", "time")
    measured = f"mean of {len(found['seeds'])} seeds, {counted(found['judged'], 'picture')} judged"
    for table in found["tables"]:
        few = "every label" if table["per_class"] is None else f"{table['per_class']} labels per class"
        title = f"accuracy with {few}, {measured}"
        options.show(options.table(title, columns, _comparison_lines(table["rows"], "accuracy")))
        if table["unequal_classes"]:
            title = "the same by mean recall of the classes, which are of unequal size"
            options.show(options.table(title, columns, _comparison_lines(table["rows"], "recall")))
        for sentence in (*table["sentences"], *(one["reason"] for one in table["recommended"])):
            options.say(sentence)


def _comparison_lines(rows: Sequence[Mapping[str, Any]], measure: str) -> Iterator[tuple[str, ...]]:
    from edge_models.comparison.gains import minutes

    for row in rows:
        figures = row[measure]
        gain, low, high = (f"{100 * figures[name]:+.1f}" for name in ("gain", "low", "high"))
        compared = (gain, f"{low} to {high}", figures["verdict"]) if row is not rows[0] else ("",) * 3
        yield row["method"], f"{100 * figures['with']:.1f}", *compared, minutes(row["seconds"])
