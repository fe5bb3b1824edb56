"""The data folder of edge-app 0.1.0 opens: settings, measurements, calibrations, installed models, descriptions.

`tests/data/made_by_0_1_0/make_home.py` made it.
"""

import json
import shutil
from pathlib import Path

import pytest

from edge_app.cli import main
from edge_app.core.model_card import OperatingPoint
from edge_app.gallery import calibration
from edge_app.model_store import catalogue
from edge_app.model_store.candidates import remove_abandoned
from edge_app.model_store.describe import read_description
from edge_app.model_store.install import in_use
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings

MADE = Path(__file__).parents[1] / "data" / "made_by_0_1_0"


@pytest.fixture
def old(tmp_path):
    shutil.copytree(MADE / "home", tmp_path / "home")
    for path in (tmp_path / "home", *(tmp_path / "home").rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return Home(tmp_path / "home")


def test_its_settings_and_measurements_are_read_and_changed_field_by_field(old):
    before = json.loads(old.settings_path.read_bytes())
    assert old.settings() == Settings(detector="mtcnn", model="colours", source="sample")
    assert old.recall("tui") == {"mirror": True, "theme": "nord"}
    [kept] = [key for key in json.loads(old.measurements_path.read_bytes()) if key.startswith("precision:sface:")]
    assert set(old.recall(kept)) == {"fp32", "int8"}
    old.change_settings(fpir=0.02)
    assert json.loads(old.settings_path.read_bytes()) == before | {"fpir": 0.02}


def test_its_calibrations_hold_for_their_file(old):
    card = catalogue.open_entry(catalogue.build(old, "sface", "int8")).card
    points = calibration.points_of(old, _of(card, "things"), "ab" * 32)
    assert points[1] == OperatingPoint(0.01, 0.4, 2000, 1) and len(points) == 6
    assert calibration.points_of(old, card) == card.operating_points
    assert calibration.reset(old, "things") == 1 and calibration.reset(old, "things") == 0


def _of(card, model_id):
    from dataclasses import replace

    return replace(card, id=model_id)


def test_its_installed_model_runs_and_can_be_removed(old, capsys):
    remove_abandoned(old)
    [entry] = catalogue.installed(old)
    card = catalogue.open_entry(entry).card
    assert card.labels == ("rot", "grün", "blau") and card.temperature == 2.0 and card.commercial_use
    assert in_use(old.settings(), "colours") == ("model",)
    end = ["--home", str(old.path)]
    assert main(["models", "verify", *end]) == main(["models", "list", *end]) == main(["doctor", *end]) == 0
    capsys.readouterr()
    assert main(["models", "remove", "colours", *end]) == 0
    assert catalogue.installed(old) == () and old.settings().model == "faces" and not entry.path.exists()


def test_a_description_of_its_time_is_read():
    told = read_description(MADE / "colours.toml")
    assert (told.id, told.mean, told.std, told.unsure_below) == ("colours", (127.5,), (127.5,) * 3, 0.5)
    assert told.labels == ("rot", "grün", "blau") and told.temperature == 2.0
