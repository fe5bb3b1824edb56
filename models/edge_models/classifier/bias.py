"""Groups that a classifier serves worse than others: found, tested, and countered by weights of the pictures.

Weights change what a head learns and how often a picture is drawn in fine-tuning, each time in another view; so a small
group is augmented more. Figures are out-of-fold, of heads on the frozen base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_app.accuracy.intervals import paired, wilson
from edge_app.core.errors import UsageError
from edge_models.classifier.analysis import plain_estimate, probabilities
from edge_models.classifier.heads import head_of, logits_of
from edge_models.classifier.options import ClassifierOptions
from edge_models.data.folder import PictureFolder, folds
from edge_models.data.groups import GroupTable

_MOST_WEIGHT: Final = 20.0
"""No picture counts for more than so many times the mean: a group of two would decide alone."""
_DRO_ROUNDS: Final = 8
_DRO_STEP: Final = 1.0
_LEAST_JUDGED: Final = 5
"""A group of fewer pictures is told, and not tested."""
_PER_FOLD: Final = 5
SURE: Final = 0.05

Weights = NDArray[np.float64]
Part = tuple[NDArray[np.intp], NDArray[np.intp]]


def column_to_balance(options: ClassifierOptions, table: GroupTable | None) -> tuple[str, ...] | None:
    """The groups that --balance is by; None where it is by none. Raises UsageError where they are not to be had."""
    if options.balance not in ("groups", "dro"):
        return None
    if table is None:
        raise UsageError(f"--balance {options.balance} without --groups", expected="a CSV that tells the groups")
    columns = [name for name in table.columns if name != options.split_by] or list(table.columns)
    name = options.balance_by or ("group" if "group" in columns else columns[0])
    if not options.balance_by and len(columns) > 1 and "group" not in columns:
        raise UsageError(
            f"the CSV has the columns {', '.join(columns)}",
            expected="one to balance",
            remedy=f"name it: --balance-by {columns[0]}",
        )
    values = table.column(name)
    if len(set(values) - {""}) < 2:
        raise UsageError(f"column {name} has one group only", expected="two or more to balance")
    return values


def weights_by_cells(groups: Sequence[str], labels: NDArray[np.intp]) -> Weights:
    """(N,) weights that give every group the same share of each class, and every class the share that it has.

    What a network could use as a short cut, that one class is mostly of one group, is then not in what it learns from.
    Weights end at twenty times the mean.
    """
    names = np.array(groups)
    weights = np.ones(len(labels))
    for label in np.unique(labels):
        inside = labels == label
        present = np.unique(names[inside])
        for name in present:
            cell = inside & (names == name)
            weights[cell] = inside.sum() / (len(present) * cell.sum())
    capped: Weights = np.minimum(weights / weights.mean(), _MOST_WEIGHT)
    return capped


def weights_by_dro(
    groups: Sequence[str], features: Tensor, targets: Tensor, parts: Sequence[Part], kind: str, ridge: float
) -> Weights:
    """(N,) weights that raise the groups that are served worst (group-DRO, Sagawa et al. 2020, arXiv 1911.08731).

    Groups' weights grow by the exponential of their loss. That is the loss of pictures that a head did not learn from:
    a network that can learn its pictures by heart has no loss on them in any group.
    """
    names = np.array(groups)
    labels = targets.argmax(1).numpy()
    present = np.unique(names)
    share = dict.fromkeys(present, 1 / len(present))
    solve = head_of(kind, ridge)
    mean = np.zeros(len(names))
    for _ in range(_DRO_ROUNDS):
        weights = np.array([share[name] / (names == name).mean() for name in names])
        mean += np.minimum(weights / weights.mean(), _MOST_WEIGHT) / _DRO_ROUNDS
        lost = np.zeros(len(names))
        for learn, judge in parts:
            head = solve(features[torch.from_numpy(learn)], targets[torch.from_numpy(learn)], weights[learn])
            chances = probabilities(logits_of(head, features[torch.from_numpy(judge)]))
            lost[judge] = -np.log(np.maximum(chances[np.arange(len(judge)), labels[judge]], 1e-6))
        grown = {name: share[name] * math.exp(_DRO_STEP * float(lost[names == name].mean())) for name in present}
        share = {name: value / sum(grown.values()) for name, value in grown.items()}
    told: Weights = mean / mean.mean()
    return told


def balance(
    options: ClassifierOptions, folder: PictureFolder, groups: Sequence[str] | None, features: Tensor, targets: Tensor
) -> Weights | None:
    """(N,) weights of the folder's pictures; None where nothing is to be balanced by groups."""
    if groups is None:
        return None
    if options.balance == "groups":
        return weights_by_cells(groups, folder.labels)
    parts = folds(folder, range(len(folder.pictures)), _PER_FOLD, options.seed)
    if not parts:
        raise UsageError("too few pictures of a class for --balance dro", expected="two or more of each")
    return weights_by_dro(groups, features, targets, parts, options.head, options.ridge)


