"""Files of the gallery, and those that are imported into it."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import tempfile
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from edge_app.core.errors import EdgeError
from edge_app.core.plain_text import plain
from edge_app.core.types import Face
from edge_app.gallery import archive, calibration, keys
from edge_app.gallery.archive import export_gallery, import_gallery, read_archive
from edge_app.gallery.import_encodings import import_encodings, read_encodings
from edge_app.gallery.kept_pictures import keep, kept_picture
from edge_app.gallery.retention import parse_age
from edge_app.gallery.salvage import faults, salvage
from edge_app.gallery.storage import Vault
from edge_app.media.pictures import encode_png
from edge_app.model_store import catalogue
from edge_app.model_store.onnx_inspect import inspect
from edge_app.system.data_folder import Home
from tests.fakes import points
from tests.fuzz.harness import entry_point, parsed, parsed_texts, say
from tests.gallery.test_salvage import READING, WRITING, make


def _calibrations():
    told = [asdict(one) for one in points((1e-1, 0.3), (1e-2, 0.4), (1e-3, 0.5), pairs=2000)]
    entry = {
        "model": "things",
        "sha256": "ab",
        "created_s": 1.7e9,
        "identities": 20,
        "pictures": 60,
        "points": told,
    }
    return [json.dumps({"calibrations": [entry, entry | {"sha256": "cd"}]}).encode()]


@cache
def _card():
    return replace(inspect(catalogue.build(None, "sface", "fp32").path).card, id="things")


@entry_point("json", _calibrations)
def calibrations(data, folder):
    """calibrations.json: read for the model it names, and one entry deleted."""
    home = Home(folder)
    calibration.path_of(home).write_bytes(data)
    found = calibration.points_of(home, _card(), "ab")
    calibration.reset(home, "other")
    return " ".join(f"{point.fmr:g} {point.threshold:g}" for point in found)


def _rng(number):
    return np.random.default_rng(number)


def _npz():
    files = []
    for arrays in (
        {"encodings": _rng(0).normal(size=(3, 128)), "names": np.array(["Ada", "Bob", "Ada"])},
        {"Ada": _rng(1).normal(size=(2, 128)), "Bob": _rng(2).normal(size=128), "model": np.array("dlib")},
    ):
        for save in (np.savez, np.savez_compressed):
            file = io.BytesIO()
            save(file, **arrays)
            files.append(file.getvalue())
    return files


@cache
def _dlib():
    return replace(inspect(catalogue.build(None, "sface", "fp32").path).card, id="dlib", crop="dlib-150")


def _read_encodings(path):
    found = read_encodings(path, _dlib())
    with Vault(path.parent / "gallery.db") as vault:
        import_encodings(vault, "dlib", found, path.name)
        return " ".join(vault.names())


@entry_point("bytes", _npz)
def encodings_npz(data, folder):
    """`gallery import FILE.npz`."""
    (folder / "x.npz").write_bytes(data)
    return _read_encodings(folder / "x.npz")


_JSON = {"model": "dlib", "Ada": [[0.1] * 128], "Bob": [[0.2, *[0.0] * 127], [0.3, *[0.1] * 127]]}
_ROWS = [{"name": "Ada", "encoding": [0.1] * 128}, {"name": "Bob", "encoding": [-0.1, *[0.2] * 127]}]


@entry_point("json", [json.dumps(_JSON).encode(), json.dumps(_ROWS).encode()])
def encodings_json(data, folder):
    """`gallery import FILE.json`."""
    (folder / "x.json").write_bytes(data)
    return _read_encodings(folder / "x.json")


@entry_point("json", [json.dumps(_JSON).encode()], share=0.1)
def import_command(data, folder):
    """The command, and what it says of the names in a file."""
    (folder / "x.json").write_bytes(data.replace(b'"dlib"', b'"sface"'))
    home = ("--home", folder / "home")
    return say("gallery", "import", folder / "x.json", *home) + say("gallery", "list", *home)


PHRASE = "correct horse"


def _enrolled():
    """A gallery in clear, one that is protected with a key file, the first one's export, and the key's file."""
    archive.SCRYPT_N = keys.SCRYPT_N = 2**4  # stretching passphrases is no question here
    return _made()


@cache
def _made():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = folder / "gallery.db"
        make(made)
        with Vault(made) as vault:
            export_gallery(vault, folder / "out", PHRASE)
            clear = made.read_bytes()
            vault.protect("file")
        (key,) = (
            path for path in folder.iterdir() if path.name not in ("gallery.db", "out", ".lock") and "key" in path.name
        )
        return clear, made.read_bytes(), (folder / "out").read_bytes(), (key.name, key.read_bytes())


@entry_point("bytes", lambda: [_enrolled()[2]], share=0.7)
def archive_file(data, folder):
    """An exported gallery that was damaged on its way."""
    (folder / "x").write_bytes(data)
    _enrolled()
    return " ".join(person.name for person in read_archive(folder / "x", PHRASE))


def _exported_people():
    with tempfile.TemporaryDirectory() as name:
        make(Path(name, "gallery.db"))
        with Vault(Path(name, "gallery.db")) as vault:
            people = [json.loads(archive._encoded(person)) for person in vault.people(pictures=True)]
    return [json.dumps([{"people": len(people)}, *people]).encode()]


@entry_point("json", _exported_people, share=0.8)
def archive_of_a_stranger(data, folder):
    """An exported gallery whose maker, who knows the passphrase, wrote what he liked."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    _enrolled()
    chunks = parsed(data)
    chunks = chunks if isinstance(chunks, list) and chunks else [chunks]
    salt = bytes(archive._SALT_BYTES)
    with (folder / "x").open("wb") as file:
        file.write(archive.MAGIC + salt)
        cipher = AESGCM(keys.stretched(PHRASE, salt, archive.SCRYPT_N))
        for number, chunk in enumerate(chunks):
            text = json.dumps(chunk).encode("utf-8", "surrogatepass")
            archive._write(file, cipher, number, text, last=number == len(chunks) - 1)
    with Vault(folder / "gallery.db") as vault:
        import_gallery(vault, folder / "x", PHRASE)
        vault.roster()
        return " ".join(vault.names())


