"""False matches by group of people: how often strangers of one group are taken for one another, and for somebody in a
gallery of their group.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.accuracy.cohort_fit import Strangers, same_person_limit
from edge_app.accuracy.intervals import Estimate, bootstrap, weighted_share, wilson
from edge_app.accuracy.pair_scores import excess_of, shares_of, unit_rows
from edge_app.core.errors import MediaError
from edge_app.core.types import Float32s
from edge_app.gallery.calibration import Thresholds
from edge_app.gallery.matching import MatchRule, rule_for

EVERYBODY: Final = "everybody"
"""Name of the mixed crowd of all groups."""
GALLERIES: Final = 20
"""Galleries drawn of each size."""
LEAST_STRANGERS: Final = 10
_NEVER: Final = -4.0
"""Below every similarity."""


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
    peers: float
    """For how many people of his own kind the gallery counts to a stranger, on average; see `Company`."""


def groups_of(file: Path, pictures: Sequence[tuple[str, Path]], folder: Path) -> NDArray[np.str_]:
    """The group of each (person, picture), "" where the file names none.

    `file` is CSV with a head `picture,group` (paths relative to `folder`) or `person,group` (names of sub-folders).
    Raises MediaError for another form, a line that fits nothing, or two groups for one.
    """
    head, groups = _read(file)
    keys = [path.relative_to(folder).as_posix() if head == "picture" else person for person, path in pictures]
    known = set(keys)
    strange = next((key for key in groups if key not in known), None)
    if strange is not None:
        raise MediaError(f"{file} names the {head} {strange!r}", expected=f"a {head} in {folder}")
    return np.array([groups.get(key, "") for key in keys], dtype=np.str_)


def strangers_in(file: Path, folder: Path) -> tuple[list[tuple[str, Path]], NDArray[np.str_]]:
    """Every picture that a `picture,group` file names, each of somebody else, and its group.

    Raises MediaError for another form, or a picture that is not there.
    """
    head, groups = _read(file)
    pictures = [(name, folder / name) for name in groups]
    missing = next((path for _, path in pictures if not path.is_file()), None)
    if head != "picture" or missing is not None:
        raise MediaError(
            f"{file} is of {head}s" if head != "picture" else f"{missing} is not there",
            expected="lines of picture,group for pictures in the folder",
        )
    return pictures, np.array(list(groups.values()), dtype=np.str_)


def _read(file: Path) -> tuple[str, dict[str, str]]:
    """Whether the file is of persons or pictures, and the group of each."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MediaError(f"{file} cannot be read: {error}", expected="CSV with the head person,group") from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if head not in (["picture", "group"], ["person", "group"]):
        raise MediaError(f"{file} begins with {','.join(head)!r}", expected="person,group or picture,group")
    groups: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise MediaError(f"{file}:{number} reads {','.join(row)!r}", expected=",".join(head))
        key, group = row[0].strip(), row[1].strip()
        if groups.setdefault(key, group) != group:
            raise MediaError(f"{file}:{number} puts {key!r} into {group!r}", expected=f"{groups[key]!r} as before")
    return head[0], groups