def right_out_of_fold(
    folder: PictureFolder, features: Tensor, targets: Tensor, options: ClassifierOptions, weights: Weights | None
) -> NDArray[np.bool_] | None:
    """(N,) whether heads that learned from neither a picture nor its near-duplicates name it rightly."""
    parts = folds(folder, range(len(folder.pictures)), _PER_FOLD, options.seed)
    if not parts:
        return None
    solve, right = head_of(options.head, options.ridge), np.zeros(len(folder.pictures), np.bool_)
    for learn, judge in parts:
        at = torch.from_numpy(learn)
        head = solve(features[at], targets[at], None if weights is None else weights[learn])
        right[judge] = logits_of(head, features[torch.from_numpy(judge)]).argmax(axis=1) == folder.labels[judge]
    return right


def group_report(
    table: GroupTable,
    folder: PictureFolder,
    before: NDArray[np.bool_],
    after: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    """Figures of every group of every column, ready for JSON.

    For each group: accuracy before and after balancing with 95 % intervals, what balancing gained (paired), its gap to
    the rest of its column with Fisher's exact test, and its pictures of each class. The p-values are Holm's: corrected
    for all groups of all columns. For each column: how many classes one could guess from the group alone.
    """
    from scipy.stats import fisher_exact  # type: ignore[import-untyped]

    columns: dict[str, Any] = {}
    tests: list[tuple[dict[str, Any], float]] = []
    last = before if after is None else after
    for name, values in table.columns.items():
        groups, known = np.array(values), np.array([bool(value) for value in values])
        if not known.any():
            continue
        rows = {}
        for group in sorted(set(values) - {""}):
            inside, rest = groups == group, known & (groups != group)
            row: dict[str, Any] = {
                "pictures": int(inside.sum()),
                "classes": {
                    label: int((inside & (folder.labels == number)).sum())
                    for number, label in enumerate(folder.classes)
                },
                "accuracy": plain_estimate(wilson(int(last[inside].sum()), int(inside.sum()))),
                "gap": None,
                "p": None,
                "before": None,
                "gain": None,
            }
            if after is not None:
                row["before"] = plain_estimate(wilson(int(before[inside].sum()), int(inside.sum())))
                row["gain"] = plain_estimate(paired(after[inside].astype(float) - before[inside].astype(float)))
            if inside.sum() >= _LEAST_JUDGED and rest.sum() >= _LEAST_JUDGED:
                row["gap"] = float(last[inside].mean() - last[rest].mean())
                counts = [[int(last[part].sum()), int((~last[part]).sum())] for part in (inside, rest)]
                tests.append((row, float(fisher_exact(counts).pvalue)))
            rows[group] = row
        columns[name] = {"groups": rows, "guess": _guess(groups[known], folder.labels[known])}
    for (row, _), p in zip(tests, holm([p for _, p in tests]), strict=True):
        row["p"] = p
    return columns


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for being many (Holm 1979): none is below `alpha` by chance more often than in `alpha`."""
    order = np.argsort(values, kind="stable")
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * float(values[index])))
        corrected[int(index)] = highest
    return corrected


def _guess(groups: NDArray[np.str_], labels: NDArray[np.intp]) -> dict[str, float]:
    """Share of the pictures whose class is their group's commonest, beside the share of the commonest class."""
    right = sum(int(np.bincount(labels[groups == group]).max()) for group in np.unique(groups))
    return {"by_group": right / len(labels), "without": int(np.bincount(labels).max()) / len(labels)}


def sentences(columns: Mapping[str, Any]) -> list[str]:
    """What the report says of groups in words."""
    told = []
    for name, column in columns.items():
        worse = [
            f"{group} ({100 * row['gap']:+.1f} points against the rest, p = {row['p']:.2g})"
            for group, row in column["groups"].items()
            if row["p"] is not None and row["p"] < SURE and row["gap"] < 0
        ]
        tested = sum(row["p"] is not None for row in column["groups"].values())
        if worse:
            told.append(f"{name}: served worse than the rest: {', '.join(worse)}.")
        elif tested:
            told.append(f"{name}: no gap between its groups is shown (corrected for all groups of all columns).")
        guess = column["guess"]
        if guess["by_group"] >= guess["without"] + 0.1:
            told.append(
                f"{name} tells the class in {guess['by_group']:.0%} of the pictures, where the commonest class makes "
                f"{guess['without']:.0%}: a network may use it as a short cut. --balance groups takes that away."
            )
    return told
