"""Events posted as JSON to an http or https address."""

from __future__ import annotations

import base64
import itertools
import ssl
import threading
import urllib.error
import urllib.request
import uuid
from collections import deque
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException
from typing import Final

from edge_app import __version__
from edge_app.core.errors import UsageError
from edge_app.notify.address import Address
from edge_app.notify.delivery import DeliveryOptions
from edge_app.notify.hooks import Report
from edge_app.system.http import answer_of
from edge_app.system.timing import back_off_s

_WORTH_RETRYING: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


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
        self._trusted = ssl.create_default_context()
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
        with self._changed:
            if len(self._waiting) >= self._options.most_waiting:
                self._waiting.popleft()
                self._dropped += 1
                if self._dropped == 1:
                    self._report(f"{self._address.host} is too slow: the oldest events are dropped")
            self._waiting.append((next(self._numbers), text))
            self._changed.notify_all()

    def close(self, timeout_s: float) -> int:
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
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence would take all later events with it
                with self._changed:
                    self._dropped += 1
                reason = str(error) if isinstance(error, _Refused | _Unavailable) else type(error).__name__
                self._report(f"{self._address.host} did not take an event: {reason}")
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
        """Post once. Raises _Refused or _Unavailable."""
        try:
            # No redirects: they would turn a POST into a GET.
            with answer_of(self._request(number, text), self._options.request_s, context=self._trusted):
                return  # the answer's body says nothing we need
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"it answered {error.code}"
            if error.code < 500 and error.code not in _WORTH_RETRYING:
                raise _Refused(reason) from None
            raise _Unavailable(reason, _retry_after_s(error.headers)) from None
        except ssl.SSLCertVerificationError as error:
            raise _Refused(f"its certificate is not trusted ({error.verify_message})") from None
        except (OSError, HTTPException, ValueError) as error:
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


def _retry_after_s(headers: Message) -> float:
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _plain(reason: Exception) -> str:
    """What went wrong, without anything that could hold the address."""
    if isinstance(reason, TimeoutError):
        return "it does not answer"
    words = reason.strerror if isinstance(reason, OSError) else None
    return words or type(reason).__name__
