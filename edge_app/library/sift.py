"""Sifts a pile of pictures by steps, each of which sees what the last left; resumed where it stopped, and undone.

The folder of a sift holds `kept/` with links, copies or the pictures themselves, `decisions.csv`, and the plan.
"""

from __future__ import annotations

import csv
import errno
import filecmp
import itertools
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal, cast

from edge_app.core.documents import DocumentError, parse_json, typed
from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.library.steps import Step
from edge_app.library.tools import Look, Tools
from edge_app.media.folders import find_pictures
from edge_app.system.files import (
    append_row,
    csv_row,
    locked,
    make_private_folder,
    readable_os_errors,
    replacing,
    sweep,
    write_json,
)
from edge_app.system.parallel import ordered_map

How = Literal["link", "copy", "move"]
Outcome = Literal["kept", "left", "unreadable"]
KEPT: Final = "kept"
DECISIONS: Final = "decisions.csv"
PAGE: Final = "sift.html"
_PLAN: Final = "sift.json"
_PLACED: Final = "placed.jsonl"
_LOCK: Final = ".sift.lock"
_COLUMNS: Final = ("picture", "outcome", "stopped by")
_PLAN_LIMIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sifted, by which steps, and what becomes of what is kept."""

    source: str
    """The folder of the pile, absolute."""
    steps: tuple[str, ...]
    how: How
    recursive: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one picture."""

    picture: str
    """Path below the pile, with slashes."""
    outcome: Outcome
    stopped_by: str
    """The step that it did not pass, or why it cannot be read; "" for what was kept."""
    values: tuple[str, ...]
    """What each step found, "" for those that did not see it."""


@dataclass(slots=True)
class Tally:
    """How many pictures each step saw and passed."""

    steps: tuple[str, ...]
    seen: list[int] = field(init=False)
    passed: list[int] = field(init=False)
    pictures: int = 0
    kept: int = 0
    unreadable: int = 0
    resumed: int = 0
    """How many of them an earlier run had decided."""

    def __post_init__(self) -> None:
        self.seen, self.passed = [0] * len(self.steps), [0] * len(self.steps)

    def add(self, decision: Decision) -> None:
        self.pictures += 1
        self.kept += decision.outcome == "kept"
        self.unreadable += decision.outcome == "unreadable"
        for number, step in enumerate(self.steps):
            if decision.outcome == "unreadable" or decision.values[number] == "":
                break
            self.seen[number] += 1
            self.passed[number] += decision.outcome == "kept" or decision.stopped_by != _name(number, step)

    def barren(self) -> int | None:
        """The first step that saw pictures and passed none, None where each passed some."""
        return next(
            (i for i, (seen, passed) in enumerate(zip(self.seen, self.passed, strict=True)) if seen > passed == 0), None
        )


def sift(
    plan: Plan,
    steps: Sequence[Step],
    out: Path,
    tools: Tools,
    workers: int,
    begin: Callable[[int], object],
    advance: Callable[[], object],
) -> Tally:
    """Decide on every picture of the pile that no earlier run decided on, and place what is kept.

    What a run moved just before it was killed is decided on where it lies now.

    `begin` is told how many there are, `advance` each one that is done. Raises UsageError when `out` holds another sift
    or something else, EdgeError when it cannot be written or another process works in it.
    """
    source = Path(plan.source)
    try:
        here = pile(source, recursive=plan.recursive, without=out)
    except MediaError:  # everything was moved out, or there never was a pile
        if not source.is_dir() or not (out.is_dir() and read_plan(out)):
            raise
        here = []
    with readable_os_errors(out):
        make_private_folder(out)
    with locked(out / _LOCK, wait=False) as mine:
        if not mine:
            raise EdgeError(f"another process sifts into {out}", remedy="wait for it, or name another folder")
        _claim(plan, out)
        with readable_os_errors(out):
            sweep(out)
            moved = {
                name: out / KEPT / to
                for name, to, how in _placed(out)
                if how == "move" and not os.path.lexists(source / name) and (out / KEPT / to).exists()
            }
            pictures = moved | {path.relative_to(source).as_posix(): path for path in here}
            return _decide(plan, steps, out, tools, workers, pictures, begin, advance)


