"""People and things follow to another embedder: from the pictures that were kept, when the user kept them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from edge_app.core.counts import counted
from edge_app.core.model_card import ModelCard
from edge_app.core.task import Task
from edge_app.core.types import Template
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot
from edge_app.gallery.storage import Vault
from edge_app.recognition.gallery_session import GallerySession, left_behind, thing_models
from edge_app.system.data_folder import Home

NO_PICTURE: Final = "no picture was kept"


@dataclass(frozen=True, slots=True)
class Reenrolled:
    """What became of one person or thing."""

    name: str
    templates: int
    """Templates of the model in use that were made; 0: has to be enrolled again from new pictures."""
    reasons: tuple[str, ...]
    """Why pictures did not serve, one line each."""


def reenroll(
    session: GallerySession, options: EnrollOptions | None = None, clock: Callable[[], float] = time.time
) -> Iterator[Reenrolled]:
    """Enroll everybody in `session.missing` again, one after the other, each in one transaction.

    Pictures pass the same gate as at enrollment, and are kept beside the new templates too. Refresh the session after.
    """
    session = replace(session, settings=replace(session.settings, keep_pictures=True))
    for name in session.missing:
        reasons: list[str] = []
        looks: list[tuple[str, Shot | Refusal]] = []
        for template, picture in _pictures(session, name):
            made = NO_PICTURE if picture is None else session.recognizer.kept_shot(template, picture)
            if isinstance(made, Shot):
                looks.append((template.source, made))
            else:
                reasons.append(f"{template.source}: {made}")
        verdicts = session.enroll(name, looks, options or EnrollOptions(), clock)
        reasons += [f"{v.source}: {v.refusal.message}" for v in verdicts if v.refusal]
        yield Reenrolled(name, sum(v.accepted for v in verdicts), tuple(reasons))
        session = session.refreshed()


def missing_line(home: Home, vault: Vault, card: ModelCard) -> str | None:
    """One line that says who, or what, must be enrolled again for an embedder and how; None when nobody must."""
    missing = left_behind(home, vault, card.id)
    if not missing:
        return None
    one, many = card.task.words.noun, card.task.words.nouns
    count = counted(len(missing), one, many)
    listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    kept = sum(line is not None and line.pictures > 0 for line in map(vault.line, missing))
    command = "edge-app gallery reenroll" + (f" --model {card.id}" if card.task is Task.IMAGE_EMBEDDING else "")
    how = "enroll from new pictures" if not kept else f"`{command}` tries {kept} from kept pictures"
    return f"{count} must be enrolled again for {card.id}: {listed}; {how}"


def _pictures(session: GallerySession, name: str) -> list[tuple[Template, bytes | None]]:
    """The templates of the model with the most kept pictures: the same picture must not count twice."""
    things = thing_models(session.home, session.vault)
    of_things = session.recognizer.embedder.model_id in things
    line = session.vault.line(name)
    if line is None:  # forgotten meanwhile by another process
        return []
    best: list[tuple[Template, bytes | None]] = []
    for model in line.templates:
        if (model in things) != of_things:
            continue
        templates = session.vault.identity(name, model).templates
        found = list(zip(templates, session.vault.pictures(name, model), strict=True))
        if not best or _kept(found) > _kept(best):
            best = found
    return best


def _kept(found: list[tuple[Template, bytes | None]]) -> int:
    return sum(picture is not None for _, picture in found)
