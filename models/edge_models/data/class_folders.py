"""A sub-folder of pictures per class, divided into train/, val/ and test/ or not: which files it holds, none read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.media.folders import Unused, is_junk, is_picture, list_folder, unused_words
from edge_models.data.folder import Finding, Part, files_below

_MOST_NAMED: Final = 3
"""Files or classes that one line of an error tells by name."""
_PARTS: Final[dict[str, Part]] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_RUN_FILE: Final = "run.json"
"""What the folder of a run holds; such a folder is no part of the data."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How strict the checks are, and what they call a sub-folder."""

    min_side_px: int = 8
    """Pictures with a shorter side are left out."""
    min_per_class: int = 3
    """Classes with fewer pictures are left out: one each to learn, to choose and to judge by."""
    few_per_class: int = 20
    """Classes with fewer pictures are kept and named."""
    imbalance: float = 5.0
    """Largest class over smallest from which on the imbalance is named."""
    min_classes: int = 2
    noun: Literal["class", "identity"] = "class"
    """What a sub-folder is called to the user."""

    @property
    def nouns(self) -> str:
        """Several of them."""
        return {"class": "classes", "identity": "identities"}[self.noun]


DEFAULTS: Final = CheckOptions()


def look(root: Path, options: CheckOptions = DEFAULTS) -> tuple[list[tuple[str, Path, Part | None]], list[Finding]]:
    """(class name, file, part) of every picture file below `root`, none of them read, and what is odd in the folders.

    Quick, and without torch. Raises UsageError for what makes reading pointless: see
    `edge_models.data.checks.scan`.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{root} {what}", expected=f"a folder with a sub-folder per {options.noun}")
    try:
        listing, findings = _list(root)
    except OSError as error:
        raise UsageError(
            f"{error.filename or root} cannot be listed ({error.strerror})", remedy="check its permissions"
        ) from error
    names = sorted({name for name, _, _ in listing})
    _refuse_odd_names(names)
    if len(names) < options.min_classes:
        raise too_few_classes(root, names, findings, options)
    return listing, findings


def _list(root: Path) -> tuple[list[tuple[str, Path, Part | None]], list[Finding]]:
    """(class name, file, part) of every picture file, and what was odd about the folders."""
    sources, findings = _parts(root)
    listing: list[tuple[str, Path, Part | None]] = []
    others: Unused = Counter()
    for source, part in sources:
        strays = [entry for entry in sorted(source.iterdir()) if is_picture(entry)]
        findings += [
            Finding("stray picture", (name_below(root, stray),), "lies in no class folder", "left out")
            for stray in strays
        ]
        for folder in _folders(source):
            files = sorted(files_below(folder))
            listing += [(folder.name, file, part) for file in files]
            findings += _odd_folder(root, folder, files)
            others += list_folder(folder, recursive=True).left()
    if others:
        findings.append(Finding("other files", (root.name,), f"holds {unused_words(others)}", "left out"))
    return listing, findings


def _parts(root: Path) -> tuple[list[tuple[Path, Part | None]], list[Finding]]:
    """Where class folders lie: in the folder itself, or in its train/, val/ or valid/, and test/.

    Roboflow, Ultralytics and torchvision's data sets divide so. Raises UsageError for what is nearly such a layout:
    its parts must never be learned as classes.
    """
    tops = {entry.name.lower(): entry for entry in _folders(root)}
    parts = {name: folder for name, folder in tops.items() if name in _PARTS}
    if "train" not in parts or len(parts) < 2:
        return [(root, None)], []
    told = "/, ".join(folder.name for folder in parts.values()) + "/"
    for folder in parts.values():
        inside = {entry.name.lower() for entry in _folders(folder)}
        if {"images", "labels"} <= inside:
            raise UsageError(
                f"{root} is divided into {told} that hold images/ and labels/, a layout for detection",
                expected="a sub-folder of pictures per class in each",
                remedy="export the data set for classification (Roboflow: Folder Structure)",
            )
        if not inside and any(is_picture(entry) for entry in folder.iterdir()):
            raise UsageError(
                f"{root} is divided into {told}, and {folder.name}/ holds pictures without class folders",
                expected="a sub-folder of pictures per class in each",
                remedy=f"sort {folder.name}/ by class, or move it elsewhere",
            )
    findings = []
    for name, folder in tops.items():
        if name in parts:
            continue
        if not (folder / _RUN_FILE).is_file() and next(iter(files_below(folder)), None) is not None:
            raise UsageError(
                f"{root} is divided into {told}, and {folder.name}/ beside them holds pictures",
                expected="nothing but the parts of the data set",
                remedy=f"move {folder.name}/ elsewhere",
            )
        findings.append(Finding("stray folder", (folder.name,), f"lies beside {told}", "left out"))
    return [(folder, _PARTS[name]) for name, folder in parts.items()], findings


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not is_junk(entry.name)]


def _odd_folder(root: Path, folder: Path, files: Sequence[Path]) -> list[Finding]:
    if not files:
        return [Finding("empty class", (name_below(root, folder),), "holds no picture", "left out")]
    nested = sorted({file.parent for file in files if file.parent != folder})
    return [
        Finding(
            "nested folder", (name_below(root, sub),), f"lies inside class {folder.name}", f"counted as {folder.name}"
        )
        for sub in nested
    ]


def name_below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _refuse_odd_names(names: Sequence[str]) -> None:
    """Class names become labels: written into models and onto terminals, and folders on any file system."""
    seen: dict[str, str] = {}
    for name in names:
        if not name.isprintable():
            raise UsageError(f"the class {name!r} has no printable name", remedy="rename its folder")
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            raise UsageError(
                f"two classes differ only by case: {twin} and {name}",
                expected="names that stay apart on every file system",
                remedy="rename or merge them",
            )


def too_few_classes(
    root: Path, classes: Sequence[str], findings: Sequence[Finding], options: CheckOptions
) -> UsageError:
    """Names what was left out and why: these are the only words that the user gets."""
    left_out = [
        f"{f.files[0]} ({f.detail})"
        for f in findings
        if f.kind in ("empty class", "small class") and f.action == "left out"
    ]
    unreadable = [f.files[0] for f in findings if f.kind == "unreadable"]
    strays = [f.files[0] for f in findings if f.kind == "stray picture"]
    nested = any(f.kind == "nested folder" for f in findings)
    remedy = f"add a sub-folder of pictures per {options.noun}"
    if nested and len(classes) == 1:
        remedy = f"its {options.nouns} lie deeper: did you mean {root / classes[0]}?"
    elif left_out:
        remedy = f"left out: {_some(left_out)}"
    elif strays and not classes:
        return UsageError(
            f"{root} holds {counted(len(strays), 'loose picture')} and no sub-folder of pictures",
            expected=f"at least {options.min_classes} sub-folders, one per {options.noun}",
            remedy=f"sort the pictures into a sub-folder per {options.noun}",
        )
    if unreadable:
        remedy += f"; unreadable: {_some(unreadable)}"
    return UsageError(
        f"{root} holds {len(classes)} usable {options.noun if len(classes) == 1 else options.nouns}"
        + (f" ({classes[0]})" if len(classes) == 1 else ""),
        expected=f"at least {options.min_classes}",
        remedy=remedy,
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
