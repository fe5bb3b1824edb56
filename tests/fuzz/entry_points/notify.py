"""What servers answer, and what is told to programs and servers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

from edge_app.core.errors import EdgeError
from edge_app.media.snapshots import open_snapshots
from edge_app.media.source_spec import parse_source
from edge_app.notify.address import Address
from edge_app.notify.delivery import DeliveryOptions
from edge_app.notify.hooks import Command
from edge_app.notify.webhook import Webhook
from tests.fuzz.harness import entry_point, parsed_texts
from tests.media.heic import HEIC


@contextlib.contextmanager
def _server(answer):
    """Gives every connection the same bytes, whatever it asks, and closes it."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(1)
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(2)


_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b'HTTP/1.0 401 \x1b[2JNo\r\nWWW-Authenticate: Digest realm="x", nonce="y", qop="auth"\r\n\r\n',
]


@entry_point("bytes", _ANSWERS, share=0.5)
def webhook_reply(data, folder):
    """What a server answers to an event."""
    told = []
    with _server(data) as port:
        options = DeliveryOptions(request_s=2, tries=2, retry_first_s=0.01, retry_max_s=0.02)
        hook = Webhook(f"http://127.0.0.1:{port}/x", told.append, options)
        hook.send('{"event": "recognized"}')
        hook.close(6)
        assert not hook._thread.is_alive()
    return "\n".join(told)


def _snapshots():
    heads = [f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(HEIC)}\r\n\r\n".encode() + HEIC]
    return heads + _ANSWERS


@entry_point("bytes", _snapshots, share=0.4)
def snapshot_reply(data, folder):
    """What a camera answers to a request for a picture."""
    with _server(data) as port:
        source = open_snapshots(parse_source(f"http://127.0.0.1:{port}/x.jpg"), lambda: 0.0)
        if source is not None:
            source.close()
    return str(source is not None)


_ADDRESSES = [
    "https://user:secret@host:8443/x?y=1",
    "mqtt://u:p@broker:1883/home/door",
    "http://[::1]/",
    "mqtts://bücher/x",
]


@entry_point("json", [json.dumps(_ADDRESSES).encode()], share=3)
def address(data, folder):
    """Addresses for `--webhook` and `--mqtt`."""
    told = []
    for text in parsed_texts(data):
        try:
            told.append(Address.parse(text, ("https", "http", "mqtt", "mqtts")).host)
        except EdgeError as error:
            told.append(str(error))
            assert "secret" not in told[-1]
    return "\n".join(told)


@entry_point("json", [json.dumps(["notify-send 'a b'", "true", 'sh -c "echo $EDGE_APP_NAME"']).encode()], share=3)
def hook(data, folder):
    """Words for `--on-known`."""
    told = []
    for text in parsed_texts(data):
        try:
            Command.parse(text)
        except EdgeError as error:
            told.append(str(error))
    return "\n".join(told)
