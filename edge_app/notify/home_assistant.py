"""Home Assistant's MQTT discovery: a device per camera, with what was seen there last.

The payloads are those of https://www.home-assistant.io/integrations/mqtt (event, sensor and binary_sensor). Known
strangers who are to be ignored are told of nowhere, so there is no event for them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from edge_app import __version__
from edge_app.core.errors import EdgeError
from edge_app.notify.delivery import DeliveryOptions
from edge_app.notify.hooks import Report
from edge_app.notify.mqtt import Broker

PREFIX: Final = "homeassistant"
"""Where Home Assistant looks unless it was told otherwise."""
_EVENTS: Final = {"recognized": "known", "unknown": "unknown"}
_ANSWER_S: Final = 15.0
"""How long a broker may take to hand over what it keeps."""


class HomeAssistant(Broker):
    """A broker that is also told which cameras there are, and what Home Assistant is to show of each.

    Under the address's topic: `<topic>/status` (the last will), and for each camera `<topic>/<camera>/status`, `/event`
    and, kept by the broker, `/last`. With `presence` also `/person/<id>`, a person's id being no name; the name is in
    the configuration, which the broker keeps until `remove`.
    """

    def __init__(
        self,
        address: str,
        report: Report,
        options: DeliveryOptions | None = None,
        *,
        cameras: Sequence[str],
        presence: bool = False,
    ) -> None:
        """`cameras` are the names by which events call them; the only one's events need not. Raises as `Broker`."""
        self._cameras = {name: _slug(name) for name in cameras}
        self._presence = presence
        self._here: dict[tuple[str, str], set[object]] = {}
        """By camera and name the tracks that are there."""
        self._kept: dict[str, str] = {}
        """Topics and payloads of what the broker is to keep, told with every connection: it may have lost them."""
        self._lock = threading.Lock()
        self._was_connected = False
        super().__init__(address, report, options, will=True)
        for name in self._cameras:
            self._configure_camera(name)
        self._keep(f"{self._topic}/status", "online")

    def send(self, text: str) -> None:
        super().send(text)
        event = json.loads(text)
        camera = str(event.get("source") or next(iter(self._cameras)))
        base = f"{self._topic}/{self._cameras[camera]}"
        what, name = event["event"], event.get("name")
        if what in ("source_lost", "source_back"):
            self._keep(f"{base}/status", "offline" if what == "source_lost" else "online")
        elif what in _EVENTS:
            kind = "not_live" if event.get("live") == "no" else _EVENTS[what]
            told = {"event_type": kind, "name": name, "similarity": event.get("similarity")}
            self._publish(f"{base}/event", json.dumps(told, ensure_ascii=False))
            if kind == "known" and name:
                self._keep(f"{base}/last", str(name))
        if self._presence and name:
            self._tell_presence(camera, str(name), event)

    def _tell_presence(self, camera: str, name: str, event: dict[str, Any]) -> None:
        here = self._here.setdefault((camera, name), set())
        was = bool(here)
        if event["event"] == "recognized" and event.get("live") != "no":
            here.add(event.get("track"))
        elif event["event"] == "left":
            here.discard(event.get("track"))
        if bool(here) != was:
            number = hashlib.sha256(name.encode()).hexdigest()[:12]
            topic = f"{self._topic}/{self._cameras[camera]}/person/{number}"
            shown = {"name": name, "state_topic": topic, "device_class": "occupancy"}
            self._configure(camera, "binary_sensor", f"person_{number}", shown)
            self._keep(topic, "ON" if here else "OFF")

    def close(self, timeout_s: float) -> int:
        self._keep(f"{self._topic}/status", "offline")
        return super().close(timeout_s)

    def _configure_camera(self, name: str) -> None:
        base = f"{self._topic}/{self._cameras[name]}"
        self._configure(name, "event", "face", {
            "name": "Face", "state_topic": f"{base}/event", "event_types": ["known", "unknown", "not_live"],
            "icon": "mdi:face-recognition"})  # fmt: skip
        self._configure(name, "sensor", "last", {
            "name": "Last person", "state_topic": f"{base}/last", "icon": "mdi:account"})  # fmt: skip
        self._keep(f"{base}/status", "online")

    def _configure(self, camera: str, component: str, what: str, own: dict[str, Any]) -> None:
        device = _device_id(self._topic, self._cameras[camera])
        payload = own | {
            "unique_id": f"{device}_{what}",
            "availability": [
                {"topic": f"{self._topic}/status"},
                {"topic": f"{self._topic}/{self._cameras[camera]}/status"},
            ],
            "availability_mode": "all",
            "qos": 1,
            "device": {"identifiers": [device], "name": camera, "manufacturer": "edge-app", "model": "watch",
                       "sw_version": __version__},
            "origin": {"name": "edge-app", "sw_version": __version__},
        }  # fmt: skip
        topic, text = f"{PREFIX}/{component}/{device}/{what}/config", json.dumps(payload, ensure_ascii=False)
        self._keep(topic, text)

    def _keep(self, topic: str, text: str) -> None:
        with self._lock:
            known = self._kept.get(topic) == text
            self._kept[topic] = text
            if self._was_connected and not known:
                self._publish(topic, text, retain=True)  # inside: a later state must not be told before an earlier

    def _connected(self) -> None:
        with self._lock:
            self._was_connected = True
            for topic, text in self._kept.items():
                self._publish(topic, text, retain=True, is_first=True)  # an event before its camera is heard by nobody


def remove(address: str, report: Report) -> int:
    """Delete everything that discovery left at the broker, of all cameras under this address; how many topics it was.

    Raises EdgeError when the broker does not answer.
    """
    found: set[str] = set()
    complete = threading.Event()
    broker = Broker(address, report)
    topic = broker.topic
    prefix = _device_id(topic, "")
    marker = f"{topic}/removing/{hashlib.sha256(str(id(found)).encode()).hexdigest()[:12]}"

    def hear(where: str, payload: bytes, retained: bool) -> None:
        if where == marker:
            complete.set()
        elif retained and payload and (where.startswith(f"{topic}/") or f"/{prefix}" in where):
            found.add(where)

    try:
        # What is kept is handed over before what is published after the subscription.
        broker.listen([f"{PREFIX}/+/+/+/config", f"{topic}/#"], hear, marker)
        if not complete.wait(_ANSWER_S):
            raise EdgeError(
                f"{urlsplit(address).hostname} does not hand over what it keeps", remedy="check the address; try again"
            )
        for where in sorted(found):
            broker._publish(where, "", retain=True)
    finally:
        left = broker.close(_ANSWER_S)
    if left:
        raise EdgeError(f"{left} topics were not taken away", remedy="try again")
    return len(found)


def _slug(name: str) -> str:
    """A camera's name as a part of a topic; different names never share one."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:40]
    return plain if plain == name else f"{plain or 'camera'}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _device_id(topic: str, camera: str) -> str:
    """Two doors with a camera of one name are two devices, if their topics differ."""
    return f"edge_app_{hashlib.sha256(topic.encode()).hexdigest()[:8]}_{camera}"
