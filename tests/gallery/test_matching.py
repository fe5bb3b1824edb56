"""Matching and thresholds, with embeddings at known angles."""

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_app.core.cohort import Cohort, Kinds, stored_centres, stored_directions
from edge_app.core.errors import GalleryError, UsageError
from edge_app.core.model_card import OperatingPoint
from edge_app.core.types import Embedding, Identity, Match, Quality, Template
from edge_app.gallery.matching import Gallery, MatchRule, looks_like_nobody_can_tell, rule_for
from edge_app.gallery.scan import Scan
from tests.fakes import points

POINTS = points((1e-2, 0.30), (1e-3, 0.36), (1e-4, 0.42), (1e-5, 0.47), shift=0.01, pairs=1_000_000)


def at(degrees, model="m"):
    angle = math.radians(degrees)
    return Embedding(np.array([math.cos(angle), math.sin(angle)]), model)


def gallery(people, model="m"):
    vectors = [at(d, model).vector for angles in people.values() for d in angles]
    owner = [i for i, angles in enumerate(people.values()) for _ in angles]
    return Gallery(model, tuple(people), np.stack(vectors), np.array(owner))


def rule(threshold, margin=0.0):
    return MatchRule(threshold, margin, 0.01, 0.01, "")


def test_an_empty_gallery_knows_nobody():
    assert Gallery.empty("m").match([at(0)], rule(-1.0)) == [Match(None, -1.0, 2.0)]
    assert Gallery.empty("m").match([], rule(0.5)) == []
    assert Gallery.empty("m").nearest(at(0)) is None


def test_the_mean_of_the_templates_is_compared():
    seen = gallery({"Ada": (0, 40), "Bob": (180, 180)}).match([at(20), at(50)], rule(0.99))
    assert seen[0].name == "Ada" and seen[0].similarity == pytest.approx(1.0)
    assert seen[1].name is None and seen[1].similarity == pytest.approx(math.cos(math.radians(30)))


def test_nobody_is_matched_because_nearest():
    [match] = gallery({"Ada": (0,), "Bob": (90,)}).match([at(-60)], rule(0.51))
    assert match.name is None and match.similarity == pytest.approx(0.5)


def test_two_too_near_to_tell_are_nobody():
    people = gallery({"Ada": (0,), "twin": (4,)})
    [match] = people.match([at(1)], rule(0.5, margin=0.05))
    assert match.name is None and 0 <= match.margin < 0.05
    assert people.match([at(1)], rule(0.5))[0].name == "Ada"


def test_the_only_person_needs_no_margin():
    [match] = gallery({"Ada": (0,)}).match([at(10)], rule(0.5, margin=0.5))
    assert match.name == "Ada" and match.margin == 2.0


def test_the_order_of_templates_does_not_matter():
    vectors = np.stack([at(d).vector for d in (90, 0, 100, 10)])
    people = Gallery("m", ("Ada", "Bob"), vectors, np.array([1, 0, 1, 0]))
    assert [m.name for m in people.match([at(5), at(95)], rule(0.999))] == ["Ada", "Bob"]


def test_spaces_never_mix():
    with pytest.raises(GalleryError, match="other"):
        gallery({"Ada": (0,)}).match([at(0, "other")], rule(0.5))
    with pytest.raises(GalleryError):
        at(0).similarity(at(0, "other"))


def test_neighbours_are_other_people():
    assert gallery({"Ada": (0,), "Bob": (60,), "Eve": (70,)}).neighbours()[1][0] == "Eve"
    assert gallery({"Ada": (0,)}).neighbours() == [None]


def test_templates_that_cancel_out_are_refused():
    with pytest.raises(GalleryError, match="cancel"):
        gallery({"Ada": (0, 180)})


@pytest.mark.parametrize("fpir", [0.3, 0.01, 0.001])
@pytest.mark.parametrize(("single", "averaged"), [(1, 0), (0, 10), (50, 222), (0, 1)])
def test_the_threshold_gives_the_fpir_that_was_asked(fpir, single, averaged):
    """Independence, by hand: 1 - prod(1 - FMR) over the gallery must give back what was asked for."""
    made = rule_for(POINTS, single, averaged, fpir, 0.05)

    def fmr(threshold, templates):
        mine = [p for p in POINTS if p.templates == templates]
        logs = [math.log(p.fmr) for p in mine]
        thresholds = [p.threshold for p in mine]
        if threshold > thresholds[-1]:
            slope = (logs[-1] - logs[-2]) / (thresholds[-1] - thresholds[-2])
            return math.exp(logs[-1] + slope * (threshold - thresholds[-1]))
        if threshold < thresholds[0]:
            slope = (logs[1] - logs[0]) / (thresholds[1] - thresholds[0])
            return math.exp(logs[0] + slope * (threshold - thresholds[0]))
        return math.exp(np.interp(threshold, thresholds, logs))

    happens = 1 - (1 - fmr(made.threshold, 1)) ** single * (1 - fmr(made.threshold, 2)) ** averaged
    assert happens == pytest.approx(fpir, rel=1e-3)


