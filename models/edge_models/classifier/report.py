"""The report of a classifier's run as one self-contained HTML page and as JSON."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.core.errors import UsageError
from edge_app.core.types import Pixels
from edge_app.inference.geometry import prepare
from edge_app.media.pictures import read_picture
from edge_app.system.files import json_bytes
from edge_models.classifier import hierarchy
from edge_models.classifier.analysis import (
    accuracy,
    balanced_accuracy,
    calibration,
    class_figures,
    confusion,
    label_suspects,
    out_of_fold,
    plain_estimate,
    probabilities,
    warnings_of,
)
from edge_models.classifier.baseline import folder_features, forest_predictions
from edge_models.classifier.bias import group_report, right_out_of_fold, sentences
from edge_models.classifier.growth import Growth, curve_parts, growth
from edge_models.classifier.heads import logits_of, solve_head
from edge_models.classifier.losses import smoothed
from edge_models.classifier.network import TransferClassifier
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.recipe import KINDS, Trained
from edge_models.classifier.stages import Workshop, hard_targets
from edge_models.data.folder import Split
from edge_models.data.groups import GroupTable
from edge_models.fitting.checkpoint import package_versions, write_atomic
from edge_models.fitting.report_parts import figure_of, render, svg
from edge_models.networks.backbone import normalize

MISTAKES: Final = 6
SUSPECTS: Final = 12
"""Most mistakes and probable label errors that the page shows."""
_CURVE_JUDGED: Final = 30
_CURVE_POINTS: Final = 3
"""A power law through fewer points, or judged on fewer pictures, forecasts nothing."""
JSON_NAME: Final = "report.json"
HTML_NAME: Final = "report.html"
Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a report tells beside the figures."""

    checkpoint: Path
    groups: GroupTable | None
    """What the user's CSV tells of the pictures."""
    notes: Sequence[str]
    """What was told while training."""
    started_s: float
    """When the run began, or was gone on with, on the clock of `time.perf_counter`."""
    asked: ClassifierOptions
    """The options as they were given, before a search replaced some."""
    search: Mapping[str, Any] | None
    """What a search tried and chose; None where there was none."""


def forecast_sentence(curve: Growth, *, untaught: bool) -> str:
    """What more pictures would bring, as far as the curve can say; `untaught` where its base began from nothing."""
    if untaught:
        return "No forecast of more pictures: the curve is of a head on the network before any layer of it learned."
    if curve.judged < _CURVE_JUDGED or len(curve.points) < _CURVE_POINTS:
        return (
            f"Too few pictures for a forecast of more ({curve.judged} judged, {len(curve.points)} points on the curve)."
        )
    return curve.sentence


def collect(work: Workshop, trained: Trained, about: Circumstances) -> Report:
    """All figures of the report as plain values, ready for JSON."""
    folder, split, options = work.folder, work.split, work.options
    judged = np.array(split.validation)
    labels, chances = folder.labels[judged], probabilities(trained.logits, trained.temperature)
    predicted = trained.logits.argmax(axis=1)
    table = confusion(predicted, labels, work.classes)
    raw_error = calibration(probabilities(trained.logits), labels)[1]
    bins, error = calibration(chances, labels)
    work.progress.stage("report", 4)
    forest = _forest(work)
    work.progress.advance(1)
    plain = work.bank.plain[: len(folder.pictures)]
    targets = work.targets[: len(folder.pictures)]
    parts = curve_parts(folder, split, options.seed)
    learned = len(split.fit) + (len(split.validation) if trained.learned_all else 0)
    curve = growth(plain, targets, parts, learned, options.ridge, options.seed)
    work.progress.advance(2)
    held_out = out_of_fold(folder, plain, targets, options.ridge, options.seed)
    # With --from-scratch the base is of random weights: what a head on it names wrongly says nothing of a label.
    suspects = label_suspects(folder, held_out) if held_out is not None and not options.from_scratch else ()
    work.progress.advance(3)
    groups: dict[str, Any] = {}
    if about.groups is not None and options.from_scratch:
        work.progress.note("no results per group: they are of heads on the base, which --from-scratch has none of")
    elif about.groups is not None:
        before = right_out_of_fold(folder, plain, targets, options, None)
        after = None if work.balance is None else right_out_of_fold(folder, plain, targets, options, work.balance)
        groups = {} if before is None else group_report(about.groups, folder, before, after)
    names = [folder.pictures[i].name for i in judged]
    fit = np.array([i for i in split.fit if i < len(folder.pictures)], np.intp)
    warnings = warnings_of(table, folder.classes, np.bincount(folder.labels[fit], minlength=work.classes))
    return {
        "command": about.asked.command(),
        "working_folder": str(Path.cwd()),
        "seed": options.seed,
        "seconds": round(time.perf_counter() - about.started_s, 1),
        "resumed": options.resume,
        "checkpoint": about.checkpoint.name,
        "base": {"name": work.backbone.name, **asdict(work.backbone.source)},
        "data": _data(work, split),
        "accuracy": plain_estimate(accuracy(predicted, labels)),
        "balanced_accuracy": plain_estimate(balanced_accuracy(table)),
        "warnings": warnings,
        "frozen_base_accuracy": plain_estimate(accuracy(trained.head_logits.argmax(axis=1), labels)),
        "baseline_accuracy": plain_estimate(accuracy(forest, labels)),
        "chosen": trained.chosen,
        "kept": KINDS[trained.chosen],
        "learned_all": trained.learned_all,
        "search": about.search,
        "stages": {name: [dict(e) for e in fit.history] for name, fit in trained.stages.items()},
        "growth": asdict(curve) | {"sentence": forecast_sentence(curve, untaught=options.from_scratch)},
        "confusion": table.tolist(),
        "classes": [
            {"name": c.name, "pictures": c.pictures}
            | {k: plain_estimate(getattr(c, k)) for k in ("precision", "recall")}
            for c in class_figures(table, folder.classes)
        ],
        "calibration": {"bins": bins, "error": error, "raw_error": raw_error, "temperature": trained.temperature},
        "mistakes": _mistakes(names, labels, chances, folder.classes),
        "suspects": [asdict(s) | {"file": folder.pictures[s.index].name} for s in suspects[:SUSPECTS]],
        "suspects_found": len(suspects),
        "groups": groups,
        "group_sentences": sentences(groups),
        "hierarchy": _hierarchy(work, trained),
        "notes": list(about.notes),
        "versions": package_versions(),
    }


