"""A real RTSP camera on loopback: H.264 or MJPEG through GStreamer's RTSP server, which the system's Python runs.

Needs Debian's gir1.2-gst-rtsp-server-1.0, python3-gi and gstreamer1.0-plugins-{base,good,bad,ugly}. Stopped for a while
it is a camera whose network stalls: its connections stay open, and nothing comes.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PYTHON = "/usr/bin/python3"
_NEEDED = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast ! rtph264pay name=pay0 pt=96",
    "h264-reordered": "x264enc speed-preset=ultrafast bframes=2 ! rtph264pay name=pay0 pt=96",
    "mjpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
}


def missing() -> str:
    """What keeps such a camera from running here; "" when nothing does."""
    if not Path(PYTHON).exists():
        return f"needs {PYTHON}"
    done = subprocess.run([PYTHON, "-c", _NEEDED], capture_output=True, check=False)
    return "needs apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi" if done.returncode else ""


class RtspServer:
    """Serves a moving picture, 160 x 120 at 15 frames a second, at `url`."""

    def __init__(self, codec: str) -> None:
        from tests.ports import held_port  # not for the system's Python, which runs this file too

        self._held = held_port()
        self._port = self._held.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{self._port}/cam"
        self._codec = codec

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [PYTHON, __file__, str(self._port), self._codec], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", self._port)) == 0:
                    return self
            time.sleep(0.1)
        raise TimeoutError("the RTSP server did not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._held.close()

    def stall(self) -> None:
        """Send nothing more, and answer nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Send again."""
        self._process.send_signal(signal.SIGCONT)


def serve(port: str, codec: str) -> None:
    """Run the server until it is killed; in the system's Python."""
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    shown = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=15/1"
    factory.set_launch(f"( {shown} ! {ENCODERS[codec]} )")
    factory.set_shared(True)
    server = GstRtspServer.RTSPServer()
    server.set_service(port)
    server.set_address("127.0.0.1")
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    GLib.MainLoop().run()


if __name__ == "__main__":
    serve(*sys.argv[1:])
