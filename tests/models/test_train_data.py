"""Folders of pictures: what the checks find, and that no split leaks."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

pytest.importorskip("torch")

from edge_app.core.errors import UsageError
from edge_app.core.model_card import InputSpec
from edge_app.inference.geometry import prepare
from edge_models.data.checks import scan
from edge_models.data.class_folders import CheckOptions
from edge_models.data.folder import (
    find_again,
    find_unlabelled,
    folds,
    hashes_of,
    keep_together,
    split_pictures,
)
from edge_models.data.groups import find_sessions, read_table

SPEC = InputSpec("input", 8, 8)


def paint(path, seed, size=(64, 48)):
    """A smooth random picture: blobs, so that re-encoding and scaling keep its look."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for number in range(10):
            paint(tmp_path / "data" / name / f"{number}.png", 100 * label + number)
    return tmp_path / "data"


def kinds(folder):
    return {finding.kind: finding for finding in folder.findings}


def test_a_clean_folder_is_read_whole_and_its_hash_follows_its_contents(root):
    folder = scan(root, CheckOptions(few_per_class=5))
    assert folder.classes == ("cat", "dog") and len(folder.pictures) == 20 and folder.findings == ()
    before = folder.sha256
    assert scan(root).sha256 == before
    paint(root / "cat" / "0.png", 999)
    assert scan(root).sha256 != before


def test_one_class_is_refused_and_a_folder_too_deep_is_recognized(root):
    with pytest.raises(UsageError, match="1 usable class"):
        scan_only(root, "cat")
    with pytest.raises(UsageError, match="did you mean"):
        scan(root.parent)


def test_too_few_classes_are_told_with_the_reason_of_each(root):
    for path in (root / "dog").iterdir():
        path.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (root / "bird").mkdir()
    with pytest.raises(UsageError) as told:
        scan(root)
    assert "1 usable class (cat)" in str(told.value)
    assert "left out: bird (holds no picture), dog (0 usable pictures, 3 needed)" in str(told.value)
    assert "unreadable: dog/0.png, dog/1.png, dog/2.png and 7 more" in str(told.value)


def test_a_class_that_was_kept_is_not_told_as_left_out(root):
    shutil.rmtree(root / "dog")
    with pytest.raises(
        UsageError, match=r"1 usable class [(]cat[)]; expected at least 2; add a sub-folder of pictures"
    ) as told:
        scan(root)
    assert "left out" not in str(told.value)


def test_pictures_without_class_folders_are_told(root):
    with pytest.raises(UsageError, match=r"10 loose pictures.*sort the pictures into a sub-folder"):
        scan(root / "cat")


def test_names_that_are_no_text_are_told_and_do_no_harm(root):
    odd = os.fsdecode(b"caf\xe9.png")
    paint(root / "cat" / odd, 77)
    folder = scan(root)
    assert kinds(folder)["unreadable"].files == ("'cat/caf\\udce9.png'",) and len(folder.pictures) == 20
    assert len(folder.sha256) == 64
    paint(root / os.fsdecode(b"caf\xe9") / "0.png", 78)
    with pytest.raises(UsageError, match="no printable name") as told:
        scan(root)
    str(told.value).encode()


@pytest.mark.parametrize("read", [scan, find_unlabelled])
def test_a_folder_that_cannot_be_listed_is_no_empty_class(root, monkeypatch, read):
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UsageError, match=r"dog cannot be listed [(]Permission denied"):
        read(root)


@pytest.mark.parametrize("read", [scan, find_unlabelled])
def test_what_is_no_folder_is_told(root, read):
    with pytest.raises(UsageError, match=r"0[.]png is not a folder"):
        read(root / "cat" / "0.png")
    with pytest.raises(UsageError, match="nowhere does not exist"):
        read(root / "nowhere")


def scan_only(root, name):
    for path in (root / "dog").iterdir():
        path.unlink()
    return scan(root)


