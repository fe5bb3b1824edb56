"""Lower precisions: the recipe keeps the function, the metric decides, a refusal writes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edge_app.core.attributes import Attribute
from edge_app.core.errors import ModelError
from edge_app.core.hierarchy import Family, Hierarchy
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.core.types import Float32s
from edge_app.inference import onnx_model
from edge_export.build import lower_precision
from edge_export.build.material import Material
from edge_export.check import metrics, timing
from edge_export.check.shared_gallery import mixed
from edge_export.graph.card import attach_card, model_bytes
from edge_export.graph.equalize import equalize
from edge_export.graph.graph import Graph
from edge_export.graph.prelu import restore_prelu, without_prelu
from edge_export.graph.session import as_function
from edge_export.graph.torch_export import Signature, _torchscript, export

LABELS = ("dark", "light")


class Bottleneck(torch.nn.Module):
    """EfficientNet-Lite's shapes in small: ReLU6, depthwise, a linear bottleneck with uneven channels, a skip."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        nn = torch.nn
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6())
        self.narrow = nn.Conv2d(8, 6, 1)
        self.wide = nn.Sequential(nn.Conv2d(6, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6())
        self.back = nn.Conv2d(16, 6, 1)
        self.top = nn.Sequential(nn.Conv2d(6, 12, 1), nn.ReLU6())
        self.head = nn.Linear(12, 2)
        with torch.no_grad():
            # One channel a hundred times the others: what makes one step size a bad fit.
            self.narrow.weight[0] *= 100
            self.wide[0].weight[:, 0] /= 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, 2)."""
        x = self.narrow(self.stem(x))
        return self.head(self.top(x + self.back(self.wide(x))).mean((2, 3)))


def pictures(count: int, seed: int) -> tuple[Float32s, np.ndarray]:
    """Dark and light noise (N, 3, 32, 32) with labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.normal(0, 0.5, (count, 3, 32, 32)) + (labels * 1.6 - 0.8)[:, None, None, None]
    return images.astype(np.float32), labels.astype(np.intp)


@pytest.fixture(scope="module")
def material() -> Material:
    network = Bottleneck().eval()
    learn, labels = pictures(64, 1)
    # Trained in closed form: the head separates the two kinds.
    with torch.no_grad():
        held: list[torch.Tensor] = []
        network.head.register_forward_pre_hook(lambda _, inputs: held.append(inputs[0]))
        network(torch.from_numpy(learn))
        features = torch.cat([held[0], torch.ones(len(learn), 1)], 1)
        solved = torch.linalg.lstsq(features, torch.from_numpy(np.eye(2, dtype=np.float32)[labels] * 8 - 4)).solution
        network.head.weight.copy_(solved[:-1].T)
        network.head.bias.copy_(solved[-1])
    images, truth = pictures(80, 2)
    card = ModelCard(
        id="noise", task="classification", family="logits", input=InputSpec("input", 32, 32), outputs=("logits",),
        precision="fp32", licence="CC0-1.0", commercial_use=True, origin="a test", origin_sha256="0" * 64,
        labels=LABELS, temperature=1.3,
    )  # fmt: skip
    signature = Signature("input", ("batch", 3, 32, 32), ("logits",), (("batch", 2),))
    names = tuple(f"{i}.png" for i in range(80))
    return Material(
        card, network, signature, learn[:32], learn, images, truth, names, lambda i: np.full((40, 60, 3), i, np.uint8)
    )


@pytest.fixture(scope="module")
def exported(material: Material) -> onnx.ModelProto:
    model = _torchscript(material.module, torch.from_numpy(material.gate_inputs[:2]), material.signature)
    return attach_card(Graph.of(model).to_model(), material.card)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_ROUNDS", 2)


def test_equalizing_changes_ranges_and_not_the_function(exported: onnx.ModelProto, material: Material) -> None:
    graph = Graph.of(exported)
    assert equalize(graph, material.calibration[:8], 17) == 1
    x = material.held_out[:8]
    before, after = as_function(exported)(x)[0], as_function(graph.to_model())(x)[0]
    np.testing.assert_allclose(after, before, atol=1e-3)
    narrow = next(n for n in graph.nodes if n.op_type == "Conv" and graph.weights[n.input[1]].shape[:2] == (6, 8))
    rows = np.abs(graph.weights[narrow.input[1]]).reshape(6, -1).max(axis=1)
    assert rows.max() / rows.min() < 10, "one channel was a hundred times the others"


