"""Frames from every kind of source; live sources that drop, stall, blacken, freeze, vanish and come back."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_app.core.errors import CameraError, MediaError
from edge_app.core.types import Frame
from edge_app.media import cameras as devices
from edge_app.media.cameras import CameraFormat, list_cameras
from edge_app.media.health import Health
from edge_app.media.live_camera import CameraState, CameraStatus, LiveCamera, LiveOptions
from edge_app.media.pictures import write_picture
from edge_app.media.source_spec import SourceSpec, parse_source, without_secrets
from edge_app.media.sources import IndexedSource, frames, open_source
from edge_app.media.video_writer import VideoWriter
from tests.media.mjpeg_server import MjpegServer

PATIENCE_S = 60.0
"""Longest wait for something that happens in a second or two on an idle machine."""


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def once(live: LiveCamera, wanted: CameraState, more: Callable[[CameraStatus], bool] = lambda _: True) -> CameraStatus:
    """The status at a moment at which the camera was in that state; the next one may be another."""
    deadline = time.monotonic() + PATIENCE_S
    while (status := live.status).state is not wanted or not more(status):
        assert time.monotonic() < deadline, status
        time.sleep(0.01)
    return status


def shade(index: int, size_px=(64, 48)) -> np.ndarray:
    """A flat picture whose red tells its index."""
    pixels = np.full((size_px[1], size_px[0], 3), 60, np.uint8)
    pixels[..., 0] = 40 + 5 * index
    return pixels


def video(path: Path, count: int = 30, fps: float = 15.0) -> Path:
    with VideoWriter(path, (64, 48), fps) as writer:
        for index in range(count):
            writer.write(shade(index))
    return path


@pytest.fixture
def nothing_leaks() -> Iterator[None]:
    def held() -> tuple[int, set[str]]:
        return len(list(Path("/proc/self/fd").iterdir())), {thread.name for thread in threading.enumerate()}

    before = held()
    yield
    # What an earlier test left open may be let go meanwhile.
    eventually(lambda: held()[0] <= before[0] and held()[1] <= before[1])


# Specs


@pytest.mark.parametrize(
    ("spec", "kind", "name"),
    [
        ("0", "webcam", "camera 0"),
        (" 2 ", "webcam", "camera 2"),
        ("/dev/video7", "webcam", "camera /dev/video7"),
        ("sample", "sample", "sample clip"),
        ("http://cam.local/video", "stream", "http://cam.local/video"),
        ("RTSP://10.0.0.2:554/1", "stream", "rtsp://10.0.0.2:554/1"),
    ],
)
def test_a_spec_says_what_it_is(spec, kind, name):
    parsed = parse_source(spec)
    assert (parsed.kind, parsed.name, parsed.is_live) == (kind, name, kind in ("webcam", "stream"))


def test_a_path_that_exists_is_that_path_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("7", "sample", "01", "~nobody"):
        (tmp_path / folder).mkdir()
    for name in ("a.mp4", "10:30:00.mp4", " lead.mp4"):
        video(tmp_path / "a.mp4", 2).rename(tmp_path / name)
    for name in ("~temp.jpg", " lead.jpg", "-x.jpg", "http:", "8"):
        write_picture(tmp_path / "made.jpg", shade(1))
        (tmp_path / "made.jpg").rename(tmp_path / name)
    folders = [parse_source(text).kind for text in ("7", "7/", "sample", "sample/", "01/", "./7", ".", "~nobody")]
    assert folders == ["folder"] * 8
    videos = [parse_source(text).kind for text in ("10:30:00.mp4", " lead.mp4", str(tmp_path / "10:30:00.mp4"))]
    assert videos == ["video"] * 3
    pictures = [parse_source(text).kind for text in ("~temp.jpg", " lead.jpg", "-x.jpg", "http:", "8")]
    assert pictures == ["picture"] * 5
    meant = [parse_source(text).kind for text in ("9", " 9 ", "camera:7", "sample:", "http://x/", "/dev/video99")]
    assert meant == ["webcam", "webcam", "webcam", "sample", "stream", "webcam"]


def test_a_file_under_dev_is_a_file():
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm")
    path = Path("/dev/shm", f"edge-app-{os.getpid()}.jpg")
    try:
        write_picture(path, shade(1))
        assert (parse_source(str(path)).kind, parse_source("/dev/shm").kind) == ("picture", "folder")
        assert parse_source("/dev/null").kind == "webcam"
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "spec", ["", " ", "no such file.mp4", "~nobody/x", "file:///etc/passwd", "gopher://x/", "12345", "x" * 5000, "a\0b"]
)
def test_a_spec_that_means_nothing_is_one_line(spec):
    with pytest.raises(MediaError) as caught:
        parse_source(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://10.0.0.2/live", "rtsp://10.0.0.2/live"),
        ("rtsp://admin:hunter2@10.0.0.2:554/live", "rtsp://admin:***@10.0.0.2:554/live"),
        ("http://admin:p@ss/w:rd@cam/x", "http://admin:***@cam/x"),
        ("http://hunter2@cam/x", "http://***@cam/x"),
        ("http://cam/v?user=a&pwd=hunter2&channel=1", "http://cam/v?user=a&pwd=***&channel=1"),
        ("http://cam/v?access_token=hunter2#hunter2", "http://cam/v?access_token=***"),
        ("http://a:hunter2@[bad/x", "http://a:***@[bad/x"),
        ("http://a:hun?t#er@2@cam/x", "http://a:***@cam/x"),
        ("http://cam:8080/x?mail=a@b.org", "http://cam:8080/x?mail=a@b.org"),
        ("rtsp://a:hunter2@[fe80::1]:554/x?y", "rtsp://a:***@[fe80::1]:554/x?y"),
    ],
)
def test_no_password_is_shown(address, shown):
    assert without_secrets(address) == shown
    assert parse_source(address).name == shown
    assert "hunter2" not in repr(parse_source(address))


# Files


def test_every_frame_of_a_video_comes_in_order_with_its_time(tmp_path, nothing_leaks):
    got = list(frames(str(video(tmp_path / "a.mp4"))))
    assert [frame.index for frame in got] == list(range(30))
    np.testing.assert_allclose([frame.time_s for frame in got], np.arange(30) / 15, atol=1e-3)
    for frame in got:
        assert frame.size_px == (64, 48)
        assert frame.pixels[24, 32].astype(int) == pytest.approx([40 + 5 * frame.index, 60, 60], abs=12)  # RGB, not BGR


def test_a_source_tells_its_rate_and_length(tmp_path):
    with open_source(str(video(tmp_path / "a.avi", 12, 10.0))) as source:
        assert (source.fps, source.frame_count) == (10.0, 12)
        assert source.read().index == 0
    assert source.read() is None
    source.close()


def test_a_video_cut_in_half_gives_what_is_there_and_then_says_so(tmp_path, nothing_leaks):
    whole = video(tmp_path / "a.avi", 40)
    data = whole.read_bytes()
    # Noise-free pictures are tiny: cut in the middle of the pictures, not of the padding before them.
    first = data.index(b"00dc", data.index(b"movi"))
    whole.write_bytes(data[: first + (len(data) - first) // 2])
    got = []
    with pytest.raises(MediaError, match=r"a\.avi ended after \d+ frames: the file is cut short") as caught:
        for frame in frames(str(whole)):
            got.append(frame.index)  # noqa: PERF401 - what came before the error is what counts
    assert 5 < len(got) < 35
    assert got == list(range(len(got)))
    assert f"after {len(got)} frames" in str(caught.value)


def test_a_video_whose_index_is_cut_off_is_one_line(tmp_path):
    path = video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match="not a video, or damaged or cut short"):
        next(frames(str(path)))


def test_files_that_are_no_videos_are_one_line_each(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in (("empty", "is empty"), ("text", "not a video"), ("pipe", "pipe"), ("gone", "does not exist")):
        with pytest.raises(MediaError, match=words) as caught:
            open_source(str(tmp_path / f"{name}.mp4"))
        assert "\n" not in str(caught.value)


def test_opencv_and_ffmpeg_print_nothing(tmp_path):
    path = video(tmp_path / "a.avi", 20)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :: 7] = b"\xff" * len(data[len(data) // 2 :: 7])
    path.write_bytes(data)
    (tmp_path / "text.mp4").write_text("hello " * 100)
    program = """
