"""Pictures that choose or judge are not learned from: their copies are found wherever else pictures come from.

By what they show, whatever they are called: the same bytes, or what looks the same at another size or compression.
What is about to be learned from goes on without them and says so. Where it is too late for that, for a network has
learned already or a folder is handed on whole, it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_models.data.folder import PictureFolder
from edge_models.data.likeness import Thumbnail, like_any

_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Pictures, as copies of them are found."""

    hashes: Sequence[str]
    """SHA-256 of their bytes."""
    thumbnails: Sequence[Thumbnail]
    """Of them as they are: of 100 tiles' JPEG copies that were read at 64 px first, 6 were missed."""

    @classmethod
    def of(cls, folder: PictureFolder, indices: Iterable[int]) -> Seen:
        """The folder's pictures at `indices`."""
        pictures = [folder.pictures[i] for i in indices]
        return cls([p.sha256 for p in pictures], [p.thumbnail for p in pictures])

    def are_among(self, others: Seen) -> NDArray[np.bool_]:
        """(N,) which of these pictures are also among others, or look like one of them."""
        known = set(others.hashes)
        same = np.array([digest in known for digest in self.hashes], np.bool_)
        return same | like_any(self.thumbnails, others.thumbnails)


def left_out(root: object, names: Sequence[str]) -> str:
    """The sentence that a user gets of pictures that judge, in a folder that is learned from without them."""
    return f"{root}: left out {_judging(names)}"


def refuse(found: str, names: Sequence[str], remedy: str) -> None:
    """Raise UsageError where there are pictures that judge: `found` and their number are the sentence's beginning."""
    if names:
        raise UsageError(
            f"{found} {_judging(names)}",
            expected="pictures that nothing is chosen or judged by",
            remedy=remedy,
        )


def _judging(names: Sequence[str]) -> str:
    told = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    those = "that judges, or looks" if len(names) == 1 else "that judge, or look"
    return f"{counted(len(names), 'picture')} {those} like one that does ({told})"
