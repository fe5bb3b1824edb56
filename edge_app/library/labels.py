"""The file of answers: a CSV that is only ever appended to, so that a kill at any moment loses nothing."""

from __future__ import annotations

import codecs
import filecmp
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.names import valid_name
from edge_app.system.files import (
    append_row,
    csv_cells,
    csv_row,
    locked,
    make_private_folder,
    readable_os_errors,
    replacing,
    sha256_of,
    sweep,
)

Kind = Literal["label", "both", "neither", "skip"]
HEADER: Final = ("time", "picture", "answer", "label", "why", "predicted", "probability")
_BETWEEN: Final = " | "
_LIMIT_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said of one picture."""

    picture: str
    """Path below the pile, with slashes."""
    kind: Kind
    classes: tuple[str, ...] = ()
    """One for a label, several for "both", none else."""
    why: str = ""
    """Why it was asked about; see `edge_app.library.ask.Why`."""
    predicted: str = ""
    """What the head said before."""
    probability: float | None = None

    def __post_init__(self) -> None:
        if (self.kind == "label") != (len(self.classes) == 1) or (self.kind == "both") != (len(self.classes) > 1):
            raise ValueError(f"answer: found {self.kind} with {len(self.classes)} classes")


def valid_class(name: str) -> str:
    """A class as it may be called: it becomes a folder, and a label of a card. Raises UsageError."""
    name = valid_name(name)
    if _BETWEEN.strip() in name or "/" in name or "\\" in name or name.startswith("."):
        raise UsageError(f"the class {name!r} can be no folder's name", expected="no |, / or \\, no dot in front")
    return name


class LabelFile:
    """The answers in one file, the last of each picture first."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Read what is there; `strange` names rows that are passed over. Raises EdgeError where it is another file."""
        self.path = path
        self._clock = clock
        self._said: dict[str, list[Answer]] = {}
        self._order: list[str] = []
        self.strange: list[int] = []
        """Numbers of the lines that are no answers: a kill cut them off, or somebody edited them."""
        for number, line in _lines(path):
            try:
                self._take(*_answer_of(csv_cells(line)))
            except (ValueError, UsageError):
                self.strange.append(number)

    @property
    def answers(self) -> Mapping[str, Answer]:
        """The last answer for every picture, in the order of the answers."""
        return {picture: said[-1] for picture, said in self._said.items() if said}

    @property
    def twice(self) -> Mapping[str, tuple[str, str]]:
        """Pictures that were labelled twice and differently, and not taken back: what before, what last."""
        found = {}
        for picture, said in self._said.items():
            labels = [answer.classes[0] for answer in said if answer.kind == "label"]
            if other := [label for label in labels if label != labels[-1]]:
                found[picture] = other[-1], labels[-1]
        return found

    def add(self, answer: Answer) -> None:
        """Write one answer; it is on the disk when this returns. Raises EdgeError."""
        self._append(
            (
                _stamp(self._clock()),
                answer.picture,
                answer.kind,
                _BETWEEN.join(answer.classes),
                answer.why,
                answer.predicted,
                "" if answer.probability is None else f"{answer.probability:.4f}",
            )
        )
        self._take(answer.picture, answer)

    def undo(self) -> Answer | None:
        """Take the last answer back, and return it; None where there is none."""
        if not self._order:
            return None
        picture = self._order[-1]
        last = self._said[picture][-1]
        self._append((_stamp(self._clock()), picture, "undo", "", "", "", ""))
        self._take(picture, None)
        return last

    def _take(self, picture: str, answer: Answer | None) -> None:
        if answer is None:
            if self._said.get(picture):
                self._said[picture].pop()
                at = len(self._order) - 1 - self._order[::-1].index(picture)
                del self._order[at]
            return
        said = self._said.pop(picture, [])
        self._said[picture] = [*said, answer]
        self._order.append(picture)

    def _append(self, cells: Iterable[str]) -> None:
        with readable_os_errors(self.path.absolute().parent):
            append_row(self.path, _row(cells), _row(HEADER))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from answering into the same file. Raises EdgeError where one does already."""
    with locked(path.with_name(f".{path.name}.lock"), wait=False) as mine:
        if not mine:
            raise EdgeError(f"another process writes into {path}", remedy="close it first")
        yield


def _stamp(now_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))


def _row(cells: Iterable[str]) -> bytes:
    return csv_row(cell.replace("\n", " ") for cell in cells).encode("utf-8", "surrogateescape")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The rows behind the header with their numbers in the file; a row is a line, for names are written without."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}", expected="a file of answers") from error
    lines = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").split("\n")
    if not content:
        return
    if len(content) > _LIMIT_BYTES or tuple(csv_cells(lines[0].rstrip("\r"))) != HEADER:
        raise EdgeError(
            f"{path} is no file of answers", expected=f"a new name, or a CSV that begins with {','.join(HEADER)}"
        )
    for number, line in enumerate(lines[1:], 2):
        if line.strip(" \r"):
            yield number, line.rstrip("\r")


def _answer_of(row: Sequence[str]) -> tuple[str, Answer | None]:
    """A picture and its answer, None for one that was taken back. Raises ValueError or UsageError for another row."""
    if len(row) != len(HEADER):
        raise ValueError(f"found {len(row)} cells")
    picture, kind, label, why, predicted, probability = row[1:]
    if kind == "undo":
        return picture, None
    if not picture or kind not in ("label", "both", "neither", "skip"):
        raise ValueError(f"found {kind!r} for {picture!r}")
    classes = tuple(valid_class(one) for one in label.split(_BETWEEN)) if label else ()
    sure = float(probability) if probability else None
    return picture, Answer(picture, cast(Kind, kind), classes, why, predicted, sure)


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of the answers in a folder per class."""

    counts: Mapping[str, int]
    left_out: Mapping[str, int]
    """Answers that are no one class, by kind, and "gone" for pictures that are not there any more."""
    moved: int
    """Links that an earlier export had made into the folder of another class."""
    stale: Sequence[Path]
    """Files that stay in the folder of a class that the picture is not of any more: no links of ours."""


