"""Turns a gallery into one that version 0.2.0 would have written."""

import sqlite3

from edge_app.gallery.records import SECOND_TABLES
from edge_app.gallery.storage import Vault


def as_second_schema(path):
    """The same people, templates, pictures and trail in the tables of 0.2.0, with its page size."""
    with Vault(path) as vault:
        with vault._file.reading() as db:
            sealer = vault._sealer(db)
        tokens = {}
        for name in vault.names():
            with vault._file.reading() as db:
                uid = vault.lasting(name).uid
                [number] = db.execute("SELECT identity FROM lasting WHERE uid = ?", (uid,)).fetchone()
            tokens[number] = sealer.token(name)
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN")
    people = [(number, tokens[number], *rest) for number, *rest in raw.execute("SELECT id, name, facts FROM identity")]
    shots = raw.execute("SELECT id, identity, model, vector, shot FROM template").fetchall()
    pictures = raw.execute("SELECT template, bytes FROM picture").fetchall()
    used = dict(raw.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    for table in ("picture", "template", "identity", "lasting", "base", "connection", "directory", "packed"):
        raw.execute(f"DROP TABLE {table}")
    for statement in SECOND_TABLES:
        if statement.split()[2] not in {"gallery", "model", "event"}:
            raw.execute(statement)
    for table, rows in (("identity", people), ("template", shots), ("picture", pictures)):
        for row in rows:
            raw.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    for table in ("identity", "template"):
        raw.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        raw.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, used[table]))
    raw.execute("PRAGMA user_version = 2")
    raw.execute("COMMIT")
    raw.execute("PRAGMA page_size = 4096")
    raw.execute("VACUUM")
    raw.close()
