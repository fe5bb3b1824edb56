"""The live loop: a made-up camera, a detector that finds coloured squares, and an embedder that sees their colour."""

from __future__ import annotations

import queue
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_app.bench import live_loop
from edge_app.cli.bench import live_options
from edge_app.cli.commands import parse
from edge_app.core.errors import EdgeError, GalleryError, MediaError, UsageError
from edge_app.core.task import PEOPLE, LookFor, Task
from edge_app.core.types import Embedding, Finding, Frame, Match, Quality, Seen, Template
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot
from edge_app.gallery.matching import NAMES_NOBODY, Gallery
from edge_app.gallery.storage import Vault
from edge_app.inference.detector import Detector
from edge_app.inference.embedder import Embedder
from edge_app.inference.face_quality import QualityLimits
from edge_app.live.commands import (
    Capture,
    Enroll,
    Explain,
    Forget,
    Look,
    LookArea,
    LookAt,
    Pause,
    Rename,
    Run,
    SetRule,
    Switch,
)
from edge_app.live.face_mode import FaceMode
from edge_app.live.modes import mode_for
from edge_app.live.update import Update, WorkerOptions
from edge_app.live.video_recognizer import LiveRecognizer
from edge_app.live.worker import Worker
from edge_app.media.live_camera import CameraState, CameraStatus, LiveCamera, LiveOptions
from edge_app.media.sample import render
from edge_app.media.source_spec import parse_source
from edge_app.media.sources import IndexedSource
from edge_app.model_store.choose_build import Choice
from edge_app.model_store.shipped import Entry
from edge_app.recognition.faces import FaceRecognizer, PeopleSession
from edge_app.recognition.gallery_session import load_gallery
from edge_app.recognition.open_session import OpenOptions, open_session
from edge_app.recognition.session import Session
from edge_app.recognition.things import ThingSession
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.fakes import embedder_card, points
from tests.model_store.planted import install

RED, GREEN, BLUE = 0, 1, 2
PATIENCE_S = 60.0
POINTS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]], np.float32)
ANY_QUALITY = QualityLimits(min_sharpness=0, min_brightness=0, max_clipped=1, max_yaw=2)


def picture(*squares: tuple[int, int, int], size_px: int = 100) -> np.ndarray:
    """A grey picture with coloured, grainy squares: (channel, x, y of its corner)."""
    pixels = np.full((240, 400, 3), 90, np.uint8)
    for channel, x, y in squares:
        grain = np.random.default_rng(channel).integers(190, 250, (size_px, size_px))
        pixels[y : y + size_px, x : x + size_px] = 0
        pixels[y : y + size_px, x : x + size_px, channel] = grain
    return pixels


def find_squares(pixels: np.ndarray, _options: object):
    boxes = []
    for channel in range(3):
        others = [c for c in range(3) if c != channel]
        mask = (pixels[..., channel] > 120) & (pixels[..., others].max(axis=2) < 60)
        ys, xs = np.nonzero(mask)
        if len(xs) > 100:
            boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    found = np.array(boxes, np.float32).reshape(-1, 4)
    corner, extent = found[:, None, :2], (found[:, 2:] - found[:, :2])[:, None]
    return found, corner + POINTS * extent, np.full(len(found), 0.95, np.float32)


class ColourModel:
    """Embeds a crop as its mean colour."""

    card = embedder_card(id="colour", embedding_size=3, operating_points=points((1e-1, 0.5), (1e-3, 0.7)))

    def run(self, batch):
        return (batch.mean(axis=(2, 3)) + 1e-3,)


def template(channel: int) -> Template:
    vector = np.zeros(3, np.float32)
    vector[channel] = 1
    return Template(Embedding(vector, "colour"), Quality(100, 0.3, 100, 0, 0, 0.5, 0, 0.9), "test", 0.0)