def _decide(
    plan: Plan,
    steps: Sequence[Step],
    out: Path,
    tools: Tools,
    workers: int,
    pictures: Mapping[str, Path],
    begin: Callable[[int], object],
    advance: Callable[[], object],
) -> Tally:
    source, tally = Path(plan.source), Tally(plan.steps)
    decided = set()
    for earlier in read_decisions(out, plan, mend=True):
        decided.add(earlier.picture)
        tally.add(earlier)
    tally.resumed = tally.pictures
    todo = [name for name in pictures if name not in decided]
    begin(len(todo))

    def judge(name: str) -> Decision:
        look, values = Look(pictures[name], tools), [""] * len(steps)
        try:
            for number, step in enumerate(steps):
                verdict = step.judge(look)
                values[number] = verdict.value
                if not verdict.passes:
                    return Decision(name, "left", _name(number, plan.steps[number]), tuple(values))
        except MediaError as error:
            return Decision(name, "unreadable", error.found, ("",) * len(steps))
        return Decision(name, "kept", "", tuple(values))

    with (out / DECISIONS).open("a", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        for decision in ordered_map(judge, todo, workers):
            if decision.outcome == "kept" and pictures[decision.picture] == source / decision.picture:
                _place(source, decision.picture, out, plan.how)
            stream.write(csv_row((decision.picture, decision.outcome, decision.stopped_by, *decision.values)))
            stream.flush()
            tally.add(decision)
            advance()
    return tally


def pile(source: Path, *, recursive: bool, without: Path) -> list[Path]:
    """Every picture of the pile, sorted, but not what lies in `without`. Raises MediaError where there is none."""
    inside = without.resolve()
    found = find_pictures(source, recursive=recursive)
    if inside.is_relative_to(source.resolve()):
        found = [path for path in found if not path.parent.resolve().is_relative_to(inside)]
    return found


def _claim(plan: Plan, out: Path) -> None:
    """Write the plan into a folder that is empty, or find the same one there."""
    if (earlier := read_plan(out)) is None:
        strange = sorted(path.name for path in out.iterdir() if not path.name.startswith(".sift."))
        if strange:  # hidden ones are the lock, and a plan that a kill left half written
            raise UsageError(
                f"{out} holds {strange[0]} and no sift", expected="a new or empty folder, or that of an earlier run"
            )
        write_json(out / _PLAN, {"version": 1, "plan": {name: getattr(plan, name) for name in Plan.__slots__}})
    elif earlier != plan:
        differs = next(name for name in Plan.__slots__ if getattr(earlier, name) != getattr(plan, name))
        was = getattr(earlier, differs)
        raise UsageError(
            f"{out} holds a sift whose {differs} {'are' if differs == 'steps' else 'is'} "
            f"{' then '.join(was) if isinstance(was, tuple) else was}",
            expected="the same, to go on with it",
            remedy=f"name another folder, or undo that one: edge-app sift --undo {shlex.quote(str(out))}",
        )


@dataclass(frozen=True, slots=True)
class _Written:
    version: int
    plan: Plan


def read_plan(out: Path) -> Plan | None:
    """The plan in the folder of a sift, None where there is none. Raises EdgeError where it cannot be read."""
    try:
        with (out / _PLAN).open("rb") as stream:
            content = stream.read(_PLAN_LIMIT_BYTES + 1)
        return typed(parse_json(content, most_bytes=_PLAN_LIMIT_BYTES, halves=True), _Written).plan
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, DocumentError) as error:
        raise EdgeError(f"the plan {out / _PLAN} cannot be read: {error}", remedy="name another folder") from error


def _name(number: int, step: str) -> str:
    """A step as the list of decisions calls it: two may be written alike."""
    return f"{number + 1} {step}"


def read_decisions(out: Path, plan: Plan, *, mend: bool = False) -> Iterator[Decision]:
    """Every decision that the folder holds, in order. With `mend` a row that was cut off by a kill is taken out.

    Raises EdgeError where the file is of another plan.
    """
    path = out / DECISIONS
    header = (*_COLUMNS, *(_name(number, step) for number, step in enumerate(plan.steps)))
    if not path.exists():
        if mend:
            append_row(path, csv_row(header).encode("utf-8", "surrogateescape"))
        return
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        try:
            rows = [tuple(row) for row in csv.reader(stream)]
        except csv.Error as error:
            raise EdgeError(f"{path} is not the list of this sift", remedy="name another folder") from error
    with path.open("rb") as raw:
        raw.seek(max(0, path.stat().st_size - 1))
        whole = raw.read(1) == b"\n"
    if rows and rows[0] != header and (whole or len(rows) > 1):
        raise EdgeError(f"{path} is not the list of this sift", remedy="name another folder")
    kept = [row for row in rows[1:] if len(row) == len(header) and row[1] in ("kept", "left", "unreadable")]
    if not whole and kept and kept[-1] == rows[-1]:
        kept.pop()
    if mend and (not whole or len(kept) != len(rows) - 1):
        with replacing(path) as scratch:
            text = "".join(map(csv_row, (header, *kept)))
            scratch.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    for row in kept:
        yield Decision(row[0], cast(Outcome, row[1]), row[2], row[3:])


