"""Cameras that give one picture a request: polled at their rate, patient with one failure, lost after several."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Callable
from typing import Self

import cv2
import numpy as np
import pytest

from edge_app.core.errors import CameraError, MediaError
from edge_app.media.live_camera import CameraState, LiveCamera, LiveOptions
from edge_app.media.sources import open_source

PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


class SnapshotServer:
    """Answers each request at `url` with a new picture, whose red counts them; `mode` spoils that."""

    def __init__(self, *, login: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.mode = "live"
        self.asked_s: list[float] = []
        self.given = 0
        self._login = login
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    camera._answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}/snap.jpg?channel=1"
        self.url = f"http://{self.address}"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        assert handler.path == "/snap.jpg?channel=1"
        asked = handler.headers.get("Authorization", "")
        if self._login and not self._knows(asked):
            handler.send_response(401)
            kind = 'Digest realm="cam", nonce="abc", qop="auth"' if self._login == "digest" else 'Basic realm="cam"'
            handler.send_header("WWW-Authenticate", kind)
            handler.end_headers()
            return
        self.asked_s.append(self.clock())
        if self.mode == "busy" or (self.mode == "hiccup" and len(self.asked_s) % 3 == 0):
            handler.send_error(503)
            return
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[..., 2] = 4 * self.given % 200
        jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
        handler.send_response(200)
        handler.send_header("Content-Type", "image/jpeg")
        handler.send_header("Content-Length", str(len(jpeg)))
        if self.mode == "dripping":
            handler.flush_headers()
            while not self._ending.wait(0.2):
                handler.wfile.write(b"X-More: 1\r\n")
                handler.wfile.flush()
        handler.end_headers()
        handler.wfile.write(jpeg if self.mode != "short" else jpeg[:-50])
        self.given += 1

    def _knows(self, asked: str) -> bool:
        if self._login == "basic":
            return asked == "Basic " + base64.b64encode(b"ada:pa:ss").decode()
        if not asked.startswith("Digest "):
            return False
        facts = {k.strip(): v.strip(' "') for k, _, v in (part.partition("=") for part in asked[7:].split(","))}

        def md5(*words: str) -> str:
            return hashlib.md5(":".join(words).encode(), usedforsecurity=False).hexdigest()

        path = "/snap.jpg?channel=1"
        wanted = (md5("ada", "cam", "pa:ss"), facts["nonce"], facts["nc"], facts["cnonce"], "auth", md5("GET", path))
        return facts["response"] == md5(*wanted)


class FakeTime:
    """Stands in for the module time: only sleeping takes time, so that no busy machine moves a request."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    made = FakeTime()
    monkeypatch.setattr("edge_app.media.snapshots.time", made)
    return made


def test_each_frame_is_a_request_of_its_own_at_the_rate_of_the_address(clock):
    with (
        SnapshotServer(clock=clock.monotonic) as camera,
        open_source(camera.url + "#fps=20", clock=lambda: 7.0) as source,
    ):
        assert (source.spec.kind, source.spec.is_live, source.fps) == ("snapshot", True, 20.0)
        assert source.spec.name == camera.url
        got = [source.read() for _ in range(8)]
    assert [frame.index for frame in got] == list(range(8))
    assert [frame.time_s for frame in got] == [7.0] * 8
    reds = [int(frame.pixels[..., 0].mean().round()) for frame in got]
    assert np.diff(reds).tolist() == [4] * 7
    # The first request only asks what the address is.
    np.testing.assert_allclose(np.diff(camera.asked_s), [0] + [0.05] * 7, atol=1e-6)


def test_a_rate_is_kept_when_none_is_asked_for(clock):
    with SnapshotServer(clock=clock.monotonic) as camera, open_source(camera.url) as source:
        for _ in range(3):
            source.read()
        assert source.fps == 5.0
    np.testing.assert_allclose(np.diff(camera.asked_s), [0, 0.2, 0.2], atol=1e-6)


