"""What a webhook and a broker have in common: events wait in a bounded queue, go out in order, and are given up."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


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
    """Longest time that one request may take in all."""


def close_all(deliveries: tuple[Delivery, ...], timeout_s: float) -> int:
    """Close several within one time limit; how many events were given up in all."""
    deadline_s = time.monotonic() + timeout_s
    return sum(delivery.close(max(0.0, deadline_s - time.monotonic())) for delivery in deliveries)
