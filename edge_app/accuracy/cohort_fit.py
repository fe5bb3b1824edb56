"""Fits a cohort to strangers' faces: centres, what a face's excess depends on, kinds, and thresholds for strangers of
one kind.

Groups are known while fitting (somebody wrote them down, or clusters stand for them), never afterwards. What was
compared on faces kept aside, and which lost, is in docs/thresholds.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.pair_scores import Ints, excess_of, just_above, label_numbers, mean_templates
from edge_app.core.cohort import Cohort, Kinds, stored_centres, stored_directions
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
LEAST_PEOPLE: Final = 240
"""Identities from which a cohort is fitted to a folder of the user's own: half of them give four kinds of thirty."""
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
_SAFETY: Final = 1.7
"""So many times as many false matches are reckoned with as were seen: too strict is a face not named, too lax a
stranger named. With 1.0 a mixed crowd got 1.1 times what was asked and the worst group 2.5 times; with 1.4, 0.7 and
2.2."""
_USUAL: Final = 0.9
"""Share of a group's faces that have no excess."""
_ALIKE_AT: Final = (1e-2, 3e-3, 1e-3)
"""Rates within groups at whose thresholds is counted how alike kinds are."""
_CROWD_AT: Final = (1e-3, 3e-4)
"""The same for the crowd, whose people are known: its rate falls faster, for no pair in it is one person unnoticed."""
_TAIL_FROM: Final = 2e-2
_KIND_RIDGE: Final = 0.1
_PRIOR_PAIRS: Final = 210.0
"""What an assumption about two kinds weighs: strangers of one kind match, of two kinds a tenth as often."""


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
    """Centres from one part of the strangers; what excess depends on, kinds and thresholds from the others.

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
    unnamed = cohort_faces.at(~np.isin(cohort_faces.groups, fit_faces.groups)).one_each()
    clusters = k_means(np.concatenate([unnamed.vectors, usual_faces.vectors]), KINDS)[0]

    def clustered(faces: Strangers) -> Strangers:
        nearest = (faces.vectors @ clusters.T).argmax(axis=1)
        return Strangers(faces.vectors, faces.people, np.array([f"kind {number}" for number in nearest]))

    known = cohort_faces.at(np.isin(cohort_faces.groups, fit_faces.groups)).one_each()
    ones = [fit_faces.one_each(), clustered(usual_faces)]
    examples = together([known, clustered(unnamed), *ones]) if len(unnamed) else together([known, *ones])
    names, directions, offsets = _kind_directions(examples)
    left_out = _hopeless(fit_faces)
    everybody = together(ones)
    sound = ~np.isin(everybody.groups, left_out)
    faces = everybody.at(sound)

    numbers = label_numbers(crowd.people, len(crowd))
    cosines = _similarities(crowd.vectors, crowd.vectors, None)
    apart = np.triu(numbers[:, None] != numbers[None, :], 1)
    same_person = float(np.quantile(cosines[apart], 0.99))
    genuine = float(np.median(cosines[np.triu(numbers[:, None] == numbers[None, :], 1)]))
    people = len(np.unique(cohort_faces.people))
    nearest = min(NEAREST, len(centres) // 2)
    raw = Cohort(stored_centres(centres), centres.shape[1], nearest, 1.0, 0.0, 0.0, 0.0, None, same_person, people)
    mean, spread = _weights(raw, faces)
    # -50: the excess is clipped at 0, and here the sums themselves are wanted.
    sums = replace(raw, mean_weight=mean, spread_weight=spread, usual=-50.0).excess(faces.vectors) - 50.0
    usual = float(np.mean([np.quantile(sums[faces.groups == group], _USUAL) for group in np.unique(faces.groups)]))
    cohort = replace(raw, mean_weight=mean, spread_weight=spread, usual=usual)

    pairs = _Pairs.of(everybody, cohort)
    kinds = Kinds(stored_directions(directions), tuple(offsets.tolist()), _as_rows(np.eye(len(names))))
    shares = kinds.shares(everybody.vectors)
    within_sound = pairs.within * (sound[:, None] & sound[None, :])
    alike = _how_alike(shares, pairs, [_weighted_at(pairs.values, within_sound, rate) for rate in _ALIKE_AT])
    # What strangers of one written group do is what a rate means: the crowd's clusters are measured against it.
    written = np.array([not name.startswith("kind ") for name in everybody.groups]) & sound
    within = pairs.within * (written[:, None] & written[None, :])
    within /= within.sum()
    alike /= float((within * (shares @ alike @ shares.T)).sum()) / _SAFETY
    excess = cohort.excess(crowd.vectors)
    rare_pairs = cosines - excess[:, None] - excess[None, :]
    rare = np.sort(rare_pairs[apart])[::-1]
    crowd_shares = kinds.shares(crowd.vectors)
    expected = float((crowd_shares @ alike @ crowd_shares.T)[apart].mean())
    seen = [float((rare >= _weighted_at(pairs.values, within, rate)).mean()) / rate for rate in _CROWD_AT]
    of_crowd = np.array([name.startswith("kind ") for name in names])
    scale = np.sqrt(np.where(of_crowd, np.clip(_SAFETY * np.mean(seen) / expected, 0.05, 1.0), 1.0))
    kinds = replace(kinds, alike=_as_rows(alike * scale[:, None] * scale[None, :]))
    means, owners = mean_templates(crowd.vectors, numbers, 2)
    double = _similarities(crowd.vectors, means, cohort)
    rare_double = np.sort(double[numbers[:, None] != owners[None, :]])[::-1]
    points = _points(pairs.values, within, rare, rare_double)
    at_ten_thousandth = next((p.threshold for p in points if p.fmr <= 1e-4 and p.templates == 1), points[-1].threshold)
    doubtful = max(0.03, (genuine - at_ten_thousandth) / 2)
    return Fitted(replace(cohort, kinds=kinds, doubtful_from=doubtful), points, left_out)


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """All pairs of faces of many people."""

    values: Float32s
    """(M, M) similarities less excess; pairs that are one person have -4."""
    apart: Float32s
    """(M, M) 1 where a pair is two people."""
    within: Float32s
    """(M, M) weights of pairs within a group, which sum to 1 over each group and then over all."""
    each: Float32s
    """(M,) weights of faces: every group's sum to the same."""

    @classmethod
    def of(cls, faces: Strangers, cohort: Cohort) -> _Pairs:
        values = _similarities(faces.vectors, faces.vectors, None)
        limits = {g: same_person_limit(faces.vectors[faces.groups == g]) for g in np.unique(faces.groups)}
        limit = np.array([limits[group] for group in faces.groups], np.float32)
        apart = (faces.people[:, None] != faces.people[None, :]) & (values < np.maximum(limit[:, None], limit[None, :]))
        excess = cohort.excess(faces.vectors)
        values -= excess[:, None] + excess[None, :]
        values[~apart] = -4.0
        _, group, counts = np.unique(faces.groups, return_inverse=True, return_counts=True)
        within = ((group[:, None] == group[None, :]) & apart).astype(np.float32)
        within /= np.maximum(1.0, np.bincount(group, within.sum(axis=1)))[group][:, None].astype(np.float32)
        each = (1.0 / counts)[group]
        return cls(values, apart.astype(np.float32), within / len(counts), np.asarray(each / each.mean(), np.float32))


