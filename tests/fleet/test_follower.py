"""What a door says while it follows the server: each trouble once, and its end."""

from __future__ import annotations

import time

import pytest

from edge_app.core.errors import EdgeError
from edge_app.fleet import follower
from edge_app.fleet.follower import Follower, age, catch_up, lines
from edge_app.fleet.server import Away
from edge_app.fleet.sync import Fleet
from edge_app.gallery.storage import Vault
from tests.fleet.fakes import FakeServer, FakeTransport, connect, shot_of

PATIENCE_S = 120.0


@pytest.fixture
def server(monkeypatch):
    """A server in memory in the place of PostgreSQL; `server.trouble` is raised at the next connection."""
    made = FakeServer()
    made.trouble, made.tries = None, 0

    class Connected(FakeTransport):
        def __init__(self, address, **_):
            super().__init__(made)
            made.tries += 1
            if made.trouble is not None and isinstance(made.trouble, Away):
                raise made.trouble

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def listen(self):
            pass

        def wait(self, seconds):
            time.sleep(0.005)
            if made.trouble is not None:
                raise made.trouble

        def head(self, known):
            if made.trouble is not None:
                raise made.trouble
            return super().head(known)

    monkeypatch.setattr(follower, "Server", Connected)
    monkeypatch.setattr(follower, "POLL_S", 0.01)
    monkeypatch.setattr(follower, "_LONGEST_PAUSE_S", 0.02)
    return made


@pytest.fixture
def vault(home):
    with Vault(home.gallery_path) as opened:
        connect(opened, "front")
        yield opened


def until(true):
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def enroll_elsewhere(server, tmp_path, name, human=0):
    with Vault(tmp_path / "elsewhere" / "gallery.db") as other:
        if other.connection() is None:
            connect(other, "office")
        other.add(name, [shot_of(human, 0)])
        Fleet(other, FakeTransport(server)).sync()


@pytest.mark.parametrize("trouble", [Away("the server is away"), EdgeError("another key")])
@pytest.mark.parametrize("is_alone", [False, True])
def test_a_trouble_is_told_once_with_its_end_and_what_happened_meanwhile_arrives(
    server, vault, home, tmp_path, trouble, is_alone
):
    told = []
    server.trouble = trouble
    with Follower(home.gallery_path, told.append, is_alone=is_alone):
        until(lambda: server.tries > 5)
        assert told == ([] if is_alone else [f"{trouble}; going on alone"])
        server.trouble = None
        enroll_elsewhere(server, tmp_path, "Ada")
        until(lambda: vault.names() == ("Ada",) and "the server is back" in told)
        server.trouble = trouble
        until(lambda: len(told) > (1 if is_alone else 2))
    assert told[-2:] == ["the server is back", f"{trouble}; going on alone"]


def test_an_unexpected_error_is_told_once_without_its_words_and_the_exchange_goes_on(server, vault, home, tmp_path):
    told = []
    server.trouble = KeyError("a row with Ada's vector")

    def tell(line):
        told.append(line)
        raise BrokenPipeError  # nobody reads standard error any more

    with Follower(home.gallery_path, tell):
        until(lambda: server.tries > 5)
        assert told == ["the exchange failed unexpectedly (KeyError); going on alone"]
        server.trouble = None
        enroll_elsewhere(server, tmp_path, "Ada")
        until(lambda: vault.names() == ("Ada",) and "the server is back" in told)


def test_what_is_enrolled_here_meanwhile_is_sent(server, vault, home):
    with Follower(home.gallery_path, lambda _: None):
        until(lambda: server.machines)
        vault.add("Ada", [shot_of(0, 0)])
        until(lambda: vault.unagreed() == ())
    assert len(server.people) == 1


def test_a_gallery_of_one_machine_is_followed_by_nobody(server, home):
    with Vault(home.gallery_path) as vault:
        vault.add("Ada", [shot_of(0, 0)])
        assert catch_up(vault) is None and lines(None) == []
    with Follower(home.gallery_path, pytest.fail):
        time.sleep(0.05)
    assert server.tries == 0


def test_alone_it_says_how_old_the_copy_is(server, vault, monkeypatch):
    assert catch_up(vault).done is not None
    server.trouble = Away("the server is away")
    found = catch_up(vault)
    assert lines(found) == ["the server is away; going on alone with a copy that is less than a minute old"]
    here = follower.load(vault)
    for passed_s, words in (
        (3 * 86_400 + 5, "3 days old"),
        (3_700, "1 hour old"),
        (130, "2 minutes old"),
        (-99, "less"),
    ):
        monkeypatch.setattr(time, "time", lambda passed_s=passed_s: here.contact_s + passed_s)
        assert words in age(here)