def test_class_names_that_differ_by_case_are_refused(root):
    paint(root / "Cat" / "0.png", 5)
    with pytest.raises(UsageError, match="differ only by case: Cat and cat"):
        scan(root)


def test_unreadable_small_empty_nested_and_stray_are_named_with_what_was_done(root):
    (root / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    paint(root / "cat" / "tiny.png", 7, (20, 7))
    paint(root / "dog" / "more" / "x.png", 8)
    paint(root / "stray.png", 9)
    (root / "bird").mkdir()
    found = kinds(scan(root, CheckOptions(few_per_class=5)))
    assert found["unreadable"].files == ("cat/broken.jpg",) and found["unreadable"].action == "left out"
    assert found["small picture"].files == ("cat/tiny.png",)
    assert found["nested folder"].action == "counted as dog"
    assert found["stray picture"].files == ("stray.png",)
    assert found["empty class"].files == ("bird",)


def test_a_class_with_too_few_pictures_is_left_out_and_labels_are_renumbered(root):
    paint(root / "ant" / "0.png", 1)
    folder = scan(root, CheckOptions(few_per_class=5))
    assert folder.classes == ("cat", "dog") and set(folder.labels) == {0, 1}
    assert kinds(folder)["small class"].files == ("ant",)


def test_imbalance_is_named(root):
    for number in range(10, 60):
        paint(root / "cat" / f"{number}.png", 300 + number)
    assert kinds(scan(root))["imbalance"].files == ("dog",)


def test_the_same_bytes_twice_count_once_and_in_two_classes_not_at_all(root):
    (root / "cat" / "again.png").write_bytes((root / "cat" / "0.png").read_bytes())
    (root / "dog" / "wrong.png").write_bytes((root / "cat" / "1.png").read_bytes())
    folder = scan(root)
    names = {picture.name for picture in folder.pictures}
    assert len(names & {"cat/0.png", "cat/again.png"}) == 1
    assert not names & {"cat/1.png", "dog/wrong.png"}
    assert kinds(folder)["label conflict"].action == "all left out"


def test_near_duplicates_never_straddle_a_split(root):
    for number in range(4):
        Image.open(root / "cat" / f"{number}.png").resize((80, 60)).save(root / "cat" / f"copy{number}.jpg", quality=80)
    folder = scan(root)
    assert sum(finding.kind == "near-duplicate" for finding in folder.findings) == 4
    for seed in range(10):
        split = split_pictures(folder, seed=seed)
        sides = {}
        for side, part in enumerate((split.train, split.selection, split.validation)):
            for index in part:
                sides.setdefault(int(folder.groups[index]), set()).add(side)
        assert all(len(side) == 1 for side in sides.values())


def test_a_picture_of_train_that_val_holds_too_is_left_out_of_training(root):
    for part, numbers in (("train", range(8)), ("val", range(8, 10))):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in numbers:
                (root / name / f"{number}.png").rename(root / part / name / f"{number}.png")
    for name in ("cat", "dog"):
        (root / name).rmdir()
    Image.open(root / "val/cat/8.png").resize((80, 60)).save(root / "train/cat/leak.jpg", quality=85)
    folder = scan(root)
    assert kinds(folder)["leak"].files == ("train/cat/leak.jpg",)
    split = split_pictures(folder, seed=0)
    assert sorted(folder.pictures[i].name for i in split.validation) == [
        "val/cat/8.png", "val/cat/9.png", "val/dog/8.png", "val/dog/9.png",
    ]  # fmt: skip


def divide(root, parts):
    """Move the pictures of both classes into parts: name -> numbers."""
    for part, numbers in parts.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in numbers:
                (root / name / f"{number}.png").rename(root / part / name / f"{number}.png")
    for name in ("cat", "dog"):
        (root / name).rmdir()


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "Val", "Test")])
def test_a_test_part_judges_and_nothing_learns_from_it(root, names):
    divide(root, dict(zip(names, (range(5), range(5, 8), range(8, 10)), strict=True)))
    (root / "README.dataset.txt").write_text("exported by Roboflow")
    (root / "runs").mkdir()
    (root / "runs" / "run.json").write_text("{}")
    Image.open(root / names[0] / "cat" / "0.png").save(root / names[0] / "cat" / "copy.bmp")
    Image.open(root / names[2] / "cat" / "9.png").resize((80, 60)).save(
        root / names[0] / "cat" / "leak.jpg", quality=85
    )
    folder = scan(root)
    assert folder.classes == ("cat", "dog") and folder.has_test
    assert kinds(folder)["stray folder"].files == ("runs",)
    assert kinds(folder)["leak"].files == (f"{names[0]}/cat/leak.jpg",)
    split = split_pictures(folder, seed=3)
    parts = [{folder.pictures[i].part for i in part} for part in (split.train, split.selection, split.validation)]
    assert parts == [{"train"}, {"validation"}, {"test"}] and len(split.validation) == 4 and len(split.selection) == 6


