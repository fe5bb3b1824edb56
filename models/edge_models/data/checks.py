"""Reads and checks every picture of a folder before anything learns from it.

Damaged and tiny files, duplicates and near-duplicates, odd layouts: each becomes a `Finding` that says what was done.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.counts import counted
from edge_app.core.errors import MediaError, UsageError
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of_file
from edge_models.data.class_folders import DEFAULTS, CheckOptions, look, name_below, too_few_classes
from edge_models.data.folder import Finding, Kind, Part, Picture, PictureFolder
from edge_models.data.likeness import near_groups, thumbnail_of
from edge_models.data.made import mark_of, sources_of
from edge_models.data.picture_quality import flatness, ill_lit_or_blurred, placeholders, sharpness

_RANK: Final[dict[Part | None, int]] = {None: 0, "train": 0, "validation": 1, "test": 2}
"""Of pictures that are the same the one of the highest rank stays: what judges must not be learned from."""


def scan(root: Path, options: CheckOptions = DEFAULTS, tell: Callable[[int, int], None] | None = None) -> PictureFolder:
    """Read and check every picture below `root`; `tell(done, total)` is called now and then.

    Raises UsageError when fewer than `min_classes` classes are left, a folder cannot be listed, or a class's name is no
    text or differs from another's only by case.
    """
    root = Path(root)
    listing, findings = look(root, options)
    names = sorted({name for name, _, _ in listing})
    pictures, unreadable = _read_all(root, listing, names, tell)
    findings += unreadable
    pictures, found = _drop_small_pictures(pictures, options.min_side_px)
    findings += found
    pictures, found = _drop_duplicates(pictures, names)
    findings += found
    groups = near_groups([picture.thumbnail for picture in pictures])
    pictures, groups, found = _resolve_near(pictures, groups, names)
    findings += found
    folder, found = _drop_small_classes(root, names, pictures, groups, options)
    findings += found
    if len(folder.classes) < options.min_classes:
        raise too_few_classes(root, folder.classes, findings, options)
    findings += (
        placeholders(folder.pictures) + ill_lit_or_blurred(folder.pictures) + _imbalance(folder, options.imbalance)
    )
    folder, found = _apart_from_made(folder)
    findings += found
    return replace(folder, findings=tuple(findings))


def _read_all(
    root: Path,
    listing: Sequence[tuple[str, Path, Part | None]],
    names: Sequence[str],
    tell: Callable[[int, int], None] | None,
) -> tuple[list[Picture], list[Finding]]:
    label = {name: index for index, name in enumerate(names)}

    def read(entry: tuple[str, Path, Part | None]) -> Picture | Finding:
        name, path, part = entry
        if not path.name.isprintable():
            return Finding("unreadable", (ascii(name_below(root, path)),), "its name is not printable text", "left out")
        try:
            pixels = read_picture(path)
        except MediaError as error:
            return Finding("unreadable", (name_below(root, path),), str(error), "left out")
        digest = sha256_of_file(path)
        size = (int(pixels.shape[1]), int(pixels.shape[0]))
        thumbnail, flat, sharp = thumbnail_of(pixels), flatness(np.asarray(pixels)), sharpness(np.asarray(pixels))
        return Picture(path, name_below(root, path), label[name], digest, size, thumbnail, flat, part, sharpness=sharp)

    results: list[Picture | Finding] = []
    # Decoding releases the interpreter's lock; map keeps the order.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, result in enumerate(pool.map(read, listing), 1):
            results.append(result)
            if tell and (done % 16 == 0 or done == len(listing)):
                tell(done, len(listing))
    return [r for r in results if isinstance(r, Picture)], [r for r in results if isinstance(r, Finding)]


def _drop_small_pictures(pictures: list[Picture], min_side_px: int) -> tuple[list[Picture], list[Finding]]:
    small = [p for p in pictures if min(p.size_px) < min_side_px]
    findings = [
        Finding("small picture", (p.name,), f"{p.size_px[0]} x {p.size_px[1]} px, under {min_side_px}", "left out")
        for p in small
    ]
    return [p for p in pictures if min(p.size_px) >= min_side_px], findings


def _drop_duplicates(pictures: list[Picture], names: Sequence[str]) -> tuple[list[Picture], list[Finding]]:
    """Of files with the same bytes one stays, that of the judging part first; none where the classes disagree."""
    same: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        same[picture.sha256].append(picture)
    findings: list[Finding] = []
    dropped: set[str] = set()
    for twins in (group for group in same.values() if len(group) > 1):
        files = tuple(p.name for p in twins)
        labels = sorted({names[p.label] for p in twins})
        if len(labels) > 1:
            findings.append(Finding("label conflict", files, f"one file in {' and '.join(labels)}", "all left out"))
            dropped.update(files)
            continue
        keep = max(twins, key=lambda p: _RANK[p.part])
        across = len({p.part for p in twins}) > 1
        others = tuple(p.name for p in twins if p is not keep)
        kind: Kind = "leak" if across else "duplicate"
        findings.append(Finding(kind, others, f"the same bytes as {keep.name}", "left out"))
        dropped.update(others)
    return [p for p in pictures if p.name not in dropped], findings


def _resolve_near(
    pictures: list[Picture], groups: NDArray[np.intp], names: Sequence[str]
) -> tuple[list[Picture], NDArray[np.intp], list[Finding]]:
    """Keep near-duplicates on one side: by the group number, or by dropping from train/ what judges too."""
    findings: list[Finding] = []
    drop: set[int] = set()
    for group in (np.flatnonzero(groups == g) for g in np.unique(groups)):
        if len(group) < 2:
            continue
        members = [pictures[i] for i in group]
        labels = sorted({names[p.label] for p in members})
        highest = max(members, key=lambda p: _RANK[p.part])
        leaking = {int(i) for i in group if _RANK[pictures[i].part] < _RANK[highest.part]}
        if leaking:
            files = tuple(pictures[i].name for i in sorted(leaking))
            detail = f"nearly {highest.name} of the {highest.part} part"
            findings.append(Finding("leak", files, detail, "left out of training"))
            drop |= leaking
        elif len(labels) > 1:
            files = tuple(p.name for p in members)
            detail = f"nearly the same picture in {' and '.join(labels)}"
            findings.append(Finding("label conflict", files, detail, "kept, on one side of the split; please look"))
        else:
            detail, action = "nearly the same picture", "kept on one side of the split"
            findings.append(Finding("near-duplicate", tuple(p.name for p in members), detail, action))
    keep = [i for i in range(len(pictures)) if i not in drop]
    return [pictures[i] for i in keep], groups[keep], findings


def _drop_small_classes(
    root: Path, names: Sequence[str], pictures: Sequence[Picture], groups: NDArray[np.intp], options: CheckOptions
) -> tuple[PictureFolder, list[Finding]]:
    labels = np.array([p.label for p in pictures], dtype=np.intp)
    # Where the folder came divided, a class needs pictures to learn from: those of a part that judges do not count.
    divided = any(p.part == "test" for p in pictures)
    learned = np.array([not divided or p.part != "test" for p in pictures], dtype=np.bool_)
    counts = np.bincount(labels[learned], minlength=len(names))
    findings: list[Finding] = []
    for name, count in zip(names, counts, strict=True):
        if count < options.min_per_class:
            detail = f"{counted(int(count), 'usable picture')}, {options.min_per_class} needed"
            findings.append(Finding("small class", (name,), detail, "left out"))
        elif count < options.few_per_class:
            findings.append(
                Finding(
                    "small class", (name,), f"only {counted(int(count), 'picture')}", "kept; its figures are uncertain"
                )
            )
    kept = [index for index, count in enumerate(counts) if count >= options.min_per_class]
    renumber = {old: new for new, old in enumerate(kept)}
    chosen = [i for i, p in enumerate(pictures) if p.label in renumber]
    relabelled = tuple(replace(pictures[i], label=renumber[pictures[i].label]) for i in chosen)
    return PictureFolder(root, tuple(names[i] for i in kept), relabelled, groups[chosen], ()), findings


def _apart_from_made(folder: PictureFolder) -> tuple[PictureFolder, list[Finding]]:
    """Mark what may not judge: pictures that were made, and real ones that they were made of.

    Raises UsageError where a part that judges holds nothing else.
    """
    marks = {picture.name: mark for picture in folder.pictures if (mark := mark_of(picture.path)) is not None}
    if not marks:
        return folder, []
    sources = frozenset[str]().union(*(sources_of(mark) for mark in marks.values()))
    used = tuple(p.name for p in folder.pictures if p.name not in marks and p.sha256 in sources)
    barred = {*marks, *used}
    judging = {p.name for p in folder.pictures if p.part in ("validation", "test")}
    findings = [Finding("made", tuple(marks), "made, not taken", "learned from; they judge nothing")]
    if used:
        findings.append(
            Finding("made", used, "parts of made pictures were cut from it", "learned from; judges nothing")
        )
    if dropped := tuple(sorted(judging & barred)):
        findings.append(Finding("made", dropped, "made, or made use of, in a part that judges", "left out"))
    keep = [i for i, p in enumerate(folder.pictures) if p.name not in dropped]
    pictures = tuple(replace(folder.pictures[i], judges=folder.pictures[i].name not in barred) for i in keep)
    if sum(p.judges for p in pictures) < len(folder.classes) or (judging and judging <= set(dropped)):
        raise UsageError(
            f"{folder.root} holds {counted(len(marks), 'made picture')} and "
            f"{sum(p.judges for p in pictures)} to judge by",
            expected="pictures that somebody took, of every class",
            remedy="put them beside the made ones, or into test/ with the made ones in train/",
        )
    return replace(folder, pictures=pictures, groups=folder.groups[keep]), findings


def _imbalance(folder: PictureFolder, limit: float) -> list[Finding]:
    counts = np.bincount(folder.labels, minlength=len(folder.classes))
    ratio = float(counts.max() / counts.min())
    if ratio < limit:
        return []
    large, small = folder.classes[int(counts.argmax())], folder.classes[int(counts.argmin())]
    detail = f"{large} has {ratio:.1f} times the pictures of {small}"
    return [Finding("imbalance", (small,), detail, "kept; consider --balanced")]
