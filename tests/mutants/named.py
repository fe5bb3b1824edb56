"""Breakages that no test noticed once (version 0.1.0): each must stay killed."""

from __future__ import annotations

from pathlib import Path

from tests.mutants.mutate import Mutant

_NAMED = (
    # name, file, what stands there once, what is put in its place
    ("scene change: one cell more", "edge_app/live/scene_change.py", "CELLS: Final = 6", "CELLS: Final = 7"),
    ("scene change: one cell fewer", "edge_app/live/scene_change.py", "CELLS: Final = 6", "CELLS: Final = 5"),
    (
        "scene change: a cut without the exposure median",
        "edge_app/live/scene_change.py",
        "np.mean(np.abs(change - np.median(change)) > CHANGE)",
        "np.mean(np.abs(change) > CHANGE)",
    ),
    (
        "scene change: movement without the exposure median",
        "edge_app/live/scene_change.py",
        "changed = np.abs(change - np.median(change)) > CHANGE",
        "changed = np.abs(change) > CHANGE",
    ),
    (
        "calibration: naming without the lead",
        "edge_app/accuracy/calibrate.py",
        "rule = Rule(found.threshold, found.margin, found.company)",
        "rule = Rule(found.threshold, 0.0, found.company)",
    ),
    (
        "camera: the back-off does not double",
        "edge_app/system/timing.py",
        "first_s * 2.0 ** min(",
        "first_s * 1.0 ** min(",
    ),
    (
        "camera: tries to open again are not counted",
        "edge_app/media/live_camera.py",
        "self._failed_tries += 1",
        "self._failed_tries = 1",
    ),
    (
        "camera: patience with a picture that stands still does not double",
        "edge_app/media/live_camera.py",
        "2 ** min(self._reopens, 4)",
        "1 ** min(self._reopens, 4)",
    ),
    (
        "face quality: a wider blur",
        "edge_app/inference/face_quality.py",
        "cv2.getGaussianKernel(len(along), 2.0 / step)",
        "cv2.getGaussianKernel(len(along), 2.5 / step)",
    ),
    (
        "face quality: a shorter kernel",
        "edge_app/inference/face_quality.py",
        "np.arange(-4 // step, 4 // step + 1)",
        "np.arange(-3 // step, 3 // step + 1)",
    ),
    (
        "choice of build: barely faster will do",
        "edge_app/model_store/choose_build.py",
        "_CLEARLY_FASTER: Final = 0.9",
        "_CLEARLY_FASTER: Final = 1.0",
    ),
    (
        "choice of build: twice as fast is asked",
        "edge_app/model_store/choose_build.py",
        "_CLEARLY_FASTER: Final = 0.9",
        "_CLEARLY_FASTER: Final = 0.5",
    ),
    (
        "tracker: no lead to change places",
        "edge_app/live/tracker.py",
        "_SWAP_LEAD: Final = 0.11",
        "_SWAP_LEAD: Final = 0.0",
    ),
)


def named(repository: Path) -> list[Mutant]:
    """The list, placed in the files as they are. Raises ValueError where a file no longer holds the text once."""
    found = []
    for name, file, original, mutant in _NAMED:
        text = (repository / file).read_text(encoding="utf-8")
        if text.count(original) != 1:
            raise ValueError(
                f"{file} holds {original!r} {text.count(original)} times, not once: mend tests/mutants/named.py"
            )
        start = text.index(original)
        line = text.count("\n", 0, start) + 1
        found.append(Mutant(file, line, "named", original, mutant, start, start + len(original), name))
    return found
