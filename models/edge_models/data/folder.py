"""A checked folder of labelled pictures, and how it is split without near-duplicates on both sides."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.media.folders import is_junk, is_picture
from edge_app.system.files import sha256_of
from edge_models.data.likeness import Thumbnail

Kind = Literal[
    "unreadable", "duplicate", "label conflict", "near-duplicate", "leak", "small class", "empty class",
    "small picture", "placeholder", "dark", "light", "blurred", "made", "imbalance",
    "nested folder", "stray picture", "stray folder", "other files",
]  # fmt: skip
Part = Literal["train", "validation", "test"]

_LEAST_TOGETHER: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the checks found, and what was done about it."""

    kind: Kind
    files: tuple[str, ...]
    """Names relative to the folder; the file acted upon first."""
    detail: str
    action: str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One readable picture of the folder."""

    path: Path
    name: str
    """Path relative to the folder, with forward slashes."""
    label: int
    """Index into the folder's classes."""
    sha256: str
    """Of the file's bytes."""
    size_px: tuple[int, int]
    """(width, height)."""
    thumbnail: Thumbnail
    """What near-duplicates are told by."""
    flat: float
    """Share of the picture that its four commonest colours fill: near 1 for what is drawn, not photographed."""
    part: Part | None = None
    """Side of the split that the folder's own train/, val/ and test/ give; None where it has none."""
    judges: bool = True
    """False for what was made, and for what parts of it were cut from: it is learned from, and never judges."""
    sharpness: float = 1.0
    """Fine detail, as `edge_app.inference.face_quality.detail` measures it at a shorter side of 160 px."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureFolder:
    """All that can be learned from, and what was left out."""

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    groups: NDArray[np.intp]
    """(N,) number of the near-duplicate group of every picture: a group never straddles a split."""
    findings: tuple[Finding, ...]
    together: bool = False
    """Whether the groups are the user's, and may be large: splits then take whole ones, in whatever share comes out."""

    @property
    def labels(self) -> NDArray[np.intp]:
        """(N,) class index of every picture."""
        return np.array([picture.label for picture in self.pictures], dtype=np.intp)

    @property
    def has_test(self) -> bool:
        """Whether the folder has a test part of its own: it judges, and nothing ever learns from it."""
        return any(picture.part == "test" for picture in self.pictures)

    @property
    def sha256(self) -> str:
        """Hash of the list: names, classes and contents. The same list gives the same hash on any machine."""
        lines = sorted(f"{self.classes[p.label]}\t{p.name}\t{p.sha256}" for p in self.pictures)
        return sha256_of("\n".join(lines))


@dataclass(frozen=True, slots=True)
class Split:
    """Indices into `PictureFolder.pictures`; disjoint."""

    train: tuple[int, ...]
    """What weights learn from."""
    selection: tuple[int, ...]
    """What epochs and methods are chosen by."""
    validation: tuple[int, ...]
    """What is reported; nothing is ever chosen by it."""

    @property
    def fit(self) -> tuple[int, ...]:
        """Train and selection together, sorted."""
        return tuple(sorted(self.train + self.selection))

    @property
    def judging(self) -> tuple[int, ...]:
        """Selection and validation together: what weights may not learn from before all is judged."""
        return self.selection + self.validation


