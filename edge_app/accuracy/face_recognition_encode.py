"""What face_recognition makes of a folder of people: its encodings, for the evaluator to judge beside ours.

It runs in an interpreter that has that library (`PYTHONPATH=. python -m edge_app.accuracy.face_recognition_encode
DIR FILE.npz`) and needs numpy and OpenCV beside it. DIR holds a sub-folder of pictures per identity; FILE.npz gets
`paths` (N,) relative to it, `encodings` (N, 128) float32, `found` (N,) bool, and `made` (one JSON text: library,
settings, seconds).

The library's own defaults: HOG detector, one upsampling, one encoding of the 5-point alignment. Of several faces the
most prominent is taken, by the rule that our own enrollment uses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import MediaError, ModelError
from edge_app.core.types import Face, Pixels
from edge_app.gallery.enrollment import prominence

ENCODING_SIZE = 128


@dataclass(frozen=True, slots=True, eq=False)
class Encodings:
    """One encoding for each picture of a folder of people."""

    paths: tuple[str, ...]
    """Relative to the folder: IDENTITY/FILE."""
    vectors: NDArray[np.float32]
    """(N, D); zero where no face was found."""
    found: NDArray[np.bool_]
    """(N,) whether a face was found."""
    made: dict[str, Any]
    """How they were made."""


def encode_folder(folder: Path, upsample: int, told: Callable[[int, int], None]) -> Encodings:
    """Encode every .jpg of every sub-folder with face_recognition; `told` gets (done, total)."""
    import face_recognition  # type: ignore[import-not-found, unused-ignore]

    paths = sorted(folder.glob("*/*.jpg"))
    vectors, found = np.zeros((len(paths), ENCODING_SIZE), np.float32), np.zeros(len(paths), np.bool_)
    start = time.perf_counter()
    for index, path in enumerate(paths):
        pixels = _pixels(path)
        boxes = face_recognition.face_locations(pixels, number_of_times_to_upsample=upsample)
        if boxes:
            box = max(boxes, key=lambda b: prominence(_face(b), (pixels.shape[1], pixels.shape[0])))
            vectors[index], found[index] = face_recognition.face_encodings(pixels, [box])[0], True
        told(index + 1, len(paths))
    made = {
        "library": f"face_recognition {version('face-recognition')}",
        "upsample": upsample,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return Encodings(tuple(str(path.relative_to(folder)) for path in paths), vectors, found, made)


def save(file: Path, encodings: Encodings) -> None:
    """Write an .npz that `load` reads."""
    np.savez_compressed(
        file,
        paths=np.array(encodings.paths),
        encodings=encodings.vectors,
        found=encodings.found,
        made=np.array(json.dumps(encodings.made)),
    )


def load(file: Path) -> Encodings:
    """Read what `save` wrote. Raises ModelError when it is something else."""
    try:
        with np.load(file, allow_pickle=False) as held:
            paths, vectors, found = held["paths"], held["encodings"], held["found"]
            made: dict[str, Any] = json.loads(str(held["made"]))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{file} cannot be read: {error}", expected="encodings of edge_app.accuracy.face_recognition_encode"
        ) from error
    if vectors.ndim != 2 or not len(paths) == len(vectors) == len(found):
        raise ModelError(f"{file} holds {len(paths)} paths and encodings of shape {vectors.shape}", expected="(N, D)")
    return Encodings(
        tuple(str(path) for path in paths), np.asarray(vectors, np.float32), np.asarray(found, np.bool_), made
    )


def _pixels(path: Path) -> Pixels:
    read = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if read is None:
        raise MediaError(f"{path} cannot be read", expected="a picture")
    return np.ascontiguousarray(read, dtype=np.uint8)


def _face(box: Sequence[int]) -> Face:
    """face_recognition's top, right, bottom, left as a face; its landmarks are of no use to prominence."""
    top, right, bottom, left = box
    return Face(np.array([left, top, right, bottom], np.float32), np.zeros((5, 2), np.float32), 1.0)


def main() -> None:
    """Encode a folder into a file."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_app.accuracy.face_recognition_encode", description=main.__doc__
    )
    parser.add_argument("folder", type=Path, help="a sub-folder of pictures per identity")
    parser.add_argument("file", type=Path, help="the .npz to write")
    parser.add_argument("--upsample", type=int, default=1, help="face_recognition's own default is 1")
    args = parser.parse_args()

    def told(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            sys.stderr.write(f"{done} of {total}\n")

    save(args.file, encode_folder(args.folder, args.upsample, told))


if __name__ == "__main__":
    main()
