"""Leave-one-out over the shots of a person whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_app.core.types import Embedding, Identity, Template
from edge_app.gallery.review import review
from tests.gallery.test_storage import QUALITY

NOBODY = np.zeros((0, 2), np.float32)


def at(degrees):
    return np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], np.float32)


def person(*degrees, **changes):
    quality = replace(QUALITY, **changes)
    templates = [Template(Embedding(at(one), "m"), quality, f"{one}.jpg", 1.0) for one in degrees]
    return Identity("Ada", tuple(templates))


def test_the_shot_that_brings_somebody_else_nearer_is_named():
    found = review(person(0, 4, 40), [("Bob", at(80)), ("Eve", at(-100))], at(70)[None], 0.3)
    assert [bool(shot.harm) for shot in found.shots] == [False, False, True]
    assert "brings Bob nearer" in found.shots[2].harm
    worst = found.shots[2]
    assert worst.nearest_other == "Bob" and worst.other_with > worst.other_without
    assert worst.other_without == pytest.approx(math.cos(math.radians(78)), abs=1e-3)
    assert worst.strangers_without == pytest.approx(math.cos(math.radians(68)), abs=1e-3)
    assert worst.strangers_with > worst.strangers_without
    assert worst.agrees == pytest.approx(math.cos(math.radians(38)), abs=1e-3)


def test_a_shot_unlike_the_others_does_harm():
    assert "does not look like the other shots" in review(person(0, 5, 100), [], NOBODY, 0.3).shots[2].harm


def test_the_only_shot_has_nothing_to_be_left_out_of():
    [only] = review(person(0), [("Bob", at(80))], NOBODY, 0.3).shots
    assert (only.agrees, only.other_without, only.strangers_with, only.harm) == (None, None, None, "")
    [alone] = review(person(0), [], NOBODY, 0.3).shots
    assert alone.nearest_other is None


def test_missing_views_and_lights_are_told():
    found = review(person(0, 5, yaw=0.0, brightness=150.0), [], NOBODY, 0.3)
    assert found.light == (150.0, 150.0)
    told = " ".join(found.missing)
    assert "left of the picture" in told and "at night it may fail" in told and "one light (150 to 150" in told
    assert "looks straight" not in told
    quality = [replace(QUALITY, yaw=y, brightness=b) for y, b in ((0.0, 60.0), (-0.4, 120.0), (0.4, 200.0))]
    templates = tuple(Template(Embedding(at(i), "m"), q, "x", 1.0) for i, q in enumerate(quality))
    assert review(Identity("Ada", templates), [], NOBODY, 0.3).missing == ()
    assert review(person(0, face_px=0.0), [], NOBODY, 0.3).light is None
