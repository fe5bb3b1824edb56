"""How a fleet fares with many people: `python -m tests.fleet.scale sync 10000`, `... vectors 100000`.

`sync`: an office with that many people (two templates each) sends them, an empty door takes them in, then one change
travels. `server`: the same many rows put straight into the server, and what a door that has them asks. `vectors`:
what one search costs in PostgreSQL with pgvector's halfvec, exactly and (without `exact` behind the number) by HNSW
with its recall, and here with numpy and as a door does it.
Made vectors: people are random directions, so that HNSW's recall is a lower bound (faces cluster).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edge_app.core.types import Embedding, Quality, Template
from edge_app.fleet.connection import load, parse_address
from edge_app.fleet.payload import Envelope, Record
from edge_app.fleet.server import Sent, Server
from edge_app.fleet.sync import PAGE, Fleet
from edge_app.gallery.matching import Gallery
from edge_app.gallery.people import KeptShot, Person
from edge_app.gallery.records import Facts
from edge_app.gallery.storage import Vault
from tests.fleet.fakes import FLEET_ID, KEY, MODEL, connect
from tests.fleet.postgres import Postgres

SIZE = 128
QUALITY = Quality(face_px=101.5, sharpness=0.25, brightness=120.0, clipped=0.0, yaw=-0.1, pitch=0.5, roll_deg=2.0,
    score=0.875)  # fmt: skip


def person(number: int, rng: np.random.Generator) -> Person:
    vectors = rng.normal(size=(2, SIZE)).astype(np.float32)
    shots = [KeptShot(Template(Embedding(v, MODEL), QUALITY, f"{number}.jpg", 1.7e9), None) for v in vectors]
    return Person(f"person {number}", Facts(), tuple(shots))


def told(**figures: object) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}), flush=True)


def seconds(act, repeats=1):
    return statistics.median(timed(act)[0] for _ in range(repeats))


def timed(act, *given):
    """How long it took, and what came of it."""
    began = time.perf_counter()
    result = act(*given)
    return time.perf_counter() - began, result


def found_fleet(postgres: Postgres) -> None:
    with Server(parse_address(postgres.url("office"))) as server:
        server.found(FLEET_ID, Envelope(FLEET_ID, KEY, MODEL, SIZE).key_check, MODEL, "v1", SIZE)


def sized(postgres: Postgres) -> int:
    return int(postgres.sql("SELECT pg_total_relation_size('edge_app.person')"))


def opened(folder: Path, postgres: Postgres, login: str) -> Vault:
    vault = Vault(folder / login / "gallery.db")
    connect(vault, login, address=parse_address(postgres.url(login)), dimensions=SIZE)
    vault.protect("file")
    return vault


def exchange(vault: Vault, **more) -> object:
    with Server(load(vault).address, answer_s=300) as server:
        return Fleet(vault, server).sync(**more)


def one_change(office: Vault, door: Vault, name: str, new: str) -> None:
    """How long until a change made at the office is in the door's gallery, and what a quiet second costs the door."""
    with Server(load(office).address) as a, Server(load(door).address) as b:
        sender, taker = Fleet(office, a), Fleet(door, b)
        sender.sync()
        taker.sync()
        b.listen()
        began = time.perf_counter()
        office.rename(name, new)
        renamed = time.perf_counter()
        sender.sync()
        sent = time.perf_counter()
        b.wait(5)
        taker.sync()
        took = time.perf_counter()
        told(rename_s=renamed - began, send_s=sent - renamed, take_s=took - sent)
        office.forget(new)
        sender.sync()
        sent = time.perf_counter()
        taker.sync()
        told(take_a_forgetting_s=time.perf_counter() - sent)
        told(quiet_question_ms=1000 * seconds(taker.is_behind, 50))


def sync(count: int) -> None:
    folder, postgres, rng = Path(tempfile.mkdtemp(prefix="fleet-scale-")), Postgres(), np.random.default_rng(0)
    try:
        found_fleet(postgres)
        office, front = opened(folder, postgres, "office"), opened(folder, postgres, "front")
        began = time.perf_counter()
        for start in range(0, count, 1000):
            with office.transaction():
                for number in range(start, min(start + 1000, count)):
                    office.restore(person(number, rng))
        told(people=count, enrolled_s=time.perf_counter() - began)
        told(sent_s=seconds(lambda: exchange(office)))
        told(taken_s=seconds(lambda: exchange(front)), server_mb=sized(postgres) / 1e6,
            door_mb=front.path.stat().st_size / 1e6)  # fmt: skip
        one_change(office, front, "person 0", "another")
    finally:
        postgres.close()
        shutil.rmtree(folder)


