"""The commands about a gallery shared through a server: `gallery connect`, `push`, `pull`, `status`, `serve-schema`."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError, UsageError

if TYPE_CHECKING:
    from edge_app.fleet.connection import Connection
    from edge_app.fleet.server import Server
    from edge_app.fleet.sync import Synced
    from edge_app.gallery.storage import Vault
    from edge_app.system.data_folder import Home

_CONNECT = """\
Every machine keeps its own copy of the gallery, which must be protected, and
goes on alone with it. The server carries sealed records that it cannot read:
their key is made by the first office and carried to the others in a file:
  edge-app gallery connect --write-key fleet.key
  edge-app gallery connect URL --key fleet.key
Delete that file where it is not needed: the gallery keeps the key.
URL is postgresql://USER@HOST[:PORT]/DATABASE. The password is asked for, or
read from PGPASSWORD. Beyond this machine the connection is always encrypted and
the server's certificate checked: by those that the system trusts, or by
?sslrootcert=FILE. docs/fleet.md tells the rest."""
_PUSH = """\
Takes in what changed elsewhere, then sends what was enrolled, changed and
forgotten here. Offices do it by themselves after each such command, and `watch`
does it all the time; this is for after an outage, and for scripts."""
_SCHEMA = """\
The script makes three roles: edge_app_door (reads), edge_app_office (enrolls
and forgets), edge_app_auditor (sees the trail). It needs no superuser and no
extension."""


def commands() -> list[Command]:
    """The commands, for the group `gallery`."""
    json = options.json_flag
    return [
        Command("connect", run_connect, help="share this gallery with other machines through PostgreSQL", more=_CONNECT,
            example="edge-app gallery connect postgresql://office@db.example.org/fleet --machine office",
            params=[
                Argument("url", "URL", "the server", required=False),
                Option("--machine", metavar="NAME", help="what this machine is called (default: its host name)"),
                Option("--key", kind=Path, metavar="FILE", help="the fleet's key, which another machine wrote"),
                Option("--replace", kind=bool, help="take the place of a machine of that name"),
                Option("--write-key", kind=Path, metavar="FILE", help="write the fleet's key for the next machine"),
                Option("--off", kind=bool, help="share it no longer; everybody here stays here"),
                json(),
            ]),
        Command("push", run_push, help="take in what changed elsewhere and send what changed here", more=_PUSH,
            example="edge-app gallery push", params=[json()]),
        Command("pull", run_pull, help="take in what changed elsewhere", example="edge-app gallery pull",
            params=[json()]),
        Command("status", run_status, help="say which machine is how far behind", example="edge-app gallery status",
            params=[json()]),
        Command("serve-schema", run_serve_schema, help="print the SQL that makes the server's tables and roles",
            more=_SCHEMA, example="edge-app gallery serve-schema > fleet.sql", params=[]),
    ]  # fmt: skip


def run_serve_schema(_: Arguments) -> int:
    from edge_app import __version__
    from edge_app.fleet.schema import server_sql

    options.print_exactly(server_sql(__version__), end="")
    return 0


def run_connect(args: Arguments) -> int:
    """Join a fleet, found one, leave it, or write its key."""
    from edge_app.fleet.connection import load, write_key
    from edge_app.gallery.storage import Vault

    home, _ = options.settings(args)
    if (args.url is not None) + args.off + (args.write_key is not None) != 1:
        raise UsageError("connect wants one of URL, --off and --write-key", expected="edge-app gallery connect URL")
    with Vault(home.gallery_path) as vault:
        if args.url is not None:
            return _join(args, home, vault)
        here = load(vault)
        if here is None:
            raise EdgeError("this gallery is not shared", remedy="edge-app gallery connect postgresql://...")
        if args.off:
            vault.set_connection(None)
            told = f"no longer shared through {here.address.shown}; everybody here stays here"
        else:
            write_key(args.write_key, here.key)
            told = f"the fleet's key is in {args.write_key}: whoever has it and the server's data can read everybody"
    if args.json:
        options.print_json({"connected": not args.off, "server": here.address.shown})
    else:
        options.say(told)
    return 0


def _join(args: Arguments, home: Home, vault: Vault) -> int:
    from edge_app.fleet.connection import load, parse_address, read_key
    from edge_app.fleet.server import Server

    if vault.protection() is None:
        raise EdgeError(
            "the gallery is not protected", expected="one that is encrypted", remedy="edge-app gallery protect"
        )
    key = None if args.key is None else read_key(args.key)
    before = load(vault)
    address = parse_address(args.url, _password)
    machine = args.machine or (before.machine if before else socket.gethostname())
    if not machine.isprintable() or not 0 < len(machine.strip()) <= 80:
        raise UsageError("the machine's name is empty, too long or not printable", expected="1 to 80 characters")
    with Server(address) as server:
        connection = _agreed(home, server, before, key, machine.strip())
        taken = [one for one in server.machines() if one.name == connection.machine]
        visits = [one for one in (before.visit, before.visit_tried) if one] if before else []
        if taken and not args.replace and not (before and before.machine == connection.machine):
            raise UsageError(
                f"a machine called {connection.machine!r} reported {taken[0].silent_s:.0f} s ago",
                remedy="choose another --machine, or add --replace where this one takes its place",
            )
        visit = os.urandom(8)
        if not server.report(connection.machine, 0, visits, visit, takes_over=True):
            raise UsageError(
                f"another login owns the name {connection.machine!r}", expected="another --machine, or its login"
            )
        done = _save_and_sync(vault, server, before, connection, visit)
    _tell(args, done, connection)
    return 0


def _password() -> str:
    import getpass
    import sys

    if not sys.stdin.isatty():
        return ""
    return getpass.getpass("password at the server: ")


def _agreed(home: Home, server: Server, before: Connection | None, key: bytes | None, machine: str) -> Connection:
    """What this machine and the server agree on; the first office founds the fleet."""
    from edge_app.fleet.connection import Connection
    from edge_app.fleet.payload import Envelope
    from edge_app.gallery.calibration import thresholds_of
    from edge_app.gallery.sealing import KEY_BYTES
    from edge_app.model_store.catalogue import builds, open_entry
    from edge_app.recognition.gallery_session import same_person_floor

    entry = builds(home, home.settings().embedder)[0]
    card = open_entry(entry, 1).card
    floor = same_person_floor(thresholds_of(home, card, entry.sha256), 0.3)
    size, version = card.embedding_size or 0, card.origin_sha256
    head = server.head(0)
    if head.fleet_id is None:
        if not head.may_write:
            raise EdgeError("no office has connected to this server yet", remedy="connect an office first")
        key = key or os.urandom(KEY_BYTES)
        fleet_id = os.urandom(16)
        if server.found(fleet_id, Envelope(fleet_id, key, card.id, size).key_check, card.id, version, size):
            return Connection(server.address, machine, fleet_id, key, card.id, version, size, floor)
        head = server.head(0)  # another office was first
        key = None
    assert head.fleet_id is not None
    same = before is not None and before.fleet_id == head.fleet_id
    key = key or (before.key if before is not None and same else None)
    if key is None:
        raise UsageError(
            "this server has a fleet already, and its key is not here",
            expected="--key FILE",
            remedy="on a machine that is connected: edge-app gallery connect --write-key FILE",
        )
    if (head.model_id, head.model_version, head.dimensions) != (card.id, version, size):
        raise EdgeError(
            f"the fleet's templates are of {head.model_id} (version {(head.model_version or '')[:8]})",
            expected=f"{card.id} (version {version[:8]}), which this machine uses",
            remedy=f"edge-app models use {head.model_id}, or install the same version of it",
        )
    if Envelope(head.fleet_id, key, card.id, size).key_check != head.key_check:
        raise EdgeError("this is not the key of that fleet", remedy="nothing was changed; write it anew on a machine "
            "that is connected: edge-app gallery connect --write-key FILE")  # fmt: skip
    return Connection(server.address, machine, head.fleet_id, key, card.id, version, size, floor)


def _save_and_sync(
    vault: Vault, server: Server, before: Connection | None, connection: Connection, visit: bytes
) -> Synced:
    from edge_app.fleet.connection import changed, save
    from edge_app.fleet.sync import Fleet

    with vault.transaction():
        if before is not None and before.fleet_id != connection.fleet_id:
            vault.set_connection(None)  # what was agreed with another fleet means nothing to this one
            before = None
        past = {} if before is None else {"cursor": before.cursor, "stamp": before.stamp}
        save(vault, changed(connection, visit=visit, **past))
    return Fleet(vault, server).sync()


def run_push(args: Arguments) -> int:
    return _exchange(args, push=True)


def run_pull(args: Arguments) -> int:
    return _exchange(args, push=False)


def _exchange(args: Arguments, *, push: bool) -> int:
    """1 when something could not be taken in, or may not be sent."""
    from edge_app.fleet.server import Server
    from edge_app.fleet.sync import Fleet

    with _connected(args) as (vault, here), Server(here.address) as server:
        done = Fleet(vault, server).sync(push=push)
    _tell(args, done, here)
    return 1 if done.problems or (push and done.waiting) else 0


class _connected:
    """The gallery and its connection."""

    def __init__(self, args: Arguments) -> None:
        from edge_app.gallery.storage import Vault
        from edge_app.system.data_folder import Home

        self._vault = Vault(Home.locate(args.home).gallery_path)

    def __enter__(self) -> tuple[Vault, Connection]:
        from edge_app.fleet.connection import load

        here = load(self._vault)
        if here is None:
            raise EdgeError("this gallery is not shared", remedy="edge-app gallery connect postgresql://...")
        return self._vault, here

    def __exit__(self, *_: object) -> None:
        self._vault.close()


def _tell(args: Arguments, done: Synced, here: Connection) -> None:
    from edge_app.fleet.follower import CaughtUp, lines

    if args.json:
        options.print_json({
            "server": here.address.shown, "machine": here.machine, "taken": done.taken, "sent": done.sent,
            "waiting": done.waiting, "told": done.told, "problems": done.problems, "copied": done.is_copied,
        })  # fmt: skip
        return
    options.say(f"{here.machine} at {here.address.shown}: {done.taken} taken in, {done.sent} sent")
    for line in lines(CaughtUp(done)):
        options.warn(line)


def run_status(args: Arguments) -> int:
    """Print every machine that this login may see; 1 when the server is not to be had."""
    from edge_app.fleet.follower import age
    from edge_app.fleet.server import Away, Server
    from edge_app.fleet.sync import Fleet

    with _connected(args) as (vault, here):
        waiting = len(vault.unagreed())
        plain: dict[str, Any] = {"server": here.address.shown, "machine": here.machine, "revision": here.cursor,
            "waiting": waiting}  # fmt: skip
        try:
            with Server(here.address) as server:
                head = Fleet(vault, server).head()
                machines = server.machines()
        except Away as error:
            if args.json:
                options.print_json({**plain, "reachable": False, "reason": str(error), "machines": []})
            else:
                options.say(f"{here.machine} goes on alone with {age(here)}; to be sent: {counted(waiting, 'change')}")
                options.warn(str(error))
            return 1
    behind = head.revision - here.cursor
    if args.json:
        listed = [
            {"name": m.name, "login": m.login, "behind": head.revision - m.revision, "silent_s": m.silent_s}
            for m in machines
        ]
        options.print_json(
            {**plain, "reachable": True, "server_revision": head.revision, "behind": behind, "machines": listed}
        )
        return 0
    options.say(f"{here.machine} at {here.address.shown}: {_changes(behind)} to take in, {_changes(waiting)} to send")
    shown = [(m.name, m.login, _changes(head.revision - m.revision), f"{m.silent_s:.0f} s ago") for m in machines]
    options.show(options.table("", ("machine", "login", "behind", "last heard of"), shown))
    return 0


def _changes(count: int) -> str:
    return counted(count, "change")