@pytest.fixture
def bench(home: Home):
    vault = Vault(home.gallery_path)
    vault.add("Ada", [template(RED)])
    embedder = Embedder(ColourModel())  # type: ignore[arg-type]
    gallery = load_gallery(vault, embedder)
    settings = Settings()
    rule = gallery.rule(embedder.card.operating_points, settings.fpir, settings.margin, embedder.card.cohort)
    entry = Entry("colour", "fp32", Task.FACE_EMBEDDING, Path("colour.onnx"), "0" * 64, 0)
    parts = FaceRecognizer(Detector("squares", find_squares), embedder, gallery, rule)
    yield PeopleSession(home, settings, parts, vault, Choice(entry, "made up", {}))
    vault.close()


LIVE = CameraStatus(CameraState.LIVE, "")
LOST = CameraStatus(CameraState.LOST, "unplugged", EdgeError("unplugged"))
ENDED = CameraStatus(CameraState.ENDED, "")


class FakeCamera:
    """Gives frames as the test puts them in."""

    def __init__(self) -> None:
        self.frames: queue.Queue[Frame] = queue.Queue()
        self.status = LIVE
        self.closed = False
        self.count = 0

    def put(self, pixels: np.ndarray, times: int = 1) -> None:
        for _ in range(times):
            self.frames.put(Frame(pixels.copy(), self.count, self.count / 15))
            self.count += 1

    def take(self, timeout_s: float) -> Frame | None:
        try:
            return self.frames.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        self.closed = True
        self.status = ENDED


