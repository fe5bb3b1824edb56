"""A cohort fitted to planted kinds: what was planted comes out, and thresholds mean the same for every kind."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from edge_app.accuracy import cohort_fit, groups
from edge_app.accuracy.cohort_fit import Strangers, find_people, fit, k_means, same_person_limit, together
from edge_app.accuracy.cohort_judge import second_pictures
from edge_app.core.errors import MediaError, UsageError
from edge_app.gallery.calibration import Thresholds

SIZE = 64
SHARED = {"loose": 0.1, "middling": 0.35, "tight": 0.5}
"""How much of a face is its group's: strangers of a group are alike by about its square."""


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def faces(seed, count=250):
    """Strangers of three groups, one face each."""
    rng = np.random.default_rng(seed)
    parts = []
    for place, (group, shared) in enumerate(SHARED.items()):
        rows = unit(shared * np.eye(SIZE)[place] + np.sqrt(1 - shared**2) * unit(rng.normal(size=(count, SIZE))))
        parts.append(Strangers(rows, np.arange(count), np.full(count, group)))
    return together(parts)


def people(seed, count=200, each=3, group="crowd"):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(count), each)
    rows = unit(unit(rng.normal(size=(count, SIZE)))[owner] + 0.5 * unit(rng.normal(size=(len(owner), SIZE))))
    return Strangers(rows, owner, np.full(len(owner), group))


@pytest.fixture(scope="module")
def fitted():
    return fit(together([faces(1), people(2, 100)]), faces(3), people(4))


def test_groups_that_are_more_alike_have_more_excess(fitted):
    fresh = faces(5)
    excess = {group: float(fitted.cohort.excess(fresh.vectors[fresh.groups == group]).mean()) for group in SHARED}
    assert excess["loose"] < 0.02 and excess["tight"] > excess["middling"] + 0.03
    assert (fitted.cohort.excess(people(6).vectors) == 0.0).mean() > 0.7


def test_one_threshold_errs_as_often_in_every_group(fitted):
    fresh = faces(7, 400)
    evened = groups.fmr_by_group(fresh, Thresholds(fitted.points, fitted.cohort), [1e-2])
    rates = {each.group: each.happened.value for each in evened}
    assert all(0.2e-2 < rates[group] < 3e-2 for group in SHARED), rates
    # Without a cohort the same faces differ by a factor of more than thirty.
    plain = [
        (fresh.vectors[fresh.groups == g] @ fresh.vectors[fresh.groups == g].T)[np.triu_indices(400, 1)] for g in SHARED
    ]
    assert (plain[2] > np.quantile(plain[0], 0.99)).mean() > 0.3


def test_groups_are_kinds_whose_strangers_count_for_one_another_alone(fitted):
    kinds, fresh = fitted.cohort.kinds, faces(21, 60)
    shares = kinds.shares(fresh.vectors)
    met = {
        (a, b): float(kinds.peers(shares[fresh.groups == a], shares[fresh.groups == b][:10]).mean())
        for a in SHARED
        for b in SHARED
    }
    for group in ("middling", "tight"):
        assert met[group, group] > 5
        assert all(met[group, other] < 0.3 * met[group, group] for other in SHARED if other != group), met


def test_kinds_are_told_by_directions_that_are_nobodys_face(fitted):
    directions = fitted.cohort.kinds.weights
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    given = together([faces(1), faces(3), people(2, 100), people(4)])
    assert (directions @ given.vectors.T).max() < 0.8


def test_centres_are_nobodys_template(fitted):
    given = together([faces(1), people(2, 100)]).one_each()
    nearest = (fitted.cohort.units @ given.vectors.T).max(axis=1)
    assert nearest.max() < 0.98
    assert fitted.cohort.people == len(given)


def test_clusters_that_are_too_small_are_dissolved():
    rng = np.random.default_rng(0)
    rows = unit(np.repeat(np.eye(8), [50, 50, 50, 2, 2, 2, 2, 2], axis=0) + 0.05 * rng.normal(size=(160, 8)))
    centres, owner = k_means(rows, 8, least=3)
    assert np.bincount(owner, minlength=len(centres)).min() >= 3
    assert len(centres) >= 3
    with pytest.raises(UsageError, match="2 faces"):
        k_means(rows[:2], 4, least=3)


