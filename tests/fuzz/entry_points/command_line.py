"""The words of the command line."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

from tests.fuzz.harness import entry_point, parsed, say

_LINES = [
    ["gallery", "list", "--json"], ["gallery", "show", "Ada"], ["gallery", "forget", "Ada", "--yes"],
    ["gallery", "rename", "Ada", "Bob"], ["gallery", "retention", "--unknown", "30 days", "--json"],
    ["gallery", "import", "x.npz", "--model", "sface"], ["gallery", "salvage", "out"], ["gallery", "audit"],
    ["models", "list", "--precision", "int8"], ["models", "show", "sface", "--json"], ["models", "use", "faces"],
    ["models", "add", "x.onnx", "--mean", "1,2,3", "--std", "1", "--labels", "a,b", "--temperature", "2"],
    ["models", "remove", "x"], ["models", "pull", "x", "--sha256", "00"], ["cameras", "--use", "sample", "--json"],
    ["cameras", "--no-measure"], ["verify", "Ada", "--source", "x.jpg", "--timeout", "1"], ["completion", "bash"],
    ["enroll", "Ada", "x.jpg", "--fpir", "0.01", "--margin", "0.05"], ["enroll", "--folder", "people"],
    ["recognize", "x.jpg", "--only", "Ada", "--top", "3", "--json"], ["recognize", "people", "--paths-only", "-0"],
    ["evaluate", "people", "--pairs", "x.txt", "--output", "report"], ["calibrate", "people", "--threads", "1"],
    ["watch", "x.jpg", "--on-known", "true", "--webhook", "http://127.0.0.1:9/", "--min-face", "24"],
    ["train", "classifier", "people", "--epochs", "1", "--seed", "0"], ["export", "checkpoint", "x.safetensors"],
    ["tui", "--help"], ["gallery", "--help"], ["--version"], ["bench", "--help"],
]  # fmt: skip


@cache
def _kept_environment():
    # Nothing of the machine: hostile words must not find the user's data, and a window must not open.
    for name in ("EDGE_APP_WEBHOOK", "EDGE_APP_MQTT", "EDGE_APP_PASSPHRASE"):
        os.environ.pop(name, None)
    return True


@entry_point("json", [json.dumps(line).encode() for line in _LINES], share=0.4)
def words(data, folder):
    """Any words after `edge-app`, in a folder with a picture that is none."""
    _kept_environment()
    line = parsed(data)
    line = [word.replace("\0", "") for word in line if isinstance(word, str)] if isinstance(line, list) else []
    if line[:1] == ["watch"] and line[1:2] != ["x.jpg"]:
        return ""  # it waits for a camera as long as it takes
    # Without a command the app opens; bench and a real training are no question of words; `..` leads out of the folder.
    if (
        not line
        or (line[0] in ("tui", "bench", "demo", "doctor") and "--help" not in line)
        or any(".." in w for w in line)
    ):
        return ""
    (folder / "people" / "Ada").mkdir(parents=True)
    (folder / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 none")
    (folder / "people" / "Ada" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 none")
    os.environ["EDGE_APP_HOME"] = str(folder / "home")
    before = Path.cwd()
    os.chdir(folder)
    try:
        return say(*line)
    finally:
        os.chdir(before)