def test_more_people_need_a_higher_threshold():
    thresholds = [rule_for(POINTS, 0, n, 0.01, 0.0).threshold for n in (1, 10, 100, 1000)]
    assert thresholds == sorted(set(thresholds))


def test_beyond_the_measurements_it_says_so():
    assert "extrapolated" in rule_for(POINTS, 0, 100_000, 0.01, 0.0).words
    assert "extrapolated" not in rule_for(POINTS, 0, 10, 0.01, 0.0).words


@pytest.mark.parametrize("fpir", [0.0, 1.0, -1.0, float("nan")])
def test_an_impossible_share_is_refused(fpir):
    with pytest.raises(UsageError, match="fpir"):
        rule_for(POINTS, 1, 0, fpir, 0.0)


def test_a_model_without_operating_points_has_no_threshold():
    with pytest.raises(GalleryError, match="operating points"):
        rule_for((), 1, 0, 0.01, 0.0)
    with pytest.raises(GalleryError, match=r"faces-x has no operating points.*calibrate DIR --model faces-x"):
        Gallery.empty("faces-x").rule((), 0.01, 0.0)


@pytest.mark.parametrize("vector", [np.zeros(3), np.array([np.nan, 1.0]), np.array([np.inf, 1.0]), np.zeros((2, 2))])
def test_what_is_no_direction_is_no_embedding(vector):
    with pytest.raises(ValueError, match="embedding"):
        Embedding(vector, "m")


def test_an_identity_has_one_model():
    quality = Quality(90, 0.3, 120, 0, 0, 0.5, 0, 0.9)
    templates = tuple(Template(at(0, m), quality, "x", 0.0) for m in ("a", "b"))
    with pytest.raises(ValueError, match="one model"):
        Identity("Ada", templates)


def test_a_narrow_space_asks_for_a_lead_in_its_own_scale():
    # The same measurements in a space where everything lies ten times nearer to 1, as in dlib's.
    narrow = tuple(
        OperatingPoint(p.fmr, 1.0 - (1.0 - p.threshold) / 10.0, p.impostor_pairs, p.templates) for p in POINTS
    )
    wide_rule, narrow_rule = (rule_for(points, 0, 100, 0.01, 0.05) for points in (POINTS, narrow))
    assert wide_rule.scale == pytest.approx(0.70 / 0.708, abs=1e-4)
    assert narrow_rule.scale == pytest.approx(wide_rule.scale / 10, abs=1e-5)
    assert narrow_rule.margin == pytest.approx(0.05 * narrow_rule.scale)
    assert (1 - narrow_rule.threshold) == pytest.approx((1 - wide_rule.threshold) / 10, abs=1e-5)


def test_a_rule_knows_what_a_smaller_share_costs():
    """A tenth of the strangers: the threshold of the rule for a tenth; in between as the log of the share."""
    asked, tenth = (rule_for(POINTS, 0, 20, fpir, 0.05) for fpir in (0.01, 0.001))
    assert asked.stricter(1.0) == asked.threshold
    assert asked.stricter(0.1) == pytest.approx(tenth.threshold, abs=1e-6)
    assert asked.threshold < asked.stricter(0.5) < asked.stricter(0.1) < asked.stricter(0.01)
    assert asked.same_person == pytest.approx(0.30, abs=1e-6)


# --- with a cohort ---------------------------------------------------------------------------------


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


EVENED = points((1e-1, 0.2), (1e-2, 0.3), (1e-3, 0.4), (1e-4, 0.5), shift=0.01, pairs=10**6, evened=True)


