"""Other libraries as contestants of `edge-app bench`: a script that waits for tasks and answers with milliseconds.

It runs in a process of its own, in any interpreter that has numpy and the peer, and imports nothing of ours. Standard
input has one JSON object a line, {"frame": FILE.npy, "box": [x1, y1, x2, y2] or null}; with a box only the embedding of
that face is computed, without one the whole frame. Standard output has one JSON object a line, {"ms": float, "faces":
int}; the first line says {"ready": WORDS} or {"absent": WHY}. End of input ends it.

Turns are taken line by line, so that all contestants are timed in the same moments of a busy machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

Box = list[float]


@dataclass(frozen=True)
class Peer:
    """A library's two calls."""

    words: str
    """What runs, for the reader of the table."""
    whole: Callable[[Any], int]
    """(H, W, 3) uint8 RGB frame to the number of faces found and embedded."""
    embed: Callable[[Any, Box], int]
    """The same frame and a known face box to the number of embeddings."""


def facenet_pytorch(threads: int) -> Peer:
    """MTCNN (every face) and InceptionResnetV1 on torch; random weights, since only the speed counts here."""
    torch, library = importlib.import_module("torch"), importlib.import_module("facenet_pytorch")
    torch.set_num_threads(threads)
    mtcnn = library.MTCNN(keep_all=True, device="cpu")
    resnet = library.InceptionResnetV1(pretrained=None).eval()

    def whole(frame: Any) -> int:
        with torch.inference_mode():
            crops = mtcnn(frame)
            return 0 if crops is None else len(resnet(crops))

    def embed(frame: Any, box: Box) -> int:
        with torch.inference_mode():
            crop = library.extract_face(frame, np.asarray(box), image_size=160)
            return len(resnet(library.fixed_image_standardization(crop)[None]))

    words = (
        f"facenet-pytorch {version('facenet-pytorch')}, torch {torch.__version__}, {threads} threads, random weights"
    )
    return Peer(words, whole, embed)


def face_recognition(upsample: int) -> Peer:
    """`face_locations` and `face_encodings` as that library's examples call them; dlib uses one thread."""
    library = importlib.import_module("face_recognition")

    def whole(frame: Any) -> int:
        places = library.face_locations(frame, number_of_times_to_upsample=upsample)
        return len(library.face_encodings(frame, places))

    def embed(frame: Any, box: Box) -> int:
        left, top, right, bottom = (round(value) for value in box)
        return len(library.face_encodings(frame, [(top, right, bottom, left)]))

    dlib = importlib.import_module("dlib")
    words = f"face_recognition {version('face-recognition')}, dlib {dlib.__version__}, upsample {upsample}"
    return Peer(words, whole, embed)


PEERS: dict[str, Callable[[int], Peer]] = {
    "facenet-pytorch": facenet_pytorch,
    "face_recognition": lambda _threads: face_recognition(1),
    "face_recognition, upsample 0": lambda _threads: face_recognition(0),
}


@cache
def _frame(file: str) -> Any:
    return np.load(file, allow_pickle=False)


def answer(peer: Peer, task: dict[str, Any]) -> dict[str, Any]:
    """Do one task and say how long it took."""
    frame, box = _frame(task["frame"]), task["box"]
    start = time.perf_counter()
    faces = peer.whole(frame) if box is None else peer.embed(frame, box)
    return {"ms": (time.perf_counter() - start) * 1e3, "faces": faces}


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Answer tasks until the input ends; exit code 3 when the peer is not installed here."""
    parser = argparse.ArgumentParser(description="answer timing tasks with another library")
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    try:
        peer = PEERS[args.peer](args.threads)
    except (ImportError, SystemExit) as error:  # face_recognition leaves the process when its models are absent
        _say({"absent": str(error) or type(error).__name__})
        return 3
    _say({"ready": peer.words})
    for line in sys.stdin:
        _say(answer(peer, json.loads(line)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
