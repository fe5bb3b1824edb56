"""Files that a command leaves in a folder of the user's, and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_app.cli import options
from edge_app.cli.parameters import Arguments
from edge_app.system.files import json_bytes, make_private_folder, readable_os_errors
from edge_app.system.new_file import NewFiles, write_new

Content = bytes | Callable[[Path], object]
"""What a file holds, or what fills it; the latter may raise ImportError where a plotting library is absent."""


def make_folder(folder: Path | None) -> None:
    """Make the folder of --output or --save, before hours are spent. Raises EdgeError when that cannot be."""
    if folder is not None:
        with readable_os_errors(folder):
            make_private_folder(folder)


def write_results(folder: Path | None, files: Mapping[str, Content]) -> None:
    """Write files that belong together, private, into the folder of --output; nothing without one.

    Where one of the names is taken all get the same number, and that is noted. Raises EdgeError.
    """
    if folder is None:
        return
    make_folder(folder)
    with readable_os_errors(folder):
        names = NewFiles().free(*(folder / name for name in files))
        for path, (name, content) in zip(names, files.items(), strict=True):
            write = content if callable(content) else _bytes_of(content)
            try:
                got = write_new(path, write)
            except ImportError:
                options.note(f"{name} is left out: matplotlib is not installed; try: pip install 'edge-app[bench]'")
                continue
            if got.name != name:
                options.note(f"{folder / name} was there before: this one is {got.name}")


def deliver(
    args: Arguments,
    name: str,
    report: Mapping[str, Any],
    tell: Callable[[], object],
    files: Mapping[str, Content] | None = None,
) -> int:
    """Write a report as JSON, and the `files` beside it, into --output; print it, with --json as JSON, else `tell` it.

    Gives the exit code, 0.
    """
    write_results(args.output, {name: json_bytes(report)} | dict(files or {}))
    if args.json:
        options.print_json(report)
    else:
        tell()
    return 0


def _bytes_of(content: bytes) -> Callable[[Path], object]:
    return lambda scratch: scratch.write_bytes(content)
