"""Times one classified picture: an exported classifier in ONNX Runtime beside timm's network on torch.

Both run in one process with the same number of threads, in turns; a turn is one picture of the network's size from
uint8 pixels to probabilities.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge_app.bench.recognizer import run_and_weigh
from edge_app.core.errors import UsageError
from edge_app.core.types import Pixels
from edge_app.inference import onnx_model
from edge_app.inference.classifier import Classifier
from edge_app.media import sample
from edge_app.model_store.catalogue import list_path
from edge_app.system.data_folder import Home
from edge_app.system.files import sha256_of
from edge_app.system.timing import median_ratio, timed, times_in_turns

PEER: Final = "timm on torch"
NETWORK: Final = "tf_efficientnet_lite0"
"""What timm calls the shipped base; random weights, since only the speed counts here."""
TARGET: Final = 3.0


def measure(files: Sequence[Path], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of {"who", "ms", "times faster", "target", "met"}; the peer's row has neither ratio nor target.

    Raises UsageError when the files take pictures of different sizes or give different numbers of labels, and
    ImportError where torch or timm is missing.
    """
    ours = {file.name: Classifier(onnx_model.load(file, threads=threads)) for file in files}
    shapes = {(c.card.input.width_px, c.card.input.height_px, len(c.card.labels)) for c in ours.values()}
    if len(shapes) != 1:
        raise UsageError(f"the files are of {len(shapes)} kinds", expected="builds of one classifier")
    width, height, labels = shapes.pop()
    picture = np.random.default_rng(0).integers(0, 256, (height or 224, width or 224, 3), np.uint8)
    turns: dict[str, Callable[[], object]] = {
        name: partial(classifier.classify, [picture]) for name, classifier in ours.items()
    }
    turns[PEER] = _timm(picture, labels, threads)
    return _rows(times_in_turns({name: timed(turn) for name, turn in turns.items()}, rounds))


def _timm(picture: Pixels, labels: int, threads: int) -> Callable[[], object]:
    import timm
    import torch

    torch.set_num_threads(threads)
    network = timm.create_model(NETWORK, pretrained=False, num_classes=labels).eval()

    def turn() -> object:
        with torch.inference_mode():
            batch = torch.from_numpy(picture).permute(2, 0, 1)[None].float().sub_(127.5).div_(127.5)
            return network(batch).softmax(dim=1).numpy()

    return turn


def _rows(times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Medians, and how many times as long the peer took in the same round."""
    rows: list[dict[str, Any]] = []
    for name, each in times.items():
        row: dict[str, Any] = {"who": name, "ms": round(statistics.median(each), 3)}
        if name != PEER:
            ratio = median_ratio(times[PEER], each)
            row |= {"times faster": round(ratio, 2), "target": TARGET, "met": ratio >= TARGET}
        rows.append(row)
    return rows


def process_cost(file: Path, runs: int = 5) -> dict[str, Any]:
    """`edge-app recognize one.jpg --model ID` with this classifier installed: seconds and the most memory it held."""
    card = onnx_model.load(file).card
    content = file.read_bytes()
    entry = {
        "id": card.id,
        "precision": card.precision,
        "task": card.task,
        "file": file.name,
        "sha256": sha256_of(content),
        "bytes": len(content),
    }
    with tempfile.TemporaryDirectory(prefix="edge-app-bench-") as name:
        home = Home(Path(name) / "home")
        home.models_dir.mkdir(parents=True)
        (home.models_dir / file.name).write_bytes(content)
        list_path(home).write_text(json.dumps({"models": [entry]}), encoding="utf-8")
        command = [sys.executable, "-m", "edge_app", "recognize", str(sample.stranger()), "--model", card.id]
        outcomes = [run_and_weigh([*command, "--home", str(home.path), "--json"]) for _ in range(runs + 1)]
    return {
        "recognize_s": round(statistics.median(took for took, _ in outcomes[1:]), 3),
        "peak_mb": round(max(peak for _, peak in outcomes) / 1e6, 1),
    }
