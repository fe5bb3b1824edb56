"""What few-shot enrollment makes of an embedder: n-shot accuracy, and galleries that meet strangers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.intervals import Estimate, bootstrap, bootstrap_gain, weighted_share
from edge_app.accuracy.pair_scores import Ints, excess_of, just_above, label_numbers, mean_templates, shares_of
from edge_app.core.cohort import Cohort
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.types import Float32s
from edge_app.gallery.matching import Company

NO_RUNNER_UP = 2.0
"""Margin where only one identity is known, as in `edge_app.core.types.Match`."""

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The nearest identity of each probe."""

    best: Ints
    """(P,) position of the nearest gallery row."""
    similarity: Float32s
    """(P,) similarity to it: cosine, less what a cohort takes off."""
    margin: Float32s
    """(P,) similarity less the runner-up's; 2 where the gallery has one row."""
    shares: Float32s | None = None
    """(P, K) how much of each kind the probes are; None without kinds."""


def identify(gallery: Float32s, probes: Float32s, cohort: Cohort | None = None) -> Ranked:
    """Return the nearest of (G, D) gallery rows, G >= 1, for each of (P, D) probes."""
    similarities = probes @ gallery.T
    similarities -= excess_of(cohort, probes)[:, None] + excess_of(cohort, gallery)[None, :]
    best = similarities.argmax(axis=1) if len(probes) else np.empty(0, np.int64)
    top = similarities[np.arange(len(probes)), best]
    shares = shares_of(cohort, probes)
    if len(gallery) == 1:
        return Ranked(best, top, np.full(len(probes), NO_RUNNER_UP, np.float32), shares)
    return Ranked(best, top, top - np.partition(similarities, -2, axis=1)[:, -2], shares)


# --- few shots, closed set -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class NShot:
    """How often a picture is given its identity's name after so many pictures of each."""

    shots: int
    """Pictures averaged into each identity."""
    accuracy: Estimate
    """Its interval is the bootstrap's over identities."""
    hits: Counts
    """(I,) probes named right, of each identity that took part, over all episodes."""
    probes: Counts
    """(I,) probes tried, of the same identities."""


def n_shot(
    embeddings: Float32s,
    labels: Sequence[Any] | NDArray[Any],
    shots: Sequence[int] = (1, 2, 5),
    *,
    episodes: int = 20,
    seed: int = 0,
) -> tuple[NShot, ...]:
    """Return accuracy of the nearest mean of 1, 2 or 5 pictures (Snell 2017), over random choices of the pictures.

    Every identity with more than `shots` pictures takes part; all its other pictures are probes. The
    choices depend on the labels and the seed alone, so two models see the same episodes.
    """
    numbers = label_numbers(labels, len(embeddings))
    return tuple(_n_shot(embeddings, numbers, count, np.random.default_rng((seed, count)), episodes) for count in shots)


def n_shot_gain(before: NShot, after: NShot, *, seed: int = 0) -> Estimate:
    """Return how much n-shot accuracy rose between two models on the same episodes (paired bootstrap)."""
    if before.shots != after.shots or not np.array_equal(before.probes, after.probes):
        raise ModelError("the two models were judged on different episodes", expected="the same episodes, paired")
    return bootstrap_gain(
        weighted_share(before.hits, before.probes),
        weighted_share(after.hits, after.probes),
        len(before.probes),
        seed=seed,
    )


def _n_shot(embeddings: Float32s, numbers: Ints, shots: int, rng: np.random.Generator, episodes: int) -> NShot:
    if shots < 1:
        raise UsageError(f"found {shots} shots", expected="at least one")
    members = [group for group in _groups(numbers) if len(group) > shots]
    hits, probes = np.zeros(len(members)), np.zeros(len(members))
    for _ in range(episodes if members else 0):
        mixed = [rng.permutation(group) for group in members]
        enrolled = np.concatenate([group[:shots] for group in mixed])
        means, _owners = mean_templates(embeddings[enrolled], np.repeat(np.arange(len(members)), shots), shots)
        tried = np.concatenate([group[shots:] for group in mixed])
        truth = np.repeat(np.arange(len(members)), [len(group) - shots for group in mixed])
        right = identify(means, embeddings[tried]).best == truth
        hits += np.bincount(truth[right], minlength=len(members))
        probes += np.bincount(truth, minlength=len(members))
    return NShot(shots, bootstrap(weighted_share(hits, probes), len(members)), hits, probes)


