"""A session that names what was enrolled: people, or things over a general image embedder."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, runtime_checkable

from edge_app.core.errors import GalleryError
from edge_app.core.model_card import OperatingPoint
from edge_app.core.task import Task
from edge_app.core.types import Embedding, Float32s, Pixels, Template
from edge_app.gallery.calibration import Thresholds, thresholds_of
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict, settle_rivals, template_of
from edge_app.gallery.matching import Gallery, MatchRule
from edge_app.gallery.retention import Gone, apply_retention
from edge_app.gallery.storage import Vault
from edge_app.inference.embedder import Embedder
from edge_app.model_store.catalogue import catalogue
from edge_app.model_store.choose_build import Choice
from edge_app.recognition.session import Recognizer, Session
from edge_app.system.data_folder import Home


@runtime_checkable
class GalleryRecognizer(Recognizer, Protocol):
    """A recognizer that names what was enrolled."""

    @property
    def embedder(self) -> Embedder:
        """Whose embeddings the gallery holds."""

    @property
    def gallery(self) -> Gallery:
        """What is enrolled, as it was last read."""

    @property
    def rule(self) -> MatchRule:
        """From when on somebody is named."""

    def with_gallery(self, gallery: Gallery, rule: MatchRule) -> Self:
        """The same over another gallery."""

    def shot(
        self, pixels: Pixels, source: str, *, box: Float32s | None = None, largest: bool = False
    ) -> Shot | Refusal:
        """Find, cut out, measure and embed what a picture is about; a `Refusal` when there is no such thing.

        `box` (4,) x1, y1, x2, y2 says where a thing is, `largest` that a picture of several faces means the largest.
        """

    def kept_shot(self, template: Template, picture: bytes) -> Shot | str:
        """The shot that a kept picture gives, or why it gives none."""

    def judge(
        self, name: str, shots: Sequence[Shot], own: Sequence[Embedding], options: EnrollOptions
    ) -> list[Verdict]:
        """Judge the shots of one name together, against each other, those enrolled, and everybody else."""


class Reading:
    """The gallery as it was last read, for all sessions that were made of one: the cameras of one door share it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.generation = -1
        self.gallery: Gallery | None = None
        self.thresholds = Thresholds((), None)


