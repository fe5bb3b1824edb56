"""Pools of pictures without labels: what judges is found in them by content, and odd ones are read or told."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from edge_app.core.errors import UsageError
from edge_models.data.checks import scan
from edge_models.data.judging import Seen, left_out, refuse
from edge_models.data.pool import read_pool


def scene(seed, side=96):
    """A smooth picture unlike any other, so that it survives being compressed and scaled."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        path = tmp_path / "labelled" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(number).save(path)
    return scan(tmp_path / "labelled")


def grey_16_bit(picture):
    return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)


FORMS = {
    "same.png": lambda picture: picture,
    "other.bmp": lambda picture: picture,
    "lossy.jpg": lambda picture: picture,
    "half.png": lambda picture: picture.resize((48, 48)),
    "wide.png": lambda picture: picture.resize((300, 296)),
    "palette.gif": lambda picture: picture.quantize(256),
    "alpha.webp": lambda picture: picture.convert("RGBA"),
    "ink.jpg": lambda picture: picture.convert("CMYK"),
    "deep.png": grey_16_bit,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_that_judges_is_found_in_every_form_and_others_are_not(folder, tmp_path, form):
    judging = next(i for i, picture in enumerate(folder.pictures) if picture.name == "a/4.png")
    pool = tmp_path / "pool" / "deep"
    pool.mkdir(parents=True)
    FORMS[form](scene(4)).save(pool / form)
    FORMS[form](scene(400)).save(pool / f"new-{form}")
    found = read_pool(tmp_path / "pool", folder, [judging])
    assert [path.name for path, _ in found.files] == [f"new-{form}"]
    assert [path.name for path in found.judging] == [form] and not found.labelled
    assert found.notes(tmp_path / "pool") == [
        f"{tmp_path / 'pool'}: left out 1 picture that judges, or looks like one that does ({form})"
    ]


def test_what_only_teaches_may_have_a_like_in_the_pool_but_not_itself(folder, tmp_path):
    (tmp_path / "pool").mkdir()
    scene(4).resize((48, 48)).save(tmp_path / "pool" / "half.png")
    (tmp_path / "pool" / "same.png").write_bytes((tmp_path / "labelled" / "a" / "4.png").read_bytes())
    found = read_pool(tmp_path / "pool", folder, [])
    assert [path.name for path, _ in found.files] == ["half.png"] and not found.judging
    assert [path.name for path, _ in found.labelled] == ["same.png"]
    assert found.notes(tmp_path / "pool") == [f"{tmp_path / 'pool'}: left out 1 picture of the labelled folder"]


def test_odd_pictures_of_a_pool_are_read_or_told_and_repeats_come_once(folder, tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    for number, mode in enumerate(("L", "P", "RGBA", "LA", "1", "CMYK", "I;16")):
        picture = scene(100 + number)
        picture = grey_16_bit(picture) if mode == "I;16" else picture.convert(mode)
        picture.save(
            pool / (f"{mode.replace(';', '')}.tiff" if mode in ("CMYK", "LA") else f"{mode.replace(';', '')}.png")
        )
    Image.new("RGB", (1, 1), (9, 9, 9)).save(pool / "dot.png")
    Image.new("RGB", (4000, 1), (9, 9, 9)).save(pool / "line.png")
    (pool / "again.png").write_bytes((pool / "L.png").read_bytes())
    (pool / "cut.png").write_bytes((pool / "RGBA.png").read_bytes()[:200])
    (pool / "none.jpg").write_bytes(b"")
    (pool / "words.jpg").write_text("<html>")
    found = read_pool(pool, folder, range(12))
    assert len(found.files) == 9 and found.repeated == 1
    assert len(found.unreadable) >= 1 and all(str(pool) in why for why in found.unreadable)


def test_plain_pictures_that_judge_are_found_where_they_are_equal(tmp_path):
    for name, value in (("dark", 10), ("light", 200)):
        for number in range(3):
            path = tmp_path / "labelled" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (value + 10 * number,) * 3).save(path)
    folder = scan(tmp_path / "labelled")
    (tmp_path / "pool").mkdir()
    Image.new("RGB", (80, 80), (210,) * 3).save(tmp_path / "pool" / "same.png")
    Image.new("RGB", (80, 80), (100,) * 3).save(tmp_path / "pool" / "other.png")
    found = read_pool(tmp_path / "pool", folder, range(len(folder.pictures)))
    assert [path.name for path, _ in found.files] == ["other.png"]


def test_an_absent_pool_and_an_empty_one_are_told(folder, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_pool(tmp_path / "absent", folder, [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture below"):
        read_pool(tmp_path / "empty", folder, [])


def test_a_compressed_copy_on_a_plain_ground_is_found_whose_gradient_signs_are_noise(tmp_path):
    strokes = np.random.default_rng(0).integers(4, 22, (12, 4))
    for number, (top, left, down, across) in enumerate(strokes):
        pixels = np.zeros((28, 28), np.uint8)
        pixels[top : top + 3, min(left, across) : max(left, across) + 3] = 230
        pixels[min(top, down) : max(top, down) + 3, left : left + 3] = 200
        path = tmp_path / "labelled" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    folder = scan(tmp_path / "labelled")
    assert len(folder.pictures) == 12
    (tmp_path / "pool").mkdir()
    for picture in folder.pictures:
        Image.open(picture.path).save(tmp_path / "pool" / f"{picture.path.stem}.jpg", quality=75)
    judging = range(0, 12, 2)
    found = read_pool(tmp_path / "pool", folder, judging)
    assert {path.stem for path in found.judging} == {folder.pictures[i].path.stem for i in judging}


def test_pictures_are_found_among_others_both_ways_and_named_up_to_three(folder):
    two, all_of_them = Seen.of(folder, [1, 4]), Seen.of(folder, range(12))
    assert two.are_among(all_of_them).tolist() == [True, True]
    assert np.flatnonzero(all_of_them.are_among(two)).tolist() == [1, 4]
    unlike = Seen(["0" * 64] * 12, all_of_them.thumbnails)
    assert unlike.are_among(two).sum() == 2 and not Seen([], []).are_among(two).size
    assert not all_of_them.are_among(Seen([], [])).any()
    assert left_out("pool", list("abcd")) == (
        "pool: left out 4 pictures that judge, or look like one that does (a, b, c, ...)"
    )
    refuse("pool holds", [], "take it out")
    with pytest.raises(
        UsageError, match=r"^pool holds 1 picture that judges, or looks like one that does \(a\)"
    ) as told:
        refuse("pool holds", ["a"], "take it out")
    assert "pictures that nothing is chosen or judged by" in str(told.value) and "take it out" in str(told.value)