def test_int8_keeps_the_answers_works_in_bytes_and_is_the_same_each_time(
    exported: onnx.ModelProto, material: Material
) -> None:
    made = lower_precision.to_int8(exported, material.calibration)
    assert model_bytes(made) == model_bytes(lower_precision.to_int8(exported, material.calibration))
    x = material.held_out
    before, after = as_function(exported)(x)[0], as_function(made)(x)[0]
    assert np.abs(before - after).mean() < 0.1 * np.abs(before).mean()
    assert not [n for n in made.graph.node if n.op_type == "Clip"], "ReLU6 is left as a float island"
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.data_type == 3}
    dense = [w for w in weights.values() if w.ndim == 4 and w.shape[1] > 1]
    assert dense, "no weight became INT8"
    assert max(int(np.abs(w).max()) for w in dense) <= 64, "AVX2 saturates with 8 bits"


@pytest.mark.slow
def test_a_build_that_keeps_the_metric_is_written_with_its_own_card(
    exported: onnx.ModelProto, material: Material, tmp_path: Path
) -> None:
    for precision in ("int8", "fp16"):
        path = tmp_path / f"noise-{precision}.onnx"
        made = lower_precision.build(material, exported, precision, 0.005, path)
        assert made.kept, made.reason
        model = onnx_model.load(path, threads=1)
        card = model.card
        assert (card.id, card.precision) == ("noise", precision)
        assert card.metrics["accuracy"] == made.score.value if made.score else False
        assert len(card.provenance["fp32_sha256"]) == 64
        assert card.provenance["drop"].startswith(f"{made.drop:.4f}")
        assert set(made.ms) == {1, 2} == set(made.fp32_ms)
        assert model.run(material.held_out[:3])[0].dtype == np.float32
    assert {p.name for p in tmp_path.iterdir()} == {"noise-int8.onnx", "noise-fp16.onnx"}


def test_a_build_that_loses_too_much_is_refused_and_nothing_is_written(
    exported: onnx.ModelProto, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(model: onnx.ModelProto, calibration: Float32s) -> onnx.ModelProto:
        graph = Graph.of(model)
        gemm = next(node for node in graph.nodes if node.op_type == "Gemm")
        graph.weights[gemm.input[1]] = graph.weights[gemm.input[1]][::-1].copy()
        graph.weights[gemm.input[2]] = graph.weights[gemm.input[2]][::-1].copy()
        return graph.to_model()

    monkeypatch.setattr(lower_precision, "to_int8", spoiled)
    made = lower_precision.build(material, exported, "int8", 0.005, tmp_path / "noise-int8.onnx")
    assert not made.kept
    assert made.drop > 0.5
    assert "at most 0.5 points" in made.reason
    assert made.interval is not None
    assert made.interval.above_zero
    assert not list(tmp_path.iterdir())


def test_without_held_out_pictures_nothing_is_kept(
    exported: onnx.ModelProto, material: Material, tmp_path: Path
) -> None:
    blind = replace(material, held_out=material.held_out[:0], held_out_labels=material.held_out_labels[:0])
    made = lower_precision.build(blind, exported, "fp16", 0.005, tmp_path / "a.onnx")
    assert (made.kept, "no held-out pictures" in made.reason) == (False, True)
    assert not list(tmp_path.iterdir())


def test_a_graph_without_weights_is_refused() -> None:
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, 1, ["batch", 3, 8, 8]) for n in "xy"]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([relu], "g", value[:1], value[1:]), opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    with pytest.raises(ModelError, match="no layer with weights"):
        lower_precision.to_int8(model, np.zeros((32, 3, 8, 8), np.float32))


def test_the_temperature_follows_logits_that_were_scaled() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (200, 4)).astype(np.float32)
    assert metrics.matched_temperature(logits, 1.3, logits) == pytest.approx(1.3, rel=0.01)
    assert metrics.matched_temperature(logits, 1.3, logits * 1.2) == pytest.approx(1.3 * 1.2, rel=0.01)


