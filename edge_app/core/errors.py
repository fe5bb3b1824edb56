"""Every error of the application: one line that says what was found, what was expected and what to do.

Only the command line and the terminal app put them into print.
"""

from __future__ import annotations

from edge_app.core.plain_text import plain


class EdgeError(Exception):
    """A failure told in one line: what was found, what was expected, what to do; nothing in it steers a terminal."""

    def __init__(self, found: str, *, expected: str = "", remedy: str = "") -> None:
        self.found = found
        self.expected = expected
        self.remedy = remedy
        parts = [found, f"expected {expected}" if expected else "", remedy]
        super().__init__(plain("; ".join(" ".join(part.split()) for part in parts if part)))


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
