"""Files of the training side: checkpoints, states, tables of groups, folders of classes."""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from edge_app.accuracy.groups import groups_of
from edge_app.accuracy.lfw_pairs import lfw_pairs
from edge_app.core.errors import EdgeError
from edge_app.core.plain_text import plain
from tests.fuzz.harness import entry_point, parsed, parsed_texts


@cache
def _folder():
    from edge_models.data.checks import scan

    root = Path(tempfile.mkdtemp(prefix="edge-app-fuzz-classes-"))
    rng = np.random.default_rng(0)
    for label in ("ants", "bees"):
        (root / label).mkdir()
        for number in range(6):
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.jpg")
    return scan(root)


def _checkpoints():
    import torch

    from edge_app.core.model_card import InputSpec
    from edge_models.fitting.checkpoint import Base, Checkpoint, save, save_state

    with tempfile.TemporaryDirectory() as name:
        base = Base("resnet18", 4, "CC0-1.0", True, "made here", "")
        spec = InputSpec("input", 8, 8)
        save(
            Path(name, "a.safetensors"),
            Checkpoint(
                "classifier", {"w": torch.zeros(2, 3)}, base, spec, "centre-8", {"kind": "linear"}, ("ants", "bees"),
                split={"train": ("ab",), "validation": ("cd",)}, judged={"logits": torch.zeros(1, 2)},
            ),
        )  # fmt: skip
        save_state(Path(name, "b.safetensors"), {"epoch": 1, "loop": [torch.zeros(2), (1, "x", None)]})
        return [Path(name, "a.safetensors").read_bytes(), Path(name, "b.safetensors").read_bytes()]


def _load(path):
    from edge_models.fitting.checkpoint import load, load_state

    told = []
    for read in (load, load_state):
        try:
            found = read(path)
            told.append(plain(found if isinstance(found, dict) else found.classes))
        except EdgeError as error:
            told.append(str(error))
            assert "\n" not in told[-1]
    return "\n".join(told)


@entry_point("bytes", _checkpoints, share=2)
def checkpoint_file(data, folder):
    """A checkpoint or training state with damaged bytes."""
    (folder / "x.safetensors").write_bytes(data)
    return _load(folder / "x.safetensors")


def _headers():
    found = []
    for data in _checkpoints():
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        header["__metadata__"] = {key: json.loads(text) for key, text in header["__metadata__"].items()}
        found.append(json.dumps(header).encode())
    return found


@entry_point("json", _headers, share=3)
def checkpoint_header(data, folder):
    """A checkpoint whose header was edited; our part of it is JSON inside a text."""
    header = parsed(data)
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"] = {key: json.dumps(text) for key, text in header["__metadata__"].items()}
    text = json.dumps(header).encode()
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    return _load(folder / "x.safetensors")


@entry_point(
    "bytes", [b"file,group\nants/0.jpg,a\nants/1.jpg,a\nbees/0.jpg,b\n", b"\xef\xbb\xbffile,driver\n0.jpg,x\n"], share=3
)
def table_of_groups(data, folder):
    """`train classifier --groups FILE.csv`."""
    from edge_models.data.folder import keep_together
    from edge_models.data.groups import read_table

    (folder / "x.csv").write_bytes(data)
    table = read_table(folder / "x.csv", _folder())
    for values in table.columns.values():
        keep_together(_folder(), values)
    return plain(" ".join(table.columns))


@entry_point("bytes", [b"picture,group\nants/0.jpg,a\nbees/0.jpg,b\n", b"person,group\nants,a\nbees,b\n"], share=3)
def groups_of_people(data, folder):
    """`evaluate --groups FILE.csv`."""
    (folder / "x.csv").write_bytes(data)
    root = _folder().root
    return plain(
        " ".join(
            groups_of(folder / "x.csv", [("ants", root / "ants" / "0.jpg"), ("bees", root / "bees" / "0.jpg")], root)
        )
    )


@entry_point("bytes", [b"2\t1\nants\t1\t2\nants\t1\tbees\t2\nbees\t1\t2\nbees\t1\tants\t2\n"], share=2)
def pairs(data, folder):
    """`evaluate --pairs FILE`."""
    (folder / "pairs.txt").write_bytes(data)
    return plain(lfw_pairs(folder / "pairs.txt", _folder().root))


_LAYOUT = ["train/ants", "train/bees", "val/ants", "val/bees", "test/ants", "README.md", "ants", "bees", "runs/x"]


@entry_point("json", [json.dumps(_LAYOUT[:4]).encode(), json.dumps(_LAYOUT).encode(), b'["ants", "bees"]'], share=0.1)
def layout(data, folder):
    """Folders of any names that are to be classes."""
    from edge_models.data.checks import scan

    pictures = sorted(_folder().root.rglob("*.jpg"))
    for number, text in enumerate(parsed_texts(data, most=20)):
        path = folder / "data" / str(text)
        if folder / "data" not in path.parents or ".." in path.parts:
            continue
        with contextlib.suppress(OSError, ValueError):
            path.mkdir(parents=True, exist_ok=True)
            for index in range(5):
                source = pictures[(number * 5 + index) % len(pictures)]
                (path / f"{index}.jpg").write_bytes(source.read_bytes() + bytes([number % 256, index]))
    found = scan(folder / "data")
    return plain(found.class_names if hasattr(found, "class_names") else "")
