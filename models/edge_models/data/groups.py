"""Groups of pictures: the columns of a user's CSV, and sessions that file names or EXIF times suggest."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from PIL import Image

from edge_app.core.errors import UsageError
from edge_models.data.folder import Picture, PictureFolder

_FILE: Final = "file"
_NUMBER: Final = re.compile(r"[\W_]*\d+$")
"""What counts the pictures of one session up, at the end of a name."""
_PAUSE_S: Final = 60.0
"""Pictures that were taken within a minute of each other are of one session."""
_TAKEN, _DIGITIZED = 0x9003, 0x0132
_EXIF: Final = 0x8769
_LEAST_IN_SESSION: Final = 3
_LEAST_SESSIONS: Final = 3
_LEAST_SHARE: Final = 0.6
"""Of the pictures must lie in such sessions, or the names mean something else."""


@dataclass(frozen=True, slots=True)
class GroupTable:
    """What a CSV tells of the pictures of a folder."""

    columns: Mapping[str, tuple[str, ...]]
    """A value per picture for each column, "" where the CSV has none."""
    unknown: tuple[str, ...]
    """Files that the CSV names and the folder does not hold."""
    repeated: int
    """Lines that say again what one before them said."""

    def column(self, name: str) -> tuple[str, ...]:
        """One column. Raises UsageError when the CSV has none of that name."""
        if name not in self.columns:
            raise UsageError(f"the CSV has no column {name!r}", expected=" or ".join(self.columns))
        return self.columns[name]

    def sentence(self) -> str:
        """What of the CSV was of no use, or nothing."""
        told = []
        if self.unknown:
            more = f" and {len(self.unknown) - 3} more" if len(self.unknown) > 3 else ""
            told.append(
                f"no pictures of the folder: {len(self.unknown)} of its files ({', '.join(self.unknown[:3])}{more})"
            )
        if self.repeated:
            told.append(f"lines that say again what one before them said: {self.repeated}")
        lone = [name for name, values in self.columns.items() if len(set(values) - {""}) == 1]
        if lone:
            told.append(f"{', '.join(lone)} has one value only, and nothing to be compared with")
        return f"groups: {'; '.join(told)}" if told else ""


def read_table(path: Path, folder: PictureFolder) -> GroupTable:
    """Read a CSV with the column `file` and any others.

    A file is given relative to the folder or by its bare name. Raises UsageError for a missing column, no match, or a
    file that is told twice and differently.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            names = [name for name in reader.fieldnames or [] if name and name != _FILE]
            whole = _FILE in (reader.fieldnames or []) and names
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else "no CSV of UTF-8 text"
        raise UsageError(f"{path} cannot be read ({why})", expected="a CSV with the column file and others") from error
    if not rows or not whole:
        raise UsageError(f"{path} lacks a column", expected="file and at least one other in its first line")
    table: dict[str, dict[str, str]] = {}
    repeated = 0
    for row in rows:
        key, told = str(row[_FILE] or ""), {name: str(row[name] or "").strip() for name in names}
        if key in table:
            repeated += 1
            for name, value in told.items():
                if table[key][name] != value:
                    raise UsageError(
                        f"{path} tells {key} twice, as {table[key][name]} and {value}", expected="a line per file"
                    )
        table[key] = told
    bare = Counter(Path(picture.name).name for picture in folder.pictures)
    used: set[str] = set()
    values: dict[str, list[str]] = {name: [] for name in names}
    for picture in folder.pictures:
        short = Path(picture.name).name
        if picture.name not in table and short in table and bare[short] > 1:
            raise UsageError(
                f"{path} tells of {short}, which {bare[short]} pictures are called",
                expected=f"a path relative to {folder.root}, such as {picture.name}",
            )
        key = picture.name if picture.name in table else short
        used.add(key)
        for name in names:
            values[name].append(table.get(key, {}).get(name, ""))
    if not any(any(column) for column in values.values()):
        raise UsageError(f"no file of {path} is a picture of {folder.root}", expected="names relative to that folder")
    unknown = tuple(sorted(set(table) - used))
    return GroupTable({name: tuple(column) for name, column in values.items()}, unknown, repeated)


@dataclass(frozen=True, slots=True)
class Sessions:
    """Pictures that look as if they had been taken together."""

    values: tuple[str, ...]
    """A session per picture, "" where none is seen."""
    by: str
    """What shows it: file names, or the times in EXIF."""

    def csv(self, folder: PictureFolder) -> str:
        """As `read_table` takes them."""
        told = zip(folder.pictures, self.values, strict=True)
        return "\n".join(["file,session", *(f'"{picture.name}","{value}"' for picture, value in told if value), ""])

    def sentence(self, where: Path) -> str:
        """What it means and what to do about it."""
        count = len(set(self.values) - {""})
        return (
            f"{sum(map(bool, self.values))} pictures look like {count} sessions, by their {self.by}: where a session "
            f"lies on both sides of the split the figures flatter. They are listed in {where}; if that is so, train "
            f"with --groups {where} --split-by session"
        )


def find_sessions(folder: PictureFolder) -> Sessions | None:
    """Sessions by file names such as `ann-0012.jpg`, else by the times in EXIF; None where neither suggests any.

    A session counts with three pictures or more; there must be three of them, holding most pictures and no class as a
    whole: names that only tell the class are none.
    """
    names = [_NUMBER.sub("", Path(picture.name).stem) for picture in folder.pictures]
    if (found := _sessions(folder, names)) is not None:
        return Sessions(found, "names")
    times = [_taken(picture) for picture in folder.pictures]
    if sum(time is not None for time in times) < _LEAST_SHARE * len(times):
        return None
    order = sorted((time, index) for index, time in enumerate(times) if time is not None)
    bursts, number = [""] * len(times), 0
    for place, (time, index) in enumerate(order):
        number += place > 0 and (time - order[place - 1][0]).total_seconds() > _PAUSE_S
        bursts[index] = f"burst {number + 1}"
    found = _sessions(folder, bursts)
    return None if found is None else Sessions(found, "times in EXIF")


def _sessions(folder: PictureFolder, names: Sequence[str]) -> tuple[str, ...] | None:
    counts = Counter(name for name in names if name)
    large = {name for name, count in counts.items() if count >= _LEAST_IN_SESSION}
    members: dict[str, Counter[int]] = {name: Counter() for name in large}
    for name, picture in zip(names, folder.pictures, strict=True):
        if name in large:
            members[name][picture.label] += 1
    of_class = Counter(picture.label for picture in folder.pictures)
    whole = {name for name, labels in members.items() if any(n == of_class[label] for label, n in labels.items())}
    large -= {name for name in whole if len(members[name]) == 1}
    inside = sum(counts[name] for name in large)
    # A single name for all, in every class, says nothing either.
    if len(large) < _LEAST_SESSIONS or inside < _LEAST_SHARE * len(names):
        return None
    return tuple(name if name in large else "" for name in names)


def _taken(picture: Picture) -> datetime | None:
    try:
        with Image.open(picture.path) as image:
            exif = image.getexif()
            told = exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_DIGITIZED)
        return datetime.strptime(str(told), "%Y:%m:%d %H:%M:%S") if told else None
    except (OSError, ValueError, SyntaxError):
        return None
