"""The commands `models list`, `show` and `verify`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options
from edge_app.domain import ModelCard, ModelError

if TYPE_CHECKING:
    from edge_app.zoo import Entry


def add_parser(commands: options.Commands) -> None:
    """Add `models` and what it can do."""
    top = commands.add_parser(
        "models", help="list, show and verify the models", epilog="example: edge-app models show sface"
    )
    actions = top.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = options.command(
        actions, "list", "list the models, and which build runs here and why", "edge-app models list", run_list
    )
    listing.add_argument("--precision", choices=("auto", "fp32", "int8"), help="as if this were set")
    options.json_flag(listing)
    show = options.command(actions, "show", "show a model's card", "edge-app models show sface", run_show)
    show.add_argument("id", metavar="ID", help="a model's id, or an .onnx file")
    options.json_flag(show)
    verify = options.command(
        actions, "verify", "check every file against its pinned hash and its card", "edge-app models verify", run_verify
    )
    options.json_flag(verify)


def run_list(args: argparse.Namespace) -> int:
    """Print every shipped build, its licence, and which one runs."""
    from edge_app.precision import choose
    from edge_app.store import catalogue

    home, settings = options.settings(args)
    choice = choose(settings.embedder, settings.precision, home, settings.threads)
    detector = settings.detector
    listed = []
    for entry in catalogue(home):
        used = entry == choice.entry or entry.id.split("-")[0] == detector
        listed.append(_row(entry) | {"in_use": used})
    if args.json:
        options.print_json({"models": listed, "why": choice.why, "medians_ms": dict(choice.medians_ms)})
        return 0
    columns = ("", "id", "precision", "task", "licence", "size", "SHA-256")
    rows = [
        (
            "*" if m["in_use"] else "",
            m["id"],
            m["precision"],
            m["task"],
            m["licence"],
            _size(m["bytes"]),
            m["sha256"][:12],
        )
        for m in listed
    ]
    options.show(options.table("", columns, rows))
    print(f"* runs here. Embedder {choice.entry.id} as {choice.entry.precision}: {choice.why}.")
    return 0


def _row(entry: Entry) -> dict[str, Any]:
    from edge_app import runtime

    card = runtime.load(entry.path, threads=1).card
    return {
        "id": entry.id,
        "precision": entry.precision,
        "task": entry.task,
        "licence": card.licence,
        "commercial_use": card.commercial_use,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
    }


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def run_show(args: argparse.Namespace) -> int:
    """Print one card per build."""
    cards = [_read(path) for path in _files(args.id)]
    if args.json:
        options.print_json([json.loads(card.to_json()) for card in cards])
        return 0
    for card in cards:
        _print_card(card)
    return 0


def _files(wanted: str) -> list[Path]:
    from edge_app.zoo import builds

    path = Path(wanted)
    if path.suffix == ".onnx" or path.exists():
        return [path]
    return [entry.path for entry in builds(wanted)]


def _read(path: Path) -> ModelCard:
    from edge_app import runtime

    return runtime.load(path, threads=1).card


def _print_card(card: ModelCard) -> None:
    use = "commercial use allowed" if card.commercial_use else "NO COMMERCIAL USE"
    spec = card.input
    size = f"{spec.width_px or 'any'}x{spec.height_px or 'any'} {spec.channels}"
    facts = [
        ("task", card.task),
        ("precision", card.precision),
        ("licence", f"{card.licence} ({use})"),
        ("origin", card.origin),
        ("origin SHA-256", card.origin_sha256),
        ("input", f"{size}, mean {list(spec.mean)}, std {list(spec.std)}"),
        ("crop", card.crop),
        ("outputs", ", ".join(card.outputs)),
        *((name, str(value)) for name, value in card.metrics.items()),
        *(card.provenance.items()),
    ]
    if card.embedding_size:
        facts.insert(2, ("embedding", f"{card.embedding_size} numbers"))
    options.show(options.table(f"{card.id} ({card.precision})", ("", ""), facts))
    if card.operating_points:
        rows = [
            (f"{p.fmr:g}", f"{p.threshold:.4f}", str(p.templates), f"{p.impostor_pairs:,}")
            for p in card.operating_points
        ]
        columns = ("false-match rate", "threshold", "templates", "impostor pairs")
        options.show(options.table("operating points", columns, rows))


def run_verify(args: argparse.Namespace) -> int:
    """Check every shipped file; 1 when one is wrong."""
    from edge_app import runtime
    from edge_app.zoo import entries

    results = []
    for entry in entries():
        try:
            runtime.load(entry.path, threads=1, sha256=entry.sha256)
            results.append({"file": entry.path.name, "ok": True, "problem": None})
        except ModelError as error:
            results.append({"file": entry.path.name, "ok": False, "problem": str(error)})
    if args.json:
        options.print_json({"files": results})
    else:
        for result in results:
            print(f"{result['file']}: " + ("well" if result["ok"] else str(result["problem"])))
    return 0 if all(result["ok"] for result in results) else 1
