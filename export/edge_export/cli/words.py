"""What `export` tells when it is done, for people and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.system.files import size_words

if TYPE_CHECKING:
    from edge_app.core.model_card import ModelCard
    from edge_export.build.lower_precision import Lowered
    from edge_export.build.publish import Exported


def plain(exported: Exported, lowered: Sequence[Lowered], reports: Sequence[Path]) -> dict[str, Any]:
    """All of it as JSON's values."""
    card, parity = exported.card, exported.parity
    return {
        "id": card.id,
        "path": str(exported.path),
        "task": card.task,
        "precision": card.precision,
        "size_bytes": exported.size_bytes,
        "commercial_use": card.commercial_use,
        "licence": card.licence,
        "exporter": card.provenance["exporter"],
        "opset": int(card.provenance["opset"]),
        "parity": {
            "pictures": parity.inputs,
            "max_abs": parity.max_abs,
            "min_cosine": parity.min_cosine,
            "same_decisions": parity.same_decisions,
        },
        "operating_points": len(card.operating_points),
        "unsure_below": card.unsure_below,
        "metrics": dict(card.metrics),
        "builds": [_plain_build(build) for build in lowered],
        "reports": [str(each) for each in reports],
    }


def _plain_build(build: Lowered) -> dict[str, Any]:
    score = build.score
    return {
        "precision": build.precision,
        "kept": build.kept,
        "path": str(build.path) if build.path else None,
        "size_bytes": build.size_bytes,
        "metric": score.metric if score else None,
        "value": score.value if score else None,
        "drop": build.drop if score else None,
        "ms_by_threads": {str(count): ms for count, ms in build.ms.items()},
        "fp32_ms_by_threads": {str(count): ms for count, ms in build.fp32_ms.items()},
        "slower": build.slower,
        "reason": build.reason,
    }


def told(
    exported: Exported, lowered: Sequence[Lowered], reports: Sequence[Path], data: Path | None = None
) -> list[str]:
    """All of it as lines, what to do next at the end; `data` is the folder of pictures that the user named."""
    kept = [exported.path, *(build.path for build in lowered if build.path)]
    return [
        *_of_fp32(exported, data),
        *(_of_build(build) for build in lowered),
        *(f"report: {each}" for each in reports),
        *(f"next: edge-app models add {shlex.quote(str(file))}" for file in kept),
    ]


def _of_fp32(exported: Exported, data: Path | None) -> list[str]:
    card, parity = exported.card, exported.parity
    near = (
        f"cosine at least {parity.min_cosine:.7f}"
        if card.task.embeds
        else f"largest difference {parity.max_abs:.1e}, the same decisions"
    )
    made = f"{card.provenance['exporter']}, opset {card.provenance['opset']}"
    lines = [
        f"{exported.path}: {card.task}, id {card.id}, fp32, {size_words(exported.size_bytes)} ({made})",
        f"agrees with torch on {parity.inputs} {_whose(card, data)} at batch 1 and 8: {near}",
        _measured(card),
    ]
    if not card.commercial_use:
        lines.append(f"NO COMMERCIAL USE; licence: {card.licence}")
    return lines


def _whose(card: ModelCard, data: Path | None) -> str:
    """Which pictures it was compared on; what learned from a folder is compared on that one, or on the one named."""
    if data is not None:
        return f"pictures of {data}"
    return "pictures of the training folder" if "data_sha256" in card.provenance else "views of the sample pictures"


def _measured(card: ModelCard) -> str:
    if card.labels:
        shown = {name: f"{100 * value:.1f} %" for name, value in card.metrics.items()}
        bar = f"{100 * card.unsure_below:.0f} %"
        told = f"{len(card.labels)} classes, {shown['accuracy']} right on held-out pictures; not sure below {bar}"
        if "answered_right" not in shown:
            return told
        told += f": then {shown['answered_share']} are answered, {shown['answered_right']} of these rightly"
        return f"{told}; families: {card.provenance['families']}" if "families" in card.provenance else told
    if card.operating_points:
        pairs = max(point.impostor_pairs for point in card.operating_points)
        return f"{len(card.operating_points)} thresholds, from up to {pairs} pairs of held-out identities"
    return f"no thresholds: measure them with edge-app calibrate DIR --model {card.id}"


def _of_build(build: Lowered) -> str:
    if not build.kept:
        return f"{build.precision}: not kept: {build.reason}"
    return f"{build.path}: {build.precision}, {size_words(build.size_bytes)}; {build.reason}"
