"""`edge-app evaluate --write-cards`: measures every shipped build and writes the figures into its card."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edge_app.accuracy import people_folder
from edge_app.cli import options
from edge_app.cli.evaluate import figures_report
from edge_app.cli.parameters import Arguments
from edge_app.system.files import json_ready
from edge_export.makers import shipped_cards


def write(args: Arguments) -> dict[str, Any]:
    """Every shipped build measured, its card rewritten."""
    with options.progress() as bar:
        task = bar.add_task("measuring", total=None)
        filled = shipped_cards.fill_cards(
            args.folder, args.pairs, strangers=args.strangers, groups=args.groups, tick=lambda: bar.advance(task)
        )
    return {
        "written": [
            {"file": each.entry.path.name, "precision": each.entry.precision}
            | figures_report(each.figures, people_folder.FPIR)
            | ({} if each.judged is None else {"judged": json_ready(asdict(each.judged))})
            for each in filled
        ]
    }
