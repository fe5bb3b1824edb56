"""Composed pictures: objects cut off plain grounds, boxes that hold them, the same set twice, none that judges."""

import contextlib
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from edge_app.core.errors import MediaError, UsageError
from edge_models.data.checks import scan
from edge_models.data.folder import split_pictures
from edge_models.data.made import mark_of, marked, write_made
from edge_models.generate.compose import ComposeOptions, compose
from edge_models.generate.cutouts import read_cutout
from edge_models.generate.lettering import characters_of, find_fonts, text_of

RED, GREEN = (200, 20, 20), (20, 160, 30)


def disc(path, colour=RED, side=80, ground=(240, 240, 240)):
    """A disc of radius 24 on a plain ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), ground, np.uint8)
    cv2.circle(pixels, (side // 2, side // 2), 24, colour, cv2.FILLED)
    Image.fromarray(pixels).save(path)
    return path


def noise(path, seed, side=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    return path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture
def stuff(tmp_path):
    disc(tmp_path / "objects" / "red" / "a.png")
    disc(tmp_path / "objects" / "green" / "b.png", GREEN)
    for number in range(3):
        noise(tmp_path / "grounds" / f"{number}.png", number)
    return tmp_path


def test_a_disc_is_cut_off_its_plain_ground_to_a_pixel(tmp_path):
    found = read_cutout(disc(tmp_path / "disc.png"), "red")
    area = float(found.alpha.sum())
    assert 0.88 * np.pi * 24**2 < area < 1.02 * np.pi * 24**2
    assert max(found.alpha.shape) <= 51 and tuple(found.colour[24, 24]) == RED


def test_an_arm_that_comes_in_from_a_side_leaves_the_ground_plain(tmp_path):
    pixels = np.full((80, 100, 3), 240, np.uint8)
    cv2.circle(pixels, (50, 40), 20, RED, cv2.FILLED)
    cv2.rectangle(pixels, (22, 45), (78, 79), RED, cv2.FILLED)
    Image.fromarray(pixels).save(tmp_path / "arm.png")
    found = read_cutout(tmp_path / "arm.png", "red")
    assert abs(found.alpha.shape[0] - 59) <= 3 and abs(found.alpha.shape[1] - 56) <= 4


def test_transparency_and_masks_are_taken_before_the_ground(tmp_path):
    pixels = np.asarray(Image.open(noise(tmp_path / "n.png", 5)))
    with pytest.raises(MediaError, match="has no plain background"):
        read_cutout(tmp_path / "n.png", "x")
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[20:60, 30:70] = 255
    Image.fromarray(mask).save(tmp_path / "n.mask.png")
    assert read_cutout(tmp_path / "n.png", "x").alpha.shape == (40, 40)
    Image.fromarray(np.dstack([pixels, mask])).save(tmp_path / "own.png")
    assert read_cutout(tmp_path / "own.png", "x").alpha.shape == (40, 40)
    Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(tmp_path / "flat.png")
    with pytest.raises(MediaError, match="nothing stands out"):
        read_cutout(tmp_path / "flat.png", "x")


def test_boxes_and_masks_lie_where_the_colour_is(stuff):
    options = ComposeOptions(stuff / "made", stuff / "objects", stuff / "grounds", count=6, width_px=96, height_px=80,
                             occlusion=0.0)  # fmt: skip
    made = compose(options)
    assert made.by_class == {"green": 6, "red": 6} and made.pictures == 12
    told = json.loads((stuff / "made" / "boxes.json").read_text())
    names = {one["id"]: one["name"] for one in told["categories"]}
    assert len(told["annotations"]) == 12
    for box in told["annotations"]:
        image = told["images"][box["image_id"]]
        pixels = np.asarray(Image.open(stuff / "made" / image["file_name"]), int)
        mask = np.asarray(Image.open(stuff / "made" / image["file_name"].replace("pictures", "masks")))[..., 0]
        x, y, w, h = box["bbox"]
        ys, xs = np.nonzero(mask == 1)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x, y, x + w, y + h)
        assert box["area"] == len(xs) and 0.5 <= box["seen"] <= 1.1
        inner = cv2.erode((mask == 1).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        red, green, _ = pixels[inner].mean(axis=0)
        assert (red > 2 * green) == (names[box["category_id"]] == "red")
    assert (stuff / "made" / "made.json").stat().st_mode & 0o077 == 0


def test_a_seed_makes_the_same_set_and_another_seed_another(stuff):
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        compose(ComposeOptions(stuff / name, stuff / "objects", stuff / "grounds", count=2, seed=seed, text="A9",
                               per_picture=2, width_px=64, height_px=64))  # fmt: skip
    assert contents(stuff / "one") == contents(stuff / "two") != contents(stuff / "three")


def test_cutouts_larger_than_the_background_are_made_to_fit(stuff):
    small = Image.open(disc(stuff / "big" / "red" / "a.png"))
    small.resize((1800, 1800)).save(stuff / "big" / "red" / "a.png")
    made = compose(ComposeOptions(stuff / "made", stuff / "big", stuff / "grounds", count=3, width_px=40, height_px=40))
    assert made.by_class == {"red": 3}


def test_a_folder_that_is_there_is_left_alone_and_nothing_half_made_appears(stuff, monkeypatch):
    with pytest.raises(UsageError, match="is there already"):
        compose(ComposeOptions(stuff / "grounds", stuff / "objects"))
    calls = []

    def full(*_):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_models.generate.compose.write_made", full)
    with pytest.raises(Exception, match="No space left"):
        compose(ComposeOptions(stuff / "made", stuff / "objects"))
    assert calls and sorted(path.name for path in stuff.iterdir()) == ["grounds", "objects"]


def test_what_a_killed_command_left_is_removed_by_the_next_and_what_another_one_makes_is_not(stuff):
    def left(name):
        folder = stuff / name
        folder.mkdir()
        (folder / "half.png").write_bytes(b"half")
        return folder

    killed, held, other = left(".made.aaaaaaaa.part"), left(".made.bbbbbbbb.part"), left(".made.b.cccccccc.part")
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    compose(ComposeOptions(stuff / "made", stuff / "objects", count=1))
    os.close(lock)
    assert not killed.exists() and (held / "half.png").exists() and (other / "half.png").exists()
    assert {path.name for path in stuff.glob(".*")} == {other.name, held.name}


@pytest.mark.slow
def test_no_space_and_kills_leave_no_half_made_set(stuff):
    """A full disk is one line; killed at any moment there is a whole set or none, and the next call sweeps."""
    words = [sys.executable, "-m", "edge_app", "compose", "objects", "--on", "grounds", "--count", "30", "--text", "A9",
             "--quiet", "--output"]  # fmt: skip
    environment = {**os.environ, "EDGE_APP_HOME": str(stuff / "home")}
    full = subprocess.run(
        [*words, "full"], cwd=stuff, env=environment, capture_output=True, text=True, check=False, timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    [line] = [one for one in full.stderr.splitlines() if one.startswith("edge-app: ")]
    assert full.returncode == 1 and "cannot be written" in line and "free some space" in line
    assert not (stuff / "full").exists() and not list(stuff.glob(".full.*"))
    begun_s = time.monotonic()
    subprocess.run([*words, "whole"], cwd=stuff, env=environment, check=True, timeout=600, capture_output=True)
    took_s, rng = time.monotonic() - begun_s, random.Random(0)
    tries = killed = 0
    while tries < 6 or (killed < 2 and tries < 60):
        tries += 1
        process = subprocess.Popen([*words, "made"], cwd=stuff, env=environment, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.3, 1.0) * took_s)
            took_s *= 0.9  # the machine has less to do than when it was measured
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        if (stuff / "made").exists():
            assert contents(stuff / "made") == contents(stuff / "whole")
            shutil.rmtree(stuff / "made")
    subprocess.run([*words, "made"], cwd=stuff, env=environment, check=True, timeout=600, capture_output=True)
    assert killed >= 2 and contents(stuff / "made") == contents(stuff / "whole")
    assert not list(stuff.glob(".made.*"))


def test_a_pattern_becomes_letters_and_digits():
    text = text_of("AA-99", np.random.default_rng(0))
    assert text[:2].isalpha() and text[2] == "-" and text[3:].isdigit()
    assert set(text) <= set(characters_of("AA-99"))


def test_what_is_written_can_be_the_class_on_whatever_object(stuff):
    options = ComposeOptions(
        stuff / "made", stuff / "objects", stuff / "grounds", text=r"ours=K-\A\9 12,ours=K-XY 14,other=AA-99,none=",
        count=6, occlusion=0,
    )  # fmt: skip
    made = compose(options)
    told = json.loads((made.folder / "boxes.json").read_text())
    names = {one["id"]: one["name"] for one in told["categories"]}
    folder = {one["id"]: one["file_name"].split("/")[1] for one in told["images"]}
    assert sorted(folder.values()) == sorted(6 * ["ours", "other", "none"])
    plates = {(folder[one["image_id"]], names[one["category_id"]]) for one in told["annotations"] if one["text"]}
    assert plates == {("ours", "ours"), ("other", "other")}
    objects = Counter(names[one["category_id"]] for one in told["annotations"] if not one["text"])
    assert set(objects) == {"red", "green"} and objects.total() == 18
    texts = {one["text"] for one in told["annotations"] if folder[one["image_id"]] == "ours" and one["text"]}
    assert texts == {"K-A9 12", "K-XY 14"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ours=A9,B9", "has no class"),
        ("../up=A9", "is no class"),
        (".hidden=A9", "is no class"),
        ("=A9", "is no class"),
        ("a=A9,A=99", "differ only by case"),
        ("a=" + "9" * 25, "too long"),
        (",", "no pattern"),
        ("none=,a=A9", "without text"),
        ("a\x1b[2J=A9", "found"),
    ],
)
def test_texts_that_name_no_classes_are_refused(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        ComposeOptions(tmp_path / "made", text=text)


def test_fonts_that_lack_a_digit_or_are_none_are_told(tmp_path):
    fonts = find_fonts(None, "0123456789") if _fonts_here() else pytest.skip("no fonts on this machine")
    assert fonts.files
    (tmp_path / "torn.ttf").write_bytes(b"no font at all")
    with pytest.raises(UsageError, match=r"no font in .* draws '0' \(torn.ttf: cannot be read"):
        find_fonts(tmp_path, "0")
    # Nobody draws a character that Unicode will never have: it shows the box of what is absent.
    (tmp_path / "all.ttf").write_bytes(fonts.files[0].read_bytes())
    with pytest.raises(UsageError, match=r"lacks \\U0010ffff"):
        find_fonts(tmp_path, "\U0010ffff")


def _fonts_here():
    from edge_models.generate.lettering import FONT_FOLDERS

    return any(folder.is_dir() and any(folder.rglob("*.ttf")) for folder in FONT_FOLDERS)


def test_a_mark_survives_copying_and_is_read_back(tmp_path):
    write_made(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8), marked("edge-app compose", ["ab", "ab"], {"seed": 1}))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert mark_of(tmp_path / "b.png") == {"by": "edge-app compose", "sources": ["ab"], "seed": 1}
    assert mark_of(noise(tmp_path / "c.png", 1)) is None and mark_of(tmp_path / "nowhere.png") is None


def test_what_was_made_and_what_it_was_made_of_never_judges(stuff):
    made = compose(ComposeOptions(stuff / "made", stuff / "objects", count=12, width_px=48, height_px=48))
    root = stuff / "made" / "pictures"
    with pytest.raises(UsageError, match=f"holds {made.pictures} made pictures and 0 to judge by"):
        scan(root)
    for number in range(10):
        for name, colour in (("red", RED), ("green", GREEN)):
            path = disc(root / name / f"real{number}.png", colour, side=60 + 3 * number)
            path.write_bytes(noise(path, 10 * number + len(name)).read_bytes())
    source = root / "red" / "source.png"
    source.write_bytes((stuff / "objects" / "red" / "a.png").read_bytes())
    folder = scan(root)
    judged = set()
    for seed in range(5):
        split = split_pictures(folder, seed=seed)
        judged |= {folder.pictures[i].name for i in split.validation}
        assert {"made"} <= {finding.kind for finding in folder.findings}
        assert all("real" in folder.pictures[i].name for i in split.selection)
        assert any("real" not in folder.pictures[i].name for i in split.train)
    assert judged == {f"{name}/real{number}.png" for number in range(10) for name in ("red", "green")}
