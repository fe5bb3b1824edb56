"""Files of the data folder that users and disks change."""

from __future__ import annotations

import json
from dataclasses import asdict

from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.fuzz.harness import entry_point


@entry_point("json", [json.dumps(asdict(Settings(source="rtsp://camera/1"))).encode(), b'{"fpir": 0.02, "glow": [1]}'])
def settings(data, folder):
    """settings.json: read, and one field changed."""
    home = Home(folder)
    home.settings_path.write_bytes(data)
    found = home.settings()
    changed = home.change_settings(threads=2)
    assert changed.threads == 2 and changed.fpir == found.fpir
    return " ".join((found.detector, found.embedder, found.model))


@entry_point("json", [b'{"precision:sface:ab": {"fp32": 10.0, "int8": 4.0}, "tui": {"mirror": true}}'])
def measurements(data, folder):
    """measurements.json: whatever is in it, measuring goes on."""
    home = Home(folder)
    home.measurements_path.write_bytes(data)
    for key in ("precision:sface:ab", "tui"):
        home.recall(key)
    home.remember("tui", {"mirror": False})
    assert home.recall("tui") == {"mirror": False}
    return ""
