"""Files that strangers write: bounded before they cost anything, typed, and the wrong field is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

from edge_app.core.documents import DocumentError, check_fields, parse_json, parse_toml, typed
from edge_app.core.errors import UsageError

LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    size_cm: float
    spokes: int = 32


@dataclass(frozen=True, slots=True)
class Bicycle:
    name: str
    front: Wheel
    wheels: tuple[Wheel, ...] = ()
    colour: Literal["red", "green"] = "red"
    gears: tuple[int, int, int] = (1, 2, 3)
    parts: Mapping[str, float] = field(default_factory=dict)
    bell: bool = False
    owner: str | None = None


GOOD = {"name": "a", "front": {"size_cm": 70}, "wheels": [{"size_cm": 66.5, "spokes": 28}], "gears": [1, 2, 9]}


def test_plain_values_become_what_the_annotations_say():
    made = typed(GOOD | {"parts": {"saddle": 1}}, Bicycle)
    assert made == Bicycle("a", Wheel(70.0), (Wheel(66.5, 28),), gears=(1, 2, 9), parts={"saddle": 1.0})
    assert type(made.front.size_cm) is float and type(made.wheels) is tuple


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": 3}, "name: expected str, found int"),
        ({"name": None}, "name: expected str, found null"),
        ({"front": {"size_cm": "70"}}, "front.size_cm: expected float, found str"),
        ({"front": {"size_cm": True}}, "front.size_cm: expected float, found bool"),
        ({"front": {}}, "front.size_cm is missing"),
        ({"front": [1]}, "front: expected object, found array"),
        ({"wheels": [{"size_cm": 1}, {"size_cm": 1, "spokes": 2.5}]}, "wheels[1].spokes: expected int, found float"),
        ({"wheels": [{"size_cm": 1}, {"size_cm": 1, "hub": 2}]}, "wheels[1].'hub' is unknown"),
        ({"gears": [1, 2]}, "gears: expected array of length 3"),
        ({"colour": "blue"}, "colour: invalid enum value 'blue'"),
        ({"parts": {"saddle": "soft"}}, "parts[...]: expected float, found str"),
        ({"bell": 1}, "bell: expected bool, found int"),
        ({"bell\x1b[2J": 1}, "'bell\\x1b[2J' is unknown"),
        ({"front": {"size_cm": 10**400}}, "front.size_cm: number out of range"),
    ],
)
def test_the_wrong_field_is_named_with_its_path(changes, path):
    with pytest.raises(DocumentError) as told:
        typed(GOOD | changes, Bicycle)
    assert path in str(told.value) and str(told.value).isprintable()


def test_fields_of_a_newer_version_pass_where_the_caller_says_so():
    assert typed(GOOD | {"lamp": 1}, Bicycle, known=False).name == "a"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 123456789012345678901234567890}',
        b"9" * 5000,
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b"[" * 100_000,
        b'{"a":' * 20 + b"1" + b"}" * 20,
        b"[" + b"[]," * 300_000 + b"1]",
        b" " * (LIMIT + 1),
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_json_that_is_no_document_is_refused_in_one_line(content):
    with pytest.raises(DocumentError) as told:
        parse_json(content, most_bytes=LIMIT)
    assert "\n" not in str(told.value) and len(str(told.value)) < 600


def test_json_with_a_mark_in_front_and_halves_where_they_are_allowed():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null, "x"]}', most_bytes=LIMIT) == {"a": [1, 2.5, None, "x"]}
    assert parse_json(b'{"a": "caf\\udce9"}', most_bytes=LIMIT, halves=True) == {"a": "caf\udce9"}


@pytest.mark.parametrize(
    "content",
    [
        b"a." * 40_000 + b"a = 1",
        b"[" + b"a." * 40_000 + b"a]",
        b'"="' + b'."="' * 20_000 + b" = 1",
        b"a = " + b"[" * 5000,
        b"a = " + b"{b = " * 5000,
        b"a = " + b"9" * 5000,
        b"a = inf",
        b'a = "' + b'\\"' * 30_000,
        b'a = """' + b"\\" * 60_001,
        b"'" * 65_001,
        b"a = \xff",
        b"a = 1\na = 2",
    ],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_toml_bombs_are_refused_before_they_cost_anything(content):
    tracemalloc.start()
    with pytest.raises(DocumentError):
        parse_toml(content, most_bytes=LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_dots_in_values_and_comments_are_no_keys():
    dots = ".".join("abcdefghijklmnopqrstuvwxyz")
    text = f'a.b = ["{dots}", \'{dots}\']  # {dots} = 1\nc = """{dots} =\n{dots} ="""\nd = [0.1, 0.2]\n'
    assert parse_toml(text.encode(), most_bytes=LIMIT) == {
        "a": {"b": [dots, dots]}, "c": f"{dots} =\n{dots} =", "d": [0.1, 0.2],
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checked:
    share: float
    kind: Literal["a", "b"] = "a"
    sides: tuple[int, ...] = ()

    def __post_init__(self):
        check_fields(self, UsageError)


def test_a_dataclass_holds_its_own_fields_to_their_kinds():
    made = Checked(np.float32(0.5), sides=[1, 2])
    assert made == Checked(0.5, sides=(1, 2)) and type(made.share) is float and type(made.sides) is tuple
    for fields, line in (
        ({"share": "x"}, 'share is "x"; expected float, found str'),
        ({"share": 1, "kind": "c"}, 'kind is "c"; expected one of a, b'),
        ({"share": 1, "sides": (1, 2.5)}, "sides[1] is wrong; expected int, found float"),
    ):
        with pytest.raises(UsageError) as told:
            Checked(**fields)
        assert str(told.value) == line
