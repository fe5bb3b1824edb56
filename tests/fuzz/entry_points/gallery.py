"""Files of the gallery."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache

from edge_app.core.model_card import OperatingPoint
from edge_app.gallery import calibration
from edge_app.model_store import catalogue
from edge_app.model_store.onnx_inspect import inspect
from edge_app.system.data_folder import Home
from tests.fuzz.harness import entry_point


def _calibrations():
    points = [asdict(OperatingPoint(10.0**-n, 0.2 + n / 10, 2000, t)) for t in (1, 2) for n in (1, 2, 3)]
    entry = {"model": "things", "sha256": "ab", "created_s": 1.7e9, "identities": 20, "pictures": 60, "points": points}
    return [json.dumps({"calibrations": [entry, entry | {"sha256": "cd"}]}).encode()]


@cache
def _card():
    return replace(inspect(catalogue.build(None, "sface", "fp32").path).card, id="things")


@entry_point("json", _calibrations)
def calibrations(data, folder):
    """calibrations.json: read for the model it names, and one entry deleted."""
    home = Home(folder)
    calibration.path_of(home).write_bytes(data)
    found = calibration.points_of(home, _card(), "ab")
    calibration.reset(home, "other")
    return " ".join(f"{point.fmr:g} {point.threshold:g}" for point in found)
