"""Ports of loopback for servers that are started later, in another process, or a second time."""

from __future__ import annotations

import socket


def held_port() -> socket.socket:
    """A socket that holds a free port and does not listen; its second name is the port.

    A port that is found free and let go may be given to another process before the server asks for it, or while the
    server is down. As long as this socket is open nobody is given it, connections to it are refused, and a server that
    sets SO_REUSEADDR, as all do here, may listen on it.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