def test_train_and_test_alone_choose_by_a_share_of_train(root):
    divide(root, {"train": range(7), "test": range(7, 10)})
    split = split_pictures(scan(root), seed=0)
    assert len(split.validation) == 6 and len(split.selection) == 2 and len(split.train) == 12


def test_what_is_nearly_a_layout_is_refused_with_its_name(root):
    divide(root, {"train": range(7), "val": range(7, 10)})
    (root / "spare" / "cat").mkdir(parents=True)
    paint(root / "spare" / "cat" / "x.png", 77)
    with pytest.raises(UsageError, match=r"divided into train/, val/, and spare/ beside them holds pictures"):
        scan(root)
    (root / "spare").rename(root.parent / "spare")
    (root / "test").mkdir()
    paint(root / "test" / "x.png", 78)
    with pytest.raises(UsageError, match="test/ holds pictures without class folders"):
        scan(root)
    (root / "test" / "x.png").unlink()
    for name in ("images", "labels"):
        (root / "test" / name).mkdir()
    with pytest.raises(UsageError, match="a layout for detection"):
        scan(root)


def test_a_class_that_is_called_train_is_a_class(root):
    (root / "cat").rename(root / "train")
    assert scan(root).classes == ("dog", "train")


def test_a_drawn_placeholder_is_found_among_photographs_and_not_among_drawings(root):
    image = Image.new("RGB", (90, 70), (240, 240, 240))
    image.paste((10, 10, 10), (40, 30, 50, 34))
    image.save(root / "cat" / "notfound.png")
    assert kinds(scan(root))["placeholder"].files == ("cat/notfound.png",)
    for label, name in enumerate(("cat", "dog")):
        for number in range(12):
            drawn = Image.new("RGB", (64, 64), (20 * number, 250 - 20 * number, 100 * label))
            drawn.paste((255, 255, 255), (5 * number, 8, 5 * number + 9, 30 + label))
            drawn.save(root / name / f"drawn{number}.png")
    assert "placeholder" not in kinds(scan(root))


