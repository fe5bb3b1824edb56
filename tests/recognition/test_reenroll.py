"""Another embedder: who is missing is told, kept pictures serve it, and no two spaces ever meet."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

from edge_app.cli import main
from edge_app.core.errors import GalleryError, MediaError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Embedding, Face
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.gallery.kept_pictures import keep, kept_picture
from edge_app.inference.geometry import align
from edge_app.media import sample
from edge_app.media.pictures import encode_png, read_picture
from edge_app.model_store import shipped as zoo
from edge_app.recognition.open_session import open_people
from edge_app.recognition.reenroll import missing_line, reenroll
from edge_app.system.settings import Settings

OBAMA = "Barack Obama"


def other_embedder(home, crop="arcface-112"):
    """The shipped embedder once more under another name: another space, as far as anybody may know."""
    home.models_dir.mkdir(parents=True, exist_ok=True)
    [shipped] = [e for e in zoo.entries() if e.id == "sface" and e.precision == "fp32"]
    path = home.models_dir / "other-fp32.onnx"
    shutil.copy(shipped.path, path)
    model = onnx.load(path)
    [text] = [p.value for p in model.metadata_props if p.key == ModelCard.KEY]
    card = ModelCard.from_json(text)
    onnx.helper.set_model_props(model, {ModelCard.KEY: replace(card, id="other", crop=crop).to_json()})
    onnx.save(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"id": "other", "precision": "fp32", "task": "face-embedding", "file": path.name, "sha256": digest}
    (home.models_dir / "installed.json").write_text(json.dumps({"models": [entry | {"bytes": path.stat().st_size}]}))


def enrolled(home, *, keep=True):
    """Two pictures of one person, one of another, with the shipped embedder."""
    with (bench := open_people(home, Settings(keep_pictures=keep, precision="fp32"))).vault:
        for name, paths in sample.people().items():
            looks = [(p.name, bench.recognizer.shot(read_picture(p), p.name)) for p in paths]
            bench.enroll(name, looks, EnrollOptions())


def with_other(home):
    return open_people(home, Settings(embedder="other", precision="fp32"))


def line(bench):
    return missing_line(bench.home, bench.vault, bench.recognizer.embedder.card)


def test_everybody_follows_from_kept_pictures_and_the_old_templates_stay(home):
    enrolled(home)
    other_embedder(home)
    with (bench := with_other(home)).vault as vault:
        assert bench.missing == (OBAMA, "Joe Biden")
        assert "2 people must be enrolled again for other: Barack Obama, Joe Biden" in (line(bench) or "")
        assert "tries 2 from kept pictures" in (line(bench) or "")
        before = vault.identity(OBAMA, "sface").templates
        assert [(one.name, one.templates) for one in reenroll(bench)] == [(OBAMA, 2), ("Joe Biden", 1)]
        bench = bench.refreshed()
        assert bench.missing == () and line(bench) is None
        again = vault.identity(OBAMA, "other").templates
        after = vault.identity(OBAMA, "sface").templates
        assert [t.embedding.vector.tobytes() for t in after] == [t.embedding.vector.tobytes() for t in before]
        for old, new in zip(before, again, strict=True):
            # The same network: what JPEG and shrinking took must be next to nothing.
            assert float(old.embedding.vector @ new.embedding.vector) > 0.98
            assert new.quality.face_px == pytest.approx(old.quality.face_px, rel=0.01) and new.source == old.source
        assert all(vault.pictures(OBAMA, "other"))
        with pytest.raises(GalleryError):
            before[0].embedding.similarity(again[0].embedding)


def test_a_gallery_made_before_serves_the_same_crop_and_says_so_for_others(home):
    with (bench := open_people(home, Settings(precision="fp32"))).vault as vault:
        path = sample.people()[OBAMA][0]
        shot = bench.recognizer.shot(read_picture(path), path.name)
        bench.enroll(OBAMA, [(path.name, shot)], EnrollOptions())
        [template] = vault.identity(OBAMA).templates
        vault.forget(OBAMA)
        vault.add(OBAMA, [template], [encode_png(shot.crop)])
    other_embedder(home)
    with (bench := with_other(home)).vault as vault:
        [done] = reenroll(bench)
        assert done.templates == 1
        [again] = vault.identity(OBAMA, "other").templates
        assert float(again.embedding.vector @ template.embedding.vector) > 0.9999
        assert again.quality == template.quality
        vault.drop(OBAMA, "other")
    other_embedder(home, crop="arcface-160")
    # The stub of another alignment takes 112 px still; what counts is that the old crop is not taken for one.
    with (bench := with_other(home)).vault:
        [done] = reenroll(bench)
        assert done.templates == 0 and "112x112 px, too little for arcface-160" in done.reasons[0]


def test_who_has_no_picture_is_listed_and_the_command_says_so(home, capsys):
    enrolled(home, keep=False)
    other_embedder(home)
    home.change_settings(embedder="other", precision="fp32")
    assert main(["gallery", "reenroll", "--home", str(home.path), "--json"]) == 1
    told = capsys.readouterr()
    assert told.err == ""
    people = json.loads(told.out)["people"]
    assert [(p["name"], p["templates"]) for p in people] == [(OBAMA, 0), ("Joe Biden", 0)]
    assert "no picture was kept" in people[0]["reasons"][0]
    with (bench := with_other(home)).vault:
        assert "enroll from new pictures" in (line(bench) or "")
    assert main(["recognize", str(sample.stranger()), "--home", str(home.path)]) == 0
    told = capsys.readouterr()
    assert "2 people must be enrolled again for other" in told.err and "nobody is enrolled" not in told.err


def test_a_person_of_the_same_face_under_two_names_stays_behind(home):
    enrolled(home)
    with (bench := open_people(home, Settings(keep_pictures=True, precision="fp32"))).vault:
        path = sample.people()[OBAMA][1]
        look = (path.name, bench.recognizer.shot(read_picture(path), path.name))
        assert bench.enroll("Double", [look], EnrollOptions(allow_lookalike=True))[0].accepted
    other_embedder(home)
    with (bench := with_other(home)).vault:
        done = {one.name: one for one in reenroll(bench)}
        assert done["Double"].templates == 0 and "looks like Barack Obama" in done["Double"].reasons[0]
        assert [one.templates for one in reenroll(bench.refreshed(), EnrollOptions(allow_lookalike=True))] == [1]


def test_one_models_templates_go_and_the_others_stay(home):
    enrolled(home)
    other_embedder(home)
    with (bench := with_other(home)).vault as vault:
        list(reenroll(bench))
        assert vault.drop(OBAMA, "sface", 0) == 1
        assert len(vault.identity(OBAMA, "sface").templates) == 1
        assert vault.drop(OBAMA, "sface") == 1
        assert vault.models() == {"other": 3, "sface": 1}
        for index in (None, 0, -1, 7):
            with pytest.raises(GalleryError, match="has no"):
                vault.drop(OBAMA, "sface", index)
        assert vault.drop(OBAMA, "other") == 2 and vault.names() == ("Joe Biden",)


def test_the_face_is_found_again_exactly_where_it_was():
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (40, 60, 3)), np.ones((30, 30, 1))).astype(np.uint8)
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    for size, corner in ((60, (20, 30)), (500, (900, 400)), (80, (-10, 1150))):
        face = Face(np.array([*corner, corner[0] + size, corner[1] + size]), points * size + corner, 0.9)
        kept = kept_picture(keep(pixels, face))
        assert kept.face is not None and max(kept.pixels.shape[:2]) <= 400
        assert kept.face.size_px / kept.scale == pytest.approx(size, rel=1e-3)
        was, again = (align(p, f.landmarks, "arcface-112") for p, f in ((pixels, face), (kept.pixels, kept.face)))
        assert float(np.abs(was.astype(int) - again.astype(int)).mean()) < 8


@pytest.mark.parametrize("data", [b"", b"\xff\xd8 no picture", b"GIF89a" + b"\0" * 40])
def test_a_damaged_kept_picture_is_told(data):
    with pytest.raises(MediaError, match="damaged"):
        kept_picture(data)


def test_things_are_no_missing_people(home):
    from tests.recognition.test_things import blocks

    enrolled(home)
    blocks(home.models_dir / "blocks-fp32.onnx")
    with (bench := open_people(home)).vault as vault:
        [template] = vault.identity("Joe Biden").templates
        thing = replace(template, embedding=Embedding(np.ones(48), "blocks"))
        vault.add("mug", [thing])
        assert bench.missing == ()
