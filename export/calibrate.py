"""Writes what a folder of people tells about an embedder into the cards of its shipped builds.

Hides nothing of the measuring, which is `models.protocol`. Flows in: a folder of people. Flows out: cards with
operating points and figures, and a manifest that pins the changed files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edge_app import runtime
from edge_app.detect import Detector
from edge_app.embed import Embedder
from edge_app.zoo import Entry, builds
from export.card import read_card, rewrite_card
from models.pairs import lfw_pairs
from models.protocol import Figures, Tick, embed_crops, figures_of, look_at, metrics_of, no_tick, people_in


@dataclass(frozen=True, slots=True)
class Filled:
    """A card that was written."""

    entry: Entry
    figures: Figures


def fill_cards(
    folder: Path, pairs_file: Path | None = None, *, model_id: str = "sface", tick: Tick = no_tick
) -> tuple[Filled, ...]:
    """Measure every shipped build of an embedder on a folder of people, and write points and figures into its card.

    The files and the manifest in `edge_app/zoo` change. Needs the extra `export` (onnx). Raises MediaError for a
    folder without people, ModelError when a file is not what the manifest says.
    """
    entries = builds(model_id)
    embedders = [Embedder(runtime.load(e.path, threads=1, sha256=e.sha256)) for e in entries]
    looks = look_at(people_in(folder), Detector.open(threads=1), embedders[0].crop, tick)
    pairs = None if pairs_file is None else lfw_pairs(pairs_file, folder)
    filled = []
    for entry, embedder in zip(entries, embedders, strict=True):
        figures = figures_of(looks, embed_crops(embedder, looks.crops, tick), pairs)
        metrics = metrics_of(figures, pairs_file)
        card = replace(read_card(entry.path), operating_points=figures.points, metrics=metrics)
        rewrite_card(entry.path, card)
        filled.append(Filled(entry, figures))
    return tuple(filled)
