"""The report of an export: one self-contained HTML page, and the same figures as JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import Estimate, wilson
from edge_app.accuracy.pair_scores import unit_rows
from edge_app.bench.recognizer import machine
from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard, OperatingPoint
from edge_app.core.numeric import softmax
from edge_app.core.types import Float32s, Pixels
from edge_app.system.files import json_bytes
from edge_export.build.lower_precision import Lowered, first_outputs
from edge_export.build.material import Material
from edge_export.build.publish import Exported
from edge_export.check.metrics import Score
from edge_export.check.timing import eager, in_turns, served
from edge_export.graph import torch_export
from edge_export.graph.card import read_model, write_bytes
from edge_export.graph.session import as_function
from edge_models.fitting.report_parts import STYLE_FOLDER, interval, percent, points

DISAGREEMENTS: Final = 6
NEARLY_THE_SAME: Final = 1e-3
"""A change of a probability, or a distance of embeddings, that needs no picture: a tenth of a point."""
_PICTURE_PX: Final = 224
Report = dict[str, Any]
Speeds = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, slots=True, eq=False)
class ExportFacts:
    """What a report is written from."""

    material: Material
    exported: Exported
    """The fp32 build."""
    score: Score | None
    """Of the fp32 build on the held-out pictures; None where they cannot judge it."""
    lowered: Sequence[Lowered] = ()
    """Lower precisions that were asked for, kept or refused."""
    not_judged: str = ""
    """Why there is no score, in words."""


def write(prefix: Path, facts: ExportFacts) -> tuple[Path, Path]:
    """Measure speed, collect, and write `prefix`.html and `prefix`.json; returns their paths.

    Raises ModelError when they cannot be written.
    """
    report = collect(facts, speeds(facts))
    html, data = prefix.with_name(prefix.name + ".html"), prefix.with_name(prefix.name + ".json")
    page = render(report, facts.material)
    try:
        write_bytes(data, json_bytes(report))
        write_bytes(html, page.encode())
    except OSError as error:
        raise ModelError(
            f"{prefix.parent} cannot be written ({error.strerror})", remedy="name another folder"
        ) from error
    return html, data


def collect(facts: ExportFacts, ms: Speeds) -> Report:
    """All figures as plain values, ready for JSON; `ms` by contestant ("fp32", ..., "torch") and threads."""
    card, parity = facts.exported.card, facts.exported.parity
    return {
        "id": card.id,
        "task": card.task,
        "command": card.provenance.get("command", ""),
        "licence": card.licence,
        "commercial_use": card.commercial_use,
        "exporter": card.provenance.get("exporter", ""),
        "opset": card.provenance.get("opset", ""),
        "parity": {**asdict(parity), "same_decisions": parity.same_decisions if card.labels else None},
        "machine": machine(),
        "held_out": {
            "pictures": len(facts.material.held_out),
            "rests_on": facts.score.rests_on if facts.score else "",
            "not_judged": facts.not_judged,
        },
        "metric": facts.score.metric if facts.score else "",
        "builds": [_fp32(facts, ms), *(_lower(one, ms) for one in facts.lowered)],
        "torch_ms": _by_threads(ms.get("torch", {})),
        "disagreements": disagreements(facts),
        "nearly_the_same": NEARLY_THE_SAME,
        "provenance": dict(card.provenance),
    }


def speeds(facts: ExportFacts) -> dict[str, dict[int, float]]:
    """Milliseconds of one picture in every kept build and in torch, all taken in turns in one run."""
    picture = facts.material.gate_inputs[:1]
    files = {"fp32": facts.exported.path} | {one.precision: one.path for one in facts.lowered if one.path is not None}
    contestants = {name: served(path, picture) for name, path in files.items()}
    return in_turns(contestants | {"torch": eager(facts.material.module, picture)})


def disagreements(facts: ExportFacts) -> list[dict[str, Any]]:
    """The held-out pictures on which a build strays farthest from torch, of every build the worst few.

    For a classifier by the change of a probability, for an embedder by the cosine between both embeddings.
    """
    inputs, base = facts.material.held_out, facts.exported.card
    if len(inputs) == 0:
        return []
    origin = first_outputs(torch_export.as_function(facts.material.module), inputs)
    builds = [("fp32", base, first_outputs(as_function(read_model(facts.exported.path)), inputs))]
    builds += [(str(b.precision), b.card or base, b.outputs) for b in facts.lowered if b.outputs is not None]
    found = []
    for name, card, outputs in builds:
        apart = _apart(base, origin, card, outputs)
        for i in map(int, np.argsort(-apart, kind="stable")[:DISAGREEMENTS]):
            before, after = _answer(base, origin, i), _answer(card, outputs, i)
            told = {"precision": name, "index": i, "file": facts.material.held_out_names[i], "apart": float(apart[i])}
            other = bool(before and after and before["label"] != after["label"])
            right = bool(after and after["label"] == _truth(facts, i))
            said = {"torch": before, "build": after, "other_answer": other, "right": right if after else None}
            found.append({**told, "label": _truth(facts, i), **said})
    return found


def _apart(base: ModelCard, origin: Float32s, card: ModelCard, outputs: Float32s) -> NDArray[np.float64]:
    """(M,) how far two builds' answers are apart: 0 is the same."""
    if base.family == "logits":
        apart = np.abs(softmax(origin, base.temperature) - softmax(outputs, card.temperature))
        change: NDArray[np.float64] = apart.max(axis=1)
        return change
    cosines = (unit_rows(origin).astype(np.float64) * unit_rows(outputs)).sum(axis=1)
    distances: NDArray[np.float64] = np.maximum(0.0, 1.0 - cosines)
    return distances


