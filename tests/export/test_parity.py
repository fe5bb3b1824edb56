"""The gate lets through what agrees, refuses what does not, and never harms what was there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec, ModelCard, OperatingPoint
from edge_app.inference import onnx_model
from edge_export.check.parity import EXPORTED_LOGITS, Candidate, Rule, admit, compare
from edge_export.graph.card import attach_card, read_card
from edge_export.graph.manifest import pinned, record, refresh_manifest, rewrite_card
from edge_export.graph.session import one_by_one

CARD = ModelCard(
    id="tiny",
    task="face-embedding",
    family="embedding",
    input=InputSpec("x", 4, 4),
    outputs=("y",),
    precision="fp32",
    licence="MIT",
    commercial_use=True,
    origin="made by hand",
    origin_sha256="0" * 64,
    embedding_size=48,
)
X = np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32)


def times(factor: float, batch: int | str = "N") -> onnx.ModelProto:
    """Flatten(x) * factor."""
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Mul", ["f", "k"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 48])],
        [numpy_helper.from_array(np.float32(factor).reshape(1), "k")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def origin(batch: np.ndarray) -> list[np.ndarray]:
    return [batch.reshape(len(batch), -1) * np.float32(2)]


def admitted(path: Path, factor: float = 2.0) -> None:
    admit(Candidate(times(factor), CARD, path), origin, [X], Rule(max_abs=1e-6))


def test_an_agreeing_graph_gets_its_name_its_card_and_its_figures(tmp_path: Path):
    path = tmp_path / "tiny-fp32.onnx"
    admitted(path)
    card = onnx_model.load(path).card
    assert card.id == "tiny"
    assert card.provenance["parity_inputs"] == "8"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("factor", [2.1, -2.0, float("nan")])
def test_a_broken_graph_is_refused_and_the_good_file_stays(tmp_path: Path, factor: float):
    path = tmp_path / "tiny-fp32.onnx"
    admitted(path)
    before = path.read_bytes()
    with pytest.raises(ModelError):
        admitted(path, factor)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_refused_first_build_leaves_nothing(tmp_path: Path):
    with pytest.raises(ModelError, match="disagrees"):
        admitted(tmp_path / "tiny-fp32.onnx", 3.0)
    assert not list(tmp_path.iterdir())


def test_a_card_that_lies_about_the_graph_is_refused(tmp_path: Path):
    path = tmp_path / "tiny-fp32.onnx"
    with pytest.raises(ModelError, match="as its card says"):
        admit(Candidate(times(2), replace(CARD, outputs=("z",)), path), origin, [X], Rule(max_abs=1e-6))
    assert not list(tmp_path.iterdir())


def test_a_graph_that_is_only_right_alone_is_refused_in_a_batch():
    def leaks(batch: np.ndarray) -> list[np.ndarray]:
        return [origin(batch)[0] + np.float32(len(batch) - 1)]

    compare(origin, leaks, [X[:1]], Rule(max_abs=1e-6), "leaky")
    with pytest.raises(ModelError, match="largest difference"):
        compare(origin, leaks, [X], Rule(max_abs=1e-6), "leaky")


def test_another_shape_is_refused():
    with pytest.raises(ModelError, match="shapes"):
        compare(origin, lambda batch: [batch.reshape(len(batch), -1)[:, :5]], [X], Rule(), "short")


def test_no_inputs_prove_nothing():
    with pytest.raises(ModelError, match="no input"):
        compare(origin, origin, [X[:0]], Rule(), "untested")


def test_a_tiny_shift_that_turns_a_decision_is_refused():
    logits = np.zeros((2, 3), np.float32)
    shifted = logits.copy()
    shifted[1, 2] = 5e-5
    with pytest.raises(ModelError, match="decisions"):
        compare(lambda b: [logits[: len(b)]], lambda b: [shifted[-len(b) :]], [X[:2]], EXPORTED_LOGITS, "head")


def test_large_logits_may_differ_by_as_many_digits_as_small_ones_and_no_more():
    logits = np.array([[60.0, -40.0, 0.0], [-10.0, 0.0, 50.0]], np.float32)

    def one_by_one(batch):
        return [logits[[int(b[0, 0, 0] > 0.5) for b in batch]]]

    batch = np.zeros((2, 1, 1, 1), np.float32)
    batch[1] = 1
    compare(one_by_one, lambda b: [one_by_one(b)[0] + np.float32(0.005)], [batch], EXPORTED_LOGITS, "head")
    with pytest.raises(ModelError, match=r"largest difference.*expected at most 0.006"):
        compare(one_by_one, lambda b: [one_by_one(b)[0] + np.float32(0.007)], [batch], EXPORTED_LOGITS, "head")


def test_limits_on_cosines_are_enforced():
    def turned(batch: np.ndarray) -> list[np.ndarray]:
        return [origin(batch)[0] + np.float32(0.8)]

    found = compare(origin, turned, [X], Rule(), "turned")
    assert 0.5 < found.min_cosine <= found.mean_cosine < 0.99
    for rule in (Rule(min_cosine=0.99), Rule(mean_cosine=0.99)):
        with pytest.raises(ModelError, match="cosine"):
            compare(origin, turned, [X], rule, "turned")


def test_one_by_one_lets_a_fixed_batch_judge_a_larger_one():
    sizes = []

    def fixed(batch: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(batch))
        return origin(batch)

    np.testing.assert_array_equal(one_by_one(fixed)(X)[0], origin(X)[0])
    assert sizes == [1] * 8


def test_a_card_survives_the_round_trip_and_the_manifest_follows(tmp_path: Path):
    path = tmp_path / "tiny-fp32.onnx"
    admitted(path)
    record(tmp_path, [path])
    card = replace(read_card(path), operating_points=(OperatingPoint(1e-3, 0.4, 1000),), metrics={"accuracy": 0.99})
    rewrite_card(path, card)
    assert read_card(path) == card
    assert onnx_model.load(path, sha256=pinned(tmp_path)[path.name]).card == card


def test_measurements_survive_a_rebuild_of_the_same_graph_and_no_other(tmp_path: Path):
    path = tmp_path / "tiny-fp32.onnx"
    admitted(path)
    rewrite_card(path, replace(read_card(path), metrics={"accuracy": 0.99}))
    admitted(path)
    assert read_card(path).metrics == {"accuracy": 0.99}
    admitted(path, 2.0000002)
    assert read_card(path).metrics == {}


def test_the_card_of_another_model_is_refused(tmp_path: Path):
    path = tmp_path / "tiny-fp32.onnx"
    admitted(path)
    before = path.read_bytes()
    with pytest.raises(ModelError, match="same model"):
        rewrite_card(path, replace(CARD, id="other"))
    assert path.read_bytes() == before


def test_files_that_are_no_models_or_have_no_card_are_told_apart(tmp_path: Path):
    path = tmp_path / "a.onnx"
    with pytest.raises(ModelError, match="cannot be read"):
        read_card(path)
    path.write_bytes(b"\xff\xfe not protobuf")
    with pytest.raises(ModelError, match="not an ONNX"):
        read_card(path)
    onnx.save(times(2), path)
    with pytest.raises(ModelError, match="no card"):
        read_card(path)


def test_recording_one_file_does_not_bless_a_changed_one(tmp_path: Path):
    good, changed = tmp_path / "good.onnx", tmp_path / "changed.onnx"
    for path in (good, changed):
        onnx.save(attach_card(times(2), CARD), path)
    refresh_manifest(tmp_path)
    pin = pinned(tmp_path)["changed.onnx"]
    onnx.save(attach_card(times(3), CARD), changed)
    record(tmp_path, [good])
    assert pinned(tmp_path)["changed.onnx"] == pin
    good.unlink()
    record(tmp_path, [changed])
    assert pinned(tmp_path) == {"changed.onnx": hashlib.sha256(changed.read_bytes()).hexdigest()}


def test_the_manifest_lists_id_precision_task_and_size(tmp_path: Path):
    path = tmp_path / "tiny-fp32.onnx"
    admitted(path)
    refresh_manifest(tmp_path)
    entry = json.loads((tmp_path / "manifest.json").read_text())["models"][0]
    assert (entry["id"], entry["precision"], entry["task"]) == ("tiny", "fp32", "face-embedding")
    assert entry["bytes"] == path.stat().st_size


def test_a_damaged_manifest_is_one_clear_line(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"models": [1]}')
    with pytest.raises(ModelError, match="manifest"):
        pinned(tmp_path)
