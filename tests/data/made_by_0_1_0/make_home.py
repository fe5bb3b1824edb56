"""Made the folder `home` beside it: run with edge-app 0.1.0 first on the path, `python make_home.py NETWORK.onnx`.

NETWORK.onnx is `tests.model_store.onnx_by_hand.colour_classifier()`: three numbers from the mean colour.
"""

import shutil
import sys
from pathlib import Path

from edge_app.domain import OperatingPoint
from edge_app.home import Home

import edge_app
from edge_app import calibration, precision
from edge_app.cli import main

assert edge_app.__version__ == "0.1.0"
HERE = Path(__file__).parent
HOME = HERE / "home"
NETWORK = Path(sys.argv[1])


def run(*words):
    assert main([*map(str, words), "--home", str(HOME)]) == 0, words


shutil.rmtree(HOME, ignore_errors=True)
(HERE / "colours.toml").write_text(
    'task = "classification"\nid = "colours"\nlabels = ["rot", "grün", "blau"]\nmean = 127.5\n'
    "std = [127.5, 127.5, 127.5]\n"
    'licence = "CC0-1.0"\ncommercial_use = true\ntemperature = 2\nunsure_below = 0.5\norigin = "made by hand"\n'
)
run("models", "add", NETWORK, "--describe", HERE / "colours.toml")
run("models", "use", "colours")
run("models", "use", "mtcnn")
run("cameras", "--use", "sample")
home = Home(HOME)
precision.choose("sface", "auto", home)
points = tuple(OperatingPoint(10.0**-power, 0.2 + power / 10, 2000, n) for n in (1, 2) for power in (1, 2, 3))
calibration.save(home, [calibration.Calibration("things", "ab" * 32, 20, 60, points, 0.9, {}, None)], 1730000000.0)
home.remember("tui", {"mirror": True, "theme": "nord"})
