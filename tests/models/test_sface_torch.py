"""SFace in PyTorch equals the ONNX file it was read from, whichever form the file has."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from edge_app.core.errors import ModelError
from edge_app.core.model_card import ModelCard
from edge_models.networks import sface

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = REPOSITORY / "edge_app" / "zoo" / "sface-fp32.onnx"


def original_form(path: Path, *, seed: int = 0, bend: str = "PRelu", first_kernel: int = 3) -> Path:
    """Write a network of SFace's form with random weights, in the form of OpenCV Zoo's file."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {"shift": np.array([127.5]), "scale": np.array([0.0078125])}

    def batch_norm(source: str, name: str, size: int) -> str:
        for part, low, high in (("gamma", 0.8, 1.2), ("beta", -0.3, 0.3), ("mean", -0.3, 0.3), ("var", 0.5, 1.5)):
            weights[f"{name}_{part}"] = rng.uniform(low, high, size)
        inputs = [source, *(f"{name}_{part}" for part in ("gamma", "beta", "mean", "var"))]
        nodes.append(helper.make_node("BatchNormalization", inputs, [name], epsilon=1e-3, momentum=0.9))
        return name

    def stage(source: str, name: str, module: sface.Stage, kernel: int) -> str:
        conv = module.conv
        shape = (conv.out_channels, conv.in_channels // conv.groups, kernel, kernel)
        weights[f"{name}_w"] = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}_a"] = rng.uniform(-0.4, 1.6, (conv.out_channels, 1, 1))
        pads = [kernel // 2] * 4
        options = {"group": conv.groups, "strides": list(conv.stride), "pads": pads, "kernel_shape": [kernel] * 2}
        nodes.append(helper.make_node("Conv", [source, f"{name}_w"], [f"{name}_conv"], **options))
        normed = batch_norm(f"{name}_conv", f"{name}_bn", conv.out_channels)
        bent = [normed, f"{name}_a"] if bend == "PRelu" else [normed]
        nodes.append(helper.make_node(bend, bent, [name]))
        return name

    nodes.append(helper.make_node("Sub", ["data", "shift"], ["centred"]))
    nodes.append(helper.make_node("Mul", ["centred", "scale"], ["scaled"]))
    value, pattern = "scaled", sface.SFace()
    for number, module in enumerate(pattern.stages):
        assert isinstance(module, sface.Stage)
        kernel = first_kernel if number == 0 else module.conv.kernel_size[0]
        value = stage(value, f"stage_{number}", module, kernel)
    value = batch_norm(value, "bn1", 1024)
    nodes.append(helper.make_node("Dropout", [value], ["dropped"]))
    nodes.append(helper.make_node("Flatten", ["dropped"], ["flat"]))
    weights["fc_w"] = rng.normal(size=(128, 50176)) * 0.01
    weights["fc_b"] = rng.normal(size=128)
    nodes.append(helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["fc"], transB=1))
    batch_norm("fc", "fc1", 128)
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    data = helper.make_tensor_value_info("data", onnx.TensorProto.FLOAT, ["N", 3, 112, 112])
    out = helper.make_tensor_value_info("fc1", onnx.TensorProto.FLOAT, ["N", 128])
    graph = helper.make_graph(nodes, "sface", [data], [out], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


@pytest.fixture(scope="module")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return original_form(tmp_path_factory.mktemp("sface") / "original.onnx")


def largest_difference(path: Path, images: np.ndarray) -> float:
    """Between ONNX Runtime and torch, relative to the length of the embeddings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options)
    batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    name = session.get_inputs()[0].name
    expected = np.concatenate([session.run(None, {name: one[None]})[0] for one in batch])
    with torch.inference_mode():
        found = sface.load(path)(torch.from_numpy(batch)).numpy()
    assert found.shape == (len(images), sface.EMBEDDING_SIZE)
    return float(np.abs(found - expected).max() / np.linalg.norm(expected, axis=1).min())


def random_pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


def test_the_original_form_with_random_weights_is_read_exactly(random_file: Path) -> None:
    assert largest_difference(random_file, random_pictures()) < 1e-5


def test_the_rewritten_form_is_read_exactly(random_file: Path, tmp_path: Path) -> None:
    from edge_export.makers.sface import build_graph

    rewritten = tmp_path / "rewritten.onnx"
    onnx.save(build_graph(random_file.read_bytes()), rewritten)
    assert "PRelu" not in {node.op_type for node in onnx.load(rewritten).graph.node}
    assert largest_difference(rewritten, random_pictures()) < 1e-5


def test_the_shipped_file_on_the_sample_people() -> None:
    if not SHIPPED.is_file():
        pytest.skip("sface-fp32.onnx is not built: edge-app export zoo")
    paths = sorted((REPOSITORY / "edge_app" / "media" / "sample").glob("*.jpg"))
    pictures = np.stack([cv2.resize(cv2.imread(str(path))[..., ::-1], (112, 112)) for path in paths])
    assert len(pictures) >= 5
    assert largest_difference(SHIPPED, np.concatenate([pictures, random_pictures()])) < 1e-5


def test_the_shipped_file_on_aligned_faces(shared_data: Path) -> None:
    if not SHIPPED.is_file():
        pytest.skip("sface-fp32.onnx is not built: edge-app export zoo")
    paths = sorted((shared_data / "celebs_aligned112").glob("*/*.jpg"))[::40]
    assert largest_difference(SHIPPED, np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])) < 1e-5


def test_gradients_reach_every_weight() -> None:
    network = sface.SFace()
    network(torch.from_numpy(random_pictures(2).transpose(0, 3, 1, 2).astype(np.float32))).square().sum().backward()
    reached = [weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in network.parameters()]
    assert len(reached) > 50 and all(reached)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent.onnx cannot be read"):
        sface.load(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a model at all")
    with pytest.raises(ModelError, match=r"text.onnx is not an ONNX file"):
        sface.load(tmp_path / "text.onnx")


def changed(source: Path, target: Path, change: object) -> Path:
    model = onnx.load(source)
    change(model)  # type: ignore[operator]
    onnx.save(model, target)
    return target


@pytest.mark.slow
def test_another_network_is_refused(random_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no line with a bend at zero"):
        sface.load(original_form(tmp_path / "sigmoid.onnx", bend="Sigmoid"))
    with pytest.raises(ModelError, match=r"layer 0 is \(32, 3, 5, 5\), not \(32, 3, 3, 3\)"):
        sface.load(original_form(tmp_path / "wide.onnx", first_kernel=5))

    def other_mean(model: onnx.ModelProto) -> None:
        shift = next(tensor for tensor in model.graph.initializer if tensor.name == "shift")
        shift.CopyFrom(numpy_helper.from_array(np.array([100.0], np.float32), "shift"))

    with pytest.raises(ModelError, match="its input is normalized in another way"):
        sface.load(changed(random_file, tmp_path / "mean.onnx", other_mean))

    def cut(model: onnx.ModelProto) -> None:
        del model.graph.node[-2:]

    with pytest.raises(ModelError, match="does not hold SFace"):
        sface.load(changed(random_file, tmp_path / "cut.onnx", cut))

    def other_stride(model: onnx.ModelProto) -> None:
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        next(a for a in conv.attribute if a.name == "strides").ints[:] = [2, 2]

    with pytest.raises(ModelError, match="layer 0 has stride, padding, groups"):
        sface.load(changed(random_file, tmp_path / "stride.onnx", other_stride))


def test_a_quantized_file_is_refused(random_file: Path, tmp_path: Path) -> None:
    def quantize_first(model: onnx.ModelProto) -> None:
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        conv.input[1] = "computed"

    with pytest.raises(ModelError, match="a quantized file cannot be trained"):
        sface.load(changed(random_file, tmp_path / "int8.onnx", quantize_first))


def test_normalization_that_the_card_moved_out_of_the_graph_is_taken_back_in(random_file: Path, tmp_path: Path) -> None:
    card = ModelCard.from_json(
        '{"id": "sface", "task": "face-embedding", "family": "embedding", "outputs": ["fc1"], "precision": "fp32",'
        '"licence": "Apache-2.0", "commercial_use": true, "origin": "", "origin_sha256": "", "embedding_size": 128,'
        '"input": {"name": "data", "width_px": 112, "height_px": 112, "channels": "RGB",'
        '"mean": [127.5, 127.5, 127.5], "std": [128.0, 128.0, 128.0], "layout": "NCHW"}}'
    )

    def move_out(model: onnx.ModelProto) -> None:
        del model.graph.node[:2]
        model.graph.node[0].input[0] = "data"
        entry = model.metadata_props.add()
        entry.key, entry.value = ModelCard.KEY, card.to_json()

    moved = sface.load(changed(random_file, tmp_path / "moved.onnx", move_out))
    original = sface.load(random_file)
    for ours, theirs in zip(moved.parameters(), original.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
