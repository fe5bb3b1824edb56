"""Taking in what changed at the server, and sending what changed here.

A change is sent only by a machine that has taken in everything before it, as with a version control system; where two
send at once the later takes in the other's and tries again. So whatever lies at the server was made in full knowledge
of what lay there before, and names are never twice. What is taken in lands in the gallery in one transaction with how
far this machine is: cut off at any moment, it goes on from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from edge_app.core.errors import EdgeError, GalleryError
from edge_app.fleet import merge as rules
from edge_app.fleet.connection import changed, load, save
from edge_app.fleet.merge import free_name, merge
from edge_app.fleet.payload import Base, Envelope, Record, copy_of, shared, shot_id
from edge_app.fleet.server import Head, Sent, Transport
from edge_app.gallery.people import Lasting, Person
from edge_app.gallery.records import Facts
from edge_app.gallery.storage import Vault

PAGE: Final = 200
"""People in one question and in one transaction: 0.3 s, so that nobody waits long for the gallery's file."""
_PAGE_BYTES: Final = 4 * 2**20
_MOST_TRIES: Final = 20
_FORGOTTEN: Final = 2**61
"""The edition of somebody forgotten: nothing is newer."""


@dataclass(slots=True)
class Synced:
    """What one exchange with the server did."""

    taken: int = 0
    """People who were enrolled, changed or forgotten here because they were elsewhere."""
    sent: int = 0
    waiting: int = 0
    """Changes made here that this login may not send."""
    told: list[str] = field(default_factory=list)
    """What was decided where two changes met, a line each; names in them are of people who are here."""
    problems: list[str] = field(default_factory=list)
    """What could not be taken in, a line each; it is tried again every time."""
    is_copied: bool = False
    """Another machine reports under this one's name."""


