"""Runs a new model on the sample people, in a process with limits of memory and time, before it is installed.

Other readings of the pictures (channels, normalization) are tried beside the card's, which finds cards that are wrong,
and outputs are held to those that the model's maker measured, where the file has them
(`edge_app.model_store.fingerprint`).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import EdgeError, ModelError
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.core.numeric import softmax
from edge_app.core.task import Task
from edge_app.core.types import Face, Float32s, Pixels
from edge_app.inference import onnx_model
from edge_app.inference.geometry import CROPS, align, box_iou, cuts_pictures, nms, prepare, resize, to_input
from edge_app.inference.onnx_model import Model
from edge_app.inference.yunet import decode_yunet
from edge_app.media.pictures import read_picture
from edge_app.model_store import fingerprint
from edge_app.model_store.onnx_inspect import inspect
from edge_app.model_store.open_detector import open_detector

MEMORY_LIMIT_BYTES: Final = 6 << 30
"""Address space of the trial: ONNX Runtime's arenas and thread stacks reserve far more than they use."""
TIME_LIMIT_S: Final = 90.0

# Measured with SFace, dlib's network, EfficientNet-Lite0, two MiniFASNets and a classifier of ants and bees: a true
# card trails the best other reading by at most 0.04; raw pixels where a range of [-1, 1] belongs cost 0.09 and more.
_CLEARLY_BETTER: Final = {Task.FACE_EMBEDDING: 0.1, Task.IMAGE_EMBEDDING: 0.06, Task.LIVENESS: 0.15}
_OUT_OF_MEMORY: Final = ("bad_alloc", "allocate memory", "bfc_arena")
"""How ONNX Runtime words it."""
_CONSTANT: Final = 1e-4
_RESTLESS: Final = 0.25
"""Share of a classifier's variance that mirroring and dimming make: at most 0.15 with a true card."""
_STRICT_RATE: Final = 0.005
"""About what the default share of strangers, 0.01, asks of a gallery of two; by chance 3 % of 7 pairs pass."""
_UNLIKELY: Final = 0.005
_SAME_FACE_IOU: Final = 0.5
_YUNET_SIDE_PX: Final = 640

Judge = Callable[[Float32s], float]
"""How well outputs fit the sample: higher is better, at or under 0 is useless."""


def run_apart(path: Path, memory_bytes: int = MEMORY_LIMIT_BYTES, time_s: float = TIME_LIMIT_S) -> Float32s:
    """Try a model file in a child process. Returns its outputs on the sample, (N, K) float32.

    Raises ModelError when the model is not what its card says, or takes more memory or time than allowed. Other
    builds of the same model give outputs for the same sample, so two results can be compared.
    """
    command = [
        sys.executable,
        "-P",
        "-c",
        "from edge_app.model_store.sandbox_check import main; main()",
        str(path),
        str(memory_bytes),
        str(os.getpid()),
    ]
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH", ""))))
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=time_s, check=False, env=os.environ | {"PYTHONPATH": paths}
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{path.name} had not judged {len(fingerprint.files())} pictures after {time_s:g} s",
            expected="a model for a laptop",
        ) from error
    try:
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise ModelError(
            f"{path.name} brought down the process that tried it (exit code {done.returncode})",
            expected=f"a model that runs within {memory_bytes >> 20} MB",
        ) from error
    if "found" in told:
        raise ModelError(told["found"], expected=told["expected"], remedy=told["remedy"])
    return np.asarray(told["outputs"], np.float32)


