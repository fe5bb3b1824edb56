"""The mark of a picture that was made, inside its file, so that it survives copying: what it was made of, and how.

`edge-app compose` and `generate` write it; `edge_models.data.checks` reads it, and keeps such pictures, and the ones
that parts of them were cut from, out of every part that judges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, PngImagePlugin

from edge_app.core.types import Pixels
from edge_app.media.pictures import comment_of

KEY: Final = "edge_app.made"
"""Of the text chunk of a PNG, and what the comment of a JPEG begins with."""
_MOST_BYTES: Final = 65_536
"""Of a mark; a stranger's is not read further."""


def marked(by: str, sources: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The mark: which command made it, the SHA-256 of the files it was made of, and what else tells how."""
    return json.dumps({"by": by, "sources": sorted(set(sources)), **facts}, sort_keys=True)


def write_made(path: Path, pixels: Pixels, mark: str) -> None:
    """Write uint8 RGB (H, W, 3), or RGBA (H, W, 4), to a .png with its mark; the same bytes for the same arguments.

    Raises OSError.
    """
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, mark)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, "PNG", pnginfo=text)
    path.chmod(0o600)


def mark_of(path: Path) -> dict[str, Any] | None:
    """The mark of a file, None where it has none. A mark that cannot be read is one without sources."""
    try:
        with path.open("rb") as file:
            head = file.read(_MOST_BYTES)
    except OSError:
        return None
    at = head.find(KEY.encode() + b"\0")
    if head.startswith(b"\x89PNG") and at >= 0:
        size = int.from_bytes(head[at - 8 : at - 4], "big")
        return _read(head[at + len(KEY) + 1 : at - 0 + size])
    if head.startswith(b"\xff\xd8") and (comment := comment_of(path)).startswith(KEY):
        return _read(comment.removeprefix(KEY).strip().encode())
    return None


def sources_of(mark: Mapping[str, Any]) -> frozenset[str]:
    """SHA-256 of the files that it was made of."""
    found = mark.get("sources")
    return frozenset(one for one in found if isinstance(one, str)) if isinstance(found, list) else frozenset()


def _read(text: bytes) -> dict[str, Any]:
    try:
        mark = json.loads(text)
    except ValueError:
        return {}
    return mark if isinstance(mark, dict) else {}
