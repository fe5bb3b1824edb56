"""Liveness networks over several frames, and how the face moves in its surroundings: cues that may only deny."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from edge_app.core.errors import UsageError
from edge_app.core.task import Task
from edge_app.core.types import Face, Pixels
from edge_app.inference.classifier import Classifier
from edge_app.inference.geometry import face_area, face_scale
from edge_app.model_store import catalogue
from edge_app.recognition.classes import ClassRecognizer
from edge_app.recognition.sheet_motion import SheetMotion
from edge_app.system.data_folder import Home

LIVE_LABEL: Final = "live"
_LEAST_LOOKS: Final = 10
"""Single frames are wrong too often: networks at hand call an eighth of photographs of people fakes. And so many show
how the face moves in its surroundings."""


@dataclass(slots=True, eq=False)
class PassiveLiveness:
    """What liveness networks make of one person's face so far."""

    networks: Sequence[ClassRecognizer]
    least_looks: int = _LEAST_LOOKS
    """Frames without which nothing is said."""
    _seen: list[float] = field(default_factory=list)
    _motion: SheetMotion = field(default_factory=SheetMotion)
    _together: bool = False

    def see(self, pixels: Pixels, face: Face) -> None:
        """Judge the face in (H, W, 3) uint8 RGB pixels, if what surrounds it is in the picture for every network.

        On faces without their surroundings such networks are worthless, so they are not asked.
        """
        self._motion.see(pixels, face)
        self._together = self._together or self._motion.together is True
        height, width = pixels.shape[:2]
        scales = [face_scale(network.card.crop) for network in self.networks if network.card.crop.startswith("face-")]
        if not all(_fits(face, scale, width, height) for scale in scales):
            return
        answers = [network.judge(pixels, face) for network in self.networks]
        shares = [one.probability for answer in answers for one in answer.scores if one.label == LIVE_LABEL]
        self._seen.append(sum(shares) / len(shares))

    @property
    def verdict(self) -> bool | None:
        """True for live, by the median over the frames; False for fake; None: not checked, which is neither."""
        if self._together:
            return False
        return None if self.share is None else self.share >= 0.5

    @property
    def reason(self) -> str:
        """Why the verdict is False, one line."""
        if self._together:
            return "what surrounds the face moves with it, as a picture in a hand does"
        return f"liveness networks give it {self.share or 0.0:.2f}, 0.50 is needed"

    @property
    def share(self) -> float | None:
        """The median probability of being live, [0, 1]; None before there are frames enough."""
        return None if len(self._seen) < self.least_looks else median(self._seen)


def open_liveness(home: Home, threads: int | None = None) -> list[ClassRecognizer]:
    """Open every liveness network that the user has installed. Raises UsageError when there is none."""
    from edge_app.model_store.open_detector import open_detector

    found = {entry.id: entry for entry in catalogue.installed(home) if entry.task is Task.LIVENESS}
    if not found:
        raise UsageError(
            "no liveness network is installed", remedy="edge-app models pull minifasnet-2.7, or models add FILE"
        )
    detector = open_detector("yunet", threads=threads)
    return [ClassRecognizer(Classifier(catalogue.open_entry(entry, threads)), detector) for entry in found.values()]


def _fits(face: Face, scale: float, width: int, height: int) -> bool:
    """Whether the face's surroundings, at that scale, lie in the picture without being moved or shrunk."""
    x1, y1, x2, y2 = face_area(face.box, scale, width, height)
    middle_x, middle_y = float(face.box[0] + face.box[2]) / 2, float(face.box[1] + face.box[3]) / 2
    centred = (
        abs((x1 + x2) / 2 - middle_x) < 0.1 * face.width_px and abs((y1 + y2) / 2 - middle_y) < 0.1 * face.height_px
    )
    return centred and (x2 - x1) >= 0.95 * scale * face.width_px
