"""Which small-data methods there are, how training is asked for them, and where one does not apply."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edge_app.core.errors import MediaError
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.start import suitable_size
from edge_models.data.folder import PictureFolder
from edge_models.generate.cutouts import read_cutout
from edge_models.generate.gan import LEAST
from edge_models.networks.backbones import LITES

CHANGES: Final[Mapping[str, Mapping[str, Any]]] = {
    "prototypes": {"head": "prototypes"},
    "discriminant": {"head": "discriminant"},
    "cosine": {"loss": "cosine"},
    "cosine+cross-entropy": {"loss": "cosine+cross-entropy"},
    "smoothing": {"smoothing": 0.1},
    "balanced": {"balanced": True},
    "mixup": {"mixing": "mixup"},
}
"""Methods that are an option of the recipe."""
FLAGS: Final[Mapping[str, str]] = {
    "prototypes": "--head prototypes",
    "discriminant": "--head discriminant",
    "cosine": "--loss cosine",
    "cosine+cross-entropy": "--loss cosine+cross-entropy",
    "smoothing": "--smoothing 0.1",
    "balanced": "--balanced",
    "mixup": "--mixing mixup",
    "known-classes": "--search 0 --unfreeze 0 --backbone NAME:classes",
    "families": "--hierarchy FILE",
    "augmented": "--search 0 --unfreeze 0 --views 1",
    "styled": "--search 0 --unfreeze 0 --style self",
    "distillation": "--generations 1",
    "pseudo-labels": "--unlabelled POOL",
    "noisy-head": "--search 0 --unfreeze 0 --unlabelled POOL --rounds 2",
    "noisy-student": "--search 0 --views 0 --unlabelled POOL --rounds 1",
    "composed": "`edge-app compose`, and what it made beside DIR",
    "generated": "`edge-app generate`, and what it made beside DIR",
    "coral": "--adapt TARGET --adapt-by coral",
    "batch-norm": "--adapt TARGET --adapt-by batch-norm",
    "from-scratch": "--from-scratch",
    "self-training": "--from-scratch --adapt TARGET --adapt-by self-training",
    "dann": "--from-scratch --adapt TARGET --adapt-by dann",
    "pretrained": "--from RUN/pretrained",
}
"""How `train classifier` is asked for a method."""
TEACHERS: Final = ("pseudo-labels", "noisy-head", "noisy-student")
ADAPTING: Final = ("coral", "batch-norm", "self-training", "dann")
EVERY_LAYER: Final = ("from-scratch", "self-training", "dann")
ROUNDS: Final = {"noisy-head": 2, "noisy-student": 1}
"""Of noisy students, unless the options tell."""
_UNEVEN: Final = 1.5
_PROBED: Final = 8
"""Pictures of a class that are tried for a plain background; half of them must have one."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a method is not measured."""

    reason: str
    final: bool = True
    """Whether it cannot be measured, even where it is named."""


PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "pseudo-labels": ("pool",),
    "noisy-head": ("pool", "noisy-head"),
    "noisy-student": ("pool",),
    "coral": ("target",),
    "batch-norm": ("adapted network",),
    "known-classes": ("known classes",),
    **dict.fromkeys(EVERY_LAYER, ("small pictures",)),
    "pretrained": ("pretraining",),
}
"""Parts of `Shared` that are needed for a method alone; all need the features."""


def lack(method: str, options: ClassifierOptions, folder: PictureFolder, few: int | None) -> Lack | None:
    """Why a method does not apply to a folder with `few` labels per class; None where it does.

    Without `few` the reasons are those that hold for any number.
    """
    if method in CHANGES:
        change = CHANGES[method]
        if all(getattr(options, name) == value for name, value in change.items()):
            return Lack("the options ask for it already: it is what the others are held against")
        if "head" in change and (options.epochs or not options.solvable):
            return Lack("a head that is trained step by step cannot be solved")
    if method == "balanced":
        counts = np.bincount(folder.labels, minlength=len(folder.classes)) * (1 - options.validation_share)
        learned = np.minimum(counts, few) if few else counts
        if learned.max() < _UNEVEN * learned.min():
            return Lack("the classes are of about equal size", final=False)
    if method == "known-classes":
        own = options.weights is not None or options.from_run is not None
        if own or options.backbone not in LITES:
            return Lack("the base tells no classes that it knows, or tells them already: only an EfficientNet-Lite can")
    if method == "families" and options.hierarchy is None:
        return Lack("there are no families of classes: name a file by --hierarchy")
    if method == "augmented" and not (options.views or options.mirror):
        return Lack("there are no other views (--views 0, --no-mirror)")
    if method in TEACHERS and options.unlabelled is None and few is None:
        return Lack(
            "there are no pictures without labels: name a folder by --unlabelled, or hide labels by --per-class"
        )
    if method == "noisy-student":
        return Lack("layers learn in every trial, which takes minutes; --costly measures it", final=False)
    if method in ADAPTING:
        if options.adapt is None:
            return Lack("there is no other domain: name its pictures by --adapt")
        if not folder.has_test:
            return Lack("there is no test/ with pictures of the other domain to judge by")
    if method in EVERY_LAYER:
        return Lack("every layer learns in every trial, which takes minutes; --costly measures it", final=False)
    if method == "pretrained":
        if options.unlabelled is None:
            return Lack("there is no pool to learn from: name one by --unlabelled")
        if suitable_size(folder) is None:
            return Lack("on pictures of this size it takes hours on a processor; --costly measures it", final=False)
    if method == "generated":
        if few is not None and few < LEAST:
            return Lack(f"a generator learns from {LEAST} pictures of each class or more")
        return Lack("training a generator takes minutes in every trial; --costly measures it", final=False)
    if method == "composed":
        return _uncut(folder)
    return None


def _uncut(folder: PictureFolder) -> Lack | None:
    """Whether the objects of every class can be cut out, by a few pictures of each."""
    tried: Counter[int] = Counter()
    good: Counter[int] = Counter()
    for picture in folder.pictures:
        if tried[picture.label] < _PROBED:
            tried[picture.label] += 1
            with contextlib.suppress(MediaError):
                read_cutout(picture.path, folder.classes[picture.label])
                good[picture.label] += 1
    worst = min(tried, key=lambda label: good[label] / tried[label])
    if 2 * good[worst] < tried[worst]:
        return Lack(f"no plain background to cut {folder.classes[worst]} out of: {good[worst]} of {tried[worst]} tried")
    return None
