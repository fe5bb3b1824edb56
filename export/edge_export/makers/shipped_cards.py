"""Writes what a folder of people tells about an embedder into the cards of its shipped builds.

Hides nothing of the measuring, which is `edge_app.accuracy.people_folder`. Flows in: a folder of people. Flows out:
cards with operating points and figures, and a manifest that pins the changed files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edge_app.accuracy.lfw_pairs import lfw_pairs
from edge_app.accuracy.people_folder import (
    Figures,
    Tick,
    embed_crops,
    figures_of,
    look_at,
    metrics_of,
    no_tick,
    people_in,
)
from edge_app.inference import onnx_model
from edge_app.inference.embedder import Embedder
from edge_app.model_store.open_detector import open_detector
from edge_app.model_store.shipped import Entry, builds
from edge_export.graph.card import read_card, rewrite_card


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
    embedders = [Embedder(onnx_model.load(e.path, threads=1, sha256=e.sha256)) for e in entries]
    looks = look_at(people_in(folder), open_detector(threads=1), embedders[0].crop, tick)
    pairs = None if pairs_file is None else lfw_pairs(pairs_file, folder)
    filled = []
    for entry, embedder in zip(entries, embedders, strict=True):
        figures = figures_of(looks, embed_crops(embedder, looks.crops, tick), pairs)
        metrics = metrics_of(figures, pairs_file)
        card = replace(read_card(entry.path), operating_points=figures.points, metrics=metrics)
        rewrite_card(entry.path, card)
        filled.append(Filled(entry, figures))
    return tuple(filled)
