"""How long the gallery keeps people and pictures: whoever was not seen for longer goes by itself."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Final

from edge_app.core.errors import GalleryError, UsageError
from edge_app.gallery.storage import Vault

DAY_S: Final = 86_400.0
_UNITS: Final = {"h": 3_600.0, "d": DAY_S, "w": 7 * DAY_S, "y": 365 * DAY_S}


@dataclass(frozen=True, slots=True)
class Retention:
    """Ages in seconds after which something goes; None: never."""

    unknown_s: float | None = None
    """Known strangers, since they were last seen or else enrolled."""
    last_seen_s: float | None = None
    """People, likewise."""
    pictures_s: float | None = None
    """Kept pictures, since they were taken."""


@dataclass(frozen=True, slots=True)
class Gone:
    people: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    pictures: int = 0


def parse_age(text: str) -> float:
    """Seconds of "12h", "7d", "4w" or "1y". Raises UsageError."""
    found = re.fullmatch(r"(\d{1,5})([hdwy])", text.strip())
    if found is None or int(found[1]) == 0:
        raise UsageError(f"{text!r} is no age", expected="a number with h, d, w or y behind it, such as 30d")
    return int(found[1]) * _UNITS[found[2]]


def kept_retention(vault: Vault) -> Retention:
    """What the gallery is set to; nothing where nobody set it."""
    record = vault.retention()
    if record is None:
        return Retention()
    try:
        plain = json.loads(record)
        ages = {field.name: plain[field.name] for field in fields(Retention)}
        if not all(age is None or (type(age) in (int, float) and age > 0) for age in ages.values()):
            raise ValueError("an age that is none")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GalleryError(
            "what the gallery should keep cannot be read", remedy="set it anew: edge-app gallery retention"
        ) from error
    return Retention(**ages)


def keep_retention(vault: Vault, retention: Retention) -> None:
    """Set it; `apply_retention` does it."""
    vault.set_retention(None if retention == Retention() else json.dumps(asdict(retention)).encode())


def overdue(vault: Vault, retention: Retention, now_s: float) -> Gone:
    """What would go now; changes nothing."""
    people: list[str] = []
    strangers: list[str] = []
    pictures = 0
    for one in vault.lines():
        idle_s = now_s - (one.last_seen_s or one.created_s)
        limit_s = retention.unknown_s if one.ignored else retention.last_seen_s
        if limit_s is not None and idle_s > limit_s:
            (strangers if one.ignored else people).append(one.name)
        elif retention.pictures_s is not None and one.pictures:
            shots = vault.person(one.name, pictures=True).shots
            pictures += sum(
                s.picture is not None and now_s - s.template.created_s > retention.pictures_s for s in shots
            )
    return Gone(tuple(sorted(people)), tuple(sorted(strangers)), pictures)


def apply_retention(vault: Vault, now_s: float) -> Gone:
    """Delete what is overdue by the gallery's own setting, in one transaction; returns what went.

    As little stays of it as after `Vault.forget`. Cheap where nothing is set.
    """
    retention = kept_retention(vault)
    if retention == Retention():
        return Gone()
    gone = overdue(vault, retention, now_s)
    if gone == Gone():
        return gone
    with vault.transaction():
        gone = overdue(vault, retention, now_s)  # somebody may have been seen meanwhile
        for name in (*gone.people, *gone.strangers):
            vault.forget(name, because="retention")
        if gone.pictures and retention.pictures_s is not None:
            for one in vault.lines():
                if not one.pictures:
                    continue
                for index, shot in enumerate(vault.person(one.name, pictures=True).shots):
                    if shot.picture is not None and now_s - shot.template.created_s > retention.pictures_s:
                        vault.drop_picture(one.name, index)
    return gone