def fmr_by_group(
    faces: Strangers, thresholds: Thresholds, fmrs: Iterable[float], *, named: bool = False
) -> list[GroupFmr]:
    """False-match rates between strangers of each group, and of everybody, at the thresholds of one template.

    `named`: somebody has said who is who; else pairs too much alike to be two people are left out.
    """
    single = [point for point in thresholds.points if point.templates == 1]
    asked = tuple(fmrs)
    made = []
    for group, where in _by_group(faces):
        own = faces.at(where)
        strangers, left_out = _strangers(own, named)
        pairs = np.triu(strangers, 1)
        values = _similarities(own.vectors, own.vectors, thresholds)[pairs]
        shares = shares_of(thresholds.cohort, own.vectors)
        for fmr in asked:
            rule = rule_for(single, 1, 0, fmr, 0.0, thresholds.cohort, None if shares is None else shares[:1])
            limit: Float32s | float = rule.threshold
            if rule.company is not None and shares is not None:
                limit = rule.company.threshold(
                    np.asarray((shares @ rule.company.kinds.rates @ shares.T)[pairs], np.float32)
                )
            hits = int((values >= limit).sum())
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
    named: bool = False,
    galleries: int = GALLERIES,
) -> list[GroupFpir]:
    """Strangers named in galleries of their own group, and in mixed ones of everybody, by the app's own rule.

    `faces` hold one face a person. Each gallery is drawn anew, everybody else of the group is a stranger; where nobody
    is `named`, pairs too much alike to be two people count as no match. `second` (M, D): another picture of everybody,
    averaged in when enrolled. Sizes that leave fewer than `LEAST_STRANGERS` are passed over.
    """
    made = []
    asked, cohort = tuple(fpirs), thresholds.cohort
    for group, where in _by_group(faces):
        own = faces.at(where)
        templates = own.vectors if second is None else unit_rows(own.vectors + second[where])
        similarities = _similarities(own.vectors, templates, thresholds)
        similarities[~_strangers(own, named)[0]] = _NEVER
        shares, probe_shares = shares_of(cohort, templates), shares_of(cohort, own.vectors)
        for size in sizes:
            if len(own) < size + LEAST_STRANGERS:
                continue
            hits, trials = np.zeros((len(asked), len(own))), np.zeros(len(own))
            used: list[list[MatchRule]] = []
            met = [0.0 if shares is not None else float(size)] * len(asked)
            for seed in range(galleries):
                drawn = np.random.default_rng((seed, size)).permutation(len(own))
                enrolled, probes = drawn[:size], drawn[size:]
                block = np.column_stack([similarities[np.ix_(probes, enrolled)], np.full(len(probes), _NEVER)])
                runner_up, top = np.partition(block, -2, axis=1)[:, -2:].T
                theirs = None if shares is None else shares[enrolled]
                counts = (size, 0) if second is None else (0, size)
                rules = [rule_for(thresholds.points, *counts, fpir, margin, cohort, theirs) for fpir in asked]
                used.append(rules)
                trials[probes] += 1
                for number, rule in enumerate(rules):
                    limit = np.full(len(probes), rule.threshold, np.float32)
                    if rule.company is not None and probe_shares is not None:
                        limit += rule.company.surplus(probe_shares[probes])
                        met[number] += float((probe_shares[probes] @ rule.company.towards).mean()) / galleries
                    hits[number, probes] += (top >= limit) & (top - runner_up >= rule.margin)
            tried = trials > 0
            for number, fpir in enumerate(asked):
                share = weighted_share(hits[number][tried], trials[tried])
                happened = bootstrap(share, int(tried.sum()), rounds=300)
                threshold = float(np.mean([rules[number].threshold for rules in used]))
                templates_each = 1 if second is None else 2
                made.append(GroupFpir(group, size, templates_each, fpir, happened, threshold, met[number]))
    return made


def _by_group(faces: Strangers) -> Iterable[tuple[str, NDArray[np.int64]]]:
    groups = np.unique(faces.groups)
    for group in groups:
        yield str(group), np.flatnonzero(faces.groups == group)
    if len(groups) > 1:
        yield EVERYBODY, np.arange(len(faces))


def _similarities(rows: Float32s, columns: Float32s, thresholds: Thresholds) -> Float32s:
    similarities: Float32s = rows @ columns.T
    similarities -= excess_of(thresholds.cohort, rows)[:, None]
    similarities -= excess_of(thresholds.cohort, columns)[None, :]
    return similarities


def _strangers(own: Strangers, named: bool) -> tuple[NDArray[np.bool_], int]:
    """Which of (M, M) pairs are two people, and how many pairs were left out for looking like one."""
    apart: NDArray[np.bool_] = own.people[:, None] != own.people[None, :]
    if named:
        return apart, 0
    limits = {group: same_person_limit(own.vectors[own.groups == group]) for group in np.unique(own.groups)}
    limit = np.array([limits[group] for group in own.groups])
    alike = own.vectors @ own.vectors.T >= np.maximum(limit[:, None], limit[None, :])
    return apart & ~alike, int(np.triu(apart & alike, 1).sum()) + int(np.triu(~apart, 1).sum())
