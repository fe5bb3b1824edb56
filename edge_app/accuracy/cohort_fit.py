"""Fits a cohort to strangers' faces: the centres, what a face's excess depends on, and thresholds for strangers of one
kind.

Kinds are known while fitting (groups that somebody wrote down, or clusters), never afterwards. What was compared on
faces kept aside, and which lost, is in docs/thresholds.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.pair_scores import Ints, excess_of, just_above, label_numbers, mean_templates
from edge_app.core.cohort import Cohort, stored_centres
from edge_app.core.errors import UsageError
from edge_app.core.model_card import OperatingPoint
from edge_app.core.types import Float32s

FMRS: Final = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
"""False-match rates between strangers of one kind that a card lists, as far as the pairs reach."""
PEOPLE_PER_CENTRE: Final = 3
"""Least people averaged in a centre, so that none is anybody's template."""
CENTRES_PER_GROUP: Final = 40
"""As many of every group, whatever its size: the nearest centres of a rare group would be far away otherwise."""
LEAST_CENTRES: Final = 16
LEAST_PEOPLE: Final = 300
"""Identities from which a cohort is fitted to a folder of the user's own."""
NEAREST: Final = 50
KINDS: Final = 8
"""Clusters that stand for kinds where nobody wrote groups down."""
SAME_PERSON: Final = 0.5
"""Strangers this alike are nearly all one person whom nobody noticed: such pairs are left out."""
_TAIL: Final = 0.99
"""Quantile of strangers' similarities that the excess follows; at 0.998 children were evened less well."""
_RESTS_ON: Final = 3
"""Impostors that the smallest rate must rest on."""
_FEW: Final = 30
"""Faces without which a group says nothing."""
_PAIRS_PER_GROUP: Final = 40_000
_HOPELESS: Final = 10.0
"""A group whose strangers match so many times as often as the median group's is no ground for thresholds."""
_SAFETY: Final = 2.0
_CROWD_WEIGHT: Final = 40.0


@dataclass(frozen=True, slots=True, eq=False)
class Strangers:
    """Faces of many people: unit rows with a person's number and a group each."""

    vectors: Float32s
    """(M, D)."""
    people: Ints
    """(M,)."""
    groups: NDArray[np.str_]
    """(M,)."""

    def __len__(self) -> int:
        return len(self.vectors)

    def at(self, which: NDArray[Any]) -> Strangers:
        """Those at some positions, or where a mask is true."""
        return Strangers(self.vectors[which], self.people[which], self.groups[which])

    def one_each(self) -> Strangers:
        """The first face of every person."""
        return self.at(np.unique(self.people, return_index=True)[1])


def together(parts: Iterable[Strangers]) -> Strangers:
    """Several as one; people of two parts are never the same."""
    listed = list(parts)
    offsets = np.cumsum([0, *(int(part.people.max(initial=-1)) + 1 for part in listed)])
    return Strangers(
        np.concatenate([part.vectors for part in listed]),
        np.concatenate([part.people + start for part, start in zip(listed, offsets, strict=False)]),
        np.concatenate([part.groups for part in listed]),
    )


