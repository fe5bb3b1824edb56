"""A stream that stalls is lost once and comes back once, from a real RTSP server."""

from __future__ import annotations

import time

import pytest

from edge_app.media.live_camera import CameraState, LiveCamera, LiveOptions
from tests.media import rtsp_server

pytestmark = pytest.mark.slow
STALLED_S = 12.0


@pytest.fixture(autouse=True, scope="module")
def needs_a_server():
    if why := rtsp_server.missing():
        pytest.skip(why)


@pytest.mark.parametrize("codec", ["h264", "h264-reordered", "mjpeg"])
def test_a_stream_that_stalls_is_lost_once_and_comes_back_once(codec):
    with rtsp_server.RtspServer(codec) as server, LiveCamera(server.url, LiveOptions(retry_max_s=1)) as live:
        deadline_s = time.monotonic() + 60
        while live.status.received < 30:
            assert time.monotonic() < deadline_s, live.status.message
            time.sleep(0.05)
        seen = [live.status.state]
        late = 0

        def watch(until_s: float) -> None:
            nonlocal late
            while time.monotonic() < until_s:
                frame = live.take(0.02)
                late += frame is not None and stalled_s is not None and time.monotonic() - stalled_s > 1
                if live.status.state is not seen[-1]:
                    seen.append(live.status.state)

        server.stall()
        stalled_s = time.monotonic()
        watch(stalled_s + STALLED_S)
        assert seen == [CameraState.LIVE, CameraState.LOST]
        assert late == 0  # nothing was sent, so nothing that comes is of now
        stalled_s = None
        server.go_on()
        back_s = time.monotonic() + 30
        while live.status.state is CameraState.LOST and time.monotonic() < back_s:
            watch(time.monotonic() + 0.2)
        watch(time.monotonic() + 4)
        assert seen == [CameraState.LIVE, CameraState.LOST, CameraState.LIVE]
