"""Reads and checks every picture of a folder before anything learns from it.

Damaged and tiny files, duplicates and near-duplicates, odd layouts: each becomes a `Finding` that says what was done.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import MediaError, UsageError
from edge_app.core.types import Pixels
from edge_app.inference.face_quality import detail
from edge_app.media.folders import Unused, is_junk, is_picture, list_folder, unused_words
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of_file
from edge_models.data.folder import THUMB_PX, Finding, Kind, Part, Picture, PictureFolder, files_below
from edge_models.data.made import mark_of, sources_of

_NEAR_BITS: Final = 20
"""Of 256 gradient signs, how many may differ; re-encoding and scaling change under 12, other pictures over 60."""

_NEAR_CORRELATION: Final = 0.97
"""What two thumbnails must correlate by as well: flat pictures share gradient signs by chance."""

_FLAT_PX: Final = 128
_FLAT_ODD: Final = 0.93
"""Of ants_bees' 245 pictures only its placeholder (0.96) is above; an insect on a white ground has 0.89."""
_FLAT_USUAL: Final = 0.5
"""Where half of the pictures are flatter than this, being flat is nothing odd: digits, scans, parts on white."""
_ENOUGH: Final = 10
_DETAIL_PX: Final = 160
_BLURRED: Final = 0.12
_SHARP: Final = 0.2
"""Where half of the pictures have less detail than this, being blurred is nothing odd: plain parts, X-rays."""
_DARK: Final = 16.0
"""Mean luminance, 0-255, of a picture in which next to nothing is seen."""
_LIGHT: Final = 40.0
"""Where half of the pictures are darker than this, they are meant to be."""
_BLOWN: Final = 250
_BLOWN_SHARE: Final = 0.25
_NO_SHADE: Final = 160.0
"""Too light: a quarter of the thumbnail's cells is at least `_BLOWN` of 255, and nine tenths at least this.

Set on 849 pictures of seven folders (faces, things, defects), 4 of which it names; of 841 others it names 2 as they
are, 738 with their light x 3 + 120, 492 with x 2.2 + 60, which leaves shade in many.
"""
_SHADED: Final = 140.0
"""Where half of the pictures have no darker tenth than this, they are meant to be light: things on white paper."""

_MOST_NAMED: Final = 3
"""Files or classes that one line of an error tells by name."""

_PARTS: Final[dict[str, Part]] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_RANK: Final[dict[Part | None, int]] = {None: 0, "train": 0, "validation": 1, "test": 2}
"""Of pictures that are the same the one of the highest rank stays: what judges must not be learned from."""
_RUN_FILE: Final = "run.json"
"""What the folder of a run holds; such a folder is no part of the data."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
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


def scan(
    root: Path, options: CheckOptions = CheckOptions(), tell: Callable[[int, int], None] | None = None
) -> PictureFolder:
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
    groups = _near_groups(pictures)
    pictures, groups, found = _resolve_near(pictures, groups, names)
    findings += found
    folder, found = _drop_small_classes(root, names, pictures, groups, options)
    findings += found
    if len(folder.classes) < options.min_classes:
        raise _too_few_classes(root, folder.classes, findings, options)
    findings += (
        _placeholders(folder.pictures) + _ill_lit_or_blurred(folder.pictures) + _imbalance(folder, options.imbalance)
    )
    folder, found = _apart_from_made(folder)
    findings += found
    return replace(folder, findings=tuple(findings))


def look(
    root: Path, options: CheckOptions = CheckOptions()
) -> tuple[list[tuple[str, Path, Part | None]], list[Finding]]:
    """(class name, file, part) of every picture file below `root`, none of them read, and what is odd in the folders.

    Quick, and without torch. Raises UsageError for what makes reading pointless: see `scan`.
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
        raise _too_few_classes(root, names, findings, options)
    return listing, findings


# --- listing ---------------------------------------------------------------------------------------------------------


def _list(root: Path) -> tuple[list[tuple[str, Path, Part | None]], list[Finding]]:
    """(class name, file, part) of every picture file, and what was odd about the folders."""
    sources, findings = _parts(root)
    listing: list[tuple[str, Path, Part | None]] = []
    others: Unused = Counter()
    for source, part in sources:
        strays = [entry for entry in sorted(source.iterdir()) if is_picture(entry)]
        findings += [
            Finding("stray picture", (_name(root, stray),), "lies in no class folder", "left out") for stray in strays
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
        return [Finding("empty class", (_name(root, folder),), "holds no picture", "left out")]
    nested = sorted({file.parent for file in files if file.parent != folder})
    return [
        Finding("nested folder", (_name(root, sub),), f"lies inside class {folder.name}", f"counted as {folder.name}")
        for sub in nested
    ]


def _name(root: Path, path: Path) -> str:
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


def _too_few_classes(
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
            f"{root} holds {len(strays)} pictures that lie loose in it and no sub-folder of pictures",
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


# --- reading and checking --------------------------------------------------------------------------------------------


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
            return Finding("unreadable", (ascii(_name(root, path)),), "its name is not printable text", "left out")
        try:
            pixels = read_picture(path)
        except MediaError as error:
            return Finding("unreadable", (_name(root, path),), str(error), "left out")
        digest = sha256_of_file(path)
        size = (int(pixels.shape[1]), int(pixels.shape[0]))
        flat = _flat(np.asarray(pixels))
        thumbnail, sharpness = thumbnail_of(pixels), _sharpness(np.asarray(pixels))
        return Picture(path, _name(root, path), label[name], digest, size, thumbnail, flat, part, sharpness=sharpness)

    results: list[Picture | Finding] = []
    # Decoding releases the interpreter's lock; map keeps the order.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, result in enumerate(pool.map(read, listing), 1):
            results.append(result)
            if tell and (done % 16 == 0 or done == len(listing)):
                tell(done, len(listing))
    return [r for r in results if isinstance(r, Picture)], [r for r in results if isinstance(r, Finding)]


def thumbnail_of(pixels: Pixels) -> NDArray[np.uint8]:
    """(THUMB_PX, THUMB_PX + 1) grey: what near-duplicates are told by."""
    grey = cv2.cvtColor(np.asarray(pixels), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMB_PX + 1, THUMB_PX), interpolation=cv2.INTER_AREA), np.uint8)


