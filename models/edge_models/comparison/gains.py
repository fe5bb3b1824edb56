"""Gains of methods from paired trials: intervals, Holm's correction, and what may be recommended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import CONFIDENCE, Estimate, over_repeats, paired, wider
from edge_app.core.counts import counted
from edge_models.data.folder import PictureFolder, Split

PLAIN: Final = "plain"
"""Doing without any of the methods."""

_UNEQUAL: Final = 1.5
"""From this ratio of the largest class to the smallest on, mean recall is told beside accuracy."""
_MEASURES: Final = {"accuracy": "accuracy", "recall": "mean recall of the classes"}

Bools = NDArray[np.bool_]
Float32s = NDArray[np.float64]
Table = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One method with one seed, picture by picture of that seed's validation part."""

    right: Bools
    """(V,)."""
    counts: Mapping[str, int]
    """learned: labelled pictures; made: pictures beside them; of a teacher also offered, taken and, where labels were
    only hidden, wrong."""
    seconds: float = 0.0
    """Of processor time, or on the clock where a GPU works; what trials share is not in it."""
    curve: tuple[Bools, ...] = ()
    """(V,) of every generation of self-distillation, the first one first."""


def table_of(
    methods: Sequence[str],
    folder: PictureFolder,
    splits: Mapping[int, Split],
    trials: Mapping[tuple[str, int], Trial],
    shared: Mapping[str, float],
) -> Table:
    """Put the trials of (method, seed) together: a row per method, the plain one first.

    A row's `accuracy` and `recall` (mean over classes) hold the means over seeds with and without the method, the gain
    with its 95 % interval, which is the wider of two, over pictures and over seeds, and a verdict: better and worse
    hold after Holm's correction for the number of methods, perhaps better and perhaps worse without it alone.
    `shared` are the seconds of what the trials of a method share.
    """
    plain = {seed: trials[PLAIN, seed] for seed in splits}
    rows: list[dict[str, Any]] = []
    for method in (PLAIN, *methods):
        own = {seed: trials[method, seed] for seed in splits}
        pairs = {seed: (own[seed].right, plain[seed].right) for seed in splits}
        rows.append({
            "method": method,
            "accuracy": _figures(pairs, folder, splits, _evenly),
            "recall": _figures(pairs, folder, splits, _by_class),
            "only_with": sum(int((right & ~without).sum()) for right, without in pairs.values()),
            "only_without": sum(int((without & ~right).sum()) for right, without in pairs.values()),
            "counts": {name: [trial.counts[name] for trial in own.values()] for name in own[min(own)].counts},
            "seconds": float(np.mean([trial.seconds for trial in own.values()])) + shared.get(method, 0.0),
        })  # fmt: skip
    for measure in _MEASURES:
        figures = [row[measure] for row in rows[1:]]
        for one, corrected in zip(figures, holm([one["p"] for one in figures]), strict=True):
            sign = "better" if one["gain"] > 0 else "worse"
            shown = one["p"] <= 1 - CONFIDENCE
            one["p_holm"] = corrected
            one["verdict"] = (sign if corrected <= 1 - CONFIDENCE else f"perhaps {sign}") if shown else "not shown"
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    return {
        "rows": rows,
        "unequal_classes": bool(counts.max() >= _UNEQUAL * counts.min()),
        "generations": _generations(folder, splits, trials),
    }