def test_people_are_found_by_their_likeness_and_groups_that_are_all_alike_need_more():
    fresh = faces(8, 60)
    double = together([fresh])
    vectors = np.concatenate([fresh.vectors, unit(fresh.vectors[:5] + 0.1 * fresh.vectors[5:10])])
    labels = np.concatenate([fresh.groups, fresh.groups[:5]])
    numbers, pairs = find_people(vectors, labels)
    assert pairs == 5 and (numbers[-5:] == numbers[:5]).all()
    assert len(np.unique(numbers)) == len(double)
    tight = fresh.vectors[fresh.groups == "tight"]
    assert same_person_limit(tight) > 0.6 > 0.55 > same_person_limit(fresh.vectors[fresh.groups == "loose"])


def test_points_fall_as_rates_do_and_say_what_they_rest_on(fitted):
    for templates in (1, 2):
        points = [point for point in fitted.points if point.templates == templates]
        assert len(points) >= 5 and all(point.evened for point in points)
        thresholds = [point.threshold for point in sorted(points, key=lambda point: -point.fmr)]
        assert thresholds == sorted(thresholds)


def test_a_group_of_look_alikes_carries_no_threshold():
    rng = np.random.default_rng(9)
    rows = unit(0.9 * np.eye(SIZE)[10] + 0.45 * unit(rng.normal(size=(150, SIZE))))
    toddlers = Strangers(rows, np.arange(150), np.full(150, "toddlers"))
    made = fit(together([faces(1), toddlers, people(2, 100)]), together([faces(3), toddlers]), people(4))
    assert "toddlers" in made.left_out and "loose" not in made.left_out
    assert float(np.median(made.cohort.excess(rows))) > made.cohort.doubtful_from


def test_a_gallery_of_any_group_names_no_more_strangers_than_asked(fitted):
    rows = groups.fpir_by_group(
        faces(11, 150), Thresholds(fitted.points, fitted.cohort), (20,), (0.05,), named=True, galleries=10
    )
    happened = {each.group: each.happened.value for each in rows}
    assert set(happened) == {*SHARED, groups.EVERYBODY}
    # Twice what was asked, and what twenty galleries of 20 leave to chance.
    assert all(happened[group] < 0.12 for group in happened), happened


def test_a_second_picture_and_one_person_twice():
    rng = np.random.default_rng(12)
    one = faces(13, 80)
    again = unit(one.vectors + 0.3 * unit(rng.normal(size=one.vectors.shape)))
    thresholds = Thresholds(fit(faces(1), faces(3), people(4)).points, fit(faces(1), faces(3), people(4)).cohort)
    rows = groups.fpir_by_group(one, thresholds, (20,), (0.05,), second=again, named=True, galleries=5)
    assert {each.templates for each in rows} == {2}
    twin = Strangers(
        np.concatenate([one.vectors, one.vectors[:1]]), np.arange(241), np.append(one.groups, one.groups[0])
    )
    assert groups.fmr_by_group(twin, thresholds, [1e-2])[0].left_out == 1
    assert groups.fmr_by_group(twin, thresholds, [1e-2], named=True)[0].left_out == 0


def test_a_second_picture_that_is_made_up_is_a_picture_like_the_first():
    """As far from the first as the crowd's second pictures, and as like the others of its group as the first is."""
    one, crowd = faces(16), people(17, 300, 2)
    again = second_pictures(one, crowd)
    assert np.linalg.norm(again, axis=1) == pytest.approx(1.0, abs=1e-5)
    real = (crowd.vectors[0::2] * crowd.vectors[1::2]).sum(axis=1)
    made = (one.vectors * again).sum(axis=1)
    assert np.quantile(made, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(real, [0.1, 0.5, 0.9]), abs=0.02)
    for group in SHARED:
        own, second = one.vectors[one.groups == group], again[one.groups == group]
        others = ~np.eye(len(own), dtype=bool)
        first, other = (own @ own.T)[others], (own @ second.T)[others]
        assert other.mean() == pytest.approx(first.mean(), abs=0.01)
        assert other.std() == pytest.approx(first.std(), rel=0.1)


