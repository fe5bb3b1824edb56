"""The command `train`: turns a folder of labelled pictures into a model, and says how good it is.

Torch and its kin are imported only when training begins; the laptop side does without them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.progress import TaskID

from edge_app.cli import options
from edge_app.domain import EdgeError
from models import classifier_options, siamese_options

_NEEDS: Final = ("torch", "torchvision", "timm", "lightning", "safetensors", "sklearn")


def add_parser(commands: options.Commands) -> None:
    """Add `train` and what it can train."""
    top = commands.add_parser(
        "train",
        help="train a classifier or an embedder on a folder of pictures",
        epilog="example: edge-app train classifier flowers/ --output runs/flowers",
    )
    kinds = top.add_subparsers(title="what", metavar="WHAT", required=True)
    classifier = options.command(
        kinds,
        "classifier",
        "learn to tell classes apart from a sub-folder of pictures each",
        "edge-app train classifier flowers/ --output runs/flowers --seed 0",
        run_classifier,
    )
    classifier_options.add_arguments(classifier)
    siamese = options.command(
        kinds,
        "siamese",
        "fine-tune an embedder so that a few pictures suffice in a new domain",
        "edge-app train siamese people/ --output runs/people --aligned",
        run_siamese,
    )
    siamese_options.add_arguments(siamese)
    bench = options.command(
        kinds,
        "bench",
        "training speed against a plain PyTorch loop on the same pictures",
        "edge-app train bench flowers/ --epochs 20",
        run_bench,
    )
    bench.add_argument("directory", metavar="DIR", help="a sub-folder of pictures per class")
    bench.add_argument("--epochs", type=int, default=20, metavar="N", help="of the head (default 20)")
    bench.add_argument("--rounds", type=int, default=3, metavar="N", help="interleaved repetitions (default 3)")
    options.json_flag(bench)


def run_classifier(args: argparse.Namespace) -> int:
    """Train, or show the augmentation, or compare methods."""
    _require()
    if args.show_augmentation:
        from models.classifier_run import show_augmentation

        print(show_augmentation(args, args.show_augmentation))
        return 0
    with _Told(quiet=args.json) as told:
        if args.compare:
            from models.smalldata import compare

            rows = compare(classifier_options.from_namespace(args), args.compare, range(args.seeds), told)
        else:
            from models.classifier_run import run

            result = run(args, told)
    if args.compare:
        _show_comparison(rows, args.json)
    elif args.json:
        options.print_json(result.report | {"checkpoint_path": str(result.checkpoint), "html": str(result.html)})
    else:
        _show(result.report)
        print(f"checkpoint: {result.checkpoint}\nreport: {result.html}")
    return 0


def run_siamese(args: argparse.Namespace) -> int:
    """Fine-tune an embedder and tell what it was worth."""
    _require()
    from models.siamese import train

    with _Told(quiet=args.json) as told:
        result = train(siamese_options.from_namespace(args), told)
    if args.json:
        print(result.report.read_text(encoding="utf-8"))
    else:
        print("\n".join(result.summary()))
    return 0


def run_bench(args: argparse.Namespace) -> int:
    """Measure both loops in turn and print the medians."""
    _require()
    from pathlib import Path

    from models.speed import measure

    with _Told(quiet=args.json) as told:
        figures = measure(Path(args.directory), args.epochs, args.rounds, told)
    if args.json:
        options.print_json(figures)
        return 0
    rows = [(name.replace("_", " "), f"{value:.3g}") for name, value in figures.items()]
    options.show(options.table("training speed", ("what", "value"), rows))
    return 0


def _require() -> None:
    """Refuse when torch is absent; before it is imported, keep its threads from spinning while they wait.

    Spinning costs whatever else runs on the machine: beside two other busy processes on two cores one run of
    ants_bees took 208 s and 171 s of CPU time, and 51 s and 56 s of CPU time without it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise EdgeError(
            f"training needs {', '.join(missing)}, which the laptop side leaves out",
            remedy="pip install 'edge-app[train]'",
        )


def _show(report: Mapping[str, Any]) -> None:
    def row(name: str, estimate: Mapping[str, float]) -> tuple[str, str, str]:
        interval = f"{100 * estimate['low']:.1f} to {100 * estimate['high']:.1f} %"
        return name, f"{100 * estimate['value']:.1f} %", interval

    names = {
        "the network": "accuracy",
        "head on the frozen base": "frozen_base_accuracy",
        "random forest": "baseline_accuracy",
    }
    rows = [row(name, report[key]) for name, key in names.items()]
    title = f"accuracy on {report['data']['validation']} pictures held out"
    options.show(options.table(title, ("", "accuracy", "95 % interval"), rows))
    print(report["growth"]["sentence"])


def _show_comparison(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        options.print_json(list(rows))
        return
    lines = [
        (
            row["method"],
            f"{100 * row['mean']:.2f} %",
            "" if row["gain"] is None else f"{100 * row['gain']:+.2f}",
            "" if row["gain"] is None else f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}",
            row["verdict"],
            row["note"],
        )
        for row in rows
    ]
    columns = ("method", "accuracy", "gain", "95 % interval of the gain", "", "")
    options.show(options.table(f"mean of {rows[0]['seeds']} seeds", columns, lines))


class _Told:
    """Draws progress bars on standard error and prints notes above them; quiet with --json."""

    def __init__(self, *, quiet: bool) -> None:
        self._bar = options.progress()
        self._quiet = quiet
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if not self._quiet:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._quiet:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Print one line."""
        if self._quiet:
            print(text, file=sys.stderr)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def stage(self, name: str, total: int) -> None:
        """Begin a bar."""
        if not self._quiet:
            self._task = self._bar.add_task(name, total=total)

    def advance(self, done: int, detail: str = "") -> None:
        """Move the bar."""
        if self._quiet or self._task is None:
            return
        # What is found while counting is told as "of N".
        total = float(detail.removeprefix("of ")) if detail.startswith("of ") else None
        self._bar.update(self._task, completed=done, total=total or self._bar.tasks[self._task].total)
