"""Existing encodings: both formats come in whole, whatever is wrong with a file is one line and nothing is stored."""

from __future__ import annotations

import io
import json
import pickle
import random
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.model_card import InputSpec
from edge_app.core.types import Embedding
from edge_app.gallery import import_encodings as importing
from edge_app.gallery.import_encodings import import_encodings, read_encodings
from edge_app.gallery.storage import Vault
from tests.fakes import embedder_card

CARD = embedder_card(input=InputSpec("input", 150, 150), crop="dlib-150", embedding_size=4)
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(3, 4))


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def js(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture
def vault(home):
    with (made := Vault(home.gallery_path)):
        yield made


def test_every_form_gives_the_same(tmp_path):
    a, b = ROWS[:2], ROWS[2:]
    files = [
        npz(tmp_path / "pairs.npz", names=np.array(["Ada", "Ada", "Bob"]), encodings=ROWS),
        npz(tmp_path / "each.npz", Ada=a, Bob=b[0]),
        js(tmp_path / "object.json", {"Ada": a.tolist(), "Bob": b[0].tolist()}),
        js(tmp_path / "list.json", [{"name": n, "encoding": r.tolist()} for n, r in zip("AAB", ROWS, strict=True)]),
    ]
    for file in files:
        found = read_encodings(file, CARD)
        assert [rows.shape for rows in found.values()] == [(2, 4), (1, 4)]
        assert np.allclose(np.concatenate(list(found.values())), ROWS)


def test_imported_templates_are_matched_by_their_direction(vault, tmp_path):
    found = read_encodings(npz(tmp_path / "x.npz", Ada=ROWS[:2], Bob=ROWS[2]), CARD)
    assert import_encodings(vault, "m", found, "imported from x.npz") == {"Ada": 2, "Bob": 1}
    stored = vault.identity("Ada", "m").templates
    assert [t.source for t in stored] == ["imported from x.npz"] * 2
    assert np.array_equal(stored[1].embedding.vector, Embedding(ROWS[1].astype(np.float32), "m").vector)


def test_all_or_nothing(vault, tmp_path):
    import_encodings(vault, "m", {"Bob": ROWS[2:]}, "x")
    with pytest.raises(EdgeError, match="'Bob' has one of these encodings already"):
        import_encodings(vault, "m", {"Ada": ROWS[:2], "Bob": ROWS[2:]}, "x")
    assert vault.names() == ("Bob",)
    with pytest.raises(EdgeError, match="a vector of 3 numbers"):
        import_encodings(vault, "m", {"Ada": ROWS[:1, :3], "Eve": ROWS[:1]}, "x")
    assert vault.names() == ("Bob",)


class Bomb:
    def __reduce__(self):
        return (print, ("a pickle was run",))


def pickled(path):
    path.write_bytes(pickle.dumps({"Ada": ROWS}))
    return path


def objects(path):
    np.savez(path, names=np.array(["Ada"]), encodings=np.array([Bomb()], dtype=object))
    return path


def lying(path):
    """An array whose header claims 80 GB."""
    with zipfile.ZipFile(path, "w") as archive:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000,), }\n"
        archive.writestr("Ada.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    return path


def bomb(path):
    """300 kB that unfold to 300 MB of zeros, as their header says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("Ada.npy", "w") as member:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (39321600,), }\n"
        member.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        for _ in range(300):
            member.write(bytes(2**20))
    return path


def hidden_bomb(path):
    """A member without a header, which a check of `Ada.npy` alone does not see."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("Ada", "w", force_zip64=True) as member:
            member.write(b"A" * 8)
            for _ in range(300):
                member.write(bytes(2**20))
        npz_bytes = io.BytesIO()
        np.save(npz_bytes, ROWS)
        archive.writestr("Ada.npy", npz_bytes.getvalue())
    return path


def torn(path):
    """Deflated data with a byte changed in the middle."""
    npz_path = path.with_suffix(".npz")
    np.savez_compressed(npz_path, Ada=RNG.normal(size=(50, 4)))
    content = bytearray(npz_path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    npz_path.write_bytes(content)
    return npz_path


def twins(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("Ada", "Ada.npy"):
            made = io.BytesIO()
            np.save(made, ROWS)
            archive.writestr(name, made.getvalue())
    return path


def single(path):
    np.save(path, ROWS)
    return path.with_suffix(".npy") if not path.exists() else path


one = [1.0, 0.0, 0.0, 2.0]
REFUSED = {
    "absent": (lambda p: p, "cannot be read: no such file"),
    "empty": (lambda p: js(p, ""), "neither .npz nor JSON"),
    "pickle": (pickled, "a pickle, which could run anything"),
    "objects": (lambda p: objects(p.with_suffix(".npz")), "holds objects in 'encodings'"),
    "lying header": (lying, "at most 256 MB"),
    "archive bomb": (bomb, "at most 256 MB"),
    "hidden bomb": (hidden_bomb, "no sound .npz"),
    "torn": (torn, "no sound .npz"),
    "two arrays of one name": (twins, "two arrays are called 'Ada'"),
    "no dimension": (lambda p: npz(p.with_suffix(".npz"), Ada=np.array(3.0)), "an array of 0 dimensions"),
    "no dimension, paired": (
        lambda p: npz(p.with_suffix(".npz"), names=np.array("Ada"), encodings=np.array(1.0)),
        "expected names",
    ),
    "three dimensions": (lambda p: npz(p.with_suffix(".npz"), Ada=ROWS[None]), "an array of 3 dimensions"),
    "records": (lambda p: npz(p.with_suffix(".npz"), Ada=np.zeros(4, [("x", "f4")])), "has 0 numbers"),
    "many lists": (lambda p: js(p, "[" + "[]," * 1_000_000 + "[]]"), "too many numbers or lists"),
    "one array": (lambda p: single(p.with_suffix(".npy")), "a single array without names"),
    "text in a zip": (lambda p: zipped(p, b"hello"), "no sound .npz"),
    "too few names": (lambda p: npz(p.with_suffix(".npz"), names=np.array(["A"]), encodings=ROWS), "expected names"),
    "encodings alone": (lambda p: npz(p.with_suffix(".npz"), encodings=ROWS), "expected names"),
    "other length": (lambda p: js(p, {"Ada": [[1.0, 2.0]]}), "has 2 numbers; expected 4"),
    "nan": (lambda p: js(p, '{"Ada": [[NaN, 1, 1, 1]]}'), "not finite"),
    "infinite": (lambda p: js(p, '{"Ada": [[1e999, 1, 1, 1]]}'), "not finite"),
    "zeros": (lambda p: js(p, {"Ada": [[0, 0, 0, 0]]}), "holds only zeros"),
    "words": (lambda p: js(p, {"Ada": [["1", "2", "3", "4"]]}), "something else than numbers"),
    "booleans": (lambda p: js(p, {"Ada": [[True, True, True, False]]}), "something else than numbers"),
    "unfit name": (lambda p: js(p, {"../Ada": [one]}), "no slashes"),
    "no name": (lambda p: js(p, {"": [one]}), "the name is empty"),
    "number as name": (lambda p: js(p, [{"name": 3, "encoding": one}]), "holds the name 3"),
    "name twice": (lambda p: js(p, '{"Ada": [[1,2,3,4]], "Ada": [[4,3,2,1]]}'), "holds 'Ada' twice"),
    "two spellings": (lambda p: js(p, {"Zoë": [one], "Zoe\u0308": [one[::-1]]}), "in two ways"),
    "under two names": (lambda p: js(p, {"Ada": [one], "Bob": [one]}), "under 'Ada' and under 'Bob'"),
    "twice": (lambda p: js(p, {"Ada": [one, one]}), "twice under 'Ada'"),
    "nothing": (lambda p: js(p, {}), "holds no encoding"),
    "other json": (lambda p: js(p, [1, 2]), "JSON of another kind"),
    "several models": (
        lambda p: js(p, [{"name": "A", "encoding": one, "model": "m"}, {"name": "B", "encoding": one[::-1]}]),
        "several models",
    ),
    "deep json": (lambda p: js(p, "[" * 100_000), "neither .npz nor JSON"),
}


def zipped(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Ada.npy", data)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("what", REFUSED)
def test_whatever_is_wrong_is_one_line(tmp_path, capsys, what):
    make, words = REFUSED[what]
    with pytest.raises(EdgeError) as refused:
        read_encodings(make(tmp_path / "x.json"), CARD)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert "a pickle was run" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_bomb_is_refused_before_it_unfolds(tmp_path):
    for make in (bomb, hidden_bomb):
        tracemalloc.start()
        with pytest.raises(EdgeError):
            read_encodings(make(tmp_path / "x.npz"), CARD)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak_bytes < 20 * 2**20


def test_any_byte_of_an_archive_may_be_wrong(tmp_path):
    rng = random.Random(4)
    good = npz(tmp_path / "good.npz", names=np.array(["Ada", "Bob", "Bob"]), encodings=ROWS).read_bytes()
    refused = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / "x.npz").write_bytes(content[: rng.choice([None, rng.randrange(len(content))])])
        try:
            read_encodings(tmp_path / "x.npz", CARD)
        except EdgeError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
    assert refused > 100


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(importing.MOST_BYTES + 1)
    with pytest.raises(EdgeError, match="at most 256 MB"):
        read_encodings(tmp_path / "x.json", CARD)


def test_the_command_imports_into_the_gallery_of_that_model(home, tmp_path, capsys):
    rows = RNG.normal(size=(2, 128))
    file = npz(tmp_path / "known.npz", names=np.array(["Ada", "Bob"]), encodings=rows, model=np.array("sface"))
    assert main(["gallery", "import", str(file), "--model", "sface", "--home", str(home.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["templates"] == 2
    assert main(["gallery", "import", str(file), "--model", "sface", "--home", str(home.path)]) == 1
    assert main(["gallery", "import", str(file), "--model", "yunet", "--home", str(home.path)]) == 2
    assert main(["gallery", "show", "Ada", "--home", str(home.path)]) == 0
    assert "imported from known.npz" in capsys.readouterr().out


def forms(folder, model_id):
    """Every form of file, with its model's id."""
    rows = [{"name": "Ada", "encoding": ROWS[0].tolist(), "model": model_id}]
    return [
        npz(folder / "pairs.npz", names=np.array(["Ada"]), encodings=ROWS[:1], model=np.array(model_id)),
        npz(folder / "each.npz", Ada=ROWS[:1], model=np.array([model_id])),
        js(folder / "object.json", {"model": model_id, "Ada": ROWS[0].tolist()}),
        js(folder / "list.json", rows),
    ]


def test_encodings_that_name_their_model_go_to_it_alone(tmp_path):
    for card in (CARD, replace(CARD, crop="arcface-112")):
        for file in forms(tmp_path, "m"):
            assert list(read_encodings(file, card)) == ["Ada"]
        for file in forms(tmp_path, "another"):
            with pytest.raises(UsageError, match="come from 'another'; expected 'm'"):
                read_encodings(file, card)


def test_somebody_may_be_called_model(tmp_path):
    for file in (npz(tmp_path / "x.npz", model=ROWS[0]), js(tmp_path / "x.json", {"model": [ROWS[0].tolist()]})):
        assert list(read_encodings(file, CARD)) == ["model"]


def test_face_recognitions_encodings_are_no_use_to_another_network_of_that_length(home, tmp_path, capsys):
    file = npz(tmp_path / "known.npz", names=np.array(["Ada"]), encodings=RNG.normal(size=(1, 128)))
    assert main(["gallery", "import", str(file), "--model", "sface", "--home", str(home.path)]) == 2
    told = capsys.readouterr().err
    assert "mean nothing to sface" in told and "`edge-app export dlib`" in told and 'the key "model"' in told
    assert not home.gallery_path.exists()


def test_the_help_says_what_a_file_holds(capsys):
    assert main(["gallery", "import", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("`names`", "`encodings`", "`model`", '"encoding"', "edge-app export dlib"))