def _hierarchy(work: Workshop, trained: Trained) -> dict[str, Any]:
    """What the tree changed, by heads on the frozen base with it and without it; empty where there is none."""
    if work.hierarchy is None:
        return {}
    folder, at = work.folder, list(work.split.validation)
    labels, table = folder.labels[at], hierarchy.distances(work.hierarchy, folder.classes)
    bad = hierarchy.severity(table, trained.logits.argmax(axis=1), labels)
    told: dict[str, Any] = {
        "families": {name: list(leaves) for name, leaves in work.hierarchy.leaves.items()},
        "severity": {"value": bad.value if bad.trials else None, "low": bad.low, "high": bad.high},
    }
    if trained.chosen in ("scratch", "adapted"):  # the frozen base is not what was trained there
        return told | {"sentence": ""}
    learned = [i for i in work.split.fit if i < len(folder.pictures)]
    views = work.bank.features[:, learned]
    without = solve_head(
        views.reshape(-1, views.shape[2]),
        smoothed(hard_targets(folder)[learned], work.options.smoothing).repeat(len(views), 1),
        work.options.ridge * len(views),
    )
    plain = logits_of(without, work.bank.plain[at]).argmax(axis=1)
    compared = hierarchy.judged(table, trained.head_logits.argmax(axis=1), plain, labels)
    return told | compared | {"sentence": hierarchy.sentence(compared)}


def write(folder: Path, report: Report, work: Workshop, trained: Trained) -> tuple[Path, Path]:
    """Write report.html and report.json; returns their paths. Raises ModelError when they cannot be written."""
    charts = {
        "epochs": _epochs_charts(report["stages"]),
        "growth": _growth_chart(report["growth"]),
        "calibration": _calibration_chart(report["calibration"]["bins"]),
    }
    pictures = {
        "mistakes": [_mistake_pictures(work, trained.judged, mistake) for mistake in report["mistakes"]],
        "suspects": [_inline(read_picture(work.folder.root / s["file"], max_px=160)) for s in report["suspects"]],
    }
    page = render(Path(__file__).with_name("report.html.j2"), r=report, charts=charts, pictures=pictures)
    html, data = folder / HTML_NAME, folder / JSON_NAME
    write_atomic(data, json_bytes(report))
    write_atomic(html, page)
    work.progress.advance(4)
    return html, data


def _forest(work: Workshop) -> NDArray[np.intp]:
    split, folder = work.split, work.folder
    features = folder_features([picture.path for picture in folder.pictures])
    fit = list(split.fit)
    return forest_predictions(features[fit], folder.labels[fit], features[list(split.validation)], work.options.seed)


def _data(work: Workshop, split: Split) -> dict[str, Any]:
    folder = work.folder
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    return {
        "folder": str(folder.root),
        "pictures": len(folder.pictures),
        "classes": dict(zip(folder.classes, counts.tolist(), strict=True)),
        "train": len(split.train),
        "selection": len(split.selection),
        "validation": len(split.validation),
        "sha256": folder.sha256,
        "findings": [asdict(finding) for finding in folder.findings],
    }


