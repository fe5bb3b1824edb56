"""What the screens ask of the gallery: functions that run on the worker's thread, by `inbox.Run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from edge_app.core.counts import counted
from edge_app.core.types import Embedding, Identity, Quality, Template
from edge_app.gallery.calibration import Thresholds, thresholds_of
from edge_app.gallery.matching import Gallery, looks_like_nobody_can_tell
from edge_app.gallery.people import Enrolled
from edge_app.gallery.people import Person as GalleryPerson
from edge_app.model_store.catalogue import builds
from edge_app.model_store.onnx_inspect import inspect
from edge_app.recognition.faces import PeopleSession
from edge_app.tui.capture_guide import View, missing_views

MOST_COMPARED: Final = 1000
"""Beyond so many people the nearest other person is only looked up for the one that is chosen: it takes N x N."""

PAGE: Final = 300
"""People of a longer list that are read at a time."""

_MOST_LISTED: Final = 5

PLENTY_SHARPNESS: Final = 0.4
PLENTY_FACE_PX: Final = 112.0
"""From here on a shot is as good as matching can use: the embedder sees 112 x 112 pixels."""

_VIEW_WORDS: Final[dict[View, str]] = {
    "front": "no shot looks at the camera",
    "left": "no shot is turned to their left",
    "right": "no shot is turned to their right",
}


@dataclass(frozen=True, slots=True)
class Person:
    """One line of the roster."""

    name: str
    shots: int
    """Templates of the model in use; 0: must be enrolled again for it."""
    models: tuple[str, ...]
    """Ids of the models that there are templates of."""
    quality: float | None
    """How sharp the shots are on the whole, 0-1: see `grade`; None when there are too many people to ask for all."""
    last_seen_s: float | None
    """Unix time."""
    nearest: tuple[str, float] | None
    """The nearest other person and the similarity of the two; None when there is none, or too many to compare."""
    ignored: bool = False
    """A known stranger, of whom nothing is told."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One person in detail."""

    name: str
    templates: tuple[Template, ...]
    pictures: tuple[bytes | None, ...]
    """Kept pictures, parallel to `templates`."""
    nearest: tuple[str, float] | None
    threshold: float
    """Similarity from which two are taken for one."""
    hard_to_tell: bool = False
    """The network can hardly tell this face from others of its kind, such as toddlers'."""
    ignored: bool = False
    """A known stranger."""
    stranger_to: str = ""
    """The model in use, when there is no template of it: nobody is recognized by the ones there are."""

    @property
    def missing(self) -> tuple[View, ...]:
        """Views that no shot shows."""
        return missing_views([template.quality for template in self.templates])


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """The part of the gallery that is looked at: people, or the things of one model."""

    model_id: str
    gallery: Gallery
    threshold: float


def shelf_of(bench: PeopleSession, things: str | None = None) -> Shelf:
    """People as the embedder in use knows them, or the things enrolled with the model `things`. Raises EdgeError."""
    if things is None:
        parts = bench.recognizer
        return Shelf(parts.embedder.model_id, parts.gallery, parts.rule.threshold)
    gallery = Gallery.of_means(bench.vault.read(things))
    return Shelf(things, gallery, thing_threshold(bench, things, gallery))


def thing_threshold(bench: PeopleSession, model_id: str, gallery: Gallery | None = None) -> float:
    """The similarity from which a thing is named. Raises EdgeError, also when nobody knows what alike means."""
    gallery = gallery or Gallery.of_means(bench.vault.read(model_id))
    cards = ((inspect(entry.path).card, entry.sha256) for entry in builds(bench.home, model_id))
    known = (thresholds_of(bench.home, card, sha256) for card, sha256 in cards if card)
    found = next((one for one in known if one.points), Thresholds((), None))
    return gallery.rule(found.points, bench.settings.fpir, bench.settings.margin, found.cohort).threshold


