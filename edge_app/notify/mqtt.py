"""Events published to an MQTT broker."""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from edge_app.core.errors import EdgeError, UsageError
from edge_app.notify.address import Address
from edge_app.notify.delivery import DeliveryOptions
from edge_app.notify.hooks import Report

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class Broker:
    """Publishes events to an MQTT broker, at least once each, through paho-mqtt and its thread."""

    def __init__(
        self, address: str, report: Report, options: DeliveryOptions | None = None, *, will: bool = False
    ) -> None:
        """Start connecting to mqtt:// or mqtts://[user:password@]host[:port]/topic; an absent broker may come later.

        With `will` the broker keeps "offline" under `<topic>/status` when this process dies.
        Raises UsageError when the address names no topic, and EdgeError when paho-mqtt is not installed.
        """
        self._address = Address.parse(address, ("mqtt", "mqtts"))
        parts = urlsplit(self._address.url)
        self._topic = _topic(parts)
        self._report = report
        self._options = options or DeliveryOptions()
        self._changed = threading.Condition()
        self._waiting = self._dropped = 0
        # The client would send what comes while a connection is made before what it has from earlier: so that events
        # keep their order it is handed nothing until it is connected and has sent those again.
        self._held: deque[tuple[str, str, bool]] = deque()
        self._handed = 0
        self._is_ready = False
        self._handing = threading.Lock()
        self._told: set[str] = set()
        self._untrusted = ""
        self._heard: tuple[list[str], Callable[[str, bytes, bool], None], str] | None = None
        self._client = self._connecting(parts, will=will)

    @property
    def topic(self) -> str:
        """What the address says to publish under."""
        return self._topic

    def listen(self, topics: Sequence[str], hear: Callable[[str, bytes, bool], None], marker: str) -> None:
        """Tell `hear` topic, payload and whether it was kept, of `topics`; publish to `marker` once subscribed."""
        self._heard = list(topics), hear, marker
        self._client.on_message = lambda _client, _data, one: hear(one.topic, bytes(one.payload), bool(one.retain))
        self._client.on_subscribe = lambda *_: self._publish(marker, "")
        if self._client.is_connected():
            self._subscribe()

    def _subscribe(self) -> None:
        if self._heard is not None:
            self._client.subscribe([(topic, 1) for topic in self._heard[0]])

    def send(self, text: str) -> None:
        self._publish(self._topic, text)

    def _publish(self, topic: str, text: str, *, retain: bool = False, is_first: bool = False) -> None:
        """Publish after all that waits, or before it: only `_connected` may ask for that."""
        with self._changed:
            full = self._waiting >= self._options.most_waiting
            if full:
                self._dropped += 1
            else:
                self._waiting += 1
        if full:
            self._tell("takes no events: new ones are dropped")
        elif is_first:
            self._hand(topic, text, retain)
        else:
            self._held.append((topic, text, retain))
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the client what is held back, in order, if it is ready; whoever is at it takes what others add."""
        # Never waits for that lock: the client's thread holds one of the client's own here.
        while self._is_ready and self._held and self._handing.acquire(blocking=False):
            try:
                while self._is_ready and self._held:
                    self._hand(*self._held.popleft())
            finally:
                self._handing.release()

    def _hand(self, topic: str, text: str, retain: bool) -> None:
        with self._changed:
            self._handed += 1
        self._client.publish(topic, text, qos=1, retain=retain)  # kept by the client until the broker confirms it

    def close(self, timeout_s: float) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0, timeout_s)
            left = self._waiting + self._dropped
        connected = self._client.is_connected()
        self._client.disconnect()
        if connected:  # else its thread may be waiting for the network, and ends with this process
            self._client.loop_stop()
        return left

    def _connected(self) -> None:
        """Called with every connection, before what waits is handed over."""

    def _connecting(self, parts: SplitResult, *, will: bool) -> Client:
        mqtt = _paho()
        client: Client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(0)  # counted here: the client would report a full queue only by a code
        client.reconnect_delay_set(1, max(1, round(self._options.retry_max_s)))
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if parts.scheme == "mqtts":
            client.tls_set_context(self._checked())
        if will:
            client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.connect_async(str(parts.hostname), parts.port or _MQTT_PORTS[parts.scheme], keepalive=30)
        client.loop_start()
        return client

    def _checked(self) -> ssl.SSLContext:
        """Certificates are checked against the system's authorities; why one was refused is kept.

        The client tells only that it could not connect.
        """
        broker = self

        class Told(ssl.SSLSocket):
            def do_handshake(self, block: bool = False) -> None:
                try:
                    super().do_handshake(block)
                except ssl.SSLCertVerificationError as error:
                    broker._untrusted = error.verify_message
                    raise

        context = ssl.create_default_context()
        context.sslsocket_class = Told
        return context

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        refused, self._untrusted = self._untrusted, ""
        if refused:
            self._tell(f"has a certificate that is not trusted ({refused}); trying again")
        else:
            self._tell("does not answer; trying again")

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._tell(f"refuses the connection ({code}); trying again")
        else:
            self._told.clear()
            self._subscribe()
            self._connected()
            self._is_ready = self._handed == 0
            self._hand_over()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self._is_ready = False
        if code.is_failure and not self._told:  # a refusal ends in a disconnection too
            self._tell(f"is lost ({code}); trying again")

    def _on_publish(self, _client: Any, _data: Any, _number: Any, _code: Any, _properties: Any) -> None:
        with self._changed:
            self._waiting -= 1
            self._handed -= 1
            self._is_ready = self._is_ready or self._handed == 0
            self._changed.notify_all()
        self._hand_over()

    def _tell(self, what: str) -> None:
        """Report something once in an outage, not with every try."""
        if what not in self._told:
            self._told.add(what)
            self._report(f"{self._address.host} {what}")


def _topic(parts: SplitResult) -> str:
    topic = unquote(parts.path.removeprefix("/"))
    if parts.query or not topic or len(topic.encode()) > 65535 or any(c in topic for c in "+#\0"):
        raise UsageError(
            "the MQTT address names no topic to publish under",
            expected="mqtt://[user:password@]host[:port]/topic, the topic without + # ?",
        )
    return topic


def _paho() -> Any:
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise EdgeError(
            "MQTT needs the package paho-mqtt", remedy="install it: pip install 'edge-app[mqtt]'"
        ) from error
    return client