@dataclass(frozen=True, slots=True, eq=False)
class GallerySession(Session):
    """A session that enrolls: people, or things over a general image embedder."""

    recognizer: GalleryRecognizer
    vault: Vault
    choice: Choice
    gone: Gone = field(default_factory=Gone)
    """Who went when it was opened; see `edge_app.gallery.retention`."""
    candidates: tuple[str, ...] | None = None
    """Who alone may be named, of those enrolled; None: everybody."""
    reading: Reading = field(default_factory=Reading)
    """What the sessions that are made of this one share."""

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The embedder's operating points: those calibrated on the user's pictures, else its card's."""
        return self.thresholds.points

    @property
    def thresholds(self) -> Thresholds:
        """The points with the cohort that they were measured with."""
        return thresholds_of(self.home, self.recognizer.embedder.card, self.choice.entry.sha256)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the same kind that were enrolled with other models only, strangers to the one in use; sorted."""
        return left_behind(self.home, self.vault, self.recognizer.embedder.model_id)

    def refreshed(self) -> Self:
        """The same over the gallery as it is now on disk.

        One that another session made of the same has read already, of the same state of the file, is not read again.
        """
        embedder, shared = self.recognizer.embedder, self.reading
        with shared.lock:
            generation = self.vault.generation()  # asked first: a change meanwhile is read once more
            known = shared.gallery
            is_news = known is not None and known is not self.recognizer.gallery and generation == shared.generation
            if known is None or not is_news or known.model_id != embedder.model_id:
                known = load_gallery(self.vault, embedder)
                if self.candidates is not None:
                    known = known.limited_to(self.candidates)
                shared.gallery, shared.generation, shared.thresholds = known, generation, self.thresholds
            gallery, thresholds = known, shared.thresholds
        rule = gallery.rule(thresholds.points, self.settings.fpir, self.settings.margin, thresholds.cohort)
        return replace(self, recognizer=self.recognizer.with_gallery(gallery, rule))

    def enroll(
        self,
        name: str,
        looks: Sequence[tuple[str, Shot | Refusal]],
        options: EnrollOptions,
        clock: Callable[[], float] = time.time,
    ) -> list[Verdict]:
        """Judge the looks of one name and store the accepted ones in one transaction.

        Returns one verdict per look, in order. Nothing is stored when all were refused. The gallery in memory is as
        before: see `refreshed`.
        """
        own = own_embeddings(self.vault, name, self.recognizer.embedder.model_id)
        floor = replace(options, same_person_floor=same_person_floor(self.thresholds, options.same_person_floor))
        looks = settle_rivals(looks, own, floor)
        shots = [look for _, look in looks if isinstance(look, Shot)]
        judged = iter(self.recognizer.judge(name, shots, own, floor))
        verdicts = [next(judged) if isinstance(look, Shot) else Verdict(source, None, look) for source, look in looks]
        accepted = [v.shot for v in verdicts if v.accepted and v.shot is not None]
        if accepted:
            now_s = clock()
            kept = [shot.kept for shot in accepted] if self.settings.keep_pictures else ()
            templates = [template_of(shot, now_s) for shot in accepted]
            self.vault.add(name, templates, kept, ignored=options.ignored, consent=options.consent)
        return verdicts


def open_vault(home: Home) -> tuple[Vault, Gone]:
    """The gallery, unlocked so that no later call asks, and what went because its own retention calls it overdue."""
    vault = Vault(home.gallery_path)
    vault.unlock()
    try:
        return vault, apply_retention(vault, time.time())
    except GalleryError:  # read-only, or in use: recognizing goes on, and the next opening tries again
        return vault, Gone()


def load_gallery(vault: Vault, embedder: Embedder) -> Gallery:
    """The embedder's own part of the gallery as it is on disk now; templates of other models are left alone."""
    return Gallery.of_means(vault.read(embedder.model_id))


def thing_models(home: Home, vault: Vault) -> frozenset[str]:
    """Ids of general image embedders: what is enrolled with them are things, not people.

    Of a model that was removed the gallery's own measurements tell which it was.
    """
    tasks = {entry.id: entry.task for entry in catalogue(home)}
    own = {model for model, task in tasks.items() if task == Task.IMAGE_EMBEDDING}
    return frozenset(own | (vault.models_without_poses() - tasks.keys()))


def left_behind(home: Home, vault: Vault, model_id: str) -> tuple[str, ...]:
    """Names of the same kind, people or things, that were enrolled with other models only; sorted."""
    others = vault.without(model_id)
    if not others:
        return ()
    things = thing_models(home, vault)
    of_things = model_id in things
    lines = (vault.line(name) for name in others)
    return tuple(one.name for one in lines if one and any((model in things) == of_things for model in one.templates))


def unenrolled(home: Home, model_id: str) -> tuple[str, ...]:
    """People of the gallery without a template of this embedder: they must be enrolled again to be recognized.

    Things are not among them: an embedder of faces has nothing to do with those.
    """
    if not home.gallery_path.exists():
        return ()
    with Vault(home.gallery_path) as vault:
        return left_behind(home, vault, model_id)


def same_person_floor(thresholds: Thresholds, fallback: float) -> float:
    """The cosine that one stranger in a hundred reaches: less is no sign of the same person."""
    if thresholds.cohort is not None:
        return thresholds.cohort.same_person
    single = (point for point in thresholds.points if point.templates == 1)
    nearest = min(single, key=lambda point: abs(math.log(point.fmr / 1e-2)), default=None)
    return nearest.threshold if nearest else fallback


def own_embeddings(vault: Vault, name: str, model_id: str) -> list[Embedding]:
    """What is enrolled under a name with one model; nothing for a new name."""
    if not vault.has(name, model_id):
        return []
    return [template.embedding for template in vault.identity(name, model_id).templates]
