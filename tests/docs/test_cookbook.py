"""The commands of docs/cookbook.md, one after the other, on small drawn pictures in the folders that it names."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edge_app.cli import main
from edge_app.media.pictures import write_picture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cookbook.md"
AT_A_SCREEN = ("watch", "fetch")
"""Commands that need a camera, a key or a person."""
WITH_FILES = ("mkdir", "mv", "cp")
"""Commands of the shell that stand between ours."""


def jobs():
    """Each job's commands by its heading."""
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    for part in parts:
        blocks = re.findall(r"```console\n(.*?)```", part, re.DOTALL)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        commands = [shlex.split(line.removeprefix("$ ").partition(" #")[0]) for line in lines if line.startswith("$ ")]
        yield part.splitlines()[0], [words for words in commands if words[0] in ("edge-app", *WITH_FILES)]


def draw(path, kind, seed, ground=128):
    """A sign on grain: a disc, a cross, bars or a ring; `ground` is the light of the place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:160, :160]
    dy, dx = y - rng.integers(60, 100), x - rng.integers(60, 100)
    far = np.hypot(dx, dy)
    shape = {
        "disc": far < 40,
        "cross": (abs(dx) < 10) & (abs(dy) < 45) | (abs(dy) < 10) & (abs(dx) < 45),
        "bars": (dx // 8 % 2 == 0) & (abs(dx) < 45) & (abs(dy) < 40),
        "ring": (far < 45) & (far > 30),
        "nothing": far < 0,
    }[kind]
    pixels = ground + rng.normal(0, 6, (160, 160, 3)) - 80 * shape[..., None]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, np.clip(pixels, 0, 255).astype(np.uint8))


def draw_driver():
    rows = []
    for number, (name, kind) in enumerate((("hands-on-wheel", "disc"), ("phone", "cross"))):
        for driver in range(8):
            for take in range(4):
                file = f"{name}/d{driver}-{take}.png"
                draw(Path("driver/known") / file, kind, 1000 * number + 10 * driver + take, 90 + 15 * driver)
                rows.append((file, f"d{driver}"))
        for take in range(4):
            draw(Path("driver/aside") / name / f"{take}.png", kind, 5000 + 100 * number + take)
    with Path("driver.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "driver"), *rows])


def draw_tiles():
    for number in range(80):
        draw(Path("tiles/known/good") / f"{number}.png", "nothing", number)
    for number in range(5):
        draw(Path("tiles/known/defect") / f"{number}.png", "ring", 100 + number)
    for number in range(12):
        draw(Path("tiles/aside/good") / f"{number}.png", "nothing", 200 + number)
        draw(Path("tiles/aside/defect") / f"{number}.png", "ring", 300 + number)
        draw(Path("belt") / f"{number}.png", "ring" if number % 4 == 0 else "nothing", 400 + number)


def draw_products():
    for number, (name, kind) in enumerate(
        (("plates", "disc"), ("crosses", "cross"), ("combs", "bars"), ("rings", "ring"))
    ):
        for take in range(14):
            draw(Path("products/known") / name / f"{take}.png", kind, 1000 * number + take)
        for take in range(4):
            draw(Path("products/new") / f"{name}-{take}.png", kind, 5000 + 100 * number + take)
    Path("labels.csv").write_text(
        "time,picture,answer,label,why,predicted,probability\n"
        + "".join(f"2026-11-26T12:00:00Z,plates-{n}.png,label,plates,group,,\n" for n in range(4))
        + "".join(f"2026-11-26T12:00:00Z,rings-{n}.png,label,rings,group,,\n" for n in range(4))
    )


def draw_car(path, seed, tall):
    """A car from behind: a body, a window, lamps and wheels; nothing around it."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGBA", (200, tall))
    pen, paint = ImageDraw.Draw(picture), tuple(rng.integers(30, 230, 3).tolist())
    for x in (25, 145):
        pen.rectangle((x, tall - 40, x + 30, tall - 1), (20, 20, 22, 255))
    pen.polygon([(40, 2), (160, 2), (195, 70), (5, 70)], (*paint, 255))
    pen.polygon([(50, 10), (150, 10), (175, 62), (25, 62)], (70, 85, 100, 255))
    pen.rounded_rectangle((3, 64, 196, tall - 15), 12, (*paint, 255))
    for x in (12, 160):
        pen.rectangle((x, 76, x + 28, 92), (210, 30, 30, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def draw_plates():
    """Cars and fonts to learn from, and other cars in other fonts before other grounds to be judged by."""
    from edge_models.generate.compose import ComposeOptions, compose
    from edge_models.generate.lettering import find_fonts

    fonts = find_fonts(None, "ABCDEFGHJKLMNPRSTUVWXYZ0123456789-").files
    bold = [font for font in fonts if "Bold" in font.name]
    for folder, some in (("fonts", bold[::2]), ("other/fonts", bold[1::2])):
        Path(folder).mkdir(parents=True)
        for font in some[:4]:
            shutil.copy(font, folder)
    for number in range(4):
        draw_car(Path("cars/car") / f"{number}.png", number, 150 + 10 * number)
        draw_car(Path("other/cars/car") / f"{number}.png", 100 + number, 155 + 10 * number)
        draw(Path("streets") / f"{number}.png", "bars", 200 + number)
        draw(Path("other/streets") / f"{number}.png", "ring", 300 + number)
    for seed, made in enumerate(("photos", "barrier")):
        options = ComposeOptions(
            Path("other") / made, Path("other/cars"), Path("other/streets"), text="plate=AA-99 999,none=",
            fonts=Path("other/fonts"), count=10, scale=(0.6, 0.95), seed=7 + seed,
        )  # fmt: skip
        for path in (compose(options).folder / "pictures").rglob("*.png"):
            to = Path(made) / path.parent.name / f"{path.stem}.jpg"
            to.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as picture:
                picture.save(to, quality=92)  # stands in for a photograph: without the mark that it was made


DRAWN = {"driver": draw_driver, "tiles": draw_tiles, "products": draw_products, "plates": draw_plates}


@pytest.mark.slow
@pytest.mark.parametrize(("title", "commands"), [pytest.param(*job, id=job[0]) for job in jobs() if job[1]])
def test_a_job_of_the_cookbook_runs_from_folder_to_answer(title, commands, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    [name] = [name for name in DRAWN if name in title.lower()]
    DRAWN[name]()
    ran = []
    for program, *words in commands:
        if program in WITH_FILES:
            subprocess.run([program, *words], check=True)
            continue
        if words[0] in AT_A_SCREEN or (words[0] == "annotate" and "--export" not in words):
            continue
        quick = {"train": ["--search", "0", "--unfreeze", "0"], "compose": ["--count", "20"]}.get(words[0], [])
        assert main([*words, *quick, "--home", str(tmp_path / "home")]) == 0, words
        ran.append((words, capsys.readouterr().out))
    assert {words[0] for words, _ in ran} >= {"train", "export", "models", "recognize"}
    if name == "tiles":
        [told] = [json.loads(out) for words, out in ran if words[0] == "calibrate"]
        assert told["after"]["alarms_found"]["share"] >= told["before"]["alarms_found"]["share"]
        assert told["after"]["mean_cost"] <= told["before"]["mean_cost"]
    if name == "products":
        assert len(list((tmp_path / "why").glob("*.jpg"))) == 16

    if name == "plates":
        [told] = [out for words, out in ran if words[0] == "recognize"]
        said = [json.loads(line) for line in told.splitlines()]
        right = [one for one in said if Path(one["source"]).parent.name == one["label"]]
        assert len(said) == 20 and len(right) >= 15


def test_the_cookbook_has_four_jobs_that_run():
    assert [next(name for name in DRAWN if name in title.lower()) for title, commands in jobs() if commands] == list(
        DRAWN
    )
