"""Puts the parts together: data folder, models, gallery and rule become a `Recognizer`.

Hides which file goes where; the command line and the terminal app both start here. Flows in: the data folder and
the user's choices. Flows out: a ready `Recognizer`, and enrollment that lands in the vault whole or not at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_app.core.model_card import OperatingPoint
from edge_app.core.types import Embedding
from edge_app.gallery.calibration import points_of
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict, judge_shots, settle_rivals, template_of
from edge_app.gallery.matching import Gallery
from edge_app.gallery.storage import Stored, Vault
from edge_app.inference import onnx_model
from edge_app.inference.detector import DetectorOptions
from edge_app.inference.embedder import Embedder
from edge_app.model_store.catalogue import catalogue
from edge_app.model_store.choose_build import Choice, choose
from edge_app.model_store.open_detector import open_detector
from edge_app.recognition.faces import Recognizer
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings


@dataclass(frozen=True, slots=True)
class Workbench:
    """Everything that recognition and enrollment need, over one data folder."""

    home: Home
    settings: Settings
    vault: Vault
    recognizer: Recognizer
    choice: Choice
    """Which build of the embedder runs, and why."""

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The embedder's operating points: those calibrated on the user's pictures, else its card's."""
        return points_of(self.home, self.recognizer.embedder.card, self.choice.entry.sha256)

    @property
    def missing(self) -> tuple[str, ...]:
        """People who were enrolled with other models only, and are strangers to the one in use; sorted."""
        return left_behind(self.home, self.vault, self.recognizer.embedder.model_id)

    def refreshed(self) -> Workbench:
        """The same over the gallery as it is now on disk."""
        gallery = load_gallery(self.vault, self.recognizer.embedder)
        rule = gallery.rule(self.points, self.settings.fpir, self.settings.margin)
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
        floor = replace(options, same_person_floor=same_person_floor(self.points, options.same_person_floor))
        looks = settle_rivals(looks, own, floor)
        shots = [look for _, look in looks if isinstance(look, Shot)]
        judged = iter(judge_shots(name, shots, own, self.recognizer.gallery, self.recognizer.rule, floor))
        verdicts = [next(judged) if isinstance(look, Shot) else Verdict(source, None, look) for source, look in looks]
        now_s = clock()
        accepted = [v.shot for v in verdicts if v.accepted and v.shot is not None]
        if accepted:
            kept = [shot.kept for shot in accepted] if self.settings.keep_pictures else ()
            templates = [template_of(shot, now_s) for shot in accepted]
            self.vault.add(name, templates, kept, ignored=options.ignored, consent=options.consent)
        return verdicts


def open_workbench(
    home: Home,
    settings: Settings | None = None,
    *,
    detector_options: DetectorOptions | None = None,
) -> Workbench:
    """Load the models and the gallery of one data folder. Raises EdgeError with one line for whatever is wrong."""
    settings = settings or home.settings()
    choice = choose(settings.embedder, settings.precision, home, settings.threads)
    model = onnx_model.load(choice.entry.path, threads=settings.threads, sha256=choice.entry.sha256)
    embedder = Embedder(model)
    detector = open_detector(settings.detector, detector_options, settings.threads, home)
    vault = Vault(home.gallery_path)
    gallery = load_gallery(vault, embedder)
    points = points_of(home, embedder.card, choice.entry.sha256)
    rule = gallery.rule(points, settings.fpir, settings.margin)
    return Workbench(home, settings, vault, Recognizer(detector, embedder, gallery, rule), choice)


def load_gallery(vault: Vault, embedder: Embedder) -> Gallery:
    """The embedder's own part of the gallery as it is on disk now; templates of other models are left alone."""
    return gallery_of(vault.read(embedder.model_id))


def thing_models(home: Home, vault: Vault) -> frozenset[str]:
    """Ids of general image embedders: what is enrolled with them are things, not people.

    Of a model that was removed the gallery's own measurements tell which it was.
    """
    tasks = {entry.id: entry.task for entry in catalogue(home)}
    own = {model for model, task in tasks.items() if task == "image-embedding"}
    return frozenset(own | (vault.models_without_poses() - tasks.keys()))


def left_behind(home: Home, vault: Vault, model_id: str) -> tuple[str, ...]:
    """Names of the same kind, people or things, that were enrolled with other models only; sorted."""
    things = thing_models(home, vault)
    of_things = model_id in things
    return tuple(
        one.name
        for one in vault.roster()
        if model_id not in one.templates and any((model in things) == of_things for model in one.templates)
    )


def unenrolled(home: Home, model_id: str) -> tuple[str, ...]:
    """People of the gallery without a template of this embedder: they must be enrolled again to be recognized.

    Things are not among them: an embedder of faces has nothing to do with those.
    """
    if not home.gallery_path.exists():
        return ()
    with Vault(home.gallery_path) as vault:
        return left_behind(home, vault, model_id)


def gallery_of(stored: Stored) -> Gallery:
    """Matching's view of what the vault holds of one model."""
    return Gallery(stored.model_id, stored.names, stored.vectors, stored.owner)


def same_person_floor(points: Sequence[OperatingPoint], fallback: float) -> float:
    """The similarity that one stranger in a hundred reaches: less is no sign of the same person."""
    nearest = min((p for p in points if p.templates == 1), key=lambda p: abs(math.log(p.fmr / 1e-2)), default=None)
    return nearest.threshold if nearest else fallback


def own_embeddings(vault: Vault, name: str, model_id: str) -> list[Embedding]:
    """What is enrolled under a name with one model; nothing for a new name."""
    if name not in vault.names(model_id):
        return []
    return [template.embedding for template in vault.identity(name, model_id).templates]
