"""What a folder holds: its pictures, its videos, and how many files of which kinds are neither."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_app.core.counts import counted
from edge_app.core.errors import MediaError
from edge_app.media.kinds import Kind, kind_of
from edge_app.media.pictures import can_read_heic

JUNK: Final = frozenset({"@eadir", "#recycle", "#snapshot", "@tmp", "__macosx", "$recycle.bin", "lost+found"})
"""Folders that storage systems and archives make, in small letters: thumbnails, deleted files, resource forks."""
_JUNK_FILES: Final = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})

_WORDS: Final[dict[Kind, tuple[str, str]]] = {
    "picture": ("picture outside the sub-folders", "pictures outside the sub-folders"),
    "heic": ("HEIC picture", "HEIC pictures"),
    "raw": ("raw photo", "raw photos"),
    "video": ("video", "videos"),
    "folder": ("sub-folder", "sub-folders"),
    "empty": ("empty file", "empty files"),
    "special": ("pipe or device", "pipes or devices"),
    "unreadable": ("file that may not be read", "files that may not be read"),
    "other": ("other file", "other files"),
}
_MOST_SUFFIXES: Final = 4

Unused = Counter[tuple[Kind, str]]
"""Files by kind and suffix, the latter in small letters."""


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files of a folder, each list sorted by path."""

    pictures: tuple[Path, ...]
    """What `read_picture` takes; HEIC too where its extra is installed."""
    videos: tuple[Path, ...]
    unused: Unused
    """What is neither; hidden files and the junk of storage systems are not counted."""

    def left(self) -> Unused:
        """What a command that takes pictures alone does not use."""
        return self.unused + Counter(("video", path.suffix.lower()) for path in self.videos)


def list_folder(folder: Path, *, recursive: bool = False) -> FolderListing:
    """List a folder by what its files hold, whatever they are called.

    Hidden files and junk are left out. Links to folders are followed, each real folder once, so loops end. Raises
    MediaError when the folder is absent or cannot be listed; a folder without pictures is an empty listing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"{folder} does not exist"
        raise MediaError(found, expected="a folder of pictures", remedy="check the path")
    by_kind: dict[Kind, list[Path]] = {"picture": [], "video": []}
    unused: Unused = Counter()
    for path in sorted(_walk(folder, recursive)):
        kind = _readable_kind(path)
        if kind in by_kind:
            by_kind[kind].append(path)
        else:
            unused[kind, path.suffix.lower()] += 1
    return FolderListing(tuple(by_kind["picture"]), tuple(by_kind["video"]), unused)


def find_pictures(folder: Path, *, recursive: bool = False, unused: list[Unused] | None = None) -> list[Path]:
    """The pictures of a folder, sorted; see `list_folder`. What else it holds, videos too, is added to `unused`.

    Raises MediaError when there is no picture.
    """
    listing = list_folder(folder, recursive=recursive)
    left = listing.left()
    if not listing.pictures:
        there = unused_words(left)
        where = "nor in the folders below it" if recursive else "sub-folders were not searched"
        raise MediaError(
            f"no picture in {folder} ({where}{f'; it holds {there}' if there else ''})",
            expected="JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or JPEG 2000 files",
            remedy="name a folder that holds pictures",
        )
    if unused is not None:
        unused.append(left)
    return list(listing.pictures)


def named_folders(
    folder: Path, *, of: str, unused: list[Unused], problem: Callable[[str], object]
) -> list[tuple[str, list[Path]]]:
    """The sub-folders of a folder, sorted, each a name with its pictures; `of` says of what, as in "person".

    One without pictures has none and is told to `problem`; what else lies about is added to `unused`. Raises MediaError
    when there is no sub-folder.
    """
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder", expected=f"a folder with a sub-folder per {of}")
    try:
        entries = sorted(path for path in folder.iterdir() if not is_junk(path.name))
    except OSError as error:
        raise MediaError(f"{folder} cannot be listed ({error.strerror})", remedy="allow reading it") from error
    people = [path for path in entries if path.is_dir()]
    if not people:
        raise MediaError(f"{folder} has no sub-folder", expected=f"a sub-folder of pictures per {of}")
    unused.append(Counter((kind_of(path), path.suffix.lower()) for path in entries if path not in people))
    found = []
    for person in people:
        pictures: list[Path] = []
        try:
            pictures = find_pictures(person, unused=unused)
        except MediaError as error:
            problem(str(error))
        found.append((person.name, pictures))
    return found


def unused_words(unused: Unused) -> str:
    """How many files of which kinds, in words, with what to do about them; "" when there are none."""
    parts = []
    for kind, (one, many) in _WORDS.items():
        suffixes = Counter({suffix: count for (of, suffix), count in unused.items() if of == kind})
        count = suffixes.total()
        if not count:
            continue
        words = counted(count, one, many)
        if kind == "heic":
            words += " (to read them: pip install 'edge-app[heic]')"
        elif kind == "raw":
            words += " (export them as JPEG)"
        elif kind == "other":
            named = [suffix or "no suffix" for suffix, _ in suffixes.most_common(_MOST_SUFFIXES)]
            words += f" ({', '.join(named)}{', ...' if len(suffixes) > _MOST_SUFFIXES else ''})"
        parts.append(words)
    return ", ".join(parts)


def unused_line(counts: Iterable[Unused]) -> str:
    """One line for the end of a command: what of its folders was not used; "" when all was."""
    words = unused_words(sum(counts, Counter()))
    return f"not used: {words}" if words else ""


def is_picture(path: Path) -> bool:
    """Whether a file is a picture that can be read here, by what it holds, and no junk of a storage system."""
    return not is_junk(path.name) and _readable_kind(path) == "picture"


def _readable_kind(path: Path) -> Kind:
    kind = kind_of(path)
    return "picture" if kind == "heic" and can_read_heic() else kind


def is_junk(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or made by a storage system and nobody's picture."""
    small = name.lower()
    return small.startswith(".") or small in JUNK or small in _JUNK_FILES


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    """Every file, and every sub-folder that is not looked into."""

    def refuse(error: OSError) -> None:
        raise MediaError(
            f"{error.filename} cannot be listed ({error.strerror or error})",
            remedy="allow reading it, or name another folder",
        ) from error

    seen: set[str] = set()
    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        # Sorted, so that of two links to one folder it is always the same that is taken.
        kept = sorted(name for name in folders if not is_junk(name))
        folders[:] = kept if recursive else []
        yield from (Path(here, name) for name in files if not is_junk(name))
        if not recursive:
            yield from (Path(here, name) for name in kept)