def _everything(path):
    """What is read of a gallery, what is changed in it, what is wrong with it, and who can be saved."""
    told = []
    with Vault(path) as vault:
        for call in (*READING, *WRITING):
            try:
                told.append(str(call(vault)))
            except EdgeError as error:
                told.append(str(error))
                assert "\n" not in told[-1]
    told = [plain(line) for line in told]  # arrays and names of our own objects, in several lines
    told += map(plain, faults(path))
    try:
        saved = salvage(path, path.parent / "saved" / "gallery.db")
        told += [*saved.names, *saved.lost]
        with Vault(path.parent / "saved" / "gallery.db") as vault:
            vault.verify()
            assert set(vault.names()) == set(saved.names)
    except EdgeError as error:
        told.append(str(error))
    return "\n".join(map(plain, told))


@entry_point("bytes", lambda: [_enrolled()[0], _enrolled()[1]], share=0.25)
def gallery_file(data, folder):
    """gallery.db with damaged bytes."""
    path = folder / "gallery.db"
    path.write_bytes(data)
    name, key = _enrolled()[3]
    (folder / name).write_bytes(key)
    return _everything(path)


_ROWS_OF = [
    ["identity", "name", 1, {"bytes": "+Ada"}],
    ["identity", "facts", 1, {"bytes": '{"last_seen_s": null, "consents": []}'}],
    ["template", "shot", 1, {"bytes": '["a.jpg", 5.0, [1, 2, 3, 4, 0, 0, 0, 1]]'}], ["template", "model", 2, 1],
    ["template", "identity", 2, 1], ["template", "vector", 1, {"bytes": "0000"}], ["model", "name", 1, "m"],
    ["model", "dimensions", 1, 16], ["picture", "bytes", 1, {"bytes": "xx"}], ["event", "record", 1, {"bytes": "{}"}],
    ["event", "link", 2, {"bytes": ""}], ["state", "generation", 1, 5], ["gallery", "retention", 1, {"bytes": "{}"}],
    ["gallery", "protection", 1, {"bytes": "{}"}], ["gallery", "gallery_id", 1, {"bytes": "0123456789abcdef"}],
]  # fmt: skip


