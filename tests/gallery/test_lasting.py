"""What a gallery knows of the other doors it is shared with: lasting numbers, what changed since, what is forgotten."""

from __future__ import annotations

import sqlite3

import pytest

from edge_app.core.errors import GalleryError
from edge_app.gallery import records
from edge_app.gallery.people import KeptShot, Person
from edge_app.gallery.records import Facts
from edge_app.gallery.storage import Vault
from tests.gallery.earlier import as_second_schema
from tests.gallery.test_storage import files_hold, shots

UID = bytes(range(16))


@pytest.fixture
def vault(home):
    with Vault(home.gallery_path, clock=lambda: 5.0) as opened:
        yield opened


def test_a_lasting_number_stays_through_renaming_and_more_shots_and_is_another_after_enrolling_again(vault):
    vault.add("Ada", shots(1))
    first = vault.lasting("Ada")
    vault.rename("Ada", "Eve")
    vault.add("Eve", shots(1, seed=1))
    assert len(first.uid) == 16 and vault.lasting("Eve").uid == first.uid
    assert vault.lasting(first.uid) == vault.lasting("Eve") and vault.lasting("Ada") is None
    vault.forget("Eve")
    vault.add("Eve", shots(1))
    assert vault.lasting("Eve").uid != first.uid and vault.lasting(first.uid).name is None


def test_what_changed_since_it_was_agreed_is_told_in_order_and_a_sighting_changes_nothing(vault):
    for name in ("Ada", "Bob", "Cyd"):
        vault.add(name, shots(2, seed=ord(name[0])))
    uid = {name: vault.lasting(name).uid for name in ("Ada", "Bob", "Cyd")}
    assert vault.unagreed() == (uid["Ada"], uid["Bob"], uid["Cyd"]) and vault.uids() == frozenset(uid.values())
    for name, known in uid.items():
        vault.agree(known, name.encode())
    vault.touch("Ada", 9.0)
    vault.note("login", "Ada")
    vault.note_attempt("Ada", passed=False)
    assert vault.unagreed() == ()
    vault.drop("Cyd", "m", 0)
    vault.rename("Ada", "Eve")
    vault.forget("Bob")
    assert vault.unagreed() == (uid["Cyd"], uid["Ada"], uid["Bob"])
    assert vault.lasting(uid["Ada"]).base == b"Ada" and vault.lasting(uid["Bob"]).base is None
    vault.agree(uid["Bob"], None)
    vault.disagree(uid["Bob"])
    assert uid["Bob"] in vault.unagreed()


def test_a_person_dropped_to_the_last_shot_is_forgotten(vault):
    vault.add("Ada", shots(1))
    uid = vault.lasting("Ada").uid
    vault.drop("Ada", "m")
    assert vault.lasting(uid).name is None and vault.unagreed() == (uid,)


def test_a_number_from_elsewhere_is_kept_and_one_that_was_never_here_is_remembered_as_forgotten(vault):
    person = Person("Ada", Facts(), tuple(KeptShot(shot, None) for shot in shots(1)))
    vault.restore(person, uid=UID)
    assert vault.lasting("Ada").uid == UID
    vault.agree(bytes(16), None)
    assert vault.lasting(bytes(16)).name is None and vault.unagreed() == (UID,)
    with pytest.raises(ValueError):
        vault.agree(UID, None)
    with pytest.raises(ValueError):
        vault.agree(bytes(16), b"somebody")


def test_a_person_can_be_known_by_another_number(vault):
    vault.add("Ada", shots(1))
    before = vault.lasting("Ada").uid
    vault.agree(before, b"base")
    vault.relabel("Ada", UID)
    assert vault.lasting("Ada").uid == UID and vault.lasting(before) is None
    assert vault.lasting(UID).base is None and vault.unagreed() == (UID,)


@pytest.mark.parametrize("protected", [False, True])
def test_what_is_kept_for_other_doors_is_sealed_with_the_rest_and_leaves_no_byte(home, protected):
    with Vault(home.gallery_path) as vault:
        vault.add("Ada", shots(1))
        uid = vault.lasting("Ada").uid
        vault.set_connection(b"a secret of the fleet")
        vault.agree(uid, b"name before: Adelaide")
        if protected:
            vault.protect("file")
        assert vault.connection() == b"a secret of the fleet" and vault.lasting(uid).base == b"name before: Adelaide"
        assert files_hold(home.path, b"secret of the fleet") is not protected
        assert files_hold(home.path, b"Adelaide") is not protected
        vault.verify()
        vault.forget("Ada")
        assert not files_hold(home.path, b"Adelaide")
        vault.set_connection(None)
        assert vault.connection() is None


def test_gone_connection_makes_everybody_unknown_to_others(vault):
    vault.add("Ada", shots(1))
    vault.agree(vault.lasting("Ada").uid, b"base")
    vault.set_connection(None)
    assert vault.unagreed() == (vault.lasting("Ada").uid,) and vault.lasting("Ada").base is None


def test_what_became_of_two_changes_stands_in_the_trail_and_changes_nobody(vault):
    vault.add("Ada", shots(1))
    before = vault.generation()
    vault.note("merge", "Ada", words="forgetting wins over a rename")
    event = vault.events()[-1]
    assert (event.happening, event.name) == ("merge", "Ada") and event.process.endswith("wins over a rename")
    assert vault.generation() == before


def test_a_gallery_of_the_second_schema_gives_everybody_a_number(home):
    with Vault(home.gallery_path) as vault:
        vault.add("Ada", shots(2))
        vault.add("Bob", shots(1, seed=1))
    as_second_schema(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        vault.verify()
        numbers = {vault.lasting(name).uid for name in ("Ada", "Bob")}
        assert vault.uids() == numbers and set(vault.unagreed()) == numbers and len(numbers) == 2
        assert len(vault.identity("Ada").templates) == 2


def test_an_identity_without_its_number_is_noticed(home):
    with Vault(home.gallery_path) as vault:
        vault.add("Ada", shots(1))
    with sqlite3.connect(home.gallery_path) as raw:
        raw.execute("DELETE FROM lasting")
    raw.close()
    with Vault(home.gallery_path) as vault, pytest.raises(GalleryError, match="lasting number"):
        vault.verify()
    assert records.SCHEMA.version >= 3
