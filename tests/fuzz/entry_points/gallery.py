"""Files of the gallery."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache

from edge_app.gallery import calibration
from edge_app.model_store import catalogue
from edge_app.model_store.onnx_inspect import inspect
from edge_app.system.data_folder import Home
from tests.fakes import points
from tests.fuzz.harness import entry_point


def _calibrations():
    told = [asdict(one) for one in points((1e-1, 0.3), (1e-2, 0.4), (1e-3, 0.5), pairs=2000)]
    entry = {
        "model": "things",
        "sha256": "ab",
        "created_s": 1.7e9,
        "identities": 20,
        "pictures": 60,
        "points": told,
    }
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
