"""A cohort judged on people who had no part in it: what happens in galleries of every group, and what it costs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.cohort_fit import Fitted, Strangers, fit, together
from edge_app.accuracy.groups import EVERYBODY, GroupFmr, GroupFpir, fmr_by_group, fpir_by_group
from edge_app.accuracy.open_set import OpenSetProtocol, Realized, Rule, open_set
from edge_app.accuracy.pair_scores import operating_points, shares_of, unit_rows
from edge_app.core.errors import ModelError
from edge_app.core.types import Float32s
from edge_app.gallery.calibration import Thresholds
from edge_app.gallery.matching import rule_for

SIZES: Final = (10, 50, 100)
FPIRS: Final = (0.01, 0.001)
MARGIN: Final = 0.05
CROWD_SIZE: Final = 100
MOST_OVER: Final = 2.0
"""What happens in a gallery of any group may be so many times what was asked."""
MOST_COST: Final = 0.003
"""Most by which more mates may be missed than with plain cosines, beyond the interval of the figure."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Galleries of a crowd with a number of pictures each, by the app's own rule at an FPIR of 1 %."""

    people: int
    templates: int
    evened: Realized
    plain: Realized
    """The same galleries with plain cosines and thresholds from the same people."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a cohort did on people kept aside."""

    fmr: tuple[GroupFmr, ...]
    fpir: tuple[GroupFpir, ...]
    """For one picture each, and for two; the second of strangers known by one picture is simulated."""
    crowd: tuple[Crowd, ...]
    strangers: int
    crowd_people: int
    left_out: tuple[str, ...]
    """Groups that rest no thresholds; they are judged all the same."""
    pairs_left_out: int


def shares(names: Sequence[str]) -> NDArray[np.float64]:
    """A number in [0, 1) for each name, the same whatever else there is: what decides who is kept aside."""
    return np.array([int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2.0**48 for name in names])


