"""Opens a face detector by name: the two that ship, or a YuNet that the user brought."""

from __future__ import annotations

from edge_app.core.errors import UsageError
from edge_app.core.task import Task
from edge_app.inference.detector import DETECTORS, Detector, DetectorOptions
from edge_app.inference.landmarks import LandmarkFinder
from edge_app.inference.mtcnn import MtcnnCascade
from edge_app.inference.onnx_model import Model
from edge_app.inference.yunet import YuNet
from edge_app.model_store import catalogue
from edge_app.system.data_folder import Home


def open_detector(
    name: str = "yunet",
    options: DetectorOptions | None = None,
    threads: int | None = None,
    home: Home | None = None,
    *,
    refine: bool = True,
) -> Detector:
    """Load a detector: "yunet" or "mtcnn", which ship, or the id of a YuNet that the user installed in `home`.

    `refine`: find a YuNet's landmarks anew with MTCNN's O-Net, as every threshold that ships supposes.
    Raises UsageError for another name and for a model that is none, ModelError for a file that has changed.
    """
    if name == "mtcnn":
        nets = [catalogue.open_shipped(f"mtcnn-{part}", threads=threads) for part in ("pnet", "rnet", "onet")]
        cascade = MtcnnCascade(*nets)
        return Detector(name, lambda pixels, opts: cascade.find(pixels, opts.min_face_px), options)
    network = catalogue.open_shipped("yunet", threads=threads) if name == "yunet" else _installed(name, threads, home)
    landmarks = LandmarkFinder(catalogue.open_shipped("mtcnn-onet", threads=1)) if refine else None
    return Detector(name, YuNet(network, refined=refine).find, options, landmarks)


def _installed(name: str, threads: int | None, home: Home | None) -> Model:
    """A YuNet that the user brought; fp32 where there are several builds."""
    builds = [entry for entry in (catalogue.installed(home) if home else ()) if entry.id == name]
    if not builds:
        brought = [e.id for e in (catalogue.installed(home) if home else ()) if e.task is Task.FACE_DETECTION]
        known = " or ".join(dict.fromkeys((*DETECTORS, *brought)))
        raise UsageError(f"there is no detector called {name!r}", expected=known)
    model = catalogue.open_entry(min(builds, key=lambda entry: entry.precision != "fp32"), threads)
    if (model.card.task, model.card.family) != (Task.FACE_DETECTION, "yunet"):
        raise UsageError(
            f"{name} is a model for {model.card.task}, of the family {model.card.family}",
            expected="a face detector of the family yunet",
        )
    return model
