"""Anything is enrolled from two pictures: over a stub whose vectors are the picture's own blocks of colour."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_app.cli import main
from edge_app.core.errors import GalleryError, UsageError
from edge_app.core.model_card import InputSpec, ModelCard, OperatingPoint
from edge_app.core.types import Frame
from edge_app.gallery import calibration
from edge_app.gallery.calibration import Calibration
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot
from edge_app.gallery.kept_pictures import kept_picture
from edge_app.media.pictures import write_picture
from edge_app.recognition.open_session import open_people, open_things
from edge_app.system.settings import Settings
from tests.fakes import points

POINTS = points((1e-1, 0.3), (1e-2, 0.5), (1e-3, 0.7), pairs=10_000)


def blocks(path, **changes):
    """A general image embedder of 32x32: the means of 8x8 blocks, centred, as one vector of 48."""
    fields = {
        "id": "blocks",
        "task": "image-embedding",
        "family": "embedding",
        "input": InputSpec("input", 32, 32, mean=(127.5,) * 3, std=(127.5,) * 3),
        "outputs": ("embedding",),
        "precision": "fp32",
        "licence": "CC0-1.0",
        "commercial_use": True,
        "origin": "made up",
        "origin_sha256": "0" * 64,
        "crop": "centre-1",
        "embedding_size": 48,
        "operating_points": POINTS,
    }
    card = ModelCard(**fields | changes)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
    ]
    ins = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 32, 32])]
    outs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 48])]
    graph = helper.make_graph(nodes, "blocks", ins, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {ModelCard.KEY: card.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"id": card.id, "precision": "fp32", "task": card.task, "file": path.name, "sha256": digest}
    listed = {"models": [entry | {"bytes": path.stat().st_size}]}
    (path.parent / "installed.json").write_text(json.dumps(listed))
    return digest


def thing(seed, size_px=160, noise=0):
    """A picture of 4x4 random colours with a little grain; `noise` seeds another view of it, in other light."""
    colours = np.random.default_rng(seed).choice([30, 220], (4, 4, 3))
    view = np.random.default_rng(1000 + noise)
    large = np.kron(colours + view.normal(0, 6, colours.shape), np.ones((size_px // 4, size_px // 4, 1)))
    grain = view.normal(0, 12, large.shape)
    return np.clip(large + grain, 0, 255).astype(np.uint8)


def on_desk(picture, at=(200, 100), desk=(480, 640)):
    """The thing on a grey desk, and its box."""
    scene = np.full((*desk, 3), 128, np.uint8)
    x, y = at
    scene[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return scene, np.array([x, y, x + picture.shape[1], y + picture.shape[0]], np.float32)


@pytest.fixture
def bench(home):
    blocks(home.models_dir / "blocks-fp32.onnx")
    with (made := open_things(home, Settings(keep_pictures=True), "blocks")).vault:
        yield made


def enroll(bench, name, *seeds, noise=0):
    looks = [(f"{s}.png", bench.recognizer.shot(thing(s, noise=noise + i), f"{s}.png")) for i, s in enumerate(seeds)]
    verdicts = bench.enroll(name, looks, EnrollOptions())
    return bench.refreshed(), [v.refusal.reason if v.refusal else None for v in verdicts]


def name_of(bench, pixels, area=None):
    [spotted] = bench.recognizer.looking_at(area).observe(Frame(pixels)).findings
    return spotted.answer.name


def test_two_pictures_in_a_name_out_and_strangers_are_nobody(bench):
    bench, reasons = enroll(bench, "mug", 1, 1)
    assert reasons == [None, None]
    assert name_of(bench, thing(1, noise=7)) == "mug"
    assert name_of(bench, thing(2)) is None
    reading = open_things(bench.home, bench.settings, "blocks").recognizer.observe(Frame(thing(1)), explain=True)
    assert [one.name for one in reading.findings] == ["mug"]
    assert set(reading.timings_ms) == {"cut", "embed", "match", "total"}


def test_a_box_is_looked_at_whole_wherever_it_lies(bench):
    bench, _ = enroll(bench, "mug", 1, 1)
    for at in ((0, 0), (200, 100), (480, 320)):
        scene, box = on_desk(thing(1, noise=3), at)
        assert name_of(bench, scene) is None
        assert name_of(bench, scene, box) == "mug"
    [spotted] = bench.recognizer.looking_at(box).observe(Frame(scene)).findings
    assert spotted.box.tolist() == box.tolist()


def test_a_long_box_at_the_edge_is_neither_cut_nor_stretched(bench):
    scene = np.full((100, 300, 3), 60, np.uint8)
    shot = bench.recognizer.shot(scene, "x", box=np.array([0, 20, 300, 80], np.float32))
    assert isinstance(shot, Shot) and shot.quality.face_px == 60
    middle, top = shot.crop[16, :, 0], shot.crop[:5, 16, 0]
    assert set(middle.tolist()) == {60} and set(top.tolist()) == {128}


def test_an_area_that_a_smaller_source_lacks_means_the_whole_picture(bench):
    bench, _ = enroll(bench, "mug", 1, 1)
    assert name_of(bench, thing(1), np.array([600, 400, 700, 500], np.float32)) == "mug"
    refused = bench.recognizer.shot(thing(1), "x", box=np.array([600, 400, 700, 500], np.float32))
    assert isinstance(refused, Refusal) and "outside the picture of 160x160" in refused.message


@pytest.mark.parametrize("box", [(0, 0, 9000, 9000), (-5, 0, 160, 160), (0, 0, 160, 163), (158, 0, 400, 160)])
def test_a_box_that_reaches_over_the_edge_is_refused(bench, box):
    refused = bench.recognizer.shot(thing(1), "x", box=np.array(box, np.float32))
    assert isinstance(refused, Refusal) and refused.reason == "outside" and "160x160 px" in refused.message
    small = bench.recognizer.shot(thing(1), "x", box=np.array((10, 10, 15, 90), np.float32))
    assert isinstance(small, Refusal) and small.reason == "too-small" and "less than 8 px" in small.message
    # A box in a huge picture that was shrunk may be half a pixel beyond.
    assert isinstance(bench.recognizer.shot(thing(1), "x", box=np.array((0, 0, 160.5, 160), np.float32)), Shot)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (thing(1, 40), "too-small"),
        ((thing(1) * 0.04).astype(np.uint8), "too-dark"),
        (np.clip(thing(1).astype(int) + 300, 0, 255).astype(np.uint8), "blown-out"),
        (np.tile(np.linspace(40, 200, 160).astype(np.uint8)[None, :, None], (160, 1, 3)), "blurred"),
    ],
)
def test_the_gate_names_what_is_wrong(bench, pixels, reason):
    [verdict] = bench.enroll("mug", [("x", bench.recognizer.shot(pixels, "x"))], EnrollOptions())
    assert verdict.refusal is not None and verdict.refusal.reason == reason
    assert bench.vault.names() == ()


def test_the_odd_one_out_and_the_double_are_refused(bench):
    bench, reasons = enroll(bench, "mug", 1, 1, 5)
    assert reasons == [None, None, "unlike-the-others"]
    bench, reasons = enroll(bench, "cup", 1, noise=9)
    assert reasons == ["looks-like-somebody-else"]
    assert bench.vault.names() == ("mug",)


def test_a_picture_counts_once(bench):
    bench, reasons = enroll(bench, "mug", 1)
    assert reasons == [None]
    bench, reasons = enroll(bench, "mug", 1, 1)
    assert reasons == ["enrolled-already", None]
    assert len(bench.vault.identity("mug").templates) == 2


def test_what_is_kept_is_the_area(bench):
    scene, box = on_desk(thing(1))
    bench.enroll("mug", [("x", bench.recognizer.shot(scene, "x", box=box))], EnrollOptions())
    [picture] = bench.vault.pictures("mug", "blocks")
    assert picture is not None
    kept = kept_picture(picture)
    assert kept.pixels.shape == (160, 160, 3) and kept.face is None and not kept.upright_crop


def test_calibrated_points_come_before_the_cards(home):
    digest = blocks(home.models_dir / "blocks-fp32.onnx")
    high = tuple(OperatingPoint(p.fmr, p.threshold + 0.25, 1000, p.templates) for p in POINTS)
    calibration.save(home, [Calibration("blocks", digest, 10, 30, high)], 1.0)
    made = open_things(home, Settings(), "blocks")
    assert made.points == high and made.recognizer.rule.threshold > 0.7


def test_without_points_the_way_out_is_told(home):
    blocks(home.models_dir / "blocks-fp32.onnx", operating_points=())
    with pytest.raises(GalleryError, match="edge-app calibrate DIR --model blocks"):
        open_things(home, Settings(), "blocks")


def test_a_face_embedder_reads_no_things(home):
    with pytest.raises(UsageError, match="expected a general image embedder"):
        open_things(home, Settings(), "sface")


def test_from_a_folder_to_a_name_on_the_command_line(home, tmp_path, capsys):
    blocks(home.models_dir / "blocks-fp32.onnx", operating_points=())
    for seed in range(12):
        (tmp_path / "all" / f"thing {seed}").mkdir(parents=True)
        for view in range(3):
            write_picture(tmp_path / "all" / f"thing {seed}" / f"{view}.png", thing(seed, noise=view + 10 * seed))
    end = ["--home", str(home.path), "--json"]
    assert main(["calibrate", str(tmp_path / "all"), "--model", "blocks", *end]) == 0
    [report] = json.loads(capsys.readouterr().out)["builds"]
    assert report["identities"] == 12 and report["pictures"] == 36 and len(report["points"]) >= 4
    assert report["warning"] is None
    scene, box = on_desk(thing(3, noise=99))
    write_picture(tmp_path / "desk.png", scene)
    where = ",".join(str(int(v)) for v in box)
    assert main(["enroll", "mug", str(tmp_path / "desk.png"), "--model", "blocks", "--box", where, *end]) == 0
    [told] = json.loads(capsys.readouterr().out)["enrolled"]
    assert told["model"] == "blocks" and told["shots"][0]["quality"]["face_px"] == 160
    assert main(["gallery", "list", *end]) == 0
    assert json.loads(capsys.readouterr().out)["people"][0]["templates"] == {"blocks": 1}
    write_picture(tmp_path / "huge.png", np.zeros((60, 5000, 3), np.uint8))
    assert main(["enroll", "saw", str(tmp_path / "huge.png"), "--model", "blocks", "--box", "0,0,9000,60", *end]) == 1
    [told] = json.loads(capsys.readouterr().out)["enrolled"]
    assert "the box 0, 0, 9000, 60 lies outside the picture of 5000x60 px" in told["shots"][0]["message"]
    assert main(["enroll", "Ada", str(tmp_path / "desk.png"), "--box", where, *end]) == 2
    assert main(["calibrate", str(tmp_path / "all" / "thing 1"), "--model", "blocks", *end]) == 1
    assert main(["calibrate", "--reset", "--model", "blocks", *end]) == 0


def test_calibrate_takes_the_embedder_and_the_detector_in_use(home, tmp_path, capsys):
    blocks(home.models_dir / "blocks-fp32.onnx", operating_points=())
    for seed in range(12):
        (tmp_path / "all" / f"thing {seed}").mkdir(parents=True)
        for view in range(3):
            write_picture(tmp_path / "all" / f"thing {seed}" / f"{view}.png", thing(seed, noise=view + 10 * seed))
    end = ["--home", str(home.path)]
    home.change_settings(model="blocks")
    assert main(["calibrate", str(tmp_path / "all"), *end, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "blocks"
    listed = home.models_dir / "installed.json"
    [entry] = json.loads(listed.read_text())["models"]
    listed.write_text(json.dumps({"models": [entry, entry | {"id": "my-yunet", "task": "face-detection"}]}))
    assert main(["calibrate", str(tmp_path / "all"), *end, "--model", "sface", "--detector", "gone"]) == 2
    assert "expected yunet or mtcnn or my-yunet" in capsys.readouterr().err


@pytest.mark.parametrize("box", ["1,2,3", "5,5,1,9", "a,b,c,d", "nan,0,1,1", "0,0,inf,1"])
def test_a_box_that_is_none_is_misuse(box, capsys):
    assert main(["enroll", "mug", "x.png", "--model", "blocks", "--box", box]) == 2
    assert "no box" in capsys.readouterr().err


def test_things_follow_to_another_image_embedder_and_are_no_people(home, tmp_path, capsys):
    end = ["--home", str(home.path)]
    home.change_settings(keep_pictures=True, precision="fp32")
    blocks(home.models_dir / "old.onnx", id="old")
    for number, name in enumerate(("mug", "saw")):
        write_picture(tmp_path / f"{name}.png", thing(number))
        assert main(["enroll", name, str(tmp_path / f"{name}.png"), "--model", "old", *end]) == 0
    home.change_settings(keep_pictures=False)
    write_picture(tmp_path / "box.png", thing(7))
    assert main(["enroll", "box", str(tmp_path / "box.png"), "--model", "old", *end]) == 0
    blocks(home.models_dir / "new.onnx", id="new")  # the list names this one alone: the old one is gone
    capsys.readouterr()
    assert main(["recognize", str(tmp_path / "mug.png"), "--model", "new", *end]) == 0
    told = capsys.readouterr()
    assert "3 things must be enrolled again for new: box, mug, saw" in told.err
    assert "`edge-app gallery reenroll --model new` tries 2 from kept pictures" in told.err and "unknown" in told.out
    with (bench := open_people(home)).vault:
        assert bench.missing == (), "things are nobody's face"
    assert main(["gallery", "reenroll", "--model", "new", "--json", *end]) == 1
    people = json.loads(capsys.readouterr().out)["people"]
    assert [(one["name"], one["templates"]) for one in people] == [("box", 0), ("mug", 1), ("saw", 1)]
    assert main(["recognize", str(tmp_path / "mug.png"), "--model", "new", *end]) == 0
    assert "mug 1.00" in capsys.readouterr().out
    with (bench := open_people(home)).vault as vault:
        [old], [new] = vault.identity("mug", "old").templates, vault.identity("mug", "new").templates
        assert new.quality.face_px == old.quality.face_px and all(vault.pictures("mug", "new"))
    assert main(["gallery", "reenroll", "--model", "yunet", *end]) == 2


def test_a_removed_model_takes_its_things_out_of_use_and_people_are_not_asked_for(home, tmp_path, capsys):
    end = ["--home", str(home.path)]
    home.change_settings(precision="fp32")
    blocks(home.models_dir / "things.onnx", id="things")
    assert main(["models", "use", "things", *end]) == 0
    for number, name in enumerate(("mug", "mug3")):
        write_picture(tmp_path / f"{name}.png", thing(number))
        assert main(["enroll", name, str(tmp_path / f"{name}.png"), "--model", "things", *end]) == 0
    rows = np.random.default_rng(0).normal(size=(1, 48))
    np.savez(tmp_path / "more.npz", names=np.array(["saw"]), encodings=rows, model=np.array("things"))
    assert main(["gallery", "import", str(tmp_path / "more.npz"), "--model", "things", *end]) == 0
    capsys.readouterr()
    assert main(["models", "remove", "things", *end]) == 0
    assert "3 things stay in the gallery" in (told := capsys.readouterr().out) and "mug, mug3, saw" in told
    home.change_settings(embedder="other", precision="fp32")
    for command in (["models", "use", "sface"], ["recognize", str(tmp_path / "mug.png")]):
        assert main([*command, *end]) == 0
        told = capsys.readouterr()
        assert "enrolled again" not in told.out + told.err and "mug, mug3" not in told.out + told.err


def test_an_embedder_that_cannot_tell_things_apart_says_so(home, tmp_path, capsys):
    blocks(home.models_dir / "blocks-fp32.onnx", operating_points=())
    for name in range(12):
        (tmp_path / "all" / f"thing {name}").mkdir(parents=True)
        for view in range(4):  # no two pictures of a thing have anything in common
            write_picture(tmp_path / "all" / f"thing {name}" / f"{view}.png", thing(10 * name + view))
    command = ["calibrate", str(tmp_path / "all"), "--model", "blocks", "--home", str(home.path)]
    assert main([*command, "--json"]) == 0
    [report] = json.loads(capsys.readouterr().out)["builds"]
    assert report["trial"]["fnir"]["value"] > 0.5 and "blocks (fp32) can hardly tell" in report["warning"]
    assert main(command) == 0
    assert "can hardly tell these things apart" in (told := capsys.readouterr().err) and "train siamese" in told


@pytest.mark.parametrize("command", ["calibrate", "enroll"])
def test_the_help_says_what_calibration_wants(command, capsys):
    assert main([command, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "at least 10 sub-folders" in told and "3 or more pictures each" in told and "once before the first" in told
