"""What a model gave on the app's sample pictures when it was exported, kept inside its file and compared on arrival.

`edge_app.model_store.sandbox_check` finds cards that cannot be true; this finds true ones that were edited afterwards:
a mean a little off, labels in another order, a lower threshold. Outputs may differ from one processor to the next, so
they are held to `LIMIT`; what else the card claims is held to its hash. It guards against mistakes: whoever wants to
deceive can export a proof of his own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_app.core.documents import parse_json, typed
from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import Task
from edge_app.core.types import Face, Float32s, Pixels
from edge_app.inference.geometry import CROPS, align, face_area, prepare, to_input
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.system.files import sha256_of

if TYPE_CHECKING:  # a proof is also read where nothing is run
    from edge_app.inference.onnx_model import Model

KEY: Final = "edge_app.proof"
"""Key of the proof in the ONNX file's metadata."""
# Measured with SFace, dlib's network, EfficientNet-Lite0 and a classifier of ants and bees, in FP32, FP16 and INT8.
# Right: other kernels 0.00 in floats and 0.05 in bytes (INT8 without ONNX Runtime's own integer kernels stands for
# another processor); every pixel off by up to 1, as another decoder or resize may be, 0.15; by up to 2, 0.25.
# Wrong: another normalization 0.40 and more, channels in the other order 0.46 and more.
LIMIT: Final = 0.3
"""Largest deviation of outputs, as a share of how much they differ between the sample pictures; see `deviation`."""
NUMBERS: Final = 64
"""Of each picture's output so many are kept."""
_LIMIT_BYTES: Final = 1 << 16
_METHOD: Final = b"1"
"""Changed whenever pictures are cut otherwise: a proof by another method is not compared."""
_TASKS: Final = (Task.CLASSIFICATION, Task.LIVENESS, Task.FACE_EMBEDDING, Task.IMAGE_EMBEDDING)
_CLAIMS: Final = (
    "task", "input", "crop", "labels", "embedding_size", "precision", "temperature", "unsure_below",
    "operating_points", "cohort", "licence", "commercial_use", "hierarchy", "attributes",
)  # fmt: skip

# Boxes and landmarks as YuNet found them: written down, so that another detector changes no proof.
_FACES: Final = (
    ((237.3, 55.8, 385.4, 265.1), ((277.0, 132.0), (348.4, 131.1), (314.4, 173.7), (280.6, 203.7), (347.7, 202.9))),
    ((167.9, 70.7, 397.5, 394.6), ((211.1, 184.4), (316.0, 196.1), (237.5, 250.7), (206.3, 303.2), (294.9, 312.6))),
    ((183.6, 106.2, 341.6, 311.4), ((238.2, 177.2), (308.5, 178.7), (279.6, 216.1), (241.4, 246.1), (302.5, 253.6))),
    ((253.2, 107.9, 413.5, 332.6), ((310.0, 192.0), (380.1, 201.4), (346.2, 243.1), (301.9, 267.3), (363.5, 276.8))),
    ((178.1, 62.6, 268.5, 176.3), ((200.2, 101.6), (247.2, 102.4), (220.2, 124.4), (198.5, 142.8), (239.5, 143.7))),
)


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """What the maker of a model measured."""

    sample: str
    """Hash of the sample pictures and of how they are cut."""
    claims: Mapping[str, str]
    """Hash of each field of the card that outputs do not show, or not sharply."""
    outputs: Float32s
    """(5, K) float32, K <= 64: logits over the temperature, or the first numbers of the embeddings."""

    def to_json(self) -> str:
        """The proof as one JSON object; outputs with 5 digits."""
        rows = [[float(f"{value:.5g}") for value in row] for row in self.outputs.tolist()]
        return json.dumps({"sample": self.sample, "claims": dict(self.claims), "outputs": rows})


@dataclass(frozen=True, slots=True)
class _Written:
    """A proof as its JSON holds it."""

    sample: str
    claims: Mapping[str, str]
    outputs: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len({len(row) for row in self.outputs}) != 1:
            raise ValueError("outputs are no table of numbers")


def measure(model: Model) -> Proof | None:
    """Run a model on the sample; None for a task whose outputs cannot be compared."""
    card = model.card
    if card.task not in _TASKS:
        return None
    return Proof(_sample_id(), claims_of(card), _outputs(model))


def read(metadata: Mapping[str, str], name: str) -> Proof | None:
    """The proof in a file's metadata, None when there is none. Raises ModelError when it is none that one can read."""
    text = metadata.get(KEY)
    if text is None:
        return None
    try:
        plain = typed(parse_json(text, most_bytes=_LIMIT_BYTES), _Written)
        outputs = np.asarray(plain.outputs, np.float32)
    except ValueError as error:
        raise ModelError(
            f"the proof in {name} cannot be read: {error}", expected="one that `edge-app export` wrote"
        ) from error
    return Proof(plain.sample, dict(plain.claims), outputs)


