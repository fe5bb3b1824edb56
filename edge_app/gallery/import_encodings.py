"""Existing encodings, such as face_recognition's 128 numbers, become templates of the network that made them.

Nothing in a file is ever run, and nothing is unpacked beyond `MOST_BYTES`.
"""

from __future__ import annotations

import json
import lzma
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import GalleryError, MediaError, UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.names import valid_name
from edge_app.core.task import Task
from edge_app.core.types import Embedding, Quality, Template
from edge_app.gallery.storage import Vault

MOST_BYTES: Final = 256 * 2**20
"""Of a file and of what it unpacks to: 200,000 encodings with their names."""
MOST_JSON_BYTES: Final = 128 * 2**20
"""Of a .json file: 50,000 encodings. Python's objects take three times as much."""
MOST_ENCODINGS: Final = 100_000
_MOST_JSON_PARTS: Final = 8_000_000
"""Numbers and lists of a .json file: `[],` repeated to the largest size would take 3 GB."""
NOT_MEASURED: Final = Quality(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Nobody saw the picture that an imported template comes from."""

Encodings = dict[str, NDArray[np.float64]]
"""(n, D) of each name, as they stand in the file."""

_DLIB_CROP: Final = "dlib-150"
_MODEL_KEY: Final = "model"


def read_encodings(path: Path, card: ModelCard) -> Encodings:
    """Read a file of encodings for an embedder.

    .npz: arrays `encodings` (N, D) and `names` (N,), or one array (n, D) or (D,) per name. .json:
    {"name": [[numbers], ...]} or [{"name": ..., "encoding": [numbers]}, ...]. A text under the key "model" is the id of
    the embedder that made them; without it they are face_recognition's, of dlib's network. Raises MediaError, or
    UsageError for an unfit name and for encodings of another model, since equal length does not make them comparable: a
    pickle or an array of objects, another length than the model's, a number that is not finite, a vector of zeros, the
    same encoding twice, one name in two spellings, or a file that is too large.
    """
    pairs, model_id = _read(path)
    _check_origin(path, model_id, card)
    return _checked(path, pairs, card.embedding_size or 0)


def _read(path: Path) -> tuple[list[tuple[str, Any]], str | None]:
    """Names with encodings as they stand in the file, and the model that it names, None for none."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if size_bytes > MOST_BYTES:
        raise _too_large(path, size_bytes, MOST_BYTES)
    if start[:2] == b"PK":
        return _from_npz(path)
    if start[:1] == b"\x80" or start[:6] == b"\x93NUMPY":
        what = "a pickle, which could run anything" if start[:1] == b"\x80" else "a single array without names"
        raise MediaError(f"{path} is {what}", expected="an .npz or .json file", remedy=_HOW)
    return _from_json(path)


def _check_origin(path: Path, model_id: str | None, card: ModelCard) -> None:
    """Refuse encodings of another network: they would lie in the gallery and never be matched."""
    if model_id is not None and model_id != card.id:
        raise UsageError(
            f"{path} says that its encodings come from {model_id!r}", expected=f"{card.id!r}, as --model says"
        )
    if model_id is None and card.crop != _DLIB_CROP:
        raise UsageError(
            f"{path} does not say which model made its encodings: they are taken for face_recognition's, which mean "
            f"nothing to {card.id}",
            expected=f'dlib\'s network for --model, or the key "model" with {card.id!r} in the file',
            remedy="`edge-app export dlib`, `edge-app models add FILE.onnx`, then --model with its id",
        )


_HOW: Final = "save it with numpy.savez(FILE, names=NAMES, encodings=ENCODINGS)"


def import_encodings(
    vault: Vault,
    model_id: str,
    encodings: Mapping[str, NDArray[np.float64]],
    source: str,
    clock: Callable[[], float] = time.time,
) -> dict[str, int]:
    """Store encodings as templates of `model_id`, all in one transaction; returns the number of each name.

    Raises GalleryError when one is there already or has another length than the model's; nothing is stored then.
    """
    now_s = clock()
    added: dict[str, int] = {}
    with vault.transaction():
        known = set(vault.names(model_id))
        for name, rows in encodings.items():
            templates = [
                Template(Embedding(row.astype(np.float32), model_id), NOT_MEASURED, source, now_s) for row in rows
            ]
            if name in known:
                held = {t.embedding.vector.tobytes() for t in vault.identity(name, model_id).templates}
                if any(t.embedding.vector.tobytes() in held for t in templates):
                    raise GalleryError(
                        f"{name!r} has one of these encodings already",
                        expected="new ones",
                        remedy=f"take it out of the file, or `edge-app gallery forget {name!r}` first",
                    )
            vault.add(name, templates)
            added[name] = len(templates)
    return added


def _from_npz(path: Path) -> tuple[list[tuple[str, Any]], str | None]:
    held: dict[str, NDArray[Any]] = {}
    left_bytes = MOST_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MOST_ENCODINGS:
                raise MediaError(f"{path} holds {len(members):,} arrays", expected=f"at most {MOST_ENCODINGS:,}")
            for info in members:
                name = info.filename.removesuffix(".npy")
                if name in held:
                    raise ValueError(f"two arrays are called {name!r}")
                with archive.open(info) as member:
                    held[name] = _array(path, name, member, left_bytes)
                left_bytes -= held[name].nbytes
    except (
        *(ValueError, TypeError, KeyError, SyntaxError, OverflowError, RecursionError, MemoryError, RuntimeError),
        *(OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError),
    ) as error:
        raise MediaError(f"{path} is no sound .npz file: {error}", expected="arrays of numbers", remedy=_HOW) from error
    model_id = None
    # An array of numbers under this key is somebody of that name.
    if _MODEL_KEY in held and held[_MODEL_KEY].dtype.kind == "U" and held[_MODEL_KEY].size == 1:
        model_id = str(held.pop(_MODEL_KEY).item())
    if "encodings" in held or "names" in held:
        return _paired(path, held), model_id
    pairs = []
    for name, array in held.items():
        if array.ndim not in (1, 2):
            raise MediaError(
                f"{path} holds {name!r} as an array of {array.ndim} dimensions", expected="one encoding, or (N, D)"
            )
        pairs += [(name, row) for row in (array[None] if array.ndim == 1 else array)]
    return pairs, model_id


def _array(path: Path, name: str, member: IO[bytes], most_bytes: int) -> NDArray[Any]:
    """Read one array, of which nothing is unpacked before its header has said a fitting size."""
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"array {name!r} has the format {version}")
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise MediaError(
            f"{path} holds objects in {name!r}, which numpy keeps as a pickle that could run anything",
            expected="numbers and text",
            remedy=_HOW,
        )
    count = 1
    for extent in shape:
        count *= int(extent)
    claimed = count * dtype.itemsize
    if claimed > most_bytes:
        raise _too_large(path, MOST_BYTES - most_bytes + claimed, MOST_BYTES)
    if count < 0 or (content := member.read(claimed + 1)) is None or len(content) != claimed:
        raise ValueError(f"array {name!r} has another size than its header says")
    flat = np.frombuffer(content, dtype, count) if claimed else np.empty(count, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _paired(path: Path, held: dict[str, NDArray[Any]]) -> list[tuple[str, Any]]:
    names, encodings = held.get("names"), held.get("encodings")
    fits = (
        names is not None and encodings is not None and names.ndim == 1 and len(names) == len(np.atleast_1d(encodings))
    )
    if names is None or encodings is None or not fits or names.dtype.kind != "U":
        found = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in list(held.items())[:5])
        raise MediaError(f"{path} holds {found}", expected="names as text (N,) and encodings (N, D)", remedy=_HOW)
    return list(zip((str(name) for name in names), encodings, strict=True))


