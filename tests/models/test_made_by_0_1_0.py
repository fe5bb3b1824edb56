"""Files that edge-app 0.1.0 wrote are still read: tests/data/made_by_0_1_0/make.py made them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edge_app.core.errors import ModelError
from edge_export.build.publish import Request
from edge_export.makers.classifier import classifier_material
from edge_export.makers.embedder import embedder_material
from edge_models.classifier.network import load_classifier
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.run import train_classifier
from edge_models.fitting.checkpoint import load
from edge_models.fitting.fit import Silence

pytestmark = pytest.mark.usefixtures("one_thread")
MADE = Path(__file__).parents[1] / "data" / "made_by_0_1_0"


class Notes(Silence):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the files, the run folders telling where it lies."""
    shutil.copytree(MADE, tmp_path / "old")
    for told in (tmp_path / "old").glob("*/run.json"):
        told.write_text(told.read_text().replace("/home/ada", str(tmp_path / "old")))
    return tmp_path / "old"


def options(old: Path, name: str) -> ClassifierOptions:
    """The options of its command line, as make.py gives them."""
    return ClassifierOptions(
        old / "pictures", old / name, backbone="timm:test_efficientnet", weights=old / "weights.safetensors",
        epochs=6, unfreeze=0, views=0, log="none", device="cpu", resume=True,
    )  # fmt: skip


def test_a_classifier_opens_tells_no_split_and_its_export_derives_it(old: Path) -> None:
    path = next((old / "finished").glob("best-*.safetensors"))
    model, checkpoint = load_classifier(path)
    assert checkpoint.split == {} and not checkpoint.judged and not checkpoint.learned_all
    assert checkpoint.classes == ("amber", "blue", "green", "red")
    assert sum(p.numel() for p in model.parameters()) > 100_000
    material = classifier_material(path, Request("squares", "", data=old / "pictures"))
    report = json.loads((old / "finished" / "report.json").read_text())
    assert len(material.held_out_names) == report["data"]["validation"] == 8
    assert material.card.metrics["accuracy"] == pytest.approx(report["accuracy"]["value"])


def test_an_embedder_opens_and_its_export_divides_as_its_training_did(old: Path) -> None:
    assert load(old / "embedder.safetensors").split == {}
    material = embedder_material(old / "embedder.safetensors", Request("squares", "", data=old / "pictures"), Silence())
    assert len(np.unique(material.held_out_labels)) == 2


def test_a_changed_folder_is_refused_where_the_file_tells_no_split(old: Path) -> None:
    (old / "pictures" / "red" / "0.png").unlink()
    path = next((old / "finished").glob("best-*.safetensors"))
    with pytest.raises(ModelError, match="--data-changed"):
        classifier_material(path, Request("squares", "", data=old / "pictures"))


def test_a_finished_run_is_taken_as_it_is(old: Path) -> None:
    notes = Notes()
    result = train_classifier(options(old, "finished"), notes)
    assert result.checkpoint.is_file() and any("finished already" in note for note in notes.notes)


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_0_1_0_would_have(old: Path) -> None:
    notes = Notes()
    result = train_classifier(options(old, "stopped"), notes)
    assert "head" not in notes.stages and "refit-head" in notes.stages
    ours, theirs = load(result.checkpoint), load(next((old / "finished").glob("best-*.safetensors")))
    assert ours.metrics["validation_accuracy"] == theirs.metrics["validation_accuracy"]
    assert not ours.learned_all and len(ours.split["validation"]) == 8
