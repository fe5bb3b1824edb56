"""Live mode for a login: one person is waited for, and asked to move."""

from __future__ import annotations

from collections.abc import Callable

from edge_app.core.types import Frame
from edge_app.inference.face_mesh import FaceMesh
from edge_app.live.challenge import Challenge, Progress
from edge_app.live.examiner import Examiner
from edge_app.live.face_mode import FaceMode
from edge_app.recognition.faces import PeopleSession


class ChallengeMode(FaceMode):
    """Everybody in front of the source, of whom one person is asked to move in ways that a picture cannot."""

    def __init__(
        self,
        session: PeopleSession,
        name: str | None,
        mesh: FaceMesh,
        challenge: Challenge,
        record: Callable[[Frame, Progress], None] | None = None,
    ) -> None:
        """See `Examiner`."""
        super().__init__(session)
        self.examiner = self._asks = Examiner(session, name, mesh, challenge, record)

    @property
    def progress(self) -> Progress:
        """Where the challenge stands after the last frame."""
        return self._asks.progress
