"""Which mode a session gets in the live loop."""

from __future__ import annotations

from edge_app.live.class_mode import ClassMode
from edge_app.live.face_mode import FaceMode
from edge_app.live.mode import Mode
from edge_app.live.thing_mode import ThingMode
from edge_app.live.tracker import TrackerOptions
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.session import Session
from edge_app.recognition.things import ThingSession


def mode_for(session: Session, options: TrackerOptions | None = None) -> Mode:
    """Make the mode for a session: its own, or `ClassMode`, which serves every recognizer."""
    if isinstance(session, PeopleSession):
        return FaceMode(session, options)
    if isinstance(session, ThingSession):
        return ThingMode(session)
    return ClassMode(session)