def main() -> None:
    """The child: try the file named on the command line and tell the result in one line of JSON."""
    path, memory_bytes = Path(sys.argv[1]), int(sys.argv[2])
    _end_with_parent(int(sys.argv[3]))
    _limit(memory_bytes)
    try:
        measured, model = fingerprint.read(inspect(path).metadata, path.name), onnx_model.load(path, threads=1)
        told: dict[str, Any] = {"outputs": judge(model, measured).tolist()}
        if measured is not None:
            fingerprint.check(measured, model)
    except EdgeError as error:
        found = error.found
        if any(sign in found for sign in _OUT_OF_MEMORY):
            found = f"{path.name} needs more than {memory_bytes >> 20} MB of memory"
        told = {"found": found, "expected": error.expected, "remedy": error.remedy}
    except MemoryError:
        told = {"found": f"{path.name} needs more than {memory_bytes >> 20} MB of memory", "expected": "", "remedy": ""}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


def _end_with_parent(parent: int) -> None:
    """Have the system kill this process when the one that started it is killed: Linux alone can."""
    with contextlib.suppress(OSError, AttributeError, ImportError):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was killed before that
            os._exit(1)


def _limit(memory_bytes: int) -> None:
    """Bound this process; Windows knows no such limit, the parent's clock holds there alone."""
    with contextlib.suppress(ImportError):
        resource: Any = importlib.import_module("resource")
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def judge(model: Model, proof: fingerprint.Proof | None = None) -> Float32s:
    """Run a model on the sample and hold it to its card. Returns (N, K) float32; raises ModelError in words.

    `proof` is what its maker measured on the same pictures, where the file tells.
    """
    tasks = {Task.FACE_EMBEDDING: _embedder, Task.IMAGE_EMBEDDING: _embedder, Task.LIVENESS: _liveness}
    if model.card.task is Task.FACE_DETECTION:
        return _detector(model)
    if model.card.task in tasks:
        return tasks[model.card.task](model)
    return _classifier(model, proof)


def _embedder(model: Model) -> Float32s:
    card = model.card
    crops, groups = _embedder_material(card)
    outputs = _checked(model, crops, card.input, card.embedding_size or 0, "numbers")
    if _least_cosine(outputs) > 1 - _CONSTANT:
        raise _useless(model, crops, groups, "gives every picture the same embedding")
    score = _separation(outputs, groups, card.task)
    if score <= 0:
        what = "people" if card.task is Task.FACE_EMBEDDING else "pictures"
        raise _useless(model, crops, groups, f"does not tell the sample's {what} apart as its card describes it")
    _refuse_worse(model, crops, score, lambda other: _separation(other, groups, card.task))
    if card.task is Task.FACE_EMBEDDING:
        _refuse_low_thresholds(card, outputs, groups)
    return outputs


def _refuse_low_thresholds(card: ModelCard, outputs: Float32s, groups: NDArray[np.intp]) -> None:
    """Refuse operating points by which strangers of the sample would be called each other.

    At rates of `_STRICT_RATE` and below no pair of two people may pass: of SFace's 7 pairs the nearest has 0.28, the
    threshold there is 0.32. At higher rates a few may, as many as are likely.
    """
    unit = outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-12)
    rows, columns = np.triu_indices(len(groups), 1)
    strangers = (unit @ unit.T)[rows, columns][groups[rows] != groups[columns]]
    for point in card.operating_points:
        passed = int((strangers >= point.threshold).sum())
        chance = 1.0 - sum(
            math.comb(len(strangers), n) * point.fmr**n * (1 - point.fmr) ** (len(strangers) - n) for n in range(passed)
        )
        if passed and (point.fmr <= _STRICT_RATE or chance < _UNLIKELY):
            raise ModelError(
                f"{card.id} says that one of {1 / point.fmr:,.0f} strangers reaches {point.threshold:.3f}, "
                f"but {passed} of the sample's {len(strangers)} pairs of strangers do, up to {strangers.max():.3f}",
                expected="thresholds that were measured with this model",
                remedy="leave the operating points out, and run `edge-app calibrate DIR --model ID` once it is added",
            )


