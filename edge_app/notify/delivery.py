"""Events sent away: hides HTTP, retries, back-off, queues, and the MQTT client.

In: an address as the user typed it, and one JSON text per event. Out: a POST, or a message under a topic, in the
order of the events. Sending never waits: a slow or absent server fills a bounded queue, and what is lost is told in
one line. Passwords, paths and queries of addresses never reach a message.
"""

from __future__ import annotations

import base64
import itertools
import ssl
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import deque
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException, HTTPMessage
from typing import IO, TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from edge_app import __version__
from edge_app.core.errors import EdgeError, UsageError
from edge_app.notify.hooks import Report
from edge_app.system.timing import back_off_s

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_WORTH_RETRYING: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class Delivery(Protocol):
    """Where events go. One thread sends and closes."""

    def send(self, text: str) -> None:
        """Queue one event and return at once."""

    def close(self, timeout_s: float) -> int:
        """Wait up to `timeout_s` for what is queued, release everything, and return how many events were given up."""


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How patient a delivery is."""

    most_waiting: int = 256
    """Events that wait at most; beyond this the oldest are dropped (webhook), or the newest (MQTT)."""
    tries: int = 6
    """Times one event is posted before it is given up."""
    retry_first_s: float = 0.5
    """Wait before the second try; doubled with each that fails."""
    retry_max_s: float = 15.0
    """Longest wait between tries, whatever the server asks for."""
    request_s: float = 10.0
    """Longest silence of a server."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to send, and as whom."""

    host: str
    """For messages: scheme, host and port, nothing secret."""
    url: str = field(repr=False)
    """The address without user and password."""
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, text: str, schemes: tuple[str, ...]) -> Address:
        """Read an address. Raises UsageError, which does not repeat it, when it is none of these schemes."""
        expected = f"{schemes[0]}://[user:password@]host[:port]/..."
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError("the address to send to cannot be read", expected=expected) from error
        readable = text.strip().isprintable() and " " not in text.strip() and not parts.fragment
        if parts.scheme not in schemes or not host or not readable:
            raise UsageError("the address to send to cannot be read", expected=expected)
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
        bare = urlunsplit(SplitResult(parts.scheme, place, parts.path, parts.query, ""))
        user, password = (None if word is None else unquote(word) for word in (parts.username, parts.password))
        return cls(f"{parts.scheme}://{place}", bare, user, password)


class _Refused(Exception):
    """The server will not take this event, however often it is sent."""


class _Unavailable(Exception):
    """It may work later."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Webhook:
    """Posts events as JSON to an http or https address, one after another, from a thread of its own."""

    def __init__(self, address: str, report: Report, options: DeliveryOptions | None = None) -> None:
        """Start the thread; nothing is sent yet. Raises UsageError when the address is not http or https."""
        self._address = Address.parse(address, ("https", "http"))
        if not self._address.url.isascii():
            raise UsageError("the address to post to has letters beyond ASCII", expected="%-escapes for them")
        self._report = report
        self._options = options or DeliveryOptions()
        # Certificates are checked against the system's authorities; a redirect would turn a POST into a GET.
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context()), _NoRedirects()
        )
        self._run = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._waiting: deque[tuple[int, str]] = deque()
        self._changed = threading.Condition()
        self._busy = self._closing = False
        self._given_up = threading.Event()
        self._dropped = 0
        # A daemon, so that a server that never answers does not keep this process from ending.
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    def send(self, text: str) -> None:
        """See `Delivery.send`."""
        with self._changed:
            if len(self._waiting) >= self._options.most_waiting:
                self._waiting.popleft()
                self._dropped += 1
                if self._dropped == 1:
                    self._report(f"{self._address.host} is too slow: the oldest events are dropped")
            self._waiting.append((next(self._numbers), text))
            self._changed.notify_all()

    def close(self, timeout_s: float) -> int:
        """See `Delivery.close`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._given_up.set()
        with self._changed:
            left = len(self._waiting) + self._busy
            self._waiting.clear()
            return left + self._dropped

    def _work(self) -> None:
        """The thread: until closed and empty."""
        while (item := self._next()) is not None:
            number, text = item
            try:
                self._deliver(number, text)
            except (_Refused, _Unavailable) as error:
                with self._changed:
                    self._dropped += 1
                self._report(f"{self._address.host} did not take an event: {error}")
            finally:
                with self._changed:
                    self._busy = False

    def _next(self) -> tuple[int, str] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting or self._given_up.is_set():
                return None
            self._busy = True
            return self._waiting.popleft()

    def _deliver(self, number: int, text: str) -> None:
        """Post one event, again and again. Raises _Refused, or _Unavailable when the last try failed."""
        most_s = self._options.retry_max_s
        for tried in itertools.count(1):
            try:
                self._post(number, text)
            except _Unavailable as error:
                wait_s = max(back_off_s(tried, self._options.retry_first_s, most_s), min(error.wait_s, most_s))
                if tried >= self._options.tries or self._given_up.wait(wait_s):
                    raise
            else:
                return

    def _post(self, number: int, text: str) -> None:
        try:
            with self._opener.open(self._request(number, text), timeout=self._options.request_s):
                return  # the answer's body says nothing we need
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"it answered {error.code}"
            if error.code < 500 and error.code not in _WORTH_RETRYING:
                raise _Refused(reason) from None
            raise _Unavailable(reason, _retry_after_s(error.headers)) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise _Refused(f"its certificate is not trusted ({error.reason.verify_message})") from None
            raise _Unavailable(_plain(error.reason)) from None
        except (OSError, HTTPException) as error:
            raise _Unavailable(_plain(error)) from None

    def _request(self, number: int, text: str) -> urllib.request.Request:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"edge-app/{__version__}",
            # An answer can get lost after the server has acted: with this it can tell a repetition.
            "Idempotency-Key": f"{self._run}-{number}",
        }
        if self._address.user is not None:
            login = f"{self._address.user}:{self._address.password or ''}"
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        return urllib.request.Request(self._address.url, text.encode(), headers, method="POST")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """None: the redirect is treated as an error."""