def test_bars_of_families_and_attributes_are_set_by_the_build_s_own_answers(material: Material) -> None:
    """Of two members alike likely their family is told with 0.8; one in ten of what is told with less is wrong."""
    card = replace(
        material.card, labels=("a", "b", "c", "d"), temperature=1.0, provenance={"families": "of fp32"},
        metrics={"family_right": 0.3}, attributes=(Attribute("striped", ("a", "b"), 0.5),),
        hierarchy=Hierarchy((Family("ab", ("a", "b"), 0.5), Family("cd", ("c", "d"), 0.5))),
    )  # fmt: skip
    inside = np.array([0.82] * 100 + [0.62] * 100)
    chances = np.stack([inside / 2, inside / 2, (1 - inside) / 2, (1 - inside) / 2], axis=1)
    labels = np.array([0] * 190 + [2] * 10)
    made = lower_precision.with_score(card, metrics.score(card, np.log(chances).astype(np.float32), labels))
    assert made.hierarchy is not None
    # The grid of bars has steps of 0.025: the first above 0.62.
    assert [family.sure_from for family in made.hierarchy.families] == [0.625, 0.625]
    assert [one.sure_from for one in made.attributes] == [0.625] and made.metrics["family_right"] == 1.0
    assert made.provenance["families"].startswith("of 200 held-out pictures without a sure label 100 were told")


def embedder(card: ModelCard) -> ModelCard:
    return replace(
        card, task="image-embedding", family="embedding", outputs=("embedding",), labels=(), embedding_size=2
    )


def test_few_pairs_give_no_rate_that_they_cannot_show(material: Material) -> None:
    card = embedder(material.card)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 3).astype(np.intp)
    angles = labels * (2 * np.pi / 8) + rng.normal(0, 0.02, len(labels))
    rows = (7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)
    judged = metrics.score(card, rows, labels)
    # 24 pictures, 8 * 3 genuine pairs, 276 - 24 impostors: 1 % of 252 is two pairs, 0.3 % is less than one.
    assert (judged.metric, judged.value) == ("tar_at_fmr_0.01", 1.0)
    assert "24 genuine and 252 impostor pairs of 8" in judged.rests_on
    assert {(p.fmr, p.templates, p.impostor_pairs) for p in judged.points} == {(1e-2, 1, 252), (1e-2, 2, 168)}
    with pytest.raises(ModelError, match="impostor pairs"):
        metrics.score(card, rows[:6], labels[:6])
    assert metrics.drop(card, rows, rng.normal(0, 1, rows.shape).astype(np.float32), labels).value > 0.5


def test_a_card_that_names_other_classes_is_found_out(material: Material) -> None:
    with pytest.raises(ModelError, match="as the card says"):
        metrics.score(material.card, np.zeros((4, 3), np.float32), np.zeros(4, np.intp))


class Eyes(torch.nn.Module):
    """An embedder that is accurate untrained: random projections keep distances. With PReLU, as face networks have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        nn = torch.nn
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.PReLU(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.PReLU(8))
        self.head = nn.Linear(8 * 64, 16)
        with torch.no_grad():
            for layers in (self.first, self.second):
                layers[1].weight.copy_(torch.linspace(-0.3, 1.2, 8))  # some face networks have slopes above 1
                layers[1].weight[5] = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, 16)."""
        return self.head(self.second(self.first(x)).flatten(1))


@pytest.fixture(scope="module")
def people(material: Material) -> Material:
    """Fourteen people, six noisy pictures each; one of the gate's pictures is nearly blank."""
    rng = np.random.default_rng(5)
    looks = rng.normal(0, 1, (14, 1, 3, 32, 32))
    images = (looks + rng.normal(0, 0.3, (14, 6, 3, 32, 32))).reshape(-1, 3, 32, 32).astype(np.float32)
    other = rng.normal(0, 1.3, (64, 3, 32, 32)).astype(np.float32)
    gate = other[:32].copy()
    gate[7] *= 1e-3
    network = Eyes().eval()
    with torch.no_grad():
        for layers in (network.first, network.second):
            layers[0].bias.zero_()
        network.head.bias.zero_()
    card = replace(embedder(material.card), embedding_size=16)
    return Material(
        card, network, Signature("input", ("batch", 3, 32, 32), ("embedding",), (("batch", 16),)), gate, other,
        images, np.repeat(np.arange(14), 6).astype(np.intp), tuple(f"{i}.png" for i in range(84)), material.pictures,
    )  # fmt: skip


