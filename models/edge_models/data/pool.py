"""Reads folders of pictures without labels, without what judges, what is labelled already and what is there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_app.core.counts import counted
from edge_app.core.errors import MediaError, UsageError
from edge_app.core.types import Pixels
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of_file
from edge_app.system.parallel import cores, ordered_map
from edge_models.data.folder import PictureFolder, find_unlabelled
from edge_models.data.judging import Seen, left_out
from edge_models.data.likeness import Thumbnail, thumbnail_of
from edge_models.fitting.progress import Progress


def distinct_pictures(root: Path, least: int, progress: Progress) -> Iterator[tuple[Path, Pixels]]:
    """Every picture below a folder, each content once: the same pixels under another name, or in a file that keeps
    every one of them, are a repeat.

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
            content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
            if content not in known:
                known.add(content)
                yield path, pixels
        if done % 64 == 0 or done == len(found):
            progress.advance(done)
    if unreadable:
        progress.note(f"{root}: left out, for it cannot be read: {len(unreadable)} of {len(found)} ({unreadable[0]})")
    if repeated := len(found) - len(unreadable) - len(known):
        progress.note(f"{root}: left out, for it is there twice: {repeated} of {len(found)}")
    if len(known) < least:
        raise UsageError(
            f"{root} holds {counted(len(known), 'distinct picture')}",
            expected=f"at least {least}",
            remedy="from fewer a network learns them by heart; add pictures",
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """The pictures of a pool that may be learned from, and why the others may not."""

    files: tuple[tuple[Path, str], ...]
    """With the SHA-256 of their bytes; each content once."""
    labelled: tuple[tuple[Path, str], ...]
    """Others that the labelled folder holds too, byte by byte, and learns from."""
    judging: tuple[Path, ...]
    """What judges, or looks like a picture that does."""
    unreadable: tuple[str, ...]
    repeated: int

    def notes(self, root: Path) -> list[str]:
        """What was left out, and why, where `labelled` is too."""
        told = [
            f"{root}: left out {counted(count, one)}{why}"
            for count, one, why in (
                (len(self.labelled), "picture", " of the labelled folder"),
                (self.repeated, "repeated picture", ""),
                (len(self.unreadable), "unreadable picture", f" ({next(iter(self.unreadable), '')})"),
            )
            if count
        ]
        return [left_out(root, [path.name for path in self.judging]), *told] if self.judging else told


def read_pool(root: Path, folder: PictureFolder, judging: Iterable[int]) -> Pool:
    """Read the pictures below `root`; `judging` are indices into the folder's pictures that are not to be learned from.

    Raises UsageError for a folder that is absent, empty or cannot be listed.
    """

    def read(path: Path) -> tuple[Path, str, Thumbnail] | str:
        try:
            return path, sha256_of_file(path), thumbnail_of(read_picture(path))
        except OSError as error:
            return f"{path}: {error.strerror}"
        except MediaError as error:
            return str(error)

    unreadable: list[str] = []
    seen: dict[str, tuple[Path, Thumbnail]] = {}
    repeated = 0
    for found in ordered_map(read, find_unlabelled(root), cores()):
        if isinstance(found, str):
            unreadable.append(found)
        elif found[1] in seen:
            repeated += 1
        else:
            seen[found[1]] = found[0], found[2]
    judges = Seen(list(seen), [thumbnail for _, thumbnail in seen.values()]).are_among(Seen.of(folder, judging))
    known = {picture.sha256 for picture in folder.pictures}
    others = [(path, digest) for (digest, (path, _)), left in zip(seen.items(), judges, strict=True) if not left]
    return Pool(
        tuple(one for one in others if one[1] not in known),
        tuple(one for one in others if one[1] in known),
        tuple(path for (path, _), left in zip(seen.values(), judges, strict=True) if left),
        tuple(unreadable),
        repeated,
    )