class Fleet:
    """One machine's side of a shared gallery, for one thread."""

    def __init__(self, vault: Vault, transport: Transport, *, clock: Callable[[], float] = time.time) -> None:
        self._vault, self._transport, self._clock = vault, transport, clock
        found = load(vault)
        if found is None:
            raise EdgeError("this gallery is not shared", remedy="edge-app gallery connect postgresql://...")
        self._connection = found
        self._envelope = Envelope(found.fleet_id, found.key, found.model_id, found.dimensions)
        self._words: dict[bytes, str] = {}
        self._reached = 0
        """Up to which revision everything was looked at; the cursor stays before what cannot be used."""
        self._settled: tuple[int, int] | None = None

    def sync(self, *, push: bool = True) -> Synced:
        """Take in everything, then send everything. Raises Away when the server is not to be had, EdgeError when it is
        another fleet's, has another key or model, or cannot be written.
        """
        done = Synced()
        for _ in range(_MOST_TRIES):
            head = self.head()
            done.problems.clear()
            is_complete = self._pull(head, done)
            generation = self._vault.generation()  # before what is to be sent is looked up
            if is_complete and (not push or self._push(head, done)):
                break
        else:
            raise EdgeError("others changed the gallery all the time", remedy="try again")
        self._report(done)
        self._settled = (self._reached, generation)
        return done

    def is_behind(self) -> bool:
        """Whether something happened here or at the server since the last `sync`."""
        if self._settled is None:
            return True
        reached, generation = self._settled
        return self.head().revision != reached or self._vault.generation() != generation

    def head(self) -> Head:
        """Where the server stands. Raises EdgeError where it is not this fleet's, or has another key or model."""
        self._connection = load(self._vault) or self._connection
        here = self._connection
        head = self._transport.head(here.cursor)
        if head.fleet_id != here.fleet_id:
            raise EdgeError(
                f"{here.address.shown} holds another fleet, or none",
                expected="the one that this gallery was connected to",
                remedy="nothing was changed; `edge-app gallery connect` joins another",
            )
        if head.key_check != self._envelope.key_check:
            raise EdgeError(
                "the key of this machine is not the one that the fleet's people are sealed with",
                remedy="nothing was changed; connect again with --key and the fleet's key file",
            )
        if (head.model_id, head.model_version, head.dimensions) != (here.model_id, here.model_version, here.dimensions):
            raise EdgeError(
                f"the fleet's templates are of {head.model_id} (version {(head.model_version or '')[:8]})",
                expected=f"{here.model_id} (version {here.model_version[:8]})",
                remedy="nothing was changed; install the same model on every machine, and connect again",
            )
        if here.cursor and (head.revision < here.cursor or head.stamp != here.stamp):
            # The server was put back to an earlier state: everything here is compared with it, and sent again where it
            # lacks it. Whoever was forgotten since stays forgotten.
            with self._vault.transaction():
                self._vault.disagree(None)
                self._keep(cursor=0, stamp="")
            return self._transport.head(0)
        return head

    def _pull(self, head: Head, done: Synced) -> bool:
        """Take in everything; False where another process of this machine takes it in at the same time."""
        self._reached = self._connection.cursor
        is_whole = True
        while self._reached < head.revision:
            rows = self._transport.changes(self._reached, PAGE)
            last = rows[-1].revision if rows else 0
            # A short page ends where the server stood when it was asked, which is no earlier than `head`.
            reached = last if len(rows) == PAGE else max(head.revision, last)
            stamp = self._transport.head(reached).stamp
            told: list[str] = []
            taken = 0
            with self._vault.transaction():
                current = load(self._vault)
                if current is None or current.cursor != self._connection.cursor:
                    return False
                for row in rows:
                    lines: list[str] = []
                    try:
                        with self._vault.transaction():
                            taken += self._take(row.uid, self._envelope.open(row.uid, row.sealed), lines)
                        told += lines
                    except (ValueError, GalleryError) as error:
                        if isinstance(error, GalleryError) and error.__cause__ is not None:
                            raise  # it is the gallery's file that fails
                        is_whole = False
                        who = f"what the server has of person {row.uid.hex()[:8]}"
                        done.problems.append(f"{who} cannot be used, and changes nothing here: {error}")
                if is_whole:  # else this page and what follows is asked for again every time
                    self._keep(cursor=reached, stamp=stamp, contact_s=self._clock())
            self._reached = reached
            done.taken += taken
            done.told += told
        return True

    def _take(self, uid: bytes, theirs: Record, told: list[str]) -> bool:
        """Take in one person; whether anything changed here."""
        vault = self._vault
        held = vault.lasting(uid)
        if held is None and theirs.person is not None:
            held = self._same_person(uid, theirs.person, told)
        if held is None:
            if theirs.person is None:
                vault.agree(uid, None)
                return False
            self._clear_name(theirs.person.name, uid, told)
            vault.restore(theirs.person, uid=uid)
            vault.agree(uid, Base(theirs.edition, copy_of(theirs.person)).encode())
            return True
        if held.name is None:
            if theirs.person is None:
                vault.agree(uid, None)
            else:
                vault.disagree(uid)
                self._note(uid, rules.STAYS_FORGOTTEN, None, told)
            return False
        person = vault.person(held.name)
        ours = copy_of(shared(person, self._connection.model_id))
        base = Base.decode(held.base) if held.base else None
        known = theirs.person
        if base is not None and theirs.edition < base.edition:
            # An earlier state, by a server put back or by somebody's hand: ours is the newer one.
            vault.disagree(uid)
            return False
        merged = merge(None if base is None else base.copy, ours, None if known is None else copy_of(known))
        for words in merged.told:
            self._note(uid, words, held.name if merged.copy is not None else None, told)
        if merged.copy is None:
            vault.forget(held.name)
            if known is None:
                vault.agree(uid, None)
            return True
        assert known is not None  # whoever is forgotten there is forgotten here
        name = held.name
        if merged.copy.name != name:
            self._clear_name(merged.copy.name, uid, told)
            vault.rename(name, merged.copy.name)
            name = merged.copy.name
        new = tuple(shot for shot in known.shots if shot_id(shot) in merged.copy.shots - ours.shots)
        facts = Facts(consents=tuple(sorted(merged.copy.consents - ours.consents)))
        if new or facts.consents:
            vault.restore(Person(name, facts, new, person.ignored))
        if doomed := ours.shots - merged.copy.shots:
            self._drop(name, doomed)
        vault.agree(uid, Base(theirs.edition, copy_of(known)).encode())
        if merged.copy != copy_of(known):
            vault.disagree(uid)
        return merged.copy != ours

    def _same_person(self, uid: bytes, theirs: Person, told: list[str]) -> Lasting | None:
        """Somebody enrolled here whom the server does not know yet, and who is the same person; now known by `uid`."""
        held = self._vault.lasting(theirs.name)
        if held is None or held.base or held.name is None:
            return None
        own = shared(self._vault.person(held.name), self._connection.model_id)
        if own.ignored != theirs.ignored or not own.shots:
            return None
        if not {shot_id(shot) for shot in own.shots} & {shot_id(shot) for shot in theirs.shots}:
            means = [np.mean([shot.template.embedding.vector for shot in one.shots], axis=0) for one in (own, theirs)]
            length = float(np.linalg.norm(means[0]) * np.linalg.norm(means[1]))
            if float(means[0] @ means[1]) < self._connection.same_person * length:
                return None
        self._vault.relabel(held.name, uid)
        self._note(uid, rules.UNITED, held.name, told)
        return self._vault.lasting(uid)

    def _clear_name(self, name: str, uid: bytes, told: list[str]) -> None:
        """Let nobody else here have a name that the server says is somebody's."""
        holder = self._vault.lasting(name)
        if holder is None or holder.uid == uid or holder.name is None:
            return
        other = free_name(name, lambda one: self._vault.lasting(one) is not None)
        self._vault.rename(holder.name, other)
        base = Base.decode(holder.base) if holder.base else None
        if base is not None and base.copy.name == holder.name:
            # Not renamed here: the server has another name for that person by now, which comes with a later row.
            self._vault.agree(holder.uid, replace(base, copy=replace(base.copy, name=other)).encode())
            if holder.changed:
                self._vault.disagree(holder.uid)
        else:
            self._note(holder.uid, rules.NAME_TAKEN, other, told)

    def _drop(self, name: str, doomed: frozenset[bytes]) -> None:
        """Delete the shots of the fleet's model with these ids; others are left, so the person stays."""
        model = self._connection.model_id
        shots = [s for s in self._vault.person(name).shots if s.template.embedding.model_id == model]
        for index in reversed(range(len(shots))):
            if shot_id(shots[index]) in doomed:
                self._vault.drop(name, model, index)

    def _note(self, uid: bytes, words: str, name: str | None, told: list[str]) -> None:
        """Put what was decided into the trail here, with the next change into the server's, and before the user."""
        self._vault.note("merge", name, words=f"person {uid.hex()[:8]}, {words}")
        self._words[uid] = words
        told.append(f"{name or f'person {uid.hex()[:8]}'}: {words}")

    def _push(self, head: Head, done: Synced) -> bool:
        """Send what changed here; False where others sent something meanwhile."""
        pending = self._vault.unagreed()
        if not head.may_write:
            done.waiting = len(pending)
            return True
        at = 0
        while at < len(pending):
            page: list[tuple[Sent, Lasting, Base | None]] = []
            size = 0
            while at < len(pending) and len(page) < PAGE and size < _PAGE_BYTES:
                found = self._outgoing(pending[at])
                at += 1
                if found is not None:
                    page.append(found)
                    size += len(found[0].sealed)
            if not page:
                continue
            revision = self._transport.put(self._reached, self._connection.machine, [sent for sent, _, _ in page])
            if revision is None:
                return False
            stamp = self._transport.head(revision).stamp
            with self._vault.transaction():
                for sent, before, base in page:
                    self._agree(sent.uid, before, base)
                    self._words.pop(sent.uid, None)
                if self._reached == self._connection.cursor:  # else something before it could not be taken in
                    self._keep(cursor=revision, stamp=stamp, contact_s=self._clock())
            self._reached = revision
            done.sent += len(page)
        return True

    def _outgoing(self, uid: bytes) -> tuple[Sent, Lasting, Base | None] | None:
        """A person's change as it is sent, what the gallery had then, and what is agreed once it has arrived."""
        vault = self._vault
        held = vault.lasting(uid)
        if held is None or not held.changed:
            return None
        words = self._words.get(uid, "")
        if held.name is None:
            if not held.shared:  # nobody else ever knew
                with vault.transaction():
                    self._agree(uid, held, None)
                return None
            return Sent(uid, True, self._envelope.seal(uid, Record(_FORGOTTEN, None)), words), held, None
        try:
            person = shared(vault.person(held.name), self._connection.model_id)
        except GalleryError:  # renamed or forgotten by another process this very moment: the next time
            return None
        before = Base.decode(held.base) if held.base else None
        copy = copy_of(person)
        if not person.shots or (before is not None and copy == before.copy and not held.lost):
            # Of another model, or what changed stays here: a kept picture.
            with vault.transaction():
                self._agree(uid, held, before)
            return None
        edition = before.edition + 1 if before is not None else 1
        return Sent(uid, False, self._envelope.seal(uid, Record(edition, person)), words), held, Base(edition, copy)

    def _agree(self, uid: bytes, before: Lasting, base: Base | None) -> None:
        """Note that a change has arrived, unless the person was changed here again meanwhile."""
        now = self._vault.lasting(uid)
        if now is None:
            return
        if (now.name is None) != (before.name is None):  # forgotten meanwhile, and the server knows the person now
            self._vault.disagree(uid)
            return
        # Of somebody who is here but is not shared the base is empty.
        self._vault.agree(uid, None if now.name is None else base.encode() if base else b"")
        if now.revision != before.revision:
            self._vault.disagree(uid)

    def _report(self, done: Synced) -> None:
        """Say how far this machine is; the same visit is known on both sides even when the answer is lost."""
        here = self._connection
        visit = os.urandom(8)
        self._keep(visit_tried=visit)
        known = [one for one in (here.visit, here.visit_tried) if one]
        own = self._transport.report(here.machine, self._connection.cursor, known, visit, takes_over=False)
        done.is_copied = not own
        if own:
            self._keep(visit=visit, visit_tried=b"", contact_s=self._clock())

    def _keep(self, **fields: object) -> None:
        with self._vault.transaction():
            self._connection = changed(load(self._vault) or self._connection, **fields)
            save(self._vault, self._connection)
