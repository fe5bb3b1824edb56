"""A server of a fleet in memory, which can be cut off at any question, and galleries that are shared through it."""

from __future__ import annotations

import copy
import threading
import uuid
from dataclasses import dataclass, field

import numpy as np

from edge_app.core.types import Embedding, Quality, Template
from edge_app.fleet.connection import Address, Connection, save
from edge_app.fleet.payload import Envelope
from edge_app.fleet.server import Away, Head, Row
from edge_app.gallery.storage import Vault

MODEL, SIZE = "m", 8
FLEET_ID, KEY = bytes(range(16)), bytes(range(32))
ADDRESS = Address("localhost", 5432, "fleet", "office", "", False, "")


@dataclass
class FakeServer:
    """What `edge_app.fleet.schema` does, on dictionaries. Shared by all machines."""

    revision: int = 0
    people: dict[bytes, tuple[int, bool, bytes]] = field(default_factory=dict)
    trail: dict[int, tuple[str, str, bytes, str]] = field(default_factory=dict)
    machines: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    key_check: bytes = Envelope(FLEET_ID, KEY, MODEL, SIZE).key_check
    fleet_id: bytes = FLEET_ID
    model_version: str = "v1"

    def saved(self):
        return copy.deepcopy(self.__dict__)

    def put_back(self, saved):
        self.__dict__.update(copy.deepcopy(saved))


# A real server does what it is asked in a transaction: nobody reads a revision before the rows that belong to it.
_ONE_AT_A_TIME = threading.RLock()


class FakeTransport:
    """One machine's way to it. `cut_at` is the number of the call at which the network fails, with `cut_late` after
    the server has done what it was asked."""

    def __init__(self, server, *, may_write=True, cut_at=None, cut_late=False):
        self.server, self.may_write = server, may_write
        self.calls, self.cut_at, self.cut_late = 0, cut_at, cut_late

    def _called(self, act):
        number, self.calls = self.calls, self.calls + 1
        with _ONE_AT_A_TIME:
            if number != self.cut_at:
                return act()
            if self.cut_late:
                act()
        raise Away("cut off")

    def head(self, known):
        def act():
            s = self.server
            stamp = s.trail[known][3] if known in s.trail else ""
            return Head(s.fleet_id, s.key_check, MODEL, s.model_version, SIZE, s.revision, stamp, self.may_write, 5.0)

        return self._called(act)

    def changes(self, since, limit):
        def act():
            rows = sorted((rev, uid, sealed) for uid, (rev, _, sealed) in self.server.people.items() if rev > since)
            return [Row(uid, rev, sealed) for rev, uid, sealed in rows[:limit]]

        return self._called(act)

    def put(self, known, machine, changes):
        def act():
            s = self.server
            assert self.may_write
            if s.revision != known:
                return None
            for one in changes:
                before = s.people.get(one.uid)
                if one.gone and before is not None and before[1]:
                    continue
                assert before is None or not before[1], "a person who was forgotten stays forgotten"
                s.revision += 1
                s.people[one.uid] = (s.revision, one.gone, one.sealed)
                happening = "forget" if one.gone else "enroll" if before is None else "change"
                s.trail[s.revision] = (machine, happening, one.uid, str(uuid.uuid4()), one.words)
            return s.revision

        return self._called(act)

    def report(self, machine, known, visits, visit, *, takes_over):
        def act():
            held = self.server.machines.get(machine)
            if held is not None and not takes_over and held[1] not in visits:
                return False
            self.server.machines[machine] = (known, visit)
            return True

        return self._called(act)


def connect(vault: Vault, machine: str, **fields) -> None:
    """Share a gallery through a server in memory."""
    plain = {
        "address": ADDRESS, "machine": machine, "fleet_id": FLEET_ID, "key": KEY, "model_id": MODEL,
        "model_version": "v1", "dimensions": SIZE, "same_person": 0.5,
    }  # fmt: skip
    save(vault, Connection(**(plain | fields)))


def shot_of(human: int, number: int, *, model: str = MODEL, size: int = SIZE) -> Template:
    """A shot of one of `size` people: shots of one are alike (cosine over 0.9), of two are not (under 0.3)."""
    vector = np.random.default_rng(1000 * human + number).normal(size=size) * 0.04
    vector[human % size] += 1.0
    quality = Quality(face_px=100.0, sharpness=0.5, brightness=120.0, clipped=0.0, yaw=0.0, pitch=0.0, roll_deg=1.0,
        score=0.9)  # fmt: skip
    return Template(Embedding(vector.astype(np.float32), model), quality, f"{human}-{number}.jpg", 1000.0 + number)


def contents(vault: Vault) -> dict[bytes, tuple[str, frozenset[bytes]]]:
    """Everybody by uid: the name and the bytes of the shots."""
    found = {}
    for person in vault.people():
        held = vault.lasting(person.name)
        found[held.uid] = (person.name, frozenset(s.template.embedding.vector.tobytes() for s in person.shots))
    return found
