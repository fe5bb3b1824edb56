"""Translating pictures: what is kept, what is refused, a stopped run goes on to the same bits, a collapse is told."""

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
pytest.importorskip("torch")

import torch

from edge_app.core.errors import EdgeError, UsageError
from edge_models.data.checks import scan
from edge_models.data.made import mark_of, sources_of
from edge_models.fitting.checkpoint import save_state
from edge_models.fitting.progress import Silence
from edge_models.generate import adversarial, gan, translate
from edge_models.generate import apply as apply_room
from edge_models.generate.adversarial import diff_augment, hinge, read_pool, shared_out, spread
from edge_models.generate.apply import apply
from edge_models.generate.compose import ComposeOptions, compose
from edge_models.generate.gan import load_generator
from edge_models.generate.options import TranslateOptions
from edge_models.generate.translate import PatchNce, Translator, halvings_of, load_translator, train
from tests.models.kills import finished_is_left_alone, making_survives, training_survives


def paint(path, seed, colour, side=24):
    """A square of one colour somewhere on dark noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    x, y = rng.integers(2, side - 12, 2)
    pixels[y : y + 9, x : x + 9] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    root = tmp_path_factory.mktemp("pools")
    for number in range(20):
        paint(root / "a" / ("one" if number % 2 else "two") / f"{number}.png", number, (230, 40, 40))
        paint(root / "b" / f"{number}.png", 100 + number, (40, 230, 40))
    return root


def options(pools, run, **changes):
    given = {"size": 16, "steps": 6, "batch_size": 4, "device": "cpu"} | changes
    return TranslateOptions(pools / "a", pools / "b", run, **given)


@pytest.fixture(scope="module")
def run_folder(pools, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    train(options(pools, run), Silence())
    return run


def test_patch_nce_is_low_where_patches_are_their_own_and_high_where_they_are_moved():
    torch.manual_seed(0)
    maps, nce = torch.randn(2, 8, 6, 6), PatchNce([8])
    same, found = nce([maps], [maps], torch.Generator().manual_seed(0))
    moved, lost = nce([maps.roll(2, 3)], [maps], torch.Generator().manual_seed(0))
    assert float(same.detach()) < float(moved.detach()) and found == 1.0 and lost < 0.5


def test_the_hinge_by_hand():
    real, made = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert float(hinge(real, made)) == pytest.approx(0.25 + 0.5)


def test_the_discriminator_sees_other_pictures_and_gradients_pass():
    images = torch.rand(6, 3, 16, 16).mul(2).sub(1).requires_grad_(True)
    seen = diff_augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(seen, diff_augment(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(seen, diff_augment(images, torch.Generator().manual_seed(2)))
    holes = (seen == 0).all(1).float().mean((1, 2))
    assert (holes > 0.03).all() and (holes < 0.6).all()
    seen.sum().backward()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_spread_of_one_picture_is_nothing_and_detail_is_no_variety():
    one = torch.rand(1, 3, 16, 16)
    chequered = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 0.5
    assert spread(one.expand(5, -1, -1, -1)) < 1e-3
    detail = torch.stack([chequered, chequered.roll(1, 0)])[:, None].expand(-1, 3, -1, -1)
    assert spread(detail) < 1e-3 < 0.3 < spread(torch.rand(9, 3, 1, 1).expand(-1, -1, 16, 16))


def test_the_marks_of_a_set_name_all_sources_together():
    sources = [str(number) for number in range(10)]
    named = [shared_out(sources, 4, number, ["own"]) for number in range(4)]
    assert set().union(*named[1:]) == {*sources, "own"} and max(map(len, named)) == 7
    many = [str(number) for number in range(100_000)]
    assert len(shared_out(many, 3, 2)) * 68 < 65_536 / 2


def test_worth_tells_what_stays_and_what_comes_near():
    draw = torch.Generator().manual_seed(0)
    source, target = (torch.rand(40, 3, 16, 16, generator=draw) - shift for shift in (0, 1))
    kept, closed = translate.worth(source, source - 1, target)
    assert kept > 0.9 and closed > 0.95
    kept, closed = translate.worth(source, target, target)
    assert abs(kept) < 0.1 and closed > 0.95
    kept, closed = translate.worth(source, source, target)
    assert kept > 0.9 and abs(closed) < 0.01
    flat = torch.rand(40, 3, 1, 1, generator=draw).expand(-1, -1, 16, 16)
    assert abs(translate.worth(flat, target, target)[0]) < 0.1


def test_domains_that_share_nothing_are_told(pools, tmp_path, monkeypatch):
    monkeypatch.setattr(translate, "worth", lambda source, made, target: (0.02, 0.2))
    found = train(options(pools, tmp_path / "run", steps=2), Silence())
    assert [note.partition(":")[0] for note in found.notes] == [
        "translated pictures keep next to none of their edges (0.02 of 1)",
        "translation closes 20% of the distance from a to b",
    ]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_translator_gives_the_size_it_takes(size):
    net = Translator(halvings_of(size))
    made = net(torch.zeros(2, 3, size, size))
    assert made.shape == (2, 3, size, size)
    assert len(net.widths) == len(net.maps(torch.zeros(1, 3, size, size)))


def test_pools_are_read_with_what_is_wrong_told(pools, tmp_path):
    told = []
    say = Silence()
    say.note = told.append
    for number in range(3):
        paint(tmp_path / f"{number}.png", 1, (9, 9, 9))
    Image.new("L", (40, 17), 7).save(tmp_path / "grey.jpg")
    Image.new("RGBA", (9, 90), (1, 2, 3, 4)).save(tmp_path / "clear.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    pool = read_pool(tmp_path, 16, 3, say)
    assert pool.images.shape == (3, 3, 16, 16)
    assert [one.removeprefix(f"{tmp_path}: left out, for it ") for one in told] == [
        f"cannot be read: 1 of 6 ({tmp_path / 'bad.png'} is not a picture)", "is there twice: 2 of 6",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="holds 3 distinct pictures"):
        read_pool(tmp_path, 16, 8, say)


def test_one_folder_twice_is_refused_and_nothing_is_begun(pools, tmp_path):
    given = TranslateOptions(pools / "a", pools / "a", tmp_path / "run", steps=2)
    with pytest.raises(UsageError, match="the same pictures"):
        train(given, Silence())
    assert not (tmp_path / "run").exists()


def test_labels_sizes_and_marks_are_kept(pools, run_folder, tmp_path):
    source = tmp_path / "source"
    for name, number, side in (("one/x.png", 1, 24), ("one/y.png", 2, 31), ("two/z.png", 3, 20)):
        paint(source / name, number, (230, 40, 40), side)
    Image.open(source / "one" / "x.png").save(source / "one" / "x.bmp")
    (source / "two" / "bad.png").write_bytes(b"nothing")
    made = apply(run_folder, source, tmp_path / "out")
    written = sorted(p.relative_to(tmp_path / "out" / "pictures").as_posix()
                     for p in (tmp_path / "out" / "pictures").rglob("*.png"))  # fmt: skip
    assert written == ["one/x.bmp.png", "one/x.png", "one/y.png", "two/z.png"]
    assert made.pictures == 4 and len(made.notes) == 1 and "bad.png" in made.notes[0]
    assert Image.open(tmp_path / "out" / "pictures" / "one" / "y.png").size == (31, 31)
    mark = mark_of(tmp_path / "out" / "pictures" / "two" / "z.png")
    assert mark["by"] == "edge-app translate"
    assert hashlib.sha256((source / "two" / "z.png").read_bytes()).hexdigest() in sources_of(mark)
    named = frozenset().union(*(sources_of(mark_of(p)) for p in (tmp_path / "out" / "pictures").rglob("*.png")))
    looked_at = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (pools / "b").iterdir()}
    assert looked_at <= named


def test_transparency_stays_where_it_was(run_folder, tmp_path):
    alpha = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    whole = np.full((9, 9, 4), 255, np.uint8)
    seen = {"cut.png": np.dstack([np.full((30, 20, 3), 90, np.uint8), alpha]), "whole.png": whole}
    (tmp_path / "source").mkdir()
    for name, pixels in seen.items():
        Image.fromarray(pixels).save(tmp_path / "source" / name)
    apply(run_folder, tmp_path / "source", tmp_path / "out")
    with Image.open(tmp_path / "out" / "pictures" / "cut.png") as found:
        assert found.mode == "RGBA" and np.array_equal(np.asarray(found)[..., 3], alpha)
    with Image.open(tmp_path / "out" / "pictures" / "whole.png") as found:
        assert found.mode == "RGB"


def test_what_is_translated_never_judges(pools, run_folder, tmp_path):
    apply(run_folder, pools / "a", tmp_path / "out")
    with pytest.raises(UsageError, match="holds 20 made pictures and 0 to judge by"):
        scan(tmp_path / "out" / "pictures")


def test_boxes_and_masks_of_composed_pictures_come_along(run_folder, tmp_path):
    compose(ComposeOptions(tmp_path / "made", text="digits", count=1, width_px=40, height_px=32))
    (tmp_path / "made" / "pictures" / "3" / "000003.png").write_bytes(b"broken meanwhile")
    found = apply(run_folder, tmp_path / "made", tmp_path / "out")
    before, after = (json.loads((tmp_path / name / "boxes.json").read_text()) for name in ("made", "out"))
    assert after["categories"] == before["categories"] and found.boxes == 9
    assert [one for one in before["annotations"] if one["image_id"] != 3] == after["annotations"]
    for image in after["images"]:
        with Image.open(tmp_path / "out" / image["file_name"]) as seen:
            assert seen.size == (image["width"], image["height"])
        mask = image["file_name"].replace("pictures/", "masks/")
        assert (tmp_path / "out" / mask).read_bytes() == (tmp_path / "made" / mask).read_bytes()


def test_nothing_is_replaced_and_nothing_half_made_is_left(pools, run_folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is there already"):
        apply(run_folder, pools / "a", pools / "b")
    with pytest.raises(UsageError, match="lies within"):
        apply(run_folder, pools / "a", pools / "a" / "out")
    with pytest.raises(UsageError, match="holds no translator"):
        apply(pools, pools / "a", tmp_path / "out")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(apply_room, "write_made", full)
    with pytest.raises(EdgeError, match="No space left on device"):
        apply(run_folder, pools / "a", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_damaged_translator_is_told(pools, run_folder, tmp_path):
    (tmp_path / "run").mkdir()
    whole = (run_folder / translate.FILE).read_bytes()
    (tmp_path / "run" / translate.FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EdgeError, match="damaged or cut short"):
        apply(tmp_path / "run", pools / "a", tmp_path / "out")


def test_a_stopped_run_goes_on_to_the_same_bits(pools, run_folder, tmp_path, monkeypatch):
    kept, taken = translate._Cut.step, []

    def step(self, number, draw):
        if number == 4 and not taken:
            taken.append(number)
            raise KeyboardInterrupt
        return kept(self, number, draw)

    monkeypatch.setattr(translate._Cut, "step", step)
    given = options(pools, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(given, Silence())
    with pytest.raises(UsageError, match="other steps"):
        train(options(pools, tmp_path / "run", steps=7, resume=True), Silence())
    train(options(pools, tmp_path / "run", resume=True), Silence())
    whole, again = (adversarial.load_state(one / translate.FILE)["weights"] for one in (run_folder, tmp_path / "run"))
    assert whole.keys() == again.keys() and taken
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


def test_a_translator_that_gives_one_picture_has_collapsed(pools, tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "YOUNG", 0)
    monkeypatch.setattr(Translator, "forward", lambda self, images: torch.zeros_like(images))
    with pytest.raises(EdgeError, match=r"collapsed by step \d: what it makes differs 0.00 times"):
        train(options(pools, tmp_path / "run"), Silence())
    assert not (tmp_path / "run" / translate.FILE).exists()


@pytest.mark.slow
def test_red_squares_become_green_ones_where_they_lie(pools, tmp_path):
    given = options(pools, tmp_path / "run", steps=250, batch_size=8, learning_rate=0.001)
    found = train(given, Silence())
    assert found.kept > 0.3 and found.closed > 0.5 and not found.notes
    apply(tmp_path / "run", pools / "a", tmp_path / "out")
    greener, near = [], []
    for number in range(20):
        name = f"{'one' if number % 2 else 'two'}/{number}.png"
        before = np.asarray(Image.open(pools / "a" / name), float)
        after = np.asarray(Image.open(tmp_path / "out" / "pictures" / name), float)
        square = before[..., 0] > 150
        greener.append(after[square][:, 1].mean() > after[square][:, 0].mean() + 30)
        near.append(after[square].mean() > 1.5 * after[~square].mean())
    assert np.mean(greener) > 0.8 and np.mean(near) > 0.8


def test_a_finished_run_is_not_trained_again(pools, run_folder, monkeypatch):
    monkeypatch.setattr(translate._Cut, "step", None)
    finished_is_left_alone(run_folder, lambda: train(options(pools, run_folder, resume=True), Silence()))


@pytest.mark.slow
def test_kills_and_a_full_disk_leave_no_half_made_run_and_no_half_made_set(pools, run_folder, tmp_path):
    words = ["--size", "16", "--steps", "80", "--batch-size", "4", "--device", "cpu"]
    training_survives(tmp_path, ["translate", "train", str(pools / "a"), str(pools / "b"), *words], translate.FILE)
    for number in range(150):
        paint(tmp_path / "many" / ("one" if number % 2 else "two") / f"{number}.png", number, (230, 40, 40))
    making_survives(tmp_path, ["translate", "apply", str(run_folder), str(tmp_path / "many"), "--into"])


@pytest.mark.parametrize(("load", "name"), [(load_translator, translate.FILE), (load_generator, gan.FILE)])
@pytest.mark.parametrize("state", [{"kind": "another"}, {"kind": "translator"}, {"kind": "generator", "size": 32}, {}])
def test_a_network_of_another_kind_or_version_is_told_in_one_line(tmp_path, load, name, state):
    save_state(tmp_path / name, {**state, "weights": torch.zeros(1)})
    with pytest.raises(UsageError, match="of this version") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value) and "train again" in str(refused.value)
