"""Classes in a tree: read from a user's file, learned with, and judged by how bad the mistakes are."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_app.accuracy.intervals import Estimate, bootstrap, paired
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.hierarchy import Family, Hierarchy
from edge_app.core.names import valid_name
from edge_models.data.yaml_file import Yaml, read_yaml

EXPECTED: Final = "families of classes, such as `insect: [ants, bees]`"
SHARPNESS: Final = 15.0
"""Beta of `soft_targets`. Of 4, 7, 10, 15 and 25 it saved most of the cost on a quarter of cifar10_small, mean of 10,
20 and 80 pictures a class, 5 seeds each: -0.012, -0.001, 0.002, 0.003 and 0.001 of 0.20. On another quarter nothing was
shown; see docs/benchmarks.md. Four costs up to 5 points of accuracy."""

Float32s = NDArray[np.float64]
Labels = NDArray[np.intp]


def read_hierarchy(path: Path, classes: Sequence[str]) -> Hierarchy:
    """Read a YAML file: families with lists of classes or of families, nested or by name; each class in one place.

    A class that belongs to no family stands at the top, without a value. Raises UsageError that names what is wrong: a
    cycle, a class that the folder lacks, one that is named twice or left out, a family of one.
    """
    plain = read_yaml(path, EXPECTED)
    folded = {unicodedata.normalize("NFC", name): name for name in classes}
    families: list[Family] = []
    alone: list[str] = []

    def spelled(text: str) -> str:
        name = valid_name(text)
        return folded.get(name, name)

    def members(value: Yaml, name: str) -> tuple[str, ...]:
        if isinstance(value, str):
            raise UsageError(f"{path}: {name!r} is {value!r}", expected=f"a list; {EXPECTED}")
        if isinstance(value, list):
            return tuple(part for each in value for part in member(each))
        return tuple(part for key, inner in value.items() for part in entry(key, inner))

    def member(value: Yaml) -> tuple[str, ...]:
        if isinstance(value, list):
            raise UsageError(f"{path}: a list stands in a list", expected=EXPECTED)
        if isinstance(value, dict):
            return members(value, "")
        return (spelled(value),)

    def entry(key: str, inner: Yaml) -> tuple[str, ...]:
        name = spelled(key)
        if inner != "":
            families.append(Family(name, members(inner, name)))
        return (name,)

    try:
        if not isinstance(plain, dict):
            raise UsageError(f"{path} holds no families", expected=EXPECTED)
        for key, inner in plain.items():
            alone += [name for name in entry(key, inner) if inner == ""]
        hierarchy = Hierarchy(tuple(families))
        placed = [*alone, *(member for family in families for member in family.members)]
        known, times = set(classes), Counter(placed)
        for name in alone:
            if name not in known:
                raise ModelError(f"{name!r} is neither a class nor a family", expected=", ".join(classes[:6]))
            if times[name] > 1:
                raise ModelError(f"the hierarchy has {name!r} in two places", expected="each name in one family")
        hierarchy.check(classes)
        if left := [name for name in classes if name not in times]:
            raise ModelError(
                f"it leaves out {', '.join(left[:6])}", expected="every class once",
                remedy=f"a class of its own stands at the top, as `{left[0]}:`",
            )  # fmt: skip
    except ModelError as error:
        raise UsageError(f"{path}: {error.found}", expected=error.expected, remedy=error.remedy) from error
    except UsageError as error:
        if str(path) in error.found:
            raise
        raise UsageError(f"{path}: {error.found}", expected=error.expected, remedy=error.remedy) from error
    return hierarchy


def distances(hierarchy: Hierarchy, classes: Sequence[str]) -> Float32s:
    """(C, C) how bad a mistake is: the height of the smallest family that holds both, in that of the whole tree.

    Heights are counted from the leaves, so a family's is one more than its highest member's; 0 for the class itself, 1
    where nothing but the root holds both (Bertinetto et al. 2020, Making better mistakes, arXiv 1912.09393).
    """
    height: dict[str, int] = {}
    families = {family.name: family for family in hierarchy.families}
    depth = {name: len(hierarchy.ancestors(name)) for name in families}
    for family in sorted(families.values(), key=lambda one: -depth[one.name]):
        height[family.name] = 1 + max(height.get(member, 0) for member in family.members)
    root = 1 + max(height.values())
    table = np.ones((len(classes), len(classes)))
    at = {name: number for number, name in enumerate(classes)}
    # The widest families first: a smaller one then says better.
    for name, leaves in sorted(hierarchy.leaves.items(), key=lambda one: -height[one[0]]):
        inside = [at[label] for label in leaves if label in at]
        table[np.ix_(inside, inside)] = height[name] / root
    np.fill_diagonal(table, 0.0)
    return table


def soft_targets(targets: Tensor, table: Float32s, sharpness: float = SHARPNESS) -> Tensor:
    """Targets (N, C) in which each class gives some of its share to its kin: exp(-sharpness * distance), normalized
    (Bertinetto et al. 2020, equation 8). What is likeliest stays so."""
    kin = np.exp(-sharpness * table)
    return targets @ torch.from_numpy(kin / kin.sum(axis=1, keepdims=True)).to(targets.dtype)


def severity(table: Float32s, predicted: Labels, labels: Labels) -> Estimate:
    """Mean distance of the wrong answers from the truth, in (0, 1], with a 95 % interval over pictures; NaN without a
    mistake."""
    wrong = predicted != labels
    cost, each = table[labels, predicted], wrong.astype(np.float64)

    def mean(weights: NDArray[np.float64]) -> float:
        count = float(weights @ each)
        return float(weights @ cost) / count if count else float("nan")

    if not wrong.any():
        return Estimate(float("nan"), 0.0, 1.0, 0)
    return bootstrap(mean, len(labels))


def judged(table: Float32s, answers: Labels, without: Labels, labels: Labels) -> dict[str, Any]:
    """What learning with the tree changed, on the same pictures: figures with and without, the gain paired.

    `cost` is the mean distance over all pictures, right ones at 0; `gain` is what of it the tree saves.
    """
    before, after = table[labels, without], table[labels, answers]
    gain = paired(before - after)

    def figures(predicted: Labels, cost: Float32s) -> dict[str, Any]:
        bad = severity(table, predicted, labels)
        known = bad.trials > 0
        return {
            "mistakes": int((predicted != labels).sum()),
            "severity": {"value": bad.value if known else None, "low": bad.low, "high": bad.high},
            "cost": float(cost.mean()),
        }

    return {
        "pictures": len(labels),
        "with": figures(answers, after),
        "without": figures(without, before),
        "gain": {"value": gain.value, "low": gain.low, "high": gain.high},
    }


def sentence(told: dict[str, Any]) -> str:
    """The same in one line."""

    def words(one: dict[str, Any]) -> str:
        bad = one["severity"]
        if bad["value"] is None:
            return "no mistake"
        return f"{one['mistakes']} mistakes of mean severity {bad['value']:.2f} ({bad['low']:.2f} to {bad['high']:.2f})"

    gain = told["gain"]
    shown = "less" if gain["low"] > 0 else "more" if gain["high"] < 0 else "no difference shown"
    return (
        f"hierarchy, on the {told['pictures']} pictures kept aside, base frozen: {words(told['with'])}, without it "
        f"{words(told['without'])}; cost of a picture {told['with']['cost']:.3f} and {told['without']['cost']:.3f}, "
        f"{shown} (saved {gain['value']:+.3f}, {gain['low']:+.3f} to {gain['high']:+.3f})"
    )