def holm(chances: Sequence[float]) -> list[float]:
    """P-values after Holm's step-down correction (1979), in the order given; each at most 1."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    corrected, least = [1.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(chances) - rank) * chances[i]))
        corrected[i] = least
    return corrected


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
    pairs: Mapping[int, tuple[Bools, Bools]], folder: PictureFolder, splits: Mapping[int, Split], weigh: Weigh
) -> dict[str, Any]:
    """With and without, means over seeds; the gain with its interval, and how often chance would bring as much."""
    labels, means = folder.labels, []
    gained, times = np.zeros(len(labels)), np.zeros(len(labels))
    for seed, (right, without) in pairs.items():
        at = np.array(splits[seed].validation)
        weights = weigh(labels[at])
        means.append((float(weights @ right), float(weights @ without)))
        gained[at] += right.astype(float) - without
        times[at] += 1
    by_seed = np.array(means)
    seen = times > 0
    units, largest = _units(gained[seen] / times[seen], weigh(labels[seen]), folder.groups[seen])

    def gain_at(confidence: float) -> Estimate:
        # Few seeds can agree by chance, and pictures that one network judged are not quite independent.
        return wider(
            over_repeats(by_seed[:, 0] - by_seed[:, 1], confidence), paired(units, largest, confidence)
        )  # fmt: skip

    gain = gain_at(CONFIDENCE)
    return {
        "with": float(by_seed[:, 0].mean()),
        "without": float(by_seed[:, 1].mean()),
        "gain": gain.value,
        "low": max(-1.0, gain.low),  # two seeds let Student's interval leave what shares can differ by
        "high": min(1.0, gain.high),
        "p": chance_of(gain_at),
        "by_seed": means,
    }


def chance_of(interval_at: Callable[[float], Estimate]) -> float:
    """The p-value of an interval: 1 minus the highest confidence at which it leaves zero out."""
    low, high = 0.0, 40.0
    # Of minus log2 of what the confidence lacks to 1.
    for _ in range(50):
        middle = (low + high) / 2
        found = interval_at(1 - 2**-middle)
        low, high = (middle, high) if found.above_zero or found.below_zero else (low, middle)
    return float(2**-low)


def _units(gained: Float32s, weights: Float32s, groups: NDArray[np.intp]) -> tuple[Float32s, float]:
    """Gains of independent units, near-duplicates being one, whose plain mean is the weighted one; the largest unit."""
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    units: Float32s = count * np.bincount(group, weights=weights * gained).astype(np.float64)
    return units, count * float(np.bincount(group, weights=weights).max())


def _generations(
    folder: PictureFolder, splits: Mapping[int, Split], trials: Mapping[tuple[str, int], Trial]
) -> list[dict[str, Any]]:
    """Self-distillation, generation by generation, each against doing without and against the one before it."""
    curves = {seed: trials["distillation", seed].curve for seed in splits if ("distillation", seed) in trials}
    if len(curves) < len(splits):
        return []
    told = []
    for number in range(min(map(len, curves.values()))):
        line: dict[str, Any] = {"generation": number + 1}
        for name, before in (("over_plain", -1), ("over_last", number - 1)):
            pairs = {
                seed: (curve[number], trials[PLAIN, seed].right if before < 0 else curve[before])
                for seed, curve in curves.items()
            }
            line[name] = {k: v for k, v in _figures(pairs, folder, splits, _evenly).items() if k != "by_seed"}
        told.append(line)
    return told


def recommend(table: Table, flags: Mapping[str, str], few: int | None, unit: str) -> list[dict[str, Any]]:
    """What to use, by accuracy and, where classes are of unequal size, by mean recall: a method or None, and why.

    `flags` tells how `train classifier` is asked for a method, `few` the pictures per class, `unit` whose minutes.
    """
    rows = table["rows"][1:]
    made = []
    for measure in _MEASURES if table["unequal_classes"] else ("accuracy",):
        learning = "With every label" if few is None else f"With {few} labels per class"
        where = f"{learning}, by {_MEASURES[measure]}"
        shown = sorted((row for row in rows if row[measure]["verdict"] == "better"),
                       key=lambda row: (-row[measure]["gain"], row["seconds"]))  # fmt: skip
        if shown:
            best, others = shown[0], [row["method"] for row in shown[1:]]
            use = f"use {best['method']} ({flags[best['method']]})" if flags.get(best["method"]) else best["method"]
            more = max(0.0, best["seconds"] - table["rows"][0]["seconds"])
            reason = (
                f"{where}: {use}. It gained {points(best[measure])}, which chance hardly brings where "
                f"{methods_words(len(rows))} tried, for {minutes(more)} of {unit} time more"
                + (f"; shown to help too: {', '.join(others)}" if others else "") + "."
            )  # fmt: skip
            made.append({"measure": measure, "method": best["method"], "flags": flags.get(best["method"], ""),
                         "reason": reason})  # fmt: skip
            continue
        largest = max(rows, key=lambda row: row[measure]["gain"])
        reason = (
            f"{where}: nothing, keep the default. No gain is more than chance may bring where "
            f"{methods_words(len(rows))} tried; the largest is that of {largest['method']}, {points(largest[measure])}."
        )
        made.append({"measure": measure, "method": None, "flags": "", "reason": reason})
    return made


def methods_words(count: int) -> str:
    return "one method was" if count == 1 else f"{count} methods were"


def points(figures: Mapping[str, float]) -> str:
    """A gain in points with its 95 % interval."""
    value, low, high = (f"{100 * figures[name]:+.1f}" for name in ("gain", "low", "high"))
    return f"{value} points ({low} to {high})"


def minutes(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s" if seconds < 59.5 else f"{seconds / 60:.1f} min"


def sentences(table: Table, judged: int) -> Iterator[str]:
    """What the table shows beside the recommendation, and what it could not have shown."""
    rows = table["rows"][1:]
    for verdict, words in (("worse", "Shown to be worse than doing without"),
                           ("perhaps better", "Perhaps better, as one of so many tries")):  # fmt: skip
        if found := [f"{row['method']} ({100 * row['accuracy']['gain']:+.1f} points)" for row in rows
                     if row["accuracy"]["verdict"] == verdict]:  # fmt: skip
            yield f"{words}: {', '.join(found)}."
    reach = median((row["accuracy"]["high"] - row["accuracy"]["low"]) / 2 for row in rows)
    yield f"With {counted(judged, 'picture')} judged, a gain below about {100 * reach:.1f} points looks like chance."
    for row in rows:
        if told := _taking(row["counts"]):
            yield f"{row['method']}: {told}."
    if told := curve_sentence(table["generations"]):
        yield told


def curve_sentence(curve: Sequence[Mapping[str, Any]]) -> str:
    """Where self-distillation stops helping: after the last generation shown to be better than the one before it."""
    if len(curve) < 2:
        return ""
    told = ", ".join(f"{100 * line['over_plain']['gain']:+.1f}" for line in curve)
    helping = 0
    for line in curve:
        if line["over_last"]["low"] <= 0:
            break
        helping = line["generation"]
    where = (
        f"it stops helping after generation {helping}" if 0 < helping < len(curve)
        else "each is shown to be better than the one before it" if helping
        else "no generation is shown to be better than the one before it"
    )  # fmt: skip
    return f"Self-distillation over {len(curve)} generations gained {told} points over doing without: {where}."


def _taking(counts: Mapping[str, Sequence[int]]) -> str:
    """What a teacher took or a maker made, over all seeds."""
    learned, seeds = counts["learned"], len(counts["learned"])
    few = f"{min(learned)}" if min(learned) == max(learned) else f"{min(learned)} to {max(learned)}"
    if "made" in counts:
        return f"over {seeds} seeds {sum(counts['made'])} pictures were made of {few} each"
    if "offered" not in counts:
        return ""
    text = (
        f"over {seeds} seeds the teachers learned from {few} pictures each and took {sum(counts['taken'])} of "
        f"{sum(counts['offered'])} without label"
    )
    return text + (f", {sum(counts['wrong'])} of them wrongly" if "wrong" in counts else "")
