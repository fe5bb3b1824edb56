"""Discovery against a real mosquitto: what it keeps, what Home Assistant's documentation asks for, the last will."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from edge_app.cli import main
from edge_app.core.plain_text import json_line
from edge_app.live.events import LiveEvent
from edge_app.notify.home_assistant import HomeAssistant, remove
from tests.notify.mqtt_broker import PATIENCE_S, Mosquitto

# Required and optional keys of https://www.home-assistant.io/integrations/{event,sensor,binary_sensor}.mqtt
COMMON = {"name", "unique_id", "availability", "availability_mode", "qos", "device", "origin", "icon", "state_topic"}
OWN = {"event": {"event_types"}, "sensor": set(), "binary_sensor": {"device_class"}}


@pytest.fixture
def broker(tmp_path):
    with_one = Mosquitto(tmp_path)
    with_one.start()
    yield with_one
    with_one.close()


def url(broker):
    return f"mqtt://door:s%40cret@127.0.0.1:{broker.port}/home/edge"


MARKER = "everything/kept/is/told"


class Kept:
    """Everything that the broker keeps, and what is published from now on."""

    def __init__(self, broker):
        from paho.mqtt import client as mqtt

        self.kept, self.heard, self._has_all = {}, [], threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.username_pw_set("door", "s@cret")
        self._client.on_message = self._take
        self._client.on_connect = lambda client, *_: client.subscribe([("#", 1)])
        # What is kept is handed over before what is published after the subscription.
        self._client.on_subscribe = lambda client, *_: client.publish(MARKER, "", qos=1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._has_all.wait(PATIENCE_S)

    def _take(self, _client, _data, message):
        if message.topic == MARKER:
            self._has_all.set()
            return
        text = message.payload.decode()
        self.heard.append((message.topic, text, message.retain))
        if text and (message.retain or not message.topic.endswith("/event")):
            self.kept[message.topic] = text
        elif not text:
            self.kept.pop(message.topic, None)

    def wait(self, condition):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.heard
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()


def told(*events):
    return [json_line(event.as_dict()) for event in events]


def configurations(kept):
    return {topic: json.loads(text) for topic, text in kept.items() if topic.startswith("homeassistant/")}


def test_every_camera_is_a_device_as_the_documentation_asks(broker):
    troubles = []
    house = HomeAssistant(url(broker), troubles.append, cameras=["door", "front yard"], presence=True)
    for text in told(
        LiveEvent("recognized", 1.0, 1, "Ada", 0.7, 0.1, source="door"),
        LiveEvent("unknown", 2.0, 2, None, 0.1, 0.1, source="front yard"),
        LiveEvent("recognized", 3.0, 3, "Eve", 0.6, 0.1, live="no", source="door"),
        LiveEvent("left", 4.0, 1, "Ada", 0.7, 3.0, source="door"),
        LiveEvent("source_lost", 5.0, source="front yard"),
    ):
        house.send(text)
    assert house.close(PATIENCE_S) == 0 and troubles == []
    with Kept(broker) as there:
        there.wait(lambda: len(configurations(there.kept)) == 5)
        found = configurations(there.kept)
        names, devices = set(), set()
        for topic, config in found.items():
            prefix, component, node, what, end = topic.split("/")
            assert (prefix, end) == ("homeassistant", "config") and set(node + what) <= set(
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
            )
            assert {"state_topic", "unique_id", "device", "origin"} <= config.keys() <= COMMON | OWN[component]
            assert config.keys() >= OWN[component]
            assert config["origin"]["name"] and config["availability_mode"] == "all"
            assert {one["topic"] for one in config["availability"]} <= there.kept.keys()
            names.add((component, config["device"]["name"], config["name"]))
            devices.add((*config["device"]["identifiers"], config["device"]["name"]))
        assert names == {
            ("event", "door", "Face"),
            ("sensor", "door", "Last person"),
            ("event", "front yard", "Face"),
            ("sensor", "front yard", "Last person"),
            ("binary_sensor", "door", "Ada"),
        }
        assert len(devices) == 2 and len({config["unique_id"] for config in found.values()}) == 5
        assert there.kept["home/edge/door/last"] == "Ada"
        [person] = [topic for topic in there.kept if "/person/" in topic]
        assert there.kept[person] == "OFF" and "Ada" not in person
        assert there.kept["home/edge/status"] == "offline"  # it was closed
        lost = [topic for topic, text in there.kept.items() if topic.endswith("/status") and text == "offline"]
        assert len(lost) == 2
        assert not any(topic.endswith("/event") for topic in there.kept)


def test_an_event_names_who_came_and_is_not_kept(broker):
    with Kept(broker) as there:
        house = HomeAssistant(url(broker), [].append, cameras=["camera"])
        there.wait(lambda: there.kept.get("home/edge/camera/status") == "online")
        for text in told(LiveEvent("recognized", 1.0, 1, "Ada", 0.7, 0.1), LiveEvent("unknown", 2.0, 2, None, 0.1, 0.1),
                         LiveEvent("recognized", 3.0, 3, "Eve", 0.6, 0.1, live="no")):  # fmt: skip
            house.send(text)
        for end in ("/event", "home/edge"):  # the plain events too
            there.wait(lambda end=end: sum(topic.endswith(end) for topic, _, _ in there.heard) == 3)
        said = [json.loads(text) for topic, text, _ in there.heard if topic.endswith("/event")]
        assert [(one["event_type"], one["name"]) for one in said] == [
            ("known", "Ada"),
            ("unknown", None),
            ("not_live", "Eve"),
        ]
        assert not any("Ada" in text for topic, text in there.kept.items() if "/config" in topic)
        house.close(PATIENCE_S)


def test_a_broker_that_lost_what_it_kept_gets_it_again(broker):
    house = HomeAssistant(url(broker), [].append, cameras=["camera"])
    with Kept(broker) as there:
        there.wait(lambda: len(configurations(there.kept)) == 2)
    broker.stop()
    broker.start()  # without persistence
    with Kept(broker) as there:
        there.wait(lambda: len(configurations(there.kept)) == 2 and there.kept.get("home/edge/status") == "online")
    house.close(PATIENCE_S)


def test_what_was_left_is_taken_away_and_nothing_else(broker, capsys, monkeypatch):
    others = HomeAssistant(url(broker) + "2", [].append, cameras=["door"])
    house = HomeAssistant(url(broker), [].append, cameras=["door"], presence=True)
    house.send(*told(LiveEvent("recognized", 1.0, 1, "Ada", 0.7, 0.1)))
    with Kept(broker) as there:  # who is closed before it was connected leaves nothing
        there.wait(lambda: {"home/edge/door/status", "home/edge2/door/status"} <= there.kept.keys())
    assert house.close(PATIENCE_S) == 0 == others.close(PATIENCE_S)
    monkeypatch.setenv("EDGE_APP_MQTT", url(broker))
    assert main(["watch", "--mqtt-remove"]) == 0
    assert "topics were taken away" in capsys.readouterr().out
    with Kept(broker) as there:
        there.wait(lambda: len(configurations(there.kept)) == 2)
        assert {topic for topic in there.kept if not topic.startswith("homeassistant/")} == {
            "home/edge2/status",
            "home/edge2/door/status",
        }
    assert remove(url(broker), [].append) == 0


def test_the_broker_tells_that_a_killed_watcher_is_gone(broker, tmp_path):
    script = (
        "import sys, time\nfrom edge_app.notify.home_assistant import HomeAssistant\n"
        "HomeAssistant(sys.argv[1], print, cameras=['camera'])\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, url(broker)])
    with Kept(broker) as there:
        there.wait(lambda: there.kept.get("home/edge/status") == "online")
        os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()
        there.wait(lambda: there.kept.get("home/edge/status") == "offline")


@pytest.mark.parametrize("words", [["--mqtt-discovery"], ["--mqtt-remove"], ["--mqtt-presence"]])
def test_discovery_needs_a_broker(words, capsys, monkeypatch):
    monkeypatch.delenv("EDGE_APP_MQTT", raising=False)
    assert main(["watch", "sample", *words]) == 2
    assert "edge-app:" in capsys.readouterr().err