import sys
from edge_app.core.errors import CameraError, MediaError
from edge_app.media.sources import frames
for spec in sys.argv[1:]:
    try:
        list(frames(spec))
    except (CameraError, MediaError):
        pass
"""
    specs = [str(path), str(tmp_path / "text.mp4"), "97", "/dev/null", "http://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x"]
    done = subprocess.run([sys.executable, "-c", program, *specs], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_folder_gives_its_pictures_and_tells_at_the_end_what_it_could_not_read(tmp_path, nothing_leaks):
    for index, name in enumerate("bad"):
        write_picture(tmp_path / f"{name}.png", shade(index))
    got = list(frames(str(tmp_path)))
    assert [frame.pixels[0, 0, 0] for frame in got] == [45, 40, 50]  # a, b, d
    assert [frame.time_s for frame in got] == [0.0, 1.0, 2.0]
    (tmp_path / "b.png").write_bytes(b"broken")
    stream = frames(str(tmp_path))
    assert [next(stream).index, next(stream).index] == [0, 2]
    with pytest.raises(MediaError, match=r"b\.png is not a picture"):
        next(stream)
    (tmp_path / "d.png").write_bytes(b"")
    with pytest.raises(MediaError, match=r"of .* 2 pictures could not be read; the first: "):
        list(frames(str(tmp_path)))


def test_a_folder_without_pictures_is_one_line(tmp_path):
    with pytest.raises(MediaError, match="no picture in"):
        open_source(str(tmp_path))


def test_a_picture_is_shown_for_two_seconds(tmp_path):
    write_picture(tmp_path / "a.png", shade(3))
    got = list(frames(str(tmp_path / "a.png")))
    assert [(frame.index, frame.time_s) for frame in got] == [(index, index / 5) for index in range(10)]
    np.testing.assert_array_equal(got[-1].pixels, shade(3))


def test_a_damaged_picture_is_told_once(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    with pytest.raises(MediaError, match=r"a\.png is not a picture"):
        list(frames(str(tmp_path / "a.png")))


def test_the_sample_clip_is_a_source():
    with open_source("sample") as source:
        assert source.frame_count == 270
        assert source.read().size_px == (640, 480)


def test_an_absent_webcam_says_what_to_do():
    with pytest.raises(CameraError, match="edge-app cameras"):
        open_source("97")


# Streams


def test_a_stream_gives_frames_stamped_by_the_clock(nothing_leaks):
    ticks = iter(range(100, 10_000))
    with MjpegServer() as camera, open_source(camera.url, clock=lambda: float(next(ticks))) as source:
        assert source.spec.is_live
        assert source.frame_count is None
        got = [source.read() for _ in range(5)]
    assert [frame.index for frame in got] == [0, 1, 2, 3, 4]
    assert [frame.time_s for frame in got] == [100.0, 101.0, 102.0, 103.0, 104.0]
    assert got[0].pixels[10, 10].astype(int) == pytest.approx([0, 0, 200], abs=30)  # blue above, in RGB


@pytest.mark.parametrize("mode", ["refuse", "text"])
def test_an_address_that_is_no_camera_is_one_line(mode, nothing_leaks):
    with MjpegServer() as camera:
        camera.mode = mode
        with pytest.raises(CameraError, match="does not answer with a video"):
            open_source(camera.url)


def test_a_password_opens_the_stream_and_is_in_no_message(nothing_leaks):
    with MjpegServer(password="hunter2") as camera:
        with LiveCamera(camera.url, LiveOptions(retry_first_s=0.05)) as live:
            assert live.take(PATIENCE_S) is not None
            camera.mode = "refuse"
            camera.mode = "drop"
            status = once(live, CameraState.LOST)
            assert "user:***@127.0.0.1" in status.message
            assert "hunter2" not in repr(status)
        wrong = camera.url.replace("hunter2", "letmein")
        with pytest.raises(CameraError) as caught:
            open_source(wrong)
        assert "letmein" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["drop", "stall"])
def test_a_stream_that_drops_or_stalls_is_noticed_and_comes_back(trouble, nothing_leaks):
    with MjpegServer() as camera, LiveCamera(camera.url, LiveOptions(retry_first_s=0.05, retry_max_s=0.2)) as live:
        assert live.take(PATIENCE_S) is not None
        camera.mode = trouble
        status = once(live, CameraState.LOST)
        assert isinstance(status.error, CameraError)
        assert "\n" not in status.message
        assert status.fps == 0.0
        eventually(lambda: live.status.reconnects >= 1)  # the silence is seen a moment before the read times out
        assert live.status.state is CameraState.LOST
        before = live.status.received
        camera.mode = "live"
        status = once(live, CameraState.LIVE, lambda status: status.received > before + 3)
        assert (status.message, status.error) == ("", None)
        assert live.take(PATIENCE_S).index > 0  # the count goes on


def test_a_camera_that_is_unplugged_and_plugged_in_again_comes_back(nothing_leaks):
    options = LiveOptions(retry_first_s=0.05, retry_max_s=0.2)
    with MjpegServer() as camera, LiveCamera(camera.url, options) as live:
        assert live.take(PATIENCE_S) is not None
        camera.stop()
        once(live, CameraState.LOST)
        eventually(lambda: "does not answer" in live.status.message)
        camera.start()
        once(live, CameraState.LIVE)
    assert live.status.state is CameraState.ENDED
    assert live.take(0) is None


def test_a_camera_that_is_not_there_yet_is_waited_for(nothing_leaks):
    camera = MjpegServer()
    with LiveCamera(camera.url, LiveOptions(retry_first_s=0.05, retry_max_s=0.2)) as live:
        eventually(lambda: live.status.state is CameraState.LOST)
        with camera:
            assert live.take(PATIENCE_S) is not None


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "state"), [("black", CameraState.BLACK), ("frozen", CameraState.FROZEN)])
def test_a_black_or_frozen_stream_is_told_and_reopened(mode, state, nothing_leaks):
    options = LiveOptions(reopen_after_s=0.2)
    with MjpegServer() as camera, LiveCamera(camera.url, options) as live:
        assert live.take(PATIENCE_S) is not None
        camera.mode = mode
        assert camera.url in once(live, state).message
        assert live.take(PATIENCE_S) is not None  # its pictures still come
        connections = camera.connections
        eventually(lambda: camera.connections > connections)
        camera.mode = "live"
        assert once(live, CameraState.LIVE).message == ""


def test_closing_in_the_middle_of_a_stall_ends_the_thread(nothing_leaks):
    with MjpegServer() as camera:
        live = LiveCamera(camera.url)
        assert live.take(PATIENCE_S) is not None
        camera.mode = "stall"
        live.close(PATIENCE_S)
        live.close(PATIENCE_S)
        assert not [thread for thread in threading.enumerate() if thread.name == f"capture {camera.url}"]


# The live camera, with sources and time that the test makes


class FakeSource:
    """Plays a list: pixels, an error to raise, or None for the end; `gate` lets one step through at a time."""

    def __init__(self, steps: list[object], kind: str = "webcam", gate: threading.Semaphore | None = None) -> None:
        self.spec = SourceSpec(kind, "0", "camera 0")
        self.fps = 10.0
        self.frame_count = None
        self.closed = 0
        self._steps = iter(steps)
        self._gate = gate
        self._index = -1

    def read(self) -> Frame | None:
        if self._gate:
            self._gate.acquire()
        step = next(self._steps, CameraError("the list is over"))
        if isinstance(step, BaseException):
            raise step
        if step is None:
            return None
        self._index += 1
        return Frame(step, self._index, self._index / 10)

    def close(self) -> None:
        self.closed += 1
        if self._gate:
            self._gate.release()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class FakeTime:
    """A clock that moves only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits_s: list[float] = []
        self.enough = threading.Event()
        self.limit = 10**9

    def clock(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds
        if len(self.waits_s) >= self.limit:
            self.enough.set()
            threading.Event().wait(0.01)


def test_the_newest_frame_wins_and_drops_are_counted(nothing_leaks):
    gate = threading.Semaphore(0)
    source = FakeSource([shade(i) for i in range(40)], gate=gate)
    with LiveCamera("0", opener=lambda _: source) as live:
        for _ in range(5):
            gate.release()
        eventually(lambda: live.status.received == 5)
        frame = live.take(0)
        assert frame.index == 4
        np.testing.assert_array_equal(frame.pixels, shade(4))
        assert live.take(0) is None  # no frame is given twice
        assert live.status.dropped == 4
        gate.release()
        assert live.take(PATIENCE_S).index == 5
        assert live.status.dropped == 4
        for _ in range(100):
            gate.release()
    assert source.closed


def test_retries_back_off_and_are_bounded(nothing_leaks):
    fake = FakeTime()
    fake.limit = 8

    def absent(_: str) -> IndexedSource:
        raise CameraError("camera 0 is not there")

    options = LiveOptions(retry_first_s=0.5, retry_max_s=8)
    with LiveCamera("0", options, clock=fake.clock, wait=fake.wait, opener=absent) as live:
        assert fake.enough.wait(PATIENCE_S)
        assert live.status.state is CameraState.LOST
        assert live.status.message == "camera 0 is not there; trying again in 8 s"
    assert fake.waits_s[:8] == [0.5, 1, 2, 4, 8, 8, 8, 8]


def test_the_back_off_starts_anew_after_sound_frames(nothing_leaks):
    fake = FakeTime()
    fake.limit = 5
    lost = CameraError("camera 0 stopped sending pictures")
    plays = iter([[lost], [lost], [lost], [shade(1), lost], [lost]])
    with LiveCamera("0", clock=fake.clock, wait=fake.wait, opener=lambda _: FakeSource(next(plays, [lost]))) as live:
        assert fake.enough.wait(PATIENCE_S)
        assert live.status.reconnects >= 4
    assert fake.waits_s[:5] == [0.5, 1, 2, 0.5, 1]


@pytest.mark.parametrize(
    ("bright_in", "more_s"), [(None, [10, 20, 40, 80, 0]), (3, [10, 20, 2 - 30, 10 - 2, 20])], ids=["black", "recovers"]
)
def test_a_black_stream_is_opened_again_after_twice_the_time_each_time(bright_in, more_s, nothing_leaks):
    """Up to sixteen times as long, from the start again once its pictures were sound."""
    fake = FakeTime()
    opened_s: list[float] = []
    seven_times = threading.Event()

    class Black(FakeSource):
        def read(self) -> Frame | None:
            fake.now_s += 1.0
            self._index += 1
            bright = len(opened_s) - 1 == bright_in and self._index < 2
            return Frame(np.full((4, 4, 3), 90 + self._index if bright else 0, np.uint8), self._index, fake.now_s)

    def opener(_: str) -> FakeSource:
        opened_s.append(fake.now_s)
        if len(opened_s) > 6:
            seven_times.set()
            return FakeSource([CameraError("that is enough")])
        return Black([])

    options = LiveOptions(reopen_after_s=10.0)
    with LiveCamera("0", options, clock=fake.clock, wait=lambda _: time.sleep(0.01), opener=opener):
        assert seven_times.wait(PATIENCE_S)
    # It takes equally long to call the picture black each time; what is waited after that doubles.
    assert np.diff(opened_s[:7], 2).tolist() == more_s


def test_closing_while_waiting_for_a_retry_does_not_wait(nothing_leaks):
    def absent(_: str) -> IndexedSource:
        raise CameraError("camera 0 is not there")

    live = LiveCamera("0", LiveOptions(retry_first_s=3600, retry_max_s=3600), opener=absent)
    eventually(lambda: live.status.state is CameraState.LOST)
    live.close(join_s=PATIENCE_S)
    assert live.status.state is CameraState.ENDED


def test_a_driver_that_hangs_is_reported_by_the_clock(nothing_leaks):
    fake = FakeTime()
    gate = threading.Semaphore(1)
    source = FakeSource([shade(0), shade(1)], gate=gate)
    with LiveCamera("0", clock=fake.clock, opener=lambda _: source) as live:
        assert live.take(PATIENCE_S) is not None
        assert live.status.state is CameraState.LIVE
        fake.now_s += 4
        assert live.status.state is CameraState.LOST
        assert "no picture for 4 s" in live.status.message
        gate.release()
        assert live.take(PATIENCE_S) is not None
        assert live.status.state is CameraState.LIVE
        gate.release(5)


def test_an_unforeseen_failure_is_a_message_and_not_a_dead_thread(nothing_leaks):
    with LiveCamera("0", opener=lambda _: FakeSource([shade(0), ZeroDivisionError("a bug")])) as live:
        eventually(lambda: live.status.state is CameraState.ENDED)
        assert live.status.message == "capture from camera 0 failed (ZeroDivisionError: a bug)"


def test_nothing_is_lost_when_time_does_not_matter(tmp_path, nothing_leaks):
    with LiveCamera(str(video(tmp_path / "a.mp4")), LiveOptions(realtime=False)) as live:
        got = []
        while (frame := live.take(PATIENCE_S)) is not None:
            got.append(frame.index)
        assert got == list(range(30))
        assert (live.status.dropped, live.status.state, live.status.error) == (0, CameraState.ENDED, None)


def test_a_file_plays_at_its_own_speed(tmp_path, nothing_leaks):
    fake = FakeTime()
    with LiveCamera(str(video(tmp_path / "a.mp4")), clock=fake.clock, wait=fake.wait) as live:
        eventually(lambda: live.status.state is CameraState.ENDED)
    assert live.status.received == 30
    assert fake.now_s == pytest.approx(1000 + 29 / 15, abs=1e-2)
    np.testing.assert_allclose(fake.waits_s, 1 / 15, atol=1e-2)


def test_a_looped_file_starts_again_and_its_time_goes_on(tmp_path, nothing_leaks):
    path = video(tmp_path / "a.mp4", 5)
    with LiveCamera(str(path), LiveOptions(realtime=False, loop=True)) as live:
        got = [live.take(PATIENCE_S) for _ in range(12)]
    assert [frame.index for frame in got] == list(range(12))
    np.testing.assert_allclose([frame.time_s for frame in got], np.arange(12) / 15, atol=1e-2)
    np.testing.assert_array_equal(got[1].pixels, got[6].pixels)


def test_a_looped_file_without_a_frame_ends_instead_of_spinning(nothing_leaks):
    opened = []

    def empty(_: str) -> FakeSource:
        opened.append(1)
        return FakeSource([MediaError("a.mp4 ended after 0 frames"), None], kind="video")

    with LiveCamera("sample", LiveOptions(loop=True), opener=empty) as live:
        eventually(lambda: live.status.state is CameraState.ENDED)
    assert opened == [1]
    assert live.status.message == "a.mp4 ended after 0 frames"


def test_a_video_cut_short_ends_with_its_error(nothing_leaks):
    steps = [shade(0), shade(1), MediaError("a.avi ended after 2 frames"), None]
    source = FakeSource(steps, kind="video")
    with LiveCamera("sample", LiveOptions(realtime=False), opener=lambda _: source) as live:
        while live.take(PATIENCE_S) is not None:
            pass
        assert live.status.state is CameraState.ENDED
        assert isinstance(live.status.error, MediaError)
        assert live.status.received == 2


def test_a_bad_picture_in_a_folder_is_told_and_passed_over(tmp_path, nothing_leaks):
    for index, name in enumerate("abc"):
        write_picture(tmp_path / f"{name}.png", shade(index))
    (tmp_path / "b.png").write_bytes(b"broken")
    with LiveCamera(str(tmp_path), LiveOptions(realtime=False)) as live:
        got = [live.take(PATIENCE_S), live.take(PATIENCE_S), live.take(PATIENCE_S)]
        assert [frame and int(frame.pixels[0, 0, 0]) for frame in got] == [40, 50, None]
        assert "b.png is not a picture" in live.status.message


def test_a_file_that_cannot_be_opened_ends_with_its_error(tmp_path, nothing_leaks):
    (tmp_path / "a.mp4").write_text("hello " * 50)
    with LiveCamera(str(tmp_path / "a.mp4")) as live:
        assert live.take(PATIENCE_S) is None
        assert live.status.state is CameraState.ENDED
        assert "not a video" in live.status.message
    with pytest.raises(MediaError, match="does not exist"):
        LiveCamera(str(tmp_path / "gone.mp4"))


# Health


def judged(pictures: list[np.ndarray], fps: float = 10.0) -> list[str]:
    health = Health()
    return [health.judge(pixels, index / fps) for index, pixels in enumerate(pictures)]


def noisy(level: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(level, level + 4, (48, 64, 3), dtype=np.uint8)


def test_black_counts_after_the_exposure_had_time_to_settle():
    states = judged([noisy(0, i) for i in range(30)] + [noisy(90, 99)])
    assert states[:15] == ["sound"] * 15
    assert states[15:30] == ["black"] * 15
    assert states[30] == "sound"


def test_a_dark_room_with_a_light_in_it_is_not_black():
    picture = noisy(0, 1)
    picture[10:20, 10:20] = 200
    assert "black" not in judged([np.roll(picture, i, axis=1) for i in range(40)])


def test_frozen_counts_after_a_while_and_ends_with_the_first_new_picture():
    states = judged([noisy(90, 1)] * 40 + [noisy(90, 2)])
    assert states[:30] == ["sound"] * 30
    assert states[30:40] == ["frozen"] * 10
    assert states[40] == "sound"


def test_a_still_scene_with_sensor_noise_is_not_frozen_nor_is_a_slow_stream():
    assert set(judged([noisy(90, i) for i in range(60)])) == {"sound"}
    assert set(judged([noisy(90, 1)] * 4 + [noisy(90, 2)], fps=1.0)) == {"sound"}


def test_a_change_of_size_is_a_new_picture():
    small, large = noisy(90, 1), np.full((96, 128, 3), 90, np.uint8)
    assert judged([small, large, small]) == ["sound"] * 3


def test_stills_of_a_folder_are_neither_black_nor_frozen(tmp_path, nothing_leaks):
    for index in range(8):
        write_picture(tmp_path / f"{index}.png", np.zeros((4, 4, 3), np.uint8))
    states = set()
    with LiveCamera(str(tmp_path), LiveOptions(realtime=False)) as live:
        while live.take(PATIENCE_S) is not None:
            states.add(live.status.state)
    assert not states & {CameraState.BLACK, CameraState.FROZEN}


# The list of cameras


class FakeDriver:
    """Answers Video4Linux requests for a camera with two formats, and for a metadata node."""

    formats = (b"MJPG", b"YUYV")
    sizes = ((640, 480), (1280, 720))

    def __init__(self, node: Path) -> None:
        self.node = node

    def ioctl(self, descriptor: int, request: int, data: bytearray) -> bool:
        metadata = Path(f"/proc/self/fd/{descriptor}").resolve().name == "video1"
        number, size = request & 0xFF, (request >> 16) & 0x3FFF
        assert size == len(data)
        index, code = struct.unpack_from("=II", data, 0)
        if number == 0:
            data[16:25] = b"Some Card"
            struct.pack_into("=II", data, 84, 0x84A00001, 0x04A00000 if metadata else 0x04200001)
            return True
        if number == 2 and index < len(self.formats):
            data[44:48] = self.formats[index]
            return True
        if number == 74 and index < len(self.sizes):
            struct.pack_into("=III", data, 8, 1, *self.sizes[index])
            return True
        if number == 75 and index < 2:
            width = struct.unpack_from("=I", data, 8)[0]
            slow = code == int.from_bytes(b"YUYV", "little") and width == 1280
            struct.pack_into("=III", data, 16, 1, 1, (10 if slow else 30) // (index + 1))
            return True
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="Video4Linux")
def test_cameras_are_listed_with_their_formats(tmp_path, monkeypatch, nothing_leaks):
    for name in ("video10", "video0", "video1", "video-nonsense", "null"):
        (tmp_path / name).touch()
    (tmp_path / "sys" / "video0").mkdir(parents=True)
    (tmp_path / "sys" / "video0" / "name").write_text("Integrated Camera\n")
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    monkeypatch.setattr(devices, "_SYS", tmp_path / "sys")
    monkeypatch.setattr(devices, "_ioctl", FakeDriver(tmp_path).ioctl)
    cameras = list_cameras()
    assert [(camera.spec, camera.name) for camera in cameras] == [("0", "Integrated Camera"), ("10", "Some Card")]
    assert cameras[0].formats == (
        CameraFormat("MJPG", (1280, 720), 30.0),
        CameraFormat("YUYV", (1280, 720), 10.0),
        CameraFormat("MJPG", (640, 480), 30.0),
        CameraFormat("YUYV", (640, 480), 30.0),
    )
    assert cameras[0].problem == ""


def test_a_measured_camera_tells_its_rate_and_a_bad_one_its_problem(monkeypatch):
    found = [devices.CameraInfo("0", "/dev/video0", "good"), devices.CameraInfo("1", "/dev/video1", "bad")]
    monkeypatch.setattr(devices, "_linux_cameras", lambda: found)
    monkeypatch.setattr(devices, "_probed_cameras", lambda: found)

    def opener(spec: str, *, clock: object) -> FakeSource:
        if spec == "camera:1":
            raise CameraError("camera 1 cannot be opened")
        return FakeSource([shade(i) for i in range(40)])  # 10 frames a second

    monkeypatch.setattr(devices, "open_source", opener)
    good, bad = list_cameras(measure=True)
    assert good.measured_fps == pytest.approx(10.0)
    assert good.measured_size_px == (64, 48)
    assert bad.problem == "camera 1 cannot be opened"
    assert list_cameras()[1].problem == ""
    assert [(camera.measured_fps, camera.problem) for camera in list_cameras(check=True)] == [
        (None, ""),
        (None, "camera 1 cannot be opened"),
    ]


def test_many_formats_are_one_readable_line():
    codes = ["RGB3", "AR24", "YUYV", "BA81", "MJPG", "NM12", "Y16 -BE"]
    sizes = [(1920 - 100 * n, 1080) for n in range(9)]
    many = [CameraFormat(code, size, 30.0 if code == "MJPG" else None) for size in sizes for code in codes]
    assert devices.formats_line(many) == (
        "YUYV 1920x1080 1820x1080 1720x1080 1620x1080 +5; "
        "MJPG 1920x1080@30 1820x1080@30 1720x1080@30 1620x1080@30 +5; "
        "RGB3 1920x1080 1820x1080 1720x1080 1620x1080 +5; AR24 1920x1080 1820x1080 1720x1080 1620x1080 +5; "
        "and 3 more encodings (--json lists them)"
    )
    assert devices.formats_line([CameraFormat("", (640, 480), None)]) == "any 640x480"
    assert devices.formats_line([]) == ""
    names = [devices._four_letters(int.from_bytes(code, "little")) for code in (b"YUYV", b"Y16\xa0", b"A\x01\x02B")]
    assert names == ["YUYV", "Y16-BE", "A??B"]


def test_the_doctor_says_ill_for_a_camera_that_gives_no_picture(monkeypatch, tmp_path, capsys):
    from edge_app.cli import main

    found = [devices.CameraInfo("0", "/dev/video0", "good"), devices.CameraInfo("1", "/dev/video1", "bad")]
    found.append(devices.CameraInfo("2", "/dev/video2", "locked", problem="cannot be opened (Permission denied)"))
    monkeypatch.setattr(devices, "_linux_cameras", lambda: found)
    monkeypatch.setattr(devices, "_probed_cameras", lambda: found)

    def opener(spec: str, *, clock: object) -> FakeSource:
        return FakeSource([shade(1)] if spec == "camera:0" else [CameraError(f"{spec} sends no picture")])

    monkeypatch.setattr(devices, "open_source", opener)
    assert main(["doctor", "--home", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if " camera: " in line]
    assert lines == [
        "ok   camera: 0: good",
        "ILL  camera: 1: bad, camera:1 sends no picture",
        "ILL  camera: 2: locked, cannot be opened (Permission denied)",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="Video4Linux")
def test_a_node_that_cannot_be_opened_has_a_problem(monkeypatch, tmp_path):
    (tmp_path / "video0").symlink_to(tmp_path / "gone")
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    assert [camera.problem for camera in list_cameras(check=True)] == [
        "cannot be opened (No such file or directory); sudo usermod -aG video $USER may help"
    ]


# Writing videos


@pytest.mark.parametrize("name", ["a.mp4", "ä 李.avi"])
def test_a_written_video_is_read_again_and_private(tmp_path, name, nothing_leaks):
    path = video(tmp_path / name, 10)
    assert [frame.index for frame in frames(str(path))] == list(range(10))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_video_that_was_not_finished_leaves_the_old_one(tmp_path, nothing_leaks):
    path = video(tmp_path / "a.mp4", 3)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), VideoWriter(path, (64, 48), 15) as writer:
        writer.write(shade(0))
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_pictures_of_another_size_are_refused_not_dropped(tmp_path):
    with pytest.raises(MediaError, match="found a picture of 32 x 24 px; expected 64 x 48"):  # noqa: SIM117
        with VideoWriter(tmp_path / "a.mp4", (64, 48), 15) as writer:
            writer.write(shade(0, (32, 24)))
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_did_not_arrive_whole_is_refused(tmp_path, monkeypatch):
    writer = VideoWriter(tmp_path / "a.mp4", (64, 48), 15)
    writer.write(shade(0))
    writer._times_s *= 5  # as if four writes had failed on a full disk
    with pytest.raises(MediaError, match="1 of 5 pictures arrived"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_videos_that_cannot_be_written_are_one_line_each(tmp_path):
    for make, words in (
        (lambda: VideoWriter(tmp_path / "a.mov", (64, 48), 15), r"expected \.mp4, \.avi"),
        (lambda: VideoWriter(tmp_path / "no" / "a.mp4", (64, 48), 15), "No such file"),
        (lambda: VideoWriter(tmp_path / "a.mp4", (64, 48), 0), "is no video"),
        (lambda: VideoWriter(tmp_path / "a.mp4", (64, 48), 15).close(), "no picture was given"),
    ):
        with pytest.raises(MediaError, match=words):
            make()
    assert list(tmp_path.iterdir()) == []
