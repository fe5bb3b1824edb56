"""Gains of methods from paired trials, with intervals, and the sentences that these allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import CONFIDENCE, over_repeats, paired, wider
from edge_models.data.folder import PictureFolder, Split

PLAIN: Final = "plain"
"""Doing without any of the methods."""

_UNEQUAL: Final = 1.5
"""From this ratio of the largest class to the smallest on, mean recall is told beside accuracy."""

Bools = NDArray[np.bool_]
Float32s = NDArray[np.float64]
Comparison = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One method with one seed, picture by picture of that seed's validation part."""

    right: Bools
    """(V,) with the method."""
    without: Bools
    """(V,) without it, all else equal."""
    counts: Mapping[str, int]
    """learned: labelled pictures; of a teacher also offered, taken and, where labels were only hidden, wrong."""


def summary(
    methods: Sequence[str],
    folder: PictureFolder,
    splits: Mapping[int, Split],
    trials: Mapping[tuple[str, int], Trial],
) -> Comparison:
    """Put the trials of (method, seed) together: a row per method, the plain one first, and sentences about them.

    A row's `accuracy` and `recall` (mean over classes) hold the means over seeds with and without the method, the gain
    with its 95 % interval, and a verdict: better, worse or not shown. The interval is the wider of two, over pictures
    and over seeds.
    """
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    rows = [
        _row(method, {seed: trials[method, seed] for seed in splits}, folder, splits) for method in (PLAIN, *methods)
    ]
    judged = len({i for split in splits.values() for i in split.validation})
    return {
        "classes": {name: int(count) for name, count in zip(folder.classes, counts, strict=True)},
        "seeds": list(splits),
        "judged": judged,
        "data_sha256": folder.sha256,
        "unequal_classes": bool(counts.max() >= _UNEQUAL * counts.min()),
        "rows": rows,
        "sentences": list(_sentences(rows, judged)),
    }


def _row(
    method: str, trials: Mapping[int, Trial], folder: PictureFolder, splits: Mapping[int, Split]
) -> dict[str, Any]:
    names = next(iter(trials.values())).counts
    return {
        "method": method,
        "accuracy": _figures(trials, folder, splits, _evenly),
        "recall": _figures(trials, folder, splits, _by_class),
        "only_with": sum(int((trial.right & ~trial.without).sum()) for trial in trials.values()),
        "only_without": sum(int((trial.without & ~trial.right).sum()) for trial in trials.values()),
        "counts": {name: [trial.counts[name] for trial in trials.values()] for name in names},
    }


Weigh = Callable[[NDArray[np.intp]], Float32s]
"""Labels (V,) to the weights (V,) of their pictures; they sum to 1."""


def _evenly(labels: NDArray[np.intp]) -> Float32s:
    return np.full(len(labels), 1 / len(labels))


def _by_class(labels: NDArray[np.intp]) -> Float32s:
    """So that the weighted share of right answers is the mean over classes of their recall."""
    counts = np.bincount(labels)
    weights: Float32s = 1 / (np.count_nonzero(counts) * counts[labels])
    return weights


def _figures(
    trials: Mapping[int, Trial], folder: PictureFolder, splits: Mapping[int, Split], weigh: Weigh
) -> dict[str, Any]:
    """With and without, means over seeds; the gain with its interval, and what may be said of it."""
    labels, means = folder.labels, []
    gained, times = np.zeros(len(labels)), np.zeros(len(labels))
    for seed, trial in trials.items():
        at = np.array(splits[seed].validation)
        weights = weigh(labels[at])
        means.append((float(weights @ trial.right), float(weights @ trial.without)))
        gained[at] += trial.right.astype(float) - trial.without
        times[at] += 1
    by_seed = np.array(means)
    seen = times > 0
    units, largest = _units(gained[seen] / times[seen], weigh(labels[seen]), folder.groups[seen])
    # Few seeds can agree by chance, and pictures that one network judged are not quite independent.
    gain = wider(over_repeats(by_seed[:, 0] - by_seed[:, 1]), paired(units, largest))
    return {
        "with": float(by_seed[:, 0].mean()),
        "without": float(by_seed[:, 1].mean()),
        "gain": gain.value,
        "low": max(-1.0, gain.low),  # two seeds let Student's interval leave what shares can differ by
        "high": min(1.0, gain.high),
        "verdict": "better" if gain.above_zero else "worse" if gain.below_zero else "not shown",
        "by_seed": means,
    }


def _units(gained: Float32s, weights: Float32s, groups: NDArray[np.intp]) -> tuple[Float32s, float]:
    """Gains of independent units, near-duplicates being one, whose plain mean is the weighted one; the largest unit."""
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    units: Float32s = count * np.bincount(group, weights=weights * gained).astype(np.float64)
    return units, count * float(np.bincount(group, weights=weights).max())


def _sentences(rows: Sequence[Mapping[str, Any]], judged: int) -> Iterator[str]:
    """What the table shows and what it could not have shown."""
    tried = [row for row in rows if row["method"] != PLAIN]
    for verdict in ("better", "worse"):
        found = [f"{row['method']} ({100 * row['accuracy']['gain']:+.1f} points)" for row in tried
                 if row["accuracy"]["verdict"] == verdict]  # fmt: skip
        if found:
            yield f"Shown to be {verdict} than doing without: {', '.join(found)}."
        elif verdict == "better":
            yield "None of these is shown to be better than doing without."
    if len(tried) > 1 and any(row["accuracy"]["verdict"] == "better" for row in tried):
        chance = 1 - (1 - (1 - CONFIDENCE) / 2) ** len(tried)
        yield (
            f"Of {len(tried)} methods that do nothing, chance calls one or more better in up to {chance:.0%} of such "
            "tables: try again with other seeds before relying on it."
        )
    reach = median((row["accuracy"]["high"] - row["accuracy"]["low"]) / 2 for row in tried)
    yield f"With {judged} pictures judged, a gain below about {100 * reach:.1f} points looks like chance."
    for row in tried:
        if told := _taking(row["counts"]):
            yield f"{row['method']}: {told}."


def _taking(counts: Mapping[str, Sequence[int]]) -> str:
    """What a teacher took, over all seeds."""
    if "offered" not in counts:
        return ""
    learned, seeds = counts["learned"], len(counts["learned"])
    few = f"{min(learned)}" if min(learned) == max(learned) else f"{min(learned)} to {max(learned)}"
    text = (
        f"over {seeds} seeds the teachers learned from {few} pictures each and took {sum(counts['taken'])} of "
        f"{sum(counts['offered'])} without label"
    )
    return text + (f", {sum(counts['wrong'])} of them wrongly" if "wrong" in counts else "")