def holds(proof: Proof, model: Model) -> bool:
    """Whether a model does today what its maker measured on these very pictures, with the card that it has now."""
    if proof.sample != _sample_id() or changed_claims(proof, model.card):
        return False
    ours = _outputs(model)
    return ours.shape == proof.outputs.shape and deviation(model.card, proof.outputs, ours) <= LIMIT


def check(proof: Proof, model: Model) -> None:
    """Hold a model to what its maker measured. Raises ModelError in words when it is another one now.

    Outputs are compared only when they were measured on these very sample pictures.
    """
    card, changed = model.card, changed_claims(proof, model.card)
    edited = f"its card was changed after the export: {', '.join(changed)}" if changed else ""
    if proof.sample == _sample_id():
        ours = _outputs(model)
        if ours.shape != proof.outputs.shape:
            found = f"gives {ours.shape[1]} numbers where its maker measured {proof.outputs.shape[-1]}"
            raise ModelError(f"{card.id} {found}", expected="the same", remedy=edited or "export it again")
        apart = deviation(card, proof.outputs, ours)
        if not apart <= LIMIT:
            raise ModelError(
                f"{card.id} gives other outputs on the sample pictures than its maker measured "
                f"({apart:.2f} of what the pictures differ by)",
                expected=f"at most {LIMIT:g}",
                remedy=edited or "export it again",
            )
    if changed:
        raise ModelError(
            f"{card.id} is not as its maker measured it: {edited}",
            expected="the card it was exported with",
            remedy="export it again, or describe it yourself: see `edge-app models add --help`",
        )


def changed_claims(proof: Proof, card: ModelCard) -> tuple[str, ...]:
    """Names of the card's fields that are not what the proof was measured with."""
    now = claims_of(card)
    return tuple(name for name in _CLAIMS if name in proof.claims and proof.claims[name] != now[name])


def claims_of(card: ModelCard) -> dict[str, str]:
    """A short hash of each field that a proof covers."""
    plain: dict[str, Any] = {name: getattr(card, name) for name in _CLAIMS}
    # Without `evened` where it is false: version 0.1.0 did not know it, and its proofs still hold.
    points = [
        {name: value for name, value in asdict(point).items() if name != "evened" or value}
        for point in card.operating_points
    ]
    cohort = card.cohort and asdict(card.cohort)
    plain |= {"input": asdict(card.input), "operating_points": points, "cohort": cohort}
    plain["hierarchy"] = card.hierarchy and asdict(card.hierarchy)
    plain["attributes"] = [asdict(one) for one in card.attributes]
    return {name: _short_hash(json.dumps(value, sort_keys=True).encode()) for name, value in plain.items()}


def deviation(card: ModelCard, measured: Float32s, found: Float32s) -> float:
    """How far outputs (5, K) are from the measured ones, as a share of how far those are from one another.

    Embeddings count by direction, logits without what all labels of a picture share.
    """
    wanted, given = _comparable(card, measured), _comparable(card, found)
    spread = float(np.linalg.norm(wanted - wanted.mean(axis=0)))
    return float(np.linalg.norm(wanted - given)) / max(spread, 1e-6)


def _comparable(card: ModelCard, outputs: Float32s) -> Float32s:
    rows = np.asarray(outputs, np.float64)
    if card.task.embeds:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    else:
        rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows, np.float32)


def _outputs(model: Model) -> Float32s:
    card = model.card
    rows = np.asarray(model.run(to_input(_crops(card), card.input), card.outputs[:1])[0], np.float32)
    kept = rows.reshape(len(rows), -1)[:, :NUMBERS]
    return kept if card.task.embeds else np.asarray(kept / card.temperature, np.float32)


def _crops(card: ModelCard) -> Pixels:
    return np.stack([_prepared(card, picture, face) for picture, face in zip(_pictures(), _faces(), strict=True)])


def _prepared(card: ModelCard, picture: Pixels, face: Face) -> Pixels:
    part = crop_of(card, picture, face)
    return part if card.crop in CROPS else prepare(part, card.input, card.crop)


def crop_of(card: ModelCard, picture: Pixels, face: Face) -> Pixels:
    """The part of a sample picture that the card's crop speaks of."""
    if card.crop in CROPS:
        return align(picture, face.landmarks, card.crop)
    if card.crop.startswith("face-"):
        scale = float(card.crop.removeprefix("face-"))
        x1, y1, x2, y2 = face_area(face.box, scale, picture.shape[1], picture.shape[0])
        return picture[y1:y2, x1:x2]
    return picture


def _faces() -> tuple[Face, ...]:
    return tuple(Face(np.array(box, np.float32), np.array(landmarks, np.float32), 1.0) for box, landmarks in _FACES)


def files() -> tuple[Path, ...]:
    """Three pictures of one man, one of another, one of a woman."""
    known = sample.people()
    return (*known[sample.OBAMA], *sample.probes()[sample.OBAMA], *known[sample.BIDEN], sample.stranger())


@cache
def _pictures() -> tuple[Pixels, ...]:
    return tuple(read_picture(path) for path in files())


@cache
def _sample_id() -> str:
    return _short_hash(_METHOD + b"".join(path.read_bytes() for path in files()))


def _short_hash(content: bytes) -> str:
    return sha256_of(content)[:16]
