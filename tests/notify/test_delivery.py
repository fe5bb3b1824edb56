"""Webhooks against real HTTP servers on loopback, MQTT against a real mosquitto where there is one."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from edge_app.core.errors import EdgeError, UsageError
from edge_app.notify.address import Address
from edge_app.notify.delivery import DeliveryOptions, close_all
from edge_app.notify.home_assistant import HomeAssistant
from edge_app.notify.mqtt import Broker
from edge_app.notify.webhook import Webhook
from tests.notify.mqtt_broker import Listener, Mosquitto
from tests.ports import held_port

PATIENCE_S = 60.0
QUICK = DeliveryOptions(retry_first_s=0.01, retry_max_s=0.05, request_s=PATIENCE_S)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def wait_for(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


class Server:
    """Answers with the given codes in turn, then with 204; keeps what it was sent."""

    def __init__(self, codes: Sequence[int] = (), *, answers: dict[str, str] | None = None, tls: Path | None = None):
        self.requests: list[tuple[str, dict[str, str], str]] = []
        self.hold = threading.Event()
        self.hold.set()
        server, left = self, list(codes)

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                server.requests.append((self.path, dict(self.headers), body))
                server.hold.wait(2 * PATIENCE_S)
                self.send_response(left.pop(0) if left else 204)
                for key, value in (answers or {}).items():
                    self.send_header(key, value)
                self.end_headers()

            do_GET = do_POST

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def bodies(self) -> list[str]:
        return [body for _, _, body in self.requests]


def test_a_server_that_fails_twice_gets_the_event_in_the_end_and_can_tell_repetitions() -> None:
    with Server([500, 503]) as server:
        hook = Webhook(f"http://127.0.0.1:{server.port}/in?x=1", pytest.fail, QUICK)
        hook.send('{"name": "Ada Lovelåce"}')
        hook.send('{"second": 2}')
        assert hook.close(PATIENCE_S) == 0
    assert server.bodies == ['{"name": "Ada Lovelåce"}'] * 3 + ['{"second": 2}']
    path, headers, _ = server.requests[0]
    assert path == "/in?x=1"
    assert headers["Content-Type"] == "application/json"
    keys = [headers["Idempotency-Key"] for _, headers, _ in server.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_user_and_password_are_sent_and_never_shown() -> None:
    told: list[str] = []
    with Server([403]) as server:
        hook = Webhook(f"http://me:s%40cret@127.0.0.1:{server.port}/token", told.append, QUICK)
        hook.send("{}")
        assert hook.close(PATIENCE_S) == 1
    assert server.requests[0][1]["Authorization"] == "Basic bWU6c0BjcmV0"
    assert told == [f"http://127.0.0.1:{server.port} did not take an event: it answered 403"]
    shown = repr(Address.parse("http://me:s%40cret@host/token", ("http",)))
    assert "host" in shown and "cret" not in shown and "token" not in shown and "me" not in shown.replace("Address", "")


@pytest.mark.parametrize("code", [301, 400, 404])
def test_an_answer_that_will_not_change_is_not_asked_for_again(code: int) -> None:
    told: list[str] = []
    with Server([code], answers={"Location": "/elsewhere"}) as server:
        hook = Webhook(f"http://127.0.0.1:{server.port}/", told.append, QUICK)
        hook.send("{}")
        assert hook.close(PATIENCE_S) == 1
    assert len(server.requests) == 1
    assert told[0].endswith(f"it answered {code}")


def test_tries_come_to_an_end_and_the_next_event_gets_its_chance() -> None:
    told: list[str] = []
    with Server([500] * 3) as server:
        hook = Webhook(f"http://127.0.0.1:{server.port}/", told.append, DeliveryOptions(tries=3, retry_first_s=0.01))
        hook.send("1")
        hook.send("2")
        assert hook.close(PATIENCE_S) == 1
    assert server.bodies == ["1", "1", "1", "2"]
    assert len(told) == 1


def test_the_waits_between_tries_double_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server([500] * 6) as server:
        options = DeliveryOptions(tries=6, retry_first_s=0.5, retry_max_s=3)
        hook = Webhook(f"http://127.0.0.1:{server.port}/", lambda _: None, options)
        waits_s: list[float] = []
        monkeypatch.setattr(hook._given_up, "wait", lambda wait_s: waits_s.append(wait_s) and False)
        hook.send("{}")
        assert hook.close(PATIENCE_S) == 1
    assert waits_s == [0.5, 1, 2, 3, 3]


def test_a_server_that_asks_to_wait_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server([429], answers={"Retry-After": "3600"}) as server:
        hook = Webhook(f"http://127.0.0.1:{server.port}/", pytest.fail, DeliveryOptions(retry_first_s=0, retry_max_s=1))
        waits_s: list[float] = []
        monkeypatch.setattr(hook._given_up, "wait", lambda wait_s: waits_s.append(wait_s) and False)
        hook.send("{}")
        assert hook.close(PATIENCE_S) == 0
    assert waits_s == [1]
    assert len(server.requests) == 2


def test_a_slow_server_holds_nobody_up_and_loses_the_oldest() -> None:
    told: list[str] = []
    with Server() as server:
        server.hold.clear()
        hook = Webhook(f"http://127.0.0.1:{server.port}/", told.append, DeliveryOptions(most_waiting=3))
        hook.send("0")
        wait_for(lambda: server.requests)
        for number in range(1, 7):
            hook.send(str(number))  # none of these waits: nothing moves before the server is let go
        server.hold.set()
        assert hook.close(PATIENCE_S) == 3
    assert server.bodies == ["0", "4", "5", "6"]
    assert told == [f"http://127.0.0.1:{server.port} is too slow: the oldest events are dropped"]


def test_closing_gives_up_in_time_and_counts_what_is_lost() -> None:
    with Server() as server:
        server.hold.clear()
        hook = Webhook(f"http://127.0.0.1:{server.port}/", lambda _: None, QUICK)
        for number in range(3):
            hook.send(str(number))
        wait_for(lambda: server.requests)
        assert hook.close(0.2) == 3
        assert len(server.requests) == 1  # the first is still without an answer: nobody waited until it was tried again


def test_nobody_listening_is_told_in_words() -> None:
    told: list[str] = []
    with held_port() as held:
        port = held.getsockname()[1]
        hook = Webhook(f"http://127.0.0.1:{port}/", told.append, DeliveryOptions(tries=2, retry_first_s=0.01))
        hook.send("{}")
        assert hook.close(PATIENCE_S) == 1
    assert told == [f"http://127.0.0.1:{port} did not take an event: Connection refused"]


class Dripping:
    """Takes connections and sends `piece` over and over, a little at a time, and never an end."""

    def __init__(self, first: bytes, piece: bytes) -> None:
        self._first, self._piece = first, piece
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.connections = 0
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._drip, args=(connection,)))
            self._threads[-1].start()

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(self._first)
            while not self._ending.wait(0.05):
                connection.sendall(self._piece)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\n", b"X: 1\r\n"),
        (b"HTTP/1.1 2", b"0"),
        (b"HTTP/1.1 100 Continue\r\n", b"x"),
    ],
)
def test_a_server_that_never_comes_to_an_end_is_given_its_time_and_no_more(first: bytes, piece: bytes) -> None:
    told: list[str] = []
    with Dripping(first, piece) as server:
        options = DeliveryOptions(tries=2, retry_first_s=0.01, request_s=0.6)
        hook = Webhook(f"http://127.0.0.1:{server.port}/", told.append, options)
        hook.send("{}")
        wait_for(lambda: told)
        assert hook.close(PATIENCE_S) == 1
        wait_for(lambda: server.connections == 2)  # the second may still wait to be accepted
    assert told == [f"http://127.0.0.1:{server.port} did not take an event: it does not answer"]


def test_a_server_that_does_not_finish_its_handshake_is_given_its_time_too(own_certificate: Path) -> None:
    told: list[str] = []
    with Dripping(b"", b"\x16") as server:
        options = DeliveryOptions(tries=1, request_s=0.6)
        hook = Webhook(f"https://localhost:{server.port}/", told.append, options)
        hook.send("{}")
        wait_for(lambda: told)
        assert hook.close(PATIENCE_S) == 1


def test_whatever_goes_wrong_the_next_event_gets_its_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with Server() as server:
        hook = Webhook(f"http://127.0.0.1:{server.port}/", told.append, QUICK)
        post, numbers = hook._post, []

        def odd(number: int, text: str) -> None:
            numbers.append(number)
            if number == 1:
                raise LookupError("idna")
            post(number, text)

        monkeypatch.setattr(hook, "_post", odd)
        hook.send("1")
        hook.send("2")
        assert hook.close(PATIENCE_S) == 1
    assert (numbers, server.bodies) == ([1, 2], ["2"])
    assert told == [f"http://127.0.0.1:{server.port} did not take an event: LookupError"]


@pytest.mark.parametrize("host", ["a" * 64 + ".org", "a..b", ".org", "xn--" + "a" * 70, "ü" * 60])
@pytest.mark.parametrize("kind", [Webhook, Broker])
def test_a_host_that_no_name_service_takes_is_refused_at_once(kind: type[Webhook] | type[Broker], host: str) -> None:
    scheme = "https" if kind is Webhook else "mqtt"
    with pytest.raises(UsageError, match=r"name that cannot be one|cannot be read"):
        kind(f"{scheme}://{host}/topic", pytest.fail)


def test_a_broker_whose_certificate_is_not_trusted_is_told_as_that(own_certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_certificate / "cert.pem", own_certificate / "key.pem")
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=answer)
        thread.start()
        broker = Broker(f"mqtts://localhost:{port}/topic", told.append, QUICK)
        wait_for(lambda: told)
        broker.close(0)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert told[0].startswith(
        f"mqtts://localhost:{port} has a certificate that is not trusted (self-signed certificate"
    )


@pytest.fixture(scope="session")
def own_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that no authority vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the program openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    options = (
        "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost -addext basicConstraints=CA:TRUE -keyout key.pem -out cert.pem"
    )
    subprocess.run([openssl, "req", *options.split()], cwd=folder, check=True, capture_output=True)
    return folder


def test_a_server_whose_certificate_is_not_trusted_gets_nothing(own_certificate: Path) -> None:
    told: list[str] = []
    with Server(tls=own_certificate) as server:
        hook = Webhook(f"https://localhost:{server.port}/", told.append, QUICK)
        hook.send("{}")
        assert hook.close(PATIENCE_S) == 1
    assert server.requests == []
    assert "certificate is not trusted" in told[0]


def test_a_trusted_certificate_is_taken(own_certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(own_certificate / "cert.pem"))
    with Server(tls=own_certificate) as server:
        hook = Webhook(f"https://localhost:{server.port}/", pytest.fail, QUICK)
        hook.send("{}")
        assert hook.close(PATIENCE_S) == 0
    assert server.bodies == ["{}"]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "example.org/x",
        "ftp://example.org/",
        "http://",
        "http://host:99999/",
        "http://u:hush#h@host/",
        "http://h/a b",
    ],
)
def test_addresses_that_are_none_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        Webhook(address, pytest.fail)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["mqtt://host", "mqtt://host/", "mqtt://host/a/%23", "mqtt://h/+/x", "mqtt://h/a?b"]
)
def test_an_mqtt_address_needs_a_topic_without_wildcards(address: str) -> None:
    with pytest.raises(UsageError, match="topic"):
        Broker(address, pytest.fail)


def test_without_paho_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(EdgeError, match=r"pip install 'edge-app\[mqtt\]'"):
        Broker("mqtt://host/topic", pytest.fail)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.close()


def test_events_reach_a_real_broker_in_order(mosquitto: Mosquitto) -> None:
    mosquitto.start()
    with Listener(mosquitto.port) as listener:
        broker = Broker(f"mqtt://door:s%40cret@127.0.0.1:{mosquitto.port}/home/t%C3%BCr", pytest.fail, QUICK)
        texts = [json.dumps({"event": "recognized", "name": "Åda", "track": n}, ensure_ascii=False) for n in range(50)]
        for text in texts:
            broker.send(text)
        assert broker.close(PATIENCE_S) == 0
        wait_for(lambda: len(listener.heard) == 50)
    assert listener.heard == [("home/tür", text) for text in texts]


class SlowBroker:
    """Accepts one client, takes its time before it confirms the connection, and confirms what is published."""

    def __init__(self, port: int) -> None:
        self.accepted, self.may_confirm = threading.Event(), threading.Event()
        self.published: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, connection.makefile("rb") as coming, contextlib.suppress(OSError):
            self.accepted.set()
            self.may_confirm.wait(PATIENCE_S)
            while first := coming.read(1):
                length = shift = 0
                while (byte := coming.read(1)[0]) & 0x80:
                    length, shift = length | (byte & 0x7F) << shift, shift + 7
                body = coming.read(length | byte << shift)
                if first[0] >> 4 == 1:
                    connection.sendall(b"\x20\x02\x00\x00")
                elif first[0] >> 4 == 3:
                    topic_end = 2 + int.from_bytes(body[:2], "big")
                    self.published.append(body[topic_end + 2 :].decode())
                    connection.sendall(b"\x40\x02" + body[topic_end : topic_end + 2])


def test_events_keep_their_order_while_a_connection_is_being_made() -> None:
    pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")
    told: list[str] = []
    with held_port() as held:
        port = held.getsockname()[1]
        broker = Broker(f"mqtt://127.0.0.1:{port}/x", told.append, QUICK)
        for number in range(3):
            broker.send(str(number))  # nobody is there yet
        wait_for(lambda: told)
        with SlowBroker(port) as server:
            assert server.accepted.wait(PATIENCE_S)
            for number in range(3, 6):
                broker.send(str(number))  # somebody is there, who has not answered yet
            server.may_confirm.set()
            assert broker.close(PATIENCE_S) == 0
    assert server.published == ["0", "1", "2", "3", "4", "5"]


def test_cameras_are_told_before_the_events_that_waited_for_a_connection() -> None:
    pytest.importorskip("paho.mqtt.client", reason="needs the extra mqtt")
    with held_port() as held:
        port = held.getsockname()[1]
        house = HomeAssistant(f"mqtt://127.0.0.1:{port}/x", lambda _: None, QUICK, cameras=["door"])
        house.send(json.dumps({"event": "unknown", "time_s": 1.0}))
        with SlowBroker(port) as server:
            server.may_confirm.set()
            assert house.close(PATIENCE_S) == 0
    kinds = ["config" if "unique_id" in text else "event" for text in server.published if text.startswith("{")]
    assert kinds == ["config", "config", "event", "event"]


@pytest.mark.slow
def test_a_broker_that_comes_later_gets_what_waited(mosquitto: Mosquitto) -> None:
    told: list[str] = []
    broker = Broker(f"mqtt://door:s%40cret@127.0.0.1:{mosquitto.port}/home/x", told.append, DeliveryOptions(2))
    for number in range(3):
        broker.send(str(number))
    wait_for(lambda: len(told) == 2)
    assert sorted(told) == [
        f"mqtt://127.0.0.1:{mosquitto.port} does not answer; trying again",
        f"mqtt://127.0.0.1:{mosquitto.port} takes no events: new ones are dropped",
    ]
    mosquitto.start()
    assert broker.close(PATIENCE_S) == 1


@pytest.mark.slow
def test_a_wrong_password_is_told_once_and_not_shown(mosquitto: Mosquitto) -> None:
    mosquitto.start()
    told: list[str] = []
    broker = Broker(f"mqtt://door:wrong@127.0.0.1:{mosquitto.port}/home/x", told.append, QUICK)
    broker.send("{}")
    wait_for(lambda: told)
    assert close_all((broker,), 1.5) == 1  # long enough for a second try
    assert len(told) == 1
    assert "Not authorized" in told[0] and "wrong" not in told[0]