def _from_json(path: Path) -> tuple[list[tuple[str, Any]], str | None]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            raise MediaError(f"{path} holds {twice[0]!r} twice", expected="every name once")
        return dict(pairs)

    try:
        content = path.read_bytes()
        if len(content) > MOST_JSON_BYTES:
            raise _too_large(path, len(content), MOST_JSON_BYTES)
        if content.count(b",") > _MOST_JSON_PARTS or sum(map(content.count, (b"[", b"{", b'"'))) > 8 * MOST_ENCODINGS:
            raise MediaError(
                f"{path} holds too many numbers or lists", expected=f"at most {MOST_ENCODINGS:,} encodings"
            )
        plain = json.loads(content.decode("utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{path} is neither .npz nor JSON: {error}", expected="a file of encodings") from error
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if isinstance(plain, dict):
        # A list under this key is somebody of that name.
        model_id = plain.pop(_MODEL_KEY) if isinstance(plain.get(_MODEL_KEY), str) else None
        lists = [(name, rows if isinstance(rows, list) else [rows]) for name, rows in plain.items()]
        # One encoding may stand without the list around it.
        flat = [(n, [rows] if rows and not isinstance(rows[0], list) else rows) for n, rows in lists]
        return [(name, row) for name, rows in flat for row in rows], model_id
    if isinstance(plain, list) and all(isinstance(one, dict) and {"name", "encoding"} <= one.keys() for one in plain):
        models = {one[_MODEL_KEY] for one in plain if isinstance(one.get(_MODEL_KEY), str)}
        if len(models) > 1 or (models and not all(_MODEL_KEY in one for one in plain)):
            raise MediaError(f"{path} holds encodings of several models", expected="one model in all entries")
        return [(one["name"], one["encoding"]) for one in plain], next(iter(models), None)
    raise MediaError(
        f"{path} is JSON of another kind",
        expected='{"name": [[numbers], ...]} or [{"name": ..., "encoding": [numbers]}, ...]',
    )


def _checked(path: Path, pairs: list[tuple[str, Any]], size: int) -> Encodings:
    if not pairs:
        raise MediaError(f"{path} holds no encoding", expected="at least one")
    if len(pairs) > MOST_ENCODINGS:
        raise MediaError(f"{path} holds {len(pairs):,} encodings", expected=f"at most {MOST_ENCODINGS:,}")
    spellings: dict[str, str] = {}
    owners: dict[bytes, str] = {}
    rows: dict[str, list[NDArray[np.float64]]] = {}
    exact: set[tuple[str, bytes]] = set()
    for raw, numbers in pairs:
        if not isinstance(raw, str):
            raise MediaError(f"{path} holds the name {raw!r}", expected="text")
        name = valid_name(raw)
        if spellings.setdefault(name, raw) != raw:
            raise MediaError(f"{path} spells {name!r} in two ways", expected="one spelling")
        row = _vector(path, name, numbers, size)
        other = owners.setdefault((row / np.linalg.norm(row)).astype(np.float32).tobytes(), name)
        if other != name or (name, row.tobytes()) in exact:
            where = f"twice under {name!r}" if other == name else f"under {other!r} and under {name!r}"
            raise MediaError(f"{path} holds one encoding {where}", expected="every encoding once")
        exact.add((name, row.tobytes()))
        rows.setdefault(name, []).append(row)
    return {name: np.stack(found) for name, found in rows.items()}


def _vector(path: Path, name: str, numbers: Any, size: int) -> NDArray[np.float64]:
    if isinstance(numbers, list) and not all(type(v) in (int, float) for v in numbers):
        raise MediaError(f"an encoding of {name!r} in {path} holds something else than numbers", expected="numbers")
    try:
        row = np.asarray(numbers)
        row = row.astype(np.float64) if row.dtype.kind in "fiu" else np.empty(0)
    except (ValueError, TypeError, OverflowError):
        row = np.empty(0)
    if row.shape != (size,):
        found = "x".join(str(n) for n in np.shape(row)) or "no list of"
        raise MediaError(f"an encoding of {name!r} in {path} has {found} numbers", expected=f"{size}, as the model has")
    length = float(np.linalg.norm(row))
    if not np.isfinite(length) or length < 1e-6:
        what = "holds only zeros" if length < 1e-6 else "holds a number that is not finite"
        raise MediaError(f"an encoding of {name!r} in {path} {what}", expected="a vector that a network gave")
    return row


def _too_large(path: Path, size_bytes: int, most_bytes: int) -> MediaError:
    return MediaError(
        f"{path} holds {size_bytes / 2**20:,.0f} MB", expected=f"at most {most_bytes / 2**20:.0f} MB", remedy="split it"
    )


def check_model(task: Task, model_id: str) -> None:
    """Refuse a model that makes no embeddings. Raises UsageError."""
    if not task.embeds:
        raise UsageError(f"{model_id} is a model for {task}", expected="an embedder, such as an exported dlib network")
