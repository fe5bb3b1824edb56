"""Follows one person through the frames while a challenge asks them to move."""

from __future__ import annotations

from collections.abc import Callable

from edge_app.core.types import Embedding, Face, Finding, Float32s, Frame, Seen
from edge_app.inference.face_mesh import FaceMesh
from edge_app.inference.geometry import box_iou
from edge_app.live.challenge import Challenge, Progress, Sight
from edge_app.model_store.catalogue import open_shipped
from edge_app.recognition.faces import PeopleSession

_ALSO_THERE = 0.5
"""Another face is in the way from this share of the person's size on: those farther back are passers-by."""


class Examiner:
    """Shows a challenge what each frame has of the person; it looks at the frames that a `FaceMode` has observed."""

    def __init__(
        self,
        session: PeopleSession,
        name: str | None,
        mesh: FaceMesh,
        challenge: Challenge,
        record: Callable[[Frame, Progress], None] | None = None,
    ) -> None:
        """`record` takes every frame from the one on which the person is first named.

        `name`: None lets whoever is first seen be the person, and compares turned faces with that first look.
        """
        self.name = name
        self._recognizer = session.recognizer
        self._record = record
        self._mesh = mesh
        self._challenge = challenge
        self._own: list[Embedding] = []
        if name is not None and session.vault is not None:
            identity = session.vault.identity(name, session.recognizer.embedder.model_id)
            self._own = [template.embedding for template in identity.templates]
        self._track: int | None = None
        self._last: Float32s | None = None

    @classmethod
    def of(cls, session: PeopleSession, name: str) -> Examiner:
        """One for a person who is enrolled, with a fresh challenge. Raises GalleryError when nobody has the name."""
        challenge = Challenge(similar_from=session.recognizer.rule.same_person or -1.0)
        return cls(session, name, FaceMesh(open_shipped("face-mesh", threads=1)), challenge)

    @property
    def progress(self) -> Progress:
        """Where the challenge stands after the last frame."""
        return self._challenge.progress

    def look(self, frame: Frame, seen: Seen) -> None:
        """Take in a frame and what was found in it; once there is an outcome, nothing changes any more."""
        if self.progress.outcome != "waiting":
            return
        if self._track is None:
            there = (f for f in seen.findings if f.face is not None and f.track is not None and self._is_theirs(f))
            self._track = next((f.track for f in there), None)
        own = next((f for f in seen.findings if f.track is not None and f.track == self._track), None)
        own = own or next((f for f in seen.findings if f.name is not None and f.name == self.name), None)
        progress = self._challenge.see(self._sight(frame, seen, own))
        if self._record is not None and progress.began_s is not None:
            self._record(frame, progress)

    def _sight(self, frame: Frame, seen: Seen, own: Finding | None) -> Sight:
        if own is None or own.face is None:
            # Whoever stands in the person's place now is not the one who was asked.
            there = [
                f for f in seen.findings if self._last is not None and box_iou(f.box[None], self._last)[0, 0] > 0.3
            ]
            return Sight(frame.time_s, there[0].track if there else None)
        face = own.face
        self._last = face.box[None]
        if not self._own:
            self._own = [self._embed(frame, face)]
        mesh = self._mesh.find(frame.pixels, face)
        others = (f.face for f in seen.findings if f is not own and f.face is not None)
        others_near = sum(other.size_px >= _ALSO_THERE * face.size_px for other in others)
        return Sight(
            frame.time_s,
            own.track,
            self._is_theirs(own),
            mesh.points if mesh.presence > 0.5 else None,
            mesh.eye_distance_px,
            others_near,
            lambda: self._similarity(frame, face),
        )

    def _is_theirs(self, finding: Finding) -> bool:
        """Whether a face carries the name of the person, or may be anybody's."""
        return self.name is None or finding.name == self.name

    def _similarity(self, frame: Frame, face: Face) -> float:
        """Of a turned face to the person, its landmarks found anew."""
        embedding = self._embed(frame, face)
        return max((embedding.similarity(one) for one in self._own), default=1.0)

    def _embed(self, frame: Frame, face: Face) -> Embedding:
        recognizer = self._recognizer
        [checked] = recognizer.detector.check(frame.pixels, [face])
        [embedding] = recognizer.embedder.embed(recognizer.embedder.crops(frame.pixels, [checked.face]))
        return embedding