def _place(source: Path, name: str, out: Path, how: How) -> None:
    """Put one picture into `kept/` under its own name; noted first, so that a kill in between can be undone.

    What stands there and is no work of ours is left alone: the picture gets a number.
    """
    origin, wanted = source / name, out / KEPT / name
    make_private_folder(wanted.parent)
    for number in itertools.count(1):
        to = wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        if os.path.lexists(to):
            if _is_ours(origin, to, how):
                return
            continue
        line = {"picture": name, "to": to.relative_to(out / KEPT).as_posix(), "how": how}
        append_row(out / _PLACED, json.dumps(line).encode() + b"\n", sync=how == "move")
        if how == "link":
            to.symlink_to(origin)
        elif how == "move":
            _move(origin, to)
        else:
            _copy(origin, to)
        return


def _is_ours(origin: Path, to: Path, how: How) -> bool:
    if how == "link":
        return to.is_symlink() and to.readlink() == origin
    return how == "copy" and to.is_file() and not to.is_symlink() and filecmp.cmp(origin, to, shallow=False)


def _copy(origin: Path, to: Path) -> None:
    with replacing(to, replace=False) as scratch:
        shutil.copy2(origin, scratch)


def _move(origin: Path, to: Path) -> None:
    """Give a file another name; across disks it is copied whole before the first one goes."""
    try:
        origin.rename(to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(origin, to)
        origin.unlink()


@dataclass(slots=True)
class Undone:
    """What undoing a sift came to."""

    back: int = 0
    """Pictures moved back."""
    removed: int = 0
    """Links and copies deleted."""
    problems: list[str] = field(default_factory=list)
    """Files that stay where they are, and why."""


def undo(out: Path) -> Undone:
    """Move back what was moved, delete the links and the unchanged copies, and what the sift wrote.

    Raises UsageError when the folder holds no sift, EdgeError when another process works in it or it cannot be written.
    """
    plan = read_plan(out) if out.is_dir() else None
    if plan is None:
        raise UsageError(f"{out} holds no sift", expected="the folder of an earlier `edge-app sift --into`")
    done = Undone()
    with locked(out / _LOCK, wait=False) as mine, readable_os_errors(out):
        if not mine:
            raise EdgeError(f"another process sifts into {out}", remedy="wait for it")
        sweep(out)
        for name, to_name, how in reversed(list(_placed(out))):
            origin, to = Path(plan.source) / name, out / KEPT / to_name
            if not os.path.lexists(to):
                continue  # noted, and killed before it was placed; or taken away by the user
            if how == "move":
                if os.path.lexists(origin):
                    done.problems.append(f"{to} stays: {origin} is there again")
                    continue
                origin.parent.mkdir(parents=True, exist_ok=True)
                _move(to, origin)
                done.back += 1
            elif how == "copy" and not origin.exists():
                done.problems.append(f"{to} stays: {origin} is gone")
            elif _is_ours(origin, to, how):
                to.unlink()
                done.removed += 1
            else:
                done.problems.append(f"{to} stays: it was changed since")
        for folder, _, _ in os.walk(out / KEPT, topdown=False):
            with suppress(OSError):  # something of the user's is in it
                Path(folder).rmdir()
        if not done.problems:
            for name in (_PLACED, DECISIONS, PAGE, _PLAN):
                (out / name).unlink(missing_ok=True)
    if not done.problems:
        with suppress(OSError):
            (out / _LOCK).unlink()
            out.rmdir()
    return done


def _placed(out: Path) -> Iterator[tuple[str, str, How]]:
    """What was placed, as noted; a line that was cut off by a kill was not placed yet."""
    try:
        stream: IO[str] = (out / _PLACED).open(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            try:
                noted = json.loads(line)
                name, to, how = noted["picture"], noted["to"], noted["how"]
            except (ValueError, KeyError, TypeError):
                continue
            inside = all(
                isinstance(one, str) and not PurePosixPath(one).is_absolute() and ".." not in PurePosixPath(one).parts
                for one in (name, to)
            )
            if inside and how in ("link", "copy", "move"):
                yield name, to, how
