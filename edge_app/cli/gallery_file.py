"""The commands about the gallery as a file: `gallery check`, `salvage`, `export`, `protect`, `audit`, `retention`."""

from __future__ import annotations

import datetime
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import UsageError

if TYPE_CHECKING:
    from edge_app.gallery.retention import Gone
    from edge_app.gallery.storage import Vault
    from edge_app.system.data_folder import Home

_METHODS = ("keyring", "passphrase", "file", "systemd-creds")
_PROTECT = """\
Templates, names, kept pictures and the audit trail are encrypted with
AES-256-GCM, each record bound to its place. --with says where the key is kept:
  keyring        the system's keyring, which opens when you log in
  passphrase     nowhere: it is asked for, or read from EDGE_APP_PASSPHRASE, or
                 from the file that EDGE_APP_PASSPHRASE_FILE names
  file           a file beside the gallery (mode 0600): protects a copy of the
                 gallery alone, not a stolen disk
  systemd-creds  this machine (its TPM where it has one), for services
Without --with it is the keyring where there is one, else a file. Who loses the
key loses the gallery. Giving another place later moves the key. An old copy of
the file that is put back in its place cannot be told from it."""
_AUDIT = """\
Each line is chained to the one before: one that is removed, changed or cut off
shows. In a gallery that is not protected, somebody who knows how can compute
the chain anew. People are numbers in the trail; the name is the one they have
now, and none after they were forgotten."""
_RETENTION = """\
What is set is done at once, at every later `gallery retention`, and when
`watch` or the terminal app opens the gallery. Ages are 12h, 7d, 4w, 1y; off
switches one off. Whoever was never seen counts from the day of enrollment."""


def commands() -> list[Command]:
    """The commands, for the group `gallery`."""
    json = options.json_flag
    return [
        Command("check", run_check, help="say what is wrong with the gallery's file, and change nothing",
            example="edge-app gallery check", params=[json()]),
        Command("salvage", run_salvage, help="save whole people from a damaged gallery into a new file",
            example="edge-app gallery salvage saved.db",
            params=[Argument("out", "OUT", "a file that is not there yet", kind=Path), json()]),
        Command("export", run_export, help="write everybody into one encrypted file",
            more="The passphrase is asked for, or read as `gallery protect --help` says.",
            example="edge-app gallery export people.edge",
            params=[Argument("file", "FILE", "a file that is not there yet", kind=Path), json()]),
        Command("protect", run_protect, help="encrypt the gallery, or keep its key elsewhere", more=_PROTECT,
            example="edge-app gallery protect --with passphrase",
            params=[
                Option("method", "--with", kind=_METHODS, help="where the key is kept"),
                Option("--off", kind=bool, help="decrypt it again"),
                json(),
            ]),
        Command("audit", run_audit, help="show what was done to the gallery, when and by which program", more=_AUDIT,
            example="edge-app gallery audit", params=[json()]),
        Command("retention", run_retention, help="let old people and pictures go by themselves", more=_RETENTION,
            example="edge-app gallery retention --unknown 7d --last-seen 365d",
            params=[
                Option("--unknown", metavar="AGE", help="known strangers (`gallery ignore`) not seen for so long"),
                Option("--last-seen", metavar="AGE", help="people not seen for so long"),
                Option("--pictures", metavar="AGE", help="kept pictures of that age; their templates stay"),
                Option("--yes", kind=bool, help="do not ask"),
                json(),
            ]),
    ]  # fmt: skip


def run_check(args: Arguments) -> int:
    """Print every fault; 1 when there is any."""
    from edge_app.gallery.salvage import faults

    home, vault = _open(args)
    found = faults(home.gallery_path)
    if args.json:
        options.print_json({"gallery": str(home.gallery_path), "faults": found})
        return 1 if found else 0
    for line in found:
        options.say(line)
    if found:
        options.warn("`edge-app gallery salvage OUT` saves whole people into a new file; the gallery was left as it is")
        return 1
    with vault:
        people = len(vault.names())
        protection = vault.protection()
    how = "not protected" if protection is None else f"protected with {protection.method}"
    options.say(f"{home.gallery_path}: {people} enrolled, every record is sound, {how}")
    return 0


def run_salvage(args: Arguments) -> int:
    """Save whole people; 1 when somebody could not be saved."""
    from edge_app.gallery.salvage import salvage

    home, _ = _open(args)
    if not home.gallery_path.exists():
        raise UsageError(f"there is no gallery in {home.path}")
    found = salvage(home.gallery_path, args.out)
    if args.json:
        options.print_json({"out": str(args.out), "saved": list(found.names), "lost": list(found.lost)})
        return 1 if found.lost else 0
    options.say(f"{len(found.names)} saved into {args.out}: {', '.join(found.names)}")
    for line in found.lost:
        options.say(f"not saved: {line}")
    if found.key_file is not None:
        options.warn(f"the new file opens with the same key: copy {found.key_file} beside it")
    options.say(f"to use it: move {home.gallery_path} away and put {args.out} in its place")
    return 1 if found.lost else 0


