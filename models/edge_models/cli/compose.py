"""The command `compose`: labelled pictures made of cut-outs, text and backgrounds. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_models.cli.progress import TrainingProgress
from edge_models.cli.words import next_training
from edge_models.generate.compose import Composed, ComposeOptions, compose

_MORE = """\
OBJECTS is a sub-folder of pictures per class. An object is cut out by its transparency, by NAME.mask.png beside it,
or off a plain background. --text 'ours=K-XY 12,ours=K-XY 14,other=AA-AA 99,none=' makes three classes of plates on
whatever objects there are; without OBJECTS plates alone, close up. DIR gets pictures/, a sub-folder per class;
masks/; boxes.json, as COCO tells boxes; and made.json. Every picture carries a mark that it was made: `train
classifier DIR/pictures` never judges by it, nor by the pictures that parts of it were cut from."""


def command() -> Command:
    return Command(
        "compose",
        run,
        example="edge-app compose cars/ --on streets/ --text 'AA-99 999' --output made --count 200",
        more=_MORE,
        params=[
            Argument("objects", "OBJECTS", "a sub-folder of pictures per class", kind=Path, required=False),
            Option("backgrounds", "--on", kind=Path, metavar="DIR", help="backgrounds; without, plain ones are made"),
            Option("--output", kind=Path, metavar="DIR", required=True, help="folder to make; must be new"),
            Option("--text", metavar="PATTERN", default="",
                help="digits: a class per digit; or number plates on the objects: A is a letter, 9 a digit, "
                "\\A an A; CLASS=PATTERN,CLASS=PATTERN: what is written is the class, and CLASS= has no plate"),
            Option("--fonts", kind=Path, metavar="DIR", help="folder of .ttf and .otf fonts (default: the system's)"),
            Option("--count", kind=int, metavar="N", default=100, help="pictures of each class (default 100)"),
            Option("--per-picture", kind=int, metavar="N", default=1,
                help="most objects in one picture; above 1 --count is of all pictures (default 1)"),
            Option("--size", kind=_size, metavar="W[xH]", default="256", help="of the pictures, pixels (default 256)"),
            Option("--scale", kind=_shares, metavar="A-B", default="0.35-0.8",
                help="longer side of an object, as shares of the picture's shorter one (default 0.35-0.8)"),
            Option("--turn", kind=float, metavar="DEGREES", default=12.0, help="to either side (default 12)"),
            Option("--occlusion", kind=float, metavar="P", default=0.2,
                help="chance that something covers a part of an object (default 0.2)"),
            Option("--no-mirror", "mirror", kind=bool, off=True, help="left and right mean something"),
            Option("--seed", kind=int, metavar="N", default=0, help="the same seed makes the same set (default 0)"),
            options.json_flag(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Compose, and say what was made of what."""
    values: dict[str, Any] = dict(args.values())
    wanted = ComposeOptions(
        width_px=values["size"][0], height_px=values["size"][1],
        **{name: values[name] for name in ("output", "objects", "backgrounds", "text", "fonts", "count", "per_picture",
                                           "scale", "turn", "occlusion", "mirror", "seed")},
    )  # fmt: skip
    with TrainingProgress(quiet=args.json) as told:
        told.stage("composing", 1)
        made = compose(wanted, lambda done, total: told.advance(done, f"of {total}"))
    if args.json:
        options.print_json(asdict(made) | {"folder": str(made.folder)})
        return 0
    for line in _lines(made):
        options.say(line)
    return 0


def _lines(made: Composed) -> list[str]:
    counts = ", ".join(f"{name} {count}" for name, count in made.by_class.items())
    fonts = f" in {counted(made.fonts, 'font')}" if made.fonts else ""
    return [
        *made.notes,
        f"{counted(made.pictures, 'picture')} in {made.folder}{fonts}: {counts}",
        next_training(made.folder / "pictures"),
    ]


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no size: 256, or 320x240")
    return int(found[1]), int(found[2] or found[1])


def _shares(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no range of shares: 0.35-0.8") from None
