"""What the terminal app asks of the world outside it: files, cameras, models and clocks.

The command line and the tests each bring these; the screens themselves touch no file and run no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_app.core.model_card import ModelCard, OperatingPoint
from edge_app.core.task import Task
from edge_app.core.types import Pixels, Seen
from edge_app.live.update import Update
from edge_app.media.cameras import CameraInfo
from edge_app.recognition.faces import PeopleSession
from edge_app.system.settings import Settings
from edge_app.tui.picture.terminal import Terminal

Sink = Callable[[Update], None]


class LiveWorker(Protocol):
    """What the app uses of `edge_app.live.worker.Worker`."""

    @property
    def people(self) -> PeopleSession:
        """The newest session of the people."""

    def start(self) -> None:
        """Begin to take frames."""

    def send(self, command: Any) -> Future[Any]:
        """Ask for something; the future gives the result or the EdgeError."""

    def stop(self, join_s: float = 10) -> None:
        """End the thread and release the source."""


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One installed build of a model."""

    model_id: str
    precision: str
    task: Task
    card: ModelCard | None
    """None when the file is gone or damaged: `problem` tells."""
    size_bytes: int
    in_use: bool
    measured_ms: float | None = None
    """Milliseconds of one run on this machine; None when not measured."""
    points: tuple[OperatingPoint, ...] = ()
    """Those that hold here: calibrated on the user's pictures, else the card's."""
    calibrated: bool = False
    """Whether `points` are the user's own."""
    threshold: float | None = None
    """Similarity from which somebody is named, in the gallery as it is; None for what is not in use."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Desk:
    """Files, cameras, models and clocks, as the app is given them."""

    settings: Settings
    source: str
    """What the first worker opens."""
    terminal: Terminal
    open_worker: Callable[[Settings, str, Sink], LiveWorker]
    """Load the models for these settings and make a worker, not started. Raises EdgeError."""
    save_settings: Callable[..., object]
    """Save the settings given by name, and no others. Raises EdgeError."""
    cameras: Callable[[], Sequence[CameraInfo]]
    """The cameras of this machine; takes a moment."""
    snapshot: Callable[[Seen], Path]
    """Write the picture with what was made of it; returns where. Raises EdgeError."""
    pictures_named: Callable[[str], tuple[Path, ...]]
    """Picture files by what a user typed: paths, or folders. Raises EdgeError when there is none."""
    decode: Callable[[bytes], Pixels]
    """A kept picture's pixels. Raises EdgeError."""
    catalogue: Callable[[PeopleSession], tuple[ModelLine, ...]]
    """The installed models; runs on the worker's thread."""
    add_model: Callable[[Path], str]
    """Validate an .onnx file and install it; returns its id. Takes seconds. Raises EdgeError."""
    remove_model: Callable[[str], None]
    """Uninstall every build of a model. Raises EdgeError, for a shipped one too."""
    changes_to_use: Callable[[str], Mapping[str, Any]]
    """The settings that make a model the one in use for its task, not saved; "faces" ends the use of another. Raises
    EdgeError."""
    measure: Callable[[PeopleSession, str, str], float]
    """Median milliseconds of one run of a model, by id and precision; runs on the worker's thread."""
    recall: Callable[[], Mapping[str, Any]]
    """What `remember` was last given, or nothing."""
    remember: Callable[[Mapping[str, Any]], None]
    """Keep how the app looked: theme and mirror."""
    now_s: Callable[[], float]
    """Unix time."""
    notices: tuple[str, ...] = ()
    """What to tell at the start, e.g. that there is no camera."""
