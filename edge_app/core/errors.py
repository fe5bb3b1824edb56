"""The errors of the application: one line each, of what was found, what was expected and what to do."""

from __future__ import annotations

from edge_app.core.plain_text import plain

_PART_LIMIT = 4000
"""Characters of each part: a line that holds a stranger's file is no line."""


class EdgeError(Exception):
    """A failure in one line: what was found, what was expected, what to do; nothing in it steers a terminal."""

    def __init__(self, found: str, *, expected: str = "", remedy: str = "") -> None:
        self.found, self.expected, self.remedy = (
            plain(" ".join(part[:_PART_LIMIT].split())) for part in (found, expected, remedy)
        )
        parts = [self.found, f"expected {self.expected}" if self.expected else "", self.remedy]
        super().__init__("; ".join(part for part in parts if part))


class UsageError(EdgeError):
    """The caller asked for something that makes no sense (exit code 2)."""


class CameraError(EdgeError):
    """A frame source is absent, busy, lost or delivers nothing usable."""


class ModelError(EdgeError):
    """A model file is missing, damaged, changed, or not what its card says."""


class GalleryError(EdgeError):
    """The gallery cannot be read, written, or matched against."""


class MediaError(EdgeError):
    """A picture or video cannot be read or written."""
