"""What the screens say of the live loop's updates and events: short lines, and the marks over the picture."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from rich.text import Text

from edge_app.core.counts import counted
from edge_app.live.challenge import Progress
from edge_app.live.events import LiveEvent
from edge_app.live.tracker import TrackInfo
from edge_app.live.update import Update
from edge_app.media.live_camera import CameraState
from edge_app.tui.picture.mosaic import Mark, MarkKind

STATES: Final[Mapping[CameraState, str]] = {
    CameraState.OPENING: "opening",
    CameraState.LIVE: "live",
    CameraState.LOST: "lost",
    CameraState.BLACK: "black picture",
    CameraState.FROZEN: "frozen picture",
    CameraState.ENDED: "at its end",
}

SYMBOLS: Final[Mapping[MarkKind, str]] = {"known": "●", "unknown": "?", "new": "…", "ignored": "-"}
"""Kinds differ by sign as well as by colour."""

STYLES: Final[Mapping[MarkKind, str]] = {
    "known": "bold green",
    "unknown": "bold yellow",
    "new": "dim",
    "ignored": "dim",
}


def kind_of(track: TrackInfo) -> MarkKind:
    """How a track is marked; one that is out of sight for a moment stays what it was."""
    if track.name is not None:
        return "known"
    if track.ignored is not None:
        return "ignored"
    return "unknown" if track.decided_s is not None else "new"


def label_of(track: TrackInfo) -> str:
    """What is written at a face."""
    kind = kind_of(track)
    if kind == "known":
        return f"{track.name} {track.similarity:.2f}"
    if kind == "ignored":
        return f"- {track.ignored}"
    return "? unknown" if kind == "unknown" else "…"


def marks_of(tracks: Iterable[TrackInfo]) -> list[Mark]:
    """Boxes and labels of the tracks in sight, the largest last so that its label is whole."""
    seen = [track for track in tracks if track.state != "lost"]
    seen.sort(key=lambda track: float((track.box[2] - track.box[0]) * (track.box[3] - track.box[1])))
    return [Mark(_box(track), label_of(track), kind_of(track)) for track in seen]


def _box(track: TrackInfo) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in track.box)
    return x1, y1, x2, y2


def here_now(tracks: Iterable[TrackInfo]) -> Text:
    """One line for each person in sight: a sign, the name, the similarity, for how long."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for track in sorted(tracks, key=lambda one: one.first_seen_s):
        kind = kind_of(track)
        name = {
            "known": track.name or "",
            "unknown": "unknown",
            "new": "looking…",
            "ignored": f"{track.ignored} (ignored)",
        }[kind]
        # Below zero there was nobody to compare with.
        similarity = f" {track.similarity:.2f}" if kind in ("known", "unknown") and track.similarity >= 0 else ""
        text.append(f"{SYMBOLS[kind]} {name}{similarity}", STYLES[kind])
        text.append(f"  {duration_words(track.duration_s)}\n", "dim")
    if not text:
        text.append("nobody", "dim")
    text.rstrip()
    return text


@dataclass(frozen=True, slots=True)
class EventWords:
    """An event as one short line."""

    words: str
    """What happened, first the sign, then who."""
    style: str
    detail: str = ""
    """Left out where there is no room for it."""


def event_words(event: LiveEvent) -> EventWords:
    """An event about a person or the source, in words."""
    took = duration_words(event.duration_s or 0.0)
    if event.event == "recognized":
        if event.live == "no":
            return EventWords(f"! {event.name}: not live", "bold red", f" {event.similarity or 0:.2f}")
        said = {"yes": ", live", "unchecked": ", not checked"}.get(event.live or "", "")
        return EventWords(f"● {event.name}", STYLES["known"], f" {event.similarity or 0:.2f}{said}")
    if event.event == "unknown":
        return EventWords("? unknown", STYLES["unknown"])
    if event.event == "left":
        return EventWords(f"← {event.name or 'unknown'}", "dim", f" left, {took}")
    if event.event == "appeared":
        return EventWords("… came", "dim")
    if event.event == "source_lost":
        return EventWords("! source lost", "bold red")
    return EventWords("✓ source back", "green", f" after {took}")


