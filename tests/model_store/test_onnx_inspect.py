"""Files are looked into without being run: what they hold, and what they must not."""

import json
import struct
from dataclasses import replace

import pytest

from edge_app.core.errors import ModelError
from edge_app.inference import onnx_model
from edge_app.model_store import catalogue, shipped
from edge_app.model_store.onnx_inspect import inspect, inspect_bytes, with_card
from tests.model_store import onnx_by_hand as by_hand


def refused(content, *words):
    with pytest.raises(ModelError) as told:
        inspect_bytes(content, "net.onnx")
    line = str(told.value)
    assert "\n" not in line and len(line) < 600
    for word in ("net.onnx", *words):
        assert word in line, line


def test_what_a_file_holds_is_told():
    file = inspect_bytes(by_hand.colour_classifier(), "net.onnx")
    assert file.ir_version == 8 and dict(file.opsets) == {"": 17} and file.card is None
    assert file.operators == ("GlobalAveragePool", "MatMul", "Reshape") and file.nodes == 3
    assert [(p.name, p.shape) for p in file.inputs] == [("input", ("N", 3, 32, 32))]
    assert [(p.name, p.shape) for p in file.outputs] == [("logits", ("N", 3))]
    assert file.tensors == 2 and file.tensor_bytes == 16 + 36


@pytest.mark.parametrize("entry", shipped.entries(), ids=lambda entry: entry.path.name)
def test_the_shipped_files_are_allowed_and_their_cards_are_read(entry):
    file = inspect(entry.path)
    assert file.card.id == entry.id and file.size_bytes == entry.bytes
    assert file.card.outputs == tuple(port.name for port in file.outputs)


def test_it_agrees_with_the_onnx_package():
    onnx = pytest.importorskip("onnx")
    path = catalogue.build(None, "sface", "int8").path
    file, model = inspect(path), onnx.load(path)
    assert file.nodes == len(model.graph.node) and set(file.operators) == {n.op_type for n in model.graph.node}
    assert file.tensors == len(model.graph.initializer)
    assert file.tensor_bytes == sum(onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer)


def test_a_card_replaces_the_one_that_was_there(tmp_path):
    entry = catalogue.build(None, "mtcnn-pnet", "fp32")
    content = entry.path.read_bytes()
    card = replace(inspect(entry.path).card, id="another")
    twice = with_card(with_card(content, card), replace(card, id="third"))
    assert twice.count(b"edge_app.card") == 1
    (tmp_path / "net.onnx").write_bytes(twice)
    assert onnx_model.load(tmp_path / "net.onnx").card.id == "third"
    assert with_card(content, inspect(entry.path).card).startswith(content[:1000])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\xd8\xff\xe0" + b"x" * 100, "JPEG"),
        (b"PK\x03\x04" + b"x" * 100, "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"hello, this is no network at all", "not an ONNX file"),
        (b"\x08\x08", "not an ONNX file"),
        (b"\xff" * 64, "not an ONNX file"),
        (bytes(100), "not an ONNX file"),
    ],
)
def test_other_files_are_no_onnx_files(content, word):
    refused(content, word)


def test_every_cut_is_noticed():
    whole = by_hand.colour_classifier()
    for length in range(1, len(whole) - 1):
        with pytest.raises(ModelError):
            inspect_bytes(whole[:length], "net.onnx")


def test_an_empty_and_a_missing_file(tmp_path):
    (tmp_path / "empty.onnx").touch()
    for name, word in (("empty.onnx", "empty"), ("none.onnx", "cannot be read")):
        with pytest.raises(ModelError, match=word):
            inspect(tmp_path / name)


@pytest.mark.parametrize("place", ["../../etc/passwd", "/etc/passwd", "a/../../x", "C:\\x", "..\\x"])
def test_data_outside_the_folder_is_refused(place):
    refused(by_hand.network([by_hand.external("w", [4], place)]), "outside its folder", "one file")


