"""HTTP requests with one bound on the whole of each, from the first packet to the last byte that is wanted.

A time-out of a socket bounds only its silence: a server that sends a header line a second, or "100 Continue" for ever,
holds a request for ever.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.error import URLError

_CHUNK_BYTES: Final = 1 << 16


class Deadline:
    """Cuts the connections that were opened under it when its time is up."""

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds
        self._held: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()
        self.is_over = False
        """Whether the time was up before `close`."""

    def connect(self, address: tuple[str, int], timeout: Any = None, source: Any = None) -> socket.socket:
        """As socket.create_connection, within what is left of the time."""
        connection = socket.create_connection(address, max(0.001, self._end_s - time.monotonic()), source)
        with self._lock:
            # A second handle of the same connection: the first may be taken over by TLS or closed meanwhile.
            self._held.append(connection.dup())
        if self.is_over:
            self._cut()
        return connection

    def close(self) -> None:
        """Nothing is cut any more."""
        self._timer.cancel()
        with self._lock:
            for handle in self._held:
                handle.close()
            self._held.clear()

    def _cut(self) -> None:
        self.is_over = True
        with self._lock:
            for handle in self._held:
                with suppress(OSError):  # it is closed already
                    handle.shutdown(socket.SHUT_RDWR)


@contextmanager
def answer_of(
    request: urllib.request.Request,
    bound_s: float,
    *,
    context: ssl.SSLContext,
    handlers: Sequence[urllib.request.BaseHandler] = (),
) -> Iterator[Any]:
    """The open answer to an http or https request; it must be read inside the `with`, within `bound_s` in all.

    `handlers` add to those for proxies, which the environment names, and for errors: a redirect is an error where none
    follows it. Raises urllib.error.HTTPError for an answer that is one, TimeoutError when the time is up, and OSError,
    HTTPException or ValueError for all else. The name of the host is looked up by the system in its own time.
    """
    deadline = Deadline(bound_s)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Http(deadline),
        _Https(deadline, context),
        *handlers,
    ):
        opener.add_handler(handler)
    try:
        with opener.open(request, timeout=bound_s) as answer:
            if not deadline.is_over:
                yield answer
            if deadline.is_over:  # what was cut off looks like an end to the parser
                raise TimeoutError("it does not answer in time")
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        if deadline.is_over:
            raise TimeoutError("it does not answer in time") from error
        if isinstance(error, URLError) and isinstance(error.reason, OSError):
            raise error.reason from error
        raise
    finally:
        deadline.close()


def _connecting(deadline: Deadline, kind: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def made(host: str, **more: Any) -> Any:
        connection = kind(host, **more, **options)
        connection._create_connection = deadline.connect
        return connection

    return made


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connecting(self._deadline, http.client.HTTPConnection), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._deadline = deadline
        self._trusted = context

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connecting(self._deadline, http.client.HTTPSConnection, context=self._trusted), req)
