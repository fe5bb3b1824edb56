"""Names of people in any script, and of nothing else."""

import pytest

from edge_app.core.errors import UsageError
from edge_app.core.names import same_but_for_case, valid_name

ZWNJ, ZWJ = "\u200c", "\u200d"


@pytest.mark.parametrize("name", [f"مهدی{ZWNJ}پور", f"علی{ZWNJ}رضا", f"ශ්{ZWJ}රී", f"क्{ZWJ}ष", "Zoë"])
def test_joiners_between_letters_belong_to_a_name(name):
    assert valid_name(name) == name


MISPLACED = [f"Ada{ZWNJ}", f"{ZWJ}Ada", f"A{ZWJ}da", f"A{ZWNJ} da", f"مهدی{ZWNJ} پور", f"مهدی{ZWNJ}{ZWNJ}پور"]


@pytest.mark.parametrize("name", [*MISPLACED, "a\u200bb", "\u202eevil"])
def test_invisible_characters_anywhere_else_do_not(name):
    with pytest.raises(UsageError, match="no control or invisible characters"):
        valid_name(name)


def test_names_that_differ_by_case_only_are_found():
    known = ["Ada", "ΣΊΣΥΦΟΣ", "Straße"]
    found = [same_but_for_case(name, known) for name in ("ADA", "Ada", "σίσυφος", "STRASSE", "Adam")]
    assert found == ["Ada", None, "ΣΊΣΥΦΟΣ", "Straße", None]