class Screen:
    """Collects updates, and waits for one."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self._came = threading.Condition()
        self.fault: Exception | None = None

    def __call__(self, update: Update) -> None:
        with self._came:
            self.updates.append(update)
            self._came.notify_all()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault

    def wait(self, wanted: Callable[[Update], bool], timeout_s: float = PATIENCE_S) -> Update:
        deadline_s = time.monotonic() + timeout_s
        seen = 0
        with self._came:
            while True:
                for update in self.updates[seen:]:
                    if wanted(update):
                        return update
                seen = len(self.updates)
                assert self._came.wait(deadline_s - time.monotonic()), "no such update came"

    def fresh(self) -> Screen:
        with self._came:
            self.updates.clear()
        return self

    @property
    def events(self) -> list[str]:
        return [event.event for update in self.updates for event in update.events]


class Stage:
    """A worker over a made-up camera."""

    def __init__(self, session: Session, **options: object) -> None:
        self.camera, self.screen = FakeCamera(), Screen()
        self.opened = [self.camera]
        self.recognizer = None
        mode = mode_for(session)
        if isinstance(session, PeopleSession):
            self.recognizer = LiveRecognizer(session.recognizer, follower=session.recognizer.detector)
            mode = FaceMode(session, live=self.recognizer)
        self.worker = Worker(
            session,
            "0",
            self.screen,
            WorkerOptions(notice_every_s=0.05, **options),  # type: ignore[arg-type]
            mode=mode,
            camera=lambda _spec, _options: self.opened[-1],  # type: ignore[return-value, arg-type]
        )

    def ask(self, command):
        return self.worker.send(command).result(PATIENCE_S)


@pytest.fixture
def stage(bench: PeopleSession):
    made = Stage(bench)
    with made.worker:
        yield made


def shown(update: Update) -> list[str | None]:
    return [] if update.seen is None else [one.name for one in update.seen.findings]


def test_a_known_face_is_named_and_every_frame_is_told(stage):
    stage.camera.put(picture((RED, 100, 60)), 6)
    update = stage.screen.wait(lambda u: u.seen is not None and u.seen.frame.index == 5)
    assert shown(update) == ["Ada"]
    assert [i.name for i in update.tracks] == ["Ada"]
    assert update.people == 1
    assert update.source == "camera 0"
    assert update.trouble == ""
    assert update.rule.threshold == pytest.approx(stage.worker.people.recognizer.rule.threshold)
    frames = [u.seen.frame.index for u in stage.screen.updates if u.seen is not None]
    assert frames == list(range(6))
    assert stage.screen.events == ["appeared", "recognized"]
    assert set(update.seen.timings_ms) >= {"detect", "follow", "embed", "match", "total"}


def test_last_seen_is_noted_once_for_an_appearance(stage, bench):
    stage.camera.put(picture((RED, 100, 60)), 6)
    stage.screen.wait(lambda u: any(e.event == "recognized" for e in u.events))
    assert bench.vault.last_seen("Ada") == pytest.approx(time.time(), abs=60)


class MadeUpThings:
    """Looks at an area, and remembers which."""

    def __init__(self, area: np.ndarray | None = None) -> None:
        self.card = replace(ColourModel.card, id="things", task="image-embedding", crop="centre-1")
        self.area = area
        self.embedder = SimpleNamespace(model_id="things", card=self.card)

    look_for, words, finds_faces, explains = LookFor("things"), Task.IMAGE_EMBEDDING.words, False, False
    gallery, rule, names = Gallery.empty("things"), NAMES_NOBODY, "mug"

    def with_gallery(self, gallery, rule):
        return self

    def observe(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        box = np.array([0, 0, *frame.size_px], np.float32) if self.area is None else self.area
        return Seen(frame, (Finding(box, Match(self.names, 0.9, 0.5)),), {})

    def shot(self, pixels: np.ndarray, source: str, *, box: np.ndarray | None = None, largest: bool = False) -> Refusal:
        return Refusal("too-small", f"{source} {None if box is None else box.tolist()}")

    def looking_at(self, area: np.ndarray | None) -> MadeUpThings:
        return type(self)(area)


class NamesEverything(MadeUpThings):
    """Sees somebody who is enrolled."""

    names = "Ada"


def of_things(session: PeopleSession, recognizer: MadeUpThings) -> ThingSession:
    """A session of made-up things over the same data folder."""
    return ThingSession(session.home, session.settings, recognizer, session.vault, session.choice)  # type: ignore[arg-type]


@pytest.mark.parametrize("touch", [True, False])
def test_a_thing_that_is_named_was_seen(bench, touch):
    stage = Stage(of_things(bench, NamesEverything()), touch=touch)
    with stage.worker:
        stage.camera.put(picture(), 6)
        stage.screen.wait(lambda u: any(e.event == "recognized" for e in u.events))
    assert bench.vault.last_seen("Ada") == (pytest.approx(time.time(), abs=60) if touch else None)


def test_a_thing_that_is_named_only_as_the_source_ends_was_seen_too(bench):
    stage = Stage(of_things(bench, NamesEverything()))
    with stage.worker:
        stage.camera.put(picture(), 1)
        stage.screen.wait(lambda u: u.seen is not None)
    assert bench.vault.last_seen("Ada") == pytest.approx(time.time(), abs=60)


def test_a_label_is_nobodys_name(bench, home):
    bench.vault.rename("Ada", "red")
    install(home)
    stage = Stage(bench)
    with stage.worker:
        stage.ask(Look(LookFor("colours"), unsure_below=0.3))
        stage.camera.put(picture((RED, 150, 60)), 6)
        stage.screen.wait(lambda u: any(e.event == "recognized" for e in u.events))
    assert bench.vault.last_seen("red") is None


def test_guided_capture_then_enrollment_names_a_stranger(stage):
    assert stage.ask(Capture(True)) is None
    stage.camera.put(picture((GREEN, 100, 60)), 8)
    update = stage.screen.wait(lambda u: u.seen is not None and u.seen.frame.index == 7)
    assert shown(update) == [None]
    assert isinstance(update.shot, Shot)
    assert update.shot.crop.shape == (112, 112, 3)
    options = EnrollOptions(limits=ANY_QUALITY)
    (verdict,) = stage.ask(Enroll("Bob", (("camera", update.shot),), options))
    assert verdict.accepted
    stage.ask(Capture(False))
    stage.screen.fresh()
    stage.camera.put(picture((GREEN, 100, 60)), 1)
    update = stage.screen.wait(lambda u: u.seen is not None)
    assert shown(update) == ["Bob"]  # the very next frame, from the kept embeddings
    assert (update.people, update.shot) == (2, None)


def test_capture_says_when_two_people_are_in_view(stage):
    stage.ask(Capture(True))
    stage.camera.put(picture((GREEN, 80, 60), (RED, 220, 60)))
    update = stage.screen.wait(lambda u: u.seen is not None)
    assert isinstance(update.shot, Refusal)
    assert update.shot.reason == "several-faces"


def test_forgetting_takes_the_name_off_the_face_and_can_be_undone(stage, bench):
    stage.camera.put(picture((RED, 100, 60)), 4)
    stage.screen.wait(lambda u: shown(u) == ["Ada"])
    identity = stage.ask(Forget("Ada"))
    assert bench.vault.names() == ()
    stage.screen.fresh()
    stage.camera.put(picture((RED, 100, 60)), 1)
    assert shown(stage.screen.wait(lambda u: u.seen is not None)) == [None]
    stage.ask(Run(lambda now: now.vault.add(identity.name, identity.templates)))
    stage.screen.fresh()
    stage.camera.put(picture((RED, 100, 60)), 1)
    assert shown(stage.screen.wait(lambda u: u.seen is not None)) == ["Ada"]


def test_a_new_name_shows_at_once(stage):
    stage.camera.put(picture((RED, 100, 60)), 4)
    stage.screen.wait(lambda u: shown(u) == ["Ada"])
    stage.ask(Rename("Ada", "Augusta"))
    stage.screen.fresh()
    stage.camera.put(picture((RED, 100, 60)), 1)
    assert shown(stage.screen.wait(lambda u: u.seen is not None)) == ["Augusta"]


def test_another_process_changes_the_gallery(stage, bench):
    stage.camera.put(picture((GREEN, 100, 60)), 2)
    with Vault(bench.home.gallery_path) as other:
        other.add("Bob", [template(GREEN)])
    assert stage.screen.wait(lambda u: u.people == 2)


def test_the_rule_follows_the_share_of_strangers(stage):
    loose = stage.ask(SetRule(fpir=0.1))
    strict = stage.ask(SetRule(fpir=0.001, margin=0.2))
    assert strict.threshold > loose.threshold
    assert strict.margin > loose.margin
    assert stage.screen.wait(lambda u: u.rule == strict)
    with pytest.raises(EdgeError, match="fpir"):
        stage.ask(SetRule(fpir=2.0))
    assert stage.worker.people.recognizer.rule == strict


def test_pausing_ends_tracks_and_shows_nothing(stage):
    stage.camera.put(picture((RED, 100, 60)), 4)
    stage.screen.wait(lambda u: shown(u) == ["Ada"])
    stage.ask(Pause(True))
    stage.screen.fresh()
    stage.camera.put(picture((RED, 100, 60)), 3)
    update = stage.screen.wait(lambda u: u.paused and stage.camera.frames.empty())
    assert update.tracks == ()
    assert all(u.seen is None for u in stage.screen.updates)
    stage.ask(Pause(False))
    stage.camera.put(picture((RED, 100, 60)), 3)
    assert stage.screen.wait(lambda u: shown(u) == ["Ada"])


def test_switching_closes_the_old_source_first_and_a_wrong_one_changes_nothing(stage):
    with pytest.raises(MediaError, match="does not exist"):
        stage.ask(Switch("no-such-file.mp4"))
    assert not stage.camera.closed
    stage.camera.put(picture((RED, 100, 60)), 4)
    stage.screen.wait(lambda u: shown(u) == ["Ada"])
    old, new = stage.camera, FakeCamera()
    stage.opened.append(new)
    stage.ask(Switch("1"))
    assert old.closed
    new.put(picture(), 2)
    update = stage.screen.wait(lambda u: u.source == "camera 1" and u.seen is not None)
    assert update.tracks == ()
    assert stage.screen.events == ["appeared", "recognized", "left"]


def test_pictures_are_looked_at_and_unreadable_ones_told(stage, tmp_path):
    from PIL import Image

    Image.fromarray(picture((GREEN, 100, 60))).save(tmp_path / "face.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (name, good), (_, bad) = stage.ask(LookAt((tmp_path / "face.png", tmp_path / "broken.png")))
    assert name == "face.png"
    assert isinstance(good, Shot)
    assert isinstance(bad, Refusal)
    assert bad.reason == "unreadable"


def test_a_command_that_fails_is_its_askers_and_the_loop_goes_on(stage):
    with pytest.raises(GalleryError, match="Nobody"):
        stage.ask(Forget("Nobody"))
    with pytest.raises(ZeroDivisionError):
        stage.ask(Run(lambda _: 1 / 0))
    assert stage.ask(Run(lambda now: now.vault.names())) == ("Ada",)
    stage.camera.put(picture((RED, 100, 60)), 3)
    assert stage.screen.wait(lambda u: shown(u) == ["Ada"])


def test_a_fault_is_a_line_on_the_screen_and_in_a_private_log_without_names(stage, bench):
    observe = stage.recognizer.observe

    def fail(frame):
        raise RuntimeError("Ada's secret template [0.1, 0.2]")

    stage.recognizer.observe = fail
    stage.camera.put(picture((RED, 100, 60)), 1)
    update = stage.screen.wait(lambda u: u.trouble != "")
    assert "RuntimeError" in update.trouble
    assert "secret" not in update.trouble
    text = bench.home.log_path.read_text()
    assert "RuntimeError" in text
    assert "test_worker.py" in text
    assert "Ada" not in text
    assert "secret" not in text
    assert stat.S_IMODE(bench.home.log_path.stat().st_mode) == 0o600
    stage.recognizer.observe = observe
    stage.camera.put(picture((RED, 100, 60)), 4)
    assert stage.screen.wait(lambda u: shown(u) == ["Ada"]).trouble == ""


@pytest.mark.slow
def test_a_lasting_fault_is_told_throughout_but_logged_once(stage, bench, monkeypatch):
    def fails(_vault: Vault) -> int:
        raise GalleryError("the gallery is locked")

    monkeypatch.setattr(Vault, "generation", fails)
    update = stage.screen.wait(lambda u: u.trouble != "")
    assert "locked" in update.trouble
    stage.screen.fresh()
    stage.camera.put(picture((RED, 100, 60)), 6)
    update = stage.screen.wait(lambda u: u.seen is not None and shown(u) == ["Ada"])
    assert "locked" in update.trouble
    time.sleep(1.2)  # the vault is asked every second
    assert len(bench.home.log_path.read_text().splitlines()) == 1


def test_a_screen_that_fails_does_not_end_the_loop(stage):
    stage.screen.fault = ValueError("closing")
    stage.camera.put(picture((RED, 100, 60)), 1)
    assert stage.screen.wait(lambda u: "ValueError" in u.trouble)
    stage.camera.put(picture((RED, 100, 60)), 3)
    assert stage.screen.wait(lambda u: shown(u) == ["Ada"])


def test_a_lost_source_is_told_and_comes_back(stage):
    stage.camera.put(picture((RED, 100, 60)), 4)
    stage.screen.wait(lambda u: u.seen is not None and u.seen.frame.index == 3)
    stage.camera.status = LOST
    update = stage.screen.wait(lambda u: u.status.state is CameraState.LOST)
    assert (update.seen, update.status.message) == (None, "unplugged")
    stage.camera.status = LIVE
    stage.screen.wait(lambda u: any(e.event == "source_back" for e in u.events))
    assert stage.screen.events[:5] == ["appeared", "recognized", "left", "source_lost", "source_back"]


def test_a_file_that_ends_ends_the_worker_when_asked(bench):
    stage = Stage(bench, until_end=True)
    stage.camera.put(picture((RED, 100, 60)), 6)
    stage.worker.start()
    stage.screen.wait(lambda u: u.seen is not None and u.seen.frame.index == 5)
    stage.camera.status = ENDED
    assert stage.worker.join(PATIENCE_S)
    assert stage.screen.updates[-1].status.state is CameraState.ENDED
    assert stage.screen.events == ["appeared", "recognized", "left"]
    assert stage.camera.closed
    with pytest.raises(EdgeError, match="has ended"):
        stage.ask(Pause(True))


def test_without_that_the_worker_waits_for_another_source(stage):
    stage.camera.status = ENDED
    stage.screen.wait(lambda u: u.status.state is CameraState.ENDED)
    assert not stage.worker.join(0.2)
    stage.opened.append(FakeCamera())
    stage.ask(Switch("1"))
    stage.opened[-1].put(picture((RED, 100, 60)), 3)
    assert stage.screen.wait(lambda u: shown(u) == ["Ada"])


def test_stopping_joins_closes_and_may_be_repeated(bench):
    before = set(threading.enumerate())
    stage = Stage(bench)
    stage.worker.start()
    stage.worker.stop()
    stage.worker.stop()
    assert stage.camera.closed
    assert set(threading.enumerate()) <= before  # those of another test may end meanwhile


def test_commands_left_over_at_the_end_are_answered(bench):
    stage = Stage(bench)
    future = stage.worker.send(Run(lambda _: "never"))
    stage.worker._stopping.set()
    stage.worker.start()
    with pytest.raises(EdgeError, match="has ended"):
        future.result(PATIENCE_S)


def test_a_source_that_makes_no_sense_is_refused_at_once(bench):
    with pytest.raises(MediaError, match="does not exist"):
        Worker(bench, "no-such-file.mp4", print)


def test_a_gallery_of_another_model_is_refused_and_the_old_one_stays(bench):
    live = LiveRecognizer(bench.recognizer, follower=bench.recognizer.detector)
    with pytest.raises(GalleryError, match="other"):
        live.with_gallery(Gallery.empty("other"), bench.recognizer.rule)
    assert live.recognizer is bench.recognizer


def test_a_face_is_followed_between_searches_of_the_whole_picture(bench):
    calls = {"whole": 0}

    def counted(pixels, options):
        calls["whole"] += pixels.shape[1] == 400
        return find_squares(pixels, options)

    parts = replace(bench, recognizer=FaceRecognizer(Detector("c", counted), *_rest(bench))).recognizer
    live = LiveRecognizer(parts, follower=Detector("f", find_squares))
    for index in range(60):
        place = (RED, 40 + 3 * index, 60 + index // 4)
        (sighting,) = live.observe(Frame(picture(place), index, index / 30)).findings
        assert sighting.track == 1
        centre = (sighting.face.box[:2] + sighting.face.box[2:]) / 2
        np.testing.assert_allclose(centre, [place[1] + 50, place[2] + 50], atol=3)
        np.testing.assert_allclose(sighting.face.landmarks, POINTS * 100 + place[1:], atol=3)
    assert sighting.name == "Ada"
    assert calls["whole"] <= 10


def _rest(bench: PeopleSession):
    return bench.recognizer.embedder, bench.recognizer.gallery, bench.recognizer.rule


def test_a_face_at_the_edge_of_the_picture_is_followed(bench):
    live = LiveRecognizer(bench.recognizer, follower=bench.recognizer.detector)
    for index in range(10):
        (sighting,) = live.observe(Frame(picture((RED, 300, 140)), index, index / 30)).findings
        np.testing.assert_allclose(sighting.face.box, [300, 140, 400, 240], atol=4)


def test_with_a_real_camera_thread_every_frame_of_a_file_is_observed(bench):
    screen = Screen()
    stills = [picture((RED, 20 + 4 * i, 60)) for i in range(25)]
    spec = parse_source("sample")

    def camera(text: str, options: LiveOptions) -> LiveCamera:
        return LiveCamera(
            text, options, opener=lambda _: IndexedSource(spec, 25.0, 25, lambda i: Frame(stills[i], i, i / 25))
        )

    before = set(threading.enumerate())
    worker = Worker(
        bench,
        "sample",
        screen,
        WorkerOptions(camera=LiveOptions(realtime=False), until_end=True),
        camera=camera,
        mode=FaceMode(bench, live=LiveRecognizer(bench.recognizer, follower=bench.recognizer.detector)),
    )
    with worker:
        assert worker.join(PATIENCE_S)
    assert [u.seen.frame.index for u in screen.updates if u.seen] == list(range(25))
    assert screen.events == ["appeared", "recognized", "left"]
    assert screen.updates[-1].status.dropped == 0
    assert set(threading.enumerate()) <= before  # those of another test may end meanwhile


# The measuring


def test_the_bench_options_are_checked():
    def options_of(*words):
        return live_options(parse(["bench", *words]).arguments, Settings())

    options = options_of("--no-peers", "--live-frames", "60")
    assert (options.frames, options.peers, options.peer_python, options.soak_minutes) == (60, False, None, 0)
    for wrong in (["--live-frames", "3"], ["--soak", "-1"], ["--peer-python", "/no/such/python"]):
        with pytest.raises(UsageError, match=wrong[0]):
            options_of(*wrong)


def test_ratios_are_told_with_their_targets():
    figures = {"edge-app, live": 2.0, "edge-app, every frame": 9.0, "facenet-pytorch": 60.0, "another": 2.0}
    ratios = live_loop._ratios({"contestants": {name: {"cpu_ms": ms} for name, ms in figures.items()}})
    assert {name: (r["times"], r["reached"]) for name, r in ratios.items()} == {
        "edge-app, every frame": (4.5, False),
        "facenet-pytorch": (30.0, True),
        "another": (1.0, True),
    }


@pytest.mark.parametrize(
    ("rss", "handles", "flat"),
    [
        ([90, 100, 100, 101], [9, 9, 9, 9], True),
        ([90, 100, 104, 106], [9] * 4, False),
        ([100] * 4, [9, 9, 9, 10], False),
    ],
)
def test_memory_is_flat_when_neither_it_nor_handles_grow(rss, handles, flat):
    samples = [
        {"rss_mb": float(r), "handles": h, "threads": 3, "system_threads": 5}
        for r, h in zip(rss, handles, strict=True)
        for _ in range(5)
    ]
    assert live_loop._flatness(samples)["flat"] is flat


def test_a_peer_that_is_not_there_is_told(tmp_path):
    np.save(tmp_path / "frames.npy", np.zeros((1, 8, 8, 3), np.uint8))
    words = live_loop._ask_peer("face_recognition", str(tmp_path / "no-python"), [tmp_path / "frames.npy"])
    assert "FileNotFoundError" in words


def test_the_steady_scene_has_the_faces_it_promises():
    for faces in (1, 3, 4):
        _, truths = render(live_loop.steady_scene((320, 240), faces, 60), 40)
        assert len(truths) == faces
        assert min(truth.visible for truth in truths) > 0.6


def label(update: Update) -> str | None:
    return None if update.seen is None or update.look_for.is_people else update.seen.findings[0].name


def test_a_classifier_takes_over_between_frames_and_faces_come_back(stage, home):
    stage.camera.put(picture((RED, 150, 60)), 6)
    stage.screen.wait(lambda u: shown(u) == ["Ada"] and u.look_for.is_people)
    install(home)
    assert stage.ask(Look(LookFor("colours"), unsure_below=0.3)).labels == ("red", "green", "blue")
    assert "left" in stage.screen.events
    stage.screen.fresh()
    stage.camera.put(picture((RED, 150, 60)), 8)
    update = stage.screen.wait(lambda u: label(u) == "red")
    assert update.look_for == LookFor("colours") and update.tracks == ()
    stage.screen.wait(lambda u: any(e.event == "recognized" and e.name == "red" for e in u.events))
    assert stage.ask(Look(PEOPLE)) is None
    stage.screen.fresh()
    stage.camera.put(picture((RED, 150, 60)), 6)
    assert stage.screen.wait(lambda u: shown(u) == ["Ada"]).look_for.is_people


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(stage, home):
    install(home)
    stage.ask(Look(LookFor("colours")))
    for wrong in ("nope", "yunet"):
        with pytest.raises(UsageError):
            stage.ask(Look(LookFor(wrong)))
    stage.camera.put(picture((RED, 150, 60)), 1)
    assert stage.screen.wait(lambda u: u.seen is not None).look_for == LookFor("colours")


def test_heatmaps_come_while_they_are_wanted_also_from_the_next_model(stage, home):
    install(home)
    stage.ask(Explain(True))
    stage.ask(Look(LookFor("colours")))
    stage.camera.put(picture((RED, 150, 60)), 1)
    update = stage.screen.wait(lambda u: u.seen is not None)
    assert update.seen.findings[0].heatmap is not None
    stage.ask(Explain(False))
    stage.screen.fresh()
    stage.camera.put(picture((RED, 150, 60)), 1)
    assert stage.screen.wait(lambda u: u.seen is not None).seen.findings[0].heatmap is None


def test_things_are_read_in_their_area_and_captured_there(bench):
    stage = Stage(of_things(bench, MadeUpThings()))
    with stage.worker:
        stage.camera.put(picture(), 1)
        update = stage.screen.wait(lambda u: u.seen is not None)
        assert update.shot is None and update.seen.findings[0].name == "mug"
        stage.ask(Capture(True))
        stage.ask(LookArea((10, 20, 90, 80)))
        with pytest.raises(UsageError, match="expected x1 < x2"):
            stage.ask(LookArea((10, 20, 5, 80)))
        stage.screen.fresh()
        stage.camera.put(picture(), 1)
        update = stage.screen.wait(lambda u: u.seen is not None)
        assert update.seen.findings[0].box.tolist() == [10, 20, 90, 80]
        assert "[10.0, 20.0, 90.0, 80.0]" in update.shot.message


def test_a_loop_for_a_model_alone_has_no_faces_to_go_back_to(home):
    install(home)
    stage = Stage(open_session(home, Settings(), LookFor("colours"), OpenOptions(unsure_below=0.3)))
    with stage.worker:
        stage.camera.put(picture((RED, 150, 60)), 1)
        update = stage.screen.wait(lambda u: label(u) == "red")
        assert (update.people, update.tracks, update.look_for.word) == (0, (), "colours")
        for command in (Look(PEOPLE), SetRule(fpir=0.1), Forget("Ada"), Run(lambda bench: bench.vault)):
            with pytest.raises(UsageError, match=r"faces were not opened|only colours is in use"):
                stage.ask(command)
        stage.ask(Look(LookFor("colours"), unsure_below=0.9))
        stage.screen.fresh()
        stage.camera.put(picture((RED, 150, 60)), 1)
        assert stage.screen.wait(lambda u: u.seen is not None).trouble == ""


def test_a_loop_for_things_alone_follows_the_gallery(home, bench, monkeypatch):
    renewed = []
    monkeypatch.setattr("edge_app.live.thing_mode.ThingMode.gallery_changed", lambda *_: renewed.append(True))
    monkeypatch.setattr("edge_app.live.worker._GENERATION_EVERY_S", 0.05)
    stage = Stage(replace(of_things(bench, MadeUpThings()), vault=Vault(home.gallery_path)))
    with stage.worker:
        stage.screen.wait(lambda u: u.look_for == LookFor("things"))
        assert renewed == []
        bench.vault.rename("Ada", "Eve")
        stage.screen.wait(lambda _: bool(renewed))


def test_faces_take_no_area_and_classifiers_do(stage, home):
    with pytest.raises(UsageError, match="takes no area"):
        stage.ask(LookArea(None))
    install(home)
    stage.ask(Look(LookFor("colours")))
    stage.ask(LookArea((100, 100, 180, 180)))
    stage.camera.put(picture((RED, 150, 60)), 1)
    stage.screen.wait(lambda u: u.seen is not None and u.seen.findings[0].box.tolist() == [100, 100, 180, 180])


def test_a_switch_and_a_pause_tell_what_is_left_and_begin_afresh(stage, home):
    install(home)
    stage.ask(Look(LookFor("colours"), unsure_below=0.3))
    stage.camera.put(picture((RED, 150, 60)), 1)
    stage.screen.wait(lambda u: label(u) == "red")
    assert stage.screen.events == []
    stage.ask(Pause(True))
    assert stage.screen.events == ["recognized"]