@pytest.fixture(scope="module")
def eyes(people: Material) -> onnx.ModelProto:
    made, _ = export(people.module, people.gate_inputs[:2], people.signature, lambda model: None)
    return attach_card(without_prelu(made), people.card)


def test_prelu_is_written_anew_and_found_again(eyes: onnx.ModelProto, people: Material) -> None:
    x = people.held_out[:4]
    with torch.inference_mode():
        wanted = people.module(torch.from_numpy(x)).numpy()
    assert not [node for node in eyes.graph.node if node.op_type == "PRelu"], "ONNX Runtime's own is slow"
    np.testing.assert_allclose(as_function(eyes)(x)[0], wanted, atol=1e-4)
    graph = Graph.of(eyes)
    assert restore_prelu(graph) == 2
    assert [node.op_type for node in graph.nodes] == ["Conv", "PRelu", "Conv", "PRelu", "Flatten", "Gemm"]
    np.testing.assert_allclose(as_function(graph.to_model(20))(x)[0], wanted, atol=1e-4)


def test_one_slope_for_all_channels_is_left_as_it_is() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.PReLU(), torch.nn.Conv2d(4, 2, 3)).eval()
    signature = Signature("input", ("batch", 3, 12, 12), ("y",), (("batch", 2, 8, 8),))
    x = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)
    made, _ = export(network, x, signature, lambda model: None)
    assert [n.op_type for n in without_prelu(made).graph.node] == ["Conv", "PRelu", "Conv"]


@pytest.mark.slow
def test_an_embedder_is_judged_by_its_metric_and_not_by_its_worst_picture(
    eyes: onnx.ModelProto, people: Material, tmp_path: Path
) -> None:
    made = lower_precision.build(people, eyes, "int8", 0.005, tmp_path / "eyes-int8.onnx")
    assert made.kept, made.reason
    card = made.card
    assert card is not None and made.score is not None
    # The nearly blank picture is lost in the steps of a byte, and no reason to refuse all others.
    assert float(card.provenance["parity_min_cosine"]) < 0.9
    assert card.operating_points == made.score.points and card.operating_points
    full = metrics.score(card, as_function(eyes)(people.held_out)[0], people.held_out_labels)
    assert card.operating_points != full.points
    assert "mixed with fp32" in card.provenance["shared_gallery"]
    assert made.score.rate in {point.fmr for point in card.operating_points}


def test_a_space_that_was_turned_is_refused_though_it_tells_people_apart(
    eyes: onnx.ModelProto, people: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))

    def turned(model: onnx.ModelProto, calibration: Float32s) -> onnx.ModelProto:
        graph = Graph.of(model)
        gemm = next(node for node in graph.nodes if node.op_type == "Gemm")
        graph.weights[gemm.input[1]] = (turn @ graph.weights[gemm.input[1]]).astype(np.float32)
        return graph.to_model(20)

    monkeypatch.setattr(lower_precision, "to_int8", turned)
    made = lower_precision.build(people, eyes, "int8", 0.005, tmp_path / "eyes-int8.onnx")
    assert abs(made.drop) < 0.005, "on its own it is as good as before"
    assert not made.kept
    assert "in a gallery that both share" in made.reason
    assert not list(tmp_path.iterdir())


def test_mixed_pairs_of_a_build_with_itself_lose_nothing(people: Material) -> None:
    rows = np.random.default_rng(1).normal(size=(84, 16)).astype(np.float32)
    same = mixed(rows, rows * 3, people.held_out_labels, 1e-2)
    assert (same.drop, same.mean_cosine) == (0.0, pytest.approx(1.0))
    assert same.strangers == pytest.approx(1.0, abs=0.05)


def test_what_cannot_be_quantized_is_refused_and_no_failure(
    exported: onnx.ModelProto, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: onnx.ModelProto, calibration: Float32s) -> onnx.ModelProto:
        raise ModelError("the graph cannot be quantized: so it is")

    monkeypatch.setattr(lower_precision, "to_int8", fails)
    made = lower_precision.build(material, exported, "int8", 0.005, tmp_path / "noise-int8.onnx")
    assert (made.kept, made.reason) == (False, "the graph cannot be quantized: so it is")
