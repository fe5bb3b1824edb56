"""The command `fetch`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError, UsageError

if TYPE_CHECKING:
    from edge_app.library.fetch import Source

_KEY: Final = "EDGE_APP_PEXELS_KEY"
_MORE = f"""\
From pexels (the key in {_KEY} or --key-file, sent to the
service alone and written nowhere), from a text file with an address a line
(or a CSV: url, author, licence, page), or from a folder; of these two what
has every word of QUERY in its line or path, '' for all.

DIR/sources.csv keeps author, licence and address of every picture; check
that the licence allows what you want. Duplicates, small and flat pictures
are left out. The same command again goes on."""


def command() -> Command:
    return Command(
        "fetch",
        run,
        example=f"{_KEY}=... edge-app fetch 'red mug' --from pexels --into mugs/ --most 200",
        more=_MORE,
        params=[
            Argument("query", "QUERY", "what the pictures show"),
            Option("--from", "origin", metavar="WHERE", required=True, help="pexels, a folder, or a file of addresses"),
            Option("--into", kind=Path, metavar="DIR", required=True, help="the folder they go to"),
            Option("--most", kind=int, default=100, metavar="N", help="new pictures at most (100)"),
            Option("--least", kind=int, default=200, metavar="PX", help="shorter side at least (200)"),
            Option("--key-file", kind=Path, metavar="FILE", help="a file that holds the key alone"),
            Option("--address", metavar="URL", help="another server that answers as Pexels documents it"),
            options.json_flag(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Fetch; 1 when nothing new came."""
    from edge_app.library.fetch import SOURCES, fetch

    if args.most < 1 or not 1 <= args.least <= 10_000:
        raise UsageError(f"--most {args.most} --least {args.least}", expected="1 or more, and a side in pixels")
    if args.origin == "pexels" and not args.query.strip():
        raise UsageError("QUERY is empty", expected="what the pictures show")
    if args.into.exists() and not args.into.is_dir():
        raise UsageError(f"--into {args.into} is a file", expected="a folder")
    source = _source(args)
    with options.progress() as bar:
        task = bar.add_task("fetching", total=args.most)
        done = fetch(source, args.query, args.into, args.most, args.least, lambda: bar.advance(task))
    if not done.offered:
        options.warn(f"{args.origin} has nothing for {args.query!r}; try fewer or other words")
    for problem in done.problems[:5]:
        options.warn(problem)
    if len(done.problems) > 5:
        options.warn(f"and {len(done.problems) - 5} more that could not be had")
    if args.json:
        options.print_json({"kept": done.kept, "left_out": dict(done.left_out), "into": str(args.into),
                            "without_licence": done.without_licence})  # fmt: skip
    else:
        left = ", ".join(f"{count} {why}" for why, count in done.left_out.most_common())
        options.say(f"{counted(done.kept, 'new picture')} in {args.into}{f'; left out: {left}' if left else ''}")
    if done.without_licence:
        options.note(f"of {done.without_licence} no licence is known; {args.into / SOURCES} names where they come from")
    return 0 if done.kept else 1


def _source(args: Arguments) -> Source:
    from edge_app.library.fetch import PEXELS, AddressList, Folder, Pexels, Web

    if args.origin == "pexels":
        return Pexels(_key(args), Web(tell=options.note), args.address or PEXELS)
    if args.address or args.key_file:
        raise UsageError("--address and --key-file are for pexels", expected="--from pexels")
    path = Path(args.origin)
    if path.is_dir():
        if path.resolve() == args.into.resolve():
            raise UsageError("--from and --into are one folder", expected="two")
        return Folder(path)
    if path.is_file():
        return AddressList(path, Web(tell=options.note))
    raise UsageError(f"there is no {args.origin!r} to fetch from", expected="pexels, a folder, or a file of addresses")


def _key(args: Arguments) -> str:
    """The key; no message ever repeats it."""
    if args.key_file is not None:
        try:
            return str(args.key_file.read_text(encoding="utf-8")).strip()
        except (OSError, ValueError) as error:
            raise EdgeError(
                f"the key file {args.key_file} cannot be read", expected="a file that holds the key"
            ) from error
    key = os.environ.get(_KEY, "")
    if not key:
        raise UsageError(
            "there is no key", expected=f"it in {_KEY} or --key-file", remedy="https://www.pexels.com/api/"
        )
    return key