def _groups(numbers: Ints) -> list[Ints]:
    """Positions of each identity's rows, in order of the identity's number."""
    order = np.argsort(numbers, kind="stable")
    return (
        [group for group in np.split(order, np.cumsum(np.bincount(numbers))[:-1]) if len(group)] if len(order) else []
    )


# --- galleries that meet strangers -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenSetProtocol:
    """How galleries are drawn."""

    gallery_size: int = 100
    """People enrolled, drawn anew for each seed from those with more pictures than `templates`."""
    templates: int = 2
    """Pictures enrolled of each, averaged; all their other pictures are mates."""
    seeds: tuple[int, ...] = tuple(range(10))
    fpir: float = 0.01
    """False-positive identification rate at which FNIR is read off."""


@dataclass(frozen=True, slots=True)
class Rule:
    """When a probe is given a name: similarity and margin both at or above these."""

    threshold: float
    margin: float = 0.0
    company: Company | None = None
    """Of whose kind the gallery is; None: one threshold for all probes."""


@dataclass(frozen=True, slots=True)
class Realized:
    """What a given rule did to mates and strangers; intervals over identities."""

    fpir: Estimate
    """Share of strangers' pictures that were given a name."""
    fnir: Estimate
    """Share of mates that were not given their own name."""
    misnamed: Estimate
    """Share of mates that were given another's name."""


@dataclass(frozen=True, slots=True)
class OpenSet:
    """Identification in galleries of known people, among strangers."""

    fnir_at_fpir: Estimate
    """Share of mates missed, each gallery at the threshold that names at most `fpir` of the strangers."""
    rank_one: Estimate
    """Share of mates nearest to their own identity, no threshold."""
    threshold: float
    """Mean of those thresholds."""
    realized: Realized | None
    """What the given rule did; None without one."""
    mates: int
    """Probes of enrolled people, over all seeds."""
    strangers: int
    """Pictures of people with one picture; the same in every seed."""


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    """One gallery: mates and strangers ranked against it."""

    people: Ints
    """(G,) identity number of each gallery row."""
    owner: Ints
    """(M,) gallery row that each mate belongs to."""
    mates: Ranked
    strangers: Ranked
    means: Float32s
    """(G, D) unit rows."""


def open_set(
    embeddings: Float32s,
    labels: Sequence[Any] | NDArray[Any],
    protocol: OpenSetProtocol = OpenSetProtocol(),
    rule: Rule | Callable[[Float32s], Rule] | None = None,
    cohort: Cohort | None = None,
) -> OpenSet:
    """Return how well galleries name their people and nobody else, over (N, D) unit rows.

    For each seed: `gallery_size` people enrolled with the mean of `templates` random pictures, their
    other pictures as mates, everybody with a single picture as strangers. `rule` is that of every gallery, or gives
    it for a gallery's (G, D) unit means. Raises ModelError when too few people have enough pictures, or when nobody
    is a stranger.
    """
    numbers = label_numbers(labels, len(embeddings))
    groups = _groups(numbers)
    able = [group for group in groups if len(group) > protocol.templates]
    alone = np.array([group[0] for group in groups if len(group) == 1], dtype=np.int64)
    if not 1 <= protocol.gallery_size <= len(able) or not len(alone) or not protocol.seeds:
        raise ModelError(
            f"{len(able)} people have more than {protocol.templates} pictures and {len(alone)} have one",
            expected=f"at least {max(1, protocol.gallery_size)} to enroll, at least one stranger, and a seed",
        )
    rounds = [_round(embeddings, numbers, able, alone, protocol, seed, cohort) for seed in protocol.seeds]
    thresholds = [_threshold_at(each.strangers.similarity, protocol.fpir) for each in rounds]
    given = None if rule is None else [rule(each.means) if callable(rule) else rule for each in rounds]
    identities = len(groups)
    return OpenSet(
        _missed(rounds, [Rule(threshold) for threshold in thresholds], identities),
        _complement(_missed(rounds, [Rule(-math.inf)] * len(rounds), identities)),
        float(np.mean(thresholds)),
        None if given is None else _realized(rounds, given, identities),
        sum(len(each.owner) for each in rounds),
        len(alone),
    )