def of_people(people: NDArray[np.int64], each: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of everybody's first face, so that a person's faces stay together."""
    _, first, owner = np.unique(people, return_index=True, return_inverse=True)
    return np.asarray(each[first][owner.reshape(-1)], np.float64)


def ship(
    strangers: Strangers, share: NDArray[np.float64], crowd: Strangers, crowd_share: NDArray[np.float64]
) -> Fitted:
    """Fit with everybody: half of the strangers and a quarter of the crowd make the cohort, the others all else."""
    cohort = together([strangers.at(share < 0.5), crowd.at(crowd_share < 0.25)])
    return fit(cohort, strangers.at(share >= 0.5), crowd.at(crowd_share >= 0.25))


def judge(
    strangers: Strangers,
    share: NDArray[np.float64],
    crowd: Strangers,
    crowd_share: NDArray[np.float64],
    pairs_left_out: int = 0,
) -> Judged:
    """The same fit with two thirds of the strangers and half of the crowd, held against the others.

    `share` (M,) and `crowd_share` (C,) as `of_people` gives them.
    """
    kept, aside = share < 2 / 3, strangers.at(share >= 2 / 3)
    half = crowd_share < 0.5
    made = ship(strangers.at(kept), share[kept] * 1.5, crowd.at(half), crowd_share[half] * 2)
    thresholds = Thresholds(made.points, made.cohort)
    ones = aside.one_each()
    again = second_pictures(ones, crowd.at(half))
    fpir = [
        each
        for second in (None, again)
        for each in fpir_by_group(ones, thresholds, SIZES, FPIRS, margin=MARGIN, second=second)
    ]
    others = crowd.at(~half)
    return Judged(
        tuple(fmr_by_group(aside, thresholds, (1e-2, 1e-3, 1e-4))),
        tuple(fpir),
        tuple(_crowd(others, crowd.at(half), thresholds, templates) for templates in (1, 2)),
        len(strangers),
        len(np.unique(others.people)),
        made.left_out,
        pairs_left_out,
    )


def second_pictures(faces: Strangers, crowd: Strangers) -> Float32s:
    """Another picture of everybody, made up: (M, D) unit rows.

    Each is as far from the first as a second picture of somebody in the crowd is from his first, and as like the others
    of the group as a first picture is: around the group's mean, a share of what sets the first apart and a draw from
    how the group varies. On half of LFW's people, where second pictures exist, strangers reach 0.3, 0.35 and 0.4 to the
    mean of two in 1.41, 0.27 and 0.033 % of pairs; to the real means in 1.36, 0.27 and 0.040 %.
    """
    rng = np.random.default_rng(0)
    order = np.argsort(crowd.people, kind="stable")
    _, starts, counts = np.unique(crowd.people[order], return_index=True, return_counts=True)
    one, other = (crowd.vectors[order[starts[counts > 1] + place]] for place in (0, 1))
    cosines = (one * other).sum(axis=1)
    made = np.zeros_like(faces.vectors)
    for group in np.unique(faces.groups):
        where = np.flatnonzero(faces.groups == group)
        first = faces.vectors[where]
        mean = first.mean(axis=0)
        apart = first - mean
        length = np.maximum(1e-6, np.linalg.norm(apart, axis=1, keepdims=True))
        drawn = rng.normal(size=(len(where), len(where))).astype(np.float32) @ apart
        drawn -= (drawn * apart).sum(axis=1, keepdims=True) / length**2 * apart
        drawn *= length / np.maximum(1e-6, np.linalg.norm(drawn, axis=1, keepdims=True))
        wanted = rng.choice(cosines, (len(where), 1))
        low, high = np.full_like(wanted, -1.0), np.ones_like(wanted)
        for _ in range(30):
            share = (low + high) / 2
            second = unit_rows(mean + share * apart + np.sqrt(1 - share**2) * drawn)
            nearer = (second * first).sum(axis=1, keepdims=True) > wanted
            low, high = np.where(nearer, low, share), np.where(nearer, share, high)
        made[where] = second
    return made


def _crowd(others: Strangers, ours: Strangers, thresholds: Thresholds, templates: int) -> Crowd:
    able = int((np.bincount(others.people) > templates).sum())
    protocol = OpenSetProtocol(min(CROWD_SIZE, able), templates=templates)
    plain = tuple(p for count in (1, 2) for p in operating_points(ours.vectors, ours.people, templates=count))

    def rule_by(which: Thresholds, means: Float32s) -> Rule:
        cohort = which.cohort
        counts = (len(means), 0) if templates == 1 else (0, len(means))
        rule = rule_for(which.points, *counts, 0.01, MARGIN, cohort, shares_of(cohort, means))
        return Rule(rule.threshold, rule.margin, rule.company)

    done = [
        open_set(others.vectors, others.people, protocol, lambda means: rule_by(which, means), which.cohort).realized  # noqa: B023
        for which in (thresholds, Thresholds(plain, None))
    ]
    evened, before = done
    assert evened is not None and before is not None
    return Crowd(protocol.gallery_size, templates, evened, before)


def check(judged: Judged) -> None:
    """The gate: refuse a cohort that does not do what it is for. Raises ModelError in words.

    A group fails when its whole interval lies above `MOST_OVER` times what was asked.
    """
    for each in judged.fpir:
        if each.group != EVERYBODY and each.happened.low > MOST_OVER * each.fpir:
            raise ModelError(
                f"in galleries of {each.people} of {each.group} {each.happened} of strangers were named",
                expected=f"at most {MOST_OVER:g} times {each.fpir:.1%}",
                remedy="give more strangers of that group; nothing was written",
            )
    for crowd in judged.crowd:
        if crowd.evened.fnir.low > crowd.plain.fnir.value + MOST_COST:
            raise ModelError(
                f"with the cohort {crowd.evened.fnir} of mates were missed, without it {crowd.plain.fnir}",
                expected=f"at most {MOST_COST:.1%} more",
                remedy="nothing was written",
            )


def metrics_of(judged: Judged) -> dict[str, float]:
    """A card's figures by name: the worst group, a mixed crowd, and what it costs."""
    named: dict[str, float] = {
        "strangers by group": float(judged.strangers),
        "pairs left out": float(judged.pairs_left_out),
    }
    for each in judged.fpir:
        if each.templates != 1:
            continue
        where = f"FPIR, {each.fpir:g} asked, {each.people} of"
        if each.group == EVERYBODY:
            named[f"{where} everybody"] = round(each.happened.value, 5)
        elif each.group not in judged.left_out:
            worst = max(named.get(f"{where} the worst group", 0.0), round(each.happened.value, 5))
            named[f"{where} the worst group"] = worst
    for crowd in judged.crowd:
        what = f"{crowd.people} people, {crowd.templates} each"
        named[f"FNIR, {what}"] = round(crowd.evened.fnir.value, 5)
        named[f"FNIR without cohort, {what}"] = round(crowd.plain.fnir.value, 5)
    return named


def false_matches(judged: Judged, fmr: float) -> float:
    """Mean of the false-match rates of the groups that thresholds rest on, at the threshold for `fmr`."""
    rates = [
        each.happened.value
        for each in judged.fmr
        if each.fmr == fmr and each.group != EVERYBODY and each.group not in judged.left_out
    ]
    return float(np.mean(rates))
