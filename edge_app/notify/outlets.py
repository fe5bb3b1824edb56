"""Who is told of an event besides standard output: hooks, a webhook, a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from edge_app.core.plain_text import json_line
from edge_app.live.events import EventName, LiveEvent
from edge_app.notify.delivery import Delivery, close_all
from edge_app.notify.hooks import Command, HookOptions, Hooks, Report, variables
from edge_app.system.closing import Closing

DRAIN_S: Final = 5.0
"""What hooks that run and events that wait for a server get when the watcher ends."""


@dataclass(frozen=True, slots=True)
class OutletOptions:
    """Who is told of events, besides standard output."""

    hooks: Mapping[EventName, Sequence[Command]] = field(default_factory=dict)
    """Programs by the event that runs them."""
    limits: HookOptions = field(default_factory=HookOptions)
    deliveries: Sequence[Callable[[Report], Delivery]] = ()
    """What opens the webhook and the broker."""
    drain_s: float = DRAIN_S
    """How long hooks and deliveries may go on at the end."""


class Outlets(Closing):
    """Hands every event to the hooks that wait for it and to all deliveries; use it in a `with` statement."""

    def __init__(self, options: OutletOptions, report: Report) -> None:
        self._options = options
        self._report = report
        self._hooks = Hooks(options.limits, report)
        self._deliveries = tuple(opened(report) for opened in options.deliveries)

    def take(self, event: LiveEvent) -> None:
        """Tell of one event; never waits."""
        text = as_json(event)
        for delivery in self._deliveries:
            delivery.send(text)
        for command in self._options.hooks.get(event.event, ()):
            facts = {key: value for key, value in event.as_dict().items() if key != "classes"}  # a list is no variable
            self._hooks.fire(command, event.name, text, variables(facts))

    def close(self) -> None:
        """Let what has begun come to its end, within the time for that; tells how much did not."""
        deadline_s = time.monotonic() + self._options.drain_s
        lost = close_all(self._deliveries, self._options.drain_s)
        if lost:
            self._report(f"{lost} event{'s were' if lost > 1 else ' was'} not delivered")
        self._hooks.close(max(0.0, deadline_s - time.monotonic()))


def as_json(event: LiveEvent) -> str:
    """The event as one line of JSON, the same on standard output, for hooks, webhook and broker."""
    return json_line(event.as_dict())