def server(count: int) -> None:
    folder, postgres, rng = Path(tempfile.mkdtemp(prefix="fleet-scale-")), Postgres(), np.random.default_rng(0)
    try:
        found_fleet(postgres)
        envelope = Envelope(FLEET_ID, KEY, MODEL, SIZE)
        sealing = putting = 0.0
        revision = 0
        with Server(parse_address(postgres.url("office")), answer_s=300) as way:
            for start in range(0, count, 2 * PAGE):
                began = time.perf_counter()
                page = []
                for number in range(start, min(start + 2 * PAGE, count)):
                    uid = os.urandom(16)
                    page.append(Sent(uid, False, envelope.seal(uid, Record(1, person(number, rng)))))
                sealed = time.perf_counter()
                revision = way.put(revision, "office", page)
                sealing, putting = sealing + sealed - began, putting + time.perf_counter() - sealed
            told(people=count, made_and_sealed_s=sealing, put_s=putting, server_mb=sized(postgres) / 1e6)
            told(head_ms=1000 * seconds(lambda: way.head(revision), 50),
                page_from_the_middle_ms=1000 * seconds(lambda: way.changes(count // 2, PAGE), 9),
                last_change_ms=1000 * seconds(lambda: way.changes(revision - 1, PAGE), 50),
                one_put_ms=1000 * seconds(lambda: way.put(way.head(0).revision, "office", page[:1]), 20))  # fmt: skip
            front = opened(folder, postgres, "front")
            fleet = Fleet(front, way)
            fleet._connection = load(front)
            limit = min(count, 20_000)
            taken = []
            began = time.perf_counter()
            for start in range(0, limit, PAGE):
                rows = way.changes(start, PAGE)
                with front.transaction():
                    for row in rows:
                        fleet._take(row.uid, envelope.open(row.uid, row.sealed), taken)
            took = time.perf_counter() - began
            told(taken_in=limit, taken_s=took, people_per_s=limit / took)
        where = ["-h", "127.0.0.1", "-p", postgres.port, "-U", "dba", "-d", "fleet", "--schema=edge_app", "-Fc"]
        began = time.perf_counter()
        done = postgres.run("pg_dump", *where, "-f", postgres.folder / "dump",
            env={"PGPASSWORD": "dba", "PATH": "/bin"})  # fmt: skip
        told(dump_s=time.perf_counter() - began, dump_mb=(postgres.folder / "dump").stat().st_size / 1e6,
            stderr=done.stderr[:200])  # fmt: skip
    finally:
        postgres.close()
        shutil.rmtree(folder)


def vectors(count: int) -> None:
    postgres, rng = Postgres(), np.random.default_rng(0)
    try:
        postgres.sql("CREATE EXTENSION vector")
        postgres.sql(f"CREATE TABLE v (id int PRIMARY KEY, e halfvec({SIZE}))")
        rows = rng.normal(size=(count, SIZE)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        # Probes are other shots of people who are there: cosine 0.7.
        wanted = rng.choice(count, 200, replace=False)
        probes = rows[wanted] + rng.normal(size=(200, SIZE)).astype(np.float32) / np.sqrt(SIZE)
        probes = (probes / np.linalg.norm(probes, axis=1, keepdims=True)).astype(np.float32)
        gallery = Gallery(MODEL, tuple(map(str, range(count))), rows, np.arange(count), frozenset())
        own = [timed(gallery.nearest, Embedding(probe, MODEL)) for probe in probes]
        text = lambda v: "[" + ",".join(f"{x:.5f}" for x in v) + "]"  # noqa: E731
        began = time.perf_counter()
        content = "".join(f"{i}\t{text(v)}\n" for i, v in enumerate(rows))
        postgres.run("psql", "-X", "-q", "-h", "127.0.0.1", "-p", postgres.port, "-U", "postgres", "-d", "fleet", "-c",
            "COPY v FROM STDIN", input=content, env={"PGPASSWORD": "root secret", "PATH": "/bin"})  # fmt: skip
        told(vectors=count, load_s=time.perf_counter() - began,
            mb=int(postgres.sql("SELECT pg_total_relation_size('v')")) / 1e6)  # fmt: skip
        from pg8000.native import Connection

        db = Connection("postgres", "127.0.0.1", "fleet", postgres.port, "root secret", ssl_context=False)
        db.run("SET max_parallel_workers_per_gather = 0")

        def nearest(probe, k=10):
            asked = f"SELECT id FROM v ORDER BY e <#> '{text(probe)}'::halfvec LIMIT {k}"
            return [row[0] for row in db.run(asked)]

        nearest(probes[0])
        took, exact = zip(*(timed(nearest, probe) for probe in probes[:50]), strict=True)
        here = [[int(i) for i in np.argsort(-(rows @ probe))[:10]] for probe in probes[:50]]
        local = statistics.median(timed(lambda p: (rows @ p).argmax(), probe)[0] for probe in probes)
        same = sum(a[0] == b[0] for a, b in zip(exact, here, strict=True))
        told(exact_ms=1000 * statistics.median(took), exact_first=f"{same}/50", numpy_here_ms=1000 * local,
            gallery_here_ms=1000 * statistics.median(one[0] for one in own))  # fmt: skip
        if sys.argv[3:] == ["exact"]:
            return
        db.run("SET maintenance_work_mem = '1GB'")
        db.run("SET max_parallel_maintenance_workers = 0")
        told(hnsw_build_s=seconds(lambda: db.run("CREATE INDEX ON v USING hnsw (e halfvec_ip_ops)")),
            with_index_mb=int(postgres.sql("SELECT pg_total_relation_size('v')")) / 1e6)  # fmt: skip
        truth = [int((rows @ probe).argmax()) for probe in probes]
        ten = [{int(i) for i in np.argsort(-(rows @ probe))[:10]} for probe in probes]
        for ef in (40, 100, 200, 400):
            db.run(f"SET hnsw.ef_search = {ef}")
            took, found = zip(*(timed(nearest, probe) for probe in probes), strict=True)
            first = sum(f[:1] == [t] for f, t in zip(found, truth, strict=True))
            overlap = sum(len(set(f) & t) for f, t in zip(found, ten, strict=True)) / 2000
            told(ef=ef, ms=1000 * statistics.median(took), first_found=f"{first}/200", recall_at_10=overlap)
    finally:
        postgres.close()


if __name__ == "__main__":
    {"sync": sync, "server": server, "vectors": vectors}[sys.argv[1]](int(sys.argv[2]))