def test_a_dark_a_light_and_a_blurred_picture_are_named_among_others_alone(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(8):
            blocks = np.kron(rng.integers(60, 220, (9, 12, 3)), np.ones((8, 8, 1)))
            grain = rng.normal(0, 8, blocks.shape)
            Image.fromarray(np.clip(blocks + grain, 0, 255).astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    first = Image.open(tmp_path / "cat" / "0.png")
    first.rotate(90).point(lambda value: value // 20).save(tmp_path / "cat" / "night.png")
    first.rotate(180).filter(ImageFilter.GaussianBlur(9)).save(tmp_path / "dog" / "shaken.png")
    first.rotate(180).point(lambda value: min(255, 2 * value + 100)).save(tmp_path / "dog" / "noon.png")
    found = kinds(scan(tmp_path))
    assert (found["dark"].files, found["blurred"].files) == (("cat/night.png",), ("dog/shaken.png",))
    assert found["light"].files == ("dog/noon.png",)
    for path in tmp_path.glob("*/*.png"):
        Image.open(path).point(lambda value: value // 20).save(path)
    assert "dark" not in kinds(scan(tmp_path))
    for path in tmp_path.glob("*/*.png"):  # things on white paper, one of them blown out
        Image.open(path).point(lambda value: min(255, 180 + 8 * value)).save(path)
    assert "light" not in kinds(scan(tmp_path))


def test_what_belongs_together_stays_on_one_side_of_every_split(root):
    # Six drivers, in both classes alike; a picture of driver b is scaled and lies with driver c's: they are joined.
    Image.open(root / "cat" / "1.png").resize((80, 60)).save(root / "cat" / "twin.jpg", quality=85)
    folder = scan(root)
    driver = ["c" if p.name == "cat/twin.jpg" else "abcdef"[int(p.path.stem) % 6] for p in folder.pictures]
    held = keep_together(folder, driver)
    joined = ["b" if d == "c" else d for d in driver]
    for seed in range(10):
        split = split_pictures(held, seed=seed)
        sides = [{joined[i] for i in part} for part in (split.train, split.selection, split.validation)]
        assert all(sides) and sum(map(len, sides)) == 5
        assert sorted(split.train + split.selection + split.validation) == list(range(21))
    learned = [{joined[i] for i in learn} & {joined[i] for i in judge} for learn, judge in folds(held, range(21), 5, 0)]
    assert len(learned) == 5 and not any(learned)
    with pytest.raises(UsageError, match=r"of 2 kinds \(a, b\); expected at least 3"):
        keep_together(folder, ["ab"[i % 2] for i in range(21)])


def test_a_split_is_found_again_by_content_wherever_the_pictures_went(root):
    folder = scan(root)
    split = split_pictures(folder, seed=0)
    parts = {"train": split.train, "selection": split.selection, "validation": split.validation}
    kept = hashes_of(folder, parts)
    (root / "cat" / "0.png").rename(root / "cat" / "zebra.png")
    gone = folder.pictures[split.train[0]]
    if gone.path.exists():
        gone.path.unlink()
    else:
        (root / "cat" / "zebra.png").unlink()
    paint(root / "dog" / "new.png", 999)
    again = scan(root)
    found = find_again(again, kept)
    assert (found.lost, found.added) == (1, 1)
    for name, part in parts.items():
        wanted = [folder.pictures[i].sha256 for i in part if folder.pictures[i] is not gone]
        assert [again.pictures[i].sha256 for i in found.parts[name]] == wanted
    assert (
        found.sentence(root) == f"{root} has changed since training: 1 picture gone, 1 picture added since (left out)"
    )
    assert find_again(folder, kept).sentence(root) == ""


def test_consecutive_seeds_judge_by_every_picture_once(root):
    folder = scan(root)
    splits = [split_pictures(folder, seed=seed) for seed in range(5)]
    assert sorted(i for split in splits for i in split.validation) == list(range(20))
    for split in splits:
        assert sorted(split.train + split.selection + split.validation) == list(range(20))
        assert np.bincount(folder.labels[list(split.validation)]).tolist() == [2, 2]
    assert splits[0].validation != split_pictures(folder, seed=5).validation


def hash_of(name, number):
    return 1000 * ord(name[0]) + number


def test_centre_crop_takes_the_middle_and_other_names_take_everything():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    assert (prepare(pixels, SPEC, "centre-1") == 200).all()
    assert prepare(pixels, SPEC, "arcface-112")[0, 0, 0] == 0
    inner = np.zeros((40, 40, 3), np.uint8)
    inner[10:30, 10:30] = 99
    assert (prepare(inner, SPEC, "centre-0.5") == 99).all()


def test_groups_come_by_name_or_bare_name(root, tmp_path):
    folder = scan(root)
    table = tmp_path / "groups.csv"
    table.write_text("file,group\ncat/3.png,indoors\n")
    groups = read_table(table, folder).column("group")
    assert groups[[p.name for p in folder.pictures].index("cat/3.png")] == "indoors" and groups.count("") == 19
    for wrong in ("name,kind\nx,y\n", "file\ncat/3.png\n", "", "file,group\n"):
        table.write_text(wrong)
        with pytest.raises(UsageError, match="lacks a column"):
            read_table(table, folder)
    table.write_text("file,driver\ncat/1.png,ann\ncat/1.png,bob\n")
    with pytest.raises(UsageError, match=r"tells cat/1.png twice, as ann and bob"):
        read_table(table, folder)
    table.write_text("file,driver\n1.png,ann\n")
    with pytest.raises(UsageError, match=r"1.png, which 2 pictures are called"):
        read_table(table, folder)
    table.write_text("file,driver\nnobody.png,ann\n")
    with pytest.raises(UsageError, match=r"no file of .* is a picture"):
        read_table(table, folder)


def test_what_of_a_csv_is_of_no_use_is_said(root, tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("file,sex,camera\ncat/1.png,f,a\ncat/1.png,f,a\ndog/1.png,f,b\ngone.png,m,a\n")
    found = read_table(table, scan(root))
    assert found.unknown == ("gone.png",) and found.repeated == 1 and list(found.columns) == ["sex", "camera"]
    told = found.sentence()
    assert "no pictures of the folder: 1 of its files (gone.png)" in told and "said: 1" in told
    assert "sex has one value only" in told
    with pytest.raises(UsageError, match="no column 'age'"):
        found.column("age")


def test_sessions_are_seen_in_names_and_not_where_names_only_count(tmp_path):
    for label, name in enumerate(("phone", "wheel")):
        for place, driver in enumerate(("ann", "bob", "cat", "dan")):
            for number in range(4):
                seed = 1000 * label + 100 * place + number
                paint(tmp_path / "named" / name / f"{driver}_{number:03}.png", seed)
                paint(tmp_path / "classes" / name / f"{name}-{seed}.png", seed)
    found = find_sessions(scan(tmp_path / "named"))
    assert found is not None and set(found.values) == {"ann", "bob", "cat", "dan"} and found.by == "names"
    assert "32 pictures look like 4 sessions" in found.sentence(Path("s.csv"))
    assert find_sessions(scan(tmp_path / "classes")) is None


def test_sessions_are_seen_in_the_times_of_exif(tmp_path):
    for name in ("phone", "wheel"):
        for number in range(12):
            path = tmp_path / name / f"{hex(7919 * number + len(name))}z.jpg"
            paint(path, 100 * len(name) + number + (name == "wheel") * 50)
            with Image.open(path) as image:
                exif = Image.Exif()
                exif[0x0132] = f"2026:11:26 {10 + number // 4}:00:{number % 4:02}"
                image.save(path, exif=exif)
    found = find_sessions(scan(tmp_path))
    assert found is not None and found.by == "times in EXIF" and len(set(found.values)) == 3


def test_what_is_no_picture_is_counted_and_a_picture_is_one_by_its_bytes(tmp_path, monkeypatch):
    from tests.media.heic import HEIC

    monkeypatch.setattr("edge_app.media.folders.can_read_heic", lambda: False)
    for name in ("ants", "bees"):
        (tmp_path / name).mkdir()
        for index in range(5):
            pixels = np.random.default_rng([index, ord(name[0])]).integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.bak", "PNG")
        (tmp_path / name / "IMG_1.heic").write_bytes(HEIC)
    (tmp_path / "ants" / "notes.txt").write_text("hello")
    (tmp_path / "@eaDir").mkdir()
    folder = scan(tmp_path, CheckOptions())
    assert len(folder.pictures) == 10
    told = [finding for finding in folder.findings if finding.kind == "other files"]
    assert [(one.files, one.detail, one.action) for one in told] == [
        (
            (tmp_path.name,),
            "holds 2 HEIC pictures (to read them: pip install 'edge-app[heic]'), 1 other file (.txt)",
            "left out",
        )
    ]
