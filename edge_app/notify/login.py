"""One person, asked for by name: recognized, and live where that is wanted, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, Literal

from edge_app.core.errors import UsageError
from edge_app.core.names import valid_name
from edge_app.core.suggest import did_you_mean
from edge_app.core.types import Frame
from edge_app.gallery.storage import Vault
from edge_app.inference.face_mesh import FaceMesh
from edge_app.live.challenge import Challenge, ChallengeOptions, Progress, Step
from edge_app.live.challenge_mode import ChallengeMode
from edge_app.live.passive_mode import PassiveMode
from edge_app.media.source_spec import parse_source
from edge_app.model_store.catalogue import open_shipped
from edge_app.notify.hooks import Report
from edge_app.notify.watcher import Stop, follow, watch
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.liveness import PassiveLiveness, open_liveness

Liveness = Literal["challenge", "passive", "off"]

_REST_AFTER: Final = 5
"""Failures in a row after which a name rests."""
_REST_S: Final = 30.0
"""The first rest; each further failure doubles it."""
_LONGEST_REST_S: Final = 3600.0


class Outcome(IntEnum):
    """How a login ended; the values are exit codes."""

    VERIFIED = 0
    NOT_RECOGNIZED = 1
    NOT_LIVE = 3
    NO_ANSWER = 4


@dataclass(frozen=True, slots=True)
class Login:
    """What became of a login."""

    outcome: Outcome
    reason: str = ""
    """Why it was refused, one line."""
    steps: tuple[Step, ...] = ()
    """Movements that were asked for."""
    seconds: float = 0.0
    """How long it took."""


@dataclass(frozen=True, slots=True)
class LoginOptions:
    """How a login is made."""

    liveness: Liveness = "challenge"
    timeout_s: float = 20.0
    began_s: float | None = None
    """time.monotonic() from which the time-out counts; None: now."""
    challenge: ChallengeOptions = field(default_factory=ChallengeOptions)
    record: Callable[[Frame, Progress], None] | None = None
    """Takes every frame of a challenge, with what was asked when it was seen."""


def rest_s(failures: int, failed_s: float, now_s: float) -> float:
    """For how many seconds no login in a name is tried any more, after so many failures of which the last was then.

    A clock that was set back makes no rest longer than it was.
    """
    if failures < _REST_AFTER:
        return 0.0
    whole = min(_LONGEST_REST_S, _REST_S * 2.0 ** min(failures - _REST_AFTER, 20))
    return min(whole, max(0.0, whole - (now_s - failed_s)))


def login(
    session: PeopleSession,
    name: str,
    source: str,
    report: Report,
    prompt: Callable[[str], None] = lambda text: None,
    options: LoginOptions | None = None,
) -> Login:
    """Wait until the person of that name is recognized, and live; `prompt` is told each thing to do, once.

    What came of it goes into the gallery's audit trail, and failures are counted there: after five in a row the name
    rests, for longer with each further one. Raises UsageError when nobody of that name is enrolled, the time-out is
    not a positive number of seconds, or no liveness network is installed where one is wanted.
    """
    options = options or LoginOptions()
    began_s = time.monotonic() if options.began_s is None else options.began_s
    if not 0 < options.timeout_s < float("inf"):
        raise UsageError(f"the time-out is {options.timeout_s} s", expected="more than 0")
    name = valid_name(name)
    names = session.vault.names(session.recognizer.embedder.model_id) if session.vault else ()
    if name not in names or session.vault is None:
        remedy = did_you_mean(name, names, "`edge-app gallery list` shows the names")
        raise UsageError(f"nobody named {name!r} is enrolled", remedy=remedy)
    if session.candidates is not None and name not in session.candidates:
        raise UsageError(f"{name!r} is enrolled and not among the candidates", remedy="add the name to the file")
    facts = session.vault.person(name).facts
    if left_s := rest_s(facts.failures, facts.failed_s, time.time()):
        return Login(Outcome.NOT_RECOGNIZED, f"{name} rests for {left_s:.0f} s after {facts.failures} failed logins")
    if options.liveness == "challenge" and parse_source(source).kind == "picture":
        return Login(Outcome.NO_ANSWER, "a single picture answers no challenge")
    deadline_s = began_s + options.timeout_s
    if options.liveness == "off":
        found, somebody = _recognize(session, name, source, report, deadline_s)
    else:
        found, somebody = _wait(session, _mode(session, name, options), name, source, report, prompt, deadline_s)
    if found.outcome is Outcome.VERIFIED and time.monotonic() > deadline_s:  # a picture is looked at in one go
        found = Login(Outcome.NOT_RECOGNIZED, f"{name} was recognized too late", found.steps)
    found = replace(found, seconds=time.monotonic() - began_s)
    _note(session.vault, name, found, somebody)
    return found


def _recognize(session: PeopleSession, name: str, source: str, report: Report, deadline_s: float) -> tuple[Login, bool]:
    somebody = False
    with Stop() as stop, closing(watch(session, source, stop, report, deadline_s=deadline_s)) as events:
        for event in events:
            somebody = somebody or event.event in ("recognized", "unknown")
            if event.event == "recognized" and event.name == name:
                return Login(Outcome.VERIFIED), True
    return Login(Outcome.NOT_RECOGNIZED, f"{name} was not recognized in time"), somebody


def _mode(session: PeopleSession, name: str, options: LoginOptions) -> ChallengeMode | PassiveMode:
    if options.liveness == "passive":
        return PassiveMode(session, open_liveness(session.home, session.settings.threads))
    mesh = FaceMesh(open_shipped("face-mesh", threads=1))
    challenge = Challenge(options.challenge, similar_from=session.recognizer.rule.same_person or -1.0)
    return ChallengeMode(session, name, mesh, challenge, options.record)


def _wait(
    session: PeopleSession,
    mode: ChallengeMode | PassiveMode,
    name: str,
    source: str,
    report: Report,
    prompt: Callable[[str], None],
    deadline_s: float,
) -> tuple[Login, bool]:
    """Run the loop until there is an outcome; the second value tells whether anybody was seen at all."""
    recognized = somebody = False
    told = ""
    # A challenge is answered in time as it passes, so a file plays at its own speed.
    realtime = isinstance(mode, ChallengeMode)
    with (
        Stop() as stop,
        closing(follow(session, source, stop, report, realtime=realtime, deadline_s=deadline_s, mode=mode)) as followed,
    ):
        for news in followed:
            if news is not None:
                somebody = somebody or any(event.event in ("recognized", "unknown") for event in news.events)
                recognized = recognized or any(e.event == "recognized" and e.name == name for e in news.events)
            if isinstance(mode, ChallengeMode):
                progress = mode.progress
                if progress.prompt and progress.prompt != told:
                    told = progress.prompt
                    prompt(told)
                if progress.outcome != "waiting":
                    return _of(progress), somebody
            elif recognized and (liveness := mode.liveness_of(name)) is not None and liveness.verdict is not None:
                return _judged(liveness), somebody
    return _at_the_end(mode, name, recognized), somebody


def _of(progress: Progress) -> Login:
    outcomes = {
        "passed": Outcome.VERIFIED,
        "not live": Outcome.NOT_LIVE,
        "no answer": Outcome.NO_ANSWER,
    }
    return Login(outcomes[progress.outcome], progress.reason, progress.steps)


def _judged(liveness: PassiveLiveness) -> Login:
    return Login(Outcome.VERIFIED) if liveness.verdict else Login(Outcome.NOT_LIVE, liveness.reason)


def _at_the_end(mode: ChallengeMode | PassiveMode, name: str, recognized: bool) -> Login:
    """Time is up, or the source is over."""
    if isinstance(mode, ChallengeMode):
        progress = mode.progress
        if progress.began_s is not None:
            return Login(Outcome.NO_ANSWER, progress.reason or "the challenge was not finished in time", progress.steps)
    elif recognized:
        return Login(Outcome.NOT_LIVE, "not checked: what surrounds the face was in too few pictures, step back")
    return Login(Outcome.NOT_RECOGNIZED, f"{name} was not recognized in time")


def _note(vault: Vault, name: str, found: Login, somebody: bool) -> None:
    """Into the audit trail and the count of failures; nobody in front of the camera is no failure."""
    if found.outcome is Outcome.VERIFIED:
        vault.note("login", name)
        vault.note_attempt(name, passed=True)
    elif somebody or found.outcome in (Outcome.NOT_LIVE, Outcome.NO_ANSWER):
        vault.note_attempt(name, passed=False)