# --- the file of groups ----------------------------------------------------------------------------


def write(file: Path, rows) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return file


def test_groups_are_read_by_person_or_by_picture(tmp_path):
    pictures = [
        ("Ada", tmp_path / "Ada" / "1.jpg"),
        ("Ada", tmp_path / "Ada" / "2.jpg"),
        ("Bob", tmp_path / "Bob" / "1.jpg"),
    ]
    by_person = write(tmp_path / "a.csv", [("Person", "Group"), ("Ada", "x"), ("Bob", "y")])
    assert groups.groups_of(by_person, pictures, tmp_path).tolist() == ["x", "x", "y"]
    by_picture = write(tmp_path / "b.csv", [("picture", "group"), ("Ada/2.jpg", "x"), ()])
    assert groups.groups_of(by_picture, pictures, tmp_path).tolist() == ["", "x", ""]


def test_strangers_are_the_pictures_that_a_file_names(tmp_path):
    (tmp_path / "x.jpg").touch()
    file = write(tmp_path / "a.csv", [("picture", "group"), ("x.jpg", "g")])
    pictures, named = groups.strangers_in(file, tmp_path)
    assert pictures == [("x.jpg", tmp_path / "x.jpg")] and named.tolist() == ["g"]
    with pytest.raises(MediaError, match=r"y.jpg is not there"):
        groups.strangers_in(write(tmp_path / "b.csv", [("picture", "group"), ("y.jpg", "g")]), tmp_path)
    with pytest.raises(MediaError, match="is of persons"):
        groups.strangers_in(write(tmp_path / "c.csv", [("person", "group"), ("x.jpg", "g")]), tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "begins with ''"),
        ([("name", "sort")], "begins with 'name,sort'"),
        ([("person", "group"), ("Ada",)], "b.csv:2 reads 'Ada'"),
        ([("person", "group"), ("Eve", "x")], "b.csv names the person 'Eve'"),
        ([("person", "group"), ("Ada", "x"), ("Ada", "y")], "b.csv:3 puts 'Ada' into 'y'; expected 'x' as before"),
    ],
)
def test_a_file_of_groups_that_fits_nothing_is_one_clear_line(tmp_path, rows, words):
    file = write(tmp_path / "b.csv", rows)
    with pytest.raises(MediaError) as caught:
        groups.groups_of(file, [("Ada", tmp_path / "Ada" / "1.jpg")], tmp_path)
    assert words in str(caught.value)


def test_a_folders_own_cohort_wants_people_enough():
    rows = people(14, 320, 2)
    made, others = cohort_fit.cohort_from_folder(rows)
    assert made is not None
    assert not set(rows.people[others]) & set(rows.people[~others])
    few, _ = cohort_fit.cohort_from_folder(people(14, 60, 2))
    assert few is None


def test_a_folders_clusters_are_kinds_that_count_for_themselves():
    """A folder of two groups: its clusters find them, and somebody of one counts for little to the other."""
    rng = np.random.default_rng(18)
    axes = 0.5 * np.eye(SIZE)[:2]
    owner = np.repeat(np.arange(400), 2)
    own = unit(axes[np.arange(400) % 2] + np.sqrt(0.75) * unit(rng.normal(size=(400, SIZE))))
    rows = unit(own[owner] + 0.4 * unit(rng.normal(size=(800, SIZE))))
    made, aside = cohort_fit.cohort_from_folder(Strangers(rows, owner, np.full(800, "folder")))
    assert made is not None and made.kinds is not None
    assert float(made.excess(rows).max()) == 0.0
    shares, group = made.kinds.shares(rows[aside]), owner[aside] % 2
    toward = [made.kinds.peers(shares, shares[group == one][:50]) for one in (0, 1)]
    assert all(float(toward[one][group == one].mean()) > 5 * toward[one][group != one].mean() for one in (0, 1))
    mixed = np.concatenate([shares[group == one][:50] for one in (0, 1)])
    assert float(made.kinds.peers(shares, mixed).mean()) == pytest.approx(100, rel=0.35)
