"""A stage for the terminal app: recorded frames fed one by one to the real worker, and a desk that only remembers."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from edge_app.core.errors import CameraError, ModelError
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.core.task import LookFor, Task
from edge_app.core.types import Classification, ClassScore, Embedding, Finding, Frame, Heatmap, Match, Quality, Seen
from edge_app.gallery.enrollment import Refusal, Shot, Verdict
from edge_app.gallery.matching import NAMES_NOBODY, Gallery
from edge_app.live.face_mode import FaceMode
from edge_app.live.update import WorkerOptions
from edge_app.live.worker import Worker
from edge_app.media import sample
from edge_app.media.cameras import CameraFormat, CameraInfo
from edge_app.media.live_camera import CameraState, CameraStatus, LiveOptions
from edge_app.media.source_spec import parse_source
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from edge_app.tui.app import EdgeApp, compose_app
from edge_app.tui.picture.terminal import Terminal
from edge_app.tui.services import Desk, ModelLine, Sink

PATIENCE_S = 180.0
NOW_S = 1_800_000_000.0
"""The fixed clock."""

OBAMA_ALONE = range(46, 62)
"""Frames of the sample clip in which one man stands nearly still; 15 a second."""


@lru_cache(maxsize=64)
def clip_frame(index: int) -> np.ndarray:
    return sample.render(sample.clip_scene(), index)[0].pixels


class Reel:
    """A camera that shows what it is fed, and nothing else."""

    def __init__(self) -> None:
        self._frames: queue.Queue[Frame] = queue.Queue()
        self._next = 0
        self.status = CameraStatus(CameraState.LIVE, "", fps=15.0)
        self.closed = False

    def feed(self, pictures: Iterable[np.ndarray], fps: float = 15.0) -> None:
        for pixels in pictures:
            self._frames.put(Frame(pixels, self._next, self._next / fps))
            self._next += 1

    def take(self, timeout_s: float = 1.0) -> Frame | None:
        try:
            return self._frames.get(timeout=min(timeout_s, 0.02))
        except queue.Empty:
            return None

    def lose(self, words: str) -> None:
        self.status = CameraStatus(CameraState.LOST, words, CameraError(words))

    def close(self, join_s: float = 10.0) -> None:
        self.closed = True


@dataclass
class Stage:
    """An app over a reel, and what it asked of the world outside."""

    home: Home
    terminal: Terminal = field(default_factory=lambda: Terminal("truecolor"))
    settings: Settings = field(default_factory=lambda: Settings(precision="fp32"))
    precision: Any = "fp32"
    """What the embedder is loaded as, whatever the settings say: nothing is measured."""
    notices: tuple[str, ...] = ()
    recognizer: Any = None
    reels: list[Reel] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    saved: list[Settings] = field(default_factory=list)
    looks: dict[str, Any] = field(default_factory=dict)
    snapshots: list[Any] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    cards: list[ModelCard] = field(default_factory=list)

    @property
    def reel(self) -> Reel:
        return self.reels[-1]

    def app(self) -> EdgeApp:
        return compose_app(self.desk())

    def desk(self) -> Desk:
        return Desk(
            settings=self.settings,
            source="sample",
            terminal=self.terminal,
            open_worker=self._open,
            save_settings=self._save,
            cameras=lambda: (CameraInfo("7", "/dev/video7", "Test camera", (CameraFormat("MJPG", (640, 480), 30.0),)),),
            snapshot=self._snapshot,
            pictures_named=lambda text: tuple(Path(word) for word in text.split()),
            decode=lambda data: np.full((20, 20, 3), data[0], np.uint8),
            catalogue=lambda bench: (
                *_lines(bench.recognizer.embedder.card, bench.choice.entry.precision),
                *(_line(card, 1_000_000, card.id == self.settings.model) for card in self.cards),
            ),
            add_model=self._add_model,
            remove_model=self._remove_model,
            changes_to_use=lambda model_id: {"model": model_id},
            measure=lambda bench, model_id, precision: 12.5,
            recall=lambda: self.looks,
            remember=self.looks.update,
            now_s=lambda: NOW_S,
            notices=self.notices,
        )

    def _open(self, settings: Settings, source: str, sink: Sink) -> Worker:
        bench = replace(open_people(self.home, replace(settings, precision=self.precision)), settings=settings)
        options = WorkerOptions(notice_every_s=0.05)
        mode = FaceMode(bench, live=self.recognizer) if self.recognizer else None
        worker = Worker(bench, source, sink, options, camera=self._camera, mode=mode)
        self.workers.append(worker)
        return worker

    def _camera(self, source: str, options: LiveOptions) -> Any:
        parse_source(source)
        self.opened.append(source)
        self.reels.append(Reel())
        return self.reels[-1]

    def _save(self, **changes: Any) -> None:
        self.saved.append(replace(self.saved[-1] if self.saved else self.settings, **changes))

    def _add_model(self, path: Path) -> str:
        if path.suffix != ".onnx":
            raise ModelError(f"{path.name} is no ONNX file")
        self.cards.append(classifier_card(path.stem))
        return path.stem

    def _remove_model(self, model_id: str) -> None:
        self.cards = [card for card in self.cards if card.id != model_id]

    def _snapshot(self, observation: Any) -> Path:
        self.snapshots.append(observation)
        return Path("snapshots/one.png")


def _lines(card: ModelCard, used: str) -> tuple[ModelLine, ...]:
    other = replace(card, precision="int8", licence="research only", commercial_use=False)
    return (_line(card, 38_000_000, used == "fp32", 27.0), _line(other, 10_000_000, used == "int8"))


def _line(card: ModelCard, size_bytes: int, used: bool, ms: float | None = None) -> ModelLine:
    points = card.operating_points
    return ModelLine(card.id, card.precision, card.task, card, size_bytes, used, ms, points)


async def until(true: Callable[[], Any], what: str) -> None:
    """Wait for the app to get there; a state, not a time."""
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, f"never happened: {what}"
        await asyncio.sleep(0.02)


def classifier_card(model_id: str, **changes: Any) -> ModelCard:
    card = ModelCard(
        model_id,
        "classification",
        "logits",
        InputSpec("input", 32, 32),
        ("logits", "class_maps"),
        "fp32",
        "CC0-1.0",
        True,
        "made for a test",
        "",
        crop="centre-1",
        labels=("left", "right"),
        unsure_below=0.8,
    )
    return replace(card, **changes)


class HalfClassifier:
    """A classifier without a network: which half of the picture is brighter, and how much so."""

    explains = True

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def classify(self, pictures: Iterable[np.ndarray]) -> list[Classification]:
        answers = []
        for pixels in pictures:
            halves = np.array([half.mean() for half in np.array_split(pixels, 2, axis=1)]) + 1e-3
            left = float(halves[0] / halves.sum())
            scores = sorted((ClassScore("left", left), ClassScore("right", 1 - left)), key=lambda one: -one.probability)
            sure = scores[0].probability >= self.card.unsure_below
            answers.append(Classification(tuple(scores), sure, self.card.unsure_below))
        return answers

    def explain(self, pixels: np.ndarray, *, runner_up: bool = False) -> tuple[Classification, Heatmap]:
        [found] = self.classify([pixels])
        return found, Heatmap(found.scores[0].label, np.array([[4.0, -1.0], [4.0, -1.0]], np.float32))


class ThingDouble:
    """An embedder of things without a network: names the box after its brightness."""

    words, finds_faces, explains = Task.IMAGE_EMBEDDING.words, False, False
    refused: tuple[str, ...] = ()
    """Why shots will be refused, one each."""

    def __init__(self, card: ModelCard, area: Any = None) -> None:
        self.card = card
        self.area = area
        self.look_for = LookFor(card.id)
        self.embedder = SimpleNamespace(model_id=card.id, card=card)
        self.gallery, self.rule = Gallery.empty(card.id), NAMES_NOBODY

    def looking_at(self, area: Any) -> ThingDouble:
        return ThingDouble(self.card, area)

    def with_gallery(self, gallery: Gallery, rule: Any) -> ThingDouble:
        return self

    def observe(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        height, width = frame.pixels.shape[:2]
        box = np.array((0, 0, width, height), np.float32) if self.area is None else self.area
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        bright = frame.pixels[y1:y2, x1:x2].mean() > 127
        match = Match("lamp", 0.9, 0.4) if bright else Match(None, 0.2, 0.0)
        return Seen(frame, (Finding(box, match),), {"embed": 1.0, "total": 1.0})

    def shot(self, pixels: np.ndarray, source: str, *, box: Any = None, largest: bool = False) -> Any:
        if pixels.max() < 20:
            return Refusal("too-dark", "the brightness is 0 of 255, expected at least 12: more light")
        vector = np.arange(1, (self.card.embedding_size or 4) + 1, dtype=np.float32)
        quality = Quality(64, 0.5, 100, 0, 0, 0, 0, 1)
        return Shot(source, None, pixels[:8, :8], quality, Embedding(vector, self.card.id), b"", box)

    def judge(self, name: str, shots: Any, own: Any, options: Any) -> list[Verdict]:
        reasons = iter(ThingDouble.refused)
        return [
            Verdict(shot.source, shot, Refusal("blurred", why) if (why := next(reasons, None)) else None)
            for shot in shots
        ]


def done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