def _embedder_material(card: ModelCard) -> tuple[Pixels, NDArray[np.intp]]:
    """Pictures and which of them belong together: one person's, or one picture's views."""
    if card.crop in CROPS:
        crops = [align(picture, face.landmarks, card.crop) for picture, face in zip(*_sample(), strict=True)]
        return np.stack(crops), np.array([0, 0, 0, 1, 2])
    return _views(card)


def _views(card: ModelCard) -> tuple[Pixels, NDArray[np.intp]]:
    """Each sample picture as it is, mirrored, closer and dimmer, and the number of its picture."""
    cut = [fingerprint.crop_of(card, picture, face) for picture, face in zip(*_sample(), strict=True)]
    made = [_prepared(card, view) for area in cut for view in _looks(area)]
    return np.stack(made), np.repeat(np.arange(len(cut)), len(made) // len(cut))


def _looks(pixels: Pixels) -> Iterator[Pixels]:
    height, width = pixels.shape[:2]
    yield pixels
    yield np.ascontiguousarray(pixels[:, ::-1])
    yield pixels[height // 16 : height - height // 16, width // 16 : width - width // 16]
    yield (pixels * 0.8).astype(np.uint8)


def _prepared(card: ModelCard, pixels: Pixels) -> Pixels:
    """A picture, already cut where the crop is one of faces, at the network's size."""
    return prepare(pixels, card.input, card.crop if cuts_pictures(card.crop) else "none")


def _liveness(model: Model) -> Float32s:
    card = model.card
    crops = np.stack([_prepared(card, fingerprint.crop_of(card, p, f)) for p, f in zip(*_sample(), strict=True)])
    outputs = _checked(model, crops, card.input, len(card.labels), "labels")
    live = card.labels.index("live")

    def likelihood(logits: Float32s) -> float:
        """The geometric mean of the probabilities of being live: a plain mean hardly differs where most are near 1."""
        return float(np.exp(np.log(softmax(logits, card.temperature)[:, live] + 1e-12).mean()))

    _refuse_worse(model, crops, likelihood(outputs), likelihood)
    truth = float(softmax(outputs, card.temperature)[:, live].mean())
    if truth < 0.5:
        raise ModelError(
            f"{card.id} gives the sample's portraits a mean probability of {truth:.2f} of being live",
            expected="most of them live",
            remedy="correct the labels' order, the crop, the channels or the normalization",
        )
    return outputs


def _classifier(model: Model, proof: fingerprint.Proof | None) -> Float32s:
    card = model.card
    crops, groups = _views(card)
    outputs = _checked(model, crops, card.input, len(card.labels), "labels")
    if len(card.labels) < 2:
        raise ModelError(f"{card.id} knows one label", expected="two or more")
    rows = outputs.sum(axis=1)
    if (outputs >= 0).all() and np.allclose(rows, 1, atol=1e-3) and np.ptp(outputs) > _CONSTANT:
        raise ModelError(
            f"{card.id} gives probabilities", expected="logits", remedy="export it without its last Softmax"
        )
    if float(np.ptp(outputs, axis=0).max()) < _CONSTANT * max(1.0, float(np.abs(outputs).max())):
        raise _useless(model, crops, groups, "gives every picture the same answer")
    if proof is None or not fingerprint.holds(proof, model):
        _refuse_restless(model, crops, groups, outputs)
    return outputs


def _refuse_restless(model: Model, crops: Pixels, groups: NDArray[np.intp], outputs: Float32s) -> None:
    """A classifier fed in the wrong range answers to light and mirrors more than to pictures, and hardly at all.

    The sample shows people, which it may never have seen: so both signs must be there, and another reading of the
    same pictures must show neither. That is a guess still: two networks of grey bars were once refused with a card
    that was right. So nobody guesses about a file whose proof says that it was measured with this very card.
    """
    card = model.card
    share, spread = _restless_share(outputs, groups), _spread(outputs, card.temperature)
    if share <= _RESTLESS:
        return
    for spec in _readings(card.input):
        other = _outputs(model, crops, spec)
        if _restless_share(other, groups) < share / 2 and _spread(other, card.temperature) > 4 * spread:
            raise ModelError(
                f"{card.id} hardly tells pictures apart with {_words(card.input)}, as its card says",
                expected=f"{_words(spec)}, which does",
                remedy="correct the card",
            )


def _restless_share(outputs: Float32s, groups: NDArray[np.intp]) -> float:
    within = np.mean([outputs[groups == one].var(axis=0).mean() for one in np.unique(groups)])
    return float(within / max(float(outputs.var(axis=0).mean()), 1e-12))


def _spread(outputs: Float32s, temperature: float) -> float:
    return float(np.ptp(softmax(outputs, temperature), axis=0).max())


def _detector(model: Model) -> Float32s:
    card = model.card
    if len(card.outputs) != 12:
        raise ModelError(f"{card.id} has {len(card.outputs)} outputs", expected="the 12 of a YuNet")
    found = _faces_found(model, card.input)
    if found.sum() >= len(found) - 1:
        return found[None].astype(np.float32)
    for spec in _readings(card.input):
        if _faces_found(model, spec).sum() >= len(found) - 1:
            better = f"{_words(spec)}, with which it finds them"
            break
    else:
        better = "a YuNet"
    raise ModelError(f"{card.id} finds {found.sum()} of the sample's {len(found)} faces", expected=better)


def _faces_found(model: Model, spec: InputSpec) -> NDArray[np.bool_]:
    """Whether the largest face of every sample picture was found where it is, landmarks too."""
    found = []
    for picture, face in zip(*_sample(), strict=True):
        width, height = spec.width_px or _YUNET_SIDE_PX, spec.height_px or _YUNET_SIDE_PX
        scale = min(width / picture.shape[1], height / picture.shape[0])
        canvas = np.zeros((height, width, 3), np.uint8)
        small = resize(picture, round(picture.shape[1] * scale), round(picture.shape[0] * scale))
        canvas[: small.shape[0], : small.shape[1]] = small
        try:
            boxes, points, scores = decode_yunet(model.run(to_input(canvas[None], spec)), width, 0.6)
        except (ValueError, IndexError) as error:
            raise ModelError(f"{model.card.id} gives outputs unlike a YuNet's: {error}", expected="a YuNet") from error
        best = nms(boxes, scores, 0.3)[:1]
        near = best.size and box_iou(boxes[best] / scale, face.box[None])[0, 0] > _SAME_FACE_IOU
        away = np.abs(points[best] / scale - face.landmarks).max() if best.size else np.inf
        found.append(bool(near and away < 0.15 * face.width_px))
    return np.array(found)


def _checked(model: Model, crops: Pixels, spec: InputSpec, size: int, what: str) -> Float32s:
    """First outputs for all crops, (N, size): finite, and the same one by one as together."""
    card = model.card
    outputs = _outputs(model, crops, spec)
    if outputs.ndim != 2 or outputs.shape != (len(crops), size):
        raise ModelError(
            f"{card.id} gives outputs of shape {outputs.shape} for {len(crops)} pictures",
            expected=f"{size} {what} for each, as its card says",
        )
    if not np.isfinite(outputs).all():
        raise ModelError(f"{card.id} gives numbers that are not finite", expected="finite outputs")
    alone = _outputs(model, crops[1:2], spec)
    if not np.allclose(alone, outputs[1:2], rtol=0.05, atol=0.02 * float(np.abs(outputs).max())):
        raise ModelError(f"{card.id} judges a picture otherwise when others lie beside it", expected="one at a time")
    return outputs


def _outputs(model: Model, crops: Pixels, spec: InputSpec) -> Float32s:
    return np.asarray(model.run(to_input(crops, spec))[0], np.float32)


def _readings(spec: InputSpec) -> Iterator[InputSpec]:
    """Other ways to read the same pictures: those that published networks use."""
    usual = (
        ((0.0,) * 3, (1.0,) * 3),
        ((127.5,) * 3, (127.5,) * 3),
        ((0.0,) * 3, (255.0,) * 3),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    )
    own = spec.channels
    for channels in (own, "BGR" if own == "RGB" else "RGB"):
        for mean, std in (((spec.mean, spec.std)), *usual):
            other = replace(spec, channels=channels, mean=mean, std=std)
            if other != spec:
                yield other


def _refuse_worse(model: Model, crops: Pixels, score: float, judge_: Judge) -> None:
    best, at = _best_reading(model, crops, judge_)
    card = model.card
    if best is not None and at > score + _CLEARLY_BETTER[card.task]:
        sign = "finds live portraits live" if card.task is Task.LIVENESS else "separates"
        raise ModelError(
            f"{card.id} {sign} worse with {_words(card.input)}, as its card says ({score:.2f})",
            expected=f"{_words(best)} ({at:.2f})",
            remedy="correct the card",
        )


def _best_reading(model: Model, crops: Pixels, judge_: Judge) -> tuple[InputSpec | None, float]:
    scored = [(judge_(outputs), spec) for spec in _readings(model.card.input) for outputs in _tried(model, crops, spec)]
    at, spec = max(scored, key=lambda pair: pair[0], default=(-np.inf, None))
    return spec, at


def _tried(model: Model, crops: Pixels, spec: InputSpec) -> Iterator[Float32s]:
    """Outputs under another reading; none where it leads out of the network's range."""
    outputs = _outputs(model, crops, spec)
    if np.isfinite(outputs).all() and np.linalg.norm(outputs, axis=1).min() > 0:
        yield outputs


def _useless(model: Model, crops: Pixels, groups: NDArray[np.intp], found: str) -> ModelError:
    """The refusal of a model that does nothing as described, naming a reading that works where there is one."""
    card = model.card
    expected, remedy = "a model that works as its card says", "correct the crop, the channels or the normalization"
    if card.task.embeds:
        best, at = _best_reading(model, crops, lambda other: _separation(other, groups, card.task))
        if best is not None and at > 0.1:
            expected = f"{_words(best)}: that separates better than what the card says, {_words(card.input)}"
            remedy = "correct the card"
    return ModelError(f"{card.id} {found}", expected=expected, remedy=remedy)


def _separation(outputs: Float32s, groups: NDArray[np.intp], task: str) -> float:
    """By how much like is nearer than unlike, as a share of how far unlike is from 1; the worst pair for faces."""
    unit = outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-12)
    rows, columns = np.triu_indices(len(groups), 1)
    cosines = (unit @ unit.T)[rows, columns]
    same = groups[rows] == groups[columns]
    like, unlike = cosines[same], cosines[~same]
    if float(cosines.min()) > 1 - _CONSTANT:
        return -1.0
    gap = like.min() - unlike.max() if task is Task.FACE_EMBEDDING else like.mean() - unlike.mean()
    return float(gap / (1 - unlike.mean() + 1e-9))


def _least_cosine(outputs: Float32s) -> float:
    lengths = np.linalg.norm(outputs, axis=1, keepdims=True)
    unit = outputs / np.maximum(lengths, 1e-12)
    return 1.0 if float(lengths.min()) < 1e-12 else float((unit @ unit.T).min())


def _words(spec: InputSpec) -> str:
    mean, std = ("/".join(f"{one:g}" for one in dict.fromkeys(values)) for values in (spec.mean, spec.std))
    return f"{spec.channels} mean {mean} std {std}"


@cache
def _sample() -> tuple[tuple[Pixels, ...], tuple[Face, ...]]:
    """The sample pictures and the largest face of each, as the shipped detector finds it."""
    detector = open_detector("yunet", threads=1)
    pictures = tuple(read_picture(path) for path in fingerprint.files())
    return pictures, tuple(detector.detect(picture)[0] for picture in pictures)