def challenge_words(asked: str, progress: Progress) -> EventWords:
    """How the challenge of somebody goes, or how it ended."""
    match progress.outcome:
        case "waiting":
            return EventWords(f"{asked}: {progress.prompt}", "bold")
        case "passed":
            took_s = (progress.ended_s or 0.0) - (progress.began_s or 0.0)
            return EventWords(f"✓ {asked}: live", "bold green", f" answered in {took_s:.1f} s")
        case "no answer":
            return EventWords(f"? {asked}: {progress.reason}", "bold yellow")
        case "not live":
            return EventWords(f"! {asked}: not live", "bold red", f": {progress.reason}")


def event_line(clock: str, event: EventWords, width: int) -> Text:
    """The event after the time, in at most `width` cells: without its detail, or cut, where there is no more room."""
    line = Text.assemble((f"{clock} ", "dim"), (event.words, event.style), (event.detail, "dim"), no_wrap=True)
    if line.cell_len > width:
        line = Text.assemble((f"{clock} ", "dim"), (event.words, event.style), no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def duration_words(seconds: float) -> str:
    """A duration, rounded as people say it."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5940 else f"{seconds / 3600:.0f} h"


def ago_words(time_s: float | None, now_s: float) -> str:
    """How long ago a Unix time was; "never" for None."""
    if time_s is None:
        return "never"
    passed_s = now_s - time_s
    if passed_s < 60:
        return "just now"
    if passed_s < 86400:
        return f"{duration_words(passed_s)} ago"
    return datetime.datetime.fromtimestamp(time_s).strftime("%Y-%m-%d")


def clock_words(time_s: float) -> str:
    """Hours, minutes and seconds of a Unix time, here."""
    return datetime.datetime.fromtimestamp(time_s).strftime("%H:%M:%S")


def figures(update: Update, drawn_fps: float, timings_ms: Mapping[str, float]) -> Text:
    """Rates, the milliseconds of each stage, two in a line, and how many pictures were not looked at.

    A graph of the last 60 pictures' milliseconds belongs under it.
    """
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{update.status.fps:.0f} fps, {update.fps:.0f} seen, {drawn_fps:.0f} drawn\n")
    stages = [f"{name:<6}{ms:6.1f}" for name, ms in timings_ms.items() if name != "total"]
    for left, right in zip_longest(stages[0::2], stages[1::2], fillvalue=""):
        text.append(f"{left}  {right}\n", "dim")
    if update.status.dropped:
        text.append(f"{update.status.dropped:,} skipped for newer ones\n", "dim")
    text.append(f"{timings_ms.get('total', 0.0):.1f} ms each", "bold")
    return text.append(", last 60:", "dim")


def title_of(update: Update, greeting: str = "", licence: str = "") -> Text:
    """The line at the top: what is seen, how it is, and a greeting, or else who may be named, or the model."""
    state = "paused" if update.paused else STATES[update.status.state]
    well = update.status.state is CameraState.LIVE and not update.paused
    text = Text.assemble((" edge-app ", "bold reverse"), no_wrap=True, overflow="ellipsis")
    text.append(f"  {update.source}: ")
    text.append(state, "green" if well else "bold yellow")
    if greeting:
        return text.append(f"  ·  {greeting}", "bold green")
    if not update.look_for.is_people:
        text.append(f"  ·  {update.look_for}", "dim")
        return text.append(f"  ·  {licence}" if licence else "", "dim")
    people = counted(update.people, "person", "people")
    text.append(f"  ·  {people} enrolled  ·  threshold {update.rule.threshold:.2f}", "dim")
    return text
