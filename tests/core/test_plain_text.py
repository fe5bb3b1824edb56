"""What comes from outside is shown without steering the terminal, and stays readable."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_app.core.errors import EdgeError
from edge_app.core.plain_text import json_line, plain

UNSAFE = {"Cc", "Cs", "Zl", "Zp", "Cn", "Co"}


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("party.jpg", "party.jpg"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("two\nlines\tand\rmore", r"two\nlines\tand\rmore"),
        ("caf\udce9.mp4", r"caf\xe9.mp4"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("می‌خواهم", "می‌خواهم"),  # zero-width non-joiner between letters
        ("\u200cx\u200d", r"\u200cx\u200d"),
        ("a\u200d\u200db", r"a\u200d\u200db"),
        ("👩‍👧 李小龍 Zoë", "👩‍👧 李小龍 Zoë"),
        ("wide\u3000space", "wide\u3000space"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_names_stay_and_controls_become_visible(found, shown):
    assert plain(found) == shown
    assert plain(shown) == shown


@given(st.text(alphabet=st.characters(), max_size=40), st.none() | st.integers(3, 30))
def test_nothing_that_steers_is_left_and_no_line_breaks(text, longest):
    shown = plain(text, longest=longest)
    assert not {unicodedata.category(one) for one in shown} & UNSAFE
    assert not {one for one in shown if unicodedata.category(one) == "Cf"} - {"\u200c", "\u200d"}
    assert len(shown.splitlines()) <= 1 and (longest is None or len(shown) <= longest)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_json_says_the_same_without_controls(text):
    line = json_line({"name": text})
    assert json.loads(line) == {"name": text}
    assert not {unicodedata.category(one) for one in line} & (UNSAFE | {"Cf"})
    assert json.loads(json_line({"name": text}, ascii_only=True)) == {"name": text}


def test_json_of_a_name_that_is_not_utf8_is_json():
    assert json.loads(json_line(["caf\udce9", "\x9b\u202e"])) == ["caf\udce9", "\x9b\u202e"]
    with pytest.raises(ValueError, match="not JSON"):
        json_line(float("nan"))


def test_an_error_is_one_line_that_steers_nothing():
    error = EdgeError("'\x1b[2Jx\n.jpg' is gone", expected="a\tfile", remedy="\u202elook")
    assert str(error) == r"'\x1b[2Jx .jpg' is gone; expected a file; \u202elook"
