"""Error rates of liveness checks, and `evaluate --liveness`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_app.accuracy.attacks import Case, rates_of, what_is_proven
from edge_app.accuracy.intervals import clopper_pearson, over_repeats
from edge_app.cli import main
from edge_app.live.challenge_record import FILE
from edge_app.media import sample


@pytest.mark.parametrize(("successes", "trials", "low", "high"), [
    (0, 20, 0.0, 0.168433), (1, 20, 0.001265, 0.248733), (10, 20, 0.271957, 0.728043), (20, 20, 0.831567, 1.0),
    (3, 1000, 0.000619, 0.008742),
])  # fmt: skip
def test_exact_intervals_are_those_of_the_tables(successes, trials, low, high):
    """Values of R's binom.test."""
    found = clopper_pearson(successes, trials)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-5)


def test_intervals_of_nothing_and_of_nonsense():
    assert (clopper_pearson(0, 0).low, clopper_pearson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="expected 0 <= successes"):
        clopper_pearson(3, 2)


@pytest.mark.parametrize(("count", "point"), [(2, 12.7062), (3, 4.3027), (4, 3.1824), (10, 2.2622), (31, 2.0423)])
def test_student_s_interval_is_that_of_the_tables(count, point):
    differences = np.arange(count, dtype=np.float64)
    found = over_repeats(differences)
    assert found.high - found.value == pytest.approx(point * differences.std(ddof=1) / count**0.5, rel=2e-5)


def cases(species: str, group: str = "", **answers: int) -> list[Case]:
    return [
        Case(species, f"{answer}{n}", answer.replace("_", " "), group=group)  # type: ignore[arg-type]
        for answer, count in answers.items()
        for n in range(count)
    ]


def test_errors_and_silence_are_counted_apart_and_the_worst_attack_comes_first():
    all_cases = cases("print", not_live=18, live=2) + cases("phone", live=5, no_answer=4, not_checked=1)
    all_cases += cases("live", live=16, not_live=3, no_answer=1)
    phone, print_, live = rates_of(all_cases)
    assert [one.species for one in (phone, print_, live)] == ["phone", "print", "live"]
    assert (phone.error.value, phone.non_response.value, phone.cases) == (0.5, 0.5, 10)
    assert (print_.error.value, print_.non_response.value) == (0.1, 0.0)
    assert (live.error.value, live.non_response.value) == (pytest.approx(0.15), 0.05)
    proven = what_is_proven([phone, print_, live])
    assert "phone, passes in no more than 81.3%; of phone with its 10 cases 30.8% may pass" in proven
    assert "Groups" not in proven


def test_groups_have_rates_of_their_own():
    found = rates_of(cases("print", "a", live=1, not_live=1) + cases("print", "b", not_live=4))
    assert {(one.group, one.error.value) for one in found} == {("", 1 / 6), ("a", 0.5), ("b", 0.0)}
    assert "differ by less than 84.2% are not told apart: print of a has 2 cases" in what_is_proven(found)


def test_without_attacks_nothing_is_proven():
    assert "nothing is known" in what_is_proven(rates_of(cases("live", live=3)))


def test_a_folder_without_cases_and_one_that_no_network_can_judge(tmp_path: Path, capsys):
    at = ["--home", str(tmp_path / "home")]
    folder = tmp_path / "cases"
    (folder / "live").mkdir(parents=True)
    assert main(["evaluate", str(folder), "--liveness", *at]) == 1
    assert "holds no cases" in capsys.readouterr().err
    (folder / "live" / "a.jpg").write_bytes(sample.probes()["Barack Obama"][0].read_bytes())
    assert main(["evaluate", str(folder), "--liveness", *at]) == 2
    assert "no liveness network is installed" in capsys.readouterr().err
    assert main(["evaluate", str(folder), "--liveness", "--tilt", *at]) == 2


@pytest.mark.slow
def test_recorded_challenges_are_judged(tmp_path: Path, capsys):
    """A still picture under prompts: an attack, and as a living person one that does not answer."""
    picture = sample.probes()["Barack Obama"][0].read_bytes()
    for species in ("live", "print"):
        place = tmp_path / "cases" / species / "one"
        place.mkdir(parents=True)
        times = [n / 10 for n in range(45)]
        for number in range(len(times)):
            (place / f"{number:04}.jpg").write_bytes(picture)
        prompts = [{"at_s": 1.0, "movement": "left"}, {"at_s": 3.0, "movement": "up"}]
        (place / FILE).write_text(json.dumps({"times_s": times, "prompts": prompts}))
    given = ["evaluate", str(tmp_path / "cases"), "--liveness", "--home", str(tmp_path / "home")]
    (tmp_path / "groups.csv").write_text("picture,group\nlive/one,young\nprint/one,old\n")
    assert main([*given, "--json", "--output", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    rates = {one["species"]: one for one in report["rates"]}
    assert rates["print"]["error"]["value"] == 0.0 and rates["print"]["non_response"]["value"] == 1.0
    assert rates["live"]["error"]["value"] == 0.0 and rates["live"]["non_response"]["value"] == 1.0
    assert (tmp_path / "out" / "liveness.json").is_file()
    assert main([*given, "--groups", str(tmp_path / "groups.csv")]) == 0
    told = capsys.readouterr().out
    assert [line.split()[:3] for line in told.splitlines() if "%" in line][-3:-1] == [
        ["old", "print", "1"], ["young", "live", "1"]
    ]  # fmt: skip
    assert "97.5% are not told apart" in told