def _weighted_at(values: Float32s, weights: Float32s, rate: float) -> float:
    """The threshold that a share `rate` of the weight reaches."""
    chosen = weights > 0
    order = np.argsort(-values[chosen])
    reached = np.cumsum(weights[chosen][order], dtype=np.float64)
    place = min(len(order) - 1, int(np.searchsorted(reached, rate * reached[-1])))
    return just_above(values[chosen][order][place])


def _kind_directions(faces: Strangers) -> tuple[list[str], Float32s, Float32s]:
    """Names of the kinds, and the softmax regression (K, D), (K,) that tells them; every group weighs alike.

    Steps under the bound of Boehning (1992, Annals of the Institute of Statistical Mathematics), with a ridge.
    """
    names, owner, counts = np.unique(faces.groups, return_inverse=True, return_counts=True)
    x = np.column_stack([faces.vectors.astype(np.float64), np.ones(len(faces))])
    wanted = np.eye(len(names))[owner]
    weight = (len(faces) / (len(names) * counts))[owner][:, None]
    ridge = np.full(x.shape[1], _KIND_RIDGE)
    ridge[-1] = 1e-6
    bound = np.linalg.inv(0.5 * x.T @ (x * weight) + np.diag(ridge))
    found = np.zeros((len(names), x.shape[1]))
    for _ in range(300):
        products = x @ found.T
        products = np.exp(products - products.max(axis=1, keepdims=True))
        products /= products.sum(axis=1, keepdims=True)
        found += ((weight * (wanted - products)).T @ x - found * ridge) @ bound
    found[:, -1] -= found[:, -1].mean()
    return names.tolist(), np.asarray(found[:, :-1], np.float32), np.asarray(found[:, -1], np.float32)


