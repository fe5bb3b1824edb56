"""A real MQTT broker on loopback, and somebody who listens to it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from tests.ports import held_port

PATIENCE_S = 60.0
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")


class Mosquitto:
    """A real broker on a port of its own, with one user, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        if MOSQUITTO is None or shutil.which("mosquitto_passwd") is None:
            pytest.skip("needs Debian's mosquitto")
        pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")
        self._folder = folder
        self._held = held_port()
        self.port = self._held.getsockname()[1]
        passwords = folder / "passwords"
        passwords.touch(0o600)
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), "door", "s@cret"], check=True, capture_output=True)
        (folder / "broker.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nuser root\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._folder / "broker.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE_S
        while not self._listens():
            assert time.monotonic() < deadline, "mosquitto does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
            self._process = None

    def close(self) -> None:
        self.stop()
        self._held.close()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Listener:
    """Subscribes with a client of its own."""

    def __init__(self, port: int) -> None:
        from paho.mqtt import client as mqtt

        self.heard: list[tuple[str, str]] = []
        ready = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.username_pw_set("door", "s@cret")
        self._client.on_message = lambda _c, _d, message: self.heard.append((message.topic, message.payload.decode()))
        self._client.on_connect = lambda client, *_: client.subscribe("home/#", qos=1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