def missing_words(bench: PeopleSession) -> str:
    """Who is a stranger to the embedder in use, and what to do; empty when nobody is."""
    missing = bench.missing
    if not missing:
        return ""
    who = counted(len(missing), "person", "people")
    listed = ", ".join(missing[:_MOST_LISTED]) + ("…" if len(missing) > _MOST_LISTED else "")
    model_id = bench.recognizer.embedder.model_id
    return f"{who} must be enrolled again for {model_id}: {listed}. Press p, then n to try the pictures that were kept"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the roster, sorted by name."""

    people: tuple[Person, ...]
    is_last: bool
    """Nobody comes after these."""
    everybody: int
    """How many there are on all pages."""
    missing: int
    """How many of them are strangers to the model in use."""
    threshold: float
    """Similarity from which two are taken for one."""
    model_id: str


def roster(
    bench: PeopleSession, things: str | None = None, *, start: str = "", after: str = "", most: int = PAGE
) -> Page:
    """Everyone with templates of the model in use, or of another model of faces, or all things, in pages.

    A page holds `most` or a few more, from the name `start` on, or of those whose names come after `after`. Up to
    `MOST_COMPARED` people are one page.
    """
    wanted = frozenset() if things else frozenset(bench.missing)
    shelf = shelf_of(bench, things)
    gallery, model_id = shelf.gallery, shelf.model_id
    everybody = len(gallery) + len(wanted)
    few = everybody <= MOST_COMPARED
    lines: list[Enrolled] = []
    is_last = few
    if few:  # by name: among the people of a large gallery a few things are found at once
        found = (bench.vault.line(name) for name in (*gallery.names, *wanted))
        lines = sorted((one for one in found if one is not None), key=lambda one: one.name)
    elif start and (first := bench.vault.line(start)) is not None:
        lines.append(first)
    after = after or start
    while not is_last and len(lines) < most:
        some = bench.vault.page(after, most)
        lines += some
        is_last = len(some) < most
        after = some[-1].name if some else after
    near = dict(zip(gallery.names, gallery.neighbours(), strict=True)) if few else {}
    people = tuple(
        Person(
            one.name,
            one.templates.get(model_id, 0),
            tuple(sorted(one.templates)),
            grade(bench.vault.identity(one.name, model_id)) if few and model_id in one.templates else None,
            one.last_seen_s,
            near.get(one.name),
            one.ignored,
        )
        for one in lines
        if model_id in one.templates or one.name in wanted
    )
    return Page(people, is_last, everybody, len(wanted), shelf.threshold, model_id)


def grade(identity: Identity) -> float:
    """How good the shots of one person are, 0-1: detail and size of the face, each against what is plenty."""
    marks = [
        min(1.0, t.quality.sharpness / PLENTY_SHARPNESS) * min(1.0, t.quality.face_px / PLENTY_FACE_PX)
        for t in identity.templates
    ]
    return sum(marks) / len(marks)


def profile(bench: PeopleSession, name: str, things: str | None = None) -> Profile:
    """One person, or thing, in detail. Raises GalleryError when there is none of that name."""
    shelf = shelf_of(bench, things)
    model_id = shelf.model_id
    if not bench.vault.has(name, model_id):
        # Known to another model: what is kept of it can be shown, and enrolled again.
        other = bench.vault.identity(name)
        model = other.templates[-1].embedding.model_id
        return Profile(
            other.name, other.templates, bench.vault.pictures(name, model), None, shelf.threshold, stranger_to=model_id
        )
    identity = bench.vault.identity(name, model_id)
    mean = Embedding(np.sum([t.embedding.vector for t in identity.templates], axis=0), model_id)
    return Profile(
        identity.name,
        identity.templates,
        bench.vault.pictures(name, model_id),
        shelf.gallery.nearest(mean, other_than=identity.name),
        shelf.threshold,
        hard_to_tell=things is None and looks_like_nobody_can_tell(mean, bench.recognizer.rule.cohort),
        ignored=identity.name in shelf.gallery.ignored,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is enrolled under a name already."""

    name: str
    qualities: tuple[Quality, ...]
    """What was measured on the shots of the model in use; nothing for a new name."""
    embeddings: tuple[Embedding, ...]
    """Those shots' embeddings."""
    ignored: bool
    """It is a known stranger's name."""
    twin: str | None
    """Somebody enrolled whose name differs by capital letters only, where nobody has this very name."""


def known(bench: PeopleSession, name: str) -> Known:
    """Look a name up."""
    model_id = bench.recognizer.embedder.model_id
    line = bench.vault.line(name)
    twin = None if line else bench.vault.twin(name)
    templates = bench.vault.identity(name, model_id).templates if line and model_id in line.templates else ()
    return Known(
        name,
        tuple(template.quality for template in templates),
        tuple(template.embedding for template in templates),
        line is not None and line.ignored,
        twin,
    )


def forget(bench: PeopleSession, name: str) -> GalleryPerson:
    """Delete somebody for good, but for what is returned. Raises GalleryError when there is none of that name."""
    with bench.vault.transaction():
        person = bench.vault.person(name, pictures=True)
        bench.vault.forget(name)
    return person


def restore(bench: PeopleSession, forgotten: GalleryPerson) -> None:
    """Undo `forget`: all templates, pictures and facts, and whether it is a known stranger."""
    bench.vault.restore(forgotten)


def worst_facts(found: Profile) -> tuple[str, str]:
    """The two worst facts about an enrollment: who is nearest, and which view is missing."""
    return nearest_words(found), views_words(found)


HARD_TO_TELL: Final = (
    "The network can hardly tell this face from others of its kind, as with small children: it will seldom be named."
)


def nearest_words(found: Profile, noun: str = "person") -> str:
    """Who, or what, is nearest, and what that means."""
    if found.nearest is None:
        return f"No other {noun} is enrolled, so none can be mistaken for this one yet."
    name, similarity = found.nearest
    room = found.threshold - similarity
    judged = "far enough apart" if room > 0.1 else "near: watch for mix-ups" if room > 0 else "SO NEAR that they mix up"
    return (
        f"Nearest other {noun}: {name}, similarity {similarity:.2f}; strangers stay under "
        f"{found.threshold:.2f}: {judged}."
    )


def views_words(found: Profile) -> str:
    """Which side of a face no shot shows."""
    if not found.missing:
        return "All three views are there: from the front, and turned to both sides."
    words = [_VIEW_WORDS[view] for view in found.missing]
    listed = words[0] if len(words) == 1 else ", and ".join((", ".join(words[:-1]), words[-1]))
    return f"Missing: {listed}."
