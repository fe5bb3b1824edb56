"""What other libraries cost per frame: a script that `edge_app.bench.live_loop` runs in a process of its own.

Arguments: a peer's name and a .npy file of (N, H, W, 3) uint8 RGB frames. It prints one JSON object with the CPU and
wall milliseconds of every frame. It needs only numpy and the peer, so that any interpreter can run it; the product
itself never imports these libraries.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Observe = Callable[[Any], int]
"""One frame in, the number of faces that were found and embedded out."""


def facenet_pytorch() -> Observe:
    """MTCNN (its defaults, every face) and InceptionResnetV1, whose weights are random: only its speed counts."""
    torch = importlib.import_module("torch")
    # In the peer's favour, since CPU time is compared: its threads spin while they wait for one another (on two busy
    # cores that multiplied its CPU time by ten), and random weights may make denormal numbers, which are slow.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    facenet = importlib.import_module("facenet_pytorch")
    mtcnn = facenet.MTCNN(keep_all=True, device="cpu")
    resnet = facenet.InceptionResnetV1(pretrained=None).eval()

    def observe(frame: Any) -> int:
        with torch.inference_mode():
            crops = mtcnn(frame)
            return 0 if crops is None else len(resnet(crops))

    return observe


def face_recognition(upsample: int) -> Observe:
    """`face_locations` and `face_encodings` as its examples call them; `upsample` 1 is its default."""
    library = importlib.import_module("face_recognition")

    def observe(frame: Any) -> int:
        places = library.face_locations(frame, number_of_times_to_upsample=upsample)
        return len(library.face_encodings(frame, places))

    return observe


PEERS: dict[str, Callable[[], Observe]] = {
    "facenet-pytorch": facenet_pytorch,
    "face_recognition": lambda: face_recognition(1),
    "face_recognition, upsample 0": lambda: face_recognition(0),
}


def measure(observe: Observe, frames: Any, warm: int = 2) -> dict[str, Any]:
    """CPU milliseconds (all threads) and wall milliseconds of each frame, and the faces found."""
    for frame in frames[:warm]:
        observe(frame)
    cpu, wall, faces = [], [], []
    for frame in frames:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        faces.append(observe(frame))
        cpu.append((time.process_time() - cpu_s) * 1e3)
        wall.append((time.perf_counter() - wall_s) * 1e3)
    return {"cpu_ms": cpu, "wall_ms": wall, "faces": faces}


def main() -> int:
    """Measure one peer; exit code 3 when it is not installed here."""
    parser = argparse.ArgumentParser(description="measure another library on given frames")
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("frames", type=Path, nargs="+", help=".npy files of (N, H, W, 3) uint8 RGB")
    args = parser.parse_args()
    try:
        observe = PEERS[args.peer]()
    except ImportError as error:
        sys.stdout.write(json.dumps({"absent": str(error)}) + "\n")
        return 3
    results = [measure(observe, np.load(path)) for path in args.frames]
    sys.stdout.write(json.dumps({"results": results}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
