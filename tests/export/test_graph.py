"""Rewrites are exact on random networks: batch-norm, scalings, PReLU with slopes above 1 and below 0."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_app.core.errors import ModelError
from edge_export.graph.graph import Graph, clean
from edge_export.graph.prelu import rewrite_prelu
from edge_export.graph.session import as_function

SLOPES = np.array([-0.5, 0.0, 0.25, 0.9, 1.1, 1.6, -2.0, 0.5])


def random_net(rng: np.random.Generator, slopes: np.ndarray, *, pooled: bool = False) -> onnx.ModelProto:
    """Scale → conv+bn → PRelu → depthwise conv+bn → PRelu → conv → PRelu → bn → Flatten → Gemm → bn, as SFace is."""
    c = slopes.size
    weights: dict[str, np.ndarray] = {
        "mean": np.array([127.5]),
        "scale": np.array([1 / 128]),
        "w1": rng.normal(size=(c, 3, 3, 3)),
        "w2": rng.normal(size=(c, 1, 3, 3)),
        "w3": rng.normal(size=(c, c, 1, 1)),
        "fc": rng.normal(size=(5, c * 16)) / 8,
        "fc_b": rng.normal(size=5),
    }
    nodes = [helper.make_node("Sub", ["x", "mean"], ["x0"]), helper.make_node("Mul", ["x0", "scale"], ["x1"])]

    def norm(source: str, size: int, output: str) -> None:
        for part, values in (("g", rng.normal(size=size)), ("b", rng.normal(size=size)), ("m", rng.normal(size=size))):
            weights[output + part] = values
        weights[output + "v"] = rng.uniform(0.5, 2, size=size)
        nodes.append(helper.make_node("BatchNormalization", [source, *(output + p for p in "gbmv")], [output]))

    def prelu(source: str, output: str) -> None:
        weights[output + "a"] = rng.permutation(slopes).reshape(c, 1, 1)
        nodes.append(helper.make_node("PRelu", [source, output + "a"], [output]))

    nodes.append(helper.make_node("Conv", ["x1", "w1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    norm("c1", c, "n1")
    prelu("n1", "p1")
    source = "p1"
    if pooled:
        nodes.append(helper.make_node("MaxPool", ["p1"], ["pool"], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]))
        source = "pool"
    depthwise = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "group": c}
    nodes.append(helper.make_node("Conv", [source, "w2"], ["c2"], **depthwise))
    norm("c2", c, "n2")
    prelu("n2", "p2")
    nodes.append(helper.make_node("Conv", ["p2", "w3"], ["c3"], kernel_shape=[1, 1]))
    prelu("c3", "p3")
    norm("p3", c, "n3")
    nodes.append(helper.make_node("Dropout", ["n3"], ["d"]))
    nodes.append(helper.make_node("Flatten", ["d"], ["f"]))
    nodes.append(helper.make_node("Gemm", ["f", "fc", "fc_b"], ["g"], transB=1))
    norm("g", 5, "y")
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    # Weights declared as inputs too, as SFace's file does: ONNX Runtime then folds nothing.
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def worst(model: onnx.ModelProto, other: onnx.ModelProto, rng: np.random.Generator) -> float:
    x = rng.uniform(0, 255, size=(4, 3, 8, 8)).astype(np.float32)
    a, b = as_function(model)(x)[0], as_function(other)(x)[0]
    return float(np.abs(a - b).max() / np.abs(a).max())


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_cleaning_keeps_the_function_and_leaves_only_what_works():
    rng = np.random.default_rng(1)
    model = random_net(rng, SLOPES)
    cleaned = clean(Graph.of(model)).to_model()
    assert kinds(cleaned) == ["Sub", "Conv", "PRelu", "Conv", "PRelu", "Conv", "PRelu", "Flatten", "Gemm"]
    assert [value.name for value in cleaned.graph.input] == ["x"]
    assert worst(model, cleaned, rng) < 2e-6


@pytest.mark.parametrize("seed", range(5))
def test_prelu_is_rewritten_exactly_for_slopes_above_one_and_below_zero(seed: int):
    rng = np.random.default_rng(seed)
    model = random_net(rng, SLOPES)
    graph = clean(Graph.of(model))
    assert rewrite_prelu(graph) == 3
    fast = graph.to_model()
    assert "PRelu" not in kinds(fast)
    assert "Mul" not in kinds(fast)
    assert worst(model, fast, rng) < 2e-6


def test_a_prelu_takes_two_passes_where_the_next_layer_can_be_scaled_and_three_where_not():
    rng = np.random.default_rng(3)
    linear = clean(Graph.of(random_net(rng, SLOPES)))
    rewrite_prelu(linear)
    pooled_model = random_net(rng, SLOPES, pooled=True)
    pooled = clean(Graph.of(pooled_model))
    rewrite_prelu(pooled)
    assert kinds(linear.to_model()).count("Conv") == 3 + 3
    assert kinds(pooled.to_model()).count("Conv") == 3 + 3 + 1
    assert worst(pooled_model, pooled.to_model(), rng) < 2e-6


def test_a_slope_of_exactly_one_costs_no_digits():
    rng = np.random.default_rng(4)
    slopes = np.array([1.0, 0.999, 1.001, 0.3])
    model = random_net(rng, slopes)
    graph = clean(Graph.of(model))
    rewrite_prelu(graph)
    assert worst(model, graph.to_model(), rng) < 2e-6


def test_a_value_with_two_readers_is_not_folded_away():
    model = random_net(np.random.default_rng(5), SLOPES)
    model.graph.output.append(helper.make_tensor_value_info("c1", TensorProto.FLOAT, ["N", 8, 8, 8]))
    cleaned = clean(Graph.of(model)).to_model()
    assert kinds(cleaned).count("BatchNormalization") == 1
    x = np.full((1, 3, 8, 8), 9, np.float32)
    for a, b in zip(as_function(model)(x), as_function(cleaned)(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_graph_that_fails_is_one_line_with_the_shape_it_failed_on():
    run = as_function(Graph.of(random_net(np.random.default_rng(6), SLOPES)).to_model())
    with pytest.raises(ModelError, match=r"the graph fails on \(1, 5, 8, 8\): ") as caught:
        run(np.zeros((1, 5, 8, 8), np.float32))
    assert "\n" not in str(caught.value)


def test_building_twice_gives_the_same_bytes():
    def build() -> bytes:
        graph = clean(Graph.of(random_net(np.random.default_rng(6), SLOPES)))
        rewrite_prelu(graph)
        return graph.to_model().SerializeToString(deterministic=True)

    assert build() == build()


def test_an_invalid_graph_is_refused_in_one_line():
    graph = clean(Graph.of(random_net(np.random.default_rng(7), SLOPES)))
    graph.nodes[0].input[0] = "nothing"
    with pytest.raises(ModelError) as caught:
        graph.to_model()
    assert "\n" not in str(caught.value)


def test_bytes_form_is_exact_and_equalizing_changes_nothing_in_floats():
    quantize = pytest.importorskip("edge_export.graph.quantize_sface")
    rng = np.random.default_rng(8)
    model = random_net(rng, SLOPES)
    faces = rng.uniform(0, 255, size=(4, 3, 8, 8)).astype(np.float32)
    graph = clean(Graph.of(model))
    quantize.equalize(graph, faces)
    equalized = graph.to_model()
    quantize.rewrite_prelu_for_bytes(graph)
    assert worst(model, equalized, rng) < 5e-6
    assert worst(model, graph.to_model(), rng) < 5e-6


def test_equalized_channels_ahead_of_a_depthwise_layer_have_one_range():
    quantize = pytest.importorskip("edge_export.graph.quantize_sface")
    rng = np.random.default_rng(9)
    faces = rng.uniform(0, 255, size=(8, 3, 8, 8)).astype(np.float32)
    graph = clean(Graph.of(random_net(rng, SLOPES)))
    quantize.equalize(graph, faces)
    ranges = quantize._channel_ranges(graph, ["n1"], faces)["n1"]
    assert ranges.max() / ranges.min() < 1.01


def test_quantizing_keeps_the_direction_and_is_deterministic():
    quantize = pytest.importorskip("edge_export.graph.quantize_sface")
    rng = np.random.default_rng(10)
    model = random_net(rng, np.array([-0.3, 0.1, 0.25, 0.5] * 4))
    faces = rng.uniform(0, 255, size=(64, 3, 8, 8)).astype(np.float32)
    first, second = (quantize.quantize(clean(Graph.of(model)), faces) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    a, b = as_function(model)(faces)[0], as_function(first)(faces)[0]
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.mean() > 0.98


def test_ranges_come_from_the_faces_that_are_given_for_them():
    quantize = pytest.importorskip("edge_export.graph.quantize_sface")
    rng = np.random.default_rng(12)
    model = random_net(rng, np.array([-0.3, 0.1, 0.25, 0.5] * 4))
    faint = rng.uniform(120, 136, size=(64, 3, 8, 8)).astype(np.float32)
    strong = rng.uniform(0, 255, size=(64, 3, 8, 8)).astype(np.float32)
    wanted = as_function(model)(strong)[0]

    def cosine(quantized):
        got = as_function(quantized)(strong)[0]
        return ((wanted * got).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(got, axis=1)).mean()

    narrow, wide = (quantize.quantize(clean(Graph.of(model)), faint, ranges) for ranges in (None, strong))
    assert cosine(wide) > 0.98 > cosine(narrow) + 0.01


def test_faces_are_cut_tight_at_the_top_and_the_sides_alone():
    from edge_export.check.faces import cut_tight

    whole = np.full((40, 112, 112, 3), 200, np.uint8)
    cut = cut_tight(whole)
    black = (cut == 0).all(axis=3)
    assert 0.2 < black.mean() < 0.45
    assert black[:, :10].mean() > 0.95 and not black[:, 45:105, 30:82].any()
    assert (cut == cut_tight(whole)).all() and (cut != cut_tight(whole, seed=1)).any()


def test_too_few_faces_are_refused_before_work_begins():
    quantize = pytest.importorskip("edge_export.graph.quantize_sface")
    graph = clean(Graph.of(random_net(np.random.default_rng(11), SLOPES)))
    with pytest.raises(ModelError, match="given 3 faces"):
        quantize.quantize(graph, np.zeros((3, 3, 8, 8), np.float32))