def _answer(card: ModelCard, outputs: Float32s, i: int) -> dict[str, Any] | None:
    """What a classifier said; an embedding says nothing by itself."""
    if card.family != "logits":
        return None
    chances = softmax(outputs[i : i + 1], card.temperature)[0]
    best = int(chances.argmax())
    return {"label": card.labels[best], "probability": float(chances[best])}


def _truth(facts: ExportFacts, i: int) -> str:
    number, name = int(facts.material.held_out_labels[i]), facts.material.held_out_names[i]
    labels = facts.exported.card.labels
    if labels:
        return labels[number]
    return name.split("/")[0] if "/" in name else f"identity {number}"


def _fp32(facts: ExportFacts, ms: Speeds) -> dict[str, Any]:
    exported = facts.exported
    return {
        "precision": "fp32",
        "kept": True,
        "file": exported.path.name,
        "size_bytes": exported.size_bytes,
        "ms": _by_threads(ms.get("fp32", {})),
        "slower": False,
        "reason": "agrees with torch",
        "drop": None,
        **_judged(facts.score),
        "operating_points": _points(exported.card.operating_points),
    }


def _lower(one: Lowered, ms: Speeds) -> dict[str, Any]:
    times = ms.get(one.precision, {})
    base = ms.get("fp32", {})
    return {
        "precision": one.precision,
        "kept": one.kept,
        "file": one.path.name if one.path else None,
        "size_bytes": one.size_bytes,
        "ms": _by_threads(times),
        "slower": bool(times) and all(times[count] > base[count] for count in times),
        "reason": one.reason,
        "drop": _estimate(one.interval),
        **_judged(one.score),
        "operating_points": _points(one.score.points if one.score else ()),
    }


def _judged(score: Score | None) -> dict[str, Any]:
    empty = dict.fromkeys(("score", "temperature", "unsure_below", "answered", "answered_right"))
    if score is None:
        return empty
    judged = {**empty, "score": _estimate(score.interval)}
    if score.answers is None:
        return judged
    count = score.answers
    answered = wilson(count.answered, count.pictures)
    right = wilson(count.right, count.answered) if count.answered else None
    told = {"temperature": score.temperature, "unsure_below": score.unsure_below}
    return {**judged, **told, "answered": _estimate(answered), "answered_right": _estimate(right)}


def _estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    """Not-a-number has no place in JSON."""
    if estimate is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in asdict(estimate).items()}


def _points(measured: Sequence[OperatingPoint]) -> list[dict[str, Any]]:
    return [asdict(point) for point in measured]


def _by_threads(times: Mapping[int, float]) -> dict[str, float]:
    return {str(count): round(value, 3) for count, value in times.items()}


def render(report: Report, material: Material) -> str:
    """The page; it needs no other file."""
    import jinja2

    loader = jinja2.FileSystemLoader([Path(__file__).parent, STYLE_FOLDER])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"percent": percent, "interval": interval, "points": points}
    shown = {each["index"] for each in report["disagreements"] if each["apart"] >= NEARLY_THE_SAME}
    pictures = {i: _inline(material.pictures(i)) for i in shown}
    return environment.get_template("export_report.html.j2").render(r=report, pictures=pictures)


def _inline(pixels: Pixels) -> str:
    scale = min(1.0, _PICTURE_PX / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    small = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), size, interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()