def cohort(**changes):
    """Centres crowd around the first axis: faces there have an excess, those across from it have none."""
    rng = np.random.default_rng(0)
    dense = unit(np.eye(16)[0] + 0.15 * rng.normal(size=(60, 16)))
    sparse = unit(rng.normal(size=(60, 16)))
    two = Kinds(
        stored_directions(np.outer([20.0, -20.0], np.eye(16)[0]).astype(np.float32)),
        (0.0, 0.0),
        ((1.0, 0.1), (0.1, 1.0)),
    )
    plain = Cohort(stored_centres(np.concatenate([dense, sparse])), 16, 10, 0.4, 0.0, 0.2, 0.15, two, 0.28, 400)
    return replace(plain, **changes)


def crowd(count, towards, spread, seed=1):
    return unit(towards + spread * np.random.default_rng(seed).normal(size=(count, 16)))


def gallery_of(rows, each=1):
    return Gallery(
        "m", [f"p{i}" for i in range(len(rows) // each)], rows, np.repeat(np.arange(len(rows) // each), each)
    )


def test_similarities_are_cosines_less_both_sides_excess():
    rows = crowd(30, np.eye(16)[0], 0.4)
    known, probe, c = gallery_of(rows), Embedding(crowd(1, np.eye(16)[0], 0.2, 5)[0], "m"), cohort()
    rule = known.rule(EVENED, 0.01, 0.0, c)
    expected = rows @ probe.vector - c.excess(rows) - rule.taken_off(probe.vector[None])
    assert c.excess(rows).max() > 0.05 and rule.taken_off(probe.vector[None])[0] != 0
    assert known.match([probe], rule)[0].similarity == pytest.approx(float(expected.max()), abs=1e-5)
    name, similarity = known.nearest(probe, rule=rule)
    assert name == f"p{expected.argmax()}" and similarity == pytest.approx(float(expected.max()), abs=1e-5)
    assert known.similarity_to("p3", probe, rule) == pytest.approx(float(expected[3]), abs=1e-5)
    assert known.similarity_to("p3", probe) == pytest.approx(float(rows[3] @ probe.vector), abs=1e-6)
    assert expected.max() < (rows @ probe.vector).max() - 0.05


def faces_of(kind, count, seed):
    """Faces of one of the two kinds of `cohort`: along the first axis or against it."""
    return crowd(count, (1 - 2 * kind) * np.eye(16)[0], 0.1, seed)


def test_a_household_needs_more_similarity_than_a_mixed_crowd_of_as_many():
    c = cohort(mean_weight=0.0)
    household = gallery_of(faces_of(0, 40, 1))
    mixed = gallery_of(np.concatenate([faces_of(0, 20, 1), faces_of(1, 20, 2)]))
    rules = [each.rule(EVENED, 0.01, 0.05, c) for each in (household, mixed)]
    # 40 of one kind, or 20 with 20 of whom each counts a tenth.
    assert [rule.fmr for rule in rules] == [pytest.approx(1 - 0.99 ** (1 / n), rel=0.01) for n in (40, 22)]
    # Log-linear between a hundredth at 0.3 and a ten thousandth at 0.5.
    for rule in rules:
        assert rule.threshold == pytest.approx(0.3 - 0.1 * math.log10(rule.fmr / 0.01), abs=2e-3)
        assert rule.same_person == 0.28 and rule.company is not None
    assert "who count for about 22 people of one kind" in rules[1].words


def test_each_face_meets_the_threshold_for_those_of_its_own_kind():
    c = cohort(mean_weight=0.0)
    rows = np.concatenate([faces_of(0, 39, 1), faces_of(1, 1, 2)])
    known = gallery_of(rows)
    rule = known.rule(EVENED, 0.01, 0.0, c)
    common, rare = faces_of(0, 1, 8)[0], faces_of(1, 1, 9)[0]
    for face, peers in ((common, 39.1), (rare, 1 + 3.9)):
        needed = 0.3 - 0.1 * math.log10((1 - 0.99 ** (1 / peers)) / 0.01)
        match = known.match([Embedding(face, "m")], rule)[0]
        assert rule.threshold - match.similarity == pytest.approx(needed - float((rows @ face).max()), abs=5e-3)
        assert known.nearest(Embedding(face, "m"), rule=rule)[1] == pytest.approx(match.similarity, abs=1e-6)
    assert known.match([Embedding(common, "m")], rule)[0].margin == pytest.approx(
        float(np.diff(np.sort(rows @ common)[-2:])[0]), abs=1e-5
    )


def test_without_kinds_everybody_counts_and_nobody_is_spared():
    rows = faces_of(0, 30, 1)
    rule = gallery_of(rows).rule(EVENED, 0.01, 0.05, cohort(kinds=None))
    assert rule.company is None and rule.fmr == pytest.approx(1 - 0.99 ** (1 / 30))
    assert gallery_of(rows[:0]).rule(EVENED, 0.01, 0.05, cohort()).company is None


def test_points_and_cohort_of_different_origin_are_refused():
    with pytest.raises(GalleryError, match="without a cohort"):
        rule_for(POINTS, 1, 0, 0.01, 0.0, cohort())
    with pytest.raises(GalleryError, match="with a cohort"):
        rule_for(EVENED, 1, 0, 0.01, 0.0)
    with pytest.raises(GalleryError, match="cohort of m is of 16 numbers a face, the gallery of 2"):
        gallery({"Ada": (0,)}).rule(EVENED, 0.01, 0.0, cohort())


def test_a_face_among_the_densest_centres_is_of_a_kind_nobody_can_tell():
    assert looks_like_nobody_can_tell(Embedding(crowd(1, np.eye(16)[0], 0.05)[0], "m"), cohort())
    assert not looks_like_nobody_can_tell(Embedding(crowd(1, -np.eye(16)[0], 0.05)[0], "m"), cohort())
    assert not looks_like_nobody_can_tell(Embedding(crowd(1, np.eye(16)[0], 0.05)[0], "m"), None)


def test_the_sentence_says_where_the_promise_ends():
    rules = [rule_for(EVENED, people, 0, 0.01, 0.0, cohort()) for people in (50, 500)]
    within, beyond = (rule.words for rule in rules)
    assert not rules[0].unpromised and beyond.endswith(rules[1].unpromised) and "--candidates" in rules[1].unpromised
    assert "enough for about 100 people of one kind" in within and "twins and toddlers nothing" in within
    assert "cannot be promised" in beyond and "1,000,000 pairs" in beyond and "about 100 people" in beyond


def all_compared(people, probe, made):
    """The two most similar and their similarities, every one computed; a second way to what `Gallery` does."""
    similarities = people @ probe
    if made.cohort is not None:
        similarities = similarities - made.cohort.excess(people) - made.taken_off(probe[None])
    first, second = np.argsort(similarities)[::-1][:2]
    return first, similarities[first], similarities[first] - similarities[second]


@pytest.mark.parametrize(
    ("towards", "spread"), [(0.0, 1.0), (3.0, 1.0), (1.0, 0.003)], ids=["anybody", "some evened", "a crowd of twins"]
)
def test_among_many_the_first_two_are_those_of_comparing_all(towards, spread):
    means = crowd(6_000, towards * np.eye(16)[0], spread)
    many = Gallery("m", [f"p{i}" for i in range(6_000)], means, np.arange(6_000))
    probes = unit(means[::100] + np.random.default_rng(5).normal(size=(60, 16)) * 0.1).astype(np.float32)
    for made in (rule(-1.0), many.rule(EVENED, 0.01, 0.0, cohort())):
        lenient = replace(made, threshold=-5.0, margin=0.0)
        found = many.match([Embedding(probe, "m") for probe in probes], lenient)
        wanted = [all_compared(means, Embedding(probe, "m").vector, lenient) for probe in probes]
        if spread == 1.0:  # of twins float32 cannot tell who is first
            assert [match.name for match in found] == [f"p{first}" for first, _, _ in wanted]
        np.testing.assert_allclose([match.similarity for match in found], [one[1] for one in wanted], atol=2e-6)
        np.testing.assert_allclose([match.margin for match in found], [one[2] for one in wanted], atol=2e-6)
    own = Embedding(means[77], "m")
    assert many.nearest(own)[0] == "p77"
    assert many.nearest(own, other_than="p77")[1] == pytest.approx(float(np.sort(means @ own.vector)[-2]), abs=1e-5)


@pytest.mark.parametrize("size", [2, 16, 129, 512])
def test_no_cosine_is_further_off_than_the_scan_says(size):
    rng = np.random.default_rng(size)
    rows = unit(rng.normal(size=(5_000, size)) * rng.uniform(0.1, 3, size)).astype(np.float32)
    rows[17] = np.eye(size)[0]  # all in one number
    for probe in (rows[17], rows[40], -rows[41], unit(rng.normal(size=(1, size)))[0].astype(np.float32)):
        found, error = Scan(rows).cosines(probe)
        assert 0 < np.abs(found - rows.astype(np.float64) @ probe).max() <= error < 0.03