def hashes_of(folder: PictureFolder, parts: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, ...]]:
    """The SHA-256 of each part's pictures, in its order: what a checkpoint remembers of a split."""
    return {name: tuple(folder.pictures[i].sha256 for i in part) for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class Found:
    """The pictures of a remembered split, found again in a folder by their content."""

    parts: Mapping[str, tuple[int, ...]]
    """Indices into the folder's pictures, in the remembered order."""
    lost: int
    """Pictures that the folder does not hold any more."""
    added: int
    """Pictures that belong to no part; they are in none."""

    def sentence(self, root: Path) -> str:
        """What has changed, or nothing."""
        told = [
            f"{counted(count, 'picture')} {what}"
            for count, what in ((self.lost, "gone"), (self.added, "added since (left out)"))
            if count
        ]
        return f"{root} has changed since training: {', '.join(told)}" if told else ""


def find_again(folder: PictureFolder, split: Mapping[str, Sequence[str]]) -> Found:
    """Find a split's pictures again, wherever in the folder they lie now and whatever they are called."""
    at = {picture.sha256: index for index, picture in enumerate(folder.pictures)}
    parts = {name: tuple(at[digest] for digest in part if digest in at) for name, part in split.items()}
    known = sum(map(len, parts.values()))
    return Found(parts, sum(map(len, split.values())) - known, len(folder.pictures) - known)


def split_pictures(
    folder: PictureFolder, *, seed: int, validation_share: float = 0.2, selection_share: float = 0.2
) -> Split:
    """Split by class in proportion, keeping near-duplicates together.

    Consecutive seeds judge by the folds of one cross-validation: with a share of 0.2, seeds 0-4 judge by every picture
    once, seeds 5-9 by every picture once in another division. Their mean then has no luck of overlapping draws in it.
    A folder that came with train/ and val/ keeps them; selection is then taken from train/. One with test/ is judged by
    that, and selects by its val/ where it has one. Both shares are in (0, 1),
    `selection_share` of what validation leaves. Every class has at least one picture on each side where it has three.
    """
    for name, share in (("validation", validation_share), ("selection", selection_share)):
        if not 0 < share < 1:
            raise UsageError(f"found a {name} share of {share}", expected="a share between 0 and 1")
    everything = np.arange(len(folder.pictures))
    came_as = np.array([picture.part or "" for picture in folder.pictures])
    judging = "test" if (came_as == "test").any() else "validation"
    given = came_as == judging
    real = np.array([picture.judges for picture in folder.pictures])
    validation = everything[given] if given.any() else _fold(folder, validation_share, seed, everything[real])
    rest = np.setdiff1d(everything, validation)
    # What is nearly a picture that judges, and was made of it perhaps, is in no part.
    rest = rest[real[rest] | ~np.isin(folder.groups[rest], folder.groups[validation])]
    selection = rest[came_as[rest] == "validation"]
    if not len(selection):
        # Where nothing real is left to choose by, what was made has to do: it decides when to stop, and no figure.
        choosing = rest[real[rest]] if len(np.unique(folder.labels[rest[real[rest]]])) == len(folder.classes) else rest
        share = min(0.5, selection_share * len(rest) / len(choosing))
        selection = _take(folder, choosing, share, np.random.default_rng([seed, 1]))
    train = np.setdiff1d(rest, selection)
    parts = [tuple(int(i) for i in part) for part in (train, selection, validation)]
    return Split(*parts)


def folds(
    folder: PictureFolder, indices: Sequence[int], count: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Cross-validation over `indices`: (learn, judge) pairs of positions in it, stratified, groups kept whole."""
    from sklearn.model_selection import StratifiedGroupKFold

    at = np.asarray(indices, dtype=np.intp)
    labels = folder.labels[at]
    count = int(min(count, np.bincount(labels)[np.unique(labels)].min()))
    if count < 2:
        return []
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return [(learn, judge) for learn, judge in splitter.split(at, labels, folder.groups[at])]


def keep_together(folder: PictureFolder, values: Sequence[str]) -> PictureFolder:
    """The folder with all pictures of one value (a driver, a session, a part) on one side of every split.

    Pictures without a value go with their near-duplicates alone. Raises UsageError when there are fewer than three
    values: one each to learn, to choose and to judge by.
    """
    names = sorted(set(values) - {""})
    if len(names) < _LEAST_TOGETHER:
        raise UsageError(
            f"the pictures are of {len(names)} kind{'s' * (len(names) > 1)} ({', '.join(names[:3])})",
            expected=f"at least {_LEAST_TOGETHER} to keep apart: to learn, to choose and to judge by",
        )
    # A near-duplicate group that straddles two values joins them: follow links until nothing changes.
    label = np.array([names.index(v) if v else -1 for v in values], np.intp)
    merged = np.where(label >= 0, label, len(names) + folder.groups)
    while True:
        before = merged.copy()
        for groups in (folder.groups, label):
            for one in np.unique(groups[groups >= 0]):
                merged[groups == one] = merged[groups == one].min()
        if (merged == before).all():
            return replace(folder, groups=merged, together=True)


def find_unlabelled(root: Path) -> list[Path]:
    """Every picture file below a folder, sorted; hidden ones left out. Raises UsageError when there is none."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UsageError(f"{root} {what}", expected="a folder of pictures")
    try:
        found = sorted(files_below(root))
    except OSError as error:
        raise UsageError(
            f"{error.filename or root} cannot be listed ({error.strerror})", remedy="check its permissions"
        ) from error
    if not found:
        raise UsageError(f"no picture below {root}", expected="a folder of pictures")
    return found


def files_below(folder: Path) -> Iterable[Path]:
    """Every picture file below a folder, hidden ones left out. Raises OSError for a folder that cannot be listed."""

    def refused(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, onerror=refused):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        yield from (path for path in (Path(here, name) for name in files) if is_picture(path))


def _fold(folder: PictureFolder, share: float, seed: int, left: NDArray[np.intp]) -> NDArray[np.intp]:
    """Fold `seed % k` of division `seed // k` of the pictures `left`, k being 1 / share."""
    count = max(2, round(1 / share))
    division, fold = divmod(seed, count)
    if folder.together:
        return _group_fold(folder, left, count, division, fold)
    # Each fold is taken from what the folds before it left; the last is all that remains.
    for number in range(fold + 1):
        if number == count - 1:
            return left
        taken = _take(folder, left, 1 / (count - number), np.random.default_rng([division, number]))
        left, last = np.setdiff1d(left, taken), taken
    return last


def _group_fold(folder: PictureFolder, indices: NDArray[np.intp], count: int, seed: int, fold: int) -> NDArray[np.intp]:
    """One of at most `count` folds of whole groups, classes in proportion as far as groups allow."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = folder.groups[indices]
    count = min(count, len(np.unique(groups)))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    divided = [judge for _, judge in splitter.split(indices, folder.labels[indices], groups)]
    # sklearn leaves a fold empty where one group is larger than its share.
    filled = [judge for judge in divided if len(judge)]
    return np.asarray(indices[filled[fold % len(filled)]], np.intp)


def _take(folder: PictureFolder, indices: NDArray[np.intp], share: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """A share of every class, whole near-duplicate groups at a time; at least one picture, and never all."""
    if folder.together:
        return _group_fold(folder, indices, max(2, round(1 / share)), int(rng.integers(2**31)), 0)
    labels = folder.labels
    taken: list[int] = []
    done: set[int] = set()
    for label in np.unique(labels[indices]):
        members = indices[labels[indices] == label]
        wanted = int(np.clip(round(share * len(members)), 1, max(1, len(members) - 1)))
        count = sum(bool(labels[i] == label) for i in taken)
        for group in rng.permutation(np.unique(folder.groups[members])):
            inside = indices[folder.groups[indices] == group]
            own = int((labels[inside] == label).sum())
            if group in done or count + own > wanted:
                continue
            taken += [int(i) for i in inside]
            done.add(int(group))
            count += own
    return np.array(sorted(taken), dtype=np.intp)
