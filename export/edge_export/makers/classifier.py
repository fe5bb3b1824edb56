"""A trained classifier as material for an export:
logits and class activation maps, its pictures as its training split them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_app.core.attributes import Attribute
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.hierarchy import Hierarchy
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.core.task import Task
from edge_app.core.types import Float32s
from edge_app.inference.geometry import prepare, to_input
from edge_app.media.pictures import read_picture
from edge_export.build.material import Material
from edge_export.build.publish import Request, provenance
from edge_export.check.not_sure_bar import (
    Answers,
    answers,
    at_bar,
    attributes_with_bar,
    families_words,
    family_answers,
    family_bar,
    unsure_below,
)
from edge_export.check.samples import CALIBRATION, GATE, enough, most_rows, spread
from edge_export.graph.torch_export import Signature, as_function
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.network import TransferClassifier, load_classifier
from edge_models.data.checks import scan
from edge_models.data.folder import PictureFolder, find_again, split_pictures
from edge_models.fitting.checkpoint import Checkpoint


class ClassifierGraph(nn.Module):
    """Normalized pictures (N, 3, H, W) to logits (N, C) and class activation maps (N, C, h, w)."""

    def __init__(self, classifier: TransferClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.classifier.logits_and_maps(images)


def classifier_material(path: Path, request: Request) -> Material:
    """Read a checkpoint and find its pictures again, by their content.

    Raises ModelError for a file that is no whole classifier or a folder that holds none of the pictures that judged it,
    UsageError when the folder is not there.
    """
    classifier, checkpoint = load_classifier(path)
    folder = training_folder(checkpoint, request)
    pictured = len(folder.classes) if checkpoint.attributes else len(checkpoint.classes)
    if folder.classes != checkpoint.classes[:pictured]:
        raise ModelError(
            f"{folder.root} has the classes {', '.join(folder.classes[:6])}",
            expected=f"{', '.join(checkpoint.classes[:6])} as in training",
            remedy="name the folder that it was trained on with --data",
        )
    split, note = found_split(folder, checkpoint, _derived(folder, checkpoint))
    fit = sorted((*split["train"], *split["selection"]))
    held_out = spread(np.array(split["validation"], np.intp), most_rows(checkpoint.input))
    inputs = _inputs(folder, held_out, checkpoint)
    module, signature = _graph(classifier, checkpoint)
    labels = folder.labels[held_out]
    gate = spread(np.array(sorted((*fit, *split["validation"])), np.intp), GATE)
    return Material(
        card=_card(checkpoint, request, signature, _figures(module, inputs, labels, checkpoint), folder),
        module=module,
        signature=signature,
        gate_inputs=_inputs(folder, gate, checkpoint, at_least=True),
        calibration=_inputs(folder, spread(np.array(fit, np.intp), CALIBRATION), checkpoint, at_least=True),
        held_out=inputs,
        held_out_labels=labels,
        held_out_names=tuple(folder.pictures[i].name for i in held_out),
        pictures=lambda i: read_picture(folder.pictures[int(held_out[i])].path),
        notes=(note,) if note else (),
    )


def found_split(
    folder: PictureFolder, checkpoint: Checkpoint, derived: Mapping[str, Sequence[int]] | None
) -> tuple[Mapping[str, Sequence[int]], str]:
    """The parts of the training's split as indices into the folder, and a sentence where the folder has changed.

    `derived` serves checkpoints of version 0.1.0, which tell no split. Raises ModelError where a part is lost whole.
    """
    if not checkpoint.split:
        if derived is None:
            raise ModelError("the checkpoint does not tell its split", remedy="train again")
        return derived, ""
    found = find_again(folder, checkpoint.split)
    for name, part in found.parts.items():
        if checkpoint.split[name] and not part:
            raise ModelError(
                f"{folder.root} holds none of the {len(checkpoint.split[name])} pictures of the {name} part",
                expected="the pictures of the training, under whatever names",
                remedy="name the right folder with --data DIR",
            )
    return found.parts, found.sentence(folder.root)


def training_folder(checkpoint: Checkpoint, request: Request, min_classes: int = 2) -> PictureFolder:
    """The checked folder that a checkpoint learned from, or the one that the user names instead.

    Raises UsageError when it is not there, ModelError when its pictures are not those of the training and the
    checkpoint, of version 0.1.0, does not tell which of them were learned from.
    """
    from edge_models.data.class_folders import CheckOptions

    root = request.data or Path(str(checkpoint.configuration.get("directory", "")))
    if not root.is_dir():
        raise UsageError(
            f"the pictures it was trained on are not at {root}",
            expected="that folder: parity, bars and thresholds are measured on it",
            remedy="name it with --data DIR",
        )
    folder = scan(root, CheckOptions(min_classes=min_classes))
    # A checkpoint that tells its split finds each picture again, so that nothing learned from can judge.
    if folder.sha256 != checkpoint.data_sha256 and not checkpoint.split and not request.data_changed:
        raise ModelError(
            f"the pictures of {root} are not those of the training ({len(folder.pictures)} found, another hash)",
            expected="the same files: held-out pictures might have been learned from",
            remedy="name the right folder with --data DIR, or accept it with --data-changed",
        )
    return folder


def data_facts(checkpoint: Checkpoint, folder: PictureFolder) -> dict[str, str]:
    """What a card tells about the data, and about the run that learned from it."""
    changed = "" if folder.sha256 == checkpoint.data_sha256 else folder.sha256
    return {
        "data_sha256": checkpoint.data_sha256,
        "measured_on_changed_data_sha256": changed,
        "learned_from": "every picture, after the figures were measured on a part kept aside"
        if checkpoint.learned_all
        else "the training part only",
        "trained_by": str(checkpoint.configuration.get("command", "")),
        "trained_with": ", ".join(f"{name} {version}" for name, version in checkpoint.versions.items()),
    }


def _derived(folder: PictureFolder, checkpoint: Checkpoint) -> Mapping[str, Sequence[int]] | None:
    """The split as version 0.1.0 made it from the folder and the options; None where the checkpoint tells its own."""
    told = checkpoint.configuration
    if checkpoint.split:
        return None
    try:
        seed, shares = int(told["seed"]), (float(told["validation_share"]), float(told["selection_share"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the checkpoint does not tell its split ({error})", remedy="train again") from error
    split = split_pictures(folder, seed=seed, validation_share=shares[0], selection_share=shares[1])
    return {"train": split.train, "selection": split.selection, "validation": split.validation}


def _graph(classifier: TransferClassifier, checkpoint: Checkpoint) -> tuple[nn.Module, Signature]:
    """The module to export; class maps are left out where the network has no maps of places."""
    spec, count = checkpoint.input, len(checkpoint.classes)
    probe = torch.zeros(1, 3, spec.height_px or 0, spec.width_px or 0)
    with torch.inference_mode():
        maps = classifier.backbone.maps(probe)
    shape = ("batch", 3, spec.height_px or 0, spec.width_px or 0)
    if maps.ndim != 4:
        return classifier.eval(), Signature(spec.name, shape, ("logits",), (("batch", count),))
    shapes = (("batch", count), ("batch", count, int(maps.shape[2]), int(maps.shape[3])))
    return ClassifierGraph(classifier).eval(), Signature(spec.name, shape, ("logits", "class_maps"), shapes)


def _inputs(
    folder: PictureFolder, at: Sequence[int] | NDArray[np.intp], checkpoint: Checkpoint, at_least: bool = False
) -> Float32s:
    paths = [folder.pictures[int(i)].path for i in at]
    crops = np.stack([prepare(read_picture(path), checkpoint.input, checkpoint.crop) for path in paths])
    return to_input(enough(crops) if at_least else crops, checkpoint.input)


@dataclass(frozen=True, slots=True)
class _Figures:
    """On held-out pictures."""

    accuracy: float
    bar: float
    """Of "not sure"."""
    answers: Answers
    """What a bar does to pictures that did not set it."""
    hierarchy: Hierarchy | None
    """With the bars of its families."""
    families: Answers | None
    """The same as `answers` of families, over the pictures without a sure label."""
    attributes: tuple[Attribute, ...]
    """With their bar."""


def _figures(module: nn.Module, inputs: Float32s, labels: NDArray[np.intp], checkpoint: Checkpoint) -> _Figures:
    """Of the answers that the training gave before it learned from everything, where the checkpoint keeps them."""
    if checkpoint.judged:
        logits, labels = (checkpoint.judged[name].double().numpy() for name in ("logits", "labels"))
        labels = labels.astype(np.intp)
    else:
        run = as_function(module)
        logits = np.concatenate([run(inputs[i : i + 16])[0] for i in range(0, len(inputs), 16)]).astype(np.float64)
    chances = probabilities(logits, checkpoint.temperature)
    accuracy = float((chances.argmax(axis=1) == labels).mean())
    bar, tree, names = unsure_below(chances, labels), checkpoint.hierarchy, checkpoint.classes
    attributes = attributes_with_bar(chances, labels, names, checkpoint.attributes)
    if tree is None:
        return _Figures(accuracy, bar, answers(chances, labels), None, None, attributes)
    sure_from = family_bar(chances, labels, names, tree, bar)
    told = family_answers(chances, labels, names, tree, bar)
    return _Figures(accuracy, bar, answers(chances, labels), at_bar(tree, sure_from), told, attributes)


def _card(
    checkpoint: Checkpoint,
    request: Request,
    signature: Signature,
    figures: _Figures,
    folder: PictureFolder,
) -> ModelCard:
    base, judged, families = checkpoint.base, figures.answers, figures.families
    metrics = dict(checkpoint.metrics) | {"accuracy": figures.accuracy} | judged.metrics()
    facts = data_facts(checkpoint, folder)
    if families is not None:
        if families.answered:
            metrics["family_right"] = families.right / families.answered
        facts["families"] = families_words(families)
    return ModelCard(
        id=request.model_id,
        task=Task.CLASSIFICATION,
        family="logits",
        input=_named(checkpoint.input, signature.input),
        outputs=signature.outputs,
        precision="fp32",
        licence=base.licence,
        commercial_use=base.commercial_use,
        origin=base.origin,
        origin_sha256=base.origin_sha256,
        crop=checkpoint.crop,
        labels=checkpoint.classes,
        temperature=checkpoint.temperature,
        unsure_below=figures.bar,
        hierarchy=figures.hierarchy,
        attributes=figures.attributes,
        metrics=metrics,
        provenance=provenance(request, base.name, bar=judged.words(), **facts),
    )


def _named(spec: InputSpec, name: str) -> InputSpec:
    return InputSpec(name, spec.width_px, spec.height_px, spec.channels, spec.mean, spec.std)