def _retry_after_s(headers: Message) -> float:
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _plain(reason: object) -> str:
    """What went wrong, without anything that could hold the address."""
    if isinstance(reason, TimeoutError):
        return "it does not answer"
    words = reason.strerror if isinstance(reason, OSError) else None
    return words or type(reason).__name__


class Broker:
    """Publishes events to an MQTT broker, at least once each, through paho-mqtt and its thread."""

    def __init__(self, address: str, report: Report, options: DeliveryOptions | None = None) -> None:
        """Start connecting to mqtt:// or mqtts://[user:password@]host[:port]/topic; an absent broker may come later.

        Raises UsageError when the address names no topic, and EdgeError when paho-mqtt is not installed.
        """
        self._address = Address.parse(address, ("mqtt", "mqtts"))
        parts = urlsplit(self._address.url)
        self._topic = _topic(parts)
        self._report = report
        self._options = options or DeliveryOptions()
        self._changed = threading.Condition()
        self._waiting = self._dropped = 0
        self._told: set[str] = set()
        self._client = self._connecting(parts)

    def send(self, text: str) -> None:
        """See `Delivery.send`."""
        with self._changed:
            full = self._waiting >= self._options.most_waiting
            if full:
                self._dropped += 1
            else:
                self._waiting += 1
        if full:
            self._tell("takes no events: new ones are dropped")
        else:
            self._client.publish(self._topic, text, qos=1)  # kept by the client until the broker confirms it

    def close(self, timeout_s: float) -> int:
        """See `Delivery.close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0, timeout_s)
            left = self._waiting + self._dropped
        connected = self._client.is_connected()
        self._client.disconnect()
        if connected:  # else its thread may be waiting for the network, and ends with this process
            self._client.loop_stop()
        return left

    def _connecting(self, parts: SplitResult) -> Client:
        mqtt = _paho()
        client: Client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(0)  # counted here: the client would report a full queue only by a code
        client.reconnect_delay_set(1, max(1, round(self._options.retry_max_s)))
        if self._address.user is not None:
            client.username_pw_set(self._address.user, self._address.password)
        if parts.scheme == "mqtts":
            client.tls_set_context(ssl.create_default_context())
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: self._tell("does not answer; trying again")
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.connect_async(str(parts.hostname), parts.port or _MQTT_PORTS[parts.scheme], keepalive=30)
        client.loop_start()
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._tell(f"refuses the connection ({code}); trying again")
        else:
            self._told.clear()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure and not self._told:  # a refusal ends in a disconnection too
            self._tell(f"is lost ({code}); trying again")

    def _on_publish(self, _client: Any, _data: Any, _number: Any, _code: Any, _properties: Any) -> None:
        with self._changed:
            self._waiting -= 1
            self._changed.notify_all()

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


def close_all(deliveries: tuple[Delivery, ...], timeout_s: float) -> int:
    """Close several within one time limit; how many events were given up in all."""
    deadline_s = time.monotonic() + timeout_s
    return sum(delivery.close(max(0.0, deadline_s - time.monotonic())) for delivery in deliveries)