def _mistakes(
    names: Sequence[str], labels: NDArray[np.intp], chances: NDArray[np.float64], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The surest wrong answers; behind them, where there are few, the least sure right ones."""
    own, said = chances[np.arange(len(labels)), labels], chances.max(axis=1)
    wrong = chances.argmax(axis=1) != labels
    # Of many classes, a right answer can have been given less than a wrong one left for the truth.
    order = np.lexsort((np.where(wrong, -said, own), ~wrong))[:MISTAKES]
    found = []
    for i in order:
        ranked = np.argsort(-chances[i], kind="stable")
        found.append(
            {
                "file": names[i],
                "label": classes[labels[i]],
                "predicted": classes[ranked[0]],
                "predicted_probability": float(chances[i, ranked[0]]),
                "runner_up": classes[ranked[1]],
                "runner_up_probability": float(chances[i, ranked[1]]),
                "wrong": bool(ranked[0] != labels[i]),
            }
        )
    return found


def _mistake_pictures(work: Workshop, model: TransferClassifier, mistake: Mapping[str, Any]) -> dict[str, str]:
    """The picture as the network sees it, and under the maps of the two likeliest classes, as data URLs."""
    backbone = model.backbone
    seen = prepare(read_picture(work.folder.root / mistake["file"]), backbone.input, backbone.crop)
    shown = {"picture": _inline(seen)}
    try:
        with torch.inference_mode():
            images = normalize(torch.from_numpy(seen.copy()).permute(2, 0, 1)[None], backbone.input)
            maps = model.eval().logits_and_maps(images)[1][0].numpy()
    except UsageError:
        return shown  # a network without feature maps; the page says nothing then
    for role in ("predicted", "runner_up"):
        shown[role] = _inline(_overlay(seen, maps[work.folder.classes.index(mistake[role])]))
    return shown


def _overlay(seen: Pixels, evidence: NDArray[np.floating]) -> Pixels:
    height, width = seen.shape[:2]
    positive = np.maximum(evidence, 0) / max(float(evidence.max()), 1e-9)
    heat = cv2.resize((255 * positive).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    colours = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)[..., ::-1]
    return np.asarray(np.rint(0.5 * seen + 0.5 * colours), np.uint8)


def _inline(pixels: Pixels) -> str:
    _, coded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()


# --- charts ----------------------------------------------------------------------------------------------------------


def _epochs_charts(stages: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Loss and accuracy over the epochs of every stage that is watched, side by side."""
    watched = {name: history for name, history in stages.items() if "validation_loss" in history[-1]}
    if all(len(history) == 1 for history in watched.values()):
        return ""  # a head that was solved has no curve
    (losses, left), (shares, right) = figure_of(width=4.7), figure_of(width=4.7)
    start = 0
    for number, (name, history) in enumerate(watched.items()):
        at = [start + int(entry["epoch"]) + 1 for entry in history]
        colour = f"C{number}"
        left.plot(at, [e["train_loss"] for e in history], f"{colour}.-", alpha=0.5, label=f"{name}, training")
        left.plot(at, [e["validation_loss"] for e in history], f"{colour}.--", label=f"{name}, selection")
        right.plot(at, [100 * e["validation_accuracy"] for e in history], f"{colour}.-", label=f"{name}, selection")
        start = at[-1]
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    shown = [100 * entry["validation_accuracy"] for history in watched.values() for entry in history]
    right.set(xlabel="epoch", ylabel="accuracy, %", ylim=(max(0.0, min(shown, default=0.0) - 10), 101))
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize=8, frameon=False)
    right.legend(fontsize=8, frameon=False, loc="lower right")
    return svg(losses) + svg(shares)


def _growth_chart(growth: Mapping[str, Any]) -> str:
    """Measured points with their band, and the fitted curve from today's pictures to the next hundred."""
    figure, axis = figure_of()
    points = growth["points"]
    at, mean = [p["pictures"] for p in points], [100 * p["mean"] for p in points]
    low, high = ([100 * p[end] for p in points] for end in ("low", "high"))
    axis.fill_between(at, low, high, alpha=0.2, label="90 % of resamples")
    axis.plot(at, mean, "o-", label="measured, frozen base")
    end, forecast = growth["now"] + growth["more"], {name: 100 * v for name, v in growth["forecast"].items()}
    axis.plot([growth["now"], end], [100 * growth["fitted"], forecast["value"]], "C1:", label="fitted curve")
    axis.errorbar([end], [forecast["value"]], _whiskers([forecast]), fmt="C1s", capsize=4)
    axis.set(xlabel="training pictures", ylabel="accuracy, %")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    return svg(figure)


def _calibration_chart(bins: Sequence[Mapping[str, float]]) -> str:
    """Share that was right over the probability that was said."""
    figure, axis = figure_of(width=4.7)
    axis.plot([0, 1], [0, 1], "0.6", linewidth=1)
    said, right = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    axis.errorbar(said, right, _whiskers([b | {"value": b["accuracy"]} for b in map(dict, bins)]),
        fmt="none", ecolor="C0", alpha=0.5, capsize=3)  # fmt: skip
    axis.scatter(said, right, s=[20 + 3 * min(b["count"], 100) for b in bins], alpha=0.8)
    axis.set(xlabel="said probability", ylabel="share that was right", xlim=(0, 1.05), ylim=(0, 1.05))
    return svg(figure)


def _whiskers(estimates: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """How far intervals reach below and above their values, as matplotlib wants it."""
    down = [max(0.0, e["value"] - e["low"]) for e in estimates]
    return [down, [max(0.0, e["high"] - e["value"]) for e in estimates]]
