"""False matches by group of people: how often strangers of one group are taken for one another, and for somebody in a
gallery of their group.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.cohort_fit import Strangers, same_person_limit
from edge_app.accuracy.intervals import Estimate, bootstrap, weighted_share, wilson
from edge_app.accuracy.pair_scores import excess_of
from edge_app.core.errors import MediaError
from edge_app.core.types import Float32s
from edge_app.gallery.calibration import Thresholds
from edge_app.gallery.matching import MatchRule, likeness_of, rule_for

EVERYBODY: Final = "everybody"
"""Name of the mixed crowd of all groups."""
GALLERIES: Final = 40
"""Galleries drawn of each size."""
LEAST_STRANGERS: Final = 10


@dataclass(frozen=True, slots=True)
class GroupFmr:
    """How often two strangers of a group match at one threshold."""

    group: str
    fmr: float
    """Asked for."""
    happened: Estimate
    """Wilson's interval over the pairs, as if these were independent."""
    pairs: int
    left_out: int
    """Pairs too much alike to be two people."""


@dataclass(frozen=True, slots=True)
class GroupFpir:
    """How often strangers of a group are called somebody in galleries of that group."""

    group: str
    people: int
    """Enrolled."""
    templates: int
    fpir: float
    """Asked for."""
    happened: Estimate
    """Its interval is the bootstrap's over strangers."""
    threshold: float
    """Mean over the galleries."""
    likeness: float
    """Mean over the galleries; see `Gallery.likeness`."""


