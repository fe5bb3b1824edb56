"""Writes what people tell about an embedder into the cards of its shipped builds: cohort, thresholds and figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from edge_app.accuracy import cohort_judge
from edge_app.accuracy.cohort_fit import Strangers, find_people
from edge_app.accuracy.cohort_judge import Judged, of_people, shares
from edge_app.accuracy.groups import strangers_in
from edge_app.accuracy.lfw_pairs import lfw_pairs
from edge_app.accuracy.pair_scores import label_numbers
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
from edge_app.core.errors import UsageError
from edge_app.core.model_card import FALSE_MATCHES_BESIDE_FP32, ModelCard
from edge_app.gallery.calibration import Thresholds
from edge_app.inference import onnx_model
from edge_app.inference.embedder import Embedder
from edge_app.model_store.catalogue import builds
from edge_app.model_store.open_detector import open_detector
from edge_app.model_store.shipped import Entry
from edge_export.graph.card import read_card
from edge_export.graph.manifest import rewrite_card

_FMR: Final = 1e-3
"""At the threshold for this rate builds are held against each other."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A card that was written."""

    entry: Entry
    figures: Figures
    judged: Judged | None
    """What the cohort did on people kept aside; None without one."""


def fill_cards(
    folder: Path,
    pairs_file: Path | None = None,
    *,
    strangers: Path | None = None,
    groups: Path | None = None,
    model_id: str = "sface",
    tick: Tick = no_tick,
) -> tuple[Filled, ...]:
    """Measure every shipped build of an embedder on a folder of people, and write points and figures into its card.

    `strangers` is a folder of pictures of one person each, `groups` a CSV file that names them with their groups: with
    both, a cohort is fitted, judged on a third of the strangers and half of the people, refused where it does not do
    what it is for, and then fitted to everybody and written. Nothing is written before every build has passed. The
    files and the manifest in `edge_app/zoo` change. Needs the extra `export` (onnx). Raises MediaError for a folder
    without people, ModelError when a file is not what the manifest says or the cohort fails, UsageError for one of
    the two without the other.
    """
    if (strangers is None) != (groups is None):
        raise UsageError("one of --strangers and --groups was given", expected="both or none")
    entries = builds(None, model_id)
    embedders = [Embedder(onnx_model.load(e.path, threads=1, sha256=e.sha256)) for e in entries]
    detector, crop = open_detector(threads=1), embedders[0].crop
    looks = look_at(people_in(folder), detector, crop, tick)
    pairs = None if pairs_file is None else lfw_pairs(pairs_file, folder)
    crowd_names = np.asarray(looks.labels)
    crowd_people = label_numbers(looks.labels, len(looks.crops))
    made: list[tuple[Filled, ModelCard]] = []
    if strangers is not None and groups is not None:
        pictures, written = strangers_in(groups, strangers)
        others = look_at(pictures, detector, crop, tick)
        group_of, names = written[others.found], others.labels
    people, left_out = np.zeros(0, np.int64), 0
    full: Judged | None = None
    for entry, embedder in zip(entries, embedders, strict=True):
        vectors = embed_crops(embedder, looks.crops, tick)
        judged, thresholds, metrics = None, None, dict[str, float]()
        if strangers is not None:
            faces = embed_crops(embedder, others.crops, tick)
            if not len(people):  # by the first build, full precision: who is kept aside must not depend on the build
                people, left_out = find_people(faces, group_of)
            drawn = of_people(people, shares(names))
            crowd = Strangers(vectors, crowd_people, np.full(len(vectors), "crowd"))
            crowd_drawn = of_people(crowd_people, shares(crowd_names.tolist()))
            each = Strangers(faces, people, group_of)
            judged = cohort_judge.judge(each, drawn, crowd, crowd_drawn, left_out)
            cohort_judge.check(judged)
            fitted = cohort_judge.ship(each, drawn, crowd, crowd_drawn)
            thresholds = Thresholds(fitted.points, fitted.cohort)
            metrics = cohort_judge.metrics_of(judged)
            full = full or judged
            rate = cohort_judge.false_matches(judged, _FMR) / cohort_judge.false_matches(full, _FMR)
            metrics[FALSE_MATCHES_BESIDE_FP32] = round(rate, 3)
        figures = figures_of(looks, vectors, pairs, thresholds)
        card = replace(
            read_card(entry.path),
            operating_points=thresholds.points if thresholds else figures.points,
            cohort=thresholds.cohort if thresholds else None,
            metrics=metrics_of(figures, pairs_file) | metrics,
        )
        made.append((Filled(entry, figures, judged), card))
    for filled, card in made:
        rewrite_card(filled.entry.path, card)
    return tuple(filled for filled, _ in made)
