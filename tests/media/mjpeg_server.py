"""A real MJPEG camera on loopback that can be told to drop, stall, go black, freeze, vanish and return."""

from __future__ import annotations

import base64
import contextlib
import http.server
import itertools
import threading
from typing import Literal, Self

import cv2
import numpy as np

from tests.ports import held_port

Mode = Literal["live", "stall", "drop", "black", "frozen", "refuse", "text"]


class MjpegServer:
    """Serves pictures of noise, 25 a second, at `url`; the red channel of picture i is i modulo 200."""

    def __init__(self, *, password: str | None = None, size_px: tuple[int, int] = (64, 48)) -> None:
        self.mode: Mode = "live"
        self.size_px = size_px
        self.password = password
        self.sent = 0
        self.connections = 0
        self._stopping = threading.Event()
        self._server: http.server.ThreadingHTTPServer | None = None
        self._held = held_port()
        self.port: int = self._held.getsockname()[1]

    @property
    def url(self) -> str:
        user = f"user:{self.password}@" if self.password else ""
        return f"http://{user}127.0.0.1:{self.port}/video.mjpg"

    def start(self) -> Self:
        self._stopping.clear()
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                camera._serve(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = False  # so that stop() joins them
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def stop(self) -> None:
        """Unplug the camera: connections are cut, and nothing listens any more."""
        if self._server is not None:
            self._stopping.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._held.close()

    def _serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.connections += 1
        handler.close_connection = True
        expected = "Basic " + base64.b64encode(f"user:{self.password}".encode()).decode()
        if self.password and handler.headers.get("Authorization") != expected:
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="camera"')
            handler.end_headers()
            return
        if self.mode in ("refuse", "text"):
            handler.send_response(404 if self.mode == "refuse" else 200)
            handler.send_header("Content-Type", "text/html")
            handler.end_headers()
            handler.wfile.write(b"<p>this is no camera</p>" * 20)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the viewer went away
            self._send_pictures(handler)

    def _send_pictures(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        for index in itertools.count():
            if self._stopping.wait(0.04) or self.mode == "drop":
                return
            if self.mode == "stall":
                continue
            jpeg = self._picture(index)
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            handler.wfile.write(head + jpeg + b"\r\n")
            handler.wfile.flush()
            self.sent += 1

    def _picture(self, index: int) -> bytes:
        width, height = self.size_px
        pixels = np.zeros((height, width, 3), np.uint8)
        if self.mode != "black":
            pixels[..., 2] = 100 if self.mode == "frozen" else index % 200
            pixels[: height // 2, :, 0] = 200
        return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
