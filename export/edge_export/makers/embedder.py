"""A fine-tuned embedder as material for an export: its pictures divided by identity, as its training divided them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_app.accuracy.pair_scores import unit_rows
from edge_app.accuracy.people_folder import points_of
from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec, ModelCard, OperatingPoint
from edge_app.core.task import Task
from edge_app.core.types import Float32s, Pixels
from edge_app.inference.geometry import CROPS, to_input
from edge_app.media.pictures import read_picture
from edge_export.build.material import Material
from edge_export.build.publish import Request, provenance
from edge_export.check.samples import CALIBRATION, GATE, enough, most_rows, spread
from edge_export.graph.torch_export import Signature, as_function
from edge_export.makers.classifier import data_facts, found_split, training_folder
from edge_models.data.folder import PictureFolder
from edge_models.fitting.checkpoint import Checkpoint, load
from edge_models.fitting.progress import Progress
from edge_models.networks.backbone import Backbone, Source
from edge_models.networks.embedder import Crops, crops_of, load_embedder
from edge_models.siamese.options import SiameseOptions
from edge_models.siamese.run import MIN_IDENTITIES, Division, divide

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Base:
    """What an embedder's card tells besides its measurements."""

    name: str
    """Of the network, for the provenance."""
    input: InputSpec
    crop: str
    size: int
    """Numbers of an embedding."""
    source: Source


def embedder_material(path: Path, request: Request, progress: Progress) -> Material:
    """Read a checkpoint, make its crops again and divide them as the training did.

    Raises ModelError for a file that is no whole embedder, a folder that changed since training or a division that
    cannot be repeated; UsageError when the folder is not there.
    """
    checkpoint = load(path)
    network = load_embedder(checkpoint)
    options = _options(checkpoint)
    folder = training_folder(checkpoint, request, MIN_IDENTITIES)
    crops = crops_of(folder, network, aligned=options.aligned, detector=options.detector, progress=progress)
    lost = set(crops.without_face)
    files = [picture for picture in folder.pictures if picture.name not in lost]
    if checkpoint.split:
        parts, note = found_split(folder, checkpoint, None)
        names = {name: {folder.pictures[i].name for i in part} for name, part in parts.items()}
        rows = {name: [i for i, file in enumerate(files) if file.name in part] for name, part in names.items()}
        learned, held_out = (np.array(rows[name], np.intp) for name in ("learning", "held_out"))
    else:
        division, note = _division(folder, crops, options, checkpoint), ""
        learned = np.flatnonzero(np.isin(crops.labels, division.learning))
        held_out = np.flatnonzero(np.isin(crops.labels, division.held_out))
    vectors = embed(network, crops.images[held_out], checkpoint.input)
    points = points_of(vectors, [folder.classes[i] for i in crops.labels[held_out]])
    identities = len(np.unique(crops.labels[held_out]))
    counts = {"held_out_identities": float(identities), "held_out_pictures": float(len(held_out))}
    source = checkpoint.base
    base = Base(
        source.name,
        checkpoint.input,
        checkpoint.crop,
        network.features,
        Source(source.licence, source.commercial_use, source.origin, source.origin_sha256),
    )
    facts = data_facts(checkpoint, folder)
    card = embedder_card(base, request, points, dict(checkpoint.metrics) | counts, **facts)
    kept = spread(held_out, most_rows(checkpoint.input))
    return Material(
        card=card,
        module=network,
        signature=embedder_signature(base),
        gate_inputs=gate_inputs(crops.images, checkpoint.input),
        calibration=to_input(enough(crops.images[spread(learned, CALIBRATION)]), checkpoint.input),
        held_out=to_input(crops.images[kept], checkpoint.input),
        held_out_labels=crops.labels[kept],
        held_out_names=tuple(files[i].name for i in kept),
        pictures=lambda i: read_picture(files[int(kept[i])].path),
        notes=(note,) if note else (),
    )


def embedder_card(
    base: Base,
    request: Request,
    points: Sequence[OperatingPoint],
    metrics: Mapping[str, float],
    **facts: str,
) -> ModelCard:
    """The card of any embedder: of faces when its crop is an alignment template, else of pictures."""
    task = Task.FACE_EMBEDDING if base.crop in CROPS else Task.IMAGE_EMBEDDING
    spec = base.input
    return ModelCard(
        id=request.model_id,
        task=task,
        family="embedding",
        input=InputSpec("input", spec.width_px, spec.height_px, spec.channels, spec.mean, spec.std),
        outputs=("embedding",),
        precision="fp32",
        licence=base.source.licence,
        commercial_use=base.source.commercial_use,
        origin=base.source.origin,
        origin_sha256=base.source.origin_sha256,
        crop=base.crop,
        embedding_size=base.size,
        operating_points=tuple(points),
        metrics=dict(metrics),
        provenance=provenance(request, base.name, **facts),
    )


def embedder_signature(base: Base) -> Signature:
    """One input, one output, any batch."""
    shape = ("batch", 3, base.input.height_px or 0, base.input.width_px or 0)
    return Signature("input", shape, ("embedding",), (("batch", base.size),))


def gate_inputs(crops: Pixels, spec: InputSpec) -> Float32s:
    """At least 32 inputs, spread over the crops."""
    chosen = spread(np.arange(len(crops)), GATE)
    return to_input(enough(crops[chosen]), spec)


def embed(network: nn.Module, crops: Pixels, spec: InputSpec) -> Float32s:
    """(N, D) unit rows of (N, H, W, 3) crops, a batch at a time."""
    run = as_function(network)
    rows = [run(to_input(crops[i : i + 16], spec))[0] for i in range(0, len(crops), 16)]
    return unit_rows(np.concatenate(rows))


def _options(checkpoint: Checkpoint) -> SiameseOptions:
    told: Mapping[str, Any] = checkpoint.configuration
    names = ("seed", "aligned", "detector", "held_out", "choosing")
    missing = [name for name in names if name not in told]
    if missing:
        raise ModelError(f"the checkpoint does not tell {', '.join(missing)}", remedy="train again")
    return SiameseOptions(directory=Path(), output=Path(), **{name: told[name] for name in names})


def _division(folder: PictureFolder, crops: Crops, options: SiameseOptions, checkpoint: Checkpoint) -> Division:
    """The run's first division, whose network was kept; the identities that it learned from prove it the same."""
    counts = np.bincount(crops.labels, minlength=len(folder.classes))
    division = divide(np.flatnonzero(counts >= 2), options)[0]
    if tuple(folder.classes[i] for i in division.learning) != checkpoint.classes:
        raise ModelError(
            f"the identities of {folder.root} do not divide as they did in training",
            expected="the same folder and the same detector",
            remedy="name the folder that it was trained on with --data",
        )
    return division


def backbone_of(network: Backbone) -> Base:
    """What a backbone tells about itself."""
    return Base(network.name, network.input, network.crop, network.features, network.source)