def _sharpness(pixels: NDArray[np.uint8]) -> float:
    height, width = pixels.shape[:2]
    scale = min(1.0, _DETAIL_PX / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return detail(cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY))


def _flat(pixels: NDArray[np.uint8]) -> float:
    """Share of the pixels that have one of the picture's four commonest colours, of 32,768."""
    small = cv2.resize(pixels, (_FLAT_PX, _FLAT_PX), interpolation=cv2.INTER_NEAREST).astype(np.int32) >> 3
    counts = np.bincount((small[..., 0] << 10 | small[..., 1] << 5 | small[..., 2]).ravel())
    return float(np.sort(counts)[-4:].sum() / _FLAT_PX**2)


def _placeholders(pictures: Sequence[Picture]) -> list[Finding]:
    """Pictures that are drawn among photographs: "image not found" and its like. Kept, for they may be meant."""
    if len(pictures) < _ENOUGH or np.median([p.flat for p in pictures]) > _FLAT_USUAL:
        return []
    return [
        Finding("placeholder", (p.name,), f"four colours fill {p.flat:.0%} of it", "kept; please look")
        for p in pictures
        if p.flat >= _FLAT_ODD
    ]


def _ill_lit_or_blurred(pictures: Sequence[Picture]) -> list[Finding]:
    """Pictures that show little among others that show more. Kept: they may be what the camera will see too."""
    if len(pictures) < _ENOUGH:
        return []
    light = {p.name: float(p.thumbnail.mean()) for p in pictures}
    findings = []
    if np.median(list(light.values())) > _LIGHT:
        findings += [
            Finding("dark", (p.name,), f"its brightness is {light[p.name]:.0f} of 255", "kept; please look")
            for p in pictures
            if light[p.name] < _DARK
        ]
    shade = {p.name: float(np.percentile(p.thumbnail, 10)) for p in pictures}
    blown = {p.name: float((p.thumbnail >= _BLOWN).mean()) for p in pictures}
    too_light = {name for name, low in shade.items() if low >= _NO_SHADE and blown[name] >= _BLOWN_SHARE}
    if np.median(list(shade.values())) < _SHADED:
        findings += [
            Finding("light", (p.name,), f"{blown[p.name]:.0%} of it is white, nothing is dark", "kept; please look")
            for p in pictures
            if p.name in too_light
        ]
    if np.median([p.sharpness for p in pictures]) > _SHARP:
        findings += [
            Finding("blurred", (p.name,), f"its detail is {p.sharpness:.2f}, under {_BLURRED}", "kept; please look")
            for p in pictures
            if p.sharpness < _BLURRED and light[p.name] >= _DARK and p.name not in too_light
        ]
    return findings


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


def _near_groups(pictures: Sequence[Picture]) -> NDArray[np.intp]:
    """Number of the near-duplicate group of every picture (single linkage)."""
    parent = list(range(len(pictures)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in _near_pairs(pictures):
        parent[find(b)] = find(a)
    return np.array([find(i) for i in range(len(pictures))], dtype=np.intp)


def _near_pairs(pictures: Sequence[Picture]) -> Iterable[tuple[int, int]]:
    """Pairs that look alike: gradient signs first (dHash, 256 bits), then the thumbnails themselves."""
    if len(pictures) < 2:
        return
    signs, flat = _signs_and_vectors([p.thumbnail for p in pictures])
    for i in range(len(pictures) - 1):
        differing = np.bitwise_count(signs[i + 1 :] ^ signs[i]).sum(axis=1)
        for j in np.flatnonzero(differing <= _NEAR_BITS) + i + 1:
            if flat[i] @ flat[j] >= _NEAR_CORRELATION:
                yield i, int(j)


def near_between(first: Sequence[NDArray[np.uint8]], second: Sequence[NDArray[np.uint8]]) -> Iterable[tuple[int, int]]:
    """Pairs (i of the first, j of the second) of thumbnails that look alike, as near-duplicates of a folder do."""
    if not len(first) or not len(second):
        return
    signs, flat = _signs_and_vectors(first)
    other_signs, other_flat = _signs_and_vectors(second)
    for i in range(len(first)):
        differing = np.bitwise_count(other_signs ^ signs[i]).sum(axis=1)
        for j in np.flatnonzero(differing <= _NEAR_BITS):
            if flat[i] @ other_flat[j] >= _NEAR_CORRELATION:
                yield i, int(j)


def _signs_and_vectors(thumbnails: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    thumbs = np.stack(list(thumbnails)).astype(np.int16)
    signs = np.packbits((thumbs[:, :, 1:] > thumbs[:, :, :-1]).reshape(len(thumbs), -1), axis=1).view(np.uint64)
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return signs, flat


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
            detail = f"{count} usable pictures, {options.min_per_class} needed"
            findings.append(Finding("small class", (name,), detail, "left out"))
        elif count < options.few_per_class:
            findings.append(
                Finding("small class", (name,), f"only {count} pictures", "kept; its figures are uncertain")
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
            f"{folder.root} holds {len(marks)} pictures that were made and "
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