def run_export(args: Arguments) -> int:
    from edge_app.gallery.archive import export_gallery
    from edge_app.gallery.keys import passphrase

    _, vault = _open(args)
    with vault:
        vault.unlock()
        count = export_gallery(vault, args.file, passphrase(confirm=True, what="for the exported file"))
    if args.json:
        options.print_json({"file": str(args.file), "people": count})
        return 0
    options.say(f"{count} exported to {args.file}; edge-app gallery import takes it in, with the same passphrase")
    return 0


def run_protect(args: Arguments) -> int:
    """Encrypt or decrypt the gallery."""
    from edge_app.gallery.keys import usable_keyring, worth

    if args.off and args.method:
        raise UsageError("both --with and --off were given", expected="one of them")
    _, vault = _open(args)
    with vault:
        vault.unlock()
        if args.off:
            if vault.connection() is not None:
                raise UsageError(
                    "this gallery is shared with other machines, and holds their key",
                    expected="one that is encrypted",
                    remedy="edge-app gallery connect --off",
                )
            vault.unprotect()
        else:
            vault.protect(args.method or ("keyring" if usable_keyring() else "file"))
        protection = vault.protection()
    if args.json:
        options.print_json({"protected": None if protection is None else protection.method})
        return 0
    if protection is None:
        options.say("the gallery is no longer protected: whoever has the file can read it")
        return 0
    options.say(f"the gallery is protected with {protection.method}")
    options.note(worth(protection.method))
    return 0


def run_audit(args: Arguments) -> int:
    """Print the audit trail. Raises GalleryError when it was changed."""
    _, vault = _open(args)
    with vault:
        events = vault.events()
    if args.json:
        listed = [
            {
                "time_s": one.time_s,
                "happening": one.happening,
                "person": one.person,
                "name": one.name,
                "templates": one.templates,
                "process": one.process,
            }
            for one in events
        ]
        options.print_json({"events": listed})
        return 0
    rows = [
        (_when(one.time_s), one.happening, _who(one.person, one.name), str(one.templates), one.process)
        for one in events
    ]
    options.show(options.table("", ("when", "what", "who", "templates", "program"), rows))
    return 0


def run_retention(args: Arguments) -> int:
    """Set ages, and let go what is older."""
    from edge_app.gallery.retention import (
        Retention,
        apply_retention,
        keep_retention,
        kept_retention,
        overdue,
        parse_age,
    )

    given = {"unknown_s": args.unknown, "last_seen_s": args.last_seen, "pictures_s": args.pictures}
    changed = {name: None if text == "off" else parse_age(text) for name, text in given.items() if text is not None}
    home, vault = _open(args)
    with vault:
        wanted = replace(kept_retention(vault), **changed)
        doomed = overdue(vault, wanted, time.time())
        if (
            doomed != type(doomed)()
            and not args.yes
            and not options.confirmed(f"Now goes {_gone(doomed)}. Delete for good?")
        ):
            options.note("nothing was changed")
            return 1
        if changed:
            keep_retention(vault, wanted)
        gone = apply_retention(vault, time.time())
    options.exchange(home)
    if args.json:
        went = {"people": list(gone.people), "strangers": list(gone.strangers), "pictures": gone.pictures}
        kept = {"unknown_s": wanted.unknown_s, "last_seen_s": wanted.last_seen_s, "pictures_s": wanted.pictures_s}
        options.print_json({"keeps": kept, "gone": went})
        return 0
    if wanted == Retention():
        options.say("everybody is kept until forgotten")
    for what, age_s in (
        ("known strangers", wanted.unknown_s),
        ("people", wanted.last_seen_s),
        ("kept pictures", wanted.pictures_s),
    ):
        if age_s is not None:
            options.say(f"{what} go after {age_s / 86_400:g} days" + ("" if what == "kept pictures" else " unseen"))
    options.say(f"gone: {_gone(gone)}")
    return 0


def _gone(gone: Gone) -> str:
    parts = [", ".join((*gone.people, *gone.strangers))] if gone.people or gone.strangers else []
    if gone.pictures:
        parts.append(counted(gone.pictures, "kept picture"))
    return " and ".join(parts) or "nothing"


def _who(person: int | None, name: str | None) -> str:
    if name is not None:
        return name
    return "" if person is None else f"number {person} (forgotten)"


def _open(args: Arguments) -> tuple[Home, Vault]:
    from edge_app.gallery.storage import Vault
    from edge_app.system.data_folder import Home

    home = Home.locate(args.home)
    return home, Vault(home.gallery_path)


def _when(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M")
