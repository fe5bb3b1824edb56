"""The report of an export: whole, self-contained, and honest about what was refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_app.accuracy.intervals import Estimate
from edge_app.core.errors import ModelError
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.core.types import Float32s, Pixels
from edge_export.build.lower_precision import Lowered
from edge_export.build.material import Material
from edge_export.build.publish import Exported, publish
from edge_export.build.report import ExportFacts, collect, disagreements, render, write
from edge_export.check import timing
from edge_export.check.metrics import score
from edge_export.cli import export as command
from edge_export.graph.torch_export import Signature


class Mean(torch.nn.Module):
    """Colours to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3).view(3, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3)."""
        return self.conv(x).mean((2, 3))


def shown(i: int) -> Pixels:
    return np.full((300, 400, 3), 7 * i, np.uint8)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ExportFacts:
    rng = np.random.default_rng(0)
    labels = (np.arange(36) % 3).astype(np.intp)
    images = rng.normal(0, 0.1, (36, 3, 8, 8)).astype(np.float32)
    images[np.arange(36), labels] += 2
    card = ModelCard(
        id="colours", task="classification", family="logits", input=InputSpec("input", 8, 8), outputs=("logits",),
        precision="fp32", licence="<b>mine</b>", commercial_use=False, origin="a test", origin_sha256="0" * 64,
        labels=("red", "green", "blue"), provenance={"command": "edge-app export colours & co"},
    )  # fmt: skip
    signature = Signature("input", ("batch", 3, 8, 8), ("logits",), (("batch", 3),))
    names = tuple(f"{i}.png" for i in range(36))
    material = Material(card, Mean().eval(), signature, images[:32], images[:32], images, labels, names, shown)
    exported: Exported = publish(material, tmp_path_factory.mktemp("export") / "colours.onnx")
    outputs: Float32s = images.mean((2, 3))
    fp32 = score(exported.card, outputs, labels)
    outputs = outputs.copy()
    outputs[7] = outputs[7][[1, 0, 2]] + np.float32([9, 0, 0])  # picture 7 is green; this build says red
    lost = Estimate(1 / 36, 0.0, math.inf, 36)
    judged = score(exported.card, outputs, labels)
    refused = Lowered("int8", False, None, None, judged, 1 / 36, lost, 1234, {}, {}, outputs, "2.8 points")
    return ExportFacts(material, exported, fp32, (refused,))


def test_the_worst_disagreement_comes_first_with_both_answers(facts: ExportFacts) -> None:
    found = disagreements(facts)
    assert max(each["apart"] for each in found if each["precision"] == "fp32") < 1e-4
    worst = next(each for each in found if each["precision"] == "int8")
    assert (worst["file"], worst["label"], worst["torch"]["label"], worst["build"]["label"]) == (
        "7.png", "green", "green", "red",
    )  # fmt: skip
    assert worst["other_answer"]
    assert [each["other_answer"] for each in found].count(True) == 1


def test_a_refused_build_is_reported_with_its_figures(facts: ExportFacts) -> None:
    report = collect(facts, {"fp32": {1: 2.0}, "torch": {1: 8.0}})
    fp32, int8 = report["builds"]
    assert (int8["kept"], int8["file"], int8["ms"], int8["reason"]) == (False, None, {}, "2.8 points")
    assert int8["drop"]["value"] == pytest.approx(1 / 36)
    assert int8["drop"]["high"] is None, "infinity is no JSON"
    assert fp32["score"]["value"] == 1.0
    assert report["torch_ms"] == {"1": 8.0}


@pytest.mark.slow
def test_page_and_json_are_whole_escaped_and_need_no_other_file(
    facts: ExportFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_ROUNDS", 2)
    html, data = write(tmp_path / "out" / "colours", facts)
    report = json.loads(data.read_text())
    assert set(report["torch_ms"]) == {"1", "2"} == set(report["builds"][0]["ms"])
    page = html.read_text()
    assert page.rstrip().endswith("</html>")
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "<b>mine</b>" not in page
    for absent in ("http://", "https://", "<script", "<link"):
        assert absent not in page
    # Torch and fp32 say the same everywhere: only the one picture on which the INT8 build strays is shown.
    assert page.count("data:image/jpeg;base64,") == 1
    assert "7.png" in page
    assert "refused: 2.8 points" in page
    assert "judged on 36 pictures held out" in page
    assert {path.name for path in html.parent.iterdir()} == {"colours.html", "colours.json"}


def test_too_few_pictures_to_judge_are_told_and_the_rest_is_reported(facts: ExportFacts) -> None:
    report = collect(replace(facts, score=None, lowered=(), not_judged="2 impostor pairs"), {"fp32": {1: 2.0}})
    assert (report["metric"], report["builds"][0]["score"], report["builds"][0]["answered"]) == ("", None, None)
    page = render(report, facts.material)
    assert "not judged: 2 impostor pairs" in page
    assert "not sure" not in page


@pytest.mark.slow
def test_the_command_reports_without_a_score_where_too_few_pictures_are_held_out(
    facts: ExportFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_few(*args: object) -> None:
        raise ModelError("found 3 genuine and 2 impostor pairs")

    monkeypatch.setattr(timing, "_ROUNDS", 2)
    monkeypatch.setattr("edge_export.check.metrics.score", too_few)
    _, data = command._report(tmp_path, facts.material, facts.exported, (), lambda what: None)
    told = json.loads(data.read_text())
    assert told["held_out"]["not_judged"] == "found 3 genuine and 2 impostor pairs"
    assert told["builds"][0]["score"] is None
