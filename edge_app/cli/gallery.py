"""The commands `gallery list`, `show`, `rename` and `forget`."""

from __future__ import annotations

import argparse
import datetime
from typing import TYPE_CHECKING, Any

from edge_app.cli import options

if TYPE_CHECKING:
    from edge_app.home import Home
    from edge_app.vault import Vault


def add_parser(commands: options.Commands) -> None:
    """Add `gallery` and what it can do."""
    top = commands.add_parser("gallery", help="list, show, rename and forget people", epilog=_EXAMPLE)
    actions = top.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = options.command(actions, "list", "list everybody enrolled", "edge-app gallery list", run_list)
    options.json_flag(listing)
    show = options.command(actions, "show", "show one person's templates", "edge-app gallery show Ada", run_show)
    show.add_argument("name", metavar="NAME")
    options.json_flag(show)
    rename = options.command(
        actions, "rename", "give a person another name", "edge-app gallery rename Ada Eve", run_rename
    )
    rename.add_argument("old", metavar="OLD")
    rename.add_argument("new", metavar="NEW")
    forget = options.command(actions, "forget", "delete a person's templates for good", _FORGET, run_forget)
    forget.add_argument("name", metavar="NAME")


_EXAMPLE = "example: edge-app gallery list"
_FORGET = "edge-app gallery forget Ada"


def run_list(args: argparse.Namespace) -> int:
    """Print everybody."""
    home, vault = _open(args)
    with vault:
        people = vault.roster()
    if args.json:
        listed = [
            {
                "name": p.name,
                "templates": dict(p.templates),
                "pictures": p.pictures,
                "created_s": p.created_s,
                "last_seen_s": p.last_seen_s,
            }
            for p in people
        ]
        options.print_json({"people": listed})
        return 0
    if not people:
        print(f"nobody is enrolled in {home.path}; try: edge-app enroll NAME IMAGE IMAGE")
        return 0
    rows = [
        (p.name, ", ".join(f"{n} ({m})" for m, n in p.templates.items()), _when(p.created_s), _when(p.last_seen_s))
        for p in people
    ]
    options.show(options.table("", ("name", "templates", "enrolled", "last seen"), rows))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print one person's templates: never the vectors."""
    _, vault = _open(args)
    with vault:
        identity = vault.identity(args.name)
        seen = vault.last_seen(args.name)
    templates: list[dict[str, Any]] = [
        {
            "source": t.source,
            "created_s": t.created_s,
            "model": t.embedding.model_id,
            "face_px": round(t.quality.face_px, 1),
            "sharpness": round(t.quality.sharpness, 3),
            "brightness": round(t.quality.brightness, 1),
            "yaw": round(t.quality.yaw, 3),
        }
        for t in identity.templates
    ]
    if args.json:
        options.print_json({"name": identity.name, "last_seen_s": seen, "templates": templates})
        return 0
    columns = ("source", "enrolled", "model", "face", "detail", "light", "turn")
    rows = [
        (
            t["source"],
            _when(t["created_s"]),
            t["model"],
            f"{t['face_px']:.0f} px",
            f"{t['sharpness']:.2f}",
            f"{t['brightness']:.0f}",
            f"{t['yaw']:+.2f}",
        )
        for t in templates
    ]
    options.show(options.table(f"{identity.name}, last seen {_when(seen)}", columns, rows))
    return 0


def run_rename(args: argparse.Namespace) -> int:
    """Rename one person."""
    _, vault = _open(args)
    with vault:
        vault.rename(args.old, args.new)
    print(f"{args.old} is now {args.new}")
    return 0


def run_forget(args: argparse.Namespace) -> int:
    """Forget one person."""
    _, vault = _open(args)
    with vault:
        count = vault.forget(args.name)
    print(f"{args.name} is forgotten: {count} template{'s' if count != 1 else ''} deleted for good")
    return 0


def _open(args: argparse.Namespace) -> tuple[Home, Vault]:
    from edge_app.home import Home
    from edge_app.vault import Vault

    home = Home.locate(args.home)
    return home, Vault(home.gallery_path)


def _when(time_s: float | None) -> str:
    if time_s is None:
        return "never"
    return datetime.datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M")