@entry_point("json", [json.dumps([one]).encode() for one in _ROWS_OF], share=0.25)
def gallery_rows(data, folder):
    """A valid SQLite file with values that we never write."""
    path = folder / "gallery.db"
    path.write_bytes(_enrolled()[0])
    changes = parsed(data)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA ignore_check_constraints = ON")
    for change in changes if isinstance(changes, list) else []:
        match change:
            case [str(table), str(column), row, value]:
                if isinstance(value, dict):
                    value = str(value.get("bytes")).encode("utf-8", "surrogatepass")
                with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeError, ValueError):
                    db.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (value, row))
    db.close()
    shown = _everything(path)
    if len(data) % 16 == 0:
        home = ("--home", folder)
        shown += say("gallery", "list", *home) + say("gallery", "show", "Ada", *home) + say("gallery", "check", *home)
        shown += say("gallery", "audit", *home)
    return shown


def _records():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "gallery.db")
        make(path)
        db = sqlite3.connect(path)
        queries = ("SELECT name FROM identity", "SELECT facts FROM identity", "SELECT shot FROM template",
                   "SELECT record FROM event")  # fmt: skip
        found = [[row[0].decode() for row in db.execute(query)] for query in queries]
        db.close()
    records_ = {"name": found[0][0], "facts": json.loads(found[1][2]), "shot": json.loads(found[2][0])}
    return [json.dumps(records_ | {"event": json.loads(found[3][0])}).encode()]


@entry_point("json", _records, share=0.25)
def sealed_records(data, folder):
    """Records that were sealed with the right key and mean nothing."""
    path = folder / "gallery.db"
    path.write_bytes(_enrolled()[1])
    name, key = _enrolled()[3]
    (folder / name).write_bytes(key)
    plain_records = parsed(data)
    if not isinstance(plain_records, dict):
        return ""
    with Vault(path) as vault, vault.transaction(), vault._file.writing() as db:
        sealer = vault._sealer(db)
        places = {"name": ("identity", (1,)), "facts": ("identity", (1,)), "shot": ("template", (1, 1, 1))}
        for column, record in plain_records.items():
            if column in places:
                table, place = places[column]
                text = record if column == "name" and isinstance(record, str) else json.dumps(record)
                sealed = sealer.seal(f"{table}.{column}", place, text.encode("utf-8", "surrogatepass"))
                db.execute(f"UPDATE {table} SET {column} = ? WHERE id = 1", (sealed,))
    return _everything(path)


def _kept():
    pixels = _rng(0).integers(0, 256, (90, 80, 3), np.uint8)
    points = np.array([[30, 40], [50, 40], [40, 50], [32, 60], [48, 60]], np.float32)
    face = Face(np.array([20, 20, 60, 70], np.float32), points, 0.9)
    return [keep(pixels, face), keep(pixels, None), encode_png(pixels)]


@entry_point("bytes", _kept, share=2)
def kept(data, folder):
    """A picture that the gallery keeps."""
    read = kept_picture(data)
    assert read.pixels.ndim == 3 and 0 < read.scale <= 1
    return ""


_FACTS = {"box": [1, 2, 30, 40], "landmarks": [[5, 5], [10, 5], [8, 8], [6, 12], [10, 12]], "score": 0.9, "scale": 0.5}


@entry_point("json", [json.dumps(_FACTS).encode()], share=3)
def kept_facts(data, folder):
    """What stands in a kept picture beside its pixels."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", comment=data[:60_000])
    read = kept_picture(file.getvalue())
    return "" if read.face is None else str(read.face.score)


@entry_point("json", [json.dumps(["30 days", "1 y", "6h", "never", "12"]).encode()], share=3)
def ages(data, folder):
    """Ages for `gallery retention`."""
    told = []
    for text in parsed_texts(data):
        try:
            told.append(f"{parse_age(text):g}")
        except EdgeError as error:
            told.append(str(error))
    return "\n".join(told)