@pytest.mark.parametrize("login", ["basic", "digest"])
def test_a_password_opens_it_and_is_in_no_message(login):
    with SnapshotServer(login=login) as camera:
        with open_source(f"http://ada:pa%3Ass@{camera.address}") as source:
            assert source.read().size_px == (64, 48)
            assert source.spec.name == f"http://ada:***@{camera.address}"
        with pytest.raises(CameraError, match=r"does not answer with a video \(it answered 401\)") as caught:
            open_source(f"http://ada:letmein@{camera.address}")
        assert "letmein" not in str(caught.value)


@pytest.mark.slow
def test_one_failure_is_no_loss(monkeypatch):
    monkeypatch.setattr("edge_app.media.snapshots.PATIENCE_S", PATIENCE_S)
    with SnapshotServer() as camera, open_source(camera.url + "#fps=20") as source:
        camera.mode = "hiccup"
        assert [source.read().index for _ in range(8)] == list(range(8))
        assert len(camera.asked_s) > 10


@pytest.mark.parametrize(
    ("mode", "words"), [("busy", "it answered 503"), ("short", "its picture was cut short"), ("dripping", "too long")]
)
def test_a_camera_that_goes_on_failing_is_lost_with_the_reason(mode, words, monkeypatch):
    monkeypatch.setattr("edge_app.media.snapshots.REQUEST_S", PATIENCE_S)
    with SnapshotServer() as camera, open_source(camera.url) as source:
        assert source.read() is not None
        # Not before: a busy machine may need longer than this for a picture that comes.
        monkeypatch.setattr("edge_app.media.snapshots.PATIENCE_S", 1.0)
        if mode == "dripping":
            monkeypatch.setattr("edge_app.media.snapshots.REQUEST_S", 0.7)
        camera.mode = mode
        asked = len(camera.asked_s)
        with pytest.raises(CameraError, match=rf"stopped sending pictures \(.*{words}.*\)"):
            source.read()
        assert len(camera.asked_s) - asked in (1, 2, 3)  # it is asked less and less often


def test_it_is_lost_and_comes_back_as_a_live_camera(monkeypatch):
    monkeypatch.setattr("edge_app.media.snapshots.PATIENCE_S", 0.5)
    options = LiveOptions(retry_first_s=0.05, retry_max_s=0.2)
    with SnapshotServer() as camera, LiveCamera(camera.url + "#fps=20", options) as live:
        states = []
        for mode in ("live", "busy", "live"):
            camera.mode = mode
            wanted = CameraState.LIVE if mode == "live" else CameraState.LOST
            deadline_s = time.monotonic() + PATIENCE_S
            while live.status.state is not wanted and time.monotonic() < deadline_s:
                time.sleep(0.01)
            states.append(live.status.state)
        assert states == [CameraState.LIVE, CameraState.LOST, CameraState.LIVE]
        assert live.take(PATIENCE_S).size_px == (64, 48)


def test_a_slow_camera_is_not_silent_between_two_pictures():
    with SnapshotServer() as camera, LiveCamera(camera.url + "#fps=0.4", LiveOptions(stall_s=0.3)) as live:
        assert live.take(PATIENCE_S) is not None
        time.sleep(0.8)
        assert live.status.state is CameraState.LIVE


def test_closing_does_not_wait_for_the_next_picture():
    with SnapshotServer() as camera:
        live = LiveCamera(camera.url + "#fps=0.02")
        assert live.take(PATIENCE_S) is not None
        live.close(30)  # 50 seconds lie between two pictures
        assert not [thread for thread in threading.enumerate() if thread.name == f"capture {camera.url}"]


@pytest.mark.parametrize("end", ["#fps=0", "#fps=1000", "#fps=1.2.3"])
def test_a_rate_that_makes_no_sense_is_refused(end):
    with pytest.raises(MediaError, match=r"fps|cannot be read"):
        open_source("http://127.0.0.1:9/x.jpg" + end)


def test_a_host_that_no_name_service_takes_is_one_line():
    with pytest.raises(MediaError, match="cannot be read as an address"):
        open_source("http://" + "a" * 70 + ".local/x.jpg")
