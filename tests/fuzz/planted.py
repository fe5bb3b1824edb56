"""Entry points with a fault each, by which the harness is tried."""

import ctypes
import time

from edge_app.core.errors import EdgeError
from tests.fuzz.harness import REGISTRY, EntryPoint


def _plant(name, run):
    REGISTRY[f"planted.{name}"] = EntryPoint(f"planted.{name}", "bytes", [b"seed"], run)


def _well(data, folder):
    (folder / "x").write_bytes(data)
    if len(data) % 2:
        raise EdgeError("it has an odd length")
    return "fine"


def _on_change(fault):
    """A fault for what is not the seed: the first, valid run is not counted."""

    def run(data, folder):
        return fault() if data != b"seed" else ""

    return run


def _raises():
    raise ValueError("internal")


def _exits():
    raise SystemExit(3)


def _eats():
    held = bytearray(1500 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    return ""


_plant("well", _well)
_plant("raises", _on_change(_raises))
_plant("exits", _on_change(_exits))
_plant("steers", _on_change(lambda: "a\x1b[2Jb"))
_plant("sleeps", _on_change(lambda: time.sleep(60)))
_plant("eats", _on_change(_eats))
_plant("crashes", _on_change(lambda: ctypes.string_at(0)))
