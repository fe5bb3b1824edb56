"""A torch module reaches ONNX by whichever exporter tells the truth."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edge_app.core.errors import ModelError
from edge_export.check.parity import Rule, compare
from edge_export.graph.session import as_function

torch = pytest.importorskip("torch")

from edge_export.graph import torch_export  # noqa: E402
from edge_export.graph.torch_export import DYNAMO, TORCHSCRIPT, Signature, export  # noqa: E402

SIGNATURE = Signature("x", ("N", 3, 8, 8), ("y",), (("N", 4),))
X = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)


def small_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1),
        torch.nn.BatchNorm2d(6),
        torch.nn.PReLU(6),
        torch.nn.MaxPool2d(2, ceil_mode=True),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 4),
    ).eval()


def judge_for(module: torch.nn.Module):
    def judge(model: onnx.ModelProto) -> None:
        compare(torch_export.as_function(module), as_function(model), [X], Rule(max_abs=1e-5), "net")

    return judge


def test_the_default_exporter_is_taken_when_it_agrees():
    module = small_net()
    model, exporter = export(module, X, SIGNATURE, judge_for(module))
    assert exporter == DYNAMO
    assert as_function(model)(X[:1])[0].shape == (1, 4)
    assert not model.metadata_props
    assert all(not node.doc_string and not node.metadata_props for node in model.graph.node)
    assert b"/work" not in model.SerializeToString()


def test_the_other_exporter_is_tried_when_the_default_one_lies(monkeypatch: pytest.MonkeyPatch):
    module, liar = small_net(), small_net()
    with torch.no_grad():
        liar[0].weight *= 1.01
    right = torch_export._dynamo
    monkeypatch.setattr(torch_export, "_dynamo", lambda _, example, signature: right(liar, example, signature))
    model, exporter = export(module, X, SIGNATURE, judge_for(module))
    assert exporter == TORCHSCRIPT
    judge_for(module)(model)


@pytest.mark.slow
def test_both_reasons_are_told_when_neither_agrees():
    module = small_net()

    def judge(model: onnx.ModelProto) -> None:
        raise ModelError("never good enough")

    with pytest.raises(ModelError) as caught:
        export(module, X, SIGNATURE, judge)
    assert str(caught.value).count("never good enough") == 2
