"""Reads a pool of pictures without labels, and finds among them those that a labelled folder holds already."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import MediaError, UsageError
from edge_app.core.types import Pixels
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of_file
from edge_app.system.parallel import cores, ordered_map
from edge_models.data.folder import PictureFolder, find_unlabelled
from edge_models.data.likeness import near_between, thumbnail_of
from edge_models.fitting.progress import Progress

_READ_PX = 64
"""Longest side at which a pool is read here: a thumbnail needs no more, and a JPEG comes four times as fast."""


def pixels_hash(pixels: Pixels) -> str:
    """SHA-256 of a picture's pixels: the same for another name, and for another file that keeps every pixel."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def distinct_pictures(root: Path, least: int, progress: Progress) -> Iterator[tuple[Path, str, Pixels]]:
    """Every picture below a folder with the hash of its pixels, each content once.

    What cannot be read is told and left out, and so are repeats. Raises UsageError behind the last one where fewer than
    `least` came.
    """
    found, known, unreadable = find_unlabelled(root), set[str](), list[str]()
    progress.stage(f"reading {root.name}", len(found))
    for done, path in enumerate(found, 1):
        try:
            pixels = read_picture(path)
        except MediaError as error:
            unreadable.append(error.found)
        else:
            content = pixels_hash(pixels)
            if content not in known:
                known.add(content)
                yield path, content, pixels
        if done % 64 == 0 or done == len(found):
            progress.advance(done)
    if unreadable:
        progress.note(f"{root}: left out, for it cannot be read: {len(unreadable)} of {len(found)} ({unreadable[0]})")
    if repeated := len(found) - len(unreadable) - len(known):
        progress.note(f"{root}: left out, for it is there twice: {repeated} of {len(found)}")
    if len(known) < least:
        raise UsageError(
            f"{root} holds {len(known)} pictures that differ",
            expected=f"at least {least}",
            remedy="from fewer a network learns them by heart; add pictures",
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """The pictures of a pool that may be learned from, and why the others may not."""

    files: tuple[tuple[Path, str], ...]
    """With the SHA-256 of their bytes; each content once."""
    unreadable: tuple[str, ...]
    labelled: int
    """Files of the labelled folder, byte by byte."""
    judging: int
    """Others that look like a picture that judges: the same with other bytes, another size or another compression."""
    repeated: int

    def notes(self, root: Path) -> list[str]:
        """What was left out, and why."""
        told = [
            (self.labelled, "pictures of the labelled folder"),
            (self.judging, "pictures that look like one that judges"),
            (self.repeated, "repeated pictures"),
            (len(self.unreadable), f"pictures that cannot be read ({next(iter(self.unreadable), '')})"),
        ]
        return [f"{root}: {count} {what} left out" for count, what in told if count]


def read_pool(root: Path, folder: PictureFolder, judging: Collection[int]) -> Pool:
    """Read the pictures below `root`; `judging` are indices into the folder's pictures that nothing may be told of.

    Raises UsageError for a folder that is absent, empty or cannot be listed.
    """

    def read(path: Path) -> tuple[Path, str, NDArray[np.uint8]] | str:
        try:
            return path, sha256_of_file(path), thumbnail_of(read_picture(path, max_px=_READ_PX))
        except OSError as error:
            return f"{path}: {error.strerror}"
        except MediaError as error:
            return str(error)

    known = {picture.sha256 for picture in folder.pictures}
    unreadable: list[str] = []
    seen: dict[str, Path] = {}
    thumbs: list[NDArray[np.uint8]] = []
    labelled = repeated = 0
    for found in ordered_map(read, find_unlabelled(root), cores()):
        if isinstance(found, str):
            unreadable.append(found)
            continue
        path, digest, thumbnail = found
        if digest in known:
            labelled += 1
        elif digest in seen:
            repeated += 1
        else:
            seen[digest] = path
            thumbs.append(thumbnail)
    near = _alike([folder.pictures[i].thumbnail for i in judging], thumbs)
    files = [(path, digest) for at, (digest, path) in enumerate(seen.items()) if at not in near]
    return Pool(tuple(files), tuple(unreadable), labelled, len(near), repeated)


def unjudged_files(
    root: Path, folder: PictureFolder, judging: Iterable[int], remedy: str = ""
) -> list[tuple[Path, str]]:
    """Pictures below `root` with the SHA-256 of their bytes; `judging` are indices into the folder's pictures.

    Raises UsageError where one of them is a picture that judges, byte by byte.
    """
    judges = {folder.pictures[i].sha256 for i in judging}
    files = [(path, sha256_of_file(path)) for path in find_unlabelled(root)]
    if seen := [path.name for path, digest in files if digest in judges]:
        raise UsageError(
            f"{root} holds {len(seen)} pictures that judge ({', '.join(seen[:3])})",
            expected="pictures that nothing is judged by",
            remedy=remedy,
        )
    return files


def _alike(judging: Sequence[NDArray[np.uint8]], thumbs: Sequence[NDArray[np.uint8]]) -> set[int]:
    """Which of `thumbs` look like one that judges; plain ones, which have no signs to compare, where they are equal."""
    near = {j for _, j in near_between(judging, thumbs)}
    plain = {one.tobytes() for one in judging if not np.ptp(one)}
    return near | {j for j, one in enumerate(thumbs) if plain and one.tobytes() in plain}