def same_person_limit(vectors: Float32s) -> float:
    """Cosine from which two faces of one group are taken for one person: `SAME_PERSON`, more where all are alike.

    That is, four robust standard deviations above the median of the group's pairs where this is well above: half of all
    pairs of toddlers are alike at 0.4, and strangers among them at 0.8.
    """
    if len(vectors) < 2:
        return SAME_PERSON
    some = vectors[:: -(-len(vectors) // 1500)]
    cosines = (some @ some.T)[np.triu_indices(len(some), 1)]
    middle, high = np.quantile(cosines, [0.5, 0.9])
    limit = float(middle + 4 * (high - middle) / 1.2816)
    return SAME_PERSON if limit < SAME_PERSON + 0.1 else min(limit, 0.95)


def find_people(vectors: Float32s, groups: NDArray[np.str_]) -> tuple[Ints, int]:
    """(M,) numbers, equal where faces without identities hang together as one person; and how many pairs said so."""
    limits = {group: same_person_limit(vectors[groups == group]) for group in np.unique(groups)}
    limit = np.array([limits[group] for group in groups], np.float32)
    above = np.arange(len(vectors))

    def top(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = int(above[place])
        return place

    found = 0
    for start in range(0, len(vectors), 512):
        block = vectors[start : start + 512] @ vectors.T
        rows, columns = np.nonzero(block >= np.maximum(limit[start : start + 512, None], limit[None, :]))
        for row, column in zip((rows + start).tolist(), columns.tolist(), strict=True):
            if row < column:
                found += 1
                above[top(row)] = top(column)
    return np.array([top(place) for place in range(len(vectors))], np.int64), found


def k_means(vectors: Float32s, count: int, least: int = 1, *, seed: int = 0, rounds: int = 15) -> tuple[Float32s, Ints]:
    """Up to `count` unit centres, each of at least `least` rows, and the centre of each row (Lloyd, spherical).

    Clusters that are too small are dissolved, the smallest half at a time.
    """
    if len(vectors) < least:
        raise UsageError(f"{len(vectors)} faces were given", expected=f"at least {least} for a centre")
    rng = np.random.default_rng(seed)
    centres = vectors[rng.choice(len(vectors), max(1, min(count, len(vectors) // least)), replace=False)]
    while True:
        for _ in range(rounds):
            owner = (vectors @ centres.T).argmax(axis=1)
            sums = np.zeros_like(centres)
            np.add.at(sums, owner, vectors)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            centres = np.where(lengths > 1e-6, sums / np.maximum(lengths, 1e-6), centres).astype(np.float32)
        owner = (vectors @ centres.T).argmax(axis=1).astype(np.int64)
        sizes = np.bincount(owner, minlength=len(centres))
        small = np.flatnonzero(sizes < least)
        if not len(small):
            return centres, owner
        gone = small[np.argsort(sizes[small], kind="stable")][: max(1, len(small) // 2)]
        centres, rounds = np.delete(centres, gone, axis=0), 3


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A cohort with the thresholds that were measured with it."""

    cohort: Cohort
    points: tuple[OperatingPoint, ...]
    """For strangers of one kind; for one template and for the mean of two."""
    left_out: tuple[str, ...]
    """Groups whose strangers are too much alike to rest a threshold on."""


def fit(cohort_faces: Strangers, fit_faces: Strangers, crowd: Strangers) -> Fitted:
    """Centres from one part of the strangers; what excess depends on, likeness and thresholds from the others.

    The three share no person. Groups are weighted alike. `crowd` are usual faces with several pictures of most people,
    such as LFW's: their similarities stay plain cosines, their clusters count as groups, and the rarest errors and
    those of two templates are measured on their pairs. Raises UsageError for too few faces.
    """
    centres = np.concatenate(
        [
            k_means(own.vectors, CENTRES_PER_GROUP * (1 if group in set(fit_faces.groups) else 4), PEOPLE_PER_CENTRE)[0]
            for group in np.unique(cohort_faces.groups)
            if len(own := cohort_faces.at(cohort_faces.groups == group).one_each()) >= PEOPLE_PER_CENTRE
        ]
    )
    usual_faces = crowd.one_each()
    kinds = np.array([f"kind {number}" for number in k_means(usual_faces.vectors, KINDS)[1]])
    of_kinds = Strangers(usual_faces.vectors, usual_faces.people, kinds)
    left_out = _hopeless(fit_faces)
    faces = together([fit_faces.at(~np.isin(fit_faces.groups, left_out)), of_kinds])

    numbers = label_numbers(crowd.people, len(crowd))
    cosines = _similarities(crowd.vectors, crowd.vectors, None)
    apart = np.triu(numbers[:, None] != numbers[None, :], 1)
    same_person = float(np.quantile(cosines[apart], 0.99))
    genuine = float(np.median(cosines[np.triu(numbers[:, None] == numbers[None, :], 1)]))
    people = len(np.unique(cohort_faces.people))
    stored, nearest = stored_centres(centres), min(NEAREST, len(centres) // 2)

    def cohort_of(
        mean: float, spread: float, usual: float, doubtful: float, likeness: tuple[float, float, float] | None
    ) -> Cohort:
        return Cohort(stored, centres.shape[1], nearest, mean, spread, usual, doubtful, likeness, same_person, people)

    mean, spread = _weights(cohort_of(1.0, 0.0, 0.0, 0.0, None), faces)
    usual = float(np.median(cohort_of(mean, spread, 0.0, 0.0, None).excess(usual_faces.vectors)))
    cohort = cohort_of(mean, spread, usual, 0.0, None)
    within = list(_within_groups(faces, cohort).values())
    excess = cohort.excess(crowd.vectors)
    rare = np.sort((cosines - excess[:, None] - excess[None, :])[apart])[::-1]
    means, owners = mean_templates(crowd.vectors, numbers, 2)
    double = _similarities(crowd.vectors, means, cohort)
    rare_double = np.sort(double[numbers[:, None] != owners[None, :]])[::-1]
    points = _points(within, rare, rare_double)
    at_ten_thousandth = next((p.threshold for p in points if p.fmr <= 1e-4 and p.templates == 1), points[-1].threshold)
    likeness = _likeness(faces, of_kinds, cohort, points)
    doubtful = max(0.03, (genuine - at_ten_thousandth) / 2)
    return Fitted(cohort_of(mean, spread, usual, doubtful, likeness), points, left_out)


def cohort_from_folder(faces: Strangers) -> tuple[Cohort | None, NDArray[np.bool_]]:
    """A cohort from a third of the people of a folder, and which faces are of the others: (M,) bool.

    Clusters stand for kinds. The cohort is None where the third gives too few centres.
    """
    people = np.random.default_rng(0).permutation(np.unique(faces.people))
    chosen = np.isin(faces.people, people[: len(people) // 3])
    some, others = faces.at(chosen).one_each(), faces.at(~chosen)
    centres, _ = k_means(some.vectors, len(some) // PEOPLE_PER_CENTRE, PEOPLE_PER_CENTRE)
    if len(centres) < LEAST_CENTRES:
        return None, ~chosen
    usual = others.one_each()
    kinds = k_means(usual.vectors, min(KINDS, len(usual) // _FEW), _FEW)[1]
    of_kinds = Strangers(usual.vectors, usual.people, np.array([f"kind {kind}" for kind in kinds]))
    numbers = label_numbers(others.people, len(others))
    cosines = _similarities(others.vectors, others.vectors, None)
    same_person = float(np.quantile(cosines[np.triu(numbers[:, None] != numbers[None, :], 1)], 0.99))
    nearest = min(NEAREST, len(centres) // 2)
    raw = Cohort(stored_centres(centres), centres.shape[1], nearest, 1.0, 0.0, 0.0, 99.0, None, same_person, len(some))
    mean, spread = _weights(raw, of_kinds)
    weighted = replace(raw, mean_weight=mean, spread_weight=spread)
    return replace(weighted, usual=float(np.median(weighted.excess(usual.vectors)))), ~chosen


def _weights(raw: Cohort, faces: Strangers) -> tuple[float, float]:
    """What mean and spread of the nearest cosines count."""
    spread = replace(raw, mean_weight=0.0, spread_weight=1.0)
    return _quantile_regression(faces, np.stack([raw.excess(faces.vectors), spread.excess(faces.vectors)], axis=1))


def _similarities(rows: Float32s, columns: Float32s, cohort: Cohort | None) -> Float32s:
    evened: Float32s = rows @ columns.T
    evened -= excess_of(cohort, rows)[:, None] + excess_of(cohort, columns)[None, :]
    return evened


def _within_groups(faces: Strangers, cohort: Cohort | None) -> dict[str, Float32s]:
    """Similarities of strangers of each group that has faces enough; pairs that are one person are left out."""
    found = {}
    for group in np.unique(faces.groups):
        own = faces.at(faces.groups == group)
        if len(own) >= _FEW:
            cosines = own.vectors @ own.vectors.T
            pairs = np.triu(own.people[:, None] != own.people[None, :], 1) & (cosines < same_person_limit(own.vectors))
            found[str(group)] = _similarities(own.vectors, own.vectors, cohort)[pairs]
    return found


def _hopeless(faces: Strangers) -> tuple[str, ...]:
    """Groups of which strangers match `_HOPELESS` times as often as in the median group, by the plain cosine."""
    within = _within_groups(faces, None)
    if not within:
        raise UsageError(f"no group has {_FEW} faces", expected="more pictures of strangers")
    threshold = float(np.median([np.quantile(values, 0.999) for values in within.values()]))
    return tuple(group for group, values in within.items() if (values >= threshold).mean() > _HOPELESS * 1e-3)


def _quantile_regression(faces: Strangers, statistics: Float32s) -> tuple[float, float]:
    """Weights w such that a share 1 - `_TAIL` of the pairs within groups lies above w·(x_i + x_j) + constant.

    Then that share does not depend on the statistics (M, 2), nor, as far as they tell groups apart, on the group.
    Newton steps on a smoothed check loss (Koenker 2005); groups weigh alike.
    """
    rng = np.random.default_rng(0)
    rows, values, weights = [], [], []
    scale = statistics.std(axis=0)
    scaled = statistics.astype(np.float64) / scale
    for group in np.unique(faces.groups):
        where = np.flatnonzero(faces.groups == group)
        if len(where) < _FEW:
            continue
        cosines = faces.vectors[where] @ faces.vectors[where].T
        people = faces.people[where]
        pairs = np.triu(people[:, None] != people[None, :], 1) & (cosines < same_person_limit(faces.vectors[where]))
        one, other = np.nonzero(pairs)
        if len(one) > _PAIRS_PER_GROUP:
            some = rng.choice(len(one), _PAIRS_PER_GROUP, replace=False)
            one, other = one[some], other[some]
        rows.append(scaled[where[one]] + scaled[where[other]])
        values.append(cosines[one, other])
        weights.append(np.full(len(one), 1.0 / len(one)))
    x = np.column_stack([np.concatenate(rows), np.ones(sum(map(len, rows)))])
    y, weight = np.concatenate(values).astype(np.float64), np.concatenate(weights) / len(weights)
    order = np.argsort(y)
    found = np.array([0.0, 0.0, y[order][np.searchsorted(np.cumsum(weight[order]), _TAIL)]])
    for width in np.maximum(0.008, 0.05 * 0.9 ** np.arange(60)):
        above = 1.0 / (1.0 + np.exp(-np.clip((y - x @ found) / width, -30.0, 30.0)))
        gradient = -x.T @ (weight * (above - (1.0 - _TAIL)))
        curvature = (x * (weight * above * (1.0 - above) / width)[:, None]).T @ x + 1e-6 * np.eye(3)
        step = np.linalg.solve(curvature, gradient)
        found -= step * min(1.0, 0.1 / max(1e-12, float(np.linalg.norm(step))))
    return float(found[0] / scale[0]), float(found[1] / scale[1])


def _points(within: Sequence[Float32s], rare: Float32s, rare_double: Float32s) -> tuple[OperatingPoint, ...]:
    """Thresholds for strangers of one kind.

    `within`: similarities within each group; down to a rate of 1e-4 the threshold is the one at which the root mean
    square of the groups' rates is the rate, so that the worst group counts most. Smaller rates and two templates go on
    from there as far as the crowd's similarities (descending) `rare` and `rare_double` do: of those each person is
    known, where a few pairs within groups may be one person whom nobody noticed.
    """
    ordered = [np.sort(values) for values in within]
    pairs = sum(map(len, within))

    def rate(threshold: float) -> float:
        each = [1.0 - np.searchsorted(values, threshold) / len(values) for values in ordered]
        return float(np.mean(each))

    def threshold_at(fmr: float) -> float:
        low, high = -1.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if rate(middle) <= fmr else (middle, high)
        return high

    def share(values: Float32s, threshold: float) -> float:
        return float(np.searchsorted(-values, -threshold, side="right")) / len(values)

    measured = max(1e-4, 2 * _RESTS_ON * len(within) / max(1, pairs))
    anchor = threshold_at(measured)
    crowd_rate = share(rare, anchor) / measured
    singles: list[OperatingPoint] = []
    doubles: list[OperatingPoint] = []
    for fmr in FMRS:
        if fmr >= measured * 0.999:
            single = threshold_at(fmr)
        elif fmr * crowd_rate * len(rare) >= _RESTS_ON:
            single = anchor + _at(rare, fmr * crowd_rate) - _at(rare, measured * crowd_rate)
        else:
            break
        likewise = max(share(rare, single), _RESTS_ON / len(rare), _RESTS_ON / len(rare_double))
        double = single + _at(rare_double, likewise) - _at(rare, likewise)
        # Noise among the rarest errors must not make a smaller rate cheaper.
        single = max([single, *(point.threshold for point in singles)])
        double = max([double, *(point.threshold for point in doubles)])
        singles.append(OperatingPoint(fmr, single, pairs + len(rare), 1, True))
        doubles.append(OperatingPoint(fmr, double, pairs + len(rare_double), 2, True))
    return (*singles, *doubles)


def _at(descending: Float32s, rate: float) -> float:
    return just_above(descending[min(len(descending) - 1, math.floor(rate * len(descending) + 1e-9))])


def _likeness(
    faces: Strangers, kinds: Strangers, cohort: Cohort, points: Sequence[OperatingPoint]
) -> tuple[float, float, float]:
    """t, a and b of `Cohort.likeness`, by least squares over crowds of one group, of several, and of all.

    The crowds of all count `_CROWD_WEIGHT` times, for a gallery is more often one of them. What happens in a single
    group is taken `_SAFETY` times as often as it was seen: too strict is a face not named, too lax a stranger named.
    """
    excess = cohort.excess(faces.vectors)
    singles = {point.fmr: point.threshold for point in points if point.templates == 1}
    tail = [(fmr, threshold) for fmr, threshold in singles.items() if 3e-4 <= fmr <= 1e-3]
    groups = [str(group) for group in np.unique(faces.groups) if (faces.groups == group).sum() >= _FEW]
    written = [group for group in groups if group not in set(kinds.groups)]
    clusters = [group for group in groups if group not in written]
    everybody = [tuple(each) for each in (written, clusters) if len(each) > 1]
    crowds: list[tuple[str, ...]] = [*((group,) for group in groups), *everybody]
    crowds += [*combinations(clusters, 2)][::5]
    crowds += [*combinations(written, 2)][::3]
    crowds += [*combinations(written, 4)][::17]
    rows, rates, weights = [], [], []
    for crowd in crowds:
        where = np.flatnonzero(np.isin(faces.groups, crowd))
        some, own = faces.vectors[where], excess[where]
        cosines = some @ some.T
        pairs = np.triu(faces.people[where][:, None] != faces.people[where][None, :], 1) & (cosines < SAME_PERSON)
        values = (cosines - own[:, None] - own[None, :])[pairs]
        rate = float(np.mean([((values >= threshold).sum() + 0.5) / len(values) / fmr for fmr, threshold in tail]))
        rows.append((1.0, math.log(((values >= singles[0.01]).sum() + 0.5) / len(values) / 0.01)))
        rates.append(math.log(rate * (_SAFETY if len(crowd) == 1 else 1.0)))
        weights.append(math.sqrt(_CROWD_WEIGHT) if crowd in everybody else 1.0)
    weight = np.array(weights)
    a, b = np.linalg.lstsq(np.array(rows) * weight[:, None], np.array(rates) * weight, rcond=None)[0]
    return singles[0.01], float(a), max(0.5, float(b))