def _round(
    embeddings: Float32s,
    numbers: Ints,
    able: list[Ints],
    alone: Ints,
    protocol: OpenSetProtocol,
    seed: int,
    cohort: Cohort | None,
) -> _Round:
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(able[i]) for i in rng.choice(len(able), protocol.gallery_size, replace=False)]
    size, templates = protocol.gallery_size, protocol.templates
    enrolled = np.concatenate([group[:templates] for group in drawn])
    means, _owners = mean_templates(embeddings[enrolled], np.repeat(np.arange(size), templates), templates)
    mates = np.concatenate([group[templates:] for group in drawn])
    owner = np.repeat(np.arange(size), [len(group) - templates for group in drawn])
    people = np.array([numbers[group[0]] for group in drawn])
    ranked, strange = (identify(means, embeddings[probes], cohort) for probes in (mates, alone))
    return _Round(people, owner, ranked, strange, means)


def _threshold_at(similarities: Float32s, rate: float) -> float:
    """The lowest threshold that at most a share `rate` of these reach."""
    allowed = math.floor(rate * len(similarities) + 1e-9)
    return -math.inf if allowed >= len(similarities) else just_above(np.sort(similarities)[::-1][allowed])


def named_by(rule: Rule, ranked: Ranked) -> NDArray[np.bool_]:
    """(P,) whether each probe is given the nearest identity's name."""
    similarity = ranked.similarity
    if rule.company is not None and ranked.shares is not None:
        similarity = similarity - rule.company.surplus(ranked.shares)
    named: NDArray[np.bool_] = (similarity >= rule.threshold) & (ranked.margin >= rule.margin)
    return named


def _missed(rounds: list[_Round], rules: list[Rule], identities: int) -> Estimate:
    """Share of mates not given their own name."""
    wrong = [
        ~named_by(rule, each.mates) | (each.mates.best != each.owner) for each, rule in zip(rounds, rules, strict=True)
    ]
    return _mates_share(rounds, wrong, identities)


def _mates_share(rounds: list[_Round], flagged: list[NDArray[np.bool_]], identities: int) -> Estimate:
    """Share of flagged mates, with the interval over the people who were ever enrolled."""
    people = np.concatenate([each.people[each.owner] for each in rounds])
    trials = np.asarray(np.bincount(people, minlength=identities), dtype=np.float64)
    hits = np.asarray(np.bincount(people, np.concatenate(flagged).astype(np.float64), identities), dtype=np.float64)
    enrolled = trials > 0
    return bootstrap(weighted_share(hits[enrolled], trials[enrolled]), int(enrolled.sum()))


def _realized(rounds: list[_Round], rules: list[Rule], identities: int) -> Realized:
    named = np.stack([named_by(rule, each.strangers) for each, rule in zip(rounds, rules, strict=True)])
    strangers = weighted_share(named.sum(axis=0, dtype=np.float64), np.full(named.shape[1], float(len(rounds))))
    wrong = [
        named_by(rule, each.mates) & (each.mates.best != each.owner) for each, rule in zip(rounds, rules, strict=True)
    ]
    return Realized(
        bootstrap(strangers, named.shape[1]),
        _missed(rounds, rules, identities),
        _mates_share(rounds, wrong, identities),
    )


def _complement(estimate: Estimate) -> Estimate:
    return Estimate(1 - estimate.value, 1 - estimate.high, 1 - estimate.low, estimate.trials)
