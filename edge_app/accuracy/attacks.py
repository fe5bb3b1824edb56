"""Error rates of a liveness check, one attack species at a time, as ISO/IEC 30107-3 defines them.

Numbers of cases are small here, so every rate has its exact interval, and species are never averaged: what counts is
the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from edge_app.accuracy.intervals import Estimate, clopper_pearson

LIVE: Final = "live"
"""The species that is none."""
Answer = Literal["live", "not live", "no answer", "not checked"]


@dataclass(frozen=True, slots=True)
class Case:
    """One presentation, and what the check made of it."""

    species: str
    name: str
    answer: Answer
    reason: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the check made of all presentations of one species."""

    species: str
    cases: int
    error: Estimate
    """APCER: attacks taken for live ones. Of live ones BPCER: those taken for attacks."""
    non_response: Estimate
    """APNRR or BPNRR: presentations of which the check says nothing: not answered, or not checked."""
    group: str = ""
    """Empty for everybody."""


def rates_of(cases: Sequence[Case]) -> list[Rates]:
    """Rates of each attack species, the worst first, then of live ones; then the same for each group of people."""
    found = []
    for group in sorted({case.group for case in cases} | {""}):
        own = [case for case in cases if group in ("", case.group)]
        each = [_rates(species, own, group) for species in sorted({case.species for case in own})]
        attacks = [one for one in each if one.species != LIVE]
        found += sorted(attacks, key=lambda one: (-one.error.value, -one.error.high, one.species))
        found += [one for one in each if one.species == LIVE]
    return found


def _rates(species: str, cases: Sequence[Case], group: str) -> Rates:
    answers = [case.answer for case in cases if case.species == species]
    wrong = sum(answer == ("not live" if species == LIVE else "live") for answer in answers)
    silent = sum(answer in ("no answer", "not checked") for answer in answers)
    return Rates(
        species, len(answers), clopper_pearson(wrong, len(answers)), clopper_pearson(silent, len(answers)), group
    )


def what_is_proven(rates: Sequence[Rates]) -> str:
    """What so few cases can show at all, in one sentence."""
    attacks = [one for one in rates if one.species != LIVE and not one.group]
    if not attacks:
        return "No attack was judged: nothing is known of what passes."
    fewest, worst = min(attacks, key=lambda one: one.cases), attacks[0]
    said = (
        f"What is proven (95 %): the worst attack, {worst.species}, passes in no more than {worst.error.high:.1%}; of "
        f"{fewest.species} with its {fewest.cases} cases {clopper_pearson(0, fewest.cases).high:.1%} may pass even if "
        "none did here."
    )
    grouped = min((one for one in rates if one.group), key=lambda one: one.cases, default=None)
    if grouped is not None:
        open_share = clopper_pearson(0, grouped.cases).high
        said += (
            f" Groups that differ by less than {open_share:.1%} are not told apart: {grouped.species} of "
            f"{grouped.group} has {grouped.cases} cases."
        )
    return said