def groups_of(file: Path, pictures: Sequence[tuple[str, Path]], folder: Path) -> NDArray[np.str_]:
    """The group of each (person, picture), "" where the file names none.

    `file` is CSV with a head `picture,group` (paths relative to `folder`) or `person,group` (names of sub-folders).
    Raises MediaError for another form, a line that fits nothing, or two groups for one.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MediaError(f"{file} cannot be read: {error}", expected="CSV with the head person,group") from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if head not in (["picture", "group"], ["person", "group"]):
        raise MediaError(f"{file} begins with {','.join(head)!r}", expected="person,group or picture,group")
    by_picture = head[0] == "picture"
    keys = [path.relative_to(folder).as_posix() if by_picture else person for person, path in pictures]
    known, groups = set(keys), dict[str, str]()
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise MediaError(f"{file}:{number} reads {','.join(row)!r}", expected=",".join(head))
        key, group = row[0].strip(), row[1].strip()
        if key not in known:
            raise MediaError(f"{file}:{number}: there is no {head[0]} {key!r}", expected=f"a {head[0]} in {folder}")
        if groups.setdefault(key, group) != group:
            raise MediaError(f"{file}:{number} puts {key!r} into {group!r}", expected=f"{groups[key]!r} as before")
    return np.array([groups.get(key, "") for key in keys], dtype=np.str_)


def fmr_by_group(faces: Strangers, thresholds: Thresholds, fmrs: Iterable[float]) -> list[GroupFmr]:
    """False-match rates between strangers of each group, and of everybody, at the thresholds of one template."""
    single = [point for point in thresholds.points if point.templates == 1]
    made = []
    for group, own in _by_group(faces):
        similarities, strangers, left_out = _pairs(own, thresholds)
        values = similarities[strangers]
        for fmr in fmrs:
            rule = rule_for(single, 1, 0, fmr, 0.0, thresholds.cohort)
            hits = int((values >= rule.threshold).sum())
            made.append(GroupFmr(group, fmr, wilson(hits, len(values)), len(values), left_out))
    return made


def fpir_by_group(
    faces: Strangers,
    thresholds: Thresholds,
    sizes: Iterable[int] = (10, 50, 100),
    fpirs: Iterable[float] = (0.01, 0.001),
    *,
    margin: float = 0.05,
    second: Float32s | None = None,
    galleries: int = GALLERIES,
) -> list[GroupFpir]:
    """Strangers named in galleries of their own group, and in mixed ones of everybody, by the app's own rule.

    Each gallery is drawn anew, everybody else of the group is a stranger; pairs too much alike to be two people count
    as no match. `second` (M, D): another picture of everybody, averaged in when enrolled. Sizes that leave fewer than
    `LEAST_STRANGERS` are passed over.
    """
    made = []
    asked = tuple(fpirs)
    for group, own in _by_group(faces):
        places = np.flatnonzero(np.isin(faces.people, own.people)) if group != EVERYBODY else np.arange(len(faces))
        where = places if group == EVERYBODY else places[faces.groups[places] == group]
        templates = own.vectors
        if second is not None:
            templates = own.vectors + second[where]
            templates = templates / np.linalg.norm(templates, axis=1, keepdims=True)
        similarities, strangers, _ = _pairs(own, thresholds, templates)
        similarities = np.where(strangers, similarities, -4.0)
        excess = excess_of(thresholds.cohort, templates)
        for size in sizes:
            if len(own) < size + LEAST_STRANGERS:
                continue
            hits, trials = np.zeros((len(asked), len(own))), np.zeros(len(own))
            rules: list[list[MatchRule]] = [[] for _ in asked]
            for seed in range(galleries):
                drawn = np.random.default_rng((seed, size)).permutation(len(own))
                enrolled, probes = drawn[:size], drawn[size:]
                block = similarities[np.ix_(probes, enrolled)]
                ordered = (
                    np.partition(block, -2, axis=1)
                    if size > 1
                    else np.pad(block, ((0, 0), (1, 0)), constant_values=-4.0)
                )
                top, lead = ordered[:, -1], ordered[:, -1] - ordered[:, -2]
                cohort = thresholds.cohort
                alike = likeness_of(templates[enrolled], excess[enrolled], cohort) if cohort else 1.0
                trials[probes] += 1
                for number, fpir in enumerate(asked):
                    counts = (size, 0) if second is None else (0, size)
                    rule = rule_for(thresholds.points, *counts, fpir, margin, cohort, alike)
                    hits[number, probes] += (top >= rule.threshold) & (lead >= rule.margin)
                    rules[number].append(rule)
            for number, fpir in enumerate(asked):
                tried = trials > 0
                happened = bootstrap(weighted_share(hits[number][tried], trials[tried]), int(tried.sum()), rounds=300)
                limit = float(np.mean([rule.threshold for rule in rules[number]]))
                alike = float(np.mean([size and rule.likeness for rule in rules[number]]))
                made.append(GroupFpir(group, size, 1 if second is None else 2, fpir, happened, limit, alike))
    return made


def _by_group(faces: Strangers) -> Iterable[tuple[str, Strangers]]:
    for group in np.unique(faces.groups):
        yield str(group), faces.at(faces.groups == group)
    if len(np.unique(faces.groups)) > 1:
        yield EVERYBODY, faces


def _pairs(
    own: Strangers, thresholds: Thresholds, templates: Float32s | None = None
) -> tuple[Float32s, NDArray[np.bool_], int]:
    """Similarities of everybody to every template, which of these pairs are strangers, and how many look like one."""
    columns = own.vectors if templates is None else templates
    cosines = own.vectors @ own.vectors.T
    apart = own.people[:, None] != own.people[None, :]
    limits = {group: same_person_limit(own.vectors[own.groups == group]) for group in np.unique(own.groups)}
    limit = np.array([limits[group] for group in own.groups])
    alike = cosines >= np.maximum(limit[:, None], limit[None, :])
    similarities = own.vectors @ columns.T
    similarities -= excess_of(thresholds.cohort, own.vectors)[:, None]
    similarities -= excess_of(thresholds.cohort, columns)[None, :]
    strangers = apart & ~alike
    if templates is None:
        strangers = np.triu(strangers, 1)
    return similarities, strangers, int(np.triu(alike & apart, 1).sum())
