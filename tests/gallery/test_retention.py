"""People and pictures go when their time is over, and nothing of them stays."""

from __future__ import annotations

import pytest

from edge_app.core.errors import GalleryError, UsageError
from edge_app.gallery.retention import (
    DAY_S,
    Gone,
    Retention,
    apply_retention,
    keep_retention,
    kept_retention,
    parse_age,
)
from edge_app.gallery.storage import Vault
from tests.gallery.test_storage import files_hold, shots

NOW_S = 1000.0 + 400 * DAY_S  # the first shot of `shots` is of 1000.0


@pytest.fixture
def vault(home):
    with (made := Vault(home.gallery_path, clock=lambda: NOW_S)):
        made.add("Old", shots(1), (b"picture of Old",))
        made.add("Seen", shots(2, seed=1), (b"picture of Seen", None))
        made.touch("Seen", NOW_S - DAY_S)
        made.add("Passer-by", shots(1, seed=2), ignored=True)
        made.touch("Passer-by", NOW_S - 8 * DAY_S)
        yield made


def test_nothing_goes_where_nothing_is_set(vault):
    assert kept_retention(vault) == Retention() and apply_retention(vault, NOW_S) == Gone()
    assert len(vault.names()) == 3


def test_whoever_was_not_seen_for_too_long_goes_and_it_is_told(vault, home):
    keep_retention(vault, Retention(unknown_s=7 * DAY_S, last_seen_s=365 * DAY_S))
    assert apply_retention(vault, NOW_S) == Gone(("Old",), ("Passer-by",), 0)
    assert vault.names() == ("Seen",)
    assert not files_hold(home.path, b"picture of Old") and not files_hold(home.path, b"Passer-by")
    assert [e.happening for e in vault.events()][-2:] == ["retention", "retention"]
    assert apply_retention(vault, NOW_S) == Gone()
    vault.verify()


def test_pictures_go_and_their_templates_stay(vault, home):
    keep_retention(vault, Retention(pictures_s=30 * DAY_S))
    assert apply_retention(vault, NOW_S) == Gone((), (), 2)
    assert vault.pictures("Seen") == (None, None) and len(vault.names()) == 3
    assert not files_hold(home.path, b"picture of")
    vault.verify()


def test_a_day_less_and_nobody_goes(vault):
    keep_retention(vault, Retention(unknown_s=9 * DAY_S, last_seen_s=401 * DAY_S))
    assert apply_retention(vault, NOW_S) == Gone()
    keep_retention(vault, Retention())
    assert vault.retention() is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("7d", 7 * DAY_S), ("4w", 28 * DAY_S), ("1y", 365 * DAY_S)]
)
def test_ages_are_read(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "7 d", "1e9d", "999999d", "7m"])
def test_other_texts_are_no_ages(text):
    with pytest.raises(UsageError, match="no age"):
        parse_age(text)


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"unknown_s": -1, "last_seen_s": null, "pictures_s": null}'])
def test_a_damaged_setting_is_one_line_and_deletes_nothing(vault, record):
    vault.set_retention(record)
    with pytest.raises(GalleryError, match="cannot be read"):
        apply_retention(vault, NOW_S)
    assert len(vault.names()) == 3
