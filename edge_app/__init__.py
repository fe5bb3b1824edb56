"""Teach a laptop to recognize anyone from two pictures, offline, on its CPU; see docs/api.md."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_app.api import People as People
    from edge_app.core.errors import EdgeError as EdgeError
    from edge_app.core.task import LookFor as LookFor
    from edge_app.core.types import Embedding as Embedding
    from edge_app.core.types import Face as Face
    from edge_app.core.types import Finding as Finding
    from edge_app.core.types import Frame as Frame
    from edge_app.core.types import Match as Match
    from edge_app.core.types import Seen as Seen
    from edge_app.gallery.enrollment import Verdict as Verdict
    from edge_app.live.events import LiveEvent as LiveEvent
    from edge_app.recognition.open_session import open_session as open_session
    from edge_app.system.settings import Settings as Settings

# ONNX Runtime 1.31 tells mobile.events.data.microsoft.com of every session, and keeps a data base of events in
# ~/.cache/Microsoft, unless this is set before it is loaded; its disable_telemetry_events() comes too late for that
# (both seen with a proxy that listens). Nothing leaves this machine unasked.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.2.0"

_WHERE = {
    "People": "edge_app.api",
    "EdgeError": "edge_app.core.errors",
    "LookFor": "edge_app.core.task",
    "Embedding": "edge_app.core.types",
    "Face": "edge_app.core.types",
    "Finding": "edge_app.core.types",
    "Frame": "edge_app.core.types",
    "Match": "edge_app.core.types",
    "Seen": "edge_app.core.types",
    "Verdict": "edge_app.gallery.enrollment",
    "LiveEvent": "edge_app.live.events",
    "open_session": "edge_app.recognition.open_session",
    "Settings": "edge_app.system.settings",
}
"""The public surface. Loaded when it is asked for: `edge-app --help` needs neither ONNX Runtime nor OpenCV."""

__all__ = ["__version__", *_WHERE]  # noqa: PLE0604 - the names are in one place


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'edge_app' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
