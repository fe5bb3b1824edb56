"""Opens sessions: the one place where models are loaded with their build, gallery and rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from edge_app.core.errors import UsageError
from edge_app.core.model_card import Precision
from edge_app.core.task import PEOPLE, LookFor, Task
from edge_app.model_store.catalogue import build, builds, open_entry
from edge_app.model_store.choose_build import choose
from edge_app.recognition.session import Session
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings

if TYPE_CHECKING:
    from edge_app.inference.detector import DetectorOptions
    from edge_app.inference.geometry import Region
    from edge_app.recognition.faces import PeopleSession
    from edge_app.recognition.things import ThingSession


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """Choices for one session that are no settings."""

    precision: Precision | None = None
    """One build of a classifier or a general embedder; None: the setting's where the model has it."""
    unsure_below: float | None = None
    """Takes the place of a classifier's own bar, [0, 1)."""
    detector: DetectorOptions | None = None
    roi: Region | None = None
    """What a classifier looks at, in place of what its card says."""
    runner_up: bool = False
    """A classifier's maps are of the second best label."""
    candidates: tuple[str, ...] | None = None
    """Who alone may be named, of those enrolled; None: everybody."""


Opener = Callable[[Home, Settings, LookFor, OpenOptions], Session]


def open_session(
    home: Home, settings: Settings, look_for: LookFor | None = None, options: OpenOptions | None = None
) -> Session:
    """Open what recognition of `look_for` needs (None: what the settings say).

    Raises UsageError for an unknown word or model, for one that tells nothing, such as a detector, and for a candidate
    who is not enrolled; ModelError for
    a file that is gone, changed or wrong; GalleryError when the gallery cannot be read, or nobody knows what an
    embedder's similarities mean here.
    """
    look_for = look_for or LookFor(settings.model)
    options = options or OpenOptions()
    opener = OPENERS.get(look_for.word)
    if opener is None:
        opener = OPENERS.get(Task(builds(home, look_for.word)[0].task), _refuse)
    if (options.unsure_below is not None or options.roi is not None) and opener is not _open_classes:
        what = "--roi" if options.roi is not None else "--unsure-below"
        raise UsageError(f"{what} is for classifiers", expected=f"a classifier, not {look_for}")
    if options.candidates is not None and opener not in (_open_people, _open_things):
        raise UsageError(f"candidates were given with {look_for}", expected="people, or things that were enrolled")
    return opener(home, settings, look_for, options)


def open_people(home: Home, settings: Settings | None = None, options: OpenOptions | None = None) -> PeopleSession:
    """Open the recognition of people, whatever the settings look for; see `open_session`."""
    return _open_people(home, settings or home.settings(), PEOPLE, options or OpenOptions())


def open_things(home: Home, settings: Settings, model_id: str, options: OpenOptions | None = None) -> ThingSession:
    """Open the recognition of things over one general image embedder; see `open_session`."""
    return _open_things(home, settings, LookFor(model_id), options or OpenOptions())


def _open_people(home: Home, settings: Settings, look_for: LookFor, options: OpenOptions) -> PeopleSession:
    from edge_app.gallery.candidates import check_candidates
    from edge_app.gallery.matching import NAMES_NOBODY, Gallery
    from edge_app.inference.embedder import Embedder
    from edge_app.model_store.open_detector import open_detector
    from edge_app.recognition.faces import FaceRecognizer, PeopleSession
    from edge_app.recognition.gallery_session import open_vault

    if not look_for.is_people:  # the embedder's own id: people, as it knows them
        settings = replace(settings, embedder=look_for.word)
    choice = choose(settings.embedder, settings.precision, home, settings.threads)
    embedder = Embedder(open_entry(choice.entry, settings.threads))
    detector = open_detector(settings.detector, options.detector, settings.threads, home)
    recognizer = FaceRecognizer(detector, embedder, Gallery.empty(embedder.model_id), NAMES_NOBODY)
    vault, gone = open_vault(home)
    if options.candidates is not None:
        check_candidates(vault, options.candidates)
    return PeopleSession(home, settings, recognizer, vault, choice, gone, options.candidates).refreshed()


def _open_things(home: Home, settings: Settings, look_for: LookFor, options: OpenOptions) -> ThingSession:
    # The half of the app that enrolls is not loaded to classify.
    from edge_app.gallery.candidates import check_candidates
    from edge_app.gallery.matching import NAMES_NOBODY, Gallery
    from edge_app.inference.embedder import Embedder
    from edge_app.recognition.gallery_session import open_vault
    from edge_app.recognition.things import ThingRecognizer, ThingSession

    model_id, wanted = look_for.word, options.precision or settings.precision
    has = wanted in {entry.precision for entry in builds(home, model_id)}
    if options.precision is not None and not has:
        build(home, model_id, options.precision)
    choice = choose(model_id, wanted if has else "auto", home, settings.threads)
    embedder = Embedder(open_entry(choice.entry, settings.threads))
    recognizer = ThingRecognizer(embedder, Gallery.empty(model_id), NAMES_NOBODY)
    vault, gone = open_vault(home)
    if options.candidates is not None:
        check_candidates(vault, options.candidates)
    return ThingSession(home, settings, recognizer, vault, choice, gone, options.candidates).refreshed()


def _open_classes(home: Home, settings: Settings, look_for: LookFor, options: OpenOptions) -> Session:
    from edge_app.inference.classifier import Classifier
    from edge_app.inference.geometry import with_region
    from edge_app.recognition.classes import ClassRecognizer, judges_faces

    model_id = look_for.word
    if options.precision is not None:
        entry = build(home, model_id, options.precision)
    else:
        has = settings.precision in {one.precision for one in builds(home, model_id)}
        entry = choose(model_id, settings.precision if has else "auto", home, settings.threads).entry
    model = open_entry(entry, settings.threads)
    if options.roi is not None:
        model.card = replace(model.card, crop=with_region(model.card.crop, options.roi))
    classifier = Classifier(model, options.unsure_below)
    detector = None
    if judges_faces(classifier.card.crop):
        from edge_app.model_store.open_detector import open_detector

        detector = open_detector(settings.detector, options.detector, settings.threads, home)
    return Session(home, settings, ClassRecognizer(classifier, detector, runner_up=options.runner_up))


def _refuse(home: Home, _settings: Settings, look_for: LookFor, _options: OpenOptions) -> Session:
    model_id = look_for.word
    detector = "mtcnn" if model_id.startswith("mtcnn-") else model_id  # three networks, one detector
    raise UsageError(
        f"{model_id} finds faces, it does not tell what it sees",
        expected="a classifier or an embedder",
        remedy=f"use it with --detector {detector}",
    )


OPENERS: Final[Mapping[str, Opener]] = {
    PEOPLE.word: _open_people,
    Task.FACE_EMBEDDING: _open_people,
    Task.IMAGE_EMBEDDING: _open_things,
    Task.CLASSIFICATION: _open_classes,
    Task.LIVENESS: _open_classes,
}
"""By built-in word, or by the task of the model that is named. One more thing to look for is one more line."""