def export(labels: LabelFile, pile: Path, into: Path, *, copy: bool) -> Exported:
    """Make a folder per class of links to the labelled pictures, or of copies, as `edge-app train classifier` reads.

    Nothing in `into` is replaced: a picture that is there already stays, and another file of its name stays beside it.
    Only a link to a picture is deleted where that was exported under another label before: it would teach both. Raises
    EdgeError.
    """
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    moved, stale = 0, []
    if not pile.is_dir():
        raise UsageError(f"{pile} is no folder", expected="the pile that was labelled")
    if into.exists() and not into.is_dir():
        raise UsageError(f"{into} is a file", expected="a folder to export into")
    with readable_os_errors(into):
        folders = [path for path in into.iterdir() if path.is_dir()] if into.is_dir() else []
        for picture, answer in labels.answers.items():
            origin = (pile / picture).absolute()
            for folder in folders:
                for earlier in _names(folder, picture, origin) if answer.classes != (folder.name,) else ():
                    if _links_to(earlier, origin):
                        earlier.unlink()
                        moved += 1
                    elif _is(earlier, origin):
                        stale.append(earlier)
            if answer.kind != "label" or not origin.is_file():
                left_out[answer.kind if answer.kind != "label" else "gone"] += 1
                continue
            [name] = answer.classes
            plain, other = _names(into / valid_class(name), picture, origin)
            make_private_folder(plain.parent)
            if copy and name not in counts:
                sweep(plain.parent)
            counts[name] += 1
            if _is(plain, origin) or _is(other, origin):
                continue
            to = other if os.path.lexists(plain) else plain
            if not copy:
                to.symlink_to(origin)
                continue
            with replacing(to, replace=False) as scratch:
                shutil.copyfile(origin, scratch)
    return Exported(dict(counts), dict(left_out), moved, stale)


def _names(folder: Path, picture: str, origin: Path) -> tuple[Path, Path]:
    """What a picture may be called in a class's folder, and what where another file has that name."""
    plain = folder / picture.replace("/", "__")
    return plain, plain.with_name(f"{plain.stem}-{sha256_of(os.fsencode(origin))[:8]}{plain.suffix}")


def _links_to(path: Path, origin: Path) -> bool:
    return path.is_symlink() and path.readlink() == origin


def _is(path: Path, origin: Path) -> bool:
    """Whether a file is a link to the picture, or a copy of it."""
    return _links_to(path, origin) or (path.is_file() and origin.is_file() and filecmp.cmp(path, origin, shallow=False))
