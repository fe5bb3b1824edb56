"""What the steps of a sift share: models, opened when first asked for, and what was already seen of a picture."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import cv2

from edge_app.core.errors import UsageError
from edge_app.core.task import LookFor, Task
from edge_app.core.types import Classification, Face, Float32s, Frame, Match, Pixels
from edge_app.media.pictures import Picture, open_picture
from edge_app.model_store.catalogue import builds, catalogue, open_entry
from edge_app.recognition.open_session import OpenOptions, open_people, open_session
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings

if TYPE_CHECKING:
    from edge_app.inference.detector import Detector, DetectorOptions
    from edge_app.recognition.classes import ClassRecognizer
    from edge_app.recognition.faces import PeopleSession
    from edge_app.recognition.things import ThingRecognizer

Kept = TypeVar("Kept")
_SHARPNESS_SIDE_PX: Final = 256
"""Shorter side at which sharpness is measured: detail depends on the scale."""


class Tools:
    """The models of one sift. Each is opened once, by the first step that needs it; threads may share them."""

    def __init__(
        self, home: Home, settings: Settings, detector: DetectorOptions | None = None, embedder: str | None = None
    ) -> None:
        """`embedder`: the general image embedder that likeness is measured with; None: the only one installed."""
        self.home, self.settings = home, settings
        self._detector, self._embedder = detector, embedder
        self._opened: dict[str, Any] = {}
        self._lock = threading.RLock()

    def models(self, *tasks: Task) -> tuple[str, ...]:
        """Ids of the models at hand for any of these tasks."""
        return tuple(dict.fromkeys(entry.id for entry in catalogue(self.home) if entry.task in tasks))

    def people(self) -> PeopleSession:
        """The enrolled people, with detector and embedder."""
        return self._once("people", lambda: open_people(self.home, self.settings, OpenOptions(detector=self._detector)))

    def detector(self) -> Detector:
        """The face detector, without what else it takes to name people."""
        from edge_app.model_store.open_detector import open_detector

        name, threads = self.settings.detector, self.settings.threads
        return self._once("detector", lambda: open_detector(name, self._detector, threads, self.home))

    def classifier(self, model_id: str) -> ClassRecognizer:
        """Opened with one thread and the build that runs here. Raises UsageError where there is no such model."""
        options = OpenOptions(detector=self._detector)
        opened = self._once(
            f"model {model_id}", lambda: open_session(self.home, self.settings, LookFor(model_id), options)
        )
        return cast("ClassRecognizer", opened.recognizer)

    def embedder(self) -> ThingRecognizer:
        """The general image embedder. Raises UsageError where there is none, or several and none was named."""
        known = self.models(Task.IMAGE_EMBEDDING)
        if not known or (self._embedder is None and len(known) > 1):
            raise UsageError(
                f"{len(known) or 'no'} general image embedder{'s are' if known else ' is'} installed",
                expected=f"--embedder with one of {', '.join(known)}" if known else "one, to measure likeness with",
                remedy=""
                if known
                else "make one: edge-app export backbone -o lite0.onnx && edge-app models add lite0.onnx",
            )
        if self._embedder is not None and self._embedder not in known:
            raise UsageError(
                f"there is no general image embedder {self._embedder!r}", expected=f"one of {', '.join(known)}"
            )
        return self._once("embedder", lambda: open_eye(self.home, self.settings, self._embedder or known[0]))

    def close(self) -> None:
        """Close the gallery's file, where it was opened."""
        if "people" in self._opened:
            self._opened["people"].close()

    def _once(self, name: str, make: Callable[[], Kept]) -> Kept:
        with self._lock:
            if name not in self._opened:
                self._opened[name] = make()
            return cast(Kept, self._opened[name])


def open_eye(home: Home, settings: Settings, model_id: str) -> ThingRecognizer:
    """A general image embedder for its vectors alone: it needs no gallery, and no thresholds."""
    from edge_app.gallery.matching import NAMES_NOBODY, Gallery
    from edge_app.inference.embedder import Embedder
    from edge_app.model_store.choose_build import choose
    from edge_app.recognition.things import ThingRecognizer

    has = settings.precision in {entry.precision for entry in builds(home, model_id)}
    entry = choose(model_id, settings.precision if has else "auto", home, settings.threads).entry
    embedder = Embedder(open_entry(entry, settings.threads))
    return ThingRecognizer(embedder, Gallery.empty(model_id), NAMES_NOBODY)


@dataclass(slots=True)
class Look:
    """One picture as the steps see it; what one step found out the next need not find out again."""

    path: Path
    tools: Tools
    _seen: dict[str, Any] = field(default_factory=dict)

    @property
    def picture(self) -> Picture:
        """Raises MediaError where it cannot be read."""
        return self._once("picture", lambda: open_picture(self.path))

    @property
    def pixels(self) -> Pixels:
        return self.picture.pixels

    @property
    def faces(self) -> tuple[Face, ...]:
        """All faces, also those on their side and upside down."""
        return self._once("faces", lambda: self.tools.detector().detect(self.pixels, any_way_up=True))

    @property
    def people(self) -> tuple[Match, ...]:
        """Who the faces are."""

        def match() -> tuple[Match, ...]:
            people = self.tools.people().recognizer
            embeddings = people.embedder.embed(people.embedder.crops(self.pixels, self.faces))
            return tuple(people.gallery.match(embeddings, people.rule))

        return self._once("people", match)

    def classes(self, model_id: str) -> tuple[Classification, ...]:
        """What a classifier says of the picture, or of each face in it."""

        def classify() -> tuple[Classification, ...]:
            recognizer = self.tools.classifier(model_id)
            if recognizer.finds_faces:
                return tuple(recognizer.judge(self.pixels, face) for face in self.faces)
            seen = recognizer.observe(Frame(self.pixels))
            return tuple(cast(Classification, finding.answer) for finding in seen.findings)

        return self._once(f"model {model_id}", classify)

    @property
    def vector(self) -> Float32s:
        """The picture as a unit vector of the general image embedder."""
        return self._once("vector", lambda: self.tools.embedder().vector(self.pixels))

    @property
    def sharpness(self) -> float:
        """Fine detail at a shorter side of 256 px; see `edge_app.inference.face_quality.detail`."""

        def measure() -> float:
            from edge_app.inference.face_quality import detail
            from edge_app.inference.geometry import resize

            height, width = self.pixels.shape[:2]
            scale = min(1.0, _SHARPNESS_SIDE_PX / min(height, width))
            small = resize(self.pixels, max(1, round(width * scale)), max(1, round(height * scale)))
            return detail(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))

        return self._once("sharpness", measure)

    def _once(self, name: str, make: Callable[[], Kept]) -> Kept:
        if name not in self._seen:
            self._seen[name] = make()
        return cast(Kept, self._seen[name])