def _how_alike(shares: Float32s, pairs: _Pairs, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """(K, K) false matches between kinds, in those within a group: a mixed-membership Poisson model by EM.

    A pair's expected false matches are shares_i @ alike @ shares_j (Airoldi et al. 2008, JMLR 9).
    """
    hits = np.zeros_like(pairs.values)
    for threshold, rate in zip(thresholds, _ALIKE_AT, strict=True):
        hits += (pairs.values >= threshold) / np.float32(rate * len(thresholds))
    weighted = shares * pairs.each[:, None]
    trials = weighted.T @ pairs.apart @ weighted
    prior = 0.9 * np.eye(shares.shape[1], dtype=np.float32) + 0.1
    alike = prior
    for _ in range(30):
        expected = shares @ alike @ shares.T
        found = alike * (weighted.T @ (hits / np.maximum(expected, 1e-4)) @ weighted)
        alike = (found + _PRIOR_PAIRS * prior) / (trials + _PRIOR_PAIRS)
        alike = (alike + alike.T) / 2
    return np.asarray(alike, np.float64)


def _as_rows(matrix: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(value), 5) for value in row) for row in matrix)


def cohort_from_folder(faces: Strangers) -> tuple[Cohort | None, NDArray[np.bool_]]:
    """A cohort from half of the people of a folder, and which faces are of the others: (M,) bool.

    Nobody's group is known: clusters stand for kinds, and there is no excess. Fitted to half of LFW's people and held
    against UTKFace, kinds brought the median group's strangers named from 10.8 to 6.8 % for dlib's network and left
    SFace's as they were; an excess fitted likewise made it 13.9 %, and 3.4 instead of 1.7 % for SFace. The cohort is
    None where the half gives too few centres or kinds.
    """
    people = np.random.default_rng(0).permutation(np.unique(faces.people))
    chosen = np.isin(faces.people, people[: len(people) // 2])
    some = faces.at(chosen).one_each()
    centres, _ = k_means(some.vectors, len(some) // PEOPLE_PER_CENTRE, PEOPLE_PER_CENTRE)
    kind = k_means(some.vectors, min(KINDS, len(some) // _FEW), _FEW)[1]
    if len(centres) < LEAST_CENTRES or len(np.unique(kind)) < 2:
        return None, ~chosen
    of_kinds = Strangers(some.vectors, some.people, np.array([f"kind {one}" for one in kind]))
    names, directions, offsets = _kind_directions(of_kinds)
    kinds = Kinds(stored_directions(directions), tuple(offsets.tolist()), _as_rows(np.eye(len(names))))
    cosines = _similarities(some.vectors, some.vectors, None)
    same_person = float(np.quantile(cosines[np.triu_indices(len(some), 1)], 0.99))
    nearest = min(NEAREST, len(centres) // 2)
    raw = Cohort(stored_centres(centres), centres.shape[1], nearest, 0.0, 0.0, 0.0, 99.0, None, same_person, len(some))
    pairs = _Pairs.of(Strangers(some.vectors, some.people, np.full(len(some), "all")), raw)
    shares = kinds.shares(some.vectors)
    alike = _how_alike(shares, pairs, [_weighted_at(pairs.values, pairs.within, rate) for rate in _ALIKE_AT])
    # Thresholds from a folder are those of its crowd: to the mean of it everybody counts as one.
    alike /= float((shares @ alike @ shares.T)[pairs.apart > 0].mean())
    return replace(raw, kinds=replace(kinds, alike=_as_rows(alike))), ~chosen


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


def _points(values: Float32s, within: Float32s, rare: Float32s, rare_double: Float32s) -> tuple[OperatingPoint, ...]:
    """Thresholds for strangers of one kind.

    `values` with the weights `within`: pairs within the written groups, which give the thresholds down to a rate that
    rests on 30 or more false matches. Smaller rates and two templates go on from there as the crowd's similarities
    (descending) `rare` and `rare_double` do: of those each person is known, where a few pairs within groups may be one
    person whom nobody noticed. Their tails are parabolas in the logarithm, as far as pairs reach.
    """
    pairs = int((within > 0).sum()) // 2
    measured = max(1e-4, 30 / max(1, pairs))
    anchor = _weighted_at(values, within, measured)
    tail, tail_double = _tail(rare), _tail(rare_double)
    crowd_rate = _rate(tail, anchor) / measured
    singles: list[OperatingPoint] = []
    doubles: list[OperatingPoint] = []
    for fmr in FMRS:
        if fmr >= measured * 0.999:
            single = _weighted_at(values, within, fmr)
        elif fmr * crowd_rate * len(rare) >= _RESTS_ON:
            single = _where_rate(tail, fmr * crowd_rate)
        else:
            break
        # A parabola fits the tail alone: far from it two templates are held to cost what they do where it begins.
        likewise = min(_TAIL_FROM, _rate(tail, single))
        double = single + _where_rate(tail_double, likewise) - _where_rate(tail, likewise)
        single = max([single, *(point.threshold for point in singles)])
        double = max([double, *(point.threshold for point in doubles)])
        singles.append(OperatingPoint(fmr, single, pairs + len(rare), 1, True))
        doubles.append(OperatingPoint(fmr, double, pairs + len(rare_double), 2, True))
    return (*singles, *doubles)


def _tail(descending: Float32s) -> NDArray[np.float64]:
    """The parabola (3,) of log rate over similarity, fitted from `_TAIL_FROM` to the rate of five pairs."""
    rates = np.geomspace(_TAIL_FROM, max(5.0 / len(descending), 1e-7), 30)
    at = descending[np.minimum(len(descending) - 1, (rates * len(descending)).astype(np.int64))].astype(np.float64)
    parabola = np.polyfit(at, np.log(rates), 2)
    if parabola[0] >= -1e-6:  # not concave: a straight line
        parabola = np.array([-1e-6, *np.polyfit(at, np.log(rates), 1)])
    return np.asarray(parabola, np.float64)


def _rate(tail: NDArray[np.float64], similarity: float) -> float:
    return math.exp(min(0.0, float(np.polyval(tail, similarity))))


def _where_rate(tail: NDArray[np.float64], rate: float) -> float:
    """The similarity at which the falling side of the parabola has a rate; its top where the rate is above it."""
    a, b, c = tail
    return float((-b - math.sqrt(max(0.0, b * b - 4 * a * (c - math.log(rate))))) / (2 * a))