def test_data_in_another_file_is_refused_with_what_to_do():
    refused(by_hand.network([by_hand.external("w", [4], "w.bin")]), "another file", "save_as_external_data=False")


def test_external_data_in_a_constant_is_found_too():
    constant = by_hand.text(1, "value") + by_hand.chunk(5, by_hand.external("", [4], "/etc/passwd"))
    refused(by_hand.network(nodes=[by_hand.node("Constant", [], ["c"], attributes=[constant])]), "outside its folder")


@pytest.mark.parametrize("domain", ["evil", "com.microsoft", "ai.onnx.training"])
def test_custom_operators_are_refused(domain):
    refused(by_hand.network(nodes=[by_hand.node("RunShell", [], ["c"], domain)]), f"{domain}.RunShell", "custom")


def test_custom_operators_in_a_branch_are_refused():
    branch = by_hand.graph([by_hand.node("RunShell", [], ["c"], "evil")])
    attribute = by_hand.text(1, "then_branch") + by_hand.chunk(6, branch)
    refused(by_hand.network(nodes=[by_hand.node("If", ["x"], ["c"], attributes=[attribute])]), "evil.RunShell")


def test_what_the_quantizer_writes_is_allowed():
    quantized = by_hand.network(nodes=[by_hand.node("QGemm", [], ["c"], "com.microsoft")])
    assert inspect_bytes(quantized, "net.onnx").card is None


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (by_hand.tensor("w", [1 << 40, 1 << 20], b""), "declares the shape"),
        (by_hand.tensor("w", [1 << 62, 4], b""), "declares the shape"),
        (by_hand.tensor("w", [-4], b""), "declares the shape"),
        (by_hand.tensor("w", [1000], b"\0" * 40), "4000 bytes, and holds 40"),
        (by_hand.tensor("w", [1000]), "1000 numbers, and holds 0"),
        (by_hand.tensor("w", [2], b"\0" * 8, kind=99), "element type 99"),
    ],
)
def test_a_tensor_must_hold_what_it_declares(tensor, word):
    refused(by_hand.network([tensor]), "'w'", word)


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand"])
def test_a_huge_tensor_built_from_a_small_shape_is_refused(kind):
    shape = by_hand.tensor("shape", [2], struct.pack("<2q", 1 << 30, 1 << 10), by_hand.INT64)
    refused(by_hand.network([shape], [by_hand.node(kind, ["x", "shape"], ["c"])]), kind)


def test_a_huge_input_is_refused():
    refused(by_hand.network(shape=(1, 3, 1 << 20, 1 << 20)), "input")


def test_metadata_bombs_are_refused():
    refused(by_hand.network(metadata=[(f"key{i}", "x") for i in range(1000)]), "metadata entries")
    refused(by_hand.network(metadata=[("key", "x" * (5 << 20))]), "metadata entry of")
    refused(by_hand.network(metadata=[("edge_app.card", "{}"), ("edge_app.card", "{}")]), "twice")


def test_a_card_with_a_million_labels_or_depths_is_refused():
    card = inspect(catalogue.build(None, "sface", "int8").path).card
    labels = json.dumps(json.loads(card.to_json()) | {"labels": [str(i) for i in range(60_000)]})
    for text in (labels, "[" * 200_000, '{"id": 1}', "null", '{"input": []}'):
        file = inspect_bytes(by_hand.network(metadata=[("edge_app.card", text)]), "net.onnx")
        with pytest.raises(ModelError):
            _ = file.card


def test_deep_graphs_are_refused():
    body = by_hand.graph([by_hand.node("Identity", ["x"], ["y"])])
    for _ in range(40):
        attribute = by_hand.text(1, "body") + by_hand.chunk(6, body)
        body = by_hand.graph([by_hand.node("Loop", ["x"], ["y"], attributes=[attribute])])
    refused(by_hand.model(body), "deeper")
