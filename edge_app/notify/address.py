"""The address that events are sent to, as the user typed it: a webhook's or a broker's."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from edge_app.core.errors import UsageError


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
        try:
            # What looks names up encodes them so, in a thread of its own, where a refusal would end the sender.
            host.encode("ascii" if ":" in host else "idna")
        except UnicodeError as error:
            raise UsageError("the host to send to has a name that cannot be one", expected=expected) from error
        place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
        bare = urlunsplit(SplitResult(parts.scheme, place, parts.path, parts.query, ""))
        user, password = (None if word is None else unquote(word) for word in (parts.username, parts.password))
        return cls(f"{parts.scheme}://{place}", bare, user, password)
